"""The time limits of calls that are made elsewhere, in threads, on event loops or in the processes of a pool.

Nobody is interrupted there: whoever waits for the calls looks at the time. It runs from the moment when a call really
begins, and that shows only afterwards: a limit can turn out to be later than it seemed, and never earlier. It ends when
the call returns: to check, pack and store what it returned does not count.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flowforge.starts import Starts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pytest_flowforge.ports import Executor, Finished, Key

__all__ = ["Call", "CallLimits", "Limited"]

#: Seconds that the process of a pool may take to start, before a call that tells nothing is taken for begun.
_START = 10.0


class Call(Protocol):
    """A call that is made elsewhere.

    ``start`` is when it has begun, in seconds since the epoch, once that is known, else 0. ``tell`` is where another
    process is to write that, and when it returns.
    """

    start: float
    tell: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class _Limit:
    """How long a call may take.

    What counts began at ``since``, by the monotonic clock, and the call was handed over at ``handed``, which was at
    ``wall`` by that on the wall; ``first`` is the same, and stays. ``starts`` knows what other processes tell.
    """

    seconds: float
    since: float
    first: float
    handed: float
    wall: float
    call: Call
    starts: Starts

    @property
    def begun(self) -> float:
        """When the call has begun; 0 if it has not, as far as anybody knows."""
        if self.call.start:
            return self.handed + max(self.call.start - self.wall, 0.0)
        return self.starts.of(self.call.tell)

    @property
    def due(self) -> float:
        """When the time is up; it does not run while the call waits for others, and never is once it has returned."""
        begun = self.begun
        due = self.since + self.seconds + (max(begun - self.handed, 0.0) if begun else 0.0)
        return math.inf if 0.0 < self.starts.returned(self.call.tell) <= due else due

    def spent(self, in_call: float) -> float:
        """The time that counts, with that of the call."""
        return self.handed - self.since + in_call

    def from_now(self, now: float) -> _Limit:
        """The same for a call that has not begun."""
        return replace(self, since=self.since + now - self.handed, handed=now, wall=time.time())


class CallLimits:
    """The limits of the calls under way. ``has_begun`` tells what the pool itself knows of a call."""

    def __init__(self, has_begun: Callable[[Key], bool]) -> None:
        self._has_begun = has_begun
        self._starts = Starts()
        self._limits: dict[Key, _Limit] = {}
        #: When each seemed to be due: an entry of a call that is over stays until it surfaces.
        self._dues: list[tuple[float, Key]] = []

    def add(self, key: Key, seconds: float, call: Call, since: float | None = None) -> None:
        """Limit *call*, which is about to be handed over, to so many *seconds*.

        What counts has begun at *since*, by the monotonic clock (None: it is the call alone).
        """
        now = time.monotonic()
        call.tell = self._starts.new()
        since = now if since is None else since
        self._set(key, _Limit(seconds, since, now, now, time.time(), call, self._starts))

    def __contains__(self, key: Key) -> bool:
        """Whether the call has a limit."""
        return key in self._limits

    def pop(self, key: Key) -> _Limit | None:
        """Forget the call, and return its limit if it had one."""
        return self._limits.pop(key, None)

    def next_due(self) -> float:
        """When the next limit is over, as far as that is known; infinity when there is none."""
        while self._dues:
            at, key = self._dues[0]
            limit = self._limits.get(key)
            if limit is None:
                heapq.heappop(self._dues)
            elif (due := limit.due) > at:
                heapq.heapreplace(self._dues, (due, key))
            else:
                return at
        return math.inf

    def overdue(self, now: float, ended: Collection[Key]) -> list[tuple[Key, float]]:
        """Return, once, the calls whose limit is over, with its seconds; but for those that have *ended*."""
        late = []
        while self.next_due() <= now:
            _, key = heapq.heappop(self._dues)
            limit = self._limits[key]
            if key in ended:
                continue
            if not limit.begun and not self._should_have_begun(key, limit, now):
                # It waits for others, or for its process to start.
                self._set(key, limit.from_now(now))
            else:
                late.append((key, limit.seconds))
        return late

    def close(self) -> None:
        """Give up what was there to be told when calls begin."""
        self._starts.close()

    def _set(self, key: Key, limit: _Limit) -> None:
        self._limits[key] = limit
        heapq.heappush(self._dues, (limit.due, key))

    def _should_have_begun(self, key: Key, limit: _Limit, now: float) -> bool:
        """Whether the call is taken for begun although it has not told: its pool says so, and may be far away."""
        return self._has_begun(key) and (not self._starts.are_told or now - limit.first > _START)


class Limited:
    """An executor during whose waits time limits are looked at.

    ``give_up`` ends a call whose limit of so many seconds is over, and returns its end.
    """

    def __init__(self, executor: Executor, limits: CallLimits, give_up: Callable[[Key, float], Finished]) -> None:
        self._executor = executor
        self._limits = limits
        self._give_up = give_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        """Return what has finished, and what has taken too long."""
        due = self._limits.next_due()
        if due == math.inf:
            return self._executor.wait(timeout)
        left = max(due - time.monotonic(), 0.0)
        finished = self._executor.wait(left if timeout is None else min(timeout, left))
        ended = {(end.task, end.attempt) for end in finished}
        late = self._limits.overdue(time.monotonic(), ended)
        return [*finished, *(self._give_up(key, seconds) for key, seconds in late)]
