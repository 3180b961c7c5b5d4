"""Failed tasks as annotations of GitHub Actions: lines that its runner finds and shows beside the code.

What comes from outside can not end a line, or begin another command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_flowforge.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Annotation", "annotation_lines"]

#: GitHub shows that many errors of a step, and drops the others without a word.
_MOST = 10

_MOST_NAMES = 20
_LONGEST_NAME = 100
_LONGEST_LINE = 400


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is said of a failed task: ``name`` and ``state``, where it is, and lines for people."""

    name: str
    state: str
    path: str
    line: int | None
    lines: Sequence[str]


def annotation_lines(annotations: Sequence[Annotation]) -> list[str]:
    """Return one line for each; where there are more than GitHub shows, the last one names the others."""
    if len(annotations) <= _MOST:
        return [_error(one) for one in annotations]
    shown, others = annotations[: _MOST - 1], annotations[_MOST - 1 :]
    names = [printable(other.name, _LONGEST_NAME) for other in others[:_MOST_NAMES]]
    if len(others) > _MOST_NAMES:
        names.append(f"and {len(others) - _MOST_NAMES:,} more")
    title = f"{len(others):,} more tasks failed"
    return [*map(_error, shown), f"::error title={_property(title)}::{_data(', '.join(names))}"]


def _error(one: Annotation) -> str:
    place = [f"file={_property(printable(one.path, _LONGEST_LINE))}"] if one.path else []
    if one.path and one.line is not None:
        place.append(f"line={one.line}")
    title = f"title={_property(f'{printable(one.name, _LONGEST_NAME)} {one.state}')}"
    return f"::error {','.join([*place, title])}::{_data(_joined(one.lines))}"


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(printable(line, _LONGEST_LINE) for line in lines)


def _data(text: str) -> str:
    """Escape what stands behind the two colons, by the rules of GitHub."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape the value of a property, by the rules of GitHub."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
