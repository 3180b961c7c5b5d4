"""Recorded scientific workflows run as flows: every task once, in an order that respects the edges, with the values."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import wfformat
from tests.wfformat import Style, Workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugin.conftest import Flow

    Edges = dict[str, list[str]]
    Run = Callable[..., list[str]]

_STYLES = pytest.mark.parametrize("style", Style, ids=lambda style: style.value)


def _document(parents: Edges) -> dict[str, Any]:
    """A WfFormat document with these edges, given the way recorders give them: at both of their ends."""
    children: Edges = {task: [] for task in parents}
    for task, found in parents.items():
        for parent in found:
            children[parent].append(task)
    tasks = [{"id": task, "name": task, "parents": parents[task], "children": children[task]} for task in parents]
    times = [{"id": task, "runtimeInSeconds": 0.5} for task in parents]
    return {"workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": times}}}


# The shapes of well-known families of workflows.


def _fork_join(width: int) -> Edges:
    """As BLAST: one task splits, many search, two collect everything."""
    searches = {f"search_{number}": ["split"] for number in range(width)}
    return {"split": [], **searches, "collect": [*searches], "collect_errors": [*searches]}


def _layered(images: int) -> Edges:
    """As Montage: project, compare neighbours, fit one model, correct each image with it, add up."""
    project: Edges = {f"project_{number}": [] for number in range(images)}
    overlaps = [(a, b) for a in range(images) for b in (a + 1, a + 3) if b < images]
    compare = {f"compare_{a}_{b}": [f"project_{a}", f"project_{b}"] for a, b in overlaps}
    correct = {f"correct_{number}": ["model", f"project_{number}"] for number in range(images)}
    return {
        **project, **compare, "concat": [*compare], "model": ["concat"],
        **correct, "table": [*correct], "add": ["table", *correct], "view": ["add"],
    }  # fmt: skip


def _pipelines(lanes: int) -> Edges:
    """As Epigenomics: each lane splits into strands of equal steps, which merge by lane and then over all."""
    edges: Edges = {}
    steps = ("filter", "convert", "compress", "map")
    for lane in range(lanes):
        edges[f"lane{lane}/split"] = []
        for strand in range(3):
            before = f"lane{lane}/split"
            for step in steps:
                own = f"lane{lane}/{strand}/{step}"
                edges[own] = [before]
                before = own
        edges[f"lane{lane}/merge"] = [f"lane{lane}/{strand}/{steps[-1]}" for strand in range(3)]
    edges["merge"] = [f"lane{lane}/merge" for lane in range(lanes)]
    edges["index"] = ["merge"]
    edges["pileup"] = ["merge", "index"]
    return edges


def _crossed(chromosomes: int) -> Edges:
    """As 1000genome: by chromosome many readers and one sifter, joined, then crossed with every population."""
    edges: Edges = {}
    for chromosome in range(chromosomes):
        readers = [f"individuals {chromosome}.{part}" for part in range(5)]
        merge, sift = f"merge {chromosome}", f"sifting {chromosome}"
        # Written last to first: the order of a document is not an order of execution.
        for population in ("ALL", "EUR", "GBR"):
            edges[f"overlap {chromosome} {population}"] = [merge, sift]
            edges[f"frequency {chromosome} {population}"] = [merge, sift]
        edges |= {merge: readers, sift: []} | {reader: [] for reader in readers}
    return edges


_FAMILIES = {
    "fork-join": _fork_join(40),
    "layered": _layered(16),
    "pipelines": _pipelines(3),
    "crossed": _crossed(3),
}


# Running.


@pytest.fixture
def run(flow: Flow, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a workflow as a flow and return what is wrong with that."""
    log = pytester.path / "log.jsonl"
    monkeypatch.setenv(wfformat.LOG, str(log))

    def run(workflow: Workflow, style: Style, *options: str) -> list[str]:
        result = flow(wfformat.flow_source(workflow, style), "-q", *options)
        assert result.ret == pytest.ExitCode.OK
        result.assert_outcomes(passed=len(workflow.tasks))
        return wfformat.complaints(workflow, log.read_text(encoding="ascii"))

    return run


@_STYLES
@pytest.mark.parametrize("family", _FAMILIES)
def test_families_of_workflows(family: str, style: Style, run: Run) -> None:
    workflow = wfformat.parse(_document(_FAMILIES[family]), family)

    assert run(workflow, style) == []


_PARALLEL = pytest.mark.parametrize(
    "options", [("-n", "2"), ("--ff-executor", "thread", "--ff-workers", "16")], ids=["processes", "threads"]
)


@_PARALLEL
@pytest.mark.parametrize("family", _FAMILIES)
def test_families_of_workflows_side_by_side(family: str, options: tuple[str, ...], run: Run) -> None:
    workflow = wfformat.parse(_document(_FAMILIES[family]), family)

    assert run(workflow, Style.PARAMETERS, *options) == []


@_STYLES
def test_ids_may_hold_any_characters(style: Style, run: Run) -> None:
    ids = [
        "class",
        "a b",
        "a_b",
        "a.b",
        '\'"""\\',
        "naïve/β\n",
        "",
        "request",
        "🙂",
        "x" * 300,
        "1",
        "{0}",
        "upstream",
        "\udc80",
    ]
    edges = {own: ids[:number][-3:] for number, own in enumerate(ids)}

    assert run(wfformat.parse(_document(edges)), style) == []


def test_a_fan_in_as_wide_as_they_come(run: Run) -> None:
    # SoyKB and Seismology join several hundred tasks in one.
    workflow = wfformat.parse(_document(_fork_join(600)))

    assert run(workflow, Style.PARAMETERS) == []


def _recordings() -> Iterator[Any]:
    """The recorded workflows of this machine; they are not part of the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "wfinstances"
    given = os.environ.get("FLOWFORGE_WFINSTANCES")
    found = sorted(Path(given or beside).glob("*.json"))
    if found:
        yield from (pytest.param(path, id=path.stem) for path in found)
    elif given:
        msg = f"FLOWFORGE_WFINSTANCES: {given} holds no *.json"
        raise pytest.UsageError(msg)
    else:
        reason = "no recorded workflows here: set FLOWFORGE_WFINSTANCES to a folder of WfFormat files"
        yield pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))


@_STYLES
@pytest.mark.parametrize("path", [*_recordings()])
def test_recorded_workflows(path: Path, style: Style, run: Run) -> None:
    assert run(wfformat.read(path), style) == []


@_PARALLEL
@pytest.mark.parametrize("path", [*_recordings()])
def test_recorded_workflows_side_by_side(path: Path, options: tuple[str, ...], run: Run) -> None:
    assert run(wfformat.read(path), Style.UPSTREAM, *options) == []


# The reader and the judge, which everything above relies on.


def _tasks(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"workflow": {"specification": {"tasks": [*entries]}}}


def test_edges_may_be_given_by_children_alone() -> None:
    document = _tasks({"id": "a", "children": ["b", "c"]}, {"id": "b", "children": ["c"]}, {"id": "c"})

    found = {task.id: task.parents for task in wfformat.parse(document).tasks}

    assert found == {"a": (), "b": ("a",), "c": ("a", "b")}


def test_edges_may_be_given_at_both_ends_and_in_part() -> None:
    document = _tasks({"id": "a", "children": ["b"]}, {"id": "b", "parents": ["a"]}, {"id": "c", "parents": ["a"]})

    found = {task.id: task.parents for task in wfformat.parse(document).tasks}

    assert found == {"a": (), "b": ("a",), "c": ("a",)}


def test_old_documents_refer_to_tasks_by_name() -> None:
    tasks = [{"name": "first", "id": "ID1", "runtime": 2}, {"name": "second", "id": "ID2", "parents": ["first"]}]

    workflow = wfformat.parse({"workflow": {"jobs": tasks}})

    assert workflow.tasks == (wfformat.RecordedTask("ID1", (), 2.0), wfformat.RecordedTask("ID2", ("ID1",)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_tasks(), "holds no tasks"),
        (_tasks({"id": "a"}, {"id": "a"}), "more than once"),
        (_tasks({"id": "a", "parents": ["b"]}), "leads to no task"),
    ],
)
def test_documents_that_make_no_sense_are_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wfformat.parse(document)


_CHAIN = wfformat.parse(_document({"a": [], "b": ["a"]}))
_VALUES = wfformat.expected_values(_CHAIN)
_BEGIN_A, _END_A = ["begin", "a", None], ["end", "a", _VALUES["a"]]
_BEGIN_B, _END_B = ["begin", "b", None], ["end", "b", _VALUES["b"]]


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ([_BEGIN_A, _BEGIN_B, _END_A, _END_B], "b: began before a had ended"),
        ([_BEGIN_B, _END_B, _BEGIN_A, _END_A], "b: began before a had ended"),
        ([_BEGIN_A, _END_A], "b: began 0 times"),
        ([_BEGIN_A, _END_A, _BEGIN_B, _END_B, _BEGIN_B, _END_B], "b: began 2 times"),
        ([_BEGIN_A, _END_A, _BEGIN_B], "b: began 1 times, ended 0 times"),
        ([_BEGIN_A, _END_A, _BEGIN_B, ["end", "b", _VALUES["a"]]], "b: returned"),
        ([_BEGIN_A, _END_A, _BEGIN_B, _END_B, ["begin", "z", None]], "z: no task"),
    ],
)
def test_the_judge_sees(log: list[list[str | None]], complaint: str) -> None:
    found = wfformat.complaints(_CHAIN, "\n".join(map(json.dumps, log)))

    assert any(line.startswith(complaint) for line in found), found


def test_the_judge_is_content_with_a_correct_run() -> None:
    log = [_BEGIN_A, _END_A, _BEGIN_B, _END_B]

    assert wfformat.complaints(_CHAIN, "\n".join(map(json.dumps, log))) == []
