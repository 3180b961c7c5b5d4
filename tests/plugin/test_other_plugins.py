"""Tasks are pytest items, so other plugins work on them: each is used here as its manual says."""

from __future__ import annotations

import html
import json
import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.conftest import words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]


# ---- pytest-timeout --------------------------------------------------------------------------------------------------


def test_timeout_ends_a_task_that_hangs_and_the_run_goes_on(flow: Flow) -> None:
    source = """
        import time
        import pytest

        @pytest.mark.timeout(1)
        def flow_hangs():
            time.sleep(30)

        def flow_after(hangs): ...

        @pytest.mark.depends_on(when="any_failed")
        def flow_alarm(hangs):
            assert hangs.state == "timed out"

        @pytest.mark.retry(1)
        @pytest.mark.timeout(1)
        def flow_hangs_once(attempts=[]):
            attempts.append(1)
            if len(attempts) == 1:
                time.sleep(30)

        def flow_other(hangs_once): ...
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 1, "blocked": 1, "passed": 3, "retried": 1}
    result.stdout.fnmatch_lines(
        [
            ">       time.sleep(30)",
            "E       Failed: Timeout (>1.0s) from pytest-timeout.",
            "1 blocked behind hangs (timed out at flow_it.py:5): after",
        ]
    )


def test_timeout_from_the_ini_file_covers_fixtures_too(flow: Flow) -> None:
    source = """
        import time
        import pytest

        @pytest.fixture
        def slow():
            time.sleep(30)

        def flow_hangs(slow): ...

        @pytest.mark.timeout(60)
        def flow_quick(): ...
    """

    result = flow({"flow_it.py": source, "pytest.ini": "[pytest]\ntimeout = 1\n"})

    assert result.parseoutcomes() == {"errors": 1, "passed": 1}
    result.stdout.fnmatch_lines([">       time.sleep(30)", "*Timeout (>1.0s)*"])


def test_timeout_by_thread_ends_the_process_and_nobody_takes_that_for_success(flow: Flow) -> None:
    source = """
        import time
        import pytest

        @pytest.mark.timeout(1, method="thread")
        def flow_hangs():
            time.sleep(30)
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*Stack of MainThread*", "    time.sleep(30)"])


def test_a_timeout_of_the_session_is_a_stop(flow: Flow) -> None:
    source = """
        import time
        import pytest

        def flow_first():
            time.sleep(60)

        def flow_second(first): ...

        @pytest.mark.depends_on("second", when="always")
        def flow_clean_up(): ...
    """

    # It begins before anything is imported, and the first task has to have begun when it is over.
    result = flow(source, "--session-timeout=5")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 1, "blocked": 1}
    result.stdout.fnmatch_lines(["1 interrupted: first", "*! session-timeout: 5.0 sec exceeded !*"])


# ---- pytest-cov ------------------------------------------------------------------------------------------------------


def test_cov_measures_what_tasks_call(flow: Flow, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_cov")
    files = {
        "shop/__init__.py": "",
        "shop/prices.py": "def net(x):\n    return x / 1.2\n\n\ndef unused(x):\n    return x\n",
        "flow_it.py": """
            from shop.prices import net

            def flow_price():
                return net(12)

            def flow_sum(price):
                return price + net(6)
        """,
    }

    result = flow(files, "--cov=shop", "--cov-report=term-missing", plugins=["pytest_cov.plugin"])

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["shop/prices.py * 4 * 1 * 75% * 6"])
    assert pytester.path.joinpath(".coverage").exists()


# ---- pytest-html and pytest-reportlog --------------------------------------------------------------------------------


_ENDS = """
    import pytest

    def flow_good():
        return 1

    def flow_bad(good):
        print("so far so good")
        raise ValueError("boom")

    def flow_blocked(bad): ...

    def flow_lazy():
        pytest.skip("no need")

    @pytest.mark.retry(1)
    def flow_flaky(attempts=[]):
        attempts.append(1)
        assert len(attempts) == 2
"""


def _rows(report: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a report of pytest-html, by node id; it keeps them as JSON in an attribute."""
    blob = re.search(r'data-jsonblob="([^"]*)"', report.read_text(encoding="utf-8"))
    assert blob
    rows: dict[str, list[dict[str, Any]]] = json.loads(html.unescape(blob[1]))["tests"]
    return {node_id.partition("::flow_")[2]: row for node_id, row in rows.items()}


def test_html_shows_every_task(flow: Flow, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_html")

    result = flow(_ENDS, "--html=report.html", plugins=["pytest_metadata.plugin", "pytest_html.plugin"])

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    rows = _rows(pytester.path / "report.html")
    found = {task: [row["result"] for row in of_task] for task, of_task in rows.items()}
    assert found == {
        "good": ["Passed"],
        "bad": ["Failed"],
        "blocked": ["Error"],
        "lazy": ["Skipped"],
        "flaky": ["Rerun", "Passed"],
    }
    assert "so far so good" in rows["bad"][0]["log"]
    assert "BLOCKED: upstream bad failed" in rows["blocked"][0]["log"]


def test_reportlog_holds_every_end(flow: Flow, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_reportlog")

    flow(_ENDS, "--report-log=log.jsonl", plugins=["pytest_reportlog.plugin"])

    entries = map(json.loads, pytester.path.joinpath("log.jsonl").read_text(encoding="utf-8").splitlines())
    found = [
        (entry["nodeid"].partition("::flow_")[2], entry["when"], entry["outcome"], entry.get("flowforge_state", ""))
        for entry in entries
        if entry["$report_type"] == "TestReport" and (entry["when"] == "call" or entry["outcome"] != "passed")
    ]
    assert found == [
        ("good", "call", "passed", ""),
        ("bad", "call", "failed", ""),
        ("blocked", "setup", "failed", "blocked"),
        ("lazy", "call", "skipped", ""),
        ("flaky", "call", "rerun", "retried"),
        ("flaky", "call", "passed", ""),
    ]


_ALL_ENDS = """
    import os
    import pytest

    def flow_good():
        return [1, 2]

    @pytest.mark.retry(1)
    def flow_flaky(good):
        print("<tried>")
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise ValueError("not yet")

    @pytest.mark.retry(1)
    def flow_bad(good):
        raise ValueError("boom </script>")

    def flow_blocked(bad): ...

    @pytest.mark.map("good")
    def flow_each(good):
        assert good == 1
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["local", "process"])
def test_reports_show_all_kinds_of_ends_and_what_was_reused(
    flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytest.importorskip("pytest_html")
    pytest.importorskip("pytest_reportlog")
    plugins = ["pytest_metadata.plugin", "pytest_html.plugin", "pytest_reportlog.plugin"]
    reports = ("--html=report.html", "--report-log=log.jsonl")

    flow(_ALL_ENDS, *options, *reports, plugins=plugins)

    rows = _rows(pytester.path / "report.html")
    assert {task: [row["result"] for row in of_task] for task, of_task in rows.items()} == {
        "good": ["Passed"],
        "flaky": ["Rerun", "Passed"],
        "bad": ["Rerun", "Failed"],
        "blocked": ["Error"],
        "each[1]": ["Passed"],
        "each[2]": ["Failed"],
    }
    assert all("&lt;tried&gt;" in row["log"] for row in rows["flaky"]), "the output of each attempt is its own"
    assert "attempt 1: ValueError: boom" in rows["bad"][1]["log"]
    ends = _logged(pytester.path / "log.jsonl")
    said = {task: entry["flowforge_state"] for task, entry in ends.items()}
    assert said == {
        "good": "success",
        "flaky": "success",
        "bad": "failed",
        "blocked": "blocked",
        "each[1]": "success",
        "each[2]": "failed",
    }
    assert {task: entry["flowforge_attempts"] for task, entry in ends.items()}["flaky"] == 2

    flow({}, *options, *reports, "--ff-resume", plugins=plugins)

    rows = _rows(pytester.path / "report.html")
    assert [row["result"] for row in rows["good"]] == ["Passed"]
    good = _logged(pytester.path / "log.jsonl")["good"]
    assert good["flowforge_state"] == "reused"
    assert good["flowforge"].startswith("reused from run ")


def _logged(log: Path) -> dict[str, dict[str, Any]]:
    """The properties of each task in a file of pytest-reportlog; checks that a worker is named by what it is."""
    ends = {}
    for entry in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        if entry["$report_type"] != "TestReport":
            continue
        assert entry.get("node", "<WorkerController gw>").startswith("<WorkerController gw")
        if entry["user_properties"]:
            ends[entry["nodeid"].partition("::flow_")[2]] = dict(entry["user_properties"])
    return ends


# ---- pytest-rerunfailures --------------------------------------------------------------------------------------------


def test_reruns_are_in_force_where_there_is_no_retry_mark(flow: Flow) -> None:
    pytest.importorskip("pytest_rerunfailures")
    source = """
        import pytest

        COUNTS = {}

        def fail(name, times):
            COUNTS[name] = COUNTS.get(name, 0) + 1
            if COUNTS[name] <= times:
                raise OSError(f"{name} {COUNTS[name]}")
            return COUNTS[name]

        def flow_theirs():
            return fail("theirs", 2)

        @pytest.mark.retry(1)
        def flow_ours():
            return fail("ours", 1)

        @pytest.mark.retry(1)
        def flow_never_both():
            return fail("never both", 2)

        @pytest.mark.retry(1)
        @pytest.mark.flaky(reruns=5)
        def flow_two_marks():
            return fail("two marks", 2)

        @pytest.mark.flaky(reruns=1)
        def flow_their_mark():
            return fail("their mark", 1)

        @pytest.mark.flaky(reruns=1)
        def flow_their_mark_in_vain():
            return fail("in vain", 2)

        def flow_after(theirs, ours, their_mark):
            assert (theirs, ours, their_mark) == (3, 2, 2)

        def flow_blocked(their_mark_in_vain): ...
    """

    result = flow(source, "--reruns=2", "-v", plugins=["pytest_rerunfailures"])

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown: dict[str, list[str]] = {}
    for task, word in words(result):
        shown.setdefault(task, []).append(word)
    assert shown == {
        "theirs": ["RERUN", "RERUN", "PASSED"],
        "ours": ["RETRY", "PASSED"],
        "never_both": ["RETRY", "FAILED"],
        "two_marks": ["RETRY", "FAILED"],
        "their_mark": ["RERUN", "PASSED"],
        "their_mark_in_vain": ["RERUN", "FAILED"],
        "after": ["PASSED"],
        "blocked": ["BLOCKED"],
    }


def test_reruns_keep_wider_fixtures(flow: Flow, log: Log) -> None:
    pytest.importorskip("pytest_rerunfailures")
    source = """
        import pytest
        from log import log

        ATTEMPTS = []

        @pytest.fixture(scope="session")
        def server():
            log("+ server")
            yield
            log("- server")

        @pytest.fixture(scope="module")
        def table(server):
            log("+ table")
            yield
            log("- table")

        @pytest.fixture
        def row(table):
            log("+ row")
            yield
            log("- row")

        def flow_first(server): ...

        def flow_fails_once(first, row):
            ATTEMPTS.append(1)
            log("attempt")
            assert len(ATTEMPTS) == 2
    """
    other = """
        def flow_other():
            from log import log
            log("other")
    """

    result = flow({"flow_it.py": source, "flow_other.py": other}, "--reruns=2", plugins=["pytest_rerunfailures"])

    assert result.parseoutcomes() == {"passed": 3, "rerun": 1}
    attempt = ["+ row", "attempt", "- row"]
    assert log() == ["+ server", "+ table", *attempt, *attempt, "- table", "other", "- server"]


def test_a_rerun_that_is_called_off_at_the_last_moment_leaves_wider_fixtures_alone(flow: Flow, log: Log) -> None:
    # pytest-rerunfailures then asks for the teardown of the wider scopes without there being a current task.
    pytest.importorskip("pytest_rerunfailures")
    source = """
        import pytest
        from log import log

        @pytest.fixture(scope="session")
        def server():
            log("+ server")
            yield
            log("- server")

        @pytest.fixture
        def bad_end():
            yield
            raise ValueError("not worth another try")

        def flow_bad(server, bad_end):
            raise OSError("worth another try")

        def flow_next(server):
            log("next")
    """

    result = flow(source, "--reruns=2", "--rerun-except=ValueError", plugins=["pytest_rerunfailures"])

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert log() == ["+ server", "next", "- server"]


# ---- pytest-randomly -------------------------------------------------------------------------------------------------


def test_randomly_seeds_but_does_not_shuffle(flow: Flow) -> None:
    pytest.importorskip("pytest_randomly")
    chain = zip("abcdefgh", ["", *"abcdefg"], strict=True)
    tasks = "".join(f"def flow_{name}({needs}): ...\n" for name, needs in chain)
    files = {"flow_chain.py": tasks, "flow_loose.py": "".join(f"def flow_{name}(): ...\n" for name in "qwertyui")}

    runs = [flow(files, "-v", f"--randomly-seed={seed}", plugins=["pytest_randomly"]) for seed in (1, 2)]

    for run in runs:
        assert run.ret == pytest.ExitCode.OK
        assert [task for task, _ in words(run)] == [*"abcdefghqwertyui"]
    runs[1].stdout.fnmatch_lines(["Using --randomly-seed=2"])


# ---- pytest-xdist ----------------------------------------------------------------------------------------------------


_HOME = """
    import os
    from pathlib import Path

    def flow_a():
        Path("home").write_text(os.environ.get("PYTEST_XDIST_WORKER", "here"))
"""


@pytest.mark.parametrize(
    ("options", "home"),
    [
        pytest.param(["-n", "1"], "gw0", id="-n"),
        pytest.param(["-n", "2", "-n", "0"], "here", id="taken back"),
        pytest.param(["--dist", "worksteal", "--tx", "popen"], "gw0", id="--tx"),
        pytest.param(["--ff-executor", "process", "--ff-workers", "1"], "gw0", id="process"),
        pytest.param(["-n", "1", "--ff-executor", "process", "--ff-workers", "1"], "gw0", id="both"),
        pytest.param(["-o", "flowforge_executor=process", "-n", "0"], "here", id="not now"),
        pytest.param(["-o", "flowforge_executor=thread", "-n", "1"], "gw0", id="command line first"),
    ],
)
def test_xdist_runs_tasks_when_it_is_asked_to(
    flow: Flow, pytester: pytest.Pytester, options: list[str], home: str
) -> None:
    result = flow(_HOME, *options)

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1}
    assert pytester.path.joinpath("home").read_text(encoding="utf-8") == home


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-n", "2", "--ff-executor", "thread"],
            "-n (or --tx) means the executor process, *--ff-executor thread*-n 0*",
        ),
        (["-n", "2", "--ff-executor", "local"], "-n (or --tx) means the executor process, *--ff-executor local*-n 0*"),
        (["-n", "0", "--ff-executor", "process"], "--ff-executor process and -n 0 contradict each other*"),
        (["-n", "2", "--ff-workers", "3"], "--ff-workers 3 and -n 2 contradict each other: leave out one of them"),
        (["--tx", "3*popen", "--dist", "load", "--ff-workers", "2"], "--ff-workers 2 and -n 3 contradict each other*"),
        (["-n", "2", "--dist", "loadscope"], "--dist loadscope: the graph says which task goes where*--dist load"),
        (["-n", "2", "--dist", "each"], "--dist each: the graph says which task goes where*"),
        (["--ff-workers", "2"], "--ff-workers 2: local runs one task at a time; add --ff-executor thread or process"),
        (["--ff-workers", "0", "--ff-executor", "thread"], "--ff-workers: '0' is no number of tasks*auto"),
        (
            ["--ff-executor", "process", "-p", "no:xdist.plugin"],
            "--ff-executor process needs pytest-xdist*(-p no:xdist)",
        ),
        (["--ff-executor", "swarm"], "--ff-executor swarm: there is no such executor; use local, thread, process,*"),
        (["--ff-executor", "no.such:pool"], "--ff-executor no.such:pool: No module named*package.module:factory*"),
        (["--ff-executor", "os:no_such"], "--ff-executor os:no_such: *no_such*write package.module:factory*"),
        (
            ["--ff-executor", "builtins:list", "--ff-workers", "2"],
            "--ff-executor builtins:list: called with 2 it raised TypeError: 'int' object is not iterable",
        ),
        (
            ["--ff-executor", "builtins:str", "--ff-workers", "2"],
            "--ff-executor builtins:str made '2', which has no submit() and shutdown()*",
        ),
    ],
)
def test_executors_and_options_that_contradict_each_other_are_refused(
    flow: Flow, options: list[str], message: str
) -> None:
    result = flow("def flow_a(): ...", *options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = (line for line in result.stderr.lines if line.startswith("ERROR: "))
    assert fnmatch(error, f"ERROR: {message}")


# ---- all of them -----------------------------------------------------------------------------------------------------


def test_all_plugins_together(flow: Flow, pytester: pytest.Pytester) -> None:
    plugins = {
        "pytest_cov": "pytest_cov.plugin",
        "pytest_metadata": "pytest_metadata.plugin",
        "pytest_html": "pytest_html.plugin",
        "pytest_rerunfailures": "pytest_rerunfailures",
        "pytest_randomly": "pytest_randomly",
    }
    for name in plugins:
        pytest.importorskip(name)
    options = ["--cov", "--html=report.html", "--junitxml=junit.xml", "--reruns=1", "--timeout=30"]

    result = flow(_ENDS, *options, plugins=[*plugins.values()])

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = result.parseoutcomes()
    expected = {"passed": 2, "failed": 1, "blocked": 1, "skipped": 1, "retried": 1, "rerun": 1}
    assert {key: found.get(key) for key in expected} == expected
    assert len(_rows(pytester.path / "report.html")) == 5
