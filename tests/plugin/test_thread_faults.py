"""What can go wrong where tasks share the process of the run, called on its threads or on the main one.

One test for each fault, named by its id in the catalogue of faults; those of workers are in test_process_faults.py.
"""

# ruff: noqa: N802 - the ids have capital letters

from __future__ import annotations

import re
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import HEARD, SLOWER, wait_until
from tests.plugin.keeping import journal_of, make_ready, ran_in, records_in, states_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.plugin.conftest import Begin, Beside, Flow, Processes

    Log = Callable[[], list[str]]

pytestmark = [
    pytest.mark.usefixtures("processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how processes end is measured on Linux"),
]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
_INTERNAL = pytest.ExitCode.INTERNAL_ERROR

_THREADS = ("--ff-executor", "thread", "--ff-workers", "2")
_BOTH = pytest.mark.parametrize("how", [(), _THREADS], ids=["local", "thread"])


def _resumed(flow: Flow, pytester: pytest.Pytester, runs: Sequence[str], *args: str) -> None:
    """Resume once what was wrong is put right: exactly *runs* run, and everything ends well."""
    make_ready(pytester)
    result = flow({}, "-v", "--ff-resume", *args)
    assert result.ret == _OK, result.stdout.str()
    assert ran_in(pytester) == sorted(runs)
    total = int(re.findall(r"collected (\d+) item", result.stdout.str())[0])
    outcomes = result.parseoutcomes()
    assert (outcomes.get("passed", 0), outcomes.get("reused", 0)) == (len(runs), total - len(runs))


def test_S0_01_os_exit_on_a_thread(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from log import log

        def flow_first():
            log("first")

        def flow_leaves(first):
            log("leaves")
            if not os.path.exists("ready"):
                os._exit(0)

        def flow_after(leaves):
            log("after")
    """
    result = flow(source, *_THREADS)

    assert result.ret == _INTERNAL
    result.stderr.fnmatch_lines(["flowforge: * called os._exit(0): the run is cut off here"])
    assert log() == ["first", "leaves"]
    _resumed(flow, pytester, ["after", "leaves"], *_THREADS)


@_BOTH
def test_S0_15_a_forked_child_returns_from_its_task(
    flow: Flow, log: Log, pytester: pytest.Pytester, how: Sequence[str]
) -> None:
    source = """
        import os
        from log import log

        def flow_forks():
            child = os.fork()
            if child:
                os.waitpid(child, 0)
            return 1

        def flow_raises(forks):
            child = os.fork()
            if not child:
                raise ValueError("in the child")
            os.waitpid(child, 0)

        def flow_next(raises):
            log("next")
    """
    result = flow(source, "-W", "ignore::DeprecationWarning", *how, timeout=20)

    assert result.ret == _OK
    assert log() == ["next"]
    assert result.parseoutcomes() == {"passed": 3}
    assert ran_in(pytester) == ["forks", "next", "raises"]
    _resumed(flow, pytester, [])


_INTERRUPTIBLE = """
    import os, time
    import pytest
    from log import log

    def flow_first():
        log("begin first")
        return 1

    def flow_left(first):
        work("left")

    def flow_right(first):
        work("right")

    @pytest.mark.parametrize("number", range(6))
    def flow_more(first, number):
        log("begin more")

    def flow_after(left, right):
        log("begin after")

    @pytest.mark.depends_on("left", "right", when="always")
    def flow_clean_up():
        log("begin clean_up")

    def work(name):
        log(f"begin {name}")
        if not os.path.exists("ready"):
            time.sleep(SECONDS)
        log(f"end {name}")
"""

_MORE = [f"more[{number}]" for number in range(6)]


def _two_running(flow: Flow, begin: Begin, pytester: pytest.Pytester, seconds: float, conftest: str = "") -> Beside:
    files = {"flow_it.py": _INTERRUPTIBLE.replace("SECONDS", str(seconds)), "conftest.py": conftest}
    flow(files, "--collect-only")
    run = begin(*_THREADS, "-v")
    lines = pytester.path / "log.txt"
    wait_until(lambda: {"begin left", "begin right"} <= set(lines.read_text(encoding="utf-8").splitlines()))
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_S1_09_S1_12_signals(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes, number: signal.Signals
) -> None:
    run = _two_running(flow, begin, pytester, 60)
    began = time.monotonic()
    run.kill(number)

    assert run.end(15) == _INTERRUPTED, run.output
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    lines = log()
    assert "begin more" not in lines
    assert lines.count("begin clean_up") == 1
    states = states_in(pytester)
    assert (states["left"], states["right"], states["clean_up"]) == ("interrupted", "interrupted", "success")
    assert records_in(journal_of(pytester))[-1]["ev"] == "run_stopped"
    assert re.search(r"^continue with: pytest --flowforge .*--ff-resume$", run.output, re.MULTILINE)
    _resumed(flow, pytester, ["after", "clean_up", "left", "right", *_MORE], *_THREADS)


def test_S1_09_what_ends_within_its_grace_counts(flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester) -> None:
    run = _two_running(flow, begin, pytester, 3, HEARD)
    run.kill(signal.SIGINT)

    assert run.end(15) == _INTERRUPTED
    lines = log()
    assert {"end left", "end right", "begin clean_up"} <= set(lines)
    assert "begin more" not in lines
    assert states_in(pytester)["left"] == "success"
    _resumed(flow, pytester, ["after", *_MORE], *_THREADS)


def test_S1_11_a_second_ctrl_c(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    run = _two_running(flow, begin, pytester, 120, HEARD)
    run.kill(signal.SIGINT)
    # Two that come before anybody looks are one.
    wait_until((pytester.path / f"heard-{run.process.pid}").exists)
    time.sleep(0.5)
    began = time.monotonic()
    run.kill(signal.SIGINT)

    assert run.end(10) == _INTERRUPTED
    # Nobody has waited for the end of the grace.
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    assert "begin clean_up" not in log()
    assert "Traceback" not in run.output
    _resumed(flow, pytester, ["after", "clean_up", "left", "right", *_MORE], *_THREADS)


@_BOTH
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_S1_15_a_thread_is_left(flow: Flow, pytester: pytest.Pytester, how: Sequence[str], *, good: bool) -> None:
    source = f"""
        import os, threading

        def flow_one():
            # Else it would be a daemon where the thread that starts it is one.
            threading.Thread(target=threading.Event().wait, name="forgotten", daemon=False).start()

        def flow_two(one):
            assert {good} or os.path.exists("ready")
            threading.Thread(target=threading.Event().wait, name="as a daemon", daemon=True).start()
    """
    began = time.monotonic()
    result = flow(source, *how, "-v", timeout=30)

    assert result.ret == (_OK if good else _FAILED)
    assert 5 < time.monotonic() - began < 12 * SLOWER
    result.stdout.fnmatch_lines(["a task has left a thread running: forgotten (*; nobody waits for its end"])
    assert "daemon" not in result.stdout.str()
    assert records_in(journal_of(pytester))[-1]["ev"] == "run_finished"


def test_S1_15_a_pool_is_left_at_work(flow: Flow) -> None:
    source = """
        import threading
        from concurrent.futures import ThreadPoolExecutor

        def flow_one():
            ThreadPoolExecutor(1).submit(threading.Event().wait)
    """
    result = flow(source, "-v", timeout=30)

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["a task has left a thread running: ThreadPoolExecutor*"])


def test_S1_15_a_thread_that_ends_is_waited_for(flow: Flow, log: Log) -> None:
    source = """
        import threading, time
        from log import log

        def flow_one():
            threading.Thread(target=late).start()

        def late():
            time.sleep(1.5)
            log("late")
    """
    result = flow(source)

    assert result.ret == _OK
    assert log() == ["late"]


@_BOTH
def test_S1_17_something_hangs_at_exit(flow: Flow, pytester: pytest.Pytester, how: Sequence[str]) -> None:
    pytester.makeconftest("import pytest_flowforge.plugin.leaving as leaving; leaving._AT_EXIT = 1.0")
    source = """
        import atexit, time

        def flow_one():
            atexit.register(time.sleep, 1e6)
            assert False
    """
    result = flow(source, *how, timeout=20)

    assert result.ret == _FAILED
    assert states_in(pytester) == {"one": "failed"}


@_BOTH
def test_S1_16_a_child_process_is_left(
    flow: Flow, pytester: pytest.Pytester, processes: Processes, how: Sequence[str]
) -> None:
    source = """
        import subprocess, sys

        def flow_one():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)

        def flow_two(one):
            pass
    """
    result = flow(source, *how, timeout=20)

    assert result.ret == _OK
    _resumed(flow, pytester, [])
    processes.kill()


@_BOTH
def test_S1_18_a_task_closes_all_files(flow: Flow, pytester: pytest.Pytester, how: Sequence[str]) -> None:
    source = """
        import os

        def flow_first():
            return 1

        def flow_one(first):
            if not os.path.exists("ready"):
                os.closerange(3, 256)

        def flow_after(one):
            return 2
    """
    result = flow(source, *how, "-v", timeout=30)

    # pytest itself has lost its files, its terminal among them; it is no success, and nothing is lost.
    assert result.ret in {_FAILED, _INTERNAL}
    assert states_in(pytester)["first"] == "success"
    _resumed(flow, pytester, ["after", "one"])


@_BOTH
def test_S1_23_a_task_that_prints_very_much(flow: Flow, how: Sequence[str]) -> None:
    source = """
        def flow_loud():
            print("begin of it")
            for _ in range(1600):
                print("x" * 65535)
            print("end of it")
            assert False
    """
    result = flow(source, *how)

    assert result.ret == _FAILED
    text = result.stdout.str()
    assert "begin of it" in text
    assert "end of it" in text
    assert re.search(r"104\.\d MB dropped", text)
    assert len(text) < 1_000_000


def test_a_daemon_that_a_task_has_forked_locks_nothing(flow: Flow, processes: Processes) -> None:
    source = """
        import os, time

        def flow_one():
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
                os._exit(0)

        def flow_two(one):
            pass
    """
    assert flow(source, "-n", "2", timeout=30).ret == _OK
    began = time.monotonic()
    assert flow({}, "--ff-resume").ret == _OK
    # Less than workers of the last run are waited for.
    assert time.monotonic() - began < 15
    processes.kill()


def test_filters_for_warnings_are_those_of_one_task_while_others_run(flow: Flow) -> None:
    source = """
        import threading, warnings
        import pytest

        ends, warned = threading.Event(), threading.Event()

        @pytest.fixture
        def slow():
            yield
            ends.set()
            assert warned.wait(30)

        @pytest.mark.filterwarnings("error")
        def flow_strict(slow): ...

        def flow_lenient():
            assert ends.wait(30)
            warnings.warn("mine")
            warned.set()

        @pytest.fixture
        def loud():
            warnings.warn("at first")
            yield
            warnings.warn("at last")

        @pytest.mark.filterwarnings("error:at last")
        def flow_careless(loud): ...

        @pytest.mark.filterwarnings("error:at first")
        def flow_careful(loud): ...
    """
    result = flow(source, *_THREADS, "-v", "--tb=line")

    assert result.parseoutcomes() == {"passed": 3, "errors": 2, "warnings": 2}
    shown = result.stdout.str()
    assert re.search(r"^flow_it.py::flow_lenient\n  .*UserWarning: mine$", shown, re.MULTILINE)
    assert "ERROR flow_it.py::flow_careless - UserWarning: at last" in shown
    assert "ERROR flow_it.py::flow_careful - UserWarning: at first" in shown


def test_what_was_ended_from_outside_took_its_time(flow: Flow) -> None:
    source = """
        import pytest, time

        @pytest.mark.timeout(0.3)
        def flow_sleeps():
            time.sleep(5)
    """
    result = flow(source, *_THREADS, "-v", "--junitxml=it.xml")
    [seconds] = re.findall(r"flow_sleeps FAILED \((\d+\.\d\d)s, timed out\)", result.stdout.str())
    assert 0.3 <= float(seconds) < 5
