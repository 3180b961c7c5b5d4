"""The event hooks for conftest.py files and plugins, as one more fold over the event stream.

Whatever goes wrong there is told, once, and is no fault of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.messages import Event, InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.observed import Run, TaskResult
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.failures import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.summary import Summary

__all__ = ["ERRORS", "Listeners"]

_NAMES = ("run_started", "task_expanded", "task_started", "task_retrying", "task_finished", "run_finished")

#: What is caught: failing and skipping are for tests and tasks. What ends a run (Ctrl-C, pytest.exit) is not among it.
ERRORS = (Exception, pytest.fail.Exception, pytest.skip.Exception)


class Listeners:
    """Calls the hooks. One that raises is named to *tell*, once, and not called again."""

    def __init__(self, config: pytest.Config, graph: TaskGraph, summary: Summary, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._graph = graph
        self._summary = summary
        self._started_at = 0.0
        #: When the attempt that is running of each task began.
        self._began: dict[str, float] = {}
        self._impls = {name: _implementations(config, name) for name in _NAMES}
        #: Nobody listens: then nothing is built for anybody.
        self.idle = not any(self._impls.values())

    def __call__(self, event: Event) -> None:
        if isinstance(event, TaskMoved):
            self._on_move(event)
        elif isinstance(event, RunBegan):
            self._started_at = event.at
            self._call("run_started", run=self._run())
        elif isinstance(event, InstancesAdded):
            instances = tuple(self._graph[instance] for instance in event.instances)
            self._call("task_expanded", task=self._graph[event.task], instances=instances)
        elif isinstance(event, RunEnded):
            self._call("run_finished", run=self._run(event.at, event.stopped))

    def _on_move(self, event: TaskMoved) -> None:
        task = self._graph[event.task]
        if event.after is TaskState.RUNNING:
            self._began[event.task] = event.at
            self._call("task_started", task=task, attempt=event.attempt)
        elif event.after is TaskState.RETRYING:
            delay = 0.0 if event.resume_at is None else max(event.resume_at - event.at, 0.0)
            result = self._result(event)
            self._call("task_retrying", task=task, attempt=event.attempt, result=result, delay=delay)
        elif event.after in DONE:
            self._call("task_finished", task=task, result=self._result(event))

    def _result(self, event: TaskMoved) -> TaskResult:
        began = self._began.pop(event.task, event.at)
        return TaskResult(event.after, event.attempt, event.at - began, event.because, event.outcome)

    def _run(self, ended_at: float | None = None, stopped: str = "") -> Run:
        return Run(self._graph, self._summary, self._started_at, ended_at, stopped)

    def _call(self, name: str, **arguments: Any) -> None:
        impls = self._impls[name]
        for impl in tuple(impls):
            function, wanted, owner = impl
            try:
                function(*(arguments[argument] for argument in wanted))
            except ERRORS as error:
                impls.remove(impl)
                problem = f"{type(error).__name__}: {safe_text(error)}"
                self._tell(f"pytest_flowforge_{name} of {owner} raised {problem}; it is not called again")


_Impl = tuple["Callable[..., object]", tuple[str, ...], str]


def _implementations(config: pytest.Config, name: str) -> list[_Impl]:
    caller = getattr(config.hook, f"pytest_flowforge_{name}")
    # There is nothing to wrap around an observer.
    # pluggy calls the one that was registered last first, and lists them the other way round.
    impls = [impl for impl in reversed(caller.get_hookimpls()) if not (impl.wrapper or impl.hookwrapper)]
    return [(impl.function, tuple(impl.argnames), impl.plugin_name) for impl in impls]
