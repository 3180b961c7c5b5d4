"""What is asked about kept runs and done to them, and where they are kept: disks, locks, keys, strangers."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from tests.plugin.conftest import words
from tests.plugin.keeping import flip, journal_of, make_ready, place_of, reasons_in, records_in, run_ids, tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED, _NOTHING = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED
_INTERNAL, _USAGE = pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR

_POSIX = pytest.mark.skipif(os.name != "posix", reason="about files as POSIX has them")


def _write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write a journal that looks as if nothing had happened to it."""
    lines, before = [], "00000000"
    for number, record in enumerate(records):
        members = {
            "s": number,
            "p": before,
            **{key: value for key, value in record.items() if key not in {"s", "p", "c"}},
        }
        body = json.dumps(members, separators=(",", ":"))[:-1]
        before = f"{crc32(body.encode('ascii')):08x}"
        lines.append(f'{body},"c":"{before}"}}\n')
    path.write_text("".join(lines), encoding="ascii")


def _results(path: Path) -> dict[str, list[Any]]:
    """Where the results of the successes in a journal are, by task name."""
    ends = [record for record in records_in(path) if record.get("state") == "success"]
    return {end["task"].partition("::flow_")[2]: end["result"] for end in ends}


def _ask(flow: Flow, *args: str) -> pytest.RunResult:
    """Ask a question that needs no flows."""
    return flow({}, *args, flowforge=False)


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, f"waited for {text!r} in {path}"
        time.sleep(0.01)


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
        log(f"load {transform}")
        if not os.path.exists("ready"):
            raise ConnectionError("no route to host")
        return sum(transform)

    def flow_report(load):
        log(f"report {load}")
"""

_GATE = """
    import os
    import time
    from log import log

    def flow_first():
        log("first")
        return 1

    def flow_gate(first):
        log("gate")
        # A test asks some questions before.
        deadline = time.monotonic() + 240
        while not os.path.exists("ready") and time.monotonic() < deadline:
            time.sleep(0.01)
        return first + 1

    def flow_last(gate):
        log("last")
"""


@contextmanager
def _going_on(flow: Flow, pytester: pytest.Pytester, source: str = _GATE) -> Iterator[subprocess.Popen[bytes]]:
    """Run a flow in another process, up to its task ``gate``."""
    assert flow(source, "--ff-validate").ret == _OK
    command = [sys.executable, "-m", "pytest", "--flowforge"]
    process = pytester.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        _wait_for(pytester.path / "log.txt", "gate")
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


# ---- status and history ----------------------------------------------------------------------------------------------


def test_status_of_the_last_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    (run,) = run_ids(pytester)

    result = _ask(flow, "--ff-status")

    assert result.ret == _OK
    result.stdout.fnmatch_lines(
        [
            f"run {run}: failed (*2 success, 1 failed, 1 blocked, *s)",
            "  success  extract *s",
            "  success  transform *s",
            "  failed   load *s*ConnectionError: no route to host",
            "  blocked  report *upstream load failed",
        ]
    )
    assert "test session starts" not in result.stdout.str()


def test_status_of_another_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    make_ready(pytester)
    flow({}, "--ff-resume")
    first, second = run_ids(pytester)

    last, other = _ask(flow, "--ff-status"), _ask(flow, "--ff-status", "--ff-run", first)

    last.stdout.fnmatch_lines([f"run {second}: ok (*2 success, 2 reused*continues {first})"])
    last.stdout.fnmatch_lines([f"  reused*extract*reused from run {first}"])
    other.stdout.fnmatch_lines([f"run {first}: failed*"])
    unknown = _ask(flow, "--ff-status", "--ff-run", "20200101-000000-abcd")
    assert unknown.ret == _USAGE
    unknown.stderr.fnmatch_lines(["ERROR: *no run '20200101-000000-abcd'*--ff-history*"])


def test_status_counts_attempts(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.mark.retry(2)
        def flow_flaky():
            raise OSError("busy")
    """
    flow(source)

    _ask(flow, "--ff-status").stdout.fnmatch_lines(["  failed*flaky*3 attempts*OSError: busy"])
    told = json.loads(_ask(flow, "--ff-status", "--ff-format", "json").stdout.str())
    assert told["tasks"][0]["attempts"] == 3


def test_status_for_machines(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)

    told = json.loads(_ask(flow, "--ff-status", "--ff-format", "json").stdout.str())

    assert told["format"] == 1
    assert (told["run"], told["outcome"]) == (run_ids(pytester)[0], "failed")
    assert told["counts"] == {"success": 2, "failed": 1, "blocked": 1}
    assert [(task["id"], task["state"]) for task in told["tasks"]] == [
        ("flow_it.py::flow_extract", "success"),
        ("flow_it.py::flow_transform", "success"),
        ("flow_it.py::flow_load", "failed"),
        ("flow_it.py::flow_report", "blocked"),
    ]
    assert all(task["seconds"] >= 0 for task in told["tasks"])


def test_history(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    make_ready(pytester)
    flow({}, "--ff-resume")
    flow(_ETL.replace("* 10", "* 20"))
    first, second, third = run_ids(pytester)

    result = _ask(flow, "--ff-history")

    assert result.ret == _OK
    lines = [line for line in result.stdout.lines if line]
    pytest.LineMatcher(lines).fnmatch_lines(
        [
            f"{first} *failed *code * s *2 success, 1 failed, 1 blocked",
            f"{second} *ok *code * s *2 success, 2 reused*continues {first}",
            f"{third} *ok *code * s *4 success",
        ],
        consecutive=True,
    )
    codes = re.findall(r"code (\w+)", result.stdout.str())
    assert codes[0] == codes[1] != codes[2]
    told = json.loads(_ask(flow, "--ff-history", "--ff-format", "json").stdout.str())
    assert [(run["run"], run["outcome"]) for run in told["runs"]] == [(first, "failed"), (second, "ok"), (third, "ok")]
    assert told["runs"][0]["argv"] == ["--flowforge"]
    assert told["unreadable"] == []


def test_questions_while_a_run_is_going_on(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    with _going_on(flow, pytester) as process:
        (run,) = run_ids(pytester)
        status = _ask(flow, "--ff-status")
        history = _ask(flow, "--ff-history")
        machine = json.loads(_ask(flow, "--ff-status", "--ff-format", "json").stdout.str())
        check = _ask(flow, "--ff-check")
        plan = flow({}, "--ff-dry-run", "--ff-resume")
        make_ready(pytester)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == _OK, output
    assert (status.ret, history.ret, check.ret, plan.ret) == (_OK, _OK, _FAILED, _OK)
    status.stdout.fnmatch_lines(
        [f"run {run}: running (*", "  success*first*", "  running*gate*", "  pending*last*"], consecutive=True
    )
    assert "killed" not in status.stdout.str()
    history.stdout.fnmatch_lines([f"{run} *running*"])
    assert machine["outcome"] == "running"
    check.stdout.fnmatch_lines([f"last run {run} is running"])
    assert _ask(flow, "--ff-check").ret == _OK


def test_questions_after_a_run_was_killed(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    with _going_on(flow, pytester) as process:
        process.kill()
    (run,) = run_ids(pytester)

    status = _ask(flow, "--ff-status")
    check = _ask(flow, "--ff-check")

    status.stdout.fnmatch_lines(
        [
            f"run {run}: did not finish (*",
            "  success*first*",
            "  in doubt*gate*",
            "  pending*last*",
            "*killed*--ff-resume*",
        ]
    )
    assert check.ret == _FAILED
    check.stdout.fnmatch_lines([f"last run {run} did not finish"])
    _ask(flow, "--ff-history").stdout.fnmatch_lines([f"{run} *did not finish*"])


@pytest.mark.parametrize(
    ("option", "status"),
    [
        ("--ff-status", _NOTHING),
        ("--ff-history", _OK),
        ("--ff-check", _FAILED),
        ("--ff-repair", _OK),
        ("--ff-clear", _OK),
        ("--ff-rollback=20200101-000000-abcd", _USAGE),
    ],
)
def test_where_nothing_is_kept(flow: Flow, pytester: pytest.Pytester, option: str, status: int) -> None:
    result = _ask(flow, option)

    assert result.ret == status
    assert "no runs are kept in" in result.stdout.str() + result.stderr.str()
    assert not place_of(pytester).exists()


def test_history_for_machines_where_nothing_is_kept(flow: Flow) -> None:
    result = _ask(flow, "--ff-history", "--ff-format", "json")

    assert result.ret == _OK
    assert json.loads(result.stdout.str())["runs"] == []


def test_questions_exclude_each_other(flow: Flow) -> None:
    result = _ask(flow, "--ff-status", "--ff-history")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-status and --ff-history were given together: choose one"])


def test_a_run_to_name_without_a_question(flow: Flow) -> None:
    result = flow(_ETL, "--ff-run", "20200101-000000-abcd")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-run *--ff-resume*"])


def test_names_that_a_terminal_would_obey_are_shown_harmless(flow: Flow) -> None:
    source = r"""
        def flow_bad():
            raise ValueError("\x1b]0;owned\x07 \x1b[2J")
    """
    flow(source)

    result = _ask(flow, "--ff-status")

    assert "owned" in result.stdout.str()
    assert "\x1b" not in result.stdout.str()


# ---- check, repair, clear, rollback ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [False, True])
def test_check_of_a_run_that_ended(flow: Flow, log: Log, pytester: pytest.Pytester, *, ready: bool) -> None:
    del log
    if ready:
        make_ready(pytester)
    flow(_ETL)

    result = _ask(flow, "--ff-check")

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["1 run, all whole; *"])


def test_check_names_results_that_are_damaged(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    run, segment, offset, *_ = _results(journal_of(pytester))["transform"]
    flip(place_of(pytester) / "runs" / run / "results" / segment, offset + 2)

    result = _ask(flow, "--ff-check")

    assert result.ret == _FAILED
    result.stdout.fnmatch_lines(["*flow_transform: result damaged"])
    assert "flow_extract" not in result.stdout.str()


def _damage(pytester: pytest.Pytester) -> tuple[Path, int]:
    """Flip a bit of the record of the end of ``transform``; return the journal and the number of that line."""
    journal = journal_of(pytester)
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(place for place, line in enumerate(lines) if b"task_finished" in line and b"flow_transform" in line)
    flip(journal, sum(map(len, lines[:at])) + 40)
    return journal, at + 1


def test_a_damaged_journal_is_refused_and_repaired(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    journal, line = _damage(pytester)
    before = journal.read_bytes()
    log()
    make_ready(pytester)

    refused = flow({}, "--ff-resume")
    assert refused.ret == _USAGE
    refused.stderr.fnmatch_lines(
        [f"ERROR: {journal}:{line} is damaged (*); {line - 1} good records before it.*'pytest *--ff-repair'*"]
    )
    assert log() == []
    assert journal.read_bytes() == before
    assert _ask(flow, "--ff-check").ret == _FAILED
    assert _ask(flow, "--ff-status").ret == _USAGE
    _ask(flow, "--ff-history").stdout.fnmatch_lines([f"{run_ids(pytester)[0]}: *is damaged*"])

    repaired = _ask(flow, "--ff-repair")
    assert repaired.ret == _OK
    repaired.stdout.fnmatch_lines([f"run {run_ids(pytester)[0]}: {line - 1} good records kept; *"])
    (old,) = journal.parent.glob("*.old")
    assert old.read_bytes() == before
    assert len(records_in(journal)) == line - 1

    result = flow({}, "--ff-resume", "-v")
    assert result.ret == _OK
    assert log() == ["transform", "load [10, 20, 30]", "report 60"]
    assert dict(words(result))["extract"] == "REUSED"


def test_a_new_run_goes_its_way_beside_a_damaged_one(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    _damage(pytester)
    make_ready(pytester)

    assert flow({}).ret == _OK
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 4}
    assert flow({}, "-k", "extract").ret == _OK


def test_nothing_to_repair(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    before = tree_of(place_of(pytester) / "runs")

    result = _ask(flow, "--ff-repair")

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["nothing to repair"])
    assert tree_of(place_of(pytester) / "runs") == before


def test_clear_throws_all_away(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    flow({}, "--ff-resume")
    log()

    result = _ask(flow, "--ff-clear")

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["2 runs and all results deleted from *"])
    assert run_ids(pytester) == []
    again = flow({}, "--ff-resume")
    again.stdout.fnmatch_lines(["flowforge: no earlier run to continue*"])
    assert log() == ["extract", "transform", "load [10, 20, 30]"]


def test_clear_leaves_what_is_not_ours(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    flow(_ETL)
    strange = place_of(pytester) / "runs" / "notes.txt"
    strange.write_text("mine", encoding="ascii")

    assert _ask(flow, "--ff-clear").ret == _OK
    assert strange.read_text(encoding="ascii") == "mine"


def test_a_folder_that_is_no_checkpoint_is_not_cleared(flow: Flow, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("precious")
    folder.joinpath("runs").mkdir()
    folder.joinpath("runs", "data.txt").write_text("mine", encoding="ascii")

    _ask(flow, "--ff-clear", "--ff-checkpoint", "precious")

    assert folder.joinpath("runs", "data.txt").read_text(encoding="ascii") == "mine"


def test_going_back_to_an_earlier_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    make_ready(pytester)
    flow(_ETL)
    flow(_ETL.replace("* 10", "* 20"))
    first, second = run_ids(pytester)
    log()

    result = _ask(flow, "--ff-rollback", first)

    assert result.ret == _OK
    result.stdout.fnmatch_lines([f"the results of run {first} are the current ones now; *"])
    assert run_ids(pytester)[:2] == [first, second]
    assert flow(_ETL, "--ff-resume").parseoutcomes() == {"reused": 4}
    _ask(flow, "--ff-history").stdout.fnmatch_lines([f"* rollback *to {first}"])
    other = flow(_ETL.replace("* 10", "* 30"), "--ff-resume", "-v")
    assert reasons_in(other) == {
        "transform": "code changed",
        "load": "upstream transform runs again",
        "report": "upstream load runs again",
    }
    assert log() == ["transform", "load [30, 60, 90]", "report 180"]
    assert _ask(flow, "--ff-rollback", second).ret == _OK
    assert flow(_ETL.replace("* 10", "* 20"), "--ff-resume").parseoutcomes() == {"reused": 4}


@pytest.mark.parametrize("run", ["20200101-000000-abcd", "first", "..."])
def test_going_back_to_a_run_that_is_not_there(flow: Flow, log: Log, pytester: pytest.Pytester, run: str) -> None:
    del log
    flow(_ETL)

    result = _ask(flow, "--ff-rollback", run)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: *--ff-history*"])
    assert len(run_ids(pytester)) == 1


# ---- replay ----------------------------------------------------------------------------------------------------------


def test_a_failed_task_is_replayed_with_its_inputs_and_nothing_is_written(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    flow(_ETL)
    log()
    before = tree_of(place_of(pytester))

    again = flow({}, "--ff-replay", "load", "-v")

    assert again.ret == _FAILED
    assert words(again) == [("load", "FAILED")]
    assert log() == ["load [10, 20, 30]"]
    assert "continue with" not in again.stdout.str()
    make_ready(pytester)
    good = flow({}, "--ff-replay", "load", "-v")
    assert good.ret == _OK
    assert words(good) == [("load", "PASSED")]
    assert log() == ["load [10, 20, 30]"]
    assert tree_of(place_of(pytester)) == before
    assert reasons_in(flow({}, "--ff-resume", "--ff-dry-run"))["load"] == "failed last time"


def test_a_replay_that_is_saved_is_continued(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    make_ready(pytester)

    assert flow({}, "--ff-replay", "load", "--ff-save").ret == _OK
    assert log() == ["load [10, 20, 30]"]
    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["report 60"]


def test_a_replay_with_code_that_was_mended_since(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    mended = _ETL.replace('os.path.exists("ready")', "True")

    assert flow(mended, "--ff-replay", "load", "--ff-save").ret == _OK
    assert log() == ["load [10, 20, 30]"]

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["report 60"]
    assert len(run_ids(pytester)) == 3


def test_a_replay_in_the_debugger(flow: Flow, log: Log) -> None:
    flow(_ETL)
    log()

    result = flow({}, "--ff-replay", "load", "--pdb", stdin="p [number + 1 for number in transform]\nq\n")

    result.stdout.fnmatch_lines(["*(Pdb) *[[]11, 21, 31[]]"])


def test_the_inputs_of_another_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    flow(_ETL.replace("* 10", "* 20"))
    log()
    first, _ = run_ids(pytester)

    flow({}, "--ff-replay", "load")
    flow({}, "--ff-replay", "load", "--ff-run", first)

    assert log() == ["load [20, 40, 60]", "load [10, 20, 30]"]


def test_a_replay_sees_upstreams_that_failed(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        def flow_good():
            return 1

        def flow_bad():
            raise ValueError("boom")

        @pytest.mark.depends_on(when="all_done")
        def flow_alarm(good, bad, upstream):
            log(f"{good} {bad.state} {bad.error} {bool(upstream['bad'])}")
    """
    flow(source)
    (told,) = log()

    flow({}, "--ff-replay", "alarm")

    assert log() == [told]
    assert told == "1 failed ValueError: boom False"


_VARIANTS = """
    import pytest
    from log import log

    @pytest.mark.parametrize("fold", [1, 2])
    def flow_fit(fold):
        return fold

    @pytest.mark.parametrize("fold", [1, 2])
    def flow_score(fit, fold):
        log(f"score {fit}")
        raise ValueError("boom")
"""


def test_one_of_several_variants_is_replayed(flow: Flow, log: Log) -> None:
    flow(_VARIANTS)
    log()

    assert flow({}, "--ff-replay", "score[2]").ret == _FAILED
    assert log() == ["score 2"]


def _replay_of_nothing(pytester: pytest.Pytester) -> None:
    del pytester


def _remove_results(pytester: pytest.Pytester) -> None:
    for results in place_of(pytester).rglob("results"):
        shutil.rmtree(results)


def _remove_runs(pytester: pytest.Pytester) -> None:
    shutil.rmtree(place_of(pytester))


@pytest.mark.parametrize(
    ("before", "options", "says"),
    [
        (_replay_of_nothing, ["--ff-replay", "scor"], "*--ff-replay*scor*score*"),
        (_replay_of_nothing, ["--ff-replay", "score"], "--ff-replay score: this means 2 tasks*score[[]1[]]*"),
        (_remove_results, ["--ff-replay", "score[1]"], "*--ff-replay score[[]1[]]*fit[[]1[]]*"),
        (_remove_runs, ["--ff-replay", "score[1]"], "*--ff-replay score[[]1[]]*no run*"),
        (_replay_of_nothing, ["--ff-replay", "score[1]", "--ff-run", "20200101-000000-abcd"], "*20200101*"),
        (_replay_of_nothing, ["--ff-save"], "*--ff-save*--ff-replay*"),
    ],
)
def test_a_replay_that_can_not_be(
    flow: Flow,
    log: Log,
    pytester: pytest.Pytester,
    before: Callable[[pytest.Pytester], None],
    options: list[str],
    says: str,
) -> None:
    flow(_VARIANTS)
    log()
    before(pytester)

    result = flow({}, *options)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"ERROR: {says}"])
    assert log() == []


def test_a_replay_of_a_task_whose_upstream_never_ran(flow: Flow, log: Log) -> None:
    flow(_ETL, "-k", "extract")
    log()

    result = flow({}, "--ff-replay", "load")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-replay load*transform*--ff-run*"])
    assert log() == []


# ---- how many runs are kept ------------------------------------------------------------------------------------------


def test_old_runs_go_and_results_in_use_stay(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    ini = "[pytest]\nflowforge_keep_runs = 2\n"
    flow({"pytest.ini": ini, "flow_it.py": _ETL})
    (first,) = run_ids(pytester)
    for _ in range(3):
        assert flow({}, "--ff-resume").ret == _FAILED
    log()
    history = [line.split()[0] for line in _ask(flow, "--ff-history").stdout.lines if line]
    assert len(history) == 2
    assert first not in history
    make_ready(pytester)

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]
    for _ in range(2):
        flow({})
    assert len(run_ids(pytester)) == 2
    assert first not in run_ids(pytester)


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_a_number_of_runs_that_can_not_be(flow: Flow, log: Log, value: str) -> None:
    result = flow({"pytest.ini": f"[pytest]\nflowforge_keep_runs = {value}\n", "flow_it.py": _ETL})

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: ini flowforge_keep_runs*"])
    assert log() == []


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_a_second_run_is_told_who_is_there(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    with _going_on(flow, pytester) as process:
        log()
        results = [flow({}, *options) for options in ([], ["--ff-resume"], ["--ff-wait=0.2"])]
        cleared = _ask(flow, "--ff-clear")
        elsewhere = flow({}, "-k", "first", "--ff-checkpoint", "elsewhere")
        assert log() == ["first"]
        make_ready(pytester)
        process.communicate(timeout=60)

    for result in [*results, cleared]:
        assert result.ret == _USAGE
        assert f"another flowforge run (pid {process.pid}, host " in result.stderr.str()
        assert "--ff-wait" in result.stderr.str()
    assert elsewhere.ret == _OK
    assert process.returncode == _OK
    assert len(run_ids(pytester)) == 1


def test_a_second_run_waits_if_it_may(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    with _going_on(flow, pytester) as process:
        command = [sys.executable, "-m", "pytest", "--flowforge", "--ff-resume", "--ff-wait"]
        second = pytester.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        time.sleep(1)
        assert second.poll() is None
        make_ready(pytester)
        process.communicate(timeout=60)
        output, _ = second.communicate(timeout=60)

    assert second.returncode == _OK, output
    assert b"3 reused" in output
    assert log() == ["first", "gate", "last"]


def test_a_run_that_was_killed_keeps_nobody_out(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    with _going_on(flow, pytester) as process:
        process.kill()
        process.wait()
        log()
        make_ready(pytester)
        result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert log() == ["gate", "last"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_a_task_leaves_behind_keeps_nobody_out(flow: Flow, log: Log) -> None:
    source = """
        import os, subprocess, sys
        from log import log

        def flow_it():
            child = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(300)"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            log(child.pid)
    """
    flow(source)
    (pid,) = log()
    try:
        assert flow({}).ret == _OK
    finally:
        os.kill(int(pid), signal.SIGKILL)
        for other in log():
            os.kill(int(other), signal.SIGKILL)


@pytest.mark.parametrize("wait", ["--ff-wait=soon", "--ff-wait=-1", "--ff-wait=nan"])
def test_a_time_to_wait_that_can_not_be(flow: Flow, log: Log, wait: str) -> None:
    del log
    result = flow(_ETL, wait)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["*--ff-wait*number of seconds*"])


# ---- where runs are kept ---------------------------------------------------------------------------------------------


def _cache_is_a_file(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath(".pytest_cache").write_text("mine", encoding="ascii")


def test_a_run_that_can_not_be_kept_goes_on_unless_that_matters(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    _cache_is_a_file(pytester)
    make_ready(pytester)

    result = flow(_ETL)

    assert result.ret == _OK
    assert len(log()) == 4
    result.stdout.fnmatch_lines(["results are not being saved: cannot write *"])
    for option in ("--ff-resume", "--ff-require-checkpoint"):
        refused = flow({}, option)
        assert refused.ret == _USAGE
        refused.stderr.fnmatch_lines(["ERROR: cannot write *"])
    assert log() == []


def _file(path: Path) -> None:
    path.write_text("mine", encoding="ascii")


def _link(path: Path) -> None:
    victim = path.parents[1] / "victim"
    victim.mkdir()
    path.symlink_to(victim, target_is_directory=True)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _world_writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _group_writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def _foreign(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.joinpath("VERSION").write_text("mine", encoding="ascii")


def _newer(path: Path) -> None:
    path.mkdir(mode=0o700)
    path.joinpath("VERSION").write_text("2\n", encoding="ascii")


def _fifo_as_version(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.mkfifo(path / "VERSION")


def _link_as_lock(path: Path) -> None:
    path.mkdir(mode=0o700)
    victim = path.parents[1] / "victim"
    victim.write_text("mine", encoding="ascii")
    path.joinpath("run.lock").symlink_to(victim)


def _link_as_runs(path: Path) -> None:
    path.mkdir(mode=0o700)
    victim = path.parents[1] / "victim"
    victim.mkdir()
    path.joinpath("runs").symlink_to(victim, target_is_directory=True)


@_POSIX
@pytest.mark.parametrize("options", [[], ["--ff-resume"], ["--ff-dry-run", "--ff-resume"], ["--ff-status"]])
@pytest.mark.parametrize(
    ("plant", "says"),
    [
        pytest.param(_file, "* is a file, and a plain folder should be there*", id="a file"),
        pytest.param(_link, "* is a symbolic link, and a plain folder should be there*", id="a link"),
        pytest.param(_fifo, "* is a FIFO, and a plain folder should be there*", id="a FIFO"),
        pytest.param(_world_writable, "* can be written by others*chmod go-w*", id="writable by all"),
        pytest.param(_group_writable, "* can be written by others*chmod go-w*", id="writable by the group"),
        pytest.param(_foreign, "*VERSION holds no version*--ff-checkpoint*", id="foreign"),
        pytest.param(_newer, "* was written in format 2*update it*", id="newer"),
        pytest.param(_fifo_as_version, "*VERSION is a FIFO*", id="a FIFO as version"),
        pytest.param(_link_as_runs, "*runs is a symbolic link*", id="a link as runs"),
    ],
)
def test_a_place_that_is_not_to_be_trusted_is_refused(
    flow: Flow,
    log: Log,
    pytester: pytest.Pytester,
    plant: Callable[[Path], None],
    says: str,
    options: list[str],
) -> None:
    place = place_of(pytester)
    place.parent.mkdir()
    plant(place)

    result = flow(_ETL, *options, timeout=20)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"ERROR: {says}"])
    assert log() == []
    victim = pytester.path / "victim"
    assert not victim.exists() or not list(victim.iterdir())


@_POSIX
def test_a_link_as_lock_is_not_followed(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    place = place_of(pytester)
    place.parent.mkdir()
    _link_as_lock(place)

    result = flow(_ETL)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: *run.lock is no plain file*"])
    assert pytester.path.joinpath("victim").read_text(encoding="ascii") == "mine"
    assert log() == []


@_POSIX
def test_what_others_could_write_is_cleared_without_being_read(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    place_of(pytester).chmod(0o777)
    assert flow({}, "--ff-resume").ret == _USAGE

    assert _ask(flow, "--ff-clear").ret == _OK

    assert flow({}, "--ff-resume").ret == _FAILED
    assert log() == ["extract", "transform", "load [10, 20, 30]"]
    assert stat.S_IMODE(place_of(pytester).stat().st_mode) == 0o700


@_POSIX
def test_nobody_else_can_read_or_write_what_is_kept(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    del log
    old = os.umask(0)
    try:
        flow(_ETL)
    finally:
        os.umask(old)

    place = place_of(pytester)
    for path in [place, *place.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_without_the_cache_of_pytest(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    make_ready(pytester)
    without = ["-p", "no:cacheprovider"]

    assert flow(_ETL, *without).ret == _OK
    assert len(log()) == 4
    assert not pytester.path.joinpath(".pytest_cache").exists()
    for option in ("--ff-resume", "--ff-require-checkpoint", "--ff-isolate", "--ff-status", "--ff-replay=load"):
        result = flow({}, *without, option)
        assert result.ret == _USAGE
        result.stderr.fnmatch_lines(["ERROR: *-p no:cacheprovider*--ff-checkpoint*"])
    assert log() == []
    assert flow({}, *without, "--ff-checkpoint", "runs").ret == _OK
    assert flow({}, *without, "--ff-checkpoint", "runs", "--ff-resume").parseoutcomes() == {"reused": 4}


@pytest.mark.parametrize("absolute", [False, True])
def test_another_folder(flow: Flow, log: Log, pytester: pytest.Pytester, *, absolute: bool) -> None:
    folder = pytester.path / "kept" / "my runs"
    option = f"--ff-checkpoint={folder if absolute else folder.relative_to(pytester.path)}"
    flow(_ETL, option)
    log()
    make_ready(pytester)

    assert folder.joinpath("VERSION").is_file()
    assert not place_of(pytester).exists()
    assert flow({}, option, "--ff-resume").ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]
    assert _ask(flow, "--ff-status", option).ret == _OK


def test_another_folder_outside_of_the_project_may_follow_its_option(
    flow: Flow, log: Log, pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "runs"
    flow(_ETL, "--ff-checkpoint", str(outside))
    log()
    make_ready(pytester)

    # By now it exists, and pytest would take it for a part of the project.
    result = flow({}, "--ff-resume", "--ff-checkpoint", str(outside))
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"*write --ff-checkpoint={outside}*"])

    assert flow({}, "--ff-resume", f"--ff-checkpoint={outside}").ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]


def test_another_folder_by_ini_is_below_the_root(
    flow: Flow, log: Log, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pytester.path
    root.joinpath("sub").mkdir()
    flow(
        {"pytest.ini": "[pytest]\nflowforge_checkpoint = kept\npythonpath = .\n", "sub/flow_it.py": _ETL},
        "--ff-validate",
    )
    monkeypatch.chdir(root / "sub")
    monkeypatch.setattr(pytester, "_path", root / "sub")

    assert flow({}).ret == _FAILED

    assert root.joinpath("kept", "VERSION").is_file()
    assert not root.joinpath("sub", "kept").exists()
    assert len(log()) == 3


def test_another_folder_that_can_not_be_used_is_an_error(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("taken").write_text("mine", encoding="ascii")

    result = flow(_ETL, "--ff-checkpoint", "taken/runs")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: cannot write *taken/runs*"])
    assert log() == []


@pytest.mark.parametrize("flowforge", [False, True])
def test_clearing_the_cache_of_pytest_leaves_runs_alone(
    flow: Flow, log: Log, pytester: pytest.Pytester, *, flowforge: bool
) -> None:
    flow({"flow_it.py": _ETL, "test_it.py": "def test_it(): pass\n"})
    log()
    make_ready(pytester)

    if flowforge:
        assert flow({}, "--cache-clear", "-k", "extract").ret == _OK
    else:
        assert flow({}, "--cache-clear", flowforge=False).ret == _OK
    log()

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]


def test_a_journal_of_a_newer_version_is_refused(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    journal = journal_of(pytester)
    records = records_in(journal)
    records[0]["v"] = [2, 0]
    _write_records(journal, records)

    result = flow({}, "--ff-resume")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: run * was written in format 2.0*update it*"])
    assert log() == []


def test_what_a_minor_version_adds_is_ignored(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    log()
    make_ready(pytester)
    journal = journal_of(pytester)
    records = records_in(journal)
    records[0]["v"] = [1, 7]
    records[-2]["mood"] = {"new": [1]}
    records.insert(3, {"t": 1.0, "ev": "weather_changed", "run": records[0]["run"]})
    _write_records(journal, records)

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]


# ---- disks -----------------------------------------------------------------------------------------------------------

_MANY = """
    import pytest
    from log import log

    @pytest.mark.parametrize("number", range(20))
    def flow_work(number):
        log(number)
        return number
"""

#: Lets the journal grow by a few bytes only once work[9] is done.
_DISK_FULL = """
    import os
    import pathlib
    import resource

    def pytest_flowforge_task_finished(task):
        if task.label == "work[9]" and not os.path.exists("ready"):
            (journal,) = pathlib.Path(".pytest_cache/flowforge/runs").glob("*/journal.jsonl")
            limit = journal.stat().st_size + {room}
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


@_POSIX
@pytest.mark.parametrize("room", [0, 50, 250])
def test_a_full_disk_ends_the_run_and_loses_nothing_that_was_kept(
    flow: Flow, log: Log, pytester: pytest.Pytester, room: int
) -> None:
    result = flow({"conftest.py": _DISK_FULL.format(room=room), "flow_it.py": _MANY})

    assert result.ret == _INTERNAL
    result.stdout.fnmatch_lines(["cannot write *journal.jsonl (*): make room *--ff-resume"])
    ran = [int(line) for line in log()]
    assert len(ran) in {10, 11}
    kept = [int(name.partition("[")[2][:-1]) for name in _results(journal_of(pytester))]
    assert set(range(10)) <= set(kept)
    lost = sorted(set(ran) - set(kept))
    if lost:
        result.stdout.fnmatch_lines([f"1 result not saved: *work[[]{lost[0]}[]]*"])
    assert "unfinished" not in _ask(flow, "--ff-status").stdout.str()
    make_ready(pytester)

    again = flow({}, "--ff-resume")

    assert again.ret == _OK
    assert sorted(map(int, log())) == sorted(set(range(20)) - set(kept))


@_POSIX
def test_a_disk_that_is_full_of_a_large_result(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    conftest = """
        import os
        import resource

        def pytest_flowforge_run_started(run):
            if not os.path.exists("ready"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    """
    source = """
        from log import log

        def flow_small():
            log("small")
            return 1

        def flow_large(small):
            log("large")
            return "x" * 3_000_000

        def flow_after(large):
            log("after")
    """

    result = flow({"conftest.py": conftest, "flow_it.py": source})

    assert result.ret == _INTERNAL
    result.stdout.fnmatch_lines(["cannot write *results*", "1 result not saved: *large*"])
    assert log() == ["small", "large"]
    assert not list(place_of(pytester).rglob(".tmp-*"))
    make_ready(pytester)
    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["large", "after"]


@_POSIX
@pytest.mark.parametrize("lines", [0, 1, 9])
def test_a_terminal_that_is_gone_takes_no_records_with_it(
    flow: Flow, log: Log, pytester: pytest.Pytester, lines: int
) -> None:
    assert flow(_MANY, "--ff-validate").ret == _OK
    command = f"{sys.executable} -m pytest --flowforge -v | head -n {lines}"
    subprocess.run(  # noqa: S602 - pipes are what this is about
        command, shell=True, cwd=pytester.path, capture_output=True, timeout=60, check=False
    )
    ran = {int(line) for line in log()}
    kept: set[int] = set()
    if place_of(pytester).exists() and run_ids(pytester):
        kept = {int(name.partition("[")[2][:-1]) for name in _results(journal_of(pytester))}
    assert ran == kept
    assert ran or lines < 9

    result = flow({}, "--ff-resume")

    assert result.ret == _OK
    assert {int(line) for line in log()} == set(range(20)) - kept


@pytest.mark.parametrize("how", ["normal", "full", "off"])
@pytest.mark.parametrize("by", ["option", "ini"])
def test_how_much_a_power_cut_may_take(flow: Flow, log: Log, pytester: pytest.Pytester, how: str, by: str) -> None:
    files = {"flow_it.py": _ETL}
    if by == "ini":
        files["pytest.ini"] = f"[pytest]\nflowforge_durability = {how}\n"
    options = [f"--ff-durability={how}"] if by == "option" else []
    assert flow(files, *options).ret == _FAILED
    log()
    make_ready(pytester)

    assert flow({}, "--ff-resume", *options).ret == _OK
    assert log() == ["load [10, 20, 30]", "report 60"]


def test_a_durability_that_there_is_not(flow: Flow, log: Log) -> None:
    assert flow(_ETL, "--ff-durability=some").ret == _USAGE
    result = flow({"pytest.ini": "[pytest]\nflowforge_durability = some\n"})
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: ini flowforge_durability: 'some' is none of normal, full, off"])
    assert log() == []


def test_a_checkpoint_that_is_deleted_during_the_run_is_noticed(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import shutil
        import time
        from log import log

        def flow_vandal():
            shutil.rmtree(".pytest_cache/flowforge")
            time.sleep(0.3)

        def flow_next(vandal):
            log("next")
    """

    result = flow(source)

    assert result.ret in {_INTERNAL, _OK}
    if result.ret == _OK:
        assert log() == ["next"]
        assert flow({}, "--ff-resume").parseoutcomes()["reused"] == 2
    else:
        result.stdout.fnmatch_lines(["cannot write *"])
    assert not list(pytester.path.rglob(".tmp-*"))


_CLOCK = """
    import os
    import time

    _now = time.time
    time.time = lambda: _now() - float(os.environ["SLOW"])
"""


def test_a_clock_that_was_set_back_keeps_runs_in_order(
    flow: Flow, log: Log, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "0")
    flow({"conftest.py": _CLOCK, "flow_it.py": _ETL})
    (first,) = run_ids(pytester)
    monkeypatch.setenv("SLOW", "86400")
    flow(_ETL.replace("* 10", "* 20"))
    log()
    earlier, later = run_ids(pytester)
    assert earlier == first
    make_ready(pytester)
    monkeypatch.setenv("SLOW", "200000")

    result = flow({}, "--ff-resume")

    result.stdout.fnmatch_lines([f"flowforge: continues run {later}: 2 reused, 2 to run"])
    assert log() == ["load [20, 40, 60]", "report 120"]
    assert _ask(flow, "--ff-history").ret == _OK
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 4}


def test_a_clock_that_is_set_back_by_a_task(flow: Flow, log: Log) -> None:
    source = """
        import time
        from log import log

        def flow_set_back():
            now = time.time
            time.time = lambda: now() - 86400
            return 1

        def flow_next(set_back):
            log("next")
    """

    assert flow(source).ret == _OK

    told = json.loads(_ask(flow, "--ff-status", "--ff-format", "json").stdout.str())
    assert all(task["seconds"] >= 0 for task in told["tasks"])
    assert told["seconds"] >= 0
    assert log() == ["next"]


def test_tasks_that_replace_what_the_journal_is_written_with(flow: Flow, log: Log) -> None:
    source = """
        import builtins, io, json, os, pickle, time
        from log import log

        def nothing(*_, **__):
            raise ZeroDivisionError("replaced")

        def flow_vandal(monkeypatch):
            for module, names in [
                (os, "open write fsync fdatasync rename replace urandom link"),
                (json, "dumps loads"),
                (time, "time monotonic"),
                (pickle, "dumps"),
                (io, "FileIO"),
                (builtins, "open"),
            ]:
                for name in names.split():
                    monkeypatch.setattr(module, name, nothing)
            return {1, 2}

        def flow_next(vandal):
            log(f"next {vandal}")
    """

    result = flow(source)

    assert result.ret == _OK
    assert log() == ["next {1, 2}"]
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 2}


def test_a_task_that_fakes_the_id_of_the_process_is_no_fork(flow: Flow, log: Log) -> None:
    source = """
        import os
        from log import log

        def flow_fakes(monkeypatch):
            monkeypatch.setattr(os, "getpid", lambda: 4711)
            return os.getpid()

        def flow_next(fakes):
            log(f"next {fakes}")
    """

    result = flow(source)

    assert result.ret == _OK
    assert log() == ["next 4711"]
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 2}


# ---- strangers, keys, secrets ----------------------------------------------------------------------------------------

_PICKLED = """
    import os
    from log import log

    def flow_plain():
        log("plain")
        return [1]

    def flow_pickled():
        log("pickled")
        return {1, 2}

    def flow_use(plain, pickled):
        log(f"use {sorted(pickled)}")
        assert os.path.exists("ready")
"""


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("mark", [b"", bytes(32), b"\xff" * 32])
@pytest.mark.parametrize("options", [["--ff-resume"], ["--ff-cache"], ["--ff-resume", "--ff-isolate"]])
def test_a_planted_pickle_is_not_executed(
    flow: Flow, log: Log, pytester: pytest.Pytester, options: list[str], mark: bytes
) -> None:
    flow(_PICKLED)
    log()
    make_ready(pytester)
    marker = pytester.path / "owned"
    stream = pickle.dumps(_Evil(marker))
    content = stream + struct.pack("<QI", len(stream), 1)
    planted = "0123456789abcdef" * 2 + ".seg"
    journal = journal_of(pytester)
    journal.parent.joinpath("results", planted).write_bytes(content + mark)
    records = records_in(journal)
    for record in records:
        if record.get("task") == "flow_it.py::flow_pickled" and "result" in record:
            run, _, _, _, _, codec = record["result"]
            record["result"] = [run, planted, 0, len(content) + len(mark), sha256(content).hexdigest(), codec]
    _write_records(journal, records)

    result = flow({}, *options, "-v")

    assert not marker.exists()
    assert result.ret == _OK
    assert log() == ["pickled", "use [1, 2]"]
    assert reasons_in(result)["pickled"] in {"result refused", "result damaged"}
    assert "flow_pickled" in _ask(flow, "--ff-check").stdout.str() or _ask(flow, "--ff-check").ret == _OK
    assert not marker.exists()


def test_results_under_another_key_are_made_again(
    flow: Flow, log: Log, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "one")
    flow(_PICKLED)
    log()
    make_ready(pytester)
    monkeypatch.setenv("FLOWFORGE_KEY", "two")

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["pickled", "use [1, 2]"]
    assert reasons_in(result) == {"pickled": "result refused", "use": "failed last time"}
    assert dict(words(result))["plain"] == "REUSED"


def test_the_key_is_made_once_and_kept_where_nobody_else_reads_it(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "flowforge" / "key"
    flow(_PICKLED)
    log()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_bytes().strip()
    assert not [path for path in place_of(pytester).rglob("*") if path.is_file() and secret in path.read_bytes()]
    make_ready(pytester)

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["use [1, 2]"]
    assert key.read_bytes().strip() == secret


def test_a_key_that_others_can_read_is_not_used(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "flowforge" / "key"
    flow(_PICKLED)
    log()
    key.chmod(0o644)
    make_ready(pytester)

    result = flow({}, "--ff-resume", "-v")

    assert result.ret == _OK
    assert log() == ["pickled", "use [1, 2]"]
    assert "chmod 600" in result.stdout.str()


def test_json_alone_may_be_asked_for(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    result = flow(_PICKLED, "--ff-codec", "json")
    result.stdout.fnmatch_lines(["the result of pickled can not be stored as json*pickled runs again on --ff-resume"])
    log()
    make_ready(pytester)

    again = flow({}, "--ff-resume", "--ff-codec", "json", "-v")

    assert again.ret == _OK
    assert log() == ["pickled", "use [1, 2]"]
    assert reasons_in(again)["pickled"] == "result missing"
    assert not list(Path(os.environ["XDG_CONFIG_HOME"]).iterdir())


@pytest.mark.parametrize("by", ["option", "ini"])
def test_what_was_pickled_is_refused_where_only_json_is_allowed(
    flow: Flow, log: Log, pytester: pytest.Pytester, by: str
) -> None:
    flow(_PICKLED)
    log()
    make_ready(pytester)
    files = {"pytest.ini": "[pytest]\nflowforge_codec = json\n"} if by == "ini" else {}

    result = flow(files, "--ff-resume", "-v", *(["--ff-codec=json"] if by == "option" else []))

    assert result.ret == _OK
    assert log() == ["pickled", "use [1, 2]"]
    assert reasons_in(result)["pickled"] == "result refused"


def test_a_codec_that_there_is_not(flow: Flow, log: Log) -> None:
    result = flow(_PICKLED, "--ff-codec", "yaml")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-codec 'yaml': there is no such codec; use json, pickle"])
    assert log() == []


_CODEC = """
    class Reversed:
        name = "reversed"
        signed = False

        def accepts(self, value):
            return type(value) is str

        def encode(self, value, out):
            out.write(value[::-1].encode("utf-8"))
            return ()

        def decode(self, stream, buffers):
            return str(stream, "utf-8")[::-1]

    def pytest_flowforge_make_codec(config):
        return Reversed()
"""


def test_a_codec_of_the_project(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from log import log

        def flow_text():
            log("text")
            return "abc"

        def flow_use(text):
            log(text)
            assert os.path.exists("ready")
    """
    flow({"conftest.py": _CODEC, "flow_it.py": source})
    log()
    assert _results(journal_of(pytester))["text"][-1] == "reversed"
    assert b"cba" in b"".join(path.read_bytes() for path in place_of(pytester).rglob("*.seg"))
    make_ready(pytester)

    assert flow({}, "--ff-resume").ret == _OK
    assert log() == ["abc"]
    assert _ask(flow, "--ff-check").ret == _OK
    # Without it nobody can read what it has made.
    gone = flow({"conftest.py": ""}, "--ff-resume", "-v")
    assert gone.ret == _OK
    assert reasons_in(gone) == {"text": "result refused", "use": "upstream text runs again"}


@pytest.mark.parametrize("options", [["--ff-isolate"], []])
def test_each_reader_may_get_its_own_copy(flow: Flow, log: Log, options: list[str]) -> None:
    source = """
        import pytest
        from log import log

        def flow_rows():
            return [1]

        def flow_spoils(rows):
            rows.append(2)

        @pytest.mark.depends_on("spoils")
        def flow_reads(rows, upstream):
            log(rows)
    """
    assert flow(source, *options).ret == _OK
    assert log() == ["[1]" if options else "[1, 2]"]

    result = flow({}, "--ff-resume", "--ff-force", "spoils", *options, "-v")

    assert dict(words(result))["rows"] == "REUSED"
    assert log() == ["[1]" if options else "[1, 2]"]


def test_isolated_readers_of_what_can_not_be_stored(flow: Flow, log: Log) -> None:
    source = """
        import threading
        from log import log

        def flow_lock():
            return threading.Lock()

        def flow_use(lock):
            log("use")
    """

    result = flow(source, "--ff-isolate")

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["*result of lock*passed on in memory*"])
    assert log() == ["use"]


def test_a_result_that_goes_while_the_run_is_on_fails_its_reader_alone(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    conftest = """
        import pathlib

        def pytest_flowforge_run_started(run):
            for path in pathlib.Path(".pytest_cache/flowforge/runs").glob("*/results/*.bin"):
                path.unlink()
    """
    source = """
        import os
        from log import log

        def flow_large():
            return "x" * 2_000_000

        def flow_use(large):
            log("use")
            assert os.path.exists("ready")

        def flow_other():
            log("other")
            assert os.path.exists("ready")
    """
    flow(source)
    log()
    make_ready(pytester)

    result = flow({"conftest.py": conftest}, "--ff-resume", "--ff-isolate")

    assert result.ret == _FAILED
    assert log() == ["other"]
    assert "not there any more" in result.stdout.str()
    assert flow({"conftest.py": ""}, "--ff-resume").ret == _OK
    assert log() == ["use"]


_SECRETS = """
    def pytest_addoption(parser):
        parser.addoption("--some-token")
        parser.addoption("--db")
        parser.addini("api_key", "secret", default="")
        parser.addini("token", "secret", default="")
        parser.addini("db", "where", default="")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--some-token=hunter2"],
        ["--some-token", "hunter2"],
        ["--db=postgres://user:hunter2@host/db"],
        ["--db", "postgres://hunter2@host/db"],
        ["-o", "api_key=hunter2"],
        ["-oapi_key=hunter2"],
        ["-otoken=hunter2"],
        ["--override-ini=api_key=hunter2"],
        ["-o", "db=https://me:hunter2@host"],
    ],
)
def test_secrets_of_the_command_line_and_the_environment_are_not_kept(
    flow: Flow, log: Log, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "hunter2")
    monkeypatch.setenv("PLAIN", "hunter2")
    source = _ETL.replace(
        "    def flow_extract",
        "    import pytest\n\n    @pytest.mark.cache(env=['SOME_PASSWORD'])\n    def flow_extract",
    )
    assert flow({"conftest.py": _SECRETS, "flow_it.py": source}, *arguments).ret == _FAILED
    assert flow({}, "--ff-resume", *arguments).ret == _FAILED
    assert len(log()) == 4

    files = [path for path in place_of(pytester).rglob("*") if path.is_file()]
    assert len(run_ids(pytester)) == 2
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert "hunter2" not in _ask(flow, "--ff-history", "--ff-format", "json").stdout.str()


@pytest.mark.parametrize(
    "identifier", ["../../../../escaped", "/etc/escaped", "a/../../b", "x" * 300, "CON", "nul\x00l"]
)
def test_names_of_tasks_are_no_names_of_files(flow: Flow, log: Log, pytester: pytest.Pytester, identifier: str) -> None:
    source = f"""
        import pytest
        from log import log

        @pytest.mark.parametrize("n", [pytest.param(1, id={identifier!r})])
        def flow_it(n):
            log("it")
            return {{n}}
    """
    flow(source)

    result = flow({}, "--ff-resume")

    assert result.parseoutcomes() == {"reused": 1}
    assert log() == ["it"]
    names = {path.name for path in place_of(pytester).rglob("*")}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,60}", name) for name in names)
    assert not list(pytester.path.rglob("*escaped*"))


def test_the_cache_folder_is_as_pytest_makes_it(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_ETL)
    cache = pytester.path / ".pytest_cache"
    assert {"README.md", ".gitignore", "CACHEDIR.TAG", "flowforge"} <= {path.name for path in cache.iterdir()}
    assert log()


def test_a_folder_of_somebody_else_is_left_alone(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath(".gitignore").write_text("mine", encoding="utf-8")
    result = flow(_ETL, "--ff-checkpoint=.")
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["*is no checkpoint and holds other things*"])
    assert pytester.path.joinpath(".gitignore").read_text(encoding="utf-8") == "mine"
    assert log() == []


def test_a_task_that_could_not_run_is_not_replayed(flow: Flow, log: Log) -> None:
    flow(_ETL)
    log()
    for more in ([], ["--ff-cache"], ["--ff-save"]):
        result = flow({}, "--ff-replay", "report", *more)
        assert result.ret == _USAGE
        result.stderr.fnmatch_lines(["*it could not run (when=all_success; load failed)*"])
    assert log() == []


def test_a_replay_runs_although_the_result_stands(flow: Flow, log: Log) -> None:
    flow(_ETL)
    log()
    assert flow({}, "--ff-replay", "extract", "--ff-cache").ret == _OK
    assert log() == ["extract"]
