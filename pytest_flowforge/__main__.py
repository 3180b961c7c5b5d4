"""``python -m pytest_flowforge``."""

import sys

from pytest_flowforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
