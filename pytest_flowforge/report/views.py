"""The graph of a page, drawn three times: a box per task, per function (all of its variants), and per file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowforge.report.layout import Route, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowforge.core.model import Task

__all__ = ["file_of", "views"]

#: How wide a box is: by characters of its name, within limits; the rest is for its sign.
_CHARACTER = 7.0
_SIGN = 34.0
_WIDTHS = (70.0, 300.0)
_BOX_HEIGHT = 28.0


def file_of(task: Task) -> str:
    """Return the file that *task* stands in."""
    return task.location.path if task.location else task.id.partition("::")[0]


def views(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return the drawings of the graph of *tasks*, as the page reads them; boxes and edges name tasks by position.

    One that would look like the one before it is left out.
    """
    several = len({file_of(task) for task in tasks}) > 1

    def function(task: Task) -> str:
        # Neither classes nor functions have brackets in their names.
        name = task.label.partition("[")[0]
        return f"{file_of(task)}::{name}" if several else name

    found = [_view("tasks", tasks, lambda task: task.id, lambda task: task.label)]
    for name, group in (("functions", function), ("files", file_of)):
        view = _view(name, tasks, group, group)
        if 1 < len(view["nodes"]) < len(found[-1]["nodes"]):
            found.append(view)
    return found


def _view(
    name: str, tasks: Sequence[Task], group_of: Callable[[Task], str], label: Callable[[Task], str]
) -> dict[str, Any]:
    groups: dict[str, list[int]] = {}
    labels: dict[str, str] = {}
    at = {task.id: position for position, task in enumerate(tasks)}
    own = []
    #: A mapped task ends with its instances, and gathers them; they wait for what it has waited for.
    instances: dict[int, list[int]] = {}
    for position, task in enumerate(tasks):
        if task.instance_of in at:
            instances.setdefault(at[task.instance_of], []).append(position)
        group = group_of(task)
        own.append(group)
        groups.setdefault(group, []).append(position)
        labels.setdefault(group, label(task))
    numbers = {group: number for number, group in enumerate(groups)}
    edges: dict[tuple[str, str], None] = {}
    for position, task in enumerate(tasks):
        needs = instances.get(position) or [at[need] for need in task.needs if need in at]
        edges.update(((own[need], own[position]), None) for need in needs if own[need] != own[position])
    straight, back = _without_cycles(list(groups), list(edges))
    least, most = _WIDTHS
    widths = {
        group: min(max(_SIGN + _CHARACTER * len(_shown(labels[group], len(members))), least), most)
        for group, members in groups.items()
    }
    drawing = layout(groups, straight, widths, _BOX_HEIGHT)
    boxes = {box.id: box for box in drawing.nodes}
    routes = [*drawing.edges, *(_straight(boxes[source], boxes[target]) for source, target in back)]
    return {
        "name": name,
        "size": [drawing.width, drawing.height],
        "nodes": [
            [box.x, box.y, box.width, box.height, labels[box.id], [] if name == "tasks" else groups[box.id]]
            for box in drawing.nodes
        ],
        "edges": [[numbers[route.source], numbers[route.target], route.path] for route in routes],
    }


def _shown(label: str, members: int) -> str:
    return f"{label} \N{MULTIPLICATION SIGN}{members}" if members > 1 else label


def _straight(source: Any, target: Any) -> Route:
    from_ = (source.x + source.width, source.y + source.height / 2)
    return Route(source.id, target.id, (from_, (target.x, target.y + target.height / 2)))


def _without_cycles(
    groups: Sequence[str], edges: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return *edges* as those that can be laid out, and those that would close a cycle: tasks have none, files may.

    What waits for nobody goes first; where everything waits, the first of what is left.
    """
    below: dict[str, list[str]] = {group: [] for group in groups}
    missing = dict.fromkeys(groups, 0)
    for source, target in edges:
        below[source].append(target)
        missing[target] += 1
    ready = [group for group in groups if not missing[group]]
    place: dict[str, int] = {}
    left = iter(groups)
    while len(place) < len(groups):
        if not ready:
            ready.append(next(group for group in left if group not in place))
        group = ready.pop()
        if group in place:
            continue
        place[group] = len(place)
        for target in below[group]:
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    straight = [edge for edge in edges if place[edge[0]] < place[edge[1]]]
    return straight, [edge for edge in edges if place[edge[0]] > place[edge[1]]]
