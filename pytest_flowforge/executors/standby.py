"""An executor, and another one for what remains to be done once that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_flowforge.ports import Executor, Finished, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowforge.core.model import TaskId

__all__ = ["Losable", "Standby"]


class Losable(Executor, Protocol):
    """An executor that, once it is lost, knows of jobs that had not begun."""

    def leftover(self) -> Sequence[Job]:
        """Return, and forget, the jobs in flight that have not begun; what else is in flight is reported as an end."""


class Standby(Executor):
    """Has jobs executed by *first*; once that is lost, by what *make_second* makes, one at a time.

    Those that *first* has accepted and not begun by then are among them, unless they are cancelled as soon as the loss
    is known: whoever drives this knows which are worth it.
    """

    def __init__(self, first: Losable, make_second: Callable[[], Executor]) -> None:
        self._first = first
        self._make_second = make_second
        self._second: Executor | None = None
        #: Whether the driver has heard of the loss.
        self._is_known = False

    @property
    def slots(self) -> int:
        """Those of the first; afterwards one."""
        return 1 if self._first.lost else self._first.slots

    @property
    def lost(self) -> str:
        """Why the first one is lost."""
        return self._first.lost

    def start(self, job: Job) -> None:
        """Have *job* executed: by the first, which may know of an end that it has come to already."""
        self._first.start(job)

    def is_made(self, task: TaskId, attempt: int) -> bool:
        return self._first.is_made(task, attempt)

    def cancel(self, task: TaskId, attempt: int) -> None:
        for executor in self._both():
            executor.cancel(task, attempt)

    def interrupt(self) -> None:
        for executor in self._both():
            executor.interrupt()

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        first = self._first
        if self._is_known:
            second = self._second = self._second or self._make_second()
            for job in first.leftover():
                second.start(job)
            return first.wait(0.0) or second.wait(timeout)
        # It may have been lost since the last time: then whoever asks is to know of it before anything is done.
        finished = first.wait(0.0 if first.lost else timeout)
        self._is_known = bool(first.lost)
        return finished

    def close(self) -> None:
        for executor in reversed(self._both()):
            executor.close()

    def _both(self) -> list[Executor]:
        return [self._first] if self._second is None else [self._first, self._second]
