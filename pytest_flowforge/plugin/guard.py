"""What a task may do to the process it shares with all others, and how it is put right again.

Only under executors that run tasks in pytest's own process. A task may change the working directory, close stdout or
leave through ``os._exit``: the tasks after it must not notice, and nobody may take a run that was cut off for a
finished one.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FORKED", "Surroundings"]

#: Exit status of a run that a task has cut off: "internal error" in the table of the documentation.
_CUT_OFF = 3

#: Exit status of a child process that a task has forked and that returned from the task: "internal software error".
FORKED = 70


class Surroundings:
    """Keeps the working directory, the standard streams and the way out of the process as they were.

    To be made while standard error is not captured: last words go there. ``cut_off`` is called with the exit status
    before a task takes the process away, on the main thread only. Where the process is not that of the run, it may go
    (``is_run``): somebody else tells what that means.
    """

    def __init__(self, cut_off: Callable[[int], None], *, is_run: bool = True) -> None:
        self._cut_off = cut_off
        self._is_run = is_run
        self._task = ""
        #: A descriptor of our own: 2 belongs to pytest's capture while a task runs, and dies with the process.
        self._errors = os.dup(2)
        self._home = self._started_in = self._calling_in = _folder()
        self._getpid = os.getpid
        self._owner = self._getpid()
        self._exit = os._exit
        #: The recursion limit of before the function of a task was called: what the task sets is its own.
        self.deepest = sys.getrecursionlimit()
        #: Whether tasks are called on other threads, so that nobody knows which of them does what.
        self._several = False
        #: Streams that can not be closed for now; by id, because a stream may not be hashable.
        self._kept: dict[int, Any] = {}

    def enter(self, task: str) -> None:
        """Stand by while *task* runs; it starts where the one before was left."""
        self._task = task
        self._calling_in = self._started_in
        os._exit = self._refuse

    @contextmanager
    def stand_by(self) -> Iterator[None]:
        """Guard the way out of the process while tasks are called on other threads."""
        self._several = True
        os._exit = self._refuse
        set_limit, least = sys.setrecursionlimit, sys.getrecursionlimit()

        def set_no_lower(limit: int, /) -> None:
            # All threads share it, and what decides needs more than some task may think.
            set_limit(max(limit, least))

        sys.setrecursionlimit = set_no_lower
        try:
            yield
        finally:
            self._several = False
            os._exit = self._exit
            sys.setrecursionlimit = set_limit

    def call(self) -> None:
        """The task's fixtures are set up and its function is called next."""
        self._calling_in = _folder()
        self.deepest = sys.getrecursionlimit()

    def keep_streams(self) -> None:
        """Let nobody close the standard streams of this moment: while a task runs these are pytest's capture."""
        self._keep_open(sys.stdout)
        self._keep_open(sys.stderr)

    def returned(self) -> None:
        """The function of a task has returned: a child that it has forked must not go on as if it were us."""
        if self._getpid() != self._owner:
            self._exit(FORKED)

    def leave(self) -> str:
        """The task is over: put right what it changed. Return the folder it had gone to, or an empty string."""
        self._task = ""
        os._exit = self._refuse if self._several else self._exit
        return self._return_home()

    def _refuse(self, status: int) -> NoReturn:
        # A forked child is free to go.
        if self._getpid() == self._owner:
            if self._is_run:
                who = f"the task {self._task}" if self._task else "a task"
                text = f"\nflowforge: {who} called os._exit({status}): the run is cut off here\n"
                with suppress(OSError):
                    os.write(self._errors, text.encode("utf-8", "backslashreplace"))
            if threading.current_thread() is threading.main_thread():
                with suppress(Exception):
                    self._cut_off(status)
            status = _CUT_OFF if self._is_run else status
        self._exit(status)

    def close(self) -> None:
        """Let the streams be closed again."""
        os.close(self._errors)
        for stream in self._kept.values():
            with suppress(AttributeError):
                del stream.close
        self._kept.clear()

    def _return_home(self) -> str:
        now = _folder()
        # A fixture of a wider scope may have gone elsewhere and stay there; a task may not.
        if now in (self._started_in, self._calling_in):
            self._started_in = now
            return ""
        self._started_in = now
        with suppress(OSError):
            os.chdir(self._calling_in or self._home)
            self._started_in = self._calling_in or self._home
        return now or "a folder that no longer exists"

    def _keep_open(self, stream: Any) -> None:
        if id(stream) in self._kept:
            return
        # A stream without attributes of its own can not be protected, and is no stream of pytest's.
        with suppress(AttributeError, TypeError):
            stream.close = _do_nothing
            self._kept[id(stream)] = stream


def _do_nothing() -> None:
    """Stand in for ``close()``."""


def _folder() -> str:
    """The working directory; empty when it no longer exists."""
    try:
        return os.getcwd()  # noqa: PTH109 - asked twice for every task; a Path costs ten times as much
    except OSError:
        return ""
