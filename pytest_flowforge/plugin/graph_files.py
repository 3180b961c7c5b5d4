"""``--ff-graph``: the graph in files, once a run is over, however that came, or as it is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.plugin.output_files import OutputFiles
from pytest_flowforge.plugin.values import Reading
from pytest_flowforge.report.graphs import EdgeKind, as_dot, as_json, as_mermaid, of_plan, of_run
from pytest_flowforge.report.svg import as_svg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.plan import PlannedTask
    from pytest_flowforge.core.summary import RunSummary
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.output_files import Places

__all__ = ["GraphFiles"]

_WRITERS = {".mmd": as_mermaid, ".dot": as_dot, ".svg": as_svg, ".json": as_json}


class GraphFiles:
    """The files of these *names*; raises UsageError for those that can not be written.

    ``tell`` takes sentences for people.
    """

    def __init__(self, places: Places, names: Iterable[str], tell: Callable[[str], None]) -> None:
        self._files = OutputFiles(places, "--ff-graph", names, _WRITERS, tell)

    def write_run(
        self,
        graph: TaskGraph,
        summary: Callable[[], RunSummary],
        entries: Mapping[TaskId, Entry],
        blueprint: Blueprint,
    ) -> None:
        """Write what has become of a run; *summary* returns that."""
        self._files.write(of_run(graph, summary(), _Kinds(entries, blueprint)))

    def write_plan(
        self, graph: TaskGraph, plan: Iterable[PlannedTask], entries: Mapping[TaskId, Entry], blueprint: Blueprint
    ) -> None:
        """Write what a run would do."""
        self._files.write(of_plan(graph, plan, _Kinds(entries, blueprint)))


class _Kinds:
    """Tells what the edge from an upstream to a task is there for."""

    def __init__(self, entries: Mapping[TaskId, Entry], blueprint: Blueprint) -> None:
        self._reading = Reading(entries, blueprint)
        self._blueprint = blueprint

    def __call__(self, upstream: TaskId, task: Task) -> EdgeKind:
        # Instances need what the mapped task needed when it was declared.
        declared = task.instance_of or task.id
        rule = self._blueprint.mapped.get(declared)
        if rule is not None:
            elements = self._blueprint.needs[declared].parameters[rule.parameter]
            if any(member == upstream for _, member in elements.members):
                return EdgeKind.MAP
        return EdgeKind.VALUE if upstream in self._reading.declared(declared) else EdgeKind.ORDER
