"""Where the calls of a workflow in code are made: here, on threads, or in the processes of a pool."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge import measuring
from pytest_flowforge.call_limits import CallLimits, Limited
from pytest_flowforge.core.model import Failure, FailureKind, Outcome, Success
from pytest_flowforge.errors import WorkflowError
from pytest_flowforge.executors.futures import FuturesExecutor
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.failures import one_line
from pytest_flowforge.hands import Hands
from pytest_flowforge.ports import Finished, Job
from pytest_flowforge.rules import BadRule, whole
from pytest_flowforge.wording import quoted
from pytest_flowforge.workflow import calls
from pytest_flowforge.workflow.calls import Call, answer_of, order_of, text_of_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pytest_flowforge import ports
    from pytest_flowforge.interrupts import Interrupts
    from pytest_flowforge.ports import Key

__all__ = ["ExecutorChoice", "Here", "InPool", "Place", "place_of"]

#: A name, a pool, or a function that makes a pool for so many workers.
ExecutorChoice: TypeAlias = "str | Pool | Callable[[int], Pool]"

#: Threads that are used at most where nobody says how many: they mostly wait.
_MOST_THREADS = 32

#: Seconds after which an alarm rings that should have rung already; none at all would switch it off.
_SOON = 0.001

#: Seconds beyond which the system takes no alarm; nobody waits so long for it.
_LONGEST = 1e8

#: Seconds between two tries to end a call on this thread whose time is up.
_AGAIN = 1.0


def place_of(
    choice: ExecutorChoice,
    workers: int | None,
    clock: ports.Clock,
    interrupts: Interrupts,
    tell: Callable[[str], None] = lambda _: None,
) -> Place:
    """Return where calls are made; raise :class:`WorkflowError` for what is no executor.

    ``tell`` takes sentences about what goes on there.
    """
    try:
        whole("run", "workers", 1 if workers is None else workers, least=1)
    except BadRule as error:
        raise WorkflowError(str(error)) from None
    cores = os.cpu_count() or 1
    if choice == "local":
        if workers is not None and workers > 1:
            msg = f"workers={workers}: local runs one task at a time; use executor='thread' or 'process'"
            raise WorkflowError(msg)
        return Here(clock, interrupts)
    if choice == "thread":
        threads = workers or min(_MOST_THREADS, cores + 4)
        return InPool(partial(Hands, threads), clock, threads, near=True)
    if choice == "process":
        _refuse_children("process")
        return InPool(partial(_processes, workers or cores), clock, workers or cores)
    if choice == "dask" or is_client(choice):
        return _on_dask(choice, workers, clock, tell)
    if isinstance(choice, str):
        msg = (
            f"executor={quoted(choice)}: there is no such executor; use 'local', 'thread', 'process' or 'dask', a "
            "concurrent.futures.Executor, a client of Dask, or a function that makes one for a number of workers"
        )
        raise WorkflowError(msg)
    if not isinstance(choice, type) and callable(getattr(choice, "submit", None)):
        slots = workers or getattr(choice, "_max_workers", None) or cores
        return InPool(partial(_Lent, choice), clock, int(slots), near=_is_near(choice))
    if callable(choice):
        first = [_made(choice, workers or cores)]
        make = partial(_first_or_another, first, choice, workers or cores)
        return InPool(make, clock, workers or cores, near=_is_near(first[0]))
    msg = f"executor={quoted(choice)} is neither a name nor something that calls could be submitted to"
    raise WorkflowError(msg)


def _on_dask(choice: ExecutorChoice, workers: int | None, clock: ports.Clock, tell: Callable[[str], None]) -> Place:
    from pytest_flowforge.workflow.on_cluster import ClusterPlace  # noqa: PLC0415 - few use one

    if choice != "dask":
        return ClusterPlace(choice, clock, workers, tell)
    _refuse_children("dask")
    return ClusterPlace(None, clock, workers, tell)


def is_client(choice: object) -> bool:
    """Whether that is a client of a Dask cluster."""
    return any(f"{cls.__module__}.{cls.__qualname__}" == "distributed.client.Client" for cls in type(choice).__mro__)


def _refuse_children(executor: str) -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        # A worker that starts by executing the script again would start workers, and so on.
        msg = f'executor={executor!r} in a script needs its call of run() below `if __name__ == "__main__":`'
        raise WorkflowError(msg)


def _processes(workers: int) -> Pool:
    import multiprocessing  # noqa: PLC0415 - only who wants processes pays for it

    context = None
    if multiprocessing.get_start_method() == "fork" and threading.active_count() > 1:
        # A copy of a process with several threads may wait for ever for what one of them held.
        context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(workers, mp_context=context)


def _made(factory: Callable[[int], Any], workers: int) -> Pool:
    try:
        pool = factory(workers)
    except Exception as error:
        msg = f"executor={quoted(factory)}: called with {workers} it raised {one_line(error)}"
        raise WorkflowError(msg) from error
    if not all(callable(getattr(pool, method, None)) for method in ("submit", "shutdown")):
        msg = f"executor={quoted(factory)} made {quoted(pool)}, which has no submit() and shutdown()"
        raise WorkflowError(msg)
    return pool  # type: ignore[no-any-return]


def _first_or_another(first: list[Pool], factory: Callable[[int], Any], workers: int) -> Pool:
    return first.pop() if first else _made(factory, workers)


def _is_near(pool: object) -> bool:
    """Whether calls can be handed to *pool* by reference; an interpreter of its own is not reached by that."""
    return isinstance(pool, ThreadPoolExecutor) and type(pool).__name__ != "InterpreterPoolExecutor"


class _Lent(Pool):
    """A pool of somebody who goes on with it when the run is over."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """Leave it alone."""


class Here:
    """The thread that runs the workflow, which makes one call after the other."""

    grace = 0.0
    takes_coroutines = False

    def __init__(self, clock: ports.Clock, interrupts: Interrupts) -> None:
        self.executor: ports.Executor = InlineExecutor(clock)
        self._interrupts = interrupts

    def job(self, key: Key, call: Call, seconds: float | None) -> Job:
        """Return what makes *call*, which may take so many *seconds*."""
        return Job(*key, partial(self._make, call, seconds))

    def concluded(self, finished: Finished) -> Finished:
        """Return the end of an attempt; called once for each."""
        return finished

    def close(self) -> None: ...

    def _make(self, call: Call, seconds: float | None) -> tuple[Outcome, Call]:
        self._interrupts.forget()
        before = measuring.of_process()
        began = time.monotonic()
        if seconds is None:
            call.run_alone()
        else:
            with _alarm(seconds):
                call.run_alone()
        took = time.monotonic() - began
        call.measures = measuring.since(before, "main")
        if isinstance(call.error, KeyboardInterrupt) and _is_main() and self._interrupts.is_asked_for():
            raise call.error
        if seconds is not None and (isinstance(call.error, _TimeIsUp) or took > seconds):
            call.timed_out(seconds, "" if call.error is None else getattr(call.outcome, "longrepr", ""))
        return Success(), call


class _TimeIsUp(BaseException):
    """Raised in a call on the main thread whose time is up; no ``except Exception`` of the task takes it."""


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise in what is done within, when it takes longer, where that can be done: on the main thread.

    An alarm that somebody else has set rings when it would have.
    """
    if not hasattr(signal, "SIGALRM") or not _is_main() or seconds > _LONGEST:
        yield
        return
    handler = signal.getsignal(signal.SIGALRM)
    theirs = _left(signal.getitimer(signal.ITIMER_REAL)[0])

    def ring(number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= theirs and callable(handler):
            handler(number, frame)
        raise _TimeIsUp(text_of_time(seconds))

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, max(theirs - time.monotonic(), _SOON)), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if theirs != math.inf:
            signal.setitimer(signal.ITIMER_REAL, max(theirs - time.monotonic(), _SOON))


def _left(seconds: float) -> float:
    """When a timer rings that has so many *seconds* left, by the monotonic clock; never without any."""
    return time.monotonic() + seconds if seconds else math.inf


class InPool:
    """The threads or processes of a pool. ``near`` tells that calls need not travel."""

    #: Seconds that tasks have to end when the run is interrupted; nobody can stop a thread.
    grace = 2.0

    def __init__(self, make_pool: Callable[[], Pool], clock: ports.Clock, slots: int, *, near: bool = False) -> None:
        self.takes_coroutines = near
        self._calls = self._executor(make_pool, slots, clock)
        self._limits = CallLimits(lambda key: self._calls.has_begun(*key))
        self.executor: ports.Executor = Limited(self._calls, self._limits, self._give_up)

    def _executor(self, make_pool: Callable[[], Pool], slots: int, clock: ports.Clock) -> FuturesExecutor:
        """Return what hands calls to the pool."""
        near = self.takes_coroutines
        prepare, decode = (_as_it_is, _as_it_came) if near else (order_of, answer_of)
        return FuturesExecutor(make_pool, slots, clock, prepare=prepare, decode=decode)

    def job(self, key: Key, call: Call, seconds: float | None) -> Job:
        """Return what makes *call*, which may take so many *seconds*."""
        if seconds is not None:
            self._limits.add(key, seconds, call)
        return Job(*key, call.run)

    def concluded(self, finished: Finished) -> Finished:
        """Return the end of an attempt; called once for each."""
        self._limits.pop((finished.task, finished.attempt))
        return finished

    def close(self) -> None:
        """Free what was needed to know when calls begin."""
        self._limits.close()

    def _give_up(self, key: Key, seconds: float) -> Finished:
        stack = self._calls.stack_of(*key)
        self._calls.cancel(*key)
        text = text_of_time(seconds)
        return Finished(*key, Failure(FailureKind.TIMED_OUT, text, longrepr=f"{_of_the_task(stack)}{text}"))


Place: TypeAlias = "Here | InPool"


def _of_the_task(stack: str) -> str:
    """*stack* without what has called the task."""
    steps = stack.split("\n  File ")
    below = [step for step in steps if calls.__file__ not in step.partition("\n")[0]]
    return "\n  File ".join(below)


def _as_it_is(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    # Given away as an argument, so that the pool can see whether it is a coroutine.
    return Call.run, (job.call.__self__,)  # type: ignore[attr-defined]


def _as_it_came(_: Job, payload: tuple[Outcome, Any]) -> tuple[Outcome, Any]:
    return payload
