"""Prints the reference page: python -m singleinsert.config > docs/configuration.md"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from singleinsert.config.reference import reference


def main(argv: Sequence[str] | None = None) -> int:
    sys.stdout.write(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
