"""The graph: what it answers, and what it refuses to be built from."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Location, Task, TaskId
from pytest_flowforge.core.validation import find_cycles
from pytest_flowforge.errors import GraphError, UnknownTask
from tests.core.flows import graphs, names, task, tid

MANY = 100_000


def chain(count: int, *, closed: bool = False) -> list[Task]:
    return [
        Task(TaskId(str(place)), (TaskId(str((place - 1) % count)),) if place or closed else (), name=f"t{place}")
        for place in range(count)
    ]


def problems(*tasks: Task, **pools: int) -> list[str]:
    with pytest.raises(GraphError) as raised:
        TaskGraph.build(tasks, pools)
    return [str(problem) for problem in raised.value.problems]


# Answers.


@pytest.fixture
def diamond() -> TaskGraph:
    return TaskGraph.build([task("end", "right", "left"), task("left", "top"), task("right", "top"), task("top")])


def test_it_holds_tasks_in_the_order_of_declaration(diamond: TaskGraph) -> None:
    assert [task.name for task in diamond] == ["end", "left", "right", "top"]
    assert len(diamond) == 4
    assert tid("left") in diamond
    assert tid("nobody") not in diamond
    assert diamond[tid("left")].name == "left"
    assert diamond.position(tid("right")) == 2
    assert repr(diamond) == "<TaskGraph of 4 tasks>"


def test_it_knows_who_waits_for_whom(diamond: TaskGraph) -> None:
    assert names(diamond.upstream(tid("end"))) == ["right", "left"]
    assert names(diamond.downstream(tid("top"))) == ["left", "right"]
    assert diamond.upstream_positions == ((2, 1), (3,), (3,), ())
    assert diamond.downstream_positions == ((), (0,), (0,), (1, 2))
    assert set(names(diamond.ancestors([tid("end")]))) == {"left", "right", "top"}
    assert set(names(diamond.ancestors([tid("end")], 1))) == {"left", "right"}
    assert set(names(diamond.descendants([tid("top"), tid("left")]))) == {"left", "right", "end"}
    assert diamond.descendants([tid("top")], 0) == frozenset()


def test_it_knows_an_order_and_levels(diamond: TaskGraph) -> None:
    assert names(diamond.order) == ["top", "left", "right", "end"]
    assert list(diamond.levels.values()) == [0, 1, 1, 2]


def test_a_repeated_need_is_one_edge() -> None:
    graph = TaskGraph.build([task("a"), task("b", "a", "a")])
    assert graph.upstream_positions == ((), (0,))
    assert graph.downstream_positions == ((1,), ())


@pytest.mark.parametrize("ask", ["__getitem__", "position", "upstream", "downstream"])
def test_unknown_tasks_are_named(diamond: TaskGraph, ask: str) -> None:
    with pytest.raises(UnknownTask, match="the graph holds no task 'nobody'"):
        getattr(diamond, ask)("nobody")
    with pytest.raises(UnknownTask):
        diamond.ancestors([TaskId("nobody")])


def test_a_part_keeps_the_edges_within_it(diamond: TaskGraph) -> None:
    part = diamond.restrict([tid("end"), tid("left"), tid("nobody")])
    assert [task.name for task in part] == ["end", "left"]
    assert names(part.upstream(tid("end"))) == ["left"]
    assert part[tid("end")].needs == (tid("left"),)
    assert part[tid("left")].needs == ()
    assert diamond.restrict(task.id for task in diamond) is diamond


def test_pools_can_not_be_changed_afterwards() -> None:
    pools = {"gpu": 1}
    graph = TaskGraph.build([task("a", pools=(("gpu", 1),))], pools)
    pools["gpu"] = 0
    assert graph.pools == {"gpu": 1}
    assert graph.restrict([]).pools == {"gpu": 1}


@given(graphs(12, plain=True))
def test_order_and_levels_respect_every_edge(graph: TaskGraph) -> None:
    place = {name: index for index, name in enumerate(graph.order)}
    assert len(place) == len(graph)
    for each in graph:
        assert all(place[need] < place[each.id] for need in each.needs)
        assert graph.levels[each.id] == max((graph.levels[need] + 1 for need in each.needs), default=0)
        assert all(each.id in graph.downstream(need) for need in each.needs)


@given(graphs(12, plain=True))
def test_where_there_is_a_choice_the_first_declared_comes_first(graph: TaskGraph) -> None:
    left = [each.id for each in graph]
    for name in graph.order:
        assert name == next(one for one in left if set(left).isdisjoint(graph[one].needs))
        left.remove(name)


@given(graphs(12, plain=True), st.data())
def test_ancestors_are_what_a_walk_upstream_meets(graph: TaskGraph, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([each.id for each in graph])))
    met: set[TaskId] = set()
    for _ in range(len(graph)):
        met |= {need for name in chosen | met for need in graph[name].needs}
    assert graph.ancestors(chosen) == met
    assert all(
        (name in graph.ancestors([other])) == (other in graph.descendants([name])) for name in met for other in chosen
    )


# Refusals.


def test_all_problems_are_reported_at_once_in_the_order_of_the_tasks() -> None:
    found = problems(
        task("a", "b", line=1),
        task("b", "a", line=2),
        task("load", "lod", line=3),
        task("self", "self", line=4),
        task("self", line=5),
        task("big", line=6, pools=(("gpu", 9), ("gup", 1), ("mem", 0))),
        gpu=2,
        mem=1,
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        "flow_x.py:1",
        "flow_x.py:3",
        "flow_x.py:4",
        "flow_x.py:5",
        "flow_x.py:6",
        "flow_x.py:6",
        "flow_x.py:6",
    ]
    assert "a -> b -> a" in found[0]
    assert "'load' depends on 'id:lod', and there is no such task" in found[1]
    assert "'self' depends on itself" in found[2]
    assert "a task 'self' exists already at flow_x.py:4" in found[3]
    assert "'big' asks for 0 units of pool 'mem'; ask for at least 1" in found[4]
    assert "'big' asks for 9 units of pool 'gpu', which has 2" in found[5]
    assert "there is no such pool; did you mean 'gpu'?" in found[6]


def test_unknown_needs_come_with_the_closest_names() -> None:
    (found,) = problems(Task(TaskId("transform")), Task(TaskId("load"), (TaskId("transfrom"),)))
    assert found == "'load' depends on 'transfrom', and there is no such task; did you mean 'transform'?"


def test_thousands_of_unknown_needs_are_reported_with_suggestions_for_some() -> None:
    tasks = [Task(TaskId(f"task{place}"), (TaskId(f"tsk{place}"),)) for place in range(3000)]
    found = problems(*tasks)
    assert len(found) == 3000
    assert "did you mean" in found[0]
    assert "did you mean" not in found[-1]


def test_requests_for_one_pool_are_added_up() -> None:
    (found,) = problems(task("a", pools=(("gpu", 1), ("gpu", 1))), gpu=1)
    assert "asks for 2 units of pool 'gpu', which has 1" in found


def test_a_cycle_is_shown_as_a_path_with_places() -> None:
    found = problems(task("load", "clean", line=3), task("clean", "fetch", line=7), task("fetch", "load"), task("x"))
    head, *places = found[0].split("\n")
    assert len(found) == 1
    assert head.startswith("flow_x.py:3: these tasks wait for each other in a circle")
    assert ": load -> fetch -> clean -> load (an arrow leads to the task that waits)" in head
    assert places == ["    load: flow_x.py:3", "    clean: flow_x.py:7"]


def test_the_shortest_circle_through_the_first_task_is_shown() -> None:
    (found,) = problems(task("a", "d", "b"), task("b", "a"), task("c", "b"), task("d", "c"))
    assert "a -> b -> a" in found


def test_every_knot_has_one_cycle_and_what_lies_between_has_none() -> None:
    found = problems(
        task("a", "b"), task("b", "a"), task("between", "b"), task("c", "d", "between"), task("d", "c"), task("e", "d")
    )
    assert len(found) == 2
    assert "a -> b -> a" in found[0]
    assert "c -> d -> c" in found[1]


def test_a_location_is_where_the_problem_is() -> None:
    with pytest.raises(GraphError) as raised:
        TaskGraph.build([Task(TaskId("a"), (TaskId("a"),), location=Location("flows/flow_etl.py", 12))])
    assert [problem.where for problem in raised.value.problems] == ["flows/flow_etl.py:12"]


@given(st.data())
def test_cycles_are_found_where_there_are_any(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    edges = st.lists(st.sampled_from(range(count)), unique=True, max_size=3)
    upstream = [[need for need in data.draw(edges) if need != own] for own in range(count)]
    cycles = find_cycles(upstream)
    for cycle in cycles:
        assert len(set(cycle)) == len(cycle) > 1
        assert all(before in upstream[after] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    assert bool(cycles) == _is_cyclic(upstream)
    assert len({position for cycle in cycles for position in cycle}) == sum(map(len, cycles)), "two for one knot"


def _is_cyclic(upstream: list[list[int]]) -> bool:
    try:
        TopologicalSorter(dict(enumerate(upstream))).prepare()
    except CycleError:
        return True
    return False


# Size. Nothing is timed: what recursed or went over everything for each task would not come to an end.


def test_a_very_deep_chain() -> None:
    graph = TaskGraph.build(chain(MANY))
    assert graph.levels[TaskId(str(MANY - 1))] == MANY - 1
    assert len(graph.ancestors([TaskId(str(MANY - 1))])) == MANY - 1
    assert graph.order[-1] == str(MANY - 1)


def test_a_very_wide_fan_in() -> None:
    graph = TaskGraph.build([*(task(str(place)) for place in range(MANY)), task("all", *map(str, range(MANY)))])
    assert len(graph.upstream(tid("all"))) == MANY
    assert graph.levels[tid("all")] == 1
    assert len(graph.restrict([tid("all"), tid("7")]).upstream(tid("all"))) == 1


def test_a_very_long_cycle_has_a_short_message() -> None:
    (found,) = problems(*chain(MANY, closed=True))
    assert "t0 -> t1 -> " in found
    assert "t19 -> ... 99,980 more -> t0" in found
    assert len(found) < 500


def test_a_cycle_of_twenty_is_shown_whole() -> None:
    (found,) = problems(*chain(20, closed=True))
    assert "t18 -> t19 -> t0" in found
