"""Fixtures for all flow files of this folder; they are ordinary pytest fixtures, with their ordinary scopes."""

import string
from collections.abc import Iterator
from typing import IO

import pytest


@pytest.fixture(scope="session")
def alphabet() -> frozenset[str]:
    """Scope session: made once for the whole run, however many tasks ask for it."""
    return frozenset(string.ascii_lowercase)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IO[str]]:
    """A resource: opened before the first task of a file that needs it, closed after the last one.

    What `yield` gives is what the task receives. The context manager cleans up, also if a task fails.
    """
    with (tmp_path_factory.mktemp("notebook") / "notes.txt").open("w+", encoding="utf-8") as file:
        yield file
