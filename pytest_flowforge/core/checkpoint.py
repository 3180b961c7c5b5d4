"""The runs that records tell of: a fold, and nothing else.

It believes nothing it can not read: a record of a known kind that does not make sense is damage, a kind or member it
does not know is ignored. It reads no files; whoever does has checked every line before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import TaskId
from pytest_flowforge.core.records import (
    FORMAT,
    TaskRecord,
    key_of,
    to_fingerprint,
    to_pairs,
    to_result_ref,
    to_task_record,
)
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.errors import CheckpointDamaged, CheckpointError, CheckpointVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.records import Record

__all__ = ["Checkpoint", "RunRecord", "blank", "carry", "fold"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What has become of one run, as far as was written.

    ``began`` and ``ended`` are seconds since the epoch; ``ended`` is None while it goes on, and for ever when it was
    killed. ``stopped`` is the reason of an early end, else empty. ``tasks`` has every task of its graph, in the order
    of declaration; ``carried`` what it kept of tasks outside of it. ``rolls_back`` is the run whose results it made the
    current ones, if it did nothing else. ``complete`` is false for a run that was ended before it had described itself:
    nothing can be built on it.
    """

    id: str
    began: float
    ended: float | None
    stopped: str
    resumes: str
    argv: tuple[str, ...]
    graph_digest: str
    complete: bool
    tasks: Mapping[TaskId, TaskRecord]
    carried: Mapping[TaskId, TaskRecord]
    in_doubt: tuple[TaskId, ...]
    rolls_back: str = ""

    @property
    def standing(self) -> Mapping[TaskId, TaskRecord]:
        """Everything a later run may build on."""
        return MappingProxyType({**self.carried, **self.tasks})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The runs of a checkpoint, the oldest first."""

    runs: tuple[RunRecord, ...]

    @property
    def current(self) -> RunRecord | None:
        """The last run that something can be built on."""
        return next((run for run in reversed(self.runs) if run.complete), None)

    def __getitem__(self, run: str) -> RunRecord:
        """Return the run with that id; raise :class:`CheckpointError`."""
        for candidate in self.runs:
            if candidate.id == run:
                return candidate
        known = ", ".join(candidate.id for candidate in self.runs[-5:]) or "none"
        msg = f"the checkpoint holds no run {run!r}; the last ones are: {known} (--ff-history lists all)"
        raise CheckpointError(msg)


def carry(
    previous: RunRecord | None,
    graph: Iterable[TaskId],
    collected: Iterable[TaskId],
    is_gone: Callable[[TaskId], bool] = lambda _: True,
) -> dict[TaskId, TaskRecord]:
    """Return what a run of *graph*, a selection of all *collected* tasks, is to keep of the *previous* run.

    Of a task that was not collected *is_gone* tells whether it is gone from the flow, and with it what was known of it.
    """
    if previous is None:
        return {}
    inside = frozenset(map(key_of, graph))
    here = frozenset(map(key_of, collected))
    outside = ((task, record) for task, record in previous.standing.items() if task not in inside)
    return {task: record for task, record in outside if task in here or not is_gone(task)}


def blank(run: str) -> RunRecord:
    """Return what is known of a run that was ended before it had said anything."""
    return _Story(run).told()


def fold(records: Iterable[Record]) -> Checkpoint:
    """Return the runs that *records* tell of, whichever journals and in whichever order they come from.

    The order within a run is that of their sequence numbers ``s``; runs are ordered by their ids. Raises
    :class:`CheckpointVersion` for a newer format and :class:`CheckpointDamaged` for a record that makes no sense.
    """
    by_run: dict[str, list[Record]] = {}
    for record in records:
        by_run.setdefault(record["run"], []).append(record)
    return Checkpoint(tuple(_run(run, by_run[run]) for run in sorted(by_run)))


def _run(run: str, records: list[Record]) -> RunRecord:
    story = _Story(run)
    for record in sorted(records, key=lambda record: int(record["s"])):
        take = _TAKERS.get(record["ev"])
        if take is None:
            continue
        try:
            take(story, record)
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            msg = (
                f"run {run}: record {record['s']} ({record['ev']}) makes no sense: {wrong!r:.200}."
                " Nothing is built on it: run without --ff-resume, or name another run with --ff-run"
            )
            raise CheckpointDamaged(msg) from wrong
    return story.told()


class _Story:
    """One run, while its records are read."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.start: Record = {}
        self.began: float | None = None
        self.ended: float | None = None
        self.stopped = ""
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.carried: dict[TaskId, TaskRecord] = {}
        self.declared = 0
        self.inherited = 0

    def told(self) -> RunRecord:
        start = self.start
        whole = (start.get("tasks"), start.get("inherits")) == (self.declared, self.inherited)
        states = self.tasks.items()
        return RunRecord(
            id=self.run,
            began=self.began or 0.0,
            ended=self.ended,
            stopped=self.stopped,
            resumes=start.get("resumes", ""),
            argv=tuple(start.get("argv", ())),
            graph_digest=start.get("graph", ""),
            complete=self.began is not None and whole,
            tasks=MappingProxyType(self.tasks),
            carried=MappingProxyType(self.carried),
            rolls_back=start.get("back", ""),
            in_doubt=tuple(task for task, record in states if record.state is TaskState.RUNNING),
        )

    def on_started(self, record: Record) -> None:
        major, *_ = record["v"]
        if major > FORMAT[0]:
            msg = (
                f"run {self.run} was written in format {'.'.join(map(str, record['v']))}, and this version of"
                f" pytest-flowforge reads up to {FORMAT[0]}: update it, or use another --ff-checkpoint"
            )
            raise CheckpointVersion(msg)
        self.start = record
        self.began = float(record["t"])

    def on_tasks(self, record: Record) -> None:
        for task, entry in record["tasks"].items():
            self.tasks[TaskId(task)] = TaskRecord(fingerprint=to_fingerprint(entry))
        self.declared += len(record["tasks"])

    def on_inherits(self, record: Record) -> None:
        for task, entry in record["tasks"].items():
            standing = to_task_record(entry)
            known = self.tasks.get(TaskId(task))
            if known is None:
                self.carried[TaskId(task)] = standing
            else:
                # What it is made of now is what this run says. It was found to be the same.
                self.tasks[TaskId(task)] = replace(standing, fingerprint=known.fingerprint)
        self.inherited += len(record["tasks"])

    def on_task_started(self, record: Record) -> None:
        task = TaskId(record["task"])
        known = self.tasks[task]
        # The first end of a task is its end: what a dying worker says afterwards changes nothing.
        if known.state not in DONE:
            self.tasks[task] = TaskRecord(TaskState.RUNNING, int(record["try"]), fingerprint=known.fingerprint)

    def on_task_ended(self, record: Record) -> None:
        task = TaskId(record["task"])
        known = self.tasks[task]
        if known.state in DONE:
            return
        outcome = record.get("outcome") or {}
        message = str(outcome.get("message", ""))
        kind = str(outcome.get("kind", ""))
        self.tasks[task] = TaskRecord(
            TaskState(record["state"]),
            int(record["try"]),
            str(record.get("because", message)),
            float(record.get("dur", 0.0)),
            to_result_ref(record.get("result")),
            to_fingerprint(record["print"]) if "print" in record else known.fingerprint,
            failure=kind,
            made=(self.run, int(record["s"])),
            built_on=str(record.get("on", "")),
            outputs=to_pairs(record.get("outputs", {})),
            expected=bool(outcome.get("expected", False)),
        )

    def on_ended(self, record: Record) -> None:
        self.ended = float(record["t"])
        self.stopped = str(record.get("because", ""))


_TAKERS: dict[str, Callable[[_Story, Record], None]] = {
    "run_started": _Story.on_started,
    "run_tasks": _Story.on_tasks,
    "run_inherits": _Story.on_inherits,
    "task_started": _Story.on_task_started,
    "task_retrying": _Story.on_task_ended,
    "task_finished": _Story.on_task_ended,
    "run_finished": _Story.on_ended,
    "run_stopped": _Story.on_ended,
}
