"""Ctrl-C, held back for the moment in which what has happened is written down and shown.

Between the two nothing may come: a success that was shown and not written down would run again.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Interrupts"]


class Interrupts:
    """Takes SIGINT while it is served; where somebody else does, that is left alone and nothing is held back."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Take SIGINT for as long as this lasts, if Python's own handler has it."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _take(self, number: int, frame: Any) -> None:
        # Where it hit is what people want to see.
        __tracebackhide__ = True
        if self._held and not self._pending:
            self._pending = True
            return
        # The second one comes through: what is being done may hang.
        self._pending = False
        signal.default_int_handler(number, frame)

    def hold(self) -> None:
        """Hold the next interrupt back."""
        self._held = True

    def let_go(self) -> None:
        """Hold nothing back; raises KeyboardInterrupt if there was one meanwhile."""
        self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
