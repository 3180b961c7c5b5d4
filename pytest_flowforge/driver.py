"""The loop between the engine and an executor; one thread owns it all.

What the engine decides is told to the sinks first and done second, so that what is finished is on disk before
anything builds on it. The loop knows neither pytest nor what a task does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    Command,
    ExecutorLost,
    ExpandTask,
    RunStarted,
    Signal,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TimeReached,
)
from pytest_flowforge.core.model import Failure, FailureKind, Measures, Success
from pytest_flowforge.failures import failure_of, one_line
from pytest_flowforge.ports import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_flowforge.core.engine import Engine
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.ports import EventSink, Executor, Finished, Job

__all__ = ["Driver", "SystemClock", "interrupted"]

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


def _nobody_knows(task: TaskId, _: float) -> Signal:
    """Stand in for whoever knows instances: a graph with mapped tasks needs one."""
    msg = f"nobody can tell the instances of {task}"
    raise NotImplementedError(msg)


def _nothing() -> None:
    """Ask for nothing: the run is left alone."""


class Driver:
    """Runs the graph of one engine on one executor, once.

    ``make_job`` turns a command into a job; an exception it raises is the failure of that attempt. ``sinks`` are told
    every event once and in order; one that raises, or is interrupted, has been told, and the others still are.
    ``conclude`` is given each end of an attempt that still counts, on this thread, and returns what has really become
    of that attempt; ``on_value`` then gets the result of each success, before anybody is told that it is one, and
    returns how many bytes it takes (None: that is not known). An Exception that either raises is the failure of that
    attempt, unless it is of a ``fatal`` class: those stop the run.

    ``expand`` is given a mapped task and the time, and returns the signal that tells its instances.

    ``ask`` is called between two jobs, after the sinks were told what has finished and before anything new starts: a
    signal it returns (StopRequested, most likely) takes effect before that. ``on_interrupt`` is called with what was
    raised, by jobs or by sinks, and returns the signals that follow from it; raising from it, or returning none, ends
    the run on the spot. In either case :meth:`run` raises the first one in the end.

    By default the first exception stops the run cleanly: the executor is asked to interrupt what runs, which may go on
    for ``grace`` seconds and ends as whatever it ends as within them. What still runs by then, or at once without a
    grace, is interrupted and cancelled (see :func:`interrupted`), and clean-up is still done. A second exception ends
    all of it, and so does the first where the executor is lost and clean-up is all there is. A job that itself has
    raised has no end of its own; a grace is for executors that work beside this thread.
    """

    def __init__(  # noqa: PLR0913 - each of the last ones is an option with a default
        self,
        engine: Engine,
        executor: Executor,
        make_job: Callable[[StartAttempt], Job],
        sinks: Iterable[EventSink] = (),
        clock: Clock | None = None,
        on_value: Callable[[TaskId, Any], int | None] | None = None,
        *,
        ask: Callable[[], Signal | None] = _nothing,
        on_interrupt: Callable[[BaseException], Iterable[Signal]] | None = None,
        grace: float = 0.0,
        conclude: Callable[[Finished], Finished] | None = None,
        fatal: tuple[type[Exception], ...] = (),
        expand: Callable[[TaskId, float], Signal] | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock or SystemClock()
        self._executor = executor
        self._make_job = make_job
        self._sinks = tuple(sinks)
        self._on_value = on_value
        self._ask = ask
        self._on_interrupt = on_interrupt or self._stop_cleanly
        self._grace = grace
        self._conclude = conclude
        self._fatal = fatal
        self._expand = expand or _nobody_knows
        self._slots: int | None = None
        #: Signals fed while others were being handled: a sink may feed one.
        self._inbox: deque[tuple[tuple[Signal, ...], bool]] = deque()
        self._feeding = False
        #: Commands not obeyed yet.
        self._commands: deque[Command] = deque()
        #: Events that not all sinks were told of, and how many were told of the first.
        self._outbox: deque[Event] = deque()
        self._told = 0
        #: Ends that were reported and not looked at yet, and those the engine is to see next, by attempt: an exception
        #: in between must not lose them.
        self._finished: deque[Finished] = deque()
        self._ends: dict[tuple[TaskId, int], Signal] = {}
        #: The attempt that is just being started or concluded: after an exception nobody will say how it ended.
        self._at_hand: tuple[TaskId, int] | None = None
        #: The first exception out of jobs and sinks.
        self._broken: BaseException | None = None
        #: Whether the executor is still to be asked to interrupt what runs.
        self._interrupting = False
        #: Attempts that may go on after an interrupt, and until when.
        self._spared: tuple[tuple[TaskId, int], ...] = ()
        self._spared_until = math.inf

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
        self.feed(*self._room_now(), RunStarted(self.clock.now()), *self._asked())

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
        self._obey()
        # A job that could not be made is an end too, and it may change what to wait for.
        if not self._ends:
            if not self._finished:
                self._finished.extend(self._wait())
            self._look_at_ends()
        signals: list[Signal] = [*self._ends.values(), *self._overdue(), *self._room_now()]
        self._ends.clear()
        return signals

    def _wait(self) -> Sequence[Finished]:
        started = self.clock.now()
        timeout = self._timeout(started)
        finished = self._executor.wait(timeout)
        news = finished or self._executor.slots != self._slots
        if not news and (timeout is None or self.clock.now() < started + timeout):
            # It came back early with nothing: without a pause this would be a busy loop.
            self.clock.sleep(_PAUSE if timeout is None else min(_PAUSE, timeout))
        return finished

    def _timeout(self, now: float) -> float | None:
        wake_at = self.engine.wake_at
        if self._spared:
            wake_at = self._spared_until if wake_at is None else min(wake_at, self._spared_until)
        return None if wake_at is None else min(max(wake_at - now, 0.0), _LONGEST)

    def _look_at_ends(self) -> None:
        at = self.clock.now()
        while self._finished:
            end = self._finished.popleft()
            attempt = self._at_hand = (end.task, end.attempt)
            # Reported twice: the first one counts, as it does for the engine.
            if attempt not in self._ends:
                self._ends[attempt] = self._end_of(end, at)
            self._at_hand = None

    def _end_of(self, end: Finished, at: float) -> AttemptFinished:
        """Return what has become of an attempt; where that is a success, its value has been taken."""
        task, attempt = end.task, end.attempt
        if not self.engine.in_flight(task, attempt):
            return AttemptFinished(task, attempt, end.outcome, at)
        size = None
        try:
            if self._conclude is not None:
                end = self._conclude(end)
            if self._on_value is not None and isinstance(end.outcome, Success):
                size = self._on_value(end.task, end.value)
        except self._fatal:
            raise
        except Exception as error:  # noqa: BLE001  (a result that nobody can have is this attempt's failure)
            return AttemptFinished(task, attempt, failure_of(error), at, end.measures)
        return AttemptFinished(task, attempt, end.outcome, at, _with_size(end.measures, size))

    def _room_now(self) -> list[Signal]:
        """Return what has changed about the executor: workers come and go, and at times all go for good."""
        signals: list[Signal] = []
        slots, lost = self._executor.slots, self._executor.lost
        if slots != self._slots:
            self._slots = slots
            signals.append(SlotsChanged(slots, self.clock.now()))
        if lost:
            signals.append(ExecutorLost(lost, self.clock.now(), clean_up=slots > 0))
        return signals

    def _asked(self) -> Sequence[Signal]:
        signal = self._ask()
        return () if signal is None else (signal,)

    # Obeying.

    def _obey(self) -> None:
        """Do what the engine has decided; attempts that could not be started have ended."""
        if self._interrupting:
            # First of all: clean-up that starts now is not meant.
            self._interrupting = False
            self._executor.interrupt()
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, CancelAttempt):
                self._executor.cancel(command.task, command.attempt)
            elif isinstance(command, ExpandTask):
                self._start_expanding(command)
            elif self.engine.in_flight(command.task, command.attempt):
                self._start(command)

    def _start(self, command: StartAttempt) -> None:
        attempt = self._at_hand = (command.task, command.attempt)
        try:
            self._executor.start(self._make_job(command))
        except self._fatal:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, this attempt has failed and others may go on)
            self._ends[attempt] = AttemptFinished(*attempt, failure_of(error), self.clock.now())
        self._at_hand = None

    def _start_expanding(self, command: ExpandTask) -> None:
        """Find out the instances of a mapped task; what goes wrong is the failure of its first attempt."""
        attempt = self._at_hand = (command.task, 1)
        try:
            self._ends[attempt] = self._expand(command.task, self.clock.now())
        except self._fatal:
            raise
        except Exception as error:  # noqa: BLE001  (the result of an upstream may be anything)
            self._ends[attempt] = AttemptFinished(*attempt, failure_of(error), self.clock.now())
        self._at_hand = None

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
        # One that speaks for the run has a sentence; of others, where they come from is worth saying.
        reason = getattr(broken, "reason", "") or one_line(broken)
        if self.engine.stopped or self.engine.lost or broken is not self._broken:
            return [StopRequested(reason, at, abort=True)]
        self._interrupting = True
        if self._grace <= 0:
            return interrupted(self.engine, reason, at)
        running, strays = self.engine.running, self._strays()
        self._spared = tuple(attempt for attempt in running if attempt not in strays)
        self._spared_until = at + self._grace
        ended = _interruptions((attempt for attempt in running if attempt in strays), reason, at)
        return [*ended, StopRequested(reason, at)]

    def _strays(self) -> set[tuple[TaskId, int]]:
        """Return attempts that no executor has, and the one that was cut off on its way there or back.

        Those that are made ahead are still to be started: what becomes of them is told like any other end.
        """
        waiting = (command for command in self._commands if isinstance(command, StartAttempt))
        strays = {(one.task, one.attempt) for one in waiting if not self._executor.is_made(one.task, one.attempt)}
        if self._at_hand is not None:
            strays.add(self._at_hand)
        return strays

    def _overdue(self) -> Iterable[Signal]:
        """Return the ends of attempts whose grace is over; they are cancelled."""
        at = self.clock.now()
        if not self._spared or at < self._spared_until:
            return ()
        # An end counts that has come just now.
        late = [attempt for attempt in self._spared if attempt not in self._ends and self.engine.in_flight(*attempt)]
        self._spared = ()
        self._commands.extend(CancelAttempt(*attempt) for attempt in late)
        return _interruptions(late, self.engine.stopped, at)


def _with_size(measures: Measures | None, size: int | None) -> Measures | None:
    if size is None:
        return measures
    if measures is None:
        return Measures(result_bytes=size)
    # Spelled out: replace() would take several times as long, for each task.
    return Measures(measures.worker, measures.seconds, measures.cpu, measures.peak_memory, size)


def interrupted(engine: Engine, reason: str, at: float) -> list[Signal]:
    """Return the signals that end every attempt in flight as INTERRUPTED and then stop the run for *reason*.

    Tasks that are still to run by then are clean-up and alarms.
    """
    return [*_interruptions(engine.running, reason, at), StopRequested(reason, at)]


def _interruptions(attempts: Iterable[tuple[TaskId, int]], reason: str, at: float) -> list[Signal]:
    failure = Failure(FailureKind.INTERRUPTED, reason)
    return [AttemptFinished(task, attempt, failure, at) for task, attempt in attempts]
