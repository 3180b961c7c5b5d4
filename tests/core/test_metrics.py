"""A run in numbers, against a simulation that knows when everything began and ended."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import (
    AttemptFinished,
    RunStarted,
    StartAttempt,
    StopRequested,
    TaskExpanded,
    TaskMoved,
    TimeReached,
)
from pytest_flowforge.core.metrics import Metrics, RunMetrics, WaitedFor
from pytest_flowforge.core.model import Measures, Success, Task, TaskId, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import TaskState
from tests.core.flows import ERROR, Play, task, tid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.core.messages import Event


def metrics_of(play: Play) -> RunMetrics:
    metrics = Metrics(play.graph)
    for event in play.events:
        metrics(event)
    return metrics.snapshot()


def path_of(run: RunMetrics) -> list[str]:
    return [f"{step.attempt.task.removeprefix('id:')} {step.waited_for.value}" for step in run.critical_path]


def test_nothing_has_happened_yet() -> None:
    run = metrics_of(Play(task("a")))
    assert run.tasks[tid("a")].state is TaskState.PENDING
    assert run.tasks[tid("a")].attempts == ()
    assert (run.makespan, run.work, run.speed_up, run.cpu, run.critical_path) == (0.0, 0.0, 0.0, None, ())
    assert not run.ended


def test_an_attempt_whose_beginning_was_missed_took_no_time() -> None:
    play = Play(task("a")).start()
    play.now = 1.0
    play.finish("a")
    metrics = Metrics(play.graph)
    for event in play.events:
        if not (isinstance(event, TaskMoved) and event.after is TaskState.RUNNING):
            metrics(event)
    (attempt,) = metrics.snapshot().tasks[tid("a")].attempts
    assert (attempt.number, attempt.seconds, attempt.ended_at) == (1, 0.0, 1.0)


def test_a_diamond_goes_by_its_slower_side() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "a"), task("d", "b", "c"), slots=2).start()
    for at, name in [(2.0, "a"), (3.0, "b"), (7.0, "c"), (8.0, "d")]:
        play.now = at
        play.finish(name)
    run = metrics_of(play)
    assert path_of(run) == ["a nothing", "c upstream", "d upstream"]
    assert run.makespan == run.critical_path_seconds == 8.0
    assert run.work == 9.0
    assert run.speed_up == 9 / 8
    assert [run.tasks[tid(name)].queue_wait for name in "abcd"] == [0.0, 0.0, 0.0, 0.0]


def test_who_waits_for_a_slot_has_waited_for_whoever_gave_it_back() -> None:
    play = Play(task("a"), task("b"), task("c", "a"), slots=1).start()
    for at, name in [(1.0, "a"), (4.0, "b"), (5.0, "c")]:
        play.now = at
        play.finish(name)
    run = metrics_of(play)
    assert path_of(run) == ["a nothing", "b slot", "c slot"]
    assert run.tasks[tid("b")].queue_wait == 1.0
    assert run.tasks[tid("c")].queue_wait == 3.0, "ready when its upstream had ended"
    assert run.speed_up == 1.0


def test_waits_between_attempts_are_neither_work_nor_queueing() -> None:
    play = Play(task("a", retry=RetryPolicy(1, delay=10.0)), task("b", "a")).start()
    play.now = 2.0
    play.fail("a").time(12.5)
    play.now = 15.5
    play.finish("a")
    play.now = 16.0
    play.finish("b")
    run = metrics_of(play)
    a = run.tasks[tid("a")]
    assert (a.seconds, a.retry_wait, a.queue_wait) == (5.0, 10.0, 0.5)
    assert [(one.number, one.state) for one in a.attempts] == [(1, TaskState.RETRYING), (2, TaskState.SUCCESS)]
    assert path_of(run) == ["a nothing", "a retry", "b upstream"]
    assert [step.wait for step in run.critical_path] == [0.0, 10.5, 0.0]


def test_what_never_ran_is_passed_over() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b", when=Trigger.ALL_DONE)).start()
    play.now = 3.0
    play.fail("a")
    play.now = 4.0
    play.finish("c")
    run = metrics_of(play)
    assert run.tasks[tid("b")].state is TaskState.BLOCKED
    assert path_of(run) == ["a nothing", "c upstream"]


def test_clean_up_after_a_stop_did_not_wait_for_what_never_ran() -> None:
    play = Play(task("a"), task("b", "a"), task("c", "b", when=Trigger.ALWAYS)).start()
    play.now = 3.0
    play.feed(StopRequested("enough", 3.0))
    play.finish("a")
    play.now = 4.0
    play.finish("c")
    run = metrics_of(play)
    assert run.stopped == "enough"
    assert run.tasks[tid("b")].state is TaskState.PENDING
    assert run.tasks[tid("c")].queue_wait == 0.0
    assert path_of(run)[-1].startswith("c ")


def test_instances_stand_for_the_task_that_was_mapped() -> None:
    play = Play(task("a"), task("m", "a", mapped=True), task("z", "m"), slots=2).start()
    play.now = 1.0
    play.finish("a")
    instances = tuple(Task(tid(f"m{number}"), (tid("a"),), name="m", instance_of=tid("m")) for number in range(2))
    play.now = 1.5
    play.feed(TaskExpanded(tid("m"), instances, 1.5))
    for at, name in [(2.0, "m0"), (5.5, "m1"), (6.0, "z")]:
        play.now = at
        play.finish(name)
    run = metrics_of(play)
    assert run.tasks[tid("m")].state is TaskState.SUCCESS
    assert run.tasks[tid("m")].attempts == ()
    assert run.tasks[tid("m1")].queue_wait == 0.0, "nobody could have begun it before it was known"
    assert path_of(run) == ["a nothing", "m1 upstream", "z upstream"]
    assert run.work == 6.0


def test_measures_are_added_up_where_all_are_known() -> None:
    play = Play(task("a", retry=RetryPolicy(1)), task("b"), slots=2).start()
    play.now = 4.0
    play.feed(AttemptFinished(tid("a"), 1, ERROR, 4.0, Measures("w1", 3.0, 2.5, 700)))
    play.now = 6.0
    play.feed(AttemptFinished(tid("a"), 2, Success(), 6.0, Measures("w2", 5.0, 0.5, 300, 42)))
    run = metrics_of(play)
    a = run.tasks[tid("a")]
    assert (a.seconds, a.cpu, a.peak_memory, a.result_bytes) == (5.0, 3.0, 700, 42), "never more than the run has seen"
    assert a.workers == ("w1", "w2")
    assert run.cpu == 3.0
    play.finish("b")
    run = metrics_of(play)
    assert run.cpu is None, "of one of them nobody knows"
    assert {name: (one.attempts, one.busy) for name, one in run.workers.items()} == {"w1": (1, 4.0), "w2": (1, 2.0)}


def test_who_has_two_attempts_at_a_time_is_busy_once() -> None:
    play = Play(task("a"), task("b"), task("c"), task("d", "a"), slots=3).start()
    # The last one of the loop begins after another and ends before it.
    for at, name in [(4.0, "a"), (5.0, "d"), (6.0, "b"), (8.0, "c")]:
        play.now = at
        play.feed(AttemptFinished(tid(name), 1, Success(), at, Measures("loop" if name != "c" else "other")))
    run = metrics_of(play)
    assert run.workers["loop"].busy == 6.0
    assert run.workers["loop"].utilization == 0.75
    assert run.workers["other"].utilization == 1.0


# ---- against a simulation --------------------------------------------------------------------------------------------


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[Task], dict[TaskId, list[int]], int]:
    """Tasks with edges backwards; how long each attempt takes, in whole seconds; slots."""
    count = draw(st.integers(1, 7))
    tasks, takes = [], dict[TaskId, list[int]]()
    for number in range(count):
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        retries = draw(st.integers(0, 1))
        delay = float(draw(st.integers(0, 4)))
        tasks.append(task(f"t{number}", *(f"t{need}" for need in needs), retry=RetryPolicy(retries, delay=delay)))
        takes[tid(f"t{number}")] = draw(st.lists(st.integers(1, 5), min_size=retries + 1, max_size=retries + 1))
    return tasks, takes, draw(st.integers(1, 4))


def simulate(
    tasks: Sequence[Task], takes: dict[TaskId, list[int]], slots: int, seconds: float | None = None
) -> tuple[TaskGraph, list[Event]]:
    """Play a run in which every attempt but the last of each task fails, without any time lost in between.

    *seconds* is what is measured of each attempt where it is made.
    """
    measures = None if seconds is None else Measures("w", seconds)
    graph = TaskGraph.build(tasks)
    engine = Engine(graph, RunPolicy(slots=slots))
    reaction = engine.handle(RunStarted(0.0))
    events, running, now = [*reaction.events], dict[tuple[TaskId, int], float](), 0.0
    while True:
        for command in reaction.commands:
            assert isinstance(command, StartAttempt)
            running[command.task, command.attempt] = now + takes[command.task][command.attempt - 1]
        if engine.done:
            return graph, events
        now = min([*running.values(), *([] if engine.wake_at is None else [engine.wake_at])])
        over = [key for key, end in running.items() if end == now]
        for key in over:
            del running[key]
        ends = [
            AttemptFinished(name, attempt, Success() if attempt == len(takes[name]) else ERROR, now, measures)
            for name, attempt in over
        ]
        reaction = engine.handle(*ends, TimeReached(now))
        events += reaction.events


@given(_worlds())
def test_waits_and_durations_on_the_path_add_up_to_the_run(
    world: tuple[list[Task], dict[TaskId, list[int]], int],
) -> None:
    graph, events = simulate(*world)
    metrics = Metrics(graph)
    for event in events:
        metrics(event)
    run = metrics.snapshot()
    path = run.critical_path
    assert run.ended
    assert path[-1].attempt.ended_at == run.makespan
    assert path[0].wait == 0.0
    assert sum(step.wait + step.attempt.seconds for step in path) == run.makespan
    for before, step in pairwise(path):
        assert step.wait == step.attempt.started_at - before.attempt.ended_at
        needs = graph[step.attempt.task].needs
        if step.waited_for is WaitedFor.UPSTREAM:
            assert before.attempt.task in needs
            assert before.attempt.ended_at == max(run.tasks[need].attempts[-1].ended_at for need in needs)
        elif step.waited_for is WaitedFor.RETRY:
            assert before.attempt.task == step.attempt.task
            assert step.wait == graph[step.attempt.task].retry.delay
        else:
            assert step.waited_for is WaitedFor.SLOT
        if step.waited_for is not WaitedFor.RETRY:
            assert step.wait == 0.0, "no slot stays free while somebody waits"


@given(_worlds(), st.integers(0, 6))
def test_they_add_up_where_attempts_lie_around_before_they_are_made_too(
    world: tuple[list[Task], dict[TaskId, list[int]], int], seconds: int
) -> None:
    graph, events = simulate(*world, seconds=seconds)
    metrics = Metrics(graph)
    for event in events:
        metrics(event)
    run = metrics.snapshot()
    assert sum(step.wait + step.attempt.seconds for step in run.critical_path) == run.makespan
    assert all(step.wait >= 0 for step in run.critical_path)


@given(_worlds())
def test_every_task_has_the_times_of_the_simulation(world: tuple[list[Task], dict[TaskId, list[int]], int]) -> None:
    tasks, takes, slots = world
    graph, events = simulate(tasks, takes, slots)
    metrics = Metrics(graph)
    for event in events:
        metrics(event)
    run = metrics.snapshot()
    for one in run.tasks.values():
        assert [attempt.seconds for attempt in one.attempts] == takes[one.task]
        assert one.retry_wait == graph[one.task].retry.delay * (len(takes[one.task]) - 1)
        first = max([0.0, *(run.tasks[need].attempts[-1].ended_at for need in graph[one.task].needs)])
        whole = one.attempts[-1].ended_at - first
        assert one.queue_wait + one.retry_wait + one.seconds == whole
    assert run.work == sum(map(sum, takes.values()))
    assert run.speed_up <= slots
    if slots >= len(tasks):
        assert all(one.queue_wait == 0.0 for one in run.tasks.values())


@given(_worlds())
def test_with_room_for_all_it_is_the_longest_way_through_the_graph(
    world: tuple[list[Task], dict[TaskId, list[int]], int],
) -> None:
    tasks, takes, _ = world
    graph, events = simulate(tasks, takes, len(tasks))
    metrics = Metrics(graph)
    for event in events:
        metrics(event)

    def longest(name: TaskId) -> float:
        """Brute force: all ways."""
        one = graph[name]
        own = sum(takes[name]) + one.retry.delay * (len(takes[name]) - 1)
        return own + max([0.0, *(longest(need) for need in one.needs)])

    run = metrics.snapshot()
    assert run.makespan == pytest.approx(max(longest(one.id) for one in tasks))
    assert all(step.waited_for is not WaitedFor.SLOT for step in run.critical_path)
