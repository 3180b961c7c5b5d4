"""The graph of a run or of a plan in files for others: JSON, Mermaid flowcharts, and Graphviz' dot.

All are written from a :class:`Picture`; what is drawn by ourselves is in :mod:`~pytest_flowforge.report.svg`. Names and
reasons come from outside: they pass :func:`~pytest_flowforge.report.text.printable` and then the quoting rules of the
format, wherever a person reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_flowforge.core.plan import REFUSE, REUSE, RUN
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.text import names, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.plan import PlannedTask
    from pytest_flowforge.core.summary import RunSummary

__all__ = [
    "COLOURS",
    "FORMAT",
    "Arrow",
    "EdgeKind",
    "Node",
    "NodeKind",
    "Picture",
    "as_dot",
    "as_json",
    "as_mermaid",
    "of_plan",
    "of_run",
]

#: Version of the JSON; a new member is no new version, a changed meaning is.
FORMAT = 1

_LONGEST_NAME = 60
_LONGEST_REASON = 300
_AS_EXPECTED = "failed as expected"


class NodeKind(Enum):
    """What a task is: one of its own, a mapped one (which gathers its instances), or an instance."""

    TASK = "task"
    MAPPED = "mapped"
    INSTANCE = "instance"


class EdgeKind(Enum):
    """What an edge is there for.

    ``VALUE``: the result is handed on. ``ORDER``: the one comes after the other, and looks at no result. ``MAP``: one
    task for each element of the result. ``GATHER``: from an instance to the mapped task that it belongs to.
    """

    VALUE = "value"
    ORDER = "order"
    MAP = "map"
    GATHER = "gather"


@dataclass(frozen=True, slots=True)
class Node:
    """A task as it is shown; ``name`` is harmless, ``state`` the word for a state or for the verdict of a plan.

    ``attempts`` and ``seconds`` are None where there are none. ``expected`` tells a failure that was expected.
    """

    task: Task
    name: str
    kind: NodeKind
    state: str
    reason: str = ""
    attempts: int | None = None
    seconds: float | None = None
    expected: bool = False

    @property
    def word(self) -> str:
        """What people are told of the state; one of :data:`COLOURS`."""
        return _AS_EXPECTED if self.expected else self.state

    @property
    def title(self) -> str:
        """Everything there is to say in a few lines, harmless."""
        lines = [f"{printable(self.task.id, _LONGEST_REASON)}: {self.word}"]
        if self.reason:
            lines.append(printable(self.reason, _LONGEST_REASON))
        if self.attempts is not None and self.attempts > 1:
            lines.append(f"attempts: {self.attempts}")
        if self.task.location:
            lines.append(printable(str(self.task.location), _LONGEST_REASON))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge as it is shown, from an upstream to who waits for it."""

    source: TaskId
    target: TaskId
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Picture:
    """What is written: nodes in the order of declaration, and edges.

    ``of`` is ``"run"`` or ``"plan"``; ``stopped`` the reason of an early end of a run, else empty.
    """

    of: str
    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    stopped: str = ""


#: For each word that can be a state: background, border and text. The text can be read on its background, and a node
#: seen on light and on dark pages.
COLOURS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        TaskState.PENDING.value: ("#e5e7eb", "#6b7280", "#1f2937"),
        TaskState.RUNNING.value: ("#bfdbfe", "#2563eb", "#1e3a8a"),
        TaskState.RETRYING.value: ("#fde68a", "#d97706", "#713f12"),
        TaskState.SUCCESS.value: ("#bbf7d0", "#16a34a", "#14532d"),
        TaskState.REUSED.value: ("#cffafe", "#0891b2", "#164e63"),
        TaskState.FAILED.value: ("#dc2626", "#7f1d1d", "#ffffff"),
        TaskState.TIMED_OUT.value: ("#c2410c", "#7c2d12", "#ffffff"),
        TaskState.CRASHED.value: ("#9d174d", "#500724", "#ffffff"),
        TaskState.INTERRUPTED.value: ("#7e22ce", "#3b0764", "#ffffff"),
        TaskState.SKIPPED.value: ("#fef9c3", "#a16207", "#713f12"),
        TaskState.BLOCKED.value: ("#fecaca", "#dc2626", "#7f1d1d"),
        _AS_EXPECTED: ("#fef9c3", "#dc2626", "#713f12"),
        RUN: ("#bfdbfe", "#2563eb", "#1e3a8a"),
        REUSE: ("#cffafe", "#0891b2", "#164e63"),
        REFUSE: ("#fecaca", "#dc2626", "#7f1d1d"),
    }
)


def of_run(graph: TaskGraph, summary: RunSummary, kind: Callable[[TaskId, Task], EdgeKind]) -> Picture:
    """Return the picture of a run as it is now; *kind* tells what the edge from an upstream to a task is there for."""
    name = names(graph, _LONGEST_NAME)
    expected = frozenset(summary.expected_failures)
    nodes = tuple(
        Node(
            task,
            name(task),
            _kind(task),
            # A run that broke off may not have heard of its last instances.
            summary.states.get(task.id, TaskState.PENDING).value,
            summary.reasons.get(task.id, ""),
            summary.attempts.get(task.id),
            summary.totals.get(task.id),
            expected=task.id in expected,
        )
        for task in graph
    )
    return Picture("run", nodes, _arrows(graph, kind), summary.stopped)


def of_plan(graph: TaskGraph, plan: Iterable[PlannedTask], kind: Callable[[TaskId, Task], EdgeKind]) -> Picture:
    """Return the picture of what a run would do."""
    name = names(graph, _LONGEST_NAME)
    planned = {each.task.id: each for each in plan}
    nodes = tuple(
        Node(task, name(task), _kind(task), planned[task.id].verdict, planned[task.id].reason) for task in graph
    )
    return Picture("plan", nodes, _arrows(graph, kind))


def _kind(task: Task) -> NodeKind:
    if task.mapped:
        return NodeKind.MAPPED
    return NodeKind.TASK if task.instance_of is None else NodeKind.INSTANCE


def _arrows(graph: TaskGraph, kind: Callable[[TaskId, Task], EdgeKind]) -> tuple[Arrow, ...]:
    arrows = []
    for task in graph:
        for need in graph.upstream(task.id):
            gathers = graph[need].instance_of == task.id
            arrows.append(Arrow(need, task.id, EdgeKind.GATHER if gathers else kind(need, task)))
    return tuple(arrows)


# For programs.


def as_json(picture: Picture) -> str:
    """The graph as a JSON object with ``nodes`` and ``edges``, in ASCII."""
    document = {
        "format": FORMAT,
        "of": picture.of,
        "stopped": picture.stopped,
        "nodes": [_as_dict(node) for node in picture.nodes],
        "edges": [{"from": arrow.source, "to": arrow.target, "kind": arrow.kind.value} for arrow in picture.arrows],
    }
    return json.dumps(document, indent=1) + "\n"


def _as_dict(node: Node) -> dict[str, object]:
    task = node.task
    return {
        "id": task.id,
        "name": task.label,
        "kind": node.kind.value,
        "instance_of": task.instance_of,
        "file": task.location.path if task.location else None,
        "line": task.location.line if task.location else None,
        "when": task.when.value,
        "state": node.state,
        "reason": node.reason,
        "expected": node.expected,
        "attempts": node.attempts,
        "seconds": None if node.seconds is None else round(node.seconds, 6),
    }


# Mermaid.

_MERMAID_ARROWS = {EdgeKind.VALUE: "-->", EdgeKind.ORDER: "-.->", EdgeKind.MAP: "==>", EdgeKind.GATHER: "--o"}
_MERMAID_SHAPES = {NodeKind.TASK: ('["', '"]'), NodeKind.MAPPED: ('[["', '"]]'), NodeKind.INSTANCE: ('("', '")')}


def as_mermaid(picture: Picture) -> str:
    """The graph as a Mermaid flowchart."""
    places = _places(picture)
    lines = ["flowchart LR"]
    for node in picture.nodes:
        opening, closing = _MERMAID_SHAPES[node.kind]
        lines.append(f"    {places[node.task.id]}{opening}{_for_mermaid(node.name)}{closing}")
    lines += [
        f"    {places[arrow.source]} {_MERMAID_ARROWS[arrow.kind]} {places[arrow.target]}" for arrow in picture.arrows
    ]
    for word, members in _by_word(picture).items():
        fill, stroke, text = COLOURS[word]
        css = word.replace(" ", "_")
        lines.append(f"    classDef {css} fill:{fill},stroke:{stroke},color:{text}")
        lines.append(f"    class {','.join(places[node.task.id] for node in members)} {css}")
    return "\n".join(lines) + "\n"


#: What is nothing but itself to Mermaid, to Markdown and in HTML, besides letters and digits.
_PLAIN = frozenset(" .,:/[]()=-_")
#: Mermaid looks for these and a colon before a number, even within quotes, and cuts the last semicolon there.
_STYLES = ("style", "classDef")


def _for_mermaid(text: str) -> str:
    """*text* for double quotes, with everything that has a meaning there, or in a label, as its number."""
    plain = _PLAIN - {":"} if any(word in text for word in _STYLES) else _PLAIN
    return "".join(char if char.isalnum() or char in plain else f"#{ord(char)};" for char in text)


# Graphviz.

_DOT_ARROWS = {
    EdgeKind.VALUE: "",
    EdgeKind.ORDER: " [style=dashed]",
    EdgeKind.MAP: " [style=bold]",
    EdgeKind.GATHER: " [arrowhead=odot]",
}
_DOT_SHAPES = {NodeKind.TASK: "", NodeKind.MAPPED: ", peripheries=2", NodeKind.INSTANCE: ', style="filled,rounded"'}


def as_dot(picture: Picture) -> str:
    """The graph in the language of Graphviz."""
    places = _places(picture)
    lines = [
        "digraph flow {",
        '    graph [rankdir=LR, bgcolor=transparent, charset="UTF-8"]',
        '    node [shape=box, style=filled, fontname="Helvetica,Arial,sans-serif", fontsize=11]',
        '    edge [color="#757b85"]',
    ]
    for node in picture.nodes:
        fill, stroke, text = COLOURS[node.word]
        lines.append(
            f"    {places[node.task.id]} [label={_for_dot(node.name)}, tooltip={_for_dot(node.title)}, "
            f'fillcolor="{fill}", color="{stroke}", fontcolor="{text}"{_DOT_SHAPES[node.kind]}]'
        )
    lines += [
        f"    {places[arrow.source]} -> {places[arrow.target]}{_DOT_ARROWS[arrow.kind]}" for arrow in picture.arrows
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _for_dot(text: str) -> str:
    """*text* as a quoted string: no escape of Graphviz' labels, and no entity of HTML, is left in it."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("&", "&amp;"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _places(picture: Picture) -> dict[TaskId, str]:
    """Names for the nodes that need no quotes."""
    return {node.task.id: f"n{number}" for number, node in enumerate(picture.nodes)}


def _by_word(picture: Picture) -> dict[str, Sequence[Node]]:
    """The nodes by what they are coloured by, in the order of the colours."""
    found: dict[str, list[Node]] = {word: [] for word in COLOURS}
    for node in picture.nodes:
        found[node.word].append(node)
    return {word: nodes for word, nodes in found.items() if nodes}
