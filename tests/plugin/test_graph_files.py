"""--ff-graph: the graph of a run or of a plan, in files that others can read."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pytest_flowforge.plugin.output_files import OutputFile
from tests.plugin.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Begin, Flow

FLOW = """
    import pytest

    def flow_files():
        return ["a", "b"]

    @pytest.mark.map("files")
    def flow_load(files):
        return len(files)

    @pytest.mark.parametrize("model", ["small", "large"])
    def flow_train(load, model):
        assert model == "small", "too large"

    @pytest.mark.depends_on("files")
    def flow_notify(train): ...

    @pytest.mark.depends_on("files", "train[small]")
    def flow_look(upstream): ...

    @pytest.fixture
    def first(files):
        return files[0]

    def flow_fixture(first): ...
"""


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def states(path: Path) -> dict[str, str]:
    return {node["name"]: node["state"] for node in document(path)["nodes"]}


def edges(path: Path) -> set[tuple[str, str, str]]:
    name = {node["id"]: node["name"] for node in document(path)["nodes"]}
    return {(name[edge["from"]], name[edge["to"]], edge["kind"]) for edge in document(path)["edges"]}


EXECUTORS = {
    "local": (),
    "thread": ("--ff-executor=thread", "--ff-workers=2"),
    "process": ("-n2",),
    "pool": ("--ff-executor=concurrent.futures:ThreadPoolExecutor",),
}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_leaves_its_graph(flow: Flow, pytester: pytest.Pytester, executor: str) -> None:
    names = [f"--ff-graph=out/graph.{suffix}" for suffix in ("json", "mmd", "dot", "svg")]
    result = flow(FLOW, *EXECUTORS[executor], *names)
    assert result.ret == 1
    out = pytester.path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["graph.dot", "graph.json", "graph.mmd", "graph.svg"]
    assert states(out / "graph.json") == {
        "files": "success",
        "load": "success",
        "load[a]": "success",
        "load[b]": "success",
        "train[small]": "success",
        "train[large]": "failed",
        "notify": "blocked",
        "look": "success",
        "fixture": "success",
    }
    assert edges(out / "graph.json") == {
        ("files", "load[a]", "map"),
        ("files", "load[b]", "map"),
        ("load[a]", "load", "gather"),
        ("load[b]", "load", "gather"),
        ("load", "train[small]", "value"),
        ("load", "train[large]", "value"),
        ("train[small]", "notify", "value"),
        ("train[large]", "notify", "value"),
        ("files", "notify", "order"),
        ("files", "look", "value"),
        ("train[small]", "look", "value"),
        ("files", "fixture", "value"),
    }
    failed = next(node for node in document(out / "graph.json")["nodes"] if node["name"] == "train[large]")
    assert "too large" in failed["reason"]
    assert failed["attempts"] == 1
    mermaid = (out / "graph.mmd").read_text(encoding="utf-8")
    assert mermaid.startswith("flowchart LR\n")
    assert '"train[large]"' in mermaid
    assert (out / "graph.dot").read_text(encoding="utf-8").startswith("digraph")
    svg = ET.parse(out / "graph.svg").getroot()  # noqa: S314 - our own
    titles = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert any(re.match(r"flow_it.py::flow_train\[large\]: failed\n.*too large", title) for title in titles)


def test_a_dry_run_leaves_the_plan(flow: Flow, pytester: pytest.Pytester) -> None:
    assert flow(FLOW, "--ff-dry-run", "--ff-graph=plan.json", "--ff-graph=plan.svg").ret == 0
    plan = pytester.path / "plan.json"
    assert document(plan)["of"] == "plan"
    assert set(states(plan).values()) == {"run"}
    assert ("files", "load", "map") in edges(plan)
    assert "<title>Plan: 7 tasks</title>" in (pytester.path / "plan.svg").read_text(encoding="utf-8")
    assert not (pytester.path / ".pytest_cache").exists()


def test_the_plan_of_a_resumed_run_tells_what_stands(flow: Flow, pytester: pytest.Pytester) -> None:
    flow(FLOW)
    flow({}, "--ff-resume", "--ff-dry-run", "--ff-graph=plan.json")
    planned = states(pytester.path / "plan.json")
    assert planned["load[a]"] == planned["train[small]"] == "reuse"
    assert planned["train[large]"] == planned["notify"] == "run"
    flow({}, "--ff-resume", "--ff-graph=run.json")
    assert states(pytester.path / "run.json") == {
        name: {"reuse": "reused", "run": "failed" if name == "train[large]" else "blocked"}[verdict]
        for name, verdict in planned.items()
    }


def test_only_what_is_selected_is_shown(flow: Flow, pytester: pytest.Pytester) -> None:
    flow(FLOW, "--ff-select=fixture", "--ff-graph=some.json")
    assert list(states(pytester.path / "some.json")) == ["files", "fixture"]


def test_a_run_that_stops_early_tells_what_is_left(flow: Flow, pytester: pytest.Pytester) -> None:
    source = "def flow_a(): assert False\ndef flow_b(): ...\n"
    assert flow(source, "-x", "--ff-graph=graph.json").ret == 1
    assert states(pytester.path / "graph.json") == {"a": "failed", "b": "pending"}
    assert "stopping after 1 failures" in document(pytester.path / "graph.json")["stopped"]


def test_a_run_that_is_interrupted_leaves_its_graph(
    flow: Flow, begin: Begin, pytester: pytest.Pytester, log: Callable[[], list[str]]
) -> None:
    source = """
        import time
        from log import log

        def flow_long():
            log("begun")
            time.sleep(60)

        def flow_after(long): ...
    """
    flow(source, "--ff-validate")
    run = begin("--ff-graph=graph.json")
    wait_until(log)
    run.kill(signal.SIGINT)
    assert run.end() == 2
    assert states(pytester.path / "graph.json") == {"long": "interrupted", "after": "blocked"}


@pytest.mark.parametrize("question", ["--ff-list", "--ff-validate", "--collect-only"])
def test_other_questions_write_nothing(flow: Flow, pytester: pytest.Pytester, question: str) -> None:
    assert flow(FLOW, question, "--ff-graph=out/graph.json").ret == 0
    assert not (pytester.path / "out").exists()


def test_tasks_of_several_files_are_told_apart(flow: Flow, pytester: pytest.Pytester) -> None:
    flow({"flow_a.py": "def flow_same(): ...", "flow_b.py": "def flow_same(): ..."}, "--ff-graph=graph.mmd")
    text = (pytester.path / "graph.mmd").read_text(encoding="utf-8")
    assert 'n0["flow_a.py::same"]' in text
    assert 'n1["flow_b.py::same"]' in text


def test_names_are_no_markup(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("x", [1], ids=["</script><img src=x onerror=alert(1)>"])
        def flow_it(x): assert x > 1, "</title><script>alert(1)</script>"
    """
    flow(source, "--ff-graph=graph.svg", "--ff-graph=graph.mmd", "--ff-graph=graph.dot")
    root = ET.parse(pytester.path / "graph.svg").getroot()  # noqa: S314 - our own
    assert not [element for element in root.iter() if element.tag.endswith(("script", "img"))]
    assert any("</script><img src=x onerror=alert(1)>" in text for text in root.itertext())
    assert "<" not in (pytester.path / "graph.mmd").read_text(encoding="utf-8").replace("<br>", "")


def test_the_picture_in_the_documentation_is_the_one_that_is_written() -> None:
    page = Path(__file__).resolve().parents[2].joinpath("docs", "howto.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    # What is shown as an output is compared with one in test_docs.
    assert f"$ cat graph.mmd\n{picture}" in page


# Places.


def test_an_unknown_format_is_an_error(flow: Flow, log: Callable[[], list[str]]) -> None:
    result = flow("from log import log\ndef flow_a(): log('ran')", "--ff-graph=graph.png")
    assert result.ret == 4
    assert (
        "--ff-graph graph.png: the name says which format is meant, and has to end with .mmd, .dot, .svg or .json"
        in (result.stderr.str())
    )
    assert not log()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("taken/graph.svg", "can not be written"),
        ("folder.svg", "is a folder"),
        ("fifo.svg", "that is no file"),
        ("/proc/nothing/graph.svg", "can not be written"),
        ("x" * 300 + ".svg", "can not be written"),
    ],
)
def test_a_place_that_can_not_be_written_is_an_error_before_anything_runs(
    flow: Flow, pytester: pytest.Pytester, log: Callable[[], list[str]], name: str, why: str
) -> None:
    (pytester.path / "taken").touch()
    (pytester.path / "folder.svg").mkdir()
    os.mkfifo(pytester.path / "fifo.svg")
    result = flow("from log import log\nlog('collected')\ndef flow_a(): ...", f"--ff-graph={name}")
    assert result.ret == 4
    assert "--ff-graph" in result.stderr.str()
    assert why in result.stderr.str()
    assert not log()


def test_a_file_of_before_stays_until_the_new_one_is_complete(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os, pathlib

        def flow_look():
            assert pathlib.Path("graph.mmd").read_text() == "of before"
            os.chdir("elsewhere")
    """
    (pytester.path / "elsewhere").mkdir()
    target = pytester.path / "kept.txt"
    target.write_text("of before", encoding="utf-8")
    (pytester.path / "graph.mmd").symlink_to(target)
    assert flow(source, "--ff-graph=graph.mmd").ret == 0
    # A link stays one, and what it leads to is new.
    assert (pytester.path / "graph.mmd").is_symlink()
    assert target.read_text(encoding="utf-8").startswith("flowchart")
    assert not [path for path in pytester.path.iterdir() if path.name.startswith(".tmp")]


def test_an_error_in_the_making_of_a_file_is_told_and_fails_nothing(flow: Flow) -> None:
    conftest = """
        from pytest_flowforge.plugin import graph_files

        def draw(graph):
            raise ZeroDivisionError("no width")

        graph_files._WRITERS[".svg"] = draw
    """
    files = {"conftest.py": conftest, "flow_it.py": "def flow_a(): ..."}
    result = flow(files, "--ff-graph=graph.svg", "--ff-graph=other.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["--ff-graph *graph.svg: could not be written (ZeroDivisionError: no width)"])


def test_a_place_that_is_gone_in_the_end_is_told_and_fails_nothing(flow: Flow) -> None:
    source = """
        import shutil

        def flow_tidy(): shutil.rmtree("out")
    """
    result = flow(source, "--ff-graph=out/graph.svg", "--ff-graph=other.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["--ff-graph *graph.svg: could not be written (No such file or directory)"])
    assert "other.json" not in result.stdout.str()


def test_what_others_have_put_beside_it_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda _: b"known")
    file = OutputFile("--ff-graph", tmp_path / "graph.svg")
    precious = tmp_path / "precious"
    precious.write_text("precious", encoding="utf-8")
    (tmp_path / f".tmp-{b'known'.hex()}").symlink_to(precious)
    with pytest.raises(pytest.UsageError, match=r"can not be written \(File exists\)"):
        OutputFile("--ff-graph", tmp_path / "graph.svg")
    with pytest.raises(FileExistsError):
        file.write("new")
    assert precious.read_text(encoding="utf-8") == "precious"


def test_without_flows_it_is_refused(flow: Flow) -> None:
    result = flow({"test_x.py": "def test_x(): ..."}, "--ff-graph=graph.svg", flowforge=False)
    assert result.ret == 4
    assert "--ff-graph is about flows, and this session runs tests: add --flowforge" in result.stderr.str()
