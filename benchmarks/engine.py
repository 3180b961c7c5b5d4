"""The core alone, without pytest: microseconds a task to validate a graph and to see it through."""

from __future__ import annotations

import gc
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.harness import Row, arguments, finish, interleave, row
from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import AttemptFinished, RunStarted, StartAttempt
from pytest_flowforge.core.model import Success, Task, TaskId

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE, SMALL = 100_000, 10_000

#: What each part took, in seconds: making the graph, seeing it through.
Parts = tuple[float, float]


def _chain(count: int) -> list[Task]:
    return [Task(TaskId(str(number)), (TaskId(str(number - 1)),) if number else ()) for number in range(count)]


def _independent(count: int) -> list[Task]:
    return [Task(TaskId(str(number))) for number in range(count)]


def _fan_in(count: int) -> list[Task]:
    tasks = _independent(count - 1)
    return [*tasks, Task(TaskId("all"), tuple(task.id for task in tasks))]


_SHAPES: dict[str, Callable[[int], list[Task]]] = {"chain": _chain, "fan-in": _fan_in, "independent": _independent}


def _measure(tasks: list[Task]) -> Parts:
    gc.collect()
    begin = time.perf_counter()
    graph = TaskGraph.build(tasks)
    built = time.perf_counter()
    engine = Engine(graph, RunPolicy(slots=4))
    success = Success()
    at = 0.0
    waiting = deque(engine.handle(RunStarted(at)).commands)
    while waiting:
        command = waiting.popleft()
        if not isinstance(command, StartAttempt):
            msg = f"nothing was to be cancelled, but there is {command}"
            raise TypeError(msg)
        at += 1.0
        waiting.extend(engine.handle(AttemptFinished(command.task, command.attempt, success, at)).commands)
    end = time.perf_counter()
    if not engine.done:
        msg = "the engine wants nothing done, and is not done"
        raise RuntimeError(msg)
    return built - begin, end - built


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    variants = {
        f"{shape} {count}": partial(_measure, make(count))
        for shape, make in _SHAPES.items()
        for count in (LARGE, SMALL)
    }
    rounds = interleave(variants, options.rounds)
    rows: list[Row] = []
    for shape in _SHAPES:
        for part, what in enumerate(("validate", "run")):
            large = [one[f"{shape} {LARGE}"][part] / LARGE * 1e6 for one in rounds]
            small = [one[f"{shape} {SMALL}"][part] / SMALL * 1e6 for one in rounds]
            rows.append(row(f"{shape} of {LARGE:,}: {what}, a task", large, unit="us"))
            # Linear is not 1 here: what ten thousand tasks find in the processor's caches, and the garbage collector
            # does not look at twice, a hundred thousand do not. Quadratic would be 10.
            growth = [a / b for a, b in zip(large, small, strict=True)]
            rows.append(row(f"{shape}: {what}, a task among {LARGE:,} / among {SMALL:,}", growth, budget=3.0))
    finish("The engine without pytest", rows, options)


if __name__ == "__main__":
    main()
