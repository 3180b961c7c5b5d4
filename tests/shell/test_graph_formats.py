"""Graphs as JSON, Mermaid, dot and SVG: who can be told from whom, and names that break nothing."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure, Location, Success, Task, TaskId
from pytest_flowforge.core.plan import REFUSE, REUSE, RUN, plan
from pytest_flowforge.core.selection import Selection
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.core.summary import summarize
from pytest_flowforge.report.graphs import (
    COLOURS,
    EdgeKind,
    Picture,
    as_dot,
    as_json,
    as_mermaid,
    of_plan,
    of_run,
)
from pytest_flowforge.report.svg import as_svg
from tests.awkward import NAMES

_SVG = "{http://www.w3.org/2000/svg}"


def a_run() -> Picture:
    """Files are mapped over; one instance fails for its second time; what follows by order alone is blocked."""
    files = Task(TaskId("flow_x.py::flow_files"), name="files", location=Location("flow_x.py", 3))
    mapped = Task(TaskId("flow_x.py::flow_load"), (files.id,), name="load", mapped=True)
    end = Task(TaskId("flow_x.py::flow_end"), (mapped.id, files.id), name="end")
    known = Task(TaskId("flow_x.py::flow_known"), name="known")
    graph = TaskGraph.build([files, mapped, end, known])
    instances = [
        Task(TaskId(f"flow_x.py::flow_load[{one}]"), (files.id,), name=f"load[{one}]", instance_of=mapped.id)
        for one in "ab"
    ]
    graph.grow(mapped.id, instances)
    pending, running, success, failed = (
        TaskState.PENDING,
        TaskState.RUNNING,
        TaskState.SUCCESS,
        TaskState.FAILED,
    )
    retrying, blocked = TaskState.RETRYING, TaskState.BLOCKED
    one, other = (instance.id for instance in instances)
    summary = summarize(
        [task.id for task in graph],
        [
            RunBegan(4, 10.0),
            TaskMoved(files.id, pending, running, 1, 10.0),
            TaskMoved(files.id, running, success, 1, 12.0, outcome=Success()),
            TaskMoved(one, pending, running, 1, 12.0),
            TaskMoved(one, running, success, 1, 12.5, outcome=Success()),
            TaskMoved(other, pending, running, 1, 12.0),
            TaskMoved(other, running, retrying, 1, 13.0, "ValueError: once", outcome=Failure()),
            TaskMoved(other, retrying, running, 2, 14.0),
            TaskMoved(other, running, failed, 2, 15.0, "ValueError: <b>twice</b>", outcome=Failure()),
            TaskMoved(known.id, pending, running, 1, 12.0),
            TaskMoved(known.id, running, failed, 1, 13.0, "known", outcome=Failure(expected=True)),
            TaskMoved(mapped.id, pending, blocked, 0, 15.0, "load[b] failed", other),
            TaskMoved(end.id, pending, blocked, 0, 15.0, "load failed", mapped.id),
            RunEnded(15.0),
        ],
    )

    def kind(upstream: TaskId, task: Task) -> EdgeKind:
        if task.instance_of:
            return EdgeKind.MAP
        return EdgeKind.VALUE if upstream == mapped.id else EdgeKind.ORDER

    return of_run(graph, summary, kind)


def a_plan() -> Picture:
    tasks = [Task(TaskId(name), name=name) for name in "abc"]
    tasks.append(Task(TaskId("d"), (TaskId("a"), TaskId("b"), TaskId("c")), name="d"))
    graph = TaskGraph.build(tasks)
    planned = plan(
        graph,
        Selection(frozenset(task.id for task in tasks), frozenset()),
        {TaskId("a"): "made by run 7"},
        {TaskId("b"): "its code has changed"},
        {TaskId("c"): "may have done its work"},
    )
    return of_plan(graph, planned, lambda *_: EdgeKind.VALUE)


def awkward() -> Picture:
    """All awkward names, as those of tasks, ids, files and reasons; they are a chain."""
    tasks = [
        Task(TaskId(f"{name}::{place}"), (), name=name, location=Location(name, 1)) for place, name in enumerate(NAMES)
    ]
    ids = [task.id for task in tasks]
    tasks = [
        Task(task.id, (ids[place - 1],) if place else (), name=task.name, location=Location("flow_x.py", 1))
        for place, task in enumerate(tasks)
    ]
    graph = TaskGraph.build(tasks)
    moves = [
        TaskMoved(task.id, TaskState.PENDING, TaskState.BLOCKED, 0, 1.0, f"because of {name}")
        for task, name in zip(tasks, NAMES, strict=True)
    ]
    summary = summarize(ids, [RunBegan(len(ids), 0.0), *moves, RunEnded(1.0)])
    return of_run(graph, summary, lambda *_: EdgeKind.VALUE)


def empty() -> Picture:
    return of_plan(TaskGraph.build([]), (), lambda *_: EdgeKind.VALUE)


# JSON.


def test_json_of_a_run() -> None:
    document = json.loads(as_json(a_run()))
    assert {key: document[key] for key in ("format", "of", "stopped")} == {"format": 1, "of": "run", "stopped": ""}
    nodes = {node["name"]: node for node in document["nodes"]}
    assert list(nodes) == ["files", "load", "end", "known", "load[a]", "load[b]"]
    assert nodes["load[b]"] == {
        "id": "flow_x.py::flow_load[b]",
        "name": "load[b]",
        "kind": "instance",
        "instance_of": "flow_x.py::flow_load",
        "file": None,
        "line": None,
        "when": "all_success",
        "state": "failed",
        "reason": "ValueError: <b>twice</b>",
        "expected": False,
        "attempts": 2,
        "seconds": 2.0,
    }
    assert {name: node["kind"] for name, node in nodes.items() if node["kind"] != "instance"} == {
        "files": "task",
        "load": "mapped",
        "end": "task",
        "known": "task",
    }
    assert (nodes["files"]["file"], nodes["files"]["line"]) == ("flow_x.py", 3)
    assert (nodes["known"]["state"], nodes["known"]["expected"]) == ("failed", True)
    assert (nodes["end"]["attempts"], nodes["end"]["seconds"]) == (None, None)
    short = {node["id"]: name for name, node in nodes.items()}
    assert {(short[edge["from"]], short[edge["to"]], edge["kind"]) for edge in document["edges"]} == {
        ("load[a]", "load", "gather"),
        ("load[b]", "load", "gather"),
        ("load", "end", "value"),
        ("files", "end", "order"),
        ("files", "load[a]", "map"),
        ("files", "load[b]", "map"),
    }


def test_json_of_a_plan() -> None:
    document = json.loads(as_json(a_plan()))
    assert document["of"] == "plan"
    assert [(node["name"], node["state"], node["reason"]) for node in document["nodes"]] == [
        ("a", "reuse", "made by run 7"),
        ("b", "run", "its code has changed"),
        ("c", "refuse", "may have done its work"),
        ("d", "run", "selected"),
    ]


def test_json_is_ascii_and_keeps_names_as_they_are() -> None:
    text = as_json(awkward())
    assert text.isascii()
    assert [node["name"] for node in json.loads(text)["nodes"]] == list(NAMES)


# Mermaid.


def test_mermaid_of_a_run() -> None:
    assert as_mermaid(a_run()).splitlines()[:13] == [
        "flowchart LR",
        '    n0["files"]',
        '    n1[["load"]]',
        '    n2["end"]',
        '    n3["known"]',
        '    n4("load[a]")',
        '    n5("load[b]")',
        "    n4 --o n1",
        "    n5 --o n1",
        "    n1 --> n2",
        "    n0 -.-> n2",
        "    n0 ==> n4",
        "    n0 ==> n5",
    ]
    styles = as_mermaid(a_run()).splitlines()[13:]
    assert [line.strip() for line in styles if line.startswith("    class ")] == [
        "class n0,n4 success",
        "class n5 failed",
        "class n1,n2 blocked",
        "class n3 failed_as_expected",
    ]


def test_mermaid_has_numbers_for_what_has_a_meaning() -> None:
    lines = as_mermaid(awkward()).splitlines()
    assert lines[1] == '    n0["#60;/script#62;#60;img src=x onerror=alert(1)#62;"]'
    assert lines[3] == '    n2["a#34;b#39;c#96;d"]'
    assert lines[6] == '    n5["two#92;nlines#92;r#92;n#92;ttab"]'
    # Mermaid would take these for a style.
    assert lines[13] == '    n12["style n0 fill#58;#35;f00#59; classDef a fill#58;#35;0f0#59;"]'


# dot.


def test_dot_of_a_run() -> None:
    lines = as_dot(a_run()).splitlines()
    assert lines[0] == "digraph flow {"
    assert lines[-1] == "}"
    by_node = {line.split()[0]: line for line in lines if line.startswith("    n") and "->" not in line}
    assert 'label="load[b]"' in by_node["n5"]
    assert 'style="filled,rounded"' in by_node["n5"]
    assert 'fillcolor="#dc2626"' in by_node["n5"]
    assert 'tooltip="flow_x.py::flow_load[b]: failed\\nValueError: <b>twice</b>\\nattempts: 2"' in by_node["n5"]
    assert "peripheries=2" in by_node["n1"]
    assert [line.strip() for line in lines if "->" in line] == [
        "n4 -> n1 [arrowhead=odot]",
        "n5 -> n1 [arrowhead=odot]",
        "n1 -> n2",
        "n0 -> n2 [style=dashed]",
        "n0 -> n4 [style=bold]",
        "n0 -> n5 [style=bold]",
    ]


def test_dot_quotes_names() -> None:
    text = as_dot(awkward())
    assert """n2 [label="a\\"b'c`d", """ in text
    assert 'n3 [label="ends with a backslash\\\\", ' in text
    assert 'n14 [label="&amp;amp; &amp;lt;b&amp;gt; ' in text


# SVG.


def shapes(svg: str) -> tuple[list[str], list[str]]:
    """The tags that occur, and the titles of the tasks."""
    root = ET.fromstring(svg)  # noqa: S314 - our own
    tags = {element.tag.removeprefix(_SVG) for element in root.iter()}
    return sorted(tags), [title.text or "" for title in root.iter(f"{_SVG}title")][1:]


def test_svg_of_a_run() -> None:
    svg = as_svg(a_run())
    root = ET.fromstring(svg)  # noqa: S314
    _, titles = shapes(svg)
    assert titles[0] == "flow_x.py::flow_files: success\nflow_x.py:3"
    assert titles[5] == "flow_x.py::flow_load[b]: failed\nValueError: <b>twice</b>\nattempts: 2"
    assert titles[3].startswith("flow_x.py::flow_known: failed as expected")
    texts = [text.text for text in root.iter(f"{_SVG}text")]
    for shown in ("files", "success, 2.00 s", "failed, 2.00 s, 2 attempts", "2 success", "1 failed", "order only"):
        assert shown in texts
    dashes = [path.get("stroke-dasharray") for path in root.iter(f"{_SVG}path") if path.get("d", "").startswith("M")]
    assert dashes.count("5 4") == 2
    assert len({rect.get("rx") for rect in root.iter(f"{_SVG}rect")}) == 2


def test_svg_needs_nothing_from_elsewhere() -> None:
    for picture in (a_run(), a_plan(), awkward(), empty()):
        svg = as_svg(picture)
        tags, _ = shapes(svg)
        assert set(tags) <= {"svg", "title", "defs", "marker", "path", "g", "rect", "text"}
        for element in ET.fromstring(svg).iter():  # noqa: S314
            assert not [name for name in element.attrib if name.startswith("on") or "href" in name or name == "style"]
        assert re.findall(r"https?://[^'\"< ]*", svg) == ["http://www.w3.org/2000/svg"]


def test_svg_shows_awkward_names_as_text() -> None:
    _, titles = shapes(as_svg(awkward()))
    assert len(titles) == len(NAMES)
    assert titles[0].startswith("</script><img src=x onerror=alert(1)>::0: blocked\nbecause of </script><img")
    assert "\\u202eright to left\\u2066" in titles[17]
    assert all(line.isprintable() for title in titles for line in title.split("\n"))


def test_boxes_are_as_wide_as_their_names_need() -> None:
    def width(name: str) -> float:
        graph = TaskGraph.build([Task(TaskId("x"), name=name)])
        summary = summarize(["x"], [])  # type: ignore[list-item]
        root = ET.fromstring(as_svg(of_run(graph, summary, lambda *_: EdgeKind.VALUE)))  # noqa: S314
        return max(float(rect.get("width", 0)) for rect in root.iter(f"{_SVG}rect"))

    assert width("数" * 20) > width("x" * 20) > width("i" * 20)
    assert width("x" * 500) < 600


def test_what_is_written_on_a_colour_can_be_read() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        dark, bright = sorted((light(one), light(other)))
        return (bright + 0.05) / (dark + 0.05)

    for fill, _, text in COLOURS.values():
        assert contrast(fill, text) >= 4.5
    # Lines, on light and dark pages.
    assert contrast("#757b85", "#ffffff") > 3
    assert contrast("#757b85", "#111111") > 3


def test_every_state_and_verdict_has_a_colour() -> None:
    assert {state.value for state in TaskState} | {RUN, REUSE, REFUSE} <= set(COLOURS)


@pytest.mark.parametrize("write", [as_json, as_mermaid, as_dot, as_svg])
def test_nothing_that_is_written_can_be_obeyed(write: object) -> None:
    text = write(awkward())  # type: ignore[operator]
    assert all(char.isprintable() or char == "\n" for char in text)
    text.encode("utf-8")
    assert write(empty())  # type: ignore[operator]
