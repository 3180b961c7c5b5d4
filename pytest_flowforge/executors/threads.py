"""A pool of threads that can be given up on.

The threads are daemons: one that never ends does not keep the interpreter from exiting, which it would in
:class:`~concurrent.futures.ThreadPoolExecutor`. It can not be stopped either; it is only not waited for.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DaemonThreads"]

_T = TypeVar("_T")


class _Call:
    """One call and the future it is for."""

    def __init__(self, future: Future[Any], function: Callable[[], Any]) -> None:
        self.future = future
        self.function = function
        self.context = contextvars.copy_context()

    def run(self) -> tuple[Any, BaseException | None]:
        """Return what came of it: a result, or what was raised."""
        try:
            return self.context.run(self.function), None
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
            return None, error


class DaemonThreads(Executor):
    """Executes calls on at most *workers* daemon threads, which start when they are needed and are then reused.

    Each call sees the context variables of its submitter; what it sets is its own. Idle threads stay until
    :meth:`shutdown`.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            msg = f"{workers} threads execute nothing: there must be at least one"
            raise ValueError(msg)
        self._workers = workers
        self._numbers = count(1)
        #: Guards all below; notified when there is a call, when a thread has gone, and at shutdown.
        self._change = threading.Condition()
        #: Waiting for a thread, in the order of their submission.
        self._calls: deque[_Call] = deque()
        #: Those that were started, neither ended nor abandoned; never more than ``workers``.
        self._threads: set[threading.Thread] = set()
        #: Which thread executes which future; abandoned ones are not in it.
        self._running: dict[Future[Any], threading.Thread] = {}
        #: Those that were abandoned, and may have ended in the meantime.
        self._given_up: list[threading.Thread] = []
        #: How many of the threads will look for a call without anybody's doing.
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Return the future of ``fn(*args, **kwargs)``; raise :class:`RuntimeError` after :meth:`shutdown`."""
        future: Future[_T] = Future()
        call = _Call(future, partial(fn, *args, **kwargs))
        with self._change:
            if self._closed:
                msg = "cannot schedule new futures after shutdown"
                raise RuntimeError(msg)
            self._calls.append(call)
            try:
                self._staff()
            except RuntimeError:
                # The system has no thread for us. Those that are there will do it; without any, it is nobody's.
                if not self._threads:
                    self._calls.remove(call)
                    raise
            self._change.notify()
        return future

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on the thread that executes *future*; return whether there was one.

        The future ends at once, with :class:`~concurrent.futures.CancelledError`. What the thread comes to in the end
        is dropped, a new thread may take its place, and :meth:`shutdown` does not wait for it.
        """
        with self._change:
            thread = self._running.pop(future, None)
            if thread is None:
                return False
            self._threads.discard(thread)
            self._given_up.append(thread)
            # Where the system has no more threads, those that are left do the rest.
            with suppress(RuntimeError):
                self._staff()
            # A shutdown may have been waiting for this very thread.
            self._change.notify_all()
        future.set_exception(CancelledError(f"given up on {thread.name}"))
        return True

    @property
    def abandoned(self) -> int:
        """How many threads go on that were given up on."""
        with self._change:
            self._given_up = [thread for thread in self._given_up if thread.is_alive()]
            return len(self._given_up)

    def stack_of(self, future: Future[Any]) -> str:
        """Return where the thread that executes *future* stands now, as a traceback would; empty if none does."""
        with self._change:
            thread = self._running.get(future)
            if thread is None or thread.ident is None:
                return ""
            # The one way to look at another thread; every debugger of stuck threads goes it.
            frame = sys._current_frames().get(thread.ident)  # noqa: SLF001
            if frame is None:
                return ""
            # Innermost first: what lies behind our own frame is the pool's business and explains nothing.
            frames = takewhile(lambda step: step[0].f_code is not _Call.run.__code__, traceback.walk_stack(frame))
            summary = traceback.StackSummary.extract(frames)
        summary.reverse()
        return "".join(summary.format())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """Take no more calls; with *cancel_futures* drop those that no thread has begun.

        With *wait*, return when all others have ended. Abandoned threads are not waited for, not even those that are
        abandoned meanwhile.
        """
        with self._change:
            self._closed = True
            dropped = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
            self._change.notify_all()
        # Not under the lock: this calls those who want to know.
        for call in dropped:
            call.future.cancel()
        if wait:
            with self._change:
                self._change.wait_for(lambda: not self._threads)

    def _staff(self) -> None:
        """Start a thread when there are more calls than idle threads and there may be one more."""
        if len(self._calls) <= self._idle or len(self._threads) >= self._workers:
            return
        thread = threading.Thread(target=self._work, name=f"flowforge-{next(self._numbers)}", daemon=True)
        thread.start()
        self._threads.add(thread)
        self._idle += 1

    def _work(self) -> None:
        """Execute calls until there are none any more; what every thread does."""
        while (call := self._next()) is not None:
            value, error = call.run()
            if not self._give_back(call.future):
                return
            if error is None:
                call.future.set_result(value)
            else:
                call.future.set_exception(error)
            # An idle thread holds on to nothing.
            del call, value, error

    def _next(self) -> _Call | None:
        """Return the next call, waiting for one; None when the pool is closed and nothing is left."""
        thread = threading.current_thread()
        with self._change:
            while True:
                while self._calls:
                    call = self._calls.popleft()
                    if call.future.set_running_or_notify_cancel():
                        self._idle -= 1
                        self._running[call.future] = thread
                        return call
                if self._closed:
                    self._idle -= 1
                    self._threads.discard(thread)
                    self._change.notify_all()
                    return None
                self._change.wait()

    def _give_back(self, future: Future[Any]) -> bool:
        """Count the current thread as idle again; return False when it was abandoned.

        Done before the result is told: who submits because of it finds this thread, and starts no other.
        """
        with self._change:
            if self._running.pop(future, None) is None:
                return False
            self._idle += 1
            return True
