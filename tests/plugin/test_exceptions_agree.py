"""Whatever a task raises: its attempt ends in one state with one message, on every executor, and the run goes on.

One run for each executor has all rows of the table. pytest.exit is not among them: by pytest's own rule it ends the run
(see ``test_a_task_may_end_the_run``).
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING

import pluggy
import pytest

from tests.plugin.test_executors_agree import kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow
    from tests.plugin.test_executors_agree import Kind

__all__ = ["kind"]


@dataclass(frozen=True)
class Row:
    """A task, by its body, and how it ends everywhere."""

    name: str
    body: str
    #: The message; one that ends in dots is only the beginning.
    message: str = ""
    state: str = "failed"
    #: What stands above the function: marks.
    marks: str = ""
    attempts: int = 1
    arguments: str = ""
    #: Whether it is a coroutine.
    is_async: bool = False


_AGAIN = "@pytest.mark.retry(1, on=(OSError,))"

#: pluggy carries exceptions through generators; before 1.6 that turned this one into another.
_OLD_PLUGGY = tuple(map(int, pluggy.__version__.split(".")[:2])) < (1, 6)
_STOPPED = "RuntimeError: generator raised StopIteration" if _OLD_PLUGGY else "StopIteration: over"

_ROWS = [
    # Exceptions that mean something to Python or to pytest.
    Row("exit", "raise SystemExit(3)", "SystemExit: 3"),
    Row("exit_well", "sys.exit(0)", "SystemExit: 0"),
    Row("exit_text", 'sys.exit("bye")', "SystemExit: bye"),
    Row("interrupt", "raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    Row("interrupt_text", 'raise KeyboardInterrupt("mine")', "raised KeyboardInterrupt: mine"),
    Row("async_interrupt", "raise KeyboardInterrupt", "raised KeyboardInterrupt", is_async=True),
    Row("generator_exit", "raise GeneratorExit", "GeneratorExit"),
    Row("stop_iteration", 'raise StopIteration("over")', _STOPPED),
    Row("cancelled", "raise asyncio.CancelledError", "CancelledError"),
    Row("future_cancelled", "raise concurrent.futures.CancelledError", "CancelledError"),
    Row("broken_pool", 'raise concurrent.futures.BrokenExecutor("mine")', "BrokenExecutor: mine"),
    Row("recursion", "def dive(): dive()\ndive()", "RecursionError: maximum recursion depth exceeded..."),
    Row("memory", "raise MemoryError", "MemoryError"),
    Row("no_memory", "bytearray(1 << 62)", "MemoryError"),
    Row("base", 'raise BaseException("base")', "BaseException: base"),
    Row("fail", 'pytest.fail("on purpose")', "on purpose"),
    Row("skip", 'pytest.skip("not today")', "not today", "skipped"),
    Row("xfail", 'pytest.xfail("known")', "known", "failed"),
    Row("async_exit", "raise SystemExit(3)", "SystemExit: 3", is_async=True),
    Row("async_generator_exit", "raise GeneratorExit", "GeneratorExit", is_async=True),
    Row("set_up_exits", "...", "SystemExit: 4 (in setup)", arguments="exits_before"),
    Row("teardown_exits", "...", "SystemExit: 5 (in teardown)", arguments="exits_after"),
    # Exceptions that can not travel, or not as they are.
    Row("locked", 'raise Locked("locked up")', "Locked: locked up", marks=_AGAIN, attempts=2),
    Row("locked_argument", "raise LockedArgument(threading.Lock())", "LockedArgument: <unlocked _thread.lock ..."),
    Row("local", 'class Local(OSError): ...\nraise Local("mine")', "Local: mine", marks=_AGAIN, attempts=2),
    Row(
        "local_and_locked",
        'held = threading.Lock()\nclass Local(OSError):\n    lock = held\nraise Local("mine")',
        "Local: mine",
        marks=_AGAIN,
        attempts=2,
    ),
    Row("required", 'raise Required("db", 7)', "Required: db:7", marks=_AGAIN, attempts=2),
    Row("required_by_name", 'raise Named(host="db")', "Named: db"),
    Row("not_reduced", 'raise NotReduced("no")', "NotReduced: no", marks=_AGAIN, attempts=2),
    Row("exits_reduced", 'raise ExitsReduced("no")', "ExitsReduced: no", marks=_AGAIN, attempts=2),
    Row("not_restored", 'error = NotRestored("no")\nerror.more = 1\nraise error', "NotRestored: no"),
    # Exceptions whose own methods raise (S2-4).
    *(
        Row(f"str_{how.lower()}", f"raise Str{how}", f"Str{how}: <str() of Str{how} raised {how}>")
        for how in ("RuntimeError", "SystemExit", "KeyboardInterrupt")
    ),
    *(
        Row(f"repr_{how.lower()}", f'raise Repr{how}("odd")', f"Repr{how}: odd")
        for how in ("RuntimeError", "SystemExit", "KeyboardInterrupt")
    ),
    # Texts.
    Row("no_text", "raise ValueError", "ValueError"),
    Row("surrogate", r'raise ValueError("\ud800 lone")', "ValueError: \ud800 lone"),
    Row("controls", r'raise ValueError("\x1b[2J\x00 red")', "ValueError: \x1b[2J\x00 red"),
    Row("huge", 'raise ValueError("x" * 10_000_000)', f"ValueError: {'x' * 285}..."),
    Row("many_lines", r'raise ValueError("y\n" * 5_000_000)', "ValueError: y"),
    Row("huge_exit", 'sys.exit("z" * 10_000_000)', f"SystemExit: {'z' * 285}..."),
    Row("huge_odd", "raise Long", f"Long: {'w' * 291}..."),
    Row("huge_fail", 'pytest.fail("v" * 10_000_000, pytrace=False)', f"{'v' * 297}..."),
    Row("huge_skip", 'pytest.skip("u" * 10_000_000)', f"{'u' * 297}...", "skipped"),
    Row("huge_operands", "assert list(range(300_000)) == list(range(1, 300_001))", "AssertionError: assert ..."),
    Row("huge_texts", 'assert "a" * 3_000_000 == "b" * 3_000_000', "AssertionError: assert ..."),
    # Chains (S1-22).
    Row("causes", 'raise chained(4000, "__cause__")', "ValueError: 4000"),
    Row("contexts", 'raise chained(4000, "__context__")', "ValueError: 4000"),
    Row("circle", 'raise circle("a", "b", "c")', "ValueError: a"),
    # The recursion limit (S1-25).
    Row("lower", 'sys.setrecursionlimit(60)\nraise RuntimeError("low")', "RuntimeError: low"),
    Row("lower_and_well", "sys.setrecursionlimit(90)", state="success"),
    Row("higher", "sys.setrecursionlimit(5000)", state="success"),
    Row(
        "after_limits",
        "assert sys.getrecursionlimit() == 1000\ndef dive(n):\n    return n and dive(n - 1)\ndive(500)",
        state="success",
        marks='@pytest.mark.depends_on("lower", "lower_and_well", "higher", when="all_done")',
    ),
    # Warnings that a mark makes errors, in each attempt.
    Row(
        "warning",
        'warnings.warn("careful")',
        "UserWarning: careful",
        marks='@pytest.mark.filterwarnings("error")\n@pytest.mark.retry(1)',
        attempts=2,
    ),
    Row(
        "other_warning",
        'warnings.warn("careful")',
        state="success",
        marks='@pytest.mark.filterwarnings("error::DeprecationWarning")',
    ),
    Row(
        "no_warning",
        'warnings.warn("hidden")',
        state="success",
        marks='@pytest.mark.filterwarnings("ignore:hid:UserWarning")',
    ),
]

_GROUPS = [
    Row(
        "group",
        'raise ExceptionGroup("all", [OSError("a"), Required("db", 7)])',
        "ExceptionGroup: all (2 sub-exceptions)",
        marks=_AGAIN,
        attempts=2,
    ),
    Row(
        "mixed_group",
        'raise ExceptionGroup("both", [OSError("a"), ExceptionGroup("in", [ValueError("b")])])',
        "ExceptionGroup: both (2 sub-exceptions)",
        marks=_AGAIN,
    ),
    Row(
        "exempt_group",
        'raise ExceptionGroup("both", [OSError("a"), KeyError("b")])',
        "ExceptionGroup: both (2 sub-exceptions)",
        marks="@pytest.mark.retry(1, not_on=(KeyError,))",
    ),
    Row("exit_group", 'raise BaseExceptionGroup("one", [SystemExit(1)])', "BaseExceptionGroup: one (1 sub-exception)"),
    Row(
        "task_group",
        "async with asyncio.TaskGroup() as group:\n    group.create_task(busy())",
        "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)",
        marks=_AGAIN,
        attempts=2,
        is_async=True,
    ),
    Row("deep_group", "raise nested(3000)", "ExceptionGroup: 2999 (1 sub-exception)", marks=_AGAIN, attempts=2),
    Row(
        "wide_group",
        'raise ExceptionGroup("wide", [OSError(number) for number in range(20_000)])',
        "ExceptionGroup: wide (20000 sub-exceptions)",
    ),
]

_HEAD = """
import asyncio
import concurrent.futures
import sys
import threading
import warnings

import pytest

class Locked(OSError):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()

class LockedArgument(Exception): ...

class Required(OSError):
    def __init__(self, host, port):
        super().__init__(f"{host}:{port}")

class Named(Exception):
    def __init__(self, *, host):
        super().__init__(host)

class NotReduced(OSError):
    def __reduce__(self):
        raise RuntimeError("not reduced")

class ExitsReduced(OSError):
    def __reduce__(self):
        raise SystemExit(9)

class NotRestored(Exception):
    def __setstate__(self, state):
        raise RuntimeError("not restored")

class Long(Exception):
    def __str__(self):
        return "w" * 10_000_000

def odd(name, method, error):
    def raises(self):
        raise error("from a method")
    globals()[name] = type(name, (Exception,), {method: raises, "__module__": __name__})

for error in (RuntimeError, SystemExit, KeyboardInterrupt):
    odd(f"Str{error.__name__}", "__str__", error)
    odd(f"Repr{error.__name__}", "__repr__", error)

def chained(length, how):
    error = ValueError("0")
    for number in range(length):
        after = ValueError(str(number + 1))
        setattr(after, how, error)
        error = after
    return error

def circle(*names):
    errors = [ValueError(name) for name in names]
    for place, error in enumerate(errors):
        error.__cause__ = errors[place - 1]
    return errors[0]

def nested(depth):
    error = OSError("deep down")
    for number in range(depth):
        error = ExceptionGroup(str(number), [error])
    return error

async def busy():
    raise OSError("busy")

@pytest.fixture
def exits_before():
    raise SystemExit(4)

@pytest.fixture
def exits_after():
    yield
    raise SystemExit(5)

"""

_TAIL = """
@pytest.mark.depends_on(*TASKS, when="all_done")
def flow_at_last():
    return "the run went on"
"""

#: Each process tells how much memory it had at most, in MB.
_LISTENER = """
    import os
    from pathlib import Path

    def pytest_unconfigure():
        status = Path("/proc/self/status")
        if status.exists():
            most = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            Path(f"memory-{os.getpid()}").write_text(str(int(most.split()[1]) // 1024))
"""


def _source(rows: list[Row]) -> str:
    functions = [
        f"{row.marks}\n{'async ' * row.is_async}def flow_{row.name}({row.arguments}):\n{indent(row.body, '    ')}\n"
        for row in rows
    ]
    return "\n".join([_HEAD, *functions, f"TASKS = {[row.name for row in rows]}", _TAIL])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
def test_what_tasks_raise(kind: Kind, flow: Flow, pytester: pytest.Pytester) -> None:
    rows = _ROWS + (_GROUPS if sys.version_info >= (3, 11) else [])
    files = {"flow_it.py": _source(rows), "conftest.py": _LISTENER}

    result = flow(files, "-v", *kind.options, timeout=240)

    assert result.ret == pytest.ExitCode.TESTS_FAILED, result.stdout.str()[-5000:]
    status = flow({}, "--ff-status", "--ff-format", "json", flowforge=False)
    tasks = {task["id"].partition("::flow_")[2]: task for task in json.loads(status.stdout.str())["tasks"]}
    assert tasks.pop("at_last")["state"] == "success"
    found = {name: (task["state"], task["reason"], task["attempts"]) for name, task in tasks.items()}
    expected = {row.name: (row.state, _as_far(row.message, found[row.name][1]), row.attempts) for row in rows}
    assert found == expected

    shown = result.stdout.str()
    assert len(shown) < 12_000_000, "reports have a size that can be borne"
    for row in rows:
        if row.state == "failed" and row.name != "xfail":
            assert re.search(rf"^_+ (ERROR at \w+ of )?flow_{row.name} _+$", shown, re.MULTILINE), "it is shown"
    most = [int(path.read_text()) for path in pytester.path.glob("memory-*")]
    assert all(memory < _MOST_MEMORY for memory in most), f"megabytes at most: {most}"


#: Megabytes. What is raised is held once or twice, and what is shown of it is small; the rest is Python and pytest.
_MOST_MEMORY = 300


def _as_far(message: str, found: str) -> str:
    """The message that is expected; what was *found*, if it begins with one that is only a beginning."""
    is_beginning = message.endswith("...") and len(message) < 300 and found.startswith(message[:-3])
    return found if is_beginning else message


def _chain_of(shown: str, task: str) -> list[str]:
    """The lines of errors in the failure of *task*."""
    failure = re.search(rf"^_+ flow_{task} _+$\n(.*?)(?:^_{{5}}|\Z)", shown, re.MULTILINE | re.DOTALL)
    assert failure
    return re.findall(r"^(?:E +)?((?:pytest_flowforge\.failures\.)?\w+: .*)$", failure[1], re.MULTILINE)


def test_a_long_chain_loses_its_middle(kind: Kind, flow: Flow) -> None:
    rows = [row for row in _ROWS if row.name in ("causes", "contexts", "circle", "no_text")]

    shown = flow(_source(rows), *kind.options).stdout.str()

    for task in ("causes", "contexts"):
        # Before pytest 9, one that was never raised is shown with its whole chain.
        errors = list(dict.fromkeys(_chain_of(shown, task)))
        # The oldest first.
        numbers = [int(line.rpartition(" ")[2].replace(",", "")) for line in errors if "ValueError" in line]
        assert numbers[:10] == list(range(10))
        assert numbers[10:] == list(range(4001 - len(numbers) + 10, 4001))
        assert len(numbers) < 50
        assert [line for line in errors if "not shown" in line] == [
            f"pytest_flowforge.failures.Elided: exceptions not shown: {4001 - len(numbers):,}"
        ]
    assert {"ValueError: a", "ValueError: b", "ValueError: c"} <= set(_chain_of(shown, "circle"))


_WARNS = """
    import warnings
    import pytest
    from log import log

    def flow_warns():
        warnings.warn("careful")

    @pytest.mark.depends_on("warns", when="all_done")
    def flow_after(upstream):
        log(getattr(upstream["warns"], "error", "none"))
"""


def test_warnings_as_errors(kind: Kind, flow: Flow, log: Callable[[], list[str]]) -> None:
    result = flow(_WARNS, "-W", "error:careful", *kind.options)

    assert result.parseoutcomes() == {"failed": 1, "passed": 1}
    assert log() == ["UserWarning: careful"]
    assert flow({}, "-W", "error:something else", *kind.options).parseoutcomes() == {"passed": 2, "warnings": 1}
