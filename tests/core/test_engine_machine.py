"""The engine under arbitrary signals: invariants after each, an oracle for the end, the same reactions in a replay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.invariants import check
from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    ExecutorLost,
    ExpandTask,
    Reaction,
    RunBegan,
    RunEnded,
    RunStarted,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TaskMoved,
    TimeReached,
)
from pytest_flowforge.core.model import Branch, Failure, FailureKind, Lost, Outcome, Success, Task, TaskId, Trigger
from pytest_flowforge.core.states import DONE, MOVES, TaskState
from pytest_flowforge.core.triggers import CLEAN_UP, Verdict, verdict
from tests.core.flows import POOLS, WAY, Script, branches, end_of, graphs, is_tried_again, outcomes, predict, seen_by

if TYPE_CHECKING:
    from pytest_flowforge.core.messages import Command, Event, Signal

_BAD = {TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CRASHED, TaskState.INTERRUPTED, TaskState.BLOCKED}


def _few(ids: list[TaskId]) -> st.SearchStrategy[list[TaskId]]:
    """None at all, most of the time."""
    return st.sampled_from([0, 0, 0, 1]).flatmap(
        lambda some: st.lists(st.sampled_from(ids), unique=True, max_size=some * 3)
    )


class EngineMachine(RuleBasedStateMachine):
    """Plays the world around an engine, believes nothing it says and checks all of it."""

    @initialize(
        slots=st.sampled_from([2, 3, 4, 1, 0]),
        grace=st.sampled_from([1.0, None]),
        data=st.data(),
        patience=st.sampled_from([99, 1, 4, 99, 8]),
        endurance=st.sampled_from([99, 99, 4, 99, 9]),
        budget=st.sampled_from([None, 2, None, 1, 0, 4]),
    )
    def begin(
        self,
        slots: int,
        grace: float | None,
        data: st.DataObject,
        patience: int,
        endurance: int,
        budget: int | None,
    ) -> None:
        self.graph = graph = data.draw(graphs(tidy=patience < 99 or endurance < 99), label="graph")
        self.policy = RunPolicy(slots, grace, max_retries=budget)
        #: Retries that were given, and tasks that were told that there are no more.
        self.retries = 0
        self.denied: list[TaskId] = []
        self.patience = patience
        self.endurance = endurance
        self.restored = dict.fromkeys(data.draw(_few([task.id for task in graph])), "stands")
        refused = data.draw(_few([task.id for task in graph]))
        self.refused = {name: "may have done its work" for name in refused if name not in self.restored}
        drawn = {name: data.draw(branches(graph, name)) for name in self.restored if graph.downstream(name)}
        self.branches = {name: branch for name, branch in drawn.items() if branch is not None}
        #: The ways on that tasks have chosen so far.
        self.ways: dict[TaskId, Branch] = {**self.branches}
        self.engine = self.make_engine()
        self.script = Script(data, graph)
        self.now = 0.0
        self.slots = slots
        self.stop: StopRequested | None = None
        self.lost: ExecutorLost | None = None
        #: Tasks that never started because the executor was lost.
        self.lost_with_it: set[TaskId] = set()
        self.shadow = dict.fromkeys((task.id for task in graph), TaskState.PENDING)
        self.flying: dict[TaskId, int] = {}
        self.gone: list[tuple[TaskId, int]] = []
        #: Attempts that the last reaction has ended although they still ran.
        self.unwanted: list[tuple[TaskId, int]] = []
        self.resume_at: dict[TaskId, float] = {}
        self.deadlines: dict[TaskId, float] = {}
        self.ended = 0
        self.history: list[tuple[tuple[Signal, ...], bool, Reaction]] = []
        self.feed(RunStarted(self.now))

    def make_engine(self) -> Engine:
        return Engine(self.graph, self.policy, restored=self.restored, branches=self.branches, refused=self.refused)

    # What can happen.

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 7), much=st.sampled_from([0.25, 1.0, 0.0]))
    def finish(self, which: int, much: float) -> None:
        self.now += much
        self.feed(self.end(which))

    @precondition(lambda self: self.flying)
    @rule()
    def finish_the_first(self) -> None:
        """Once more, so that ends are more frequent than other signals: rules are picked with equal weights."""
        self.now += 0.5
        self.feed(self.end(0))

    @precondition(lambda self: len(self.flying) > 1)
    @rule(which=st.integers(0, 7))
    def finish_together(self, which: int) -> None:
        first = self.end(which)
        others = [task for task in self.flying if task != first.task]
        self.feed(first, self.end_of(others[which % len(others)]))

    @precondition(lambda self: self.flying and len(self.history) > self.patience)
    @rule(which=st.integers(0, 7), abort=st.sampled_from([False] * 5 + [True]))
    def finish_and_stop(self, which: int, *, abort: bool) -> None:
        self.feed(self.end(which), self.requested(abort=abort))

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 7), stops=st.booleans())
    def finish_and_hear_of_it_before_anything_starts(self, which: int, *, stops: bool) -> None:
        reaction = self.feed(self.end(which), hold=True)
        assert all(isinstance(command, CancelAttempt) for command in reaction.commands)
        assert not any(isinstance(event, RunEnded) for event in reaction.events)
        if stops and len(self.history) > self.patience:
            self.feed(self.requested(abort=False), TimeReached(self.now))
        else:
            self.feed(TimeReached(self.now))

    @rule(which=st.integers(0, 100), attempt=st.integers(0, 4), outcome=outcomes)
    def finish_what_does_not_run(self, which: int, attempt: int, outcome: Outcome) -> None:
        """Ends come twice, too late, or of attempts that nobody started."""
        task = self.graph.tasks[which % len(self.graph)].id
        known = [end for end in [*self.gone, (task, attempt)] if self.flying.get(end[0]) != end[1]]
        if known:
            assert self.feed(AttemptFinished(*known[which % len(known)], outcome, self.now)) == Reaction()

    @rule(seconds=st.sampled_from([1.0, 0.5, 3.0, 0.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.feed(TimeReached(self.now))

    @rule(slots=st.sampled_from([2, 3, 4, 1, 0]))
    def change_slots(self, slots: int) -> None:
        self.slots = slots
        self.feed(SlotsChanged(slots, self.now))

    @precondition(lambda self: len(self.history) > self.patience)
    @rule(abort=st.sampled_from([False] * 5 + [True]))
    def request_stop(self, *, abort: bool) -> None:
        self.feed(self.requested(abort=abort))

    @precondition(lambda self: len(self.history) > self.endurance)
    @rule(clean_up=st.booleans())
    def lose_the_executor(self, *, clean_up: bool) -> None:
        self.feed(ExecutorLost("all workers died", self.now, clean_up))

    @precondition(lambda self: self.flying and len(self.history) > self.endurance)
    @rule(which=st.integers(0, 7), stops=st.booleans(), clean_up=st.booleans())
    def finish_and_lose_the_executor(self, which: int, *, stops: bool, clean_up: bool) -> None:
        lost = ExecutorLost("all workers died", self.now, clean_up)
        self.feed(self.end(which), lost, hold=True)
        late = [self.requested(abort=False)] if stops else []
        reaction = self.feed(lost, *late, SlotsChanged(self.slots, self.now))
        if not self.cleans_up:
            assert reaction == Reaction((), (RunEnded(self.now, self.engine.stopped),))

    @precondition(lambda self: self.cleans_up and not self.ended)
    @rule(abort=st.booleans())
    def request_a_stop_after_the_loss(self, *, abort: bool) -> None:
        reaction = self.feed(self.requested(abort=abort))
        assert abort or reaction == Reaction(), "it has been stopped, as it were"
        assert not abort or self.ended

    @property
    def cleans_up(self) -> bool:
        """Whether clean-up is still done although the executor is lost."""
        return self.lost is not None and self.lost.clean_up

    # What must hold.

    @invariant()
    def checks_out(self) -> None:
        check(self.engine)
        assert dict(self.engine.running) == self.flying
        assert self.engine.states == self.shadow
        assert self.engine.done == bool(self.ended)
        assert list(self.engine.denied) == self.denied

    @invariant()
    def wakes_in_time(self) -> None:
        times = [*self.resume_at.values(), *self.deadlines.values()]
        assert self.engine.wake_at == min(times, default=None)

    @invariant()
    def peeks_at_what_may_start(self) -> None:
        likely = self.engine.peek()
        assert likely is None or self.shadow[likely] in {TaskState.PENDING, TaskState.RETRYING}

    @invariant()
    def nobody_waits_for_a_slot_that_is_not_wanted(self) -> None:
        if self.stop is not None or any(task.exclusive for task in self.graph):
            return
        for task in self.graph:
            upstream = self.seen_by(task)
            free = not task.takes_slot and not task.pools and DONE.issuperset(upstream)
            if free and self.shadow[task.id] is TaskState.PENDING:
                assert verdict(task.when, upstream) is not Verdict.RUN

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.drain()
        self.compare_with_oracle()
        self.replay()

    # The world.

    def end(self, which: int) -> AttemptFinished:
        return self.end_of(list(self.flying)[which % len(self.flying)])

    def end_of(self, task: TaskId) -> AttemptFinished:
        return AttemptFinished(task, self.flying[task], self.script(task, self.flying[task]), self.now)

    def seen_by(self, task: Task) -> list[TaskState]:
        return seen_by(task, self.shadow, self.ways)

    def requested(self, *, abort: bool) -> StopRequested:
        return StopRequested("enough", self.now, abort)

    def feed(self, *signals: Signal, hold: bool = False) -> Reaction:
        reaction = self.engine.handle(*signals, hold=hold)
        self.history.append((signals, hold, reaction))
        for signal in signals:
            over = self.ended or (self.lost and not (self.cleans_up and getattr(signal, "abort", False)))
            if isinstance(signal, StopRequested) and not over and not (self.stop and self.stop.abort):
                self.stop = signal if self.stop is None or signal.abort else self.stop
            elif isinstance(signal, ExecutorLost) and not over:
                self.lost = replace(signal, clean_up=signal.clean_up and bool(self.gone or self.flying))
            elif isinstance(signal, TimeReached):
                # A retry that is due waits for a slot from here on, no longer for the time.
                self.resume_at = {task: due for task, due in self.resume_at.items() if due > signal.at}
        self.unwanted.clear()
        for event in reaction.events:
            self.believe(event)
        for command in reaction.commands:
            self.obey(command)
        rules = {self.graph[task].when for task in self.flying}
        assert not self.lost or (CLEAN_UP.issuperset(rules) if self.cleans_up else not rules), "nobody can execute it"
        assert not self.lost or self.engine.wake_at is None or self.deadlines, "nothing is tried again"
        cancels = [command for command in reaction.commands if isinstance(command, CancelAttempt)]
        ended_by_engine = [CancelAttempt(*attempt) for attempt in self.unwanted]
        assert cancels == ended_by_engine, "what the engine ends by itself is cancelled, and nothing else is"
        started = [self.graph[command.task] for command in reaction.commands if isinstance(command, StartAttempt)]
        self.check_room(started=any(task.takes_slot for task in started))
        return reaction

    def obey(self, command: Command) -> None:
        assert not isinstance(command, ExpandTask)
        if isinstance(command, CancelAttempt):
            assert (command.task, command.attempt) in self.gone, "cancelled and still running"
        else:
            assert self.flying[command.task] == command.attempt

    def believe(self, event: Event) -> None:
        assert not self.ended, "something happened after the end"
        if isinstance(event, RunEnded):
            self.ended += 1
            assert bool(event.stopped) == (self.stop is not None)
        elif isinstance(event, RunBegan):
            assert event.tasks == len(self.graph)
            assert self.shadow == dict.fromkeys(self.shadow, TaskState.PENDING)
        else:
            assert isinstance(event, TaskMoved)
            self.move(event)

    def move(self, event: TaskMoved) -> None:
        assert self.shadow[event.task] is event.before
        assert event.after in MOVES[event.before]
        self.shadow[event.task] = event.after
        self.resume_at.pop(event.task, None)
        if event.before is TaskState.RUNNING:
            self.ends(event)
        if event.after is TaskState.RUNNING:
            self.starts(event)
        elif event.after is TaskState.RETRYING:
            self.retries += 1
            assert self.policy.max_retries is None or self.retries <= self.policy.max_retries
            assert event.resume_at is not None
            if event.resume_at > self.now:
                self.resume_at[event.task] = event.resume_at
        elif event.after is TaskState.BLOCKED and event.task in self.refused:
            assert (event.cause, event.because) == (None, "may have done its work")
        elif event.after is TaskState.BLOCKED and event.cause is None:
            assert self.lost
            assert event.because == self.lost.reason
            assert not self.cleans_up or self.graph[event.task].when not in CLEAN_UP
            self.lost_with_it.add(event.task)
        elif event.after is TaskState.BLOCKED:
            assert event.cause in self.graph[event.task].needs
            assert self.shadow[event.cause] in _BAD
        elif event.after is TaskState.SKIPPED and event.because == WAY:
            assert event.cause is not None
            assert event.task in self.ways[event.cause].closed
        elif event.after is TaskState.SKIPPED and event.cause is not None:
            assert self.shadow[event.cause] is TaskState.SKIPPED
            assert event.because.endswith(("no data", "no upstream failed", WAY))

    def ends(self, event: TaskMoved) -> None:
        attempt = self.flying.pop(event.task)
        assert event.attempt == attempt
        assert event.outcome is not None
        if isinstance(event.outcome, Success) and event.outcome.branch is not None:
            self.ways[event.task] = event.outcome.branch
        deadline = self.deadlines.pop(event.task, None)
        self.gone.append((event.task, attempt))
        self.check_budget(event)
        # A time-out or an interruption by the engine is an outcome, too: from here on it is in the script.
        if self.script.known.get((event.task, attempt)) is not event.outcome:
            assert self.was_ended_by_engine(event.outcome, deadline)
            lost = isinstance(event.outcome, Lost)
            assert not (lost and self.cleans_up and self.graph[event.task].when in CLEAN_UP), "it was left to end"
            self.unwanted.append((event.task, attempt))
            self.script.known[event.task, attempt] = event.outcome

    def check_budget(self, event: TaskMoved) -> None:
        """What would be tried again is, until the run has no retry left; then that is said."""
        denied = "the run are used up" in event.because
        assert event.outcome is not None
        wanted = is_tried_again(self.graph[event.task].retry, event.attempt, event.outcome)
        assert not denied or (wanted and self.retries == self.policy.max_retries)
        if event.after is TaskState.RETRYING:
            assert wanted
        elif denied:
            self.denied.append(event.task)
        elif wanted:
            assert self.stop or self.lost

    def was_ended_by_engine(self, outcome: Outcome, deadline: float | None) -> bool:
        if isinstance(outcome, Lost):
            return self.lost is not None and outcome.reason == self.lost.reason
        assert isinstance(outcome, Failure)
        if outcome.kind is FailureKind.TIMED_OUT:
            return deadline is not None and deadline <= self.now
        return outcome.kind is FailureKind.INTERRUPTED and self.stop is not None and self.stop.abort

    def starts(self, event: TaskMoved) -> None:
        task = self.graph[event.task]
        earlier = [attempt for name, attempt in self.gone if name == task.id]
        assert event.attempt == len(earlier) + 1
        self.flying[task.id] = event.attempt
        assert self.stop is None or (task.when in CLEAN_UP and not self.stop.abort)
        assert self.lost is None or (task.when in CLEAN_UP and self.lost.clean_up and not earlier)
        upstream = self.seen_by(task)
        settled = [state for state in upstream if state in DONE]
        assert settled == upstream or self.stop
        assert verdict(task.when, settled) is Verdict.RUN
        if self.policy.grace is not None and task.timeout is not None:
            self.deadlines[task.id] = self.now + task.timeout + self.policy.grace

    def check_room(self, *, started: bool) -> None:
        running = [self.graph[name] for name in self.flying]
        assert not started or sum(task.takes_slot for task in running) <= self.slots
        for pool, size in POOLS.items():
            used = sum(units for task in running if not task.exclusive for name, units in task.pools if name == pool)
            assert used <= size
        assert len(running) == 1 or not any(task.exclusive for task in running)

    # The end.

    def drain(self) -> None:
        """Whatever has happened so far, a run ends once it gets a slot, its attempts end and time passes."""
        self.slots = 2
        self.feed(SlotsChanged(2, self.now))
        for _ in range(4 * len(self.graph) + 4):
            if self.engine.done:
                break
            if self.flying:
                self.feed(self.end(0))
            elif self.engine.wake_at is not None:
                self.now = max(self.now, self.engine.wake_at)
                self.feed(TimeReached(self.now))
            self.checks_out()
        assert self.engine.done, "nothing is left to happen, and the run has not ended"
        assert self.ended == 1
        assert self.feed(TimeReached(self.now + 1000), SlotsChanged(9, self.now)) == Reaction()

    def compare_with_oracle(self) -> None:
        if self.stop is None and self.lost is None:
            graph = TaskGraph.build(map(self.as_tried, self.graph), POOLS)
            assert self.shadow == predict(graph, self.script, self.restored, self.refused, self.branches)
            return
        for task in self.graph:
            self.compare_stopped(task.id)

    def as_tried(self, task: Task) -> Task:
        """With as many retries as it was given: see :meth:`check_budget` for whether those are the right ones."""
        if self.policy.max_retries is None:
            return task
        given = sum(name == task.id for name, _ in self.gone) - 1
        return replace(task, retry=replace(task.retry, max_retries=max(given, 0)))

    def compare_stopped(self, name: TaskId) -> None:
        task, state = self.graph[name], self.shadow[name]
        attempts = [attempt for gone, attempt in self.gone if gone == name]
        if attempts:
            end = self.script(name, attempts[-1])
            assert state is end_of(end)
            tried_on = (
                task.when in CLEAN_UP
                and name not in self.denied
                and not self.lost
                and not (self.stop and self.stop.abort)
            )
            assert not (tried_on and is_tried_again(task.retry, attempts[-1], end)), (
                "clean-up is tried again after a stop"
            )
            return
        upstream = self.seen_by(task)
        if state is TaskState.PENDING:
            # Clean-up is never left out (lost, perhaps), an alarm only while nobody knows better.
            assert self.stop
            assert self.stop.abort or task.when is not Trigger.ALWAYS
            assert self.stop.abort or task.when is not Trigger.ANY_FAILED or TaskState.PENDING in upstream
            assert self.stop.abort or task.when is not Trigger.ANY_FAILED or _BAD.isdisjoint(upstream)
        elif state is TaskState.BLOCKED:
            assert name in self.refused or name in self.lost_with_it or not _BAD.isdisjoint(upstream)
        elif state is TaskState.SKIPPED:
            assert verdict(task.when, upstream) is Verdict.SKIP
        else:
            assert state is TaskState.REUSED
            assert name in self.restored

    def replay(self) -> None:
        """The same signals make the same reactions."""
        again = self.make_engine()
        for signals, hold, reaction in self.history:
            assert again.handle(*signals, hold=hold) == reaction


EngineMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=30)
TestEngineMachine = EngineMachine.TestCase


class LosingMachine(EngineMachine):
    """Loses the executor early, with much clean-up to do."""

    @initialize(
        slots=st.sampled_from([2, 3, 1]),
        grace=st.sampled_from([1.0, None]),
        data=st.data(),
        endurance=st.sampled_from([2, 3, 5]),
    )
    def begin(self, slots: int, grace: float | None, data: st.DataObject, endurance: int) -> None:
        EngineMachine.begin(self, slots, grace, data, 99, endurance, None)

    @precondition(lambda self: self.lost is None and len(self.history) > self.endurance)
    @rule()
    def lose_the_executor(self) -> None:
        self.feed(ExecutorLost("all workers died", self.now, clean_up=True))


LosingMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=25)
TestLosingMachine = LosingMachine.TestCase


@given(st.data())
def test_the_end_depends_on_outcomes_and_on_nothing_else(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    script = Script(data, graph)
    for _ in range(2):
        slots = data.draw(st.integers(1, 5))
        ranks = data.draw(st.permutations(range(len(graph))))
        engine = Engine(graph, RunPolicy(slots), ranks=ranks)
        engine.handle(RunStarted(0.0))
        now = 0.0
        while not engine.done:
            if engine.running:
                task, attempt = data.draw(st.sampled_from(engine.running))
                engine.handle(AttemptFinished(task, attempt, script(task, attempt), now))
            else:
                now = engine.wake_at or now
                engine.handle(TimeReached(now))
        assert engine.states == predict(graph, script)


@given(st.lists(st.tuples(st.integers(-1, 1), st.booleans()), max_size=12), st.integers(0, 3), st.data())
def test_of_those_that_fit_the_first_by_rank_starts(
    kinds: list[tuple[int, bool]], slots: int, data: st.DataObject
) -> None:
    tasks = [Task(TaskId(f"{place}"), priority=high, takes_slot=slot) for place, (high, slot) in enumerate(kinds)]
    engine = Engine(TaskGraph.build(tasks), RunPolicy(slots))
    waiting = sorted(tasks, key=lambda task: -task.priority)
    reaction = engine.handle(RunStarted(0.0))
    running: list[Task] = []
    while True:
        check(engine)
        starts = []
        for task in [*waiting]:
            if not task.takes_slot or sum(other.takes_slot for other in running) < slots:
                starts.append(StartAttempt(task.id, 1))
                waiting.remove(task)
                running.append(task)
        assert list(reaction.commands) == starts
        if not running:
            return
        ending = running.pop(data.draw(st.integers(0, len(running) - 1)))
        reaction = engine.handle(AttemptFinished(ending.id, 1, Success(), 1.0))
