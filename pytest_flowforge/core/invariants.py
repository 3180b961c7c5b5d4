"""What must hold about an engine between two signals, as assertions.

They look into it and at all of its tasks: for tests, no run checks itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_flowforge.core.engine import _BAD, _NOBODY
from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.core.engine import Engine

__all__ = ["check"]


def check(engine: Engine) -> None:
    """Assert everything that must hold; the story of the task in question is the message."""
    instances = engine._instances
    queued = [engine._by_rank[rank] for rank in (*engine._ready, *engine._ready_slotless)]
    under = Counter(position for position in queued if position in instances.of)
    tasks = engine._graph.tasks
    ready = Counter(engine._graph.position(of) for one in instances.ready if (of := tasks[one].instance_of) is not None)
    assert under == ready, f"in the queue stand the instances of {under}, and ready are those of {ready}"
    queued = [position for position in queued if position not in instances.of] + list(instances.ready)
    places = [*queued, *engine._resting, *engine._running, *filter(engine._is_expanding, instances.expanding)]
    places += [position for position in [engine._held] if position != _NOBODY]
    places += [position for position, called in engine._pools.waiting.items() if not called]
    occupied = set(places)
    assert len(occupied) == len(places), f"a task is in two places at once: {sorted(places)}"
    assert not engine._commands, f"decided and not said: {engine._commands}"
    assert not engine._events, f"has happened and was not said: {engine._events}"
    for position in range(len(engine._graph)):
        _check_task(engine, position, in_place=position in occupied)
    _check_room(engine, queued)
    _check_end(engine)
    engine._pools.check(engine._running)


def _check_task(engine: Engine, position: int, *, in_place: bool) -> None:
    state = engine._states[position]
    story = _story(engine, position)
    upstream = engine._graph.upstream_positions[position]
    settled = [need for need in upstream if not engine._is_open(need)]
    assert engine._missing[position] == len(upstream) - len(settled), f"wrong count of missing upstreams; {story}"
    ends = 0
    for need in settled:
        ends |= engine._end_class(need, position)
    assert engine._ends[position] == ends, f"wrong classes of ended upstreams; {story}"
    patient = position in engine._instances.of
    hopeless = (
        not patient and engine._rules[position] is Trigger.ALL_SUCCESS and ends & _BAD and state is TaskState.PENDING
    )
    assert not hopeless or engine._abandoned[position], f"an upstream has failed, and it is not blocked; {story}"
    assert (state is TaskState.RUNNING) == (position in engine._running), f"running and not in flight; {story}"
    assert (state is TaskState.RETRYING) == (position in engine._failures), f"retrying without a failure; {story}"
    assert position not in engine._resting or state is TaskState.RETRYING, f"resting and not retrying; {story}"
    assert not engine._abandoned[position] or state is TaskState.PENDING, f"given up and not pending; {story}"
    may_go = engine._is_open(position) and engine._begun and not engine._missing[position]
    assert may_go == in_place, f"in no queue though nothing is missing, or the other way round; {story}"
    untried = state in {TaskState.PENDING, TaskState.REUSED, TaskState.BLOCKED}
    assert untried or engine._attempts[position] or position in engine._skips, f"ended without an attempt; {story}"


def _check_room(engine: Engine, queued: Sequence[int]) -> None:
    alone = [position for position in engine._running if position in engine._exclusive]
    assert not alone or len(engine._running) == 1, f"an exclusive task has company: {engine.running}"
    assert engine._alone == next(iter(alone), _NOBODY), f"alone is {engine._alone}, and what runs is {engine.running}"
    taken = sum(position not in engine._slotless for position in engine._running)
    assert engine._taken == taken, f"{taken} slots are taken and {engine._taken} are counted"
    first = engine._instances.first
    apart = engine._slotless.issuperset(first(engine._by_rank[rank]) for rank in engine._ready_slotless)
    wrong = not engine._slotless.isdisjoint(first(engine._by_rank[rank]) for rank in engine._ready)
    assert apart and not wrong, "in the wrong queue"
    if not engine._begun or alone:
        return
    startable = any(map(engine._has_room, queued))
    assert engine._held != _NOBODY or not startable, f"there is room, and {engine.peek()} could start"
    startable = engine._held != _NOBODY and not engine._running and engine._has_room(engine._held)
    assert not startable, f"nothing runs, and {engine.peek()} is not started"


def _check_end(engine: Engine) -> None:
    positions = range(len(engine._graph))
    open_tasks = any(map(engine._is_open, positions))
    assert engine._ended == (engine._begun and not open_tasks), f"ended: {engine._ended}, and open tasks: {open_tasks}"
    for position, attempt in engine._running.items():
        assert engine._attempts[position] == attempt, f"another attempt is in flight; {_story(engine, position)}"
    if engine._stop is not None and engine._begun:
        waiting = [position for position in positions if engine._is_unwanted(position)]
        assert not waiting, f"the run was stopped, and {_story(engine, waiting[0])}"


def _story(engine: Engine, position: int) -> str:
    task = engine._graph.tasks[position]
    needs = ", ".join(f"{need} {engine.state(need).value}" for need in task.needs) or "nothing"
    given_up = " and given up" if engine._abandoned[position] else ""
    return (
        f"{task.label} ({task.when.value}) is {engine._states[position].value}{given_up} after"
        f" {engine._attempts[position]} attempts, {engine._missing[position]} upstreams missing; it needs {needs}"
    )
