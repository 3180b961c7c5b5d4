"""What arrives at the tasks of a workflow in code, and which results are there when the run is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import Event, TaskMoved
from pytest_flowforge.core.states import DONE, SUCCEEDED, TaskState
from pytest_flowforge.results import Absences, ValueStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.workflow.graphs import Arriving

__all__ = ["Arrivals"]


class Arrivals:
    """The results of one run of *graph*; a sink for its events.

    ``load`` returns the result that a task had in an earlier run, ``stopped`` tells why the run was stopped. ``kept``
    has what is to be had when the run is over: with ``keep_all`` every result, else those that nobody waits for.
    """

    def __init__(
        self,
        graph: TaskGraph,
        arriving: Mapping[TaskId, Arriving],
        load: Callable[[TaskId], Any],
        stopped: Callable[[], str],
        *,
        keep_all: bool,
    ) -> None:
        self.kept: dict[TaskId, Any] = {}
        self._graph = graph
        self._arriving = arriving
        self._load = load
        self._keep_all = keep_all
        self._absences = Absences(graph, {}, stopped)
        self._values = ValueStore({task.id: frozenset(arriving[task.id].read) for task in graph})

    def at(self, task: TaskId) -> dict[str, Any]:
        """Return what arrives at *task*, by parameter."""
        arriving = self._arriving[task]
        inputs = {name: self._result(upstream) for name, upstream in arriving.results.items()}
        inputs.update(arriving.values)
        if arriving.upstream is not None:
            here = {name: one for name, one in arriving.upstream.items() if one in self._graph}
            inputs["upstream"] = {name: self._result(one) for name, one in here.items()}
        return inputs

    def put(self, task: TaskId, value: Any) -> None:
        """*task* has returned *value*."""
        self._values.put(task, value)
        if self._is_kept(task):
            self.kept[task] = value

    def __call__(self, event: Event) -> None:
        """Keep in mind why a task has no result; give up what no task will ask for any more."""
        if not isinstance(event, TaskMoved) or event.after not in DONE:
            return
        task = event.task
        if event.after not in SUCCEEDED:
            self._absences(event)
        elif event.after is TaskState.REUSED and (self._is_kept(task) or task in self._values.wanted):
            self.put(task, self._load(task))
        self._values.done(task)

    def _is_kept(self, task: TaskId) -> bool:
        return self._keep_all or not self._graph.downstream(task)

    def _result(self, task: TaskId) -> Any:
        try:
            return self._values.get(task)
        except KeyError:
            return self._absences.of(task)
