"""Flows for tests of the core: builders, a player for examples, random graphs, and an oracle.

The oracle knows outcomes and the trigger rules as DESIGN.md words them, and nothing of slots, pools, order or time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.invariants import check
from pytest_flowforge.core.messages import (
    AttemptFinished,
    CancelAttempt,
    RunStarted,
    SlotsChanged,
    StartAttempt,
    StopRequested,
    TaskMoved,
    TimeReached,
)
from pytest_flowforge.core.model import (
    Branch,
    Failure,
    FailureKind,
    Location,
    Lost,
    Outcome,
    Skipped,
    Success,
    Task,
    TaskId,
    Trigger,
)
from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.messages import Event, Reaction, Signal

ERROR = Failure(message="ValueError: boom", mro=("builtins.ValueError", "builtins.Exception"))
EXPECTED = Failure(message="known", expected=True)
#: An exception group, and one that holds something else too.
GROUP = Failure(message="group", mro=("builtins.ExceptionGroup", "builtins.Exception"), members=(ERROR.mro,))
MIXED_GROUP = replace(GROUP, members=(ERROR.mro, ("builtins.KeyError", "builtins.Exception")))


def task(name: str, *needs: str, line: int | None = None, **rest: Any) -> Task:
    """A task whose id is ``id:`` and its name, so that tests see which of the two is shown."""
    location = None if line is None else Location("flow_x.py", line)
    return Task(tid(name), tuple(map(tid, needs)), name=name, location=location, **rest)


def tid(name: str) -> TaskId:
    return TaskId(f"id:{name}")


def names(tasks: Iterable[TaskId]) -> list[str]:
    return [name.removeprefix("id:") for name in tasks]


class Play:
    """A run told by names; every step is checked."""

    def __init__(
        self,
        *tasks: Task,
        pools: Mapping[str, int] | None = None,
        slots: int = 1,
        grace: float | None = None,
        max_retries: int | None = None,
        restored: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> None:
        self.graph = TaskGraph.build(tasks, pools or {})
        stands = {tid(name): because for name, because in (restored or {}).items()}
        self.engine = Engine(self.graph, RunPolicy(slots, grace, max_retries=max_retries), restored=stands, **rest)
        self.now = 0.0
        self.events: list[Event] = []
        self.started: list[str] = []
        self.cancelled: list[str] = []

    def feed(self, *signals: Signal) -> Reaction:
        reaction = self.engine.handle(*signals)
        check(self.engine)
        self.events += reaction.events
        for command in reaction.commands:
            if isinstance(command, StartAttempt):
                self.started += names([command.task])
            elif isinstance(command, CancelAttempt):
                self.cancelled += names([command.task])
        return reaction

    def start(self) -> Play:
        self.feed(RunStarted(self.now))
        return self

    def end(self, name: str, outcome: Outcome | None = None) -> AttemptFinished:
        attempt = dict(self.engine.running).get(tid(name), 1)
        return AttemptFinished(tid(name), attempt, outcome or Success(), self.now)

    def finish(self, *which: str, outcome: Outcome | None = None) -> Play:
        for name in which:
            self.feed(self.end(name, outcome))
        return self

    def fail(self, *which: str) -> Play:
        return self.finish(*which, outcome=ERROR)

    def stop(self, reason: str = "-x", *, abort: bool = False) -> Play:
        self.feed(StopRequested(reason, self.now, abort))
        return self

    def time(self, at: float) -> Play:
        self.now = at
        self.feed(TimeReached(at))
        return self

    def slots(self, count: int) -> Play:
        self.feed(SlotsChanged(count, self.now))
        return self

    @property
    def running(self) -> list[str]:
        return names(task for task, _ in self.engine.running)

    @property
    def states(self) -> dict[str, str]:
        return dict(zip(names(self.engine.states), (state.value for state in self.engine.states.values()), strict=True))

    def state(self, name: str) -> TaskState:
        return self.engine.state(tid(name))

    def moves(self, name: str) -> list[TaskMoved]:
        return [event for event in self.events if isinstance(event, TaskMoved) and event.task == tid(name)]

    def last(self, name: str) -> TaskMoved:
        return self.moves(name)[-1]


# Random flows.

POOLS = {"gpu": 2, "mem": 3}

OUTCOMES: tuple[Outcome, ...] = (
    Success(),
    Skipped("no data"),
    ERROR,
    GROUP,
    MIXED_GROUP,
    EXPECTED,
    Failure(FailureKind.TIMED_OUT, "too slow"),
    Failure(FailureKind.INTERRUPTED, "ctrl-c"),
    Lost("worker gone"),
)

# Weighted by hand: uniform choices hardly ever reach a second attempt or a queue.
outcomes = st.sampled_from([Success()] * 5 + [ERROR] * 4 + [*OUTCOMES])

_retries = st.builds(
    RetryPolicy,
    max_retries=st.sampled_from([2, 1]),
    delay=st.sampled_from([1.0, 0.0, 2.5]),
    jitter=st.sampled_from([0.0, 0.5]),
    on=st.sampled_from([(), (), ("builtins.ValueError",)]),
    not_on=st.sampled_from([(), (), (), ("builtins.Exception",), ("builtins.KeyError",)]),
)

_requests = st.sampled_from(
    [
        (("gpu", 1),),
        (("gpu", 2),),
        (("gpu", 1), ("mem", 1)),
        (("mem", 1),),
        (("mem", 3), ("gpu", 1)),
        (("mem", 2),),
        (("gpu", 1), ("gpu", 1)),
    ]
)


class Style(Enum):
    """What a random graph is rich in."""

    PLAIN = "edges and trigger rules, nothing else"
    CONTENDED = "pools and exclusive tasks"
    STUBBORN = "retries and time-outs"
    MIXED = "some of everything"


@st.composite
def graphs(draw: st.DrawFn, largest: int = 10, *, plain: bool = False, tidy: bool = False) -> TaskGraph:
    """Any small graph in any order of declaration; a tidy one has many tasks for clean-up and alarms."""
    ids = [TaskId(chr(ord("a") + place)) for place in range(draw(_sizes(largest)))]
    style = Style.PLAIN if plain else draw(st.sampled_from(Style))
    rules = [Trigger.ALL_SUCCESS] * 3 + [*Trigger] + [Trigger.ALWAYS, Trigger.ANY_FAILED] * 2 * tidy
    tasks = [draw(_tasks(name, ids[:place], style, rules)) for place, name in enumerate(ids)]
    return TaskGraph.build(draw(st.permutations(tasks)), POOLS)


def _sizes(largest: int) -> st.SearchStrategy[int]:
    """Rather large than small: a run that is over takes no more signals."""
    return st.sampled_from([*range(largest, largest // 2, -1)] * 3 + [*range(largest // 2, 0, -1)])


@st.composite
def _tasks(draw: st.DrawFn, name: TaskId, earlier: list[TaskId], style: Style, rules: list[Trigger]) -> Task:
    most = min(len(earlier), draw(st.sampled_from([0, 0, 1])) if style is Style.CONTENDED else 3)
    needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=most)) if most else []
    when = draw(st.sampled_from(rules))
    extra: dict[str, Any] = {}
    if style in {Style.STUBBORN, Style.MIXED}:
        extra["retry"] = draw(_one_in(2, _retries, NO_RETRY))
        extra["timeout"] = draw(_one_in(2, st.just(2.0), None))
    if style in {Style.CONTENDED, Style.MIXED}:
        extra["pools"] = draw(_requests if style is Style.CONTENDED else _one_in(2, _requests, ()))
        extra["exclusive"] = draw(_one_in(8, st.just(value=True), ifnot=False))
        extra["priority"] = draw(st.integers(-1, 1))
        extra["takes_slot"] = draw(_one_in(3, st.just(value=False), ifnot=True))
    return Task(name, tuple(needs), when, **extra)


def _one_in(many: int, some: st.SearchStrategy[Any], ifnot: object) -> st.SearchStrategy[Any]:
    return st.sampled_from(range(many)).flatmap(lambda drawn: st.just(ifnot) if drawn else some)


class Script:
    """The outcome of every attempt, drawn when somebody first asks for it; the same from then on."""

    def __init__(self, data: st.DataObject, graph: TaskGraph) -> None:
        self._data = data
        self._graph = graph
        self.known: dict[tuple[TaskId, int], Outcome] = {}

    def __call__(self, task: TaskId, attempt: int) -> Outcome:
        key = (task, attempt)
        if key not in self.known:
            outcome = self._data.draw(outcomes, label=f"{task} attempt {attempt}")
            if outcome == Success() and self._graph.downstream(task):
                outcome = Success(branch=self._data.draw(branches(self._graph, task), label=f"{task} goes on"))
            self.known[key] = outcome
        return self.known[key]


WAY = "went another way"


def branches(graph: TaskGraph, task: TaskId) -> st.SearchStrategy[Branch | None]:
    """No choice most of the time, else any."""
    downstream = graph.downstream(task)
    way = st.lists(st.sampled_from(downstream), unique=True).map(
        lambda chosen: Branch(tuple(chosen), frozenset(downstream).difference(chosen), WAY)
    )
    return st.sampled_from([None, None, way]).flatmap(lambda drawn: st.none() if drawn is None else drawn)


# The oracle.

NO_BRANCHES: Mapping[TaskId, Branch] = MappingProxyType({})


def predict(
    graph: TaskGraph,
    outcome: Callable[[TaskId, int], Outcome],
    restored: Iterable[TaskId] = (),
    refused: Iterable[TaskId] = (),
    chosen: Mapping[TaskId, Branch] = NO_BRANCHES,
) -> dict[TaskId, TaskState]:
    """The end of every task of a run that nobody stops."""
    given = {**dict.fromkeys(restored, "reuse"), **dict.fromkeys(refused, "block")}
    ends: dict[TaskId, TaskState] = {}
    ways = {name: branch for name, branch in chosen.items() if given.get(name) == "reuse"}
    for name in TopologicalSorter({task.id: task.needs for task in graph}).static_order():
        fate = given.get(name) or rule_says(graph[name].when, seen_by(graph[name], ends, ways))
        if fate in _FATES:
            ends[name] = _FATES[fate]
            continue
        end = _try_out(graph[name], outcome)
        ends[name] = end_of(end)
        if isinstance(end, Success) and end.branch is not None:
            ways[name] = end.branch
    return ends


def seen_by(task: Task, ends: Mapping[TaskId, TaskState], ways: Mapping[TaskId, Branch]) -> list[TaskState]:
    """How the upstreams of *task* have ended, for it: those that went another way have left it out."""
    gone = {name for name, branch in ways.items() if task.id in branch.closed}
    return [TaskState.SKIPPED if need in gone else ends[need] for need in task.needs]


_FATES = {"reuse": TaskState.REUSED, "block": TaskState.BLOCKED, "skip": TaskState.SKIPPED}


def rule_says(when: Trigger, ends: list[TaskState]) -> str:
    """DESIGN.md's trigger rules, in the longest way they can be put."""
    count = Counter(_KIND[state] for state in ends)
    if when in {Trigger.ALL_DONE, Trigger.ALWAYS}:
        return "run"
    if when is Trigger.ANY_FAILED:
        return "run" if count["bad"] > 0 else "skip"
    if when is Trigger.ANY_SUCCESS and (count["good"] > 0 or not ends):
        return "run"
    if when is Trigger.ALL_SUCCESS and count["good"] == len(ends):
        return "run"
    return "block" if count["bad"] > 0 else "skip"


_KIND = {
    TaskState.SUCCESS: "good",
    TaskState.REUSED: "good",
    TaskState.SKIPPED: "left out",
    TaskState.FAILED: "bad",
    TaskState.TIMED_OUT: "bad",
    TaskState.CRASHED: "bad",
    TaskState.INTERRUPTED: "bad",
    TaskState.BLOCKED: "bad",
}


def _try_out(task: Task, outcome: Callable[[TaskId, int], Outcome]) -> Outcome:
    attempt = 1
    while is_tried_again(task.retry, attempt, end := outcome(task.id, attempt)):
        attempt += 1
    return end


def is_tried_again(retry: RetryPolicy, attempt: int, end: Outcome) -> bool:
    """Whether an attempt follows the one that has ended so, as DESIGN.md has it."""
    if isinstance(end, Success | Skipped) or attempt > retry.max_retries:
        return False
    if isinstance(end, Failure) and (end.expected or end.kind is FailureKind.INTERRUPTED):
        return False
    alone = [end.mro] if isinstance(end, Failure) else [()]
    members = list(end.members) if isinstance(end, Failure) else []
    if any(name in classes for classes in alone + members for name in retry.not_on):
        return False
    if not retry.on or any(name in alone[0] for name in retry.on):
        return True
    return members != [] and all(any(name in classes for name in retry.on) for classes in members)


def end_of(end: Outcome) -> TaskState:
    if isinstance(end, Failure):
        return {
            FailureKind.ERROR: TaskState.FAILED,
            FailureKind.TIMED_OUT: TaskState.TIMED_OUT,
            FailureKind.CRASHED: TaskState.CRASHED,
            FailureKind.INTERRUPTED: TaskState.INTERRUPTED,
        }[end.kind]
    return {Success: TaskState.SUCCESS, Skipped: TaskState.SKIPPED, Lost: TaskState.CRASHED}[type(end)]
