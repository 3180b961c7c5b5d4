"""10,000 tasks with three random upstreams each from the preceding hundred, against 2,500 of them: linear growth."""

from __future__ import annotations

import random
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

LARGE, SMALL = 10_000, 2_500


def _flow(count: int) -> str:
    dice = random.Random(count)  # noqa: S311 - the same graph each time is what is wanted
    tasks = []
    for number in range(count):
        preceding = range(max(0, number - 100), number)
        upstreams = [f"t{other}" for other in sorted(dice.sample(preceding, min(3, len(preceding))))]
        tasks.append(
            f"def flow_t{number}({', '.join(upstreams)}):\n    return {' + '.join(['1', *upstreams])} & 0xFFFF\n"
        )
    return "\n\n".join(tasks)


def _tests(count: int) -> str:
    return "\n\n".join(f"def test_t{number}():\n    pass\n" for number in range(count))


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    sizes = {"large": LARGE, "small": SMALL, "one": 1}
    files = {f"flow_{name}.py": _flow(count) for name, count in sizes.items()}
    files |= {f"test_{name}.py": _tests(count) for name, count in sizes.items()}
    with workspace(files) as folder:
        variants = {}
        for name, count in sizes.items():
            flow = pytest_command("--flowforge", f"flow_{name}.py", plugins=EVERYTHING)
            test = pytest_command(f"test_{name}.py", plugins=DEPENDENCIES)
            variants[f"flow {name}"] = partial(process, flow, folder, f"{count} passed")
            variants[f"test {name}"] = partial(process, test, folder, f"{count} passed")
        rounds = interleave(variants, options.rounds)

    def growth(kind: str) -> list[float]:
        """How much more a task costs among LARGE of them than among SMALL, start-up subtracted; 1 is linear."""
        return [
            (one[f"{kind} large"].wall - one[f"{kind} one"].wall)
            / LARGE
            / ((one[f"{kind} small"].wall - one[f"{kind} one"].wall) / SMALL)
            for one in rounds
        ]

    rows = [
        row(f"a task among {LARGE:,} / among {SMALL:,}", growth("flow"), budget=1.10),
        row("the same for plain tests without edges", growth("test")),
        row("time: flow / as many plain tests", (one["flow large"].wall / one["test large"].wall for one in rounds)),
        row(
            "peak memory: flow / as many plain tests",
            (one["flow large"].memory / one["test large"].memory for one in rounds),
        ),
    ]
    finish("Random graphs, three upstreams a task", rows, options)


if __name__ == "__main__":
    main()
