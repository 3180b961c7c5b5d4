"""One run of a workflow in code: the engine decides, a place executes, and everybody who is to know is told."""

from __future__ import annotations

import math
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.best_effort import BestEffort
from pytest_flowforge.core import model
from pytest_flowforge.core.branching import branch_of
from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, StopRequested, TaskMoved
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.model import Failure, FailureKind, Success, TaskId
from pytest_flowforge.core.ranking import ranks
from pytest_flowforge.core.states import FAILED_STATES, TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.driver import Driver, SystemClock
from pytest_flowforge.interrupts import Interrupts
from pytest_flowforge.ports import Finished
from pytest_flowforge.run_log import LOGGER, RunLogger
from pytest_flowforge.wording import plural, quoted
from pytest_flowforge.workflow.arrivals import Arrivals
from pytest_flowforge.workflow.calls import Body, Call, is_coroutine_function
from pytest_flowforge.workflow.checkpoints import NOTHING
from pytest_flowforge.workflow.executing import Here, place_of
from pytest_flowforge.workflow.runs import Run

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from pytest_flowforge.core.messages import Signal, StartAttempt
    from pytest_flowforge.ports import EventSink, Executor, Job
    from pytest_flowforge.workflow.checkpoints import Keeping
    from pytest_flowforge.workflow.executing import ExecutorChoice, Place
    from pytest_flowforge.workflow.graphs import Plan

__all__ = ["Cancelled", "Execution", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for each run of a scheduler."""

    executor: ExecutorChoice
    workers: int | None
    events: tuple[Callable[[Event], object], ...]
    max_failures: int | None
    seed: str
    keep_results: bool


class Cancelled(BaseException):
    """Whoever awaited the run does so no more; it ends as after Ctrl-C.

    No KeyboardInterrupt: that would end the event loop as well.
    """

    reason = "cancelled"


class Execution:
    """One run of *graph*, a part of that of *plan*; *stop* is set by other threads to have it stopped."""

    def __init__(
        self,
        name: str,
        options: Rules,
        plan: Plan,
        graph: TaskGraph,
        keeping: Keeping,
        notes: list[str],
        stop: threading.Event | None,
    ) -> None:
        self._name = name
        self._options = options
        self._plan = plan
        self._graph = graph
        self._keeping = keeping
        self._notes = notes
        self._stop = stop
        self._clock = SystemClock()
        self._interrupts = Interrupts()
        self._errors: dict[TaskId, BaseException] = {}
        self._failed = 0
        #: There once the run has been made ready.
        self._arrivals: Arrivals | None = None
        self._summary = Summary(task.id for task in graph)
        self._metrics = Metrics(graph)
        self._resumed = NOTHING

    def run(self, *, resume: bool) -> None:
        """Run it; raises what has interrupted it, and what has kept it from being kept."""
        keeping = self._keeping
        try:
            place = place_of(self._options.executor, self._options.workers, self._clock, self._interrupts, self._tell)
            if resume:
                self._resumed = keeping.resume(self._plan, self._graph)
            self._make_ready(place)
            keeping.begin(self._clock.now(), self._plan, self._graph, self._resumed, self._options.seed)
            try:
                with self._interrupts.serve(signal.SIGINT):
                    self._driver.run()
            finally:
                place.close()
        finally:
            keeping.close(self._seconds())
        if keeping.broken is not None:
            raise keeping.broken

    def outcome(self, resolve: Callable[[Any], str]) -> Run:
        """Return what has become of it so far."""
        states = {str(task): state for task, state in self._summary.states.items()}
        known = {} if self._arrivals is None else self._arrivals.kept
        results = {str(task): known[task] for task in self._summary.states if task in known}
        return Run(
            self._name,
            self._keeping.run,
            self._summary.snapshot(),
            MappingProxyType(states),
            MappingProxyType(results),
            MappingProxyType({str(task): error for task, error in self._errors.items()}),
            tuple(self._notes),
            resolve,
            self._metrics,
        )

    def _make_ready(self, place: Place) -> None:
        graph = self._graph
        if place.takes_coroutines:
            tasks = [self._fitted(task) for task in graph]
            if tasks != list(graph):
                graph = self._graph = TaskGraph.build(tasks, graph.pools)
        self._place = place
        self._bodies = {task.id: self._body(task.id) for task in graph}
        self._metrics = Metrics(graph)
        order = None if isinstance(place, Here) else ranks(graph, self._keeping.durations())
        policy = RunPolicy(slots=place.executor.slots, seed=self._options.seed)
        decision = self._resumed.decision
        refused = {task: _IN_DOUBT for task in decision.in_doubt if not self._plan.tasks[task].idempotent}
        self._engine = Engine(
            graph, policy, restored=self._resumed.reasons, branches=decision.branches, refused=refused, ranks=order
        )
        arrivals = self._arrivals = Arrivals(
            graph,
            self._plan.arriving,
            lambda task: self._keeping.load(task, decision.restored[task]),
            lambda: self._engine.stopped,
            keep_all=self._options.keep_results,
        )
        self._driver = Driver(
            self._engine,
            place.executor if self._stop is None else _Stoppable(place.executor, self._stop),
            partial(self._job, arrivals),
            self._sinks(arrivals),
            self._clock,
            partial(self._take_result, arrivals),
            ask=self._ask,
            conclude=self._conclude,
            grace=place.grace,
        )

    def _body(self, task: TaskId) -> Body:
        declared = self._plan.tasks[task]
        return Body(declared.func, declared.resources)

    def _fitted(self, task: model.Task) -> model.Task:
        """Return *task* such that it takes no thread if it is a coroutine, which shares the event loop."""
        if is_coroutine_function(self._plan.tasks[task.id].func):
            return replace(task, takes_slot=False)
        return task

    def _sinks(self, arrivals: Arrivals) -> list[EventSink]:
        # One that raises is named, and hears no more: the run is not to blame.
        handlers = [BestEffort(f"event handler {_called(one)}", one, self._tell) for one in self._options.events]
        logger = BestEffort("logger pytest_flowforge.run", RunLogger(lambda: self._keeping.run), self._notes.append)
        watchers = [logger, *handlers]
        return [self._summary.apply, arrivals, self._count, self._keep, self._metrics, *watchers]

    def _tell(self, sentence: str) -> None:
        self._notes.append(sentence)
        with suppress(Exception):
            # It may be a handler of the logger that has raised.
            LOGGER.warning("%s", sentence, extra={"run": self._keeping.run, "task": "", "attempt": 0})

    # Sinks.

    def _count(self, event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after in FAILED_STATES:
            self._failed += 1

    def _keep(self, event: Event) -> None:
        """Write *event* down, and let nothing come between."""
        self._interrupts.hold()
        try:
            self._keeping(event)
        finally:
            self._interrupts.let_go()

    # What the driver asks.

    def _ask(self) -> Signal | None:
        reason = str(self._keeping.broken or "")
        if self._stop is not None and self._stop.is_set():
            reason = reason or Cancelled.reason
            if not self._engine.running:
                # There is nothing that had to be interrupted, and clean-up is not to be.
                self._stop.clear()
        most = self._options.max_failures
        if most is not None and self._failed >= most:
            reason = f"stopping after {plural(self._failed, 'failure')}"
        if not reason or self._engine.stopped:
            return None
        return StopRequested(reason, self._clock.now())

    def _job(self, arrivals: Arrivals, command: StartAttempt) -> Job:
        task = command.task
        call = Call(self._bodies[task], arrivals.at(task))
        return self._place.job((task, command.attempt), call, self._plan.tasks[task].timeout)

    def _conclude(self, finished: Finished) -> Finished:
        """Return what has become of an attempt, which is in its call where that has come to an end."""
        finished = self._place.concluded(finished)
        call = finished.value
        if not isinstance(call, Call):
            self._errors.pop(finished.task, None)
            return finished
        outcome = call.outcome
        if isinstance(call.error, KeyboardInterrupt) and self._engine.stopped:
            # A terminal interrupts all processes, and a task that runs in one of them tells of it.
            outcome, call.error = Failure(FailureKind.INTERRUPTED, self._engine.stopped), None
        if isinstance(outcome, Success) and outcome.only is not None:
            outcome = self._branch(finished.task, outcome)
        if isinstance(outcome, Failure) and call.error is not None:
            self._errors[finished.task] = call.error
        else:
            self._errors.pop(finished.task, None)
        return Finished(finished.task, finished.attempt, outcome, call.value, call.measures)

    def _take_result(self, arrivals: Arrivals, task: TaskId, value: Any) -> int | None:
        """*task* has succeeded, and nobody knows yet: what it returned is kept first. Returns its size, if known."""
        size = self._keeping.put(task, value)
        arrivals.put(task, value)
        return size

    def _branch(self, task: TaskId, success: Success) -> Success | Failure:
        """Return *success* with the way on that its names mean, or a failure that says what is wrong with these."""
        downstream = self._plan.graph.downstream(task)
        chosen = []
        for name in success.only or ():
            found = [one for one in downstream if name in self._names_of(one)]
            if not found:
                known = ", ".join(map(quoted, downstream)) or "nothing"
                message = f"{task} returned only({quoted(name)}): of what depends on it directly, there is {known}"
                return Failure(message=message, longrepr=message)
            chosen += found
        return Success(success.only, branch_of(self._plan.graph, task, chosen))

    def _names_of(self, task: TaskId) -> tuple[str, ...]:
        func = self._plan.tasks[task].func
        plain = getattr(func, "__func__", func)
        name = getattr(plain, "__qualname__", "").replace(".", "::")
        module = str(getattr(plain, "__module__", "")).rpartition(".")[2]
        return task, f"flow_{task}", f"{module}::{name}"

    def _seconds(self) -> dict[TaskId, float]:
        now = self._summary.snapshot()
        return {task: took for task, took in now.durations.items() if now.states[task] is TaskState.SUCCESS}


_IN_DOUBT = "it may have done its work before, and is not idempotent: look whether it has, then run it without resume"


def _called(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


class _Stoppable:
    """An executor whose waits end when somebody on another thread wants the run to stop."""

    def __init__(self, executor: Executor, stop: threading.Event) -> None:
        self._executor = executor
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        """Wait in small steps; raise when the run is to stop."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            if self._stop.is_set():
                self._stop.clear()
                raise Cancelled
            finished = self._executor.wait(min(_STEP, max(until - time.monotonic(), 0.0)))
            if finished or time.monotonic() >= until:
                return finished


#: Seconds between two looks at whether the run is to stop.
_STEP = 0.05
