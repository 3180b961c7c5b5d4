"""What a worker is at just now, for a controller that can not ask it: it may be stuck, or stopped.

A board is a piece of memory that both have open. The worker writes there which attempt's time runs and since when,
which costs a system call; the controller reads it when it would have to end the worker. The rest of it is for where the
threads of the worker stand: they write that themselves, by :mod:`faulthandler`, when the controller asks by a signal,
whatever they are at.

This needs ``/proc``. Elsewhere there are no boards, and the controller goes by what it has sent and when.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import struct
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pytest_flowforge.plugin.limits import Watch, is_in
from pytest_flowforge.starts import address_of, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Board", "Entry", "WorkersBoard", "readable"]

#: A task by its place in the list that both sides have, the number of the attempt, and since when its time runs (by
#: the monotonic clock, which is the same in all processes of a machine); 0 when no time runs.
_ENTRY = struct.Struct("<qqd")

#: Where the stacks begin.
_STACKS = 64

#: Asks for the stacks: one that nobody else uses, most likely.
_ASK: int | None = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else None

#: Seconds that the stacks may take, and between two looks at whether they are there.
_PATIENCE, _LOOK = 1.0, 0.02

_MOST_BYTES = 256 * 1024


class Entry(NamedTuple):
    """Whose time runs, and since when."""

    place: int
    attempt: int
    since: float


class Board:
    """The controller's side of a board, made for one worker."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def make(cls) -> Board | None:
        """A new board; None where there can be none."""
        file = memory()
        if file is not None:
            os.ftruncate(file, _STACKS)
        return None if file is None else cls(file)

    @property
    def address(self) -> str:
        """Where the worker finds it."""
        return address_of(self._file)

    def read(self) -> Entry | None:
        """Whose time runs; None when nobody's does."""
        entry = Entry(*_ENTRY.unpack(os.pread(self._file, _ENTRY.size, 0)))
        return entry if entry.since else None

    def stacks(self, process: int) -> str:
        """Where the threads of the worker, which is *process*, stand now; empty when they do not say so soon."""
        if _ASK is None:
            return ""
        begin = size = os.fstat(self._file).st_size
        with suppress(OSError):
            os.kill(process, _ASK)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            time.sleep(_LOOK)
            before, size = size, os.fstat(self._file).st_size
            if begin < before == size:
                break
        return readable(os.pread(self._file, min(size - begin, _MOST_BYTES), begin).decode("utf-8", "replace"))

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._file)


class WorkersBoard(Watch):
    """The worker's side; nothing is written where there is no board at *address*."""

    is_elsewhere = True

    def __init__(self, address: str | None) -> None:
        self._file: int | None = None
        self._place = self._attempt = 0
        if address is None:
            return
        with suppress(OSError, RuntimeError, ValueError):
            self._file = os.open(address, os.O_RDWR | os.O_CLOEXEC)
            if _ASK is not None:
                stacks = os.open(address, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                faulthandler.register(_ASK, file=stacks, all_threads=True)

    def is_about(self, place: int, attempt: int) -> None:
        """What begins next is that attempt."""
        self._place, self._attempt = place, attempt

    def begins(self, seconds: float) -> None:  # noqa: ARG002 - the controller knows
        self._write(time.monotonic())

    def is_told(self) -> None: ...

    def ends(self) -> float:
        self._write(0.0)
        return 0.0

    def rest(self) -> None: ...

    def again(self) -> None: ...

    def _write(self, since: float) -> None:
        if self._file is not None:
            # A task may have closed all files.
            with suppress(OSError):
                os.pwrite(self._file, _ENTRY.pack(self._place, self._attempt, since), 0)


# Stacks.

_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)")
_STEP = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
#: A character that is none of ASCII: faulthandler writes no others.
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})")

#: Files whose threads belong to no task, and where the way of a task to its function begins.
_NO_TASKS = ("execnet/", "xdist/")
_BELOW = ("_pytest/", "pluggy/", "pytest_flowforge/")


def readable(dump: str) -> str:
    """What :mod:`faulthandler` has written, as Python shows stacks: outermost first, with the lines of the source.

    Threads and frames that belong to no task are left out; the thread that a task runs on comes last.
    """
    stacks = [steps for steps in _threads(dump) if steps]
    texts = [f"another thread:\n{''.join(traceback.StackSummary.from_list(steps).format())}" for steps in stacks[:-1]]
    if stacks:
        texts.append("".join(traceback.StackSummary.from_list(stacks[-1]).format()))
    return "".join(texts)


def _threads(dump: str) -> Iterator[list[traceback.FrameSummary]]:
    """Yield the frames of each thread, outermost first; the main thread is the last, as faulthandler has it."""
    threads: list[list[traceback.FrameSummary]] = []
    for line in dump.splitlines():
        step = _STEP.match(line)
        if _THREAD.match(line):
            threads.append([])
        elif step and threads:
            file, number, name = step.groups()
            threads[-1].append(traceback.FrameSummary(_unescaped(file), int(number), _unescaped(name)))
    for place, frames in enumerate(threads):
        is_main = place == len(threads) - 1
        if not is_main and any(is_in(frame.filename, (*_NO_TASKS, *_BELOW)) for frame in frames):
            continue
        ours = next((index for index, frame in enumerate(frames) if is_in(frame.filename, _BELOW)), len(frames))
        yield list(reversed(frames[:ours] or frames[:1]))


def _unescaped(text: str) -> str:
    """*text* with the characters that were escaped there; a terminal is given none that it would obey."""

    def character(escaped: re.Match[str]) -> str:
        found = chr(int(escaped[0].lstrip("\\xuU"), 16))
        return found if found.isprintable() and not found.isascii() else escaped[0]

    return _ESCAPED.sub(character, text)
