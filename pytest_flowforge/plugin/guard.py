"""What a task may do to the process it shares with all others, and how it is put right again.

Only under executors that run tasks in pytest's own process. A task may change the working directory, close stdout or
leave through ``os._exit``: the tasks after it must not notice, and nobody may take a run that was cut off for a
finished one.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Surroundings"]

#: Exit status of a run that a task has cut off: "internal error" in the table of the documentation.
_CUT_OFF = 3


class Surroundings:
    """Keeps the working directory, the standard streams and the way out of the process as they were."""

    def __init__(self) -> None:
        self._folder = os.getcwd()
        self._owner = os.getpid()
        self._exit = os._exit
        #: Streams that can not be closed for now; by id, because a stream may not be hashable.
        self._kept: dict[int, Any] = {}

    def restore(self) -> str:
        """Go back to where the run was started; return where a task had gone instead, or an empty string."""
        try:
            now = os.getcwd()
        except OSError:
            now = "a folder that no longer exists"
        if now == self._folder:
            return ""
        os.chdir(self._folder)
        return now

    @contextmanager
    def during(self, task: str) -> Iterator[None]:
        """Stand by while *task* runs."""
        self._keep_open(sys.stdout)
        self._keep_open(sys.stderr)

        def refuse(status: int) -> NoReturn:
            if os.getpid() == self._owner:
                text = f"\nflowforge: the task {task} called os._exit({status}): the run is cut off here\n"
                with suppress(OSError):
                    # Descriptor 2 may be the capture of pytest, which dies with the process.
                    os.write(_terminal_descriptor(), text.encode("utf-8", "backslashreplace"))
                status = _CUT_OFF
            self._exit(status)

        os._exit = refuse
        try:
            yield
        finally:
            os._exit = self._exit

    def close(self) -> None:
        """Let the streams be closed again."""
        for stream in self._kept.values():
            with suppress(AttributeError):
                del stream.close
        self._kept.clear()

    def _keep_open(self, stream: Any) -> None:
        if id(stream) in self._kept:
            return
        # A stream without attributes of its own can not be protected, and is no stream of pytest's.
        with suppress(AttributeError, TypeError):
            stream.close = _do_nothing
            self._kept[id(stream)] = stream


def _do_nothing() -> None:
    """Stand in for ``close()``."""


def _terminal_descriptor() -> int:
    """The terminal, if there is one: standard error may be captured."""
    try:
        return os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return 2
