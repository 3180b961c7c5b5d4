"""Recorded workflows, their tasks asleep for a share of the time they once took, against an ideal run of each.

*Ideal* is a simulation without any overhead (:func:`ideal`): whenever a slot is free it starts the ready task with the
longest remaining path, by the weights that the run could know, ties by declaration. In a first run every task weighs 1;
in a second one, in the same checkpoint folder, a task weighs what it really takes. How long tasks take in the
simulation is the same in both, and real. That is a rule and no optimum: a run that measures durations a little
otherwise breaks near ties otherwise, and its makespan may be shorter than the ideal, or longer, without any merit or
fault of the executor. (1000genome on 16 threads: with weights that are up to 3 ms off, the simulation itself takes
between 0.93 and 1.00 of the ideal; epigenomics on 2 processes: between 0.99 and 1.02. The others: within 0.6 %.)

The *makespan* is the time from the begin of the first task to the end of the last, as they write it down themselves:
start-up, collection and the start of workers are not in it. (Workers become ready one after the other; a first task
that begins before the second worker is there is in the makespan, and so is the wait.)

The workflows are WfFormat files (https://wfcommons.org) in the folder FLOWFORGE_WFINSTANCES, else in
../shared/data/wfinstances beside the repository. Each is scaled so that the ideal takes SECONDS.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import stamps
from benchmarks.harness import (
    EVERYTHING,
    REPOSITORY,
    arguments,
    finish,
    interleave,
    process,
    pytest_command,
    row,
    workspace,
)
from tests.wfformat import identifiers, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.harness import Row
    from tests.wfformat import Workflow

#: What the ideal second run is to take.
SECONDS = 3.5

#: Where tasks run, how many at a time, and what is said on the command line.
PLACES = {
    "16 threads": (16, ("--ff-executor", "thread", "--ff-workers", "16")),
    "2 processes": (2, ("-n", "2")),
}


def folder_of_recorded() -> Path:
    """Return where recorded workflows are to be."""
    given = os.environ.get("FLOWFORGE_WFINSTANCES")
    return Path(given) if given else REPOSITORY.parent / "shared" / "data" / "wfinstances"


def find() -> list[Workflow]:
    """Return the recorded workflows that are there."""
    return [read(path) for path in sorted(folder_of_recorded().glob("*.json"))]


# The ideal.


def ideal(workflow: Workflow, slots: int, weights: Sequence[float]) -> float:
    """Return the makespan of *workflow* in recorded seconds when nothing but its tasks takes time.

    *weights* are those of the tasks, in their order, by which the longest remaining path is found.
    """
    tasks = workflow.tasks
    position = {task.id: number for number, task in enumerate(tasks)}
    missing = [len(task.parents) for task in tasks]
    children: list[list[int]] = [[] for _ in tasks]
    for number, task in enumerate(tasks):
        for parent in task.parents:
            children[position[parent]].append(number)
    paths = _remaining(children, missing, weights)
    ready = [(-paths[number], number) for number, count in enumerate(missing) if not count]
    ready.sort()
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            _, number = heappop(ready)
            heappush(running, (now + tasks[number].seconds, number))
        now = running[0][0]
        # All that ends now has ended before anything is chosen.
        while running and running[0][0] == now:
            for child in children[heappop(running)[1]]:
                missing[child] -= 1
                if not missing[child]:
                    heappush(ready, (-paths[child], child))
    return now


def _remaining(children: Sequence[Sequence[int]], missing: Sequence[int], weights: Sequence[float]) -> list[float]:
    """Return the weight of the heaviest path that begins at each task."""
    left = list(missing)
    order = [number for number, count in enumerate(left) if not count]
    for number in order:
        for child in children[number]:
            left[child] -= 1
            if not left[child]:
                order.append(child)
    paths = [0.0] * len(weights)
    for number in reversed(order):
        paths[number] = weights[number] + max((paths[child] for child in children[number]), default=0.0)
    return paths


# Flows.


def flow(workflow: Workflow, scale: float) -> str:
    """Return a flow file in which every task of *workflow* sleeps *scale* of its time and takes its parents' values."""
    names = identifiers(task.id for task in workflow.tasks)
    tasks = []
    for task in workflow.tasks:
        parents = ", ".join(names[parent] for parent in task.parents)
        tasks.append(f"def flow_{names[task.id]}({parents}):\n    sleep({task.seconds * scale!r})\n    return 1\n")
    return "\n\n".join([stamps.PRELUDE, *tasks])


@dataclass(frozen=True, slots=True)
class Case:
    """A workflow in a place: its file, its scale, and its ideal makespans in seconds, first run and second."""

    workflow: Workflow
    place: str
    file: str
    scale: float
    ideals: tuple[float, float]

    @classmethod
    def of(cls, workflow: Workflow, place: str, slots: int) -> Case:
        """Return *workflow* in a place where so many tasks run at a time."""
        first = ideal(workflow, slots, [1.0] * len(workflow.tasks))
        second = ideal(workflow, slots, [task.seconds for task in workflow.tasks])
        scale = SECONDS / second
        name = workflow.name.partition("-")[0]
        return cls(workflow, place, f"flow_{name}_{slots}.py", scale, (first * scale, second * scale))


def _makespans(folder: Path, case: Case, where: Sequence[str]) -> tuple[float, float]:
    """Run twice, *where* the command line says; return the makespan with durations unknown, and with them known."""
    shutil.rmtree(folder / "kept", ignore_errors=True)
    count = len(case.workflow.tasks)
    command = pytest_command("--flowforge", *where, "--ff-checkpoint", "kept", case.file, plugins=EVERYTHING)

    def once() -> float:
        stamps.forget(folder)
        process(command, folder, f"{count} passed")
        return stamps.read(folder, count).makespan

    return once(), once()


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=3)
    rows = recorded_in(PLACES, options.rounds, 0.92)
    if rows:
        finish("Recorded workflows: ideal makespan / makespan", rows, options)


def recorded_in(places: Mapping[str, tuple[int, Sequence[str]]], rounds: int, budget: float) -> list[Row]:
    """Measure all recorded workflows in these places; nothing, and that is said, where there are none."""
    recorded = find()
    if not recorded:
        where = folder_of_recorded()
        print(f"skipped: no recorded workflows in {where}; set FLOWFORGE_WFINSTANCES to a folder of WfFormat files")
        return []
    found = (Case.of(one, place, slots) for place, (slots, _) in places.items() for one in recorded)
    cases = {case.file: case for case in found}
    with workspace({case.file: flow(case.workflow, case.scale) for case in cases.values()}) as folder:
        variants: dict[str, Callable[[], tuple[float, float]]] = {
            name: partial(_makespans, folder, case, places[case.place][1]) for name, case in cases.items()
        }
        done = interleave(variants, rounds)
    rows: list[Row] = []
    for name, case in cases.items():
        for at, which in enumerate(("first", "second")):
            what = f"{case.workflow.name.partition('-')[0]}, {case.place}, {which} run ({case.ideals[at]:.2f} s)"
            rows.append(row(what, (case.ideals[at] / one[name][at] for one in done), budget, least=True))
    return rows


if __name__ == "__main__":
    main()
