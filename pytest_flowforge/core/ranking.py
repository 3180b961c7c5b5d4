"""Who starts first when several tasks could: the order that keeps a run short.

It looks at the graph and at how long tasks took before, never at a run that is under way; what it returns is for
``Engine(ranks=...)``. Nothing here recurses, and the cost is linear in tasks and edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId

__all__ = ["heaviest_paths", "ranks", "weights"]

#: The weight in seconds of every task where no duration is known at all: the longest path is then the one with most
#: tasks.
_UNIT = 1.0


def ranks(graph: TaskGraph, seconds: Mapping[TaskId, float]) -> list[tuple[int, float]]:
    """Return one rank per position of *graph*; the smallest is to start first.

    The highest priority comes first, then the longest remaining path: the weight of the task and of what waits for it
    along the heaviest chain downstream. Ties are equal ranks, which the engine leaves in the order of declaration.

    The weight of a task is how long it took before (``seconds``, finite and not negative), for one that is not known
    the mean of those that are. Tasks that are not in *graph* do not matter.
    """
    remaining = heaviest_paths(graph, weights(graph, seconds))
    return [(-task.priority, -path) for task, path in zip(graph, remaining, strict=True)]


def weights(graph: TaskGraph, seconds: Mapping[TaskId, float]) -> list[float]:
    """Return per position how long the task is expected to take: as before, else the mean of those that are known."""
    known = [seconds[task.id] for task in graph if task.id in seconds]
    usual = sum(known) / len(known) if known else _UNIT
    return [seconds.get(task.id, usual) for task in graph]


def heaviest_paths(graph: TaskGraph, weights: Sequence[float]) -> list[float]:
    """Return per position the weight of the heaviest path that begins there, that of the task itself included."""
    unseen = [len(downstream) for downstream in graph.downstream_positions]
    below = [0.0] * len(graph)
    paths = [0.0] * len(graph)
    # From the ends upwards: a task is added up once all that waits for it is. The order among them is of no account.
    final = [position for position, count in enumerate(unseen) if not count]
    while final:
        position = final.pop()
        path = paths[position] = weights[position] + below[position]
        for need in graph.upstream_positions[position]:
            below[need] = max(below[need], path)
            unseen[need] -= 1
            if not unseen[need]:
                final.append(need)
    return paths
