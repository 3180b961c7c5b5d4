"""One job after the other, on the thread that asks for the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.ports import Clock, Executor, Finished, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.core.model import TaskId

__all__ = ["InlineExecutor"]


class InlineExecutor(Executor):
    """Executes a job within :meth:`wait`, so that the job may use everything that belongs to the calling thread.

    What a job raises comes out of :meth:`wait`, and the job has then no end of its own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Started and not executed yet, in the order of their start.
        self._jobs: dict[tuple[TaskId, int], Job] = {}

    @property
    def slots(self) -> int:
        """One: there is only this thread."""
        return 1

    @property
    def lost(self) -> str:
        """Never: as long as anybody asks, this thread is there."""
        return ""

    def start(self, job: Job) -> None:
        """Remember *job* for the next :meth:`wait`."""
        self._jobs[job.task, job.attempt] = job

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Forget that attempt unless it has been executed."""
        self._jobs.pop((task, attempt), None)

    def interrupt(self) -> None:
        """Nothing runs while somebody else is called."""

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        """Execute the job started first and return its end.

        Without a job, sleep for *timeout* seconds (None: return at once) and return nothing.
        """
        if not self._jobs:
            if timeout:
                self._clock.sleep(timeout)
            return ()
        key = next(iter(self._jobs))
        # Taken out first: a job that raises is over too.
        job = self._jobs.pop(key)
        outcome, value = job.call(**job.inputs)
        return (Finished(job.task, job.attempt, outcome, value),)

    def close(self) -> None:
        """Forget what was not executed."""
        self._jobs.clear()
