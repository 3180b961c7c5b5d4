"""pytest's own options mean for flows what they mean for tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.conftest import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]


#: One task of each kind of end.
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

    def flow_carried(lazy): ...

    @pytest.mark.xfail(reason="known")
    def flow_expected():
        assert False

    @pytest.mark.retry(2)
    def flow_flaky(attempts=[]):
        attempts.append(1)
        assert len(attempts) == 3

    @pytest.mark.retry(1)
    def flow_hopeless():
        raise KeyError("never")
"""

#: A pipeline with branches, a class, and something beside it.
_PIPELINE = """
    import pytest

    method = pytest.mark.parametrize("method", ["svm", "tree"])

    def flow_extract():
        return 1

    @pytest.mark.nightly
    def flow_clean(extract): ...

    @method
    def flow_fit(method, clean): ...

    @method
    def flow_score(method, fit): ...

    class FlowReport:
        def flow_table(self, score): ...

        def flow_plot(self, table): ...

    def flow_loose(): ...
"""

_INI = "[pytest]\nmarkers = nightly: by night\n"


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_junitxml_has_one_testcase_for_each_task(flow: Flow, pytester: pytest.Pytester) -> None:
    result = flow(_ENDS, "--junitxml=junit.xml", "-o", "junit_logging=all")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    cases = {
        case.attrib["name"].removeprefix("flow_"): [
            (child.tag, child.get("message")) for child in case if not child.tag.startswith(("system-", "properties"))
        ]
        for case in suite
    }
    assert len(cases) == len(suite) == 8
    assert cases == {
        "good": [],
        "bad": [("failure", "ValueError: boom")],
        "blocked": [("error", 'failed on setup with "BLOCKED: upstream bad failed"')],
        "lazy": [("skipped", "no need")],
        "carried": [("skipped", "upstream lazy was skipped: no need")],
        "expected": [("skipped", "known")],
        "flaky": [],
        "hopeless": [("failure", "KeyError: 'never'")],
    }
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "8", "failures": "2", "errors": "1", "skipped": "3"}


def test_durations_name_tasks(flow: Flow) -> None:
    source = """
        import time

        def flow_slow():
            time.sleep(0.5)

        def flow_quick(slow): ...
    """

    result = flow(source, "--durations=1")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*slowest 1 durations*", "*s call *flow_it.py::flow_slow"])


def test_how_much_is_said(flow: Flow) -> None:
    # Nothing but what can be seen while it runs: -s shows what tasks print, --tb=no no traceback.
    verbose = flow(_ENDS, "-v", "--tb=no")
    quiet = flow({}, "-q", "--tb=short")
    live = flow({}, "-s", "-k", "bad", "--tb=no")
    silent = flow({}, "-p", "no:terminal")

    assert {run.ret for run in (verbose, quiet, live, silent)} == {pytest.ExitCode.TESTS_FAILED}
    assert ("blocked", "BLOCKED") in words(verbose)
    verbose.stdout.no_fnmatch_line("*raise ValueError*")
    verbose.stdout.no_fnmatch_line("so far so good")
    assert words(quiet) == []
    assert quiet.stdout.lines[0].split()[0] == ".FBssxRR.RF"
    quiet.stdout.fnmatch_lines(["flow_it.py:9: in flow_bad", "*so far so good*"])
    live.stdout.fnmatch_lines(["*so far so good*"])
    live.stdout.no_fnmatch_line("*raise ValueError*")
    assert silent.stdout.str() == ""


# ---- stopping early --------------------------------------------------------------------------------------------------


_MANY_FAILURES = """
    import pytest
    from log import log

    def flow_bad():
        assert False

    def flow_victim(bad): ...

    def flow_other_victim(bad): ...

    def flow_fine():
        log("fine")

    def flow_worse(fine):
        assert False

    def flow_next():
        log("next")

    def flow_last(next):
        log("last")

    @pytest.mark.depends_on("last", when="always")
    def flow_clean_up(upstream):
        log(f"clean up: last is {upstream['last'].state}")

    @pytest.mark.depends_on("last", when="all_done")
    def flow_summary():
        log("summary")
"""


def test_exitfirst_starts_nothing_new_but_clean_up(flow: Flow, log: Log) -> None:
    result = flow(_MANY_FAILURES, "-x")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert log() == ["clean up: last is pending"]
    assert result.parseoutcomes() == {"failed": 1, "blocked": 2, "passed": 1}
    result.stdout.fnmatch_lines(
        [
            "2 blocked behind bad *: victim, other_victim",
            "5 not started (stopping after 1 failures): fine, worse, next, last, summary",
            "*! stopping after 1 failures !*",
        ]
    )


def test_maxfail_counts_failures_and_not_their_victims(flow: Flow, log: Log) -> None:
    result = flow(_MANY_FAILURES, "--maxfail=2")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert log() == ["fine", "clean up: last is pending"]
    assert result.parseoutcomes() == {"failed": 2, "blocked": 2, "passed": 2}
    result.stdout.fnmatch_lines(["3 not started (stopping after 2 failures): next, last, summary"])


def test_an_attempt_that_is_followed_by_another_is_no_first_failure(flow: Flow) -> None:
    result = flow(_ENDS, "-x", "-k", "flaky or hopeless or lazy", "-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert words(result) == [
        ("lazy", "SKIPPED"),
        *[("flaky", "RETRY")] * 2,
        ("flaky", "PASSED"),
        ("hopeless", "RETRY"),
        ("hopeless", "FAILED"),
    ]


# ---- the debugger ----------------------------------------------------------------------------------------------------


def test_pdb_opens_where_a_task_fails(flow: Flow) -> None:
    source = """
        def flow_extract():
            return [40, 2]

        def flow_add(extract):
            total = sum(extract)
            raise ValueError("boom")

        def flow_report(add): ...

        def flow_other(): ...
    """

    result = flow(source, "--pdb", stdin="print('total', total)\nc\n")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "blocked": 1}
    result.stdout.fnmatch_lines(["*entering PDB*", '-> raise ValueError("boom")', "*total 42", "*PDB continue*"])


def test_leaving_the_debugger_ends_the_run_after_its_clean_up(flow: Flow, log: Log) -> None:
    result = flow(_MANY_FAILURES, "--pdb", stdin="q\n")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert log() == ["clean up: last is pending"]
    result.stdout.fnmatch_lines(["*! _pytest.outcomes.Exit: Quitting debugger !*"])


@pytest.mark.parametrize("options", [[], ["--ff-retries", "2"], ["--ff-executor", "thread"]], ids=" ".join)
def test_with_pdb_nothing_is_tried_again(flow: Flow, options: list[str]) -> None:
    result = flow(_ENDS, "--pdb", "-k", "flaky", *options, stdin="c\nc\n")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 1, "deselected": 7}
    assert result.stdout.str().count("entering PDB") == 1
    result.stdout.fnmatch_lines(["*= flowforge =*", "--pdb: failed tasks are not tried again"])


def test_with_pdb_nothing_is_said_where_nothing_would_be_tried_again(flow: Flow) -> None:
    result = flow("def flow_fails(): assert False", "--pdb", stdin="c\n")

    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.no_fnmatch_line("*tried again*")


def test_trace_stops_at_the_start_of_a_task_and_keeps_its_result(flow: Flow) -> None:
    source = """
        def flow_extract():
            return 42

        def flow_load(extract):
            assert extract == 42
    """

    result = flow(source, "--trace", stdin="c\nc\n")

    assert result.stdout.str().count("PDB runcall") == 2
    assert result.ret == pytest.ExitCode.OK


# ---- the cache -------------------------------------------------------------------------------------------------------


_MENDED = """
    import os
    import pytest

    def flow_first(): ...

    def flow_extract(): ...

    @pytest.mark.priority(-1)
    def flow_broken(extract):
        assert os.path.exists("mended")

    def flow_after(broken): ...

    def flow_other(): ...
"""


def test_lf_runs_what_failed_or_was_blocked_and_what_that_needs(flow: Flow, pytester: pytest.Pytester) -> None:
    first = flow(_MENDED)
    again = flow({}, "--lf", "-v")
    pytester.path.joinpath("mended").touch()
    mended = flow({}, "--lf", "-v")
    all_of_them = flow({}, "--lf")

    assert first.parseoutcomes() == {"passed": 3, "failed": 1, "blocked": 1}
    assert words(again) == [("extract", "PASSED"), ("broken", "FAILED"), ("after", "BLOCKED")]
    again.stdout.fnmatch_lines(
        ["run-last-failure: rerun previous 2 failures", "flowforge: 1 task not asked for but needed: extract"]
    )
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    assert words(mended) == [("extract", "PASSED"), ("broken", "PASSED"), ("after", "PASSED")]
    assert mended.ret == pytest.ExitCode.OK
    assert all_of_them.parseoutcomes() == {"passed": 5}


def test_ff_and_nf_keep_to_the_graph(flow: Flow) -> None:
    flow(_MENDED)
    failed_first = flow({}, "--ff", "-v")
    new_first = flow({}, "--nf", "-v")

    for run in (failed_first, new_first):
        order = [task for task, _ in words(run)]
        assert sorted(order) == ["after", "broken", "extract", "first", "other"]
        assert order.index("extract") < order.index("broken") < order.index("after")


def test_stepwise_is_refused(flow: Flow, log: Log) -> None:
    # It goes on behind the last failure it has seen, and the last it sees is a blocked task.
    result = flow("from log import log\ndef flow_a(): log('ran')", "--stepwise")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --stepwise goes by the order of a file*use -x, and then --lf"])
    assert log() == []


def test_without_a_cache(flow: Flow, pytester: pytest.Pytester) -> None:
    result = flow(_ENDS, "-p", "no:cacheprovider")

    assert result.parseoutcomes()["blocked"] == 1
    assert not pytester.path.joinpath(".pytest_cache").exists()


# ---- strictness ------------------------------------------------------------------------------------------------------


def test_nothing_warns(flow: Flow) -> None:
    source = """
        import asyncio
        import pytest
        from pytest_flowforge import depends_on

        def flow_value():
            return {"any": "thing"}

        async def flow_coroutine(value):
            await asyncio.sleep(0)
            return value

        @pytest.mark.retry(1, delay=0.0, on=OSError)
        @pytest.mark.priority(1)
        @pytest.mark.exclusive
        @pytest.mark.pool("gpu")
        @pytest.mark.timeout(30)
        @pytest.mark.parametrize("n", [1, 2])
        @pytest.mark.depends_on("value", when="all_done")
        def flow_marks(n, upstream, tmp_path, capsys, monkeypatch, request):
            return n

        class FlowClass:
            async def flow_method(self, marks):
                return marks

        @depends_on(flow_value)
        def flow_decorated():
            return 1

        def flow_skipped():
            pytest.skip("no need")

        def flow_carried(skipped): ...

        @pytest.mark.xfail
        def flow_expected():
            assert False
    """

    strict = ["--strict-markers", "--strict-config", "-W", "error"]
    result = flow(source, *strict, "--ff-pool", "gpu=1")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 6, "skipped": 2, "xfailed": 1}


# ---- choosing --------------------------------------------------------------------------------------------------------


_UP_TO_FIT = ["extract", "clean", "fit[svm]", "fit[tree]"]

_CHOICES = {
    "-k score": [*_UP_TO_FIT, "score[svm]", "score[tree]"],
    "-k fit and svm": ["extract", "clean", "fit[svm]"],
    "-m nightly": ["extract", "clean"],
    "flow_it.py::flow_score[tree]": ["extract", "clean", "fit[tree]", "score[tree]"],
    "flow_it.py::flow_fit flow_it.py::flow_loose": [*_UP_TO_FIT, "loose"],
    "flow_it.py::FlowReport::flow_table": [*_UP_TO_FIT, "score[svm]", "score[tree]", "table"],
    "flow_it.py::FlowReport --deselect flow_it.py::FlowReport::flow_plot": [
        *_UP_TO_FIT, "score[svm]", "score[tree]", "table",
    ],
    "--deselect flow_it.py::flow_score --deselect flow_it.py::FlowReport": [*_UP_TO_FIT, "loose"],
}  # fmt: skip


@pytest.mark.parametrize("choice", _CHOICES)
def test_a_choice_brings_what_it_needs(choice: str, flow: Flow) -> None:
    option, _, rest = choice.partition(" ")
    args = [option, rest] if option in {"-k", "-m"} else choice.split()

    result = flow({"flow_it.py": _PIPELINE, "pytest.ini": _INI}, "-v", *args)

    assert words(result) == [(task, "PASSED") for task in _CHOICES[choice]]
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["deselected"] == 9 - len(_CHOICES[choice])


def test_a_choice_that_nothing_meets(flow: Flow) -> None:
    nothing = flow({"flow_it.py": _PIPELINE, "pytest.ini": _INI}, "-k", "nothing_such")
    unknown = flow({}, "flow_it.py::flow_scores")

    assert nothing.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert unknown.ret == pytest.ExitCode.USAGE_ERROR
    unknown.stderr.fnmatch_lines(["ERROR: not found: flow_it.py::flow_scores *did you mean flow_score*"])


def test_collect_only_shows_the_tasks_and_runs_none(flow: Flow, log: Log) -> None:
    source = """
        from log import log

        def flow_last(first):
            log("ran")

        def flow_first():
            log("ran")

        def flow_other(): ...
    """

    short = flow(source, "--collect-only", "-q", "-k", "last")
    long = flow({}, "--co")

    assert short.ret == long.ret == pytest.ExitCode.OK
    # In an order they can run in, with what comes along.
    short.stdout.fnmatch_lines(["flow_it.py::flow_first", "flow_it.py::flow_last"])
    short.stdout.no_fnmatch_line("flow_it.py::flow_other")
    long.stdout.fnmatch_lines(["*<Function flow_first>", "*<Function flow_last>", "*3 tests collected*"])
    assert log() == []


# ---- fixtures and files ----------------------------------------------------------------------------------------------


_WITH_FIXTURES = """
    import pytest
    from log import log

    @pytest.fixture(scope="module")
    def server():
        log("server")

    def flow_first(server):
        log("first")
        return 1

    def flow_second(first, server):
        log("second")
"""


def test_setup_show(flow: Flow) -> None:
    result = flow({"log.py": "log = print", "flow_it.py": _WITH_FIXTURES}, "--setup-show")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "*SETUP    M server",
            "*flow_it.py::flow_first (fixtures used: server)*",
            "*flow_it.py::flow_second (fixtures used: first, server)*",
            "*TEARDOWN M server",
        ]
    )


@pytest.mark.parametrize(("option", "ran"), [("--setup-only", ["server"]), ("--setup-plan", [])])
def test_looking_at_set_ups_runs_no_task_and_is_no_error(option: str, ran: list[str], flow: Flow, log: Log) -> None:
    result = flow(_WITH_FIXTURES, option)

    assert log() == ran
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*SETUP    M server", "*flow_it.py::flow_second (*)"])


_BROKEN_FILE = {
    "flow_broken.py": "import nothing_such_anywhere\n\ndef flow_table(): ...\n",
    "flow_fine.py": "from log import log\n\ndef flow_a(): log('a')\n\ndef flow_b(a): log('b')\n",
}


def test_a_file_that_can_not_be_imported_stops_everything_unless_told_otherwise(flow: Flow, log: Log) -> None:
    stopped = flow(_BROKEN_FILE)
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    assert log() == []
    stopped.stdout.fnmatch_lines(["E   ModuleNotFoundError: No module named 'nothing_such_anywhere'"])

    continued = flow({}, "--continue-on-collection-errors")
    assert continued.ret == pytest.ExitCode.TESTS_FAILED
    assert continued.parseoutcomes() == {"passed": 2, "errors": 1}
    assert log() == ["a", "b"]


def test_what_depends_on_a_file_that_can_not_be_imported_never_runs(flow: Flow, log: Log) -> None:
    dependent = """
        import pytest
        from log import log

        @pytest.mark.depends_on("flow_broken.py::table")
        def flow_order_only():
            log("without the table")

        def flow_downstream(order_only):
            log("without the table")
    """

    result = flow({**_BROKEN_FILE, "flow_dependent.py": dependent}, "--continue-on-collection-errors")

    assert "without the table" not in log()
    assert result.ret not in {pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR}
    # One file is one error, and the way our plugin has found it is nobody's business.
    assert result.stdout.str().count("No module named 'nothing_such_anywhere'") == 1
    result.stdout.no_fnmatch_line("*FileNotCollected*")


def test_a_line_a_task_says_how_long_it_took_and_lists_do_not(flow: Flow) -> None:
    source = """
        import pytest, time

        @pytest.mark.retry(1)
        def flow_bad():
            time.sleep(0.05)
            raise ValueError

        def flow_a():
            time.sleep(0.2)
    """
    for how in ((), ("--ff-executor", "thread"), ("-n", "1")):
        result = flow(source, "-v", "--tb=no", *how)
        lines = result.stdout.lines
        assert any(re.search(r"RETRY \([\d.]{4}s\)", line) for line in lines), lines
        assert any(re.search(r"FAILED \([\d.]{4}s, attempt 2\)", line) for line in lines), lines
        assert any(re.search(r"PASSED \([\d.]{4}s\)", line) for line in lines), lines
        result.stdout.fnmatch_lines(["FAILED flow_it.py::flow_bad - ValueError"])
        result.stdout.no_fnmatch_line("took *")


def test_where_the_time_went_is_said_when_asked_for(flow: Flow) -> None:
    result = flow("def flow_a(): ...\ndef flow_b(a): ...", "-vv")

    result.stdout.fnmatch_lines(["took * for * of work (* x)", "critical path: a * > b *", "slowest: *"])


@pytest.mark.parametrize("how", [(), ("--ff-executor", "thread"), ("-n", "2")], ids=["local", "thread", "process"])
def test_what_a_task_has_written_stands_below_its_line_when_everything_is_asked_for(
    flow: Flow, how: tuple[str, ...]
) -> None:
    source = """
        import logging, sys

        def flow_a():
            print("first \\x1b]0;title\\x07\\x1b[31mred\\x1b[0m")
            logging.getLogger("x").warning("careful")
            print("second")

        def flow_b(a):
            print("bad luck", file=sys.stderr)
    """
    result = flow(source, "-vv", *how)

    result.stdout.fnmatch_lines(
        [
            "*PASSED (*",
            "*- flow_it.py::flow_a: Captured stdout call -*",
            "first \\x1b]0;title\\x07\x1b[[]31mred\x1b[[]0m",
            "second",
            "*- flow_it.py::flow_a: Captured log call -*",
            "*careful",
            "*PASSED (*",
            "*- flow_it.py::flow_b: Captured stderr call -*",
            "bad luck",
        ]
    )
    flow({}, "-vv", "--show-capture=no", *how).stdout.no_fnmatch_line("*bad luck*")
    flow({}, "-v", *how).stdout.no_fnmatch_line("*bad luck*")


@pytest.mark.parametrize("teardown", ["passes", "fails too"])
@pytest.mark.parametrize("how", [(), ("--ff-executor", "thread"), ("-n", "2")], ids=["local", "thread", "process"])
def test_what_an_attempt_has_written_that_is_tried_again_stands_below_its_line_too(
    flow: Flow, how: tuple[str, ...], teardown: str
) -> None:
    source = f"""
        from pathlib import Path
        import pytest

        @pytest.fixture
        def broken():
            yield
            print("teardown")
            assert {teardown != "fails too"} or len(Path("tried").read_text()) > 1

        @pytest.mark.retry(1)
        def flow_a(broken):
            print("attempt")
            with Path("tried").open("a") as file:
                file.write("x")
            assert len(Path("tried").read_text()) > 1
    """
    result = flow(source, "-vv", "--tb=no", *how)

    result.stdout.fnmatch_lines(
        ["*RETRY (*", "*- flow_it.py::flow_a: Captured stdout call -*", "attempt", "*: Captured stdout teardown -*"]
    )
    # Once for each attempt, also where it has failed twice.
    assert result.outlines.count("attempt") == result.outlines.count("teardown") == 2


@pytest.mark.parametrize("other", [("-n", "2"), ("--ff-executor", "thread")], ids=["n", "thread"])
def test_one_place_is_chosen_and_not_two(other: tuple[str, str], flow: Flow) -> None:
    result = flow("def flow_a(): ...", "--ff-dask-address=tcp://127.0.0.1:9", *other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--ff-dask-address tcp://127.0.0.1:9 and * contradict each other: leave out one of *"]
    )


def test_an_address_in_the_ini_file_is_for_sessions_that_name_no_other_place(flow: Flow) -> None:
    pytest.importorskip("distributed")
    files = {
        "pytest.ini": "[pytest]\nflowforge_dask_address = tcp://127.0.0.1:9\nflowforge_dask_timeout = 1\n",
        "flow_it.py": "def flow_a(): ...",
    }
    for other in (("-n", "1"), ("--ff-executor", "local"), ("--ff-executor", "thread"), ("--ff-dask-address=",)):
        result = flow(files, *other)
        result.assert_outcomes(passed=1)
    result = flow(files)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "no Dask scheduler answers there within 1 s" in result.stdout.str() + result.stderr.str()
