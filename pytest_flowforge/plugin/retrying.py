"""Running a task that may be tried again.

Its reports must wait until it is known which of them count. Tasks without retries take pytest's own way, or that of a
plugin such as pytest-rerunfailures; this plugin is registered only for runs that have tasks with retries.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import pytest

from pytest_flowforge.core.messages import TaskMoved
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.plugin.pytest_internals import run_attempt
from pytest_flowforge.plugin.reporting import RETRIED, report_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.pytest_internals import SetupTree

__all__ = ["Retrying"]


class Retrying:
    """The protocol of tasks with retries, and a sink for the events of the run.

    ``comes_again`` tells whether the attempt just made will be followed by another.
    """

    def __init__(
        self,
        graph: TaskGraph,
        comes_again: Callable[[pytest.Item], bool],
        tree: SetupTree,
    ) -> None:
        self._graph = graph
        self._comes_again = comes_again
        self._tree = tree
        #: The failures of tasks that wait for their next attempt: should it be called off, these are what counts.
        self._waiting: dict[str, tuple[pytest.Item, list[pytest.TestReport]]] = {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TaskMoved) or event.before is not TaskState.RETRYING:
            return
        waiting = self._waiting.pop(event.task, None)
        if waiting is not None and event.after is not TaskState.RUNNING:
            item, reports = waiting
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            report_release(item, self._tree)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not self._graph[cast("TaskId", item.nodeid)].retry.max_retries:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = run_attempt(item, nextitem)
        if self._comes_again(item):
            failures = [report for report in reports if report.failed]
            self._waiting[item.nodeid] = (item, failures)
            reports = [_as_retried(report) for report in failures]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _as_retried(report: pytest.TestReport) -> pytest.TestReport:
    # A copy: the outcome of the attempt is still to be judged by the report as it was.
    report = copy.copy(report)
    # The word that pytest-rerunfailures has made common: reporting plugins know it, and pytest counts it as nothing.
    report.outcome = "rerun"  # type: ignore[assignment]
    report.flowforge_state = RETRIED  # type: ignore[attr-defined]
    return report
