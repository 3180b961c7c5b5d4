"""The page of ``--ff-report`` in a real browser: headless Chromium, driven by playwright-core, judged by axe-core.

They come from the environment: FLOWFORGE_CHROMIUM (else what is found on the PATH) and FLOWFORGE_NODE_MODULES, a
folder with playwright-core and axe-core, which node reads. Without them these tests are skipped; with
FLOWFORGE_SEEN=required, as in the CI job that is there for it, they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Location, Task, TaskId
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.gathering import Gathering
from pytest_flowforge.report.page import About, Page

if TYPE_CHECKING:
    from collections.abc import Iterable

EVIL = "evil[</script><img src=x onerror=window.pwned=1>]"
_HERE = Path(__file__).parent
#: Width and height of a window, and what the reader prefers.
_WINDOWS = [(1440, 900, "light"), (900, 700, "dark"), (390, 800, "light"), (390, 800, "dark")]


def _tools() -> tuple[str, str]:
    chromium = os.environ.get("FLOWFORGE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    modules = os.environ.get("FLOWFORGE_NODE_MODULES", "")
    missing = [
        name
        for name, there in (
            ("chromium", chromium),
            ("node", shutil.which("node")),
            *(
                (name, (Path(modules) / name).is_dir() if modules else False)
                for name in ("playwright-core", "axe-core")
            ),
        )
        if not there
    ]
    if missing:
        said = f"not there: {', '.join(missing)} (see FLOWFORGE_CHROMIUM, FLOWFORGE_NODE_MODULES)"
        if os.environ.get("FLOWFORGE_SEEN") == "required":
            pytest.fail(said)
        pytest.skip(said)
    return str(chromium), modules


def _node(script: str, *arguments: object) -> dict[str, Any]:
    chromium, modules = _tools()
    environment = {**os.environ, "NODE_PATH": modules}
    command = ["node", str(_HERE / script), chromium, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


def _moves(task: TaskId, at: float, *states: TaskState, **facts: Any) -> Iterable[TaskMoved]:
    before, attempt = TaskState.PENDING, 0
    for state in states:
        attempt += state is TaskState.RUNNING
        at += 0.5
        yield TaskMoved(task, before, state, attempt, at, **(facts if state is states[-1] else {}))
        before = state


def _page(count: int, *, ends: bool = True) -> Page:
    """The page of a run of *count* tasks and a few more: four steps for each of many stations."""
    began = time.time() - 1000
    tasks = [
        Task(
            TaskId(f"flow_{file}.py::{name}"),
            tuple(map(TaskId, needs)),
            name=name,
            location=Location(f"flow_{file}.py", 3),
        )
        for file, name, needs in (
            ("a", "load", ()),
            ("a", EVIL, ("flow_a.py::load",)),
            ("a", "victim", (f"flow_a.py::{EVIL}",)),
            ("a", "flaky", ("flow_a.py::load",)),
        )
    ]
    load, evil, victim, flaky = (task.id for task in tasks)
    steps = ("fetch", "clean", "model", "score")
    for number in range(count // len(steps)):
        before = load
        for step in steps:
            task = Task(
                TaskId(f"flow_b.py::flow_{step}[{number}]"), (before,), name=f"{step}[{number}]",
                location=Location("flow_b.py", 7),
            )  # fmt: skip
            tasks.append(task)
            before = task.id
    gathering = Gathering(TaskGraph.build(tasks))
    gathering.apply(RunBegan(len(tasks), began))
    ran, ok = TaskState.RUNNING, TaskState.SUCCESS
    for event in _moves(load, began, ran, ok):
        gathering.apply(event)
    for event in _moves(evil, began + 1, ran, TaskState.FAILED, because=EVIL):
        gathering.record(evil, [(EVIL, EVIL)], f"{EVIL}\n>   raise ValueError", EVIL)
        gathering.apply(event)
    gathering.apply(TaskMoved(victim, TaskState.PENDING, TaskState.BLOCKED, 0, began + 3, EVIL, evil))
    flaking = (ran, TaskState.RETRYING, ran, *([ok] if ends else []))
    for event in _moves(flaky, began + 3, *flaking):
        gathering.record(
            flaky, [("Captured stdout call", "a line\n" * 3)], "OSError: not yet" if event.attempt == 1 else ""
        )
        gathering.apply(event)
    for number, task in enumerate(tasks[4:]):
        for event in _moves(task.id, began + 3 + number // 8 * 0.7, ran, ok):
            gathering.record(
                task.id, [("Captured stdout call", "some words in a line of a log\n" * 10)], "", f"gw{number % 8}"
            )
            gathering.apply(event)
    if ends:
        gathering.apply(RunEnded(began + 1000))
    about = About("stations", "pytest --flowforge", {load: 0.1}, lambda task: {"name": EVIL} if task == evil else {})
    return Page(about, gathering)


@pytest.fixture(scope="module", params=[8, 2000], ids=["12 tasks", "2,004 tasks"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    path = tmp_path_factory.mktemp("page") / "run.html"
    path.write_text(_page(request.param).render(time.time(), None), "utf-8")
    return request.param, path


@pytest.mark.parametrize(("width", "height", "scheme"), _WINDOWS)
def test_a_reader_finds_what_there_is(written: tuple[int, Path], width: int, height: int, scheme: str) -> None:
    count, path = written
    seen = _node("look.js", path, width, height, scheme)
    assert seen["problems"] == []
    assert {url.partition(":")[0] for url in seen["requests"]} == {"file"}
    assert {url.partition("#")[0] for url in seen["requests"]} == {f"file://{path}"}
    assert seen["pwned"] is None
    assert not seen["overflows"]
    assert seen["rows"] == min(count + 4, 300)
    # More than can be read are shown by function.
    assert seen["boxes"] == (count + 4 if count < 300 else 8)
    assert seen["bars"] == count + 4
    assert 1 <= seen["critical"] <= count
    assert "raise ValueError" in seen["details"]
    assert EVIL in seen["details"]
    assert seen["closed"]
    assert "OSError: not yet" in seen["keyboard"]
    assert "a line" in seen["keyboard"]
    assert (seen["focused"], seen["returned"]) == ("details", "flow_a.py::flaky")
    assert seen["box"] == f"{count // 4} tasks found"
    assert seen["found"] == ["flow_a.py::flaky"]
    assert seen["failed"] == [f"flow_a.py::{EVIL}"]
    assert (seen["sorted"], seen["panned"]) == ("descending", True)
    assert seen["again"] == {"filter": "flaky", "title": "flaky"}
    assert seen["stale"] == ""
    assert seen["printed"] == {"controls": False, "errors": True, "rows": count + 4}
    assert seen["axe"] == []


def test_a_page_of_2000_tasks_is_small_enough_to_be_sent_around(written: tuple[int, Path]) -> None:
    assert written[1].stat().st_size < 3_000_000


def test_a_page_follows_its_run_and_stays_as_the_reader_left_it(tmp_path: Path) -> None:
    path, later = tmp_path / "run.html", tmp_path / "later.html"
    path.write_text(_page(40, ends=False).render(time.time(), 2.0), "utf-8")
    later.write_text(_page(40).render(time.time(), None), "utf-8")
    seen = _node("watch.js", path, later)
    assert seen["before"].startswith("running")
    assert seen["live"]
    assert seen["after"].startswith("finished")
    assert (seen["title"], seen["sorted"], seen["scrolled"]) == ("flaky", "ascending", 200)
