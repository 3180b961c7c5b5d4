"""When calls begin, and return, that other processes of this machine make: they write it into memory both have open.

This needs ``/proc``. Elsewhere nothing is told, and whoever waits for a call goes by when it was handed over.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path

__all__ = ["START", "Starts", "address_of", "memory", "tell_return", "tell_start"]

#: When something happened, by the monotonic clock, which is the same in all processes of a machine.
START = struct.Struct("<d")


class Starts:
    """When calls have begun, and returned, that other processes make."""

    def __init__(self) -> None:
        self._file = memory()
        self._number = 0

    @property
    def are_told(self) -> bool:
        """Whether there is any place where that could be told."""
        return self._file is not None

    def new(self) -> tuple[str, int] | None:
        """Where one more call is to tell that it begins, and that it returns."""
        if self._file is None:
            return None
        self._number += 1
        return address_of(self._file), self._number * 2 * START.size

    def of(self, place: tuple[str, int] | None) -> float:
        """When the call has begun that tells it there, by the monotonic clock; 0 if it has not, or does not tell."""
        return self._read(place, 0)

    def returned(self, place: tuple[str, int] | None) -> float:
        """When the call has returned that tells it there; 0 if it has not, or does not tell."""
        return self._read(place, START.size)

    def _read(self, place: tuple[str, int] | None, beyond: int) -> float:
        if place is None or self._file is None:
            return 0.0
        found = os.pread(self._file, START.size, place[1] + beyond)
        return float(START.unpack(found)[0]) if len(found) == START.size else 0.0

    def close(self) -> None:
        """Give the memory back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def memory() -> int | None:
    """Memory that other processes can open, as a file; None where there is no such thing."""
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.memfd_create("flowforge")
    except OSError:
        return None


def address_of(file: int) -> str:
    """Where other processes find *file*."""
    return f"/proc/{os.getpid()}/fd/{file}"


def tell_start(file: str, place: int) -> None:
    """Tell that a call begins now, at that *place* of *file*, if that can be opened here."""
    _tell(file, place)


def tell_return(file: str, place: int) -> None:
    """Tell that the call has returned that has told its begin at that *place* of *file*."""
    _tell(file, place + START.size)


def _tell(file: str, place: int) -> None:
    # On another machine it is not there, and somebody guesses.
    with contextlib.suppress(OSError):
        opened = os.open(file, os.O_WRONLY)
        try:
            os.pwrite(opened, START.pack(time.monotonic()), place)
        finally:
            os.close(opened)
