"""Tasks that sleep, on threads and as coroutines, against what is possible.

*After collection* is from the moment at which pytest has collected, and has said so (``pytest_collection_finish``), to
the moment at which it begins to end the session (``pytest_sessionfinish``), both written down by a conftest.py.
Drawing and checking the graph, starting the threads, set-up, teardown, reports and the journal are all in between; the
start of Python, imports and collection are not. The *makespan* is narrower: from the begin of the first task to the end
of the last, as they wrote it down themselves.

*Ideal* is the time that the rounds of sleeping take: 1,000 sleeps on 64 threads are 16 rounds. What a bare
ThreadPoolExecutor makes of the same sleeps, from its first submit to its last result, shows what the machine allows.
"""

from __future__ import annotations

import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import phases, stamps
from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Row

NAP = 0.05

#: How many tasks, and on how many threads.
SLEEPERS = ((1_000, 64), (200, 16))

COROUTINES = 1_000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds after collection, and of the makespan."""

    after_collection: float
    makespan: float


def _sleepers(count: int) -> str:
    tasks = (f"def flow_{number}():\n    sleep({NAP})\n" for number in range(count))
    return "\n\n".join([stamps.PRELUDE, *tasks])


def _coroutines(count: int) -> str:
    tasks = (f"async def flow_{number}():\n    await doze(1.0)\n" for number in range(count))
    return "\n\n".join([stamps.PRELUDE, *tasks])


def _run(folder: Path, file: str, count: int, threads: int) -> Times:
    stamps.forget(folder)
    shutil.rmtree(folder / "kept", ignore_errors=True)
    options = ["--flowforge", "--ff-executor", "thread", "--ff-workers", str(threads), "--ff-checkpoint", "kept"]
    process(pytest_command(*options, file, plugins=EVERYTHING), folder, f"{count} passed")
    return Times(phases.after_collection(folder), stamps.read(folder, count).makespan)


def _bare(count: int, threads: int) -> Times:
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(time.sleep, NAP) for _ in range(count)]:
            future.result()
        took = time.perf_counter() - begin
    return Times(took, took)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    files = {f"flow_sleep_{count}.py": _sleepers(count) for count, _ in SLEEPERS}
    with workspace({"conftest.py": phases.CONFTEST, "flow_doze.py": _coroutines(COROUTINES), **files}) as folder:
        variants = {"coroutines": partial(_run, folder, "flow_doze.py", COROUTINES, COROUTINES)}
        for count, threads in SLEEPERS:
            variants[f"flow {count}"] = partial(_run, folder, f"flow_sleep_{count}.py", count, threads)
            variants[f"bare {count}"] = partial(_bare, count, threads)
        rounds = interleave(variants, options.rounds)
    rows: list[Row] = []
    for count, threads in SLEEPERS:
        ideal = math.ceil(count / threads) * NAP
        what = f"{count:,} sleeps of 50 ms on {threads} threads: ideal"
        ours = [one[f"flow {count}"] for one in rounds]
        rows += [
            row(f"{what} / after collection", (ideal / one.after_collection for one in ours), 0.90, least=True),
            row(f"{what} / makespan", (ideal / one.makespan for one in ours)),
            row(f"{what} / in a bare ThreadPoolExecutor", (ideal / one[f"bare {count}"].makespan for one in rounds)),
        ]
    coroutines = [one["coroutines"] for one in rounds]
    what = f"{COROUTINES:,} coroutines that sleep 1 s"
    rows += [
        row(f"{what}: makespan", (one.makespan for one in coroutines), unit="s"),
        row(f"{what}: after collection", (one.after_collection for one in coroutines), unit="s"),
    ]
    finish("Threads and coroutines", rows, options)


if __name__ == "__main__":
    main()
