"""The state machine that decides what runs when: signals in, commands and events out.

It never waits, reads a clock, executes or prints anything; whoever drives it does. The same signals always make the
same reactions. Inside, tasks are positions in the order of declaration; ids appear only in messages. A signal costs
what it changes, never a look at all tasks (the one exception is a stop, which concerns them all).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    Command,
    Event,
    Reaction,
    RunBegan,
    RunEnded,
    RunStarted,
    Signal,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TaskMoved,
    TimeReached,
)
from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success, Task, TaskId, Trigger
from pytest_flowforge.core.pools import PoolQueues
from pytest_flowforge.core.states import DONE, TaskState, check_move
from pytest_flowforge.core.triggers import CLASSES, CLEAN_UP, EndClass, Verdict, judge, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph

__all__ = ["Engine", "RunPolicy", "Verdict", "verdict"]


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What holds for a whole run.

    ``slots`` tasks run at a time until a signal says otherwise. With ``grace`` the engine ends attempts that are that
    many seconds past their time-out; None leaves time-outs to whoever executes. ``seed`` varies the jitter of retries.
    """

    slots: int = 1
    grace: float | None = None
    seed: str = ""


_DEFAULT_POLICY = RunPolicy()

#: The state in which a failure of each kind ends.
_FAILED_AS = {
    FailureKind.ERROR: TaskState.FAILED,
    FailureKind.TIMED_OUT: TaskState.TIMED_OUT,
    FailureKind.CRASHED: TaskState.CRASHED,
    FailureKind.INTERRUPTED: TaskState.INTERRUPTED,
}

#: How an upstream that blocks others has ended, in words.
_ENDED = {
    TaskState.FAILED: "failed",
    TaskState.TIMED_OUT: "timed out",
    TaskState.CRASHED: "crashed",
    TaskState.INTERRUPTED: "was interrupted",
    TaskState.BLOCKED: "was blocked",
}

# Plain integers: IntFlag arithmetic costs a hundred times as much, and this is done for every edge.
_BITS = {state: int(ends) for state, ends in CLASSES.items()}
_BAD = int(EndClass.FAILED | EndClass.BLOCKED)
_SKIPPED = int(EndClass.SKIPPED)

#: No position at all.
_NOBODY = -1


class Engine:
    """Runs one graph once. Feed it with :meth:`handle` until it is :attr:`done`."""

    def __init__(
        self,
        graph: TaskGraph,
        policy: RunPolicy = _DEFAULT_POLICY,
        *,
        restored: Mapping[TaskId, str] | None = None,
        refused: Mapping[TaskId, str] | None = None,
        ranks: Sequence[Any] | None = None,
    ) -> None:
        """Prepare to run *graph*.

        ``restored`` maps tasks whose results stand to the reason; they become REUSED when the run starts. ``refused``
        maps tasks that may not run to the reason; they become BLOCKED then. ``ranks`` holds one sortable per position,
        and among ready tasks the smallest starts first; by default that is the highest priority, then the first
        declared. Raises :class:`UnknownTask` for a restored or refused task that is not in *graph*,
        :class:`ValueError` for ranks that do not fit it.
        """
        self._graph = graph
        self._policy = policy
        self._ids = [task.id for task in graph]
        self._downstream = graph.downstream_positions
        #: What some tasks are from the start, and why; a refused one is never restored.
        self._given = {graph.position(task): (TaskState.REUSED, because) for task, because in (restored or {}).items()}
        for task, because in (refused or {}).items():
            self._given[graph.position(task)] = (TaskState.BLOCKED, because)
        self._by_rank, self._rank = _ranking(graph.tasks, ranks)
        self._rules = [task.when for task in graph]
        self._exclusive = frozenset(position for position, task in enumerate(graph) if task.exclusive)
        self._deadlined = policy.grace is not None and any(task.timeout is not None for task in graph)
        self._pools = PoolQueues(graph.tasks, graph.pools)

        count = len(graph)
        self._states = [TaskState.PENDING] * count
        self._attempts = [0] * count
        #: How many direct upstreams are not settled.
        self._missing = [len(needs) for needs in graph.upstream_positions]
        #: The classes (EndClass) in which direct upstreams have ended so far.
        self._ends = bytearray(count)
        #: PENDING tasks that will never start because the run was stopped. They count as settled.
        self._abandoned = bytearray(count)
        #: For each skipped task, the one that said so itself, and its reason.
        self._skips: dict[int, tuple[int, str]] = {}

        #: A heap of the ranks of tasks that only want a slot (and possibly pools, see PoolQueues).
        self._ready: list[int] = []
        #: Attempts in flight, by position.
        self._running: dict[int, int] = {}
        #: Retries that are not due yet: when they are.
        self._resting: dict[int, float] = {}
        #: The failure each RETRYING task comes from.
        self._failures: dict[int, Outcome] = {}
        #: A heap of (time, position, attempt) of retries and deadlines; an entry that has lost its meaning stays
        #: until it surfaces.
        self._alarms: list[tuple[float, int, int]] = []
        #: The exclusive task that is next and keeps others from starting, or _NOBODY.
        self._held = _NOBODY

        self._slots = policy.slots
        self._begun = False
        self._ended = False
        self._stop: StopRequested | None = None
        self._commands: list[Command] = []
        self._events: list[Event] = []

    # What the engine can be asked.

    @property
    def done(self) -> bool:
        """Whether the run has ended: nothing runs and nothing will."""
        return self._ended

    @property
    def wake_at(self) -> float | None:
        """When the next retry is due or the next attempt is past its deadline; None when neither is ahead."""
        while self._alarms and not self._is_live(self._alarms[0]):
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    @property
    def states(self) -> Mapping[TaskId, TaskState]:
        """The state of every task, in the order of declaration; a copy."""
        return dict(zip(self._ids, self._states, strict=True))

    def state(self, task: TaskId) -> TaskState:
        """Return the state of *task*; raise :class:`UnknownTask`."""
        return self._states[self._graph.position(task)]

    @property
    def running(self) -> tuple[tuple[TaskId, int], ...]:
        """The attempts in flight, in the order in which they started."""
        return tuple((self._ids[position], attempt) for position, attempt in self._running.items())

    def in_flight(self, task: TaskId, attempt: int) -> bool:
        """Whether the outcome of that attempt is still wanted; raise :class:`UnknownTask`."""
        return self._running.get(self._graph.position(task)) == attempt

    @property
    def slots(self) -> int:
        """How many tasks may run at a time."""
        return self._slots

    @property
    def stopped(self) -> str:
        """The reason of an early end, else empty."""
        if self._stop is None:
            return ""
        return self._stop.reason or "stop requested"

    def would_retry(self, task: TaskId, attempt: int, failure: Outcome) -> bool:
        """Whether that attempt would be followed by another one if it ended with *failure* now."""
        return self._is_retried(self._graph.position(task), attempt, failure)

    def peek(self) -> TaskId | None:
        """Return the task that is likely to start next: the first one that is ready and has no slot or pool yet."""
        if self._held != _NOBODY:
            return self._ids[self._held]
        if self._ready:
            return self._ids[self._by_rank[self._ready[0]]]
        return next((self._ids[position] for position in self._pools.waiting), None)

    # Signals.

    def handle(self, *signals: Signal, hold: bool = False) -> Reaction:
        """Take in what has happened and return what follows from it.

        Several signals are taken in order but nothing starts in between: that is how two ends at the same time are
        seen as one. With ``hold`` nothing starts, and the run does not end, before the next call: whoever hears of a
        failure may want to stop the run first. Raises :class:`UnknownTask` for a task the graph does not hold, with
        nothing changed by that signal. After the run has ended nothing has consequences any more.
        """
        if self._ended:
            return Reaction()
        for signal in signals:
            self._take_in(signal)
        if self._begun and signals and not hold:
            at = signals[-1].at
            self._fill_slots(at)
            self._end_if_over(at)
        return self._reaction()

    def _take_in(self, signal: Signal) -> None:
        # The most frequent first.
        if isinstance(signal, AttemptFinished):
            self._on_finished(signal)
        elif isinstance(signal, TimeReached):
            self._on_time(signal.at)
        elif isinstance(signal, SlotsChanged):
            self._slots = signal.slots
        elif isinstance(signal, StopRequested):
            self._on_stop(signal)
        elif not self._begun:
            self._on_started(signal)

    def _reaction(self) -> Reaction:
        reaction = Reaction(tuple(self._commands), tuple(self._events))
        self._commands.clear()
        self._events.clear()
        return reaction

    def _on_started(self, signal: RunStarted) -> None:
        self._begun = True
        self._events.append(RunBegan(len(self._graph), signal.at))
        given = sorted(self._given)
        for position in given:
            state, because = self._given[position]
            self._move(position, state, signal.at, because=because)
        roots = [position for position, missing in enumerate(self._missing) if not missing]
        self._settled(given, signal.at)
        for position in roots:
            if self._states[position] is TaskState.PENDING:
                self._judge_first(position, signal.at)
        if self._stop is not None:
            self._wind_down(signal.at)

    def _on_finished(self, signal: AttemptFinished) -> None:
        position = self._graph.position(signal.task)
        if self._running.get(position) == signal.attempt:
            self._conclude(position, signal.outcome, signal.at)

    def _on_time(self, at: float) -> None:
        while self._alarms and self._alarms[0][0] <= at:
            alarm = heapq.heappop(self._alarms)
            if not self._is_live(alarm):
                continue
            _, position, attempt = alarm
            if position in self._resting:
                del self._resting[position]
                heapq.heappush(self._ready, self._rank[position])
            else:
                self._time_out(position, attempt, at)

    def _on_stop(self, signal: StopRequested) -> None:
        if self._stop is not None and (self._stop.abort or not signal.abort):
            return
        # The first reason stays: the second request only makes it more urgent.
        reason = self._stop.reason if self._stop is not None else signal.reason
        self._stop = StopRequested(reason, signal.at, signal.abort)
        if self._begun:
            self._wind_down(signal.at)

    # Ends of attempts.

    def _conclude(self, position: int, outcome: Outcome, at: float) -> None:
        """End the attempt of *position* in flight."""
        attempt = self._running[position]
        retried = self._is_retried(position, attempt, outcome)
        # A strategy of the user's own is asked before anything has changed: it may raise.
        wait = self._wait_before(position, attempt) if retried else 0.0
        self._free(position)
        if retried:
            self._rest(position, at + wait, outcome, at)
            return
        after = _end_state(outcome)
        because = _in_words(outcome)
        if after is TaskState.SKIPPED:
            self._skips[position] = (position, because)
        self._move(position, after, at, because=because, outcome=outcome)
        self._settled([position], at)

    def _is_retried(self, position: int, attempt: int, outcome: Outcome) -> bool:
        if self._stop is not None or isinstance(outcome, Success | Skipped):
            return False
        retry = self._graph.tasks[position].retry
        if isinstance(outcome, Lost):
            return retry.wants(attempt, ())
        if outcome.expected or outcome.kind is FailureKind.INTERRUPTED:
            return False
        return retry.wants(attempt, outcome.mro)

    def _wait_before(self, position: int, retry: int) -> float:
        task = self._graph.tasks[position]
        return task.retry.seconds_before(retry, f"{self._policy.seed}/{task.id}")

    def _free(self, position: int) -> None:
        del self._running[position]
        if position in self._pools.requests:
            self._make_ready(self._pools.release(position))

    def _rest(self, position: int, resume_at: float, outcome: Outcome, at: float) -> None:
        because = _in_words(outcome)
        self._move(position, TaskState.RETRYING, at, because=because, outcome=outcome, resume_at=resume_at)
        self._failures[position] = outcome
        if resume_at <= at:
            heapq.heappush(self._ready, self._rank[position])
        else:
            self._resting[position] = resume_at
            heapq.heappush(self._alarms, (resume_at, position, self._attempts[position]))

    def _time_out(self, position: int, attempt: int, at: float) -> None:
        timeout = self._graph.tasks[position].timeout
        self._commands.append(CancelAttempt(self._ids[position], attempt))
        self._conclude(position, Failure(FailureKind.TIMED_OUT, f"timed out after {timeout:g} s"), at)

    def _is_live(self, alarm: tuple[float, int, int]) -> bool:
        """Whether the retry is still waited for, or the attempt with that deadline still in flight."""
        when, position, attempt = alarm
        if position in self._resting:
            return self._resting[position] == when
        return self._running.get(position) == attempt

    # Verdicts, and what follows from them downstream.

    def _settled(self, positions: Iterable[int], at: float) -> None:
        """Tell those downstream of *positions*, which have just ended or been given up, and so on down the graph."""
        # The list grows while it is worked through: a cascade of any depth, nearest first.
        queue = list(positions)
        for position in queue:
            ends = 0 if self._abandoned[position] else _BITS[self._states[position]]
            for waiting in self._downstream[position]:
                self._missing[waiting] -= 1
                self._ends[waiting] |= ends
                if self._states[waiting] is TaskState.PENDING and not self._abandoned[waiting]:
                    self._judge(waiting, position, ends, queue, at)

    def _judge(self, position: int, upstream: int, ends: int, queue: list[int], at: float) -> None:
        """Decide about *position* if the end of *upstream* has made that possible; queue it when it is settled."""
        when = self._rules[position]
        if ends & _BAD and when is Trigger.ALL_SUCCESS:
            # No other upstream can change that any more. The cause is therefore the first to fail.
            self._block(position, upstream, at)
            queue.append(position)
        elif not self._missing[position] and self._decide(position, when, at):
            queue.append(position)

    def _judge_first(self, position: int, at: float) -> None:
        if self._decide(position, self._rules[position], at):
            self._settled([position], at)

    def _decide(self, position: int, when: Trigger, at: float) -> bool:
        """Apply the rule of *position*, all of whose upstreams are settled; return whether that settles it too."""
        answer = judge(when, self._ends[position])
        runs = answer is Verdict.RUN
        if runs and not (self._stop is not None and self._is_unwanted(position)):
            heapq.heappush(self._ready, self._rank[position])
            return False
        if runs or self._has_abandoned_upstream(position):
            # Nobody knows how an upstream that was given up would have ended, so there is no verdict either.
            self._abandoned[position] = True
        elif answer is Verdict.BLOCK:
            self._block(position, self._first_upstream(position, _BAD), at)
        else:
            self._skip(position, at)
        return True

    def _has_abandoned_upstream(self, position: int) -> bool:
        if self._stop is None:
            return False
        return any(self._abandoned[need] for need in self._graph.upstream_positions[position])

    def _first_upstream(self, position: int, classes: int) -> int:
        """Return the first upstream, in the order of its needs, that ended in one of *classes*; or _NOBODY."""
        upstream = self._graph.upstream_positions[position]
        return next((need for need in upstream if _BITS.get(self._states[need], 0) & classes), _NOBODY)

    def _block(self, position: int, upstream: int, at: float) -> None:
        because = f"upstream {self._label(upstream)} {_ENDED[self._states[upstream]]}"
        self._move(position, TaskState.BLOCKED, at, because=because, cause=upstream)

    def _skip(self, position: int, at: float) -> None:
        upstream = self._first_upstream(position, _SKIPPED)
        if upstream == _NOBODY or self._rules[position] is Trigger.ANY_FAILED:
            because = "no upstream failed"
            self._skips[position] = (position, because)
            self._move(position, TaskState.SKIPPED, at, because=because)
            return
        # The one that said so first is named, however long the chain has become.
        root, reason = self._skips[position] = self._skips[upstream]
        because = f"upstream {self._label(root)} was skipped{f': {reason}' if reason else ''}"
        self._move(position, TaskState.SKIPPED, at, because=because, cause=upstream)

    # Starting.

    def _make_ready(self, positions: Iterable[int]) -> None:
        for position in positions:
            heapq.heappush(self._ready, self._rank[position])

    def _fill_slots(self, at: float) -> None:
        while len(self._running) < self._slots and (self._ready or self._held != _NOBODY):
            position = self._next()
            if position == _NOBODY:
                return
            self._begin(position, at)

    def _next(self) -> int:
        """Take the next task that can start now out of the queues; _NOBODY when none can."""
        if self._held == _NOBODY and not (self._exclusive and not self._exclusive.isdisjoint(self._running)):
            while self._ready:
                position = self._by_rank[heapq.heappop(self._ready)]
                if position in self._exclusive:
                    self._held = position
                    break
                if position not in self._pools.requests or self._claim(position):
                    return position
        if self._held == _NOBODY or self._running:
            return _NOBODY
        held, self._held = self._held, _NOBODY
        return held

    def _claim(self, position: int) -> bool:
        got, called = self._pools.claim(position)
        self._make_ready(called)
        return got

    def _begin(self, position: int, at: float) -> None:
        attempt = self._attempts[position] = self._attempts[position] + 1
        self._running[position] = attempt
        self._failures.pop(position, None)
        self._move(position, TaskState.RUNNING, at)
        self._commands.append(StartAttempt(self._ids[position], attempt))
        if self._deadlined:
            self._set_deadline(position, attempt, at)

    def _set_deadline(self, position: int, attempt: int, at: float) -> None:
        timeout = self._graph.tasks[position].timeout
        if timeout is not None and self._policy.grace is not None:
            heapq.heappush(self._alarms, (at + timeout + self._policy.grace, position, attempt))

    # Stopping.

    def _wind_down(self, at: float) -> None:
        """Give up every retry and, but for clean-up, every task that has not started."""
        given_up = [*self._failures]
        for position in given_up:
            self._give_up_retry(position, at)
        if self._stop is not None and self._stop.abort:
            given_up += self._interrupt_all(at)
        # They were tried, so that what depends on them is blocked, not merely left out.
        self._settled(given_up, at)
        left = [position for position in range(len(self._graph)) if self._is_unwanted(position)]
        for position in left:
            self._abandoned[position] = True
        self._forget_abandoned()
        self._settled(left, at)

    def _is_unwanted(self, position: int) -> bool:
        """Whether *position* is still to start and may not, now that the run is being stopped."""
        if self._states[position] is not TaskState.PENDING or self._abandoned[position]:
            return False
        return self._rules[position] not in CLEAN_UP or (self._stop is not None and self._stop.abort)

    def _give_up_retry(self, position: int, at: float) -> None:
        outcome = self._failures.pop(position)
        self._resting.pop(position, None)
        because = f"not tried again: {self.stopped}"
        self._move(position, _end_state(outcome), at, because=because, outcome=outcome)

    def _interrupt_all(self, at: float) -> list[int]:
        interrupted = list(self._running)
        outcome = Failure(FailureKind.INTERRUPTED, self.stopped)
        for position in interrupted:
            self._commands.append(CancelAttempt(self._ids[position], self._running[position]))
            self._free(position)
            self._move(position, TaskState.INTERRUPTED, at, because=self.stopped, outcome=outcome)
        return interrupted

    def _forget_abandoned(self) -> None:
        """Take out of every queue what will not start."""
        self._ready = [rank for rank in self._ready if self._may_start(self._by_rank[rank])]
        heapq.heapify(self._ready)
        if self._held != _NOBODY and not self._may_start(self._held):
            self._held = _NOBODY
        self._make_ready(self._pools.dismiss(lambda position: not self._may_start(position)))

    def _may_start(self, position: int) -> bool:
        return self._states[position] not in DONE and not self._abandoned[position]

    def _end_if_over(self, at: float) -> None:
        # Whoever waits for a pool needs no mention: something holds that pool, or has been called and is ready.
        if self._running or self._ready or self._resting or self._held != _NOBODY:
            return
        self._ended = True
        self._events.append(RunEnded(at, self.stopped))

    # Moving.

    def _move(
        self,
        position: int,
        after: TaskState,
        at: float,
        *,
        because: str = "",
        cause: int = _NOBODY,
        outcome: Outcome | None = None,
        resume_at: float | None = None,
    ) -> None:
        task = self._ids[position]
        before = self._states[position]
        check_move(task, before, after)
        self._states[position] = after
        upstream = None if cause == _NOBODY else self._ids[cause]
        attempt = self._attempts[position]
        self._events.append(TaskMoved(task, before, after, attempt, at, because, upstream, outcome, resume_at))

    def _label(self, position: int) -> str:
        return self._graph.tasks[position].label

    # Checking.

    def check(self) -> None:
        """Assert everything that must hold between two signals; the story of the task in question is the message.

        Looks at all tasks: for tests.
        """
        queued = [self._by_rank[rank] for rank in self._ready]
        places = [*queued, *self._resting, *self._running, *(position for position in [self._held] if position >= 0)]
        places += [position for position, called in self._pools.waiting.items() if not called]
        occupied = set(places)
        assert len(occupied) == len(places), f"a task is in two places at once: {sorted(places)}"
        assert not self._commands, f"decided and not said: {self._commands}"
        assert not self._events, f"has happened and was not said: {self._events}"
        for position in range(len(self._graph)):
            self._check_task(position, in_place=position in occupied)
        self._check_whole(queued)
        self._pools.check(self._running)

    def _check_task(self, position: int, *, in_place: bool) -> None:
        state = self._states[position]
        story = self._story(position)
        upstream = self._graph.upstream_positions[position]
        settled = [need for need in upstream if not self._is_open(need)]
        assert self._missing[position] == len(upstream) - len(settled), f"wrong count of missing upstreams; {story}"
        ends = 0
        for need in settled:
            ends |= 0 if self._abandoned[need] else _BITS[self._states[need]]
        assert self._ends[position] == ends, f"wrong classes of ended upstreams; {story}"
        hopeless = self._rules[position] is Trigger.ALL_SUCCESS and ends & _BAD and state is TaskState.PENDING
        assert not hopeless or self._abandoned[position], f"an upstream has failed, and it is not blocked; {story}"
        assert (state is TaskState.RUNNING) == (position in self._running), f"running and not in flight; {story}"
        assert (state is TaskState.RETRYING) == (position in self._failures), f"retrying without a failure; {story}"
        assert position not in self._resting or state is TaskState.RETRYING, f"resting and not retrying; {story}"
        assert not self._abandoned[position] or state is TaskState.PENDING, f"given up and not pending; {story}"
        may_go = self._is_open(position) and self._begun and not self._missing[position]
        assert may_go == in_place, f"in no queue though nothing is missing, or the other way round; {story}"
        untried = state in {TaskState.PENDING, TaskState.REUSED, TaskState.BLOCKED}
        assert untried or self._attempts[position] or position in self._skips, f"ended without an attempt; {story}"

    def _check_whole(self, queued: Sequence[int]) -> None:
        alone = len(self._running) == 1
        assert alone or self._exclusive.isdisjoint(self._running), f"an exclusive task has company: {self.running}"
        idle = self._begun and len(self._running) < self._slots
        if idle and self._exclusive.isdisjoint(self._running):
            assert self._held != _NOBODY or not queued, f"idle slots, and {self.peek()} could start"
            assert self._held == _NOBODY or self._running, f"nothing runs, and {self.peek()} is not started"
        open_tasks = any(map(self._is_open, range(len(self._graph))))
        assert self._ended == (self._begun and not open_tasks), f"ended: {self._ended}, and open tasks: {open_tasks}"
        for task, attempt in self.running:
            position = self._graph.position(task)
            assert self._attempts[position] == attempt, f"another attempt is in flight; {self._story(position)}"
        if self._stop is not None and self._begun:
            waiting = [position for position in range(len(self._graph)) if self._is_unwanted(position)]
            assert not waiting, f"the run was stopped, and {self._story(waiting[0])}"

    def _is_open(self, position: int) -> bool:
        """Whether *position* can still move."""
        return self._states[position] not in DONE and not self._abandoned[position]

    def _story(self, position: int) -> str:
        task = self._graph.tasks[position]
        needs = ", ".join(f"{need} {self.state(need).value}" for need in task.needs) or "nothing"
        given_up = " and given up" if self._abandoned[position] else ""
        return (
            f"{task.label} ({task.when.value}) is {self._states[position].value}{given_up} after"
            f" {self._attempts[position]} attempts, {self._missing[position]} upstreams missing; it needs {needs}"
        )


def _ranking(tasks: Sequence[Task], ranks: Sequence[Any] | None) -> tuple[Sequence[int], Sequence[int]]:
    """Return the positions by rank, and the rank of each position: small integers make a quick heap."""
    if ranks is None and not any(task.priority for task in tasks):
        # As declared, which is how most graphs are run: two lists of numbers less.
        as_declared = range(len(tasks))
        return as_declared, as_declared
    if ranks is None:
        ranks = [-task.priority for task in tasks]
    elif len(ranks) != len(tasks):
        msg = f"{len(ranks)} ranks do not fit {len(tasks)} tasks: there is one for each"
        raise ValueError(msg)
    # The sort is stable: equal ranks keep the order of declaration.
    by_rank = sorted(range(len(tasks)), key=ranks.__getitem__)
    rank = [0] * len(tasks)
    for place, position in enumerate(by_rank):
        rank[position] = place
    return by_rank, rank


def _end_state(outcome: Outcome) -> TaskState:
    if isinstance(outcome, Success):
        return TaskState.SUCCESS
    if isinstance(outcome, Failure):
        return _FAILED_AS[outcome.kind]
    return TaskState.SKIPPED if isinstance(outcome, Skipped) else TaskState.CRASHED


def _in_words(outcome: Outcome) -> str:
    if isinstance(outcome, Success):
        return ""
    return outcome.message if isinstance(outcome, Failure) else outcome.reason
