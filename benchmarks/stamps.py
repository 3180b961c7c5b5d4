"""When tasks began and ended, as they write it down themselves.

A makespan is the time from the begin of the first task to the end of the last: start-up, collection and what comes
after the tasks are not in it, and what lies between two tasks is. Each task adds one line to a file when it ends, which
takes it about 20 microseconds; all processes of a machine read the same clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: The name of the file, beside the file with the tasks.
STAMPS = "stamps.txt"

#: What a file with tasks begins with: ``begun = time.time()`` is to be a task's first line, ``stamp(begun)`` its last
#: but for a return.
PRELUDE = f"""\
import asyncio
import os
import time
from pathlib import Path

_FILE = str(Path(__file__).with_name({STAMPS!r}))


def stamp(begun):
    ended = time.time()
    # Opened here: this function may have travelled. One write, so that lines of several processes do not mix.
    file = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{{begun!r}} {{ended!r}} {{os.getpid()}}\\n".encode("ascii"))
    os.close(file)


def sleep(seconds):
    begun = time.time()
    time.sleep(seconds)
    stamp(begun)


def spin(seconds):
    # Seconds of this process, not of the wall: what others take of the processor is not in them.
    begun, until = time.time(), time.process_time() + seconds
    while time.process_time() < until:
        pass
    stamp(begun)


async def doze(seconds):
    begun = time.time()
    await asyncio.sleep(seconds)
    stamp(begun)
"""


@dataclass(frozen=True, slots=True)
class Stamps:
    """When the first task began, when the last one ended, how many there were, in how many processes."""

    begun: float
    ended: float
    tasks: int
    processes: int

    @property
    def makespan(self) -> float:
        return self.ended - self.begun


def forget(folder: Path) -> None:
    """Remove the stamps of earlier runs from *folder*."""
    (folder / STAMPS).unlink(missing_ok=True)


def read(folder: Path, tasks: int) -> Stamps:
    """Return the stamps of the last run in *folder*; exit unless each of *tasks* has left one."""
    lines = [line.split() for line in (folder / STAMPS).read_text(encoding="ascii").splitlines()]
    if len(lines) != tasks:
        msg = f"{len(lines)} tasks have ended, not {tasks}"
        raise SystemExit(msg)
    return Stamps(
        min(float(line[0]) for line in lines),
        max(float(line[1]) for line in lines),
        len(lines),
        len({line[2] for line in lines}),
    )
