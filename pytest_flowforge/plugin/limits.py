"""Time limits of what the main thread of a process does: the timer behind the marks and options of pytest-timeout.

pytest-timeout says which limit an item has and where that begins and ends. Its own timer lets a task pass that swallows
the time-out, stops when a task has failed although its teardown is still to come, and may raise between two phases,
where nobody expects it; so this one takes its place, by the hooks that it has for that.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_flowforge.plugin.pytest_internals import has_time_limits, is_debugging, is_in_phase

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from types import FrameType

    from pytest_flowforge.plugin.outcomes import Attempt

__all__ = ["NOBODY", "TimeLimits", "Watch", "has_alarm", "is_in", "time_out_text"]

#: Seconds after which it is tried again, where the time was up while pytest was at work between two phases.
_AGAIN = 0.05

#: The longest time that every system takes for a timer.
_LONGEST = 1e8

#: Where threads come from that belong to no task.
_OURS = ("pytest_flowforge/", "execnet/", "xdist/")


def time_out_text(seconds: float) -> str:
    """What a time-out says, in the words of pytest-timeout, which other tools know."""
    return f"Timeout (>{float(seconds)}s) from pytest-timeout."


def has_alarm() -> bool:
    """Whether what runs on this thread can be interrupted when its time is up."""
    return hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()


class Watch(Protocol):
    """Who sees to it that an attempt comes to an end that takes no notice of its time-out."""

    #: Whether it needs no help from the process in which the attempt is made.
    is_elsewhere: bool

    def begins(self, seconds: float) -> None:
        """Something begins that may take so long."""

    def is_told(self) -> None:
        """Its time is up, and that was raised in it."""

    def ends(self) -> float:
        """It has ended; return the seconds after which to call :meth:`rest`, should nothing begin before. 0: never."""

    def rest(self) -> None:
        """Nothing has a limit now."""

    def again(self) -> None:
        """What was arranged may have been taken back by pytest; what has begun goes on."""


class _Nobody(Watch):
    """Nobody watches."""

    is_elsewhere = False

    def begins(self, seconds: float) -> None: ...
    def is_told(self) -> None: ...
    def ends(self) -> float:
        return 0.0

    def rest(self) -> None: ...
    def again(self) -> None: ...


NOBODY = _Nobody()


class TimeLimits:
    """Raises in an attempt when its time is up; a plugin while it is served.

    ``current`` returns the attempt at an item, None for one that is not ours. With ``may_end_process`` the method
    ``thread`` of pytest-timeout is left to it; without, an attempt with that method is not interrupted where ``watch``
    ends it from elsewhere, and else it is interrupted like any other.
    """

    def __init__(
        self, current: Callable[[pytest.Item], Attempt | None], watch: Watch = NOBODY, *, may_end_process: bool = False
    ) -> None:
        self._current = current
        self._watch = watch
        self._may_end_process = may_end_process
        #: The attempt whose time runs.
        self._attempt: Attempt | None = None
        self._seconds = 0.0
        self._heeds_debuggers = True
        self._handler = self._on_alarm
        #: Whether the watch is to be told when nothing begins for a while.
        self._resting = False
        #: Whether pytest is telling others of a failure.
        self._interacting = False
        #: Threads that were there before any task.
        self._old: frozenset[int | None] = frozenset()

    @contextmanager
    def serve(self, config: pytest.Config) -> Iterator[None]:
        """Limit times as long as this lasts, if pytest-timeout is there to say which."""
        if not has_time_limits(config):
            yield
            return
        self._old = frozenset(thread.ident for thread in threading.enumerate())
        before = signal.getsignal(signal.SIGALRM) if has_alarm() else None
        config.pluginmanager.register(self, "flowforge-limits")
        try:
            yield
        finally:
            config.pluginmanager.unregister(self)
            self._stop()
            if before is not None:
                signal.signal(signal.SIGALRM, before)

    def begin(self, attempt: Attempt, settings: Any) -> None:
        """The time of *attempt* runs from now on, as *settings* of pytest-timeout have it."""
        self._attempt, self._seconds = attempt, settings.timeout
        self._heeds_debuggers = not settings.disable_debugger_detection
        self._resting = False
        attempt.begins(settings.timeout)
        if has_alarm():
            by_signal = settings.method == "signal" or not (self._may_end_process or self._watch.is_elsewhere)
            # A task may have put something else there, and may have kept it from coming.
            signal.signal(signal.SIGALRM, self._handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
            signal.setitimer(signal.ITIMER_REAL, min(settings.timeout, _LONGEST) if by_signal else 0.0)
        self._watch.begins(settings.timeout)

    def end(self) -> None:
        """Its time does not run any more."""
        if self._attempt is None:
            return
        self._attempt.ends()
        self._attempt = None
        later = self._watch.ends()
        self._resting = later > 0
        if has_alarm():
            signal.setitimer(signal.ITIMER_REAL, later)

    def rest(self) -> None:
        """Something begins that may take as long as it likes, unless its limit has begun."""
        if self._resting:
            self._stop()

    def _stop(self) -> None:
        self._attempt, self._resting = None, False
        if has_alarm():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._watch.rest()

    # ------------------------------------------------------------------ hooks of pytest-timeout and pytest

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        attempt = self._current(item)
        if attempt is None:
            return None
        self.begin(attempt, settings)
        theirs = self._may_end_process and settings.method == "thread"
        return None if theirs else True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> bool | None:
        if self._interacting and not item.config.option.usepdb:
            # The attempt has failed, and is not over: it is still to be torn down.
            return True
        self.end()
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self) -> Generator[None, object, object]:
        self._interacting = True
        try:
            return (yield)
        finally:
            self._interacting = False
            if self._attempt is not None:
                self._watch.again()

    def pytest_enter_pdb(self) -> None:
        """Nobody is in a hurry any more."""
        if self._attempt is not None:
            self._attempt.limit = None
        self._stop()

    # ------------------------------------------------------------------ the time is up

    def _on_alarm(self, _: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        attempt = self._attempt
        if attempt is None:
            if self._resting:
                self._stop()
            return
        if self._heeds_debuggers and is_debugging():
            attempt.limit = None
            self._stop()
            return
        if not is_in_phase(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        attempt.stacks = _stacks(self._old)
        self._watch.is_told()
        pytest.fail(time_out_text(self._seconds))


def _stacks(old: frozenset[int | None]) -> str:
    """Where the threads stand that tasks have started, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    texts = []
    # The one way to look at other threads; every debugger of stuck threads goes it.
    for ident, frame in sys._current_frames().items():  # noqa: SLF001
        if ident == here or ident in old:
            continue
        summary = traceback.extract_stack(frame)
        if any(is_in(step.filename, _OURS) for step in summary):
            continue
        texts.append(f"{names.get(ident, 'a thread')}, most recent call last:\n{''.join(summary.format())}")
    return "\n".join(texts)


def is_in(path: str, folders: Iterable[str]) -> bool:
    """Whether a file is in one of *folders*, which end with a slash, wherever these are."""
    return any(folder in path.replace("\\", "/") for folder in folders)
