"""One run: the engine decides, a backend executes, and everybody who is to know is told.

What is the same wherever tasks are executed stands here: stopping when pytest wants to stop, keeping before showing,
and holding Ctrl-C back in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.best_effort import BestEffort
from pytest_flowforge.core.messages import Event, Signal, StartAttempt, StopRequested
from pytest_flowforge.core.model import Success
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.driver import Driver
from pytest_flowforge.plugin.branches import Branches
from pytest_flowforge.plugin.expanding import Expander
from pytest_flowforge.plugin.listeners import ERRORS, Listeners
from pytest_flowforge.plugin.reporting import Reporter
from pytest_flowforge.ports import Finished
from pytest_flowforge.report import text
from pytest_flowforge.run_log import RunLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.plugin.backends import Backend, Work
    from pytest_flowforge.ports import EventSink, Job

__all__ = ["Runner"]


class Runner:
    """One run.

    ``make_backend`` returns where its tasks are executed.
    """

    def __init__(self, work: Work, make_backend: Callable[[Work], Backend]) -> None:
        self.summary = Summary(task.id for task in work.graph)
        self._interrupts = work.interrupts
        self._work = work
        self._engine = work.engine
        self.backend = make_backend(work)
        self._branches = Branches(work.entries, work.blueprint, work.graph.pools)
        expanded = [task for task, instances in work.blueprint.instances.items() if instances]
        config = work.session.config
        self._reporter = Reporter(
            work.entries,
            self.backend.release,
            expanded,
            properties=bool(config.getini("flowforge_junit_properties")),
            notes=config.get_verbosity() > 0,
        )
        #: Who else is told of events, first.
        self.sinks: list[EventSink] = []
        #: Who is told of events that have been kept and made known to pytest.
        self._watchers: list[EventSink] = []
        self.watch("logger pytest_flowforge.run", RunLogger(self.run_id))

    def watch(self, name: str, sink: EventSink) -> None:
        """Tell *sink* of all events that have been kept and made known; should it fail, that is said of *name*."""
        self._watchers.append(BestEffort(name, sink, self._work.tell, ERRORS))

    def run(self) -> None:
        """Run all tasks of the graph; raises what interrupted the run, at its end."""
        backend = self.backend
        driver = Driver(
            self._engine,
            backend.executor,
            self._job,
            self._sinks(),
            self._work.clock,
            self._take_result,
            conclude=self._conclude,
            ask=self._ask,
            grace=backend.grace,
            # An Exception, and still a request to stop, wherever it comes out.
            fatal=(pytest.exit.Exception,),
            expand=Expander(self._work, backend, self._reporter),
        )
        try:
            with self._interrupts.serve(), backend.serve(self._reporter):
                driver.run()
        finally:
            for sentence in self._about_retries():
                self._work.tell(sentence)

    def _about_retries(self) -> Iterator[str]:
        """What is to be said of retries besides what is reported of each attempt."""
        graph = self._work.graph
        denied = self._engine.denied
        if denied:
            names = text.enumerated([graph[task] for task in denied], graph)
            yield f"not tried again, because the retries of the run (--ff-max-retries-total) are used up: {names}"
        troubles: dict[str, list[Task]] = {}
        for task in graph:
            trouble = getattr(task.retry.wait, "trouble", "")
            # The tasks of a mapped one share its strategy with it, and it is never tried itself.
            if trouble and task.id in self.summary.attempts:
                troubles.setdefault(trouble, []).append(task)
        for trouble, tasks in troubles.items():
            yield f"{trouble}; tried again without a wait: {text.enumerated(tasks, graph)}"

    def _sinks(self) -> list[EventSink]:
        """Who is told of events, in this order: nothing is shown before it is kept."""
        work = self._work
        sinks: list[EventSink] = [*self.sinks, self.summary.apply, *self.backend.sinks]
        work.checkpointing.begin(work.clock.now(), work.graph, work.entries, work.blueprint, work.reuse)
        sinks.append(self._keep_and_show)
        sinks += self._watchers
        listeners = Listeners(work.session.config, work.graph, self.summary, work.tell)
        if not listeners.idle:
            sinks.append(listeners)
        return sinks

    def _keep_and_show(self, event: Event) -> None:
        """Write *event* down, then tell pytest of it, and let nothing come between."""
        self._interrupts.hold()
        try:
            keeper = self._work.checkpointing.keeper
            if keeper is not None:
                keeper(event)
            self._reporter(event)
        finally:
            self._interrupts.let_go()

    def _conclude(self, finished: Finished) -> Finished:
        """Return what has become of an attempt, with the names that it goes on with as what they mean."""
        finished = self.backend.conclude(finished)
        outcome = finished.outcome
        if not isinstance(outcome, Success) or outcome.only is None:
            return finished
        chosen = self._branches.chosen(finished.task, outcome)
        return Finished(finished.task, finished.attempt, chosen, finished.value, finished.measures)

    def _take_result(self, task: TaskId, value: Any) -> int | None:
        """*task* has succeeded, and nobody knows yet: what it returned is kept first. Returns its size, if known."""
        size = self.backend.keep(task, value)
        self._work.checkpointing.made(task)
        return size

    def run_id(self) -> str:
        """Return the id under which the run is kept; empty where it is not, and before it has begun."""
        keeper = self._work.checkpointing.keeper
        return keeper.run if keeper is not None else ""

    @property
    def seconds(self) -> dict[TaskId, float]:
        """How long the tasks took that have succeeded."""
        now = self.summary.snapshot()
        return {task: took for task, took in now.durations.items() if now.states[task] is TaskState.SUCCESS}

    @property
    def excused(self) -> set[TaskId]:
        """Tasks without an outcome because the run was stopped before or while they ran."""
        if not self._engine.stopped:
            return set()
        unfinished = (TaskState.PENDING, TaskState.INTERRUPTED)
        return {task for task, state in self._engine.states.items() if state in unfinished}

    def _ask(self) -> Signal | None:
        """Stop when pytest wants to stop: -x, --maxfail, a plugin that has seen enough."""
        keeper, session = self._work.checkpointing.keeper, self._work.session
        broken = keeper.broken if keeper is not None else None
        session.shouldfail = self._work.time.is_up() or session.shouldfail
        reason = broken or session.shouldfail or session.shouldstop
        if not reason or self._engine.stopped:
            return None
        return StopRequested(str(reason), self._work.clock.now())

    def _job(self, command: StartAttempt) -> Job:
        work = self._work
        if command.task in work.blueprint.rules:
            before = work.reuse.fingerprints.get(command.task)
            if before is not None:
                work.checkpointing.starting(command.task, before, work.blueprint)
        return self.backend.job(command)
