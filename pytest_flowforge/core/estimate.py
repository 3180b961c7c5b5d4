"""How long a run will still take, by how long its tasks took before: a fold over the events.

What is left of a run can not be shorter than the longest chain of tasks that still have to follow each other, nor than
the work that is left, shared among the slots. The greater of the two is the estimate (the lower bounds of list
scheduling: R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from pytest_flowforge.core.messages import Event, InstancesAdded, TaskMoved
from pytest_flowforge.core.ranking import heaviest_paths, weights
from pytest_flowforge.core.states import DONE, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId

__all__ = ["Estimate"]

#: The share of the work that has to be known for an estimate to be worth anything.
_ENOUGH = 0.5


class Estimate:
    """Takes events one by one, each at a logarithmic cost.

    ``seconds`` is how long tasks took before. Tasks that are not in it are taken to last as long as the others do on
    average; where fewer than half are in it there is no estimate. Waits for pools and between attempts are left out.
    """

    def __init__(self, graph: TaskGraph, seconds: Mapping[TaskId, float]) -> None:
        self._seconds = seconds
        each = weights(graph, seconds)
        self._weights = dict(zip((task.id for task in graph), each, strict=True))
        self._usual = sum(each) / len(each) if each else 0.0
        self._paths = dict(zip(self._weights, heaviest_paths(graph, each), strict=True))
        #: Tasks that have not ended, by the paths that begin there; those that have are dropped when they come up.
        self._open = [(-path, task) for task, path in self._paths.items()]
        heapify(self._open)
        self._work = sum(each)
        self._unknown = sum(task not in seconds for task in self._weights)
        self._left = len(self._weights)
        #: Since when the attempts that are being made go on.
        self._since: dict[TaskId, float] = {}

    def apply(self, event: Event) -> None:
        """Take note of *event*."""
        if isinstance(event, TaskMoved):
            if event.after is TaskState.RUNNING:
                self._since[event.task] = event.at
                return
            self._since.pop(event.task, None)
            if event.after in DONE:
                self._take_off(event.task)
        elif isinstance(event, InstancesAdded):
            self._add(event)

    def _take_off(self, task: TaskId) -> None:
        self._work -= self._weights.pop(task, 0.0)
        self._paths.pop(task, None)
        self._left -= 1
        self._unknown -= task not in self._seconds

    def _add(self, event: InstancesAdded) -> None:
        below = self._paths.get(event.task, 0.0)
        for task in event.instances:
            if task in self._weights:
                continue
            weight = self._weights[task] = self._seconds.get(task, self._usual)
            path = self._paths[task] = weight + below
            heappush(self._open, (-path, task))
            self._work += weight
            self._left += 1
            self._unknown += task not in self._seconds

    def remaining(self, at: float, slots: int) -> float | None:
        """Return the seconds that are left at the time *at* with so many *slots*; None where nobody can tell."""
        if not self._left:
            return 0.0
        if self._unknown > (1 - _ENOUGH) * self._left:
            return None
        while self._open and self._open[0][1] not in self._paths:
            heappop(self._open)
        spent = {task: min(max(at - since, 0.0), self._weights[task]) for task, since in self._since.items()}
        work = max(self._work - sum(spent.values()), 0.0)
        return max(work / max(slots, 1), self._longest(spent))

    def _longest(self, spent: Mapping[TaskId, float]) -> float:
        longest = max((self._paths[task] - used for task, used in spent.items()), default=0.0)
        # The first that does not run; those before it do, and are put back.
        running = []
        while self._open:
            first = self._open[0]
            if first[1] in self._paths and first[1] not in spent:
                longest = max(longest, -first[0])
                break
            heappop(self._open)
            if first[1] in self._paths:
                running.append(first)
        for entry in running:
            heappush(self._open, entry)
        return longest
