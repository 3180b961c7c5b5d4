"""Who starts first: against an oracle that walks every path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.core.ranking import ranks
from tests.core.flows import Play, graphs, task, tid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANY = 100_000


def order(*tasks: Task, **seconds: float) -> list[str]:
    """The order in which these start one after the other."""
    known = {tid(name): spent for name, spent in seconds.items()}
    play = Play(*tasks, ranks=ranks(TaskGraph.build(tasks), known)).start()
    while play.running:
        play.finish(*play.running)
    return play.started


def test_the_longest_path_starts_first() -> None:
    tasks = [task("short"), task("long"), task("next", "long"), task("last", "next")]
    assert order(*tasks) == ["long", "next", "short", "last"], "short and last are one task each: as declared"
    assert order(*tasks, short=9, long=1, next=1, last=1) == ["short", "long", "next", "last"]


def test_a_priority_comes_before_any_path() -> None:
    assert order(task("a"), task("b", "a"), task("c", priority=1)) == ["c", "a", "b"]
    assert order(task("a"), task("low", priority=-1), a=1, low=99) == ["a", "low"]


def test_ties_are_left_as_declared() -> None:
    assert order(task("c"), task("a"), task("b")) == ["c", "a", "b"]


def test_what_is_not_known_weighs_as_much_as_others_on_average() -> None:
    weights = ranks(TaskGraph.build(map(task, "abc")), {tid("a"): 2.0, tid("b"): 4.0, tid("elsewhere"): 900.0})
    assert weights == [(0, -2.0), (0, -4.0), (0, -3.0)]


def test_what_took_no_time_is_known() -> None:
    assert ranks(TaskGraph.build(map(task, "ab")), {tid("a"): 0.0}) == [(0, 0.0), (0, 0.0)]


def test_a_graph_of_nothing_has_no_ranks() -> None:
    assert ranks(TaskGraph.build([]), {tid("a"): 1.0}) == []


@pytest.mark.timeout(60)
def test_deep_chains_and_wide_fans_are_no_special_case() -> None:
    chain = [Task(TaskId(str(place)), (TaskId(str(place - 1)),) if place else ()) for place in range(MANY)]
    assert ranks(TaskGraph.build(chain), {}) == [(0, float(place - MANY)) for place in range(MANY)]
    # Half wait for one, and one waits for that half: every task is looked at once however many ways lead to it.
    fan = [Task(TaskId(str(place)), (TaskId("root"),)) for place in range(MANY)]
    both = [Task(TaskId("root")), *fan, Task(TaskId("end"), tuple(spoke.id for spoke in fan))]
    assert ranks(TaskGraph.build(both), {}) == [(0, -3.0), *[(0, -2.0)] * MANY, (0, -1.0)]


@given(graph=graphs(), data=st.data())
def test_ranks_are_what_walking_every_path_says(graph: TaskGraph, data: st.DataObject) -> None:
    # Eighths and powers of two: sums of these are exact in whatever order they are made.
    eighths = st.integers(0, 80).map(lambda count: count / 8)
    seconds = data.draw(st.dictionaries(st.sampled_from([task.id for task in graph]), eighths))
    for count in (1, 2, 4, 8):
        known = dict(list(seconds.items())[:count])
        if len(known) == count:
            assert ranks(graph, known) == [
                (-task.priority, -max(walk(graph, task.id, _weights(graph, known)))) for task in graph
            ]
    assert ranks(graph, {}) == [(-task.priority, -max(walk(graph, task.id, _weights(graph, {})))) for task in graph]


def _weights(graph: TaskGraph, known: Mapping[TaskId, float]) -> dict[TaskId, float]:
    usual = sum(known.values()) / len(known) if known else 1.0
    return {task.id: known.get(task.id, usual) for task in graph}


def walk(graph: TaskGraph, begin: TaskId, weights: Mapping[TaskId, float]) -> Iterator[float]:
    """The weight of every path from *begin* to an end."""
    onward = [task.id for task in graph if begin in task.needs]
    if not onward:
        yield weights[begin]
    for after in onward:
        yield from (weights[begin] + path for path in walk(graph, after, weights))


@given(graph=graphs(), data=st.data())
def test_what_is_needed_never_ranks_behind_what_needs_it(graph: TaskGraph, data: st.DataObject) -> None:
    seconds = data.draw(st.dictionaries(st.sampled_from([task.id for task in graph]), st.floats(0.0, 1e6)))
    paths = {task.id: path for task, (_, path) in zip(graph, ranks(graph, seconds), strict=True)}
    assert all(paths[need] <= paths[task.id] for task in graph for need in task.needs)
