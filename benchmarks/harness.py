"""What all benchmarks share: processes measured in turns, medians of ratios, one table.

A number of seconds says something about one machine on one day. A ratio of two things measured in turns, in one run,
says something about the program: whatever else the machine does falls on both sides. Every round runs each variant
once, in an order that is reversed from round to round; a ratio is taken within a round, and the median of the rounds
counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: ``wall`` and ``cpu`` seconds (itself and its children), ``memory`` in MiB at its peak."""

    wall: float
    cpu: float
    memory: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result: the median over the rounds, their lowest and highest, and the most it may be.

    With ``least`` the budget is the least it may be: a share of what is possible.
    """

    what: str
    median: float
    low: float
    high: float
    budget: float | None = None
    unit: str = "x"
    least: bool = False

    @property
    def within_budget(self) -> bool | None:
        """Whether the median is within the budget; None without one."""
        if self.budget is None:
            return None
        return self.median >= self.budget if self.least else self.median <= self.budget


def row(
    what: str, values: Iterable[float], budget: float | None = None, unit: str = "x", *, least: bool = False
) -> Row:
    """Return the row for what was measured once a round."""
    numbers = sorted(values)
    return Row(what, statistics.median(numbers), numbers[0], numbers[-1], budget, unit, least)


# Measuring.


def pytest_command(*arguments: str, plugins: Iterable[str] = ()) -> list[str]:
    """Return the command for a quiet pytest with *plugins* and no others."""
    named = [part for plugin in (*plugins, "no:cacheprovider") for part in ("-p", plugin)]
    return [sys.executable, "-m", "pytest", "-q", *named, *arguments]


#: The plugins that pytest-flowforge brings along, as pytest would load them.
DEPENDENCIES = ("xdist.plugin", "pytest_timeout")

#: These and pytest-flowforge itself.
EVERYTHING = (*DEPENDENCIES, "pytest_flowforge.plugin")


def process(command: Sequence[str], folder: Path, expect: str = "") -> Cost:
    """Run *command* in *folder* and return its cost; exit with its output unless it succeeds and prints *expect*.

    The peak of memory can not be seen below that of this process at the moment of the fork, a few dozen MiB.
    """
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        # Not child.wait(): only wait4 tells what this child has used.
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if child.returncode != 0 or expect not in text:
        sys.exit(
            f"{' '.join(command)}\nexited with {child.returncode}; expected {expect!r} in its output:\n{text[-4000:]}"
        )
    # Linux counts kilobytes, macOS bytes.
    scale = _MIB if sys.platform == "darwin" else 1024
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def _environment() -> dict[str, str]:
    """The environment without whatever else would change what Python and pytest do."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "FLOWFORGE", "PYT"))}
    return kept | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(REPOSITORY),
        # Sets and dicts of strings are then laid out alike in every process.
        "PYTHONHASHSEED": "0",
    }


Measured = TypeVar("Measured")


def interleave(variants: Mapping[str, Callable[[], Measured]], rounds: int) -> list[dict[str, Measured]]:
    """Measure all *variants* in turns and return, for each round, what each took.

    One more round comes first and is thrown away: it compiles what is imported and fills the caches.
    """
    results = []
    for number in range(rounds + 1):
        names = list(variants)[:: 1 if number % 2 else -1]
        _progress(f"round {number} of {rounds}" if number else "warming up")
        results.append({name: variants[name]() for name in names})
    _progress("")
    return results[1:]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def workspace(files: Mapping[str, str]) -> Iterator[Path]:
    """A folder with *files* and an empty pytest.ini, removed in the end."""
    with tempfile.TemporaryDirectory(prefix="flowforge-bench-") as name:
        folder = Path(name)
        for file, text in {"pytest.ini": "[pytest]\n", **files}.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        yield folder


# The command line, and the result.


def arguments(description: str | None, rounds: int) -> argparse.Namespace:
    """Read the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"rounds to measure (default {rounds})")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--enforce", action="store_true", help="exit with 1 if a budget is exceeded")
    return parser.parse_args()


def finish(title: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print *rows*; exit with 1 where that was asked for and a budget is exceeded."""
    if options.json:
        listing = [asdict(row) | {"within_budget": row.within_budget} for row in rows]
        print(json.dumps({"title": title, "machine": _machine(), "rounds": options.rounds, "rows": listing}, indent=2))
    else:
        print(f"{title} ({_machine()}; {options.rounds} rounds)")
        print("\n".join(_table(rows)))
    if options.enforce and any(row.within_budget is False for row in rows):
        sys.exit(1)


def _machine() -> str:
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    width = max(len(row.what) for row in rows)
    yield f"  {'':{width}}   median   lowest  highest   budget"
    for line in rows:
        numbers = "".join(f" {_number(value, line.unit):>8}" for value in (line.median, line.low, line.high))
        most = "" if line.budget is None else f"{'>= ' if line.least else ''}{_number(line.budget, line.unit)}"
        budget = f" {most:>8}" if most else ""
        verdict = {None: "", True: "  ok", False: "  MISSED" if line.least else "  EXCEEDED"}[line.within_budget]
        yield f"  {line.what:{width}}{numbers}{budget}{verdict}"


def _number(value: float, unit: str) -> str:
    return f"{value:.3f}" if unit == "x" else f"{value:.2f} {unit}"
