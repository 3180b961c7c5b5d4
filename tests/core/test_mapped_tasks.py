"""Mapped tasks in the engine: instances that come while the run goes on, against an oracle that knows them before."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    ExpandTask,
    InstancesAdded,
    RunStarted,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TaskExpanded,
    TaskMoved,
    TimeReached,
)
from pytest_flowforge.core.model import Branch, Failure, FailureKind, Outcome, Skipped, Success, Task, TaskId, Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.core.triggers import CLASSES, EndClass, Verdict, judge
from tests.core.flows import task, tid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowforge.core.messages import Command, Event, Signal

_ERROR = Failure(FailureKind.ERROR, "ValueError: boom", ("builtins.ValueError",))


class World:
    """A run whose mapped tasks have as many instances as a dict says; None for one whose instances can not be told."""

    def __init__(
        self,
        tasks: Iterable[Task],
        sizes: dict[str, int | None],
        ends: dict[str, Outcome] | None = None,
        *,
        slots: int = 1,
        limit: int | None = None,
        given: dict[str, str] | None = None,
    ) -> None:
        self.graph = TaskGraph.build(tasks)
        self.sizes, self.ends, self.limit = sizes, ends or {}, limit
        #: Instances that are restored, or refused.
        self.given = given or {}
        self.engine = Engine(self.graph, RunPolicy(slots, max_retries=50))
        self.events: list[Event] = []
        self.started: list[str] = []
        self.flying: dict[tuple[TaskId, int], None] = {}
        self.asked: dict[TaskId, None] = {}
        self.now = 0.0

    def feed(self, *signals: Signal) -> None:
        reaction = self.engine.handle(*signals)
        check(self.engine)
        self.events += reaction.events
        for command in reaction.commands:
            self.obey(command)
        for name, size in self.sizes.items():
            running = [one for one, _ in self.flying if one.startswith(f"id:{name}[")]
            assert self.limit is None or len(running) <= self.limit, f"{running} of {size}"

    def obey(self, command: Command) -> None:
        if isinstance(command, ExpandTask):
            assert command.task not in self.asked, "asked twice"
            self.asked[command.task] = None
        elif isinstance(command, StartAttempt):
            self.flying[command.task, command.attempt] = None
            self.started.append(command.task.removeprefix("id:"))
        elif isinstance(command, CancelAttempt):
            self.flying.pop((command.task, command.attempt), None)

    def start(self) -> World:
        self.feed(RunStarted(self.now))
        return self

    def expand(self, mapped: TaskId) -> None:
        del self.asked[mapped]
        name = mapped.removeprefix("id:")
        size = self.sizes[name]
        if size is None:
            self.feed(AttemptFinished(mapped, 1, _ERROR, self.now))
            return
        one = self.graph[mapped]
        pools = (("limit of " + name, 1),) if self.limit is not None else ()
        instances = tuple(
            task(f"{name}[{number}]", *(need.removeprefix("id:") for need in one.needs), when=one.when)
            for number in range(size)
        )
        instances = tuple(
            Task(each.id, each.needs, one.when, one.retry, pools=pools, instance_of=mapped, name=each.name)
            for each in instances
        )
        names = {each.id: self.given.get(each.id.removeprefix("id:")) for each in instances}
        restored = {each: "stands" for each, what in names.items() if what == "restored"}
        refused = {each: "in doubt" for each, what in names.items() if what == "refused"}
        sizes = {} if self.limit is None else {"limit of " + name: self.limit}
        self.feed(TaskExpanded(mapped, instances, self.now, sizes, restored, refused))

    def finish(self, attempt: tuple[TaskId, int]) -> None:
        del self.flying[attempt]
        self.feed(AttemptFinished(*attempt, self.ends.get(attempt[0].removeprefix("id:"), Success()), self.now))

    def play(self) -> World:
        """Answer whatever is asked, the oldest first, until the run has ended."""
        self.start()
        while not self.engine.done:
            if self.asked:
                self.expand(next(iter(self.asked)))
            elif self.flying:
                self.finish(next(iter(self.flying)))
            else:
                wake_at = self.engine.wake_at
                assert wake_at is not None, "nothing happens any more"
                self.now = wake_at
                self.feed(TimeReached(self.now))
        return self

    @property
    def states(self) -> dict[str, str]:
        return {name.removeprefix("id:"): state.value for name, state in self.engine.states.items()}


def mapped(name: str, *needs: str, **rest: object) -> Task:
    return task(name, *needs, mapped=True, **rest)  # type: ignore[arg-type]


def test_one_instance_for_each_element() -> None:
    world = World([task("list"), mapped("each", "list"), task("all", "each")], {"each": 3}).play()

    assert world.started == ["list", "each[0]", "each[1]", "each[2]", "all"]
    assert world.states == dict.fromkeys(["list", "each", "all", "each[0]", "each[1]", "each[2]"], "success")
    added = [event for event in world.events if isinstance(event, InstancesAdded)]
    assert [(event.task, len(event.instances)) for event in added] == [("id:each", 3)]
    assert world.graph.upstream(tid("each")) == (tid("each[0]"), tid("each[1]"), tid("each[2]"))
    assert world.graph.downstream(tid("list")) == world.graph.upstream(tid("each"))
    assert list(world.graph.order)[-2:] == [tid("each"), tid("all")]


def test_no_element_is_no_error() -> None:
    world = World([task("list"), mapped("each", "list"), task("all", "each")], {"each": 0}).play()
    assert world.states == {"list": "success", "each": "success", "all": "success"}
    # What became of its upstreams is no matter any more.
    tasks = [task("list"), task("bad"), mapped("each", "list", "bad", when=Trigger.ALL_DONE), task("all", "each")]
    assert World(tasks, {"each": 0}, {"bad": _ERROR}).play().states["all"] == "success"


def test_instances_that_can_not_be_told() -> None:
    world = World([task("list"), mapped("each", "list"), task("all", "each")], {"each": None}).play()
    assert world.states == {"list": "success", "each": "failed", "all": "blocked"}


def test_what_comes_behind_waits_for_all_instances() -> None:
    tasks = [task("list"), mapped("each", "list"), task("all", "each"), task("last", "each", when=Trigger.ALL_DONE)]
    world = World(tasks, {"each": 3}, {"each[0]": _ERROR}, slots=1).play()

    assert world.started == ["list", "each[0]", "each[1]", "each[2]", "last"]
    assert world.states["each"] == "blocked"
    blocked = next(event for event in world.events if isinstance(event, TaskMoved) and event.task == tid("all"))
    assert (blocked.after, blocked.cause) == (TaskState.BLOCKED, tid("each"))
    summary = Summary(one.id for one in world.graph)
    for event in world.events:
        summary.apply(event)
    assert summary.snapshot().blocked_by_root == {tid("each[0]"): (tid("all"),)}


def test_any_success_is_one_instance() -> None:
    tasks = [task("list"), mapped("each", "list"), task("any", "each", when=Trigger.ANY_SUCCESS)]
    assert World(tasks, {"each": 2}, {"each[0]": _ERROR}).play().states["any"] == "success"
    assert World(tasks, {"each": 2}, {"each[0]": _ERROR, "each[1]": _ERROR}).play().states["any"] == "blocked"
    alarm = [task("list"), mapped("each", "list"), task("alarm", "each", when=Trigger.ANY_FAILED)]
    assert World(alarm, {"each": 2}, {"each[0]": _ERROR}).play().states["alarm"] == "success"
    assert World(alarm, {"each": 2}).play().states["alarm"] == "skipped"


def test_instances_that_stand_or_may_not_run() -> None:
    given = {"each[0]": "restored", "each[2]": "refused"}
    tasks = [task("list"), mapped("each", "list"), task("all", "each")]
    world = World(tasks, {"each": 3}, given=given).play()
    assert world.started == ["list", "each[1]"]
    assert world.states == {
        "list": "success",
        "each": "blocked",
        "all": "blocked",
        "each[0]": "reused",
        "each[1]": "success",
        "each[2]": "blocked",
    }
    assert World(tasks, {"each": 1}, given={"each[0]": "restored"}).play().states["all"] == "success"


def test_at_most_so_many_at_a_time() -> None:
    world = World([task("list"), mapped("each", "list")], {"each": 9}, slots=99, limit=2)
    world.play()
    assert len(world.started) == 10


def test_instances_take_the_place_of_their_mapped_task_among_the_ready() -> None:
    tasks = [task("list"), task("other", "list"), mapped("each", "list", priority=1), task("third", "list")]
    world = World(tasks, {"each": 2}).play()
    assert world.started == ["list", "other", "each[0]", "each[1]", "third"]


def test_a_way_that_was_not_chosen() -> None:
    closed = Success(branch=Branch((), frozenset([tid("each")]), "list went on with none"))
    world = World([task("list"), mapped("each", "list"), task("all", "each")], {"each": 2}, {"list": closed}).play()
    assert world.states == {"list": "success", "each": "skipped", "all": "skipped"}
    # The same where the instances are known before.
    known = [task("each[0]", "list", instance_of=tid("each")), task("each[1]", "list", instance_of=tid("each"))]
    tasks = [task("list"), mapped("each", "each[0]", "each[1]"), task("all", "each"), *known]
    assert set(World(tasks, {}, {"list": closed}).play().states.values()) == {"success", "skipped"}


def test_a_graph_that_has_its_instances_asks_for_none() -> None:
    known = [task("each[0]", "list", instance_of=tid("each")), task("each[1]", "list", instance_of=tid("each"))]
    tasks = [task("list"), mapped("each", "each[0]", "each[1]"), task("all", "each"), *known]
    world = World(tasks, {}, {"each[0]": _ERROR}).play()
    assert world.started == ["list", "each[0]", "each[1]"]
    assert (world.states["each"], world.states["all"]) == ("blocked", "blocked")


@pytest.mark.parametrize("abort", [False, True])
def test_a_stop_while_instances_are_awaited(abort: bool) -> None:  # noqa: FBT001 - a parameter
    tasks = [
        task("list"),
        mapped("each", "list"),
        mapped("clean", "list", when=Trigger.ALWAYS),
        task("all", "each"),
    ]
    world = World(tasks, {"each": 2, "clean": 2}).start()
    world.finish((tid("list"), 1))
    assert [name for name, _ in world.engine.running] == [tid("each"), tid("clean")]
    world.feed(StopRequested("-x", 1.0, abort=abort))
    world.expand(tid("each"))
    assert tid("each[0]") not in world.graph, "what is not wanted any more is not added"
    if not abort:
        world.expand(tid("clean"))
        while world.flying:
            world.finish(next(iter(world.flying)))
    assert world.engine.done
    assert world.states["each"] == world.states["all"] == "pending"
    assert world.states["clean"] == ("pending" if abort else "success")


def test_a_mapped_task_that_is_interrupted_while_instances_are_awaited() -> None:
    world = World([task("list"), mapped("each", "list", when=Trigger.ALWAYS)], {"each": 2}).start()
    world.finish((tid("list"), 1))
    world.feed(AttemptFinished(tid("each"), 1, Failure(FailureKind.INTERRUPTED, "ctrl-c"), 1.0))
    assert world.engine.done
    assert world.states["each"] == "interrupted"


# ---- any graph, any order of events ----------------------------------------------------------------------------------

_OUTCOMES: list[Outcome] = [
    Success(),
    Success(),
    Success(),
    _ERROR,
    Skipped("no need"),
    Failure(FailureKind.CRASHED, "gone"),
]


@st.composite
def _flows(draw: st.DrawFn) -> tuple[list[Task], dict[str, int | None], dict[str, Outcome]]:
    tasks: list[Task] = []
    sizes: dict[str, int | None] = {}
    ends: dict[str, Outcome] = {}
    for number in range(draw(st.integers(1, 7))):
        name = f"t{number}"
        earlier = [f"t{before}" for before in range(number)]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        is_mapped = bool(needs) and draw(st.booleans())
        rest = {
            "when": draw(st.sampled_from([Trigger.ALL_SUCCESS, Trigger.ALL_SUCCESS, *Trigger])),
            "retry": RetryPolicy(draw(st.sampled_from([0, 0, 1]))),
            "exclusive": draw(st.sampled_from([False, False, False, True])),
            "takes_slot": draw(st.sampled_from([True, True, False])),
        }
        tasks.append(task(name, *needs, mapped=is_mapped, **rest))
        names = [name]
        if is_mapped:
            sizes[name] = size = draw(st.sampled_from([0, 1, 2, 3, None]))
            names = [f"{name}[{one}]" for one in range(size or 0)]
        for one in names:
            ends[one] = draw(st.sampled_from(_OUTCOMES))
    return tasks, sizes, ends


def _oracle(tasks: Iterable[Task], sizes: dict[str, int | None], ends: dict[str, Outcome]) -> dict[str, str]:
    """The end of every task, with the instances of mapped ones as if they had been written down."""
    states: dict[str, TaskState] = {}
    classes: dict[str, EndClass] = {}

    def end(name: str) -> TaskState:
        outcome = ends[name]
        if isinstance(outcome, Failure):
            return TaskState.CRASHED if outcome.kind is FailureKind.CRASHED else TaskState.FAILED
        return TaskState.SUCCESS if isinstance(outcome, Success) else TaskState.SKIPPED

    for one in tasks:
        name = one.id.removeprefix("id:")
        seen = EndClass.NONE
        for need in one.needs:
            seen |= classes[need.removeprefix("id:")]
        answer = judge(one.when, seen)
        if answer is not Verdict.RUN:
            states[name] = TaskState.BLOCKED if answer is Verdict.BLOCK else TaskState.SKIPPED
            classes[name] = CLASSES[states[name]]
        elif not one.mapped:
            states[name] = end(name)
            classes[name] = CLASSES[states[name]]
        elif sizes[name] is None:
            states[name] = TaskState.FAILED
            classes[name] = EndClass.FAILED
        else:
            instances = {f"{name}[{number}]": end(f"{name}[{number}]") for number in range(sizes[name] or 0)}
            states.update(instances)
            among = EndClass.NONE
            for state in instances.values():
                among |= CLASSES[state]
            whole = judge(Trigger.ALL_SUCCESS, among)
            states[name] = {
                Verdict.RUN: TaskState.SUCCESS,
                Verdict.BLOCK: TaskState.BLOCKED,
                Verdict.SKIP: TaskState.SKIPPED,
            }[whole]
            classes[name] = CLASSES[states[name]] | among
    return {name: state.value for name, state in states.items()}


@settings(max_examples=300, deadline=None)
@given(_flows(), st.integers(1, 4), st.sampled_from([None, 1, 2]), st.data())
def test_any_order_comes_to_the_end_that_is_known_before(
    flow: tuple[list[Task], dict[str, int | None], dict[str, Outcome]],
    slots: int,
    limit: int | None,
    data: st.DataObject,
) -> None:
    tasks, sizes, ends = flow
    world = World(tasks, sizes, ends, slots=slots, limit=limit).start()
    for _ in range(500):
        if world.engine.done:
            break
        steps: list[object] = [*world.flying, *world.asked]
        assert steps or world.engine.wake_at is not None or world.engine.slots == 0, "nothing happens any more"
        steps += ["slots"]
        step = data.draw(st.sampled_from(steps))
        if step == "slots":
            world.feed(SlotsChanged(data.draw(st.integers(0 if world.flying else 1, 3)), world.now))
        elif isinstance(step, tuple):
            world.finish(step)
        else:
            world.expand(step)  # type: ignore[arg-type]
        if not world.flying and not world.asked and not world.engine.done:
            world.feed(SlotsChanged(slots, world.now), TimeReached(world.now))
    assert world.engine.done
    assert world.states == _oracle(tasks, sizes, ends)


@settings(max_examples=200, deadline=None)
@given(_flows(), st.integers(1, 4), st.data())
def test_a_run_that_is_stopped_or_loses_its_executor_ends(
    flow: tuple[list[Task], dict[str, int | None], dict[str, Outcome]], slots: int, data: st.DataObject
) -> None:
    tasks, sizes, ends = flow
    world = World(tasks, sizes, ends, slots=slots, limit=1).start()
    ways: list[Signal] = [
        StopRequested("-x", 1.0),
        StopRequested("-x", 1.0, abort=True),
        ExecutorLost("gone", 1.0),
        ExecutorLost("gone", 1.0, clean_up=True),
    ]
    for _ in range(500):
        if world.engine.done:
            break
        steps: list[object] = [*world.flying, *world.asked, "end"]
        step = data.draw(st.sampled_from(steps))
        if step == "end":
            world.feed(data.draw(st.sampled_from(ways)), TimeReached(2.0))
        elif isinstance(step, tuple):
            world.finish(step)
        else:
            world.expand(step)  # type: ignore[arg-type]
    assert world.engine.done
    moved = [event for event in world.events if isinstance(event, TaskMoved) and event.after in DONE]
    assert len({event.task for event in moved}) == len(moved), "a task ends once"
