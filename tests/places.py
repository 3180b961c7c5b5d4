"""Where other processes find what is being tested, wherever that is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest_flowforge

__all__ = ["python_path"]


def python_path(*more: str) -> str:
    """A PYTHONPATH with the package that is tested here before the folder with these tests, and *more* behind.

    In CI the tests lie beside sources that must not be imported.
    """
    installed = Path(pytest_flowforge.__file__).resolve().parents[1]
    here = Path(__file__).resolve().parents[1]
    return os.pathsep.join([str(installed), str(here), *more])
