"""The old name of :mod:`singleinsert.hosts`; scripts that import it still work."""

from singleinsert.hosts import *  # noqa: F403
from singleinsert.hosts import __all__  # noqa: F401
