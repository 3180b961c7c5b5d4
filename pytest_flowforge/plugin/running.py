"""Running tasks one after the other in this process, each through pytest's own protocol.

The engine decides; this module carries out: it makes each attempt a call of ``pytest_runtest_protocol``, hands in the
results of upstreams, takes the returned value, and tells the outcome.
"""

from __future__ import annotations

import inspect
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.joining import Shape
from pytest_flowforge.core.messages import Event, Signal, StartAttempt, StopRequested, TaskMoved
from pytest_flowforge.core.model import Failure, Outcome
from pytest_flowforge.core.states import DONE, SUCCEEDED, TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.driver import Driver, SystemClock
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.plugin.coroutines import Caught, run_to_its_end
from pytest_flowforge.plugin.guard import Surroundings
from pytest_flowforge.plugin.listeners import Listeners
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.plugin.pytest_internals import OwnFixtures, SetupTree, call, keep_hook_proxies
from pytest_flowforge.plugin.reporting import Reporter
from pytest_flowforge.plugin.retrying import Retrying
from pytest_flowforge.ports import Job
from pytest_flowforge.results import NoResult, ValueStore

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.joining import Joined
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Needs

__all__ = ["Runner"]


class Runner:
    """One run in this process. Registered as a plugin while it lasts."""

    def __init__(
        self,
        session: pytest.Session,
        graph: TaskGraph,
        entries: Mapping[TaskId, Entry],
        needs: Mapping[TaskId, Needs],
        tell: Any,
    ) -> None:
        self._session = session
        self._graph = graph
        self._entries = entries
        self._needs = needs
        self.summary = Summary(task.id for task in graph)
        items = [entries[task.id].item for task in graph]
        self._caught = Caught(items)
        self._own_fixtures = OwnFixtures()
        for home in dict.fromkeys(entries[task.id].home for task in graph):
            self._own_fixtures.give([entry.item for entry in home.entries])
        self._tree = SetupTree(items, self._fill_in_parameters, self.comes_again)
        self._tree.install(session)
        self._surroundings = Surroundings()
        self._clock = SystemClock()
        self._engine = Engine(graph, RunPolicy(slots=1))
        #: For the tasks that look at results of upstreams: those upstreams.
        self._reads = {task.id: reads for task in graph if (reads := self._find_reads(task.id))}
        self._values = ValueStore(Counter(upstream for reads in self._reads.values() for upstream in reads))
        #: The last move of each task that ended without a result, for those who ask why.
        self._without: dict[TaskId, TaskMoved] = {}
        #: The task that runs now, and the attempt at it.
        self._item: pytest.Item | None = None
        self._attempt = Attempt(0, {})
        #: Tasks that may still run; pytest is told of a next item as long as there is one.
        self._left = len(graph)
        self._tell = tell

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Run all tasks of the graph; raises what interrupted the run, at its end."""
        config = self._session.config
        listeners = Listeners(config, self._graph, self.summary, self._tell)
        sinks: list[Any] = [self.summary.apply, self._remember, Reporter(self._entries, self._graph, self._tree)]
        if not listeners.idle:
            sinks.append(listeners)
        if any(task.retry.max_retries for task in self._graph):
            retrying = Retrying(self._graph, self.comes_again, self._tree)
            config.pluginmanager.register(retrying, "flowforge-retrying")
            sinks.append(retrying)
        driver = Driver(
            self._engine,
            InlineExecutor(self._clock),
            self._job,
            sinks,
            self._clock,
            self._values.put,
            ask=self._ask,
        )
        config.pluginmanager.register(self, "flowforge-runner")
        try:
            with self._own_fixtures.serve(self._session), keep_hook_proxies(self._session):
                driver.run()
        finally:
            config.pluginmanager.unregister(self)
            self._surroundings.close()

    @property
    def excused(self) -> set[TaskId]:
        """Tasks without an outcome because the run was stopped before or while they ran."""
        if not self._engine.stopped:
            return set()
        unfinished = (TaskState.PENDING, TaskState.INTERRUPTED)
        return {task for task, state in self._engine.states.items() if state in unfinished}

    def _ask(self) -> Signal | None:
        """Stop when pytest wants to stop: -x, --maxfail, a plugin that has seen enough."""
        reason = self._session.shouldfail or self._session.shouldstop
        if not reason or self._engine.stopped:
            return None
        return StopRequested(str(reason), self._clock.now())

    def _job(self, command: StartAttempt) -> Job:
        entry = self._entries[command.task]
        inputs = {name: self.arrival(joined) for name, joined in self._needs[command.task].parameters.items()}
        return Job(command.task, command.attempt, partial(self._perform, entry, Attempt(command.attempt, inputs)))

    def _perform(self, entry: Entry, attempt: Attempt) -> tuple[Outcome, Any]:
        item = entry.item
        self._item, self._attempt = item, attempt
        self._surroundings.enter(entry.name)
        # Any item will do: the tree of set-ups knows by itself what is still needed.
        nextitem = item if self._left > 1 else None
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        except BaseException:
            # Pytest itself leaves this to the end of the session; clean-up tasks run before that.
            self._tree.abandon()
            raise
        finally:
            self._item = None
            moved_to = self._surroundings.leave()
        if moved_to:
            self._tell(f"{entry.name} left the working directory at {moved_to}; it has been set back")
        return attempt.outcome(), self._caught.take(item, attempt.value)

    # ------------------------------------------------------------------ values

    def arrival(self, joined: Joined) -> Any:
        """What arrives under the name of an upstream: its result, or a dict of results by variant."""
        if joined.shape is Shape.VALUE:
            return self.result(joined.members[0][1])
        return {variant: self.result(task) for variant, task in joined.members}

    def result(self, task: TaskId) -> Any:
        """The result of *task*, or a :class:`NoResult` that says why there is none."""
        if self._engine.state(task) in SUCCEEDED:
            return self._values.get(task)
        move = self._without.get(task)
        name = self._graph[task].label
        if move is None:
            return NoResult(name, TaskState.PENDING.value, self._engine.stopped or "it has not run")
        error = move.outcome.message if isinstance(move.outcome, Failure) else None
        return NoResult(name, move.after.value, move.because or (error or ""), error)

    def arrival_for(self, item: pytest.Item, name: str) -> Any:
        """What arrives under *name* for the task *item*."""
        return self.arrival(self._needs[_id(item)].parameters[name])

    def upstream_of(self, item: pytest.Item) -> dict[str, Any]:
        """The results of all direct upstreams of *item* by task name."""
        return {key: self.result(task) for key, task in self._needs[_id(item)].by_key.items() if task in self._graph}

    def _find_reads(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* may look at."""
        needs = self._needs[task]
        if not needs.by_key:
            return frozenset()
        # With `request` at hand a task may ask for the fixture `upstream` as it runs.
        if not _ASKING.isdisjoint(self._entries[task].item.fixturenames):
            wanted = set(needs.by_key.values())
        else:
            wanted = {member for joined in needs.parameters.values() for _, member in joined.members}
        return frozenset(upstream for upstream in wanted if upstream in self._graph)

    def _remember(self, event: Event) -> None:
        """Keep what later tasks may ask for, give up what none will."""
        if not isinstance(event, TaskMoved) or event.after not in DONE:
            return
        self._left -= 1
        if event.after not in SUCCEEDED:
            self._without[event.task] = event
        for upstream in self._reads.get(event.task, ()):
            self._values.release(upstream)

    # ------------------------------------------------------------------ pytest's hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Call the task and keep what it returns, which pytest would warn about."""
        if pyfuncitem is not self._item:
            return None
        self._surroundings.call()
        if self._caught.is_run_by_another(pyfuncitem):
            return None
        value = call(pyfuncitem)
        self._attempt.value = run_to_its_end(value) if inspect.iscoroutine(value) else value
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
        task = self._graph[_id(item)]
        # Asked for every task at teardown: most have no retries and need no judgement.
        if not task.retry.max_retries:
            return False
        return self._engine.would_retry(task.id, self._attempt.number, self._attempt.outcome())

    def _fill_in_parameters(self, item: pytest.Item) -> None:
        """Set the parameters that name tasks; pytest asks fixtures for the others only."""
        self._surroundings.keep_streams()
        if item is self._item and self._attempt.inputs:
            item.funcargs.update(self._attempt.inputs)  # type: ignore[attr-defined]


_ASKING = frozenset({"request", "upstream"})


def _id(item: pytest.Item) -> TaskId:
    return item.nodeid  # type: ignore[return-value]
