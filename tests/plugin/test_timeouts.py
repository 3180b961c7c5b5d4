"""Time limits, per attempt and of the whole session: what hangs is ended, whatever it does.

Limits are short and nothing is bounded from above but by the patience of the fixture `flow`: a run that hangs fails.
"""

# ruff: noqa: N802 - the ids of faults have capital letters

from __future__ import annotations

import re
import signal
import sys
import time
from textwrap import dedent
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.conftest import TIME_IS_UP, wait_until, words
from tests.plugin.keeping import ends_in, journal_of, make_ready, ran_in, reasons_in, records_in, states_in
from tests.plugin.test_executors_agree import ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.plugin.conftest import Begin, Flow, Processes

    Log = Callable[[], list[str]]

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="tasks are interrupted by SIGALRM")

_OK, _FAILED, _USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR

_OPTIONS = {
    "local": (),
    "thread": ("--ff-executor", "thread", "--ff-workers", "2"),
    "process": ("-n", "2"),
    "pool": ("--ff-executor", "concurrent.futures:ProcessPoolExecutor", "--ff-workers", "2"),
    "loky": ("--ff-executor", "loky:get_reusable_executor", "--ff-workers", "2"),
}

#: Every executor, by its options.
_everywhere = pytest.mark.parametrize("how", [pytest.param(how, id=name) for name, how in _OPTIONS.items()])

_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how processes end is measured on Linux")

_INI = "[pytest]\nflowforge_timeout_grace = 1\n"


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> None:
    if sys.platform.startswith("linux"):
        request.getfixturevalue("processes")


def _resumed(flow: Flow, pytester: pytest.Pytester, runs: Sequence[str], *args: str) -> pytest.RunResult:
    """Resume once what was wrong is put right: exactly *runs* run, and everything ends well."""
    make_ready(pytester)
    result = flow({}, "-v", "--ff-resume", *args)
    assert result.ret == _OK, result.stdout.str()
    assert ran_in(pytester) == sorted(runs)
    return result


def _cases(pytester: pytest.Pytester) -> Iterator[ET.Element]:
    tree = ET.parse(pytester.path / "report.xml")  # noqa: S314 - we have written it ourselves
    return tree.iter("testcase")


# ---- one attempt -----------------------------------------------------------------------------------------------------


_HANGS = """
    import os, time
    from pathlib import Path
    import pytest

    def hang():
        if not os.path.exists("ready"):
            time.sleep(300)

    @pytest.mark.timeout(1)
    def flow_hangs():
        hang()

    def flow_after(hangs): ...

    @pytest.mark.depends_on(when="any_failed")
    def flow_alarm(hangs):
        assert os.path.exists("ready") or (hangs.state, hangs.reason) == ("timed out", SAID)

    @pytest.mark.retry(2)
    @pytest.mark.timeout(1)
    def flow_once(tmp_path):
        if not Path("once").exists():
            Path("once").touch()
            hang()
        return str(tmp_path)

    def flow_next(once):
        assert once

    @pytest.mark.timeout(1)
    async def flow_coroutine():
        if not os.path.exists("ready"):
            import asyncio
            await asyncio.sleep(300)

    def flow_other(): ...

    SAID = "Timeout (>1.0s) from pytest-timeout."
"""


@_everywhere
def test_what_hangs_times_out_and_the_run_goes_on(flow: Flow, pytester: pytest.Pytester, how: Sequence[str]) -> None:
    if "loky:get_reusable_executor" in how:
        pytest.importorskip("loky")
    # Enough of a grace for all that is to be raised in a task, and not told of its worker.
    files = {"flow_it.py": _HANGS, "pytest.ini": "[pytest]\nflowforge_timeout_grace = 60\n"}
    result = flow(files, "-v", "--junitxml=report.xml", *how)

    assert result.ret == _FAILED
    outcomes = result.parseoutcomes()
    # Python 3.12 and later warn of forks of a process that has threads, which a pool makes.
    outcomes.pop("warnings", None)
    assert outcomes == {"failed": 2, "blocked": 1, "passed": 4, "retried": 1}
    states = states_in(pytester)
    assert states == {
        "hangs": "timed out",
        "after": "blocked",
        "alarm": "success",
        "once": "success",
        "next": "success",
        "coroutine": "timed out",
        "other": "success",
    }
    said = "Timeout (>1.0s) from pytest-timeout."
    ends = ends_in(pytester)
    assert ends["hangs"] == [(1, "timed out", said)]
    assert ends["coroutine"] == [(1, "timed out", said)]
    assert ends["once"][0] == (1, "retrying", said)
    assert ends["once"][-1][:2] == (2, "success")
    result.stdout.fnmatch_lines([f"*Failed: {said}", "1 blocked behind hangs (timed out at flow_it.py:*): after"])
    cases = {case.get("name"): [part.tag for part in case] for case in _cases(pytester)}
    assert "failure" in cases["flow_hangs"]
    if "pool" not in " ".join(how).lower() and "loky" not in " ".join(how):
        # Nobody can look into the processes of a pool.
        result.stdout.fnmatch_lines(["*time.sleep(300)*"])
    again = _resumed(flow, pytester, ["hangs", "after", "coroutine"], *how)
    assert reasons_in(again)["hangs"] == "timed out last time"


_PHASES = """
    import time
    import pytest
    from log import log

    pytestmark = pytest.mark.timeout(1)

    @pytest.fixture
    def bad_start():
        time.sleep(300)

    @pytest.fixture
    def bad_end():
        yield
        time.sleep(300)
        log("never")

    @pytest.fixture
    def slow():
        time.sleep(0.7)
        yield
        time.sleep(0.7)

    @pytest.fixture
    def slower():
        time.sleep(1.6)
        yield
        time.sleep(1.6)

    @pytest.fixture
    def after():
        yield
        log("torn down")

    def flow_set_up(after, bad_start): ...

    def flow_torn_down(after, bad_end): ...

    def flow_fails(after, bad_end):
        raise ValueError("first")

    @pytest.mark.timeout(3, func_only=True)
    def flow_alone(slower):
        time.sleep(0.1)

    @pytest.mark.timeout(1, func_only=True)
    def flow_alone_hangs(slow):
        time.sleep(300)

    def flow_together(slow):
        time.sleep(300)
"""


@_everywhere
def test_set_ups_and_teardowns_count_unless_the_mark_says_otherwise(
    flow: Flow, log: Log, pytester: pytest.Pytester, how: Sequence[str]
) -> None:
    result = flow(_PHASES, "-v", *how)

    assert result.ret == _FAILED
    assert states_in(pytester) == {
        "set_up": "timed out",
        "torn_down": "timed out",
        "fails": "timed out",
        "alone": "success",
        "alone_hangs": "timed out",
        "together": "timed out",
    }
    said = "Timeout (>1.0s) from pytest-timeout."
    ends = {name: text for name, [(_, _, text)] in ends_in(pytester).items()}
    assert ends["set_up"] == f"{said} (in setup)"
    assert ends["torn_down"] == f"{said} (in teardown)"
    assert ends["fails"].endswith("then ValueError: first")
    assert ends["alone_hangs"] == said
    # Its set-up alone takes as long where others keep the machine busy.
    assert ends["together"] in {said, f"{said} (in setup)"}
    # Fixtures that were set up before are torn down all the same.
    assert log() == ["torn down"] * 3
    result.stdout.fnmatch_lines(["E       ValueError: first"] if how not in _POOLS else ["*ValueError: first"])


_POOLS = (_OPTIONS["pool"], _OPTIONS["loky"])

_LATE = """
    import time
    import pytest

    def stubborn(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(0.05)
            except BaseException:
                pass

    @pytest.mark.timeout(0.5)
    def flow_returns():
        stubborn(1)
        return 1

    @pytest.mark.timeout(0.5)
    def flow_raises():
        stubborn(1)
        raise ValueError("afterwards")

    @pytest.mark.timeout(0.5)
    @pytest.mark.retry(1)
    def flow_again(attempts=[]):
        stubborn(1)

    @pytest.mark.timeout(0.5)
    @pytest.mark.xfail
    def flow_expected():
        time.sleep(1)

    @pytest.mark.timeout(30)
    def flow_in_time():
        stubborn(1)

    def flow_after(returns): ...
"""


@_everywhere
def test_S1_06_one_that_swallows_its_time_out_has_timed_out_all_the_same(
    flow: Flow, pytester: pytest.Pytester, how: Sequence[str]
) -> None:
    # Threads that are left behind just when others are may be more than there are workers, which ends the run.
    options = (*how[:-1], "8") if how == _OPTIONS["thread"] else how
    result = flow({"flow_it.py": _LATE, "pytest.ini": "[pytest]\nflowforge_timeout_grace = 20\n"}, "-v", *options)

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert {name: states[name] for name in ("returns", "raises", "again", "in_time", "after")} == {
        "returns": "timed out",
        "raises": "timed out",
        "again": "timed out",
        "in_time": "success",
        "after": "blocked",
    }
    assert [number for number, _, _ in ends_in(pytester)["again"]] == [1, 2]
    shown = ends(result)
    assert shown["returns"] == shown["raises"] == ["FAILED"]
    if how in (_OPTIONS["local"], _OPTIONS["process"]):
        assert re.search(r"took \d\.\d s, and its limit is 0\.5 s", ends_in(pytester)["returns"][0][2])
        result.stdout.fnmatch_lines(["*ValueError: afterwards*"])


@pytest.mark.parametrize(
    ("options", "ini", "environment", "limited"),
    [
        pytest.param(["--timeout", "0.2"], "", "", True, id="option"),
        pytest.param([], "timeout = 0.2", "", True, id="ini"),
        pytest.param([], "", "0.2", True, id="environment"),
        pytest.param(["--timeout", "0.2", "-p", "no:timeout"], "", "0.2", False, id="switched off"),
        pytest.param([], "", "", False, id="none"),
    ],
)
@pytest.mark.parametrize("name", ["local", "thread", "process"])
def test_where_a_limit_may_come_from(
    flow: Flow,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: list[str],
    ini: str,
    environment: str,
    *,
    limited: bool,
) -> None:
    source = """
        import time
        import pytest

        def flow_long():
            time.sleep(0.4)

        @pytest.mark.timeout(0)
        def flow_no_limit():
            time.sleep(0.4)

        @pytest.mark.timeout(20)
        def flow_more():
            time.sleep(0.4)
    """
    if environment:
        monkeypatch.setenv("PYTEST_TIMEOUT", environment)
    if "no:timeout" in options:
        options = options[2:]
    files = {"flow_it.py": source, "pytest.ini": f"[pytest]\nmarkers = timeout\n{ini}\n"}
    result = flow(files, *options, *_OPTIONS[name])

    assert result.ret == (_FAILED if limited else _OK)
    states = states_in(pytester)
    assert states == {"long": "timed out" if limited else "success", "no_limit": "success", "more": "success"}


@pytest.mark.parametrize("name", ["local", "thread", "process"])
def test_a_mark_that_can_not_be_meant_is_found_before_anything_runs(flow: Flow, name: str) -> None:
    source = """
        import pytest

        @pytest.mark.timeout("soon")
        def flow_soon(): ...

        @pytest.mark.timeout(1, method="magic")
        def flow_magic(): ...

        @pytest.mark.timeout()
        def flow_nothing(): ...

        @pytest.mark.timeout(1, grace=3)
        def flow_more(): ...
    """
    result = flow(source, *_OPTIONS[name])

    assert result.ret == _USAGE
    assert re.findall(r"flow_it.py:\d+: flow_(\w+): timeout\(\): ", result.stderr.str() + result.stdout.str())
    result.stderr.fnmatch_lines(["*4 problems in the flows, nothing was run*"])


@pytest.mark.parametrize("value", ["-1", "soon", "inf", "nan"])
def test_a_grace_that_can_not_be_meant(flow: Flow, value: str) -> None:
    result = flow({"flow_it.py": "def flow_a(): ...", "pytest.ini": f"[pytest]\nflowforge_timeout_grace = {value}\n"})

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"*ini flowforge_timeout_grace: '{value}' is no number of seconds; give 0 or more"])


def test_other_threads_are_in_the_report(flow: Flow) -> None:
    source = """
        import threading, time
        import pytest

        def helper():
            time.sleep(20)

        @pytest.mark.timeout(1)
        def flow_hangs():
            threading.Thread(target=helper, name="my helper", daemon=True).start()
            time.sleep(300)
    """
    for how in (_OPTIONS["local"], _OPTIONS["process"]):
        result = flow(source, *how)

        assert result.ret == _FAILED
        result.stdout.fnmatch_lines(["*Threads when the time was up*", "my helper*", "*in helper", "*time.sleep(20)"])
        assert "execnet" not in result.stdout.str().partition("FAILURES")[2]


def test_a_time_out_while_pytest_is_at_work_itself_is_raised_in_a_task_or_not_at_all(flow: Flow) -> None:
    hooks = """
        import time
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if call.when == "setup" and "slow" in item.name:
                time.sleep(1)
            return report
    """
    source = """
        import time
        import pytest

        @pytest.mark.timeout(0.5)
        def flow_slow():
            time.sleep(300)

        def flow_other(): ...
    """
    for how in (_OPTIONS["local"], _OPTIONS["process"]):
        result = flow({"conftest.py": hooks, "flow_it.py": source}, *how)

        assert result.ret == _FAILED
        assert result.parseoutcomes() == {"failed": 1, "passed": 1}
        # It is raised as soon as pytest is about to call the task, which may be anywhere before its first line.
        result.stdout.fnmatch_lines(["E *Failed: Timeout (>0.5s) from pytest-timeout."])
        result.stdout.no_fnmatch_line("*ERROR at*")


def test_a_debugger_is_in_no_hurry(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import time
        import pytest

        # To import the debugger takes a while.
        @pytest.mark.timeout(2)
        def flow_debugged():
            breakpoint()
            time.sleep(1)

        @pytest.mark.timeout(5)
        def flow_other():
            time.sleep(0.1)
    """
    result = flow({"flow_it.py": source, "pytest.ini": _INI}, "-s", stdin="import time; time.sleep(4.5)\nc\n")

    assert result.ret == _OK, result.stdout.str()
    assert states_in(pytester) == {"debugged": "success", "other": "success"}


# ---- processes -------------------------------------------------------------------------------------------------------


_STUCK = """
    import os, signal, subprocess, time
    from collections import deque
    from itertools import repeat
    import pytest

    pytestmark = pytest.mark.timeout(1)

    def is_ready():
        return os.path.exists("ready")

    def flow_in_c():
        deque(() if is_ready() else repeat(0), maxlen=0)

    def flow_stopped():
        if not is_ready():
            os.kill(os.getpid(), signal.SIGSTOP)

    def flow_masked():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not is_ready():
            deque(repeat(0, 10_000_000), maxlen=0)

    def flow_swallows():
        while not is_ready():
            try:
                time.sleep(300)
            except BaseException:
                pass

    def flow_shell():
        if not is_ready():
            os.system("exec sleep 300")

    def flow_child():
        if not is_ready():
            subprocess.run(["sleep", "300"])

    @pytest.mark.timeout(1, method="thread")
    def flow_by_thread():
        if not is_ready():
            time.sleep(300)

    @pytest.mark.parametrize("number", range(12))
    @pytest.mark.timeout(60)
    def flow_quick(number): ...

    @pytest.mark.depends_on("in_c", "stopped", when="always")
    def flow_clean_up(): ...
"""

_STUCK_TASKS = ["by_thread", "child", "in_c", "masked", "shell", "stopped", "swallows"]


@_linux
def test_S1_05_S1_06_S1_07_a_worker_that_takes_no_notice_is_killed_and_only_its_task_is_lost(
    flow: Flow, pytester: pytest.Pytester
) -> None:
    # Enough of a grace for the one that does take notice, beside others that keep a processor busy.
    files = {"flow_it.py": _STUCK, "pytest.ini": "[pytest]\nflowforge_timeout_grace = 2\n"}
    result = flow(files, "-n", "2", "--max-worker-restart=0", timeout=120)

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert {name for name, state in states.items() if state == "timed out"} == set(_STUCK_TASKS)
    assert len([name for name, state in states.items() if state == "success"]) == 13
    # Each is tried once, whatever became of the worker that it had been sent to.
    runs = ran_in(pytester)
    assert len(runs) == len(set(runs)) == 20
    ends = {name: text for name, [(_, _, text)] in ends_in(pytester).items()}
    for name in ("in_c", "stopped", "swallows", "shell"):
        assert re.fullmatch(r"Timeout \(>1\.0s\): it was still there 2 s later, so worker gw\d+ was killed", ends[name])
    assert re.fullmatch(r"Timeout \(>1\.0s\): worker gw\d+ was killed", ends["by_thread"])
    assert ends["child"] == "Timeout (>1.0s) from pytest-timeout."
    text = result.stdout.str()
    # Where it stood, but for the one that can say nothing any more.
    for line in (
        "deque(() if is_ready() else repeat(0), maxlen=0)",
        'os.system("exec sleep 300")',
        "in flow_by_thread",
    ):
        assert line in text
    assert "maximum crashed workers" not in text
    assert "replacing crashed worker" not in text
    _resumed(flow, pytester, [*_STUCK_TASKS, "clean_up"], "-n", "2")


@_linux
def test_killed_workers_do_not_use_up_the_restarts(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from collections import deque
        from itertools import repeat
        import pytest

        @pytest.mark.timeout(0.2)
        @pytest.mark.parametrize("number", range(20))
        def flow_stuck(number):
            deque(() if os.path.exists("ready") else repeat(0), maxlen=0)

        @pytest.mark.depends_on("stuck", when="all_done")
        def flow_last(): ...
    """
    ini = "[pytest]\nflowforge_timeout_grace = 0.1\n"
    result = flow({"flow_it.py": source, "pytest.ini": ini}, "-n", "2", timeout=200)

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"failed": 20, "passed": 1}
    assert list(states_in(pytester).values()).count("timed out") == 20


@_linux
def test_a_stuck_attempt_is_tried_again_at_another_worker(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os
        from collections import deque
        from itertools import repeat
        from pathlib import Path
        import pytest
        from log import log

        def flow_first():
            return 7

        @pytest.mark.timeout(1.5)
        @pytest.mark.retry(2)
        def flow_stuck(first):
            number = len(list(Path().glob("attempt*"))) + 1
            Path(f"attempt{number}").touch()
            log(os.getpid())
            if number < 3:
                deque(repeat(0), maxlen=0)
            return first + number

        def flow_next(stuck):
            assert stuck == 10
    """
    lines = pytester.path / "log.txt"
    source_of_log = f"""
        def log(line):
            with open({str(lines)!r}, "a") as file:
                file.write(f"{{line}}\\n")
    """
    ini = "[pytest]\nflowforge_timeout_grace = 0.5\n"
    result = flow(
        {"flow_it.py": source, "log.py": source_of_log, "pytest.ini": ini}, "-n", "1", "--junitxml=report.xml"
    )

    assert result.ret == _OK, result.stdout.str()
    assert result.parseoutcomes() == {"passed": 3, "retried": 2}
    assert len(set(lines.read_text(encoding="utf-8").split())) == 3
    assert [state for _, state, _ in ends_in(pytester)["stuck"]] == ["retrying", "retrying", "success"]
    names = [case.get("name") for case in _cases(pytester)]
    assert names.count("flow_stuck") == 1


@_linux
def test_the_clock_of_an_attempt_starts_when_the_worker_begins_with_it(flow: Flow, pytester: pytest.Pytester) -> None:
    # Whatever keeps the worker from it: another plugin here, fixtures that nobody needs any more, a machine under load.
    hooks = """
        import time
        import pytest

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_protocol(item):
            time.sleep(3)
            return (yield)
    """
    source = """
        import time
        import pytest

        @pytest.mark.timeout(2.5)
        @pytest.mark.parametrize("number", range(2))
        def flow_limited(number):
            time.sleep(0.1)
    """
    files = {"flow_it.py": source, "conftest.py": hooks, "pytest.ini": "[pytest]\nflowforge_timeout_grace = 0\n"}
    result = flow(files, "-n", "1")

    assert result.ret == _OK, result.stdout.str()
    assert set(states_in(pytester).values()) == {"success"}


def test_the_start_of_a_process_is_not_the_time_of_a_task(flow: Flow, pytester: pytest.Pytester) -> None:
    pool = """
        import time
        from concurrent.futures import ProcessPoolExecutor

        def slow_to_start(workers):
            return ProcessPoolExecutor(workers, initializer=time.sleep, initargs=(3,))
    """
    source = """
        import time
        import pytest

        @pytest.mark.timeout(4)
        def flow_sleeps():
            time.sleep(2)

        @pytest.mark.timeout(1)
        def flow_nothing(): ...
    """
    files = {"flow_it.py": source, "pools.py": pool, "pytest.ini": "[pytest]\npythonpath = .\n"}
    result = flow(files, "--ff-executor", "pools:slow_to_start", "--ff-workers", "2")

    assert result.ret == _OK, result.stdout.str()
    assert set(states_in(pytester).values()) == {"success"}


@_linux
def test_children_of_a_worker_that_is_killed_end_with_it(flow: Flow, processes: Processes) -> None:
    source = """
        import os, subprocess
        from collections import deque
        from itertools import repeat
        import pytest

        @pytest.mark.timeout(2)
        def flow_stuck():
            subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"])
            deque(repeat(0), maxlen=0)
    """
    result = flow({"flow_it.py": source, "pytest.ini": _INI}, "-n", "1")

    assert result.ret == _FAILED
    assert not processes.after(20.0)


@_linux
def test_S1_13_the_controller_is_killed_within_a_grace(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    source = """
        import os
        from collections import deque
        from itertools import repeat
        import pytest
        from log import log

        @pytest.mark.timeout(0.5)
        @pytest.mark.parametrize("number", range(2))
        def flow_stuck(number):
            log("begin")
            deque(() if os.path.exists("ready") else repeat(0), maxlen=0)
    """
    flow({"flow_it.py": source, "pytest.ini": "[pytest]\nflowforge_timeout_grace = 60\n"}, "--collect-only")
    run = begin("-n", "2")
    lines = pytester.path / "log.txt"
    wait_until(lambda: lines.read_text(encoding="utf-8").count("begin") == 2)
    time.sleep(1)
    run.kill(signal.SIGKILL)

    assert run.end(10) == -signal.SIGKILL
    assert not processes.after(20.0)
    log()
    _resumed(flow, pytester, ["stuck[0]", "stuck[1]"], "-n", "2")


# ---- this process ----------------------------------------------------------------------------------------------------


_ALONE = """
    import os, signal
    from collections import deque
    from itertools import repeat
    import pytest

    def flow_first():
        return 1

    @pytest.mark.timeout(0.5)
    def flow_stuck(first):
        ACTION

    def flow_other(first): ...
"""

_IN_C = "deque(() if os.path.exists('ready') else repeat(0), maxlen=0)"
#: Blocked in this thread, and of no effect if another one gets it.
_MASKED = """signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while not os.path.exists("ready"):
            deque(repeat(0, 1_000_000), maxlen=0)"""


@_linux
@pytest.mark.parametrize("action", [_IN_C, _MASKED], ids=["in C", "masked"])
def test_S1_05_without_another_process_the_run_ends_and_goes_on_when_it_is_resumed(
    flow: Flow, pytester: pytest.Pytester, action: str
) -> None:
    result = flow({"flow_it.py": _ALONE.replace("ACTION", action), "pytest.ini": _INI}, "-v")

    assert result.ret == _FAILED
    result.stderr.fnmatch_lines(["Timeout (0:00:0*)!", '  File "*flow_it.py", line * in flow_stuck'])
    assert dict(words(result))["first"] == "PASSED"
    assert states_in(pytester) == {"first": "success"}
    status = flow({}, "--ff-status")
    status.stdout.fnmatch_lines(["run *: did not finish *", "*in doubt*stuck"])
    again = _resumed(flow, pytester, ["other", "stuck"])
    assert reasons_in(again)["stuck"] == "was running when the run ended"


def test_what_took_its_time_but_had_no_limit_is_not_ended_by_the_limits_of_others(flow: Flow) -> None:
    source = """
        import time
        from collections import deque
        from itertools import repeat
        import pytest

        @pytest.mark.timeout(1)
        def flow_limited(): ...

        def flow_in_c(limited):
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                deque(repeat(0, 10_000_000), maxlen=0)

        @pytest.mark.timeout(10)
        def flow_more(in_c):
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                deque(repeat(0, 10_000_000), maxlen=0)
    """
    hooks = """
        import time

        def pytest_flowforge_task_finished(task, result):
            if task.name == "limited":
                time.sleep(2)
    """
    result = flow({"flow_it.py": source, "conftest.py": hooks, "pytest.ini": _INI})

    assert result.ret == _OK, result.stderr.str()


def test_pytest_may_have_the_timer_for_itself(flow: Flow) -> None:
    ini = f"{_INI}faulthandler_timeout = 1\n"
    source = """
        import time
        import pytest

        @pytest.mark.timeout(20)
        def flow_slow():
            time.sleep(2)
    """
    result = flow({"flow_it.py": source, "pytest.ini": ini})

    assert result.ret == _OK
    result.stderr.fnmatch_lines(["Timeout (0:00:01)!", "*in flow_slow"])


def test_what_is_cleaned_up_after_a_time_out_may_take_its_time(flow: Flow, log: Log) -> None:
    source = """
        import time
        import pytest
        from log import log

        @pytest.fixture
        def resource():
            yield
            time.sleep(2)
            log("given back")

        @pytest.mark.timeout(1)
        def flow_hangs(resource):
            try:
                time.sleep(300)
            finally:
                time.sleep(2)
                log("put away")
    """
    result = flow({"flow_it.py": source, "pytest.ini": _INI})

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"failed": 1}
    assert log() == ["put away", "given back"]


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_S1_08_threads_that_never_end_keep_nobody_from_anything(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import os, time
        import pytest
        from log import log

        @pytest.mark.timeout(1)
        @pytest.mark.parametrize("number", range(2))
        def flow_hangs(number):
            if not os.path.exists("ready"):
                time.sleep(1000)

        @pytest.mark.timeout(1)
        def flow_late():
            if not os.path.exists("ready"):
                time.sleep(2)
            log("late")
            return "late"

        @pytest.mark.depends_on("hangs", "late", when="all_done")
        def flow_waits():
            time.sleep(2)

        def flow_reads(late): ...
    """
    began = time.monotonic()
    result = flow(source, "-v", *_OPTIONS["thread"][:-1], "3")

    assert result.ret == _FAILED
    # Far less than what hangs would take; how long is a matter of the machine.
    assert time.monotonic() - began < 100
    states = states_in(pytester)
    assert states == {
        "hangs[0]": "timed out",
        "hangs[1]": "timed out",
        "late": "timed out",
        "waits": "success",
        "reads": "blocked",
    }
    assert log() == ["late"]
    result.stdout.fnmatch_lines(
        ["*in flow_hangs", "    time.sleep(1000)", "Failed: Timeout (>1.0s) from pytest-timeout."]
    )
    assert "bodies.py" not in result.stdout.str()


def test_S1_08_when_too_many_threads_are_left_behind_the_run_ends(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import os, time
        import pytest
        from log import log

        @pytest.mark.timeout(0.3)
        @pytest.mark.parametrize("number", range(8))
        def flow_hangs(number):
            if not os.path.exists("ready"):
                time.sleep(1000)

        @pytest.mark.depends_on("hangs", when="always")
        def flow_clean_up():
            log("clean up")
    """
    for how in (_OPTIONS["thread"], ("--ff-executor", "concurrent.futures:ThreadPoolExecutor", "--ff-workers", "2")):
        result = flow(source, *how)

        assert result.ret == _FAILED
        result.stdout.fnmatch_lines(
            ["*! ? threads go on with tasks whose time is up, and that is more than there are*"]
        )
        states = states_in(pytester)
        assert 3 <= list(states.values()).count("timed out") <= 4
        assert states["clean_up"] == "success"
        assert log() == ["clean up"]


def test_S1_08_a_coroutine_that_blocks_the_loop_blocks_nobody_who_comes_after(
    flow: Flow, pytester: pytest.Pytester
) -> None:
    source = """
        import asyncio, time
        import pytest

        pytestmark = pytest.mark.timeout(1)

        async def inner():
            await asyncio.sleep(1000)

        async def flow_waits():
            await inner()

        async def flow_blocks():
            time.sleep(1000)

        @pytest.mark.timeout(20)
        async def flow_not_begun():
            await asyncio.sleep(0.1)

        @pytest.mark.timeout(20)
        @pytest.mark.depends_on("blocks", when="all_done")
        async def flow_later():
            await asyncio.sleep(0.1)

        async def flow_stubborn():
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass
    """
    result = flow(source, *_OPTIONS["thread"])

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert states["later"] == states["not_begun"] == "success"
    assert {name for name, state in states.items() if state == "timed out"} == {"waits", "blocks", "stubborn"}
    result.stdout.fnmatch_lines(["*in flow_waits", "    await inner()", "*in inner", "    await asyncio.sleep(1000)"])
    result.stdout.fnmatch_lines(["*in flow_blocks", "    time.sleep(1000)"])


@pytest.mark.parametrize("name", ["thread", "pool"])
def test_what_runs_on_the_main_thread_there_is_limited_too(flow: Flow, pytester: pytest.Pytester, name: str) -> None:
    source = """
        import time
        import pytest

        pytestmark = pytest.mark.timeout(1)

        @pytest.mark.exclusive
        def flow_alone():
            time.sleep(300)

        @pytest.mark.exclusive
        @pytest.mark.timeout(1, method="thread")
        def flow_by_thread():
            time.sleep(300)

        def flow_other(): ...
    """
    result = flow(source, *_OPTIONS[name])

    assert result.ret == _FAILED
    assert states_in(pytester) == {"alone": "timed out", "by_thread": "timed out", "other": "success"}


@pytest.mark.parametrize("name", ["pool", "loky"])
def test_a_process_of_a_pool_that_is_stuck_takes_its_slot_along_only_for_a_while(
    flow: Flow, pytester: pytest.Pytester, name: str
) -> None:
    if name == "loky":
        pytest.importorskip("loky")
    source = """
        import os, time
        from collections import deque
        from itertools import repeat
        import pytest

        @pytest.mark.timeout(1)
        @pytest.mark.parametrize("number", range(5))
        def flow_stuck(number):
            deque(repeat(0), maxlen=0)

        @pytest.mark.parametrize("number", range(4))
        def flow_other(number):
            time.sleep(0.5)

        @pytest.mark.depends_on("stuck", when="all_done")
        @pytest.mark.parametrize("number", range(2))
        def flow_together(number):
            other = f"began {1 - number}"
            open(f"began {number}", "w").close()
            deadline = time.monotonic() + 30
            while not os.path.exists(other):
                assert time.monotonic() < deadline, "both slots are there"
                time.sleep(0.01)
    """
    result = flow(source, *_OPTIONS[name])

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert list(states.values()).count("timed out") == 5
    assert list(states.values()).count("success") == 6


# ---- the session -----------------------------------------------------------------------------------------------------


_SESSION = """
    import os, time
    import pytest
    from log import log

    @pytest.fixture(scope="session")
    def server():
        yield
        log("server closed")

    def flow_first(server):
        return 1

    @pytest.mark.parametrize("number", range(2))
    def flow_hangs(first, number):
        open(f"hanging-{number}", "w").close()
        if not os.path.exists("ready"):
            time.sleep(300)

    def flow_after(hangs): ...

    @pytest.mark.depends_on("hangs", when="always")
    def flow_clean_up():
        log("clean up")
        if os.path.exists("hang"):
            time.sleep(300)

    @pytest.mark.depends_on("hangs", when="any_failed")
    def flow_alarm():
        log("alarm")
"""


#: The time of the session is up as soon as so many tasks hang, and that is known.
_UP_WHEN_IT_HANGS = f"""
    from contextlib import suppress
    from pathlib import Path

    def is_up(engine):
        with suppress(RuntimeError):
            known = sum("hangs" in task for task, _ in engine.running)
            return min(known, len(list(Path().glob("hanging-*")))) >= NUMBER
        return False
    {TIME_IS_UP}
"""


@_everywhere
@pytest.mark.parametrize("by", ["option", "ini"])
def test_the_time_of_the_session_is_up(
    flow: Flow, log: Log, pytester: pytest.Pytester, how: Sequence[str], by: str
) -> None:
    ini = f"{_INI}session_timeout = 6\n" if by == "ini" else _INI
    option = () if by == "ini" else ("--session-timeout", "6")
    if by == "ini" and how != _OPTIONS["process"]:
        pytest.skip("read in one place")
    if "loky:get_reusable_executor" in how:
        pytest.importorskip("loky")
    # By the clock where no process has to start.
    conftest = _UP_WHEN_IT_HANGS.replace("NUMBER", "2") if how else ""
    result = flow({"flow_it.py": _SESSION, "pytest.ini": ini, "conftest.py": conftest}, "-v", *option, *how)

    assert result.ret == _FAILED, result.stdout.str()
    reason = "session-timeout: 6.0 sec exceeded"
    result.stdout.fnmatch_lines([f"*not started ({reason}): *", f"!* {reason} !*"])
    states = states_in(pytester)
    assert states["hangs[0]"] == "interrupted"
    assert states["clean_up"] == states["alarm"] == "success"
    lines = log()
    assert sorted(lines) == ["alarm", "clean up", "server closed"]
    assert records_in(journal_of(pytester))[-1]["ev"] == "run_stopped"
    make_ready(pytester)
    result = flow({"pytest.ini": _INI}, "--ff-resume", *how)
    assert result.ret == _OK
    assert "first" not in ran_in(pytester)
    assert {"hangs[0]", "hangs[1]", "after"} <= set(ran_in(pytester))


@pytest.mark.parametrize("name", ["local", "thread", "process"])
def test_clean_up_has_its_time_too_when_that_of_the_session_is_up(
    flow: Flow, log: Log, pytester: pytest.Pytester, name: str
) -> None:
    pytester.path.joinpath("hang").touch()
    files = {
        "flow_it.py": _SESSION,
        "pytest.ini": f"{_INI}flowforge_session_grace = 4\n",
        "conftest.py": _UP_WHEN_IT_HANGS.replace("NUMBER", "1" if name == "local" else "2"),
    }
    result = flow(files, "--session-timeout", "6", *_OPTIONS[name])

    assert result.ret == _FAILED, result.stdout.str()
    result.stdout.fnmatch_lines(["!* session-timeout: 6.0 sec exceeded !*"])
    assert states_in(pytester)["clean_up"] == "interrupted"
    assert "clean up" in log()


def test_a_session_that_hangs_even_then_is_cut_off(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import time
        import pytest

        @pytest.fixture(scope="session")
        def server():
            yield
            while True:
                try:
                    time.sleep(300)
                except BaseException:
                    pass

        def flow_uses(server): ...

        def flow_hangs(uses):
            open("hanging-0", "w").close()
            time.sleep(300)

        # It keeps the server to the end of the session.
        @pytest.mark.depends_on("hangs", when="all_done")
        def flow_after(server): ...
    """
    ini = f"{_INI}flowforge_session_grace = 1\n"
    files = {"flow_it.py": source, "pytest.ini": ini, "conftest.py": _UP_WHEN_IT_HANGS.replace("NUMBER", "1")}
    result = flow(files, "--session-timeout", "2")

    assert result.ret == _FAILED
    result.stderr.fnmatch_lines(
        ["flowforge: session-timeout: 2.0 sec exceeded, and something still hangs: *", "*in server"]
    )
    assert records_in(journal_of(pytester))[-1]["ev"] == "run_stopped"


@pytest.mark.parametrize("name", ["local", "thread", "process"])
def test_a_session_whose_time_is_up_before_its_run_begins(
    flow: Flow, log: Log, pytester: pytest.Pytester, name: str
) -> None:
    result = flow(
        {"flow_it.py": f"import time; time.sleep(2)\n{dedent(_SESSION)}"}, "--session-timeout", "1", *_OPTIONS[name]
    )

    assert result.ret == _FAILED
    result.stdout.fnmatch_lines(["!* session-timeout: 1.0 sec exceeded !*"])
    assert ran_in(pytester) == ["clean_up"]
    assert log() == ["clean up"]


def test_a_session_in_time_is_left_alone(flow: Flow) -> None:
    result = flow("def flow_a(): ...", "--session-timeout", "60")

    assert result.ret == _OK


# ---- KeyboardInterrupt -----------------------------------------------------------------------------------------------


_RAISES = """
    import os
    import pytest
    from log import log

    @pytest.fixture(scope="module")
    def server():
        log("+ server")
        yield
        log("- server")

    @pytest.fixture
    def bad_start():
        raise KeyboardInterrupt

    @pytest.fixture
    def bad_end():
        yield
        raise KeyboardInterrupt("at the end")

    def flow_raises(server):
        raise KeyboardInterrupt("on purpose")

    def flow_after(raises): ...

    async def flow_coroutine():
        raise KeyboardInterrupt

    def flow_set_up(bad_start): ...

    def flow_torn_down(bad_end): ...

    @pytest.mark.retry(1, on=(KeyboardInterrupt,))
    def flow_again():
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise KeyboardInterrupt

    @pytest.mark.exclusive
    def flow_alone():
        raise KeyboardInterrupt

    def flow_exits():
        raise SystemExit(3)

    def flow_generator():
        raise GeneratorExit

    def flow_other(server): ...
"""


@_everywhere
def test_S1_26_a_task_that_raises_keyboard_interrupt_has_failed(
    flow: Flow, log: Log, pytester: pytest.Pytester, how: Sequence[str]
) -> None:
    if "loky:get_reusable_executor" in how:
        pytest.importorskip("loky")
    result = flow(_RAISES, *how)

    assert result.ret == _FAILED, result.stdout.str()
    ends = ends_in(pytester)
    said = {name: (end[-1][1], end[-1][2]) for name, end in ends.items()}
    assert said == {
        "raises": ("failed", "raised KeyboardInterrupt: on purpose"),
        "after": ("blocked", "upstream raises failed"),
        "coroutine": ("failed", "raised KeyboardInterrupt"),
        "set_up": ("failed", "raised KeyboardInterrupt (in setup)"),
        "torn_down": ("failed", "raised KeyboardInterrupt: at the end (in teardown)"),
        "again": ("success", ""),
        "alone": ("failed", "raised KeyboardInterrupt"),
        "exits": ("failed", "SystemExit: 3"),
        "generator": ("failed", "GeneratorExit"),
        "other": ("success", ""),
    }
    assert len(ends["again"]) == 2
    lines = log()
    assert lines.count("+ server") == lines.count("- server") >= 1
    result.stdout.fnmatch_lines(['*raise KeyboardInterrupt("on purpose")*', "*KeyboardInterrupt: on purpose*"])
    assert "node down" not in result.stdout.str()


@pytest.mark.parametrize("name", ["local", "process"])
def test_S1_26_where_somebody_else_takes_the_signal_nobody_can_tell(flow: Flow, name: str) -> None:
    hooks = """
        import signal

        def pytest_sessionstart(session):
            signal.signal(signal.SIGINT, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    """
    source = """
        def flow_raises():
            raise KeyboardInterrupt

        def flow_other(raises): ...
    """
    if name == "process":
        hooks = hooks.replace("lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)", "signal.SIG_IGN")
    result = flow({"flow_it.py": source, "conftest.py": hooks}, *_OPTIONS[name])

    assert result.ret == pytest.ExitCode.INTERRUPTED


@_everywhere
def test_S1_26_ctrl_c_in_a_terminal_is_no_task_s_own(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, how: Sequence[str]
) -> None:
    if "loky:get_reusable_executor" in how:
        pytest.importorskip("loky")
    source = """
        import time
        import pytest
        from log import log

        @pytest.mark.parametrize("number", range(2))
        def flow_waits(number):
            log("begin")
            time.sleep(300)

        @pytest.mark.depends_on("waits", when="always")
        def flow_clean_up():
            log("clean up")
    """
    flow(source, "--collect-only")
    run = begin(*how)
    lines = pytester.path / "log.txt"
    wait_until(lambda: lines.read_text(encoding="utf-8").count("begin") == (2 if how else 1))
    time.sleep(0.1)
    run.kill_all(signal.SIGINT)

    assert run.end(30) == pytest.ExitCode.INTERRUPTED, run.output
    assert states_in(pytester)["waits[0]"] == "interrupted"
    assert states_in(pytester)["clean_up"] == "success"
    assert "clean up" in log()
