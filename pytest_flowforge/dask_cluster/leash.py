"""Loaded by the workers of a cluster that was started for a run: they go when its process does, however it went.

Dask has them look after that themselves, which a call that keeps the interpreter to itself does not let them do.

And they do not go before. Ctrl-C on a terminal reaches all processes; what it means is for the run to say.
"""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress
from typing import Any

__all__ = ["dask_setup"]

_PR_SET_PDEATHSIG = 1


def dask_setup(_: Any) -> None:
    """Dask calls this in the process of a worker that starts."""
    # Only Linux has it.
    with suppress(Exception):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A handler, unlike SIG_IGN, is not passed on to programs that tasks start. Only the main thread can set one.
    with suppress(ValueError):
        signal.signal(signal.SIGINT, _take_no_notice)


def _take_no_notice(*_: Any) -> None: ...
