"""When pytest had collected, and when it began to end the session, as a conftest.py writes it down."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What pytest itself tells: the file is begun anew by each run.
CONFTEST = """\
import time
from pathlib import Path

import pytest

_PHASES = Path(__file__).with_name("phases.txt")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    _PHASES.write_text(f"{time.time()!r}\\n")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    with _PHASES.open("a") as file:
        file.write(f"{time.time()!r}\\n")
"""


def after_collection(folder: Path) -> float:
    """Return the seconds from the end of collection to the end of the last run in *folder*."""
    collected, ended = (folder / "phases.txt").read_text(encoding="ascii").split()
    return float(ended) - float(collected)
