"""What marks cost, what tasks cost that wait for their next attempt, and one task for each of 10,000 elements.

10,000 tasks that do nothing, each with a retry, a pool and a timeout mark, against the same without. 1,000 tasks that
fail once and wait in back-off all at the same time: a conftest.py notes the processor time and the threads of the run
when the last of them begins to wait, and when the first begins again. One mapped task with 10,000 elements against as
many parameter sets.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 10_000

WAITING = 1_000

#: Seconds that they wait; the last must begin to wait before the first has waited enough.
DELAY = 8.0

_MARKS = '@pytest.mark.retry(2, delay=1)\n@pytest.mark.pool("gpu")\n@pytest.mark.timeout(60)\n'

_MARKED = ("--ff-pool", "gpu=4")

_CONFTEST = f"""\
import json
import threading
import time
from pathlib import Path

WAITING = []


def _note(what):
    facts = {{"wall": time.monotonic(), "cpu": time.process_time(), "threads": threading.active_count()}}
    Path(__file__).with_name(what).write_text(json.dumps(facts))


def pytest_flowforge_task_retrying(task):
    WAITING.append(task.id)
    if len(WAITING) == {WAITING}:
        _note("all_wait.json")


def pytest_flowforge_task_started(task, attempt):
    if attempt == 2 and WAITING:
        assert len(WAITING) == {WAITING}, "the first one begins again before the last one waits: DELAY is too short"
        _note("first_again.json")
        WAITING.clear()
"""

_FAIL_ONCE = f"""\
import pytest

TRIED = set()


@pytest.mark.retry(1, delay={DELAY})
@pytest.mark.parametrize("number", range({WAITING}))
def flow_wait(number):
    if number not in TRIED:
        TRIED.add(number)
        raise ConnectionError
"""

_MAPPED = f"""\
import pytest


def flow_numbers():
    return list(range({COUNT}))


@pytest.mark.map("numbers")
def flow_each(numbers):
    return numbers
"""

_PARAMETRIZED = f"""\
import pytest


@pytest.mark.parametrize("numbers", range({COUNT}))
def flow_each(numbers):
    return numbers
"""


def _functions(marks: str) -> str:
    return "\n\n".join(["import pytest\n", *(f"{marks}def flow_{number}():\n    pass\n" for number in range(COUNT))])


def _wait(folder: Path, *options: str) -> dict[str, float]:
    """Run those that wait; return what has happened between the begin of the last wait and the end of the first."""
    command = pytest_command("--flowforge", "flow_wait.py", "--tb=no", *options, plugins=EVERYTHING)
    process(command, folder=folder / "waiting", expect=f"{WAITING} passed")
    begin, end = (json.loads((folder / "waiting" / name).read_text()) for name in ("all_wait.json", "first_again.json"))
    return {"wall": end["wall"] - begin["wall"], "cpu": end["cpu"] - begin["cpu"], "threads": begin["threads"]}


def _run(folder: Path, file: str, count: int, *options: str) -> float:
    shutil.rmtree(folder / "kept", ignore_errors=True)
    command = pytest_command("--flowforge", file, "--ff-checkpoint", "kept", *options, plugins=EVERYTHING)
    return process(command, folder=folder, expect=f"{count} passed").wall


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=3)
    files = {
        "flow_marked.py": _functions(_MARKS),
        "flow_plain.py": _functions(""),
        "flow_mapped.py": _MAPPED,
        "flow_parametrized.py": _PARAMETRIZED,
        "waiting/flow_wait.py": _FAIL_ONCE,
        "waiting/conftest.py": _CONFTEST,
    }
    with workspace(files) as folder:
        run = partial(_run, folder)
        rounds = interleave(
            {
                "marked": partial(run, "flow_marked.py", COUNT, *_MARKED),
                "plain": partial(run, "flow_plain.py", COUNT),
                "mapped": partial(run, "flow_mapped.py", COUNT + 1),
                "parametrized": partial(run, "flow_parametrized.py", COUNT),
            },
            options.rounds,
        )
        waits = interleave(
            {
                "local": partial(_wait, folder),
                "thread": partial(_wait, folder, "--ff-executor", "thread", "--ff-workers", "4"),
            },
            options.rounds,
        )
    rows = [
        row("time: with marks / without", (one["marked"] / one["plain"] for one in rounds), budget=1.10),
        row("time: mapped / parametrized", (one["mapped"] / one["parametrized"] for one in rounds)),
    ]
    for name in ("local", "thread"):
        rows += [
            row(
                f"{name}: processor time of a wait / its time", (one[name]["cpu"] / one[name]["wall"] for one in waits)
            ),
            row(f"{name}: threads while all wait", (one[name]["threads"] for one in waits), unit=""),
        ]
    finish(f"{COUNT:,} tasks with marks, and {WAITING:,} that wait", rows, options)


if __name__ == "__main__":
    main()
