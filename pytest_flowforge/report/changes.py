"""What has changed about tasks, from what to what: the lines of ``--ff-explain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_flowforge.report.text import columns, names, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId

__all__ = ["Change", "explain_lines"]

#: Digits of a digest that are shown.
_SHORT = 8
_LONGEST = 1000
_MOST = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What a task was made of and what it is made of now; ``parts`` are digests of pieces of code by name."""

    before: Fingerprint
    now: Fingerprint
    parts_before: Mapping[str, str] = field(default_factory=dict)
    parts_now: Mapping[str, str] = field(default_factory=dict)


def explain_lines(
    graph: TaskGraph, restored: Mapping[TaskId, str], reasons: Mapping[TaskId, str], changes: Mapping[TaskId, Change]
) -> list[str]:
    """A line for each task: whether it runs, why, and what has changed from what to what."""
    name = names(graph)
    rows = []
    for task in graph.order:
        if task in restored:
            rows.append(["  reuse", name(graph[task]), printable(restored[task])])
            continue
        reason = reasons.get(task, "nothing is reused without --ff-resume or --ff-cache")
        told = [reason] if task not in changes else _with_details(reason, changes[task])
        rows.append(["  run", name(graph[task]), printable("; ".join(told), _LONGEST)])
    return ["flowforge: why each task runs or does not", *columns(rows)]


def _with_details(reason: str, change: Change) -> list[str]:
    details = list(_details(change))
    if len(details) > _MOST:
        details[_MOST:] = [f"and {len(details) - _MOST} more"]
    # A detail that names the same thing says it better.
    said = any(reason.rpartition(" ")[0] == detail.partition(": ")[0] for detail in details)
    return details if said else [f"{reason}: {details[0]}", *details[1:]] if details else [reason]


def _details(change: Change) -> Iterator[str]:
    before, now = change.before, change.now
    if before.code != now.code:
        yield from _code(change.parts_before, change.parts_now)
    if before.parameters != now.parameters:
        yield from _from_to(before.shown, now.shown, _LONGEST)
    if before.extra != now.extra:
        yield from _from_to(before.extra, now.extra, _SHORT)


def _code(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if not before:
        yield "from what to what is not known any more"
        return
    told = False
    for key, digest in sorted(now.items()):
        if before.get(key) != digest:
            told = True
            old = f"{before[key][:_SHORT]} -> " if key in before else "new, "
            yield f"{key} {old}{digest[:_SHORT]}"
    if not told:
        yield "something it used is gone, or is reached another way"


def _from_to(before: Iterable[tuple[str, str]], now: Iterable[tuple[str, str]], digits: int) -> Iterator[str]:
    old, new = dict(before), dict(now)
    for what in sorted({**old, **new}):
        if old.get(what) != new.get(what):
            # A version is what somebody wrote; all else are digests.
            width = _LONGEST if what == "version" else digits
            yield f"{what}: {old.get(what, 'nothing')[:width]} -> {new.get(what, 'nothing')[:width]}"
