"""Where the time of a run went, in a few lines for people."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from pytest_flowforge.core.metrics import WaitedFor
from pytest_flowforge.report.progress import duration
from pytest_flowforge.report.text import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.metrics import PathStep, RunMetrics, TaskMetrics
    from pytest_flowforge.core.model import Task

__all__ = ["timing_lines"]

_MOST_SLOW = 5
_MOST_STEPS = 8

#: Seconds below which a wait on the critical path is the run's own and not worth a word.
_A_WAIT = 0.1

_MINUTE = 60


def timing_lines(run: RunMetrics, graph: TaskGraph) -> list[str]:
    """Say how long the run took, what its end waited for, and what was slow; empty where nothing ran."""
    began = [task for task in run.tasks.values() if task.attempts]
    if not began:
        return []
    name = names(graph)
    lines = [_whole(run), _path(run.critical_path, graph, name)]
    slow = sorted(began, key=lambda task: -task.seconds)[:_MOST_SLOW]
    lines.append("slowest: " + _listed(slow, graph, name, lambda task: _seconds(task.seconds)))
    tried = [task for task in began if len(task.attempts) > 1]
    if tried:
        most = sorted(tried, key=lambda task: -len(task.attempts))[:_MOST_SLOW]
        shown = _listed(most, graph, name, lambda task: f"{len(task.attempts)} attempts")
        more = f" and {len(tried) - len(most):,} more" if len(tried) > len(most) else ""
        lines.append(f"tried again: {shown}{more}")
    return lines


def _whole(run: RunMetrics) -> str:
    said = f"took {_seconds(run.makespan)} for {_seconds(run.work)} of work"
    if run.makespan <= 0:
        return said
    said += f" ({run.speed_up:.1f} x)"
    if len(run.workers) > 1:
        busy = sum(worker.utilization for worker in run.workers.values()) / len(run.workers)
        said += f", {len(run.workers)} workers busy {busy:.0%} of the time"
    return said


def _path(steps: Sequence[PathStep], graph: TaskGraph, name: Callable[[Task], str]) -> str:
    """The chain of attempts that the end of the run waited for; those at one task stand together."""
    parts = []
    for task, attempts in groupby(steps, key=lambda step: step.attempt.task):
        made = list(attempts)
        waited = f"(waits {_seconds(made[0].wait)}{_WAITS[made[0].waited_for]}) " if made[0].wait >= _A_WAIT else ""
        took = sum(step.attempt.seconds for step in made) + sum(step.wait for step in made[1:])
        parts.append(f"{waited}{name(graph[task])} {_seconds(took)}")
    if len(parts) > _MOST_STEPS:
        half = _MOST_STEPS // 2
        parts = [*parts[:half], f"{len(parts) - 2 * half:,} more", *parts[-half:]]
    return f"critical path: {' > '.join(parts)}"


_WAITS = {
    WaitedFor.NOTHING: " for a worker",
    WaitedFor.UPSTREAM: "",
    WaitedFor.SLOT: " for room",
    WaitedFor.RETRY: "",
}


def _listed(
    tasks: Iterable[TaskMetrics], graph: TaskGraph, name: Callable[[Task], str], what: Callable[[TaskMetrics], str]
) -> str:
    return ", ".join(f"{name(graph[task.task])} {what(task)}" for task in tasks)


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= _MINUTE else f"{seconds:.2f}s"
