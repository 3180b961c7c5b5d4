"""Telling pytest how tasks have ended, those included that have not run: blocked, reused, skipped for an upstream.

Every plugin that counts, writes or shows reports then knows of them. A blocked task is reported as a failure in its
set-up, so that no reporter takes it for a harmless skip, and a reused one as passed, each with a word and a letter of
its own in the terminal.
"""

from __future__ import annotations

import copy
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest

from pytest_flowforge.core.messages import Event, InstancesAdded, TaskMoved, state_after
from pytest_flowforge.core.states import FAILED_STATES, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry

Phase: TypeAlias = Literal["setup", "call", "teardown"]

__all__ = ["BLOCKED", "RETRIED", "REUSED", "Reporter", "Statuses", "Told"]

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


#: The states after an attempt that has failed.
_NO_SUCCESS = FAILED_STATES | {TaskState.RETRYING}


class Told:
    """What is shown of an error of which there is a text and no traceback, in the form that reporters know."""

    class Crash:
        """Where it was, in one line."""

        def __init__(self, path: str, lineno: int, message: str) -> None:
            self.path, self.lineno, self.message = path, lineno, message

        def __str__(self) -> str:
            return f"{self.path}:{self.lineno}: {self.message}"

    def __init__(self, item: pytest.Item, text: str) -> None:
        self._text = text.rstrip()
        last = self._text.rpartition("\n")[2].strip()
        self.reprcrash = self.Crash(str(item.path), (item.location[1] or 0) + 1, last)

    def __str__(self) -> str:
        return self._text

    def toterminal(self, writer: Any) -> None:
        """Write it, as pytest asks of whatever it shows."""
        writer.line(self._text)


class Statuses:
    """The words for our states; a plugin of its own because reports are shown where no run takes place, too."""

    def __init__(self) -> None:
        self._over = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """From now on there are lists, which have no room for more than the word."""
        self._over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Generator[None, Any, Any]:
        status = yield
        status = _STATUSES.get(getattr(report, "flowforge_state", ""), status)
        note = getattr(report, "flowforge_note", "")
        if self._over or not note or not status or not status[2]:
            return status
        category, letter, word = status
        word, markup = word if isinstance(word, tuple) else (word, None)
        noted = f"{word} ({note})"
        return category, letter, noted if markup is None else (noted, markup)


class Reporter:
    """A sink that makes known to pytest how attempts and tasks have ended, once that is kept.

    The reports of an attempt wait here until the engine has said what the attempt is, and the sinks before this one
    have written it down: a success that was shown must never run again. ``release`` gives up the fixtures that were
    kept for a task alone. With ``properties``, the last report of a task says what has become of it, for reporters that
    write down the properties of a test; with ``notes`` a line a task (-v) says how long it took.
    """

    def __init__(
        self,
        entries: Mapping[TaskId, Entry],
        release: Callable[[pytest.Item], None],
        expanded: Iterable[TaskId] = (),
        *,
        notes: bool = False,
        properties: bool = True,
    ) -> None:
        self._entries = entries
        self._notes = notes
        self._release = release
        self._properties = properties
        #: Mapped tasks that have instances.
        self._expanded = set(expanded)
        #: The reports of attempts that have just ended.
        self._held: dict[TaskId, list[pytest.TestReport]] = {}
        #: Tasks whose last attempt could not begin.
        self._never_begun: set[TaskId] = set()
        #: The failures of tasks that wait for their next attempt: should it be called off, these are what counts.
        self._waiting: dict[TaskId, list[pytest.TestReport]] = {}
        #: In a line each, the attempts so far of tasks that were tried again.
        self._earlier: dict[TaskId, list[str]] = {}

    def hold(self, task: TaskId, reports: list[pytest.TestReport]) -> None:
        """Keep the reports of the attempt at *task* that ends now."""
        self._held[task] = reports
        self._never_begun.discard(task)

    def hold_failure(self, task: TaskId, text: str, when: Phase = "setup") -> None:
        """Keep a report of an attempt that could not even begin, or that broke off in the phase *when*.

        *text* says why. Nobody has torn down what was set up for it.
        """
        item = self._entries[task].item
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._held[task] = [_report(item, "failed", Told(item, text), when)]
        self._never_begun.add(task)

    def hold_nothing_to_do(self, task: TaskId) -> None:
        """A mapped task has no instances: its report says that it passed."""
        item = self._entries[task].item
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._held[task] = [_report(item, "passed", None, "call")]
        self._never_begun.add(task)

    def __call__(self, event: Event) -> None:
        # The most frequent first.
        if not isinstance(event, TaskMoved):
            if isinstance(event, InstancesAdded) and event.instances:
                self._expanded.add(event.task)
            return
        if event.after is TaskState.RUNNING:
            return
        if event.task in self._expanded:
            self._on_expanded(event.task)
        elif event.before is TaskState.RUNNING:
            self._on_attempt(event)
        elif event.before is TaskState.RETRYING:
            self._on_called_off(event)
        else:
            self._on_never_run(event)

    def _on_expanded(self, task: TaskId) -> None:
        """A mapped task has ended, and its instances have been reported: it has only kept fixtures alive for them."""
        item = self._entries[task].item
        report = _release_report(item, self._release)
        if report.failed:
            item.ihook.pytest_runtest_logreport(report=report)

    def _on_attempt(self, event: TaskMoved) -> None:
        reports = self._held.pop(event.task, None)
        if reports is None or event.after is TaskState.INTERRUPTED:
            # Another plugin has run it and made its reports known; or it was interrupted, if only while what it had
            # returned was stored: it is to run again, and must not be shown as passed.
            return
        item = self._entries[event.task].item
        if event.after in _NO_SUCCESS and all(report.passed for report in reports):
            _fail(reports, event)
        if event.attempt > 1 or event.after is TaskState.RETRYING:
            for report in reports:
                _OneCase.of(report)
        if event.after is TaskState.RETRYING:
            self._waiting[event.task] = failures = [report for report in reports if report.failed]
            reports = [_as_retried(report, event.attempt, reports[-1].sections) for report in failures]
            self._earlier.setdefault(event.task, []).append(f"attempt {event.attempt}: {event.because}")
        elif event.after in FAILED_STATES:
            self._give_up(event.task, reports)
            _tell_of(self._earlier.pop(event.task, []), reports)
        else:
            self._earlier.pop(event.task, None)
        self._describe(event, reports)
        hook = item.ihook
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        if event.task in self._never_begun and event.after is not TaskState.RETRYING:
            # There was no teardown to give up what was kept for it.
            _report_release(item, self._release)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _give_up(self, task: TaskId, reports: list[pytest.TestReport]) -> None:
        """Give up what was kept for another attempt that was called off meanwhile; mostly there is nothing."""
        if task in self._never_begun:
            return
        late = _release_report(self._entries[task].item, self._release)
        if late.failed and reports[-1].when == "teardown" and reports[-1].passed:
            reports[-1] = late
        elif late.failed:
            reports.append(late)

    def _on_called_off(self, event: TaskMoved) -> None:
        item = self._entries[event.task].item
        reports = self._waiting.pop(event.task, [])
        # The last of them is what is shown.
        _tell_of(self._earlier.pop(event.task, [])[:-1], reports)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        self._describe(event)
        _report_release(item, self._release)

    def _describe(self, event: TaskMoved, reports: Sequence[pytest.TestReport] = ()) -> None:
        """Have the last report of a task say what has become of it: reporters look at what is torn down.

        Where *reports* do not say that it was, that report is still to be made of the item.
        """
        if self._notes and reports:
            _note(reports, event)
        if not self._properties or event.after is TaskState.RETRYING:
            return
        worker = "" if event.measures is None else event.measures.worker
        properties = _properties(event.after, event.attempt, worker)
        if event.after is TaskState.REUSED:
            properties = (*properties, ("flowforge", event.because))
        teardowns = [report for report in reports if report.when == "teardown"]
        for report in teardowns:
            report.user_properties = [*report.user_properties, *properties]
        if not teardowns:
            self._entries[event.task].item.user_properties.extend(properties)

    def _on_never_run(self, event: TaskMoved) -> None:
        item = self._entries[event.task].item
        self._describe(event)
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
            self._make_known(item, report)

    def _make_known(self, item: pytest.Item, report: pytest.TestReport) -> None:
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        with _Uncounted(item.session):
            hook.pytest_runtest_logreport(report=report)
        _report_release(item, self._release)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _note(reports: Sequence[pytest.TestReport], event: TaskMoved) -> None:
    """Have *reports* say in a line a task how long the attempt took, which it was if not the first, and how it failed.

    For pytest and its lists it has failed, whether it was killed or out of time.
    """
    took = f"{sum(report.duration for report in reports):.2f}s"
    state = event.after if event.outcome is None else state_after(event.outcome)
    how = state.value if state in _TOLD_APART else ""
    attempt = f"attempt {event.attempt}" if event.attempt > 1 else ""
    for report in reports:
        told = (took, "" if report.passed else how, attempt)
        report.flowforge_note = ", ".join(filter(None, told))  # type: ignore[attr-defined]


#: States of failures between which pytest makes no difference.
_TOLD_APART = frozenset({TaskState.TIMED_OUT, TaskState.CRASHED})


@cache
def _properties(state: TaskState, attempts: int, worker: str) -> tuple[tuple[str, object], ...]:
    # pytest keeps every report to the end, and few of these differ.
    told = (("flowforge_state", state.value), ("flowforge_attempts", attempts))
    return (*told, ("flowforge_worker", worker)) if worker else told


def _fail(reports: list[pytest.TestReport], event: TaskMoved) -> None:
    """The task has passed, and what it returned could not be taken: the report says what the engine says."""
    for report in reports:
        if report.when == "call":
            report.outcome = "failed"
            report.longrepr = getattr(event.outcome, "longrepr", "") or event.because


class _OneCase:
    """The worker a report comes from, for a task of several attempts; equal to any other, and to none.

    JUnit's reporter takes reports of one item from several workers for several cases, of which but one gets a name.
    """

    @classmethod
    def of(cls, report: pytest.TestReport) -> None:
        """Make *report* one of the same case, wherever the other attempts were made."""
        node = getattr(report, "node", None)
        if node is not None and not isinstance(node, cls):
            report.node = cls(node)  # type: ignore[attr-defined]

    def __init__(self, node: object) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def __repr__(self) -> str:
        # What writes reports down (pytest-reportlog) has no other way to name a worker.
        return repr(self._node)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _OneCase)

    def __hash__(self) -> int:
        return hash(None)


def _tell_of(earlier: list[str], reports: list[pytest.TestReport]) -> None:
    """Have the failures among *reports* say what became of the attempts before."""
    if len(earlier) > _MOST_EARLIER:
        half = _MOST_EARLIER // 2
        earlier = [*earlier[:half], f"... {len(earlier) - 2 * half:,} more ...", *earlier[-half:]]
    for report in reports:
        if report.failed and earlier:
            report.sections = [*report.sections, ("Earlier attempts", "\n".join(earlier))]


_MOST_EARLIER = 20


def _as_retried(report: pytest.TestReport, attempt: int, sections: list[tuple[str, str]]) -> pytest.TestReport:
    # A copy: the outcome of the attempt is still to be judged by the report as it was.
    report = copy.copy(report)
    # What was written in its teardown belongs to it as well, and that report is made known to nobody.
    report.sections = sections
    report.flowforge_attempt = attempt  # type: ignore[attr-defined]
    # The word that pytest-rerunfailures has made common: reporting plugins know it, and pytest counts it as nothing.
    report.outcome = "rerun"  # type: ignore[assignment]
    report.flowforge_state = RETRIED  # type: ignore[attr-defined]
    return report


def _report_release(item: pytest.Item, release: Callable[[pytest.Item], None]) -> None:
    """Give up the fixtures that were kept for *item* alone, as its teardown: an error there is one like any other."""
    item.ihook.pytest_runtest_logreport(report=_release_report(item, release))


def _release_report(item: pytest.Item, release: Callable[[pytest.Item], None]) -> pytest.TestReport:
    leave = (pytest.exit.Exception, KeyboardInterrupt)
    call = pytest.CallInfo.from_call(lambda: release(item), "teardown", reraise=leave)
    return pytest.TestReport.from_item_and_call(item, call)


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


def _report(item: pytest.Item, outcome: Any, longrepr: Any, when: Phase = "setup") -> pytest.TestReport:
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
