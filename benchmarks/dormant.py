"""An ordinary test suite, with the plugin installed but not asked for, against the same without it."""

from __future__ import annotations

from functools import partial

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

COUNT = 2_000

_PRELUDE = """\
import pytest

@pytest.fixture(scope="module")
def numbers():
    return list(range(10))

@pytest.fixture
def total(numbers):
    yield sum(numbers)
"""


def _tests(count: int) -> str:
    tests = [
        f"@pytest.mark.parametrize('factor', [1, 2, 3, 4])\n"
        f"def test_{number}(total, factor):\n"
        f"    assert total * factor\n"
        for number in range(count // 4)
    ]
    return "\n\n".join([_PRELUDE, *tests])


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=15)
    with workspace({"test_few.py": _tests(4), "test_many.py": _tests(COUNT)}) as folder:
        variants = {
            (file, name): partial(process, pytest_command(file, plugins=plugins), folder, f"{count} passed")
            for file, count in (("test_few.py", 4), ("test_many.py", COUNT))
            for name, plugins in (("with", EVERYTHING), ("without", DEPENDENCIES), ("bare", ()))
        }
        rounds = interleave({" ".join(key): run for key, run in variants.items()}, options.rounds)
    few, many = (
        {name: f"{file} {name}" for name in ("with", "without", "bare")} for file in ("test_few.py", "test_many.py")
    )
    rows = [
        row("start-up", (one[few["with"]].wall / one[few["without"]].wall for one in rounds), budget=1.02),
        row("start-up, processor time", (one[few["with"]].cpu / one[few["without"]].cpu for one in rounds)),
        row(f"{COUNT:,} tests", (one[many["with"]].wall / one[many["without"]].wall for one in rounds), budget=1.02),
        row(f"{COUNT:,} tests, processor time", (one[many["with"]].cpu / one[many["without"]].cpu for one in rounds)),
        row(
            "a test, without start-up, processor time",
            (
                (one[many["with"]].cpu - one[few["with"]].cpu) / (one[many["without"]].cpu - one[few["without"]].cpu)
                for one in rounds
            ),
            budget=1.02,
        ),
        # pytest-xdist and pytest-timeout come along with pytest-flowforge: what if neither was there?
        row("start-up / pytest without any plugin", (one[few["with"]].wall / one[few["bare"]].wall for one in rounds)),
        row(
            f"{COUNT:,} tests / without any plugin", (one[many["with"]].wall / one[many["bare"]].wall for one in rounds)
        ),
    ]
    finish("Installed but dormant", rows, options)


if __name__ == "__main__":
    main()
