"""Running the calls of tasks in pools, with set-up, teardown and reports on the main thread.

Only the call leaves: pytest, its plugins and fixtures are made for one thread. A pool is ours, of daemon threads with
an event loop beside them for coroutines, or whatever has the interface of :class:`concurrent.futures.Executor`.
"""

from __future__ import annotations

import dataclasses
import re
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge import measuring
from pytest_flowforge.call_limits import CallLimits, Limited
from pytest_flowforge.core.messages import Event, StartAttempt, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Success
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.errors import ResultError
from pytest_flowforge.executors.futures import FuturesExecutor
from pytest_flowforge.executors.standby import Standby
from pytest_flowforge.hands import Hands
from pytest_flowforge.plugin import bodies
from pytest_flowforge.plugin.attempts import Attempts
from pytest_flowforge.plugin.attribution import Attribution
from pytest_flowforge.plugin.backends import Backend
from pytest_flowforge.plugin.bodies import Body
from pytest_flowforge.plugin.last_resort import LastResort
from pytest_flowforge.plugin.limits import time_out_text
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.plugin.own_desk import HERE
from pytest_flowforge.plugin.pytest_internals import (
    Capturing,
    ends_processes_late,
    time_settings,
    warning_filters,
    whole_run,
)
from pytest_flowforge.plugin.values import Values
from pytest_flowforge.ports import Finished, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor as Pool

    from pytest_flowforge.core.model import Measures, TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.executors.futures import Decode, Prepare
    from pytest_flowforge.plugin.backends import Holding, Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.ports import EventSink, Executor, Key

__all__ = ["PoolBackend", "as_it_came", "body_of"]

#: Seconds that tasks have to end when the run is interrupted; nobody can stop a thread.
_GRACE = 2.0


class PoolBackend(Backend):
    """Sets tasks up on this thread, has them called in a pool, and takes them in again on this thread.

    ``make_pool`` returns the pool; ``prepare`` and ``decode`` are how a call travels there and back.
    """

    grace = _GRACE
    #: Whether calls, or what they start, may write to what pytest captures.
    writes_here = True

    def __init__(
        self,
        work: Work,
        make_pool: Callable[[], Pool],
        workers: int,
        *,
        prepare: Prepare,
        decode: Decode,
    ) -> None:
        self._work = work
        self._last_resort = LastResort(work.grace, taken=ends_processes_late(work.session.config))
        self._attempts = Attempts(
            work.session,
            [work.entries[task.id] for task in work.graph],
            work.comes_again,
            lambda *_: None,
            work.tell,
            is_asked_for=work.interrupts.is_asked_for,
            watch=self._last_resort,
            at_once=True,
        )
        self._workers = workers
        self._pool = FuturesExecutor(make_pool, workers, work.clock, prepare=prepare, decode=decode)
        #: Where calls are made once there is no pool any more.
        self._threads: FuturesExecutor | None = None
        self._capturing = Capturing(work.session.config)
        self._standby = Standby(self._pool, self._stand_in)
        self._limits = CallLimits(lambda key: self._calls.has_begun(*key))
        executor: Any = _Aside(self._standby, self._capturing) if self.writes_here else self._standby
        self.executor: Executor = Limited(executor, self._limits, self._give_up)
        self.values = Values.of(work)
        self.sinks: Sequence[EventSink] = (self.values, self._on_event)
        self._attribution = Attribution(work.session.config)
        #: What attempts have taken that were made on this thread, until their ends are looked at.
        self._made_here: dict[Key, Measures] = {}
        #: What has been set up and is not torn down, and when that began, by the monotonic clock.
        self._open: dict[Key, tuple[Entry, Attempt, float]] = {}

    @contextmanager
    def serve(self, holding: Holding) -> Iterator[None]:
        self._holding = holding
        items = [self._work.entries[task.id].item for task in self._work.graph]
        # Now, while nobody else warns: what is looked at are the filters of the process.
        filters = self._attribution.filters
        filters.update((item, own) for item in items if (own := warning_filters(item)) is not None)
        with ExitStack() as stack:
            stack.enter_context(self._last_resort)
            stack.callback(self._limits.close)
            stack.enter_context(self._attempts.serve(alone=True, attribution=self._attribution))
            stack.enter_context(self._attempts.stand_by())
            stack.enter_context(self._attribution.serve())
            if items:
                stack.enter_context(whole_run(self._work.session.config, items[0]))
            yield
        stray = self._capturing.stray()
        if stray:
            self._work.tell(f"printed by what tasks have started, and kept by nobody:\n{stray}")

    def job(self, command: StartAttempt) -> Job:
        entry = self._work.entries[command.task]
        key = (command.task, command.attempt)
        try:
            inputs = self._inputs(entry)
        except ResultError as error:
            self._holding.hold_failure(entry.id, str(error))
            return Job(*key, partial(_ended, Failure(message=str(error), longrepr=str(error)), None))
        attempt = Attempt(command.attempt, inputs)
        self._work.interrupts.forget()
        if self._stays_here(entry):
            retried = bool(self._work.graph[entry.id].retry.max_retries)
            before = measuring.of_thread()
            outcome, value = self._attempts.perform(entry, attempt, retried=retried, last=False)
            self._made_here[key] = measuring.thread_since(before, HERE)
            if attempt.reports is not None:
                self._holding.hold(entry.id, attempt.reports)
            return Job(*key, partial(_ended, outcome, value))
        settings = time_settings(entry.item)
        began = time.monotonic()
        body = self._attempts.begin(entry, attempt, settings)
        self._open[key] = (entry, attempt, time.monotonic())
        if body is None:
            # The set-up has failed, or has skipped it.
            return Job(*key, partial(_ended, Success(), None))
        body.output.filters = self._attribution.filters.get(entry.item)
        if settings is not None:
            self._limits.add(key, settings.timeout, body, None if settings.func_only else began)
        return Job(*key, body.run)

    def conclude(self, finished: Finished) -> Finished:
        key = (finished.task, finished.attempt)
        found = self._open.pop(key, None)
        limit = self._limits.pop(key)
        if found is None:
            return dataclasses.replace(finished, measures=self._made_here.pop(key, None))
        entry, attempt, handed = found
        if isinstance(finished.value, Late):
            attempt.body = _failed(finished.value.text, handed, finished.value.trace)
            self._take_in(entry, attempt)
            self._count_threads()
            return Finished(*key, attempt.outcome())
        if not isinstance(finished.outcome, Success):
            # The pool has lost it.
            message = finished.outcome.message if isinstance(finished.outcome, Failure) else finished.outcome.reason
            attempt.body = _failed(message, handed)
            self._take_in(entry, attempt)
            if isinstance(finished.outcome, Lost) and self._work.engine.stopped:
                # A terminal sends Ctrl-C to the processes of a pool, too, and one that just starts dies of it.
                return Finished(*key, Failure(FailureKind.INTERRUPTED, self._work.engine.stopped))
            return finished
        if isinstance(finished.value, Body):
            attempt.body = finished.value
            if limit is not None and limit.spent(attempt.body.seconds) > limit.seconds:
                # Nobody could look at the time: this thread was busy.
                attempt.overran(limit.seconds, limit.spent(attempt.body.seconds))
            if isinstance(attempt.body.error, KeyboardInterrupt) and self._work.engine.stopped:
                # A terminal sends it to the processes of a pool, too.
                attempt.body = _failed("KeyboardInterrupt", handed)
                self._take_in(entry, attempt)
                return Finished(*key, Failure(FailureKind.INTERRUPTED, self._work.engine.stopped))
        self._take_in(entry, attempt)
        measures = attempt.body.measures if attempt.body is not None else None
        return Finished(*key, *attempt.end(attempt.value), measures)

    def keep(self, task: TaskId, value: Any) -> int | None:
        return self._work.keep(self.values, task, value)

    def add(self, task: TaskId, entries: Sequence[Entry], restored: Mapping[TaskId, TaskRecord]) -> None:
        self._attempts.add(entries)
        filters = self._attribution.filters
        own = filters.get(self._work.entries[task].item)
        if own is not None:
            filters.update((entry.item, own) for entry in entries)
        self.values.learn(restored)

    def release(self, item: pytest.Item) -> None:
        self._attempts.tree.release(item)

    # ------------------------------------------------------------------ within

    def _inputs(self, entry: Entry) -> dict[str, Any]:
        """What arrives at a task; raises ResultError."""
        return self.values.arrivals(entry.id)

    def _nearby(self, job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """How a call is handed to a thread of this process, once there is no pool."""
        return body_of(job)

    def _stand_in(self) -> FuturesExecutor:
        """Return what makes calls in a thread of this process."""
        self._work.tell(f"clean-up and alarms ran in the process of the run: {self._work.engine.lost}")
        make = partial(Hands, 1)
        self._threads = FuturesExecutor(make, 1, self._work.clock, prepare=self._nearby, decode=as_it_came)
        return self._threads

    @property
    def _calls(self) -> FuturesExecutor:
        """What makes calls now."""
        return self._pool if self._threads is None else self._threads

    def _stays_here(self, entry: Entry) -> bool:
        """Whether the task is called on this thread, with nothing else on it: it is alone, or not ours to call."""
        return self._work.graph[entry.id].exclusive or not self._attempts.calls_itself(entry.item)

    def _give_up(self, key: Key, seconds: float) -> Finished:
        text = time_out_text(seconds)
        stack = _of_the_task(self._calls.stack_of(*key))
        self._standby.cancel(*key)
        return Finished(*key, Failure(FailureKind.TIMED_OUT, text), Late(text, f"{stack}Failed: {text}"))

    def _count_threads(self) -> None:
        """End the run when too many threads are left behind: each may hold what others want."""
        left = self._pool.abandoned
        if left > self._workers and not self._work.session.shouldfail:
            self._work.session.shouldfail = (
                f"{left} threads go on with tasks whose time is up, and that is more than there are workers "
                f"({self._workers}); --ff-executor process can end such tasks"
            )

    def _take_in(self, entry: Entry, attempt: Attempt) -> None:
        self._work.interrupts.forget()
        self._attempts.finish(entry, attempt)
        if attempt.reports is not None:
            self._holding.hold(entry.id, attempt.reports)

    def _on_event(self, event: Event) -> None:
        """An attempt whose end was decided without it (an interrupt) is torn down before that is shown."""
        if not isinstance(event, TaskMoved) or event.before is not TaskState.RUNNING:
            return
        key = (event.task, event.attempt)
        self._limits.pop(key)
        found = self._open.pop(key, None)
        if found is None:
            return
        entry, attempt, handed = found
        attempt.body = _failed(event.because, handed)
        self._take_in(entry, attempt)


@dataclass(frozen=True, slots=True)
class Late:
    """The value of an attempt whose time was up: what is said, and shown, of that."""

    text: str
    trace: str


class _Aside:
    """An executor during whose waits pytest captures what nobody tells apart."""

    def __init__(self, executor: Executor, capturing: Capturing) -> None:
        self._executor = executor
        self._capturing = capturing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        with self._capturing.aside():
            return self._executor.wait(timeout)


def body_of(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A call, for a pool in this process."""
    body = getattr(job.call, "__self__", None)
    # Given away as an argument, so that the pool can see whether it is a coroutine.
    return (Body.run, (body,)) if isinstance(body, Body) else (job.call, ())


def as_it_came(_: Job, payload: tuple[Outcome, Any]) -> tuple[Outcome, Any]:
    """What a call in this process has come to."""
    return payload


def _ended(outcome: Outcome, value: Any) -> tuple[Outcome, Any]:
    return outcome, value


def _failed(text: str, handed: float, trace: str = "") -> Body:
    """A call that was ended from elsewhere, and *handed* over at that time by the monotonic clock."""
    seconds = time.monotonic() - handed
    error = pytest.fail.Exception(text, pytrace=False)
    return Body(_nothing, {}, error=error, trace=trace or text, start=time.time() - seconds, seconds=seconds)


def _of_the_task(stack: str) -> str:
    """*stack* without what has called the task."""
    steps = re.split(r"^(?=  File )", stack, flags=re.MULTILINE)
    return "".join(step for step in steps if not step.startswith(f'  File "{bodies.__file__}"'))


def _nothing() -> None:
    """Stand in for a call that is over."""
