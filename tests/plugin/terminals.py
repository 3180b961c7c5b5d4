"""A terminal in which a test runs pytest and reads what is on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_PLUGINS = "pytest_flowforge.plugin,xdist.plugin,pytest_timeout"

#: Seconds that anything may take.
_PATIENCE = 60.0


class Terminal:
    """Runs ``pytest --flowforge *args`` in *folder*, in a terminal of so many *columns* and 24 rows."""

    def __init__(self, folder: Path, *args: str, columns: int = 80, environ: Mapping[str, str] | None = None) -> None:
        self._screen = pyte.HistoryScreen(columns, 24, history=2000)
        self._stream = pyte.ByteStream(self._screen)
        #: All that was written to it.
        self.raw = b""
        settings = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": _PLUGINS, "TERM": "xterm-256color"}
        self._process, self._file = pty.fork()
        if not self._process:
            # Not left to the other process, which may come to that when this one has looked already.
            _set_size(0, columns)
            os.chdir(folder)
            command = [sys.executable, "-m", "pytest", "--flowforge", *args]
            os.execvpe(sys.executable, command, {**os.environ, **settings, **(environ or {})})  # noqa: S606

    def resize(self, columns: int) -> None:
        """Make the terminal *columns* wide."""
        _set_size(self._file, columns)
        self._screen.resize(24, columns)

    def lines(self) -> list[str]:
        """What is on the screen now, without the empty lines at its end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self._file, text.encode())

    def wait(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Return the lines of the screen as soon as *condition* holds for them."""
        deadline = time.monotonic() + _PATIENCE
        while not condition(self.lines()):
            assert time.monotonic() < deadline, "\n".join(self.lines())
            assert self._read() or condition(self.lines()), "\n".join(self.lines())
        return self.lines()

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        deadline = time.monotonic() + _PATIENCE
        while self._read():
            assert time.monotonic() < deadline, "\n".join(self.lines())
        _, status = os.waitpid(self._process, 0)
        self._process = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End what still runs."""
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        os.close(self._file)

    def _read(self) -> bool:
        """Show what was written since; return whether there may be more."""
        if not select.select([self._file], [], [], 0.05)[0]:
            return True
        try:
            written = os.read(self._file, 1 << 16)
        except OSError:
            return False
        self.raw += written
        self._stream.feed(written)
        return bool(written)


def _set_size(file: int, columns: int) -> None:
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
