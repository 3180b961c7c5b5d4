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

#: Bytes that are told in an event, of which the scheduler keeps the last thousand. More is fetched.
_MOST_TOLD = 1 << 18


#: Seconds that a call waits until it is known that it begins.
_MOST_WAITED = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """A call for a worker: *call* was packed by :func:`~pytest_flowforge.executors.calls.pack`.

    ``topic`` is where it tells of itself under *key*. ``paths`` are folders that modules may be imported from, where
    they are there. With ``is_limited`` it must be known when it begins.
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
        # Before anybody knows that it begins, and asks.
        with _LOCK:
            _RUNNING[order.key] = threading.get_ident()
        worker.log_event(order.topic, {"key": order.key, "began": worker.address})
        if order.is_limited:
            _wait_until_told(worker)
        facts: dict[str, Any] = {"key": order.key}
        value, came = _made(order, inputs, worker)
        if value is not _NOTHING:
            facts["nbytes"] = _size_of(value)
            if order.previews:
                facts["preview"] = preview(value)
            facts["stored"] = None if order.keep is None else store_result(order.keep, value)
        small = came.value
        data = packed(came)
        if came.unsendable and value is _NOTHING and small is not None:
            came.error = _unsendable(small, came.error)
            data = packed(came)
        if value is _NOTHING and len(data) > _MOST_TOLD:
            return Came(data)
        worker.log_event(order.topic, {**facts, "took": came.seconds, "came": data})
    except BaseException as error:  # noqa: BLE001 - whatever it is, Dask would not know what to do with it
        _over(order.key)
        came = Returned(error=error, trace="".join(traceback.format_exception(error)))
        return Came(packed(came))
    finally:
        # What is raised from outside may be raised in there.
        _over(order.key)
    return None if value is _NOTHING else value


_MODULES = ProjectModules()


def _over(key: str) -> None:
    """The call with that key is over, and nothing is to be raised any more that was meant for it."""
    with _LOCK:
        _RUNNING.pop(key, None)
        # Not for every call: it takes time, and hangs under a profiler.
        if key in _STOPPED:
            _STOPPED.discard(key)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)


#: There is no value that stays here; None is a value.
_NOTHING: Any = object()


def _made(order: Order, inputs: Mapping[str, Any], worker: Any) -> tuple[Any, Returned]:
    """Make the call; return the value that stays here, if there is one, and what else it came to."""
    tell_apart()
    _MODULES.begin(order.topic, order.paths)
    came = made(order.call, inputs, gathering_its_own)
    _over(order.key)
    _MODULES.end()
    came.measures = replace(came.measures or Measures(), worker=_name_of(worker))
    if came.error is not None or came.outcome is not None or _size_of(came.value) <= SMALL:
        return _NOTHING, came
    value, came.value = came.value, None
    wrong = _why_unsendable(value)
    if wrong is None:
        return value, came
    came.error, came.unsendable = _unsendable(value, wrong), True
    came.trace = str(came.error)
    return _NOTHING, came


def _wait_until_told(worker: Any) -> None:
    """Wait until what *worker* has to tell is on its way: a call can keep the interpreter to itself from then on."""
    told = threading.Event()

    async def wait() -> None:
        while worker.batched_stream.buffer:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0.001)
        told.set()

    worker.loop.add_callback(wait)
    told.wait(_MOST_WAITED)


def _unsendable(value: Any, wrong: BaseException | None) -> ResultUnstorable:
    why = "" if wrong is None else f" ({one_line(wrong)})"
    return ResultUnstorable(f"can not be sent to another process: {explain_unpicklable(value)}{why}")


def _name_of(worker: Any) -> str:
    """The worker, and which of its threads this is."""
    number = threading.current_thread().name.rpartition("-")[2]
    return f"dask {worker.name}" + (f" thread {number}" if number.isdecimal() and worker.state.nthreads > 1 else "")


def _size_of(value: Any) -> int:
    """About how many bytes *value* takes, as far as that can be told soon."""
    from distributed.sizeof import safe_sizeof  # noqa: PLC0415 - it is there on workers

    return int(safe_sizeof(value))


def _why_unsendable(value: Any) -> BaseException | None:
    """Return what pickling *value* raises; None where it can go to another worker."""
    try:
        cloudpickle.CloudPickler(_Nowhere(), protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=_drop).dump(value)
    except BaseException as error:  # noqa: BLE001 - it comes from methods of the value
        return error
    return None


class _Nowhere(io.RawIOBase):
    """Takes bytes, and keeps none."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def _drop(_: pickle.PickleBuffer) -> None:
    """Take a buffer out of the stream."""


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
