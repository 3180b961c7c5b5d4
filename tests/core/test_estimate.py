"""What is left of a run: never less than its longest chain, nor than its work shared among the slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.estimate import Estimate
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import InstancesAdded, RunBegan, TaskMoved
from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

_PENDING, _RUNNING, _SUCCESS = TaskState.PENDING, TaskState.RUNNING, TaskState.SUCCESS


def _id(number: int) -> TaskId:
    return TaskId(f"t{number}")


def graph_of(needs: Mapping[int, set[int]]) -> TaskGraph:
    return TaskGraph.build([Task(_id(task), needs=tuple(map(_id, sorted(above)))) for task, above in needs.items()])


def begins(task: int, at: float) -> TaskMoved:
    return TaskMoved(_id(task), _PENDING, _RUNNING, 1, at)


def ends(task: int, at: float) -> TaskMoved:
    return TaskMoved(_id(task), _RUNNING, _SUCCESS, 1, at)


def test_a_chain_takes_as_long_as_its_tasks_however_many_slots_there_are() -> None:
    estimate = Estimate(graph_of({0: set(), 1: {0}, 2: {1}}), {_id(0): 1.0, _id(1): 2.0, _id(2): 3.0})
    estimate.apply(RunBegan(3, 100.0))
    assert estimate.remaining(100.0, 8) == 6.0
    estimate.apply(begins(0, 100.0))
    assert estimate.remaining(100.25, 8) == 5.75
    assert estimate.remaining(109.0, 8) == 5.0, "one that is late will end soon"
    estimate.apply(ends(0, 109.0))
    assert estimate.remaining(109.0, 8) == 5.0


def test_work_is_shared_among_the_slots() -> None:
    estimate = Estimate(graph_of({task: set() for task in range(10)}), {_id(task): 1.0 for task in range(10)})
    assert estimate.remaining(0.0, 1) == 10.0
    assert estimate.remaining(0.0, 4) == 2.5
    assert estimate.remaining(0.0, 0) == 10.0, "between a worker and the next one"


def test_what_is_not_known_lasts_as_long_as_the_others_unless_little_is_known() -> None:
    three = graph_of({0: set(), 1: set(), 2: set()})
    assert Estimate(three, {_id(0): 2.0, _id(1): 4.0}).remaining(0.0, 1) == 9.0
    assert Estimate(three, {_id(0): 2.0}).remaining(0.0, 1) is None
    assert Estimate(three, {}).remaining(0.0, 1) is None


def test_a_retry_is_work_that_is_still_to_be_done() -> None:
    estimate = Estimate(graph_of({0: set()}), {_id(0): 4.0})
    estimate.apply(begins(0, 0.0))
    estimate.apply(TaskMoved(_id(0), _RUNNING, TaskState.RETRYING, 1, 3.0, resume_at=5.0))
    assert estimate.remaining(3.0, 1) == 4.0


def test_instances_come_before_what_waits_for_their_mapped_task() -> None:
    graph = TaskGraph.build([Task(_id(0)), Task(_id(1), needs=(_id(0),), mapped=True), Task(_id(2), needs=(_id(1),))])
    seconds = {_id(0): 1.0, _id(1): 0.0, _id(2): 5.0, TaskId("a"): 2.0, TaskId("b"): 3.0}
    estimate = Estimate(graph, seconds)
    estimate.apply(begins(0, 0.0))
    estimate.apply(ends(0, 1.0))
    assert estimate.remaining(1.0, 2) == 5.0
    estimate.apply(InstancesAdded(_id(1), (TaskId("a"), TaskId("b")), 1.0))
    assert estimate.remaining(1.0, 2) == 8.0


@st.composite
def _plans(draw: st.DrawFn) -> tuple[dict[int, set[int]], list[float], int]:
    size = draw(st.integers(1, 12))
    needs = {task: draw(st.sets(st.integers(0, task - 1), max_size=3)) if task else set() for task in range(size)}
    seconds = draw(st.lists(st.integers(0, 20).map(float), min_size=size, max_size=size))
    return needs, seconds, draw(st.integers(1, 4))


@given(_plans())
def test_at_any_time_it_is_what_the_bounds_say(plan: tuple[dict[int, set[int]], list[float], int]) -> None:
    needs, seconds, slots = plan
    estimate = Estimate(graph_of(needs), {_id(task): took for task, took in enumerate(seconds)})
    now, left = 0.0, set(needs)
    running: dict[int, float] = {}

    def path(task: int) -> float:
        used = min(now - running[task], seconds[task]) if task in running else 0.0
        return seconds[task] - used + max((path(other) for other in left if task in needs[other]), default=0.0)

    while left:
        ready = [task for task in left if task not in running and not needs[task] & left]
        for task in ready[: slots - len(running)]:
            running[task] = now
            estimate.apply(begins(task, now))
        work = sum(seconds[task] - min(now - running.get(task, now), seconds[task]) for task in left)
        expected = max(work / slots, *map(path, left))
        assert estimate.remaining(now, slots) == pytest.approx(expected)
        first = min(running, key=lambda task: running[task] + seconds[task])
        now = max(now, running.pop(first) + seconds[first])
        left.remove(first)
        estimate.apply(ends(first, now))
    assert estimate.remaining(now, slots) == 0.0
