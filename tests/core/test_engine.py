"""The engine's rules, one story each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.invariants import check
from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    ExecutorLost,
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
from pytest_flowforge.core.model import Failure, FailureKind, Lost, Skipped, Success, Task, TaskId, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.errors import UnknownTask
from tests.core.flows import ERROR, EXPECTED, Play, graphs, names, task, tid

SKIPPED = Skipped("no data today")


# Beginning and end.


def test_a_run_begins_and_ends() -> None:
    play = Play(task("a"))
    assert play.feed(RunStarted(5.0)) == Reaction(
        (StartAttempt(tid("a"), 1),),
        (RunBegan(1, 5.0), TaskMoved(tid("a"), TaskState.PENDING, TaskState.RUNNING, 1, 5.0)),
    )
    assert not play.engine.done
    assert play.feed(AttemptFinished(tid("a"), 1, Success(), 6.0)) == Reaction(
        (), (TaskMoved(tid("a"), TaskState.RUNNING, TaskState.SUCCESS, 1, 6.0, outcome=Success()), RunEnded(6.0))
    )
    assert play.engine.done


def test_a_run_of_nothing_ends_at_once() -> None:
    play = Play()
    assert play.feed(RunStarted(0.0)).events == (RunBegan(0, 0.0), RunEnded(0.0))


def test_after_the_end_nothing_has_consequences() -> None:
    play = Play(task("a")).start().finish("a")
    for signal in (RunStarted(9.0), play.end("a"), TimeReached(9.0), SlotsChanged(3, 9.0), StopRequested("x", 9.0)):
        assert play.feed(signal) == Reaction()
    assert play.engine.stopped == ""


def test_a_run_starts_once() -> None:
    play = Play(task("a")).start()
    assert play.feed(RunStarted(1.0)) == Reaction()


def test_nothing_starts_before_the_run_does() -> None:
    play = Play(task("a"), slots=0)
    assert play.feed(SlotsChanged(2, 0.0)) == Reaction()
    assert play.feed(TimeReached(0.0)) == Reaction()
    assert play.start().running == ["a"]


def test_a_stop_before_the_start_is_remembered() -> None:
    play = Play(task("a"), task("b", "a"), task("tidy", "b", when=Trigger.ALWAYS)).stop().start()
    assert play.running == ["tidy"]
    play.finish("tidy")
    assert play.states == {"a": "pending", "b": "pending", "tidy": "success"}
    assert play.events[-1] == RunEnded(0.0, "-x")


def test_unknown_tasks_are_named() -> None:
    play = Play(task("a")).start()
    with pytest.raises(UnknownTask, match="nobody"):
        play.engine.handle(AttemptFinished(TaskId("nobody"), 1, Success(), 0.0))
    with pytest.raises(UnknownTask, match="nobody"):
        play.engine.would_retry(TaskId("nobody"), 1, ERROR)
    with pytest.raises(UnknownTask, match="id:nobody"):
        Play(task("a"), restored={"nobody": "x"})
    check(play.engine)


def test_ranks_must_fit() -> None:
    with pytest.raises(ValueError, match="2 ranks do not fit 1 tasks"):
        Play(task("a"), ranks=[1, 2])


# Order.


def test_ties_are_broken_by_declaration() -> None:
    assert Play(task("c"), task("a"), task("b"), slots=3).start().started == ["c", "a", "b"]


def test_a_higher_priority_starts_first() -> None:
    play = Play(task("a"), task("b", priority=1), task("c", priority=2), task("d", priority=1), slots=4).start()
    assert play.started == ["c", "b", "d", "a"]


def test_ranks_replace_priorities() -> None:
    play = Play(task("a", priority=9), task("b"), task("c"), ranks=[(2, "x"), (1, "y"), (2, "x")], slots=3).start()
    assert play.started == ["b", "a", "c"]


def test_peek_names_what_is_likely_next() -> None:
    play = Play(task("a"), task("b"), task("c", "a"))
    assert play.engine.peek() is None
    play.start()
    assert play.engine.peek() == tid("b")
    play.finish("a", "b")
    assert play.engine.peek() is None


def test_ends_that_come_together_are_seen_together() -> None:
    play = Play(task("a"), task("b"), task("late", "a"), task("soon", "b", priority=1), slots=2).start()
    play.slots(1)
    play.feed(play.end("a"), play.end("b"))
    assert play.running == ["soon"]


# Skips and blocks.


def test_the_reason_of_a_skip_travels_unchanged() -> None:
    play = Play(task("extract"), task("b", "extract"), task("c", "b"), task("d", "c"))
    play.start().finish("extract", outcome=SKIPPED)
    assert play.last("extract").because == "no data today"
    for name, upstream in {"b": "extract", "c": "b", "d": "c"}.items():
        assert play.last(name).because == "upstream extract was skipped: no data today"
        assert play.last(name).cause == tid(upstream)
    assert play.engine.done


def test_a_skip_without_a_reason_needs_none() -> None:
    play = Play(task("a"), task("b", "a")).start().finish("a", outcome=Skipped())
    assert play.last("b").because == "upstream a was skipped"


def test_an_alarm_without_a_failure_says_so() -> None:
    play = Play(task("a"), task("alarm", "a", when=Trigger.ANY_FAILED), task("c", "alarm"), task("d", "c"))
    play.start().finish("a", outcome=SKIPPED)
    assert play.last("alarm").because == "no upstream failed"
    assert play.last("alarm").cause is None
    assert play.last("c").because == play.last("d").because == "upstream alarm was skipped: no upstream failed"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (ERROR, "failed"),
        (EXPECTED, "failed"),
        (Failure(FailureKind.TIMED_OUT), "timed out"),
        (Failure(FailureKind.CRASHED), "crashed"),
        (Failure(FailureKind.INTERRUPTED), "was interrupted"),
        (Lost("gone"), "crashed"),
    ],
)
def test_a_block_says_what_became_of_the_upstream(outcome: Failure | Lost, words: str) -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b")).start().finish("a", outcome=outcome)
    assert (play.last("b").because, play.last("b").cause) == (f"upstream a {words}", tid("a"))
    assert (play.last("c").because, play.last("c").cause) == ("upstream b was blocked", tid("b"))


def test_the_first_failure_blocks_at_once() -> None:
    play = Play(task("a"), task("b"), task("c", "a", "b"), slots=2).start().fail("b")
    assert play.states["c"] == "blocked"
    assert play.last("c").cause == tid("b")
    play.fail("a")
    assert len(play.moves("c")) == 1


def test_any_success_blames_the_first_of_its_needs() -> None:
    play = Play(task("a"), task("b"), task("c", "a", "b", when=Trigger.ANY_SUCCESS), slots=2).start().fail("b", "a")
    assert play.last("c").cause == tid("a")


def test_a_deep_chain_of_blocks_needs_no_stack() -> None:
    count = 20_000
    chain = [task("0"), *(task(str(place), str(place - 1)) for place in range(1, count))]
    graph = TaskGraph.build(chain)
    engine = Engine(graph)
    engine.handle(RunStarted(0.0))
    reaction = engine.handle(AttemptFinished(tid("0"), 1, ERROR, 1.0))
    assert len(reaction.events) == count + 1
    assert engine.state(tid(str(count - 1))) is TaskState.BLOCKED
    assert engine.done


def test_a_messages_of_ends_come_along() -> None:
    play = Play(task("a"), task("b"), task("c"), slots=3).start()
    play.fail("a").finish("b", outcome=Lost("worker gone")).finish("c", outcome=SKIPPED)
    assert [play.last(name).because for name in "abc"] == ["ValueError: boom", "worker gone", "no data today"]
    assert play.last("a").outcome == ERROR


# Reuse.


def test_what_is_restored_is_reused_and_the_rest_runs() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b"), restored={"a": "run 7", "b": "run 6"}).start()
    assert play.running == ["c"]
    assert (play.last("a").because, play.last("b").because) == ("run 7", "run 6")
    assert play.last("b").attempt == 0


def test_what_is_restored_does_not_care_about_its_upstream() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b"), restored={"b": "run 7"}).start()
    assert play.running == ["a"]
    play.fail("a")
    assert play.states == {"a": "failed", "b": "reused", "c": "running"}


def test_all_may_be_restored() -> None:
    play = Play(task("a"), task("b", "a"), restored={"a": "x", "b": "x"}).start()
    assert play.engine.done
    assert play.started == []


# Retries.


def test_a_retry_waits_without_a_slot() -> None:
    play = Play(task("a", retry=RetryPolicy(1, delay=10.0)), task("b"), task("c")).start().fail("a")
    assert play.states == {"a": "retrying", "b": "running", "c": "pending"}
    assert play.last("a").resume_at == 10.0
    assert (play.last("a").attempt, play.last("a").because) == (1, "ValueError: boom")
    wakes = [play.engine.wake_at]
    for at in (9.99, 10.0):
        play.time(at)
        wakes.append(play.engine.wake_at)
    assert wakes == [10.0, 10.0, None]
    assert play.engine.peek() == tid("a")
    play.finish("b").finish("a")
    assert play.states["a"] == "success"
    assert [move.attempt for move in play.moves("a")] == [1, 1, 2, 2]


def test_the_last_retry_is_the_last_attempt() -> None:
    play = Play(task("a", retry=RetryPolicy(2)), task("b", "a")).start().fail("a", "a")
    assert play.engine.running == ((tid("a"), 3),)
    play.fail("a")
    assert play.states == {"a": "failed", "b": "blocked"}
    assert play.engine.done


def test_a_retry_without_delay_queues_by_its_rank() -> None:
    play = Play(task("a", retry=RetryPolicy(1)), task("b", priority=1), slots=1)
    play.start().finish("b").fail("a")
    assert play.started == ["b", "a", "a"]


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (ERROR, True),
        (EXPECTED, False),
        (Failure(FailureKind.TIMED_OUT), True),
        (Failure(FailureKind.CRASHED), True),
        (Failure(FailureKind.INTERRUPTED), False),
        (Lost(), True),
        (Success(), False),
        (SKIPPED, False),
    ],
)
def test_what_is_tried_again(outcome: Failure | Lost | Success | Skipped, *, again: bool) -> None:
    play = Play(task("a", retry=RetryPolicy(1))).start()
    assert play.engine.would_retry(tid("a"), 1, outcome) is again
    assert not play.engine.would_retry(tid("a"), 2, outcome)
    play.finish("a", outcome=outcome)
    assert (play.engine.running == ((tid("a"), 2),)) is again


def test_nothing_would_be_retried_once_stopped() -> None:
    play = Play(task("a", retry=RetryPolicy(1))).start().stop()
    assert not play.engine.would_retry(tid("a"), 1, ERROR)


def test_a_run_gives_so_many_retries_and_no_more() -> None:
    stubborn = RetryPolicy(5, delay=1.0)
    play = Play(task("a", retry=stubborn), task("b", retry=stubborn), task("c", "b"), slots=2, max_retries=2)
    play.start().fail("a", "b")
    assert play.states == {"a": "retrying", "b": "retrying", "c": "pending"}
    play.time(1.0)
    assert not play.engine.would_retry(tid("a"), 2, ERROR)
    play.fail("b").finish("a")
    assert play.states == {"a": "success", "b": "failed", "c": "blocked"}
    assert play.last("b").because == "ValueError: boom (not tried again: the 2 retries of the run are used up)"
    assert play.last("b").outcome == ERROR
    assert play.engine.denied == (tid("b"),)


def test_a_run_may_give_no_retry_at_all() -> None:
    play = Play(task("a", retry=RetryPolicy(1)), task("b"), slots=2, max_retries=0).start().fail("a", "b")
    assert play.states == {"a": "failed", "b": "failed"}
    assert play.engine.denied == (tid("a"),)


def test_what_was_called_off_by_a_stop_was_not_denied() -> None:
    retry = RetryPolicy(1, delay=9.0)
    play = Play(task("a", retry=retry), task("b", retry=retry), slots=2, max_retries=1).start().fail("a").stop()
    play.fail("b")
    assert play.last("a").because == "not tried again: -x"
    assert play.last("b").because == "ValueError: boom"
    assert play.engine.denied == ()


def test_late_ends_of_earlier_attempts_are_ignored() -> None:
    play = Play(task("a", retry=RetryPolicy(2))).start().fail("a")
    assert play.feed(AttemptFinished(tid("a"), 1, Success(), 1.0)) == Reaction()
    assert play.feed(AttemptFinished(tid("a"), 3, Success(), 1.0)) == Reaction()
    assert play.engine.running == ((tid("a"), 2),)
    assert play.engine.in_flight(tid("a"), 2)
    assert not play.engine.in_flight(tid("a"), 1)


def test_the_seed_varies_the_jitter() -> None:
    waits = set()
    for seed in ("", "", "x"):
        engine = Engine(TaskGraph.build([task("a", retry=RetryPolicy(1, delay=1.0, jitter=1.0))]), RunPolicy(seed=seed))
        engine.handle(RunStarted(0.0))
        engine.handle(AttemptFinished(tid("a"), 1, ERROR, 0.0))
        waits.add(engine.wake_at)
    assert len(waits) == 2


def test_a_strategy_that_raises_changes_nothing() -> None:
    def broken(_: int) -> float:
        msg = "no idea"
        raise RuntimeError(msg)

    play = Play(task("a", retry=RetryPolicy(1, wait=broken))).start()
    with pytest.raises(RuntimeError, match="no idea"):
        play.fail("a")
    check(play.engine)
    assert play.running == ["a"]


# Deadlines.


def test_an_attempt_past_its_deadline_has_timed_out() -> None:
    play = Play(task("a", timeout=1.5), task("b", "a"), grace=2.0).start()
    assert play.engine.wake_at == 3.5
    play.time(3.4)
    assert play.running == ["a"]
    play.time(3.5)
    assert play.cancelled == ["a"]
    assert play.states == {"a": "timed out", "b": "blocked"}
    assert play.last("a").because == "timed out after 1.5 s"
    assert play.engine.done


def test_a_time_out_is_retried_and_each_attempt_has_its_own_deadline() -> None:
    play = Play(task("a", timeout=1.0, retry=RetryPolicy(1)), grace=0.0).start().time(1.0)
    assert play.engine.running == ((tid("a"), 2),)
    assert play.feed(AttemptFinished(tid("a"), 1, Success(), 1.0)) == Reaction()
    assert play.engine.wake_at == 2.0
    play.finish("a")
    assert play.states["a"] == "success"
    assert play.engine.wake_at is None


def test_the_deadline_of_an_earlier_attempt_means_nothing_to_the_next() -> None:
    play = Play(task("a", timeout=5.0, retry=RetryPolicy(1)), grace=1.0).start()
    play.now = 4.0
    play.fail("a")
    assert play.engine.wake_at == 10.0
    assert play.time(6.0).running == ["a"]


def test_deadlines_are_none_of_the_engines_business_without_a_grace() -> None:
    play = Play(task("a", timeout=1.0)).start()
    assert play.engine.wake_at is None
    assert play.time(100.0).running == ["a"]


# Pools.


def test_a_pool_is_never_overdrawn_and_others_go_on() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("a", **gpu), task("b", **gpu), task("c"), pools={"gpu": 1}, slots=3).start()
    assert play.running == ["a", "c"]
    assert play.finish("a").running == ["c", "b"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    small = [task(f"small{place}", pools=(("mem", 1),)) for place in range(6)]
    play = Play(*small[:2], task("large", pools=(("mem", 2),)), *small[2:], pools={"mem": 2}, slots=2).start()
    assert play.running == ["small0", "small1"]
    play.finish("small0")
    assert play.running == ["small1"], "a slot and a unit are free, but large is first in the queue"
    assert play.finish("small1").running == ["large"]


def test_units_of_one_pool_add_up() -> None:
    play = Play(task("a", pools=(("mem", 1), ("mem", 1))), task("b", pools=(("mem", 1),)), pools={"mem": 2}, slots=2)
    assert play.start().running == ["a"]


def test_a_retry_gives_its_pools_back() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("a", retry=RetryPolicy(1, delay=5.0), **gpu), task("b", **gpu), pools={"gpu": 1}, slots=2)
    assert play.start().fail("a").running == ["b"]
    assert play.time(5.0).running == ["b"]
    assert play.finish("b").running == ["a"]


def test_whoever_waits_for_two_pools_keeps_its_place_in_both() -> None:
    play = Play(
        task("gpu", pools=(("gpu", 1),)),
        task("mem", pools=(("mem", 1),)),
        task("both", pools=(("gpu", 1), ("mem", 1))),
        task("gpu2", pools=(("gpu", 1),)),
        pools={"gpu": 1, "mem": 1},
        slots=4,
    ).start()
    assert play.finish("gpu").running == ["mem"]
    assert play.finish("mem").running == ["both"]
    assert play.finish("both").running == ["gpu2"]


def test_units_given_back_may_do_for_several() -> None:
    large, small = (("mem", 2),), (("mem", 1),)
    play = Play(task("a", pools=large), task("b", pools=small), task("c", pools=small), pools={"mem": 2}, slots=3)
    assert play.start().finish("a").running == ["b", "c"]


def test_who_waits_behind_one_that_is_given_up_moves_up() -> None:
    large = task("large", pools=(("mem", 2),))
    tidy = task("tidy", pools=(("mem", 1),), when=Trigger.ALWAYS)
    play = Play(task("a", pools=(("mem", 1),)), large, tidy, pools={"mem": 2}, slots=3).start()
    assert play.running == ["a"]
    assert play.stop().running == ["a", "tidy"]


def test_who_is_given_up_leaves_the_queue() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("a", **gpu), task("b", **gpu), task("tidy", when=Trigger.ALWAYS, **gpu), pools={"gpu": 1}, slots=3)
    play.start().stop().finish("a")
    assert play.running == ["tidy"]
    assert play.finish("tidy").engine.done


def test_whoever_is_called_but_has_no_slot_keeps_its_claim() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("a", **gpu), task("b", **gpu), task("c", **gpu, priority=9), pools={"gpu": 1}, slots=3)
    play.start()
    assert play.running == ["c"]
    play.slots(0).finish("c")
    assert play.engine.peek() == tid("a")
    assert play.slots(3).running == ["a"]
    assert play.finish("a").running == ["b"]


# Exclusive tasks.


def test_an_exclusive_task_runs_alone_and_is_not_overtaken_for_ever() -> None:
    play = Play(task("a"), task("alone", exclusive=True), task("b"), task("c", "a"), slots=3).start()
    assert play.running == ["a"]
    assert play.engine.peek() == tid("alone")
    assert play.finish("a").running == ["alone"]
    assert play.finish("alone").running == ["b", "c"]


def test_exclusive_tasks_run_one_after_the_other() -> None:
    play = Play(task("a", exclusive=True), task("b", exclusive=True), slots=4).start()
    assert play.running == ["a"]
    assert play.finish("a").running == ["b"]


def test_an_exclusive_task_shares_its_pools_with_nobody() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("a", **gpu), task("b", **gpu), task("alone", exclusive=True, **gpu), pools={"gpu": 1}, slots=3)
    assert play.start().running == ["a"]
    assert play.finish("a").running == ["alone"]
    assert play.finish("alone").running == ["b"]


def test_an_exclusive_task_that_is_next_waits_for_a_slot_like_any_other() -> None:
    play = Play(task("a"), task("alone", exclusive=True), slots=2).start().slots(0).finish("a")
    assert not play.engine.done
    assert play.slots(1).running == ["alone"]


def test_an_exclusive_task_that_is_next_is_given_up_with_the_rest() -> None:
    play = Play(task("a"), task("alone", exclusive=True), slots=2).start().stop().finish("a")
    assert play.engine.done
    assert play.states["alone"] == "pending"


# Slots.


def test_fewer_slots_cancel_nothing_and_more_are_used() -> None:
    play = Play(*map(task, "abcde"), slots=2).start().slots(1)
    assert play.running == ["a", "b"]
    assert play.finish("a").running == ["b"]
    assert play.slots(3).running == ["b", "c", "d"]


def test_without_slots_a_run_waits() -> None:
    play = Play(task("a"), slots=0).start()
    assert not play.engine.done
    assert play.slots(1).running == ["a"]
    assert play.engine.slots == 1


# An executor that is lost.


def test_when_nothing_can_be_executed_any_more_nothing_waits_for_it() -> None:
    play = Play(
        task("a", pools=(("gpu", 1),)),
        task("b", "a"),
        task("c", pools=(("gpu", 1),)),
        task("tidy", "a", when=Trigger.ALWAYS),
        task("alarm", "a", when=Trigger.ANY_FAILED),
        task("again", retry=RetryPolicy(3, delay=9.0)),
        task("done"),
        pools={"gpu": 1},
        slots=3,
    ).start()
    play.finish("done").fail("again")
    reaction = play.feed(ExecutorLost("every worker died", 5.0))
    assert reaction.commands == (CancelAttempt(tid("a"), 1),)
    lost = Lost("every worker died")
    assert reaction.events[:2] == (
        TaskMoved(tid("a"), TaskState.RUNNING, TaskState.CRASHED, 1, 5.0, lost.reason, outcome=lost),
        TaskMoved(
            tid("again"),
            TaskState.RETRYING,
            TaskState.FAILED,
            1,
            5.0,
            "not tried again: every worker died",
            outcome=ERROR,
        ),
    )
    assert play.states == {
        "a": "crashed",
        "b": "blocked",
        "c": "blocked",
        "tidy": "blocked",
        "alarm": "blocked",
        "again": "failed",
        "done": "success",
    }
    for name in ("b", "c", "tidy", "alarm"):
        assert (play.last(name).because, play.last(name).cause) == ("every worker died", None)
    assert reaction.events[-1] == RunEnded(5.0)
    assert play.engine.stopped == ""
    assert play.engine.wake_at is None
    assert play.engine.peek() is None


def test_attempts_of_a_lost_executor_are_not_tried_again() -> None:
    play = Play(task("a", retry=RetryPolicy(3))).start()
    play.feed(ExecutorLost("gone", 1.0))
    assert play.states == {"a": "crashed"}
    assert not play.engine.would_retry(tid("a"), 1, ERROR)


def test_ends_that_come_with_the_loss_count() -> None:
    play = Play(task("a"), task("b", "a"), task("c"), slots=2).start()
    play.feed(play.end("a"), play.end("c", ERROR), ExecutorLost("gone", 1.0), SlotsChanged(0, 1.0))
    assert play.states == {"a": "success", "b": "blocked", "c": "failed"}
    assert play.started == ["a", "c"]
    assert play.cancelled == []


def test_after_the_loss_nothing_changes_any_more() -> None:
    play = Play(task("a"), task("b", "a")).start()
    held = play.engine.handle(ExecutorLost("gone", 1.0), hold=True)
    assert not play.engine.done
    assert held.events[-1] == TaskMoved(tid("b"), TaskState.PENDING, TaskState.BLOCKED, 0, 1.0, "gone")
    late = (ExecutorLost("again", 2.0), StopRequested("x", 2.0, abort=True), play.end("a"))
    assert play.feed(*late, TimeReached(2.0)) == Reaction((), (RunEnded(2.0),))
    assert play.engine.stopped == ""


def test_an_executor_may_be_lost_before_the_run_starts() -> None:
    alone = task("alone", exclusive=True, takes_slot=False)
    play = Play(
        task("a"), task("b", "a"), task("kept"), task("tidy", when=Trigger.ALWAYS), alone, restored={"kept": "x"}
    )
    play.feed(ExecutorLost("no worker came", 0.0), ExecutorLost("again", 0.0), StopRequested("too late", 0.0))
    play.start()
    assert play.last("a").because == "no worker came"
    assert play.started == []
    assert play.states == {"a": "blocked", "b": "blocked", "kept": "reused", "tidy": "blocked", "alone": "blocked"}
    assert play.events[-1] == RunEnded(0.0)


def test_clean_up_is_done_by_whoever_still_can() -> None:
    play = Play(
        task("a"),
        task("b", "a"),
        task("also", "a", when=Trigger.ALL_DONE),
        task("tidy", "b", when=Trigger.ALWAYS),
        task("alarm", "b", when=Trigger.ANY_FAILED),
        task("false_alarm", "done", when=Trigger.ANY_FAILED),
        task("report", "tidy"),
        task("again", retry=RetryPolicy(3, delay=9.0)),
        task("done"),
        slots=3,
    ).start()
    play.finish("done").fail("again")
    play.feed(SlotsChanged(1, 5.0), ExecutorLost("every worker died", 5.0, clean_up=True))
    assert play.cancelled == ["a"]
    assert play.running == ["tidy"], "one at a time"
    assert play.states == {
        "a": "crashed",
        "b": "blocked",
        "also": "blocked",
        "tidy": "running",
        "alarm": "pending",
        "false_alarm": "skipped",
        "report": "blocked",
        "again": "failed",
        "done": "success",
    }
    assert play.last("report").because == "every worker died"
    play.finish("tidy")
    assert play.running == ["alarm"]
    play.fail("alarm")
    assert play.events[-1] == RunEnded(0.0)
    assert play.engine.stopped == ""
    assert play.engine.lost == "every worker died"


def test_clean_up_in_flight_is_left_to_end_and_not_tried_again() -> None:
    retry = RetryPolicy(3)
    play = Play(
        task("a"),
        task("tidy", when=Trigger.ALWAYS, retry=retry),
        task("crashed", when=Trigger.ALWAYS, retry=retry),
        task("resting", when=Trigger.ALWAYS, retry=RetryPolicy(3, delay=9.0)),
        slots=4,
    ).start()
    play.fail("resting")
    play.feed(play.end("crashed", Lost("it took its worker along")), ExecutorLost("gone", 1.0, clean_up=True))
    assert play.states == {"a": "crashed", "tidy": "running", "crashed": "crashed", "resting": "failed"}
    assert play.cancelled == ["a"]
    play.finish("tidy", outcome=Lost("gone"))
    assert play.states["tidy"] == "crashed"
    assert play.started.count("tidy") == 1
    assert play.engine.done


def test_where_nothing_had_begun_there_is_nothing_to_clean_up() -> None:
    play = Play(task("a"), task("tidy", when=Trigger.ALWAYS), task("alarm", "a", when=Trigger.ANY_FAILED), slots=0)
    play.start().feed(SlotsChanged(1, 1.0), ExecutorLost("no worker came", 1.0, clean_up=True))
    assert play.states == {"a": "blocked", "tidy": "blocked", "alarm": "blocked"}
    assert play.engine.done


def test_after_the_loss_only_an_abort_ends_clean_up() -> None:
    play = Play(task("a"), task("tidy", "a", when=Trigger.ALWAYS), task("more", "tidy", when=Trigger.ALWAYS)).start()
    play.feed(ExecutorLost("gone", 1.0, clean_up=True))
    assert play.feed(StopRequested("-x", 1.0), ExecutorLost("again", 1.0)) == Reaction()
    assert play.running == ["tidy"]
    play.feed(StopRequested("Ctrl-C", 2.0, abort=True))
    assert play.cancelled == ["a", "tidy"]
    assert play.states == {"a": "crashed", "tidy": "interrupted", "more": "pending"}
    assert play.events[-1] == RunEnded(2.0, "Ctrl-C")


def test_clean_up_is_tried_again_after_a_stop_and_not_after_an_abort() -> None:
    rules: dict[str, Any] = {"when": Trigger.ALWAYS, "retry": RetryPolicy(1, delay=9.0)}
    tidy = task("tidy", "a", **rules)
    play = Play(task("a", retry=RetryPolicy(1)), tidy, task("early", **rules), slots=2).start().fail("early").stop()
    assert play.states["early"] == "retrying"
    play.fail("a", "tidy")
    assert play.states == {"a": "failed", "tidy": "retrying", "early": "retrying"}
    assert play.engine.wake_at == 9.0
    play.now = 9.0
    play.feed(TimeReached(9.0))
    play.fail("tidy")
    play.feed(StopRequested("at once", 9.0, abort=True))
    assert play.states == {"a": "failed", "tidy": "failed", "early": "interrupted"}
    play = Play(task("a"), tidy).start().finish("a").fail("tidy")
    play.feed(StopRequested("at once", 1.0, abort=True))
    assert play.states["tidy"] == "failed"
    assert play.last("tidy").because == "not tried again: at once"


def test_what_a_stop_had_given_up_is_left_to_it() -> None:
    play = Play(task("a"), task("b"), task("tidy", "a", "b", when=Trigger.ALWAYS)).start().stop()
    play.feed(ExecutorLost("gone", 1.0))
    assert play.states == {"a": "crashed", "b": "pending", "tidy": "blocked"}
    assert play.events[-1] == RunEnded(1.0, "-x")


def test_an_exclusive_task_that_is_next_is_blocked_with_the_rest() -> None:
    play = Play(task("a"), task("alone", exclusive=True), slots=2).start()
    play.feed(ExecutorLost("gone", 1.0))
    assert play.states == {"a": "crashed", "alone": "blocked"}
    assert play.engine.done


# Tasks that take no slot.


def test_what_takes_no_slot_starts_when_all_are_taken() -> None:
    play = Play(task("a"), task("b"), *(task(name, takes_slot=False) for name in "xyz"), slots=1).start()
    assert play.running == ["a", "x", "y", "z"]
    assert play.engine.peek() == tid("b")
    assert play.finish("x").running == ["a", "y", "z"], "it had no slot to give back"
    assert play.finish("a").running == ["y", "z", "b"]


def test_without_slots_starts_what_takes_none() -> None:
    play = Play(task("a"), task("x", takes_slot=False), task("y", "x", takes_slot=False), slots=0).start()
    assert play.finish("x").running == ["y"]
    play.finish("y")
    assert not play.engine.done
    assert play.slots(1).running == ["a"]


def test_where_both_fit_the_rank_decides() -> None:
    slotless: dict[str, Any] = {"takes_slot": False}
    tasks = [task("a"), task("x", **slotless, priority=1), task("b", priority=2), task("y", **slotless), task("c")]
    assert Play(*tasks, slots=2).start().started == ["b", "x", "a", "y"]


@pytest.mark.parametrize("taken", [True, False])
def test_an_exclusive_task_runs_alone_whether_or_not_it_takes_a_slot(*, taken: bool) -> None:
    alone = task("alone", exclusive=True, takes_slot=taken)
    play = Play(task("x", takes_slot=False), alone, task("y", takes_slot=False), task("a"), slots=1).start()
    assert play.running == ["x"]
    assert play.engine.peek() == tid("alone")
    assert play.finish("x").running == ["alone"]
    assert play.engine.peek() == tid("y")
    assert play.finish("alone").running == ["y", "a"]


def test_an_exclusive_task_that_takes_no_slot_needs_none() -> None:
    play = Play(task("x", takes_slot=False), task("alone", exclusive=True, takes_slot=False), slots=0).start()
    assert play.finish("x").running == ["alone"]


def test_pools_hold_for_what_takes_no_slot() -> None:
    gpu: dict[str, Any] = {"pools": (("gpu", 1),)}
    play = Play(task("x", takes_slot=False, **gpu), task("y", takes_slot=False, **gpu), pools={"gpu": 1}, slots=0)
    assert play.start().running == ["x"]
    assert play.finish("x").running == ["y"]


def test_retries_and_stops_hold_for_what_takes_no_slot() -> None:
    retried = task("x", takes_slot=False, retry=RetryPolicy(2, delay=1.0))
    alone = task("alone", exclusive=True)
    play = Play(task("a"), retried, alone, task("y", takes_slot=False), task("z", "x", takes_slot=False), slots=1)
    assert play.start().running == ["a", "x", "y"]
    play.fail("x").time(1.0)
    assert play.running == ["a", "y", "x"]
    play.finish("a").fail("x").time(2.0)
    assert (play.running, play.state("x")) == (["y"], TaskState.RETRYING), "alone is next"
    play.stop().finish("y")
    assert play.states == {"a": "success", "x": "failed", "alone": "pending", "y": "success", "z": "blocked"}
    assert play.engine.done


@pytest.mark.timeout(30)
def test_many_that_take_no_slot_cost_no_more_each() -> None:
    count = 50_000
    many = [Task(TaskId(f"{place}"), takes_slot=place % 2 == 0) for place in range(count)]
    engine = Engine(TaskGraph.build([*many, Task(TaskId("alone"), exclusive=True, priority=-1)]))
    commands = engine.handle(RunStarted(0.0)).commands
    assert len(commands) == count // 2 + 1
    for command in commands[::-1]:
        engine.handle(AttemptFinished(command.task, 1, Success(), 1.0))
    assert len(engine.running) == 1


# Stopping.


def test_a_stop_lets_finish_what_runs_and_starts_nothing_but_clean_up() -> None:
    play = Play(
        task("a"),
        task("b"),
        task("c", "a"),
        task("tidy", "c", when=Trigger.ALWAYS),
        task("alarm", "b", when=Trigger.ANY_FAILED),
        task("late", "b", when=Trigger.ALL_DONE),
        slots=2,
    ).start()
    play.feed(play.end("b", ERROR), StopRequested("-x", 0.0))
    assert play.running == ["a", "tidy"]
    play.finish("a").finish("tidy")
    assert play.running == ["alarm"]
    play.finish("alarm")
    assert play.states == {
        "a": "success",
        "b": "failed",
        "c": "pending",
        "tidy": "success",
        "alarm": "success",
        "late": "pending",
    }
    assert play.events[-1] == RunEnded(0.0, "-x")
    assert play.engine.stopped == "-x"


def test_a_failure_and_its_stop_still_block_what_depends_on_it() -> None:
    play = Play(task("a"), task("b", "a"), task("c")).start()
    play.feed(play.end("a", ERROR), StopRequested("-x", 0.0))
    assert play.states == {"a": "failed", "b": "blocked", "c": "pending"}
    assert play.started == ["a"]


def test_after_a_stop_retries_fall_back_to_their_failure() -> None:
    play = Play(task("a", retry=RetryPolicy(3, delay=9.0)), task("b", "a"), task("c"), slots=2).start().fail("a")
    play.stop()
    assert play.states == {"a": "failed", "b": "blocked", "c": "running"}
    assert play.last("a").because == "not tried again: -x"
    assert play.last("a").outcome == ERROR
    assert play.engine.wake_at is None
    assert play.finish("c").engine.done


def test_a_retry_that_only_lacks_a_slot_falls_back_too() -> None:
    play = Play(task("a", retry=RetryPolicy(1)), slots=1).start().slots(0).fail("a")
    assert play.states["a"] == "retrying"
    play.stop()
    assert play.states["a"] == "failed"
    assert play.engine.done


def test_after_a_stop_failures_are_final() -> None:
    play = Play(task("a", retry=RetryPolicy(3))).start().stop().fail("a")
    assert play.states["a"] == "failed"


def test_an_alarm_whose_question_is_answered_is_answered() -> None:
    play = Play(task("a"), task("quiet", "a", when=Trigger.ANY_FAILED), task("b")).start().stop().finish("a")
    assert play.states == {"a": "success", "quiet": "skipped", "b": "pending"}


def test_an_alarm_nobody_can_answer_is_given_up() -> None:
    alarm = task("alarm", "a", "b", when=Trigger.ANY_FAILED)
    play = Play(task("a"), task("b"), alarm, task("tidy", "alarm", when=Trigger.ALWAYS)).start().stop().finish("a")
    assert play.running == ["tidy"]
    assert play.states["alarm"] == "pending"


def test_the_first_reason_of_a_stop_stays() -> None:
    play = Play(task("a"), task("b")).start().stop("first").stop("second")
    assert play.engine.stopped == "first"
    play.stop("third", abort=True)
    assert play.cancelled == ["a"]
    assert play.events[-1] == RunEnded(0.0, "first")


def test_a_stop_without_a_reason_is_still_a_stop() -> None:
    play = Play(task("a")).start().stop("").finish("a")
    assert play.events[-1] == RunEnded(0.0, "stop requested")


def test_an_abort_interrupts_and_starts_nothing_at_all() -> None:
    play = Play(
        task("a", pools=(("gpu", 1),)),
        task("b", "a"),
        task("c", pools=(("gpu", 1),)),
        task("tidy", "a", when=Trigger.ALWAYS),
        pools={"gpu": 1},
        slots=2,
    ).start()
    reaction = play.feed(StopRequested("ctrl-c", 1.0, abort=True))
    assert reaction.commands == (CancelAttempt(tid("a"), 1),)
    assert play.states == {"a": "interrupted", "b": "blocked", "c": "pending", "tidy": "pending"}
    assert play.engine.done
    assert names(task for task, _ in play.engine.running) == []


def test_clean_up_that_runs_is_interrupted_by_an_abort() -> None:
    play = Play(task("a"), task("tidy", "a", when=Trigger.ALWAYS), task("b")).start().stop().finish("a")
    assert play.running == ["tidy"]
    play.stop("again", abort=True)
    assert play.states == {"a": "success", "tidy": "interrupted", "b": "pending"}


# The checks themselves.


def test_check_tells_the_story() -> None:
    engine = Engine(TaskGraph.build([Task(TaskId("a")), Task(TaskId("b"), (TaskId("a"),), name="load")]))
    engine.handle(RunStarted(0.0))
    engine._missing[1] = 0
    with pytest.raises(AssertionError) as raised:
        check(engine)
    assert "load (all_success) is pending after 0 attempts" in str(raised.value)
    assert "it needs a running" in str(raised.value)


def test_the_follower_is_what_waits_for_nothing_else() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b"), task("d", "a", "c"), slots=2).start()
    assert play.engine.follower(tid("a")) == tid("b")
    assert play.engine.follower(tid("b")) == tid("c"), "should that succeed, too"
    assert play.engine.follower(tid("c")) is None, "d waits for a as well"
    play.finish("a")
    assert play.engine.follower(tid("c")) == tid("d")
    assert play.engine.follower(tid("d")) is None


def test_the_best_of_several_followers_is_named() -> None:
    assert Play(task("a"), task("b", "a"), task("c", "a", priority=1)).start().engine.follower(tid("a")) == tid("c")


@pytest.mark.parametrize(
    "other",
    [
        task("b", "a", exclusive=True),
        task("b", "a", pools=(("gpu", 1),)),
        task("b", "a", when=Trigger.ANY_FAILED),
        task("b", "a", "x"),
    ],
    ids=["alone", "pool", "rule", "other upstream"],
)
def test_who_may_not_start_follows_nobody(other: Task) -> None:
    play = Play(task("a"), task("x"), other, pools={"gpu": 1}, slots=2).start()
    assert play.engine.follower(tid("a")) is None


def test_nothing_follows_where_another_is_next_or_the_run_ends() -> None:
    play = Play(task("a"), task("b", "a"), task("c")).start()
    assert play.engine.follower(tid("a")) is None, "c is ready"
    play.slots(2)
    assert play.engine.follower(tid("a")) == tid("b")
    play.stop()
    assert play.engine.follower(tid("a")) is None


@settings(max_examples=200)
@given(graphs(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_what_was_said_to_follow_does_follow(graph: TaskGraph, slots: int, random: Any) -> None:
    engine = Engine(graph, RunPolicy(slots))
    engine.handle(RunStarted(0.0))
    while engine.running:
        done, attempt = random.choice(engine.running)
        follower = engine.follower(done)
        reaction = engine.handle(AttemptFinished(done, attempt, Success(), 0.0))
        started = [command.task for command in reaction.commands if isinstance(command, StartAttempt)]
        if follower is not None and slots >= len(engine.running):
            assert started[:1] == [follower], (done, follower, started, engine.running)
