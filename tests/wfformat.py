"""Recorded workflows (WfFormat JSON) as flow files, and a judge of what became of them.

A document is read into a :class:`Workflow`; :func:`flow_source` writes a flow file in which every recorded task is a
``flow_*`` function. Each function notes in a log that it began and that it ended, and returns a digest of its own id
and of the digests of its parents. :func:`complaints` reads that log and compares it with what the document says: it
shares no line with the generated code and knows nothing of pytest.

By hand: ``python -m tests.wfformat FILE.json > flow_recorded.py``, then ``pytest --flowforge flow_recorded.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: The environment variable that tells generated flows where to write their log; without it they keep none.
LOG = "WFFORMAT_LOG"


@dataclass(frozen=True)
class RecordedTask:
    """One task of a recorded workflow: its parents' ids, in the order of the document, and its seconds of run time."""

    id: str
    parents: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Workflow:
    """A recorded workflow; its tasks are in the order of the document, which need not be one they can run in."""

    name: str
    tasks: tuple[RecordedTask, ...]

    @property
    def edges(self) -> int:
        return sum(len(task.parents) for task in self.tasks)


class Style(Enum):
    """How generated tasks name what they wait for."""

    PARAMETERS = "parameters"
    UPSTREAM = "upstream"


# Reading.


def read(path: Path) -> Workflow:
    """Return the workflow of the WfFormat document at *path*; raise ValueError with the reason if it holds none."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return parse(document, name=path.stem)


def parse(document: Mapping[str, Any], name: str = "") -> Workflow:
    """Return the workflow that *document* describes.

    Edges may be given as ``parents``, as ``children``, or as both. Run times may be missing. Documents older than
    WfFormat 1.5, which keep all that belongs to a task in one place, are read as well.
    """
    workflow = document["workflow"]
    entries = workflow.get("specification", workflow).get("tasks") or workflow.get("jobs") or []
    if not entries:
        msg = f"{name or 'the document'} holds no tasks"
        raise ValueError(msg)
    ids = [_id(entry) for entry in entries]
    repeated = [task for task, count in Counter(ids).items() if count > 1]
    if repeated:
        msg = f"{name}: task ids that occur more than once: {repeated}"
        raise ValueError(msg)
    seconds = _seconds([*entries, *workflow.get("execution", {}).get("tasks", [])])
    parents = _parents(entries, ids)
    tasks = (RecordedTask(task, tuple(parents[task]), seconds.get(task, 0.0)) for task in ids)
    return Workflow(name or str(document.get("name", "workflow")), tuple(tasks))


def _id(entry: Mapping[str, Any]) -> str:
    return str(entry["id"] if "id" in entry else entry["name"])


def _seconds(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds that each entry with a run time took."""
    found = {}
    for entry in entries:
        value = entry.get("runtimeInSeconds", entry.get("runtime"))
        if value is not None:
            found[_id(entry)] = float(value)
    return found


def _parents(entries: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the parents of each task, without repeats; raise ValueError for one that is no task."""
    parents: dict[str, dict[str, None]] = {task: {} for task in ids}
    # Old documents refer to tasks by name; an id that happens to be somebody's name is still an id.
    known = {str(entry.get("name")): _id(entry) for entry in entries} | {task: task for task in ids}
    for entry in entries:
        own = _id(entry)
        edges = [(str(parent), own) for parent in entry.get("parents", ())]
        edges += [(own, str(child)) for child in entry.get("children", ())]
        for parent, child in edges:
            if parent not in known or child not in known:
                msg = f"the edge {parent!r} -> {child!r} leads to no task"
                raise ValueError(msg)
            parents[known[child]][known[parent]] = None
    return {task: list(found) for task, found in parents.items()}


# Writing.

_PRELUDE = """\
# Generated from the recorded workflow {name!a}: {tasks} tasks, {edges} edges.

import hashlib
import json
import os
import time

import pytest


def _note(what, task, value=None):
    path = os.environ.get("{log}")
    if path:
        line = json.dumps([what, task, value]) + "\\n"
        # One write to a file opened for appending: lines of several processes do not mix.
        with open(path, "ab", buffering=0) as file:
            file.write(line.encode("ascii"))


def _work(task, seconds, *values):
    _note("begin", task)
    time.sleep(seconds * {scale!r})
    digest = hashlib.sha256(json.dumps([task, values]).encode("ascii")).hexdigest()
    _note("end", task, digest)
    return digest
"""


def flow_source(workflow: Workflow, style: Style = Style.PARAMETERS, scale: float = 0.0) -> str:
    """Return the text of a flow file with one task for each of *workflow*.

    *scale* is the share of its recorded run time that a task sleeps.
    """
    names = identifiers(task.id for task in workflow.tasks)
    render = {Style.PARAMETERS: _with_parameters, Style.UPSTREAM: _with_upstream}[style]
    prelude = _PRELUDE.format(name=workflow.name, tasks=len(workflow.tasks), edges=workflow.edges, log=LOG, scale=scale)
    return "\n\n".join([prelude, *(render(task, names) for task in workflow.tasks)])


def identifiers(ids: Iterable[str]) -> dict[str, str]:
    """Return a Python name for each id: readable, and told apart by a number, whatever characters the ids hold.

    The number comes first, so that no name is a keyword, a fixture or the end of another name.
    """
    return {task: f"t{number}_{_slug(task)}".rstrip("_") for number, task in enumerate(ids)}


def _slug(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", text)[:60].strip("_")


def _with_parameters(task: RecordedTask, names: Mapping[str, str]) -> str:
    parents = [names[parent] for parent in task.parents]
    call = ", ".join([ascii(task.id), repr(task.seconds), *parents])
    return f"def flow_{names[task.id]}({', '.join(parents)}):\n    return _work({call})\n"


def _with_upstream(task: RecordedTask, names: Mapping[str, str]) -> str:
    if not task.parents:
        return _with_parameters(task, names)
    parents = ", ".join(repr(names[parent]) for parent in task.parents)
    return (
        f"@pytest.mark.depends_on({parents})\n"
        f"def flow_{names[task.id]}(upstream):\n"
        f"    values = [upstream[name] for name in ({parents},)]\n"
        f"    return _work({task.id!a}, {task.seconds!r}, *values)\n"
    )


# Judging.


def expected_values(workflow: Workflow) -> dict[str, str]:
    """Return what each task has to return, from the document alone."""
    parents = {task.id: task.parents for task in workflow.tasks}
    values: dict[str, str] = {}
    for task in TopologicalSorter(parents).static_order():
        listing = ", ".join(json.dumps(text) for text in [values[parent] for parent in parents[task]])
        values[task] = hashlib.sha256(f"[{json.dumps(task)}, [{listing}]]".encode("ascii")).hexdigest()
    return values


def complaints(workflow: Workflow, log: str) -> list[str]:
    """Return what is wrong with the run that left *log*, one line each; an empty list if nothing is.

    Every task has to have begun and ended exactly once, begun only after each of its parents had ended, and returned
    what :func:`expected_values` says.
    """
    begins: dict[str, list[int]] = {task.id: [] for task in workflow.tasks}
    ends: dict[str, list[int]] = {task.id: [] for task in workflow.tasks}
    values: dict[str, str] = {}
    wrong = []
    for at, line in enumerate(log.splitlines()):
        what, task, value = json.loads(line)
        if task not in begins:
            wrong.append(f"{task}: no task of this workflow")
            continue
        (begins if what == "begin" else ends)[task].append(at)
        values[task] = value
    wanted = expected_values(workflow)
    for recorded in workflow.tasks:
        wrong.extend(_complaints_about(recorded, begins, ends))
        if values.get(recorded.id) != wanted[recorded.id]:
            wrong.append(f"{recorded.id}: returned {values.get(recorded.id)}, expected {wanted[recorded.id]}")
    return wrong


def _complaints_about(
    task: RecordedTask, begins: Mapping[str, Sequence[int]], ends: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    if (len(begins[task.id]), len(ends[task.id])) != (1, 1):
        yield f"{task.id}: began {len(begins[task.id])} times, ended {len(ends[task.id])} times"
        return
    for parent in task.parents:
        if not ends[parent] or ends[parent][0] > begins[task.id][0]:
            yield f"{task.id}: began before {parent} had ended"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the flow file for a document."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.wfformat", description="Turn a WfFormat file into a flow file."
    )
    parser.add_argument("file", type=Path, help="a WfFormat JSON document")
    parser.add_argument(
        "--style",
        type=Style,
        choices=list(Style),
        default=Style.PARAMETERS,
        metavar="STYLE",
        help="parameters (default): values arrive as arguments; upstream: depends_on and `upstream`",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the share of its recorded run time that each task sleeps (default 0)",
    )
    chosen = parser.parse_args(arguments)
    sys.stdout.write(flow_source(read(chosen.file), chosen.style, chosen.scale))


if __name__ == "__main__":
    main()
