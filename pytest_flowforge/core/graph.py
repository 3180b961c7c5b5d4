"""The validated graph of tasks. Nothing in it ever changes; a run may add instances of mapped tasks to it.

It knows who waits for whom and in which order tasks may run; it does not know how any of them fares. Nothing here
recurses, and everything but a sort or a heap is linear, so that chains of 100,000 tasks are no special case.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.core.validation import find_problems, invert
from pytest_flowforge.errors import GraphError, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["NO_POOLS", "TaskGraph"]

#: The sizes of no pools at all.
NO_POOLS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, eq=False, repr=False)
class TaskGraph:
    """Tasks and the edges between them; made by :meth:`build` or :meth:`restrict`, valid once made.

    A *position* is the index of a task in the order of declaration. The engine works with positions, everybody else
    with ids. Positions stay what they are when the graph grows (:meth:`grow`).
    """

    #: In the order of declaration; ids are unique and all needs are among them.
    tasks: Sequence[Task]
    #: Size of each pool, at least as large as any request for it.
    pools: Mapping[str, int]
    #: Per position, the positions of the direct upstreams in the order of ``needs``, without repeats.
    upstream_positions: Sequence[tuple[int, ...]]
    _positions: dict[TaskId, int] = field(repr=False)

    @classmethod
    def build(cls, tasks: Iterable[Task], pools: Mapping[str, int] = NO_POOLS) -> TaskGraph:
        """Return the graph of *tasks*; raise :class:`GraphError` with everything that is wrong with them.

        ``pools`` maps the name of each pool to its size in units.
        """
        tasks = tuple(tasks)
        positions = _first_positions(tasks)
        upstream = _link(tasks, positions)
        problems = find_problems(tasks, positions, upstream, pools)
        if problems:
            raise GraphError(problems)
        return cls(tasks, MappingProxyType(dict(pools)), upstream, positions)

    def grow(self, mapped: TaskId, instances: Iterable[Task], pools: Mapping[str, int] = NO_POOLS) -> range:
        """Add the *instances* of a *mapped* task, and the *pools* they alone ask for; return their positions.

        They come behind all others. The mapped task waits for them from now on, and no longer for what it needed, which
        is what they need; without instances it stays as it is. Raises :class:`UnknownTask`. What :meth:`build` checks
        of tasks that people wrote is not checked again: instances are copies of one.
        """
        instances = tuple(instances)
        where = self.position(mapped)
        first = len(self.tasks)
        added = range(first, first + len(instances))
        growing = self._growing()
        if pools:
            growing["pools"] = MappingProxyType({**self.pools, **pools})
        if not instances:
            return added
        self._positions.update((task.id, first + place) for place, task in enumerate(instances))
        needed = self.upstream_positions[where]
        growing["tasks"].extend(instances)
        growing["tasks"][where] = replace(self.tasks[where], needs=tuple(task.id for task in instances))
        growing["upstream_positions"].extend(_link(instances, self._positions))
        growing["upstream_positions"][where] = tuple(added)
        below = growing["downstream_positions"]
        for need in needed:
            below[need] = tuple(end for end in below[need] if end != where)
        below.extend((where,) for _ in instances)
        more: dict[int, list[int]] = {}
        for position in added:
            for need in self.upstream_positions[position]:
                more.setdefault(need, []).append(position)
        for need, ends in more.items():
            below[need] = (*below[need], *ends)
        return added

    def _growing(self) -> dict[str, Any]:
        """Make lists of what can grow, and give up what would be wrong; a graph that does not grow has neither."""
        own = self.__dict__
        own.setdefault("downstream_positions", self.downstream_positions)
        for name in ("tasks", "upstream_positions", "downstream_positions"):
            if not isinstance(own[name], list):
                own[name] = list(own[name])
        for name in ("order", "levels"):
            own.pop(name, None)
        return own

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __contains__(self, task: object) -> bool:
        return task in self._positions

    def __getitem__(self, task: TaskId) -> Task:
        """Return the task with that id; raise :class:`UnknownTask`."""
        return self.tasks[self.position(task)]

    def __repr__(self) -> str:
        return f"<TaskGraph of {len(self):,} tasks>"

    def position(self, task: TaskId) -> int:
        """Return the index of *task* in the order of declaration; raise :class:`UnknownTask`."""
        try:
            return self._positions[task]
        except KeyError:
            msg = f"the graph holds no task {task!r}"
            raise UnknownTask(msg) from None

    def upstream(self, task: TaskId) -> tuple[TaskId, ...]:
        """Return what *task* waits for directly, in the order it was declared."""
        return self._ids(self.upstream_positions[self.position(task)])

    def downstream(self, task: TaskId) -> tuple[TaskId, ...]:
        """Return what waits for *task* directly, in the order of declaration."""
        return self._ids(self.downstream_positions[self.position(task)])

    @cached_property
    def downstream_positions(self) -> Sequence[tuple[int, ...]]:
        """Per position, the ascending positions of the direct downstreams."""
        return invert(self.upstream_positions)

    @cached_property
    def order(self) -> tuple[TaskId, ...]:
        """All ids, each after its upstreams; where that leaves a choice, the one declared first."""
        missing = [len(needs) for needs in self.upstream_positions]
        ready = [position for position, count in enumerate(missing) if not count]
        order = []
        while ready:
            position = heapq.heappop(ready)
            order.append(self.tasks[position].id)
            for waiting in self.downstream_positions[position]:
                missing[waiting] -= 1
                if not missing[waiting]:
                    heapq.heappush(ready, waiting)
        return tuple(order)

    @cached_property
    def levels(self) -> Mapping[TaskId, int]:
        """For each id the number of edges on the longest way to it from a task without upstreams."""
        levels: dict[TaskId, int] = {}
        for task in self.order:
            above = (levels[need] for need in self[task].needs)
            levels[task] = 1 + max(above, default=-1)
        return MappingProxyType(levels)

    def ancestors(self, tasks: Iterable[TaskId], levels: int | None = None) -> frozenset[TaskId]:
        """Return what *tasks* wait for, directly or not, at most *levels* edges away.

        One of *tasks* is among them only when another one waits for it.
        """
        return self._reached(tasks, self.upstream_positions, levels)

    def descendants(self, tasks: Iterable[TaskId], levels: int | None = None) -> frozenset[TaskId]:
        """Return what waits for *tasks*, directly or not, at most *levels* edges away.

        One of *tasks* is among them only when it waits for another one.
        """
        return self._reached(tasks, self.downstream_positions, levels)

    def restrict(self, tasks: Iterable[TaskId]) -> TaskGraph:
        """Return the graph of those of *tasks* that are here, with the edges between them.

        Part of a valid graph is valid: nothing is checked again.
        """
        wanted = frozenset(tasks)
        if wanted.issuperset(self._positions):
            return self
        kept = tuple(_narrow(task, wanted) for task in self.tasks if task.id in wanted)
        positions = _first_positions(kept)
        return TaskGraph(kept, self.pools, _link(kept, positions), positions)

    def _ids(self, positions: Iterable[int]) -> tuple[TaskId, ...]:
        return tuple(self.tasks[position].id for position in positions)

    def _reached(
        self, tasks: Iterable[TaskId], edges: Sequence[Sequence[int]], levels: int | None
    ) -> frozenset[TaskId]:
        frontier = [self.position(task) for task in tasks]
        reached: set[int] = set()
        level = 0
        while frontier and level != levels:
            # Level by level, so that the shortest way to each task counts; a dict keeps the order and drops repeats.
            onward = dict.fromkeys(end for position in frontier for end in edges[position])
            frontier = [position for position in onward if position not in reached]
            reached.update(frontier)
            level += 1
        return frozenset(self._ids(reached))


def _first_positions(tasks: Sequence[Task]) -> dict[TaskId, int]:
    """Return for each id where it occurs first."""
    positions: dict[TaskId, int] = {}
    for position, task in enumerate(tasks):
        positions.setdefault(task.id, position)
    return positions


def _link(tasks: Sequence[Task], positions: Mapping[TaskId, int]) -> tuple[tuple[int, ...], ...]:
    """Return per task the positions of its needs, without repeats, unknown ones and itself."""
    return tuple(
        tuple(dict.fromkeys(positions[need] for need in task.needs if need in positions and need != task.id))
        for task in tasks
    )


def _narrow(task: Task, kept: frozenset[TaskId]) -> Task:
    """Return *task* without the needs that are not *kept*."""
    if kept.issuperset(task.needs):
        return task
    return replace(task, needs=tuple(need for need in task.needs if need in kept))
