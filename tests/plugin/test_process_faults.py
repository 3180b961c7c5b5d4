"""What can go wrong with workers, one test for each fault, named by its id in the catalogue of faults.

Each says how the run ends, what it says, what is written down, and what a resumed run does about it.
"""

# ruff: noqa: N802 - the ids have capital letters

from __future__ import annotations

import re
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.conftest import HEARD, SLOWER, wait_until, words
from tests.plugin.keeping import ends_in, journal_of, make_ready, ran_in, records_in, states_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.plugin.conftest import Begin, Beside, Flow, Processes

    Log = Callable[[], list[str]]

pytestmark = [
    pytest.mark.usefixtures("processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how processes end is measured on Linux"),
]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
_INTERNAL, _USAGE = pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR

_TWO = ("-n", "2")


def _resumed(flow: Flow, pytester: pytest.Pytester, runs: Sequence[str], *args: str) -> pytest.RunResult:
    """Resume once what was wrong is put right: exactly *runs* run, and everything ends well."""
    make_ready(pytester)
    result = flow({}, "-v", "--ff-resume", *args)
    assert result.ret == _OK, result.stdout.str()
    assert ran_in(pytester) == sorted(runs)
    total = int(re.findall(r"collected (\d+) item", result.stdout.str())[0])
    outcomes = result.parseoutcomes()
    assert (outcomes.get("passed", 0), outcomes.get("reused", 0)) == (len(runs), total - len(runs))
    return result


# ---- S0: nothing may be lost in silence ------------------------------------------------------------------------------


def test_S0_03_reports_that_can_not_be_sent(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import logging, os, sys, warnings
        from pathlib import Path
        import pytest

        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no text")
            __repr__ = __str__

        class Text(str):
            pass

        DEEP = []
        for _ in range(5000):
            DEEP = [DEEP]
        CYCLIC = {}
        CYCLIC["self"] = CYCLIC

        VALUES = {
            "function": len, "object": object(), "path": Path(), "subclass": Text("a"), "surrogate": "\\udcff",
            "deep": DEEP, "cyclic": CYCLIC, "number": 10 ** 5000, "set": {1, 2}, "bytes": b"\\xff", "mute": Mute(),
            "nan": float("nan"),
        }

        @pytest.mark.parametrize("kind", list(VALUES))
        def flow_property(kind, record_property):
            record_property(kind, VALUES[kind])
            record_property("\\udcff", 1)

        @pytest.mark.parametrize("value", ["\\udcff", "\\x00", "\\u2028", "@group"])
        def flow_named(value):
            print(value.encode("utf-8", "replace"))

        def flow_message():
            if not os.path.exists("ready"):
                raise ValueError("\\udcff \\ud800")

        def flow_mute():
            if not os.path.exists("ready"):
                raise Mute

        def flow_skip():
            pytest.skip("\\udcff")

        def flow_warning():
            warnings.warn("\\udcff")

        def flow_own_warning():
            class Unimportable(UserWarning):
                pass
            warnings.warn(Unimportable("\\ud800"))

        def flow_log():
            logging.getLogger("\\udcff").error("\\udcff")

        def flow_output():
            sys.stdout.buffer.write(b"\\xff\\xfe")
            os.write(2, b"\\xff\\xfe")

        def flow_section(request):
            request.node.add_report_section("call", "\\udcff", "\\udcff")

        def flow_result():
            return "\\udcff"

        def flow_reader(result):
            assert result == "\\udcff"
    """
    result = flow(source, *_TWO, "-v", "-p", "no:cacheprovider", "--ff-checkpoint", ".pytest_cache/flowforge")

    assert result.ret == _FAILED
    outcomes = result.parseoutcomes()
    assert {word: outcomes[word] for word in ("passed", "failed", "skipped")} == {
        "passed": 23,
        "failed": 2,
        "skipped": 1,
    }
    assert "INTERNAL" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*ValueError: *udcff*", "*Mute*"])

    make_ready(pytester)
    again = flow({}, *_TWO, "--ff-resume", "--ff-checkpoint", ".pytest_cache/flowforge")
    assert again.ret == _OK
    assert ran_in(pytester) == ["message", "mute", "skip"]


@pytest.mark.parametrize("hook", ["pytest_report_to_serializable(report)", "pytest_runtest_makereport(item)"])
def test_S0_04_a_plugin_that_raises_in_a_worker(flow: Flow, pytester: pytest.Pytester, hook: str) -> None:
    thing = hook.rpartition("(")[2][:-1]
    files = {
        "conftest.py": f"""
            import os
            import pytest

            @pytest.hookimpl(tryfirst=True)
            def {hook}:
                hit = "PYTEST_XDIST_WORKER" in os.environ and "flow_bad" in getattr({thing}, "nodeid", "")
                if hit and not os.path.exists("ready"):
                    raise RuntimeError("a plugin is broken")
        """,
        "flow_it.py": """
            import os, time

            def flow_bad():
                assert os.path.exists("ready")

            def flow_after(bad):
                return 2

            def flow_one():
                time.sleep(0.3)

            def flow_two(one):
                time.sleep(0.3)

            def flow_three(two):
                pass
        """,
    }
    result = flow(files, *_TWO, "-v")

    assert result.ret == _INTERNAL
    assert "a plugin is broken" in result.stdout.str()
    states = states_in(pytester)
    assert states.get("bad") in {"crashed", "failed"}
    assert [states.get(name) for name in ("one", "two", "three")] == ["success"] * 3
    _resumed(flow, pytester, ["after", "bad"], *_TWO)


def test_S0_05_no_worker_left(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def flow_bad(number):
            if not os.path.exists("ready"):
                os._exit(9)

        def flow_quiet():
            pass

        def flow_after(quiet):
            pass
    """
    result = flow(source, *_TWO, "--max-worker-restart", "1", "-v", timeout=30)

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert len(states) == 8, "each task has an outcome"
    # A second death is one too many; the worker that has replaced the first may have been at work, too.
    assert sum(state == "crashed" for state in states.values()) in {2, 3}
    said = {end[2] for ends in ends_in(pytester).values() for end in ends if end[1] == "blocked"}
    assert all("worker" in text for text in said), said
    assert "blocked" in result.stdout.str()
    not_done = [name for name, state in states.items() if state != "success"]
    _resumed(flow, pytester, not_done, *_TWO)


_SLOW = """
    import os, time
    from log import log

    def flow_first():
        return 1

    def flow_left(first):
        work("left")

    def flow_right(first):
        work("right")

    def flow_last(left, right):
        work("last", 0)

    def work(name, seconds={seconds}):
        log(f"begin {{name}}")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not os.path.exists("ready"):
            time.sleep(0.01)
        log(f"end {{name}}")
"""


def _begun(pytester: pytest.Pytester, *names: str) -> Callable[[], bool]:
    log = pytester.path / "log.txt"
    return lambda: {f"begin {name}" for name in names} <= set(log.read_text(encoding="utf-8").splitlines())


def test_S0_13_a_run_that_was_killed_and_is_resumed_at_once(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester
) -> None:
    # Longer than one worker may be later than the other, and less than workers that nobody ends go on.
    flow(_SLOW.format(seconds=4), "--collect-only")
    run = begin(*_TWO)
    wait_until(_begun(pytester, "left", "right"))
    run.kill(signal.SIGKILL)

    result = flow({}, *_TWO, "-v", "--ff-resume")

    assert result.ret == _OK
    lines = log()
    assert sorted(lines[:2]) == ["begin left", "begin right"]
    # Those that were killed have not ended: nobody has done any of it at the same time.
    assert sorted(lines[2:]) == sorted(
        [f"{what} {name}" for name in ("left", "right", "last") for what in ("begin", "end")]
    )
    assert ran_in(pytester) == ["last", "left", "right"]
    result.stdout.fnmatch_lines(["flowforge: 2 tasks were running when * ended and will run again: *"])
    assert run.end() == -signal.SIGKILL


#: What a system does that can not end workers with the process that started them.
_ORPHANS = """
    import pytest_flowforge.plugin.worker as worker

    worker._die_with = lambda controller: None
"""


def test_S0_13_workers_that_outlive_their_run(flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester) -> None:
    # Longer than the next run takes to look.
    flow({"flow_it.py": _SLOW.format(seconds=6), "conftest.py": _ORPHANS}, "--collect-only")
    run = begin(*_TWO)
    wait_until(_begun(pytester, "left", "right"))
    run.kill(signal.SIGKILL)

    result = flow({}, *_TWO, "-v", "--ff-resume")

    assert result.ret == _OK
    lines = log()
    at_once, most = 0, 0
    for line in lines:
        at_once += {"begin": 1, "end": -1}[line.split()[0]] if "left" in line else 0
        most = max(most, at_once)
    assert "begin left" in lines[2:], "it has run again"
    result.stdout.fnmatch_lines(["flowforge: waiting for workers of the last run*"])
    # Either it ended before the next began, or it was ended in the middle.
    assert lines.index("begin left", lines.index("begin left") + 1) > max(
        (place for place, line in enumerate(lines[:4]) if line == "end left"), default=0
    )
    assert run.end() == -signal.SIGKILL


def test_S0_13_workers_of_the_last_run_that_do_not_end(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    conftest = (
        _ORPHANS
        + """
    import signal
    import pytest_flowforge.keeping as keeping

    keeping.PATIENCE = 1.0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    """
    )
    flow({"flow_it.py": _SLOW.format(seconds=60), "conftest.py": conftest}, "--collect-only")
    run = begin(*_TWO)
    wait_until(_begun(pytester, "left", "right"))
    run.kill(signal.SIGKILL)
    run.end()

    result = flow({}, *_TWO, "-v", "--ff-resume")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: *workers of the last run*still work*"])
    assert sorted(log()) == ["begin left", "begin right"]
    processes.kill()
    _resumed(flow, pytester, ["last", "left", "right"])


def test_S0_15_a_forked_child_returns_from_its_task(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
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

        def flow_last(next):
            log("last")
    """
    began = time.monotonic()
    result = flow(source, "-W", "ignore::DeprecationWarning", *_TWO)

    assert result.ret == _OK
    assert time.monotonic() - began < 10 * SLOWER
    assert log() == ["next", "last"]
    assert result.parseoutcomes() == {"passed": 4}
    assert ran_in(pytester) == ["forks", "last", "next", "raises"]
    _resumed(flow, pytester, [])


@pytest.mark.parametrize("way", ["ctypes.CDLL(None)._exit(5)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_S0_20_a_worker_dies_when_the_work_is_done_and_nobody_knows(
    flow: Flow, log: Log, pytester: pytest.Pytester, way: str
) -> None:
    files = {
        "conftest.py": f"""
            import ctypes, os, signal

            def pytest_runtest_makereport(item, call):
                if "flow_done" in item.nodeid and call.when == "teardown" and not os.path.exists("ready"):
                    {way}
        """,
        "flow_it.py": """
            import pytest
            from log import log

            @pytest.mark.idempotent(False)
            def flow_done():
                log("done")

            def flow_after(done):
                log("after")

            def flow_other():
                log("other")
        """,
    }
    result = flow(files, *_TWO, "-v")

    assert result.ret == _FAILED
    assert sorted(log()) == ["done", "other"]
    assert states_in(pytester) == {"done": "crashed", "after": "blocked", "other": "success"}
    (end,) = ends_in(pytester)["done"]
    assert "exit status 5" in end[2] or "SIGKILL" in end[2]
    make_ready(pytester)
    refused = flow({}, "--ff-resume", "-v")
    assert refused.ret == _FAILED
    assert log() == []
    assert "--ff-rerun-unsafe" in refused.stdout.str()
    _resumed(flow, pytester, ["after", "done"], "--ff-rerun-unsafe")


# ---- S1: workers that die --------------------------------------------------------------------------------------------

_DEATHS = {
    "exit_0": ("os._exit(0)", "os._exit(0)"),
    "exit_7": ("os._exit(7)", "os._exit(7)"),
    "c_exit": ("ctypes.CDLL(None)._exit(9)", "exit status 9"),
    "segv": ("faulthandler.disable(); ctypes.string_at(0)", "SIGSEGV"),
    "abort": ("faulthandler.disable(); os.abort()", "SIGABRT"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "term": ("os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
}


def test_S1_01_each_way_in_which_a_worker_dies(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import ctypes, faulthandler, os, signal, time
        import pytest
        from log import log

        def flow_first():
            log("first")
            return 1

        @pytest.mark.parametrize("number", range(8))
        def flow_good(first, number):
            log(f"good {number}")
            time.sleep(0.05)

        def flow_end(good):
            log("end")

        def dies(name):
            log(name)
            return not os.path.exists("ready")
    """
    for name, (way, _) in _DEATHS.items():
        source += f"""
        def flow_{name}(first):
            if dies("{name}"):
                {way}
                time.sleep(60)

        def flow_after_{name}({name}):
            log("after_{name}")
    """
    result = flow(source, *_TWO, "-v", timeout=40)

    assert result.ret == _FAILED
    assert sorted(log()) == sorted([*_DEATHS, "first", "end", *(f"good {number}" for number in range(8))])
    ends = ends_in(pytester)
    for name, (_, named) in _DEATHS.items():
        ((attempt, state, text),) = ends[name]
        assert (attempt, state) == (1, "crashed")
        assert named in text
        assert ends[f"after_{name}"][0][1] == "blocked"
        assert re.search(rf"^FAILED flow_it.py::flow_{name} - ", result.stdout.str(), re.MULTILINE)
    assert result.parseoutcomes() == {"failed": 7, "passed": 10, "blocked": 7}
    _resumed(flow, pytester, [*_DEATHS, *(f"after_{name}" for name in _DEATHS)], *_TWO)
    assert sorted(log()) == sorted([*_DEATHS, *(f"after_{name}" for name in _DEATHS)])


def test_S1_02_a_task_that_always_kills_its_worker(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os, time
        import pytest
        from log import log

        @pytest.mark.retry(3)
        def flow_poison():
            log("poison")
            if not os.path.exists("ready"):
                os._exit(1)

        @pytest.mark.parametrize("number", range(6))
        def flow_good(number):
            log("good")
            time.sleep(0.1)
    """
    result = flow(source, *_TWO, "-v")

    assert result.ret == _FAILED
    lines = log()
    assert lines.count("poison") == 4
    assert lines.count("good") == 6
    assert [end[:2] for end in ends_in(pytester)["poison"]] == [
        (1, "retrying"),
        (2, "retrying"),
        (3, "retrying"),
        (4, "crashed"),
    ]
    _resumed(flow, pytester, ["poison"], *_TWO)


@pytest.mark.parametrize("restarts", [(), ("--max-worker-restart", "0")], ids=["with restarts", "without restarts"])
def test_S1_03_workers_die_while_they_import(flow: Flow, pytester: pytest.Pytester, restarts: Sequence[str]) -> None:
    source = """
        import os

        if "PYTEST_XDIST_WORKER" in os.environ and not os.path.exists("ready"):
            os._exit(3)

        def flow_one():
            pass

        def flow_two(one):
            pass
    """
    began = time.monotonic()
    result = flow(source, *_TWO, *restarts, timeout=30)

    assert time.monotonic() - began < 15 * SLOWER
    assert result.ret in {_FAILED, _INTERNAL}
    assert "every worker process has ended before it had collected the tasks" in result.stdout.str()
    assert set(states_in(pytester).values()) == {"blocked"}
    assert ran_in(pytester) == []
    _resumed(flow, pytester, ["one", "two"], *_TWO)


def test_S1_01_a_worker_dies_and_leaves_children(flow: Flow, pytester: pytest.Pytester, processes: Processes) -> None:
    source = """
        import os, signal, time

        def flow_one():
            if os.path.exists("ready"):
                return
            if os.fork() == 0:
                time.sleep(1000)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

        def flow_two():
            pass
    """
    began = time.monotonic()
    result = flow(source, *_TWO, "-v", timeout=30)

    assert result.ret == _FAILED
    assert time.monotonic() - began < 8 * SLOWER
    assert states_in(pytester) == {"one": "crashed", "two": "success"}
    processes.kill()
    _resumed(flow, pytester, ["one"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9])
def test_S1_13_a_run_that_ends_while_workers_start(
    flow: Flow, begin: Begin, processes: Processes, number: signal.Signals, seconds: float
) -> None:
    flow(_SLOW.format(seconds=0.1), "--collect-only")
    run = begin(*_TWO)
    time.sleep(seconds)
    run.kill(number)

    run.end(10)
    assert not processes.after(30)


def test_a_worker_that_dies_while_it_is_idle(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os, signal, time

        def flow_quick():
            return os.getpid()

        def flow_slow():
            time.sleep(0.5)

        def flow_killer(quick, slow):
            if quick != os.getpid():
                os.kill(quick, signal.SIGKILL)
            # Long enough for its death to be known.
            time.sleep(2)
            return quick

        def flow_next(killer):
            time.sleep(0.1)

        def flow_other(killer):
            time.sleep(0.1)
    """
    result = flow(source, *_TWO, "-v")

    assert result.ret == _OK
    assert result.parseoutcomes() == {"passed": 5}
    _resumed(flow, pytester, [])


_MASSACRE = """
    import os, signal, time
    import pytest

    @pytest.mark.parametrize("number", range(2))
    def flow_all(number):
        open(f"pid-{number}", "w").write(str(os.getpid()))
        if os.path.exists("ready"):
            return
        while not (os.path.exists(f"pid-{1 - number}") and os.path.getsize(f"pid-{1 - number}")):
            time.sleep(0.01)
        time.sleep(0.2)
        if number == 0:
            os.kill(int(open("pid-1").read()), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30)

    @pytest.mark.priority(1)
    def flow_rest():
        pass

    @pytest.mark.depends_on("all", when="all_done")
    def flow_after(rest):
        pass
"""


@pytest.mark.parametrize(
    ("restarts", "after"),
    [((), "success"), (("--max-worker-restart", "0"), "blocked")],
    ids=["replaced", "not replaced"],
)
def test_all_workers_die_at_once(flow: Flow, pytester: pytest.Pytester, restarts: Sequence[str], after: str) -> None:
    result = flow(_MASSACRE, *_TWO, *restarts, "-v", timeout=30)

    assert result.ret == _FAILED
    states = states_in(pytester)
    assert states == {"rest": "success", "all[0]": "crashed", "all[1]": "crashed", "after": after}
    if after == "blocked":
        result.stdout.fnmatch_lines(["after was not run: no worker left"])
    _resumed(flow, pytester, [name for name in states if name != "rest"], *_TWO)


def test_workers_that_can_not_be_started(flow: Flow) -> None:
    source = """
        def flow_one():
            pass

        def flow_two(one):
            pass
    """
    began = time.monotonic()
    result = flow(source, "--dist", "load", "--tx", "popen//python=/does/not/exist", timeout=30)

    assert time.monotonic() - began < 15 * SLOWER
    assert result.ret not in {_OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    assert "/does/not/exist" in result.stdout.str() + result.stderr.str()
    # Nothing had begun, so there is nothing to continue.
    again = flow({}, "--ff-resume")
    assert again.ret == _OK


def test_workers_that_collect_other_tasks(
    flow: Flow, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dask's nannies, of other tests of this process, set one for all that are started after them.
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    source = """
        import os
        import pytest

        NAMES = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}

        @pytest.mark.parametrize("name", sorted(NAMES) if os.path.exists("ready") else NAMES)
        def flow_one(name):
            pass

        def flow_two(one):
            pass
    """
    result = flow(source, *_TWO, "-v", timeout=30)

    assert result.ret == _FAILED
    result.stdout.fnmatch_lines(["*worker gw* has collected other tasks than the controller: *set*"])
    assert ran_in(pytester) == []
    assert set(states_in(pytester).values()) == {"blocked"}
    make_ready(pytester)
    assert flow({}, *_TWO, "--ff-resume").ret == _OK


def test_a_task_of_several_workers_is_one_case_in_junit(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import time
        from pathlib import Path
        import pytest

        def again():
            with Path("tries").open("a") as file:
                file.write("x")
            return len(Path("tries").read_text())

        @pytest.mark.retry(3)
        def flow_moves():
            time.sleep(0.2)
            if again() == 1:
                os._exit(3)
            assert again() > 3

        @pytest.mark.retry(5, delay=60)
        @pytest.mark.priority(-1)
        def flow_called_off():
            raise OSError("not yet")

        @pytest.mark.parametrize("number", range(20))
        def flow_others(number):
            time.sleep(0.05)

        @pytest.mark.depends_on("moves", "others")
        def flow_ends_it():
            assert 0
    """

    result = flow(source, "-x", "-n", "2", "--junitxml=junit.xml")

    assert result.ret == _FAILED
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    cases = Counter(case.get("name") for case in suite)
    others = [f"flow_others[{number}]" for number in range(20)]
    assert cases == Counter(["flow_moves", "flow_called_off", "flow_ends_it", *others])


# ---- S1: signals -----------------------------------------------------------------------------------------------------

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
        time.sleep(0.05)

    def flow_after(left, right):
        log("begin after")

    @pytest.mark.depends_on("left", "right", when="always")
    def flow_clean_up():
        log("begin clean_up")

    def work(name):
        try:
            log(f"begin {name}")
            if os.path.exists("ready"):
                return
            time.sleep(60)
        except KeyboardInterrupt:
            log(f"interrupted {name}")
            raise
"""

_STUBBORN = _INTERRUPTIBLE.replace(
    "        except KeyboardInterrupt:\n", "        except KeyboardInterrupt:\n            time.sleep(60)\n"
)


def _two_running(
    flow: Flow,
    begin: Begin,
    pytester: pytest.Pytester,
    source: str,
    ignored: Sequence[int] = (),
    conftest: str = "",
) -> Beside:
    flow({"flow_it.py": source, "conftest.py": conftest}, "--collect-only")
    lines = pytester.path / "log.txt"
    for _ in range(5):
        run = begin(*_TWO, "-v", ignored=ignored)
        wait_until(_begun(pytester, "left", "right"))
        if "begin more" not in lines.read_text():
            return run
        # One worker was there so much earlier than the other that it was given what others were to have begun after.
        run.kill_all(signal.SIGKILL)
        run.end()
        lines.write_text("")
        flow({}, "--ff-clear")
    pytest.fail("the second worker is always late")


def _check_interrupted(run: Beside, log: Log, pytester: pytest.Pytester, *, asked: bool = True) -> None:
    """After a signal everything that is to be is in order."""
    assert run.end(15) == _INTERRUPTED, run.output
    lines = log()
    assert lines.count("begin clean_up") == 1, "clean-up is done"
    assert "begin more" not in lines, "nothing else starts"
    assert "begin after" not in lines
    if asked:
        assert {"interrupted left", "interrupted right"} <= set(lines)
    states = states_in(pytester)
    assert states["left"] == states["right"] == "interrupted"
    assert states["clean_up"] == "success"
    assert records_in(journal_of(pytester))[-1]["ev"] == "run_stopped"
    assert re.search(r"^continue with: pytest --flowforge .*--ff-resume$", run.output, re.MULTILINE)


_UNDONE = ["after", "clean_up", "left", *(f"more[{number}]" for number in range(6)), "right"]


@pytest.mark.parametrize("to_all", [True, False], ids=["of a terminal", "to the controller only"])
def test_S1_09_S1_10_ctrl_c(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes, *, to_all: bool
) -> None:
    run = _two_running(flow, begin, pytester, _INTERRUPTIBLE)
    began = time.monotonic()
    (run.kill_all if to_all else run.kill)(signal.SIGINT)

    _check_interrupted(run, log, pytester)
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    _resumed(flow, pytester, _UNDONE, *_TWO)


def test_S1_09_what_does_not_listen_is_ended_after_its_grace(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    run = _two_running(flow, begin, pytester, _STUBBORN)
    began = time.monotonic()
    run.kill(signal.SIGINT)

    _check_interrupted(run, log, pytester, asked=False)
    assert 1.9 < time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    _resumed(flow, pytester, _UNDONE, *_TWO)


def test_S1_09_what_ends_within_its_grace_counts(flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester) -> None:
    source = _INTERRUPTIBLE.replace("            raise\n", "            time.sleep(0.5)\n")
    run = _two_running(flow, begin, pytester, source, conftest=HEARD)
    run.kill_all(signal.SIGINT)

    assert run.end(15) == _INTERRUPTED
    assert log().count("begin clean_up") == 1
    states = states_in(pytester)
    assert states["left"] == states["right"] == "success"
    _resumed(flow, pytester, [name for name in _UNDONE if name not in {"left", "right", "clean_up"}], *_TWO)


def test_S1_11_a_second_ctrl_c(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    run = _two_running(flow, begin, pytester, _STUBBORN.replace("sleep(60)", "sleep(120)"), conftest=HEARD)
    run.kill_all(signal.SIGINT)
    # Two that come before anybody looks are one.
    wait_until((pytester.path / f"heard-{run.process.pid}").exists)
    time.sleep(0.5)
    began = time.monotonic()
    run.kill_all(signal.SIGINT)

    assert run.end(10) in {_INTERRUPTED, -signal.SIGINT}
    # Nobody has waited for the end of the grace.
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    assert "begin clean_up" not in log()
    assert "Traceback" not in run.output
    states = states_in(pytester)
    assert states["first"] == "success"
    _resumed(flow, pytester, _UNDONE, *_TWO)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_S1_12_other_signals_that_ask_for_the_end(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes, number: signal.Signals
) -> None:
    run = _two_running(flow, begin, pytester, _INTERRUPTIBLE)
    began = time.monotonic()
    run.kill(number)

    _check_interrupted(run, log, pytester)
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    _resumed(flow, pytester, _UNDONE, *_TWO)


@pytest.mark.parametrize("source", [_INTERRUPTIBLE, _STUBBORN], ids=["listening", "deaf"])
def test_S1_13_the_controller_is_killed(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes, source: str
) -> None:
    run = _two_running(flow, begin, pytester, source)
    run.kill(signal.SIGKILL)

    assert run.end() == -signal.SIGKILL
    # Where nobody sees to that they end after five seconds, when execnet has noticed.
    assert not processes.after(4.0), "no worker is left"
    lines = log()
    assert sorted(lines) == ["begin first", "begin left", "begin right"]
    _resumed(flow, pytester, _UNDONE, *_TWO)


def test_S1_14_ctrl_c_is_ignored(
    flow: Flow, log: Log, begin: Begin, pytester: pytest.Pytester, processes: Processes
) -> None:
    run = _two_running(flow, begin, pytester, _INTERRUPTIBLE, ignored=[signal.SIGINT])
    run.kill_all(signal.SIGINT)
    time.sleep(0.5)
    assert run.process.poll() is None, "as it would be in a script, behind an &"
    began = time.monotonic()
    run.kill(signal.SIGTERM)

    _check_interrupted(run, log, pytester, asked=False)
    assert time.monotonic() - began < 10 * SLOWER
    assert not processes.after(3.0)
    _resumed(flow, pytester, _UNDONE, *_TWO)


# ---- S1: what tasks leave behind -------------------------------------------------------------------------------------


def test_S1_15_a_thread_is_left_in_a_worker(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import threading

        def flow_one():
            threading.Thread(target=threading.Event().wait, name="forgotten").start()

        def flow_two(one):
            pass
    """
    began = time.monotonic()
    result = flow(source, *_TWO, "-v", timeout=30)

    assert result.ret == _OK
    assert time.monotonic() - began < 8 * SLOWER
    assert "forgotten" in result.stdout.str() + result.stderr.str()
    _resumed(flow, pytester, [])


def test_S1_16_a_child_process_is_left(flow: Flow, pytester: pytest.Pytester, processes: Processes) -> None:
    source = """
        import subprocess, sys

        def flow_one():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)

        def flow_two(one):
            pass
    """
    began = time.monotonic()
    result = flow(source, *_TWO, "-v", timeout=30)

    assert result.ret == _OK
    assert time.monotonic() - began < 12 * SLOWER
    _resumed(flow, pytester, [])
    processes.kill()


def test_S1_17_a_worker_hangs_at_its_exit(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import atexit, time

        def flow_one():
            atexit.register(time.sleep, 1e6)

        def flow_two(one):
            pass
    """
    began = time.monotonic()
    result = flow(source, *_TWO, "-v", timeout=30)

    assert result.ret == _OK
    assert time.monotonic() - began < 15 * SLOWER
    _resumed(flow, pytester, [])


def test_S1_18_a_task_closes_all_files(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os

        def flow_one():
            if not os.path.exists("ready"):
                os.closerange(3, 256)

        def flow_after(one):
            pass

        def flow_other():
            return 1

        def flow_next(other):
            return 2
    """
    result = flow(source, *_TWO, "-v", timeout=40)

    assert result.ret == _FAILED
    assert states_in(pytester) == {"one": "crashed", "after": "blocked", "other": "success", "next": "success"}
    _resumed(flow, pytester, ["after", "one"], *_TWO)


def test_S1_23_a_task_that_prints_very_much(flow: Flow) -> None:
    files = {
        "conftest.py": """
            import os, re

            def pytest_unconfigure(config):
                if "PYTEST_XDIST_WORKER" not in os.environ:
                    # Not ru_maxrss, in which that of the process stays that has started this one.
                    with open("/proc/self/status") as status:
                        print("MEMORY", int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) // 1024)
        """,
        "flow_it.py": """
            def flow_loud():
                print("begin of it")
                for _ in range(1600):
                    print("x" * 65535)
                print("end of it")
                assert False

            def flow_loud_and_good():
                for _ in range(1600):
                    print("x" * 65535)
        """,
    }
    result = flow(files, *_TWO)

    assert result.ret == _FAILED
    text = result.stdout.str()
    assert "begin of it" in text
    assert "end of it" in text
    assert re.search(r"104\.\d MB dropped", text)
    assert len(text) < 1_000_000
    memory = int(text.rpartition("MEMORY")[2].split()[0])
    assert memory < 120


# ---- S2 --------------------------------------------------------------------------------------------------------------


def test_S2_09_what_a_task_changes_about_its_worker(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import os, signal, tempfile
        import pytest

        def flow_changes():
            os.makedirs("gone")
            os.chdir("gone")
            os.rmdir("../gone")
            os.umask(0o777)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.environ["LEFT"] = "behind"
            return 1

        def flow_next(changes):
            assert os.path.exists("flow_it.py")
            return [changes]

        def flow_reads(next, tmp_path):
            assert next == [1]
    """
    result = flow(source, "-n", "1", "-v")

    assert result.ret == _OK, result.stdout.str()
    result.stdout.fnmatch_lines(["changes left the working directory at * it has been set back*"])
    _resumed(flow, pytester, [])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--dist", "loadgroup"), "--dist loadgroup*--dist load"),
        (("--dist", "loadfile"), "--dist loadfile*--dist load"),
        (("--dist", "loadscope"), "--dist loadscope*--dist load"),
        (("--dist", "each"), "--dist each*--dist load"),
        (("--reruns", "2", "-p", "pytest_rerunfailures"), "--reruns*--ff-retries"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_S2_11_options_that_are_refused(flow: Flow, args: Sequence[str], says: str) -> None:
    result = flow("def flow_one(): pass", *_TWO, *args)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"ERROR: *{says}*"])


_SOME = """
    import os
    from log import log

    def flow_one():
        log("one")

    def flow_bad(one):
        log("bad")
        assert os.path.exists("ready")

    def flow_more(bad):
        log("more")

    def flow_slow(one):
        log("slow")
"""


@pytest.mark.parametrize(
    "way", [("--dist", "worksteal"), ("--dist", "load"), ("-p", "randomly")], ids=lambda way: way[1]
)
def test_S2_11_options_that_change_nothing(flow: Flow, log: Log, pytester: pytest.Pytester, way: Sequence[str]) -> None:
    # Under the name by which pytest-randomly looks for it.
    pytester.makeconftest("def pytest_addoption(pluginmanager): pluginmanager.register(object(), 'xdist')")
    result = flow(_SOME, *_TWO, *way, "-v")

    assert result.ret == _FAILED
    assert sorted(log()) == ["bad", "one", "slow"]
    _resumed(flow, pytester, ["bad", "more"], *_TWO, *way)


def test_S2_11_the_first_failure_ends_the_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = """
        import os
        import pytest
        from log import log

        def flow_bad():
            assert os.path.exists("ready")

        @pytest.mark.parametrize("number", range(5))
        def flow_many(number, bad):
            log("many")

        @pytest.mark.depends_on("bad", when="all_done")
        def flow_late():
            log("late")

        @pytest.mark.depends_on("late")
        def flow_later():
            log("later")
    """
    result = flow(source, *_TWO, "-x", "-v")

    assert result.ret in {_FAILED, _INTERRUPTED}
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert "later" not in log()
    assert states_in(pytester)["bad"] == "failed"
    make_ready(pytester)
    assert flow({}, *_TWO, "--ff-resume").ret == _OK


def test_S2_11_the_last_failures(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_SOME, *_TWO)
    log()
    make_ready(pytester)

    result = flow({}, *_TWO, "--lf", "-v")

    assert result.ret == _OK
    assert sorted({name for name, word in words(result) if word == "PASSED"} | set(log())) == ["bad", "more", "one"]


def test_a_worker_that_takes_long_to_get_ready_loses_no_orders(flow: Flow, pytester: pytest.Pytester) -> None:
    conftest = """
        import os, time
        from pytest_flowforge.plugin import desk

        def pytest_configure(config):
            if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
                make = desk.Desk.__init__

                def make_slowly(self, *args):
                    # Longer than orders may lie around while another worker is idle.
                    time.sleep(2)
                    make(self, *args)

                desk.Desk.__init__ = make_slowly
    """
    result = flow({"conftest.py": conftest, "flow_it.py": "def flow_a(): ...\ndef flow_b(a): ..."}, *_TWO, timeout=30)

    assert result.ret == _OK
    assert ran_in(pytester) == ["a", "b"]
