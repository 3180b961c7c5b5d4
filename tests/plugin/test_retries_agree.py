"""Trying again, on every executor: what is shown of each attempt, who has the slot meanwhile, and when it ends."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pytest_flowforge.core.retry import RetryPolicy
from tests.plugin.keeping import journal_of, records_in
from tests.plugin.test_executors_agree import ends, kind

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow
    from tests.plugin.test_executors_agree import Kind, Log

__all__ = ["kind"]

_OK, _FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED


def one_at_a_time(kind: Kind) -> tuple[str, ...]:
    """The options of *kind*, with one slot."""
    return tuple("1" if option in ("2", "4") else option for option in kind.options)


def status_of(flow: Flow) -> dict[str, dict[str, Any]]:
    result = flow({}, "--ff-status", "--ff-format", "json", flowforge=False)
    return {task["id"].partition("::flow_")[2]: task for task in json.loads(result.stdout.str())["tasks"]}


#: ``attempt("x")`` says how often it was called with that name, whatever the process.
_ATTEMPTS = """
    from pathlib import Path

    def attempt(name):
        folder = Path("attempts", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(len(list(folder.iterdir())))).touch()
        return len(list(folder.iterdir()))
"""

# ---- what is shown ---------------------------------------------------------------------------------------------------

_TALKATIVE = """
    import logging
    import sys
    import pytest
    from attempts import attempt

    @pytest.fixture
    def noted(record_property):
        number = attempt("fixture")
        record_property("number", number)
        print(f"<set-up {number}>")
        yield number
        print(f"<teardown {number}>")

    @pytest.mark.retry(2)
    def flow_flaky(noted):
        print(f"<out {noted}>")
        print(f"<err {noted}>", file=sys.stderr)
        logging.getLogger("flaky").warning("<log %d>", noted)
        if noted < 3:
            raise OSError(f"<flaky {noted}>")

    @pytest.mark.depends_on("flaky")
    @pytest.mark.retry(2)
    def flow_hopeless():
        number = attempt("hopeless")
        print(f"<hopeless out {number}>")
        raise ValueError(f"<hopeless {number}>")
"""


def _sections(shown: str, title: str) -> dict[str, list[str]]:
    """What stands in angle brackets under the heads of the section *title*, by head."""
    section = re.search(rf"^=+ {title} =+$\n(.*?)(?:^==|\Z)", shown, re.MULTILINE | re.DOTALL)
    parts = re.split(r"^_+ (.*) _+$\n", section[1], flags=re.MULTILINE)[1:] if section else []
    # The line of the source has braces in its text.
    return {head: re.findall(r"<[a-z -]+\d>", text) for head, text in zip(parts[::2], parts[1::2], strict=True)}


def test_every_attempt_is_shown_with_its_own_error_and_output(
    kind: Kind, flow: Flow, pytester: pytest.Pytester
) -> None:
    files = {"attempts.py": _ATTEMPTS, "flow_it.py": _TALKATIVE}

    result = flow(
        files, "-v", "--junitxml=junit.xml", "-o", "junit_logging=all", "-o", "junit_family=xunit1", "-x", *kind.options
    )

    assert result.ret == _FAILED
    assert ends(result) == {"flaky": ["RETRY", "RETRY", "PASSED"], "hopeless": ["RETRY", "RETRY", "FAILED"]}
    assert result.parseoutcomes() == {"passed": 1, "failed": 1, "retried": 4}
    shown = result.stdout.str()
    flaky = {
        f"flow_flaky (attempt {n})": {
            *(f"<{what} {n}>" for what in ("set-up", "teardown", "out", "err", "log", "flaky")),
        }
        for n in (1, 2)
    }
    hopeless = {f"flow_hopeless (attempt {n})": {f"<hopeless out {n}>", f"<hopeless {n}>"} for n in (1, 2)}
    assert {head: set(found) for head, found in _sections(shown, "RETRIES").items()} == {**flaky, **hopeless}
    # The failure that counts names the others, and has none of their output.
    failures = _sections(shown, "FAILURES")
    assert set(failures["flow_hopeless"]) == {"<hopeless out 3>", *(f"<hopeless {n}>" for n in (1, 2, 3))}
    result.stdout.fnmatch_lines(
        ["*- Earlier attempts -*", "attempt 1: ValueError: <hopeless 1>", "attempt 2: ValueError: <hopeless 2>"]
    )
    # In JUnit there is the last attempt alone.
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    cases = {case.get("name"): case for case in suite}
    assert len(suite) == len(cases) == 2
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    case = cases["flow_flaky"]
    properties = [(one.get("name"), one.get("value")) for one in case.iter("property")]
    assert properties[:3] == [("number", "3"), ("flowforge_state", "success"), ("flowforge_attempts", "3")]
    assert set(re.findall(r"<[a-z -]+\d>", "".join(case.itertext()))) == {
        f"<{what} 3>" for what in ("set-up", "teardown", "out", "err", "log")
    }
    # And later, of what was kept.
    assert status_of(flow)["hopeless"]["earlier_attempts"] == [
        {"reason": f"ValueError: <hopeless {n}>", "seconds": pytest.approx(0, abs=60)} for n in (1, 2)
    ]
    status = flow({}, "--ff-status", "-v", flowforge=False)
    status.stdout.re_match_lines(
        [
            r"  success +flaky +3 attempts",
            r"    attempt 1  [\d.]+ s  OSError: <flaky 1>",
            r"    attempt 2  [\d.]+ s  OSError: <flaky 2>",
            r"  failed +hopeless +3 attempts +[\d.]+ s +ValueError: <hopeless 3>",
            r"    attempt 1 ",
        ]
    )
    assert "attempt 1" not in flow({}, "--ff-status", flowforge=False).stdout.str()


def test_attempts_that_others_followed_make_the_terminal_obey_nothing(flow: Flow) -> None:
    source = """
        from pathlib import Path
        import pytest

        @pytest.mark.retry(1)
        @pytest.mark.parametrize("name", ["\\x1b[2J"])
        def flow_once(name, request):
            request.node.add_report_section("call", "\\x1b]0;section\\x07", "text \\x1b[2J")
            print("out \\x1b]0;title\\x07 \\x1b[31mred\\x1b[0m")
            if not Path("tried").exists():
                Path("tried").touch()
                raise OSError("error \\x1b]0;title\\x07 \\x1b[2J")
    """
    result = flow(source, "-vv", "--color=yes")

    assert result.ret == _OK
    shown = result.stdout.str()
    assert not re.findall(r"\x1b(?!\[[\d;]*m)", shown)
    assert r"error \x1b]0;title\x07 \x1b[2J" in shown
    assert "out \\x1b]0;title\\x07 \x1b[31mred\x1b[0m" in shown


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ([], False),
        (["-rR"], True),
        (["-rA"], True),
        (["-q", "-rR"], True),
        (["-v", "--tb=no"], False),
        (["-v", "--tb=line"], True),
        (["-v", "--show-capture=no"], True),
    ],
    ids=str,
)
def test_who_sees_the_attempts_that_others_followed(flow: Flow, options: list[str], *, seen: bool) -> None:
    result = flow({"attempts.py": _ATTEMPTS, "flow_it.py": _TALKATIVE}, *options, "-k", "flaky")

    assert result.ret == _OK
    found = _sections(result.stdout.str(), "RETRIES")
    assert bool(found) is seen
    if seen:
        assert [*found] == ["flow_flaky (attempt 1)", "flow_flaky (attempt 2)"]
        assert "<flaky 1>" in found["flow_flaky (attempt 1)"]
        plain = not {"--tb=line", "--show-capture=no"} & {*options}
        assert ("<out 1>" in found["flow_flaky (attempt 1)"]) is plain


# ---- the slot, and what else an attempt is ---------------------------------------------------------------------------


def test_while_a_task_waits_others_have_its_slot(kind: Kind, flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from attempts import attempt
        from log import log

        @pytest.mark.priority(1)
        @pytest.mark.retry(1, delay=2.5)
        def flow_flaky():
            number = attempt("flaky")
            log(f"flaky {number}")
            assert number == 2

        @pytest.mark.parametrize("number", range(4))
        def flow_other(number):
            log("other")
    """
    result = flow({"attempts.py": _ATTEMPTS, "flow_it.py": source}, "-x", *one_at_a_time(kind))

    assert result.ret == _OK
    assert result.parseoutcomes() == {"passed": 5, "retried": 1}
    lines = log()
    # All of them, unless they take longer than it waits.
    assert lines[:2] == ["flaky 1", "other"]
    assert sorted(lines) == ["flaky 1", "flaky 2", *["other"] * 4]


def test_a_crash_is_an_attempt(kind: Kind, flow: Flow, pytester: pytest.Pytester) -> None:
    if kind.shares_memory:
        pytest.skip("it ends the run there")
    source = """
        import os
        import pytest
        from attempts import attempt

        @pytest.mark.retry(2)
        def flow_dies():
            if attempt("dies") < 3:
                os._exit(1)

        @pytest.mark.retry(3, on=(OSError,))
        def flow_is_not_asked_for():
            if attempt("is_not_asked_for") == 1:
                os._exit(1)
    """
    # One after the other: a pool that breaks takes all that is in it along.
    result = flow({"attempts.py": _ATTEMPTS, "flow_it.py": source}, "-v", "-rR", *one_at_a_time(kind))

    assert result.ret == _FAILED
    assert ends(result) == {"dies": ["RETRY", "RETRY", "PASSED"], "is_not_asked_for": ["FAILED"]}
    moves = [
        (record["try"], record["state"])
        for record in records_in(journal_of(pytester))
        if "dies" in record.get("task", "") and "state" in record
    ]
    assert moves == [(1, "retrying"), (2, "retrying"), (3, "success")]
    assert set(_sections(result.stdout.str(), "RETRIES")) == {"flow_dies (attempt 1)", "flow_dies (attempt 2)"}


def test_a_time_out_is_an_attempt(kind: Kind, flow: Flow) -> None:
    if kind.needs != "concurrent.futures" or kind.name == "pool":
        pytest.skip("a pool of processes is ended with what else is in it")
    source = """
        import time
        import pytest
        from attempts import attempt

        @pytest.mark.retry(1)
        @pytest.mark.timeout(1)
        def flow_slow():
            if attempt("slow") == 1:
                time.sleep(20)
    """
    result = flow({"attempts.py": _ATTEMPTS, "flow_it.py": source}, "-v", *kind.options)

    assert ends(result) == {"slow": ["RETRY", "PASSED"]}
    (earlier,) = status_of(flow)["slow"]["earlier_attempts"]
    assert "1" in earlier["reason"]
    assert "imeout" in earlier["reason"] or "timed out" in earlier["reason"]


# ---- waits -----------------------------------------------------------------------------------------------------------

_DELAYS = """
    from log import log

    def pytest_flowforge_task_retrying(task, attempt, delay):
        log(f"{task.label} {attempt} {delay:.6f}")
"""

_JITTERY = """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.retry(2, delay=0.01, backoff=2, jitter=1.0)
    def flow_busy(number):
        raise OSError("busy")
"""


def _waits(seed: str) -> dict[str, Any]:
    policy = RetryPolicy(2, delay=0.01, backoff=2.0, jitter=1.0)
    return {
        f"busy[{number}] {retry}": pytest.approx(
            policy.seconds_before(retry, f"{seed}/flow_it.py::flow_busy[{number}]"), abs=1e-5
        )
        for number in (1, 2)
        for retry in (1, 2)
    }


def _waited(lines: list[str]) -> dict[str, float]:
    parts = [line.rpartition(" ") for line in lines]
    return {which: float(seconds) for which, _, seconds in parts}


def test_the_same_seed_makes_the_same_waits(kind: Kind, flow: Flow, log: Log) -> None:
    files = {"flow_it.py": _JITTERY, "conftest.py": _DELAYS}

    first = flow(files, *kind.options)
    (seed,) = re.findall(r"^flowforge: jitter of retries: --ff-seed=([0-9a-f]{8})$", first.stdout.str(), re.MULTILINE)
    waits = _waited(log())
    assert waits == _waits(seed)
    assert f"seed {seed}" in flow({}, "--ff-status", flowforge=False).stdout.str()

    again = flow({}, f"--ff-seed={seed}", *kind.options)
    assert _waited(log()) == _waits(seed)
    again.stdout.fnmatch_lines([f"flowforge: jitter of retries: --ff-seed={seed}"])

    flow({}, "-o", "flowforge_seed=ours", *kind.options)
    assert _waited(log()) == _waits("ours")
    assert waits != _waits("ours")


def test_each_run_has_a_seed_of_its_own(flow: Flow, log: Log) -> None:
    files = {"flow_it.py": _JITTERY, "conftest.py": _DELAYS}
    waits = []
    for _ in range(2):
        result = flow(files, "-q")
        assert "--ff-seed" not in result.stdout.str()
        waits.append(log())
    assert waits[0] != waits[1]
    assert "--ff-seed" not in flow({"flow_it.py": "def flow_it(): ..."}).stdout.str()


_STRATEGIES = """
    import pytest

    def after(attempt):
        return attempt / 100

    class Wait:
        def __call__(self, attempt):
            return 0.03

    def raises(attempt):
        raise ValueError("no idea")

    def leaves(attempt):
        raise SystemExit(3)

    def fails(attempt):
        pytest.fail("no idea either")

    def words(attempt):
        return "soon"

    def never(attempt):
        return float("inf")

    def nothing(): ...

    for name, delay in [*globals().items()]:
        if name in {"after", "raises", "leaves", "fails", "words", "never", "nothing", "Wait"}:
            def fail():
                raise OSError("busy")
            delay = delay() if name == "Wait" else delay
            globals()[f"flow_{name}"] = pytest.mark.retry(2, delay=delay, max_delay=5)(fail)

    def flow_last(): ...
"""


def test_a_function_may_say_how_long(kind: Kind, flow: Flow, log: Log) -> None:
    result = flow({"flow_it.py": _STRATEGIES, "conftest.py": _DELAYS}, *kind.options)

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"failed": 8, "passed": 1, "retried": 16}
    sound = {"after 1 0.010000", "after 2 0.020000", "Wait 1 0.030000", "Wait 2 0.030000"}
    odd = {
        f"{name} {n} 0.000000" for name in ("raises", "leaves", "fails", "words", "never", "nothing") for n in (1, 2)
    }
    assert set(log()) == sound | odd
    # Each that is no good is named, and once.
    told = re.findall(r"^(retry\(delay=.*); tried again without a wait: (\w+)$", result.stdout.str(), re.MULTILINE)
    assert {task: text for text, task in told} == {
        "raises": "retry(delay=raises) raised ValueError: no idea",
        "leaves": "retry(delay=leaves) raised SystemExit: 3",
        "fails": "retry(delay=fails) raised Failed: no idea either",
        "words": "retry(delay=words) returned 'soon', which is no number of seconds",
        "never": "retry(delay=never) returned inf, which is no number of seconds",
        "nothing": "retry(delay=nothing) raised TypeError: nothing() takes 0 positional arguments but 1 was given",
    }
    assert len(told) == 6


def test_a_wait_object_of_tenacity_says_how_long(kind: Kind, flow: Flow, log: Log) -> None:
    pytest.importorskip("tenacity")
    source = """
        import pytest
        from tenacity import wait_chain, wait_exponential, wait_fixed

        @pytest.mark.retry(3, delay=wait_exponential(multiplier=0.01, max=0.03))
        def flow_growing():
            raise OSError("busy")

        @pytest.mark.retry(3, delay=wait_chain(wait_fixed(0.01), wait_fixed(0.02)) + wait_fixed(0.005))
        def flow_chained():
            raise OSError("busy")
    """
    result = flow({"flow_it.py": source, "conftest.py": _DELAYS}, *kind.options)

    assert result.parseoutcomes() == {"failed": 2, "retried": 6}
    growing = [f"growing {n} {wait:.6f}" for n, wait in enumerate([0.01, 0.02, 0.03], 1)]
    chained = [f"chained {n} {wait:.6f}" for n, wait in enumerate([0.015, 0.025, 0.025], 1)]
    assert sorted(log()) == sorted(growing + chained)


# ---- enough is enough: S1-28 ----------------------------------------------------------------------------------------

_STORM = """
    import pytest
    from log import log

    @pytest.mark.parametrize("number", range(40))
    @pytest.mark.retry(5, delay=0.5)
    def flow_storm(number):
        log("storm")
        raise OSError("the service is down")

    @pytest.mark.parametrize("number", range(10))
    def flow_calm(number):
        log("calm")

    @pytest.mark.depends_on("storm[3]", when="any_failed")
    def flow_alarm(upstream):
        log(upstream["storm[3]"].reason)
"""


@pytest.mark.parametrize("way", ["option", "ini"])
def test_a_run_gives_so_many_retries_and_no_more(kind: Kind, flow: Flow, log: Log, way: str) -> None:
    limit = ["--ff-max-retries-total", "25"] if way == "option" else ["-o", "flowforge_max_retries_total=25"]
    if way == "ini" and kind.name != "local":
        pytest.skip("it is read once, wherever tasks run")

    result = flow(_STORM, *limit, *kind.options)

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"failed": 40, "retried": 25, "passed": 11}
    lines = Counter(log())
    assert (lines.pop("storm"), lines.pop("calm")) == (65, 10)
    because = "OSError: the service is down"
    denied = f"{because} (not tried again: the 25 retries of the run are used up)"
    assert set(lines) == {denied}
    assert {task["reason"] for name, task in status_of(flow).items() if "storm" in name} == {denied}
    result.stdout.fnmatch_lines(
        ["not tried again, because the retries of the run (--ff-max-retries-total) are used up: storm* and 32 more"]
    )


def test_no_retry_at_all(flow: Flow, log: Log) -> None:
    result = flow(_STORM, "--ff-max-retries-total", "0")

    assert result.parseoutcomes() == {"failed": 40, "passed": 11}
    assert log().count("storm") == 40


def test_what_was_kept_for_a_retry_that_there_is_none_left_for_is_given_up(kind: Kind, flow: Flow, log: Log) -> None:
    files = {
        "flow_a.py": """
            import pytest
            from log import log

            @pytest.fixture(scope="module")
            def server():
                log("+ server")
                yield
                log("- server")

            @pytest.mark.retry(1)
            def flow_a(server):
                raise OSError("busy")
        """,
        "flow_b.py": """
            import pytest
            from log import log

            @pytest.mark.depends_on("flow_a.py::a", when="all_done")
            def flow_b():
                log("b")
        """,
    }
    result = flow(files, "--ff-max-retries-total", "0", *one_at_a_time(kind))

    assert result.parseoutcomes() == {"failed": 1, "passed": 1}
    assert log() == ["+ server", "- server", "b"]


def test_of_two_that_end_together_one_gets_the_last_retry(flow: Flow, log: Log) -> None:
    fails = """
        import time
        from pathlib import Path
        import pytest
        from log import log

        @pytest.fixture(scope="module")
        def server():
            log("+ {name}")
            yield
            log("- {name}")

        @pytest.mark.retry(1)
        def flow_{name}(server):
            log("{name}")
            Path("{name}").touch()
            raise OSError("busy")
    """
    holds = """
        import time
        from pathlib import Path
        import pytest
        from log import log

        @pytest.fixture
        def main_thread_is_busy():
            until = time.monotonic() + 20
            while not (Path("a").exists() and Path("b").exists()):
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(0.3)

        def flow_c(main_thread_is_busy): ...

        @pytest.mark.depends_on("c", "flow_a.py::a", "flow_b.py::b", when="all_done")
        def flow_d():
            log("d")
    """
    files = {"flow_a.py": fails.format(name="a"), "flow_b.py": fails.format(name="b"), "flow_c.py": holds}

    options = ("--ff-executor", "thread", "--ff-workers", "3")
    result = flow(files, "--ff-max-retries-total", "1", *options)

    assert result.parseoutcomes() == {"failed": 2, "retried": 1, "passed": 2}
    lines = log()
    assert lines.index("- a") < lines.index("d")
    assert lines.index("- b") < lines.index("d")
    assert [lines.count(line) for line in ("+ a", "- a", "+ b", "- b")] == [1, 1, 1, 1]
    assert sorted([lines.count("a"), lines.count("b")]) == [1, 2]


# ---- what can not be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ff-retries", "-1"], "--ff-retries: '-1' is no number of retries; give 0 or more"),
        (["--ff-retries", "many"], "--ff-retries: 'many' is no number of retries"),
        (["-o", "flowforge_retries=2.5"], "ini flowforge_retries: '2.5' is no number of retries"),
        (["--ff-max-retries-total", ""], "--ff-max-retries-total: '' is no number of retries"),
        (["--ff-max-retries-total", "9" * 5000], "--ff-max-retries-total: '999*' is no number of retries"),
        (["-o", "flowforge_max_retries_total=x"], "ini flowforge_max_retries_total: 'x' is no number of retries"),
        (["--ff-seed", "x" * 101], "--ff-seed * is too long"),
    ],
)
def test_numbers_that_can_not_be_meant(flow: Flow, options: list[str], text: str) -> None:
    result = flow("def flow_it(): ...", *options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {text}*"])


@pytest.mark.parametrize("options", [["--ff-seed", "1"], ["--ff-max-retries-total", "1"]], ids=" ".join)
def test_options_that_need_flows(flow: Flow, options: list[str]) -> None:
    result = flow({"test_it.py": "def test_it(): ..."}, *options, flowforge=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {options[0]} is about flows*"])
