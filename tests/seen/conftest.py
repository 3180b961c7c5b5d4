"""Where the real readers of what we write are: the job `seen` of .ci/run installs them, and has no test skipped.

``FLOWFORGE_NODE_MODULES`` is a folder node_modules with what the tests need of npm; ``FLOWFORGE_SEEN=required`` makes
an error of what is missing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def _missing(what: str) -> None:
    if os.environ.get("FLOWFORGE_SEEN") == "required":
        pytest.fail(f"{what}, and FLOWFORGE_SEEN=required", pytrace=False)
    pytest.skip(what)


def program(*names: str) -> str:
    """The path of the first of these programs that is there."""
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    _missing(f"needs {' or '.join(names)}")
    raise AssertionError


@pytest.fixture(scope="session")
def dot() -> str:
    return program("dot")


@pytest.fixture(scope="session")
def node() -> str:
    return program("node")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    place = os.environ.get("FLOWFORGE_NODE_MODULES", "")
    if not place or not Path(place).is_dir():
        _missing("needs FLOWFORGE_NODE_MODULES, the folder of packages of npm")
    return Path(place)
