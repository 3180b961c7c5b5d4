"""Running tasks one after the other in this process, each through pytest's own protocol.

The engine decides; this module carries out: it makes each attempt a call of ``pytest_runtest_protocol``, hands in the
results of upstreams, takes the returned value, and tells the outcome.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.messages import AttemptFinished, Event, Signal, StartAttempt, StopRequested, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Outcome
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.driver import Driver, SystemClock
from pytest_flowforge.errors import ResultError
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.plugin.coroutines import Caught, run_to_its_end
from pytest_flowforge.plugin.entries import task_id
from pytest_flowforge.plugin.guard import Surroundings
from pytest_flowforge.plugin.interrupts import Interrupts
from pytest_flowforge.plugin.listeners import Listeners
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.plugin.pytest_internals import OwnFixtures, SetupTree, call, keep_hook_proxies, run_attempt
from pytest_flowforge.plugin.reporting import Reporter
from pytest_flowforge.plugin.values import Reading, Values
from pytest_flowforge.ports import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.plugin.checkpointing import Checkpointing, Reuse
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.ports import EventSink

__all__ = ["Runner"]


class Runner:
    """One run in this process. Registered as a plugin while it lasts.

    ``reuse`` tells what stands of earlier runs, ``checkpointing`` keeps this one; ``tell`` takes sentences for people.
    """

    def __init__(
        self,
        session: pytest.Session,
        graph: TaskGraph,
        entries: Mapping[TaskId, Entry],
        blueprint: Blueprint,
        reuse: Reuse,
        checkpointing: Checkpointing,
        tell: Callable[[str], None],
    ) -> None:
        self._session = session
        self._graph = graph
        self._entries = entries
        self._blueprint = blueprint
        self._reuse = reuse
        self._checkpointing = checkpointing
        self._tell = tell
        self.summary = Summary(task.id for task in graph)
        items = [entries[task.id].item for task in graph]
        self._caught = Caught(items)
        self._own_fixtures = OwnFixtures()
        for home in dict.fromkeys(entries[task.id].home for task in graph):
            self._own_fixtures.give([entry.item for entry in home.entries])
        self._tree = SetupTree(items, self._fill_in_parameters, self.comes_again)
        self._tree.install(session)
        self._surroundings = Surroundings(self._cut_off)
        self._reporter = Reporter(entries, self._tree)
        self._interrupts = Interrupts()
        self._clock = SystemClock()
        self._engine = Engine(graph, RunPolicy(slots=1), restored=reuse.because, refused=reuse.refused)
        self.values = self._make_values()
        #: The task that runs now, and the attempt at it.
        self._item: pytest.Item | None = None
        self._attempt = Attempt(0, {})
        #: Tasks that may still run; pytest is told of a next item as long as there is one.
        self._left = len(graph)

    def _make_values(self) -> Values:
        keeper, archive = self._checkpointing.keeper, self._checkpointing.archive
        fresh = self._checkpointing.isolates

        def load(record: TaskRecord) -> Any:
            return archive.load(record, fresh=fresh) if archive is not None else None

        return Values(
            self._graph,
            self._blueprint.needs,
            Reading(self._entries, self._blueprint.needs),
            {**self._reuse.outside, **self._reuse.restored},
            load,
            stopped=lambda: self._engine.stopped,
            fresh=keeper.load if fresh and keeper is not None else None,
        )

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Run all tasks of the graph; raises what interrupted the run, at its end."""
        config = self._session.config
        self._driver = Driver(
            self._engine,
            InlineExecutor(self._clock),
            self._job,
            self._sinks(config),
            self._clock,
            self._take_result,
            ask=self._ask,
        )
        config.pluginmanager.register(self, "flowforge-runner")
        self._protocols = Protocols(config, self)
        try:
            with (
                self._interrupts.serve(),
                self._own_fixtures.serve(self._session),
                keep_hook_proxies(self._session),
            ):
                self._driver.run()
        finally:
            config.pluginmanager.unregister(self)
            self._surroundings.close()

    def _sinks(self, config: pytest.Config) -> list[EventSink]:
        """Who is told of events, in this order: nothing is shown before it is kept."""
        sinks: list[EventSink] = [self.summary.apply, self._count_down, self.values]
        self._checkpointing.begin(self._clock.now(), self._graph, self._entries, self._blueprint, self._reuse)
        sinks.append(self._keep_and_show)
        listeners = Listeners(config, self._graph, self.summary, self._tell)
        if not listeners.idle:
            sinks.append(listeners)
        return sinks

    def _keep_and_show(self, event: Event) -> None:
        """Write *event* down, then tell pytest of it, and let nothing come between."""
        self._interrupts.hold()
        try:
            keeper = self._checkpointing.keeper
            if keeper is not None:
                keeper(event)
            self._reporter(event)
        finally:
            self._interrupts.let_go()

    def _count_down(self, event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after in DONE:
            self._left -= 1

    def _take_result(self, task: TaskId, value: Any) -> None:
        """*task* has succeeded, and nobody knows yet: what it returned is kept first."""
        keeper = self._checkpointing.keeper
        stored = keeper is not None and keeper.put(task, self._graph[task].label, value)
        self.values.put(task, value, stored=stored)
        self._checkpointing.made(task)

    def _cut_off(self, status: int) -> None:
        """The task that runs calls ``os._exit``: write down what can still be said."""
        keeper = self._checkpointing.keeper
        if keeper is not None and self._item is not None:
            crash = Failure(FailureKind.CRASHED, f"called os._exit({status})")
            end = AttemptFinished(task_id(self._item), self._attempt.number, crash, self._clock.now())
            for event in self._engine.handle(end, hold=True).events:
                keeper(event)
            keeper.save()

    @property
    def excused(self) -> set[TaskId]:
        """Tasks without an outcome because the run was stopped before or while they ran."""
        if not self._engine.stopped:
            return set()
        unfinished = (TaskState.PENDING, TaskState.INTERRUPTED)
        return {task for task, state in self._engine.states.items() if state in unfinished}

    def _ask(self) -> Signal | None:
        """Stop when pytest wants to stop: -x, --maxfail, a plugin that has seen enough."""
        keeper = self._checkpointing.keeper
        broken = keeper.broken if keeper is not None else None
        reason = broken or self._session.shouldfail or self._session.shouldstop
        if not reason or self._engine.stopped:
            return None
        return StopRequested(str(reason), self._clock.now())

    def _job(self, command: StartAttempt) -> Job:
        entry = self._entries[command.task]
        if command.task in self._blueprint.rules:
            before = self._reuse.fingerprints.get(command.task)
            if before is not None:
                self._checkpointing.starting(command.task, before, self._blueprint)
        try:
            inputs = self.values.arrivals(command.task)
        except ResultError as error:
            # Kept, and not to be had any more: an end like any other, which pytest is to know of.
            return Job(command.task, command.attempt, partial(self._miss, entry, str(error)))
        return Job(command.task, command.attempt, partial(self._perform, entry, Attempt(command.attempt, inputs)))

    def _miss(self, entry: Entry, text: str) -> tuple[Outcome, None]:
        self._reporter.hold_failure(entry.id, text)
        return Failure(message=text, longrepr=text), None

    def _perform(self, entry: Entry, attempt: Attempt) -> tuple[Outcome, Any]:
        item = entry.item
        self._item, self._attempt = item, attempt
        self._surroundings.enter(entry.name)
        # Any item will do: the tree of set-ups knows by itself what is still needed.
        nextitem = item if self._left > 1 else None
        try:
            self._protocols.of(self._graph[entry.id])(item=item, nextitem=nextitem)
        except BaseException:
            # Pytest itself leaves this to the end of the session; clean-up tasks run before that.
            self._tree.abandon()
            raise
        finally:
            self._item = None
            moved_to = self._surroundings.leave()
        if attempt.reports is not None:
            self._reporter.hold(entry.id, attempt.reports)
        if moved_to:
            self._tell(f"{entry.name} left the working directory at {moved_to}; it has been set back")
        return attempt.outcome(), self._caught.take(item, attempt.value)

    # ------------------------------------------------------------------ pytest's hooks

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Make the attempt, as pytest does it, and keep its reports until it is known what they mean."""
        if item is not self._item:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._attempt.reports = run_attempt(item, nextitem)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Call the task and keep what it returns, which pytest would warn about."""
        if pyfuncitem is not self._item:
            return None
        self._surroundings.call()
        if self._caught.is_run_by_another(pyfuncitem):
            return None
        try:
            value = call(pyfuncitem)
            self._attempt.value = run_to_its_end(value) if inspect.iscoroutine(value) else value
        finally:
            self._surroundings.returned()
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if item is self._item:
            self._attempt.note(report, None if call.excinfo is None else call.excinfo.value)
        return report

    def comes_again(self, item: pytest.Item) -> bool:
        """Whether the attempt at *item*, as far as it has come, will be followed by another."""
        task = self._graph[task_id(item)]
        # Asked for every task at teardown: most have no retries and need no judgement.
        if not task.retry.max_retries:
            return False
        return self._engine.would_retry(task.id, self._attempt.number, self._attempt.outcome())

    def _fill_in_parameters(self, item: pytest.Item) -> None:
        """Set the parameters that name tasks; pytest asks fixtures for the others only."""
        self._surroundings.keep_streams()
        if item is self._item and self._attempt.inputs:
            item.funcargs.update(self._attempt.inputs)  # type: ignore[attr-defined]


class Protocols:
    """Who runs an attempt: the hook ``pytest_runtest_protocol`` without those who are not to answer it.

    That is pytest itself, whose place *ours* takes. Other plugins that run tests (pytest-rerunfailures) come before us,
    but for tasks with retries, which are ours to repeat. With ``--pdb`` and ``--setup-show`` pytest goes its own way:
    how a task ended is then shown before the debugger opens, and before fixtures are torn down.
    """

    def __init__(self, config: pytest.Config, ours: object) -> None:
        manager, hook = config.pluginmanager, config.hook.pytest_runtest_protocol
        impls = [impl for impl in hook.get_hookimpls() if not (impl.wrapper or impl.hookwrapper)]
        others = [impl.plugin for impl in impls if impl.plugin is not ours]
        self._alone = manager.subset_hook_caller(hook.name, others)
        as_it_goes = config.option.usepdb or config.option.setupshow
        runner = [] if as_it_goes else [manager.get_plugin("runner")]
        self._shared = manager.subset_hook_caller(hook.name, runner)

    def of(self, task: Task) -> Any:
        """The hook to call for *task*."""
        return self._alone if task.retry.max_retries else self._shared
