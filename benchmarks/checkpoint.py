"""What keeping runs costs: journal and results of 10,000 tasks, the decision of a resume, a large array."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import (
    EVERYTHING,
    Row,
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

    from benchmarks.harness import Cost
    from pytest_flowforge.core.records import ResultRef

COUNT = 10_000
MEGABYTES = 500

FLOW = "\n\n".join(f"def flow_{number}():\n    return {{'number': {number}}}\n" for number in range(COUNT))


def _tasks(folder: Path, rounds: int) -> tuple[list[Row], int]:
    """Ten thousand tasks with and without a checkpoint; and how many bytes a journal has."""
    run = partial(process, folder=folder)
    command = partial(pytest_command, "--flowforge", "flow_many.py", plugins=EVERYTHING)

    def kept() -> Cost:
        shutil.rmtree(folder / "kept", ignore_errors=True)
        return run([*command(), "--ff-checkpoint", "kept"], expect=f"{COUNT} passed")

    variants: dict[str, Callable[[], Cost]] = {
        "kept": kept,
        "not kept": partial(run, command(), expect=f"{COUNT} passed"),
        "collected": partial(run, [*command(), "--collect-only", "-qq"], expect=f"{COUNT}"),
        "decided": partial(
            run, [*command(), "--ff-checkpoint", "kept", "--ff-resume", "--ff-dry-run", "-qq"], expect="reuse"
        ),
        "resumed": partial(run, [*command(), "--ff-checkpoint", "kept", "--ff-resume"], expect=f"{COUNT} reused"),
    }
    # So that there is something to resume from in the first round, too.
    kept()
    done = interleave(variants, rounds)
    rows = [
        row("time: kept / not kept", (one["kept"].wall / one["not kept"].wall for one in done), budget=1.05),
        row("peak memory: kept / not kept", (one["kept"].memory / one["not kept"].memory for one in done)),
        row(
            "to decide a resume, over collection",
            (one["decided"].wall - one["collected"].wall for one in done),
            budget=0.5,
            unit="s",
        ),
        row("a resume with nothing to do, all in all", (one["resumed"].wall for one in done), unit="s"),
    ]
    size = max(path.stat().st_size for path in (folder / "kept").rglob("journal.jsonl"))
    return rows, size


def _array(folder: Path, rounds: int) -> list[Row]:
    """A large array, stored and loaded, against its bytes written and read."""
    array = np.random.default_rng(0).random(MEGABYTES << 17)
    place = Place.open(folder / "array")
    store = ResultStore(place, place.new_run(time.time()))
    path = folder / "array.bin"
    refs: list[ResultRef] = []

    def timed(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            rest = array.data.cast("B")
            while rest:
                rest = rest[file.write(rest) :]
            os.fdatasync(file.fileno())

    def read() -> None:
        into = bytearray(array.nbytes)
        with path.open("rb", buffering=0) as file:
            view = memoryview(into)
            while view:
                view = view[file.readinto(view) or 0 :]

    def check() -> None:
        value = store.get(refs[-1])
        if value[-1] != array[-1]:
            msg = "the array came back changed"
            raise SystemExit(msg)

    # What is read and loaded has to be there in the first round.
    write()
    refs.append(store.put(array))
    done = interleave(
        {
            "written": partial(timed, write),
            "stored": partial(timed, lambda: refs.append(store.put(array))),
            "read": partial(timed, read),
            "loaded": partial(timed, check),
        },
        rounds,
    )
    store.close()
    stored = (one["stored"] / one["written"] for one in done)
    loaded = (one["loaded"] / one["read"] for one in done)
    return [
        row("time: a 500 MB array stored / its bytes written", stored, budget=1 / 0.6),
        row("time: a 500 MB array loaded / its bytes read", loaded, budget=1 / 0.6),
    ]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    with workspace({"flow_many.py": FLOW}) as folder:
        rows, size = _tasks(folder, options.rounds)
        rows.append(Row("a journal of 10,000 tasks", size / 1e6, size / 1e6, size / 1e6, 10.0, "MB"))
        rows += _array(folder, options.rounds)
    finish("Keeping runs", rows, options)


if __name__ == "__main__":
    main()
