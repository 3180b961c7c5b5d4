"""What workers write down for a controller that can not ask them, and the time limits of calls made elsewhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.call_limits import CallLimits
from pytest_flowforge.core.model import TaskId
from pytest_flowforge.executors.calls import pack, perform
from pytest_flowforge.plugin.boards import Board, WorkersBoard, readable
from pytest_flowforge.plugin.bodies import Body
from pytest_flowforge.starts import Starts, tell_return, tell_start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_flowforge.ports import Key

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is shared through /proc")


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.make()
    assert board is not None
    yield board
    board.close()


@needs_proc
def test_whose_time_runs_and_since_when(board: Board) -> None:
    worker = WorkersBoard(board.address)
    assert board.read() is None
    worker.is_about(7, 2)
    assert board.read() is None, "that alone takes no time"
    before = time.monotonic()
    worker.begins(60.0)
    entry = board.read()
    assert entry is not None
    assert entry[:2] == (7, 2)
    assert before <= entry.since <= time.monotonic()
    assert worker.ends() == 0
    assert board.read() is None


@needs_proc
def test_where_a_process_stands_that_keeps_its_interpreter_to_itself(board: Board, tmp_path: Path) -> None:
    source = f"""
import threading, time
from collections import deque
from itertools import repeat
from pytest_flowforge.plugin.boards import WorkersBoard

def stuck():
    deque(repeat(0), maxlen=0)

here = threading.Event()

def beside():
    here.set()
    time.sleep(300)

worker = WorkersBoard({board.address!r})
threading.Thread(target=beside, daemon=True).start()
# Once the interpreter is kept from it, it comes nowhere.
here.wait()
worker.is_about(1, 1)
worker.begins(1.0)
stuck()
"""
    # Elsewhere, so that it imports what is installed and not what lies beside the tests.
    process = subprocess.Popen([sys.executable, "-c", source], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        while board.read() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        # On a busy machine it may take it longer to answer than the run would wait.
        while "in stuck" not in board.stacks(process.pid):
            assert time.monotonic() < deadline
        while "in beside" not in board.stacks(process.pid):
            assert time.monotonic() < deadline, "it can be asked again"
    finally:
        process.kill()
        process.wait(10)
    assert board.stacks(process.pid) == ""


def test_without_a_board_nothing_is_written() -> None:
    for address in (None, "/nowhere/at/all"):
        worker = WorkersBoard(address)
        worker.is_about(1, 1)
        worker.begins(1.0)
        worker.is_told()
        worker.again()
        worker.rest()
        assert worker.ends() == 0


def test_stacks_are_shown_as_python_does_without_what_is_no_tasks() -> None:
    dump = """Thread 0x00007f0000000001 (most recent call first):
  File "/x/site-packages/execnet/gateway_base.py", line 10 in read
  File "/x/lib/threading.py", line 20 in run

Thread 0x00007f0000000002 (most recent call first):
  File "/flows/flow_a.py", line 30 in helper
  File "/x/lib/threading.py", line 20 in run

Current thread 0x00007f0000000003 (most recent call first):
  File "/flows/flow_a.py", line 2 in inner
  File "/flows/flow_a.py", line 1 in flow_a
  File "/x/pytest_flowforge/plugin/pytest_internals.py", line 3 in call
  File "/x/site-packages/_pytest/runner.py", line 4 in main
"""
    assert readable(dump) == (
        "another thread:\n"
        '  File "/x/lib/threading.py", line 20, in run\n'
        '  File "/flows/flow_a.py", line 30, in helper\n'
        '  File "/flows/flow_a.py", line 1, in flow_a\n'
        '  File "/flows/flow_a.py", line 2, in inner\n'
    )
    assert readable("") == readable("nothing of the kind\n") == ""


def test_stacks_have_the_names_that_files_and_functions_have(tmp_path: Path) -> None:
    flow = tmp_path / "flow_ü_\N{SNOWMAN}_\N{PILE OF POO}.py"
    flow.write_text("first = 1\nsecond = 2\n", encoding="utf-8")
    # As faulthandler writes it.
    name = ascii(str(flow))[1:-1]
    dump = f'Current thread 0x00007f0000000003 (most recent call first):\n  File "{name}", line 2 in flow_gr\\xfcn\n'
    assert readable(dump) == f'  File "{flow}", line 2, in flow_grün\n    second = 2\n'
    # What is not to be shown stays as it was written.
    dump = r"""Thread 0x00007f0000000003 (most recent call first):
  File "/\x1b[2J\udcff\U00110000.py", line 2 in \x7f
"""
    assert readable(dump) == '  File "/\\x1b[2J\\udcff\\U00110000.py", line 2, in \\x7f\n'


@needs_proc
def test_calls_tell_when_they_begin() -> None:
    starts = Starts()
    first, second = starts.new(), starts.new()
    assert first != second
    assert starts.of(first) == starts.of(second) == 0.0
    before = time.monotonic()
    perform(pack(os.getpid, {}), second)
    assert before <= starts.of(second) <= time.monotonic()
    assert starts.of(second) <= starts.returned(second) <= time.monotonic()
    assert starts.of(first) == starts.returned(first) == 0.0
    perform(pack(os.getpid, {}), ("/nowhere/at/all", 8))
    starts.close()
    assert starts.new() is None
    assert starts.of(second) == 0.0


# ---- limits of calls -------------------------------------------------------------------------------------------------


def _key(name: str) -> Key:
    return TaskId(name), 1


def test_limits_of_calls_are_over_in_their_order_and_said_once() -> None:
    begun: set[Key] = set()
    limits = CallLimits(begun.__contains__)
    now = time.monotonic()
    bodies = {name: Body(print, {}) for name in "abcd"}
    for name, seconds in (("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 40.0)):
        limits.add(_key(name), seconds, bodies[name], now)
        bodies[name].start = time.time()
    # A machine that stalls in between makes it later.
    assert limits.next_due() == pytest.approx(now + 10, abs=4)
    assert limits.overdue(now, ()) == []
    # What has ended is not given up on, and what is gone has no limit.
    limits.pop(_key("c"))
    assert limits.overdue(now + 35, {_key("b")}) == [(_key("a"), 30.0)]
    assert limits.next_due() == pytest.approx(now + 40, abs=4)
    assert limits.overdue(now + 35, ()) == []
    limits.pop(_key("d"))
    assert limits.next_due() == math.inf
    limits.close()


@needs_proc
def test_the_time_of_a_call_ends_when_it_has_returned() -> None:
    limits = CallLimits(lambda _: True)
    now = time.monotonic()
    quick, late = Body(print, {}), Body(print, {})
    limits.add(_key("quick"), 10.0, quick, now)
    limits.add(_key("late"), 0.0, late, now)
    for body in (quick, late):
        assert body.tell is not None
        tell_start(*body.tell)
        time.sleep(0.01)
        tell_return(*body.tell)
    # What becomes of the value may take any time.
    assert limits.overdue(now + 50, ()) == [(_key("late"), 0.0)]
    assert limits.next_due() == math.inf
    limits.close()


def test_the_time_of_a_call_runs_when_it_has_begun() -> None:
    limits = CallLimits(lambda _: False)
    now = time.monotonic()
    late, waits = Body(print, {}), Body(print, {})
    limits.add(_key("late"), 10.0, late)
    limits.add(_key("waits"), 10.0, waits, now)
    late.start = time.time() + 50
    assert limits.overdue(now + 30, ()) == []
    # The one that waits is looked at again, from then on.
    assert limits.next_due() == pytest.approx(now + 40, abs=1)
    waits.start = time.time()
    assert limits.overdue(now + 45, ()) == [(_key("waits"), 10.0)]
    assert limits.overdue(now + 55, ()) == []
    assert limits.overdue(now + 65, ()) == [(_key("late"), 10.0)]
    limits.close()
