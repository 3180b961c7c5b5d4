"""Chains of 1,000 tasks that pass a value on, against ten times as many chains of 100."""

from __future__ import annotations

from functools import partial

from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace

COUNT = 5_000


def _chains(length: int) -> str:
    """COUNT tasks in chains of *length*: both files hold equally much to collect."""
    tasks = []
    for number in range(COUNT):
        before = "" if number % length == 0 else f"t{number - 1}"
        tasks.append(f"def flow_t{number}({before}):\n    return {before or 0} + 1\n")
    return "\n\n".join(tasks)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=7)
    with workspace({"flow_long.py": _chains(1_000), "flow_short.py": _chains(100)}) as folder:
        variants = {}
        for name in ("long", "short"):
            command = partial(pytest_command, "--flowforge", f"flow_{name}.py", plugins=EVERYTHING)
            variants[f"run {name}"] = partial(process, command(), folder, f"{COUNT} passed")
            # What is needed to know the graph: start-up, collection, validation.
            variants[f"collect {name}"] = partial(process, command("--ff-validate"), folder)
        rounds = interleave(variants, options.rounds)
    rows = [
        row(
            "running a task, in chains of 1,000 / of 100",
            (
                (one["run long"].wall - one["collect long"].wall) / (one["run short"].wall - one["collect short"].wall)
                for one in rounds
            ),
            budget=1.05,
        ),
        row("all of it, in chains of 1,000 / of 100", (one["run long"].wall / one["run short"].wall for one in rounds)),
        row(
            "collecting, in chains of 1,000 / of 100",
            (one["collect long"].wall / one["collect short"].wall for one in rounds),
        ),
        row(
            "running a task",
            ((one["run long"].wall - one["collect long"].wall) / COUNT * 1e6 for one in rounds),
            unit="us",
        ),
    ]
    finish(f"{COUNT:,} tasks in chains that pass a value", rows, options)


if __name__ == "__main__":
    main()
