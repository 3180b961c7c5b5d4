"""Lists, plans and summaries as text and as JSON, without a terminal and without pytest around them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import ExecutorLost
from pytest_flowforge.core.model import Location, Task, Trigger
from pytest_flowforge.core.plan import plan
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.selection import select
from pytest_flowforge.core.summary import summarize
from pytest_flowforge.errors import Problem
from pytest_flowforge.report import text
from pytest_flowforge.report.text import printable
from tests.core.flows import ERROR, Play, task, tid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.core.plan import PlannedTask

#: Any text at all, halves of surrogate pairs included.
ANYTHING = st.text(st.characters())

POOLS = {"gpu": 1, "mem": 8}


def in_file(name: str, path: str, *needs: str, **rest: Any) -> Task:
    return replace(task(name, *needs, **rest), location=Location(path, 1))


def planned(graph: TaskGraph, *chosen: str) -> Sequence[PlannedTask]:
    return plan(graph, select(graph, [tid(name) for name in chosen] or [task.id for task in graph]))


# ---- what a terminal gets to see -------------------------------------------------------------------------------------


@given(ANYTHING, st.integers(5, 40))
def test_nothing_reaches_a_terminal_that_it_might_obey(given_text: str, limit: int) -> None:
    shown = printable(given_text, limit)

    assert shown.isprintable()
    if given_text.isprintable():
        assert len(shown) <= limit
    if given_text.isprintable() and len(given_text) <= limit:
        assert shown == given_text


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("fit[fold1]", "fit[fold1]"),
        ("naïve β 🙂", "naïve β 🙂"),
        ("two\nlines\tand\r\n", r"two\nlines\tand\r\n"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb", r"a\u202eb"),
        ("\ud800", r"\ud800"),
        ("x" * 60 + "y" * 60, "x" * 48 + "..." + "y" * 48),
    ],
)
def test_what_is_no_text_is_spelled_out(given_text: str, shown: str) -> None:
    assert printable(given_text) == shown


@given(ANYTHING, ANYTHING, ANYTHING)
def test_names_from_outside_are_made_printable_wherever_they_are_shown(one: str, two: str, path: str) -> None:
    # Different ones, and never empty: a task without a name is shown by its id.
    first, second, pool = f"{one}1", f"{two}2", f"{path}3"
    graph = TaskGraph.build(
        [
            in_file(first, path, pools=((pool, 1),)),
            in_file(second, path, first, when=Trigger.ALL_DONE),
            in_file("other", "flow_other.py", second),
        ],
        {pool: 1},
    )
    play = Play(*graph, pools={pool: 1}).start().fail(first)
    summary = summarize((task.id for task in graph), play.events)

    lines = []
    for verbosity in (-1, 0, 1):
        lines += text.task_lines(planned(graph, "other"), graph, verbosity)
        lines += text.plan_lines(planned(graph, "other"), graph, verbosity)
    lines += text.summary_lines(summary, graph)

    assert [line for line in lines if not line.isprintable()] == []


# ---- names -----------------------------------------------------------------------------------------------------------


def test_tasks_go_by_name_in_one_file_and_by_file_and_name_in_several() -> None:
    one = in_file("load", "flow_etl.py")
    two = in_file("FlowTrain::fit[a]", "ml/flow_ml.py")

    alone = text.names(TaskGraph.build([one]))
    both = text.names(TaskGraph.build([one, two]))

    assert alone(one) == "load"
    assert [both(one), both(two)] == ["flow_etl.py::load", "ml/flow_ml.py::FlowTrain::fit[a]"]


# ---- --ff-list -------------------------------------------------------------------------------------------------------

FLOW = TaskGraph.build(
    [
        task("report", "fit[a]", "fit[b]", line=9, when=Trigger.ALL_DONE),
        task("extract", line=2),
        task(
            "fit[a]",
            "extract",
            line=4,
            retry=RetryPolicy(max_retries=2),
            priority=5,
            pools=(("gpu", 1), ("mem", 4)),
        ),
        task("fit[b]", "extract", line=4, exclusive=True),
    ],
    POOLS,
)


def test_a_list_has_a_line_for_each_task_after_those_it_needs() -> None:
    assert text.task_lines(planned(FLOW), FLOW, 0) == [
        "extract                     flow_x.py:2",
        "fit[a]   <- extract         flow_x.py:4",
        "fit[b]   <- extract         flow_x.py:4",
        "report   <- fit[a], fit[b]  flow_x.py:9",
    ]


def test_a_verbose_list_adds_what_was_declared() -> None:
    lines = text.task_lines(planned(FLOW), FLOW, 1)

    assert [line.partition("flow_x.py:")[2] for line in lines] == [
        "2",
        "4  retries=2 priority=5 gpu=1 mem=4",
        "4  exclusive",
        "9  when=all_done",
    ]


def test_a_quiet_list_is_names_and_nothing_else() -> None:
    assert text.task_lines(planned(FLOW), FLOW, -1) == ["extract", "fit[a]", "fit[b]", "report"]


def test_a_list_of_nothing_is_empty() -> None:
    empty = TaskGraph.build([])

    for verbosity in (-1, 0, 1):
        assert text.task_lines([], empty, verbosity) == []
        assert text.plan_lines([], empty, verbosity) == []


def test_upstreams_in_the_same_file_go_by_name() -> None:
    graph = TaskGraph.build([in_file("a", "flow_a.py"), in_file("b", "flow_a.py", "a"), in_file("c", "flow_c.py", "b")])

    lines = text.task_lines(planned(graph), graph, 0)

    assert [line.split("  ")[1:2] for line in lines[1:]] == [["<- a"], ["<- flow_a.py::b"]]


def test_long_lists_of_upstreams_are_cut_unless_asked_for() -> None:
    sources = [task(f"s{number}") for number in range(1200)]
    graph = TaskGraph.build([*sources, task("all", *(source.name for source in sources))])

    short = text.task_lines(planned(graph), graph, 0)[-1]
    full = text.task_lines(planned(graph), graph, 1)[-1]

    assert short.split() == ["all", "<-", *(f"s{number}," for number in range(7)), "s7", "and", "1,192", "more"]
    assert full.split()[-1] == "s1199"


def test_one_wide_name_does_not_push_all_others_aside() -> None:
    graph = TaskGraph.build([task("x" * 90, line=1), task("y", line=2)])

    wide, narrow = text.task_lines(planned(graph), graph, 0)

    assert wide.endswith("flow_x.py:1")
    assert len(narrow) < 90


# ---- --ff-dry-run ----------------------------------------------------------------------------------------------------


def test_a_plan_tells_verdict_and_reason_level_by_level() -> None:
    chosen = select(FLOW, [tid("fit[a]")])

    lines = text.plan_lines(plan(FLOW, chosen, {tid("extract"): "result of run 7"}), FLOW, 0)

    assert lines == [
        "level 0",
        "  reuse  extract  result of run 7",
        "level 1",
        "  run  fit[a]  selected",
    ]
    assert text.plan_lines(plan(FLOW, chosen), FLOW, -1) == ["run extract", "run fit[a]"]


# ---- for machines ----------------------------------------------------------------------------------------------------


def test_a_plan_as_json_holds_all_there_is_to_know() -> None:
    document = json.loads(text.plan_as_json(planned(FLOW, "fit[a]")))

    assert document["format"] == text.FORMAT == 1
    assert [entry["name"] for entry in document["tasks"]] == ["extract", "fit[a]"]
    assert document["tasks"][1] == {
        "id": "id:fit[a]",
        "name": "fit[a]",
        "file": "flow_x.py",
        "line": 4,
        "level": 1,
        "needs": ["id:extract"],
        "when": "all_success",
        "retries": 2,
        "priority": 5,
        "pools": {"gpu": 1, "mem": 4},
        "exclusive": False,
        "selected": True,
        "verdict": "run",
        "reason": "selected",
        "last_state": None,
    }
    assert document["tasks"][0]["selected"] is False
    assert document["tasks"][0]["reason"] == "needed by fit[a]"


@given(st.lists(ANYTHING, max_size=4))
def test_any_name_survives_the_way_through_json(names: list[str]) -> None:
    graph = TaskGraph.build([in_file(f"{number}{name}", name) for number, name in enumerate(names)])

    document = json.loads(text.plan_as_json(planned(graph)))

    assert [entry["name"] for entry in document["tasks"]] == [f"{number}{name}" for number, name in enumerate(names)]
    assert [entry["file"] for entry in document["tasks"]] == names


def test_a_validation_as_json_is_valid_or_says_why_not() -> None:
    assert json.loads(text.validation_as_json(3, [])) == {"format": 1, "valid": True, "tasks": 3, "problems": []}

    problem = Problem("flow_x.py:3", 'parameter "\x1b" is\nnothing')
    assert json.loads(text.validation_as_json(0, [problem])) == {
        "format": 1,
        "valid": False,
        "tasks": 0,
        "problems": [{"where": "flow_x.py:3", "text": 'parameter "\x1b" is\nnothing'}],
    }


# ---- the end of a run ------------------------------------------------------------------------------------------------


def test_a_summary_tells_each_failure_once_with_all_it_held_up() -> None:
    victims = [task(f"victim{number}", "bad") for number in range(10)]
    play = Play(task("bad", line=3), *victims, task("fine"), task("lonely"))
    play.start().fail("bad").finish("fine").fail("lonely")

    lines = text.summary_lines(summarize((task.id for task in play.graph), play.events), play.graph)

    shown = ", ".join(f"victim{number}" for number in range(8))
    assert lines == [f"10 blocked behind bad (failed at flow_x.py:3): {shown} and 2 more"]


def test_a_summary_of_a_run_that_was_stopped_tells_what_never_started() -> None:
    play = Play(task("a"), task("b"), task("c"))
    play.start().finish("a", outcome=ERROR).stop("stopping after\n1 failures").finish("b")

    lines = text.summary_lines(summarize((task.id for task in play.graph), play.events), play.graph)

    assert lines == [r"1 not started (stopping after\n1 failures): c"]


def test_a_summary_tells_why_tasks_could_not_run_once_with_all_it_kept_from_running() -> None:
    play = Play(*(task(f"task{number}") for number in range(10)), task("last", *(f"task{n}" for n in range(10))))
    play.start().feed(ExecutorLost("no worker left", 1.0))
    found = summarize((task.id for task in play.graph), play.events)

    lines = text.summary_lines(found, play.graph)

    # The first one was running.
    shown = ", ".join(f"task{number}" for number in range(1, 9))
    assert lines == [f"10 were not run (no worker left): {shown} and 2 more"]
    one = replace(found, states={tid("last"): found.states[tid("last")]})
    assert text.summary_lines(one, play.graph) == ["last was not run: no worker left"]


def test_a_summary_of_a_run_that_went_well_says_nothing() -> None:
    play = Play(task("a"), task("b", "a")).start().finish("a", "b")

    assert text.summary_lines(summarize((task.id for task in play.graph), play.events), play.graph) == []
