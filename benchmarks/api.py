"""Workflows in code: 10,000 tasks that do nothing, against plain pytest and dask; long chains; what importing takes.

Everything is measured as the wall time of fresh processes, and the declaration of the tasks is in it.

*Functions* are written out, one below the other, as tasks of ours and as tests of plain pytest (without any plugin). A
*loop* makes as many tasks of one function, of ours and with ``dask.delayed`` and its synchronous scheduler. *Without
start-up* is less the same with one task: importing is not in it. dask is told not to optimize the graph, which takes it
longer than all the rest, and for nothing. It neither judges a graph before it runs, nor has states, events and numbers;
it comes with ``pip install -e .[bench]``, and is left out where it is not there.

Chains are measured as in ``chain.py``: as many tasks in all, each of which passes a value on, in chains of 1,000 and of
100, without start-up.

What importing takes is the difference between processes that import pytest and ours, and those that import pytest
alone: of several processes the quickest, because whatever else the machine does takes as long as an import.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.harness import Cost, arguments, finish, interleave, process, pytest_command, row, workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.harness import Row

COUNT = 10_000

#: Processes per round for what one import takes.
TIMES = 9

#: How ours ends: what did not succeed is not counted.
_RAN = "print(sum(state.value == 'success' for state in run.states.values()), 'passed')\n"


def _functions(count: int) -> str:
    tasks = (f"@wf.task\ndef t{number}():\n    pass\n" for number in range(count))
    return "\n\n".join(
        ["from pytest_flowforge import Workflow", "wf = Workflow('many')", *tasks, f"run = wf.run()\n{_RAN}"]
    )


def _tests() -> str:
    return "\n\n".join(f"def test_{number}():\n    pass\n" for number in range(COUNT))


def _loop(count: int) -> str:
    return f"""\
from pytest_flowforge import Scheduler, Task, TaskGraph


def nothing():
    pass


run = Scheduler(TaskGraph(Task(f"t{{number}}", nothing) for number in range({count}))).run()
{_RAN}"""


def _dask(count: int) -> str:
    return f"""\
import dask


@dask.delayed(pure=False)
def nothing():
    pass


values = dask.compute(*[nothing() for _ in range({count})], scheduler="synchronous", optimize_graph=False)
print(len(values), 'passed')
"""


def _chains(length: int) -> str:
    return f"""\
from pytest_flowforge import Scheduler, Task, TaskGraph


def first():
    return 1


def following(before):
    return before + 1


graph = TaskGraph()
for number in range({COUNT}):
    if number % {length}:
        before = graph.add(Task(f"t{{number}}", following, arguments={{"before": before}}))
    else:
        before = graph.add(Task(f"t{{number}}", first))
run = Scheduler(graph).run()
assert run["t{COUNT - 1}"] == {length}
{_RAN}"""


_FILES = {
    "functions.py": _functions(COUNT),
    "test_many.py": _tests(),
    "loop.py": _loop(COUNT),
    "one.py": _loop(1),
    "dask_loop.py": _dask(COUNT),
    "dask_one.py": _dask(1),
    "long.py": _chains(1_000),
    "short.py": _chains(100),
}

_IMPORTS = {
    "pytest": "import pytest",
    "package": "import pytest, pytest_flowforge",
    # Names of the package load when they are first used: this is what a script with a workflow waits for.
    "names": "import pytest; from pytest_flowforge import Scheduler, Task, TaskGraph, Workflow, task",
}


def _quickest(measure: Callable[[], Cost]) -> Cost:
    return min((measure() for _ in range(TIMES)), key=lambda cost: cost.wall)


def _variants(folder: Path, *, with_dask: bool) -> dict[str, Callable[[], Cost]]:
    def script(file: str, count: int = COUNT) -> Callable[[], Cost]:
        return partial(process, [sys.executable, file], folder, f"{count} passed")

    variants: dict[str, Callable[[], Cost]] = {
        "functions": script("functions.py"),
        "tests": partial(process, pytest_command("test_many.py"), folder, f"{COUNT} passed"),
        "loop": script("loop.py"),
        "one": script("one.py", 1),
        "long": script("long.py"),
        "short": script("short.py"),
    }
    if with_dask:
        variants |= {"dask": script("dask_loop.py"), "dask, one": script("dask_one.py", 1)}
    for name, code in _IMPORTS.items():
        variants[f"import {name}"] = partial(_quickest, partial(process, [sys.executable, "-c", code], folder))
    return variants


def _rows(rounds: list[dict[str, Cost]]) -> list[Row]:
    walls = [{name: cost.wall for name, cost in one.items()} for one in rounds]
    rows = [
        row("time: functions / tests of plain pytest", (one["functions"] / one["tests"] for one in walls), budget=0.25),
        row("time: loop / tests of plain pytest", (one["loop"] / one["tests"] for one in walls)),
        row(
            "peak memory: functions / tests of plain pytest",
            (one["functions"].memory / one["tests"].memory for one in rounds),
        ),
        row("a task, written as a function", (one["functions"] / COUNT * 1e6 for one in walls), unit="us"),
        row("a task, made in a loop", ((one["loop"] - one["one"]) / COUNT * 1e6 for one in walls), unit="us"),
    ]
    if "dask" in walls[0]:
        rows += [
            row("time: loop / dask, all in all", (one["loop"] / one["dask"] for one in walls), budget=3.0),
            row(
                "time: loop / dask, without start-up",
                ((one["loop"] - one["one"]) / (one["dask"] - one["dask, one"]) for one in walls),
                budget=3.0,
            ),
        ]
    return [
        *rows,
        row(
            "a task in chains of 1,000 / of 100",
            ((one["long"] - one["one"]) / (one["short"] - one["one"]) for one in walls),
            budget=1.10,
        ),
        *(
            row(
                f"importing {what} besides pytest",
                ((one[f"import {name}"] - one["import pytest"]) * 1e3 for one in walls),
                budget=60,
                unit="ms",
            )
            for name, what in (("package", "pytest_flowforge"), ("names", "what workflows in code need"))
        ),
    ]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    with_dask = find_spec("dask") is not None
    if not with_dask:
        print("left out: dask, which comes with pip install -e .[bench]")
    with workspace(_FILES) as folder:
        rounds = interleave(_variants(folder, with_dask=with_dask), options.rounds)
    other = f"dask {version('dask')}" if with_dask else "without dask"
    finish(f"{COUNT:,} tasks in code that do nothing; {other}", _rows(rounds), options)


if __name__ == "__main__":
    main()
