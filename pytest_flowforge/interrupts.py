"""Ctrl-C, and what else asks a run to end, held back while what has happened is written down and shown.

Between the two nothing may come: a success that was shown and not written down would run again.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Interrupts", "TimeIsUp"]

#: A signal that nobody uses and the system ignores, for the thread that watches the time of the session.
_OURS = getattr(signal, "SIGURG", None)


class TimeIsUp(KeyboardInterrupt):
    """The session has taken longer than it may; ``reason`` says so."""

    @property
    def reason(self) -> str:
        """What is said of the run."""
        return str(self)


class Interrupts:
    """Takes SIGINT, SIGTERM and SIGHUP while it is served, and makes KeyboardInterrupt of each.

    Where somebody else does, or has it ignored, that is left alone and nothing is held back.
    """

    def __init__(self) -> None:
        self._held = False
        self._owner = os.getpid()
        #: What is held back.
        self._pending: KeyboardInterrupt | None = None
        #: Why the time is up, from the thread that has noticed to the main thread.
        self._reason = ""
        self._taken = False
        self._serves = False

    @contextmanager
    def serve(self, *only: signal.Signals) -> Iterator[None]:
        """Take those signals that mean what Python or the system makes of them, for as long as this lasts.

        Those named alone are taken, if any are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = ((number, usual) for number, usual in _usual() if not only or number in only)
        taken = [number for number, usual in wanted if signal.getsignal(number) == usual]
        before = [signal.signal(number, self._take) for number in taken]
        self._serves = signal.SIGINT in taken
        try:
            yield
        finally:
            self._serves = False
            for number, handler in zip(taken, before, strict=True):
                signal.signal(number, handler)

    def forget(self) -> None:
        """An attempt begins that nobody has interrupted."""
        self._taken = False

    def is_asked_for(self) -> bool:
        """Whether a KeyboardInterrupt that comes out of the attempt may be that of somebody who wants the run to end.

        It is the task's own when that would have come through here, and did not.
        """
        return self._taken or not self._serves

    def time_is_up(self, reason: str) -> None:
        """Raise TimeIsUp on the main thread; may be called by any thread."""
        self._reason = reason
        if _OURS is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, _OURS)
        else:
            # Windows.
            signal.raise_signal(signal.SIGINT)

    def _take(self, number: int, _: Any) -> None:
        # Where it hit is what people want to see.
        __tracebackhide__ = True
        if os.getpid() != self._owner:
            # A child that a task has forked: it is to end as if we had never been there.
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
            os.kill(os.getpid(), number)
            return
        reason, self._reason = self._reason, ""
        if number == _OURS and not reason:
            # From somebody else, to whom it means nothing.
            return
        interrupt = TimeIsUp(reason) if reason else _interrupt(signal.Signals(number).name)
        self._taken = True
        if self._held and self._pending is None:
            self._pending = interrupt
            return
        # The second one comes through: what is being done may hang.
        self._pending = None
        raise interrupt

    def hold(self) -> None:
        """Hold the next interrupt back."""
        self._held = True

    def let_go(self) -> None:
        """Hold nothing back; raises KeyboardInterrupt if there was one meanwhile."""
        self._held = False
        if self._pending is not None:
            interrupt, self._pending = self._pending, None
            raise interrupt


def _interrupt(name: str) -> KeyboardInterrupt:
    # A terminal sends SIGINT, which needs no name.
    return KeyboardInterrupt() if name == "SIGINT" else KeyboardInterrupt(name)


def _usual() -> Iterator[tuple[signal.Signals, Any]]:
    yield signal.SIGINT, signal.default_int_handler
    yield signal.SIGTERM, signal.SIG_DFL
    for name in ("SIGHUP", "SIGURG"):
        if hasattr(signal, name):
            yield getattr(signal, name), signal.SIG_DFL
