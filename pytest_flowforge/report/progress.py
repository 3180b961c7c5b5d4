"""The status line of a run that goes on: what is done, what runs and for how long, how long the rest will take."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["cells", "duration", "status_line"]

#: States that are worth a word while a run goes on, in the order of their urgency.
_TOLD = (
    TaskState.FAILED,
    TaskState.TIMED_OUT,
    TaskState.CRASHED,
    TaskState.INTERRUPTED,
    TaskState.BLOCKED,
    TaskState.RETRYING,
    TaskState.SKIPPED,
    TaskState.REUSED,
)

_LONGEST_NAME = 30
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """*seconds* for people, in two units at most: ``7s``, ``3m 05s``, ``2h 10m``, ``3d 04h``."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR:02}h"


def status_line(
    counts: Mapping[TaskState, int],
    running: Sequence[tuple[str, float]],
    remaining: float | None,
    width: int,
) -> str:
    """Return one line of at most *width* cells that a terminal can be given as it is.

    *counts* has the number of tasks in each state, *running* names and ages in seconds, the oldest first; *remaining*
    is how many seconds are left, None where nobody can tell. Of the running tasks as many are named as fit.
    """
    done = sum(counts[state] for state in DONE)
    head = [f"{done:,}/{sum(counts.values()):,}"]
    head += [f"{counts[state]:,} {state.value}" for state in _TOLD if counts[state]]
    line = ", ".join(head)
    tail = "" if remaining is None else f" | about {duration(max(remaining, 1.0))} left"
    named: list[str] = []
    for name, age in running:
        more = _joined([*named, f"{printable(name, _LONGEST_NAME)} {duration(age)}"], len(running))
        if cells(line + more + tail) > width:
            break
        named.append(f"{printable(name, _LONGEST_NAME)} {duration(age)}")
    return _cut(line + _joined(named, len(running)) + tail, width)


def _joined(named: Sequence[str], count: int) -> str:
    if not count:
        return ""
    if not named:
        return f" | {count:,} running"
    rest = count - len(named)
    return " | " + ", ".join(named) + (f" and {rest:,} more" if rest else "")


def cells(text: str) -> int:
    """Return how many columns of a terminal the printable *text* takes."""
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    # Vowels of Thai, for one, combine with nothing by their class. What else has no width is not printable.
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, width: int) -> str:
    if cells(text) <= width:
        return text
    taken, kept = 0, []
    for char in text:
        taken += _cells_of(char)
        if taken > width:
            break
        kept.append(char)
    return "".join(kept)
