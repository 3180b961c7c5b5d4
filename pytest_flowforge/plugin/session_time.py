"""The time limit of a whole session, which is that of pytest-timeout (``--session-timeout``).

pytest-timeout looks at it between tests, and a task that hangs is one test. Here a thread looks at it: the run is
interrupted as by Ctrl-C, what is clean-up gets a second chance of bounded length, and whatever hangs even then is ended
with the process.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_flowforge.plugin.pytest_internals import is_debugging, session_limit

if TYPE_CHECKING:
    import pytest

    from pytest_flowforge.core.engine import Engine
    from pytest_flowforge.interrupts import Interrupts

__all__ = ["SessionTime"]

#: Seconds after the second chance in which an interrupted session comes to its end.
_AT_LAST = 5.0

#: Exit status of a session whose time is up.
_FAILED = 1


class SessionTime:
    """Watches the time of the session of *config*; to be made while standard error is not captured.

    Clean-up has *grace* seconds. The run, which *engine* decides about, is stopped through *interrupts*.
    """

    def __init__(self, config: pytest.Config, grace: float, interrupts: Interrupts, engine: Engine) -> None:
        self._seconds, at = session_limit(config)
        self._at = at - time.time() + time.monotonic()
        self._grace = grace
        self._interrupts = interrupts
        self._engine = engine
        self._config = config
        self._over = threading.Event()
        self._runs = False
        # A task may have put something else there by the time they are needed.
        self._exit, self._write = os._exit, os.write

    @property
    def _reason(self) -> str:
        return f"session-timeout: {self._seconds} sec exceeded"

    def start(self, patience: float) -> None:
        """Watch until the end of the session, if it has a limit; what is interrupted has *patience* seconds to end."""
        option = self._config.option
        if not self._seconds or option.usepdb or option.trace:
            return
        # Clean-up starts after that.
        self._grace += patience
        self._errors = os.dup(2)
        self._config.add_cleanup(self._end)
        threading.Thread(target=self._watch, name="flowforge-session-time", daemon=True).start()

    def is_up(self) -> str:
        """Return why the run must not even begin, empty if it may; it begins now, and can be interrupted."""
        if self._runs or not self._seconds:
            return ""
        self._runs = True
        return self._reason if time.monotonic() >= self._at else ""

    def run_is_over(self) -> None:
        """There is nothing to be interrupted any more."""
        self._runs = False

    def _end(self) -> None:
        self._over.set()
        with suppress(OSError):
            os.close(self._errors)

    def _watch(self) -> None:
        if self._is_over_by(self._at):
            return
        if self._runs and not self._engine.stopped and not self._engine.lost:
            self._interrupts.time_is_up(self._reason)
        if self._is_over_by(self._at + self._grace):
            return
        if self._runs:
            self._interrupts.time_is_up(self._reason)
        if self._is_over_by(self._at + self._grace + _AT_LAST):
            return
        text = f"\nflowforge: {self._reason}, and something still hangs: the session is cut off here\n"
        with suppress(OSError):
            self._write(self._errors, text.encode())
        with suppress(OSError, ValueError, RuntimeError):
            faulthandler.dump_traceback(self._errors)
        self._exit(_FAILED)

    def _is_over_by(self, at: float) -> bool:
        """Wait until *at*; return whether the session has ended, or nobody is in a hurry any more."""
        return self._over.wait(max(at - time.monotonic(), 0.0)) or is_debugging()
