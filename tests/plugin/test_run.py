"""What becomes of tasks, of the run and of its exit status, seen as a user sees it: from outside."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.conftest import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]


# ---- states and exit status ------------------------------------------------------------------------------------------


def test_a_failure_blocks_all_that_depends_on_it(flow: Flow) -> None:
    source = """
        def flow_bad():
            raise ValueError("boom")

        def flow_next(bad): ...

        def flow_last(next): ...

        def flow_worse():
            raise KeyError("bang")

        def flow_victim(worse): ...

        def flow_other(): ...
    """

    result = flow(source, "-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert sorted(words(result)) == [
        ("bad", "FAILED"),
        ("last", "BLOCKED"),
        ("next", "BLOCKED"),
        ("other", "PASSED"),
        ("victim", "BLOCKED"),
        ("worse", "FAILED"),
    ]
    assert result.parseoutcomes() == {"failed": 2, "passed": 1, "blocked": 3}
    result.stdout.fnmatch_lines(
        [
            "=* flowforge =*",
            "2 blocked behind bad (failed at flow_it.py:2): next, last",
            "1 blocked behind worse (failed at flow_it.py:9): victim",
        ],
        consecutive=True,
    )
    letters = flow({}, "-q").stdout.lines[0].split()[0]
    assert sorted(letters) == sorted("FBBFB.")


def test_a_skip_is_carried_downstream_with_its_reason(flow: Flow) -> None:
    source = """
        import pytest

        def flow_new_data():
            pytest.skip("nothing new since noon")

        def flow_load(new_data): ...

        def flow_report(load): ...
    """

    result = flow(source, "-rs")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"skipped": 3}
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED [[]1[]] flow_it.py:5: nothing new since noon",
            "SKIPPED [[]*[]] flow_it.py:*: upstream new_data was skipped: nothing new since noon",
        ]
    )


def test_an_expected_failure_blocks_and_that_alone_fails_the_run(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.mark.xfail(reason="the service is not there yet")
        def flow_fetch():
            raise ConnectionError("refused")

        def flow_use(fetch): ...
    """

    alone = flow(source, "flow_it.py::flow_fetch")
    together = flow({})

    assert alone.parseoutcomes() == {"xfailed": 1, "deselected": 1}
    assert alone.ret == pytest.ExitCode.OK
    assert together.parseoutcomes() == {"xfailed": 1, "blocked": 1}
    assert together.ret == pytest.ExitCode.TESTS_FAILED
    together.stdout.fnmatch_lines(["1 blocked behind fetch (failed at flow_it.py:4): use"])


def test_passing_where_a_failure_is_expected(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.mark.xfail(strict=True)
        def flow_strict():
            return 1

        def flow_after_strict(strict): ...

        @pytest.mark.xfail
        def flow_lax():
            return 1

        def flow_after_lax(lax):
            assert lax == 1
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 1, "blocked": 1, "xpassed": 1, "passed": 1}
    result.stdout.fnmatch_lines(["1 blocked behind strict *: after_strict"])


def test_all_ways_to_skip_and_to_expect_a_failure(flow: Flow) -> None:
    source = """
        import os
        import unittest
        import pytest

        @pytest.mark.skip(reason="off")
        def flow_marked(): ...

        def flow_after_marked(marked): ...

        @pytest.fixture
        def hardware():
            pytest.skip("no such device")

        def flow_fixture(hardware): ...

        def flow_after_fixture(fixture): ...

        def flow_unittest():
            raise unittest.SkipTest("other dialect")

        def flow_after_unittest(unittest): ...

        @pytest.mark.xfail(run=False, reason="ends the process")
        def flow_not_run():
            os._exit(1)

        def flow_after_not_run(not_run): ...

        def flow_imperative():
            pytest.xfail("half way")

        def flow_after_imperative(imperative): ...

        @pytest.mark.xfail(raises=KeyError)
        def flow_other_error():
            raise ValueError

        def flow_after_other_error(other_error): ...
    """

    result = flow(source, "-v")

    found = dict(words(result))
    assert {found[name] for name in ("marked", "fixture", "unittest")} == {"SKIPPED"}
    assert {found[name] for name in ("after_marked", "after_fixture", "after_unittest")} == {"SKIPPED"}
    assert (found["not_run"], found["imperative"], found["other_error"]) == ("XFAIL", "XFAIL", "FAILED")
    assert {found[name] for name in ("after_not_run", "after_imperative", "after_other_error")} == {"BLOCKED"}


def test_what_depends_on_a_file_that_skips_itself_never_runs(flow: Flow, log: Log) -> None:
    files = {
        "flow_optional.py": """
            import pytest

            pytest.importorskip("nothing_such_anywhere")

            def flow_table(): ...
        """,
        "flow_it.py": """
            import pytest
            from log import log

            @pytest.mark.depends_on("flow_optional.py::table")
            def flow_order_only():
                log("without the table")

            def flow_downstream(order_only):
                log("without the table")
        """,
    }

    result = flow(files)

    assert log() == []
    assert result.ret != pytest.ExitCode.INTERNAL_ERROR


_UPSTREAMS = ("good", "bad", "lazy", "good bad", "good lazy")

#: Trigger rule -> what becomes of a task with that rule, by what became of its upstreams.
_RULES = {
    "all_success": ("PASSED", "BLOCKED", "SKIPPED", "BLOCKED", "SKIPPED"),
    "all_done": ("PASSED", "PASSED", "PASSED", "PASSED", "PASSED"),
    "any_success": ("PASSED", "BLOCKED", "SKIPPED", "PASSED", "PASSED"),
    "any_failed": ("SKIPPED", "PASSED", "SKIPPED", "PASSED", "SKIPPED"),
    "always": ("PASSED", "PASSED", "PASSED", "PASSED", "PASSED"),
}


def test_trigger_rules(flow: Flow) -> None:
    lines = [
        "import pytest",
        "def flow_good(): return 1",
        "def flow_bad(): 1 / 0",
        "def flow_lazy(): pytest.skip('no need')",
    ]
    expected = {"good": "PASSED", "bad": "FAILED", "lazy": "SKIPPED"}
    for rule, ends in _RULES.items():
        for upstreams, word in zip(_UPSTREAMS, ends, strict=True):
            name = f"{rule}_{upstreams.replace(' ', '_')}"
            lines.append(f"@pytest.mark.depends_on(*{upstreams.split()}, when={rule!r})\ndef flow_{name}(): ...")
            expected[name] = word

    result = flow("\n".join(lines), "-v")

    assert dict(words(result)) == expected


def test_a_clean_up_learns_what_happened(flow: Flow) -> None:
    source = """
        import pytest
        from pytest_flowforge import NoResult

        def flow_good():
            return 42

        def flow_bad():
            raise ValueError("boom")

        def flow_blocked(bad): ...

        def flow_lazy():
            pytest.skip("no need")

        @pytest.mark.depends_on(when="all_done")
        def flow_report(good, bad, blocked, lazy):
            assert good == 42
            assert isinstance(bad, NoResult) and not bad
            assert (bad.task, bad.state) == ("bad", "failed")
            assert bad.reason == bad.error == "ValueError: boom"
            assert (blocked.state, blocked.reason, blocked.error) == ("blocked", "upstream bad failed", None)
            assert (lazy.state, lazy.reason, lazy.error) == ("skipped", "no need", None)

        @pytest.mark.depends_on("good", "bad", "lazy", when="always")
        def flow_alarm(upstream):
            assert {name for name, result in upstream.items() if not result} == {"bad", "lazy"}
    """

    result = flow(source)

    assert result.parseoutcomes() == {"passed": 3, "failed": 1, "blocked": 1, "skipped": 1}


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_a_task_that_fails_twice_and_passes_then_has_passed(flow: Flow, log: Log) -> None:
    conftest = """
        import pytest
        from log import log

        @pytest.fixture(scope="module")
        def connection():
            log("connect")
            yield iter(range(10))
            log("disconnect")

        @pytest.fixture
        def fresh():
            log("set up")
            yield []
            log("tear down")
    """
    source = """
        import pytest
        from log import log

        @pytest.mark.retry(3)
        def flow_flaky(connection, fresh, tmp_path):
            assert fresh == []
            fresh.append("used")
            assert not list(tmp_path.iterdir())
            (tmp_path / "used").touch()
            attempt = next(connection)
            log(f"attempt {attempt}")
            if attempt < 2:
                raise OSError("busy")
            return attempt
    """
    other = """
        import pytest

        @pytest.mark.depends_on("flow_it.py::flaky")
        def flow_after(upstream):
            assert upstream == {"flow_it.py::flaky": 2}
    """

    result = flow({"conftest.py": conftest, "flow_it.py": source, "flow_other.py": other}, "-v")

    assert result.ret == pytest.ExitCode.OK
    assert words(result) == [("flaky", "RETRY"), ("flaky", "RETRY"), ("flaky", "PASSED"), ("after", "PASSED")]
    assert result.parseoutcomes() == {"passed": 2, "retried": 2}
    attempts = [line for number in range(3) for line in ("set up", f"attempt {number}", "tear down")]
    assert log() == ["connect", *attempts, "disconnect"]
    assert flow({}, "-q", "flow_it.py").stdout.lines[0].split()[0] == "RR."


def test_which_failures_are_tried_again(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        class Gone(ConnectionError): ...

        @pytest.mark.retry(2, on=(OSError,))
        def flow_by_base_class():
            log("by_base_class")
            raise ConnectionError

        @pytest.mark.retry(2, on=(OSError,))
        def flow_other_class():
            log("other_class")
            raise ValueError

        @pytest.mark.retry(2, not_on=(Gone,))
        def flow_exempt():
            log("exempt")
            raise Gone

        @pytest.mark.retry(2)
        def flow_assertion():
            log("assertion")
            assert 1 + 1 == 3

        @pytest.mark.retry(2)
        def flow_skips():
            log("skips")
            pytest.skip()

        @pytest.mark.retry(2)
        @pytest.mark.xfail
        def flow_expected():
            log("expected")
            assert False
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 4, "retried": 4, "skipped": 1, "xfailed": 1}
    attempts = log()
    assert {name: attempts.count(name) for name in attempts} == {
        "by_base_class": 3,
        "other_class": 1,
        "exempt": 1,
        "assertion": 3,
        "skips": 1,
        "expected": 1,
    }


def test_set_up_and_teardown_are_part_of_an_attempt(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        COUNTS = {}

        def fails_once(name):
            COUNTS[name] = COUNTS.get(name, 0) + 1
            if COUNTS[name] == 1:
                raise OSError(name)

        @pytest.fixture
        def bad_start():
            fails_once("start")

        @pytest.fixture
        def bad_end():
            yield
            fails_once("end")

        @pytest.mark.retry(1)
        def flow_a(bad_start):
            log("a")
            return "a"

        @pytest.mark.retry(1)
        def flow_b(bad_end):
            log("b")
            return "b"

        def flow_c(a, b):
            assert (a, b) == ("a", "b")
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 3, "retried": 2}
    assert log() == ["a", "b", "b"]


def test_retries_for_all_tasks_without_a_mark(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        def flow_unmarked():
            log("unmarked")
            assert False

        @pytest.mark.retry(0)
        def flow_marked():
            log("marked")
            assert False
    """

    result = flow(source, "--ff-retries", "2")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 2, "retried": 2}
    assert log() == ["unmarked", "unmarked", "unmarked", "marked"]


def test_a_retry_that_a_stop_calls_off_leaves_a_failure(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.retry(1, delay=30)
        def flow_resting():
            raise OSError("busy")

        def flow_victim(resting): ...

        def flow_bad():
            assert False
    """

    result = flow(source, "-x", "--junitxml=junit.xml")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 2, "retried": 1, "blocked": 1}
    result.stdout.fnmatch_lines(["FAILED flow_it.py::flow_resting - OSError: busy"])
    cases = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    assert sorted(case.get("name", "?") for case in cases) == ["flow_bad", "flow_resting", "flow_victim"]


# ---- fixtures --------------------------------------------------------------------------------------------------------


def test_an_error_in_teardown_fails_the_task_and_blocks_what_depends_on_it(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.fixture
        def file():
            yield
            raise OSError("disk full")

        def flow_write(file):
            return "written"

        def flow_read(write): ...

        @pytest.mark.depends_on("write", when="any_failed")
        def flow_alarm(upstream):
            assert upstream["write"].error == "OSError: disk full (in teardown)"
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes()["blocked"] == 1
    result.stdout.fnmatch_lines(
        ["1 blocked behind write (failed at *): read", "ERROR flow_it.py::flow_write - *disk full*"]
    )
    result.stdout.no_fnmatch_line("*upstream*write*.error*")


#: A graph that goes to and fro between two files of a package, and ends outside of it.
_INTERLEAVED = {
    "in/__init__.py": "",
    "in/flow_left.py": """
        import pytest
        from log import log
        from scopes import per_module

        @pytest.mark.usefixtures("per_package", "per_session")
        def flow_one(per_module):
            log(f"one {per_module}")

        @pytest.mark.depends_on("flow_right.py::FlowPair::flow_two")
        def flow_three(per_module):
            log(f"three {per_module}")
    """,
    "in/flow_right.py": """
        import pytest
        from log import log
        from scopes import per_module

        class FlowPair:
            @pytest.mark.depends_on("flow_left.py::one")
            def flow_two(self, per_module, per_class):
                log(f"two {per_module} {per_class}")

            @pytest.mark.depends_on("flow_left.py::three")
            def flow_four(self, per_module, per_class):
                log(f"four {per_module} {per_class}")

        @pytest.mark.depends_on("four")
        def flow_five():
            log("five")
    """,
    "out/flow_last.py": """
        import pytest
        from log import log
        from scopes import per_module

        @pytest.mark.depends_on("../in/flow_right.py::five")
        def flow_six(per_module, per_session):
            log(f"six {per_module}")
    """,
    "scopes.py": """
        import pytest
        from log import log

        def make(scope):
            @pytest.fixture(scope=scope)
            def fixture(request):
                log(f"+ {scope} {request.node.name}")
                yield request.node.name
                log(f"- {scope} {request.node.name}")
            return fixture

        per_module = make("module")
    """,
    "conftest.py": """
        from scopes import make
        per_session, per_class = make("session"), make("class")
    """,
    "in/conftest.py": """
        from scopes import make
        per_package = make("package")
    """,
}

_LIVES = """
    + session
    + package in
    + module flow_left.py
    one flow_left.py
    + module flow_right.py
    + class FlowPair
    two flow_right.py FlowPair
    three flow_left.py
    - module flow_left.py
    four flow_right.py FlowPair
    - class FlowPair
    five
    - module flow_right.py
    - package in
    + module flow_last.py
    six flow_last.py
    - module flow_last.py
    - session
"""


def test_fixtures_live_from_their_first_task_to_their_last(flow: Flow, log: Log) -> None:
    result = flow(_INTERLEAVED)

    assert result.ret == pytest.ExitCode.OK
    assert [line.strip() for line in log()] == _LIVES.strip().split("\n    ")


def test_a_module_fixture_of_a_conftest_is_one_for_each_module(flow: Flow, log: Log) -> None:
    # As above, but all files share one definition.
    files = {name: source.replace("from scopes import per_module", "") for name, source in _INTERLEAVED.items()}
    files["conftest.py"] = (
        'from scopes import make\nper_session, per_class, per_module = map(make, ["session", "class", "module"])'
    )

    result = flow(files)

    assert result.ret == pytest.ExitCode.OK
    assert [line.strip() for line in log()] == _LIVES.strip().split("\n    ")


def test_nobody_gets_a_fixture_that_is_alive_for_somebody_else(flow: Flow) -> None:
    # Asked for by a function between the methods of a class, and by name while a task runs.
    conftest = """
        import pytest

        @pytest.fixture(scope="class")
        def per_class(request):
            return request.node.name

        @pytest.fixture(scope="module")
        def per_module(request):
            return request.node.name
    """
    left = """
        import pytest

        class FlowPair:
            def flow_one(self, per_class, request):
                assert per_class == "FlowPair"
                assert request.getfixturevalue("per_module") == "flow_left.py"

            @pytest.mark.depends_on("flow_right.py::two")
            def flow_three(self, per_class, request):
                assert per_class == "FlowPair"
                assert request.getfixturevalue("per_module") == "flow_left.py"
    """
    right = """
        import pytest

        @pytest.mark.depends_on("flow_left.py::one")
        def flow_between(per_class):
            assert per_class == "flow_between"

        @pytest.mark.depends_on("between")
        def flow_two(request):
            assert request.getfixturevalue("per_class") == "flow_two"
            assert request.getfixturevalue("per_module") == "flow_right.py"

        @pytest.mark.depends_on("flow_left.py::three")
        def flow_four(request):
            assert request.getfixturevalue("per_module") == "flow_right.py"
    """

    result = flow({"conftest.py": conftest, "flow_left.py": left, "flow_right.py": right})

    assert result.parseoutcomes() == {"passed": 5}


def test_a_fixture_kept_for_a_task_that_is_blocked_goes_when_that_is_known(flow: Flow, log: Log) -> None:
    files = {
        "flow_a.py": """
            import pytest
            from log import log

            @pytest.fixture(scope="module", autouse=True)
            def server():
                log("start")
                yield
                log("stop")

            def flow_bad():
                log("bad")
                assert False

            def flow_next(bad):
                log("never")
        """,
        "flow_b.py": """
            from log import log

            def flow_other():
                log("other")
        """,
    }

    result = flow(files)

    assert result.parseoutcomes() == {"failed": 1, "blocked": 1, "passed": 1}
    assert log() == ["start", "bad", "stop", "other"]


def test_a_set_up_that_failed_for_one_fails_for_all_untried(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        @pytest.fixture(scope="module")
        def server():
            log("start")
            raise OSError("port in use")

        def flow_a(server): ...

        def flow_b(server): ...

        def flow_c():
            return "fine"
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"errors": 2, "passed": 1}
    assert log() == ["start"]


def test_async_tasks(flow: Flow) -> None:
    source = """
        import asyncio
        import pytest

        async def flow_fetch():
            await asyncio.sleep(0)
            return 1

        async def flow_add(fetch, tmp_path):
            return fetch + 1

        class FlowChecks:
            async def flow_check(self, add):
                assert add == 2

        async def flow_fail(add):
            await asyncio.sleep(0)
            raise ValueError("late")

        @pytest.mark.retry(1)
        async def flow_flaky(attempts=[]):
            attempts.append(1)
            assert len(attempts) == 2
    """

    result = flow(source, "-W", "error")

    assert result.parseoutcomes() == {"passed": 4, "failed": 1, "retried": 1}
    result.stdout.fnmatch_lines(["FAILED flow_it.py::flow_fail - ValueError: late"])


def test_a_value_is_released_when_its_last_reader_is_done(flow: Flow) -> None:
    source = """
        import gc
        import weakref
        import pytest

        class Table: ...

        ALIVE = weakref.WeakSet()

        def flow_load():
            table = Table()
            ALIVE.add(table)
            return table

        def flow_first(load):
            assert len(ALIVE) == 1

        @pytest.mark.depends_on("first")
        def flow_second(load):
            assert len(ALIVE) == 1

        @pytest.mark.depends_on("second")
        def flow_after():
            gc.collect()
            assert not ALIVE

        @pytest.mark.depends_on("after")
        def flow_unread():
            return flow_load()

        @pytest.mark.depends_on("unread")
        def flow_end():
            gc.collect()
            assert not ALIVE
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.OK


# ---- event hooks -----------------------------------------------------------------------------------------------------


_LISTENER = """
    from log import log

    def pytest_flowforge_run_started(run):
        log(f"run of {len(run.graph)}")

    def pytest_flowforge_task_started(task, attempt):
        log(f"start {task.label} {attempt}")

    def pytest_flowforge_task_retrying(task, attempt, result, delay):
        log(f"retry {task.label} {attempt} {result.because} {delay:g}")

    def pytest_flowforge_task_finished(task, result):
        log(f"end {task.label} {result.state.value} {result.attempt} {result.because}".rstrip())

    def pytest_flowforge_run_finished(run):
        log(f"over {run.summary.snapshot().ok} {run.ended_at >= run.started_at}")
"""


def test_events_are_told_once_each_and_in_order(flow: Flow, log: Log) -> None:
    source = """
        import pytest

        @pytest.mark.retry(1)
        def flow_flaky(attempts=[]):
            attempts.append(1)
            assert len(attempts) == 2, "not yet"

        @pytest.mark.xfail
        def flow_bad(flaky):
            raise ValueError("boom")

        def flow_victim(bad): ...
    """

    result = flow({"conftest.py": _LISTENER, "flow_it.py": source})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert log() == [
        "run of 3",
        "start flaky 1",
        "retry flaky 1 AssertionError: not yet 0",
        "start flaky 2",
        "end flaky success 2",
        "start bad 1",
        "end bad failed 1 ValueError: boom",
        "end victim blocked 0 upstream bad failed",
        "over False True",
    ]


def test_a_listener_that_raises_is_named_once_and_the_run_goes_on(flow: Flow, log: Log) -> None:
    listener = """
        from log import log

        def pytest_flowforge_task_started(task):
            log("called")
            raise RuntimeError("the pager is off")

        def pytest_flowforge_task_finished(task):
            log(f"end {task.label}")
    """

    result = flow({"conftest.py": listener, "flow_it.py": "def flow_a(): ...\ndef flow_b(a): ..."})

    assert result.ret == pytest.ExitCode.OK
    assert log() == ["called", "end a", "end b"]
    complaints = [line for line in result.stdout.lines if "the pager is off" in line]
    assert len(complaints) == 1
    assert "pytest_flowforge_task_started of " in complaints[0]
    assert "conftest.py" in complaints[0]


# ---- accounting ------------------------------------------------------------------------------------------------------


def test_other_plugins_may_leave_out_reorder_and_repeat_items(flow: Flow) -> None:
    meddler = """
        def pytest_collection_modifyitems(items):
            items.reverse()
            items[:] = [item for item in items if item.name != "flow_b"]
            items.append(items[0])
    """
    source = "def flow_a(): ...\ndef flow_b(a): ...\ndef flow_c(b): ...\ndef flow_d(): ...\n"

    result = flow({"conftest.py": meddler, "flow_it.py": source}, "-v")

    assert result.ret == pytest.ExitCode.OK
    order = [task for task, _ in words(result)]
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("a") < order.index("b") < order.index("c")


def test_a_task_that_another_plugin_swallows_is_named_and_nothing_is_well(flow: Flow) -> None:
    swallower = """
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            return True if item.name == "flow_lost" else None
    """

    source = "def flow_lost(): ...\ndef flow_after(lost): ...\ndef flow_fine(): ..."
    result = flow({"conftest.py": swallower, "flow_it.py": source})

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert result.parseoutcomes() == {"passed": 1, "blocked": 1}
    result.stdout.fnmatch_lines(["1 of 3 tasks has no outcome: flow_it.py::flow_lost"])


def test_a_task_whose_report_is_lost_is_named_too(flow: Flow) -> None:
    # It ran and it passed, but nobody was told: then nobody can say so.
    swallower = """
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            if item.name == "flow_lost":
                runtestprotocol(item, log=False, nextitem=nextitem)
                return True
    """

    result = flow({"conftest.py": swallower, "flow_it.py": "def flow_lost(): ...\ndef flow_fine(): ..."})

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["1 of 2 tasks has no outcome: flow_it.py::flow_lost"])


# ---- tasks that misbehave --------------------------------------------------------------------------------------------


def test_a_task_that_leaves_the_process_can_not_make_the_run_look_finished(flow: Flow) -> None:
    source = """
        import os

        def flow_fine(): ...

        def flow_deserter(fine):
            os._exit(0)

        def flow_after(deserter): ...
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stderr.fnmatch_lines(["*deserter*called os._exit(0): the run is cut off here"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_a_task_has_forked_may_leave(flow: Flow) -> None:
    source = """
        import os

        def flow_fork():
            child = os.fork()
            if not child:
                os._exit(0)
            return os.waitpid(child, 0)[1]

        def flow_after(fork):
            assert fork == 0
    """

    result = flow(source, "-W", "ignore::DeprecationWarning")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 2}


def test_the_run_survives_what_tasks_do_to_it(flow: Flow) -> None:
    source = """
        import os
        import sys
        import threading
        from pathlib import Path

        import pytest

        HOME = Path.cwd()

        def flow_exits():
            sys.exit()

        def flow_exits_well():
            sys.exit(0)

        def flow_moves_away(tmp_path):
            os.chdir(tmp_path)

        def flow_closes_stdout():
            sys.stdout.close()
            sys.stderr.close()

        def flow_replaces_stdout():
            sys.stdout = None

        class Unspeakable(Exception):
            def __str__(self):
                raise SystemExit("not even this")

        def flow_raises_the_unspeakable():
            raise Unspeakable

        def flow_locks():
            return threading.Lock(), lambda: 1, sys._getframe()

        def flow_uses_locks(locks):
            with locks[0]:
                assert locks[1]() == 1

        @pytest.mark.depends_on("replaces_stdout", "closes_stdout", "moves_away")
        def flow_after():
            assert Path.cwd() == HOME
            print("still heard")
            raise ValueError("seen")
    """

    result = flow(source, "-v")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = dict(words(result))
    failed = {name for name, word in found.items() if word == "FAILED"}
    assert failed == {"exits", "exits_well", "raises_the_unspeakable", "after"}
    assert len(found) == 9
    result.stdout.fnmatch_lines_random(
        ["*still heard*", "FAILED flow_it.py::flow_exits - SystemExit*", "moves_away left the working directory at *"]
    )


def test_the_unspeakable_is_spoken_of_downstream(flow: Flow) -> None:
    source = """
        import pytest

        class Unspeakable(Exception):
            def __str__(self):
                raise RuntimeError

        def flow_bad():
            raise Unspeakable

        @pytest.mark.depends_on(when="any_failed")
        def flow_alarm(bad):
            assert bad.error == "Unspeakable: <str() of Unspeakable raised RuntimeError>"
    """

    result = flow(source)

    assert result.parseoutcomes() == {"failed": 1, "passed": 1}


# ---- interruptions ---------------------------------------------------------------------------------------------------


_INTERRUPTED = """
    import signal
    import pytest
    from log import log

    @pytest.fixture(autouse=True)
    def tidy():
        yield
        log("tidied")

    @pytest.fixture(scope="module")
    def server():
        yield "server"
        log("server stopped")

    def flow_first(server):
        log("first")

    def flow_broken_off(first):
        {action}

    def flow_after(broken_off):
        log("never")

    def flow_elsewhere():
        log("never")

    @pytest.mark.depends_on("after", when="always")
    def flow_clean_up(server, upstream):
        log(f"clean up {{upstream['after'].state}}")
"""


def test_an_interrupt_ends_the_run_after_its_clean_up(flow: Flow, log: Log) -> None:
    result = flow(_INTERRUPTED.format(action="signal.raise_signal(signal.SIGINT)"))

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert log() == ["first", "tidied", "tidied", "clean up blocked", "tidied", "server stopped"]
    result.stdout.fnmatch_lines(["*! KeyboardInterrupt !*"])


def test_a_task_may_end_the_run_with_a_status_of_its_own(flow: Flow, log: Log) -> None:
    result = flow(_INTERRUPTED.format(action='pytest.exit("enough", returncode=7)'))

    assert result.ret == 7
    assert log() == ["first", "tidied", "tidied", "clean up blocked", "tidied", "server stopped"]
    result.stdout.fnmatch_lines(["*! _pytest.outcomes.Exit: enough !*"])


def test_what_an_interrupt_leaves_undone_is_named(flow: Flow, log: Log) -> None:
    result = flow(_INTERRUPTED.format(action="signal.raise_signal(signal.SIGINT)"))

    assert "never" not in log()
    result.stdout.fnmatch_lines(
        ["1 blocked behind broken_off (interrupted *): after", "1 not started (KeyboardInterrupt): elsewhere"]
    )


def test_a_second_interrupt_ends_the_run_without_clean_up(flow: Flow, log: Log) -> None:
    source = """
        import signal
        import pytest
        from log import log

        def flow_first():
            signal.raise_signal(signal.SIGINT)

        @pytest.mark.depends_on("first", when="always")
        def flow_clean_up():
            log("clean up")
            signal.raise_signal(signal.SIGINT)

        @pytest.mark.depends_on("clean_up", when="always")
        def flow_more():
            log("more")
    """

    result = flow(source)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert log() == ["clean up"]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that another thread sends")
def test_an_interrupt_while_waiting_for_a_retry(flow: Flow, log: Log) -> None:
    interrupter = """
        import os
        import signal
        import threading

        def pytest_flowforge_task_retrying():
            threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    """
    source = """
        import pytest
        from log import log

        @pytest.mark.retry(1, delay=30)
        def flow_resting():
            raise OSError("busy")

        @pytest.mark.depends_on("resting", when="always")
        def flow_clean_up(upstream):
            log(f"clean up after {upstream['resting'].error}")
    """

    result = flow({"conftest.py": interrupter, "flow_it.py": source})

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert log() == ["clean up after OSError: busy"]
    assert result.parseoutcomes() == {"failed": 1, "retried": 1, "passed": 1}
