"""Clean-up and alarms, however a run comes to its end: one flow, each way to end it, on each executor.

A way says how the run is ended and what is to be seen then: which tasks ran, how each ended, what clean-up and alarms
were told, what the summary says, the exit status; and what a resumed run does about it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin.conftest import TIME_IS_UP, wait_until
from tests.plugin.keeping import make_ready, ran_in, reasons_in, run_ids, states_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.plugin.conftest import Begin, Flow

    Log = Callable[[], list[str]]

pytestmark = [
    pytest.mark.usefixtures("processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how processes end is measured on Linux"),
]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
_INTERNAL = pytest.ExitCode.INTERNAL_ERROR

#: Two at a time, or one: with what hangs and what works under way, clean-up without upstreams has to wait.
_EXECUTORS = {
    "local": (),
    "thread": ("--ff-executor", "thread", "--ff-workers", "2"),
    "process": ("-n", "2"),
    "pool": ("--ff-executor", "breaking:pool", "--ff-workers", "2"),
    "loky": ("--ff-executor", "breaking:loky_pool", "--ff-workers", "2"),
}

_FLOW = """
    import os
    import signal
    import time
    from pathlib import Path

    import pytest
    from log import log
    from pytest_flowforge import NoResult

    AT_ONCE, READY = {at_once}, Path("ready").exists()

    def wait_for(name):
        deadline = time.monotonic() + 60
        while not Path(name).exists():
            assert time.monotonic() < deadline, name
            time.sleep(0.005)

    def told(value):
        return value.state if isinstance(value, NoResult) else value

    def flow_open():
        log("open")
        # Workers whose tasks take no time are sent some ahead.
        time.sleep(0.2)
        return "resource"

    @pytest.mark.parametrize("part", ["a", "b"])
    def flow_work(part, open):
        if AT_ONCE and not READY:
            wait_for("hanging")
        log(f"work {{part}}")
        if not READY:
            {action}
        return part

    # Where there is room for both, it is there before the work; a worker may be late.
    @pytest.mark.priority(int(AT_ONCE))
    def flow_hang():
        Path("pid").write_text(str(os.getpid()))
        Path("hanging").touch()
        log("hang")
        if not READY:
            wait_for("over")
        return "hung"

    def flow_last(work, hang):
        log("last")

    @pytest.mark.depends_on(when="any_failed")
    def flow_alarm(work, hang):
        log(f"alarm {{told(work['a'])}} {{told(work['b'])}} {{told(hang)}}")

    @pytest.mark.depends_on("work", "hang", "last", when="always")
    def flow_close(open, upstream):
        assert sorted(upstream) == ["hang", "last", "open", "work[a]", "work[b]"]
        log(f"close {{open}} {{told(upstream['last'])}}")
        return {{"closed"}}

    @pytest.mark.priority(-1)
    @pytest.mark.depends_on(when="always")
    def flow_note(tmp_path):
        log("note")
        if {released}:
            Path("over").touch()
"""

_FILES = {
    "breaking.py": """
        import os
        from concurrent.futures import ProcessPoolExecutor

        def check():
            if os.path.exists("broken"):
                os._exit(7)

        def pool(workers):
            return ProcessPoolExecutor(workers, initializer=check)

        def loky_pool(workers):
            import loky
            return loky.ProcessPoolExecutor(workers, initializer=check)
    """,
    "conftest.py": f"""
    import errno
    import os
    from pathlib import Path

    from pytest_flowforge.storage.files import Files

    def is_up(engine):
        return Path("late").exists()
    {TIME_IS_UP}
    make = Files.__init__

    def make_full(self):
        make(self)
        write = self.write

        def write_if_there_is_room(*args):
            if Path("full").exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*args)

        self.write = write_if_there_is_room

    Files.__init__ = make_full

    def pytest_sessionstart(session):
        global this
        this = session

    def pytest_runtest_logreport(report):
        enough = report.nodeid.endswith("flow_work[a]") and report.when == "call" and Path("enough").exists()
        if enough and not hasattr(this.config, "workerinput"):
            this.shouldstop = "seen enough"
    """,
}


#: What the alarm and clean-up are told of tasks that have succeeded.
_RESULTS = {"work[a]": "a", "work[b]": "b", "hang": "hung"}

_TASKS = ("open", "work[a]", "work[b]", "hang", "last", "alarm", "close", "note")


@dataclass(frozen=True)
class Way:
    """A way to end a run.

    ``action`` is what the parts of the work do. While only what hangs is under way, the run is sent ``signal``, or its
    time is up if ``late``.
    ``states`` are those of tasks that have not succeeded then, "pending" for one that never started; ``alone`` is what
    differs where one task runs at a time. ``says`` are lines of what is shown.
    """

    name: str
    options: tuple[str, ...] = ()
    action: str = "pass"
    signal: signal.Signals | None = None
    late: bool = False
    status: int = _FAILED
    states: Mapping[str, str] = field(default_factory=dict)
    alone: Mapping[str, str] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    executors: tuple[str, ...] = tuple(_EXECUTORS)


def _interrupted(name: str, status: int, shown: str, **how: Any) -> Way:
    # What hangs may end in time where it does not run on the main thread, so that what waits for it is not blocked.
    return Way(
        name,
        status=status,
        states={"hang": "interrupted", "last": "pending"},
        alone={"last": "blocked"},
        says=("1 interrupted: hang", shown),
        **how,
    )


_WAYS = [
    Way(
        "-x",
        ("-x",),
        "raise ValueError(part)",
        states={"work[a]": "failed", "work[b]": "pending", "last": "blocked"},
        alone={"hang": "pending"},
        says=(
            "*! stopping after 1 failures !*",
            "1 blocked behind work[[]a] (failed at *): last",
            "? not started (stopping after 1 failures): work[[]b]*",
        ),
    ),
    Way(
        "--maxfail",
        ("--maxfail=2",),
        "raise ValueError(part)",
        states={"work[a]": "failed", "work[b]": "failed", "last": "blocked"},
        alone={"hang": "pending"},
        says=("*! stopping after 2 failures !*", "1 blocked behind work[[]a] (failed at *): last"),
    ),
    _interrupted("SIGINT", _INTERRUPTED, "*! KeyboardInterrupt*!*", signal=signal.SIGINT),
    _interrupted("SIGTERM", _INTERRUPTED, "*! KeyboardInterrupt*!*", signal=signal.SIGTERM),
    _interrupted(
        "--session-timeout",
        _FAILED,
        "*! session-timeout: 3600.0 sec exceeded !*",
        options=("--session-timeout=3600",),
        late=True,
    ),
    Way(
        "a plugin has seen enough",
        action='Path("enough").touch()',
        status=_INTERRUPTED,
        states={"work[b]": "pending", "last": "pending", "alarm": "pending"},
        alone={"hang": "pending"},
        says=("*! Interrupted: seen enough !*", "? not started (seen enough): work[[]b], *last, alarm"),
    ),
    Way(
        "all workers die",
        ("--max-worker-restart", "0"),
        'os.kill(int(Path("pid").read_text()), signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)',
        states={"work[a]": "crashed", "work[b]": "blocked", "hang": "crashed", "last": "blocked"},
        says=("clean-up and alarms ran in the process of the run: no worker left",),
        executors=("process",),
    ),
    Way(
        "pools break for good",
        action='Path("broken").touch(); os._exit(9)',
        # The last of the work was handed to a pool, and nobody but that knows that it had not begun.
        states={"work[a]": "crashed", "work[b]": "crashed", "hang": "crashed", "last": "blocked"},
        says=("clean-up and alarms ran in the process of the run: 3 pools broke in a row*",),
        executors=("pool", "loky"),
    ),
]


@dataclass(frozen=True)
class Case:
    """A way on an executor, and what is to be seen."""

    way: Way
    executor: str

    @property
    def at_once(self) -> bool:
        return self.executor != "local"

    @property
    def options(self) -> Sequence[str]:
        return ("-v", *_EXECUTORS[self.executor], *self.way.options)

    @property
    def files(self) -> dict[str, str]:
        released = self.states["hang"] == "success"
        return {**_FILES, "flow_it.py": _FLOW.format(at_once=self.at_once, action=self.way.action, released=released)}

    @property
    def states(self) -> dict[str, str]:
        """How every task ends."""
        alone = {} if self.at_once else self.way.alone
        return {**dict.fromkeys(_TASKS, "success"), **self.way.states, **alone}

    @property
    def said(self) -> list[str]:
        """What clean-up and alarms say, in alphabetical order."""
        states = self.states
        told = [_RESULTS[task] if states[task] == "success" else states[task] for task in _RESULTS]
        alarm = [" ".join(["alarm", *told])] if states["alarm"] == "success" else []
        return [*alarm, f"close resource {states['last']}", "note"]

    @property
    def resumed(self) -> list[str]:
        """What a resumed run runs, in alphabetical order: clean-up again, after what it cleans up after."""
        again = [task for task, state in self.states.items() if state != "success" and task != "alarm"]
        return sorted([*again, "close"])


_CASES = [pytest.param(Case(way, name), id=f"{way.name}, {name}") for way in _WAYS for name in way.executors]


def _run(case: Case, flow: Flow, begin: Begin, pytester: pytest.Pytester) -> tuple[int, str]:
    """Run it until it is ended; return the exit status and what was shown."""
    if case.way.signal is None and not case.way.late:
        result = flow(case.files, *case.options)
        return result.ret, result.stdout.str()
    # What ends by itself has ended, and only what hangs is left.
    ended = {"open", "work[a]", "work[b]", *(["note"] if case.at_once else [])}
    flow(case.files, "--collect-only")
    run = begin(*case.options)
    hanging = pytester.path / "hanging"
    wait_until(lambda: hanging.exists() and run_ids(pytester) and ended <= set(states_in(pytester)))
    if case.way.signal is not None:
        run.kill(case.way.signal)
    else:
        pytester.path.joinpath("late").touch()
    return run.end(), run.output


@pytest.mark.parametrize("case", _CASES)
def test_clean_up_and_alarms_run_however_the_run_ends(
    case: Case, flow: Flow, begin: Begin, log: Log, pytester: pytest.Pytester
) -> None:
    if case.executor == "loky":
        pytest.importorskip("loky")
    pytester.syspathinsert()

    status, shown = _run(case, flow, begin, pytester)

    assert status == case.way.status, shown
    assert states_in(pytester) == {task: state for task, state in case.states.items() if state != "pending"}
    lines = log()
    assert sorted(line for line in lines if line.split()[0] in {"alarm", "close", "note"}) == case.said
    assert "last" not in lines
    pytest.LineMatcher(shown.splitlines()).fnmatch_lines_random(list(case.way.says))

    make_ready(pytester)
    for name in ("broken", "enough"):
        pytester.path.joinpath(name).unlink(missing_ok=True)
    result = flow({}, "-v", "--ff-resume", *_EXECUTORS[case.executor])

    assert result.ret == _OK, result.stdout.str()
    assert ran_in(pytester) == case.resumed
    # What has succeeded stands, and an alarm that has no cause any more is none.
    ran = len(case.resumed)
    assert result.parseoutcomes() == {"passed": ran, "skipped": 1, "reused": len(_TASKS) - 1 - ran}


@pytest.mark.parametrize("executor", _EXECUTORS)
def test_clean_up_runs_when_nothing_can_be_written_down_any_more(
    executor: str, flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    if executor == "loky":
        pytest.importorskip("loky")
    pytester.syspathinsert()
    full = Way("the disk is full", action='Path("full").touch()', alone={"hang": "pending"})
    case = Case(full, executor)

    result = flow(case.files, *case.options)

    assert result.ret == _INTERNAL
    not_started = ["work[b]", *([] if case.at_once else ["hang"]), "last", "alarm"]
    result.stdout.fnmatch_lines(
        [
            f"{len(not_started)} not started (cannot write *): work[[]b], *last, alarm",
            "cannot write *(No space left on device)*",
            "? results not saved: flow_it.py::flow_work[[]a]*, flow_it.py::flow_close*",
        ]
    )
    begun = {"open", "work a", "note", "close resource pending", *(["hang"] if case.at_once else [])}
    assert set(log()) == begun

    make_ready(pytester)
    pytester.path.joinpath("full").unlink()
    result = flow({}, "-v", "--ff-resume", *_EXECUTORS[executor])

    assert result.ret == _OK, result.stdout.str()
    # Nobody knows of what has succeeded and could not be written down.
    assert ran_in(pytester) == ["close", "hang", "last", "note", "work[a]", "work[b]"]


# ---- without workers, and without pools ------------------------------------------------------------------------------


#: The first task takes everything along that could execute the others.
_LOST = {
    "process": ("-n", "1", "--max-worker-restart", "0"),
    "pool": ("--ff-executor", "breaking:pool", "--ff-workers", "1"),
}

_RESCUE = """
    import os
    import time
    from pathlib import Path

    import pytest
    from log import log
    from pytest_flowforge import NoResult

    def where():
        return "here" if os.getpid() == int(Path("pid").read_text()) else "elsewhere"

    def flow_extract():
        return {1, 2, 3}

    def flow_files():
        return ["a", "b"]

    # Nobody sends this one ahead, so that it has begun when it ends its worker.
    @pytest.mark.idempotent(False)
    def flow_killer(extract, files):
        Path("broken").touch()
        os._exit(9)
"""

_WHO = """
    import os
    from pathlib import Path

    if "PYTEST_XDIST_WORKER" not in os.environ:
        Path("pid").write_text(str(os.getpid()))
"""


Lost = Callable[..., pytest.RunResult]


@pytest.fixture(params=_LOST)
def lost(request: pytest.FixtureRequest, flow: Flow, pytester: pytest.Pytester) -> Lost:
    """Run tasks after the one that has ended everything."""
    pytester.syspathinsert()
    conftest = dedent(_WHO) + dedent(_FILES["conftest.py"])

    def run(source: str, *options: str) -> pytest.RunResult:
        files = {**_FILES, "conftest.py": conftest, "flow_it.py": dedent(_RESCUE) + dedent(source)}
        return flow(files, "-v", *_LOST[request.param], *options)

    return run


@pytest.mark.parametrize(
    "options", [(), ("-p", "no:cacheprovider"), ("--ff-isolate",)], ids=["kept", "not kept", "isolated"]
)
def test_clean_up_in_the_process_of_the_run_gets_and_hands_on_results(
    lost: Lost, log: Log, options: tuple[str, ...]
) -> None:
    result = lost(
        """
        @pytest.fixture(scope="module")
        def server():
            log("+ server")
            yield "server"
            log("- server")

        @pytest.mark.depends_on("killer", when="always")
        def flow_close(extract, server, tmp_path):
            log(f"close {sorted(extract)} {where()}")
            print("closing")
            return {"closed"}

        @pytest.mark.depends_on(when="always")
        def flow_report(close, killer, server):
            log(f"report {close} {killer.state}")

        @pytest.mark.depends_on("extract", when="any_failed")
        def flow_false_alarm():
            log("never")
        """,
        *options,
    )

    assert result.ret == _FAILED
    assert log() == ["+ server", "close [1, 2, 3] here", "report {'closed'} crashed", "- server"]
    assert result.parseoutcomes() == {"passed": 4, "failed": 1, "skipped": 1}
    result.stdout.fnmatch_lines(["clean-up and alarms ran in the process of the run: *"])


def test_mapped_clean_up_runs_in_the_process_of_the_run(lost: Lost, log: Log) -> None:
    result = lost(
        """
        @pytest.mark.map("files")
        @pytest.mark.depends_on("killer", when="always")
        def flow_remove(files):
            log(f"remove {files} {where()}")
            return files

        @pytest.mark.depends_on(when="always")
        def flow_report(remove):
            log(f"report {remove}")
        """
    )

    assert result.ret == _FAILED
    assert log() == ["remove a here", "remove b here", "report {'a': 'a', 'b': 'b'}"]


def test_clean_up_in_the_process_of_the_run_may_fail_or_hang(lost: Lost, log: Log, pytester: pytest.Pytester) -> None:
    result = lost(
        """
        @pytest.mark.retry(3)
        @pytest.mark.depends_on("killer", when="always")
        def flow_fails():
            log("fails")
            raise OSError("no route")

        @pytest.mark.timeout(1.5)
        @pytest.mark.depends_on("fails", when="always")
        def flow_hangs():
            log("hangs")
            time.sleep(60)

        @pytest.mark.depends_on("hangs", when="always")
        def flow_skips():
            pytest.skip("nothing to do")

        def flow_after(skips):
            log("never")

        @pytest.mark.depends_on("skips", when="always")
        def flow_last(upstream):
            log(f"last {upstream['skips'].state}")
        """
    )

    assert result.ret == _FAILED
    assert log() == ["fails", "hangs", "last skipped"], "once each"
    assert states_in(pytester) == {
        "extract": "success",
        "files": "success",
        "killer": "crashed",
        "fails": "failed",
        "hangs": "timed out",
        "skips": "skipped",
        "after": "blocked",
        "last": "success",
    }


def test_clean_up_that_leaves_the_process_of_the_run_does_not_pass(
    lost: Lost, flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    result = lost(
        """
        @pytest.mark.depends_on("killer", when="always")
        def flow_leaves():
            log("leaves")
            os._exit(0)

        def flow_after(leaves):
            log("never")
        """
    )

    assert result.ret == _INTERNAL
    assert log() == ["leaves"]
    result.stderr.fnmatch_lines(["flowforge: *called os._exit(0): the run is cut off here*"])
    make_ready(pytester)
    assert reasons_in(flow({}, "--ff-resume", "--ff-explain", "--ff-dry-run"))["leaves"] in {
        "crashed last time",
        "was running when the run ended",
    }


def test_an_interrupt_ends_clean_up_in_the_process_of_the_run(
    lost: Lost, begin: Begin, log: Log, pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    source = """
        @pytest.mark.depends_on("killer", when="always")
        def flow_hangs():
            Path("hanging").touch()
            time.sleep(60)

        @pytest.mark.depends_on("killer", when="always")
        def flow_more():
            log("never")
    """
    lost(source, "--collect-only")
    run = begin("-v", *_LOST[request.node.callspec.params["lost"]])
    wait_until(pytester.path.joinpath("hanging").exists)
    run.kill(signal.SIGINT)

    assert run.end() == _INTERRUPTED
    assert log() == []
    assert states_in(pytester) == {
        "extract": "success",
        "files": "success",
        "killer": "crashed",
        "hangs": "interrupted",
    }
    assert "1 not started (KeyboardInterrupt): more" in run.output


def test_the_time_of_a_session_leaves_clean_up_its_second_chance_in_the_process_of_the_run(
    lost: Lost, log: Log
) -> None:
    result = lost(
        """
        @pytest.mark.depends_on("killer", when="always")
        def flow_close():
            Path("late").touch()
            time.sleep(0.5)
            log("closed")
        """,
        "--session-timeout=3600",
    )

    assert result.ret == _FAILED
    assert log() == ["closed"]
    result.assert_outcomes(passed=3, failed=1)


def test_clean_up_that_has_taken_its_worker_along_is_not_tried_in_the_process_of_the_run(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import os
        import pytest
        from log import log

        def flow_open(): ...

        @pytest.mark.retry(3)
        @pytest.mark.depends_on("open", when="always")
        def flow_close():
            log("close")
            os._exit(9)

        @pytest.mark.depends_on("close", when="always")
        def flow_report(upstream):
            log(f"report {upstream['close'].state}")
    """
    result = flow(source, "-n", "1", "--max-worker-restart", "0", "-v")

    assert result.ret == _FAILED
    assert log() == ["close", "report crashed"]
    assert states_in(pytester) == {"open": "success", "close": "crashed", "report": "success"}


def test_clean_up_that_was_sent_and_had_not_begun_runs_in_the_process_of_the_run(flow: Flow, log: Log) -> None:
    source = """
        import os
        import time
        import pytest
        from log import log

        @pytest.mark.parametrize("number", range(40))
        def flow_quick(number): ...

        def flow_killer(quick):
            time.sleep(0.3)
            os._exit(9)

        @pytest.mark.parametrize("number", range(20))
        @pytest.mark.depends_on("quick", when="always")
        def flow_close(number):
            log(f"close {number}")
    """
    result = flow(source, "-n", "1", "--max-worker-restart", "0")

    assert result.ret == _FAILED
    assert sorted(log()) == sorted(f"close {number}" for number in range(20))
    assert result.parseoutcomes() == {"passed": 60, "failed": 1}


def test_where_nothing_had_begun_nothing_is_cleaned_up(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(3)

        def flow_open():
            log("open")

        @pytest.mark.depends_on("open", when="always")
        def flow_close():
            log("close")

        @pytest.mark.depends_on("open", when="any_failed")
        def flow_alarm():
            log("alarm")
    """
    result = flow(source, "-n", "2")

    assert result.ret == _FAILED
    assert log() == []
    assert set(states_in(pytester).values()) == {"blocked"}


# ---- clean-up that is tried again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["local", "thread", "process"])
def test_clean_up_keeps_its_retries_when_the_run_is_stopped(executor: str, flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        @pytest.mark.retry(2)
        def flow_bad():
            log("bad")
            pytest.exit("enough")

        @pytest.mark.retry(2, delay=0.1)
        @pytest.mark.depends_on("bad", when="always")
        def flow_close():
            log("close")
            raise OSError("busy")
    """
    result = flow(source, *_EXECUTORS[executor])

    assert result.ret == _INTERRUPTED
    assert log() == ["bad", "close", "close", "close"]
    assert result.parseoutcomes() == {"failed": 1, "retried": 2}


# ---- what clean-up has taken away ------------------------------------------------------------------------------------


_SCRATCH = """
    from pathlib import Path
    import pytest
    from log import log

    {declared}
    def flow_create():
        log("create")
        Path("scratch.db").touch()

    def flow_fill(create):
        log("fill")
        assert Path("scratch.db").exists(), "there is no database"
        assert Path("ready").exists()

    @pytest.mark.depends_on("fill", when="always")
    def flow_drop(create):
        log("drop")
        Path("scratch.db").unlink(missing_ok=True)
"""


@pytest.mark.parametrize(
    ("declared", "options", "runs"),
    [
        ("", (), None),
        ("", ("--ff-force", "flow_create"), ["create", "fill", "drop"]),
        ('@pytest.mark.cache(outputs=["scratch.db"])', (), ["create", "fill", "drop"]),
    ],
    ids=["reused", "forced", "declared"],
)
def test_what_clean_up_has_taken_away_is_made_again_where_that_is_said(
    flow: Flow, log: Log, pytester: pytest.Pytester, declared: str, options: tuple[str, ...], runs: list[str] | None
) -> None:
    assert flow(_SCRATCH.format(declared=declared)).ret == _FAILED
    assert log() == ["create", "fill", "drop"]
    make_ready(pytester)

    result = flow({}, "--ff-resume", *options)

    assert result.ret == (_FAILED if runs is None else _OK), result.stdout.str()
    assert log() == (["fill", "drop"] if runs is None else runs)
