"""A checkpoint in a store: what is there is always the first part of what happened, with all its results."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointLocked,
    CheckpointUnreachable,
    CheckpointUnsafe,
    CheckpointVersion,
    ResultMissing,
)
from pytest_flowforge.storage import copies, uploads
from pytest_flowforge.storage import objects as objects_module
from pytest_flowforge.storage import sender as sender_module
from pytest_flowforge.storage.files import Files
from pytest_flowforge.storage.keys import Key
from pytest_flowforge.storage.leases import STALE, Lease
from pytest_flowforge.storage.locks import Holder
from pytest_flowforge.storage.mirror import Mirror
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.sender import Sender
from pytest_flowforge.storage.values import ResultStore
from tests.shell.stores import ROOT, FakeStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A result of its own file.
LARGE = "x" * (1 << 21)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "of the tests")


class Machine:
    """A machine with a folder of its own that uses *store*."""

    def __init__(self, path: Path, store: FakeStore) -> None:
        self.place = Place.open(path)
        self.mirror = Mirror(store.objects(), self.place)
        self.values: list[Any] = []

    def open(self, **options: Any) -> list[str]:
        self.mirror.copy.open(create=True)
        return self.mirror.pull(**{"owns": True, **options})

    def write(self, *values: Any, run: str = "", torn: bytes = b"") -> Iterator[str]:
        """Begin a run, and write each of the *values* and a record that names it when the next one is asked for."""
        run = run or self.place.new_run(1_800_000_000.0)
        journal = self.place.journal(run)
        results = ResultStore(self.place, run)
        self.mirror.up.begin(run)
        try:
            for number, value in enumerate(values):
                ref = results.put(value)
                self.values.append(value)
                facts = [ref.run, ref.segment, ref.offset, ref.length, ref.sha256, ref.codec]
                journal.append({"t": float(number), "ev": "stored", "run": run, "ref": facts})
                yield run
        finally:
            if torn:
                with (self.place.path / "runs" / run / "journal.jsonl").open("ab") as file:
                    file.write(torn)
            journal.close()
            results.close()

    def write_all(self, *values: Any) -> str:
        return list(self.write(*values))[-1]

    def loaded(self) -> list[Any]:
        """The values that the records of all runs name, each read and verified."""
        with contextlib.closing(ResultStore(self.place, "", key=Key(Files()))) as results:
            return [
                results.get(ResultRef(*record["ref"]))
                for run in self.place.runs()
                for record in self.place.read(run).checked()
            ]


@pytest.fixture
def machines(tmp_path: Path, store: FakeStore) -> Iterator[Any]:
    made: list[Machine] = []

    def machine(name: str) -> Machine:
        made.append(Machine(tmp_path / name, store))
        return made[-1]

    yield machine
    for one in made:
        one.place.close()


VALUES = [{"a": 1}, {1, 2}, LARGE, *range(20)]


def test_another_machine_sees_all_of_it(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    here.write_all(*VALUES)
    here.mirror.up.push()
    there.open()
    assert there.loaded() == VALUES
    assert here.mirror.up.unsent() == 0
    # And what it read is there now: nothing is asked any more.
    before = len(store.calls)
    assert there.loaded() == VALUES
    assert len(store.calls) == before


def test_results_come_when_they_are_read(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    run = here.write_all(*VALUES)
    here.mirror.up.push()
    there.open()
    with there.place.results(run) as results:
        assert results.names() == []
    store.fail_at, store.stay = 0, True
    with pytest.raises(ResultMissing, match="can not be fetched: cannot read fake://"):
        there.loaded()


@pytest.mark.parametrize("late", [False, True])
def test_whatever_fails_the_store_holds_the_first_part(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,  # noqa: FBT001
) -> None:
    """Each call fails once, and the machine dies there: what is in the store is whole, and the next run sends the rest.

    With *late* the call has done its work, and only the answer is lost.
    """
    for module in (copies, objects_module, uploads):
        monkeypatch.setattr(module, "BLOCK", 1 << 20)
    values = [*range(10), LARGE, *range(10, 20)]
    seen = set()
    for fail_at in itertools.count():
        store = FakeStore()
        store.fail_at, store.late = fail_at, late
        here = Machine(tmp_path / f"here-{fail_at}", store)
        with contextlib.suppress(CheckpointUnreachable):
            here.open()
            for _ in here.write(*values, torn=b'{"s":20,"p"'):
                here.mirror.up.push()
        if len(store.calls) <= fail_at:
            assert fail_at > 40
            break
        # Nobody answers for what is only here: another machine sees what is there.
        store.fail_at = -1
        there = Machine(tmp_path / f"there-{fail_at}", store)
        with contextlib.suppress(FileNotFoundError):
            there.mirror.copy.open(create=False)
            there.mirror.pull(owns=False)
        found = there.loaded()
        assert found == here.values[: len(found)]
        seen.add(len(found))
        # The next run on the same machine.
        again = Machine(tmp_path / f"here-{fail_at}", store)
        again.open()
        again.mirror.up.push()
        assert again.mirror.up.unsent() == 0
        there.open()
        assert there.loaded() == here.values
        for machine in (here, there, again):
            machine.place.close()
    assert seen >= set(range(20))


def test_a_store_that_is_away_for_a_while_gets_all_of_it(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    for number, _ in enumerate(here.write(*range(30))):
        store.fail_at, store.stay = (len(store.calls), True) if 5 <= number < 20 else (-1, False)
        with contextlib.suppress(CheckpointUnreachable):
            here.mirror.up.push()
        assert here.mirror.up.unsent() == (number - 4 if 5 <= number < 20 else 0)
    there.open()
    assert there.loaded() == list(range(30))


def test_pieces_are_merged(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    here.open()
    for _ in here.write(*range(200)):
        here.mirror.up.push()
    assert len(store.names()) < 40
    (journal,) = (here.place.path / "runs").glob("*/journal.jsonl")
    assert store.sent < 4 * (journal.stat().st_size + 10_000)


def test_a_record_that_is_not_whole_is_not_sent(machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    for _ in here.write(1, 2, torn=b'{"s":2,"p":"'):
        pass
    here.mirror.up.push()
    there.open()
    (run,) = there.place.runs()
    assert there.place.read(run).torn_bytes == 0
    assert there.loaded() == [1, 2]


def test_who_reads_while_pieces_are_merged_reads_anew(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    writing = here.write(*range(60))
    for _ in itertools.islice(writing, 7):
        here.mirror.up.push()
    reads = 0

    def merge(name: str) -> None:
        nonlocal reads
        reads += name == "cat_file"
        if reads == 4:
            reads += 1
            next(writing)
            here.mirror.up.push()

    store.before = merge
    there.open()
    store.before = lambda _: None
    assert reads > 4
    assert there.loaded() == list(range(len(there.loaded())))
    assert len(there.loaded()) >= 7


def test_two_machines_in_turns(machines: Any) -> None:
    here, there = machines("here"), machines("there")
    values: list[Any] = []
    for number, machine in enumerate((here, there, here, there)):
        machine.open()
        assert machine.loaded() == values
        machine.write_all(number, {number})
        values += [number, {number}]
        machine.mirror.up.push()


def test_what_was_deleted_there_is_deleted_here(machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    first = here.write_all(1)
    second = here.write_all(2)
    here.mirror.up.push()
    there.open()
    there.place.forget(first, results=True)
    there.mirror.up.prune([first])
    # Who only reads deletes nothing.
    here.open(owns=False)
    assert here.place.runs() == [first, second]
    here.open()
    assert here.place.runs() == [second]
    assert here.loaded() == [2]
    there.place.clear()
    there.mirror.up.prune([second])
    here.open()
    assert here.place.ids() == []


def test_a_folder_that_is_deleted_during_the_run_takes_nothing_along(
    tmp_path: Path, store: FakeStore, machines: Any
) -> None:
    """It is written anew by the run, which has it open, and the runs before are in the store still."""
    before, here, there = machines("before"), machines("here"), machines("there")
    before.open()
    before.write_all("before", LARGE)
    before.mirror.up.push()
    here.open()
    # Another process: it has opened the same folder by itself.
    place = Place.open(tmp_path / "here")
    run = place.new_run(1_900_000_000.0)
    results = ResultStore(place, run)
    journal = place.journal(run)
    here.mirror.up.begin(run)
    for number in range(6):
        ref = results.put(number)
        facts = [ref.run, ref.segment, ref.offset, ref.length, ref.sha256, ref.codec]
        journal.append({"t": float(number), "ev": "stored", "run": run, "ref": facts})
        if number == 3:
            shutil.rmtree(tmp_path / "here")
            here.mirror.up.push()
            results.sync()
            journal.sync()
        here.mirror.up.push()
    journal.close()
    results.close()
    assert here.mirror.up.unsent() == 0
    here.mirror.up.prune([])
    place.close()
    there.open()
    assert there.loaded() == ["before", LARGE, *range(6)]
    assert store.names(f"runs/{run}/")


def test_what_was_never_there_is_not_deleted(machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    here.write_all(1)
    there.open()
    there.write_all(2)
    there.mirror.up.push()
    here.open()
    assert sorted(here.loaded()) == [1, 2]
    here.mirror.up.push()
    there.open()
    assert sorted(there.loaded()) == [1, 2]


@pytest.mark.parametrize("emptied", [True, False])
def test_another_store_gets_what_is_here_when_somebody_says_so(
    store: FakeStore,
    machines: Any,
    emptied: bool,  # noqa: FBT001
) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    first = here.mirror.copy.identity.decode()
    here.write_all(*VALUES)
    here.mirror.up.push()
    here.open()
    store.content.clear()
    if not emptied:
        there.open()
    before = dict(store.content)
    which = "where there is no checkpoint" if emptied else f"which is store {there.mirror.copy.identity.decode()}"
    said = (
        rf"{here.place.path} belongs to store {first}, which was at fake://{ROOT}, and not to fake://{ROOT}, {which}: "
    )
    for create in (True, False) if not emptied else (True,):
        with pytest.raises(CheckpointUnsafe, match=said):
            here.mirror.copy.open(create=create)
    assert store.content == before
    (told,) = here.mirror.copy.open(create=True, settles=True)
    assert told.startswith(
        f"what is in {here.place.path} belonged to store {first}, which was at fake://{ROOT}; all of"
    )
    here.mirror.pull(owns=True)
    here.mirror.up.push()
    assert here.open() == []
    there.open()
    assert there.loaded() == VALUES


def test_journals_go_before_their_results_and_results_that_are_needed_stay(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    here.open()
    first = here.write_all(1, LARGE)
    run = here.place.new_run(1_800_000_100.0)
    with contextlib.closing(here.place.journal(run)) as journal:
        journal.append({"t": 1.0, "ev": "run_started", "run": run, "uses": [first]})
    here.mirror.up.begin(run)
    here.mirror.up.push()
    here.place.forget(first, results=False)
    here.mirror.up.prune([first])
    assert not [name for name in store.names(f"runs/{first}/") if "journal" in name]
    assert len(store.names(f"runs/{first}/results/")) == 2
    here.place.clear()
    store.deleted.clear()
    second = here.write_all(LARGE)
    here.mirror.up.push()
    gone = here.place.ids()
    here.place.clear()
    here.mirror.up.prune(gone)
    assert store.names("runs") == []
    ours = [name for name in store.deleted if second in name]
    assert len(ours) == 2
    assert "journal" in ours[0]


def test_a_journal_that_is_another_one_is_damage_until_it_is_settled(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    run = here.write_all(1, 2, 3)
    here.mirror.up.push()
    path = here.place.path / "runs" / run / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"t":1.0', b'"t":7.0'))
    with pytest.raises(CheckpointDamaged, match=rf"the journal of run {run} is not the same in fake://.*--ff-repair"):
        here.open()
    (said,) = here.open(settles=True)
    assert f"the one in fake://{ROOT} is kept" in said
    assert path.read_bytes() == content
    assert here.loaded() == [1, 2, 3]
    # And where the store is wrong.
    (name,) = [name for name in store.names(f"runs/{run}/") if "journal" in name]
    store.content[f"{ROOT}/{name}"] = content.replace(b'"t":1.0', b'"t":7.0')
    there.open()
    with pytest.raises(CheckpointDamaged):
        there.loaded()
    assert here.open() == []
    store.content[f"{ROOT}/{name[:-1]}{'0' if name[-1] != '0' else '1'}"] = store.content.pop(f"{ROOT}/{name}")
    (said,) = here.open(settles=True)
    assert "the one of this machine is kept" in said
    here.mirror.up.push()
    third = machines("third")
    third.open()
    assert third.loaded() == [1, 2, 3]


def test_a_repaired_journal_is_repaired_there(machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    run = here.write_all(*range(10))
    path = here.place.path / "runs" / run / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"t":4.0', b'"t":7.0'))
    here.mirror.up.push()
    here.place.repair(run)
    here.mirror.up.replace_journal(run)
    assert here.open() == []
    there.open()
    assert there.loaded() == list(range(4))


def test_damaged_results_are_found(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    here.write_all(LARGE)
    here.mirror.up.push()
    (name,) = [name for name in store.names() if name.endswith(".bin")]
    store.content[f"{ROOT}/{name}"] = store.content[f"{ROOT}/{name}"].replace(b"xx", b"xy", 1)
    there.open()
    with pytest.raises(Exception, match="is damaged: its task has to run again"):
        there.loaded()


@pytest.mark.parametrize("second", [None, b"", b"x"], ids=["fails", "ends", "short"])
def test_a_large_result_of_which_not_all_comes_is_none(store: FakeStore, machines: Any, second: bytes | None) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    run = here.write_all("x" * (20 << 20))
    here.mirror.up.push()
    there.open()
    real, reads = store.cat_file, 0

    def cat_file(path: str, start: int | None = None, end: int | None = None) -> bytes:
        nonlocal reads
        reads += path.endswith(".bin")
        if reads != 2:
            return real(path, start, end)
        if second is None:
            msg = "Could not connect to the endpoint URL: https://orange-bucket/"
            raise ConnectionError(msg)
        return second

    store.cat_file = cat_file  # type: ignore[method-assign]
    with pytest.raises(ResultMissing, match=r"can not be fetched: cannot read fake://.*\.bin \((Conn|EOF)"):
        there.loaded()
    with there.place.results(run) as results:
        assert results.names() == []
    # What came before is not taken for all of it: it is asked for anew.
    assert there.loaded() == here.values


@pytest.mark.parametrize("size", [1, 8 << 20, 80 << 30, 10**12])
def test_large_objects_have_no_more_parts_than_stores_allow(store: FakeStore, size: int) -> None:
    store.objects().upload("x", [b"x"], size)
    (block,) = store.blocks
    # Parts of S3 have 5 MiB at least and are 10,000 at most; those of Google are in units of 256 KiB.
    assert block >= 5 << 20
    assert size / block <= 10_000
    assert block % (256 << 10) == 0


def test_an_object_that_is_not_whole_is_none(store: FakeStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise OSError

    with pytest.raises(CheckpointUnreachable):
        store.objects().upload("x", chunks(), 2)
    assert store.names() == []


def test_what_is_no_checkpoint_is_left_alone(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    store.content[f"{ROOT}/photos/me.jpg"] = b"x"
    with pytest.raises(CheckpointUnsafe, match=r"holds other things \(photos/me.jpg\): choose another prefix"):
        here.mirror.copy.check()
    store.content[f"{ROOT}/VERSION"] = b"2 0123456789abcdef\n"
    with pytest.raises(CheckpointVersion, match="was written in format 2"):
        here.mirror.copy.check()
    store.content[f"{ROOT}/VERSION"] = b"hello"
    with pytest.raises(CheckpointDamaged, match="this is no checkpoint"):
        here.mirror.copy.check()
    assert set(store.names()) == {"VERSION", "photos/me.jpg"}


# ---- the threads of a run -------------------------------------------------------------------------------------------


def sender_of(store: FakeStore, machine: Machine) -> Sender:
    sender = Sender(store.objects(), machine.place, Holder.here(""), 0.01, clock=lambda: store.now)
    machine.mirror = sender._mirror
    sender.take(0.0)
    sender.pull(settles=False)
    return sender


def test_what_is_new_goes_up_by_itself_and_the_lease_goes_at_the_end(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    sender.begin(run)
    for number, _ in enumerate(here.write(*range(5), run=run)):
        if number == 2:
            _wait_for(lambda: here.mirror.up.unsent() == 0)
    assert sender.end([], 20.0) == ([], "")
    assert store.names("lease") == []
    there.open()
    assert there.loaded() == list(range(5))


def test_a_store_that_is_gone_is_said_at_the_end(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    writing = here.write(1, 2, 3, run=run)
    next(writing)
    store.fail_at, store.stay = len(store.calls), True
    sender.begin(run)
    _wait_for(lambda: sender._failed)
    for _ in writing:
        pass
    news, unsent = sender.end([], 20.0)
    assert news == []
    assert unsent.startswith(f"the last 3 records are only in {here.place.path}, and not in fake://{ROOT}: cannot ")


def silence(store: FakeStore, asked: threading.Event | None = None) -> threading.Event:
    """Have *store* answer when what is returned is set, at last after 30 s; *asked* is set once it has been asked."""
    answers = threading.Event()

    def be_silent(_: str) -> None:
        if asked is not None:
            asked.set()
        answers.wait(30)

    store.before = be_silent
    return answers


def test_a_store_that_falls_silent_is_not_waited_for_at_the_end(
    store: FakeStore, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "SLOW", 0.1)
    here = machines("here")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    list(here.write(1, 2, 3, run=run))
    answers = silence(store)
    sender.begin(run)
    begun = time.monotonic()
    told: list[float] = []
    news, unsent = sender.end([], 0.5, lambda: told.append(time.monotonic()))
    assert time.monotonic() - begun < 20
    assert told[0] - begun >= 0.1
    assert len(told) == 1
    assert news == []
    assert unsent.startswith(f"the last 3 records are only in {here.place.path}, and not in fake://{ROOT}: it has not")
    assert "answered for 0.5 s (ini flowforge_send_farewell)" in unsent
    answers.set()
    for thread in sender._threads:
        thread.join(20)


def test_that_it_takes_long_is_said_while_it_does(
    store: FakeStore, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "SLOW", 0.1)
    here = machines("here")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    list(here.write(1, run=run))
    # Until that is said.
    answers = silence(store)
    sender.begin(run)
    assert sender.end([], 60.0, answers.set) == ([], "")
    assert answers.is_set()


def test_a_store_that_is_slow_gets_all_of_it(store: FakeStore, machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it goes on, also in the middle of an object."""
    # Time passes only while something is sent, for this process may stand still at any moment.
    now = 0.0
    monkeypatch.setattr(sender_module, "time", SimpleNamespace(monotonic=lambda: now))
    here, there = machines("here"), machines("there")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    list(here.write("x" * (40 << 20), 1, run=run))
    real = store.open

    def open_slowly(path: str, mode: str, *, block_size: int) -> Any:
        file = real(path, mode, block_size=block_size)
        write = file.write

        def write_slowly(chunk: Any) -> int:
            nonlocal now
            now += 0.8
            # Long enough to be looked at.
            time.sleep(0.3)
            return write(chunk)

        file.write = write_slowly  # type: ignore[method-assign]
        return file

    store.open = open_slowly  # type: ignore[method-assign]
    sender._interval = 60.0
    sender.begin(run)
    assert sender.end([], 1.0) == ([], "")
    assert now > 3.0
    there.open()
    assert there.loaded() == here.values


def test_what_has_failed_at_the_end_is_not_tried_once_more(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    list(here.write(1, 2, 3, run=run))
    asked = threading.Event()
    # As a call does whose answer does not come: it fails in the end.
    ends = silence(store, asked)
    store.fail_at, store.stay = len(store.calls), True
    before = len(store.calls)
    sender.begin(run)
    assert asked.wait(20)
    _, unsent = sender.end([], 20.0, on_wait=ends.set)
    assert "the wire was cut" in unsent
    assert len(store.calls) == before + 1


def test_a_store_that_comes_back_gets_all_of_it_and_that_is_said(store: FakeStore, machines: Any) -> None:
    here, there = machines("here"), machines("there")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    store.fail_at, store.stay = len(store.calls), True
    sender.begin(run)
    for _ in here.write(1, 2, run=run):
        _wait_for(lambda: sender._failed)
    store.fail_at = -1
    (news,), unsent = sender.end([], 20.0)
    assert unsent == ""
    assert news.startswith("for a while nothing could be sent (cannot write fake://")
    there.open()
    assert there.loaded() == [1, 2]


def test_who_has_lost_the_store_sends_nothing(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    sender = sender_of(store, here)
    run = here.place.new_run(1_800_000_000.0)
    store.now += STALE + 2
    other = Lease(store.objects(), clock=lambda: store.now)
    other.acquire()
    sender.begin(run)
    for _ in here.write(1, run=run):
        pass
    _wait_for(lambda: sender._failed)
    with pytest.raises(CheckpointError, match="has taken over"):
        sender.prune([])
    _, unsent = sender.end([], 20.0)
    assert store.names("runs") == []
    assert "the last 1 record is only in" in unsent
    assert "has taken over" in unsent
    assert other.is_held
    assert len(store.names("lease")) == 1


def test_who_loses_the_store_in_the_middle_sends_no_more(store: FakeStore, machines: Any) -> None:
    here = machines("here")
    sender = sender_of(store, here)
    run = here.write_all(LARGE, f"{LARGE}.")
    other = Lease(store.objects(), clock=lambda: store.now)

    def sleep(name: str) -> None:
        if name == "pipe_file":
            store.before = lambda _: None
            store.now += STALE + 2
            other.acquire()

    store.before = sleep
    with pytest.raises(CheckpointLocked, match="has taken over"):
        here.mirror.up.push()
    assert len(store.names(f"runs/{run}/")) == 1
    sender.give_up()


def test_what_is_wrong_with_one_run_does_not_keep_the_others_here(
    store: FakeStore, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines("here"), machines("there")
    here.open()
    first = here.write_all(1)
    second = here.place.new_run(1_800_000_100.0)
    list(here.write(2, run=second))
    real = here.place.results
    monkeypatch.setattr(here.place, "results", lambda run: real("no run" if run == first else run))
    with pytest.raises(CheckpointError, match="no run"):
        here.mirror.up.push()
    monkeypatch.undo()
    there.open()
    assert there.place.runs() == [second]
    # It is not forgotten.
    here.mirror.up.push()
    there.open()
    assert there.place.runs() == [first, second]
    assert store.names("runs")


def test_who_gives_up_lets_the_next_one_in(store: FakeStore, machines: Any) -> None:
    sender = sender_of(store, machines("here"))
    with pytest.raises(CheckpointLocked):
        sender_of(store, machines("there"))
    sender.give_up()
    assert store.names("lease") == []
    sender_of(store, machines("third")).give_up()


def _wait_for(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
