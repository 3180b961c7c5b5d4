"""Jobs on any :class:`concurrent.futures.Executor`: threads, processes, interpreters, clusters.

All bookkeeping happens on the thread that calls; pools only add to a queue. What a job looks like on its way to a pool
and back is for those to say who make jobs.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from pytest_flowforge import ports
from pytest_flowforge.core.model import Lost, Outcome, TaskId
from pytest_flowforge.failures import failure_of, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess

    Prepare: TypeAlias = Callable[[ports.Job], tuple[Callable[..., Any], tuple[Any, ...]]]
    Decode: TypeAlias = Callable[[ports.Job, Any], tuple[Outcome, Any]]

__all__ = ["AbandoningPool", "FuturesExecutor", "KnowingPool"]

#: Pools that may break one after the other, without having executed anything, before there will be no other.
_TRIES = 3

#: Seconds that a pool made in the place of a broken one may take to show that it works. Slow is not broken.
_PROBATION = 30.0

#: Seconds between two looks at whether the processes of a pool are still there.
_LOOK = 1.0

#: Seconds that a process may take to go once it was killed, and the thread that looks after it.
_FAREWELL = 5.0


_DROPPED = "its executor has dropped it"


def _as_it_is(job: ports.Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return partial(job.call, **job.inputs), ()


def _as_it_came(_job: ports.Job, payload: Any) -> tuple[Outcome, Any]:
    outcome, value = payload
    return outcome, value


@runtime_checkable
class AbandoningPool(Protocol):
    """A pool that can give up on what executes a call, and so needs no slot for it. All of this has to be there."""

    @property
    def abandoned(self) -> int:
        """How many threads of this process go on that were given up on."""

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on what executes *future*; return whether there was anything."""

    def stack_of(self, future: Future[Any]) -> str:
        """Return where the call of *future* stands now; empty where nobody can tell."""


@runtime_checkable
class KnowingPool(AbandoningPool, Protocol):
    """A pool whose workers come and go, which knows itself how many calls it can make. All of this has to be there."""

    @property
    def slots(self) -> int:
        """How many calls there are to be at a time."""

    @property
    def lost(self) -> str:
        """Why there will be no other pool; empty while there can be one."""


class _Flight:
    """A job in a pool. Told apart by identity: an attempt may be gone while its future still ends."""

    __slots__ = ("future", "job", "pool")

    def __init__(self, job: ports.Job, pool: Executor, future: Future[Any]) -> None:
        self.job = job
        self.pool = pool
        self.future = future

    def forget(self) -> None:
        """It is over. Its future knows it, and would keep the result until Python looks for circles."""
        del self.job, self.future


class FuturesExecutor(ports.Executor):
    """Executes jobs in a pool that *make_pool* makes when the first one starts, *slots* at a time.

    ``prepare(job)`` returns the function and the arguments that go to the pool, ``decode(job, payload)`` what the
    function's result means; for pools of other processes all of these have to pickle. By default the call of the job
    travels as it is. What can not travel is the failure of its attempt, and so is an exception out of either function.

    A job that raises an :class:`Exception` has failed; one that raises anything else, or one of the *fatal* classes,
    makes :meth:`wait` raise it, and the attempt has then no end of its own.

    When a pool breaks, the attempts in it end as :class:`~pytest_flowforge.core.model.Lost`, and the next job gets a
    new pool. See :attr:`lost` for when there is none.
    """

    def __init__(
        self,
        make_pool: Callable[[], Executor],
        slots: int,
        clock: ports.Clock,
        *,
        prepare: Prepare = _as_it_is,
        decode: Decode = _as_it_came,
        fatal: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._make_pool = make_pool
        self._slots = slots
        self._clock = clock
        self._prepare = prepare
        self._decode = decode
        self._fatal = fatal
        self._pool: Executor | None = None
        #: The same, if it knows how many calls it can make.
        self._knowing: KnowingPool | None = None
        #: Attempts whose end is still to be reported.
        self._flying: dict[tuple[TaskId, int], _Flight] = {}
        #: Cancelled, and executed all the same: each takes a slot until it ends.
        self._deaf: set[_Flight] = set()
        #: What goes on in pools of threads that were given up.
        self._left: list[Future[Any]] = []
        #: Filled by the threads of pools; the event is set after each.
        self._landed: deque[_Flight] = deque()
        self._landing = threading.Event()
        #: To be returned by the next wait.
        self._finished: list[ports.Finished] = []
        #: Pools that broke in a row, without having executed anything.
        self._breaks = 0
        self._lost = ""
        #: Accepted when there was no pool any more.
        self._leftover: dict[tuple[TaskId, int], ports.Job] = {}

    @property
    def slots(self) -> int:
        """How many jobs it executes at a time: fewer while there are cancelled ones that go on.

        None once those have half of the slots: what else is in the pool ends, and then the pool is given up. A
        :class:`KnowingPool` knows better.
        """
        if self._knowing is not None and not self._lost:
            return self._knowing.slots
        stuck = len(self._deaf)
        return 0 if self._lost or (stuck and 2 * stuck >= self._slots) else self._slots - stuck

    @property
    def lost(self) -> str:
        """Why it can execute nothing any more; empty while it can.

        That is when pools break one after the other without having executed anything. Jobs that crash are no reason:
        a pool made in the place of a broken one first has to do nothing, and do it well. A :class:`KnowingPool` may
        also say itself that there will be no other.
        """
        return self._lost

    def start(self, job: ports.Job) -> None:
        """Submit *job*; raise what the pool, or making it, raises. Once it is lost, jobs are left over."""
        if self._lost:
            # Whoever takes it over may not need what a pool needs: that it pickles.
            self._leftover[job.task, job.attempt] = job
            return
        function, args = self._prepare(job)
        while (pool := self._working_pool()) is not None:
            try:
                future = pool.submit(function, *args)
            except BrokenExecutor as broken:
                self._replace(pool, broken)
                continue
            flight = self._flying[job.task, job.attempt] = _Flight(job, pool, future)
            future.add_done_callback(partial(self._land, flight))
            return
        self._leftover[job.task, job.attempt] = job

    def leftover(self) -> Sequence[ports.Job]:
        """Return, and forget, the jobs that came when it was lost."""
        jobs = list(self._leftover.values())
        self._leftover.clear()
        return jobs

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Take that attempt back, or give up on what executes it; else it goes on in its slot, and its end is dropped.

        Processes are killed as soon as all of them are at attempts that were cancelled, or at nothing.
        """
        self._leftover.pop((task, attempt), None)
        flight = self._flying.pop((task, attempt), None)
        if flight is None or flight.future.cancel():
            return
        if not isinstance(flight.pool, AbandoningPool) or not flight.pool.abandon(flight.future):
            # One that has ended just now is no exception: it is taken off when it lands.
            self._deaf.add(flight)
            self._let_go_of_what_is_stuck()

    @property
    def abandoned(self) -> int:
        """How many threads go on that were given up on."""
        pool, left = self._pool, len([future for future in self._left if not future.done()])
        return left + pool.abandoned if pool is not None and isinstance(pool, AbandoningPool) else left

    def has_begun(self, task: TaskId, attempt: int) -> bool:
        """Whether that attempt is being executed, as far as its pool can tell."""
        flight = self._flying.get((task, attempt))
        return flight is not None and (flight.future.running() or flight.future.done())

    def stack_of(self, task: TaskId, attempt: int) -> str:
        """Return where the thread that executes that attempt stands now; empty where the pool can not tell."""
        flight = self._flying.get((task, attempt))
        if flight is None or not isinstance(flight.pool, AbandoningPool):
            return ""
        return flight.pool.stack_of(flight.future)

    def interrupt(self) -> None:
        """Do nothing: no job is executed on the thread that could be interrupted."""

    def wait(self, timeout: float | None) -> Sequence[ports.Finished]:
        """Return all that has finished, waiting for the first for at most *timeout* seconds (None: no limit).

        Returns early with nothing when a slot has come back. With nothing in flight, sleep for *timeout* seconds
        (None: return at once).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        slots = self.slots
        while True:
            # Cleared first: what lands while we look will be seen the next time.
            self._landing.clear()
            self._take_in()
            if self._finished or self.slots != slots:
                break
            if not self._flying and not self._deaf:
                if timeout:
                    self._clock.sleep(timeout)
                break
            left = _LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            if not self._landing.wait(min(left, _LOOK)) and self._pool is not None:
                _have_deaths_noticed(self._pool)
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Free the pool; its processes are killed when one of them is busy, busy threads are left to themselves."""
        busy = [flight for flight in (*self._flying.values(), *self._deaf) if not flight.future.cancel()]
        busy = [flight for flight in busy if not flight.future.done()]
        self._flying.clear()
        self._deaf.clear()
        self._finished.clear()
        pool, self._pool, self._knowing = self._pool, None, None
        if pool is None:
            return
        if busy:
            _put_down(pool)
        else:
            pool.shutdown(wait=True)

    # Ends.

    def _land(self, flight: _Flight, _future: Future[Any]) -> None:
        """Remember that *flight* has ended; called by any thread."""
        self._landed.append(flight)
        self._landing.set()

    def _take_in(self) -> None:
        """Turn what has landed into ends; raise what is to stop the run, and leave the others for later."""
        while self._landed:
            flight = self._landed.popleft()
            self._deaf.discard(flight)
            key = (flight.job.task, flight.job.attempt)
            if self._flying.get(key) is not flight:
                flight.forget()
                continue
            outcome, value = self._judge(flight)
            flight.forget()
            # A pool that broke has ended all in it, this one included.
            if self._flying.pop(key, None) is not None:
                self._finished.append(ports.Finished(*key, outcome, value))
        if self._deaf:
            self._let_go_of_what_is_stuck()

    def _judge(self, flight: _Flight) -> tuple[Outcome, Any]:
        try:
            error = flight.future.exception()
        except CancelledError:
            # Not by us: those are not in flight any more.
            return Lost(_DROPPED), None
        if isinstance(error, BrokenExecutor) and (flight.pool is not self._pool or _is_broken(flight.pool)):
            self._replace(flight.pool, error)
            return Lost(_why(error)), None
        if flight.pool is self._pool:
            self._breaks = 0
        if error is None:
            try:
                return self._decode(flight.job, flight.future.result())
            except (Exception, SystemExit) as undecodable:  # noqa: BLE001 - a result that nobody can read is its failure
                return failure_of(undecodable), None
        if isinstance(error, CancelledError):
            return Lost(str(error) or _DROPPED), None
        if isinstance(error, Exception) and not isinstance(error, self._fatal):
            return failure_of(error), None
        del self._flying[flight.job.task, flight.job.attempt]
        raise error

    # Pools.

    def _working_pool(self) -> Executor | None:
        """Return the pool, or a new one; None when there will be no other."""
        while self._pool is None and not self._lost:
            pool = self._pool = self._make_pool()
            self._knowing = pool if isinstance(pool, KnowingPool) else None
            if self._breaks:
                self._try_out(pool)
        return self._pool

    def _try_out(self, pool: Executor) -> None:
        """Have *pool* do nothing once, so that a job that crashes is told from a pool that can not work."""
        try:
            # Any function will do that every process knows.
            pool.submit(int).result(_PROBATION)
        except BrokenExecutor as broken:
            self._replace(pool, broken)
        except Exception:  # noqa: BLE001 - slow, or particular about functions; it is not broken, and jobs will show
            return
        else:
            self._breaks = 0

    def _replace(self, pool: Executor, broken: BaseException) -> None:
        """Let go of *pool*, which is broken, and of all that was in it; nothing when that was done before."""
        if pool is not self._pool:
            return
        self._breaks += 1
        self._lost = pool.lost if isinstance(pool, KnowingPool) else ""
        if self._breaks >= _TRIES and not self._lost:
            self._lost = f"{_TRIES} pools broke in a row, the later ones before they had done anything: {_why(broken)}"
        for key, flight in list(self._flying.items()):
            # Those that had ended before, and land next, count as they ended.
            if flight.pool is pool and not flight.future.done():
                del self._flying[key]
                self._finished.append(ports.Finished(*key, Lost(_why(broken))))
        self._let_go(pool)

    def _let_go_of_what_is_stuck(self) -> None:
        """Let go of the pool when all in it was cancelled and goes on: its processes are killed, threads left."""
        pool = self._pool
        if pool is None or self._flying or not any(flight.pool is pool for flight in self._deaf):
            return
        if _killer(pool) is not None:
            self._let_go(pool)
        elif not self.slots:
            self._left += [flight.future for flight in self._deaf if flight.pool is pool]
            self._let_go(pool)

    def _let_go(self, pool: Executor) -> None:
        self._pool = self._knowing = None
        self._deaf = {flight for flight in self._deaf if flight.pool is not pool}
        _put_down(pool)


def _why(broken: BaseException) -> str:
    text = str(broken).strip()
    return text.splitlines()[0] if text else one_line(broken)


def _is_broken(pool: Executor) -> bool:
    """Whether *pool* takes nothing any more; a job may have had a pool of its own, and that one broke."""
    try:
        pool.submit(int)
    except RuntimeError:
        # BrokenExecutor is one, too; the others say that somebody has shut it down.
        return True
    return False


def _have_deaths_noticed(pool: Executor) -> None:
    """Wake *pool* when one of its processes has died.

    ProcessPoolExecutor watches the processes that were there when it last began to wait. One that is started by a later
    job may be missing, and then nobody would hear of its death.
    """
    processes: Mapping[int, BaseProcess] = getattr(pool, "_processes", None) or {}
    if not processes:
        return
    # Loaded by then: there are processes. Looking at exit codes instead would take them away from the pool.
    from multiprocessing.connection import wait  # noqa: PLC0415

    # The pool may just be putting them away, or have noticed and refuse; any submission wakes it.
    with suppress(OSError, ValueError, RuntimeError):
        if wait([process.sentinel for process in list(processes.values())], timeout=0):
            pool.submit(int)


def _put_down(pool: Executor) -> None:
    """Shut *pool* down without waiting for anything but the end of its processes, which are killed."""
    killer = _killer(pool)
    manager: threading.Thread | None = getattr(pool, "_executor_manager_thread", None)
    if killer is None:
        pool.shutdown(wait=False)
        return
    killer()
    if manager is not None:
        # A process that is forked while this thread holds a lock of the pool hangs as soon as it collects that pool.
        manager.join(_FAREWELL)


def _killer(pool: Executor) -> Callable[[], object] | None:
    """Return what shuts *pool* down and kills its processes; None when it has none."""
    kill_workers: Callable[[], object] | None = getattr(pool, "kill_workers", None)
    if kill_workers is not None:
        # Python 3.14 and later.
        return kill_workers
    if "kill_workers" in inspect.signature(pool.shutdown).parameters:
        # loky.
        shutdown: Callable[..., None] = pool.shutdown
        return partial(shutdown, kill_workers=True)
    # There is no public way before Python 3.14. Taken before the shutdown, which forgets them.
    processes = getattr(pool, "_processes", None)
    if not processes:
        return None
    return partial(_kill, pool, list(processes.values()), getattr(pool, "_call_queue", None))


def _kill(pool: Executor, processes: Sequence[BaseProcess], calls: Any) -> None:
    pool.shutdown(wait=False)
    # One that has gone by itself, or was never quite there, is gone.
    for process in processes:
        with suppress(Exception):
            process.kill()
    for process in processes:
        with suppress(Exception):
            process.join(_FAREWELL)
    writer: threading.Thread | None = getattr(calls, "_thread", None)
    if sys.version_info < _LETS_GO and writer is not None:
        # It may go on writing to a pipe that nobody reads, and the interpreter waits for it. Only then is the pipe ours
        # to close. Of two threads that close it, the second closes what has got the number in between: a pipe of the
        # next pool, which then hears of nothing.
        writer.join(_STUCK)
        if writer.is_alive():
            with suppress(Exception):
                calls._reader.close()  # noqa: SLF001 - there is no public way


#: The Python whose pools, when they break, free the thread that writes calls for their processes.
_LETS_GO = (3, 11, 5)

#: Seconds after which that thread is taken for stuck. It is done at once, or never.
_STUCK = 1.0
