"""10,000 tasks that do nothing, with a checkpoint, against plain pytest on the same functions named as tests."""

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

COUNT = 10_000


def _functions(prefix: str) -> str:
    return "\n\n".join(f"def {prefix}_{number}():\n    pass\n" for number in range(COUNT))


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    with workspace({"test_many.py": _functions("test"), "flow_many.py": _functions("flow")}) as folder:
        flows = pytest_command("--flowforge", "flow_many.py", "--ff-checkpoint", "kept", plugins=EVERYTHING)
        run = partial(process, folder=folder, expect=f"{COUNT} passed")
        rounds = interleave(
            {
                "flows": partial(run, flows),
                "tests": partial(run, pytest_command("test_many.py", plugins=DEPENDENCIES)),
                "bare": partial(run, pytest_command("test_many.py")),
            },
            options.rounds,
        )
    rows = [
        row("time: flows / tests", (one["flows"].wall / one["tests"].wall for one in rounds), budget=1.10),
        row("peak memory: flows / tests", (one["flows"].memory / one["tests"].memory for one in rounds), budget=1.20),
        row("processor time: flows / tests", (one["flows"].cpu / one["tests"].cpu for one in rounds)),
        # pytest-xdist and pytest-timeout come along with pytest-flowforge: what if neither was there?
        row("time: flows / tests without any plugin", (one["flows"].wall / one["bare"].wall for one in rounds)),
        row("memory: flows / tests without any plugin", (one["flows"].memory / one["bare"].memory for one in rounds)),
        row("a task", (one["flows"].wall / COUNT * 1e6 for one in rounds), unit="us"),
    ]
    finish(f"{COUNT:,} tasks that do nothing", rows, options)


if __name__ == "__main__":
    main()
