"""A run of 2,000 tasks that takes some seconds, with --ff-report against the same run without.

The page is written when the run begins, every now and then, and at its end. Its size is that of the last one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 2_000
THREADS = 8
#: Seconds that a task sleeps.
SLEEP = 0.04

_FLOW = f"""
import time
import pytest

NUMBERS = range({COUNT} // 4)

@pytest.mark.parametrize("number", NUMBERS)
def flow_fetch(number):
    print("a line of a log\\n" * 10)
    time.sleep({SLEEP})

@pytest.mark.parametrize("number", NUMBERS)
def flow_clean(fetch, number):
    time.sleep({SLEEP})

@pytest.mark.parametrize("number", NUMBERS)
def flow_fit(clean, number):
    time.sleep({SLEEP})

@pytest.mark.parametrize("number", NUMBERS)
def flow_score(fit, number):
    time.sleep({SLEEP})
"""


def _size(folder: Path) -> float:
    return (folder / "run.html").stat().st_size / 1e6


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    with workspace({"flow_page.py": _FLOW}) as folder:
        threads = ("--flowforge", "--ff-executor=thread", f"--ff-workers={THREADS}")
        command = partial(pytest_command, *threads, plugins=EVERYTHING)
        variants = {
            "with": partial(process, command("--ff-report=run.html"), folder, f"{COUNT} passed"),
            "without": partial(process, command(), folder, f"{COUNT} passed"),
        }
        rounds = interleave(variants, options.rounds)
        size = _size(folder)
    rows = [
        row("with a page / without", (one["with"].wall / one["without"].wall for one in rounds), budget=1.1),
        row(
            "processor time for the page, as a share of the run",
            ((one["with"].cpu - one["without"].cpu) / one["with"].wall for one in rounds),
        ),
        row("size of the page", [size], budget=3.0, unit="MB"),
    ]
    finish(f"{COUNT:,} tasks on {THREADS} threads, with a page of the run", rows, options)


if __name__ == "__main__":
    main()
