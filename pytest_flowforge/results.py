"""What tasks hand to each other: values, and the stand-in for a value that does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.model import TaskId

__all__ = ["NoResult", "ValueStore"]


@dataclass(frozen=True, slots=True)
class NoResult:
    """Stands where the result of an upstream would be, when that upstream has none. It is falsy.

    ``state`` is the upstream's state in words (``"failed"``, ``"skipped"``, ``"blocked"``, ...), ``reason`` one line
    that says why, ``error`` the exception as one line (``"ValueError: boom"``) where the upstream failed with one,
    else None.
    """

    task: str
    state: str
    reason: str = ""
    error: str | None = None

    def __bool__(self) -> bool:
        return False


class ValueStore:
    """The results of this run's tasks, in memory.

    A value is given up when the last task that may ask for it is done, so that a long chain of large results does
    not stay in memory as a whole.
    """

    def __init__(self, readers: dict[TaskId, int]) -> None:
        #: How many tasks may still ask for each result.
        self._readers = readers
        self._values: dict[TaskId, Any] = {}

    @property
    def wanted(self) -> Mapping[TaskId, int]:
        """How many tasks may still ask for each result."""
        return self._readers

    def __contains__(self, task: TaskId) -> bool:
        return task in self._values

    def put(self, task: TaskId, value: Any) -> None:
        """Keep *value* as the result of *task* as long as somebody may ask for it."""
        if self._readers.get(task):
            self._values[task] = value

    def get(self, task: TaskId) -> Any:
        """Return the result of *task*; KeyError if there is none."""
        return self._values[task]

    def release(self, task: TaskId) -> None:
        """One reader of *task*'s result will not ask again."""
        self._readers[task] -= 1
        if not self._readers[task]:
            self._values.pop(task, None)
