"""Calls on a Dask cluster, whose results stay there.

A pool like any other to whoever drives it: it takes calls and gives futures. What a call comes to is small (an outcome,
output, numbers) and is fetched; the value stays with the worker that made it, and goes from there to the workers that
ask for it. Whatever a call raises is a part of what it comes to: nothing of ours is ever raised in Dask.

Nothing is tried twice there. A call whose worker dies has had its one try, for Dask would give it to three more
workers.
"""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_flowforge.errors import CheckpointError, ResultUnstorable
from pytest_flowforge.executors.calls import Returned, made, packed
from pytest_flowforge.failures import one_line
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


__all__ = ["DaskPool", "OnCluster", "Stays", "call_on_worker", "store_on_worker"]

#: Bytes of a value that is fetched along with what its call came to.
_SMALL = 1 << 16

#: How the keys of our calls begin.
_PREFIX = "flowforge"


@dataclass(eq=False)
class OnCluster:
    """Stands for a value that is on the cluster; handed to a call, the value arrives in its place."""

    future: Any
    nbytes: int = 0

    def ask(self, question: Callable[..., Any], *args: Any) -> Any:
        """Return what ``question(what it came to, *args)`` returns on a worker that has it."""
        client = self.future.client
        return client.submit(question, self.future, *args, pure=False, retries=0, priority=10).result()

    def fetch(self) -> Any:
        """Return the value; raise what fetching it raises."""
        stays: Stays = self.future.result()
        return stays.value


@dataclass(slots=True)
class Small:
    """What a call came to, with its value."""

    came: bytes


@dataclass(slots=True)
class Stays:
    """What a call came to, beside a value that stays where it is."""

    came: bytes
    value: Any
    nbytes: int


def call_on_worker(call: bytes, inputs: Mapping[str, Any]) -> Small | Stays:
    """Make a call that was packed, with *inputs* that came from other workers; on a worker."""
    came = made(call, {name: _value_of(one) for name, one in inputs.items()})
    if came.error is None and came.outcome is None:
        size = _size_of(came.value)
        if size > _SMALL:
            value, came.value = came.value, None
            return Stays(packed(came), value, size)
    return Small(packed(came))


def _value_of(arrived: Any) -> Any:
    if isinstance(arrived, Stays):
        return arrived.value
    if isinstance(arrived, Small):
        return _unpacked(arrived.came).value
    if isinstance(arrived, dict):
        # Results of several upstreams by name.
        return {name: _value_of(one) for name, one in arrived.items()}
    return arrived


def _size_of(value: Any) -> int:
    """About how many bytes *value* takes, as far as that can be told soon."""
    from distributed.sizeof import safe_sizeof  # noqa: PLC0415 - it is there on workers

    return int(safe_sizeof(value))


def _unpacked(data: bytes) -> Returned:
    came: Returned = pickle.loads(data)  # noqa: S301 - packed by our own call, on a cluster that is trusted with code
    return came


def _told(stays: Stays) -> tuple[bytes, int]:
    """Leave the value behind; on a worker."""
    return stays.came, stays.nbytes


def store_on_worker(stays: Stays, folder: str, run: str) -> list[Any] | str:
    """Store a value in the checkpoint in *folder*, as a result of *run*; return where it is, or why that can not be.

    That is an empty text where this worker does not have that folder. On a worker.
    """
    try:
        place = Place.open(Path(folder), create=False)
    except (OSError, CheckpointError):
        return ""
    try:
        if run not in place.runs():
            return ""
        store = ResultStore(place, run)
        try:
            return store.put(stays.value).to_json()
        except (CheckpointError, ResultUnstorable) as error:
            return str(error)
        finally:
            store.close()
    finally:
        place.close()


class DaskPool(Executor):
    """Calls on the cluster of *client*; ``close`` frees what was started for it."""

    def __init__(self, client: Any, name: str, close: Callable[[], None]) -> None:
        self._client = client
        self._close = close
        self._prefix = f"{_PREFIX}-{name}"
        self._numbers = itertools.count(1)
        self._going: dict[Future[Any], Any] = {}
        client.register_plugin(_one_try_each())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of a call; those that are not ours are made as they are."""
        key = f"{self._prefix}-{next(self._numbers)}"
        there = self._client.submit(fn, *_resolved(args), **kwargs, key=key, pure=False, retries=0)
        here: Future[Any] = Future()
        here.set_running_or_notify_cancel()
        self._going[here] = there
        there.add_done_callback(partial(self._on_done, here))
        return here

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on a call: it is cancelled where it has not begun, and its end is dropped."""
        there = self._going.pop(future, None)
        if there is None:
            return False
        there.cancel(force=True)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - as in Executor
        """Cancel what goes on, and free the cluster of us."""
        going, self._going = list(self._going.values()), {}
        with suppress(Exception):
            if going:
                self._client.cancel(going, force=True)
        self._close()

    def _on_done(self, here: Future[Any], there: Any) -> None:
        """Called on a thread of the client."""
        if self._going.pop(here, None) is None:
            return
        try:
            here.set_result(self._came(there))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this call
            here.set_exception(_as_ours(error))

    def _came(self, there: Any) -> Any:
        if there.status != "finished" or there.type is not Stays:
            answer = there.result()
            return (answer.came, None) if isinstance(answer, Small) else answer
        came, nbytes = self._client.submit(_told, there, pure=False, retries=0, priority=10).result()
        return came, OnCluster(there, nbytes)


def _resolved(args: tuple[Any, ...]) -> list[Any]:
    """Return *args* with futures of Dask in the place of what stands for values on the cluster."""
    return [_future_of(one) for one in args]


def _future_of(argument: Any) -> Any:
    if isinstance(argument, OnCluster):
        return argument.future
    if type(argument) is dict:
        return {name: _future_of(one) for name, one in argument.items()}
    return argument


class WorkerDied(CancelledError):
    """The worker that made a call has gone."""


def _as_ours(error: BaseException) -> BaseException:
    if type(error).__name__ == "KilledWorker":
        return WorkerDied("its worker died")
    return RuntimeError(f"Dask: {one_line(error)}")


def _one_try_each() -> Any:
    """Return a plugin for the scheduler that lets our calls, and no others, be tried once."""
    from distributed import SchedulerPlugin  # noqa: PLC0415 - an extra

    prefix = _PREFIX

    # Made here, so that it travels as it is: the scheduler need not know this package.
    class OneTryEach(SchedulerPlugin):
        name = "pytest-flowforge"
        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:  # noqa: ARG002
            if finish == "processing" and isinstance(key, str) and key.startswith(prefix):
                task = self.scheduler.tasks.get(key)
                if task is not None:
                    # As many deaths as are allowed are behind it.
                    task.suspicious = self.scheduler.allowed_failures

    return OneTryEach()
