"""The status line: there while somebody looks at a run, and in nobody's way."""

from __future__ import annotations

import re
import sys
from textwrap import dedent
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import pytest

if sys.platform == "win32":
    pytest.skip("there are no such terminals", allow_module_level=True)

from pytest_flowforge.plugin.terminal_internals import _column_after
from tests.plugin.terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.plugin.conftest import Flow

_HOLD = """
    import time
    from pathlib import Path

    import pytest

    def wait_for(name):
        until = time.monotonic() + 50
        while not Path(name).exists():
            assert time.monotonic() < until
            time.sleep(0.01)

    def flow_a(): ...

    def flow_bad():
        raise ValueError("boom")

    def flow_hold(a):
        wait_for("go")

    def flow_last(hold): ...
"""

_HELD = r"2/4, 1 failed \| hold \d+s"


_ENVIRON: Mapping[str, str] = MappingProxyType({})


class Run(Protocol):
    def __call__(
        self, source: str, *args: str, columns: int = 80, environ: Mapping[str, str] = _ENVIRON
    ) -> Terminal: ...


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    terminals = []

    def run(source: str, *args: str, columns: int = 80, environ: Mapping[str, str] = _ENVIRON) -> Terminal:
        pytester.path.joinpath("flow_it.py").write_text(dedent(source), encoding="utf-8")
        terminals.append(Terminal(pytester.path, *args, columns=columns, environ=environ))
        return terminals[-1]

    yield run
    for terminal in terminals:
        terminal.close()


def go(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("go").touch()


def without_times(lines: list[str], *, ordered: bool = True) -> list[str]:
    if not ordered:
        # What is above depends on how fast workers are, and on who has what.
        start = next(place for place, line in enumerate(lines) if "FAILURES" in line)
        lines = [line for line in lines[start:] if not line.startswith("[gw")]
    lines = [re.sub(r"=*( [\w ,]+ in )[\d.]+s =*", r"\1", line) for line in lines]
    return [re.sub(r"\([\d.]+s\) *", "(#s) ", line) for line in lines]


def shows(terminal: Terminal, pattern: str) -> list[str]:
    return terminal.wait(lambda lines: re.fullmatch(pattern, lines[-1]))


@pytest.mark.parametrize(
    "args",
    [(), ("-v",), ("--ff-executor", "thread"), ("-n", "2"), ("--color=no",)],
    ids=["dots", "lines", "thread", "process", "without colours"],
)
def test_it_says_what_is_done_and_what_runs_and_leaves_nothing_behind(
    run: Run, pytester: pytest.Pytester, args: tuple[str, ...]
) -> None:
    terminal = run(_HOLD, *args)
    shows(terminal, _HELD)
    shows(terminal, r"2/4, 1 failed \| hold [1-9]\d*s")
    go(pytester)
    assert terminal.end() == pytest.ExitCode.TESTS_FAILED
    seen = terminal.lines()

    # The same again where no such line is shown.
    plain = run(_HOLD, *args, environ={"CI": "true"})
    plain.end()
    assert b"\x1b[J" not in plain.raw
    ordered = not {"thread", "-n"} & {*args}
    assert without_times(seen, ordered=ordered) == without_times(plain.lines(), ordered=ordered)


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        (("-q",), {}),
        (("-s",), {}),
        (("--capture=sys",), {}),
        (("--capture=tee-sys",), {}),
        (("--pdb",), {}),
        (("-o", "console_output_style=classic"), {}),
        ((), {"CI": "1"}),
        ((), {"BUILD_NUMBER": "7"}),
        ((), {"TERM": "dumb"}),
    ],
    ids=[
        "quiet",
        "output is not captured",
        "sys",
        "tee-sys",
        "debugger",
        "classic",
        "CI",
        "build",
        "a terminal that can not",
    ],
)
def test_nobody_gets_it_who_does_not_want_it(run: Run, args: tuple[str, ...], environ: dict[str, str]) -> None:
    terminal = run("import time\ndef flow_a(): time.sleep(0.3)", *args, environ=environ)

    assert terminal.end() == pytest.ExitCode.OK
    assert b"\x1b[J" not in terminal.raw


def test_there_is_none_in_a_pipe(flow: Flow) -> None:
    assert "\x1b" not in flow("import time\ndef flow_a(): time.sleep(0.3)").stdout.str()


def test_a_full_line_of_dots_is_what_it_was(run: Run) -> None:
    source = """
        import time
        import pytest

        @pytest.mark.parametrize("n", range(90))
        def flow_a(n):
            time.sleep(0.02)
    """
    terminal = run(source, columns=30)
    terminal.end()
    assert terminal.raw.count(b"\x1b[J") > 5
    plain = run(source, columns=30, environ={"CI": "1"})
    plain.end()
    assert without_times(terminal.lines()) == without_times(plain.lines())


def test_it_fits_a_terminal_that_becomes_narrow(run: Run, pytester: pytest.Pytester) -> None:
    terminal = run(_HOLD)
    shows(terminal, _HELD)
    terminal.resize(16)
    shows(terminal, r"2/4, 1 failed \|?")
    go(pytester)
    terminal.end()
    assert not any("hold" in line and "|" in line for line in terminal.lines())


def test_how_long_it_will_take_is_told_from_the_run_before(run: Run, pytester: pytest.Pytester) -> None:
    source = _HOLD.replace('raise ValueError("boom")', "...").replace("def flow_last(hold): ...", "")
    source += "\n    def flow_last(hold):\n        time.sleep(2)\n        Path('go').unlink()\n"
    go(pytester)
    assert run(source).end() == pytest.ExitCode.OK

    # A machine that stalls makes it some seconds more.
    shows(run(source), r"2/4 \| hold \d+s \| about [1-9]s left")


def test_output_of_tasks_does_not_come_between(run: Run, pytester: pytest.Pytester) -> None:
    source = _HOLD.replace("def flow_a(): ...", "def flow_a():\n        print('\\x1b[2Jgibberish')")
    source = source.replace(
        'wait_for("go")', "print('\\x1b]0;title\\x07 more'); import os; os.system('echo even more'); wait_for('go')"
    )
    terminal = run(source)
    shows(terminal, _HELD)
    assert b"gibberish" not in terminal.raw
    assert b"even more" not in terminal.raw
    go(pytester)
    terminal.end()


def test_an_error_in_drawing_is_nobodys_failure(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_flowforge.plugin import status_line

        real, calls = status_line.status_line, []

        def line(*facts):
            calls.append(facts)
            if len(calls) < 3:
                raise RuntimeError("dictionary changed size during iteration")
            return real(*facts)

        status_line.status_line = line
        """
    )
    terminal = run(_HOLD.replace('raise ValueError("boom")', "..."), "-W", "error")
    shows(terminal, r"2/4 \| hold \d+s")
    go(pytester)
    assert terminal.end() == pytest.ExitCode.OK


def test_ctrl_c_takes_it_away(run: Run) -> None:
    terminal = run(_HOLD)
    shows(terminal, _HELD)
    terminal.type("\x03")
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert not any(re.search(_HELD, line) for line in terminal.lines())


def test_a_debugger_in_a_task_has_the_terminal_for_itself(run: Run) -> None:
    terminal = run("def flow_a():\n    breakpoint()\ndef flow_b(a): ...")
    terminal.wait(lambda lines: lines[-1].startswith("(Pdb)"))
    before = terminal.raw
    terminal.type("p 'se' + 'en'\n")
    terminal.wait(lambda lines: "'seen'" in lines)
    assert b"running" not in terminal.raw[len(before) :]
    terminal.type("c\n")
    assert terminal.end() == pytest.ExitCode.OK


def test_a_task_may_fork(run: Run, pytester: pytest.Pytester) -> None:
    source = """
        import os, time, warnings

        def flow_a():
            # Until the line was seen: who looks late would miss it.
            until = time.monotonic() + 50
            while not os.path.exists("go"):
                assert time.monotonic() < until
                time.sleep(0.01)
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                for _ in range(20):
                    child = os.fork()
                    if not child:
                        os._exit(0)
                    assert os.waitpid(child, 0)[1] == 0
            # From 3.12 on Python knows of threads that are in the way.
            assert not found
            time.sleep(0.3)
    """
    terminal = run(source)
    shows(terminal, r"0/1 \| a \d+s")
    go(pytester)
    assert terminal.end() == pytest.ExitCode.OK
    assert terminal.lines()[-1].count("1 passed") == 1


def test_two_forks_at_a_time_leave_one_thread_that_draws(run: Run) -> None:
    source = """
        import threading
        from pytest_flowforge.plugin import forks

        def flow_a():
            def ours():
                return [thread.name for thread in threading.enumerate() if thread.name == "flowforge-status-line"]
            assert ours() == ["flowforge-status-line"]
            # As they are called when two threads fork at once.
            for call in (forks._before, forks._before, forks._after, forks._after):
                call()
            assert ours() == ["flowforge-status-line"]
    """
    assert run(source).end() == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("abc", 2, 5),
        ("abc\n", 2, 0),
        ("a\nbc\rd", 2, 1),
        ("\x1b[32m.\x1b[0m", 7, 8),
        ("\x1b]9;4;1;50\x1b\\", 7, 7),
        ("", None, None),
        ("a", None, None),
        ("流", 0, 2),
        ("\t", 0, None),
        ("\x1b[3C", 0, None),
        ("\t\nab", 0, 2),
    ],
)
def test_where_the_cursor_is(text: str, before: int | None, after: int | None) -> None:
    assert _column_after(text, before) == after
