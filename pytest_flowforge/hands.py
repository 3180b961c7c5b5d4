"""Who makes calls within one process: threads, and one event loop for all coroutines."""

from __future__ import annotations

import contextvars
from concurrent.futures import Executor as Pool
from typing import TYPE_CHECKING, Any

from pytest_flowforge.executors.coroutines import EventLoopThread
from pytest_flowforge.executors.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["Hands"]


class Hands(Pool):
    """The threads of a run, and the event loop for its coroutines.

    What is submitted with a call that ``is_coroutine`` as its first argument goes to the loop, which awaits what
    ``call.run_as_coroutine()`` returns.
    """

    def __init__(self, workers: int) -> None:
        self._threads = DaemonThreads(workers)
        self._loop = EventLoopThread()
        #: Loops that coroutines keep to themselves.
        self._stuck: list[EventLoopThread] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call: Any = args[0] if args else None
        if not getattr(call, "is_coroutine", False):
            return self._threads.submit(fn, *args, **kwargs)
        return self._loop.submit(call.run_as_coroutine, contextvars.copy_context())

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on what executes *future*; return whether there was anything."""
        loop = self._loop_of(future)
        if loop is None:
            return self._threads.abandon(future)
        loop.cancel(future)
        if loop is self._loop and (other := loop.replacement()) is not None:
            self._stuck.append(loop)
            self._loop = other
        # It has no slot that it could keep.
        return True

    def _loop_of(self, future: Future[Any]) -> EventLoopThread | None:
        return next((loop for loop in (self._loop, *self._stuck) if loop.owns(future)), None)

    @property
    def abandoned(self) -> int:
        """How many threads go on that were given up on."""
        return self._threads.abandoned + len(self._stuck)

    def stack_of(self, future: Future[Any]) -> str:
        """Where the thread or the coroutine that executes *future* stands now; empty if none does."""
        loop = self._loop_of(future)
        return self._threads.stack_of(future) if loop is None else loop.stack_of(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        for loop in (self._loop, *self._stuck):
            loop.close()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
