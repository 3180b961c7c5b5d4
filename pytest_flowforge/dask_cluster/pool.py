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
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge.dask_cluster.orders import (
    Came,
    Order,
    make_call,
    running,
    stack_of,
    stop,
)
from pytest_flowforge.dask_cluster.results import Keep, load_result, sees
from pytest_flowforge.dask_cluster.watchdog import PREFIX, others_on, watchdog
from pytest_flowforge.errors import ClusterUnreachable, ResultMissing
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Answer", "DaskPool", "OnCluster", "Request", "SchedulerGone"]

#: Seconds between two looks at the cluster.
_LOOK = 2.0

#: Calls that take less than so many seconds are quick, and so many of them are handed over for each thread.
_QUICK, _AHEAD = 0.1, 2

#: What a call adds to what is known of those before it.
_WEIGHT = 0.2

#: Seconds between two looks at calls that are to end.
_PAUSE = 0.05

#: Seconds that a worker has to say what it is doing, before that is no matter any more.
_ANSWER = 2.0

#: Seconds after which a call begins no more that was taken back.
_SETTLED = 0.5

#: Seconds that calls have to end when the pool is closed: the run has given them time before.
_LAST = 2.0

#: Seconds after which a call is told again to end.
_AGAIN = 0.5

#: Seconds that it may take to have workers started anew whose calls do not end, when the pool is closed.
_FAREWELL = 10.0

#: How often in a row a worker may leave a question unanswered before it counts as busy with what does not end.
_DEAF = 2

#: How often a call is handed over that has not begun when it came back.
_MOST_SENT = 4

#: Seconds after which a call that Dask says has ended, and that told nothing, is given up.
_SILENCE = 10.0


class SchedulerGone(BrokenExecutor):
    """The scheduler of the cluster does not answer any more."""


class WorkerDied(CancelledError):
    """The worker that made a call has gone."""


@dataclass(eq=False)
class OnCluster:
    """Stands for the value of the task *label* on the cluster; handed to a call, the value arrives in its place.

    ``gather`` fetches the value of a future. ``load`` returns the value where it is kept elsewhere, too; ``reload`` has
    a worker load it from there, and returns the future of that.
    """

    future: Any
    nbytes: int
    gather: Callable[[Any], Any]
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
                return self.gather(self.future)
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
    #: Who makes it; empty until it has begun.
    worker: str = ""
    #: How often it was handed over.
    sent: int = 0
    #: Nobody waits for it any more.
    is_unwanted: bool = False
    #: When Dask said that it has ended.
    silent_since: float = 0.0


class DaskPool(Executor):
    """Calls on the cluster of *client*.

    ``orders`` makes the order for a call from its key, topic and request. ``most`` is how many calls are made at a time
    (None: as many as the workers have threads). ``patience`` is how many seconds the scheduler may be silent, ``grace``
    how many a call has to end whose time is up. ``close`` frees what was started for the pool, which is the cluster if
    that ``is_ours``; ``tell`` takes sentences for people, and ``alert`` those that they are to see while it waits.

    Raises :class:`~pytest_flowforge.errors.ClusterUnreachable` when the scheduler does not answer.
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
        alert: Callable[[str], None],
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
        self._alert = alert
        self._topic = f"{PREFIX}{run}"
        self._numbers = itertools.count(1)
        #: Held for all that follows, and never while anybody is asked anything.
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}
        #: Calls that nobody wants any more, and that may go on; by key, the worker where that is known.
        self._unwanted: dict[str, str] = {}
        #: Those of them that will not end, and whose worker is not restarted.
        self._stuck: set[str] = set()
        #: Workers that we have had restarted, or that have died: how many calls had begun there.
        self._deaths: dict[str, int] = {}
        #: Threads of each worker. Replaced as a whole.
        self._threads: Mapping[str, int] = {}
        #: What workers have that Dask calls resources: the most that one of them has of each.
        self._resources: Mapping[str, float] = {}
        #: What people were alerted to.
        self._alerted: set[str] = set()
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._is_closing = False
        self._closed = threading.Event()
        #: Seconds that calls have taken lately.
        self._usual = 1.0
        #: Why there is no cluster any more.
        self.lost = ""
        #: What is sent to the scheduler goes through this. Dask makes another one when it connects again, and then the
        #: scheduler has forgotten what was ours, and whom to tell.
        self._connection = client.scheduler_comm
        try:
            self._in_background(client.register_plugin, watchdog()).result(patience)
            client.subscribe_topic(self._topic, self._on_event)
            self._look()
        except Exception as error:
            msg = f"the Dask scheduler does not answer within {patience:g} s ({one_line(error)})"
            raise ClusterUnreachable(msg) from error
        self._sender, self._watcher = (
            threading.Thread(target=target, name=f"flowforge-dask-{name}", daemon=True)
            for name, target in (("send", self._send_all), ("watch", self._watch))
        )
        self._sender.start()
        self._watcher.start()

    # As an executor.

    @property
    def slots(self) -> int:
        """How many calls there are to be at a time: with quick ones, some wait for each thread.

        What a worker has done is known here after a while, and what is handed over arrives after a while. Meanwhile a
        thread is idle, unless it has its next call.
        """
        threads = sum(self._threads.values())
        if not threads:
            # There may be workers soon, and some clusters start them only when there is something to do.
            return self._most or 1
        with self._lock:
            free = max(threads - sum(1 for worker in self._unwanted.values() if worker), 0)
        if self._most is not None and self._most < threads:
            return min(free, self._most)
        return free * _AHEAD if self._usual < _QUICK else free

    @property
    def workers(self) -> Mapping[str, int]:
        """The threads of each worker, by address."""
        return self._threads

    def gather(self, future: Any) -> Any:
        """Return the value of a Dask future; raise what that raises, and :class:`SchedulerGone`."""
        gathered = self._in_background(future.result)
        while not wait([gathered], _LOOK).done:
            if self.lost or self._closed.is_set():
                raise SchedulerGone(self.lost or _CLOSED)
        return gathered.result()

    def load(self, keep: Keep, ref: Sequence[Any]) -> Any:
        """Have a worker load a stored result; return the future of that."""
        key = f"{PREFIX}load-{self._run}-{next(self._numbers)}"
        return self._client.submit(load_result, keep, ref, key=key, pure=False, retries=0, **self._elsewhere())

    def all_see(self, keep: Keep) -> bool:
        """Whether all workers can read what is stored as *keep* says."""
        told = [self._ask(worker, sees, keep) for worker in self._threads]
        return bool(told) and all(told)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of ``Request`` *fn*'s :class:`Answer`; any other function is called here and now."""
        if self.lost or self._is_closing:
            raise SchedulerGone(self.lost or _CLOSED)
        here: Future[Any] = Future()
        if not isinstance(fn, Request):
            here.set_result(fn(*args, **kwargs))
            return here
        call = _Call(self._new_key(fn.name), fn, here)
        with self._lock:
            # It may have been lost since that was looked at, and then nobody ends it.
            if not self.lost:
                self._calls[call.key] = call
            lost = self.lost
        if lost:
            raise SchedulerGone(lost)
        here.add_done_callback(partial(self._on_cancelled, call))
        self._waiting.put(call)
        return here

    def abandon(self, future: Future[Any]) -> bool:
        """Give up on a call, and stop it where that can be; return whether there was anything. Its end is dropped."""
        with self._lock:
            call = next((one for one in self._calls.values() if one.here is future), None)
        if call is None or not self._is_taken(call):
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

    def _new_key(self, name: str) -> str:
        return f"{PREFIX}{re.sub(_NOT_IN_KEYS, '_', name)}-{self._run}-{next(self._numbers)}"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - as in Executor
        """Stop what goes on, and free the cluster of us."""
        if self._is_closing:
            return
        self._is_closing = True
        try:
            # What is being handed over just now is then known.
            self._waiting.put(None)
            self._sender.join(self._patience)
            with self._lock:
                calls, self._calls = list(self._calls.values()), {}
            if not self.lost and not self._is_ours:
                self._give_up(calls)
                until = time.monotonic() + min(self._grace, _LAST) + _FAREWELL
                while self._goes_on() and time.monotonic() < until:
                    time.sleep(_PAUSE)
        finally:
            self._closed.set()
            with suppress(Exception):
                self._client.unsubscribe_topic(self._topic)
            # Who does not answer is left to itself.
            with suppress(Exception):
                self._in_background(self._free).result(min(self._patience, _FAREWELL))

    def _goes_on(self) -> bool:
        """Whether calls go on that will be stopped."""
        with self._lock:
            return not self._unwanted.keys() <= self._stuck

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
                if not self._is_wanted(call):
                    continue
                request = call.request
                alike = (request.priority, tuple(sorted(request.resources.items())))
                groups.setdefault(alike if not _on_cluster(request.inputs) else call.key, []).append(call)
            for group in groups.values():
                try:
                    self._send(group)
                except BaseException as error:  # noqa: BLE001 - whatever it is, these calls have ended, others go on
                    for call in group:
                        self._end(call, error=error if isinstance(error, Exception) else _of_dask(error))

    def _is_wanted(self, call: _Call) -> bool:
        with self._lock:
            return self._calls.get(call.key) is call

    def _send(self, calls: Sequence[_Call]) -> None:
        request = calls[0].request
        options: dict[str, Any] = {"pure": False, "retries": 0, "priority": request.priority}
        if request.resources:
            options["resources"] = dict(request.resources)
        options |= self._elsewhere()
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
            with self._lock:
                # It may have ended by now, and it may have been given up.
                call.there = there
                call.sent += 1
                is_unwanted = call.is_unwanted
            there.add_done_callback(partial(self._on_done, call))
            if is_unwanted:
                self._give_up([call])

    def _elsewhere(self) -> dict[str, Any]:
        """Options for Dask: to ask no worker that is busy with what nobody wants."""
        with self._lock:
            busy = set(self._unwanted.values())
        threads = self._threads
        free = [worker for worker in threads if worker not in busy]
        # Whatever becomes of these: others may be asked once they have gone.
        return {"workers": free, "allow_other_workers": True} if free and len(free) < len(threads) else {}

    def _send_again(self, call: _Call) -> None:
        """Hand over once more what has not begun. Dask knows the old key as that of what has failed."""
        with self._lock:
            if self._calls.get(call.key) is not call:
                return
            del self._calls[call.key]
            call.key, call.there, call.worker, call.silent_since = self._new_key(call.request.name), None, "", 0.0
            self._calls[call.key] = call
        self._waiting.put(call)

    # Ends. Called by threads of the client.

    def _on_event(self, event: tuple[float, Any]) -> None:
        _, told = event
        key = told["key"]
        if "began" in told:
            self._on_begin(key, told["began"])
            return
        with self._lock:
            call = self._calls.pop(key, None)
        if call is None:
            return
        self._usual += (told["took"] - self._usual) * _WEIGHT
        value = None
        if "nbytes" in told:
            from distributed import Future as DaskFuture  # noqa: PLC0415 - an extra

            # It may be told before we have been given the future.
            value = OnCluster(call.there or DaskFuture(key, self._client), told["nbytes"], self.gather)
        _set(call.here, Answer(told["came"], value, told.get("stored"), told.get("preview", "")))

    def _on_begin(self, key: str, worker: str) -> None:
        with self._lock:
            call = self._calls.get(key)
            if call is not None:
                call.worker = worker
            is_being_stopped = bool(self._unwanted.get(key))
            self._unwanted.update({key: worker} if call is None else {})
        if call is None:
            # It was given up while it was on its way.
            if not is_being_stopped:
                self._in_background(self._clear_worker, worker, [key])
            return
        if not call.here.running():
            with suppress(InvalidStateError, RuntimeError):
                call.here.set_running_or_notify_cancel()
        if call.request.on_begin is not None:
            call.request.on_begin()

    def _on_done(self, call: _Call, there: Any) -> None:
        if call.there is not there or not self._is_wanted(call):
            return
        status = there.status
        if status == "finished":
            if there.type is Came:
                self._in_background(self._fetch, call, there)
            else:
                # What it came to has been told, and is about to arrive.
                call.silent_since = time.monotonic()
        elif status == "error":
            error = there.exception(timeout=_ANSWER)
            if not _is_death(error):
                self._end(call, error=_of_dask(error))
            elif self._had_begun(call, error):
                self._end(call, error=WorkerDied("its worker died"))
            else:
                self._send_again(call)
        elif self._is_disconnected():
            # Whatever goes on there, the scheduler has forgotten whose it is.
            self._lose("the connection was lost")
        elif not call.worker and call.sent < _MOST_SENT and _lacks_inputs(call):
            # It can not begin without them.
            self._send_again(call)
        else:
            self._end(call, error=CancelledError("the cluster has dropped it"))
            if call.worker:
                # Which does not keep its worker from going on with it.
                self._give_up([call])

    def _had_begun(self, call: _Call, death: Any) -> bool:
        """Whether *call* may have begun at the worker that died; what waits in a queue there has not.

        A worker that dies in the first moment of a call has no time to tell that it has begun. So a call counts as
        begun unless others are known to have taken all threads.
        """
        worker = getattr(death, "last_worker", None)
        address, threads = getattr(worker, "address", call.worker), getattr(worker, "nthreads", 1)
        with self._lock:
            if call.worker:
                self._deaths[address] = self._deaths.get(address, 0) + 1
                return True
            begun = self._deaths.get(address, 0)
            begun += sum(one.worker == address for one in self._calls.values())
        return begun < threads or call.sent >= _MOST_SENT

    def _fetch(self, call: _Call, there: Any) -> None:
        try:
            came: Came = there.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody will know what the call came to
            self._end(call, error=WorkerDied(f"what it came to was lost ({one_line(error)})"))
        else:
            if self._is_taken(call):
                _set(call.here, Answer(came.data))

    def _end(self, call: _Call, *, error: BaseException) -> None:
        if self._is_taken(call):
            with suppress(InvalidStateError):
                call.here.set_exception(error)

    def _is_taken(self, call: _Call) -> bool:
        """Take the call away, which is for who ends it; false when somebody has done that."""
        with self._lock:
            if self._calls.get(call.key) is not call:
                return False
            del self._calls[call.key]
            return True

    def _on_cancelled(self, call: _Call, here: Future[Any]) -> None:
        if here.cancelled() and self._is_taken(call):
            self._give_up([call])

    # What goes on although nobody wants it.

    def _give_up(self, calls: Iterable[_Call]) -> None:
        """Cancel calls where they have not begun, and have them end where they have."""
        sent = []
        with self._lock:
            for call in calls:
                # One that is just being handed over is given up by who does that.
                call.is_unwanted = True
                if call.there is not None:
                    self._unwanted[call.key] = call.worker
                    sent.append(call)
        if not sent:
            return
        self._in_background(self._client.cancel, [call.there for call in sent], force=True)
        by_worker: dict[str, list[str]] = {}
        for call in sent:
            by_worker.setdefault(call.worker, []).append(call.key)
        for worker, keys in by_worker.items():
            self._in_background(self._clear_worker if worker else self._clear, *((worker,) if worker else ()), keys)

    def _clear(self, keys: Sequence[str]) -> None:
        """Forget calls that have not begun, as far as is known: those that do are stopped when they tell it."""
        time.sleep(_SETTLED)
        with self._lock:
            for key in keys:
                if not self._unwanted.get(key):
                    self._unwanted.pop(key, None)

    def _clear_worker(self, worker: str, keys: Sequence[str]) -> None:
        """Have the calls with these keys end that *worker* makes; as the last step, have it started anew."""
        begin = time.monotonic()
        until = begin + (min(self._grace, _LAST) if self._is_closing else self._grace)
        again = begin
        left: Sequence[str] = keys
        unanswered = 0
        while left and not self._closed.is_set() and worker in self._threads:
            # What is raised may meet code that ignores it: a destructor, a callback. Yet what cleans up needs its time.
            is_told = time.monotonic() >= again
            again += _AGAIN if is_told else 0.0
            told = self._ask(worker, stop if is_told else running, left)
            unanswered = unanswered + 1 if told is None else 0
            left = left if told is None else told
            self._forget(set(keys) - set(left))
            if left and time.monotonic() > until and (unanswered >= _DEAF or not self._others_of_ours_on(worker)):
                if self._is_restarted(worker, left, is_deaf=unanswered >= _DEAF):
                    break
                with self._lock:
                    self._stuck.update(left)
                self._take_from(worker)
                return
            time.sleep(_PAUSE)
        self._forget(keys)

    def _take_from(self, worker: str) -> None:
        """Hand over once more what waits at a worker for a thread that does not come back."""
        with suppress(Exception):
            waiting = self._in_background(self._client.processing, [worker]).result(self._patience).get(worker, ())
            with self._lock:
                calls = [self._calls[key] for key in waiting if key in self._calls]
                old = {call.key: call.there for call in calls if call.there is not None and not call.worker}
            for call in calls:
                if call.key in old and call.sent < _MOST_SENT:
                    there = old[call.key]
                    self._send_again(call)
                    self._client.cancel([there], force=True)

    def _forget(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._unwanted.pop(key, None)
                self._stuck.discard(key)

    def _others_of_ours_on(self, worker: str) -> bool:
        """Whether that worker makes calls of ours that are wanted."""
        with self._lock:
            return any(call.worker == worker for call in self._calls.values())

    def _is_restarted(self, worker: str, keys: Sequence[str], *, is_deaf: bool) -> bool:
        """Have a worker started anew, unless others use it; return whether that was done."""
        goes = "1 call goes on" if len(keys) == 1 else f"{len(keys)} calls go on"
        what = f"{goes} at the worker {worker} that nobody waits for"
        try:
            # Each of these can be stuck with whom it asks.
            others = self._in_background(self._client.run_on_scheduler, others_on(self._run), worker)
            if others.result(self._patience):
                self._tell(f"{what}: it is not restarted, for others use it, too, and has a thread less for us")
                return False
            if not is_deaf:
                with suppress(Exception):
                    self._in_background(self._save, worker).result(self._patience)
            with self._lock:
                # What waits there has not begun.
                self._deaths[worker] = self._threads.get(worker, 0)
            restarted = self._in_background(self._client.restart_workers, [worker], timeout=self._patience)
            restarted.result(self._patience + _ANSWER)
            self._look()
        except Exception as error:  # noqa: BLE001 - it stays as it is, and that is said
            if worker in self._threads and not self.lost and not self._closed.is_set():
                self._tell(f"{what}, and it could not be restarted ({one_line(error)}): it has a thread less for us")
                return False
        return True

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
            if self._is_disconnected():
                self._lose("the connection was lost")
                return
            now = time.monotonic()
            with self._lock:
                silent = [
                    call for call in self._calls.values() if call.silent_since and now - call.silent_since > _SILENCE
                ]
                is_full = len(self._stuck) >= sum(self._threads.values()) > 0
            for call in silent:
                self._end(call, error=WorkerDied("what it came to was lost"))
            if is_full:
                self._lose("calls that do not end have taken all threads of its workers", is_silent=False)
                return
            self._look_for_whom_is_waited()

    def _look_for_whom_is_waited(self) -> None:
        """Alert people when calls wait for workers that are not there."""
        with self._lock:
            waiting = [call.request for call in self._calls.values() if call.sent and not call.worker]
        if not waiting:
            return
        if not self._threads:
            self._alert_once("the Dask cluster has no workers: tasks wait until there are some")
            return
        for name, units in {pair for request in waiting for pair in request.resources.items()}:
            most = self._resources.get(name, 0.0)
            if most < units:
                self._alert_once(
                    f"no Dask worker has {units:g} of the resource {name} (the most is {most:g}): tasks that need it "
                    f"wait for one that was started with --resources {name}={units:g}"
                )

    def _alert_once(self, sentence: str) -> None:
        if sentence not in self._alerted:
            self._alerted.add(sentence)
            self._alert(sentence)

    def _is_disconnected(self) -> bool:
        """Whether the connection has been lost, now or at some time before."""
        client = self._client
        return client.status != "running" or client.scheduler_comm is not self._connection

    def _look(self) -> None:
        """Find out who is there; raise what that raises when the scheduler does not answer."""
        facts = self._in_background(self._client.sync, self._client.scheduler.identity).result(self._patience)
        workers: Mapping[str, Any] = facts["workers"]
        resources: dict[str, float] = {}
        for worker in workers.values():
            for name, units in (worker.get("resources") or {}).items():
                resources[name] = max(resources.get(name, 0.0), float(units))
        self._resources = resources
        self._threads = {address: int(worker["nthreads"]) for address, worker in workers.items()}
        with self._lock:
            gone = [key for key, worker in self._unwanted.items() if worker and worker not in self._threads]
        self._forget(gone)

    def _lose(self, why: str, *, is_silent: bool = True) -> None:
        """There is nobody any more who makes calls."""
        with self._lock:
            what = f"the Dask scheduler does not answer any more ({why})" if is_silent else f"the Dask cluster: {why}"
            self.lost = self.lost or what
            calls, self._calls = list(self._calls.values()), {}
            if is_silent:
                self._unwanted.clear()
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


#: What Dask and its dashboard do not want in the name of a group of tasks.
_NOT_IN_KEYS = r"[^\w.]"

_CLOSED = "it was closed"


def _set(here: Future[Any], answer: Answer) -> None:
    with suppress(InvalidStateError):
        here.set_result(answer)


def _on_cluster(inputs: Mapping[str, Any]) -> list[OnCluster]:
    found = []
    for value in inputs.values():
        found += [one for one in (value.values() if type(value) is dict else (value,)) if isinstance(one, OnCluster)]
    return found


def _lacks_inputs(call: _Call) -> bool:
    return any(one.is_lost for one in _on_cluster(call.request.inputs))


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
