"""The loop: what is told before what is done, how it waits, and how it stops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.engine import Engine
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, RunEnded, Signal, StartAttempt, StopRequested, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Outcome, Success, Task, TaskId, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.driver import Driver, SystemClock, interrupted
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.failures import qualified_mro
from pytest_flowforge.ports import Finished, Job
from pytest_flowforge.testing import FakeClock, ScriptedExecutor
from tests.shell.runs import Run, job_for, task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOOM = Failure(message="boom")


def test_values_are_kept_before_the_success_is_told_and_told_before_anything_builds_on_it() -> None:
    run = Run(task("a"), task("b", "a"))
    run.driver.run()
    assert run.log == ["began", "a running", "a = A", "a success", "b running", "b = B", "b success", "ended"]
    assert run.executed == ["start a 1", "start b 1"]
    assert run.executor.closed


def test_events_are_told_before_commands_are_obeyed() -> None:
    told: list[str] = []

    def make_job(command: StartAttempt) -> Job:
        told.append(f"job {command.task}")
        return job_for(command)

    run = Run(task("a"), task("b"), make_job=make_job, slots=2)
    run.listen(lambda event: told.append(type(event).__name__))
    run.driver.run()
    assert told[:5] == ["RunBegan", "TaskMoved", "TaskMoved", "job a", "job b"]


def test_jobs_are_called_where_the_script_says_nothing() -> None:
    clock = FakeClock()
    values: dict[TaskId, Any] = {}
    engine = Engine(TaskGraph.build([task("a"), task("b", "a")]))
    Driver(engine, InlineExecutor(clock), job_for, clock=clock, on_value=values.__setitem__).run()
    assert values == {"a": "A", "b": "B"}


def test_the_slots_are_those_of_the_executor() -> None:
    run = Run(*map(task, "abcd"), slots=2)
    run.driver.run()
    assert run.log.index("c running") > run.log.index("a success")
    assert run.clock.now() == 2.0


def test_workers_come_and_go() -> None:
    def come_and_go(event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after is TaskState.SUCCESS:
            run.executor.available = {"a": 0, "b": 3}.get(event.task, run.executor.available)

    run = Run(*map(task, "abcde"), slots=2, seconds={("b", 1): 2.0})
    run.listen(run.note, come_and_go)
    run.driver.run()
    assert run.engine.done
    assert run.log.index("c running") > run.log.index("a success"), "seen with the ends it came with, not before"
    assert run.clock.slept == [], "that somebody came or went is news, and no reason to pause"
    assert run.clock.now() == 3.0


def test_retries_are_waited_for() -> None:
    run = Run(task("a", retry=RetryPolicy(1, delay=60.0)), outcomes={("a", 1): BOOM})
    run.driver.run()
    assert run.states == {"a": "success"}
    assert run.clock.now() == 62.0
    assert run.clock.slept == [], "an executor that waits by itself needs no pauses"


def test_an_attempt_that_hangs_is_cancelled() -> None:
    run = Run(task("a", timeout=5.0), task("b"), seconds={("a", 1): math.inf}, grace=1.0)
    run.driver.run()
    assert run.states == {"a": "timed out", "b": "success"}
    assert run.executed == ["start a 1", "cancel a 1", "start b 1"]
    assert run.clock.now() == 7.0


def test_an_end_counts_that_comes_with_the_deadline() -> None:
    run = Run(task("a", timeout=5.0), seconds={("a", 1): 6.0}, grace=1.0)
    run.driver.run()
    assert run.states == {"a": "success"}


def test_the_result_of_an_attempt_that_no_longer_counts_is_dropped() -> None:
    class Deaf(ScriptedExecutor):
        """Reports the end of what was cancelled, as a thread that can not be stopped would."""

        def cancel(self, task: TaskId, attempt: int) -> None:
            pass

    run = Run(task("a", timeout=1.0, retry=RetryPolicy(1)), grace=0.0)
    run.driver._executor = Deaf(run.clock, seconds={("a", 1): 1.5, ("a", 2): 0.75})
    run.driver.run()
    assert run.log.count("a = A") == 1
    assert run.states == {"a": "success"}


def test_a_wait_that_is_infinitely_long_is_asked_for_in_pieces() -> None:
    waits: list[float | None] = []

    class Recorder(ScriptedExecutor):
        def wait(self, timeout: float | None) -> Sequence[Finished]:
            waits.append(timeout)
            if len(waits) > 2:
                run.driver.feed(StopRequested("long enough", run.clock.now()))
            return super().wait(timeout)

    run = Run(task("a", retry=RetryPolicy(1, delay=math.inf)))
    run.driver._executor = Recorder(run.clock, {("a", 1): BOOM})
    run.driver.run()
    assert waits == [None, 3600.0, 3600.0]
    assert run.states == {"a": "failed"}


def test_nothing_to_do_is_no_reason_to_be_busy() -> None:
    def ask() -> Signal | None:
        return StopRequested("no workers", 0.0) if run.clock.now() > 1 else None

    run = Run(task("a"), slots=0, ask=ask)
    run.driver.run()
    assert set(run.clock.slept) == {0.05}
    assert len(run.clock.slept) <= 22
    assert run.states == {"a": "pending"}


# Stopping.


def test_a_stop_asked_for_takes_effect_with_the_end_that_caused_it() -> None:
    def ask() -> Signal | None:
        failed = "failed" in run.states.values()
        return StopRequested("-x", run.clock.now()) if failed or run.executor.log[-1:] == [("start", "a", 1)] else None

    tasks = [task("a"), task("b", "a"), task("c"), task("tidy", "a", when=Trigger.ALWAYS)]
    run = Run(*tasks, outcomes={("a", 1): BOOM}, ask=ask)
    run.driver.run()
    assert run.states == {"a": "failed", "b": "blocked", "c": "pending", "tidy": "success"}
    assert run.executed == ["start a 1", "start tidy 1"]
    assert run.log[-1] == "ended -x"


def test_a_stop_asked_for_from_the_beginning_starts_nothing() -> None:
    run = Run(task("a"), ask=lambda: StopRequested("not today", 0.0))
    run.driver.run()
    assert run.executed == []
    assert run.log == ["began", "ended not today"]


def test_a_sink_may_feed_a_signal_and_the_order_of_events_stays() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after is TaskState.RUNNING:
            run.driver.feed(StopRequested("seen enough", event.at))

    later: list[str] = []
    run = Run(task("a"), task("b"), slots=2)
    run.listen(stop, run.note, lambda event: later.append(type(event).__name__))
    run.driver.run()
    assert run.log[:3] == ["began", "a running", "b running"]
    assert len(later) == len([entry for entry in run.log if " = " not in entry])


@pytest.mark.parametrize("raised", [KeyboardInterrupt("ctrl-c"), RuntimeError("exit"), SystemExit(3)])
def test_an_interrupt_ends_what_ran_cleans_up_and_is_raised_again(raised: BaseException) -> None:
    tasks = [task("a"), task("b", "a"), task("c"), task("tidy", "a", "c", when=Trigger.ALWAYS)]
    run = Run(*tasks, outcomes={("a", 1): raised})
    with pytest.raises(type(raised)) as caught:
        run.driver.run()
    assert caught.value is raised
    assert run.states == {"a": "interrupted", "b": "blocked", "c": "pending", "tidy": "success"}
    assert run.executed == ["start a 1", "interrupt  0", "cancel a 1", "start tidy 1"]
    assert run.log[-1] == f"ended {type(raised).__name__}: {raised}"
    assert run.executor.closed


def test_a_second_interrupt_ends_the_clean_up() -> None:
    tasks = [task("a"), task("tidy", "a", when=Trigger.ALWAYS), task("more", "tidy", when=Trigger.ALWAYS)]
    first, second = KeyboardInterrupt("first"), KeyboardInterrupt("second")
    run = Run(*tasks, outcomes={("a", 1): first, ("tidy", 1): second})
    with pytest.raises(KeyboardInterrupt) as caught:
        run.driver.run()
    assert caught.value is first
    assert run.states == {"a": "interrupted", "tidy": "interrupted", "more": "pending"}
    assert run.log[-1] == "ended KeyboardInterrupt: first"


def test_others_that_run_are_interrupted_and_cancelled_as_well() -> None:
    run = Run(task("a"), task("b"), outcomes={("a", 1): KeyboardInterrupt()}, seconds={("b", 1): 9.0}, slots=2)
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert run.states == {"a": "interrupted", "b": "interrupted"}
    assert run.executed[-3:] == ["interrupt  0", "cancel a 1", "cancel b 1"]


def test_who_handles_interrupts_may_let_others_finish() -> None:
    def handle(broken: BaseException) -> Iterable[Signal]:
        first, *_ = interrupted(run.engine, str(broken), run.clock.now())
        return [first, StopRequested("politely", run.clock.now())]

    run = Run(
        task("a"),
        task("b"),
        outcomes={("a", 1): KeyboardInterrupt()},
        seconds={("b", 1): 9.0},
        slots=2,
        on_interrupt=handle,
    )
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert run.states == {"a": "interrupted", "b": "success"}
    assert run.log[-1] == "ended politely"


def test_who_handles_interrupts_may_let_them_through() -> None:
    def handle(broken: BaseException) -> Iterable[Signal]:
        raise broken

    run = Run(task("a"), outcomes={("a", 1): RuntimeError("internal")}, on_interrupt=handle)
    with pytest.raises(RuntimeError, match="internal"):
        run.driver.run()
    assert run.executor.closed
    assert not run.engine.done


def test_an_interrupt_that_nothing_follows_from_is_let_through() -> None:
    run = Run(task("a"), outcomes={("a", 1): RuntimeError("internal")}, on_interrupt=lambda _: [])
    with pytest.raises(RuntimeError, match="internal"):
        run.driver.run()
    assert run.executor.closed


def test_a_job_that_can_not_be_made_is_a_failed_attempt() -> None:
    def make_job(command: StartAttempt) -> Job:
        if command.attempt == 1 and command.task == "a":
            msg = "lost\nin two lines"
            raise FileNotFoundError(msg)
        return job_for(command)

    run = Run(
        task("a", retry=RetryPolicy(1, on=("builtins.OSError",))), task("b"), task("c", "a"), make_job=make_job, slots=3
    )
    moves: list[Event] = []
    run.listen(run.note, moves.append)
    run.driver.run()
    assert run.states == {"a": "success", "b": "success", "c": "success"}
    assert run.executed == ["start b 1", "start a 2", "start c 1"]
    (retried,) = [event for event in moves if isinstance(event, TaskMoved) and event.after is TaskState.RETRYING]
    assert isinstance(retried.outcome, Failure)
    assert retried.because == "FileNotFoundError: lost"
    assert "make_job" in retried.outcome.longrepr


def test_a_stop_is_asked_for_after_a_job_that_could_not_be_made_too() -> None:
    def make_job(command: StartAttempt) -> Job:
        raise ValueError(command.task)

    asked: list[Signal] = []

    def ask() -> Signal | None:
        asked.append(StopRequested("-x", run.clock.now()))
        return asked[-1] if len(asked) > 1 else None

    run = Run(task("a"), task("b"), make_job=make_job, ask=ask)
    run.driver.run()
    assert run.states == {"a": "failed", "b": "pending"}


def test_an_interrupt_while_jobs_are_made_leaves_nothing_behind() -> None:
    def make_job(command: StartAttempt) -> Job:
        if command.task == "b":
            raise KeyboardInterrupt
        return job_for(command)

    run = Run(task("a"), task("b"), task("c"), make_job=make_job, slots=3)
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert set(run.states.values()) == {"interrupted"}
    assert run.executed == ["start a 1", "interrupt  0", "cancel a 1", "cancel b 1", "cancel c 1"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_sink_that_raises_stops_the_run_in_order_and_the_others_are_still_told(error: BaseException) -> None:
    told = []

    def full(event: Event) -> None:
        told.append(event)
        if isinstance(event, TaskMoved) and event.after is TaskState.SUCCESS and event.task == "a":
            raise error

    run = Run(task("a"), task("b"), task("tidy", when=Trigger.ALWAYS))
    run.listen(full, run.note)
    with pytest.raises(type(error)):
        run.driver.run()
    assert run.states == {"a": "success", "b": "pending", "tidy": "success"}
    assert run.log.count("a success") == 1
    assert len(told) == len({id(event) for event in told})
    assert run.executed == ["start a 1", "interrupt  0", "start tidy 1"]
    assert run.executor.closed


def test_a_sink_that_always_raises_ends_the_run() -> None:
    def broken(event: Event) -> None:
        raise OSError(event)

    run = Run(task("a"), task("b", "a"), task("tidy", when=Trigger.ALWAYS))
    run.listen(broken, run.note)
    with pytest.raises(OSError, match="RunBegan"):
        run.driver.run()
    assert run.executor.closed


def test_a_result_that_can_not_be_kept_is_no_success() -> None:
    def keep(_task: TaskId, _value: Any) -> None:
        msg = "disk full"
        raise OSError(msg)

    run = Run(task("a"), task("b", "a"))
    run.driver._on_value = keep
    run.driver.run()
    assert run.states == {"a": "failed", "b": "blocked"}


def test_what_conclude_makes_of_an_end_is_what_has_become_of_the_attempt() -> None:
    def conclude(end: Finished) -> Finished:
        run.log.append(f"conclude {end.task}")
        return verdicts.get(end.task, end)

    verdicts: dict[str, Finished] = {
        "a": Finished(TaskId("a"), 1, Success(), "unpacked"),
        "b": Finished(TaskId("b"), 1, BOOM),
        "c": Finished(TaskId("elsewhere"), 7, Success(), 1),
    }
    run = Run(task("a"), task("b"), task("c"), task("d"), outcomes={("d", 1): BOOM}, slots=4, conclude=conclude)
    run.driver.run()
    assert run.states == {"a": "success", "b": "failed", "c": "success", "d": "failed"}
    assert run.values["a"] == "unpacked"
    assert "b" not in run.values
    assert run.log[5:] == [
        "conclude a",
        "a = unpacked",
        "conclude b",
        "conclude c",
        "elsewhere = 1",
        "conclude d",
        "a success",
        "b failed",
        "c success",
        "d failed",
        "ended",
    ]


def test_a_conclusion_that_raises_is_a_failure_like_any_other() -> None:
    def conclude(end: Finished) -> Finished:
        if end.attempt == 1:
            msg = "half a result"
            raise EOFError(msg)
        return end

    run = Run(task("a", retry=RetryPolicy(1, on=("builtins.EOFError",))), task("b"), conclude=conclude)
    run.driver.run()
    assert run.states == {"a": "success", "b": "failed"}
    assert list(run.values) == ["a"]


def test_what_no_longer_counts_is_not_concluded() -> None:
    class Talkative(ScriptedExecutor):
        """Reports what was cancelled, what nobody has started, and everything twice."""

        def cancel(self, task: TaskId, attempt: int) -> None:
            pass

        def wait(self, timeout: float | None) -> Sequence[Finished]:
            finished = super().wait(timeout)
            return [*finished, Finished(TaskId("b"), 3, Success()), *finished]

    def conclude(end: Finished) -> Finished:
        concluded.append((end.task, end.attempt, run.clock.now()))
        return end

    concluded: list[tuple[str, int, float]] = []
    run = Run(task("a", timeout=1.0, retry=RetryPolicy(1)), task("b", "a"), grace=0.0, conclude=conclude)
    run.driver._executor = Talkative(run.clock, seconds={("a", 1): 1.5, ("a", 2): 0.75})
    run.driver.run()
    assert concluded == [("a", 2, 1.75), ("b", 1, 2.75)]
    assert run.log.count("a = a") + run.log.count("a = A") == 1


def test_interrupted_names_every_attempt_in_flight() -> None:
    run = Run(task("a"), task("b"))
    assert interrupted(run.engine, "x", 7.0) == [StopRequested("x", 7.0)]


def test_classes_travel_by_name() -> None:
    assert qualified_mro(FileNotFoundError())[:2] == ("builtins.FileNotFoundError", "builtins.OSError")


# An executor that is lost.


def test_when_the_executor_is_lost_the_run_ends_and_what_ended_before_counts() -> None:
    class Dying(ScriptedExecutor):
        def wait(self, timeout: float | None) -> Sequence[Finished]:
            finished = super().wait(timeout)
            if self._clock.now() >= 2.0:
                self.lost, self.available = "every worker died", 0
            return finished

    tasks = [task("a"), task("b", "a"), task("c"), task("d", "b"), task("tidy", "d", when=Trigger.ALWAYS)]
    run = Run(*tasks, slots=2)
    run.driver._executor = run.executor = Dying(run.clock, seconds={("c", 1): math.inf}, slots=2)
    run.driver.run()
    assert run.states == {"a": "success", "b": "success", "c": "crashed", "d": "blocked", "tidy": "blocked"}
    assert run.executed == ["start a 1", "start c 1", "start b 1", "cancel c 1"]
    assert run.log[-1] == "ended"
    assert run.engine.stopped == ""
    assert run.executor.closed


def test_an_executor_that_never_was_there_starts_nothing() -> None:
    run = Run(task("a"), task("tidy", "a", when=Trigger.ALWAYS), slots=0)
    run.executor.lost = "no worker could be started"
    run.driver.run()
    assert run.states == {"a": "blocked", "tidy": "blocked"}
    assert run.executed == []


def test_an_executor_may_be_lost_while_jobs_are_handed_to_it() -> None:
    def make_job(command: StartAttempt) -> Job:
        run.executor.lost = "broken pipe"
        raise BrokenPipeError(command)

    run = Run(task("a"), task("b", "a"), task("c"), make_job=make_job)
    run.driver.run()
    assert run.states == {"a": "failed", "b": "blocked", "c": "blocked"}


class Rescued(ScriptedExecutor):
    """Lost when a second has passed, but for clean-up."""

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        finished = super().wait(timeout)
        self.lost, self.available = "every worker died", 1
        return finished


def _rescued(**outcomes: Outcome | BaseException) -> Run:
    tidy = [task(name, "b", when=Trigger.ALWAYS) for name in ("tidy", "last")]
    run = Run(task("a"), task("hangs"), task("b", "a"), *tidy, slots=2)
    found = {(name, 1): outcome for name, outcome in outcomes.items()}
    run.driver._executor = run.executor = Rescued(run.clock, found, seconds={("hangs", 1): math.inf}, slots=2)
    return run


def test_an_executor_that_is_lost_and_has_slots_does_the_clean_up() -> None:
    run = _rescued()
    run.driver.run()
    assert run.states == {"a": "success", "hangs": "crashed", "b": "blocked", "tidy": "success", "last": "success"}
    assert run.executed[2:] == ["cancel hangs 1", "start tidy 1", "start last 1"]
    assert run.clock.now() == 3.0


def test_an_interrupt_ends_clean_up_that_is_all_there_is() -> None:
    run = _rescued(tidy=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert run.states == {"a": "success", "hangs": "crashed", "b": "blocked", "tidy": "interrupted", "last": "pending"}
    assert run.executed[3:] == ["start tidy 1", "cancel tidy 1"]
    assert run.log[-1] == "ended KeyboardInterrupt"


# A grace for what runs when the run is interrupted.


class Interrupted(Run):
    """A run that somebody interrupts at a time, as a signal handler would: while its executor is waited for."""

    def __init__(self, *tasks: Task, at: tuple[float, ...] = (2.0,), patience: float = 5.0, **options: Any) -> None:
        super().__init__(*tasks, patience=patience, **options)
        self.raised = [KeyboardInterrupt(f"at {time:g}") for time in at]
        self.coming = list(zip(at, self.raised, strict=True))
        wait = self.executor.wait

        def interruptible(timeout: float | None) -> Sequence[Finished]:
            at, raised = self.coming[0] if self.coming else (math.inf, KeyboardInterrupt())
            left = at - self.clock.now()
            if timeout is not None and timeout < left:
                return wait(timeout)
            finished = wait(None if math.isinf(left) else left)
            if not finished and self.coming:
                self.coming.pop(0)
                raise raised
            return finished

        self.executor.wait = interruptible  # type: ignore[method-assign]

    def run(self) -> None:
        with pytest.raises(KeyboardInterrupt) as caught:
            self.driver.run()
        assert caught.value is self.raised[0]


def test_what_ends_within_the_grace_counts_as_what_it_is_and_the_rest_is_interrupted() -> None:
    seconds = {("good", 1): 3.0, ("bad", 1): 4.0, ("brink", 1): 7.0, ("hangs", 1): math.inf}
    tasks = [
        task("good"),
        task("bad", retry=RetryPolicy(2)),
        task("brink"),
        task("hangs"),
        task("next", "good"),
        task("after", "hangs"),
    ]
    run = Interrupted(*tasks, seconds=seconds, outcomes={("bad", 1): BOOM}, slots=4)
    run.run()
    assert run.states == {
        "good": "success",
        "bad": "failed",
        "brink": "success",
        "hangs": "interrupted",
        "next": "pending",
        "after": "pending",
    }, "what depends on hangs was given up when the run was stopped, before anybody knew"
    assert run.executed[4:] == ["interrupt  0", "cancel hangs 1"]
    assert run.values.keys() == {"good", "brink"}
    assert run.clock.now() == 7.0
    assert run.log[-1] == "ended KeyboardInterrupt: at 2"


def test_a_run_whose_tasks_end_within_the_grace_does_not_wait_for_the_rest_of_it() -> None:
    run = Interrupted(task("a"), task("b"), seconds={("a", 1): 3.0}, patience=1000.0)
    run.run()
    assert run.states == {"a": "success", "b": "pending"}
    assert run.clock.now() == 3.0


def test_clean_up_may_start_within_the_grace_and_is_not_cut_off_by_it() -> None:
    tidy = [task("tidy", "a", when=Trigger.ALWAYS), task("last", "b", when=Trigger.ALWAYS)]
    seconds = {("a", 1): 3.0, ("b", 1): math.inf, ("tidy", 1): 30.0}
    run = Interrupted(task("a"), task("b"), task("c"), *tidy, seconds=seconds, slots=2)
    run.run()
    assert run.states == {"a": "success", "b": "interrupted", "c": "pending", "tidy": "success", "last": "success"}
    assert run.executed[2:] == ["interrupt  0", "start tidy 1", "cancel b 1", "start last 1"]
    assert run.clock.now() == 33.0


def test_a_second_interrupt_does_not_wait_for_the_grace() -> None:
    tasks = [task("a"), task("tidy", "a", when=Trigger.ALWAYS)]
    run = Interrupted(*tasks, at=(2.0, 3.0), seconds={("a", 1): math.inf}, patience=math.inf)
    run.run()
    assert run.states == {"a": "interrupted", "tidy": "pending"}
    assert run.executed == ["start a 1", "interrupt  0", "cancel a 1"]
    assert run.clock.now() == 3.0


def test_without_a_grace_nothing_is_waited_for() -> None:
    run = Interrupted(task("a"), patience=0.0, seconds={("a", 1): 3.0})
    run.run()
    assert run.states == {"a": "interrupted"}
    assert run.executed == ["start a 1", "interrupt  0", "cancel a 1"]
    assert run.clock.now() == 2.0


def test_what_no_executor_has_yet_gets_no_grace() -> None:
    def make_job(command: StartAttempt) -> Job:
        if command.task == "cut off":
            raise KeyboardInterrupt
        if command.task == "not made":
            raise ValueError
        return job_for(command)

    tasks = [task("started"), task("not made"), task("cut off"), task("too late")]
    run = Run(*tasks, make_job=make_job, slots=4, seconds={("started", 1): 2.0}, patience=60.0)
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert run.states == {
        "started": "success",
        "not made": "failed",
        "cut off": "interrupted",
        "too late": "interrupted",
    }
    assert run.executed == ["start started 1", "interrupt  0", "cancel cut off 1", "cancel too late 1"]
    assert run.clock.now() == 2.0


def test_what_an_executor_makes_ahead_has_its_grace_like_others() -> None:
    run = Run(
        task("a"),
        task("ahead", "a"),
        task("not yet", "a"),
        slots=2,
        patience=60.0,
    )

    def interrupt(event: Event) -> None:
        run.note(event)
        if isinstance(event, TaskMoved) and event.task == "ahead" and event.after is TaskState.RUNNING:
            raise KeyboardInterrupt

    run.listen(interrupt)
    run.executor.is_made = lambda task, attempt: (task, attempt) == ("ahead", 1)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    assert run.states == {"a": "success", "ahead": "success", "not yet": "interrupted"}
    assert run.executed == ["start a 1", "interrupt  0", "start ahead 1", "cancel not yet 1"]


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_ends_that_came_before_an_interrupt_are_not_lost_when_there_is_a_grace(patience: float) -> None:
    def conclude(end: Finished) -> Finished:
        if end.task == "b":
            raise KeyboardInterrupt
        return end

    run = Run(*map(task, "abc"), slots=3, conclude=conclude, patience=patience)
    with pytest.raises(KeyboardInterrupt):
        run.driver.run()
    if patience:
        assert run.states == {"a": "success", "b": "interrupted", "c": "success"}
        assert run.executed[3:] == ["interrupt  0", "cancel b 1"]
    else:
        assert run.states == dict.fromkeys("abc", "interrupted")
    assert run.clock.now() == 1.0


def test_an_executor_that_can_not_interrupt_is_a_second_reason_to_end() -> None:
    run = Interrupted(task("a"), task("tidy", "a", when=Trigger.ALWAYS), seconds={("a", 1): math.inf})
    run.executor.interrupt = lambda: 1 / 0  # type: ignore[method-assign,assignment]
    run.run()
    assert run.states == {"a": "interrupted", "tidy": "pending"}
    assert run.executed == ["start a 1", "cancel a 1"]
    assert run.clock.now() == 2.0


# The executor in this process.


def test_the_inline_executor_does_the_work_while_it_is_waited_for() -> None:
    clock = FakeClock()
    done: list[str] = []
    executor = InlineExecutor(clock)

    def work(word: str) -> tuple[Outcome, Any]:
        done.append(word)
        return Success(), len(word)

    executor.start(Job(TaskId("a"), 1, work, {"word": "one"}))
    executor.start(Job(TaskId("b"), 2, work, {"word": "three"}))
    executor.start(Job(TaskId("c"), 1, work, {"word": "never"}))
    executor.cancel(TaskId("c"), 1)
    executor.cancel(TaskId("unknown"), 1)
    executor.interrupt()
    assert executor.slots == 1
    assert executor.lost == ""
    assert done == []
    assert executor.wait(None) == (Finished(TaskId("a"), 1, Success(), 3),)
    assert executor.wait(0.0) == (Finished(TaskId("b"), 2, Success(), 5),)
    assert done == ["one", "three"]
    assert executor.wait(2.5) == executor.wait(None) == ()
    assert clock.slept == [2.5]


def test_what_an_inline_job_raises_comes_out_and_the_job_is_over() -> None:
    executor = InlineExecutor(FakeClock())

    def work() -> tuple[Outcome, Any]:
        raise KeyboardInterrupt

    executor.start(Job(TaskId("a"), 1, work))
    with pytest.raises(KeyboardInterrupt):
        executor.wait(None)
    assert executor.wait(None) == ()


def test_a_closed_inline_executor_has_nothing_left() -> None:
    executor = InlineExecutor(FakeClock())
    executor.start(Job(TaskId("a"), 1, lambda: (Success(), None)))
    executor.close()
    assert executor.wait(None) == ()


def test_a_job_may_stop_its_own_run() -> None:
    clock = FakeClock()
    engine = Engine(TaskGraph.build([task("a"), task("b")]))

    def make_job(command: StartAttempt) -> Job:
        def work() -> tuple[Outcome, Any]:
            driver.feed(StopRequested("from within", clock.now(), abort=True))
            return Success(), 1

        return Job(command.task, command.attempt, work)

    ends: list[Event] = []
    sinks: list[Any] = [ends.append]
    driver = Driver(engine, InlineExecutor(clock), make_job, sinks, clock, lambda *_: pytest.fail("kept"))
    driver.run()
    assert engine.states == {"a": TaskState.INTERRUPTED, "b": TaskState.PENDING}
    assert ends[-1] == RunEnded(0.0, "from within")


# Clocks.


def test_the_system_clock_never_goes_back() -> None:
    clock = SystemClock()
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)


def test_the_system_clock_sleeps_without_being_asked_for_less_than_nothing() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.sleep(-1.0)
    clock.sleep(0.0)
    clock.sleep(0.001)
    assert clock.now() > before


def test_a_driver_has_a_clock_of_its_own_if_need_be() -> None:
    engine = Engine(TaskGraph.build([task("a")]))
    driver = Driver(engine, InlineExecutor(SystemClock()), job_for)
    driver.run()
    assert engine.done
    assert isinstance(driver.clock, SystemClock)


# The scripted world.


def test_the_fake_clock_moves_when_told_and_never_back() -> None:
    clock = FakeClock(10.0)
    clock.sleep(2.0)
    clock.move_to(15.0)
    assert clock.now() == 15.0
    with pytest.raises(ValueError, match="time does not go back to 14"):
        clock.move_to(14.0)


def test_the_scripted_executor_ends_attempts_in_their_time() -> None:
    clock = FakeClock()
    executor = ScriptedExecutor(clock, {("a", 1): BOOM}, {("a", 1): 2.0}, slots=3)
    for name in "abc":
        executor.start(Job(TaskId(name), 1, lambda: (Success(), 7)))
    assert executor.slots == 3
    assert executor.wait(0.5) == []
    assert executor.wait(9.0) == [Finished(TaskId(name), 1, Success(), 7) for name in "bc"]
    assert executor.flying == (("a", 1),)
    assert executor.wait(None) == [Finished(TaskId("a"), 1, BOOM)]
    assert clock.now() == 2.0
    assert executor.wait(None) == ()
    assert executor.wait(3.0) == []
    assert clock.now() == 5.0


def test_the_scripted_executor_says_so_where_others_would_hang() -> None:
    executor = ScriptedExecutor(FakeClock(), seconds={("a", 1): math.inf})
    executor.start(Job(TaskId("a"), 1, lambda: (Success(), None)))
    with pytest.raises(AssertionError, match="never end"):
        executor.wait(None)


def test_what_ends_beside_an_interrupt_is_not_lost() -> None:
    executor = ScriptedExecutor(FakeClock(), {("a", 1): Success(), ("b", 1): KeyboardInterrupt()}, slots=2)
    for name in "ab":
        executor.start(Job(TaskId(name), 1, lambda: (Success(), None)))
    with pytest.raises(KeyboardInterrupt):
        executor.wait(None)
    assert executor.wait(0.0) == [Finished(TaskId("a"), 1, Success(), "a")]


def test_kinds_of_failure_are_states() -> None:
    for kind in FailureKind:
        run = Run(task("a"), outcomes={("a", 1): Failure(kind)})
        run.driver.run()
        assert run.states["a"] in {kind.value, "failed"}
