"""Events for those who are no plugin: ``--ff-events FILE``, the logger of the run, and hooks that hear of growth."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Begin, Flow

    Log = Callable[[], list[str]]

_STORY = """
    import pytest

    @pytest.mark.retry(1, delay=0.1)
    def flow_flaky():
        from pathlib import Path
        tried = Path("tried")
        if not tried.exists():
            tried.touch()
            raise ValueError("not yet")
        return ["a", "b"]

    @pytest.mark.map("flaky")
    def flow_each(flaky): ...

    @pytest.mark.depends_on("each")
    def flow_bad():
        raise ValueError("boom")

    def flow_victim(bad): ...
"""


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def _short(event: dict[str, Any]) -> str:
    task = event.get("task", "").partition("::flow_")[2]
    return " ".join(str(word) for word in (event["event"], task, event.get("state", "")) if word)


@pytest.mark.parametrize("how", [(), ("--ff-executor", "thread"), ("-n", "2")], ids=["local", "thread", "process"])
def test_each_event_is_a_line_in_order(flow: Flow, pytester: pytest.Pytester, how: tuple[str, ...]) -> None:
    result = flow(_STORY, "--ff-events", "out/events.jsonl", *how)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    events = events_in(pytester.path / "out/events.jsonl")
    assert [_short(event) for event in events if "each[" not in event.get("task", "")] == [
        "run_started",
        "task_started flaky",
        "task_retrying flaky retrying",
        "task_started flaky",
        "task_finished flaky success",
        "task_expanded each",
        "task_started each",
        "task_finished each success",
        "task_started bad",
        "task_finished bad failed",
        "task_finished victim blocked",
        "run_finished",
    ]
    first, last = events[0], events[-1]
    assert first["format"] == 1
    assert first["tasks"] == 4
    assert first["run"]
    retried = next(event for event in events if event["event"] == "task_retrying")
    assert (retried["attempt"], retried["because"], retried["kind"]) == (1, "ValueError: not yet", "error")
    assert 0 < retried["delay"] <= 0.1
    expanded = next(event for event in events if event["event"] == "task_expanded")
    assert [name.partition("::flow_")[2] for name in expanded["instances"]] == ["each[a]", "each[b]"]
    blocked = next(event for event in events if event.get("state") == "blocked")
    assert blocked["cause"].endswith("::flow_bad")
    assert last["counts"] == {"success": 4, "failed": 1, "blocked": 1}
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


def test_events_can_be_followed_while_the_run_goes_on(begin: Begin, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        flow_it="""
        import json, time
        from pathlib import Path

        def flow_a(): ...

        def flow_b(a):
            events = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
            assert [event["event"] for event in events] == [
                "run_started", "task_started", "task_finished", "task_started"
            ]
        """
    )
    run = begin("--ff-events", "events.jsonl")

    assert run.end() == 0, run.output


def test_a_file_that_can_not_be_written_is_named_before_anything_runs(flow: Flow, log: Log) -> None:
    result = flow("from log import log\ndef flow_a(): log('ran')", "--ff-events", "flow_it.py/x")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert log() == []
    result.stderr.fnmatch_lines(["*--ff-events flow_it.py/x: can not be written (*); name another place"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")  # noqa: PTH110
def test_a_disk_that_is_full_is_named_once_and_the_run_goes_on(flow: Flow) -> None:
    result = flow("def flow_a(): ...\ndef flow_b(a): ...", "--ff-events", "/dev/full")

    assert result.ret == pytest.ExitCode.OK
    assert result.stdout.str().count("--ff-events /dev/full: OSError") == 1


def test_what_another_run_has_left_in_the_file_is_gone_when_this_one_does_not_begin(
    flow: Flow, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("events.jsonl").write_text("old\n", encoding="ascii")

    assert flow("def flow_a(b): ...", "--ff-events", "events.jsonl").ret == pytest.ExitCode.USAGE_ERROR
    assert pytester.path.joinpath("events.jsonl").read_text(encoding="ascii") == ""


def test_who_only_asks_leaves_the_file_alone(flow: Flow, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("events.jsonl").write_text("old\n", encoding="ascii")

    flow("def flow_a(): ...", "--ff-events", "events.jsonl", "--ff-dry-run")
    assert pytester.path.joinpath("events.jsonl").read_text(encoding="ascii") == "old\n"


def test_the_run_logs_with_task_and_attempt_in_each_record(flow: Flow, pytester: pytest.Pytester) -> None:
    result = flow(
        _STORY,
        "--log-file=run.log",
        "--log-file-level=INFO",
        "--log-file-format=%(levelname)s %(name)s|%(task)s|%(attempt)s|%(message)s",
        "-o",
        "log_level=INFO",
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = pytester.path.joinpath("run.log").read_text(encoding="utf-8").splitlines()
    assert all(" pytest_flowforge.run|" in line for line in lines)
    assert "INFO pytest_flowforge.run||0|run begins: 4 tasks" in lines
    assert (
        "WARNING pytest_flowforge.run|flow_it.py::flow_flaky|1|flow_it.py::flow_flaky: retrying: ValueError: not yet"
        in lines
    )
    assert "INFO pytest_flowforge.run|flow_it.py::flow_flaky|2|flow_it.py::flow_flaky begins, attempt 2" in lines
    assert "ERROR pytest_flowforge.run|flow_it.py::flow_bad|1|flow_it.py::flow_bad: failed: ValueError: boom" in lines
    assert lines[-1] == "INFO pytest_flowforge.run||0|run ends"


def test_the_log_of_the_run_makes_the_terminal_obey_nothing(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("n", [1], ids=["\\x1b[2J"])
        def flow_a(n):
            raise ValueError("\\x1b]0;title\\x07")

        def flow_b():
            pytest.exit("\\x1b[2J")
    """
    flow(source, "--log-file=run.log", "--log-file-level=INFO", "-o", "log_level=INFO")

    written = pytester.path.joinpath("run.log").read_text(encoding="utf-8")
    assert r"failed: ValueError: \x1b]0;title\x07" in written
    assert r"run ends: " in written
    assert "\x1b" not in written


def test_a_handler_of_the_log_that_raises_is_named_once_and_harms_no_run(flow: Flow) -> None:
    conftest = """
        import logging

        class Broken(logging.Handler):
            def emit(self, record):
                raise RuntimeError("no connection")

        logging.getLogger("pytest_flowforge.run").addHandler(Broken(logging.WARNING))
    """
    result = flow({"conftest.py": conftest, "flow_it.py": _STORY})

    result.stdout.fnmatch_lines(["*1 failed, 3 passed, 1 retried, 1 blocked in *"])
    assert result.stdout.str().count("logger pytest_flowforge.run: RuntimeError: no connection; nothing more") == 1


def test_what_the_run_logs_is_no_output_of_a_task_and_none_of_the_terminal(flow: Flow) -> None:
    result = flow(_STORY, "-p", "no:logging")
    assert "flow_flaky: retrying" not in result.stdout.str() + result.stderr.str()

    assert "Captured log" not in flow(_STORY, "--log-level=DEBUG").stdout.str()


def test_listeners_hear_of_tasks_that_are_added(flow: Flow, log: Log) -> None:
    listener = """
        from log import log

        def pytest_flowforge_task_expanded(task, instances):
            log(f"{task.label}: {' '.join(instance.label for instance in instances)}")
    """
    flow({"conftest.py": listener, "flow_it.py": _STORY})

    assert log() == ["each: each[a] each[b]"]
