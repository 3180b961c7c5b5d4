"""Who has a store: never two at once, whatever comes in between."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.errors import CheckpointLocked, CheckpointUnreachable, LeaseLost
from pytest_flowforge.storage.leases import REFRESH, STALE, Lease
from pytest_flowforge.storage.locks import Holder, numbering
from tests.shell.stores import ROOT, FakeStore

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def lease_of(store: FakeStore) -> Lease:
    """A lease whose clock goes as that of the store does."""
    return Lease(store.objects(), clock=lambda: store.now)


def planted(store: FakeStore, holder: Holder, **more: Any) -> str:
    name = f"{ROOT}/lease/{'a' * 32}"
    facts = {**json.loads(holder.facts()), "numbering": numbering(), **more}
    store.content[name] = json.dumps(facts).encode()
    store.written[name] = store.now
    return name


def elsewhere() -> Holder:
    return Holder("20261129-205808-3f88", 4711, "other-host", 1_700_000_000.0, "1", "b")


def test_the_second_is_told_who_has_it(store: FakeStore) -> None:
    first, second = lease_of(store), lease_of(store)
    first.run = "20261129-205808-3f88"
    first.acquire()
    with pytest.raises(CheckpointLocked, match=rf"another flowforge run \(pid {os.getpid()}, host .*3f88\) uses the"):
        second.acquire()
    assert first.is_held
    assert not second.is_held
    assert len(store.names("lease")) == 1
    first.release()
    second.acquire()
    assert second.is_held


def test_one_that_was_not_heard_of_for_a_minute_is_taken_over(store: FakeStore) -> None:
    planted(store, elsewhere())
    store.now += STALE - 1
    with pytest.raises(CheckpointLocked, match=r"pid 4711, host other-host, since .*, run 20261129-205808-3f88"):
        lease_of(store).acquire()
    store.now += 3
    late = lease_of(store)
    late.acquire()
    assert late.is_held
    assert len(store.names("lease")) == 1


def test_the_clock_of_this_machine_does_not_matter(store: FakeStore) -> None:
    planted(store, elsewhere())
    lease = Lease(store.objects(), clock=lambda: store.now + 1e6)
    with pytest.raises(CheckpointLocked):
        lease.acquire()


def dead() -> Holder:
    """A process of this machine that has ended."""
    # Elsewhere: Python looks into the current folder first, and what is installed is to be tested.
    code = "from pytest_flowforge.storage.locks import Holder; print(Holder.here('').facts().decode())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tempfile.gettempdir(), check=True, capture_output=True)
    return Holder.of(done.stdout)


def test_one_whose_process_is_gone_is_taken_over_at_once(store: FakeStore) -> None:
    if not Holder.here("").started:
        pytest.skip("the system does not say when a process began")
    planted(store, dead())
    lease = lease_of(store)
    lease.acquire()
    assert lease.is_held


@pytest.mark.parametrize(
    "changed",
    [
        lambda holder: (replace(holder, host="another"), {}),
        lambda holder: (replace(holder, boot="another"), {}),
        lambda holder: (replace(holder, started=""), {}),
        lambda holder: (holder, {"numbering": "another container"}),
        lambda _: (Holder.here(""), {}),
    ],
)
def test_one_that_may_live_is_not(store: FakeStore, changed: Callable[[Holder], tuple[Holder, dict[str, str]]]) -> None:
    holder, more = changed(dead())
    planted(store, holder, **more)
    with pytest.raises(CheckpointLocked):
        lease_of(store).acquire()


def test_what_can_not_be_read_holds_as_long_as_it_is_young(store: FakeStore) -> None:
    name = planted(store, elsewhere())
    store.content[name] = b"\xff{"
    with pytest.raises(CheckpointLocked, match="host unknown"):
        lease_of(store).acquire()
    store.now += STALE + 2
    lease_of(store).acquire()


class Turns:
    """Lets two threads make their calls in the order of *turns*; who is not there any more is left out."""

    def __init__(self, store: FakeStore, turns: tuple[int, ...]) -> None:
        self._turns = list(turns)
        self._changed = threading.Condition()
        self._left = {0, 1}
        self._me = threading.local()
        store.before = self._wait

    def run(self, *leases: Lease) -> None:
        threads = [threading.Thread(target=self._act, args=(place, lease)) for place, lease in enumerate(leases)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    def _act(self, me: int, lease: Lease) -> None:
        self._me.number = me
        try:
            _try(lease)
        finally:
            with self._changed:
                self._left.discard(me)
                self._changed.notify_all()

    def _wait(self, _: str) -> None:
        me = self._me.number
        with self._changed:
            self._changed.wait_for(lambda: self._next() in (me, None), 10)
            if self._turns:
                self._turns.pop(0)
            self._changed.notify_all()

    def _next(self) -> int | None:
        while self._turns and self._turns[0] not in self._left:
            self._turns.pop(0)
        return self._turns[0] if self._turns else None


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("first", list(itertools.combinations(range(4), 2)))
def test_never_two_in_any_order(first: tuple[int, ...], third: bool) -> None:  # noqa: FBT001
    """Two that want it, in all orders of the first eleven calls; a *third* one was there, and is stale."""
    for rest in itertools.product((0, 1), repeat=7):
        store = FakeStore()
        if third:
            planted(store, elsewhere())
            store.now += STALE + 2
        two = lease_of(store), lease_of(store)
        begin = tuple(int(place in first) for place in range(4))
        Turns(store, (*begin, *rest)).run(*two)
        store.before = lambda _: None
        assert not (two[0].is_held and two[1].is_held), (begin, rest)
        ours = [name for name in store.names("lease") if not third or name != f"lease/{'a' * 32}"]
        assert len(ours) == two[0].is_held + two[1].is_held


def _try(lease: Lease) -> None:
    try:
        lease.acquire()
    except CheckpointLocked:
        assert not lease.is_held


def test_one_that_is_kept_is_not_taken_over(store: FakeStore) -> None:
    lease = lease_of(store)
    lease.acquire()
    for _ in range(20):
        store.now += REFRESH
        lease.refresh()
        with pytest.raises(CheckpointLocked):
            lease_of(store).acquire()
        assert lease.is_held


def test_one_that_slept_finds_out_that_another_has_it(store: FakeStore) -> None:
    sleeper, other = lease_of(store), lease_of(store)
    sleeper.acquire()
    store.now += STALE + 2
    other.acquire()
    assert not sleeper.is_held
    with pytest.raises(LeaseLost, match="has taken over"):
        sleeper.refresh()
    assert not sleeper.is_held
    assert other.is_held
    assert len(store.names("lease")) == 1
    # And when that one is done, it is its turn again.
    other.release()
    sleeper.refresh()
    assert sleeper.is_held


def test_one_whose_writing_took_a_minute_looks_whether_another_has_it(store: FakeStore) -> None:
    slow, other = lease_of(store), lease_of(store)
    slow.acquire()
    store.now += REFRESH

    def stall(name: str) -> None:
        if name == "pipe_file":
            store.before = lambda _: None
            store.now += STALE + 2
            other.acquire()

    store.before = stall
    with pytest.raises(LeaseLost):
        slow.refresh()
    assert other.is_held
    assert not slow.is_held


def test_who_asks_whether_another_has_it_does_not_have_it_yet(store: FakeStore) -> None:
    lease = lease_of(store)
    seen: list[tuple[str, bool]] = []
    store.before = lambda name: seen.append((name, lease.is_held))
    lease.acquire()
    store.now += STALE + 2
    lease.refresh()
    assert seen == [("pipe_file", False), ("find", False)] * 2
    assert lease.is_held


def test_threads_that_share_it_ask_one_after_the_other(store: FakeStore) -> None:
    lease = lease_of(store)
    lease.acquire()
    store.now += STALE + 2
    asked: list[int] = []

    def note(_: str) -> None:
        asked.append(threading.get_ident())
        time.sleep(0.02)

    store.before = note
    threads = [threading.Thread(target=lease.ensure), threading.Thread(target=lease.refresh)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert lease.is_held
    turns = [who for who, _ in itertools.groupby(asked)]
    assert len(turns) == len(set(turns))


def test_whose_lease_is_lost_is_told_the_way_out(store: FakeStore) -> None:
    sleeper = lease_of(store)
    sleeper.acquire()
    store.now += STALE + 2
    lease_of(store).acquire()
    way_out = r"was not heard of for a minute: let that one end first \(--ff-wait\), or use another one with --ff-ch"
    with pytest.raises(LeaseLost, match=way_out):
        sleeper.ensure()


def test_a_store_that_is_away_for_long_is_noticed(store: FakeStore) -> None:
    lease = lease_of(store)
    lease.acquire()
    store.fail_at, store.stay = len(store.calls), True
    store.now += STALE
    with pytest.raises(CheckpointUnreachable, match="the wire was cut"):
        lease.refresh()
    assert not lease.is_held
    store.fail_at = -1
    lease.refresh()
    assert lease.is_held


def test_waiting_ends_when_the_other_one_does(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lease_of(store), lease_of(store)
    first.acquire()
    monkeypatch.setattr("time.sleep", lambda _: first.release())
    second.acquire(wait=60.0)
    assert second.is_held
