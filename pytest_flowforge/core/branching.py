"""Branches: which downstreams of a task do not go on, given those that it has chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Branch

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId

__all__ = ["branch_of", "declared", "downstream_of"]

#: Chosen tasks that are named in a reason.
_MOST_NAMES = 5


def declared(graph: TaskGraph, task: TaskId) -> TaskId:
    """Return *task*, or the mapped task that it is an instance of: what a task can choose."""
    return graph[task].instance_of or task


def downstream_of(graph: TaskGraph, task: TaskId) -> list[TaskId]:
    """Return what depends on *task* directly as it was declared, whether or not mapped tasks have instances."""
    return list(dict.fromkeys(declared(graph, one) for one in graph.downstream(task)))


def branch_of(graph: TaskGraph, task: TaskId, chosen: Collection[TaskId]) -> Branch:
    """Return the way on from *task* that goes by *chosen*, which are direct downstreams of it in *graph*.

    A downstream that waits for a chosen one, directly or not, is no other way: it goes on as well.
    """
    downstream = downstream_of(graph, task)
    # In the order of declaration, so that the same choice is recorded in the same words.
    named = tuple(one for one in downstream if one in chosen)
    others = frozenset(downstream).difference(named)
    closed = others - _behind(graph, named, others)
    return Branch(named, closed, _in_words(graph, task, named))


def _behind(graph: TaskGraph, chosen: Collection[TaskId], others: Collection[TaskId]) -> frozenset[TaskId]:
    """Return those of *others* that wait for one of *chosen*."""
    if not others or not chosen:
        return frozenset()
    # Nothing as far down as the lowest of them leads to any: a branch costs what lies between its ways, not the graph.
    levels = graph.levels
    deepest = max(levels[other] for other in others)
    reached = {one for one in chosen if levels[one] < deepest}
    frontier = list(reached)
    while frontier:
        for waiting in graph.downstream(frontier.pop()):
            if waiting not in reached and levels[waiting] <= deepest:
                reached.add(waiting)
                frontier.append(waiting)
    return frozenset(reached.intersection(others))


def _in_words(graph: TaskGraph, task: TaskId, chosen: Collection[TaskId]) -> str:
    names = [graph[one].label for one in chosen]
    if not names:
        return f"{graph[task].label} went on with none of its downstream tasks"
    if len(names) > _MOST_NAMES:
        names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} more"]
    *most, last = names
    return f"{graph[task].label} went on with {', '.join(most)}{' and ' if most else ''}{last} only"
