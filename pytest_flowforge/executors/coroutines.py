"""One event loop on a thread of its own, shared by all coroutines of a run.

It executes awaitables and knows no jobs: whoever has a job that is a coroutine brings it here and waits elsewhere.
"""

from __future__ import annotations

import sys
import threading
import traceback
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import asyncio
    import contextvars
    from collections.abc import Awaitable, Callable
    from types import FrameType

    _Begin: TypeAlias = tuple[Callable[[], Awaitable[Any]], contextvars.Context]

__all__ = ["EventLoopThread"]

#: Seconds in which a loop takes notice of something unless it is blocked. One that is slower loses but what waits.
_STUCK = 0.2

#: Seconds that coroutines have to come to an end once they were cancelled because the loop is closed.
_PATIENCE = 2.0


class EventLoopThread:
    """An asyncio event loop in a daemon thread, which starts with the first coroutine."""

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        #: Guards all below.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: Futures that have not ended; whoever takes one out of it ends it.
        self._open: set[Future[Any]] = set()
        #: What makes the awaitable of each that has not begun, and its context.
        self._waiting: dict[Future[Any], _Begin] = {}
        #: The task of each that has begun; used on the loop's thread only.
        self._tasks: dict[Future[Any], asyncio.Task[Any]] = {}
        self._closed = False
        #: Whether another loop has taken its place.
        self._given_up = False

    def submit(self, make_awaitable: Callable[[], Awaitable[Any]], context: contextvars.Context) -> Future[Any]:
        """Return the future of what ``make_awaitable()`` awaits; raise :class:`RuntimeError` after :meth:`close`.

        The function is called on the loop's thread. It and its awaitable see *context*; what they set is their own.
        Whatever they raise, SystemExit included, is raised by the future and nowhere else.
        """
        future: Future[Any] = Future()
        self._take(future, (make_awaitable, context))
        return future

    def _take(self, future: Future[Any], begin: _Begin) -> None:
        with self._lock:
            loop = self._running_loop()
            self._open.add(future)
            self._waiting[future] = begin
            # A copy, because the submitter may be inside of this one, and a context can not be entered twice.
            loop.call_soon_threadsafe(self._begin, loop, future, context=begin[1].copy())

    def replacement(self) -> EventLoopThread | None:
        """Return another loop with what has not begun here; None as long as this one takes notice of anything.

        A coroutine that blocks its loop stops all others on it. What has begun stays, and goes on when it lets go.
        """
        with self._lock:
            loop = self._loop
        if loop is None:
            return None
        awake = threading.Event()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(awake.set)
        if awake.wait(_STUCK):
            return None
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._open.difference_update(waiting)
            self._given_up = True
        other = EventLoopThread(patience=self._patience)
        for future, begin in waiting.items():
            other._take(future, begin)
        return other

    def owns(self, future: Future[Any]) -> bool:
        """Whether *future* was submitted here, or has come here, and has not ended."""
        with self._lock:
            return future in self._open

    def cancel(self, future: Future[Any]) -> None:
        """Cancel the coroutine of *future*, which then ends with :class:`~concurrent.futures.CancelledError`.

        A coroutine that does not let itself be cancelled ends as it likes. Nothing happens to what has ended.
        """
        if future.cancel():
            with self._lock:
                self._open.discard(future)
            return
        with self._lock:
            if future in self._open and self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel, future)

    def stack_of(self, future: Future[Any]) -> str:
        """Return where the coroutine of *future* stands now, as a traceback would; empty if it has not begun."""
        task, thread = self._tasks.get(future), self._thread
        awaited: Any = None if task is None else task.get_coro()
        frames: list[tuple[FrameType, int]] = []
        while awaited is not None:
            frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
            if frame is not None and frame.f_code not in _OURS:
                frames.append((frame, frame.f_lineno))
            if frame is not None and getattr(awaited, "cr_running", False) and thread is not None:
                # It does not wait: what it has called stands on the thread of the loop.
                frames += _called_by(frame, thread)
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        return "".join(traceback.StackSummary.extract(iter(frames)).format())

    def close(self) -> None:
        """Cancel all and stop the loop; return when it has stopped, or soon when a coroutine does not let it.

        All futures have ended by then.
        """
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            if loop is not None:
                # Refused by a loop that has closed itself: this is the second time.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(loop.stop)
        if thread is not None and thread is not threading.current_thread() and not self._given_up:
            # Once for those that were cancelled, once for the generators they left.
            thread.join(2 * self._patience + 1.0)
        with self._lock:
            left = list(self._open)
        for future in left:
            # Running ones can not be cancelled by their own means.
            if not future.cancel():
                self._settle(future, None, CancelledError("the event loop was closed"))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            msg = "cannot run coroutines after the event loop was closed"
            raise RuntimeError(msg)
        if self._loop is None:
            # Most flows have no coroutine and need not pay for a library that is large.
            import asyncio  # noqa: PLC0415

            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._main, args=(self._loop,), name="flowforge-loop", daemon=True)
            self._thread.start()
        return self._loop

    # On the loop's thread.

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio  # noqa: PLC0415 - as above

        asyncio.set_event_loop(loop)
        try:
            while not self._closed:
                # A child task that raises one of these throws it at the loop as well as at who awaits the task.
                with suppress(KeyboardInterrupt, SystemExit):
                    loop.run_forever()
            with suppress(KeyboardInterrupt, SystemExit):
                loop.run_until_complete(self._end_all())
        finally:
            loop.close()

    async def _end_all(self) -> None:
        import asyncio  # noqa: PLC0415 - as above

        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=self._patience)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), self._patience)

    def _begin(self, loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
        # A task takes a copy of the context it is made in: this callback's.
        task = loop.create_task(self._execute(future))
        self._tasks[future] = task
        task.add_done_callback(partial(self._done, future))

    async def _execute(self, future: Future[Any]) -> None:
        """Await what *future* is for, and end it; only now it has begun, if it is still to be executed here."""
        with self._lock:
            begin = self._waiting.pop(future, None)
        if begin is not None and future.set_running_or_notify_cancel():
            # Told at once: another coroutine may keep the loop to itself before it gets around to anything else.
            self._settle(future, *await _ended(begin[0]))

    def _cancel(self, future: Future[Any]) -> None:
        task = self._tasks.get(future)
        if task is not None:
            task.cancel()

    def _done(self, future: Future[Any], task: asyncio.Task[None]) -> None:
        del self._tasks[future]
        if task.cancelled():
            self._settle(future, None, CancelledError("the coroutine was cancelled"))
        with self._lock:
            self._open.discard(future)

    def _settle(self, future: Future[Any], value: Any, error: BaseException | None) -> None:
        """End *future* unless somebody has: a loop that was closed too early may still get around to it."""
        with self._lock:
            if future not in self._open:
                return
            self._open.remove(future)
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _called_by(frame: FrameType, thread: threading.Thread) -> list[tuple[FrameType, int]]:
    """What *frame*, which is being executed by *thread*, has called, outermost first."""
    # The one way to look at another thread; every debugger of stuck threads goes it.
    inner = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001
    steps = list(traceback.walk_stack(inner)) if inner is not None else []
    place = next((index for index, (step, _) in enumerate(steps) if step is frame), 0)
    return steps[:place][::-1]


async def _ended(make_awaitable: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Return what came of it, so that nothing but a cancellation is raised at the loop, which it might stop."""
    from asyncio import CancelledError as Cancelled  # noqa: PLC0415 - as above

    try:
        return await make_awaitable(), None
    except Cancelled:
        raise
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
        return None, error


#: What stands around a coroutine here.
_OURS = (_ended.__code__, EventLoopThread._execute.__code__)  # noqa: SLF001 - in its own module
