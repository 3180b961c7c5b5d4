"""The fold over events that everything shown is made of."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.messages import AttemptFinished, RunStarted, StopRequested, TaskMoved, TimeReached
from pytest_flowforge.core.model import Success, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import FAILED_STATES, TaskState
from pytest_flowforge.core.summary import RunSummary, Summary, summarize
from tests.core.flows import ERROR, EXPECTED, Play, Script, graphs, names, task, tid

if TYPE_CHECKING:
    from pytest_flowforge.core.messages import Event


def summary_of(play: Play) -> RunSummary:
    return summarize((task.id for task in play.graph), play.events)


def test_nothing_has_happened_yet() -> None:
    summary = summarize([tid("a"), tid("b")], [])
    assert summary.counts[TaskState.PENDING] == 2
    assert summary.counts[TaskState.BLOCKED] == 0
    assert not summary.ended
    assert not summary.ok
    assert summarize([], []).ok


def test_all_is_well() -> None:
    play = Play(task("a"), task("b", "a"), task("c"), restored={"c": "run 7"}).start()
    play.now = 2.0
    play.finish("a")
    play.now = 2.5
    play.finish("b")
    summary = summary_of(play)
    assert summary.ok
    assert summary.ended
    assert summary.counts[TaskState.SUCCESS] == 2
    assert summary.counts[TaskState.REUSED] == 1
    assert summary.counts[TaskState.PENDING] == summary.counts[TaskState.RUNNING] == 0
    assert summary.durations == {tid("a"): 2.0, tid("b"): 0.5}
    assert summary.attempts == {tid("a"): 1, tid("b"): 1}
    assert summary.reasons == {tid("c"): "run 7"}
    assert summary.makespan == 2.5


def test_waits_between_attempts_are_not_work() -> None:
    play = Play(task("a", retry=RetryPolicy(1, delay=10.0))).start()
    play.now = 2.0
    play.fail("a").time(12.0)
    play.now = 15.0
    play.finish("a")
    summary = summary_of(play)
    assert summary.attempts == {tid("a"): 2}
    assert summary.durations == {tid("a"): 3.0}
    assert summary.totals == {tid("a"): 5.0}
    assert summary.makespan == 15.0
    assert summary.ok


def test_blocks_are_counted_under_the_failure_they_go_back_to() -> None:
    play = Play(
        task("d", "c"), task("c", "b"), task("b", "a"), task("a"), task("y", "x"), task("x"), task("z", "y"), slots=2
    )
    summary = summary_of(play.start().fail("x", "a"))
    roots = {root.removeprefix("id:"): names(blocked) for root, blocked in summary.blocked_by_root.items()}
    assert roots == {"a": ["d", "c", "b"], "x": ["y", "z"]}
    assert list(roots) == ["a", "x"], "in the order of declaration, not of failure"
    assert names(summary.failed) == ["a", "x"]
    assert not summary.ok


def test_a_very_deep_chain_of_blocks() -> None:
    count = 50_000
    tasks = [tid(str(place)) for place in range(count)]
    failed = TaskMoved(tasks[0], TaskState.RUNNING, TaskState.FAILED, 1, 0.0, outcome=ERROR)
    blocks = [
        TaskMoved(later, TaskState.PENDING, TaskState.BLOCKED, 0, 0.0, cause=earlier)
        for earlier, later in pairwise(tasks)
    ]
    # Declared the wrong way round, so that the longest way is walked first.
    summary = summarize(reversed(tasks), [failed, *blocks])
    assert len(summary.blocked_by_root[tasks[0]]) == count - 1


def test_an_expected_failure_is_none_for_the_exit_status() -> None:
    summary = summary_of(Play(task("a"), task("b")).start().finish("a", outcome=EXPECTED).finish("b"))
    assert summary.ok
    assert summary.failed == ()
    assert names(summary.expected_failures) == ["a"]
    assert summary.counts[TaskState.FAILED] == 1


def test_what_an_expected_failure_blocks_did_not_run() -> None:
    assert not summary_of(Play(task("a"), task("b", "a")).start().finish("a", outcome=EXPECTED)).ok


def test_what_never_started_is_listed() -> None:
    summary = summary_of(Play(task("a"), task("b"), task("c")).start().stop("enough").finish("a"))
    assert names(summary.never_started) == ["b", "c"]
    assert summary.stopped == "enough"
    assert not summary.ok


def test_what_still_runs_is_not_well_yet() -> None:
    play = Play(task("a", retry=RetryPolicy(1, delay=9.0))).start()
    assert not summary_of(play).ok
    assert not summary_of(play.fail("a")).ok


def test_a_snapshot_stays_as_it_was() -> None:
    play = Play(task("a"), task("b", when=Trigger.ALWAYS))
    summary = Summary(task.id for task in play.graph)
    for event in play.start().events:
        summary.apply(event)
    before = summary.snapshot()
    summary.apply(TaskMoved(tid("a"), TaskState.RUNNING, TaskState.SUCCESS, 1, 1.0, outcome=Success()))
    assert before.states[tid("a")] is TaskState.RUNNING
    assert before.counts[TaskState.RUNNING] == 1
    assert summary.counts[TaskState.RUNNING] == 0


@given(st.data())
def test_a_summary_agrees_with_the_engine(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    script = Script(data, graph)
    engine = Engine(graph, RunPolicy(slots=2))
    events: list[Event] = list(engine.handle(RunStarted(0.0)).events)
    now = 0.0
    while not engine.done:
        now += 1.0
        if not engine.running:
            events += engine.handle(TimeReached(max(now, engine.wake_at or 0.0))).events
        else:
            task_id, attempt = engine.running[0]
            end = AttemptFinished(task_id, attempt, script(task_id, attempt), now)
            stop = [StopRequested("enough", now)] if data.draw(st.integers(0, 9)) == 9 else []
            events += engine.handle(end, *stop).events
    summary = summarize((each.id for each in graph), events)
    assert summary.states == engine.states
    assert sum(summary.counts.values()) == len(graph)
    assert all(summary.counts[state] == list(summary.states.values()).count(state) for state in TaskState)
    assert summary.stopped == engine.stopped
    blocked = [name for name, state in summary.states.items() if state is TaskState.BLOCKED]
    assert sorted(name for group in summary.blocked_by_root.values() for name in group) == sorted(blocked)
    assert all(summary.states[root] in FAILED_STATES for root in summary.blocked_by_root)
