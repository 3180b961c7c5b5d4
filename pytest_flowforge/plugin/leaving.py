"""The end of the process: what tasks have left running does not keep a run from ending that is over.

Python waits for threads that are no daemons, and for whatever was registered to be done at exit, without any limit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Leaving"]

#: Seconds that threads have to end once the run has; xdist waits for a worker for ten.
_PATIENCE, _OF_A_WORKER = 5.0, 2.0

#: Seconds for what is to be done at exit, which may be worth something: an upload, say.
_AT_EXIT = 60.0


class Leaving:
    """A plugin that ends the process when pytest has and Python does not. ``tell`` takes sentences for people.

    Where pytest was called by another program, that is left alone.
    """

    def __init__(self, config: pytest.Config, tell: Callable[[str], None], *, is_worker: bool) -> None:
        self._tell = tell
        self._is_worker = is_worker
        self._ours = set(threading.enumerate())
        self._session: pytest.Session | None = None
        if is_worker or _is_program():
            # Done after all that other plugins have to do.
            config.add_cleanup(self._leave)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._session = session
        for thread in self._left():
            self._tell(f"a task has left a thread running: {thread.name}{_place_of(thread)}; nobody waits for its end")

    def _left(self) -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if not thread.daemon and thread not in self._ours and thread is not threading.main_thread()
        ]

    def _leave(self) -> None:
        left = self._left()
        if self._session is not None and (left or not self._is_worker):
            status = 0 if self._is_worker else int(self._session.exitstatus)
            threading.Thread(target=self._watch, args=(left, status), name="flowforge-leaving", daemon=True).start()

    def _watch(self, left: list[threading.Thread], status: int) -> None:
        until = time.monotonic() + (_OF_A_WORKER if self._is_worker else _PATIENCE)
        for thread in left:
            thread.join(max(until - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in left):
            if self._is_worker:
                return
            # Most likely this thread is gone before that.
            time.sleep(_AT_EXIT)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def _is_program() -> bool:
    """Whether this process is there for pytest alone."""
    path = Path(sys.argv[0])
    return path.stem in ("pytest", "py.test") or (path.stem == "__main__" and path.parent.name == "pytest")


def _place_of(thread: threading.Thread) -> str:
    """Where *thread* stands, in parentheses; empty when it does not any more."""
    # The one way to look at another thread.
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename == threading.__file__ and frame.f_back is not None:
        if frame.f_code.co_name == "run":
            break
        frame = frame.f_back
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else ""
