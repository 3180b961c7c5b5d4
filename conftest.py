"""What every test of this repository may use."""

from __future__ import annotations

import sys
from pathlib import Path

#: pytest accepts this in the topmost conftest.py only.
pytest_plugins = ["pytester"]

# pytest has put this folder first, and processes that tests start get the same list: there, too, what is installed is
# to be tested, and not what lies here.
_HERE = str(Path(__file__).parent)
if _HERE in sys.path:
    sys.path.remove(_HERE)
    sys.path.append(_HERE)
