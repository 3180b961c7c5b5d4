"""The end of a process that nobody can bring to reason: a task in it holds the interpreter, or takes no notice.

It comes from a thread of the C library's, by :mod:`faulthandler`, which needs no interpreter: where the threads stand
is written to standard error, and the process ends with exit status 1.
"""

from __future__ import annotations

import faulthandler
import math
import os
import time
from contextlib import suppress

from pytest_flowforge.plugin.limits import Watch

__all__ = ["LastResort"]

#: Seconds that an attempt has at least to come to its end once the time-out was raised in it: what it cleans up may be
#: worth more than the time, and nothing else can be done but to end the whole run.
_AFTER = 60.0

#: Seconds that the end of the process keeps from the end of the limit at least.
_LEAST = 1.0

#: Seconds without a limit after which the arrangement is taken back. Each costs a thread, and most tasks take less
#: time than that takes; so one arrangement serves several attempts.
_IDLE = 0.5


class LastResort(Watch):
    """Ends this process when an attempt does not end between one and two times *grace* seconds after its limit.

    There is one such timer in a process: where pytest uses it (ini ``faulthandler_timeout``) it is *taken*, and nothing
    is done here. To be made while standard error is not captured, and to be closed as a context manager.
    """

    is_elsewhere = False

    def __init__(self, grace: float, *, taken: bool) -> None:
        self._grace = max(grace, _LEAST)
        self._taken = taken
        #: A descriptor of our own: 2 belongs to pytest's capture while a task runs.
        self._errors = os.dup(2)
        self._seconds = 0.0
        #: When it comes, by the monotonic clock.
        self._at = math.inf

    def begins(self, seconds: float) -> None:
        self._seconds = seconds
        earliest = time.monotonic() + seconds + self._grace
        if not earliest <= self._at <= earliest + self._grace:
            self._arrange(earliest + self._grace)

    def is_told(self) -> None:
        self._arrange(time.monotonic() + max(self._seconds, _AFTER))

    def ends(self) -> float:
        return 0.0 if self._taken else _IDLE

    def rest(self) -> None:
        if self._at != math.inf:
            self._at = math.inf
            faulthandler.cancel_dump_traceback_later()

    def again(self) -> None:
        self._arrange(self._at)

    def __enter__(self) -> None:
        """There is nothing to arrange before something begins."""

    def __exit__(self, *_: object) -> None:
        self.rest()
        with suppress(OSError):
            os.close(self._errors)

    def _arrange(self, at: float) -> None:
        if self._taken:
            return
        self._at = at
        left = at - time.monotonic()
        # What Python takes for a time has a limit, too.
        with suppress(OverflowError, ValueError):
            faulthandler.dump_traceback_later(max(left, _LEAST / 10), file=self._errors, exit=True)
