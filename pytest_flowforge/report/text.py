"""Lists, plans and summaries as lines of text and as JSON.

Everything that comes from outside (names, messages) passes :func:`printable` on its way to a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.plan import PlannedTask
    from pytest_flowforge.core.summary import RunSummary
    from pytest_flowforge.errors import Problem

__all__ = [
    "FORMAT",
    "columns",
    "enumerated",
    "harmless",
    "in_doubt_lines",
    "names",
    "plan_as_json",
    "plan_lines",
    "printable",
    "reuse_lines",
    "summary_lines",
    "task_lines",
    "validation_as_json",
]

#: Version of the JSON answers; a new member is no new version, a changed meaning is.
FORMAT = 1

_LONGEST_NAME = 100
_MOST_NAMES = 8
_MOST_LINES = 40
_LONGEST_REASON = 400

#: The states of tasks of which no run is known.
_UNKNOWN: Mapping[TaskId, str] = MappingProxyType({})


def printable(text: str, limit: int = _LONGEST_NAME) -> str:
    """*text* on one line without anything that a terminal might obey, cut in the middle beyond *limit* characters."""
    if len(text) > limit:
        half = (limit - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def harmless(text: str) -> str:
    """*text* of several lines with nothing left that a terminal might obey, but for colours."""
    return _OBEYED.sub(lambda found: found[1].encode("unicode_escape").decode() if found[1] else found[0], text)


#: A colour (SGR), which stays, or a character that is neither printable nor the end of a line nor a tab.
_OBEYED = re.compile(r"\x1b\[[0-9;:]*m|([\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069])")


def names(graph: TaskGraph, limit: int = _LONGEST_NAME) -> Callable[[Task], str]:
    """How to call the tasks of *graph*: by name where all stand in one file, else with the file.

    Either can be used in ``--ff-select``, unless it is longer than *limit* and so is cut.
    """
    files = {task.location.path for task in graph if task.location}
    if len(files) <= 1:
        return lambda task: printable(task.label, limit)
    return lambda task: printable(f"{task.location.path}::{task.label}" if task.location else task.label, limit)


def enumerated(tasks: Sequence[Task], graph: TaskGraph) -> str:
    """The names of the first few of *tasks*, and how many there are besides."""
    name = names(graph)
    return _enumeration([name(task) for task in tasks], _MOST_NAMES)


def task_lines(
    plan: Sequence[PlannedTask], graph: TaskGraph, verbosity: int, states: Mapping[TaskId, str] = _UNKNOWN
) -> list[str]:
    """The answer of ``--ff-list``: a line a task, in an order they can run in, with the *states* of the last run."""
    if verbosity < 0:
        # For --ff-select, so whole.
        name = names(graph, sys.maxsize)
        return [name(planned.task) for planned in plan]
    name = names(graph)
    rows = []
    for planned in plan:
        seen = [_seen_from(planned.task, graph[need], name) for need in planned.needs]
        needs = _enumeration(seen, None if verbosity > 0 else _MOST_NAMES)
        row = [name(planned.task), f"<- {needs}" if needs else "", _place(planned.task)]
        if states:
            row.insert(1, states.get(planned.task.id, "new"))
        rows.append([*row, *_details(planned.task)] if verbosity > 0 else row)
    return columns(rows)


def plan_lines(plan: Sequence[PlannedTask], graph: TaskGraph, verbosity: int) -> list[str]:
    """The answer of ``--ff-dry-run``: what would happen to each task and why, level by level."""
    name = names(graph)
    by_level: dict[int, list[PlannedTask]] = {}
    for planned in plan:
        by_level.setdefault(planned.level, []).append(planned)
    if verbosity < 0:
        return [f"{planned.verdict} {name(planned.task)}" for level in sorted(by_level) for planned in by_level[level]]
    lines = []
    for level in sorted(by_level):
        lines.append(f"level {level}")
        rows = [[f"  {planned.verdict}", name(planned.task), printable(planned.reason)] for planned in by_level[level]]
        lines += columns(rows)
    return lines


def plan_as_json(plan: Iterable[PlannedTask], states: Mapping[TaskId, str] = _UNKNOWN) -> str:
    """The same for machines: a JSON object with a list of tasks, each after its upstreams."""
    tasks = [{**_as_dict(planned), "last_state": states.get(planned.task.id)} for planned in plan]
    return json.dumps({"format": FORMAT, "tasks": tasks}, indent=2)


def reuse_lines(
    graph: TaskGraph,
    plan: tuple[Collection[TaskId], Mapping[TaskId, str], Mapping[TaskId, str]],
    start: str,
    verbosity: int,
) -> list[str]:
    """What a run that reuses results says when it begins: how many, and of each task that runs why it does.

    *plan* has the tasks whose results stand, the reasons of those that run, and of those that may not. *start*
    says what it goes by. Many tasks with one reason share a line, unless more was asked for.
    """
    restored, reasons, refused = plan
    reasons = {task: reason for task, reason in reasons.items() if task not in refused}
    not_run = f", {len(refused):,} refused" if refused else ""
    lines = [f"flowforge: {start}: {len(restored):,} reused, {len(reasons):,} to run{not_run}"]
    name = names(graph)
    # Whole, at any verbosity: somebody has to look at these.
    lines += [f"  refused  {name(graph[task])}: {printable(why, _LONGEST_REASON)}" for task, why in refused.items()]
    if verbosity < 0:
        return lines
    if verbosity > 0 or len(reasons) <= _MOST_LINES:
        rows = [["  run", name(graph[task]), printable(reason)] for task, reason in reasons.items()]
        return lines + columns(rows)
    by_reason: dict[str, list[str]] = {}
    for task, reason in reasons.items():
        shared = (
            "an upstream runs again" if reason.startswith("upstream ") and reason.endswith(" runs again") else reason
        )
        by_reason.setdefault(shared, []).append(name(graph[task]))
    shown = list(by_reason.items())[:_MOST_LINES]
    lines += [f"  run  {_enumeration(tasks, _MOST_NAMES)}: {printable(reason)}" for reason, tasks in shown]
    if len(by_reason) > len(shown):
        lines.append(f"  and {len(by_reason) - len(shown):,} more reasons (-v shows all)")
    return lines


def in_doubt_lines(tasks: Sequence[Task], graph: TaskGraph) -> list[str]:
    """What is said of tasks that may have done their work and run again."""
    if not tasks:
        return []
    name = names(graph)
    was = "1 task was" if len(tasks) == 1 else f"{len(tasks):,} tasks were"
    which = _enumeration([name(task) for task in tasks], _MOST_NAMES)
    return [f"flowforge: {was} running when the last run ended and will run again: {which}"]


def validation_as_json(tasks: int, problems: Iterable[Problem]) -> str:
    """The answer of ``--ff-validate`` for machines."""
    found = [{"where": problem.where, "text": problem.text} for problem in problems]
    return json.dumps({"format": FORMAT, "valid": not found, "tasks": tasks, "problems": found}, indent=2)


def summary_lines(summary: RunSummary, graph: TaskGraph) -> list[str]:
    """What a person must know at the end of a run besides the counts: who blocked whom, and what never started.

    One line for each failure that others were blocked by, or for what kept them from running, not one for each victim.
    """
    name = names(graph)

    def named(tasks: Sequence[TaskId]) -> str:
        return _enumeration([name(graph[task]) for task in tasks], _MOST_NAMES)

    lines = []
    for root, blocked in summary.blocked_by_root.items():
        state, place = summary.states[root].value, _place(graph[root])
        why = f"{state}{f' at {place}' if place else ''}"
        lines.append(f"{len(blocked):,} blocked behind {name(graph[root])} ({why}): {named(blocked)}")
    # A mapped task that has instances is neither: it only stands for these.
    others = {task for blocked in summary.blocked_by_root.values() for task in blocked}
    others.update(task.instance_of for task in graph if task.instance_of is not None)
    refused: dict[str, list[TaskId]] = {}
    for task, end in summary.states.items():
        if end is TaskState.BLOCKED and task not in others:
            refused.setdefault(summary.reasons.get(task, ""), []).append(task)
    for reason, tasks in refused.items():
        why = printable(reason, _LONGEST_REASON)
        if len(tasks) == 1:
            lines.append(f"{name(graph[tasks[0]])} was not run: {why}")
        else:
            lines.append(f"{len(tasks):,} were not run ({why}): {named(tasks)}")
    interrupted = [task for task, state in summary.states.items() if state is TaskState.INTERRUPTED]
    if interrupted:
        lines.append(f"{len(interrupted):,} interrupted: {named(interrupted)}")
    if summary.never_started:
        reason = f" ({printable(summary.stopped)})" if summary.stopped else ""
        lines.append(f"{len(summary.never_started):,} not started{reason}: {named(summary.never_started)}")
    return lines


def _as_dict(planned: PlannedTask) -> dict[str, Any]:
    task = planned.task
    return {
        "id": task.id,
        "name": task.label,
        "file": task.location.path if task.location else None,
        "line": task.location.line if task.location else None,
        "level": planned.level,
        "needs": list(planned.needs),
        "when": task.when.value,
        "retries": task.retry.max_retries,
        "priority": task.priority,
        "pools": dict(task.pools),
        "exclusive": task.exclusive,
        "selected": planned.targeted,
        "verdict": planned.verdict,
        "reason": planned.reason,
    }


def _seen_from(task: Task, upstream: Task, name: Callable[[Task], str]) -> str:
    """What a reference to *upstream* would say in the file of *task*."""
    here = task.location and upstream.location and task.location.path == upstream.location.path
    return printable(upstream.label) if here else name(upstream)


def _details(task: Task) -> list[str]:
    details = []
    if task.when is not Trigger.ALL_SUCCESS:
        details.append(f"when={task.when.value}")
    if task.retry.max_retries:
        details.append(f"retries={task.retry.max_retries}")
    if task.priority:
        details.append(f"priority={task.priority}")
    details += [f"{pool}={units}" for pool, units in task.pools]
    if task.exclusive:
        details.append("exclusive")
    return [printable(" ".join(details))]


def _place(task: Task) -> str:
    return printable(str(task.location)) if task.location else ""


def _enumeration(items: Sequence[str], most: int | None) -> str:
    shown = ", ".join(items[:most])
    hidden = 0 if most is None else len(items) - most
    return f"{shown} and {hidden:,} more" if hidden > 0 else shown


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with their cells below each other; a few very wide cells do not push all others aside."""
    widths = [min(max((len(cell) for cell in column), default=0), 60) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
