"""Mapped tasks while a run goes on: whose instances are awaited, who has which, and which of them are ready."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowforge.core.graph import TaskGraph

__all__ = ["Instances"]


class Instances:
    """The instances of mapped tasks, all as positions.

    In the queues of an engine an instance stands under its mapped task, whose place among the others it shares.
    """

    def __init__(self, graph: TaskGraph) -> None:
        #: Mapped tasks that have no instances yet, and those for which they were asked.
        self.unexpanded = {position for position, task in enumerate(graph) if task.mapped}
        self.expanding: set[int] = set()
        #: Mapped tasks with their instances, and the other way round.
        self.of: dict[int, list[int]] = {}
        self._mapped: dict[int, int] = {}
        #: Instances that are ready, by mapped task.
        self._ready: dict[int, deque[int]] = {}
        if self.unexpanded:
            known: dict[int, list[int]] = {}
            for position, task in enumerate(graph):
                if task.instance_of is not None and task.instance_of in graph:
                    known.setdefault(graph.position(task.instance_of), []).append(position)
            for mapped, instances in known.items():
                self.add(mapped, instances)

    def __bool__(self) -> bool:
        return bool(self.of)

    def add(self, mapped: int, instances: Iterable[int]) -> None:
        """The instances of a mapped task are known."""
        self.unexpanded.discard(mapped)
        self.expanding.discard(mapped)
        self.of[mapped] = list(instances)
        self._mapped.update(dict.fromkeys(self.of[mapped], mapped))
        self._ready[mapped] = deque()

    def queue(self, position: int) -> int:
        """*position* is ready; return under whom it stands in the queue, which is itself unless it is an instance."""
        mapped = self._mapped.get(position, position)
        if mapped != position:
            self._ready[mapped].append(position)
        return mapped

    def first(self, position: int) -> int:
        """Return who is next of what stands in the queue under *position*."""
        ready = self._ready.get(position)
        return ready[0] if ready else position

    def take(self, position: int) -> int:
        """Return who is next of what stood in the queue under *position*, and is no longer there."""
        ready = self._ready.get(position)
        return ready.popleft() if ready else position

    def forget(self, is_open: Callable[[int], bool]) -> list[int]:
        """Keep what *is_open*; return the instances that are still ready, in no queue any more."""
        self.expanding = set(filter(is_open, self.expanding))
        left = list(filter(is_open, self.ready))
        for ready in self._ready.values():
            ready.clear()
        return left

    @property
    def ready(self) -> Iterator[int]:
        """The instances that are ready."""
        return (position for ready in self._ready.values() for position in ready)
