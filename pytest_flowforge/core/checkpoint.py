"""The run that records tell of: a fold, and nothing else.

It believes nothing it can not read: a record of a known kind that does not make sense is damage, a kind or member it
does not know is ignored. It reads no files; whoever does has checked every line before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.records import (
    FORMAT,
    STATES,
    TaskRecord,
    key_of,
    to_chosen,
    to_fingerprint,
    to_pairs,
    to_result_ref,
    to_task_record,
)
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.errors import CheckpointDamaged, CheckpointVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import Record

__all__ = ["RunRecord", "carry", "fold"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What has become of one run, as far as was written.

    ``began`` and ``ended`` are seconds since the epoch; ``ended`` is None while it goes on, and for ever when it was
    killed. ``stopped`` is the reason of an early end, else empty. ``tasks`` has every task of its graph, in the order
    of declaration; ``carried`` what it kept of tasks outside of it. ``rolls_back`` is the run whose results it made the
    current ones, if it did nothing else. ``complete`` is false for a run that was ended before it had described itself:
    nothing can be built on it. ``seed`` is what the jitter of its retries depended on, empty where there was none.
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
    seed: str = ""

    def known(self, task: TaskId) -> TaskRecord | None:
        """What a later run may build on of *task*; None when nothing is known of it."""
        key = key_of(task)
        return self.tasks.get(key) or self.carried.get(key)

    @property
    def standing(self) -> Mapping[TaskId, TaskRecord]:
        """Everything a later run may build on."""
        return MappingProxyType({**self.carried, **self.tasks})


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


def fold(run: str, records: Iterable[Record]) -> RunRecord:
    """Return what *records*, those of one journal as they were written, tell of *run*; none of them is kept.

    Raises :class:`CheckpointVersion` for a newer format and :class:`CheckpointDamaged` for a record that makes no
    sense there.
    """
    story = _Story(run)
    for record in records:
        take = _TAKERS.get(record["ev"])
        if take is None:
            continue
        try:
            if record["run"] != run:
                msg = f"it is of run {record['run']}"
                raise ValueError(msg)  # noqa: TRY301  (with everything else that makes no sense)
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
        #: What the tasks of the graph are made of, in the order of declaration.
        self.prints: dict[TaskId, Fingerprint] = {}
        #: The attempts that began and have not ended.
        self.running: dict[TaskId, int] = {}
        #: What became of the tasks whose last attempt has ended, and of those that were inherited.
        self.ends: dict[TaskId, TaskRecord] = {}
        self.carried: dict[TaskId, TaskRecord] = {}
        #: Reason and seconds of the attempts that another one followed, or was to follow.
        self.tried: dict[TaskId, list[tuple[str, float]]] = {}
        self.declared = 0
        self.inherited = 0

    def told(self) -> RunRecord:
        start = self.start
        whole = (start.get("tasks"), start.get("inherits")) == (self.declared, self.inherited)
        return RunRecord(
            id=self.run,
            began=self.began or 0.0,
            ended=self.ended,
            stopped=self.stopped,
            resumes=start.get("resumes", ""),
            argv=tuple(start.get("argv", ())),
            graph_digest=start.get("graph", ""),
            complete=self.began is not None and whole,
            tasks=MappingProxyType({task: self._standing(task) for task in self.prints}),
            carried=MappingProxyType(self.carried),
            rolls_back=start.get("back", ""),
            in_doubt=tuple(task for task in self.prints if task in self.running),
            seed=start.get("seed", ""),
        )

    def _standing(self, task: TaskId) -> TaskRecord:
        if task in self.running:
            made = (self.run, -1)
            tried = tuple(self.tried.get(task, ()))
            return TaskRecord(
                TaskState.RUNNING, self.running[task], fingerprint=self.prints[task], made=made, earlier=tried
            )
        end = self.ends.get(task) or TaskRecord(fingerprint=self.prints[task])
        if task not in self.tried:
            return end
        # What a stop has called off waited for its next attempt: its last one is the one that counts.
        return replace(end, earlier=tuple(self.tried[task][: end.attempts - 1]))

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
            self.prints[task] = to_fingerprint(entry)
        self.declared += len(record["tasks"])

    def on_inherits(self, record: Record) -> None:
        for task, entry in record["tasks"].items():
            fingerprint = self.prints.get(task)
            # What a task of the graph is made of now is what this run says. It was found to be the same.
            where = self.carried if fingerprint is None else self.ends
            where[task] = to_task_record(entry, fingerprint)
        self.inherited += len(record["tasks"])

    def on_task_mapped(self, record: Record) -> None:
        for task, entry in record.get("tasks", {}).items():
            self.prints[task] = to_fingerprint(entry)
        for task, entry in record.get("inherits", {}).items():
            self.ends[task] = to_task_record(entry, self.prints[task])

    # The two that are met for each task.

    def on_task_started(self, record: Record) -> None:
        task = record["task"]
        if self._may_go_on(task):
            self.running[task] = int(record["try"])

    def on_task_ended(self, record: Record) -> None:
        task = record["task"]
        if not self._may_go_on(task):
            return
        outcome = record.get("outcome") or _NO_OUTCOME
        if record["ev"] == "task_retrying":
            reason = str(record.get("because", outcome.get("message", "")))
            self.tried.setdefault(task, []).append((reason, float(record.get("dur", 0.0))))
        self.ends[task] = TaskRecord(
            STATES[record["state"]],
            int(record["try"]),
            str(record.get("because", outcome.get("message", ""))),
            float(record.get("dur", 0.0)),
            to_result_ref(record.get("result")),
            to_fingerprint(record["print"]) if "print" in record else self.prints[task],
            "",
            str(outcome.get("kind", "")),
            (self.run, int(record["s"])),
            str(record.get("on", "")),
            to_pairs(record.get("outputs")),
            bool(outcome.get("expected", False)),
            to_chosen(record),
        )
        self.running.pop(task, None)

    def _may_go_on(self, task: TaskId) -> bool:
        """Whether *task*, which has to be declared, has not ended.

        The first end of a task is its end: what a dying worker says afterwards changes nothing.
        """
        end = self.ends.get(task)
        if end is None:
            return self.prints[task] is not None
        return end.state not in DONE

    def on_ended(self, record: Record) -> None:
        self.ended = float(record["t"])
        self.stopped = str(record.get("because", ""))


_NO_OUTCOME: Mapping[str, Any] = MappingProxyType({})

_TAKERS: dict[str, Callable[[_Story, Record], None]] = {
    "run_started": _Story.on_started,
    "run_tasks": _Story.on_tasks,
    "run_inherits": _Story.on_inherits,
    "task_mapped": _Story.on_task_mapped,
    "task_started": _Story.on_task_started,
    "task_retrying": _Story.on_task_ended,
    "task_finished": _Story.on_task_ended,
    "run_finished": _Story.on_ended,
    "run_stopped": _Story.on_ended,
}
