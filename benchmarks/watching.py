"""10,000 tasks that do nothing, with everybody listening who can, against the same with nobody."""

from __future__ import annotations

from functools import partial

from benchmarks.harness import EVERYTHING, Cost, arguments, finish, interleave, process, pytest_command, row, workspace

COUNT = 10_000

_CONFTEST = """
seen = []


def pytest_flowforge_task_started(task, attempt):
    seen.append(task.id)


def pytest_flowforge_task_finished(task, result):
    seen.append(result.state)
"""

_ALL = (
    ("--ff-events", "events.jsonl"),
    ("--ff-metrics", "metrics.json"),
    ("--ff-metrics", "metrics.prom"),
    ("--ff-report", "report.html"),
    ("--ff-graph", "graph.svg"),
)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=5)
    source = "\n\n".join(f"def flow_{number}():\n    pass\n" for number in range(COUNT))
    with workspace(
        {"quiet/flow_many.py": source, "loud/flow_many.py": source, "loud/conftest.py": _CONFTEST}
    ) as folder:

        def run(place: str, *more: str) -> Cost:
            command = pytest_command("--flowforge", "flow_many.py", "--ff-checkpoint=kept", *more, plugins=EVERYTHING)
            return process(command, folder=folder / place, expect=f"{COUNT} passed")

        every = [argument for option in _ALL for argument in option]
        rounds = interleave(
            {
                "none": partial(run, "quiet"),
                "all": partial(run, "loud", *every),
                **{name: partial(run, "quiet", name, file) for name, file in _ALL[:1] + _ALL[3:]},
            },
            options.rounds,
        )
    rows = [row("time: all listeners / none", (one["all"].wall / one["none"].wall for one in rounds), budget=1.10)]
    rows += [
        row(f"processor time: {name} / none", [one[name].cpu / one["none"].cpu for one in rounds])
        for name in ("all", "--ff-events", "--ff-report", "--ff-graph")
    ]
    finish(f"{COUNT:,} tasks that do nothing, with listeners", rows, options)


if __name__ == "__main__":
    main()
