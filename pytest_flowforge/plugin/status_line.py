"""A line below what pytest prints that says how a run stands, on a terminal that somebody looks at.

It is drawn in place by a thread of its own, also while a task keeps the main thread busy, and is gone before pytest
prints anything: pytest's output is the same with and without it. What is drawn goes to the terminal itself, past the
capturing of output; unless file descriptors are captured, tasks write to the terminal, and there is no such line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from pytest_flowforge.core.messages import Event, TaskMoved
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.plugin import forks
from pytest_flowforge.plugin.terminal_internals import TerminalTap, is_plain_terminal
from pytest_flowforge.report.progress import status_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from pytest_flowforge.core.estimate import Estimate
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.ports import Clock

__all__ = ["StatusLine", "is_wanted"]

#: Seconds from a change to its being drawn, and between two drawings when nothing changes.
_SOON, _REST = 0.1, 1.0

#: Seconds that the thread has to end.
_PATIENCE = 5.0

#: Erases from the cursor to the end of the screen.
_ERASE = "\x1b[J"

_NO_TERMINALS = {"", "dumb", "unknown"}


def is_wanted(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody looks at a terminal that can show such a line, and would like to see it."""
    option = config.option
    # As pytest knows it, and as most services say it.
    if environ.get("CI") or environ.get("BUILD_NUMBER") or environ.get("TERM", "") in _NO_TERMINALS:
        return False
    if sys.platform == "win32" or not is_plain_terminal(config):
        return False
    if option.capture != "fd" or option.usepdb or option.trace or config.get_verbosity() < 0:
        return False
    # Whoever has chosen that does not want to see how far pytest has come.
    return bool(config.getini("console_output_style") != "classic")


class StatusLine:
    """A sink of the run, and a plugin while it goes on; :meth:`open` begins and :meth:`close` ends it.

    ``counts`` is kept up to date by somebody else; ``slots`` returns how many tasks can run now.
    """

    def __init__(
        self,
        config: pytest.Config,
        graph: TaskGraph,
        counts: Mapping[TaskState, int],
        estimate: Estimate,
        slots: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._graph = graph
        self._counts = counts
        self._estimate = estimate
        self._slots = slots
        self._clock = clock
        self._running: dict[str, float] = {}
        #: Held whenever the terminal is written to, and while what is drawn changes.
        self._lock = threading.RLock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        #: Somebody debugs a task.
        self._rests = False
        self._drawn = False
        self._tap = TerminalTap(config, self._clear)
        self._screen: IO[str] | None = None

    def open(self) -> None:
        """Begin to draw."""
        self._screen = os.fdopen(
            os.dup(self._tap.fileno()), "w", encoding=self._tap.encoding, errors="backslashreplace"
        )
        self._tap.open(self._lock)
        forks.register(self)
        self.after_fork()

    def close(self) -> None:
        """Take the line away; from now on nothing is drawn."""
        forks.unregister(self)
        self.before_fork()
        with self._lock:
            self._clear()
        self._tap.close()
        if self._screen is not None:
            with suppress(OSError):
                self._screen.close()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._estimate.apply(event)
            if isinstance(event, TaskMoved):
                if event.after is TaskState.RUNNING:
                    self._running[event.task] = event.at
                else:
                    self._running.pop(event.task, None)
        self._changed.set()

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        with self._lock:
            self._clear()
            self._rests = True

    def pytest_leave_pdb(self) -> None:
        """Draw again."""
        self._rests = False

    # ------------------------------------------------------------------ the thread

    def after_fork(self) -> None:
        """Let there be a thread that draws."""
        with self._lock:
            if self._thread is not None:
                # Two threads have forked at a time.
                return
            self._ended.clear()
            self._thread = threading.Thread(target=self._go_on, name="flowforge-status-line", daemon=True)
            self._thread.start()

    def before_fork(self) -> None:
        """Let there be none, for a while or for good."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            self._changed.set()
            thread.join(_PATIENCE)

    def _go_on(self) -> None:
        # Signals are for the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._ended.is_set():
            self._changed.clear()
            # It is an ornament: neither a terminal that is gone nor anything else is a reason to end a run.
            with suppress(Exception):
                self._draw()
            self._changed.wait(_REST)
            # Much may happen at once.
            self._ended.wait(_SOON)

    # ------------------------------------------------------------------ the terminal

    def _draw(self) -> None:
        with self._lock:
            screen, column = self._screen, self._tap.column
            if screen is None or self._rests or self._ended.is_set() or column is None:
                return
            width = os.get_terminal_size(screen.fileno()).columns
            line = self._line(width - 1)
            if not column:
                screen.write(f"\r{_ERASE}{line}\r")
            elif column % width:
                # Below the line that pytest is at, and back to where it was.
                screen.write(f"\n\r\x1b[2K{line}\x1b[A\r\x1b[{column % width}C")
            else:
                # Nobody can tell in which line the cursor is: when a line is full, terminals differ.
                return
            self._drawn = True
            screen.flush()

    def _line(self, width: int) -> str:
        now = self._clock.now()
        running = [(self._graph[task].label, now - since) for task, since in self._running.items()]  # type: ignore[index]
        return status_line(self._counts, running, self._estimate.remaining(now, self._slots()), width)

    def _clear(self) -> None:
        """Take the line away before somebody writes to the terminal; it comes back soon."""
        if self._drawn and self._screen is not None:
            self._drawn = False
            with suppress(OSError, ValueError):
                self._screen.write(_ERASE)
                self._screen.flush()
            self._changed.set()
