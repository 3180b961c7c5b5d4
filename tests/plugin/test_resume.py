"""Continuing a run after it ended in whatever way: what runs again, what does not, and what is said about it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import words
from tests.plugin.keeping import (
    flip,
    journal_of,
    make_ready,
    place_of,
    reasons_in,
    records_in,
    reused_in,
    run_ids,
    tree_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
_INTERNAL, _USAGE = pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR


_ETL = """
    import os
    from log import log

    def flow_extract():
        log("extract")
        return [1, 2, 3]

    def flow_transform(extract):
        log("transform")
        return [number * 10 for number in extract]

    def flow_load(transform):
        log("load")
        if not os.path.exists("ready"):
            raise ConnectionError("no route to host")
        return sum(transform)

    def flow_report(load):
        log("report")
        assert load == 60

    def flow_audit(extract):
        log("audit")
        return len(extract)
"""


# ---- after a failure, a kill, a crash --------------------------------------------------------------------------------


def test_after_a_failure_it_runs_what_failed_what_was_blocked_and_nothing_else(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    first = flow(_ETL, "-v")
    (run,) = run_ids(pytester)
    assert first.ret == _FAILED
    assert sorted(log()) == ["audit", "extract", "load", "transform"]
    make_ready(pytester)

    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load", "report"]
    assert reused_in(result) == {"extract", "transform", "audit"}
    assert result.parseoutcomes() == {"passed": 2, "reused": 3}
    result.stdout.fnmatch_lines([f"flowforge: continues run {run}: 3 reused, 2 to run"])
    assert reasons_in(result) == {"load": "failed last time", "report": "was blocked"}


def test_a_task_downstream_of_one_that_runs_again_runs_again(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        def flow_good():
            return 42

        def flow_bad():
            log("bad")
            if not os.path.exists("ready"):
                raise ValueError("boom")
            return 1

        @pytest.mark.depends_on(when="all_done")
        def flow_clean_up(good, bad):
            log(f"clean up {good} {bad if bad else bad.reason}")

        @pytest.mark.depends_on("clean_up")
        def flow_farewell():
            log("farewell")
    """
    flow(source)
    assert log() == ["bad", "clean up 42 ValueError: boom", "farewell"]

    again = flow({}, "--ff-resume", "-v")
    assert log() == ["bad", "clean up 42 ValueError: boom", "farewell"]
    assert reasons_in(again) == {
        "bad": "failed last time",
        "clean_up": "upstream bad runs again",
        "farewell": "upstream clean_up runs again",
    }
    make_ready(pytester)
    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["bad", "clean up 42 1", "farewell"]


_DYING = """
    import ctypes
    import os
    import signal
    import time
    from log import log

    def flow_first():
        log("first")
        return 1

    def flow_second(first):
        log("second")
        return first + 1

    def flow_load(second):
        log("load")
        if not os.path.exists("ready"):
            {die}
            time.sleep(30)
        return second + 1

    def flow_after(load):
        log(f"after {{load}}")
"""


@pytest.mark.parametrize(
    ("die", "status"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="SIGKILL"),
        pytest.param("os.abort()", -signal.SIGABRT, id="abort"),
        pytest.param("ctypes.CDLL(None)._exit(0)", 0, id="exit behind the back of Python"),
    ],
)
def test_after_a_kill_all_that_had_finished_is_reused(
    flow: Flow, log: Log, pytester: pytest.Pytester, die: str, status: int
) -> None:
    first = flow(_DYING.format(die=die))
    assert first.ret == status
    assert log() == ["first", "second", "load"]
    make_ready(pytester)

    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load", "after 3"]
    assert reused_in(result) == {"first", "second"}
    result.stdout.fnmatch_lines(["flowforge: 1 task was running when * ended and will run again: load"])
    assert reasons_in(result) == {"load": "was running when the run ended", "after": "never started"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_asked_to_end_does_so_as_after_ctrl_c(
    flow: Flow, log: Log, pytester: pytest.Pytester, name: str
) -> None:
    first = flow(_DYING.format(die=f"os.kill(os.getpid(), signal.{name})"))

    assert first.ret == pytest.ExitCode.INTERRUPTED
    first.stdout.fnmatch_lines(["1 interrupted: load", f"*KeyboardInterrupt: {name}*"])
    assert log() == ["first", "second", "load"]

    make_ready(pytester)
    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load", "after 3"]
    assert reused_in(result) == {"first", "second"}
    assert reasons_in(result) == {"load": "was interrupted", "after": "was blocked"}


def test_a_run_that_was_killed_is_named_by_the_next_one(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_DYING.format(die="os.kill(os.getpid(), signal.SIGKILL)"))
    (killed,) = run_ids(pytester)
    make_ready(pytester)

    result = flow({})

    assert log() == ["first", "second", "load", "first", "second", "load", "after 3"]
    result.stdout.fnmatch_lines([f"flowforge: the last run did not finish; --ff-resume --ff-run {killed}*"])
    assert "did not finish" not in flow({}).stdout.str()


def test_after_ctrl_c_the_interrupted_task_and_the_rest_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    first = flow(_DYING.format(die="os.kill(os.getpid(), signal.SIGINT)"))
    assert first.ret == _INTERRUPTED
    first.stdout.fnmatch_lines(["continue with: pytest --flowforge --ff-resume"])
    assert log() == ["first", "second", "load"]
    make_ready(pytester)

    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load", "after 3"]
    assert reasons_in(result) == {"load": "was interrupted", "after": "was blocked"}
    assert "will run again" not in result.stdout.str()


def test_os_exit_in_a_task_is_no_success(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    first = flow(_DYING.format(die="os._exit(0)"))
    assert first.ret == _INTERNAL
    first.stderr.fnmatch_lines(["flowforge: the task load called os._exit(0): the run is cut off here"])
    ends = {record["task"]: record for record in records_in(journal_of(pytester)) if record["ev"] == "task_finished"}
    assert ends["flow_it.py::flow_load"]["state"] == "crashed"
    assert "os._exit(0)" in ends["flow_it.py::flow_load"]["outcome"]["message"]
    log()
    make_ready(pytester)

    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load", "after 3"]
    assert reasons_in(result)["load"] == "crashed last time"
    assert reused_in(result) == {"first", "second"}


def test_a_time_out_runs_again(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os, time
        import pytest
        from log import log

        def flow_quick():
            return 1

        @pytest.mark.timeout(1, method="signal")
        def flow_slow(quick):
            log("slow")
            if not os.path.exists("ready"):
                time.sleep(30)
    """
    assert flow(source).ret == _FAILED
    make_ready(pytester)

    result = flow({}, "-v", "--ff-resume")

    assert result.ret == _OK
    assert log() == ["slow", "slow"]
    assert reasons_in(result) == {"slow": "timed out last time"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_returns_from_the_task_does_not_run_the_rest_a_second_time(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import os
        from log import log

        def flow_forks():
            child = os.fork()
            if child:
                os.waitpid(child, 0)
            return 1

        def flow_next(forks):
            log("next")
            return forks + 1

        def flow_last(next):
            log("last")
    """

    result = flow(source)

    assert result.ret == _OK
    assert log() == ["next", "last"]
    assert result.parseoutcomes() == {"passed": 3}
    assert Counter(record["ev"] for record in records_in(journal_of(pytester)))["task_finished"] == 3
    again = flow({}, "--ff-resume")
    assert again.parseoutcomes() == {"reused": 3}


# ---- edits -----------------------------------------------------------------------------------------------------------

_EDITED = {
    "conftest.py": """
        import pytest

        PLACE = "here"

        @pytest.fixture
        def connection():
            return f"connected to {PLACE}"

        @pytest.fixture
        def elsewhere():
            return "unused"
    """,
    "helpers.py": """
        LIMIT = 3

        def inner(number):
            return min(number, LIMIT)

        def clean(number):
            return inner(number)

        def unrelated(number):
            return -number
    """,
    "flow_it.py": '''
        import pytest
        import helpers
        from log import log

        FACTOR = 10

        class Row:
            def __init__(self, value):
                self.value = value

            def doubled(self):
                return self.value * 2

        def unused():
            return 1

        def flow_extract():
            """All that there is."""
            log("extract")
            return [1, 2, 3]  # three rows

        def flow_clean(extract):
            log("clean")
            return [helpers.clean(number) for number in extract]

        def flow_scale(clean):
            log("scale")
            return [Row(number).doubled() * FACTOR for number in clean]

        @pytest.mark.parametrize("by", [pytest.param(["a", "b"], id="x"), pytest.param(["c"], id="y")])
        def flow_group(extract, by):
            log(f"group {by[0]}")
            return by

        def flow_store(connection, scale):
            log("store")
            return connection

        def flow_alone():
            log("alone")
    ''',
}

_DOWN_FROM_CLEAN = {"scale": "upstream clean runs again", "store": "upstream scale runs again"}


@pytest.mark.parametrize(
    ("file", "old", "new", "reasons"),
    [
        pytest.param(
            "flow_it.py",
            'log("scale")\n',
            'log("scale")\n    clean = clean[:2]\n',
            {"scale": "code changed", "store": "upstream scale runs again"},
            id="the function itself",
        ),
        pytest.param("flow_it.py", "FACTOR = 10", "FACTOR = 20", {"scale": "code changed"}, id="a constant"),
        pytest.param("flow_it.py", "self.value * 2", "2 * self.value", {"scale": "code changed"}, id="a method"),
        pytest.param(
            "helpers.py", "return inner(number)", "return inner(number) + 0", {"clean": "code changed"}, id="a helper"
        ),
        pytest.param("helpers.py", "min(number", "max(number", {"clean": "code changed"}, id="what a helper uses"),
        pytest.param("helpers.py", "LIMIT = 3", "LIMIT = 2", {"clean": "code changed"}, id="a constant of a helper"),
        pytest.param("conftest.py", "connected to", "linked to", {"store": "code changed"}, id="a fixture"),
        pytest.param("conftest.py", '"here"', '"there"', {"store": "code changed"}, id="what a fixture uses"),
        pytest.param("flow_it.py", '["c"]', '["d"]', {"group[y]": "parameter changed"}, id="a parameter under its id"),
        pytest.param("flow_it.py", 'id="y"', 'id="z"', {"group[z]": "new task"}, id="an id"),
        pytest.param("flow_it.py", "# three rows", "# of them", {}, id="a comment"),
        pytest.param("flow_it.py", "All that there is.", "Everything.", {}, id="a docstring"),
        pytest.param(
            "flow_it.py", "[1, 2, 3]", "[\n                1, 2,\n                3,\n            ]", {}, id="layout"
        ),
        pytest.param("flow_it.py", "return 1", "return 2", {}, id="an unrelated function in the file"),
        pytest.param("helpers.py", "-number", "+number", {}, id="an unrelated helper"),
        pytest.param("conftest.py", '"unused"', '"still"', {}, id="a fixture that nobody uses"),
        pytest.param("flow_it.py", "import pytest\n", "import pytest\n\n\n\n", {}, id="places"),
    ],
)
def test_an_edit_runs_what_it_touches_and_all_after_that(
    flow: Flow, log: Log, pytester: pytest.Pytester, file: str, old: str, new: str, reasons: Mapping[str, str]
) -> None:
    assert flow(_EDITED).ret == _OK
    assert len(log()) == 7
    path = pytester.path / file
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1, old
    path.write_text(before.replace(old, new), encoding="utf-8")
    expected = dict(reasons)
    if "clean" in expected:
        expected.update(_DOWN_FROM_CLEAN)
    if "scale" in expected:
        expected["store"] = "upstream scale runs again"

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert reasons_in(result) == expected
    assert {line.split()[0] for line in log()} == {name.partition("[")[0] for name in expected}
    assert len(reused_in(result)) == 7 - len(expected)


def test_a_mark_that_changes_nothing_about_the_result_does_not_run_it_again(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        @pytest.mark.priority(1)
        def flow_it():
            log("it")
    """
    flow(source)

    result = flow(source.replace("priority(1)", "retry(3)"), "--ff-resume")

    assert result.parseoutcomes() == {"reused": 1}
    assert log() == ["it"]


_FAN_IN = """
    import pytest
    from log import log

    @pytest.mark.parametrize("fold", {folds})
    def flow_fit(fold):
        log(f"fit {{fold}}")
        return fold * 10

    def flow_merge(fit):
        log(f"merge {{fit}}")
        return list(fit.values())
"""


@pytest.mark.parametrize(
    ("before", "after", "run"),
    [
        pytest.param([1, 2], [1, 2, 3], ["fit 3", "merge {'1': 10, '2': 20, '3': 30}"], id="a new variant"),
        pytest.param([1, 2, 3], [1, 2], ["merge {'1': 10, '2': 20}"], id="a variant is gone"),
        pytest.param([1, 2], [2, 4], ["fit 4", "merge {'2': 20, '4': 40}"], id="another variant"),
    ],
)
def test_a_fan_in_runs_again_when_its_variants_change(
    flow: Flow, log: Log, before: list[int], after: list[int], run: list[str]
) -> None:
    flow(_FAN_IN.format(folds=before))
    log()

    result = flow(_FAN_IN.format(folds=after), "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == run
    assert "merge" in reasons_in(result)


def test_a_new_edge_runs_the_task_again(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        def flow_first():
            log("first")

        @pytest.mark.depends_on({edge})
        def flow_second(): log("second")

        def flow_other(): log("other")
    """
    flow(source.format(edge='"first"'))
    log()

    result = flow(source.format(edge='"first", "other"'), "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["second"]


def test_a_new_task_and_one_that_is_gone(flow: Flow, log: Log) -> None:
    flow(_ETL.replace("if not", "if False and not"))
    log()

    source = _ETL.replace("if not", "if False and not").replace("flow_audit", "flow_inspect")
    result = flow(source, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["audit"]
    assert reasons_in(result) == {"inspect": "new task"}


# ---- results that are gone or damaged --------------------------------------------------------------------------------

_LARGE = """
    from log import log

    def flow_small():
        log("small")
        return [1, 2]

    def flow_large(small):
        log("large")
        return "x" * 2_000_000

    def flow_size(large):
        log("size")
        return len(large)

    def flow_total(small):
        log("total")
        return sum(small)
"""


def _cut(path: Path, place: int) -> None:
    path.write_bytes(path.read_bytes()[:place])


def _remove(path: Path, place: int) -> None:
    del place
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "reason"), [(_remove, "result missing"), (flip, "result damaged"), (_cut, "result damaged")]
)
def test_a_result_that_is_gone_or_damaged_is_made_again(
    flow: Flow, log: Log, pytester: pytest.Pytester, harm: Callable[[Path, int], None], reason: str
) -> None:
    flow(_LARGE)
    log()
    (large,) = place_of(pytester).rglob("*.bin")
    harm(large, 1_000_000)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["large", "size"]
    assert reasons_in(result) == {"large": reason, "size": "upstream large runs again"}
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 4}


def test_one_of_many_small_results_is_damaged(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_LARGE)
    log()
    results = {
        record["task"]: record["result"]
        for record in records_in(journal_of(pytester))
        if record["ev"] == "task_finished"
    }
    run, segment, offset, *_ = results["flow_it.py::flow_size"]
    flip(place_of(pytester) / "runs" / run / "results" / segment, offset + 3)

    result = flow({}, "--ff-resume", "-v")

    assert reasons_in(result) == {"size": "result damaged"}
    assert log() == ["size"]


def test_all_results_are_gone(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_LARGE)
    log()
    shutil.rmtree(next(place_of(pytester).rglob("results")))

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert sorted(log()) == ["large", "size", "small", "total"]


@pytest.mark.parametrize("cut", [1, 2, 17, 100])
def test_a_torn_last_record_is_cut_off_and_said(flow: Flow, log: Log, pytester: pytest.Pytester, cut: int) -> None:
    flow(_DYING.format(die="os.kill(os.getpid(), signal.SIGKILL)"))
    log()
    journal = journal_of(pytester)
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(place for place, line in enumerate(lines) if b'"task_finished"' in line and b"flow_second" in line)
    torn = lines[at][:-cut]
    journal.write_bytes(b"".join([*lines[:at], torn]))
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["second", "load", "after 3"]
    assert reused_in(result) == {"first"}
    assert reasons_in(result)["second"] == "was running when the run ended"
    result.stdout.fnmatch_lines([f"*{len(torn)} bytes of an unfinished record*"])


def test_a_run_that_was_cut_off_in_its_very_first_record_is_passed_over(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    flow(_ETL)
    make_ready(pytester)
    flow({}, "--ff-resume")
    log()
    _cut(journal_of(pytester), 30)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["load", "report"]
    result.stdout.fnmatch_lines([f"flowforge: continues run {run_ids(pytester)[0]}: 3 reused, 2 to run"])


# ---- chains, choices, selections -------------------------------------------------------------------------------------

_CHAIN = """
    import os
    from log import log

    def flow_a():
        log("a")
        return 1

    def flow_b(a):
        log("b")
        assert os.path.exists("one")
        return a + 1

    def flow_c(b):
        log("c")
        assert os.path.exists("two")
        return b + 1

    def flow_d(c):
        log(f"d {c}")
"""


def test_resumes_chain(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_CHAIN)
    assert log() == ["a", "b"]
    pytester.path.joinpath("one").touch()
    flow({}, "--ff-resume")
    assert log() == ["b", "c"]
    first, second = run_ids(pytester)
    pytester.path.joinpath("two").touch()

    third = flow({}, "--ff-resume", "--ff-explain")

    assert third.ret == _OK
    assert log() == ["c", "d 3"]
    third.stdout.fnmatch_lines(
        [
            f"flowforge: continues run {second}: 2 reused, 2 to run",
            f"  reuse  a  reused from run {first}",
            f"  reuse  b  reused from run {second}",
        ]
    )
    last = flow({}, "--ff-resume")
    assert last.ret == _OK
    assert last.parseoutcomes() == {"reused": 4}
    assert log() == []


def test_which_run_is_continued_can_be_said(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_CHAIN)
    pytester.path.joinpath("one").touch()
    flow({})
    log()
    first, second = run_ids(pytester)

    result = flow({}, "--ff-resume", "--ff-run", first)

    result.stdout.fnmatch_lines([f"flowforge: continues run {first}: 1 reused, 3 to run"])
    assert log() == ["b", "c"]
    flow({}, "--ff-resume", f"--ff-run={second}").stdout.fnmatch_lines(
        [f"flowforge: continues run {second}: 2 reused*"]
    )
    assert log() == ["c"]


@pytest.mark.parametrize("run", ["20200101-000000-abcd", "last", "../../etc", "é" * 300])
def test_a_run_that_is_not_there(flow: Flow, log: Log, pytester: pytest.Pytester, run: str) -> None:
    flow(_CHAIN)
    log()

    result = flow({}, "--ff-resume", "--ff-run", run)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: *--ff-history*"])
    assert log() == []
    assert len(run_ids(pytester)) == 1


def test_to_resume_without_any_run_runs_everything(flow: Flow, log: Log) -> None:
    result = flow(_CHAIN, "--ff-resume", "-v")

    assert log() == ["a", "b"]
    result.stdout.fnmatch_lines(["flowforge: no earlier run to continue: 0 reused, 4 to run"])
    assert set(reasons_in(result).values()) == {"never started"}


@pytest.mark.parametrize("options", [[], ["--ff-resume"]])
def test_what_was_done_before_a_selection_is_not_lost_by_it(
    flow: Flow, log: Log, pytester: pytest.Pytester, options: list[str]
) -> None:
    flow(_ETL)
    log()
    flow({}, "-k", "audit", *options)
    assert log() == ([] if options else ["extract", "audit"])
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["load", "report"]
    assert reused_in(result) == {"extract", "transform", "audit"}


def test_a_selection_that_made_an_upstream_anew_runs_what_was_built_on_the_old_one(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        from log import log

        def flow_draw():
            log("draw")
            with open("value") as file:
                return file.read()

        def flow_use(draw):
            log(f"use {draw}")
    """
    pytester.path.joinpath("value").write_text("1", encoding="ascii")
    flow(source)
    pytester.path.joinpath("value").write_text("2", encoding="ascii")
    flow({}, "-k", "draw")
    log()

    result = flow({}, "--ff-resume", "-v")

    assert log() == ["use 2"]
    assert reasons_in(result) == {"use": "upstream draw ran again"}


def test_one_of_two_files_does_not_make_the_other_one_forgotten(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    files = {
        "flow_one.py": """
            from log import log

            def flow_a():
                log("a")
        """,
        "flow_two.py": """
            import os
            from log import log

            def flow_b():
                log("b")

            def flow_c(b):
                log("c")
                assert os.path.exists("ready")
        """,
    }
    flow(files)
    assert log() == ["a", "b", "c"]
    flow({}, "flow_one.py")
    assert log() == ["a"]
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["c"]
    assert reused_in(result) == {"a", "b"}


def test_files_that_were_run_one_after_the_other_are_continued_together(flow: Flow, log: Log) -> None:
    files = {
        f"sub/flow_{name}.py": f"from log import log\n\ndef flow_{name}():\n    log({name!r})\n"
        for name in ("one", "two")
    }
    flow(files, "sub/flow_one.py")
    flow({}, "sub/flow_two.py")
    assert log() == ["one", "two"]

    result = flow({}, "--ff-resume")

    assert result.parseoutcomes() == {"reused": 2}
    assert log() == []


def test_a_file_that_is_deleted_is_forgotten(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    files = {f"flow_{name}.py": f"from log import log\n\ndef flow_{name}(): log({name!r})\n" for name in ("one", "two")}
    flow(files)
    assert log() == ["one", "two"]
    pytester.path.joinpath("flow_two.py").unlink()

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert result.parseoutcomes() == {"reused": 1}


def test_only_the_chosen_tasks_with_results_of_an_earlier_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    make_ready(pytester)

    result = flow({}, "--ff-select", "load", "--ff-only", "-v")

    assert result.ret == _OK
    assert log() == ["load"]
    assert words(result) == [("load", "PASSED")]
    after = flow({}, "--ff-resume", "-v")
    assert log() == ["report"]
    assert reused_in(after) == {"extract", "transform", "load", "audit"}


def test_only_the_chosen_tasks_needs_results_that_stand(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()

    result = flow(_ETL.replace("* 10", "* 20"), "--ff-select", "load", "--ff-only")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-only leaves out transform, whose result load asks for*"])
    assert log() == []
    assert len(run_ids(pytester)) == 1


# ---- the command that continues --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="none"),
        pytest.param(["-k", "load or audit", "-v"], id="an expression"),
        pytest.param(["--ff-checkpoint", "my runs"], id="a folder with a space"),
        pytest.param(["-k", "load", "flow_it.py", "-p", "no:randomly"], id="a path"),
        pytest.param(["-o", 'junit_suite_name=it\'s "$HOME"'], id="signs that mean something to a shell"),
        pytest.param(["--ff-force", "audit", "--ff-explain", "--ff-cache"], id="what was about that run only"),
    ],
)
def test_the_command_that_is_printed_continues_the_run(
    flow: Flow, log: Log, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    first = flow(_ETL, *arguments)
    assert first.ret == _FAILED
    assert "load" in log()
    (command,) = re.findall(r"^continue with: (.+)$", first.stdout.str(), re.MULTILINE)
    make_ready(pytester)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

    done = subprocess.run(  # noqa: S602 - that is what people do with it
        command, shell=True, cwd=pytester.path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == _OK, done.stdout + done.stderr
    assert log() == (["load"] if "-k" in arguments else ["load", "report"])


def test_a_run_that_ended_well_names_no_command(flow: Flow, pytester: pytest.Pytester, log: Log) -> None:
    del log
    make_ready(pytester)

    assert "continue with" not in flow(_ETL).stdout.str()


# ---- asking first ----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_a_resume_would_do_and_writes_nothing(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    flow(_ETL)
    log()
    (run,) = run_ids(pytester)
    before = tree_of(pytester.path)

    dry = flow({}, "--ff-dry-run", "--ff-resume")

    assert dry.ret == _OK
    assert log() == []
    assert tree_of(pytester.path) == before
    reused = dict(re.findall(r"^  reuse +(\S+) +(.+)$", dry.stdout.str(), re.MULTILINE))
    assert reused == dict.fromkeys(("extract", "transform", "audit"), f"reused from run {run}")
    assert reasons_in(dry) == {"load": "failed last time", "report": "was blocked"}
    wet = flow({}, "--ff-resume", "-v")
    assert reasons_in(wet) == reasons_in(dry)
    assert reused_in(wet) == set(reused)


def test_a_dry_run_for_machines(flow: Flow, pytester: pytest.Pytester, log: Log) -> None:
    flow(_ETL)
    log()
    (run,) = run_ids(pytester)

    result = flow({}, "--ff-dry-run", "--ff-resume", "--ff-format", "json")

    tasks = {task["name"]: (task["verdict"], task["reason"]) for task in json.loads(result.stdout.str())["tasks"]}
    assert tasks["extract"] == ("reuse", f"reused from run {run}")
    assert tasks["load"] == ("run", "failed last time")


def test_listing_tells_the_states_of_the_last_run(flow: Flow, log: Log) -> None:
    flow(_ETL)
    log()

    result = flow({}, "--ff-list")

    states = dict(re.findall(r"^(\S+) +(success|failed|blocked) ", result.stdout.str(), re.MULTILINE))
    assert states == {
        "extract": "success",
        "transform": "success",
        "load": "failed",
        "report": "blocked",
        "audit": "success",
    }


# ---- what must not run twice -----------------------------------------------------------------------------------------

_CHARGE = """
    import os
    import signal
    import pytest
    from log import log

    def flow_order():
        log("order")
        return 100

    @pytest.mark.idempotent(False)
    def flow_charge(order):
        log("charge")
        if not os.path.exists("ready"):
            {die}
        return order

    def flow_ship(charge):
        log("ship")
"""


@pytest.mark.parametrize("die", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_what_may_have_done_its_work_does_not_do_it_again_unless_it_may(
    flow: Flow, log: Log, pytester: pytest.Pytester, die: str
) -> None:
    flow(_CHARGE.format(die=die))
    assert log() == ["order", "charge"]
    make_ready(pytester)

    for _ in range(2):
        dry = flow({}, "--ff-resume", "--ff-dry-run")
        dry.stdout.fnmatch_lines(["  refuse  charge  *--ff-rerun-unsafe*"])
        result = flow({}, "--ff-resume", "-v")
        assert result.ret == _FAILED
        assert dict(words(result)) == {"order": "REUSED", "charge": "BLOCKED", "ship": "BLOCKED"}
        assert "--ff-rerun-unsafe" in result.stdout.str()
        assert "will run again" not in result.stdout.str()
        assert "charge" not in reasons_in(result)
        assert log() == []

    result = flow({}, "--ff-resume", "--ff-rerun-unsafe")
    assert result.ret == _OK
    assert log() == ["charge", "ship"]


def test_a_refused_task_shows_its_reason_in_the_summary(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_CHARGE.format(die="os.kill(os.getpid(), signal.SIGKILL)"))
    make_ready(pytester)
    log()

    for _ in range(2):
        result = flow({}, "--ff-resume")
        result.stdout.fnmatch_lines(["*charge*--ff-rerun-unsafe*"])


def test_a_failure_is_no_doubt(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_CHARGE.format(die='raise ValueError("card refused")'))
    make_ready(pytester)
    log()

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["charge", "ship"]


# ---- results that can not be stored ----------------------------------------------------------------------------------


def test_what_can_not_be_stored_is_passed_on_and_made_again(flow: Flow, log: Log) -> None:
    source = """
        import threading
        from log import log

        def flow_lock():
            log("lock")
            return {"locks": [1, threading.Lock()]}

        def flow_use(lock):
            log("use")
            with lock["locks"][1]:
                return 1

        def flow_other():
            log("other")
    """

    result = flow(source)

    assert result.ret == _OK
    assert result.parseoutcomes() == {"passed": 3}
    assert "the result of lock can not be stored: result['locks'][1]: _thread.lock" in result.stdout.str()
    assert "lock runs again on --ff-resume" in result.stdout.str()
    log()
    again = flow({}, "--ff-resume", "-v")
    assert again.ret == _OK
    assert log() == ["lock", "use"]
    assert reasons_in(again) == {"lock": "result missing", "use": "upstream lock runs again"}
    assert reused_in(again) == {"other"}


@pytest.mark.parametrize("how", ["__reduce__", "__getstate__"])
def test_a_result_whose_pickling_raises_fails_nothing(flow: Flow, log: Log, how: str) -> None:
    source = f"""
        from log import log

        class Odd:
            def {how}(self, *_):
                raise KeyError("odd")

        def flow_odd():
            return Odd()

        def flow_use(odd):
            log(type(odd).__name__)
    """

    result = flow(source)

    assert result.ret == _OK
    assert log() == ["Odd"]
    result.stdout.fnmatch_lines(["the result of odd can not be stored*"])


def test_a_result_that_can_not_be_loaded_any_more_is_made_again(flow: Flow, log: Log) -> None:
    source = """
        import os
        from dataclasses import dataclass
        from log import log

        @dataclass
        class Row:
            value: int

        def flow_row():
            log("row")
            return make()

        def make():
            return __import__("rows").Row(1)

        def flow_use(row):
            log(f"use {row.value}")
            assert os.path.exists("ready")
    """
    rows = "class {name}:\n    def __init__(self, value):\n        self.value = value\n"
    flow({"rows.py": rows.format(name="Row"), "flow_it.py": source})
    log()

    result = flow(
        {
            "rows.py": rows.format(name="Row") + "del Row\nfrom more import Row\n",
            "more.py": rows.format(name="Row"),
            "ready": "",
        },
        "--ff-resume",
        "-v",
    )

    assert result.ret == _OK
    assert log() == ["use 1"]
    gone = flow({"rows.py": rows.format(name="Line")}, "--ff-resume", "--ff-force", "use", "-v")
    assert gone.ret == _FAILED
    assert log() == ["row"]
    assert "damaged" in reasons_in(gone)["row"]


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "0.1 + 0.2",
        "float('inf')",
        "(1, 'a')",
        "{1: 'one', (2, 3): {4}}",
        "b'bytes'",
        "'\\ud800 \\x00 é'",
        "10**40",
        "[[]] * 2",
        "__import__('datetime').date(2026, 1, 2)",
        "__import__('decimal').Decimal('1.10')",
        "ValueError('x', 1).args",
        "lambda: 1",
    ],
)
def test_a_value_arrives_from_an_earlier_run_as_it_was(
    flow: Flow, log: Log, pytester: pytest.Pytester, value: str
) -> None:
    source = f"""
        import os
        from log import log

        def flow_value():
            log("value")
            return {value}

        def flow_use(value):
            wanted = flow_value()
            if callable(wanted):
                value, wanted = value(), wanted()
            assert type(value) is type(wanted)
            assert repr(value) == repr(wanted)
            assert os.path.exists("ready")
    """
    assert flow(source).ret == _FAILED
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert dict(words(result)) == {"value": "REUSED", "use": "PASSED"}
    # Once by itself, and twice by its reader.
    assert log() == ["value"] * 3


# ---- skips, expected failures, rules, retries ------------------------------------------------------------------------


def test_a_skip_is_tried_again_and_what_it_gives_is_used(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        def flow_before():
            log("before")

        def flow_new_data(before):
            log("new data")
            if not os.path.exists("ready"):
                pytest.skip("nothing new since noon")
            return 1

        def flow_load(new_data):
            log(f"load {new_data}")
    """
    assert flow(source).ret == _OK
    assert log() == ["before", "new data"]
    again = flow({}, "--ff-resume", "-v")
    assert again.ret == _OK
    assert log() == ["new data"]
    assert dict(words(again)) == {"before": "REUSED", "new_data": "SKIPPED", "load": "SKIPPED"}
    make_ready(pytester)

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["new data", "load 1"]


def test_an_alarm_that_had_no_cause_starts_nothing(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        def flow_good():
            log("good")

        @pytest.mark.depends_on("good", when="any_failed")
        def flow_alarm():
            log("alarm")

        @pytest.mark.depends_on("alarm", when="all_done")
        def flow_final():
            log("final")
    """
    flow(source)
    log()

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == []
    assert dict(words(result)) == {"good": "REUSED", "alarm": "SKIPPED", "final": "REUSED"}


def test_trigger_rules_see_a_reused_task_as_a_success(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        def flow_good():
            log("good")
            return 1

        def flow_late():
            log("late")
            assert os.path.exists("ready")

        @pytest.mark.depends_on("good", "late", when="any_success")
        def flow_any_success(upstream):
            log(f"any_success {upstream['good']} {bool(upstream['late'])}")

        @pytest.mark.depends_on("good", "late", when="any_failed")
        def flow_any_failed(): log("any_failed")

        @pytest.mark.depends_on("good", "late")
        def flow_all(): log("all")
    """
    flow(source)
    assert sorted(log()) == ["any_failed", "any_success 1 False", "good", "late"]

    again = flow({}, "--ff-resume", "-v")
    assert again.ret == _FAILED
    assert sorted(log()) == ["any_failed", "any_success 1 False", "late"]
    make_ready(pytester)
    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert dict(words(result))["any_failed"] == "SKIPPED"
    assert sorted(log()) == ["all", "any_success 1 False", "late"]


def test_an_expected_failure_is_tried_again(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        @pytest.mark.xfail(reason="not there yet")
        def flow_fetch():
            log("fetch")
            raise ConnectionError

        @pytest.mark.xfail
        def flow_lax():
            log("lax")
            return 1

        def flow_use(lax):
            log("use")
    """
    assert flow(source).ret == _OK
    log()

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["fetch"]
    assert dict(words(result)) == {"fetch": "XFAIL", "lax": "REUSED", "use": "REUSED"}


_FLAKY = """
    import os
    import pytest
    from log import log

    def flow_before():
        log("before")

    @pytest.mark.retry(2)
    def flow_flaky(before):
        log("flaky")
        if not os.path.exists("ready"):
            raise OSError("busy")
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise OSError("busy")

    def flow_after(flaky):
        log("after")
"""


def test_a_resumed_run_has_all_its_retries(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    first = flow(_FLAKY)
    assert first.parseoutcomes() == {"passed": 1, "failed": 1, "retried": 2, "blocked": 1}
    assert log() == ["before", *["flaky"] * 3]
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert words(result)[1:] == [("flaky", "RETRY"), ("flaky", "PASSED"), ("after", "PASSED")]
    assert log() == ["flaky", "flaky", "after"]


def test_a_run_that_was_killed_between_two_attempts(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    conftest = """
        import os
        import signal

        def pytest_flowforge_task_retrying():
            if not os.path.exists("ready"):
                os.kill(os.getpid(), signal.SIGKILL)
    """
    assert flow({"conftest.py": conftest, "flow_it.py": _FLAKY}).ret == -signal.SIGKILL
    log()
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert reasons_in(result) == {"flaky": "failed last time", "after": "never started"}
    assert log() == ["flaky", "flaky", "after"]


def test_after_a_stop_at_the_first_failure_the_rest_runs(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from log import log

        def flow_a():
            log("a")
            assert os.path.exists("ready")

        def flow_b():
            log("b")

        def flow_c(a):
            log("c")
    """
    first = flow(source, "-x")
    assert first.ret == _FAILED
    assert log() == ["a"]
    make_ready(pytester)

    result = flow({}, "-x", "--ff-resume", "-v")

    assert result.ret == _OK
    assert sorted(log()) == ["a", "b", "c"]
    assert reasons_in(result) == {"a": "failed last time", "b": "never started", "c": "never started"} or (
        reasons_in(result)["c"] == "was blocked"
    )


def test_a_teardown_that_fails_is_no_success(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        @pytest.fixture
        def connection():
            yield 1
            assert os.path.exists("ready")

        def flow_it(connection):
            log("it")
    """
    assert flow(source).ret == _FAILED
    make_ready(pytester)

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["it", "it"]


def test_tasks_in_classes_and_coroutines_are_reused(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from log import log

        class FlowEtl:
            factor = 3

            def flow_extract(self):
                log("extract")
                return 2

            async def flow_scale(self, extract):
                log("scale")
                return extract * self.factor

            def flow_load(self, scale):
                log(f"load {scale}")
                assert os.path.exists("ready")
    """
    flow(source)
    log()
    make_ready(pytester)

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["load 6"]
    # A method is made of its class, but not of the other methods there.
    flow(source.replace("return 2", "return 3"), "--ff-resume")
    assert log() == ["extract", "scale", "load 9"]
    flow(source.replace("return 2", "return 3").replace('f"load', 'f"loads'), "--ff-resume")
    assert log() == ["loads 9"]


# ---- beside the rest of pytest ---------------------------------------------------------------------------------------


def test_reused_tasks_are_no_tests_that_ran(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    make_ready(pytester)

    result = flow({}, "--ff-resume", "--junitxml=out.xml", "-q")

    assert result.ret == _OK
    assert sorted(result.stdout.str().split()[-12:])
    text = pytester.path.joinpath("out.xml").read_text(encoding="utf-8")
    assert 'failures="0"' in text
    assert 'name="flow_load"' in text
    assert len(log()) == 6


@pytest.mark.parametrize("option", ["--ff-resume", "--ff-cache", "--ff-explain", "--ff-rerun-unsafe"])
def test_options_about_flows_without_flows(flow: Flow, option: str) -> None:
    result = flow(_ETL, option, flowforge=False)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"ERROR: {option} is about flows*--flowforge"])


def test_a_path_may_follow_the_option(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    make_ready(pytester)

    result = flow({}, "--ff-resume", "flow_it.py")

    assert result.ret == _OK
    assert log() == ["load", "report"]
