"""One run at a time in a store that has no locks: leases.

A lease is an object with a name of its own that says who holds the store. It is written again every ten seconds; one
that was not for a minute is stale, by the times that the store itself gives to objects: clocks of machines are not
compared.

Who wants the store writes a lease first and lists all of them then, and withdraws when there is another one that is
live. Two can not both stay: lists show what was written before (that is so on S3, Google Cloud Storage and Azure), and
of two that write first and list then, the one that lists last has listed after both were written, so it sees the other
one, unless that one has withdrawn. Both may see each other, and both withdraw; then nobody has the store, and nothing
is lost.

Somebody who was not heard of for a minute may live all the same, and write when it wakes up. That is why it looks at
its own lease first, and why what it might still write in between harms nobody: each run writes below its own id.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointLocked, CheckpointUnreachable, LeaseLost
from pytest_flowforge.storage.locks import Holder, numbering

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.storage.objects import Objects

__all__ = ["REFRESH", "STALE", "Lease", "live_runs"]

#: Seconds between two writings of a lease, and until one that is not written is stale.
REFRESH, STALE = 10.0, 60.0

#: Seconds for which nobody can have found it stale; stores may give times in whole seconds.
_TRUSTED = STALE - REFRESH

#: Seconds between two looks at a lease of another run that is waited for.
_PAUSE = 1.0

_FOLDER = "lease"


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, where the system counts those."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """The lease of *holder* (by default this process) for the store in *objects*.

    ``run`` may be set once the run has an id. Threads may share it: one at a time writes it and asks for others.
    """

    def __init__(self, objects: Objects, holder: Holder | None = None, *, clock: Callable[[], float] = _clock) -> None:
        self._objects = objects
        self._clock = clock
        self._name = f"{_FOLDER}/{os.urandom(16).hex()}"
        self._holder = holder or Holder.here("")
        self.run = ""
        self._lock = threading.RLock()
        #: When it was last written with nobody else there; None when it is not held.
        self._written: float | None = None

    def acquire(self, wait: float = 0.0) -> None:
        """Take the store, waiting for at most *wait* seconds for the run that holds it.

        Raises :class:`CheckpointLocked`, which says who that is, and :class:`CheckpointUnreachable`.
        """
        until = time.monotonic() + wait
        while True:
            other = self._try()
            if other is None:
                return
            left = until - time.monotonic()
            if left <= 0:
                msg = (
                    f"another flowforge run ({other}) uses the checkpoint {self._objects.url}: wait for it with"
                    " --ff-wait, or use another one with --ff-checkpoint"
                )
                raise CheckpointLocked(msg)
            # Not in step with others that wait, too.
            time.sleep(min(left, _PAUSE * (0.5 + random.random())))  # noqa: S311  (no secret)

    def _try(self) -> Holder | None:
        """Take the store, or return who has it."""
        with self._lock:
            written = self._write()
            try:
                other = self._other()
            except BaseException:
                self.release()
                raise
            if other is None:
                self._written = written
            else:
                self.release()
            return other

    def refresh(self) -> None:
        """Say that it is still held; raise :class:`LeaseLost` when it is not, and :class:`CheckpointUnreachable`."""
        with self._lock:
            before, written = self._written, self._write()
            # Asked when it is written: that may have taken long.
            if before is not None and self._clock() - before < _TRUSTED:
                self._written = written
                return
            # Others may have found it stale in the meantime. Who wants it back does as everybody does, and does not
            # have it before it was told so.
            self._written = None
            other = self._other()
            if other is not None:
                self.release()
                msg = (
                    f"another flowforge run ({other}) has taken over the checkpoint {self._objects.url}, because this"
                    " one was not heard of for a minute: let that one end first (--ff-wait), or use another one with"
                    " --ff-checkpoint"
                )
                raise LeaseLost(msg)
            self._written = written

    def ensure(self) -> None:
        """Raise what :meth:`refresh` does where another run may have taken the store."""
        with self._lock:
            if not self.is_held:
                self.refresh()

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have taken the store."""
        written = self._written
        return written is not None and self._clock() - written < _TRUSTED

    def release(self) -> None:
        """Let the next one in; where the store does not answer, it has to wait until this one is stale."""
        with self._lock:
            self._written = None
            with contextlib.suppress(CheckpointUnreachable):
                self._objects.delete([self._name])

    def _write(self) -> float:
        """Write it, and return when that began."""
        began = self._clock()
        facts = {**json.loads(self._holder.facts()), "run": self.run, "numbering": numbering()}
        self._objects.put(self._name, json.dumps(facts).encode("ascii"))
        return began

    def _other(self) -> Holder | None:
        """Return the holder of another lease that is live; None when there is none. Those that are not are deleted."""
        others = [name for name in self._objects.list(_FOLDER) if name != self._name]
        if not others:
            return None
        try:
            now = self._objects.modified(self._name)
        except FileNotFoundError:
            # Somebody has found it stale.
            return _UNKNOWN
        for name in others:
            try:
                text, age = self._objects.get(name), now - self._objects.modified(name)
            except FileNotFoundError:
                # It was given up.
                continue
            holder = _holder(text)
            if age > STALE or (holder is not None and _is_dead(holder, text)):
                self._objects.delete([name])
                continue
            return holder or _UNKNOWN
        return None


#: Who holds a store when nobody knows.
_UNKNOWN = Holder("", 0, "unknown", 0.0)


def live_runs(objects: Objects) -> frozenset[str]:
    """Return the runs that seem to be going on, for people: here the clock of this machine has to do.

    Nothing is written to ask the store for its own time. Raises :class:`CheckpointUnreachable`.
    """
    found = set()
    for name in objects.list(_FOLDER):
        try:
            text, age = objects.get(name), time.time() - objects.modified(name)
        except FileNotFoundError:
            continue
        holder = _holder(text)
        if holder is not None and age < _SEEMS and not _is_dead(holder, text):
            found.add(holder.run)
    return frozenset(found)


#: Seconds after which a run that was not heard of does not seem to go on: clocks of machines may differ.
_SEEMS = 2 * STALE


def _holder(text: bytes) -> Holder | None:
    try:
        return Holder.of(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_dead(holder: Holder, text: bytes) -> bool:
    """Whether that process is known to be gone: it counted its pid where this one does."""
    return bool(numbering()) and json.loads(text).get("numbering") == numbering() and holder.is_known_dead
