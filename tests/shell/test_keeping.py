"""Keeping runs: on disks that fail at any call, with results that can not be stored or loaded, and in forks."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_flowforge.core.fingerprint import Fingerprint
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Outcome, Success, Task, TaskId
from pytest_flowforge.core.records import RunHeader
from pytest_flowforge.core.resume import Decision, Question
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointLocked,
    CheckpointUnwritable,
    ResultDamaged,
    ResultMissing,
)
from pytest_flowforge.keeping import Archive, Keeper, Settings, Unreadable
from pytest_flowforge.storage.journal import Scan
from pytest_flowforge.storage.places import Place
from tests.shell.disks import BadFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.storage.files import Durability, Files


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let syncs return at once: what they do to real disks takes most of the time here."""
    monkeypatch.setattr("pytest_flowforge.storage.files._sync", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)


#: A small one, a pickled one, two with files of their own (the last one beside its pickle), and nothing.
VALUES: dict[str, Any] = {
    "start": {"rows": [1, 2.5, None], "name": "ü"},
    "tuple": (1, {2, 3}, "x"),
    "large": "large " * 200_000,
    "array": np.arange(160_000),
    "end": None,
}


@dataclass
class Kept:
    """A keeper and what it has said; a run is told to it the way a driver does it."""

    keeper: Keeper
    said: list[str] = field(default_factory=list)
    succeeded: list[str] = field(default_factory=list)

    @classmethod
    def alone(cls, path: Path, files: Files | None = None) -> Kept:
        """Open it as somebody who has no key yet."""
        os.environ["XDG_CONFIG_HOME"] = os.environ["APPDATA"] = str(path / "config")
        return cls.open(path, files)

    @classmethod
    def open(cls, path: Path, files: Files | None = None, *, durability: Durability = "full", keep: int = 20) -> Kept:
        said: list[str] = []
        return cls(Keeper(settings(path, durability, keep), said.append, files), said)

    def begin(self, *tasks: str, at: float = 1000.0, **header: Any) -> str:
        self.keeper.begin(at, RunHeader("", prints(*tasks), **header))
        self.keeper(RunBegan(len(tasks), at))
        return self.keeper.run

    def succeed(self, task: str, value: Any) -> None:
        name = TaskId(task)
        self.keeper(TaskMoved(name, TaskState.PENDING, TaskState.RUNNING, 1, 1001.0))
        self.keeper.put(name, task, value)
        self.keeper(TaskMoved(name, TaskState.RUNNING, TaskState.SUCCESS, 1, 1002.0, outcome=Success()))
        self.succeeded.append(task)

    def fail(self, task: str, end: Outcome | None = None) -> None:
        name, failure = TaskId(task), end or Failure(FailureKind.ERROR, "boom")
        self.keeper(TaskMoved(name, TaskState.PENDING, TaskState.RUNNING, 1, 1001.0))
        self.keeper(TaskMoved(name, TaskState.RUNNING, TaskState.FAILED, 1, 1002.0, outcome=failure))

    def end(self) -> None:
        self.keeper(RunEnded(1003.0))

    def close(self) -> None:
        self.keeper.close()


def settings(path: Path, durability: Durability = "full", keep: int = 20) -> Settings:
    return Settings(path / "c", durability, keep_runs=keep)


def prints(*tasks: str) -> dict[TaskId, Fingerprint]:
    return {TaskId(task): Fingerprint(f"code of {task}") for task in tasks}


def keep(path: Path, values: Mapping[str, Any], *, failed: tuple[str, ...] = (), **header: Any) -> str:
    """Keep a whole run of tasks that return *values*; return its id."""
    kept = Kept.open(path, durability="off")
    run = kept.begin(*values, *failed, **header)
    for task, value in values.items():
        kept.succeed(task, value)
    for task in failed:
        kept.fail(task)
    kept.end()
    kept.close()
    return run


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Open on what a test has kept, when it is first asked."""
    Place.open(tmp_path / "c").close()
    made = Archive.open(settings(tmp_path))
    yield made
    made.close()


def scan(path: Path, run: str) -> Scan:
    place = Place.open(path / "c", create=False)
    try:
        return place.read(run)
    finally:
        place.close()


def journal(path: Path, run: str) -> Path:
    return path / "c" / "runs" / run / "journal.jsonl"


def temporary_files(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in (path / "c").rglob(".tmp-*"))


# A disk that fails.


def whole_run(kept: Kept) -> None:
    kept.begin(*VALUES)
    for task, value in VALUES.items():
        kept.succeed(task, value)
    kept.end()
    kept.keeper.prune()


class Disk:
    """Tells what the same run comes to when the disk fails at one call."""

    def __init__(self, folder: Path, error: int, *, stay: bool, short: bool) -> None:
        self._folder = folder
        self._bad = {"error": error, "stay": stay, "short": short}
        self._stay = stay
        files = BadFiles()
        kept = Kept.alone(folder / "undisturbed", files)
        whole_run(kept)
        kept.close()
        self.calls = files.log
        self.records = _told(scan(folder / "undisturbed", kept.keeper.run))

    def fail_at(self, number: int) -> str:
        """Return what was noticed first: ``opening``, ``beginning``, ``running``, or nothing at all."""
        path = self._folder / str(number)
        story = f"call {number}, {self.calls[number]}, fails: {self._bad}"
        noticed, kept = self._live(path, BadFiles(number, **self._bad), story)  # type: ignore[arg-type]
        if kept is not None and noticed != "beginning":
            self._check(path, kept, story)
        self._afterwards(path, kept, story)
        return noticed

    @staticmethod
    def _live(path: Path, files: Files, story: str) -> tuple[str, Kept | None]:
        try:
            kept = Kept.alone(path, files)
        except CheckpointUnwritable:
            return "opening", None
        try:
            whole_run(kept)
        except CheckpointUnwritable:
            # Only its beginning may say so; whoever sees that goes on without.
            assert not kept.succeeded, story
            kept.close()
            return "beginning", kept
        kept.close()
        return ("running" if kept.keeper.broken is not None else ""), kept

    def _check(self, path: Path, kept: Kept, story: str) -> None:
        keeper = kept.keeper
        found = scan(path, keeper.run)
        assert found.damage is None, story
        assert self._stay or not found.torn_bytes, f"{story}: {found.torn_bytes} bytes of a record stay"
        told = _told(found)
        assert told == self.records[: len(told)], f"{story}: records are missing in the middle"
        recorded = {record["task"] for record in found.records if record.get("state") == "success"}
        lost = set(kept.succeeded) - recorded - set(keeper.unsaved)
        assert not lost, f"{story}: {lost} were not saved, and nobody knows"
        assert keeper.broken is not None or told == self.records, story
        assert keeper.broken is not None or not keeper.unsaved, story

    def _afterwards(self, path: Path, before: Kept | None, story: str) -> None:
        """The disk is well again: what was written can be used, and the rest is made up for."""
        kept = Kept.open(path)
        try:
            previous = kept.keeper.archive.chosen()
            stored = {}
            if previous is not None:
                good = {task: record for task, record in previous.standing.items() if record.result is not None}
                stored = {task: kept.keeper.archive.load(record) for task, record in good.items()}
            assert before is not None or previous is None, story
            for task, value in stored.items():
                assert np.array_equal(value, VALUES[task]), f"{story}: the result of {task} is another one"
            whole_run(kept)
        finally:
            kept.close()
        assert kept.keeper.broken is None, story
        assert not kept.said, f"{story}: {kept.said}"
        assert _told(scan(path, kept.keeper.run)) == self.records, story
        assert not temporary_files(path), f"{story}: {temporary_files(path)} stay behind"


def _told(found: Scan) -> list[tuple[str, str]]:
    return [(record["ev"], record.get("task", "")) for record in found.records]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "stay", "short"),
    [
        pytest.param(errno.ENOSPC, False, True, id="short write"),
        pytest.param(errno.EIO, False, False, id="one error"),
        pytest.param(errno.EROFS, True, False, id="read-only"),
    ],
)
def test_a_disk_that_fails_at_any_call(tmp_path: Path, error: int, stay: bool, short: bool) -> None:  # noqa: FBT001
    disk = Disk(tmp_path, error, stay=stay, short=short)
    assert {"write", "sync", "sync_folder", "mkdir", "replace", "open", "link", "unlink"} <= set(disk.calls)
    noticed: Counter[str] = Counter()
    problems = []
    for number in range(len(disk.calls)):
        try:
            noticed[disk.fail_at(number)] += 1
        except AssertionError as wrong:
            problems.append(str(wrong).partition("\n")[0])
        except Exception as wrong:  # noqa: BLE001 - whatever it is, it went through a keeper
            problems.append(f"call {number}, {disk.calls[number]}, fails with {errno.errorcode[error]}: {wrong!r}")
    assert not problems, f"{len(problems)} of {len(disk.calls)}:\n" + "\n".join(problems)
    assert short or min(noticed[step] for step in ("opening", "beginning", "running")) > 0, noticed


@pytest.mark.usefixtures("quick")
def test_a_sync_that_fails_in_the_background_is_noticed(tmp_path: Path) -> None:
    files = BadFiles()
    kept = Kept.open(tmp_path, files, durability="normal")
    kept.begin("a", "b")
    kept.succeed("a", 1)
    kept.keeper.save()
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    kept.keeper._journal._sync = fail  # type: ignore[union-attr]
    kept.keeper(TaskMoved(TaskId("b"), TaskState.PENDING, TaskState.RUNNING, 1, 1001.0))
    assert failed.wait(10)
    kept.keeper.save()
    kept.keeper(TaskMoved(TaskId("b"), TaskState.RUNNING, TaskState.SUCCESS, 1, 1002.0, outcome=Success()))
    kept.close()
    assert "Input/output error" in str(kept.keeper.broken)
    assert kept.keeper.unsaved == ["b"]
    found = scan(tmp_path, kept.keeper.run)
    assert not found.torn_bytes
    assert _told(found)[-1] == ("task_started", "b")


def test_what_is_not_saved_is_named(tmp_path: Path) -> None:
    files = BadFiles(error=errno.ENOSPC, stay=True)
    kept = Kept.open(tmp_path, files, durability="off")
    run = kept.begin("a", "b", "c")
    kept.succeed("a", 1)
    files.fail_at = len(files.log)
    kept.succeed("b", 2)
    kept.succeed("c", 3)
    kept.end()
    kept.keeper.save()
    files.fail_at = -1
    kept.close()
    assert kept.keeper.unsaved == ["b", "c"]
    assert "No space left on device" in str(kept.keeper.broken)
    assert "--ff-resume" in str(kept.keeper.broken)
    records = scan(tmp_path, run).records
    assert [record["task"] for record in records if record["ev"] == "task_finished"] == ["a"]


# Interruptions.


class _Interrupting(BadFiles):
    """Is interrupted before call number *fail_at*, as by Ctrl-C."""

    def _counted(self, name: str, real: Any) -> Any:
        counted = super()._counted(name, real)

        def call(*args: Any, **rest: Any) -> Any:
            if len(self.log) == self.fail_at and not (name == "open" and not args[1] & os.O_CREAT):
                self.log.append(name)
                raise KeyboardInterrupt
            return counted(*args, **rest)

        return call


@pytest.mark.filterwarnings(
    # Whoever is interrupted while he makes a journal leaves its file to the garbage collector.
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.usefixtures("quick")
def test_an_interruption_at_any_call(tmp_path: Path) -> None:
    files = BadFiles()
    undisturbed = Kept.alone(tmp_path / "undisturbed", files)
    whole_run(undisturbed)
    calls = list(files.log)
    undisturbed.close()
    problems = []
    for number, name in enumerate(calls):
        path = tmp_path / str(number)
        run = _interrupted_run(path, _Interrupting(number))
        again = Kept.open(path)
        archive = again.keeper.archive
        recorded = _successes(scan(path, run)) if run in archive.ids() else []
        if recorded != list(VALUES)[: len(recorded)]:
            problems.append(f"call {number}, {name}: {recorded} are recorded")
        previous = archive.chosen()
        standing = {} if previous is None else previous.standing
        for task in recorded:
            value = archive.load(standing[TaskId(task)])
            assert np.array_equal(value, VALUES[task]), f"call {number}, {name}: the result of {task} is another one"
        whole_run(again)
        again.close()
        problems += [f"call {number}, {name}: {left} stays behind" for left in temporary_files(path)]
    assert not problems, f"{len(problems)} of {len(calls)}:\n" + "\n".join(problems)


def _interrupted_run(path: Path, files: BadFiles) -> str:
    kept = None
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - anywhere in it
        kept = Kept.alone(path, files)
        whole_run(kept)
    if kept is None:
        return ""
    kept.close()
    return kept.keeper.run


def _successes(found: Scan) -> list[str]:
    return [record["task"] for record in found.records if record.get("state") == "success"]


# What can not be stored.


class Bad:
    """Raises what it is told to when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(threading.Lock(), id="lock"),
        pytest.param({"deep": [threading.Lock()]}, id="lock inside"),
        pytest.param((n for n in range(3)), id="generator"),
        *[
            pytest.param(Bad(error), id=type(error).__name__)
            for error in (
                RuntimeError("no"),
                ZeroDivisionError(),
                KeyError("x"),
                TypeError("no"),
                MemoryError(),
                AssertionError("no"),
                ConnectionResetError(errno.ECONNRESET, "connection reset"),
                FileNotFoundError(errno.ENOENT, "its file is gone"),
                TimeoutError("too slow"),
            )
        ],
    ],
)
def test_a_value_that_can_not_be_stored_costs_only_itself(tmp_path: Path, value: Any) -> None:
    kept = Kept.open(tmp_path)
    run = kept.begin("bad", "good", "also good")
    kept.succeed("good", 1)
    kept.succeed("bad", value)
    kept.succeed("also good", (2,))
    kept.end()
    kept.close()
    assert kept.keeper.broken is None, f"the checkpoint was given up: {kept.keeper.broken}"
    (said,) = kept.said
    assert "bad" in said
    assert "runs again on --ff-resume" in said
    assert not kept.keeper.unsaved
    archive = Archive.open(settings(tmp_path))
    decision = decide(archive, TaskGraph.build([Task(TaskId(task)) for task in ("bad", "good", "also good")]))
    assert dict(decision.reasons) == {"bad": "result missing"}
    assert archive.load(archive.run(run).standing[TaskId("also good")]) == (2,)
    assert archive.faults(archive.run(run)) == []
    archive.close()
    assert not temporary_files(tmp_path)


def test_a_value_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = Kept.open(tmp_path)
    kept.begin("bad", "good")
    kept.succeed("bad", [b"x" * 3_000_000, Bad(RuntimeError("half-way"))])
    assert not temporary_files(tmp_path)
    kept.succeed("good", (1,))
    kept.close()
    assert len(kept.said) == 1
    results = list((tmp_path / "c" / "runs" / kept.keeper.run / "results").iterdir())
    assert [path.suffix for path in results] == [".seg"]


# Looking back.


def decide(archive: Archive, graph: TaskGraph, **reads: str) -> Decision:
    """Decide on a resume of *graph*; ``c="a b"`` says that c looks at the results of these, others at all upstreams."""
    marks = prints(*(task.id for task in graph))

    def reads_of(task: TaskId) -> Iterator[TaskId]:
        return iter(map(TaskId, reads[task].split())) if task in reads else iter(graph[task].needs)

    return archive.restore(Question(graph, archive.chosen(), marks), reads_of)


def chain(*names: str) -> TaskGraph:
    """A graph in which each task needs the one before."""
    before: tuple[TaskId, ...] = ()
    tasks = []
    for name in names:
        tasks.append(Task(TaskId(name), before))
        before = (TaskId(name),)
    return TaskGraph.build(tasks)


def break_off(path: Path, *tasks: str) -> str:
    """Keep a run that is killed before it has said anything; return its id."""
    kept = Kept.open(path, durability="off")
    kept.keeper.begin(1000.0, RunHeader("", prints(*tasks)))
    kept.close()
    return kept.keeper.run


def cut(path: Path, run: str, lines: int) -> None:
    """Make the journal of *run* end after so many lines."""
    text = journal(path, run).read_bytes().splitlines(keepends=True)
    journal(path, run).write_bytes(b"".join(text[:lines]))


def damage(path: Path, run: str) -> None:
    content = bytearray(journal(path, run).read_bytes())
    content[100] ^= 1
    journal(path, run).write_bytes(content)


def test_there_may_be_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Archive.open(settings(tmp_path))
    assert not (tmp_path / "c").exists()


def test_an_empty_checkpoint(archive: Archive) -> None:
    assert archive.ids() == []
    assert archive.chosen() is None
    assert archive.last() is None
    assert list(archive.history()) == []
    assert list(archive.earlier(TaskId("a"))) == []
    assert archive.is_about([])
    with pytest.raises(CheckpointError, match="the last ones are: none"):
        archive.run("20200101-000000-0000")
    with pytest.raises(CheckpointError, match="no id of a run"):
        archive.run("../../etc/passwd")


def test_an_unknown_run_is_an_error_that_names_the_known_ones(tmp_path: Path, archive: Archive) -> None:
    known = keep(tmp_path, {"a": 1})
    with pytest.raises(CheckpointError, match=f"no run '20200101-000000-0000'; the last ones are: {known}"):
        archive.run("20200101-000000-0000")
    assert archive.run(known).id == known


def test_a_run_that_was_killed_early_is_not_built_on(tmp_path: Path, archive: Archive) -> None:
    whole = keep(tmp_path, {"a": 1})
    half = keep(tmp_path, {"a": 1})
    cut(tmp_path, half, 1)
    silent = break_off(tmp_path, "a")
    assert archive.ids() == sorted([whole, half, silent])
    chosen, last = archive.chosen(), archive.last()
    assert chosen is not None
    assert last is not None
    assert (chosen.id, last.id) == (whole, half)
    assert [_id_of(run) for run in archive.history()] == [whole, half, silent]
    assert archive.run(silent).began == 0.0
    with pytest.raises(CheckpointError, match="killed before it had said what it builds on"):
        archive.chosen(half)


def _id_of(run: RunRecord | Unreadable) -> str:
    return run.id


def test_a_damaged_run_is_named_and_the_others_can_be_read(tmp_path: Path, archive: Archive) -> None:
    first, second, third = (keep(tmp_path, {"a": value}) for value in (1, 2, 3))
    damage(tmp_path, second)
    one, bad, three = archive.history()
    assert isinstance(bad, Unreadable)
    assert bad.id == second
    assert "--ff-repair" in str(bad.error)
    assert [one.id, three.id] == [first, third]
    assert [archive.load(record) for record in archive.earlier(TaskId("a"))] == [3, 1]
    damage(tmp_path, third)
    fresh = Archive.open(settings(tmp_path))
    with pytest.raises(CheckpointDamaged):
        fresh.chosen()
    with pytest.raises(CheckpointDamaged):
        fresh.last()
    assert fresh.parts(third) == {}
    fresh.close()


def test_a_journal_from_elsewhere_is_refused(tmp_path: Path, archive: Archive) -> None:
    first, second = keep(tmp_path, {"a": 1}), keep(tmp_path, {"a": 2})
    journal(tmp_path, first).write_bytes(journal(tmp_path, second).read_bytes())
    with pytest.raises(CheckpointDamaged, match="it is of run"):
        archive.run(first)


def test_repairing_keeps_the_good_records(tmp_path: Path) -> None:
    run = keep(tmp_path, {"a": 1, "b": 2})
    content = journal(tmp_path, run).read_bytes()
    journal(tmp_path, run).write_bytes(content[:-30])
    kept = Kept.open(tmp_path)
    (repaired,) = kept.keeper.repair()
    assert repaired.run == run
    assert kept.keeper.repair() == []
    assert _successes(scan(tmp_path, run)) == ["a", "b"]
    assert (journal(tmp_path, run).parent / repaired.old).read_bytes() == content[:-30]
    kept.keeper.clear()
    assert kept.keeper.archive.ids() == []
    kept.close()


def test_earlier_successes_come_the_newest_first(tmp_path: Path, archive: Archive) -> None:
    for value in (1, 2):
        keep(tmp_path, {"a": value, "b": value})
    keep(tmp_path, {"b": 3}, failed=("a",))
    break_off(tmp_path, "a")
    assert [archive.load(record) for record in archive.earlier(TaskId("a"))] == [2, 1]
    assert [archive.load(record) for record in archive.earlier(TaskId("b"))] == [3, 2, 1]
    assert list(archive.earlier(TaskId("c"))) == []


def test_what_a_checkpoint_is_about(tmp_path: Path, archive: Archive) -> None:
    keep(tmp_path, {"flow_a.py::flow_x": 1, "flow_b.py::flow_y": 2})
    assert archive.is_about(["flow_a.py", "flow_b.py", "flow_c.py"])
    assert not archive.is_about(["flow_a.py"])
    break_off(tmp_path, "flow_a.py::flow_x")
    assert not archive.is_about(["flow_a.py", "flow_b.py"])


def test_results_are_given_away_and_can_be_had_fresh(tmp_path: Path, archive: Archive) -> None:
    run = keep(tmp_path, {"a": [[1], 2]}, failed=("b",))
    record = archive.run(run).standing[TaskId("a")]
    assert dict(decide(archive, chain("a", "b")).restored) == {"a": record}
    first = archive.load(record)
    first[0].append(9)
    assert archive.load(record) == [[1], 2]
    decide(archive, chain("a", "b"))
    fresh = archive.load(record, fresh=True)
    assert fresh == [[1], 2]
    assert archive.load(record) is not fresh
    with pytest.raises(ResultMissing):
        archive.load(replace(record, result=None))


# Results that are whole, and can not be decoded any more.


class Fragile:
    """Can be loaded as long as the class says so."""

    whole = True

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return _make_fragile, (self.name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fragile)

    __hash__ = None  # type: ignore[assignment]


def _make_fragile(name: str) -> Fragile:
    if not Fragile.whole:
        msg = "no module named yesterday"
        raise ImportError(msg)
    return Fragile(name)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fragile, "whole", False)


def test_a_result_that_can_not_be_decoded_runs_again_only_where_it_is_read(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"a": Fragile("a"), "b": Fragile("b"), "c": Fragile("c"), "d": [1]}
    keep(tmp_path, values, failed=("e",), needs={TaskId("b"): (TaskId("a"),)})
    monkeypatch.setattr(Fragile, "whole", False)
    graph = chain("a", "b", "c", "d", "e")
    read_none = decide(archive, graph, e="")
    assert dict(read_none.reasons) == {"e": "failed last time"}
    reads_good = decide(archive, graph, e="d")
    assert dict(reads_good.reasons) == {"e": "failed last time"}
    # Somebody looks at d only in the last step; when c is to be read it runs again, and so does what is below it.
    reads_bad = decide(archive, graph, e="c d")
    assert dict(reads_bad.reasons) == {
        "a": "result damaged",
        "b": "upstream a runs again",
        "c": "upstream b runs again",
        "d": "upstream c runs again",
        "e": "failed last time",
    }
    stops_there = decide(archive, graph, e="c", c="")
    assert list(stops_there.restored) == ["a", "b"]


def test_a_result_that_can_not_be_decoded_is_damaged(tmp_path: Path, archive: Archive, fragile: None) -> None:
    del fragile
    run = keep(tmp_path, {"a": Fragile()})
    record = archive.run(run).standing[TaskId("a")]
    with pytest.raises(ResultDamaged, match="no module named yesterday"):
        archive.load(record)
    # All of its bytes are there.
    assert archive.faults(archive.run(run)) == []


def test_results_that_are_gone_are_named(tmp_path: Path, archive: Archive) -> None:
    run = keep(tmp_path, {"a": 1, "b": "large " * 300_000, "c": 3}, failed=("d",))
    (large,) = (tmp_path / "c" / "runs" / run / "results").glob("*.bin")
    large.unlink()
    assert archive.faults(archive.run(run)) == [("b", "result missing")]
    graph = TaskGraph.build([Task(TaskId(task)) for task in "abcd"])
    assert dict(decide(archive, graph).reasons) == {"b": "result missing", "d": "failed last time"}


# Which runs stay.


def test_runs_are_pruned(tmp_path: Path) -> None:
    runs = [keep(tmp_path, {"a": value}) for value in range(4)]
    kept = Kept.open(tmp_path, keep=2)
    runs.append(kept.begin("a"))
    kept.end()
    kept.keeper.prune()
    assert kept.keeper.archive.ids() == runs[-2:]
    kept.close()


@pytest.mark.parametrize("said", [0, 1, 2], ids=["nothing", "its first record", "all but one record"])
def test_a_run_that_was_cut_short_before_it_began_prunes_no_results(tmp_path: Path, said: int) -> None:
    """It is no run that anything can be built on, and must not take the place of one that is."""
    whole = keep(tmp_path, {"a": 1})
    kept = Kept.open(tmp_path, keep=1)
    header = RunHeader("", prints("a"), parts={"x": "y"})
    kept.keeper.begin(1000.0, header)
    # Interrupted in the middle of its header; the session still ends in an orderly way.
    assert kept.keeper._recorder is not None
    for record in kept.keeper._recorder(RunBegan(1, 1000.0))[:said]:
        assert kept.keeper._journal is not None
        kept.keeper._journal.append(record)
    kept.keeper.prune()
    kept.close()
    archive = Archive.open(settings(tmp_path))
    chosen = archive.chosen()
    assert chosen is not None, f"nothing is left of run {whole}"
    assert chosen.id == whole or said == 2
    archive.close()


def test_what_a_killed_run_has_left_half_written_is_removed(tmp_path: Path) -> None:
    used = keep(tmp_path, {"a": 1})
    archive = Archive.open(settings(tmp_path))
    record = archive.run(used).standing[TaskId("a")]
    archive.close()
    here = tmp_path / "c"
    left = [here / ".tmp-00", here / "runs" / used / ".tmp-01", here / "runs" / used / "results" / ".tmp-02"]
    for path in left:
        path.write_bytes(b"x" * 10)
    kept = Kept.open(tmp_path, keep=1)
    kept.begin("a", restored={TaskId("a"): record})
    kept.end()
    kept.keeper.prune()
    kept.close()
    # The run itself is gone, and its results are needed by the one that is kept.
    assert (here / "runs" / used / "results").exists()
    assert temporary_files(tmp_path) == []


# Two at once, and forks.


def test_one_at_a_time(tmp_path: Path) -> None:
    kept = Kept.open(tmp_path)
    run = kept.begin("a")
    with pytest.raises(CheckpointLocked, match=run):
        Kept.open(tmp_path)
    archive = Archive.open(settings(tmp_path))
    assert archive.is_alive(run)
    assert not archive.is_alive("20200101-000000-0000")
    kept.close()
    assert not archive.is_alive(run)
    archive.close()
    Kept.open(tmp_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("durability", ["off", "full"])
def test_a_fork_writes_nothing(tmp_path: Path, durability: str) -> None:
    kept = Kept.open(tmp_path, durability=durability)
    run = kept.begin("a", "b")
    kept.succeed("a", (1,))
    before = journal(tmp_path, run).read_bytes()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said = {}
        for what in ("event", "put", "save", "close"):
            try:
                {
                    "event": lambda: kept.keeper(TaskMoved(TaskId("b"), TaskState.PENDING, TaskState.RUNNING, 1, 1.0)),
                    "put": lambda: kept.keeper.put(TaskId("b"), "b", (2,)),
                    "save": kept.keeper.save,
                    "close": kept.keeper.close,
                }[what]()
                said[what] = ""
            except BaseException as error:  # noqa: BLE001 - it is looked at where asserts are heard
                said[what] = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "this is a fork of it" in said.pop("event")
    assert said == {"put": "", "save": "", "close": ""}
    assert journal(tmp_path, run).read_bytes() == before
    # The lock is still held, and known to be.
    with pytest.raises(CheckpointLocked, match=run):
        Kept.open(tmp_path)
    kept.succeed("b", (3,))
    kept.end()
    kept.close()
    assert kept.keeper.broken is None
    archive = Archive.open(settings(tmp_path))
    standing = archive.run(run).standing
    assert [archive.load(standing[TaskId(task)]) for task in ("a", "b")] == [(1,), (3,)]
    archive.close()


def test_a_large_result_is_verified_and_not_decoded_to_decide(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_flowforge.keeping._MOST_LOADED", 2_000_000)
    keep(tmp_path, {"a": np.arange(100_000), "b": 1})
    run = keep(tmp_path, {"a": np.arange(300_000), "b": 1})
    decoded: list[object] = []
    codec = archive.store._codecs["pickle"]
    decode = codec.decode

    def note(*args: Any) -> object:
        decoded.append(args)
        return decode(*args)

    monkeypatch.setattr(codec, "decode", note)
    record = archive.run(run).known(TaskId("a"))
    assert record is not None
    ref = record.result
    assert ref is not None
    assert archive._try(ref) == ""
    assert not decoded
    [large] = (tmp_path / "c" / "runs" / run / "results").glob("*.bin")
    with large.open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"\xff")
    assert archive._try(ref) == "result damaged"
    assert not decoded
    small = archive.run(archive.ids()[0]).known(TaskId("a"))
    assert small is not None
    assert small.result is not None
    assert archive._try(small.result) == ""
    assert decoded
