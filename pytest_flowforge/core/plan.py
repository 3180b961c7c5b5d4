"""What a run would do, for listings and dry runs: nothing is run to find out."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.selection import Selection

__all__ = ["REFUSE", "REUSE", "RUN", "PlannedTask", "plan"]

#: The verdicts of a plan, as shown to people and written for machines.
RUN = "run"
REUSE = "reuse"
REFUSE = "refuse"

_NOTHING: Mapping[TaskId, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task of a plan.

    ``level`` is the length of the longest way to it within the selection; tasks of one level could run side by side.
    ``targeted`` tells what was asked for from what comes along. ``needs`` are the direct upstreams in the selection.
    ``verdict`` is ``"run"``, ``"reuse"`` or ``"refuse"``, ``reason`` a few words for people.
    """

    task: Task
    level: int
    targeted: bool
    needs: tuple[TaskId, ...]
    verdict: str
    reason: str


def plan(
    graph: TaskGraph,
    selection: Selection,
    restored: Mapping[TaskId, str] = _NOTHING,
    reasons: Mapping[TaskId, str] = _NOTHING,
    refused: Mapping[TaskId, str] = _NOTHING,
) -> tuple[PlannedTask, ...]:
    """Return what would become of the tasks of *selection*, each after its upstreams.

    ``restored`` maps the tasks whose results stand to the reason, ``reasons`` those that run where there is more to say
    than that they were selected, ``refused`` those that may not run. Raises :class:`UnknownTask` for a selected task
    that *graph* does not hold.
    """
    for task in sorted(selection.all):
        graph.position(task)
    chosen = graph.restrict(selection.all)
    return tuple(_planned(task, chosen, selection, (restored, reasons, refused)) for task in chosen.order)


def _planned(
    task: TaskId, chosen: TaskGraph, selection: Selection, known: tuple[Mapping[TaskId, str], ...]
) -> PlannedTask:
    restored, reasons, refused = known
    targeted = task in selection.targets
    verdict, reason = RUN, reasons.get(task, "")
    if task in restored:
        verdict, reason = REUSE, restored[task]
    elif task in refused:
        verdict, reason = REFUSE, refused[task]
    reason = reason or ("selected" if targeted else f"needed by {_wanted_by(task, chosen)}")
    return PlannedTask(chosen[task], chosen.levels[task], targeted, chosen.upstream(task), verdict, reason)


def _wanted_by(task: TaskId, chosen: TaskGraph) -> str:
    """Name the downstreams of *task*: the first, and how many more."""
    first, *others = [chosen[waiting].label for waiting in chosen.downstream(task)] or ["others"]
    return f"{first} and {len(others):,} more" if others else first
