"""Tasks on a Dask cluster of two workers with four threads each, against what Dask makes of the same.

Scheduler and workers are processes of their own, on this machine. *By hand* is a script that connects, calls
``client.submit`` for each task and gathers the results: from before it imports Dask to when it has them. It is held
against the time of a flow after collection (see phases.py), in which it imports Dask, connects, and does all that a
flow does besides.

*Ideal* is the time that the rounds of sleeping take, and for recorded workflows what ``workflows`` says.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import phases, stamps
from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace
from benchmarks.workflows import recorded_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.harness import Row

COUNT = 2_000
SLEEPERS, NAP = 200, 0.05
WORKERS, THREADS = 2, 4

_BY_HAND = """\
import sys
import time

begun = time.perf_counter()

from distributed import Client


def noop(number):
    return number


with Client(scheduler_file=sys.argv[1]) as client:
    futures = [client.submit(noop, number, pure=False) for number in range(int(sys.argv[2]))]
    assert sum(client.gather(futures)) == sum(range(int(sys.argv[2])))
    with open("by_hand.txt", "w") as file:
        file.write(repr(time.perf_counter() - begun))
"""

_NOOPS = f"""\
import pytest


@pytest.mark.parametrize("number", range({COUNT}))
def flow_noop(number):
    return number
"""


@contextmanager
def _cluster(folder: Path) -> Iterator[list[str]]:
    """Start a cluster, and yield the options that use it."""
    file = folder / "scheduler.json"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    workers = ["worker", "--scheduler-file", str(file), "--nworkers", str(WORKERS), "--nthreads", str(THREADS)]
    processes = [_started(scheduler, folder), _started([*workers, "--no-dashboard"], folder)]
    try:
        while not file.exists():
            time.sleep(0.1)
        yield ["--ff-dask-address", str(file)]
    finally:
        for one in reversed(processes):
            one.terminate()
            one.wait()


def _started(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)


def _flow(folder: Path, where: list[str], file: str, count: int) -> float:
    shutil.rmtree(folder / "kept", ignore_errors=True)
    process(
        pytest_command("--flowforge", *where, "--ff-checkpoint", "kept", file, plugins=EVERYTHING),
        folder,
        f"{count} passed",
    )
    return phases.after_collection(folder)


def _by_hand(folder: Path, where: list[str]) -> float:
    process([sys.executable, "by_hand.py", where[1], str(COUNT)], folder)
    return float((folder / "by_hand.txt").read_text(encoding="ascii"))


def _sleep(folder: Path, where: list[str]) -> float:
    stamps.forget(folder)
    _flow(folder, where, "flow_sleep.py", SLEEPERS)
    return stamps.read(folder, SLEEPERS).makespan


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=3)
    sleepers = "\n\n".join(
        [stamps.PRELUDE, *(f"def flow_{number}():\n    sleep({NAP})\n" for number in range(SLEEPERS))]
    )
    files = {"flow_noops.py": _NOOPS, "flow_sleep.py": sleepers, "by_hand.py": _BY_HAND, "conftest.py": phases.CONFTEST}
    rows: list[Row] = []
    with workspace(files) as folder, _cluster(folder) as where:
        variants = {
            "flow": partial(_flow, folder, where, "flow_noops.py", COUNT),
            "by hand": partial(_by_hand, folder, where),
            "sleep": partial(_sleep, folder, where),
        }
        done = interleave(variants, options.rounds)
        slots = WORKERS * THREADS
        what = f"{COUNT:,} tasks that do nothing"
        rows += [
            row(f"{what} / client.submit by hand", (one["flow"] / one["by hand"] for one in done), 1.5),
            row(f"{what}", (one["flow"] for one in done), unit="s"),
            row(
                f"{SLEEPERS} sleeps of 50 ms: ideal / makespan",
                (SLEEPERS * NAP / slots / one["sleep"] for one in done),
                0.85,
                least=True,
            ),
        ]
        rows += recorded_in({f"{slots} threads of a cluster": (slots, where)}, options.rounds, 0.85)
    finish("A Dask cluster: two workers with four threads each", rows, options)


if __name__ == "__main__":
    main()
