"""For people who test what they build on pytest-flowforge: time that only moves when told, scripted executors.

Nothing here waits; a test with these takes milliseconds however long its tasks pretend to be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Outcome, Success, TaskId
from pytest_flowforge.ports import Clock, Executor, Finished, Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FakeClock", "ScriptedExecutor"]


class FakeClock(Clock):
    """Stands still until somebody sleeps; ``slept`` lists for how long."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self.slept: list[float] = []

    def now(self) -> float:
        """Return the seconds that were slept so far, plus where it began."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.slept.append(seconds)
        self._now += seconds

    def move_to(self, at: float) -> None:
        """Let the time pass until *at*; raise :class:`ValueError` when that lies in the past."""
        if at < self._now:
            msg = f"it is {self._now} already: time does not go back to {at}"
            raise ValueError(msg)
        self._now = at


class ScriptedExecutor(Executor):
    """Ends attempts as its script says, after as many seconds of the fake clock as it says.

    ``outcomes`` maps (task, attempt) to an outcome, or to an exception that comes out of :meth:`wait`. An attempt that
    is not in it calls its job. ``seconds`` maps (task, attempt) to how long it takes; others take ``usual`` seconds,
    and ``math.inf`` is an attempt that hangs. ``log`` lists ``("start" | "cancel", task, attempt)`` in order, and
    ``("interrupt", "", 0)``, which has no other effect.
    """

    def __init__(
        self,
        clock: FakeClock,
        outcomes: Mapping[tuple[str, int], Outcome | BaseException] | None = None,
        seconds: Mapping[tuple[str, int], float] | None = None,
        *,
        slots: int = 1,
        usual: float = 1.0,
    ) -> None:
        self._clock = clock
        self._outcomes = dict(outcomes or {})
        self._seconds = dict(seconds or {})
        self._usual = usual
        #: May be changed while it runs, as if workers came and went.
        self.available = slots
        self._lost = ""
        self.closed = False
        self.log: list[tuple[str, str, int]] = []
        #: Jobs in flight with the time of their end, in the order of their start.
        self._flying: dict[tuple[TaskId, int], tuple[float, Job]] = {}

    @property
    def slots(self) -> int:
        """How many jobs it executes at a time."""
        return self.available

    @property
    def lost(self) -> str:
        """Why it can not execute anything any more; may be set while it runs."""
        return self._lost

    @lost.setter
    def lost(self, reason: str) -> None:
        self._lost = reason

    @property
    def flying(self) -> tuple[tuple[TaskId, int], ...]:
        """The attempts in flight."""
        return tuple(self._flying)

    def start(self, job: Job) -> None:
        """Let *job* end in its time."""
        key = (job.task, job.attempt)
        self.log.append(("start", *key))
        self._flying[key] = (self._clock.now() + self._seconds.get(key, self._usual), job)

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Forget that attempt."""
        self.log.append(("cancel", task, attempt))
        self._flying.pop((task, attempt), None)

    def interrupt(self) -> None:
        """Take note that somebody wants the run to end."""
        self.log.append(("interrupt", "", 0))

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        """Move the clock to the next end, by at most *timeout* seconds, and return all that ends then.

        Raises :class:`AssertionError` where a real executor would wait forever.
        """
        now = self._clock.now()
        until = min((end for end, _ in self._flying.values()), default=math.inf)
        limit = math.inf if timeout is None else now + timeout
        if math.isinf(until) and math.isinf(limit):
            if self._flying:
                msg = f"waiting without limit for {list(self._flying)}, which never end"
                raise AssertionError(msg)
            return ()
        self._clock.move_to(max(now, min(until, limit)))
        ending = [key for key, (end, _) in self._flying.items() if end <= self._clock.now()]
        # What raises comes first, and the others stay in flight: their ends are not lost.
        ending.sort(key=lambda key: not isinstance(self._outcomes.get(key), BaseException))
        return [self._finish(key) for key in ending]

    def close(self) -> None:
        """Take no more jobs."""
        self.closed = True
        self._flying.clear()

    def _finish(self, key: tuple[TaskId, int]) -> Finished:
        _, job = self._flying.pop(key)
        script = self._outcomes.get(key)
        if isinstance(script, BaseException):
            raise script
        if script is not None:
            return Finished(*key, script, key[0] if isinstance(script, Success) else None)
        return Finished(*key, *job.call(**job.inputs))
