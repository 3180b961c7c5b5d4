"""Limited resources: who may take units of which pool, and who waits in which queue.

First come, first served per pool, so that nobody starves: whoever wants a pool that others wait for queues up behind
them, even where its own request would fit. Each question costs as much as the task has pools.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowforge.core.model import Task

__all__ = ["PoolQueues"]


class PoolQueues:
    """Units in use and queues of waiting tasks (positions) for every pool.

    The life of a task with a request: :meth:`claim`, which either takes its units or queues it; when it is queued, it
    is *called* once it heads all its queues and everything fits, stays at their heads, and claims again; in the end
    :meth:`release`.
    """

    def __init__(self, tasks: Sequence[Task], sizes: Mapping[str, int]) -> None:
        self._sizes = dict(sizes)
        #: Units nobody uses, per pool.
        self.free: dict[str, int] = dict(sizes)
        #: Positions of tasks that want pools, with units per pool. An exclusive task shares with nobody and has none.
        self.requests: dict[int, dict[str, int]] = {
            position: _added_up(task) for position, task in enumerate(tasks) if _asks(task)
        }
        self._queues: dict[str, deque[int]] = {pool: deque() for pool in sizes}
        #: Who stands in queues, in the order of arrival; True once called.
        self.waiting: dict[int, bool] = {}

    def add(self, tasks: Mapping[int, Task], sizes: Mapping[str, int]) -> None:
        """Take in more *tasks*, by position, and more pools."""
        self._sizes.update(sizes)
        self.free.update(sizes)
        self._queues.update((pool, deque()) for pool in sizes)
        self.requests.update((position, _added_up(task)) for position, task in tasks.items() if _asks(task))

    def claim(self, position: int) -> tuple[bool, tuple[int, ...]]:
        """Take the units *position* wants, or queue it.

        Returns whether it has got them, and who is called because it left the heads of its queues.
        """
        wanted = self.requests[position]
        if self.waiting.get(position):
            return True, self._admit(position, wanted)
        if any(self._queues[pool] for pool in wanted) or not self._fits(wanted):
            self.waiting[position] = False
            for pool in wanted:
                self._queues[pool].append(position)
            return False, ()
        self._take(wanted)
        return True, ()

    def release(self, position: int) -> tuple[int, ...]:
        """Give the units of *position* back; return who is called because of that."""
        wanted = self.requests[position]
        for pool, units in wanted.items():
            self.free[pool] += units
        return self._call(wanted)

    def dismiss(self, unwanted: Callable[[int], bool]) -> tuple[int, ...]:
        """Send those away who wait and are *unwanted*; return who is called because of that."""
        self.waiting = {position: called for position, called in self.waiting.items() if not unwanted(position)}
        for pool, queue in self._queues.items():
            self._queues[pool] = deque(position for position in queue if position in self.waiting)
        return self._call(self._queues)

    def check(self, running: Iterable[int]) -> None:
        """Assert that units and queues fit what is *running* and that nobody waits who could be called."""
        left = dict(self._sizes)
        for position in running:
            for pool, units in self.requests.get(position, {}).items():
                left[pool] -= units
        assert self.free == left, f"the pools say {self.free} is free; what runs leaves {left}"
        assert all(units >= 0 for units in left.values()), f"a pool has given more than it has: {left}"
        for pool, queue in self._queues.items():
            expected = [position for position in self.waiting if pool in self.requests[position]]
            assert list(queue) == expected, f"the queue of {pool} is {queue}; by arrival it is {expected}"
        for position, called in self.waiting.items():
            assert called == self._is_next(position), f"the task at {position} waits and is called: {called}"

    def _admit(self, position: int, wanted: Mapping[str, int]) -> tuple[int, ...]:
        del self.waiting[position]
        for pool in wanted:
            self._queues[pool].popleft()
        self._take(wanted)
        return self._call(wanted)

    def _take(self, wanted: Mapping[str, int]) -> None:
        for pool, units in wanted.items():
            self.free[pool] -= units

    def _fits(self, wanted: Mapping[str, int]) -> bool:
        return all(units <= self.free[pool] for pool, units in wanted.items())

    def _call(self, pools: Iterable[str]) -> tuple[int, ...]:
        """Call those at the heads of *pools* whose turn has come, and return them."""
        heads = dict.fromkeys(self._queues[pool][0] for pool in pools if self._queues[pool])
        called = tuple(head for head in heads if not self.waiting[head] and self._is_next(head))
        for head in called:
            self.waiting[head] = True
        return called

    def _is_next(self, position: int) -> bool:
        wanted = self.requests[position]
        return all(self._queues[pool][0] == position for pool in wanted) and self._fits(wanted)


def _asks(task: Task) -> bool:
    return bool(task.pools) and not task.exclusive


def _added_up(task: Task) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for pool, units in task.pools:
        wanted[pool] = wanted.get(pool, 0) + units
    return wanted
