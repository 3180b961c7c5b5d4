"""The state machine that decides what runs when: signals in, commands and events out.

It never waits, reads a clock, executes or prints anything; whoever drives it does. The same signals always make the
same reactions. Inside, tasks are positions in the order of declaration; ids appear only in messages. A signal costs
what it changes, never a look at all tasks (the exceptions are a stop and a lost executor, which concern them all).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.instances import Instances
from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    Command,
    Event,
    ExecutorLost,
    ExpandTask,
    InstancesAdded,
    Reaction,
    RunBegan,
    RunEnded,
    RunStarted,
    Signal,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TaskExpanded,
    TaskMoved,
    TimeReached,
    state_after,
)
from pytest_flowforge.core.model import (
    Branch,
    Failure,
    FailureKind,
    Lost,
    Measures,
    Outcome,
    Success,
    Task,
    TaskId,
    Trigger,
)
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

    ``slots`` tasks run at a time until a signal says otherwise. Tasks that take no slot are not among them: they start
    in any case, even with 0 slots (nobody there to work). With ``grace`` the engine ends attempts that are that many
    seconds past their time-out; None leaves time-outs to whoever executes. ``seed`` varies the jitter of retries.
    ``max_retries`` is how many retries all tasks together may be given; None for any number.
    """

    slots: int = 1
    grace: float | None = None
    seed: str = ""
    max_retries: int | None = None


_DEFAULT_POLICY = RunPolicy()

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
        branches: Mapping[TaskId, Branch] | None = None,
        refused: Mapping[TaskId, str] | None = None,
        ranks: Sequence[Any] | None = None,
    ) -> None:
        """Prepare to run *graph*.

        ``restored`` maps tasks whose results stand to the reason; they become REUSED when the run starts. ``branches``
        has the ways on that some of these have chosen. ``refused`` maps tasks that may not run to the reason; they
        become BLOCKED then. ``ranks`` holds one sortable per position, and among ready tasks the smallest starts first;
        by default that is the highest priority, then the first declared. Raises :class:`UnknownTask` for a restored or
        refused task that is not in *graph*, :class:`ValueError` for ranks that do not fit it.
        """
        self._graph = graph
        self._policy = policy
        self._ids = [task.id for task in graph]
        self._downstream = graph.downstream_positions
        #: What some tasks are from the start, and why; a refused one is never restored.
        self._given = {graph.position(task): (TaskState.REUSED, because) for task, because in (restored or {}).items()}
        for task, because in (refused or {}).items():
            self._given[graph.position(task)] = (TaskState.BLOCKED, because)
        #: The ways on that tasks have chosen. For a downstream that is closed, the task counts as skipped.
        self._branches = {graph.position(task): branch for task, branch in (branches or {}).items()}
        self._by_rank, self._rank = _ranking(graph.tasks, ranks)
        self._rules = [task.when for task in graph]
        self._exclusive = {position for position, task in enumerate(graph) if task.exclusive}
        self._slotless = {position for position, task in enumerate(graph) if not task.takes_slot}
        self._deadlined = policy.grace is not None and any(task.timeout is not None for task in graph)
        self._pools = PoolQueues(graph.tasks, graph.pools)
        self._instances = Instances(graph)

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
        #: Likewise of tasks that take no slot: apart, so that nobody has to look for them behind those that wait.
        self._ready_slotless: list[int] = []
        #: Attempts in flight, by position.
        self._running: dict[int, int] = {}
        #: How many of them have a slot.
        self._taken = 0
        #: The exclusive task that runs, or _NOBODY.
        self._alone = _NOBODY
        #: Retries that are not due yet: when they are.
        self._resting: dict[int, float] = {}
        #: How many retries may still be given, and the tasks that wanted one when there was none left.
        self._retries_left = float("inf") if policy.max_retries is None else policy.max_retries
        self._denied: list[int] = []
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
        self._lost: ExecutorLost | None = None
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
        """The attempts in flight, in the order in which they started; then mapped tasks whose instances are awaited."""
        running = tuple((self._ids[position], attempt) for position, attempt in self._running.items())
        return running + tuple((self._ids[position], 1) for position in self._instances.expanding)

    def in_flight(self, task: TaskId, attempt: int) -> bool:
        """Whether the outcome of that attempt is still wanted; raise :class:`UnknownTask`."""
        return self._running.get(self._graph.position(task)) == attempt

    @property
    def slots(self) -> int:
        """How many tasks that take a slot may run at a time."""
        return self._slots

    @property
    def stopped(self) -> str:
        """The reason of an early end, else empty."""
        if self._stop is None:
            return ""
        return self._stop.reason or "stop requested"

    @property
    def lost(self) -> str:
        """Why nothing can be executed any more, but for clean-up perhaps; empty while it can."""
        return "" if self._lost is None else self._lost.reason

    @property
    def denied(self) -> tuple[TaskId, ...]:
        """The tasks that have failed and were not tried again because the retries of the run were used up."""
        return tuple(self._ids[position] for position in self._denied)

    def would_retry(self, task: TaskId, attempt: int, failure: Outcome) -> bool:
        """Whether that attempt would be followed by another one if it ended with *failure* now."""
        return self._is_retried(self._graph.position(task), attempt, failure)

    def peek(self) -> TaskId | None:
        """Return the task that is likely to start next: the first one that is ready and has no slot or pool yet."""
        if self._held != _NOBODY:
            return self._ids[self._held]
        first = min(self._ready[:1] + self._ready_slotless[:1], default=None)
        if first is not None:
            return self._ids[self._instances.first(self._by_rank[first])]
        return next((self._ids[position] for position in self._pools.waiting), None)

    def follower(self, task: TaskId) -> TaskId | None:
        """Return the task that will start where *task* ends, as soon as that succeeds; None when none is sure to.

        It waits for nothing else, and nothing that is ready would come before it. A stop in the meantime prevents it,
        as it prevents every start. Raises :class:`UnknownTask`.
        """
        if self._stop is not None or self._lost is not None or self._held != _NOBODY:
            return None
        if self._ready or self._ready_slotless:
            return None
        ending = self._graph.position(task)
        if ending in self._pools.requests or ending in self._slotless:
            # Others may be waiting for what it has, or it leaves no slot to anybody.
            return None
        able = [position for position in self._downstream[ending] if self._waits_for_one(position)]
        if not all(map(self._runs_after_success, able)) or any(self._graph.tasks[one].mapped for one in able):
            # What is skipped lets others go, as instances do that nobody knows yet, and they may come first.
            return None
        first = min(able, key=self._rank.__getitem__, default=_NOBODY)
        if first == _NOBODY or first in self._exclusive or first in self._pools.requests:
            return None
        return self._ids[first]

    def _waits_for_one(self, position: int) -> bool:
        is_open = self._states[position] is TaskState.PENDING and not self._abandoned[position]
        return is_open and self._missing[position] == 1

    def _runs_after_success(self, position: int) -> bool:
        return judge(self._rules[position], self._ends[position] | _BITS[TaskState.SUCCESS]) is Verdict.RUN

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
            self._start_ready(at)
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
        elif isinstance(signal, TaskExpanded):
            self._on_expanded(signal)
        elif isinstance(signal, ExecutorLost):
            self._on_lost(signal)
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
        if self._lost is not None:
            self._lose_all(self._lost, signal.at)

    def _on_finished(self, signal: AttemptFinished) -> None:
        position = self._graph.position(signal.task)
        if self._running.get(position) == signal.attempt:
            self._conclude(position, signal.outcome, signal.at, signal.measures)
        elif self._is_expanding(position):
            self._end_unexecuted(position, signal.outcome, signal.at)
            self._settled([position], signal.at)

    def _on_expanded(self, signal: TaskExpanded) -> None:
        mapped = self._graph.position(signal.task)
        if not self._is_expanding(mapped):
            return
        added = self._graph.grow(signal.task, signal.instances, signal.pools)
        self._make_room(mapped, added, signal.pools)
        self._events.append(InstancesAdded(signal.task, tuple(self._ids[added.start :]), signal.at))
        given = [position for position in added if self._is_given(position, signal)]
        self._make_ready(position for position in added if self._states[position] is TaskState.PENDING)
        if not added:
            self._end_unexecuted(mapped, Success(), signal.at)
            given = [mapped]
        self._settled(given, signal.at)

    def _make_room(self, mapped: int, added: range, pools: Mapping[str, int]) -> None:
        """Extend everything that is there for each task; what the mapped task waits for now are its instances."""
        tasks = {position: self._graph.tasks[position] for position in added}
        count = len(added)
        self._ids += [task.id for task in tasks.values()]
        self._rules += [task.when for task in tasks.values()]
        self._states += [TaskState.PENDING] * count
        self._attempts += [0] * count
        self._missing += [0] * count
        self._ends += bytes([self._ends[mapped]]) * count
        self._abandoned += bytes(count)
        self._exclusive.update(position for position, task in tasks.items() if task.exclusive)
        self._slotless.update(position for position, task in tasks.items() if not task.takes_slot)
        self._downstream = self._graph.downstream_positions
        self._deadlined |= self._policy.grace is not None and any(task.timeout is not None for task in tasks.values())
        self._pools.add(tasks, pools)
        self._instances.add(mapped, added)
        if added:
            self._missing[mapped] = count
            self._ends[mapped] = 0

    def _is_given(self, position: int, signal: TaskExpanded) -> bool:
        """Whether the result of that instance stands, or it may not run."""
        task = self._ids[position]
        if task in signal.refused:
            self._move(position, TaskState.BLOCKED, signal.at, because=signal.refused[task])
        elif task in signal.restored:
            self._move(position, TaskState.REUSED, signal.at, because=signal.restored[task])
        else:
            return False
        return True

    def _on_time(self, at: float) -> None:
        while self._alarms and self._alarms[0][0] <= at:
            alarm = heapq.heappop(self._alarms)
            if not self._is_live(alarm):
                continue
            _, position, attempt = alarm
            if position in self._resting:
                del self._resting[position]
                self._enqueue(position)
            else:
                self._time_out(position, attempt, at)

    def _on_stop(self, signal: StopRequested) -> None:
        if self._lost is not None and not (self._lost.clean_up and signal.abort):
            # All that may still start is what a stop would leave as well.
            return
        if self._stop is not None and (self._stop.abort or not signal.abort):
            return
        # The first reason stays: the second request only makes it more urgent.
        reason = self._stop.reason if self._stop is not None else signal.reason
        self._stop = StopRequested(reason, signal.at, signal.abort)
        if self._begun:
            self._wind_down(signal.at)

    def _on_lost(self, signal: ExecutorLost) -> None:
        if self._lost is not None:
            return
        # Where nothing had begun there is nothing to clean up.
        self._lost = replace(signal, clean_up=signal.clean_up and any(self._attempts))
        if self._begun:
            self._lose_all(self._lost, signal.at)

    # Ends of attempts.

    def _conclude(self, position: int, outcome: Outcome, at: float, measures: Measures | None = None) -> None:
        """End the attempt of *position* in flight."""
        attempt = self._running[position]
        retried = self._is_retried(position, attempt, outcome)
        # A strategy of the user's own is asked before anything has changed: it may raise.
        wait = self._wait_before(position, attempt) if retried else 0.0
        self._free(position)
        if retried:
            self._rest(position, at + wait, outcome, at, measures)
            return
        because = _in_words(outcome)
        if self._is_denied(position, attempt, outcome):
            self._denied.append(position)
            because = f"{because} (not tried again: the {self._policy.max_retries} retries of the run are used up)"
        self._end(position, outcome, at, because, measures)
        self._settled([position], at)

    def _end(self, position: int, outcome: Outcome, at: float, because: str, measures: Measures | None = None) -> None:
        """End *position*, which runs, with the *outcome* of its last attempt."""
        after = state_after(outcome)
        if after is TaskState.SKIPPED:
            self._skips[position] = (position, because)
        elif isinstance(outcome, Success) and outcome.branch is not None:
            self._branches[position] = outcome.branch
        self._move(position, after, at, because=because, outcome=outcome, measures=measures)

    def _is_retried(self, position: int, attempt: int, outcome: Outcome) -> bool:
        return self._retries_left > 0 and self._would_be_tried_again(position, attempt, outcome)

    def _is_denied(self, position: int, attempt: int, outcome: Outcome) -> bool:
        """Whether the one thing that keeps *position* from another attempt is that the run has no retry left."""
        return self._retries_left <= 0 and self._would_be_tried_again(position, attempt, outcome)

    def _would_be_tried_again(self, position: int, attempt: int, outcome: Outcome) -> bool:
        if self._lost is not None or (self._stop is not None and not self._survives_stop(position)):
            return False
        return self._graph.tasks[position].wants_another(attempt, outcome)

    def _wait_before(self, position: int, retry: int) -> float:
        task = self._graph.tasks[position]
        return task.retry.seconds_before(retry, f"{self._policy.seed}/{task.id}")

    def _free(self, position: int) -> None:
        del self._running[position]
        if position not in self._slotless:
            self._taken -= 1
        if position == self._alone:
            self._alone = _NOBODY
        if position in self._pools.requests:
            self._make_ready(self._pools.release(position))

    def _rest(self, position: int, resume_at: float, outcome: Outcome, at: float, measures: Measures | None) -> None:
        because = _in_words(outcome)
        self._retries_left -= 1
        self._move(
            position,
            TaskState.RETRYING,
            at,
            because=because,
            outcome=outcome,
            resume_at=resume_at,
            measures=measures,
        )
        self._failures[position] = outcome
        if resume_at <= at:
            self._enqueue(position)
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
            ends = self._end_of(position)
            branch = self._branches.get(position)
            for waiting in self._downstream[position]:
                end = _SKIPPED if branch is not None and self._is_closed(position, waiting) else ends
                self._missing[waiting] -= 1
                self._ends[waiting] |= end
                if self._states[waiting] is TaskState.PENDING and not self._abandoned[waiting]:
                    self._judge(waiting, position, end, queue, at)

    def _is_closed(self, position: int, downstream: int) -> bool:
        """Whether *position* has chosen not to go on with *downstream*."""
        branch = self._branches.get(position)
        if branch is None:
            return False
        of = self._graph.tasks[downstream].instance_of
        return (self._ids[downstream] if of is None else of) in branch.closed

    def _end_class(self, upstream: int, position: int) -> int:
        """The classes in which *upstream* has ended for *position*; 0 when it has not ended."""
        return _SKIPPED if self._is_closed(upstream, position) else self._end_of(upstream)

    def _end_of(self, position: int) -> int:
        """The classes in which *position* has ended, for a mapped task those of its instances, too; 0 if it has not."""
        ends = _BITS.get(self._states[position], 0)
        return ends | self._ends[position] if ends and self._instances.of.get(position) else ends

    def _judge(self, position: int, upstream: int, ends: int, queue: list[int], at: float) -> None:
        """Decide about *position* if the end of *upstream* has made that possible; queue it when it is settled."""
        when = self._rules[position]
        if ends & _BAD and when is Trigger.ALL_SUCCESS and position not in self._instances.of:
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
        if position in self._instances.of:
            self._gather(position, at)
            return True
        answer = judge(when, self._ends[position])
        runs = answer is Verdict.RUN
        if runs and not (self._stop is not None and self._is_unwanted(position)):
            if position in self._instances.unexpanded:
                self._instances.expanding.add(position)
                self._commands.append(ExpandTask(self._ids[position]))
            else:
                self._enqueue(position)
            return False
        if runs or self._has_abandoned_upstream(position):
            # Nobody knows how an upstream that was given up would have ended, so there is no verdict either.
            self._abandoned[position] = True
        elif answer is Verdict.BLOCK:
            self._block(position, self._first_upstream(position, _BAD), at)
        else:
            self._skip(position, at)
        return True

    def _gather(self, mapped: int, at: float) -> None:
        """End a mapped task, all of whose instances have ended, as one that needs all of them."""
        # A stop that has given up one of them has given up the mapped task, whose rule is the same.
        answer = judge(Trigger.ALL_SUCCESS, self._ends[mapped])
        if answer is Verdict.RUN:
            self._end_unexecuted(mapped, Success(), at)
        elif answer is Verdict.BLOCK:
            self._block(mapped, self._first_upstream(mapped, _BAD), at)
        else:
            self._skip(mapped, at)

    def _end_unexecuted(self, mapped: int, outcome: Outcome, at: float) -> None:
        """End a mapped task that nobody has executed: its attempt has no duration."""
        self._instances.expanding.discard(mapped)
        self._attempts[mapped] = 1
        self._move(mapped, TaskState.RUNNING, at)
        self._end(mapped, outcome, at, _in_words(outcome))

    def _is_expanding(self, position: int) -> bool:
        return position in self._instances.expanding and self._is_open(position)

    def _has_abandoned_upstream(self, position: int) -> bool:
        if self._stop is None:
            return False
        return any(self._abandoned[need] for need in self._graph.upstream_positions[position])

    def _first_upstream(self, position: int, classes: int) -> int:
        """Return the first upstream, in the order of its needs, that ended in one of *classes*; or _NOBODY."""
        upstream = self._graph.upstream_positions[position]
        return next((need for need in upstream if self._end_class(need, position) & classes), _NOBODY)

    def _block(self, position: int, upstream: int, at: float) -> None:
        because = f"upstream {self._label(upstream)} {_ENDED[self._states[upstream]]}"
        self._move(position, TaskState.BLOCKED, at, because=because, cause=upstream)

    def _skip(self, position: int, at: float) -> None:
        upstream = self._first_upstream(position, _SKIPPED)
        is_alarm = self._rules[position] is Trigger.ANY_FAILED and position not in self._instances.of
        if upstream == _NOBODY or is_alarm:
            because = "no upstream failed"
            self._skips[position] = (position, because)
            self._move(position, TaskState.SKIPPED, at, because=because)
            return
        if self._is_closed(upstream, position):
            because = self._branches[upstream].because
            self._skips[position] = (position, because)
            self._move(position, TaskState.SKIPPED, at, because=because, cause=upstream)
            return
        # The one that said so first is named, however long the chain has become.
        root, reason = self._skips[position] = self._skips[upstream]
        because = f"upstream {self._label(root)} was skipped{f': {reason}' if reason else ''}"
        self._move(position, TaskState.SKIPPED, at, because=because, cause=upstream)

    # Starting.

    def _enqueue(self, position: int) -> None:
        ready = self._ready_slotless if position in self._slotless else self._ready
        if self._instances:
            position = self._instances.queue(position)
        heapq.heappush(ready, self._rank[position])

    def _make_ready(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._enqueue(position)

    def _start_ready(self, at: float) -> None:
        while (position := self._next()) != _NOBODY:
            self._begin(position, at)

    def _next(self) -> int:
        """Take the next task that can start now out of the queues; _NOBODY when none can."""
        if self._held == _NOBODY and self._alone == _NOBODY:
            while ready := self._eligible():
                position = self._by_rank[heapq.heappop(ready)]
                if self._instances:
                    position = self._instances.take(position)
                if position in self._exclusive:
                    self._held = position
                    break
                if position not in self._pools.requests or self._claim(position):
                    return position
        if self._held == _NOBODY or self._running or not self._has_room(self._held):
            return _NOBODY
        held, self._held = self._held, _NOBODY
        return held

    def _eligible(self) -> list[int]:
        """Return the heap whose first is next as far as slots are concerned; an empty one when none of them is."""
        ready, slotless = self._ready, self._ready_slotless
        if not ready or self._taken >= self._slots:
            return slotless
        return slotless if slotless and slotless[0] < ready[0] else ready

    def _has_room(self, position: int) -> bool:
        return self._taken < self._slots or position in self._slotless

    def _claim(self, position: int) -> bool:
        got, called = self._pools.claim(position)
        self._make_ready(called)
        return got

    def _begin(self, position: int, at: float) -> None:
        attempt = self._attempts[position] = self._attempts[position] + 1
        self._running[position] = attempt
        if position not in self._slotless:
            self._taken += 1
        if position in self._exclusive:
            self._alone = position
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
        """Give up, but for clean-up, every retry and every task that has not started."""
        given_up = [position for position in self._failures if not self._survives_stop(position)]
        self._give_up_retries(given_up, self.stopped, at)
        if self._stop is not None and self._stop.abort:
            given_up += self._end_running([*self._running], Failure(FailureKind.INTERRUPTED, self.stopped), at)
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
        return not self._survives_stop(position)

    def _survives_stop(self, position: int) -> bool:
        """Whether *position* is clean-up or an alarm, and the run is not being aborted."""
        return self._rules[position] in CLEAN_UP and not (self._stop is not None and self._stop.abort)

    def _give_up_retries(self, positions: Iterable[int], reason: str, at: float) -> None:
        """End these RETRYING tasks with the failures they come from."""
        for position in positions:
            outcome = self._failures.pop(position)
            self._resting.pop(position, None)
            because = f"not tried again: {reason}"
            self._move(position, state_after(outcome), at, because=because, outcome=outcome)

    def _end_running(self, positions: list[int], outcome: Outcome, at: float) -> list[int]:
        """End the attempts at *positions* in flight with *outcome*, and have them cancelled; return *positions*."""
        for position in positions:
            self._commands.append(CancelAttempt(self._ids[position], self._running[position]))
            self._free(position)
            self._move(position, state_after(outcome), at, because=_in_words(outcome), outcome=outcome)
        return positions

    def _lose_all(self, lost: ExecutorLost, at: float) -> None:
        """End whatever has not ended, because nothing can be executed any more; not clean-up where that can be done."""
        spared = CLEAN_UP if lost.clean_up else frozenset[Trigger]()
        running = [position for position in self._running if self._rules[position] not in spared]
        ended = self._end_running(running, Lost(lost.reason), at)
        # Clean-up as well: an attempt at it may have been what ended the executor.
        retrying = [*self._failures]
        self._give_up_retries(retrying, lost.reason, at)
        # What a stop has given up stays where the stop has left it: it would not have started in any case.
        left = [position for position in range(len(self._graph)) if self._is_open(position)]
        left = [position for position in left if self._rules[position] not in spared]
        for position in left:
            self._move(position, TaskState.BLOCKED, at, because=lost.reason)
        self._forget_abandoned()
        # Settled last: the reason of all of them is the executor, not an upstream that was lost with it.
        self._settled([*ended, *retrying, *left], at)

    def _forget_abandoned(self) -> None:
        """Take out of every queue what will not start."""
        for ready in (self._ready, self._ready_slotless):
            ready[:] = [rank for rank in ready if self._stays_ready(self._by_rank[rank])]
            heapq.heapify(ready)
        self._make_ready(self._instances.forget(self._is_open))
        if self._held != _NOBODY and not self._is_open(self._held):
            self._held = _NOBODY
        self._make_ready(self._pools.dismiss(lambda position: not self._is_open(position)))

    def _stays_ready(self, position: int) -> bool:
        # Instances, which stand there under their mapped task, are queued anew.
        return self._is_open(position) and position not in self._instances.of

    def _end_if_over(self, at: float) -> None:
        # Whoever waits for a pool needs no mention: something holds that pool, or has been called and is ready. Nor
        # does what is ready and takes no slot: only an exclusive task that runs or is next keeps it from starting.
        if self._running or self._ready or self._resting or self._held != _NOBODY or self._instances.expanding:
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
        measures: Measures | None = None,
    ) -> None:
        task = self._ids[position]
        before = self._states[position]
        check_move(task, before, after)
        self._states[position] = after
        upstream = None if cause == _NOBODY else self._ids[cause]
        attempt = self._attempts[position]
        self._events.append(
            TaskMoved(task, before, after, attempt, at, because, upstream, outcome, resume_at, measures)
        )

    def _label(self, position: int) -> str:
        return self._graph.tasks[position].label

    def _is_open(self, position: int) -> bool:
        """Whether *position* can still move."""
        return self._states[position] not in DONE and not self._abandoned[position]


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


def _in_words(outcome: Outcome) -> str:
    if isinstance(outcome, Success):
        return ""
    return outcome.message if isinstance(outcome, Failure) else outcome.reason
