"""Attempts at tasks in this process, each through pytest's own protocol.

What decides, keeps and shows is elsewhere: here a task is set up, called and torn down, and its reports are gathered.
The process may be the one that runs pytest, or a worker.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.awaiting import run_to_its_end
from pytest_flowforge.failures import capped, shortened
from pytest_flowforge.plugin.bodies import Body
from pytest_flowforge.plugin.coroutines import CALLED_BY_US, Caught
from pytest_flowforge.plugin.guard import Surroundings
from pytest_flowforge.plugin.limits import NOBODY, TimeLimits
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.plugin.pytest_internals import (
    OwnFixtures,
    SetupTree,
    call,
    call_of,
    cap_shown,
    forget_output,
    keep_hook_proxies,
    phase,
    run_attempt,
)
from pytest_flowforge.plugin.reporting import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_flowforge.core.model import Outcome
    from pytest_flowforge.plugin.attribution import Attribution
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.limits import Watch

__all__ = ["Attempts", "Protocols"]


class Attempts:
    """Makes attempts at *entries* while it serves; a plugin then.

    ``comes_again`` tells whether the attempt at a task, as far as it has come, will be followed by another. ``cut_off``
    is called with the task, the attempt and the exit status when a task takes the process away. ``tell`` takes
    sentences for people. ``is_run`` tells that this is the process of the run, not a worker: pytest is told here that
    an attempt begins. With ``at_once`` several attempts may be under way at the same time (:meth:`begin`).

    ``is_asked_for`` tells whether a KeyboardInterrupt that comes out of an attempt is to stop the run; the task's own
    is its failure. ``watch`` ends attempts that do not end when their time is up; see :class:`TimeLimits` for
    ``may_end_process``.
    """

    def __init__(  # noqa: PLR0913 - what differs between the places where attempts are made
        self,
        session: pytest.Session,
        entries: Sequence[Entry],
        comes_again: Callable[[Entry, Attempt], bool],
        cut_off: Callable[[Entry, Attempt, int], None],
        tell: Callable[[str], None],
        *,
        is_asked_for: Callable[[], bool],
        watch: Watch = NOBODY,
        is_run: bool = True,
        at_once: bool = False,
        may_end_process: bool = False,
    ) -> None:
        self._session = session
        self._is_asked_for = is_asked_for
        self._comes_again = comes_again
        self._cut_off = cut_off
        self._tell = tell
        self._is_run = is_run
        items = [entry.item for entry in entries]
        self._caught = Caught(items)
        self._own_fixtures = OwnFixtures(of_tasks=at_once)
        for home in dict.fromkeys(entry.home for entry in entries):
            self._own_fixtures.give([entry.item for entry in home.entries])
        self.tree = SetupTree(items, self._fill_in_parameters, self._is_followed, self._claim)
        self.tree.install(session)
        self._surroundings = Surroundings(self._on_cut_off, is_run=is_run)
        self._limits = TimeLimits(self._attempt_at, watch, may_end_process=may_end_process)
        #: The task that runs now, and the attempt at it.
        self._entry: Entry | None = None
        self._attribution: Attribution | None = None
        self._item: pytest.Item | None = None
        self._attempt = Attempt(0, {})

    def add(self, entries: Iterable[Entry]) -> None:
        """There will be attempts at *entries*, too, which are instances of mapped tasks."""
        for entry in entries:
            self._caught.watch(entry.item)
            self._own_fixtures.give([entry.item])
            self.tree.add(entry.item)

    @contextmanager
    def serve(self, *, alone: bool = False, attribution: Attribution | None = None) -> Iterator[None]:
        """Be there for attempts as long as this lasts; with ``alone`` no other plugin may make them in our place.

        ``attribution`` keeps apart what calls write that are made elsewhere.
        """
        self._attribution = attribution
        manager = self._session.config.pluginmanager
        manager.register(self, "flowforge-attempts")
        self._protocols = Protocols(self._session.config, self, alone=alone)
        try:
            with (
                self._own_fixtures.serve(self._session),
                keep_hook_proxies(self._session),
                self._limits.serve(self._session.config),
            ):
                yield
        finally:
            manager.unregister(self)
            self._surroundings.close()

    def perform(self, entry: Entry, attempt: Attempt, *, retried: bool, last: bool) -> tuple[Outcome, Any]:
        """Make *attempt*; return its outcome and the result of the task. Raises what is to stop the run.

        ``retried`` tells that the task has retries of ours, ``last`` that no attempt at any task follows.
        """
        item = entry.item
        self._entry, self._item, self._attempt = entry, item, attempt
        _begin_anew(item)
        self._surroundings.enter(entry.name)
        try:
            # Any item will do for the next: the tree of set-ups knows by itself what is still needed.
            self._protocols.of(retried=retried)(item=item, nextitem=None if last else item)
        except BaseException:
            # Pytest itself leaves this to the end of the session; clean-up tasks run before that.
            self.tree.abandon()
            raise
        finally:
            self._entry = self._item = None
            moved_to = self._surroundings.leave()
        if moved_to:
            self._tell(f"{entry.name} left the working directory at {moved_to}; it has been set back")
        return attempt.end(self._caught.take(item, attempt.value))

    # ------------------------------------------------------------------ in two steps, with the call elsewhere

    def stand_by(self) -> AbstractContextManager[None]:
        """While this lasts, calls are made on other threads of this process."""
        return self._surroundings.stand_by()

    def calls_itself(self, item: pytest.Function) -> bool:
        """Whether the function of *item* is called here, and not by another plugin."""
        return type(item) in CALLED_BY_US and not self._caught.is_run_by_another(item)

    def begin(self, entry: Entry, attempt: Attempt, settings: Any) -> Body | None:
        """Set *entry* up; return its call, which is to be made elsewhere, or None when there is to be none.

        *settings* are those of pytest-timeout about it, None where it has no limit.
        """
        item = entry.item
        _begin_anew(item)
        self._own_fixtures.give_task(item)
        with self._busy_with(entry, attempt):
            if settings is not None and not settings.func_only:
                self._limits.begin(attempt, settings)
            try:
                report = phase(item, "setup")
            finally:
                self._limits.end()
            attempt.reports = [report]
        if not report.passed:
            return None
        function, arguments = call_of(item)
        return Body(function, arguments)

    def finish(self, entry: Entry, attempt: Attempt) -> None:
        """Report the call, which was made elsewhere (``attempt.body``; None: there was none), and tear down."""
        try:
            with self._busy_with(entry, attempt), _recorded_for(entry.item):
                self._protocols.beside(item=entry.item, nextitem=entry.item)
        except BaseException:
            self.tree.abandon()
            raise
        finally:
            self._own_fixtures.take_from_task(entry.item)

    @contextmanager
    def _busy_with(self, entry: Entry, attempt: Attempt) -> Iterator[None]:
        self._entry, self._item, self._attempt = entry, entry.item, attempt
        attribution = self._attribution
        if attribution is not None:
            attribution.item = entry.item
        try:
            yield
        finally:
            self._entry = self._item = None
            if attribution is not None:
                attribution.item = None

    # ------------------------------------------------------------------ pytest's hooks

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Make the attempt, as pytest does it, and keep its reports until it is known what they mean."""
        if item is not self._item:
            return None
        attempt = self._attempt
        if self._is_run:
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if attempt.reports is not None and len(attempt.reports) == 1:
            # It was set up before, see begin().
            self.tree.resume(item)
            if attempt.reports[0].passed:
                attempt.reports.append(phase(item, "call"))
            attempt.reports.append(phase(item, "teardown", nextitem=nextitem))
            return True
        attempt.reports = run_attempt(item, nextitem)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Call the task and keep what it returns, which pytest would warn about."""
        __tracebackhide__ = True
        if pyfuncitem is not self._item:
            return None
        body = self._attempt.body
        if body is not None:
            if self._attribution is not None:
                self._attribution.write_again(body.output)
            try:
                self._attempt.value = body.result()
            except KeyboardInterrupt as interrupt:
                raise self._claim(interrupt) from None
            return True
        self._surroundings.call()
        if self._caught.is_run_by_another(pyfuncitem):
            return None
        try:
            value = call(pyfuncitem)
            self._attempt.value = run_to_its_end(value) if inspect.iscoroutine(value) else value
        except KeyboardInterrupt as interrupt:
            raise self._claim(interrupt) from None
        finally:
            # Before anything else: with what the task has set there may be no room for any call.
            sys.setrecursionlimit(self._surroundings.deepest)
            self._surroundings.returned()
        return True

    def _claim(self, interrupt: KeyboardInterrupt) -> BaseException:
        """What to raise for *interrupt*: one that a task has raised itself is its failure, unknown to pytest."""
        return interrupt if self._is_asked_for() else RaisedKeyboardInterrupt(interrupt)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.excinfo is not None and isinstance(call.excinfo.value, RaisedKeyboardInterrupt):
            call.excinfo = pytest.ExceptionInfo.from_exception(call.excinfo.value.interrupt)
        body = self._attempt.body
        if item is self._item and body is not None and call.when == "call":
            call.start, call.stop, call.duration = body.start, body.start + body.seconds, body.seconds
        error = None if call.excinfo is None else call.excinfo.value
        if error is not None and (shown := shortened(error)) is not error:
            call.excinfo = pytest.ExceptionInfo.from_exception(shown)
        report = yield
        cap_shown(report)
        if report.sections:
            report.sections = [(name, capped(text)) for name, text in report.sections]
        if body is not None and body.trace and report.failed and report.when == "call":
            # What pytest can show of it here is how it came here.
            report.longrepr = Told(item, body.trace)  # type: ignore[assignment]
        if item is self._item and self._attempt.stacks:
            report.sections.append(("Threads when the time was up", self._attempt.stacks))
            self._attempt.stacks = ""
        if item is self._item:
            self._attempt.note(report, error)
        return report

    def _attempt_at(self, item: pytest.Item) -> Attempt | None:
        return self._attempt if item is self._item else None

    def _is_followed(self, item: pytest.Item) -> bool:
        return self._entry is not None and item is self._item and self._comes_again(self._entry, self._attempt)

    def _on_cut_off(self, status: int) -> None:
        if self._entry is not None:
            self._cut_off(self._entry, self._attempt, status)

    def _fill_in_parameters(self, item: pytest.Item) -> None:
        """Set the parameters that name tasks; pytest asks fixtures for the others only."""
        self._surroundings.keep_streams()
        self._limits.rest()
        if self._attribution is not None:
            self._attribution.watch()
        if item is self._item and self._attempt.inputs:
            item.funcargs.update(self._attempt.inputs)  # type: ignore[attr-defined]


def _begin_anew(item: pytest.Item) -> None:
    """Let the next attempt report what it writes and records itself, and nothing of the attempts before it."""
    forget_output(item)
    del item.user_properties[item.stash.setdefault(_RECORDED, len(item.user_properties)) :]


#: How many properties an item had before its first attempt.
_RECORDED = pytest.StashKey[int]()


class RaisedKeyboardInterrupt(Exception):
    """Carries a KeyboardInterrupt that a task has raised itself to its report; pytest would end the session."""

    def __init__(self, interrupt: KeyboardInterrupt) -> None:
        super().__init__(*interrupt.args)
        self.interrupt = interrupt


@contextmanager
def _recorded_for(item: pytest.Item) -> Iterator[None]:
    """Let warnings be those of *item*, as pytest does, and leave the filters alone."""
    with warnings.catch_warnings(record=True) as log:
        try:
            yield
        finally:
            for message in log:
                arguments = {"warning_message": message, "when": "runtest", "nodeid": item.nodeid, "location": None}
                item.ihook.pytest_warning_recorded.call_historic(kwargs=arguments)


class Protocols:
    """Who runs an attempt: the hook ``pytest_runtest_protocol`` without those who are not to answer it.

    That is pytest itself, whose place *ours* takes. Other plugins that run tests (pytest-rerunfailures) come before us,
    but for tasks with retries, which are ours to repeat, and never with ``alone``. With ``--pdb`` and ``--setup-show``
    pytest goes its own way: how a task ended is then shown before the debugger opens, and before fixtures are torn
    down.
    """

    def __init__(self, config: pytest.Config, ours: object, *, alone: bool) -> None:
        manager, hook = config.pluginmanager, config.hook.pytest_runtest_protocol
        impls = [impl for impl in hook.get_hookimpls() if not (impl.wrapper or impl.hookwrapper)]
        others = [impl.plugin for impl in impls if impl.plugin is not ours]
        self._alone = manager.subset_hook_caller(hook.name, others)
        as_it_goes = config.option.usepdb or config.option.setupshow
        #: For what is done while calls of others go on elsewhere: the filters of an item would be theirs, too.
        self.beside: Any = manager.subset_hook_caller(hook.name, [*others, manager.get_plugin("warnings")])
        runner = [] if as_it_goes else [manager.get_plugin("runner")]
        self._shared = self._alone if alone else manager.subset_hook_caller(hook.name, runner)

    def of(self, *, retried: bool) -> Any:
        """The hook to call for a task, which may have retries."""
        return self._alone if retried else self._shared
