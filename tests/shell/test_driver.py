"""The loop: what is told before what is done, how it waits, and how it stops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.engine import Engine
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, RunEnded, Signal, StartAttempt, StopRequested, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Outcome, Success, TaskId, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.driver import Driver, SystemClock, interrupted, qualified_mro
from pytest_flowforge.executors.inline import InlineExecutor
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
    assert run.clock.slept == [0.05], "nobody there, until somebody came"
    assert run.clock.now() == 3.05


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
    assert run.executed == ["start a 1", "cancel a 1", "start tidy 1"]
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
    assert run.executed[-2:] == ["cancel a 1", "cancel b 1"]


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
    assert run.executed == ["start a 1", "cancel a 1", "cancel b 1", "cancel c 1"]


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
    assert run.executed == ["start a 1", "start tidy 1"]
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


def test_interrupted_names_every_attempt_in_flight() -> None:
    run = Run(task("a"), task("b"))
    assert interrupted(run.engine, "x", 7.0) == [StopRequested("x", 7.0)]


def test_classes_travel_by_name() -> None:
    assert qualified_mro(FileNotFoundError())[:2] == ("builtins.FileNotFoundError", "builtins.OSError")


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
    assert executor.slots == 1
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
