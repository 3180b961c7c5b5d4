"""The pool of calls on a Dask cluster by itself, and what its workers and its scheduler do for it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import uuid
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("distributed")

import dask
from distributed import Client, LocalCluster
from distributed.batched import BatchedSend

from pytest_flowforge.dask_cluster import connecting, orders, stopping
from pytest_flowforge.dask_cluster import pool as pool_module
from pytest_flowforge.dask_cluster.orders import Order
from pytest_flowforge.dask_cluster.pool import DaskPool, Request, SchedulerGone, _Call
from pytest_flowforge.dask_cluster.results import Keep
from pytest_flowforge.dask_cluster.values import ValueThere
from pytest_flowforge.dask_cluster.watchdog import others_on, stranded
from pytest_flowforge.dask_cluster.workers import in_background
from pytest_flowforge.errors import ClusterUnreachable, ResultMissing
from pytest_flowforge.executors.calls import Returned, pack, unpack
from pytest_flowforge.executors.futures import KnowingPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pool(cluster: Any, said: list[str], request: pytest.FixtureRequest) -> Iterator[DaskPool]:
    client = Client(cluster, set_as_default=False)
    # Calls that end when they are told to are to have their time for that; others get little of it.
    pool = _pool_of(client, said, close=client.close, grace=0.2 if "end" in request.fixturenames else 10.0)
    yield pool
    pool.shutdown()


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    """What waits long ends with its test."""
    yield
    _HELD.pop("event", None)


def _pool_of(
    client: Any,
    said: list[str],
    *,
    close: Callable[[], None],
    patience: float = 5.0,
    grace: float = 0.2,
    replenish: Callable[[], None] | None = None,
) -> DaskPool:
    return DaskPool(
        client,
        uuid.uuid4().hex[:8],
        _order,
        most=None,
        patience=patience,
        grace=grace,
        close=close,
        replenish=replenish,
        tell=said.append,
        alert=said.append,
    )


def _order(key: str, topic: str, request: Request) -> Order:
    return Order(key, topic, request.call, is_limited=True, previews=False, keep=None, paths=())


def _request(function: Callable[..., Any], /, **arguments: Any) -> Request:
    there = {name: value for name, value in arguments.items() if isinstance(value, ValueThere)}
    here = {name: value for name, value in arguments.items() if name not in there}
    return Request(function.__name__, pack(function, here), there)


def _value(future: Future[Any]) -> Any:
    answer = future.result(60)
    came = unpack(answer.data)
    if came.error is not None:
        raise came.error
    return came.value if answer.value is None else answer.value


def _large() -> bytes:
    return bytes(100_000)


def _length(value: bytes) -> int:
    return len(value)


def test_small_values_are_told_and_large_ones_stay(pool: DaskPool) -> None:
    assert _value(pool.submit(_request(lambda: 3))) == 3
    large = _value(pool.submit(_request(_large)))

    assert isinstance(large, ValueThere)
    assert large.nbytes >= 100_000
    assert large.fetch() == bytes(100_000)
    assert _value(pool.submit(_request(_length, value=large))) == 100_000


class _Model:
    """Dask takes it for some 50 bytes."""

    def __init__(self, weights: int) -> None:
        self.weights = bytes(weights)


def test_how_large_instances_are_is_told_by_what_is_in_them(pool: DaskPool) -> None:
    model = _value(pool.submit(_request(_Model, weights=1_000_000)))
    assert isinstance(model, ValueThere)
    assert model.nbytes >= 1_000_000
    assert len(model.fetch().weights) == 1_000_000

    def talk() -> _Model:
        sys.stdout.write("x" * 1_000_000)
        return _Model(10)

    # It is not the value that is large.
    assert len(_value(pool.submit(_request(talk))).weights) == 10


def test_it_says_itself_how_many_calls_it_can_make(pool: DaskPool) -> None:
    assert isinstance(pool, KnowingPool)


def test_many_at_once_come_back_with_their_own(pool: DaskPool) -> None:
    futures = [pool.submit(_request(lambda number: bytes(70_000) + bytes([number]), number=n)) for n in range(200)]

    # Values that stay are told before the client has returned their futures, or after.
    assert [_value(future).fetch()[-1] for future in futures] == list(range(200))


@pytest.mark.parametrize("error", [GeneratorExit("g"), SystemExit(3), KeyboardInterrupt(), RecursionError("deep")])
def test_nothing_crosses_dask_but_what_was_packed(pool: DaskPool, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        _value(pool.submit(_request(fail)))


def test_a_large_output_is_fetched(pool: DaskPool) -> None:
    def talk() -> None:
        raise ValueError("x" * 1_000_000)

    with pytest.raises(ValueError, match="xxx"):
        _value(pool.submit(_request(talk)))


def test_what_others_dropped_was_lost(pool: DaskPool) -> None:
    large = _value(pool.submit(_request(_large)))
    large.label = "large"
    pool._client.cancel([large.future], force=True)

    with pytest.raises(ResultMissing, match="the result of large was lost with the worker that had it"):
        large.fetch()
    with pytest.raises(ResultMissing):
        _value(pool.submit(_request(_length, value=large)))
    large.load = lambda: b"kept"
    assert large.fetch() == b"kept"
    assert _value(pool.submit(_request(_length, value=large))) == 4


def _kept_nowhere(pool: DaskPool, tmp_path: Path, *, load: Callable[[], Any] | None = None) -> ValueThere:
    """Stands for a value that no worker can load."""
    keep = Keep(str(tmp_path / "nowhere"), "", "20260101-000000-0000", ("json",), durable=False, proof=b"")
    reload = partial(pool.load, keep, ["run", "segment", 0, 1, "json", "digest"])
    return ValueThere(reload(), 100_000, pool.gather, "kept", load=load, reload=reload)


def test_what_a_worker_can_not_load_is_loaded_here(pool: DaskPool, tmp_path: Path) -> None:
    early = _kept_nowhere(pool, tmp_path, load=lambda: bytes(100_000))
    futures = [pool.submit(_request(_length, value=early)) for _ in range(3)]
    assert [_value(future) for future in futures] == [100_000] * 3
    assert early.fetch() == bytes(100_000)

    nowhere = _kept_nowhere(pool, tmp_path)
    with pytest.raises(ResultMissing, match="the result of kept could not be loaded"):
        _value(pool.submit(_request(_length, value=nowhere)))


def test_a_call_lacked_a_value_also_when_that_is_there_by_now(
    pool: DaskPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = _kept_nowhere(pool, tmp_path, load=lambda: bytes(100_000))
    late: list[Callable[[], None]] = []
    on_done = pool._on_done

    def on_done_late(call: Any, there: Any) -> None:
        if call.request.name == "late" and call.sent == 1:
            late.append(partial(on_done, call, there))
        else:
            on_done(call, there)

    monkeypatch.setattr(pool, "_on_done", on_done_late)
    request = _request(_length, value=early)
    futures = [pool.submit(replace(request, name=name)) for name in ("late", "other")]
    assert _value(futures[1]) == 100_000
    _wait_until(lambda: bool(late))
    assert not early.is_lost
    late[0]()
    assert _value(futures[0]) == 100_000


def test_why_a_value_can_not_be_had_is_said() -> None:
    msg = "not for here"

    def gather(_: Any) -> Any:
        raise ValueError(msg)

    value = ValueThere(SimpleNamespace(status="finished"), 100, gather, "odd", way_out="make it again")
    with pytest.raises(ResultMissing) as raised:
        value.fetch()
    assert str(raised.value) == (
        "the result of odd can not be brought here (ValueError: not for here), and is not kept: make it again"
    )
    assert isinstance(raised.value.__cause__, ValueError)

    failed = SimpleNamespace(status="error", exception=lambda: FileNotFoundError("no such folder"))
    with pytest.raises(ResultMissing, match=r"could not be loaded by a worker \(FileNotFoundError: no such folder\)"):
        ValueThere(failed, 100, gather, "odd").fetch()


def test_a_call_that_somebody_else_cancels(pool: DaskPool) -> None:
    began = threading.Event()
    _HELD["event"] = began
    future = pool.submit(_request(_wait_long))
    assert began.wait(60)
    (call,) = pool._calls.values()
    # It may begin before the client has returned its future.
    _wait_until(lambda: call.there is not None)
    pool._client.cancel([call.there], force=True)

    with pytest.raises(CancelledError, match="the cluster has dropped it"):
        future.result(60)


_HELD: dict[str, threading.Event] = {}


def _wait_long() -> None:
    # In this process: the cluster has no others.
    began = _HELD["event"]
    began.set()
    until = time.monotonic() + 30
    while time.monotonic() < until and _HELD.get("event") is began:
        time.sleep(0.01)


def test_what_is_abandoned_is_stopped_and_its_slot_comes_back(pool: DaskPool) -> None:
    began = _HELD["event"] = threading.Event()
    future = pool.submit(_request(_wait_long))
    assert began.wait(60)
    _wait_until(future.running)
    # A worker that does not answer soon is not waited for.
    _wait_until(lambda: "_wait_long" in pool.stack_of(future))

    assert pool.abandon(future)
    assert not pool.abandon(future)
    assert pool.slots == 1
    _wait_until(lambda: pool.slots == 2)
    assert not future.done()


def test_what_is_cancelled_at_once_takes_no_slot(pool: DaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    # With quick calls there are more slots, and some of these may have been made before they are cancelled.
    monkeypatch.setattr(pool_module, "_QUICK", 0.0)
    futures = [pool.submit(_request(_large)) for _ in range(50)]
    for future in futures:
        future.cancel()
    _wait_until(lambda: pool.slots == 2 and not pool._stopping.goes_on)
    assert _value(pool.submit(_request(lambda: "next"))) == "next"


def _events_of_ours(cluster: Any) -> dict[str, int]:
    """How many events the scheduler keeps of our topics."""
    # At once: the scheduler goes on meanwhile.
    topics = list(cluster.scheduler._broker._topics.items())
    return {name: len(topic.events) for name, topic in topics if name.startswith("flowforge:")}


def test_the_scheduler_keeps_no_events_and_no_topics(cluster: Any, said: list[str]) -> None:
    # As somebody else's client, which stays.
    with Client(cluster, set_as_default=False) as client:
        before = set(_events_of_ours(cluster))
        pool = _pool_of(client, said, close=lambda: None)
        for number in range(20):
            assert _value(pool.submit(_request(lambda number: bytes(50_000) + bytes([number]), number=number)))
        (topic,) = set(_events_of_ours(cluster)) - before
        assert _events_of_ours(cluster)[topic] == 0
        pool.shutdown()
        assert topic not in _events_of_ours(cluster)
        # As a worker does that has something to tell when the run is over.
        client.log_event(topic, {"key": "nobody's"})
        assert topic not in _events_of_ours(cluster)


def test_the_scheduler_hears_of_nothing_that_makes_it_begin_a_topic_anew(cluster: Any, said: list[str]) -> None:
    with Client(cluster, set_as_default=False) as client:
        pool = _pool_of(client, said, close=lambda: None)
        _wait_until(lambda: pool._topic in _events_of_ours(cluster))
        pool.shutdown()
        # What the client says by itself comes in order.
        later = f"{pool._topic}-later"
        client.subscribe_topic(later, said.append)
        _wait_until(lambda: later in _events_of_ours(cluster))
        assert pool._topic not in _events_of_ours(cluster)


def test_the_topic_of_a_run_that_was_killed_goes_with_its_client(cluster: Any, said: list[str]) -> None:
    first, second = (Client(cluster, set_as_default=False) for _ in range(2))
    killed, other = (_pool_of(client, said, close=client.close) for client in (first, second))
    topics = {pool._topic for pool in (killed, other)}
    _wait_until(lambda: topics <= set(_events_of_ours(cluster)))
    first.close()
    _wait_until(lambda: killed._topic not in _events_of_ours(cluster))
    assert other._topic in _events_of_ours(cluster)
    assert _value(other.submit(_request(lambda: 3))) == 3
    killed.shutdown()
    other.shutdown()


def test_once_it_is_closed_it_takes_nothing(cluster: Any, said: list[str]) -> None:
    client = Client(cluster, set_as_default=False)
    pool = _pool_of(client, said, close=client.close)
    began = _HELD["event"] = threading.Event()
    pool.submit(_request(_wait_long))
    assert began.wait(60)
    begun = time.monotonic()
    pool.shutdown()
    pool.shutdown()

    assert time.monotonic() - begun < 20
    with pytest.raises(SchedulerGone, match="it was closed"):
        pool.submit(_request(_large))
    assert client.status == "closed"


def test_a_connection_that_was_lost_is_the_end(cluster: Any, said: list[str]) -> None:
    client = Client(cluster, set_as_default=False)
    pool = _pool_of(client, said, close=client.close)
    began = _HELD["event"] = threading.Event()
    future = pool.submit(_request(_wait_long))
    assert began.wait(60)
    # Dask connects again, and the scheduler has forgotten all that was ours.
    client.loop.add_callback(client.scheduler_comm.comm.abort)

    with pytest.raises(SchedulerGone, match="the connection was lost"):
        future.result(60)
    with pytest.raises(SchedulerGone):
        pool.submit(_request(_large))
    pool.shutdown()


def test_others_are_all_but_this_run(cluster: Any, pool: DaskPool) -> None:
    large = _value(pool.submit(_request(_large)))
    (worker,) = pool.workers
    with Client(cluster, set_as_default=False) as client:
        others = partial(client.run_on_scheduler, others_on(pool._run))
        # Those of the tests before are about to go.
        _wait_until(lambda: others(worker) == 0)
        assert client.run_on_scheduler(others_on("another"), worker) == 1
        data = client.scatter(b"of others", hash=False)
        assert others(worker) == 1
        assert others("tcp://nowhere:1") == 0
        del data
    assert large.fetch()


@pytest.mark.parametrize(
    ("threads", "known", "first", "often", "died"),
    [
        (1, (), 0, (), {1}),
        (2, (), 0, (), {1, 2}),
        # Who has taken the only thread is known, or one of two.
        (1, (3,), 0, (), {3}),
        (2, (3,), 0, (), {1, 3}),
        # One of a higher priority is before the others.
        (1, (), 2, (), {2}),
        # It has been there before.
        (1, (), 0, (4,), {1, 4}),
        (8, (), 0, (), {1, 2, 3, 4}),
    ],
)
def test_who_had_begun_at_a_worker_that_died(
    pool: DaskPool,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    known: tuple[int, ...],
    first: int,
    often: tuple[int, ...],
    died: set[int],
) -> None:
    again: set[int] = set()
    monkeypatch.setattr(pool, "_send_again", lambda call, _: again.add(call.number))
    calls = [
        _Call(
            f"flowforge:any-{pool._run}-{number:06}",
            replace(_request(_nap), priority=number == first),
            Future(),
            worker="gone" if number in known else "",
            sent=4 if number in often else 1,
        )
        for number in range(1, 5)
    ]
    pool._calls.update({call.key: call for call in calls})
    judging: list[Callable[[], None]] = []
    with monkeypatch.context() as until_all_are_known:
        until_all_are_known.setattr(pool_module, "in_background", lambda *work: judging.append(partial(*work)))
        # They come in any order.
        for call in reversed(calls):
            pool._on_death(call, None, SimpleNamespace(address="gone", nthreads=threads))
    (judge,) = judging
    judge()
    _wait_until(lambda: len(again) + sum(call.here.done() for call in calls) == 4)
    assert {call.number for call in calls if call.here.done()} == died
    assert again == {1, 2, 3, 4} - died


def _wait_in_spite_of_all() -> None:
    end = _HELD["end"]
    _HELD["event"].set()
    while not end.is_set():
        try:
            time.sleep(0.01)
        except BaseException:  # noqa: BLE001, S112 - it is the worst that a task can do
            continue


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What ends calls that nothing else ends, in a pool that looks often."""
    monkeypatch.setattr(pool_module, "_LOOK", 0.2)
    monkeypatch.setattr(stopping, "_LOOK", 0.1)
    end = _HELD["end"] = threading.Event()
    yield end
    end.set()


def test_what_waits_behind_a_call_that_does_not_end_goes_elsewhere(said: list[str], end: threading.Event) -> None:
    options = {"processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        client = Client(cluster, set_as_default=False)
        pool = _pool_of(client, said, close=client.close)
        began = _HELD["event"] = threading.Event()
        stuck = pool.submit(_request(_wait_in_spite_of_all))
        assert began.wait(60)
        _wait_until(stuck.running)
        # Nobody can tell where a thread will be free, and the scheduler takes one that makes nothing it knows of for
        # idle: it moves calls there that were handed over to the other one.
        others = [pool.submit(_request(_nap)) for _ in range(12)]
        pool.abandon(stuck)

        assert [_value(other) for other in others] == ["rested"] * 12
        _wait_until(lambda: said)
        end.set()
        assert "it could not be restarted" in said[0]
        pool.shutdown()


def _nap() -> str:
    time.sleep(0.1)
    return "rested"


def test_what_waits_for_workers_that_have_gone_goes_elsewhere(
    pool: DaskPool, tmp_path: Path, end: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    end.set()
    (worker,) = pool.workers
    with monkeypatch.context() as until_the_next_look:
        until_the_next_look.setattr(pool._workers, "look", lambda _: None)
        until_the_next_look.setattr(pool._workers, "threads", {worker: 2, "inproc://gone": 1})
        until_the_next_look.setattr(pool._workers, "resources", {worker: {}, "inproc://gone": {}})
        # Which would not be asked while there is another one.
        pool._unlike.add(worker)
        early = _kept_nowhere(pool, tmp_path, load=lambda: bytes(100_000))
        futures = [pool.submit(_request(_nap)), pool.submit(_request(_length, value=early))]
        _wait_until(lambda: len(pool._client.run_on_scheduler(stranded())) == 2)
        assert not any(future.done() for future in futures)
    assert [_value(future) for future in futures] == ["rested", 100_000]


@pytest.mark.usefixtures("end")
def test_workers_of_a_cluster_of_ours_that_have_gone_for_good_are_replaced(said: list[str]) -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100 ms"}):
        cluster = connecting.start(1, 30.0)
        pool = _pool_of(cluster.client, said, close=cluster.close, replenish=cluster.replenish)
        (nanny,) = cluster._cluster.workers.values()
        (first,) = pool.workers
        cluster._cluster.sync(nanny.close)
        # The next one may be there before the process of this one has ended.
        _wait_until(lambda: first not in pool.workers)
        assert pool.submit(_request(lambda: "by another one")).result(60)
        pool.shutdown()


@pytest.mark.parametrize(
    ("deaf", "targets"),
    [((), ["other", "third"]), (("other",), ["third"]), (("other", "third"), None), (("it",), None)],
)
def test_values_are_saved_from_and_to_workers_that_answer(
    monkeypatch: pytest.MonkeyPatch, deaf: tuple[str, ...], targets: list[str] | None
) -> None:
    monkeypatch.setattr("distributed.Future", lambda key, _: key)
    saved: list[Any] = []

    def ask(worker: str, *_: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        answer.set_result(None if worker in deaf else [])
        return answer

    client = SimpleNamespace(
        futures={"key"},
        has_what=lambda workers: dict.fromkeys(workers, ("key", "of others")),
        replicate=lambda futures, **options: saved.append((futures, options)),
    )
    workers: Any = SimpleNamespace(threads={"other": 1, "it": 1, "third": 1}, ask=ask)
    owner: Any = None
    its = stopping.Stopping(client, "run", workers, owner, patience=1.0, grace=1.0, tell=saved.append)
    its._save("it")
    its.close()
    assert saved == ([] if targets is None else [(["key"], {"n": 1, "workers": targets})])


def test_a_call_has_its_time_from_when_it_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody comes to look at it for as long as its time is.
    monkeypatch.setattr(stopping, "_GATHER", 1.0)
    asked: list[Any] = []

    def ask(_: str, question: Any, keys: tuple[str, ...]) -> Future[Any]:
        asked.append(question)
        monkeypatch.setattr(stopping, "_GATHER", 0.01)
        answer: Future[Any] = Future()
        # It goes on after it was told, and has ended when it is looked at next.
        answer.set_result(keys if len(asked) == 1 else ())
        return answer

    workers: Any = SimpleNamespace(threads={"it": 1}, ask=ask)
    owner: Any = SimpleNamespace(is_making_calls=lambda _: False, will_die=asked.append)
    client = SimpleNamespace(cancel=lambda *_, **__: None)
    its = stopping.Stopping(client, "run", workers, owner, patience=1.0, grace=0.5, tell=asked.append)
    its.give_up([("key", "it", None)])
    _wait_until(lambda: not its.goes_on)
    its.close()
    assert asked == [orders.stop, orders.running]


def test_only_workers_are_chosen_that_have_what_a_call_needs(pool: DaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool._workers, "look", lambda _: None)
    monkeypatch.setattr(pool._workers, "threads", {"a": 1, "b": 1, "c": 1})
    monkeypatch.setattr(pool._workers, "resources", {"a": {"GPU": 1.0}, "b": {"GPU": 2.0}, "c": {}})
    assert pool._elsewhere({}) == {}
    pool._unlike.add("a")
    assert pool._elsewhere({}) == {"workers": ["b", "c"]}
    assert pool._elsewhere({"GPU": 1}) == {"workers": ["b"]}
    # There is no choice.
    assert pool._elsewhere({"GPU": 2}) == {}
    assert pool._elsewhere({"TPU": 1}) == {}
    pool._unlike.add("b")
    assert pool._elsewhere({"GPU": 1}) == {}


def _take_all_threads(pool: DaskPool) -> None:
    """Give up on calls that do not end, as many as there are threads."""
    _HELD["event"] = threading.Event()
    futures = [pool.submit(_request(_wait_in_spite_of_all)) for _ in range(pool.slots)]
    _wait_until(lambda: all(future.running() for future in futures))
    for future in futures:
        assert pool.abandon(future)
    _wait_until(lambda: pool._stopping.stuck == len(futures))


@pytest.mark.usefixtures("end")
def test_a_run_that_has_no_thread_left_is_over(pool: DaskPool) -> None:
    _take_all_threads(pool)

    # Either it is under way when that is noticed, or it is refused.
    with pytest.raises(SchedulerGone, match="calls that do not end have taken all threads"):
        pool.submit(_request(_nap)).result(60)
    assert pool.lost


def test_threads_come_back_when_calls_end_after_all(
    pool: DaskPool, said: list[str], end: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_FULL", 100)
    _take_all_threads(pool)
    assert pool.slots == 0
    assert "a thread less for us" in said[-1]

    end.set()
    _wait_until(lambda: pool.slots == 2)
    assert not pool.lost
    assert _value(pool.submit(_request(_nap))) == "rested"


def test_what_is_given_up_together_costs_one_question(
    cluster: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(cluster, set_as_default=False)
    pool = _pool_of(client, said, close=client.close, grace=10.0)
    # Two are being made, and the others wait.
    futures = [pool.submit(_request(_rest_long)) for _ in range(100)]
    _wait_until(lambda: sum(future.running() for future in futures) == 2)
    asked, cancelled = _calls_of(client, "run", monkeypatch), _calls_of(client, "cancel", monkeypatch)
    before = threading.active_count()
    for future in futures:
        assert future.cancel() or pool.abandon(future)
    assert threading.active_count() <= before
    _wait_until(lambda: pool.slots == 2 and not pool._stopping.goes_on)

    # As many as there are pauses between two of them, while they are given up, and until they have ended.
    assert len(cancelled) <= 20
    assert len(asked) <= 10
    pool.shutdown()


def _calls_of(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list of the calls of a method from now on."""
    calls: list[Any] = []
    method = getattr(client, name)

    def noted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return method(*args, **options)

    monkeypatch.setattr(client, name, noted)
    return calls


def _rest_long() -> None:
    for _ in range(400):
        time.sleep(0.05)


class _Silent:
    """A client whose scheduler says nothing."""

    scheduler_comm = None
    status = "running"

    def __init__(self) -> None:
        self.over = threading.Event()

    def register_plugin(self, _: Any) -> None:
        self.over.wait(30)


def test_a_scheduler_that_says_nothing_at_the_beginning(said: list[str]) -> None:
    silent = _Silent()
    with pytest.raises(ClusterUnreachable, match=r"does not answer within 0\.1 s"):
        _pool_of(silent, said, close=lambda: None, patience=0.1)
    silent.over.set()


class _Broken(_Silent):
    """A client that can not ask."""

    def register_plugin(self, _: Any) -> None:
        msg = "it was written by another Python"
        raise ValueError(msg)


def test_a_scheduler_that_can_not_be_asked_is_not_called_silent(said: list[str]) -> None:
    with pytest.raises(ClusterUnreachable, match=r"can not be asked \(ValueError: it was written by another Python\)"):
        _pool_of(_Broken(), said, close=lambda: None)


def test_a_call_begins_when_that_was_written(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when it was taken to be written: the call may keep the interpreter to itself from then on."""
    loop, written, goes_on = cluster.loop, [], threading.Event()

    class Comm:
        def closed(self) -> bool:
            return False

        async def write(self, messages: list[Any], **_: Any) -> int:
            while not goes_on.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.001)
            written.extend(messages)
            return 1

        async def close(self) -> None: ...

    monkeypatch.setattr(orders, "_MOST_WAITED", 60.0)
    stream = BatchedSend(interval="2ms", loop=loop)
    stream.start(Comm())
    loop.add_callback(stream.send, "began")
    told = in_background(orders._wait_until_told, SimpleNamespace(loop=loop, batched_stream=stream))
    _wait_until(lambda: stream.batch_count == 1)
    time.sleep(0.1)
    assert not told.done()
    loop.add_callback(stream.send, "of another one")
    goes_on.set()
    told.result(60)
    assert written[0] == "began"
    loop.add_callback(stream.close)


@pytest.mark.parametrize(
    ("is_limited", "buffer", "deadline", "waits"),
    [
        (False, [], None, []),
        (True, [], None, ["written"]),
        (False, ["what another one came to"], None, ["on its way"]),
        (False, [], 9.0, ["on its way"]),
    ],
)
def test_a_call_begins_when_what_came_before_it_is_told(
    monkeypatch: pytest.MonkeyPatch, *, is_limited: bool, buffer: list[str], deadline: float | None, waits: list[str]
) -> None:
    happened: list[str] = []
    worker = SimpleNamespace(
        address="inproc://it",
        batched_stream=SimpleNamespace(buffer=buffer, next_deadline=deadline),
        log_event=lambda _, told: happened.append("began" if "began" in told else "ended"),
    )

    def made(*_: Any) -> orders._Done:
        happened.append("made")
        return orders._Done(Returned(), b"")

    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    monkeypatch.setattr(
        orders, "_wait_until_told", lambda _, *, is_written: happened.append("written" if is_written else "on its way")
    )
    monkeypatch.setattr(orders, "_made", made)
    orders.make_call(Order("key", "topic", b"", is_limited=is_limited, previews=False, keep=None, paths=()), {})
    assert happened == ["began", *waits, "made", "ended"]


def _wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
