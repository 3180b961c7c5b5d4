"""Graphviz and Mermaid read our graphs: the same nodes, edges and names come out, whatever the names are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.core.plan import plan
from pytest_flowforge.core.selection import Selection
from pytest_flowforge.report.graphs import EdgeKind, Picture, as_dot, as_mermaid, of_plan
from pytest_flowforge.report.text import printable
from tests.awkward import NAMES

_SVG = "{http://www.w3.org/2000/svg}"
_KINDS = tuple(EdgeKind)


def picture(names: tuple[str, ...]) -> Picture:
    """A chain of tasks of these names, with each kind of edge, and a mapped one with an instance at the end."""
    tasks = [
        Task(TaskId(f"{place}::{name}"), (TaskId(f"{place - 1}::{names[place - 1]}"),) if place else (), name=name)
        for place, name in enumerate(names)
    ]
    mapped = Task(TaskId("mapped"), (tasks[-1].id,), name="mapped", mapped=True)
    graph = TaskGraph.build([*tasks, mapped])
    graph.grow(mapped.id, [Task(TaskId("instance"), (tasks[-1].id,), name="instance", instance_of=mapped.id)])
    everything = Selection(frozenset(task.id for task in graph), frozenset())
    planned = plan(graph, everything, {tasks[0].id: "made before"})
    return of_plan(graph, planned, lambda _, task: _KINDS[graph.position(task.id) % 3])


def run(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr, done.stderr.decode()
    return done.stdout.decode()


# Graphviz.


@pytest.fixture(scope="module")
def drawn(dot: str) -> ET.Element:
    return ET.fromstring(run([dot, "-Tsvg"], as_dot(picture(NAMES))))  # noqa: S314 - dot made it


def test_dot_shows_every_name_as_it_is(drawn: ET.Element) -> None:
    shown = {}
    for group in drawn.iter(f"{_SVG}g"):
        if group.get("class") == "node":
            texts = [text.text or "" for text in group.iter(f"{_SVG}text")]
            shown[group.findtext(f"{_SVG}title")] = "".join(texts).replace("\xa0", " ")
    expected = [printable(name, 60) for name in NAMES]
    assert [shown[f"n{place}"].strip() for place in range(len(NAMES))] == [name.strip() for name in expected]


def test_dot_shows_what_there_is_to_say_of_a_task(drawn: ET.Element) -> None:
    tips = [
        tip
        for element in drawn.iter()
        for name, tip in element.attrib.items()
        if name.endswith("title") and tip.startswith("0::")
    ]
    assert tips
    # A line break in an attribute is a space to XML.
    assert {tip.replace("\n", " ") for tip in tips} == {f"0::{NAMES[0]}: reuse made before"}


def test_dot_tells_kinds_of_edges_and_tasks_apart(dot: str) -> None:
    document = json.loads(run([dot, "-Tjson0"], as_dot(picture(("a", "b", "c", "d")))))
    name = {place: node["name"] for place, node in enumerate(document["objects"])}
    assert {
        (name[edge["tail"]], name[edge["head"]], edge.get("style"), edge.get("arrowhead")) for edge in document["edges"]
    } == {
        ("n0", "n1", "dashed", None),
        ("n1", "n2", "bold", None),
        ("n2", "n3", None, None),
        ("n3", "n5", "bold", None),
        ("n5", "n4", None, "odot"),
    }
    assert {node["name"]: node["fillcolor"] for node in document["objects"]}["n0"] == "#cffafe"


# Mermaid.


@pytest.fixture(scope="module")
def read(node: str, node_modules: Path) -> Any:
    script = Path(__file__).with_name("read_mermaid.mjs")

    def read(text: str) -> Any:
        return json.loads(run([node, str(script), str(node_modules)], text))

    return read


def decoded(label: str) -> str:
    """*label* with the numbers as characters: Mermaid keeps them like this until it writes HTML."""
    return re.sub("ﬂ°°(\\d+)¶ß", lambda found: chr(int(found[1])), label)


def test_mermaid_shows_every_name_as_it_is(read: Any) -> None:
    found = read(as_mermaid(picture(NAMES)))
    shown = {node["id"]: decoded(node["text"]) for node in found["nodes"]}
    assert len(shown) == len(NAMES) + 2
    assert [shown[f"n{place}"] for place in range(len(NAMES))] == [printable(name, 60).strip() for name in NAMES]
    assert len(found["edges"]) == len(NAMES) + 1
    assert [entry["id"] for entry in found["classes"]] == ["run", "reuse"]


def test_mermaid_tells_kinds_of_edges_and_tasks_apart(read: Any) -> None:
    found = read(as_mermaid(picture(("a", "b", "c", "d"))))
    assert {(edge["start"], edge["end"], edge["stroke"], edge["type"]) for edge in found["edges"]} == {
        ("n0", "n1", "dotted", "arrow_point"),
        ("n1", "n2", "thick", "arrow_point"),
        ("n2", "n3", "normal", "arrow_point"),
        ("n3", "n5", "thick", "arrow_point"),
        ("n5", "n4", "normal", "arrow_circle"),
    }
    types = {node["id"]: node["type"] for node in found["nodes"]}
    assert (types["n0"], types["n4"], types["n5"]) == ("square", "subroutine", "round")
    assert {node["id"]: node["classes"] for node in found["nodes"]}["n0"] == ["reuse"]
    styles = {entry["id"]: entry["styles"] for entry in found["classes"]}
    assert styles["reuse"] == ["fill:#cffafe", "stroke:#0891b2", "color:#164e63"]
