"""Prints the reference page: python -m singleinsert.config > docs/configuration.md"""

import sys

from singleinsert.config.reference import reference

if __name__ == "__main__":
    sys.stdout.write(reference())
