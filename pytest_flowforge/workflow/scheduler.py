"""Running the tasks of a graph in code: the same engine and driver as in a test session, and nothing of pytest.

Nothing is printed: what happens is logged to ``pytest_flowforge.run``, told to ``events``, and is in the
:class:`~pytest_flowforge.workflow.runs.Run` that is returned.
"""

from __future__ import annotations

import math
import secrets
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from pytest_flowforge.best_effort import BestEffort
from pytest_flowforge.core import model
from pytest_flowforge.core.branching import branch_of
from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph as CoreGraph
from pytest_flowforge.core.messages import Event, StopRequested, TaskMoved
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.model import Failure, FailureKind, Success, TaskId
from pytest_flowforge.core.ranking import ranks
from pytest_flowforge.core.selection import select
from pytest_flowforge.core.states import DONE, FAILED_STATES, SUCCEEDED, TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.driver import Driver, SystemClock
from pytest_flowforge.errors import UnknownTask, WorkflowError
from pytest_flowforge.interrupts import Interrupts
from pytest_flowforge.ports import Finished
from pytest_flowforge.results import Absences, ValueStore
from pytest_flowforge.rules import BadRule, whole
from pytest_flowforge.run_log import LOGGER, RunLogger
from pytest_flowforge.wording import plural, quoted
from pytest_flowforge.workflow.calls import Body, Call, is_coroutine_function
from pytest_flowforge.workflow.checkpoints import NOTHING, Checkpoint, InMemory, OnDisk
from pytest_flowforge.workflow.executing import Here, place_of
from pytest_flowforge.workflow.graphs import TaskGraph
from pytest_flowforge.workflow.replacing import replaced
from pytest_flowforge.workflow.runs import Run
from pytest_flowforge.workflow.tasks import several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowforge.core.messages import Signal, StartAttempt
    from pytest_flowforge.ports import EventSink, Executor, Job
    from pytest_flowforge.workflow.checkpoints import Keeping
    from pytest_flowforge.workflow.executing import ExecutorChoice, Place
    from pytest_flowforge.workflow.graphs import Plan
    from pytest_flowforge.workflow.tasks import Reference

    #: Something that is called with every event.
    Handler: TypeAlias = Callable[[Event], object]

    class Options(TypedDict, total=False):
        """The options of a :class:`Scheduler`."""

        name: str
        executor: ExecutorChoice
        workers: int | None
        events: Handler | Iterable[Handler]
        checkpoint: Checkpoint | str | Path | None
        max_failures: int | None
        seed: str
        keep_results: bool


__all__ = ["Past", "Scheduler"]


class Past:
    """What is remembered in this process of the runs of a graph."""

    def __init__(self) -> None:
        #: The run that ended last, also when it was interrupted; None before.
        self.run: Run | None = None
        self.memory: InMemory | None = None
        self.runs = 0
        #: Held while there is a run: there is one at a time.
        self.busy = threading.Lock()


class Scheduler:
    """Runs the tasks of *graph*, as often as it is asked to, one run at a time.

    ``executor`` is ``"local"`` (one after the other on this thread), ``"thread"``, ``"process"``, a
    :class:`concurrent.futures.Executor`, or a function that makes one for a number of workers; ``workers`` is how many
    tasks run at a time. ``events`` are called with every event, in order, on the thread that runs. With ``checkpoint``,
    a folder or a :class:`Checkpoint`, runs are kept on disk; without, the last one is remembered. After
    ``max_failures`` failed tasks no other begins but for clean-up. ``seed`` makes the jitter of retries reproducible.
    Without ``keep_results`` only those of tasks that nobody waits for are kept to the end; without a checkpoint, the
    others are then not remembered either.

    Raises :class:`~pytest_flowforge.errors.WorkflowError` for options that can not be met.
    """

    def __init__(  # noqa: PLR0913 - all but the first are options with a default
        self,
        graph: TaskGraph,
        *,
        name: str = "",
        executor: ExecutorChoice = "local",
        workers: int | None = None,
        events: Handler | Iterable[Handler] = (),
        checkpoint: Checkpoint | str | Path | None = None,
        max_failures: int | None = None,
        seed: str = "",
        keep_results: bool = True,
    ) -> None:
        self._graph = _checked_graph(graph)
        self.name = name
        self._checkpoint = _checked_checkpoint(checkpoint)
        try:
            whole("run", "max_failures", 1 if max_failures is None else max_failures, least=1)
        except BadRule as error:
            raise WorkflowError(str(error)) from None
        self._options = _Rules(
            executor, workers, _handlers(events), max_failures, seed or secrets.token_hex(4), keep_results
        )
        self.past = Past()

    def run(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
    ) -> Run:
        """Run all tasks, or *targets* and what they need, and return what became of them; a failure is no exception.

        With *resume* tasks are reused that succeeded in the last run (or in that with the given id) and are made of the
        same. *replace* has functions to be called, or values to be taken, in the place of tasks; what only these
        needed does not run.

        Ctrl-C stops the run in order and is raised in the end. Raises :class:`~pytest_flowforge.errors.GraphError` for
        tasks that do not fit together, :class:`~pytest_flowforge.errors.WorkflowError` when it runs already, and
        :class:`~pytest_flowforge.errors.CheckpointError`.
        """
        return self._run(targets, resume, replace, None)

    async def arun(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
    ) -> Run:
        """Do the same as :meth:`run` on another thread; cancelled, it stops the run in order first."""
        import asyncio  # noqa: PLC0415 - others need not pay for it

        stop = threading.Event()
        running = asyncio.ensure_future(asyncio.to_thread(self._run, targets, resume, replace, stop))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            with suppress(_Cancelled):
                await running
            raise

    def _run(
        self,
        targets: Any,
        resume: bool | str,  # noqa: FBT001 - what run() was given
        replace: Mapping[str, Any],
        stop: threading.Event | None,
    ) -> Run:
        graph = replaced(self._graph, replace) if replace else self._graph
        plan = graph.plan()
        chosen = _chosen(graph, plan, targets, self._graph)
        past = self.past
        if not past.busy.acquire(blocking=False):
            msg = f"{self.name or 'this workflow'} runs already: wait for that run, or make another Workflow"
            raise WorkflowError(msg)
        try:
            past.runs += 1
            notes: list[str] = []
            keeping = self._keeping(notes.append, resume if isinstance(resume, str) else "")
            execution = _Execution(self.name, self._options, plan, chosen, keeping, notes, stop)
            try:
                execution.run(resume=bool(resume))
            finally:
                past.run = execution.outcome(lambda task: _name_in(graph, task))
            return past.run
        finally:
            past.busy.release()

    def _keeping(self, tell: Callable[[str], None], run: str) -> Keeping:
        if self._checkpoint is not None:
            return OnDisk(self._checkpoint, tell, run)
        if run:
            msg = f"resume={quoted(run)}: only the last run is remembered without checkpoint="
            raise WorkflowError(msg)
        self.past.memory = InMemory(self.past.runs, self.past.memory, keep_results=self._options.keep_results)
        return self.past.memory


def _checked_graph(graph: Any) -> TaskGraph:
    if isinstance(graph, TaskGraph):
        return graph
    msg = f"Scheduler({quoted(graph)}): give a TaskGraph, as in Scheduler(TaskGraph(tasks)); a Workflow runs itself"
    raise WorkflowError(msg)


def _checked_checkpoint(given: Any) -> Checkpoint | None:
    if given is None or isinstance(given, Checkpoint):
        return given
    if isinstance(given, (str, Path)) and str(given):
        return Checkpoint(given)
    msg = f"checkpoint={quoted(given)}: give a folder, or a Checkpoint"
    raise WorkflowError(msg)


def _handlers(events: Any) -> tuple[Handler, ...]:
    handlers = several(events)
    for handler in handlers:
        if not callable(handler):
            msg = f"events={quoted(handler)}: give a function that is called with each event, or several"
            raise WorkflowError(msg)
        if is_coroutine_function(handler):
            msg = f"events={quoted(handler)}: nobody awaits it; give a function that is no coroutine function"
            raise WorkflowError(msg)
    return handlers


def _name_in(graph: TaskGraph, task: Any) -> str:
    """Return what *task*, a task, its name or its function, is called; as it is where the graph has none such."""
    try:
        return graph[task].name
    except UnknownTask:
        return str(getattr(task, "__qualname__", task))


@dataclass(frozen=True, slots=True)
class _Rules:
    """What holds for each run of a scheduler."""

    executor: ExecutorChoice
    workers: int | None
    events: tuple[Handler, ...]
    max_failures: int | None
    seed: str
    keep_results: bool


def _chosen(graph: TaskGraph, plan: Plan, targets: Any, original: TaskGraph) -> CoreGraph:
    """Return the part of the graph that is to run."""
    if targets is not None:
        names = [TaskId(graph[target].name) for target in several(targets)]
    elif original is graph:
        return plan.graph
    else:
        # What nobody waits for is what a run is about; what only replaced tasks needed is not.
        names = [TaskId(name) for name in original.ends()]
    return plan.graph.restrict(select(plan.graph, names).all)


class _Cancelled(BaseException):
    """Whoever awaited the run does so no more; it ends as after Ctrl-C.

    No KeyboardInterrupt: that would end the event loop as well.
    """

    reason = "cancelled"


class _Execution:
    """One run of *graph*, a part of that of *plan*; *stop* is set by other threads to have it stopped."""

    def __init__(
        self,
        name: str,
        options: _Rules,
        plan: Plan,
        graph: CoreGraph,
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
        self._results: dict[TaskId, Any] = {}
        self._errors: dict[TaskId, BaseException] = {}
        self._failed = 0
        self._summary = Summary(task.id for task in graph)
        self._metrics = Metrics(graph)
        self._resumed = NOTHING

    def run(self, *, resume: bool) -> None:
        """Run it; raises what has interrupted it, and what has kept it from being kept."""
        keeping = self._keeping
        try:
            place = place_of(self._options.executor, self._options.workers, self._clock, self._interrupts)
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
        results = {str(task): self._results[task] for task in self._summary.states if task in self._results}
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
                graph = self._graph = CoreGraph.build(tasks, graph.pools)
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
        self._absences = Absences(graph, {}, lambda: self._engine.stopped)
        self._values = ValueStore({task.id: frozenset(self._plan.arriving[task.id].read) for task in graph})
        self._driver = Driver(
            self._engine,
            place.executor if self._stop is None else _Stoppable(place.executor, self._stop),
            self._job,
            self._sinks(),
            self._clock,
            self._take_result,
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

    def _sinks(self) -> list[EventSink]:
        # One that raises is named, and hears no more: the run is not to blame.
        handlers = [BestEffort(f"event handler {_called(one)}", one, self._tell) for one in self._options.events]
        logger = BestEffort("logger pytest_flowforge.run", RunLogger(lambda: self._keeping.run), self._notes.append)
        watchers = [logger, *handlers]
        return [self._summary.apply, self._note, self._keep, self._metrics, *watchers]

    def _tell(self, sentence: str) -> None:
        self._notes.append(sentence)
        with suppress(Exception):
            # It may be a handler of the logger that has raised.
            LOGGER.warning("%s", sentence, extra={"run": self._keeping.run, "task": "", "attempt": 0})

    # Sinks.

    def _note(self, event: Event) -> None:
        """Keep in mind why a task has no result; give up what no task will ask for any more."""
        if not isinstance(event, TaskMoved) or event.after not in DONE:
            return
        if event.after not in SUCCEEDED:
            self._absences(event)
        elif event.after is TaskState.REUSED and self._is_wanted(event.task):
            self._restore(event.task)
        expected = isinstance(event.outcome, Failure) and event.outcome.expected
        self._failed += event.after in FAILED_STATES and not expected
        self._values.done(event.task)

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
            reason = reason or _Cancelled.reason
            if not self._engine.running:
                # There is nothing that had to be interrupted, and clean-up is not to be.
                self._stop.clear()
        most = self._options.max_failures
        if most is not None and self._failed >= most:
            reason = f"stopping after {plural(self._failed, 'failure')}"
        if not reason or self._engine.stopped:
            return None
        return StopRequested(reason, self._clock.now())

    def _job(self, command: StartAttempt) -> Job:
        task = command.task
        declared, arriving = self._plan.tasks[task], self._plan.arriving[task]
        inputs = {name: self._result(upstream) for name, upstream in arriving.results.items()}
        inputs.update(arriving.values)
        if arriving.upstream is not None:
            names = {name: one for name, one in arriving.upstream.items() if one in self._graph}
            inputs["upstream"] = {name: self._result(one) for name, one in names.items()}
        call = Call(self._bodies[task], inputs)
        return self._place.job((task, command.attempt), call, declared.timeout)

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

    def _take_result(self, task: TaskId, value: Any) -> int | None:
        """*task* has succeeded, and nobody knows yet: what it returned is kept first. Returns its size, if known."""
        size = self._keeping.put(task, value)
        self._values.put(task, value)
        if self._is_asked_for(task):
            self._results[task] = value
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

    # Results.

    def _is_asked_for(self, task: TaskId) -> bool:
        """Whether the result of *task* is to be had when the run is over."""
        return self._options.keep_results or not self._graph.downstream(task)

    def _is_wanted(self, task: TaskId) -> bool:
        return self._is_asked_for(task) or task in self._values.wanted

    def _restore(self, task: TaskId) -> None:
        value = self._keeping.load(task, self._resumed.decision.restored[task])
        self._values.put(task, value)
        if self._is_asked_for(task):
            self._results[task] = value

    def _result(self, task: TaskId) -> Any:
        try:
            return self._values.get(task)
        except KeyError:
            return self._absences.of(task)

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
                raise _Cancelled
            finished = self._executor.wait(min(_STEP, max(until - time.monotonic(), 0.0)))
            if finished or time.monotonic() >= until:
                return finished


#: Seconds between two looks at whether the run is to stop.
_STEP = 0.05
