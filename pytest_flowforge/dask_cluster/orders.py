"""What a worker of a Dask cluster does for us: it makes a call, keeps its value, and tells what it came to.

What a call comes to (an outcome, output, numbers, a small value) is told in an event, which saves asking for it. A
value that is not small is the result of the Dask task, stays with its worker, and goes from there to the workers that
ask for it. Nothing of ours is ever raised in Dask: an exception is a part of what a call came to.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import pickle
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cloudpickle

from pytest_flowforge.core.model import Measures
from pytest_flowforge.dask_cluster.importing import ProjectModules
from pytest_flowforge.dask_cluster.results import Keep, store_result
from pytest_flowforge.errors import ResultUnstorable
from pytest_flowforge.executors.calls import Returned, gathering_its_own, made, packed
from pytest_flowforge.failures import one_line
from pytest_flowforge.report.previews import preview
from pytest_flowforge.storage.codec import explain_unpicklable
from pytest_flowforge.writers import tell_apart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SMALL", "Came", "Order", "make_call", "running", "stack_of", "stop"]

#: Bytes of a value that is told along with what its call came to.
SMALL = 1 << 16

#: Bytes that are told in an event, which goes through the scheduler. More is fetched.
_MOST_TOLD = 1 << 17

#: Classes of values that are packed and stored in no time.
_AT_ONCE = (type(None), bool, int, float)

#: Seconds that a call waits until it is known that it begins, or has returned: at most, and between two looks.
_MOST_WAITED, _MOMENT = 5.0, 0.001


@dataclass(frozen=True, slots=True)
class Order:
    """A call for a worker: *call* was packed by :func:`~pytest_flowforge.executors.calls.pack`.

    ``topic`` is where it tells of itself under *key*. ``paths`` are folders that modules may be imported from, where
    they are there. With ``is_limited`` it must be known when it begins, and when it returns.
    """

    key: str
    topic: str
    call: bytes
    is_limited: bool
    previews: bool
    keep: Keep | None
    paths: tuple[str, ...]


@dataclass(slots=True)
class Came:
    """What a call came to, where that is too much for an event."""

    data: bytes


#: The calls that are made in this process: the thread of each, by key.
_RUNNING: dict[str, int] = {}
#: Those in which an exception is to be raised.
_STOPPED: set[str] = set()
_LOCK = threading.Lock()


class Stopped(BaseException):
    """Raised in a call that is to end; no ``except Exception`` of a task takes it."""


def make_call(order: Order, inputs: Mapping[str, Any]) -> Any:
    """Make the call of *order*, with *inputs* that came from other workers; on a worker.

    Returns the value where it stays here, :class:`Came` where what the call came to has to be fetched, else None.
    """
    from distributed import get_worker  # noqa: PLC0415 - it is there on workers

    worker = get_worker()
    try:
        # What others came to is not to be lost with a call that kills its worker at once.
        stream = worker.batched_stream
        is_told = not stream.buffer and stream.next_deadline is None
        # Before anybody knows that it begins, and asks.
        with _LOCK:
            _RUNNING[order.key] = threading.get_ident()
        worker.log_event(order.topic, {"key": order.key, "began": worker.address})
        if order.is_limited or not is_told:
            _wait_until_told(worker, is_written=order.is_limited)
        done = _made(order, inputs, worker)
        facts: dict[str, Any] = {"key": order.key, "took": done.came.seconds, "came": done.data}
        if done.stays:
            facts["nbytes"] = done.nbytes
            if order.previews:
                facts["preview"] = preview(done.value)
            facts["stored"] = None if order.keep is None else store_result(order.keep, done.value)
        elif len(done.data) > _MOST_TOLD:
            return Came(done.data)
        worker.log_event(order.topic, facts)
    except BaseException as error:  # noqa: BLE001 - whatever it is, Dask would not know what to do with it
        _over(order.key)
        came = Returned(error=error, trace="".join(traceback.format_exception(error)))
        return Came(packed(came))
    finally:
        # What is raised from outside may be raised in there.
        _over(order.key)
    return done.value


_MODULES = ProjectModules()


def _over(key: str) -> None:
    """The call with that key is over, and nothing is to be raised any more that was meant for it."""
    with _LOCK:
        _RUNNING.pop(key, None)
        # Not for every call: it takes time, and hangs under a profiler.
        if key in _STOPPED:
            _STOPPED.discard(key)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)


@dataclass(slots=True)
class _Done:
    """A call that was made: what it came to, as it is told, and packed; its value, of so many bytes, if that stays."""

    came: Returned
    data: bytes
    value: Any = None
    nbytes: int = 0

    @property
    def stays(self) -> bool:
        return self.nbytes > SMALL


def _made(order: Order, inputs: Mapping[str, Any], worker: Any) -> _Done:
    """Make the call; return what it came to."""
    tell_apart()
    _MODULES.begin(order.topic, order.paths)
    came = made(order.call, inputs, gathering_its_own)
    _over(order.key)
    if order.is_limited and type(came.value) not in _AT_ONCE:
        worker.log_event(order.topic, {"key": order.key, "returned": True})
        _wait_until_told(worker)
    _MODULES.end()
    came.measures = replace(came.measures or Measures(), worker=_name_of(worker))
    if came.error is not None or came.outcome is not None:
        return _Done(came, packed(came))
    value, nbytes = came.value, _size_of(came.value)
    if nbytes <= SMALL:
        done = _packed_with_value(came)
        if done is not None:
            return done
        # Dask knows nothing of what is in instances of most classes.
        nbytes = SMALL + 1
    came.value = None
    written, wrong = _written(value)
    if wrong is None:
        return _Done(came, packed(came), value, max(nbytes, written))
    return _unsendable(came, value, wrong)


def _packed_with_value(came: Returned) -> _Done | None:
    """Return what is told where the value is a part of that; None where the value is too large for it."""
    value = came.value
    data = packed(came)
    if came.unsendable:
        return _unsendable(came, value, came.error)
    if len(data) > SMALL:
        came.value = None
        # It may be what the call has written that is large.
        if len(data) - len(packed(came)) > SMALL:
            return None
        came.value = value
    return _Done(came, data)


def _unsendable(came: Returned, value: Any, wrong: BaseException | None) -> _Done:
    """A call whose value can go nowhere has failed."""
    why = "" if wrong is None else f" ({one_line(wrong)})"
    came.error = ResultUnstorable(f"can not be sent to another process: {explain_unpicklable(value)}{why}")
    came.value, came.unsendable, came.trace = None, True, str(came.error)
    return _Done(came, packed(came))


def _wait_until_told(worker: Any, *, is_written: bool = True) -> None:
    """Wait until what *worker* has to tell is on its way: a call can keep the interpreter to itself from then on.

    Mostly it is written then; with ``is_written`` it certainly is, which takes two or three times as long.
    """
    told = threading.Event()
    stream = worker.batched_stream

    async def wait() -> None:
        while stream.buffer:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(_MOMENT)
        # What was taken from there may be written in a later turn of the loop, which may never come once the call is
        # made. It is written when nothing is left to do, or when the next batch is.
        batch = stream.batch_count
        while is_written and stream.next_deadline is not None and stream.batch_count == batch:  # noqa: ASYNC110 - nor for that
            await asyncio.sleep(_MOMENT)
        told.set()

    worker.loop.add_callback(wait)
    told.wait(_MOST_WAITED)


def _name_of(worker: Any) -> str:
    """The worker, and which of its threads this is."""
    number = threading.current_thread().name.rpartition("-")[2]
    return f"dask {worker.name}" + (f" thread {number}" if number.isdecimal() and worker.state.nthreads > 1 else "")


def _size_of(value: Any) -> int:
    """About how many bytes *value* takes, as far as that can be told soon."""
    from distributed.sizeof import safe_sizeof  # noqa: PLC0415 - it is there on workers

    return int(safe_sizeof(value))


def _written(value: Any) -> tuple[int, BaseException | None]:
    """Return how many bytes *value* is on its way to another worker, and what pickling it raises."""
    nowhere = _Nowhere()

    def count(buffer: pickle.PickleBuffer) -> None:
        nowhere.nbytes += memoryview(buffer).nbytes

    try:
        cloudpickle.CloudPickler(nowhere, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=count).dump(value)
    except BaseException as error:  # noqa: BLE001 - it comes from methods of the value
        return nowhere.nbytes, error
    return nowhere.nbytes, None


class _Nowhere(io.RawIOBase):
    """Counts bytes, and keeps none."""

    nbytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        written = memoryview(data).nbytes
        self.nbytes += written
        return written


# What workers are asked beside their calls.


def running(keys: Sequence[str]) -> list[str]:
    """Return those of *keys* whose calls are being made here."""
    with _LOCK:
        return [key for key in keys if key in _RUNNING]


def stop(keys: Sequence[str]) -> list[str]:
    """Have an exception raised in the calls with these keys that are made here; return which those are.

    What does not execute Python (a long sleep, a loop in C) takes no notice until it does.
    """
    with _LOCK:
        here = [key for key in keys if key in _RUNNING]
        _STOPPED.update(here)
        for key in here:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(_RUNNING[key]), ctypes.py_object(Stopped))
    return here


def stack_of(key: str) -> str:
    """Return where the call with that key stands now; empty where it is not made here."""
    with _LOCK:
        frame = sys._current_frames().get(_RUNNING.get(key, 0))  # noqa: SLF001 - there is no other way
    if frame is None:
        return ""
    steps = traceback.extract_stack(frame)
    below = next(
        (at for at, step in enumerate(steps) if step.name == "made" and step.filename == made.__code__.co_filename), -1
    )
    return "".join(traceback.format_list(steps[below + 1 :]))
