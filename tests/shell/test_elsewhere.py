"""Checkpoints in a store of fsspec: workflows in code, and results that come from another machine."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from pytest_flowforge import Checkpoint, Workflow
from pytest_flowforge.core.messages import RunBegan, RunEnded
from pytest_flowforge.core.model import TaskId
from pytest_flowforge.core.records import RunHeader
from pytest_flowforge.errors import (
    CheckpointError,
    CheckpointLocked,
    CheckpointUnwritable,
    ResultMissing,
    ResultRefused,
    ResultUnstorable,
)
from pytest_flowforge.keeping import Keeper, Settings
from pytest_flowforge.storage.addresses import Address
from pytest_flowforge.storage.codec import JsonCodec
from pytest_flowforge.storage.elsewhere import get_elsewhere, put_elsewhere
from pytest_flowforge.storage.syncing import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "memory://checkpoints/nightly"
RUN = "20261129-205808-3f88"


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLOWFORGE_KEY", "of the tests")
    yield
    fsspec.filesystem("memory").store.clear()


VALUES = [{"a": [1, None]}, {1, 2}, b"x" * 3_000_000, None]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_result_comes_back(tmp_path: Path, value: Any, protocol: str) -> None:
    url = URL if protocol == "memory" else f"file://{tmp_path}/store"
    ref = put_elsewhere(url, RUN, value)
    assert ref.run == RUN
    assert get_elsewhere(url, ref) == value


def test_results_do_not_meet() -> None:
    refs = [put_elsewhere(URL, RUN, number) for number in range(5)]
    assert [get_elsewhere(URL, ref) for ref in refs] == list(range(5))


def test_what_can_not_be_stored_or_loaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResultUnstorable):
        put_elsewhere(URL, RUN, threading.Lock())
    with pytest.raises(ResultUnstorable, match="can not be stored as json"):
        put_elsewhere(URL, RUN, {1}, codecs=[JsonCodec()])
    ref = put_elsewhere(URL, RUN, {1})
    with pytest.raises(ResultRefused, match="only json is allowed here"):
        get_elsewhere(URL, ref, codecs=[JsonCodec()])
    monkeypatch.setenv("FLOWFORGE_KEY", "another")
    with pytest.raises(ResultRefused, match="only with the same FLOWFORGE_KEY"):
        get_elsewhere(URL, ref)
    with pytest.raises(ResultMissing):
        get_elsewhere(f"{URL}-other", ref)
    with pytest.raises(CheckpointError, match="no id of a run"):
        put_elsewhere(URL, "../x", 1)
    # Before anything else is looked at.
    with pytest.raises(CheckpointError, match="no id of a run"):
        put_elsewhere("nosuch://x", "../x", 1)


def keeper_at(path: Path, **options: Any) -> Keeper:
    return Keeper(Settings(path, address=Address.of(URL), interval=0.05, **options), pytest.fail)


def test_what_another_machine_has_stored_is_written_down_and_read(tmp_path: Path) -> None:
    task = TaskId("flow.py::flow_a")
    with contextlib.closing(keeper_at(tmp_path / "here")) as keeper:
        keeper.begin(1_800_000_000.0, RunHeader("", {}))
        keeper(RunBegan(0, 1_800_000_000.0))
        ref = put_elsewhere(URL, keeper.run, {1, 2})
        keeper.stored(task, ref)
        assert keeper.load(task) == {1, 2}
        assert keeper.archive.store.get(ref) == {1, 2}
        keeper(RunEnded(1_800_000_001.0))
        keeper.prune()
    # It is kept with its run, and goes with it.
    assert get_elsewhere(URL, ref) == {1, 2}
    with contextlib.closing(keeper_at(tmp_path / "there", keep_runs=1)) as keeper:
        keeper.begin(1_800_000_100.0, RunHeader("", {}))
        keeper(RunBegan(0, 1_800_000_100.0))
        keeper(RunEnded(1_800_000_101.0))
        keeper.prune()
    with pytest.raises(ResultMissing):
        get_elsewhere(URL, ref)


def test_one_at_a_time_in_one_process_as_well(tmp_path: Path) -> None:
    with contextlib.closing(keeper_at(tmp_path / "here")), pytest.raises(CheckpointLocked, match="uses the checkpoint"):
        keeper_at(tmp_path / "there")
    keeper_at(tmp_path / "there").close()


def test_a_keeper_whose_disk_is_broken_lets_go_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Those of other tests may still be there.
    before = set(threading.enumerate())
    keeper = keeper_at(tmp_path / "here")
    keeper.begin(1_800_000_000.0, RunHeader("", {}))

    def fail(_: object) -> None:
        msg = "the disk is full"
        raise CheckpointUnwritable(msg)

    monkeypatch.setattr(GroupCommit, "close", fail)
    keeper.close()
    assert str(keeper.broken) == "the disk is full"
    monkeypatch.undo()
    keeper_at(tmp_path / "there").close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("flowforge-")]


def workflow() -> Workflow:
    flow = Workflow("nightly")

    @flow.task
    def load() -> list[int]:
        return [1, 2]

    @flow.task
    def total(load: list[int]) -> int:
        if os.environ.get("WEATHER") == "bad":
            msg = "not yet"
            raise ValueError(msg)
        return sum(load)

    return flow


def test_a_workflow_in_code_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEATHER", "bad")
    first = workflow().run(checkpoint=Checkpoint(URL, local=tmp_path / "here"))
    assert not first.ok
    monkeypatch.setenv("WEATHER", "good")
    there = Checkpoint(URL, local=tmp_path / "there")
    again = workflow().run(checkpoint=there, resume=True)
    assert again.ok
    assert set(again.reasons) == {"load"}
    assert len(there.history()) == 2
    assert there.result("total") == 3
    assert repr(there) == f"Checkpoint({URL!r})"
    assert Checkpoint(URL, local=tmp_path / "third").result("total") == 3


def test_by_itself_it_is_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    workflow().run(checkpoint=URL)
    (folder,) = (tmp_path / "flowforge").iterdir()
    assert (folder / "VERSION").exists()
    assert len(Checkpoint(URL).history()) == 1
    assert Checkpoint(f"{URL}-other").history() == []
    with pytest.raises(CheckpointError, match="needs no other one"):
        Checkpoint(tmp_path, local=tmp_path)
    with pytest.raises(CheckpointError, match="holds credentials"):
        workflow().run(checkpoint="s3://a:b@c/d")
