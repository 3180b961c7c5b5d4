"""Telling pytest of tasks that end without having run: blocked ones, and those skipped for an upstream.

Every plugin that counts, writes or shows reports then knows of them. A blocked task is reported as a failure in its
set-up, so that no reporter takes it for a harmless skip, with a word and a letter of its own in the terminal.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.messages import Event, TaskMoved
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.pytest_internals import SetupTree

__all__ = ["BLOCKED", "RETRIED", "Reporter", "Statuses", "report_release"]

#: Values of ``report.flowforge_state``, an attribute of our own on reports: plain text, so that it travels.
BLOCKED = "blocked"
RETRIED = "retried"

#: State -> category, letter and word in the terminal.
_STATUSES = {
    BLOCKED: ("blocked", "B", ("BLOCKED", {"red": True})),
    RETRIED: ("retried", "R", ("RETRY", {"yellow": True})),
}


class Statuses:
    """The words for our states; a plugin of its own because reports are shown where no run takes place, too."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        return _STATUSES.get(getattr(report, "flowforge_state", ""))


class Reporter:
    """A sink that turns the end of a task that never ran into reports."""

    def __init__(self, entries: Mapping[TaskId, Entry], graph: TaskGraph, tree: SetupTree) -> None:
        self._entries = entries
        self._graph = graph
        self._tree = tree

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TaskMoved) or event.before is not TaskState.PENDING:
            return
        item = self._entries[event.task].item
        if event.after is TaskState.BLOCKED:
            report = _report(item, "failed", f"BLOCKED: {event.because}")
            report.flowforge_state = BLOCKED  # type: ignore[attr-defined]
            self._make_known(item, report)
        elif event.after is TaskState.SKIPPED:
            line = (item.location[1] or 0) + 1
            self._make_known(item, _report(item, "skipped", (str(item.path), line, f"Skipped: {event.because}")))

    def _make_known(self, item: pytest.Item, report: pytest.TestReport) -> None:
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        with _Uncounted(item.session):
            hook.pytest_runtest_logreport(report=report)
        report_release(item, self._tree)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def report_release(item: pytest.Item, tree: SetupTree) -> None:
    """Give up the fixtures that were kept for *item* alone, as its teardown: an error there is one like any other."""
    leave = (pytest.exit.Exception, KeyboardInterrupt)
    call = pytest.CallInfo.from_call(lambda: tree.release(item), "teardown", reraise=leave)
    item.ihook.pytest_runtest_logreport(report=pytest.TestReport.from_item_and_call(item, call))


class _Uncounted:
    """Keeps reports of blocked tasks out of the count that -x and --maxfail go by: they are victims, not failures."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._before = self._session.testsfailed
        # Pytest compares the count with --maxfail as it counts, and what it concludes can not be taken back.
        self._session.testsfailed = -1

    def __exit__(self, *_: object) -> None:
        self._session.testsfailed = self._before


def _report(item: pytest.Item, outcome: Any, longrepr: Any) -> pytest.TestReport:
    now = time.time()
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=outcome,
        longrepr=longrepr,
        when="setup",
        start=now,
        stop=now,
    )
