"""What a dry run shows."""

from __future__ import annotations

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.plan import plan
from pytest_flowforge.core.selection import Selection, select
from pytest_flowforge.errors import UnknownTask
from tests.core.flows import names, task, tid

GRAPH = TaskGraph.build(
    [
        task("report", "fit"),
        task("fit", "clean", "seed"),
        task("other"),
        task("clean", "raw"),
        task("seed"),
        task("raw"),
    ]
)


def test_a_plan_is_in_order_with_levels_needs_and_reasons() -> None:
    planned = plan(GRAPH, select(GRAPH, [tid("fit"), tid("seed")]), {tid("raw"): "result of run 7"})
    assert [(p.task.name, p.level, p.targeted, names(p.needs), p.verdict, p.reason) for p in planned] == [
        ("seed", 0, True, [], "run", "selected"),
        ("raw", 0, False, [], "reuse", "result of run 7"),
        ("clean", 1, False, ["raw"], "run", "needed by fit"),
        ("fit", 2, True, ["clean", "seed"], "run", "selected"),
    ]


def test_levels_and_needs_are_those_of_the_selection() -> None:
    (planned,) = plan(GRAPH, select(GRAPH, [tid("report")], only=True))
    assert (planned.level, planned.needs) == (0, ())


def test_what_several_need_is_not_a_long_story() -> None:
    graph = TaskGraph.build([task("raw"), *(task(name, "raw") for name in "abc")])
    assert plan(graph, select(graph, map(tid, "abc")))[0].reason == "needed by a and 2 more"


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(UnknownTask, match="nobody"):
        plan(GRAPH, Selection(frozenset({tid("nobody")})))


def test_nothing_selected_is_nothing_planned() -> None:
    assert plan(GRAPH, Selection(frozenset())) == ()
