"""The errors a user of pytest-flowforge can meet.

Every one of them names the thing, the rule and the way out::

    FlowforgeError
    ├── GraphError            the tasks do not form a valid graph (carries every Problem found)
    ├── SelectionError        a ``--ff-select`` expression that can not be read
    ├── UnknownTask           a task was named that the graph does not hold
    └── IllegalMove           a task was asked to change state in a way the table does not allow
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FlowforgeError",
    "GraphError",
    "IllegalMove",
    "Problem",
    "SelectionError",
    "UnknownTask",
]


class FlowforgeError(Exception):
    """The root of every error that pytest-flowforge raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a flow, ready to be shown.

    ``where`` is ``file:line`` (or empty when there is no such place), ``text`` one or more lines
    that name the thing, the rule it breaks and the way out.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class GraphError(FlowforgeError):
    """The tasks do not form a valid graph.

    All problems are reported at once: ``problems`` holds them in the order of the files.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SelectionError(FlowforgeError):
    """A selection expression that can not be read or that names nothing."""


class UnknownTask(FlowforgeError, KeyError):
    """A task id was used that the graph does not hold."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should stay a sentence.
        return str(self.args[0]) if self.args else ""


class IllegalMove(FlowforgeError):
    """A task was asked to change state in a way the table of moves does not allow."""
