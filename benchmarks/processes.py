"""What ``-n N`` costs: many tasks, hops from task to task, how busy two workers are kept, and a large array.

*A hop* and *a test* are differences: the wall time of 500 of them less that of one, by 499, so that starting two
workers and collecting are subtracted on both sides. (Both files of a pair are collected in full by every process, so
what a task costs to collect is in the difference; that, too, is the same on both sides.)

*How busy* is the makespan, from the begin of the first task to the end of the last, as the tasks write it down
themselves with ``time.time()`` (see stamps.py): the start of workers is not in it, everything between two tasks is. Two
bare processes that spin as long show what the machine allows.

*The array* takes the wall time of the run less that of the same run with an array of 8 bytes: making it, two sums of
it, storing it twice and, where it changes the worker, loading it, and whatever closing takes. It is held against one
``put`` and one ``get`` of the result store, whose format is that of the run, into a folder on the same disk. Peaks of
memory are each process' own VmHWM, written down by a conftest.py when its session ends (Linux only).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import stamps
from benchmarks.harness import (
    DEPENDENCIES,
    EVERYTHING,
    arguments,
    finish,
    interleave,
    process,
    pytest_command,
    row,
    workspace,
)
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.harness import Cost, Row

COUNT = 10_000
HOPS = 500
SPINNERS, SPIN = 200, 0.02
MEGABYTES = 500
WORKERS = 2


def _functions(prefix: str, count: int) -> str:
    return "\n\n".join(f"def {prefix}_{number}():\n    pass\n" for number in range(count))


def _chain(count: int) -> str:
    rest = (f"def flow_t{number}(t{number - 1}):\n    return t{number - 1} + 1\n" for number in range(1, count))
    return "\n\n".join(["def flow_t0():\n    return 1\n", *rest])


def _spinners() -> str:
    return "\n\n".join(
        [stamps.PRELUDE, *(f"def flow_{number}():\n    spin({SPIN})\n" for number in range(SPINNERS))],
    )


# Many tasks, and hops.


def _kept(folder: Path, file: str, count: int) -> Cost:
    """A run of two workers that keeps what it does, as it would without any option."""
    shutil.rmtree(folder / "kept", ignore_errors=True)
    options = ("--flowforge", "-n", str(WORKERS), "--ff-checkpoint", "kept", file)
    return process(pytest_command(*options, plugins=EVERYTHING), folder, f"{count} passed")


def _tests(folder: Path, file: str, count: int, workers: int) -> Cost:
    return process(pytest_command("-n", str(workers), file, plugins=DEPENDENCIES), folder, f"{count} passed")


def _tasks(rounds: int) -> list[Row]:
    files = {f"test_{count}.py": _functions("test", count) for count in (COUNT, HOPS, 1)}
    files["flow_many.py"] = _functions("flow", COUNT)
    files |= {f"flow_chain_{count}.py": _chain(count) for count in (HOPS, 1)}
    with workspace(files) as folder:
        done = interleave(
            {
                "flows": partial(_kept, folder, "flow_many.py", COUNT),
                "tests": partial(_tests, folder, f"test_{COUNT}.py", COUNT, WORKERS),
                "chain": partial(_kept, folder, f"flow_chain_{HOPS}.py", HOPS),
                "chain of one": partial(_kept, folder, "flow_chain_1.py", 1),
                "some tests": partial(_tests, folder, f"test_{HOPS}.py", HOPS, 1),
                "one test": partial(_tests, folder, "test_1.py", 1, 1),
            },
            rounds,
        )
    hops = [(one["chain"].wall - one["chain of one"].wall) / (HOPS - 1) for one in done]
    tests = [(one["some tests"].wall - one["one test"].wall) / (HOPS - 1) for one in done]
    return [
        row(f"{COUNT:,} tasks / tests, -n 2: time", (one["flows"].wall / one["tests"].wall for one in done), 1.15),
        row(f"{COUNT:,} tasks / tests, -n 2: processor", (one["flows"].cpu / one["tests"].cpu for one in done)),
        row("a hop of a chain, -n 2 / a test, -n 1", (a / b for a, b in zip(hops, tests, strict=True)), 1.5),
        row("a hop of a chain, -n 2", (seconds * 1e3 for seconds in hops), unit="ms"),
        row("a test, -n 1", (seconds * 1e3 for seconds in tests), unit="ms"),
    ]


# How busy two workers are kept.


def _spin(folder: Path) -> float:
    stamps.forget(folder)
    _kept(folder, "flow_spin.py", SPINNERS)
    return stamps.read(folder, SPINNERS).makespan


def _bare_spin(count: int) -> tuple[float, float]:
    """Spin *count* times, one after the other; return the begin and the end."""
    begun = time.time()
    for _ in range(count):
        until = time.process_time() + SPIN
        while time.process_time() < until:
            pass
    return begun, time.time()


def _bare() -> float:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        # Both are there, and have imported this, before it counts.
        pool.map(_bare_spin, [1] * WORKERS, chunksize=1)
        spans = pool.map(_bare_spin, [SPINNERS // WORKERS] * WORKERS, chunksize=1)
    return max(span[1] for span in spans) - min(span[0] for span in spans)


def _busy(rounds: int) -> list[Row]:
    with workspace({"flow_spin.py": _spinners()}) as folder:
        variants: dict[str, Callable[[], float]] = {"flows": partial(_spin, folder), "bare": _bare}
        done = interleave(variants, rounds)
    ideal = SPINNERS * SPIN / WORKERS
    what = f"{SPINNERS} tasks of 20 ms, -n 2: ideal"
    return [
        row(f"{what} / makespan", (ideal / one["flows"] for one in done), 0.92, least=True),
        row(f"{what} / two bare processes", (ideal / one["bare"] for one in done)),
        # What others take of the processors is on both sides here.
        row(f"{SPINNERS} tasks of 20 ms: two bare processes / -n 2", (one["bare"] / one["flows"] for one in done)),
    ]


# A large array.

_PEAKS = """\
import os
import re
from pathlib import Path


def pytest_unconfigure():
    text = Path("/proc/self/status").read_text()
    kibibytes = re.search(r"VmHWM:\\s+(\\d+)", text)[1]
    name = os.environ.get("PYTEST_XDIST_WORKER", "controller")
    Path(__file__).with_name(f"peak-{name}.txt").write_text(kibibytes)
"""


def _array_flow(numbers: int, *, crosses: bool) -> str:
    """An array through three tasks; with *crosses* the worker that has made it is busy until all is read."""
    holding = """
@pytest.mark.priority(1)
def flow_hold(make):
    # Who has the array in memory gets this; the second task has to load it, then.
    until = time.monotonic() + 60
    while not Path(__file__).with_name("read.txt").exists() and time.monotonic() < until:
        time.sleep(0.001)
"""
    return f"""\
import os
import time
from pathlib import Path

import numpy as np
import pytest


def note(task, begun):
    with Path(__file__).with_name("notes.txt").open("a") as file:
        file.write(f"{{task}} {{os.getpid()}} {{time.perf_counter() - begun!r}}\\n")


def flow_make():
    begun = time.perf_counter()
    array = np.arange({numbers}, dtype=np.float64)
    note("make", begun)
    return array

{holding if crosses else ""}
def flow_sum(make):
    begun = time.perf_counter()
    total = make.sum()
    note("sum", begun)
    return total, make


def flow_read(sum):
    begun = time.perf_counter()
    total, array = sum
    assert array.sum() == total
    note("read", begun)
    Path(__file__).with_name("read.txt").touch()
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """Seconds of a run and of its tasks' own work, the most memory a process had in MB, and whether it changed it."""

    wall: float
    own: float
    peaks: dict[str, float]
    crossed: bool


def _pass(folder: Path, file: str) -> Passage:
    for path in (*folder.glob("peak-*.txt"), folder / "notes.txt", folder / "read.txt"):
        path.unlink(missing_ok=True)
    _settle(folder)
    wall = _kept(folder, file, 4 if "crossing" in file else 3).wall
    notes = [line.split() for line in (folder / "notes.txt").read_text(encoding="ascii").splitlines()]
    peaks = {
        path.stem.removeprefix("peak-"): int(path.read_text(encoding="ascii")) * 1024 / 1e6
        for path in folder.glob("peak-*.txt")
    }
    workers = {task: process for task, process, _ in notes}
    return Passage(wall, sum(float(own) for *_, own in notes), peaks, workers["make"] != workers["sum"])


def _store(folder: Path) -> Passage:
    """Put the array into a new result store and get it back."""
    _settle(folder)
    array = np.arange(MEGABYTES * 1_000_000 // 8, dtype=np.float64)
    place = Place.open(folder / "store")
    store = ResultStore(place, place.new_run(time.time()))
    begin = time.perf_counter()
    again = store.get(store.put(array))
    took = time.perf_counter() - begin
    if again[-1] != array[-1]:
        sys.exit("the array came back changed")
    store.close()
    place.close()
    return Passage(took, 0.0, {}, crossed=False)


def _settle(folder: Path) -> None:
    """Remove what earlier runs have stored, and have the disk finish what it was told: it would be busy with it."""
    for name in ("kept", "store"):
        shutil.rmtree(folder / name, ignore_errors=True)
    os.sync()


def _array(rounds: int) -> list[Row]:
    large = MEGABYTES * 1_000_000 // 8
    flows = {
        f"{how} {size}": _array_flow(numbers, crosses=how == "crossing")
        for how in ("staying", "crossing")
        for size, numbers in (("large", large), ("tiny", 1))
    }
    files = {name: f"flow_{name.replace(' ', '_')}.py" for name in flows}
    with workspace({"conftest.py": _PEAKS, **{files[name]: text for name, text in flows.items()}}) as folder:
        variants = {name: partial(_pass, folder, file) for name, file in files.items()}
        done = interleave({**variants, "store": partial(_store, folder)}, rounds)
    if not all(one["crossing large"].crossed for one in done):
        sys.exit("the array has not changed the worker, and was to")
    rows: list[Row] = []
    for how in ("staying", "crossing"):
        changes = sum(one[f"{how} large"].crossed for one in done)
        what = f"500 MB, three tasks, {how} ({changes} of {rounds} crossed)"
        took = [one[f"{how} large"].wall - one[f"{how} tiny"].wall for one in done]
        once = [one["store"].wall for one in done]
        own = [one[f"{how} large"].own for one in done]
        peaks = [max(one[f"{how} large"].peaks.values()) / MEGABYTES for one in done]
        rows += [
            row(f"{what}: time / put and got once", (a / b for a, b in zip(took, once, strict=True)), 1.5),
            row(f"{what}: without their own work", ((a - c) / b for a, b, c in zip(took, once, own, strict=True))),
            row(f"{what}: highest peak / the array", peaks, 1.3),
        ]
    return [*rows, row("500 MB put and got once", (one["store"].wall for one in done), unit="s")]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    rows = [*_tasks(options.rounds), *_busy(options.rounds), *_array(options.rounds)]
    finish("Two worker processes", rows, options)


if __name__ == "__main__":
    main()
