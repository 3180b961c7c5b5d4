"""The loop between the engine and an executor; one thread owns it all.

What the engine decides is told to the sinks first and done second, so that what is finished is on disk before
anything builds on it. The loop knows neither pytest nor what a task does.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    Command,
    RunStarted,
    Signal,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TimeReached,
)
from pytest_flowforge.core.model import Failure, FailureKind, Success
from pytest_flowforge.ports import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_flowforge.core.engine import Engine
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.ports import EventSink, Executor, Finished, Job

__all__ = ["Driver", "SystemClock", "interrupted", "qualified_mro"]

#: Seconds between two looks at an executor that has nothing to report and does not wait by itself.
_PAUSE = 0.05

#: The longest wait in seconds that an executor is asked for: operating systems refuse very long ones, and a retry may
#: be infinitely far away.
_LONGEST = 3600.0


class SystemClock(Clock):
    """The time of day when it was made, carried on by a clock that nobody can set back."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch; never less than before."""
        return self._offset + time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Return after *seconds*; at once when they are not positive."""
        if seconds > 0:
            time.sleep(seconds)


def _nothing() -> None:
    """Ask for nothing: the run is left alone."""


class Driver:
    """Runs the graph of one engine on one executor, once.

    ``make_job`` turns a command into a job; an exception it raises is the failure of that attempt. ``sinks`` are told
    every event once and in order; one that raises, or is interrupted, has been told, and the others still are.
    ``on_value`` gets the result of each success that still counts, before anybody is told that it is one.

    ``ask`` is called between two jobs, after the sinks were told what has finished and before anything new starts: a
    signal it returns (StopRequested, most likely) takes effect before that. ``on_interrupt`` is called with what was
    raised, by jobs or by sinks, and returns the signals that follow from it; raising from it, or returning none, ends
    the run on the spot. By default the first exception stops the run cleanly (see :func:`interrupted`), and
    a second one ends it without clean-up. In either case :meth:`run` raises the first one in the end.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        make_job: Callable[[StartAttempt], Job],
        sinks: Iterable[EventSink] = (),
        clock: Clock | None = None,
        on_value: Callable[[TaskId, Any], None] | None = None,
        *,
        ask: Callable[[], Signal | None] = _nothing,
        on_interrupt: Callable[[BaseException], Iterable[Signal]] | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock or SystemClock()
        self._executor = executor
        self._make_job = make_job
        self._sinks = tuple(sinks)
        self._on_value = on_value
        self._ask = ask
        self._on_interrupt = on_interrupt or self._stop_cleanly
        self._slots: int | None = None
        #: Signals fed while others were being handled: a sink may feed one.
        self._inbox: deque[tuple[tuple[Signal, ...], bool]] = deque()
        self._feeding = False
        #: Commands not obeyed yet.
        self._commands: deque[Command] = deque()
        #: Events that not all sinks were told of, and how many were told of the first.
        self._outbox: deque[Event] = deque()
        self._told = 0
        #: The first exception out of jobs and sinks.
        self._broken: BaseException | None = None

    def run(self) -> None:
        """Run until nothing runs and nothing will; close the executor; raise what interrupted the run."""
        try:
            self._survive(self._begin)
            while not self.engine.done:
                self._survive(self._advance)
            self._survive(self._deliver)
            self._obey()
        finally:
            self._executor.close()
        if self._broken is not None:
            raise self._broken

    def _begin(self) -> None:
        self.feed(*self._slots_now(), RunStarted(self.clock.now()), *self._asked())

    def _advance(self) -> None:
        self._take_in(self._next_signals())

    def _take_in(self, signals: Iterable[Signal]) -> None:
        """Have *signals* kept and shown before anything that builds on them starts."""
        self.feed(*signals, hold=True)
        self.feed(*self._asked(), TimeReached(self.clock.now()))

    def _survive(self, step: Callable[[], None]) -> None:
        """Take *step*; what is raised meanwhile stops the run in order, and then the step is not taken again."""
        while True:
            try:
                step()
            except BaseException as broken:  # noqa: BLE001  (KeyboardInterrupt is the very case; run() raises it again)
                signals = self._consequences(broken)
                step = partial(self._take_in, signals)
            else:
                return

    def feed(self, *signals: Signal, hold: bool = False) -> None:
        """Hand *signals* to the engine as one, and tell the sinks what has happened.

        What is to be done about it is done before the next wait; with ``hold`` nothing new starts yet. May be called
        by sinks and jobs, from this thread.
        """
        self._inbox.append((signals, hold))
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._inbox:
                self._handle(*self._inbox.popleft())
        finally:
            self._feeding = False

    def _handle(self, signals: Sequence[Signal], hold: bool) -> None:  # noqa: FBT001 - what feed() was given
        reaction = self.engine.handle(*signals, hold=hold)
        self._commands.extend(reaction.commands)
        self._outbox.extend(reaction.events)
        self._deliver()

    def _deliver(self) -> None:
        """Tell the sinks what they have not been told."""
        outbox, sinks = self._outbox, self._sinks
        while outbox:
            event = outbox[0]
            for place in range(self._told, len(sinks)):
                # Counted first: who was interrupted in the middle is not told twice.
                self._told = place + 1
                sinks[place](event)
            outbox.popleft()
            self._told = 0

    def _next_signals(self) -> list[Signal]:
        """Obey, wait, and return what came of it, in the order in which the engine is to see it."""
        # A job that could not be made is an end too, and it may change what to wait for.
        ends = self._obey() or self._ends(self._wait())
        ends.extend(self._slots_now())
        return ends

    def _wait(self) -> Sequence[Finished]:
        started = self.clock.now()
        timeout = self._timeout(started)
        finished = self._executor.wait(timeout)
        if not finished and (timeout is None or self.clock.now() < started + timeout):
            # It came back early with nothing: without a pause this would be a busy loop.
            self.clock.sleep(_PAUSE if timeout is None else min(_PAUSE, timeout))
        return finished

    def _timeout(self, now: float) -> float | None:
        wake_at = self.engine.wake_at
        return None if wake_at is None else min(max(wake_at - now, 0.0), _LONGEST)

    def _ends(self, finished: Sequence[Finished]) -> list[Signal]:
        at = self.clock.now()
        return [self._end(end, at) for end in finished]

    def _end(self, end: Finished, at: float) -> Signal:
        wanted = isinstance(end.outcome, Success) and self.engine.in_flight(end.task, end.attempt)
        if wanted and self._on_value is not None:
            try:
                self._on_value(end.task, end.value)
            except Exception as error:  # noqa: BLE001  (a result that nobody can have is this attempt's failure)
                return AttemptFinished(end.task, end.attempt, _failure(error), at)
        return AttemptFinished(end.task, end.attempt, end.outcome, at)

    def _slots_now(self) -> Sequence[Signal]:
        """Return the number of slots when it has changed: workers come and go."""
        slots = self._executor.slots
        if slots == self._slots:
            return ()
        self._slots = slots
        return (SlotsChanged(slots, self.clock.now()),)

    def _asked(self) -> Sequence[Signal]:
        signal = self._ask()
        return () if signal is None else (signal,)

    # Obeying.

    def _obey(self) -> list[Signal]:
        """Do what the engine has decided; return the ends of attempts that could not be started."""
        ends: list[Signal] = []
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, CancelAttempt):
                self._executor.cancel(command.task, command.attempt)
            elif self.engine.in_flight(command.task, command.attempt):
                ends.extend(self._start(command))
        return ends

    def _start(self, command: StartAttempt) -> Iterator[Signal]:
        try:
            self._executor.start(self._make_job(command))
        except Exception as error:  # noqa: BLE001  (whatever it is, this attempt has failed and others may go on)
            yield AttemptFinished(command.task, command.attempt, _failure(error), self.clock.now())

    # Stopping.

    def _consequences(self, broken: BaseException) -> list[Signal]:
        """Return what follows from an exception; attempts that it ended are cancelled where they run."""
        self._broken = self._broken or broken
        signals = list(self._on_interrupt(broken))
        if not signals:
            raise broken
        ended = [signal for signal in signals if isinstance(signal, AttemptFinished)]
        self._commands.extend(CancelAttempt(signal.task, signal.attempt) for signal in ended)
        return signals

    def _stop_cleanly(self, broken: BaseException) -> Iterable[Signal]:
        at = self.clock.now()
        reason = _one_line(broken)
        if self.engine.stopped or broken is not self._broken:
            return [StopRequested(reason, at, abort=True)]
        return interrupted(self.engine, reason, at)


def interrupted(engine: Engine, reason: str, at: float) -> list[Signal]:
    """Return the signals that end every attempt in flight as INTERRUPTED and then stop the run for *reason*.

    Tasks that are still to run by then are clean-up and alarms.
    """
    failure = Failure(FailureKind.INTERRUPTED, reason)
    ends: list[Signal] = [AttemptFinished(task, attempt, failure, at) for task, attempt in engine.running]
    return [*ends, StopRequested(reason, at)]


def qualified_mro(error: BaseException) -> tuple[str, ...]:
    """Return the qualified names of the classes of *error*, most derived first (``builtins.OSError``)."""
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__)


def _failure(error: Exception) -> Failure:
    longrepr = "".join(traceback.format_exception(error))
    return Failure(FailureKind.ERROR, _one_line(error), qualified_mro(error), longrepr)


def _one_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
