"""A pool of calls on a Dask cluster, whose results stay there.

A pool like any other to whoever drives it: it takes calls and gives futures. What a call comes to is told by its
worker; the value stays there, unless it is small. Calls are handed over in batches by a thread of ours, and a second
one looks after the cluster: who is there, and whether the scheduler answers. A third one ends what nobody wants.
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

from pytest_flowforge.dask_cluster.likeness import SAME_THERE, differences, facts_of
from pytest_flowforge.dask_cluster.orders import Came, Order, make_call, stack_of
from pytest_flowforge.dask_cluster.results import Keep, load_result, sees
from pytest_flowforge.dask_cluster.stopping import Stopping
from pytest_flowforge.dask_cluster.values import ValueThere, futures_in, is_lost, on_its_way, values_in
from pytest_flowforge.dask_cluster.watchdog import PREFIX, belonging_to, stranded, sweeper, watchdog, without
from pytest_flowforge.dask_cluster.workers import ANSWER, Workers, in_background, unreachable
from pytest_flowforge.failures import one_line
from pytest_flowforge.starts import tell_return, tell_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Answer", "DaskPool", "Request", "SchedulerGone", "told_at"]

#: Seconds between two looks at the cluster.
_LOOK = 2.0

#: Calls that take less than so many seconds are quick, and so many of them are handed over for each thread.
_QUICK, _AHEAD = 0.1, 2

#: What a call adds to what is known of those before it.
_WEIGHT = 0.2

#: Seconds between two looks at whether calls have ended, when the pool is closed.
_PAUSE = 0.05

#: Seconds that it may take to end calls, or to have their workers started anew, when the pool is closed.
_FAREWELL = 12.0

#: Looks in a row at which all threads have to be taken by calls that do not end, before the run is over.
_FULL = 3

#: Seconds after which all calls are known that a worker had when it died.
_TOGETHER = 0.1

#: How often a call is handed over that has not begun when it came back.
_MOST_SENT = 4

#: Seconds after which a call that Dask says has ended, and that told nothing, is given up.
_SILENCE = 10.0


class SchedulerGone(BrokenExecutor):
    """The scheduler of the cluster does not answer any more."""


class WorkerDied(CancelledError):
    """The worker that made a call has gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call to be made on a worker, with *inputs* of which some are on the cluster.

    ``name`` is what the dashboard shows. ``on_begin`` and ``on_return`` are called, on a thread of the client, when the
    call begins, and when it has returned something that it takes time to send and to store; see :func:`told_at`.
    ``resources`` are those of Dask's workers.
    """

    name: str
    call: bytes
    inputs: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    on_begin: Callable[[], None] | None = None
    on_return: Callable[[], None] | None = None


def told_at(place: tuple[str, int] | None) -> dict[str, Callable[[], None]]:
    """Return the options of a :class:`Request` whose time is limited, which is to be told at *place*."""
    if place is None:
        return {"on_begin": _tell_nobody}
    return {"on_begin": partial(tell_start, *place), "on_return": partial(tell_return, *place)}


def _tell_nobody() -> None:
    """There is no place where that could be told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to, packed; its value where that stays on the cluster.

    ``stored`` is where its worker has stored it, or in words why it could not.
    """

    data: bytes
    value: ValueThere | None = None
    stored: Sequence[Any] | str | None = None
    preview: str = ""


@dataclass(eq=False, slots=True)
class _Call:
    """A call under way: our future, and that of Dask once it was handed over."""

    key: str
    request: Request
    here: Future[Any]
    there: Any = None
    #: Those of the inputs with which it was handed over. They may be given up for others while it is on its way.
    given: Sequence[Any] = ()
    #: Who makes it; empty until it has begun.
    worker: str = ""
    #: How often it was handed over, but for when it waited where no thread comes back.
    sent: int = 0
    #: Nobody waits for it any more.
    is_unwanted: bool = False
    #: When Dask said that it has ended.
    silent_since: float = 0.0

    @property
    def number(self) -> int:
        """Its place in the order in which calls are handed over."""
        return int(self.key.rpartition("-")[2])


class DaskPool(Executor):
    """Calls on the cluster of *client*.

    ``orders`` makes the order for a call from its key, topic and request. ``most`` is how many calls are made at a time
    (None: as many as the workers have threads). ``patience`` is how many seconds the scheduler may be silent, ``grace``
    how many a call has to end whose time is up. ``close`` frees what was started for the pool; ``replenish`` starts
    workers that are missing, of a cluster that goes with the pool (None: it is one of others). ``tell`` takes sentences
    for people, and ``alert`` those that they are to see while it waits.

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
        replenish: Callable[[], None] | None,
        tell: Callable[[str], None],
        alert: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._order = order
        self._most = most
        self._patience = patience
        self._free = close
        self._replenish = replenish
        self._tell = tell
        self._alert = alert
        self._topic = f"{PREFIX}{run}"
        self._numbers = itertools.count(1)
        #: Held for all that follows, and never while anybody is asked anything.
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}
        #: Workers that we have had restarted, or that have died: how many calls had begun there.
        self._deaths: dict[str, int] = {}
        self._workers = Workers(client)
        #: Calls that may not have begun when their worker died, by its address.
        self._killed: dict[str, list[tuple[_Call, Any]]] = {}
        #: Workers that have said what is installed there, and those of them where that is not as it is here.
        self._known: set[str] = set()
        self._unlike: set[str] = set()
        #: Some workers were chosen to be asked, and others not.
        self._chooses = False
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
            for plugin in (watchdog(), sweeper()):
                in_background(client.register_plugin, plugin).result(patience)
            client.subscribe_topic(self._topic, self._on_event)
            self._workers.look(patience)
            #: How many workers there were.
            self._first = len(self.workers)
        except Exception as error:
            raise unreachable(error, patience) from error
        self._stopping = Stopping(client, run, self._workers, self, patience=patience, grace=grace, tell=tell)
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
        threads = sum(self.workers.values())
        if not threads:
            # There may be workers soon, and some clusters start them only when there is something to do.
            return self._most or 1
        free = max(threads - sum(self._stopping.busy.values()), 0)
        if self._most is not None and self._most < threads:
            return min(free, self._most)
        return free * _AHEAD if self._usual < _QUICK else free

    @property
    def workers(self) -> Mapping[str, int]:
        """The threads of each worker, by address."""
        return self._workers.threads

    def gather(self, future: Any) -> Any:
        """Return the value of a Dask future; raise what that raises, and :class:`SchedulerGone`."""
        gathered = in_background(future.result)
        while not wait([gathered], _LOOK).done:
            if self.lost or self._closed.is_set():
                raise SchedulerGone(self.lost or _CLOSED)
        return gathered.result()

    def load(self, keep: Keep, ref: Sequence[Any]) -> Any:
        """Have a worker load a stored result; return the future of that."""
        options = {"key": self._new_key("load"), "pure": False, "retries": 0}
        return self._client.submit(load_result, keep, ref, **options, **self._elsewhere({}))

    def _put(self, value: Any) -> Any:
        """Put a value on the cluster; return the future of that."""
        key = self._new_key("load")
        return self._client.scatter({key: value})[key]

    def all_see(self, keep: Keep) -> bool:
        """Whether all workers can read what is stored as *keep* says."""
        told = [self._workers.answer(worker, sees, keep) for worker in self.workers]
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

    @property
    def abandoned(self) -> int:
        """How many threads of this process go on that were given up on: calls are made elsewhere."""
        return 0

    def stack_of(self, future: Future[Any]) -> str:
        """Return where a call stands now; empty where nobody can tell."""
        with self._lock:
            call = next((one for one in self._calls.values() if one.here is future), None)
        if call is None or not call.worker:
            return ""
        told = self._workers.answer(call.worker, stack_of, call.key)
        return told or ""

    def _new_key(self, name: str) -> str:
        return f"{PREFIX}{re.sub(_NOT_IN_KEYS, '_', name)}-{self._run}-{next(self._numbers):06}"

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
            if not self.lost and self._replenish is None:
                self._stopping.hurry()
                self._give_up(calls)
                until = time.monotonic() + _FAREWELL
                while self._stopping.goes_on and time.monotonic() < until:
                    time.sleep(_PAUSE)
        finally:
            self._closed.set()
            self._stopping.close()
            if not self.lost:
                # The client may be somebody else's, and stay. Were it to unsubscribe, the scheduler might hear of that
                # after it has forgotten the topic, and begin it anew.
                with suppress(Exception):
                    in_background(self._client.run_on_scheduler, without(self._topic)).result(ANSWER)
            # Who does not answer is left to itself.
            with suppress(Exception):
                in_background(self._free).result(min(self._patience, _FAREWELL))

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
                groups.setdefault(alike if not values_in(request.inputs) else call.key, []).append(call)
            for group in groups.values():
                if any(one.is_to_be_loaded_here for one in values_in(group[0].request.inputs)):
                    # Others are not to wait for that.
                    in_background(self._send, group)
                else:
                    self._send(group)

    def _is_wanted(self, call: _Call) -> bool:
        with self._lock:
            return self._calls.get(call.key) is call

    def _send(self, calls: Sequence[_Call]) -> None:
        try:
            self._hand_over(calls)
        except BaseException as error:  # noqa: BLE001 - whatever it is, these calls have ended, others go on
            for call in calls:
                self._end(call, error=error if isinstance(error, Exception) else _of_dask(error))

    def _hand_over(self, calls: Sequence[_Call]) -> None:
        request = calls[0].request
        options: dict[str, Any] = {"pure": False, "retries": 0, "priority": request.priority}
        if request.resources:
            options["resources"] = dict(request.resources)
        options |= self._elsewhere(request.resources)
        orders = [self._order(call.key, self._topic, call.request) for call in calls]
        keys = [call.key for call in calls]
        if len(calls) == 1:
            inputs = {name: on_its_way(value, self._put) for name, value in request.inputs.items()}
            if not self._is_wanted(calls[0]):
                return
            calls[0].given = futures_in(inputs)
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

    def _elsewhere(self, resources: Mapping[str, float]) -> dict[str, Any]:
        """Options for Dask: to ask no worker that is busy with what nobody wants, or not like this process.

        Those that are asked may go. What then waits for them is taken back, for Dask would let it wait.
        """
        suited = self._workers.that_have(resources)
        avoided = {*self._stopping.busy, *self._unlike}
        free = [worker for worker in suited if worker not in avoided]
        free = free or [worker for worker in suited if worker not in self._unlike]
        if not free or len(free) == len(suited):
            return {}
        self._chooses = True
        return {"workers": free}

    def _send_again(self, call: _Call, there: Any, *, is_in_vain: bool = True) -> None:
        """Hand over once more what was handed over as *there*, and has not begun.

        Dask knows the old key as that of what has failed. What was handed over in vain counts.
        """
        with self._lock:
            if self._calls.get(call.key) is not call or call.there is not there:
                return
            del self._calls[call.key]
            if not is_in_vain:
                call.sent -= 1
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
        if "returned" in told:
            self._on_return(key)
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
            value = ValueThere(call.there or DaskFuture(key, self._client), told["nbytes"], self.gather)
        _set(call.here, Answer(told["came"], value, told.get("stored"), told.get("preview", "")))

    def _on_begin(self, key: str, worker: str) -> None:
        with self._lock:
            call = self._calls.get(key)
            if call is not None:
                call.worker = worker
        if call is None:
            # It was given up while it was on its way.
            self._stopping.begun(key, worker)
            return
        if not call.here.running():
            with suppress(InvalidStateError, RuntimeError):
                call.here.set_running_or_notify_cancel()
        if call.request.on_begin is not None:
            call.request.on_begin()

    def _on_return(self, key: str) -> None:
        with self._lock:
            call = self._calls.get(key)
        if call is not None and call.request.on_return is not None:
            call.request.on_return()

    def _on_done(self, call: _Call, there: Any) -> None:
        if call.there is not there or not self._is_wanted(call):
            return
        status = there.status
        if status == "finished":
            if there.type is Came:
                in_background(self._fetch, call, there)
            else:
                # What it came to has been told, and is about to arrive.
                call.silent_since = time.monotonic()
        elif self._lacks_inputs(call):
            # It can not begin without them.
            self._send_again(call, there)
        elif status == "error":
            error = there.exception(timeout=ANSWER)
            if _is_death(error):
                self._on_death(call, there, getattr(error, "last_worker", None))
            else:
                self._end(call, error=_of_dask(error))
        elif self._is_disconnected():
            # Whatever goes on there, the scheduler has forgotten whose it is.
            self._lose("the connection was lost")
        else:
            self._end(call, error=CancelledError("the cluster has dropped it"))
            if call.worker:
                # Which does not keep its worker from going on with it.
                self._give_up([call])

    def _lacks_inputs(self, call: _Call) -> bool:
        """Whether *call* has not begun because values were lost, or could not be loaded by a worker."""
        if call.worker or call.sent >= _MOST_SENT or self._is_disconnected():
            return False
        return any(is_lost(one) for one in call.given)

    def _on_death(self, call: _Call, there: Any, worker: Any) -> None:
        """The worker that was to make *call* has died; what waited there for a thread has not begun."""
        address, threads = getattr(worker, "address", call.worker), getattr(worker, "nthreads", 1)
        with self._lock:
            if call.worker:
                self._deaths[address] = self._deaths.get(address, 0) + 1
            else:
                killed = self._killed.setdefault(address, [])
                killed.append((call, there))
        if call.worker:
            self._end(call, error=_death_of(address))
        elif len(killed) == 1:
            in_background(self._judge, address, threads)

    def _judge(self, address: str, threads: int) -> None:
        """Tell what had begun at a worker that died from what had not: it had no time to say so of the last ones.

        They begin in the order in which they came, and none before what others came to is on its way.
        """
        self._closed.wait(_TOGETHER)
        with self._lock:
            killed = self._killed.pop(address, [])
            known = self._deaths.get(address, 0) + sum(one.worker == address for one in self._calls.values())
            free = max(threads - known, 0)
            self._deaths[address] = known + min(free, len(killed))
        killed.sort(key=lambda one: (-one[0].request.priority, one[0].number))
        for at, (call, there) in enumerate(killed):
            if at < free or call.sent >= _MOST_SENT:
                self._end(call, error=_death_of(address))
            else:
                self._send_again(call, there)

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

    def _give_up(self, calls: Sequence[_Call]) -> None:
        """Cancel calls where they have not begun, and have them end where they have."""
        with self._lock:
            for call in calls:
                # One that is just being handed over is given up by who does that.
                call.is_unwanted = True
            sent = [(call.key, call.worker, call.there) for call in calls if call.there is not None]
        if sent:
            self._stopping.give_up(sent)

    def is_making_calls(self, worker: str) -> bool:
        """Whether *worker* makes calls that are wanted."""
        with self._lock:
            return any(call.worker == worker for call in self._calls.values())

    def will_die(self, worker: str) -> None:
        """Take note that *worker* is about to be started anew, and that what waits there has not begun."""
        with self._lock:
            self._deaths[worker] = self.workers.get(worker, 0)

    def take_back_from(self, worker: str) -> None:
        """Hand over once more what waits at *worker* for a thread that does not come back."""
        with suppress(Exception):
            self._take_back(in_background(self._client.processing, [worker]).result(self._patience).get(worker, ()))

    def _take_back_stranded(self) -> None:
        """Hand over once more what waits for workers that have gone."""
        with suppress(Exception):
            self._take_back(in_background(self._client.run_on_scheduler, stranded()).result(self._patience))

    def _take_back(self, keys: Iterable[Any]) -> None:
        """Hand over once more what has these keys, unless it has begun."""
        from distributed import Future as DaskFuture  # noqa: PLC0415 - an extra

        ours = list(filter(belonging_to(self._run), keys))
        with self._lock:
            calls = [self._calls[key] for key in ours if key in self._calls]
            old = [(call, call.there) for call in calls if call.there is not None and not call.worker]
            others = [key for key in ours if key not in self._calls]
        if others:
            # They load values. Calls that need these lack them then, and have them loaded once more.
            self._client.cancel([DaskFuture(key, self._client) for key in others], force=True)
        for call, there in old:
            self._send_again(call, there, is_in_vain=False)
        if old:
            self._client.cancel([there for _, there in old], force=True)

    # The cluster.

    def _watch(self) -> None:
        full = 0
        while not self._closed.wait(_LOOK):
            try:
                self._workers.look(self._patience)
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
            for call in silent:
                self._end(call, error=WorkerDied("what it came to was lost"))
            # They may end all the same.
            full = full + 1 if self._stopping.stuck >= sum(self.workers.values()) > 0 else 0
            if full >= _FULL:
                self._lose("calls that do not end have taken all threads of its workers", is_silent=False)
                return
            if self._replenish is not None and len(self.workers) < self._first:
                with suppress(Exception):
                    self._replenish()
            self._look_at_new_ones()
            if self._chooses:
                self._take_back_stranded()
            self._look_for_whom_is_waited()

    def _look_at_new_ones(self) -> None:
        """Ask workers that have come what is installed there."""
        for worker in self.workers:
            if worker not in self._known:
                with suppress(Exception):
                    self._workers.ask_for_all(worker, facts_of()).add_done_callback(partial(self._on_facts, worker))

    def _on_facts(self, worker: str, told: Future[Any]) -> None:
        facts = None if told.cancelled() else told.result()
        if facts is None or isinstance(facts, OSError):
            # It is asked again, unless it has gone.
            return
        self._known.add(worker)
        unlike = differences(worker, facts)
        if unlike:
            self._unlike.add(worker)
            self._alert_once(
                f"a Dask worker has come that is not like this process: {'; '.join(unlike)}. It is left out where that "
                f"can be. {SAME_THERE}"
            )

    def _look_for_whom_is_waited(self) -> None:
        """Alert people when calls wait for workers that are not there."""
        with self._lock:
            waiting = [call.request for call in self._calls.values() if call.sent and not call.worker]
        if not waiting:
            return
        if not self.workers:
            self._alert_once("the Dask cluster has no workers: tasks wait until there are some")
            return
        for name, units in {pair for request in waiting for pair in request.resources.items()}:
            most = self._workers.most(name)
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

    def _lose(self, why: str, *, is_silent: bool = True) -> None:
        """There is nobody any more who makes calls."""
        with self._lock:
            what = f"the Dask scheduler does not answer any more ({why})" if is_silent else f"the Dask cluster: {why}"
            self.lost = self.lost or what
            calls, self._calls = list(self._calls.values()), {}
        if is_silent:
            self._stopping.forget_all()
        for call in calls:
            with suppress(InvalidStateError):
                call.here.set_exception(SchedulerGone(self.lost))


#: What Dask and its dashboard do not want in the name of a group of tasks.
_NOT_IN_KEYS = r"[^\w.]"

_CLOSED = "it was closed"


def _set(here: Future[Any], answer: Answer) -> None:
    with suppress(InvalidStateError):
        here.set_result(answer)


def _is_death(error: BaseException | None) -> bool:
    return type(error).__name__ == "KilledWorker"


def _death_of(address: str) -> WorkerDied:
    return WorkerDied(f"its worker {address} died" if address else "its worker died")


def _of_dask(error: BaseException | None) -> BaseException:
    """An error that is not of the task: it comes from what Dask does around it."""
    return RuntimeError(f"Dask could not make the call: {one_line(error) if error is not None else 'nobody knows why'}")
