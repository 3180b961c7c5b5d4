"""``--ff-report``: the page that a run leaves, by what is in it. What a browser makes of it: tests/browser."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.conftest import Flow

_FLOW = """
import pytest
from pytest_flowforge import depends_on

def flow_load():
    print("loading now")
    return [1, "canary-result"]

@pytest.mark.parametrize("kind", ["a", "b"])
def flow_fit(load, kind):
    private = "canary-" + "local"
    assert kind != "b", "no b"

def flow_sum(fit):
    pass

@pytest.mark.retry(1)
def flow_flaky(tmp_path_factory):
    import pathlib
    marker = pathlib.Path("marker")
    if not marker.exists():
        marker.touch()
        raise OSError("not yet")
"""

_EXECUTORS = pytest.mark.parametrize(
    "where", [(), ("--ff-executor=thread", "--ff-workers=2"), ("-n2",)], ids=["local", "thread", "process"]
)


def facts_of(path: Path) -> dict[str, Any]:
    found = re.search(r'id="facts">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def tasks_of(path: Path) -> dict[str, Any]:
    return {task["name"]: task for task in facts_of(path)["tasks"]}


@_EXECUTORS
def test_the_page_tells_the_run_wherever_it_took_place(
    flow: Flow, where: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    flow(_FLOW, "--ff-report", "out/run.html", *where)
    page = pytester.path / "out" / "run.html"
    facts, tasks = facts_of(page), tasks_of(page)
    assert facts["ended"]
    assert facts["refresh"] is None
    assert {name: task["state"] for name, task in tasks.items()} == {
        "load": "success", "fit[a]": "success", "fit[b]": "failed", "sum": "blocked", "flaky": "success",
    }  # fmt: skip
    (loaded,) = tasks["load"]["attempts"]
    assert loaded["sections"] == [["Captured stdout call", "loading now\n"]]
    (failed,) = tasks["fit[b]"]["attempts"]
    assert '>       assert kind != "b", "no b"' in failed["error"]
    assert tasks["fit[b]"]["parameters"] == {"kind": "'b'"}
    first, second = tasks["flaky"]["attempts"]
    assert (first["state"], second["state"]) == ("retrying", "success")
    assert "OSError: not yet" in first["error"]
    assert facts["tasks"][tasks["sum"]["cause"]]["name"] == "fit[b]"
    assert [path.name for path in page.parent.iterdir()] == ["run.html"]


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_the_page_is_for_its_owner_alone(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("def flow_a(): pass", "--ff-report=run.html")
    assert stat.S_IMODE((pytester.path / "run.html").stat().st_mode) == 0o600


_SECRETS = """
def flow_load():
    return ["canary-result"]

def flow_use(load):
    private = "canary-" + "local"
    raise ValueError("boom")
"""


@_EXECUTORS
def test_secrets_do_not_get_into_the_page(
    flow: Flow, where: tuple[str, ...], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary-environment")
    conftest = "def pytest_addoption(parser): parser.addoption('--db-password'); parser.addoption('--db')"
    files = {"flow_it.py": _SECRETS, "conftest.py": conftest}
    typed = ("--db-password=canary-argv", "--db", "postgres://canary-user:canary-pass@host/x", "--showlocals")
    flow(files, "--ff-report=run.html", *typed, *where)
    page = (pytester.path / "run.html").read_text("utf-8")
    assert "ValueError: boom" in page
    # The source of the task is shown, and what it says is in two parts.
    assert not re.findall("canary-(?:environment|argv|user|pass|local)", page)
    assert "load = [" not in page
    assert page.count("canary-result") == 0


@_EXECUTORS
def test_values_are_shown_when_that_is_asked_for(flow: Flow, where: tuple[str, ...], pytester: pytest.Pytester) -> None:
    flow(_SECRETS, "--ff-report=run.html", "--ff-report-values", "--showlocals", *where)
    tasks = tasks_of(pytester.path / "run.html")
    assert tasks["load"]["result"] == "['canary-result']"
    (failed,) = tasks["use"]["attempts"]
    assert "load = ['canary-result']" in failed["error"]
    assert "canary-local" in failed["error"]


def test_times_of_earlier_runs_are_there_to_compare(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("def flow_a(): pass", "--ff-report=run.html")
    assert "before" not in tasks_of(pytester.path / "run.html")["a"]
    flow({}, "--ff-report=run.html")
    assert tasks_of(pytester.path / "run.html")["a"]["before"] >= 0


#: A page that took long to write, as on a machine that stalls, would otherwise come fifty times as long later.
_NO_SHARE = "from pytest_flowforge.plugin import live_page\nlive_page._SHARE = 0\n"

_LOOKS = """
import json, re, time, pathlib
def page():
    return json.loads(re.search('id="facts">(.*?)</script>', pathlib.Path("run.html").read_text(), re.S)[1])
def flow_a():
    assert page()["refresh"] > 0
def flow_b(a):
    # Nothing else happens while this task waits for the page to say that it runs.
    for _ in range(500):
        states = {task["name"]: task["state"] for task in page()["tasks"]}
        if states == {"a": "success", "b": "running"}:
            return
        time.sleep(0.05)
    raise AssertionError(states)
"""


@_EXECUTORS
def test_the_page_is_there_while_the_run_goes_on(flow: Flow, where: tuple[str, ...], pytester: pytest.Pytester) -> None:
    result = flow({"conftest.py": _NO_SHARE, "flow_it.py": _LOOKS}, "--ff-report=run.html", *where)
    result.assert_outcomes(passed=2)
    assert facts_of(pytester.path / "run.html")["ended"]


def test_one_writing_that_took_long_does_not_keep_the_page_back(flow: Flow) -> None:
    stands_still = """
import time
from pytest_flowforge.plugin import live_page
class Page(live_page.Page):
    def render(self, now, refresh):
        if self._gathering.last == self._gathering.began:
            time.sleep(1.5)
        return super().render(now, refresh)
live_page.Page = Page
live_page._MOST = 3.0
"""
    flow({"conftest.py": stands_still, "flow_it.py": _LOOKS}, "--ff-report=run.html").assert_outcomes(passed=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_tasks_may_fork_while_a_page_is_due(flow: Flow) -> None:
    forks = """
import os, warnings
def flow_c(b):
    # What has happened since the page was written is still to be written: something waits for that.
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
    # From 3.12 on Python knows of threads that are in the way.
    assert not found
"""
    looks = _LOOKS.replace("flow_b(a)", "flow_d(c)").replace('{"a": "success", "b": "running"}', "expected")
    looks = looks.replace("def flow_d", "expected = dict.fromkeys('abc', 'success') | {'d': 'running'}\ndef flow_d")
    source = f"{looks}\ndef flow_b(a): pass\n{forks}"
    result = flow({"conftest.py": _NO_SHARE, "flow_it.py": source}, "--ff-report=run.html")
    result.assert_outcomes(passed=4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_two_forks_at_a_time_leave_one_thread_that_waits_for_a_page(flow: Flow) -> None:
    source = """
import threading
from pytest_flowforge.plugin import forks
def flow_a(): pass
def flow_b(a):
    def ours():
        return [thread.name for thread in threading.enumerate() if thread.name == "flowforge-page"]
    before = ours()
    assert before == ["flowforge-page"]
    # As they are called when two threads fork at once.
    for call in (forks._before, forks._before, forks._after, forks._after):
        call()
    assert ours() == before
"""
    # It is due when all is over, however slow the machine is.
    late = "from pytest_flowforge.plugin import live_page\nlive_page._LEAST = 600.0\n"
    flow({"conftest.py": late, "flow_it.py": source}, "--ff-report=run.html").assert_outcomes(passed=2)


def test_a_run_that_breaks_off_leaves_a_page_that_does_not_wait(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("import pytest\ndef flow_a(): pytest.exit('enough')\ndef flow_b(a): pass", "--ff-report=run.html")
    facts = facts_of(pytester.path / "run.html")
    assert facts["refresh"] is None
    assert {task["name"]: task["state"] for task in facts["tasks"]} == {"a": "interrupted", "b": "blocked"}


def test_ctrl_c_in_the_last_writing_leaves_a_page_that_does_not_wait(flow: Flow, pytester: pytest.Pytester) -> None:
    breaks = """
from pytest_flowforge.plugin import live_page
class Page(live_page.Page):
    pressed = False
    def render(self, now, refresh):
        if refresh is None and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().render(now, refresh)
live_page.Page = Page
"""
    result = flow({"conftest.py": breaks, "flow_it.py": "def flow_a(): pass"}, "--ff-report=run.html")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    facts = facts_of(pytester.path / "run.html")
    assert (facts["refresh"], facts["ended"]) == (None, True)


def test_a_page_that_can_not_be_written_does_not_end_the_run(flow: Flow) -> None:
    source = "import pathlib, shutil\ndef flow_a(): shutil.rmtree('out')\ndef flow_b(a): pass"
    result = flow(source, "--ff-report=out/run.html")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*--ff-report out/run.html: FileNotFoundError*nothing more is written there*"])


def test_an_error_of_the_page_is_told_once_and_harms_no_task(flow: Flow) -> None:
    breaks = """
from pytest_flowforge.plugin import live_page
class Page(live_page.Page):
    def render(self, now, refresh):
        if self._gathering.last > self._gathering.began:
            raise KeyError("no such task")
        return super().render(now, refresh)
live_page.Page = Page
"""
    source = "import time\ndef flow_a(): pass\ndef flow_b(a): time.sleep(3)\ndef flow_c(b): pass"
    result = flow({"conftest.py": breaks, "flow_it.py": source}, "--ff-report=run.html", "-W", "error")
    result.assert_outcomes(passed=3)
    assert result.stdout.str().count("--ff-report run.html: KeyError: 'no such task'; nothing more is") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--ff-report=.",), "*that is a folder; name a file*"),
        (("--ff-report-values",), "*--ff-report-values is about a page: add --ff-report FILE*"),
        (("--ff-report=flow_it.py/run.html",), "*--ff-report flow_it.py/run.html: can not be written*"),
    ],
)
def test_what_can_not_be_meant_is_refused(flow: Flow, options: tuple[str, ...], complaint: str) -> None:
    result = flow("def flow_a(): pass", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_what_is_no_file_is_not_replaced(flow: Flow, pytester: pytest.Pytester) -> None:
    os.mkfifo(pytester.path / "run.html")
    result = flow("def flow_a(): pass", "--ff-report=run.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ff-report */run.html: that is no file; name a file"])
    assert stat.S_ISFIFO((pytester.path / "run.html").stat().st_mode)


def test_a_link_stays_one_and_its_end_is_the_page(flow: Flow, pytester: pytest.Pytester) -> None:
    pytester.mkdir("real")
    (pytester.path / "run.html").symlink_to("real/page.html")
    flow("import os\ndef flow_a(): os.chdir('/')", "--ff-report=run.html")
    assert (pytester.path / "run.html").is_symlink()
    assert facts_of(pytester.path / "real" / "page.html")["ended"]
    assert [path.name for path in (pytester.path / "real").iterdir()] == ["page.html"]


def test_a_page_is_refused_where_no_flow_runs(flow: Flow) -> None:
    result = flow("def flow_a(): pass", "--ff-report=run.html", flowforge=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ff-report is about flows*"])


def test_what_only_asks_writes_no_page(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("def flow_a(): pass", "--ff-report=run.html", "--ff-dry-run")
    assert not (pytester.path / "run.html").exists()
