"""A pool of calls on a Dask cluster, whose results stay there.

A pool like any other to whoever drives it: it takes calls and gives futures. What a call comes to is told by its
worker; the value stays there, unless it is small. Calls are handed over in batches by a thread of ours, and a second
one looks after the cluster: who is there, whether the scheduler answers, what goes on although nobody wants it.
"""

from __future__ import annotations

import itertools
import queue
import re
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge.dask_cluster.orders import (
    Came,
    Keep,
    Order,
    load_result,
    make_call,
    running,
    sees,
    stack_of,
    stop,
)
from pytest_flowforge.dask_cluster.watchdog import PREFIX, others_on, watchdog
from pytest_flowforge.errors import ResultMissing
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Answer", "DaskPool", "OnCluster", "Request", "SchedulerGone"]

#: Seconds between two looks at the cluster.
_LOOK = 2.0

#: Seconds between two looks at calls that are to end.
_PAUSE = 0.05

#: Seconds that a worker has to say what it is doing, before that is no matter any more.
_ANSWER = 2.0

#: Seconds that it may take to have workers started anew whose calls do not end, when the pool is closed.
_FAREWELL = 10.0

#: Seconds after which a call that Dask says has ended, and that told nothing, is given up.
_SILENCE = 10.0


class SchedulerGone(BrokenExecutor):
    """The scheduler of the cluster does not answer any more."""


class WorkerDied(CancelledError):
    """The worker that made a call has gone."""


@dataclass(eq=False)
class OnCluster:
    """Stands for the value of the task *label* on the cluster; handed to a call, the value arrives in its place.

    ``load`` returns the value where it is kept elsewhere, too; ``reload`` has a worker load it from there, and returns
    the future of that.
    """

    future: Any
    nbytes: int
    label: str = ""
    load: Callable[[], Any] | None = None
    reload: Callable[[], Any] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it has gone with the workers that had it."""
        return self.future.status not in ("finished", "pending")

    def fetch(self) -> Any:
        """Return the value; raise :class:`ResultMissing` where it is nowhere any more."""
        if not self.is_lost:
            # It may be lost on its way here.
            with suppress(Exception):
                return self.future.result()
        if self.load is not None:
            return self.load()
        msg = (
            f"the result of {self.label} was lost with the worker that had it, and is not kept: {self.label} runs again"
            " on --ff-resume"
        )
        raise ResultMissing(msg)


@dataclass(frozen=True, slots=True)
class Request:
    """A call to be made on a worker, with *inputs* of which some are on the cluster.

    ``name`` is what the dashboard shows. ``on_begin`` is called, on a thread of the client, when the call begins.
    ``resources`` are those of Dask's workers.
    """

    name: str
    call: bytes
    inputs: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    on_begin: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to, packed; its value where that stays on the cluster.

    ``stored`` is where its worker has stored it, or in words why it could not.
    """

    data: bytes
    value: OnCluster | None = None
    stored: Sequence[Any] | str | None = None
    preview: str = ""


@dataclass(eq=False, slots=True)
class _Call:
    """A call under way: our future, and that of Dask once it was handed over."""

    key: str
    request: Request
    here: Future[Any]
    there: Any = None
    worker: str = ""
    #: When Dask said that it has ended.
    silent_since: float = 0.0


class DaskPool(Executor):
    """Calls on the cluster of *client*.

    ``orders`` makes the order for a call from its key, topic and request. ``most`` is how many calls are made at a time
    (None: as many as the workers have threads). ``patience`` is how many seconds the scheduler may be silent, ``grace``
    how many a call has to end whose time is up. ``close`` frees what was started for the pool, which is the cluster if
    that ``is_ours``; ``tell`` takes sentences for people.
    """

    def __init__(  # noqa: PLR0913 - all of it is decided by who connects
        self,
        client: Any,
        run: str,
        order: Callable[[str, str, Request], Order],
        *,
        most: int | None,
        patience: float,
        grace: float,
        close: Callable[[], None],
        is_ours: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._order = order
        self._most = most
        self._patience = patience
        self._grace = grace
        self._free = close
        self._is_ours = is_ours
        self._tell = tell
        self._topic = f"{PREFIX}{run}"
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        #: Threads of each worker.
        self._threads: dict[str, int] = {}
        #: Calls that nobody wants any more, and that may go on; by key, the worker where that is known.
        self._unwanted: dict[str, str] = {}
        self._closed = threading.Event()
        #: Why there is no cluster any more.
        self.lost = ""
        client.register_plugin(watchdog())
        client.subscribe_topic(self._topic, self._on_event)
        self._look()
        self._threads_of_ours = [
            threading.Thread(target=target, name=f"flowforge-dask-{name}", daemon=True)
            for name, target in (("send", self._send_all), ("watch", self._watch))
        ]
        for thread in self._threads_of_ours:
            thread.start()

    # As an executor.

    @property
    def slots(self) -> int:
        """How many calls are made at a time."""
        threads = sum(self._threads.values())
        if not threads:
            # There may be workers soon, and some clusters start them only when there is something to do.
            return self._most or 1
        free = max(threads - len(self._unwanted), 0)
        return free if self._most is None else min(free, self._most)

    @property
    def workers(self) -> Mapping[str, int]:
        """The threads of each worker, by address."""
        return self._threads

    def load(self, keep: Keep, ref: Sequence[Any]) -> Any:
        """Have a worker load a stored result; return the future of that."""
        key = f"{PREFIX}load-{self._run}-{next(self._numbers)}"
        return self._client.submit(load_result, keep, ref, key=key, pure=False, retries=0)

    def all_see(self, keep: Keep) -> bool:
        """Whether all workers can read what is stored as *keep* says."""
        told = [self._ask(worker, sees, keep) for worker in self._threads]
        return bool(told) and all(told)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of ``Request`` *fn*'s :class:`Answer`; any other function is called here and now."""
        if self.lost or self._closed.is_set():
            raise SchedulerGone(self.lost or "it was closed")
        here: Future[Any] = Future()
        if not isinstance(fn, Request):
            here.set_result(fn(*args, **kwargs))
            return here
        name = re.sub(r"[^\w.]", "_", fn.name)
        call = _Call(f"{PREFIX}{name}-{self._run}-{next(self._numbers)}", fn, here)
        with self._lock:
            self._calls[call.key] = call
        here.add_done_callback(partial(self._on_cancelled, call))
        self._waiting.put(call)
        return here

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on a call, and stop it where that can be; return whether there was anything. Its end is dropped."""
        with self._lock:
            call = next((one for one in self._calls.values() if one.here is future), None)
        if call is None or self._taken(call.key) is None:
            return False
        self._give_up([call])
        return True

    def stack_of(self, future: Future[Any]) -> str:
        """Return where a call stands now; empty where nobody can tell."""
        with self._lock:
            call = next((one for one in self._calls.values() if one.here is future), None)
        if call is None or not call.worker:
            return ""
        told = self._ask(call.worker, stack_of, call.key)
        return told or ""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - as in Executor
        """Stop what goes on, and free the cluster of us."""
        if self._closed.is_set():
            return
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        if not self.lost and not self._is_ours:
            self._give_up(calls)
            until = time.monotonic() + self._grace + _FAREWELL
            while self._unwanted and time.monotonic() < until:
                time.sleep(_PAUSE)
        self._closed.set()
        self._waiting.put(None)
        with suppress(Exception):
            self._client.unsubscribe_topic(self._topic)
        self._free()

    # Handing over.

    def _send_all(self) -> None:
        """Hand calls over, all together that have come meanwhile."""
        while (first := self._waiting.get()) is not None:
            calls = [first]
            with suppress(queue.Empty):
                while True:
                    another = self._waiting.get_nowait()
                    if another is None:
                        return
                    calls.append(another)
            groups: dict[Any, list[_Call]] = {}
            for call in calls:
                if call.key not in self._calls:
                    continue
                request = call.request
                alike = (request.priority, tuple(sorted(request.resources.items())))
                groups.setdefault(alike if not _is_there(request.inputs) else call.key, []).append(call)
            for group in groups.values():
                try:
                    self._send(group)
                except Exception as error:  # noqa: BLE001 - whatever it is, these calls have ended
                    for call in group:
                        self._end(call.key, error=error)

    def _send(self, calls: Sequence[_Call]) -> None:
        request = calls[0].request
        options: dict[str, Any] = {"pure": False, "retries": 0, "priority": request.priority}
        if request.resources:
            options["resources"] = dict(request.resources)
        if self._unwanted:
            stuck = set(self._unwanted.values())
            free = [worker for worker in self._threads if worker not in stuck]
            if free and len(free) < len(self._threads):
                # Whatever becomes of these: others may be asked once they have gone.
                options |= {"workers": free, "allow_other_workers": True}
        orders = [self._order(call.key, self._topic, call.request) for call in calls]
        keys = [call.key for call in calls]
        if len(calls) == 1:
            inputs = {name: _arriving(value) for name, value in request.inputs.items()}
            futures = [self._client.submit(make_call, orders[0], inputs, key=keys[0], **options)]
        else:
            futures = self._client.map(
                make_call, orders, [dict(call.request.inputs) for call in calls], key=keys, **options
            )
        for call, there in zip(calls, futures, strict=True):
            call.there = there
            there.add_done_callback(partial(self._on_done, call))
            if call.key not in self._calls:
                # Given up meanwhile.
                there.cancel(force=True)

    # Ends. Called by threads of the client.

    def _on_event(self, event: tuple[float, Any]) -> None:
        _, told = event
        key = told["key"]
        if "began" in told:
            call = self._calls.get(key)
            if call is not None:
                call.worker = told["began"]
                with suppress(InvalidStateError, RuntimeError):
                    call.here.set_running_or_notify_cancel()
                if call.request.on_begin is not None:
                    call.request.on_begin()
            return
        call = self._taken(key)
        if call is None:
            return
        value = OnCluster(call.there, told["nbytes"]) if "nbytes" in told else None
        _set(call.here, Answer(told["came"], value, told.get("stored"), told.get("preview", "")))

    def _on_done(self, call: _Call, there: Any) -> None:
        if call.key not in self._calls:
            return
        status = there.status
        if status == "finished":
            if there.type is Came:
                self._in_background(self._fetch, call, there)
            else:
                # What it came to has been told, and is about to arrive.
                call.silent_since = time.monotonic()
            return
        if status == "error":
            error = there.exception()
            self._end(call.key, error=WorkerDied("its worker died") if _is_death(error) else _of_dask(error))
        elif self._client.status != "running":
            # Whatever goes on there, the scheduler has forgotten whose it is.
            self._lose("the connection was lost")
        elif any(one.is_lost for one in _on_cluster(call.request.inputs)):
            # It can not have begun: while a call is made, its worker has what it needs.
            self._waiting.put(call)
        else:
            self._end(call.key, error=CancelledError("the cluster has dropped it"))

    def _fetch(self, call: _Call, there: Any) -> None:
        try:
            came: Came = there.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody will know what the call came to
            self._end(call.key, error=WorkerDied(f"what it came to was lost ({one_line(error)})"))
        else:
            if self._taken(call.key) is not None:
                _set(call.here, Answer(came.data))

    def _end(self, key: str, *, error: BaseException) -> None:
        call = self._taken(key)
        if call is not None:
            with suppress(InvalidStateError):
                call.here.set_exception(error)

    def _taken(self, key: str) -> _Call | None:
        """The call with that key, for who ends it; None when somebody has done that."""
        with self._lock:
            return self._calls.pop(key, None)

    def _on_cancelled(self, call: _Call, here: Future[Any]) -> None:
        if here.cancelled() and self._taken(call.key) is not None:
            self._give_up([call])

    # What goes on although nobody wants it.

    def _give_up(self, calls: Iterable[_Call]) -> None:
        """Cancel calls where they have not begun, and have them end where they have."""
        sent = [call for call in calls if call.there is not None]
        if not sent:
            return
        with suppress(Exception):
            for call in sent:
                self._unwanted[call.key] = call.worker
            self._client.cancel([call.there for call in sent], force=True)
        self._in_background(self._stop, [call.key for call in sent])

    def _stop(self, keys: Sequence[str]) -> None:
        """Have the calls with these keys end that have begun; those that do not end take their worker with them."""
        by_worker: dict[str, list[str]] = {}
        for key in keys:
            by_worker.setdefault(self._unwanted.get(key, ""), []).append(key)
        unknown = by_worker.pop("", [])
        if unknown:
            for worker in list(self._threads):
                found = self._ask(worker, running, unknown)
                # Who does not answer may be busy with any of them.
                by_worker.setdefault(worker, []).extend(unknown if found is None else found)
        held = {key for found in by_worker.values() for key in found}
        for key in set(keys) - held:
            self._unwanted.pop(key, None)
        for worker, found in by_worker.items():
            if found:
                for key in found:
                    self._unwanted[key] = worker
                self._in_background(self._clear_worker, worker, found)

    def _clear_worker(self, worker: str, keys: Sequence[str]) -> None:
        self._ask(worker, stop, keys)
        until = time.monotonic() + self._grace
        left: Sequence[str] = keys
        while time.monotonic() < until and left and not self._closed.is_set():
            time.sleep(_PAUSE)
            told = self._ask(worker, running, left)
            left = left if told is None else told
        for key in set(keys) - set(left):
            self._unwanted.pop(key, None)
        if left and worker in self._threads:
            self._restart(worker, left)

    def _restart(self, worker: str, keys: Sequence[str]) -> None:
        """As the last step, have a worker started anew, once nothing else of ours is on it."""
        goes = "1 call goes on" if len(keys) == 1 else f"{len(keys)} calls go on"
        what = f"{goes} at the worker {worker} that nobody waits for"
        while not self._closed.is_set():
            if self._busy(worker, keys):
                time.sleep(_PAUSE * 10)
                continue
            try:
                others = self._client.run_on_scheduler(others_on(), worker)
                if others:
                    self._tell(f"{what}: it is not restarted, for others use it, too, and has a thread less for us")
                    return
                self._save(worker)
                self._client.restart_workers([worker], timeout=self._patience)
            except Exception as error:  # noqa: BLE001 - it stays as it is, and that is said
                if worker in self._look():
                    self._tell(
                        f"{what}, and it could not be restarted ({one_line(error)}): it has a thread less for us"
                    )
                    return
            break
        self._look()
        for key in keys:
            self._unwanted.pop(key, None)

    def _busy(self, worker: str, unwanted: Sequence[str]) -> bool:
        """Whether that worker has other calls of ours."""
        try:
            on_it = self._client.processing([worker]).get(worker, ())
        except Exception:  # noqa: BLE001 - the worker has gone, or will be found to
            return False
        with self._lock:
            return any(key in self._calls and key not in unwanted for key in on_it)

    def _save(self, worker: str) -> None:
        """Have values that only this worker has copied to another one."""
        elsewhere = [other for other in self._threads if other != worker]
        held = [key for key in self._client.has_what([worker]).get(worker, ()) if key in self._client.futures]
        if elsewhere and held:
            from distributed import Future as DaskFuture  # noqa: PLC0415 - an extra

            self._client.replicate([DaskFuture(key, self._client) for key in held], n=1, workers=elsewhere)

    # The cluster.

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the scheduler does not answer
                self._lose(one_line(error))
                return
            now = time.monotonic()
            for call in list(self._calls.values()):
                if call.silent_since and now - call.silent_since > _SILENCE:
                    self._end(call.key, error=WorkerDied("what it came to was lost"))

    def _look(self) -> Mapping[str, int]:
        """Find out who is there; raise what that raises when the scheduler does not answer."""
        facts = self._in_background(self._client.sync, self._client.scheduler.identity).result(self._patience)
        self._threads = {address: int(worker["nthreads"]) for address, worker in facts["workers"].items()}
        for key, worker in list(self._unwanted.items()):
            if worker and worker not in self._threads:
                self._unwanted.pop(key, None)
        return self._threads

    def _lose(self, why: str) -> None:
        """There is no scheduler any more."""
        self.lost = self.lost or f"the Dask scheduler does not answer any more ({why})"
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            with suppress(InvalidStateError):
                call.here.set_exception(SchedulerGone(self.lost))

    def _ask(self, worker: str, question: Callable[..., Any], *args: Any) -> Any:
        """Return what a worker answers; None where it does not."""
        try:
            asked = self._in_background(self._client.run, question, *args, workers=[worker], on_error="ignore")
            return asked.result(_ANSWER).get(worker)
        except Exception:  # noqa: BLE001 - it has gone, or is busy with something that lets nothing else happen
            return None

    def _in_background(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Call *function* on a thread of its own: who does not answer keeps nobody else waiting."""
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody asks
                future.set_exception(error)

        threading.Thread(target=work, name="flowforge-dask-ask", daemon=True).start()
        return future


def _set(here: Future[Any], answer: Answer) -> None:
    with suppress(InvalidStateError):
        here.set_result(answer)


def _on_cluster(inputs: Mapping[str, Any]) -> list[OnCluster]:
    found = []
    for value in inputs.values():
        found += [one for one in (value.values() if type(value) is dict else (value,)) if isinstance(one, OnCluster)]
    return found


def _is_there(inputs: Mapping[str, Any]) -> bool:
    return bool(_on_cluster(inputs))


def _arriving(value: Any) -> Any:
    """What is sent in the place of *value*: the future of what is on the cluster, which Dask replaces by the value."""
    if isinstance(value, OnCluster):
        if value.is_lost:
            if value.reload is None:
                return value.fetch()
            value.future = value.reload()
        return value.future
    if type(value) is dict:
        return {name: _arriving(one) for name, one in value.items()}
    return value


def _is_death(error: BaseException | None) -> bool:
    return type(error).__name__ == "KilledWorker"


def _of_dask(error: BaseException | None) -> BaseException:
    """An error that is not of the task: it comes from what Dask does around it."""
    return RuntimeError(f"Dask could not make the call: {one_line(error) if error is not None else 'nobody knows why'}")
