"""Everything that can be wrong with a set of tasks, found before any of them runs.

It reports and never repairs: the answer is a list of problems, complete rather than only the first, and empty when
the tasks form a valid graph.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

__all__ = ["find_cycles", "find_problems"]

#: Names of a cycle that are printed; the rest is a number.
_SHOWN = 20

#: String comparisons spent on "did you mean" per validation. One costs microseconds, and a renamed task can leave
#: thousands of references behind.
_COMPARISONS = 200_000


def find_problems(
    tasks: Sequence[Task],
    positions: Mapping[TaskId, int],
    upstream: Sequence[Sequence[int]],
    pools: Mapping[str, int],
) -> list[Problem]:
    """Return every problem of *tasks*, in the order in which the tasks were declared.

    ``positions`` gives the first position of each id, ``upstream`` per task the positions of those of its needs that
    exist and are not the task itself, ``pools`` the size of each pool.
    """
    found = [
        *_duplicates(tasks, positions),
        *_bad_needs(tasks, positions),
        *_bad_requests(tasks, pools),
        *_circles(tasks, upstream),
    ]
    # The sort is stable: several problems of one task keep the order above.
    return [problem for _, problem in sorted(found, key=lambda entry: entry[0])]


def _problem(position: int, task: Task, text: str) -> tuple[int, Problem]:
    return position, Problem(str(task.location) if task.location else "", text)


def _duplicates(tasks: Sequence[Task], positions: Mapping[TaskId, int]) -> Iterator[tuple[int, Problem]]:
    if len(positions) == len(tasks):
        return
    for position, task in enumerate(tasks):
        first = tasks[positions[task.id]]
        if first is not task or positions[task.id] != position:
            before = f" at {first.location}" if first.location else ""
            text = f"a task {task.label!r} exists already{before}; a name stands for one task, so rename one of them"
            yield _problem(position, task, text)


def _bad_needs(tasks: Sequence[Task], positions: Mapping[TaskId, int]) -> Iterator[tuple[int, Problem]]:
    suggest = _Suggestions(tasks)
    for position, task in enumerate(tasks):
        for need in task.needs:
            if need == task.id:
                yield _problem(position, task, f"{task.label!r} depends on itself; take that dependency out")
            elif need not in positions:
                text = f"{task.label!r} depends on {need!r}, and there is no such task{suggest(need)}"
                yield _problem(position, task, text)


def _bad_requests(tasks: Sequence[Task], pools: Mapping[str, int]) -> Iterator[tuple[int, Problem]]:
    for position, task in enumerate(tasks):
        wanted: dict[str, int] = {}
        for pool, units in task.pools:
            if units < 1:
                text = f"{task.label!r} asks for {units} units of pool {pool!r}; ask for at least 1"
                yield _problem(position, task, text)
            wanted[pool] = wanted.get(pool, 0) + units
        for pool, units in wanted.items():
            text = _unmet(task, pool, units, pools)
            if text:
                yield _problem(position, task, text)


def _unmet(task: Task, pool: str, units: int, pools: Mapping[str, int]) -> str:
    """Say why *pool* can never give *task* that many units; empty when it can."""
    if pool not in pools:
        known = _did_you_mean(pool, pools)
        return (
            f"{task.label!r} asks for pool {pool!r}, and there is no such pool{known}; "
            f"give it a size with --ff-pool {pool}=N or in the ini value flowforge_pools"
        )
    if units > pools[pool]:
        wanted = "1 unit" if units == 1 else f"{units} units"
        return (
            f"{task.label!r} asks for {wanted} of pool {pool!r}, which has {pools[pool]}, so it could never start;"
            " ask for less or make the pool larger"
        )
    return ""


def _circles(tasks: Sequence[Task], upstream: Sequence[Sequence[int]]) -> Iterator[tuple[int, Problem]]:
    for cycle in find_cycles(upstream):
        first = tasks[cycle[0]]
        yield _problem(cycle[0], first, _circle_text([tasks[position] for position in cycle[:_SHOWN]], len(cycle)))


def _circle_text(shown: Sequence[Task], length: int) -> str:
    """Describe a cycle of *length* tasks that starts with *shown*."""
    hidden = length - len(shown)
    names = [task.label for task in shown]
    if hidden:
        names.append(f"... {hidden:,} more")
    path = " -> ".join([*names, shown[0].label])
    places = [f"    {task.label}: {task.location}" for task in shown if task.location]
    head = f"these tasks wait for each other in a circle, so none of them could start: {path}"
    return "\n".join([f"{head} (an arrow leads to the task that waits); take one of these edges out", *places])


class _Suggestions:
    """Close names for unknown ones, as long as the budget of comparisons lasts."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._names: tuple[str, ...] | None = None
        self._said: dict[str, str] = {}
        self._left = _COMPARISONS

    def __call__(self, name: str) -> str:
        if name not in self._said:
            self._said[name] = self._look_up(name)
        return self._said[name]

    def _look_up(self, name: str) -> str:
        # Gathered only once something is unknown: a valid graph does not pay for it.
        if self._names is None:
            self._names = tuple(dict.fromkeys(task.label for task in self._tasks))
        if self._left <= 0:
            return ""
        self._left -= len(self._names)
        return _did_you_mean(name, self._names)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question with the names of *known* that are closest to *name*, or nothing."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def find_cycles(upstream: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return one cycle for each group of positions that can all reach one another.

    Each cycle follows the edges from a task to one that waits for it, is a shortest one through the lowest position
    of its group, and starts there; the first is not repeated at the end. Linear in tasks plus edges.
    """
    downstream = invert(upstream)
    # Two cheap peelings leave only the groups and what lies between them: an acyclic graph costs no more than one.
    stuck = _stuck(upstream, downstream)
    if not stuck:
        return []
    groups = _groups(stuck, upstream, downstream)
    return [_shortest_cycle(min(group), group, downstream) for group in sorted(groups, key=min)]


def invert(edges: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the same edges seen from their other ends, each list ascending."""
    inverse: list[list[int]] = [[] for _ in edges]
    for position, ends in enumerate(edges):
        for end in ends:
            inverse[end].append(position)
    return tuple(map(tuple, inverse))


def _stuck(upstream: Sequence[Sequence[int]], downstream: Sequence[Sequence[int]]) -> frozenset[int]:
    """Return the positions that never run out of unfinished upstreams: those on a cycle or behind one."""
    missing = [len(needs) for needs in upstream]
    free = [position for position, count in enumerate(missing) if not count]
    for position in free:
        for waiting in downstream[position]:
            missing[waiting] -= 1
            if not missing[waiting]:
                free.append(waiting)
    return frozenset() if len(free) == len(missing) else frozenset(range(len(missing))).difference(free)


def _groups(
    nodes: frozenset[int], upstream: Sequence[Sequence[int]], downstream: Sequence[Sequence[int]]
) -> list[set[int]]:
    """Return the strongly connected components of more than one position (Kosaraju's two sweeps)."""
    left = set(nodes)
    groups = []
    for start in reversed(_finishing_order(nodes, downstream)):
        if start in left:
            group = _flood(start, left, upstream)
            left -= group
            if len(group) > 1:
                groups.append(group)
    return groups


def _finishing_order(nodes: frozenset[int], edges: Sequence[Sequence[int]]) -> list[int]:
    """Return *nodes* in the order in which a depth-first walk leaves them; the stack is a list, never Python's."""
    seen: set[int] = set()
    order: list[int] = []
    for start in sorted(nodes):
        if start in seen:
            continue
        seen.add(start)
        stack = [(start, iter(edges[start]))]
        while stack:
            node, following = stack[-1]
            onward = next((end for end in following if end in nodes and end not in seen), None)
            if onward is None:
                stack.pop()
                order.append(node)
            else:
                seen.add(onward)
                stack.append((onward, iter(edges[onward])))
    return order


def _flood(start: int, within: Collection[int], edges: Sequence[Sequence[int]]) -> set[int]:
    """Return what can be reached from *start* without leaving *within*, *start* included."""
    reached = {start}
    queue = [start]
    for node in queue:
        for end in edges[node]:
            if end in within and end not in reached:
                reached.add(end)
                queue.append(end)
    return reached


def _shortest_cycle(start: int, group: Collection[int], edges: Sequence[Sequence[int]]) -> list[int]:
    """Return a shortest way from *start* round to itself within its strongly connected *group*."""
    came_from: dict[int, int] = {}
    queue = [start]
    for node in queue:
        for end in edges[node]:
            if end == start:
                return _way_back(node, start, came_from)
            if end in group and end not in came_from:
                came_from[end] = node
                queue.append(end)
    raise AssertionError(start)  # A group of several that all reach each other has a way round.


def _way_back(node: int, start: int, came_from: Mapping[int, int]) -> list[int]:
    way = [node]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]
