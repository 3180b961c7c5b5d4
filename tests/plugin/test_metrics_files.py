"""A run leaves its numbers behind, on every executor and however it ends."""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.plugin.conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.conftest import Begin, Flow

_POOL = ("--ff-executor", "concurrent.futures:ProcessPoolExecutor", "--ff-workers", "2")
_EXECUTORS = pytest.mark.parametrize(
    "options",
    [(), ("--ff-executor", "thread", "--ff-workers", "2"), ("-n", "2"), _POOL],
    ids=["local", "thread", "process", "pool"],
)

_FLOW = """
    import asyncio
    import os
    import pytest

    def flow_count():
        return sum(range(3_000_000))

    @pytest.mark.retry(1)
    def flow_shaky(count):
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise ValueError("not yet")
        return "x" * 10_000

    async def flow_waits(count):
        await asyncio.sleep(0.01)

    def flow_parts(shaky):
        return [1, 2]

    @pytest.mark.map("parts")
    def flow_part(parts):
        return parts

    @pytest.mark.depends_on("waits")
    def flow_bad(part):
        assert part == {}

    def flow_blocked(bad):
        pass
"""


def numbers(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert facts["format"] == 1
    return facts


def tasks_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["id"].partition("::flow_")[2]: task for task in facts["tasks"]}


@_EXECUTORS
def test_the_numbers_of_a_run(flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    result = flow(_FLOW, *options, "--ff-metrics=run.json", "--ff-metrics", "sub/run.prom")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    facts = numbers(pytester.path / "run.json")
    run, tasks = facts["run"], tasks_of(facts)
    assert run["ended"]
    assert run["states"] == {"success": 7, "failed": 1, "blocked": 1}
    shaky, count = tasks["shaky"], tasks["count"]
    assert [(one["number"], one["state"]) for one in shaky["attempts"]] == [(1, "retrying"), (2, "success")]
    assert shaky["result_bytes"] >= 10_000
    assert count["cpu"] > 0
    assert count["seconds"] >= count["cpu"] * 0.5
    assert tasks["blocked"]["attempts"] == tasks["part"]["attempts"] == []
    assert len(tasks["part[1]"]["attempts"]) == 1
    workers = {attempt["worker"] for task in tasks.values() for attempt in task["attempts"]}
    assert {one["name"] for one in run["workers"]} == workers
    assert None not in workers
    if options == ("-n", "2"):
        assert workers <= {"gw0", "gw1"}
    if not options:
        assert workers == {"main"}
    if "thread" in options:
        assert tasks["waits"]["attempts"][0]["worker"] == "event loop"
        assert tasks["waits"]["cpu"] is None, "the loop is everybody's"
        assert all(task["peak_memory"] is None for task in tasks.values()), "and so is the memory"
    # The chain that nothing else was faster or slower than.
    path = [(step["task"].partition("::flow_")[2], step["attempt"]) for step in run["critical_path"]]
    assert path[0] == ("count", 1)
    assert path[-1] == ("bad", 1)
    assert sum(step["wait"] + step["seconds"] for step in run["critical_path"]) <= run["makespan"] + 1e-3
    assert all(0 <= one["utilization"] <= 1 for one in run["workers"])
    text = (pytester.path / "sub" / "run.prom").read_text(encoding="utf-8")
    samples = {sample.labels["task"]: sample for family in text_string_to_metric_families(text)
               for sample in family.samples if sample.name == "flowforge_task_attempts"}  # fmt: skip
    assert samples["flow_it.py::flow_shaky"].value == 2
    assert [path.name for path in (pytester.path / "sub").iterdir()] == ["run.prom"], "nothing is left beside it"


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
@pytest.mark.parametrize("options", [(), ("-n", "1"), _POOL], ids=["local", "process", "pool"])
def test_the_memory_of_a_task_that_has_a_process_to_itself(
    flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    import resource  # noqa: PLC0415 - not there on Windows

    # Linux takes what this process has used for the past of those that it starts.
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 200_000_000
    files = f"""
        def flow_small():
            pass

        def flow_large(small):
            return len(bytearray({size}))

        def flow_after(large):
            pass
    """
    flow(files, *options, "--ff-metrics=run.json")
    tasks = tasks_of(numbers(pytester.path / "run.json"))
    assert tasks["large"]["peak_memory"] >= size
    assert tasks["after"]["peak_memory"] is None or tasks["after"]["peak_memory"] < size


@_EXECUTORS
def test_a_run_that_is_interrupted_leaves_its_numbers(
    flow: Flow, begin: Begin, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    files = """
        import pathlib
        import time

        def flow_first():
            return 1

        def flow_long(first):
            pathlib.Path("begun").touch()
            for _ in range(600):
                time.sleep(0.1)
    """
    flow(files, "--ff-validate")
    run = begin(*options, "--ff-metrics=run.json", "--ff-events=events.jsonl")
    events = pytester.path / "events.jsonl"
    wait_until((pytester.path / "begun").exists)
    # A worker may have begun it before the run has heard of that.
    wait_until(lambda: events.exists() and len(re.findall(r'"task_started".*flow_long', events.read_text())) == 1)
    run.kill_all(signal.SIGINT)
    assert run.end() == pytest.ExitCode.INTERRUPTED
    tasks = tasks_of(numbers(pytester.path / "run.json"))
    assert tasks["first"]["state"] == "success"
    assert tasks["long"]["state"] == "interrupted"


def test_a_run_that_breaks_leaves_its_numbers(flow: Flow, pytester: pytest.Pytester) -> None:
    files = {
        "flow_it.py": "def flow_first(): pass\n\ndef flow_second(first): pass\n",
        "conftest.py": """
            def pytest_runtest_logreport(report):
                if report.nodeid.endswith("second"):
                    raise ValueError("a plugin is broken")
        """,
    }
    result = flow(files, "--ff-metrics=run.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert tasks_of(numbers(pytester.path / "run.json"))["first"]["state"] == "success"


def test_a_crashed_attempt_has_its_worker(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("import os\n\ndef flow_it():\n    os._exit(3)\n", "-n", "1", "--ff-metrics=run.json")
    (attempt,) = tasks_of(numbers(pytester.path / "run.json"))["it"]["attempts"]
    assert (attempt["state"], attempt["worker"], attempt["cpu"]) == ("crashed", "gw0", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.txt", "*--ff-metrics run.txt: the name says which format is meant, and has to end with .json or .prom"),
        ("flow_it.py/run.json", "*--ff-metrics flow_it.py/run.json: can not be written (*); name another place"),
        ("folder.json", "*--ff-metrics */folder.json: that is a folder; name a file"),
    ],
)
def test_a_file_that_can_not_be_written_is_refused_before_the_run(
    flow: Flow, pytester: pytest.Pytester, name: str, message: str
) -> None:
    pytester.mkdir("folder.json")
    files = "def flow_it():\n    open('ran', 'w').close()\n"
    result = flow(files, "--ff-metrics", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not (pytester.path / "ran").exists()


def test_an_earlier_file_is_replaced_and_a_link_stays_one(flow: Flow, pytester: pytest.Pytester) -> None:
    (pytester.path / "real.json").write_text("old", encoding="utf-8")
    (pytester.path / "run.json").symlink_to("real.json")
    # A task may go elsewhere.
    flow("import os\n\ndef flow_it():\n    os.chdir('/')\n", "--ff-metrics=run.json")
    assert (pytester.path / "run.json").is_symlink()
    assert numbers(pytester.path / "real.json")["run"]["states"] == {"success": 1}


def test_a_folder_that_is_gone_by_then_is_said(flow: Flow) -> None:
    files = "import shutil\n\ndef flow_it():\n    shutil.rmtree('out')\n"
    result = flow(files, "--ff-metrics=out/run.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["--ff-metrics */out/run.json: could not be written (No such file or directory)"])


def test_it_is_about_flows(flow: Flow) -> None:
    result = flow("", "--ff-metrics=run.json", flowforge=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ff-metrics is about flows, and this session runs tests: add --flowforge"])
