"""The page of a run, without any run: what is gathered, what is drawn, and how it is written down."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure, Location, Measures, Task, TaskId
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.gathering import Gathering
from pytest_flowforge.report.page import About, Page, escaped
from pytest_flowforge.report.previews import preview
from pytest_flowforge.report.views import views

A, B, C = TaskId("f.py::a"), TaskId("f.py::b"), TaskId("f.py::c")
EVIL = "</script><img src=x onerror=window.pwned=1>\u2028<!--&"


def graph_of(**needs: str) -> TaskGraph:
    return TaskGraph.build(
        Task(TaskId(f"f.py::{name}"), tuple(TaskId(f"f.py::{need}") for need in upstreams.split()), name=name)
        for name, upstreams in needs.items()
    )


def moved(task: TaskId, before: TaskState, after: TaskState, at: float, attempt: int = 1, **facts: Any) -> TaskMoved:
    return TaskMoved(task, before, after, attempt, at, **facts)


def run_of(gathering: Gathering, task: TaskId, at: float, until: float, after: TaskState = TaskState.SUCCESS) -> None:
    gathering.apply(moved(task, TaskState.PENDING, TaskState.RUNNING, at))
    gathering.apply(moved(task, TaskState.RUNNING, after, until))


def facts_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def test_what_pytest_says_of_an_attempt_goes_with_that_attempt() -> None:
    gathering = Gathering(graph_of(a="", b="a"))
    gathering.apply(RunBegan(2, 10.0))
    gathering.apply(moved(A, TaskState.PENDING, TaskState.RUNNING, 10.0))
    gathering.record(A, [("Captured stdout call", "first")], "OSError: first", "gw1")
    gathering.apply(moved(A, TaskState.RUNNING, TaskState.RETRYING, 11.0, because="OSError: first"))
    gathering.apply(moved(A, TaskState.RETRYING, TaskState.RUNNING, 12.0, 2))
    gathering.record(A, [("Captured stdout call", "second")])
    gathering.record(A, [("Captured stdout call", "second"), ("Captured stdout teardown", "bye")])
    gathering.apply(moved(A, TaskState.RUNNING, TaskState.SUCCESS, 14.0, 2))
    first, second = gathering.tasks[A].attempts
    assert (first.error, first.worker, first.sections) == ("OSError: first", "gw1", [("Captured stdout call", "first")])
    assert (first.state, first.ended) == (TaskState.RETRYING, 11.0)
    assert (second.error, second.state) == ("", TaskState.SUCCESS)
    assert second.sections == [("Captured stdout call", "second"), ("Captured stdout teardown", "bye")]


def test_an_attempt_begins_where_it_is_made_and_not_where_it_was_sent() -> None:
    gathering = Gathering(graph_of(a=""))
    gathering.apply(RunBegan(1, 10.0))
    gathering.apply(moved(A, TaskState.PENDING, TaskState.RUNNING, 10.0))
    measures = Measures(worker="gw0", seconds=1.0)
    gathering.apply(moved(A, TaskState.RUNNING, TaskState.SUCCESS, 14.0, measures=measures))
    (attempt,) = gathering.tasks[A].attempts
    assert (attempt.worker, attempt.began) == ("gw0", 13.0)


def test_logs_without_end_leave_a_page_that_opens() -> None:
    names = [f"t{number}" for number in range(300)]
    gathering = Gathering(graph_of(**dict.fromkeys(names, "")))
    for name in names:
        task = TaskId(f"f.py::{name}")
        gathering.apply(moved(task, TaskState.PENDING, TaskState.RUNNING, 1.0))
        gathering.record(task, [("Captured stdout call", "begin" + "x" * 1_000_000 + "end")])
        gathering.apply(moved(task, TaskState.RUNNING, TaskState.SUCCESS, 2.0))
    assert len(Page(About("t"), gathering).render(3.0, None)) < 1_000_000
    (_, last), *_ = gathering.tasks[task].attempts[0].sections
    assert last.startswith("begin")
    assert last.endswith("end")
    assert "characters are not kept here" in last


def test_instances_are_tasks_of_the_page_from_when_they_are_known() -> None:
    graph = TaskGraph.build([Task(A), Task(B, (A,), mapped=True)])
    gathering = Gathering(graph)
    page = Page(About("t"), gathering)
    assert [task["id"] for task in facts_of(page.render(1.0, 2.0))["tasks"]] == [A, B]
    one = TaskId("f.py::b[x]")
    graph.grow(B, [Task(one, (A,), instance_of=B, name="b[x]")])
    gathering.apply(InstancesAdded(B, (one,), 2.0))
    run_of(gathering, one, 3.0, 4.0)
    added = facts_of(page.render(5.0, 2.0))["tasks"][2]
    assert (added["id"], added["instance_of"], added["state"]) == (one, 1, "success")


def test_a_page_that_is_written_while_the_graph_grows_shows_what_was_told_before() -> None:
    graph = TaskGraph.build([Task(A), Task(B, (A,), mapped=True)])
    gathering = Gathering(graph)
    page = Page(About("t"), gathering)
    page.render(1.0, 2.0)
    graph.grow(B, [Task(TaskId("f.py::b[x]"), (A,), instance_of=B)])
    run_of(gathering, A, 1.0, 2.0)
    tasks = facts_of(page.render(3.0, 2.0))["tasks"]
    assert [(task["id"], task["state"]) for task in tasks] == [(A, "success"), (B, "pending")]


def test_the_critical_path_is_marked() -> None:
    gathering = Gathering(graph_of(a="", b="", c="a b"))
    gathering.apply(RunBegan(3, 0.0))
    for task in (A, B):
        gathering.apply(moved(task, TaskState.PENDING, TaskState.RUNNING, 0.0))
    gathering.apply(moved(A, TaskState.RUNNING, TaskState.SUCCESS, 1.0))
    gathering.apply(moved(B, TaskState.RUNNING, TaskState.SUCCESS, 5.0))
    run_of(gathering, C, 5.0, 6.0)
    gathering.apply(RunEnded(6.0))
    assert facts_of(Page(About("t"), gathering).render(7.0, None))["path"] == [1, 2]


def test_a_failure_has_the_number_of_tasks_that_are_blocked_behind_it() -> None:
    graph = TaskGraph.build([Task(A), Task(B, (A,), mapped=True), Task(C, (B,))])
    gathering = Gathering(graph)
    run_of(gathering, A, 1.0, 2.0)
    one = TaskId("f.py::b[x]")
    graph.grow(B, [Task(one, (A,), instance_of=B)])
    gathering.apply(InstancesAdded(B, (one,), 2.0))
    run_of(gathering, one, 3.0, 4.0, TaskState.FAILED)
    gathering.apply(moved(B, TaskState.RUNNING, TaskState.BLOCKED, 4.0, cause=one))
    gathering.apply(moved(C, TaskState.PENDING, TaskState.BLOCKED, 4.0, 0, cause=B))
    tasks = {task["id"]: task for task in facts_of(Page(About("t"), gathering).render(5.0, None))["tasks"]}
    # The mapped task only stands for its instance.
    assert tasks[one]["blocks"] == 1
    assert [task for task in tasks.values() if "blocks" in task] == [tasks[one]]


def test_a_failure_that_was_expected_says_so() -> None:
    gathering = Gathering(graph_of(a="", b=""))
    gathering.apply(RunBegan(2, 0.0))
    for task, expected in ((A, True), (B, False)):
        gathering.apply(moved(task, TaskState.PENDING, TaskState.RUNNING, 1.0))
        failure = Failure(message="ValueError", expected=expected)
        gathering.apply(moved(task, TaskState.RUNNING, TaskState.FAILED, 2.0, outcome=failure))
    facts = facts_of(Page(About("run", "pytest"), gathering).render(3.0, None))
    assert [task.get("expected", False) for task in facts["tasks"]] == [True, False]


def test_nothing_from_outside_is_markup() -> None:
    graph = TaskGraph.build([Task(TaskId(EVIL), name=EVIL, location=Location(EVIL, 1))])
    gathering = Gathering(graph)
    gathering.apply(moved(TaskId(EVIL), TaskState.PENDING, TaskState.RUNNING, 1.0))
    gathering.record(EVIL, [(EVIL, EVIL)], EVIL, EVIL)
    gathering.apply(moved(TaskId(EVIL), TaskState.RUNNING, TaskState.FAILED, 2.0, because=EVIL))
    page = Page(About(EVIL, EVIL, parameters=lambda _: {EVIL: EVIL}), gathering).render(3.0, None)
    assert "<img" not in page
    assert "\u2028" not in page
    assert page.count("</script>") == 2
    assert facts_of(page)["tasks"][0]["name"] == EVIL


def test_what_is_escaped_is_the_same_json() -> None:
    facts = {EVIL: [EVIL, "\u2029", "\ud800"]}
    text = escaped(facts)
    assert not set("<>&\u2028\u2029") & {*text}
    assert json.loads(text) == facts


def test_the_page_forbids_everything_that_is_not_its_own() -> None:
    page = Page(About("t"), Gathering(graph_of(a=""))).render(1.0, None)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "innerHTML" not in page


def test_a_graph_can_be_drawn_by_function_and_by_file() -> None:
    def task(file: str, name: str, *needs: str) -> Task:
        return Task(TaskId(f"{file}::{name}"), tuple(map(TaskId, needs)), name=name, location=Location(file, 1))

    tasks = [
        task("a.py", "load"),
        task("b.py", "fit[x]", "a.py::load"),
        task("b.py", "fit[y]", "a.py::load"),
        task("a.py", "sum", "b.py::fit[x]", "b.py::fit[y]"),
    ]
    by_task, by_function, by_file = views(tasks)
    assert [node[4] for node in by_task["nodes"]] == ["load", "fit[x]", "fit[y]", "sum"]
    assert [(node[4], node[5]) for node in by_function["nodes"]] == [
        ("a.py::load", [0]), ("b.py::fit", [1, 2]), ("a.py::sum", [3]),
    ]  # fmt: skip
    assert [edge[:2] for edge in by_function["edges"]] == [[0, 1], [1, 2]]
    # Files may wait for each other, tasks may not.
    assert [(node[4], node[5]) for node in by_file["nodes"]] == [("a.py", [0, 3]), ("b.py", [1, 2])]
    assert sorted(edge[:2] for edge in by_file["edges"]) == [[0, 1], [1, 0]]


def test_a_mapped_task_is_drawn_behind_its_instances() -> None:
    last, x, y = TaskId("f.py::last"), TaskId("f.py::b[x]"), TaskId("f.py::b[y]")
    instances = [Task(one, (A,), instance_of=B, name=one.partition("::")[2]) for one in (x, y)]
    tasks = [Task(A, name="a"), Task(B, (A,), mapped=True, name="b"), Task(last, (B,), name="last"), *instances]
    by_task, by_function = views(tasks)
    assert sorted(edge[:2] for edge in by_task["edges"]) == [[0, 3], [0, 4], [1, 2], [3, 1], [4, 1]]
    assert [(node[4], node[5]) for node in by_function["nodes"]] == [("a", [0]), ("b", [1, 3, 4]), ("last", [2])]


def test_a_view_that_shows_nothing_new_is_left_out() -> None:
    assert [view["name"] for view in views(list(graph_of(a="", b="a")))] == ["tasks"]
    assert views([])[0]["nodes"] == []


class _Hostile:
    def __repr__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 2], "[1, 2]"), (_Hostile(), "<repr() of _Hostile raised SystemExit>")],
)
def test_values_are_shown(value: object, expected: str) -> None:
    assert preview(value) == expected


def test_large_values_are_shown_in_part() -> None:
    assert len(preview([["x" * 10_000] * 1000] * 1_000_000)) <= 2100


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_cut_before_they_are_shown(kind: type[bytes | bytearray]) -> None:
    value = kind(b"begin" + b"\0" * 5_000_000 + b"end")
    tracemalloc.start()
    try:
        text = preview(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert "begin" in text
    assert "end" in text
    assert len(text) <= 2100
    assert preview(kind(b"ab")) == repr(kind(b"ab"))
