"""What an attempt takes: processor time and memory, as the operating system counts them.

Imported by processes that make calls, so it needs little. Two readings and a value cost a few microseconds: they are
taken of every attempt, whoever asks.
"""

from __future__ import annotations

import sys
import time
from typing import TypeAlias

from pytest_flowforge.core.model import Measures

__all__ = ["Reading", "of_process", "of_thread", "since", "thread_since"]

#: A moment, processor seconds of the process until then, and the most memory it has had until then (0: not known).
Reading: TypeAlias = tuple[float, float, int]

# Kept here because tasks, and what they leave behind (freezegun), put other clocks in their place.
_now, of_thread = time.perf_counter, time.thread_time

#: What ``ru_maxrss`` counts in.
_UNIT = 1 if sys.platform == "darwin" else 1024


if sys.platform == "win32":

    def of_process() -> Reading:
        """Return a reading of this process, all of its threads together."""
        return _now(), time.process_time(), 0

else:
    import resource

    def of_process() -> Reading:
        """Return a reading of this process, all of its threads together."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return _now(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _UNIT


def since(before: Reading, worker: str = "") -> Measures:
    """Return what an attempt has taken that began with that reading, and had its process to itself.

    What its child processes took is not in it. The peak is not known where the process had been that large before.
    """
    now, cpu, peak = of_process()
    return Measures(worker, now - before[0], max(cpu - before[1], 0.0), peak if peak > before[2] else None)


def thread_since(before: float, worker: str = "") -> Measures:
    """Return what a call has taken that began with that reading of its thread, and shared its process with others.

    How much of the memory is whose nobody can tell.
    """
    return Measures(worker, cpu=max(of_thread() - before, 0.0))
