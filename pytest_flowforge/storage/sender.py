"""Keeps a store in step with the folder of a run, by threads of the process it is in."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointError, CheckpointUnreachable
from pytest_flowforge.storage.addresses import censored
from pytest_flowforge.storage.leases import REFRESH, Lease
from pytest_flowforge.storage.mirror import Mirror
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowforge.storage.locks import Holder
    from pytest_flowforge.storage.objects import Objects
    from pytest_flowforge.storage.places import Place

__all__ = ["SLOW", "Sender", "nothing"]

#: Seconds between two tries when the store does not answer, at most.
_LONGEST_PAUSE = 60.0

#: Seconds between two looks whether the last sending goes on.
_LOOK = 0.1

#: Seconds after which people want to know what is waited for.
SLOW = 2.0


def nothing() -> None:
    """Tell nobody that it takes long."""


class Sender:
    """Two threads: one keeps the lease for *holder*, the other sends what is new in *place* every *interval* seconds.

    A fork of the process has no such threads, and nothing is done there.
    """

    def __init__(
        self,
        objects: Objects,
        place: Place,
        holder: Holder,
        interval: float,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._place = place
        self._objects = objects
        self._lease = Lease(objects, holder) if clock is None else Lease(objects, holder, clock=clock)
        self._mirror = Mirror(objects, place)
        # To send something large takes longer than a lease holds.
        self._mirror.up.before_send = self._lease.ensure
        self._interval = interval
        self._ended = threading.Event()
        self._released = threading.Event()
        self._threads: list[threading.Thread] = []
        self._owner = os.getpid()
        #: Why the last try failed; empty when it did not.
        self._problem = ""
        #: Whether the store has answered at the end.
        self._answers = True
        #: What could not be sent at the end; None until that is known.
        self._unsent: str | None = None
        #: Why it failed first.
        self._failed = ""

    def take(self, wait: float) -> None:
        # Before anything is written there.
        self._mirror.copy.check()
        self._lease.acquire(wait)
        self._start(self._refresh, "refresh")

    def pull(self, *, settles: bool) -> list[str]:
        said = self._mirror.copy.open(create=True, settles=settles)
        return said + self._mirror.pull(owns=True, settles=settles)

    def fetch(self, run: str, name: str, end: int) -> bool:
        return self._mirror.down.fetch(run, name, end)

    def replace_journal(self, run: str) -> None:
        self._mirror.up.replace_journal(run)

    def begin(self, run: str) -> None:
        self._lease.run = run
        self._mirror.up.begin(run)
        self._start(self._push, "push")

    def prune(self, gone: Sequence[str]) -> None:
        self._lease.ensure()
        self._mirror.up.prune(gone)

    def give_up(self) -> None:
        if os.getpid() == self._owner:
            self._ended.set()
            self._released.set()
            self._join("push")
            self._join("refresh")
            self._lease.release()
            self._place.close()

    def end(
        self,
        gone: Sequence[str],
        patience: float,
        on_slow: Callable[[], None] = nothing,
        *,
        on_wait: Callable[[], None] = nothing,
    ) -> tuple[list[str], str]:
        """Do what :meth:`.sending.Sending.end` says; *on_wait* is called every now and then while that goes on."""
        if os.getpid() != self._owner:
            return [], ""
        self._ended.set()
        # In a thread of its own: nothing ends a call of a file system that waits for an answer.
        last = self._start(lambda: self._say_farewell(gone), "farewell")
        try:
            self._wait_for(last, patience, on_slow, on_wait)
        finally:
            self._released.set()
        if self._unsent is None:
            # The folder stays open: that thread may still read there.
            self._problem = f"it has not answered for {patience:g} s (ini flowforge_send_farewell)"
            self._unsent = self._what_is_unsent()
        elif not last.is_alive():
            self._place.close()
        return self._news(self._unsent), self._unsent

    def _wait_for(
        self, last: threading.Thread, patience: float, on_slow: Callable[[], None], on_wait: Callable[[], None]
    ) -> None:
        """Wait for the *last* thing to end, for as long as the store goes on with it."""
        begun = heard = time.monotonic()
        steps, said = self._objects.steps, False
        while last.is_alive():
            now = time.monotonic()
            if not said and now - begun >= SLOW:
                said = True
                on_slow()
            if self._objects.steps != steps:
                steps, heard = self._objects.steps, now
            if now - heard >= patience:
                return
            on_wait()
            last.join(_LOOK)

    def _say_farewell(self, gone: Sequence[str]) -> None:
        try:
            self._join("push")
            unsent = self._send_all(gone)
            self._released.set()
            if self._answers:
                # One that does not is not asked once more: the lease becomes stale.
                self._join("refresh")
                self._lease.release()
        except Exception as error:  # noqa: BLE001  (nobody sees a traceback of this thread)
            self._problem = f"{type(error).__name__}: {censored(str(error))}"
            unsent = self._what_is_unsent()
        self._unsent = unsent

    def _news(self, unsent: str) -> list[str]:
        """Return what is to be said besides of what went wrong meanwhile."""
        if self._failed and not unsent:
            return [f"for a while nothing could be sent ({self._failed}); everything is there now"]
        return []

    def _send_all(self, gone: Sequence[str]) -> str:
        """Send what is new, delete what was deleted here; return what could not be sent, in words."""
        if self._answers:
            try:
                self._lease.ensure()
                self._mirror.up.push()
                self._mirror.up.prune(gone)
                self._mirror.up.push_durations()
                self._problem = ""
            except (CheckpointError, OSError) as error:
                self._problem = str(error)
                self._answers = not isinstance(error, CheckpointUnreachable)
        return self._what_is_unsent()

    def _what_is_unsent(self) -> str:
        unsent = self._mirror.up.unsent()
        if not self._problem:
            return ""
        there, here = self._mirror.url, self._mirror.path
        if not unsent:
            return f"all records are in {there}, but what was to be done there besides was not: {self._problem}"
        return (
            f"the last {plural(unsent, 'record')} {'is' if unsent == 1 else 'are'} only in {here}, and not in {there}:"
            f" {self._problem}. The next run of this machine with the same --ff-checkpoint sends them"
        )

    def _start(self, work: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"flowforge-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _join(self, name: str) -> None:
        for thread in self._threads:
            if thread.name == f"flowforge-{name}":
                thread.join()

    def _push(self) -> None:
        pause = self._interval
        # Whoever asks who uses the store is told the run.
        said = False
        while not self._ended.wait(pause):
            try:
                if not said:
                    self._lease.refresh()
                    said = True
                self._lease.ensure()
                self._mirror.up.push()
            except (CheckpointError, OSError) as error:
                pause = min(max(pause, 1.0) * 2, _LONGEST_PAUSE)
                self._fails(error)
                if self._ended.is_set() and isinstance(error, CheckpointUnreachable):
                    # That was the try at the end.
                    self._answers = False
            else:
                pause, self._problem = self._interval, ""

    def _refresh(self) -> None:
        while not self._released.wait(REFRESH):
            try:
                self._lease.refresh()
            except CheckpointError as error:
                self._fails(error)

    def _fails(self, error: Exception) -> None:
        self._problem = str(error)
        self._failed = self._failed or self._problem
