"""Telling pytest how tasks have ended, those included that have not run: blocked, reused, skipped for an upstream.

Every plugin that counts, writes or shows reports then knows of them. A blocked task is reported as a failure in its
set-up, so that no reporter takes it for a harmless skip, and a reused one as passed, each with a word and a letter of
its own in the terminal.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.messages import Event, TaskMoved
from pytest_flowforge.core.states import FAILED_STATES, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.pytest_internals import SetupTree

__all__ = ["BLOCKED", "RETRIED", "REUSED", "Reporter", "Statuses"]

#: Values of ``report.flowforge_state``, an attribute of our own on reports: plain text, so that it travels.
BLOCKED = "blocked"
RETRIED = "retried"
REUSED = "reused"

#: State -> category, letter and word in the terminal.
_STATUSES = {
    BLOCKED: ("blocked", "B", ("BLOCKED", {"red": True})),
    RETRIED: ("retried", "R", ("RETRY", {"yellow": True})),
    REUSED: ("reused", "=", ("REUSED", {"green": True})),
}


class Statuses:
    """The words for our states; a plugin of its own because reports are shown where no run takes place, too."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        return _STATUSES.get(getattr(report, "flowforge_state", ""))


class Reporter:
    """A sink that makes known to pytest how attempts and tasks have ended, once that is kept.

    The reports of an attempt wait here until the engine has said what the attempt is, and the sinks before this one
    have written it down: a success that was shown must never run again.
    """

    def __init__(self, entries: Mapping[TaskId, Entry], tree: SetupTree) -> None:
        self._entries = entries
        self._tree = tree
        #: The reports of attempts that have just ended.
        self._held: dict[TaskId, list[pytest.TestReport]] = {}
        #: Tasks whose last attempt could not begin.
        self._never_begun: set[TaskId] = set()
        #: The failures of tasks that wait for their next attempt: should it be called off, these are what counts.
        self._waiting: dict[TaskId, list[pytest.TestReport]] = {}

    def hold(self, task: TaskId, reports: list[pytest.TestReport]) -> None:
        """Keep the reports of the attempt at *task* that ends now."""
        self._held[task] = reports

    def hold_failure(self, task: TaskId, text: str) -> None:
        """Keep a report of an attempt that could not even begin: *text* says why."""
        item = self._entries[task].item
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._held[task] = [_report(item, "failed", text)]
        self._never_begun.add(task)

    def __call__(self, event: Event) -> None:
        # The most frequent first.
        if not isinstance(event, TaskMoved) or event.after is TaskState.RUNNING:
            return
        if event.before is TaskState.RUNNING:
            self._on_attempt(event)
        elif event.before is TaskState.RETRYING:
            self._on_called_off(event)
        else:
            self._on_never_run(event)

    def _on_attempt(self, event: TaskMoved) -> None:
        reports = self._held.pop(event.task, None)
        if reports is None or event.after is TaskState.INTERRUPTED:
            # Another plugin has run it and made its reports known; or it was interrupted, if only while what it had
            # returned was stored: it is to run again, and must not be shown as passed.
            return
        item = self._entries[event.task].item
        if event.after in FAILED_STATES and all(report.passed for report in reports):
            _fail(reports, event)
        if event.after is TaskState.RETRYING:
            self._waiting[event.task] = failures = [report for report in reports if report.failed]
            reports = [_as_retried(report) for report in failures]
        hook = item.ihook
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        if event.task in self._never_begun and event.after is not TaskState.RETRYING:
            # There was no teardown to give up what was kept for it.
            _report_release(item, self._tree)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _on_called_off(self, event: TaskMoved) -> None:
        item = self._entries[event.task].item
        for report in self._waiting.pop(event.task, ()):
            item.ihook.pytest_runtest_logreport(report=report)
        _report_release(item, self._tree)

    def _on_never_run(self, event: TaskMoved) -> None:
        item = self._entries[event.task].item
        if event.after is TaskState.BLOCKED:
            report = _report(item, "failed", f"BLOCKED: {event.because}")
            report.flowforge_state = BLOCKED  # type: ignore[attr-defined]
            self._make_known(item, report)
        elif event.after is TaskState.SKIPPED:
            line = (item.location[1] or 0) + 1
            self._make_known(item, _report(item, "skipped", (str(item.path), line, f"Skipped: {event.because}")))
        elif event.after is TaskState.REUSED:
            report = _report(item, "passed", None, "call")
            report.flowforge_state = REUSED  # type: ignore[attr-defined]
            # Reporters of JUnit look at what the item has when it is torn down.
            item.user_properties.append(("flowforge", event.because))
            self._make_known(item, report)

    def _make_known(self, item: pytest.Item, report: pytest.TestReport) -> None:
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        with _Uncounted(item.session):
            hook.pytest_runtest_logreport(report=report)
        _report_release(item, self._tree)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _fail(reports: list[pytest.TestReport], event: TaskMoved) -> None:
    """The task has passed, and what it returned could not be taken: the report says what the engine says."""
    for report in reports:
        if report.when == "call":
            report.outcome = "failed"
            report.longrepr = getattr(event.outcome, "longrepr", "") or event.because


def _as_retried(report: pytest.TestReport) -> pytest.TestReport:
    # A copy: the outcome of the attempt is still to be judged by the report as it was.
    report = copy.copy(report)
    # The word that pytest-rerunfailures has made common: reporting plugins know it, and pytest counts it as nothing.
    report.outcome = "rerun"  # type: ignore[assignment]
    report.flowforge_state = RETRIED  # type: ignore[attr-defined]
    return report


def _report_release(item: pytest.Item, tree: SetupTree) -> None:
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


def _report(item: pytest.Item, outcome: Any, longrepr: Any, when: Any = "setup") -> pytest.TestReport:
    now = time.time()
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=outcome,
        longrepr=longrepr,
        when=when,
        start=now,
        stop=now,
    )
