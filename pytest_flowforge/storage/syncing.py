"""What survives what, and when.

Everything that was written survives the end of the process, however it ends. What survives a power cut is said by the
durability: ``full``, all of it, at the cost of a sync for each record and result; ``normal``, all but the last 50 ms
and what one sync takes; ``off``, what the system happens to have written.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.errors import CheckpointUnwritable
    from pytest_flowforge.storage.files import Durability

__all__ = ["INTERVAL", "GroupCommit", "Syncable"]

#: Seconds between two syncs, at most often.
INTERVAL = 0.05


class Syncable(Protocol):
    """Something that is written and has to be made to survive a power cut."""

    @property
    def dirty(self) -> bool:
        """Whether there is anything new."""

    def sync(self) -> None:
        """Make it survive; raise :class:`CheckpointUnwritable`."""


#: What may have a thread.
_ALIVE: WeakSet[GroupCommit] = WeakSet()


def _settle_all() -> None:
    """No thread of ours is there while a task forks: that would be a hazard to the child, and Python warns of it."""
    for commit in list(_ALIVE):
        commit.settle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_settle_all)


class GroupCommit:
    """Syncs what it is given in this order, results before the journal that names them.

    :meth:`touch` says that there is something new: under ``full`` it is synced before that returns, under ``normal``
    soon, by a thread that ends when it has done that: a process that waits has none. An error of the thread is raised
    by the next call. A fork of the process has no such thread, and calls there do nothing.
    """

    def __init__(self, durability: Durability = "normal", interval: float = INTERVAL) -> None:
        self.durability = durability
        self._targets: Sequence[Syncable] = ()
        self._interval = interval
        #: Whether a thread is to sync what is new, and has not begun to.
        self._planned = False
        #: Set to have the thread do its work at once.
        self._hurry = threading.Event()
        #: One sync at a time: what is being synced by the thread is not durable yet for who asks.
        self._lock = threading.Lock()
        self._broken: CheckpointUnwritable | None = None
        self._thread: threading.Thread | None = None
        self._getpid = os.getpid
        self._owner = self._getpid()
        _ALIVE.add(self)

    def watch(self, *targets: Syncable) -> None:
        """Sync these from now on, in this order."""
        self._targets = targets

    def touch(self) -> None:
        """There is something new; raise :class:`CheckpointUnwritable` when an earlier sync failed."""
        if self._planned and self._broken is None:
            # The thread takes what is new now with the rest. Asked first: it is asked for each record.
            return
        if self._is_foreign():
            return
        if self.durability == "full":
            self.commit()
        elif self.durability == "normal":
            self._planned = True
            self._thread = threading.Thread(target=self._work, name="flowforge-sync", daemon=True)
            self._thread.start()

    def commit(self) -> None:
        """Sync what is new now, unless the durability is ``off``; raise :class:`CheckpointUnwritable`."""
        if self._is_foreign() or self.durability == "off":
            return
        with self._lock:
            self._sync()

    def close(self) -> None:
        """Wait for the thread and sync what is new."""
        if self._getpid() != self._owner:
            return
        self.settle()
        self.commit()

    def settle(self) -> None:
        """Have the thread, if there is one, do its work now and end."""
        thread = self._thread
        if thread is None or self._getpid() != self._owner:
            return
        self._hurry.set()
        thread.join()
        self._hurry.clear()
        self._thread = None

    def _is_foreign(self) -> bool:
        """Whether this is a fork of the process that made it; raise what went wrong before."""
        if self._broken is not None:
            raise self._broken
        return self._getpid() != self._owner

    def _sync(self) -> None:
        try:
            for target in self._targets:
                if target.dirty:
                    target.sync()
        except Exception as error:
            self._broken = error  # type: ignore[assignment]  # whatever it is, the next call is to raise it
            raise

    def _work(self) -> None:
        self._hurry.wait(self._interval)
        # From here on there may be more that is new, and another thread for it.
        self._planned = False
        # What goes wrong is kept, and raised where somebody listens.
        with self._lock, suppress(Exception):
            self._sync()
