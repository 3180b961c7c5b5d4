"""Which tasks a resumed run runs again, each with one reason, and which results stand.

It decides from what was recorded and from what tasks are made of now. It looks at no file: whether a stored result can
be read is asked of somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_flowforge.core.states import SUCCEEDED, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import ResultRef, TaskRecord

__all__ = ["NEVER_STARTED", "NEW_TASK", "Decision", "decide"]

NEW_TASK = "new task"
NEVER_STARTED = "never started"
_IN_DOUBT = "was running when the run ended"
_SKIPPED = "was skipped"

#: Why a task that has not succeeded runs again, by its state.
_BY_STATE = {
    TaskState.PENDING: NEVER_STARTED,
    TaskState.RUNNING: _IN_DOUBT,
    TaskState.FAILED: "failed last time",
    TaskState.TIMED_OUT: "timed out last time",
    TaskState.CRASHED: "crashed last time",
    TaskState.INTERRUPTED: "was interrupted",
    TaskState.BLOCKED: "was blocked",
}

#: The same for a task that waited for its next attempt, by what had become of the last one.
_BY_FAILURE = {
    "timed out": "timed out last time",
    "crashed": "crashed last time",
    "lost": "crashed last time",
    "interrupted": "was interrupted",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a resumed run does with each task: every one is in ``restored`` or in ``reasons``, in topological order.

    ``restored`` says where its result comes from, ``reasons`` why it runs. ``in_doubt`` are those that were running
    when the run ended: they may have done their work, and whoever must not do it twice is to be asked first.
    """

    restored: Mapping[TaskId, str]
    reasons: Mapping[TaskId, str]
    in_doubt: tuple[TaskId, ...]


def decide(
    graph: TaskGraph,
    run: RunRecord | None,
    fingerprints: Mapping[TaskId, Fingerprint],
    fault: Callable[[ResultRef], str],
) -> Decision:
    """Return what is to be done with the tasks of *graph* to continue *run* (None: there is none).

    ``fingerprints`` has every task of *graph*. ``fault`` returns what is wrong with a stored result as a reason
    (``"result damaged"``), or nothing; it is asked at most once a task, and only where that alone decides.
    """
    standing = run.standing if run is not None else {}
    restored: dict[TaskId, str] = {}
    reasons: dict[TaskId, str] = {}
    #: Skipped by their own rule, with nothing changed above them: they will be again, and start nothing downstream.
    quiet: set[TaskId] = set()
    #: When what each task hands on was made.
    made: dict[TaskId, tuple[str, int]] = {}
    for task in graph.order:
        known = standing.get(task)
        if known is None:
            reasons[task] = NEW_TASK if run is not None else NEVER_STARTED
            continue
        made[task] = known.made
        reason = (
            _state(known)
            or _change(known, fingerprints[task])
            or _upstream(graph, task, reasons, quiet)
            or _later(graph, task, known, made)
        )
        if not reason and known.state is TaskState.SKIPPED:
            reason = _SKIPPED
            if not known.attempts:
                quiet.add(task)
                # Such a skip is repeated in every run and means nothing new.
                made[task] = max((made[need] for need in graph[task].needs), default=("", -1))
        reason = reason or _stored(known, fault)
        if reason:
            reasons[task] = reason
        else:
            restored[task] = f"reused from run {known.made[0]}"
    in_doubt = tuple(task for task, reason in reasons.items() if reason == _IN_DOUBT)
    return Decision(restored, reasons, in_doubt)


def _state(known: TaskRecord) -> str:
    if known.state is TaskState.RETRYING:
        return _BY_FAILURE.get(known.failure, "failed last time")
    return _BY_STATE.get(known.state, "")


def _change(known: TaskRecord, now: Fingerprint) -> str:
    return "code changed" if known.fingerprint is None else known.fingerprint.change(now)


def _upstream(graph: TaskGraph, task: TaskId, reasons: Mapping[TaskId, str], quiet: set[TaskId]) -> str:
    """Look for an upstream that runs."""
    for need in graph[task].needs:
        if need in reasons and need not in quiet:
            return f"upstream {graph[need].label} runs again"
    return ""


def _later(graph: TaskGraph, task: TaskId, known: TaskRecord, made: Mapping[TaskId, tuple[str, int]]) -> str:
    """Look for an upstream whose result is newer: it ran again when *task* was not selected, or was gone.

    All upstreams of a task that started had ended before, so that those it was built on have earlier records. None of
    them runs again now: that is asked before.
    """
    for need in graph[task].needs:
        if made[need] > known.made:
            return f"upstream {graph[need].label} ran again"
    return ""


def _stored(known: TaskRecord, fault: Callable[[ResultRef], str]) -> str:
    if known.state not in SUCCEEDED:
        return ""
    return fault(known.result) if known.result is not None else "result missing"
