"""The folder that tasks share, without pytest: who may move and who is brought back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin.guard import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run starts; the folders "a" and "b" are there."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def guard(home: Path) -> Iterator[Surroundings]:
    assert Path.cwd() == home
    guard = Surroundings(cut_off=print)
    yield guard
    guard.close()


def test_a_task_that_moves_away_is_brought_back_and_the_next_is_judged_by_that(
    home: Path, guard: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "a", "b"):
        guard.enter("task")
        guard.call()
        monkeypatch.chdir(folder)
        assert guard.leave() == str(home / folder)
        assert Path.cwd() == home
    guard.enter("task")
    guard.call()
    assert guard.leave() == ""


def test_where_a_fixture_has_gone_the_tasks_after_it_start(
    home: Path, guard: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.enter("first")
    monkeypatch.chdir("a")
    guard.call()
    assert guard.leave() == ""
    guard.enter("second")
    guard.call()
    monkeypatch.chdir(home / "b")
    assert guard.leave() == str(home / "b")
    assert Path.cwd() == home / "a"
    guard.enter("third, whose fixtures go back")
    guard.call()
    monkeypatch.chdir(home)
    # Where it began is as good a place as where it was called.
    assert guard.leave() == str(home)
    assert Path.cwd() == home / "a"


def test_what_was_called_elsewhere_is_no_excuse_for_a_task_that_is_never_called(
    home: Path, guard: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.enter("called in a folder that its fixture leaves again")
    monkeypatch.chdir("a")
    guard.call()
    monkeypatch.chdir(home)
    assert guard.leave() == ""
    guard.enter("fails in its set-up")
    monkeypatch.chdir("a")
    assert guard.leave() == str(home / "a")
    assert Path.cwd() == home


def test_a_folder_that_is_gone_is_left_for_the_one_the_run_started_in(
    home: Path, guard: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.enter("first")
    monkeypatch.chdir("a")
    guard.call()
    guard.leave()
    guard.enter("removes the folder and goes elsewhere")
    guard.call()
    monkeypatch.chdir(home / "b")
    (home / "a").rmdir()
    assert guard.leave() == str(home / "b")
    guard.enter("stays where the one before could not be brought back from")
    guard.call()
    assert guard.leave() == ""
    assert Path.cwd() == home / "b"
