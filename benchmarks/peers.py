"""The same graphs with other tools, sixteen tasks at a time on threads: pytask, dask and concurrent.futures.

Each tool runs in a process of its own, with the graph written as a user of it would write it: functions that take what
their upstreams return. *All in all* is the wall time of the process. *Without start-up* is that less the wall time of
the same tool with a graph of one task: importing the tool and starting it is not in it, collecting the graph is.

pytask is given a higher limit of recursion than Python's own, without which it does not get through the chain.

What is alike: nothing is remembered from earlier runs (pytask is told to run all with ``--force``). What is not: pytest
and pytask set up, capture output and report for each task, and keep what has happened on disk; dask and
concurrent.futures do nothing of the kind.

The others come with ``pip install -e .[bench]``, and are left out, with a sentence, where they are not there.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.harness import EVERYTHING, arguments, finish, interleave, process, pytest_command, row, workspace
from benchmarks.workflows import Case, find
from tests.wfformat import identifiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from benchmarks.harness import Cost, Row

SLOTS = 16

#: The recorded workflow, by the beginning of its name.
RECORDED = "montage"


@dataclass(frozen=True, slots=True)
class Node:
    """A task that sleeps and passes a number on; its name is a Python name."""

    name: str
    parents: tuple[str, ...] = ()
    seconds: float = 0.0


Graph = tuple[Node, ...]

_ONE = (Node("t0"),)


def graphs() -> dict[str, Graph]:
    """Return the graphs by what they are; tasks come after their upstreams."""
    found: dict[str, Graph] = {
        "1,000 no-ops": tuple(Node(f"t{number}") for number in range(1_000)),
        "chain of 500": tuple(Node(f"t{number}", (f"t{number - 1}",) if number else ()) for number in range(500)),
        "200 sleeps of 50 ms": tuple(Node(f"t{number}", (), 0.05) for number in range(200)),
    }
    recorded = [one for one in find() if one.name.startswith(RECORDED)]
    if not recorded:
        print("left out: the recorded workflow is not there; see benchmarks/workflows.py")
        return found
    case = Case.of(recorded[0], f"{SLOTS} threads", SLOTS)
    names = identifiers(task.id for task in case.workflow.tasks)
    nodes = [
        Node(names[task.id], tuple(names[parent] for parent in task.parents), task.seconds * case.scale)
        for task in case.workflow.tasks
    ]
    return {**found, RECORDED: tuple(_in_order(nodes))}


def _in_order(nodes: Iterable[Node]) -> Iterable[Node]:
    """Upstreams first: scripts need them, and for the others it makes no difference."""
    waiting, seen = list(nodes), set[str]()
    while waiting:
        for node in [node for node in waiting if seen.issuperset(node.parents)]:
            yield node
            seen.add(node.name)
        waiting = [node for node in waiting if node.name not in seen]


# How each of the tools says it.

_WORK = """\
import time


def work(seconds, *values):
    if seconds:
        time.sleep(seconds)
    return 1 + max(values, default=0)
"""


def _call(node: Node) -> str:
    return f"work({', '.join([repr(node.seconds), *node.parents])})"


def _ours(graph: Graph) -> str:
    tasks = (f"def flow_{node.name}({', '.join(node.parents)}):\n    return {_call(node)}\n" for node in graph)
    return "\n\n".join([_WORK, *tasks])


def _pytask(graph: Graph) -> str:
    nodes = "\n".join(f"N_{node.name} = PythonNode(name={node.name!r})" for node in graph)
    head = f"from typing import Annotated, Any\n\nfrom pytask import PythonNode\n\n{nodes}\n"
    tasks = []
    for node in graph:
        parameters = ", ".join(f"{parent}: Annotated[Any, N_{parent}]" for parent in node.parents)
        tasks.append(
            f"def task_{node.name}({parameters}) -> Annotated[Any, N_{node.name}]:\n    return {_call(node)}\n"
        )
    return "\n\n".join([_WORK, head, *tasks])


def _dask(graph: Graph) -> str:
    taken = {parent for node in graph for parent in node.parents}
    ends = ", ".join(node.name for node in graph if node.name not in taken)
    return "\n".join(
        [
            _WORK,
            "import dask\n",
            "work = dask.delayed(work, pure=False)",
            *(f"{node.name} = {_call(node)}" for node in graph),
            f"values = dask.compute({ends}, scheduler='threads', num_workers={SLOTS})",
            f"print('{len(graph)} passed')",
        ]
    )


def _futures(graph: Graph) -> str:
    return f"""\
{_WORK}
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

GRAPH = {{
{"".join(f"    {node.name!r}: ({node.seconds!r}, {node.parents!r}),{chr(10)}" for node in graph)}}}
children = {{name: [] for name in GRAPH}}
for name, (_, parents) in GRAPH.items():
    for parent in parents:
        children[parent].append(name)
missing = {{name: len(parents) for name, (_, parents) in GRAPH.items()}}
values = {{}}
with ThreadPoolExecutor({SLOTS}) as pool:

    def submit(name):
        seconds, parents = GRAPH[name]
        return pool.submit(work, seconds, *(values[parent] for parent in parents))

    running = {{submit(name): name for name, count in missing.items() if not count}}
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            name = running.pop(future)
            values[name] = future.result()
            for child in children[name]:
                missing[child] -= 1
                if not missing[child]:
                    running[submit(child)] = child
print(f"{{len(values)}} passed")
"""


# Running them.


@dataclass(frozen=True, slots=True)
class Tool:
    """How a graph is written and run; ``modules`` are what has to be there."""

    name: str
    write: Callable[[Graph], str]
    file: str
    command: Callable[[str], list[str]]
    expect: str = "{} passed"
    modules: tuple[str, ...] = ()


def _flows(*options: str) -> Callable[[str], list[str]]:
    return lambda file: pytest_command("--flowforge", "--ff-checkpoint", "kept", *options, file, plugins=EVERYTHING)


def _pytask_command(file: str) -> list[str]:
    # It follows its graph by recursion, and fails on the chain with the limit that Python has by itself.
    start = "import sys; sys.setrecursionlimit(20_000); from pytask import cli; cli()"
    return [sys.executable, "-c", start, "--force", "-n", str(SLOTS), "--parallel-backend", "threads", file]


def _script(file: str) -> list[str]:
    return [sys.executable, file]


OURS = Tool("ours", _ours, "flow_{}.py", _flows("--ff-executor", "thread", "--ff-workers", str(SLOTS)))

OTHERS = (
    Tool("ours, one after the other", _ours, "flow_local_{}.py", _flows()),
    Tool("pytask", _pytask, "task_{}.py", _pytask_command, "{}  Succeeded", ("pytask", "pytask_parallel")),
    Tool("dask", _dask, "dask_{}.py", _script, modules=("dask",)),
    Tool("concurrent.futures", _futures, "futures_{}.py", _script),
)


def _run(folder: Path, tool: Tool, file: str, count: int) -> Cost:
    for name in ("kept", ".pytask"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return process(tool.command(file), folder, tool.expect.format(count))


def _present() -> list[Tool]:
    """Return the tools that are there; say which are not."""
    present = []
    for tool in OTHERS:
        missing = [module for module in tool.modules if find_spec(module) is None]
        if missing:
            print(f"left out: {tool.name} needs {', '.join(missing)}, which come with pip install -e .[bench]")
        else:
            present.append(tool)
    return present


def _variants(
    folder: Path, graphs: Mapping[str, Graph], tools: Iterable[Tool]
) -> dict[tuple[str, str], Callable[[], Cost]]:
    """Return what is to be measured, by tool and graph, and write the files that it takes."""
    variants: dict[tuple[str, str], Callable[[], Cost]] = {}
    for tool in tools:
        for number, (name, graph) in enumerate(graphs.items()):
            # Sleeps one after the other would only take long.
            if tool.command is OTHERS[0].command and any(node.seconds for node in graph):
                continue
            file = tool.file.format(f"graph{number}")
            (folder / file).write_text(tool.write(graph), encoding="utf-8")
            variants[tool.name, name] = partial(_run, folder, tool, file, len(graph))
    return variants


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, rounds=3)
    all_graphs = graphs()
    tools = _present()
    with workspace({}) as folder:
        variants = _variants(folder, {"one": _ONE, **all_graphs}, [OURS, *tools])
        # The harness wants names.
        names = {" / ".join(key): key for key in variants}
        done = interleave({name: variants[key] for name, key in names.items()}, options.rounds)
    rounds = [{names[name]: cost.wall for name, cost in one.items()} for one in done]
    rows: list[Row] = []
    for graph in all_graphs:
        rows.append(row(f"{graph}: ours, all in all", (one["ours", graph] for one in rounds), unit="s"))
        rows.append(
            row(
                f"{graph}: ours, without start-up",
                (one["ours", graph] - one["ours", "one"] for one in rounds),
                unit="s",
            )
        )
        for tool in tools:
            if (tool.name, graph) not in variants:
                continue
            key, one_task = (tool.name, graph), (tool.name, "one")
            what = f"{graph}: {tool.name} / ours"
            rows.append(row(f"{what}, all in all", (one[key] / one["ours", graph] for one in rounds)))
            rows.append(
                row(
                    f"{what}, without start-up",
                    ((one[key] - one[one_task]) / (one["ours", graph] - one["ours", "one"]) for one in rounds),
                )
            )
    versions = ", ".join(f"{module} {version(module)}" for tool in tools for module in tool.modules)
    finish(f"The same graphs on {SLOTS} threads; {versions or 'no other tools'}", rows, options)


if __name__ == "__main__":
    main()
