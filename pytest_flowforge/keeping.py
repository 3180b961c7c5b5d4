"""What is kept of runs: read from the files alone, and written while a run goes on.

:class:`Archive` reads a checkpoint without a lock, also while a run writes it. :class:`Keeper` holds the lock, and is a
sink for the events of one run and a store for its results. Neither decides what runs, and neither knows pytest.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.checkpoint import fold
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.records import Recorder
from pytest_flowforge.core.resume import decide
from pytest_flowforge.core.states import SUCCEEDED
from pytest_flowforge.errors import (
    CheckpointError,
    CheckpointLocked,
    CheckpointUnwritable,
    ResultError,
    ResultMissing,
    ResultUnstorable,
)
from pytest_flowforge.storage.codec import JsonCodec, PickleCodec
from pytest_flowforge.storage.inventory import VERSION
from pytest_flowforge.storage.leases import live_runs
from pytest_flowforge.storage.locks import RunLock, WorkersLock
from pytest_flowforge.storage.mirror import Mirror
from pytest_flowforge.storage.objects import Objects
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.sending import sending
from pytest_flowforge.storage.syncing import GroupCommit
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import Growth, ResultRef, RunHeader, TaskRecord
    from pytest_flowforge.core.resume import Decision, Question
    from pytest_flowforge.storage.addresses import Address
    from pytest_flowforge.storage.codec import Codec
    from pytest_flowforge.storage.files import Durability, Files
    from pytest_flowforge.storage.journal import Journal
    from pytest_flowforge.storage.locks import Holder
    from pytest_flowforge.storage.sending import Sending

__all__ = ["Archive", "Keeper", "Repaired", "Settings", "Unreadable"]

#: Bytes of results that are kept in memory when they were loaded to see whether they can be.
_MOST_LOADED = 64 << 20

#: Seconds that workers of a run that was killed have to end.
PATIENCE = 20.0

#: Seconds after which people want to know that a store is waited for.
_SLOW = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how a checkpoint is kept.

    ``codecs`` are tried in this order, and nothing else is decoded. ``keep_runs`` is how many runs stay, ``wait`` how
    many seconds to wait for another run that uses the checkpoint. With an ``address`` the checkpoint is in a store, and
    ``path`` is where this machine has it as well; what is new is sent every ``interval`` seconds, and the rest at the
    end, unless the store does not answer for ``farewell`` seconds. With ``settles``, where the two contradict each
    other, one of them is chosen.
    """

    path: Path
    durability: Durability = "normal"
    codecs: Sequence[Codec] = field(default_factory=lambda: (JsonCodec(), PickleCodec()))
    keep_runs: int = 20
    wait: float = 0.0
    address: Address | None = None
    interval: float = 2.0
    farewell: float = 60.0
    settles: bool = False

    @property
    def shown(self) -> str:
        """What the checkpoint is called."""
        return str(self.path) if self.address is None else self.address.url


@contextlib.contextmanager
def _told_when_slow(settings: Settings, on_slow: Callable[[str], None]) -> Iterator[None]:
    """Say what is waited for, once that takes long; the libraries of stores may try for minutes."""
    words = f"reading {settings.shown} takes long (Ctrl-C gives up)"
    timer = threading.Timer(_SLOW, on_slow, [words])
    timer.daemon = True
    if settings.address is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A run whose journal can not be used, and why."""

    id: str
    error: CheckpointError


@dataclass(frozen=True, slots=True)
class Repaired:
    """A journal of which only good records are left; ``old`` is the name of the file with what it was."""

    run: str
    records: int
    old: str
    problem: str


class Archive:
    """The runs of a checkpoint, read when they are asked for."""

    def __init__(self, place: Place, codecs: Sequence[Codec]) -> None:
        self._place = place
        self.store = ResultStore(place, "", codecs=codecs)
        self._runs: dict[str, RunRecord] = {}
        self._parts: dict[str, dict[str, str]] = {}
        #: The ids of runs, once somebody goes through all of them for each task.
        self._ids: list[str] | None = None
        #: Bytes of an unfinished last record, of runs that were read: what a kill leaves behind.
        self.torn: dict[str, int] = {}
        #: Results that were loaded to see whether that can be done; by what tells them apart.
        self._loaded: dict[ResultRef, Any] = {}
        self._loaded_bytes = 0
        #: Runs that go on somewhere, as far as the store knows.
        self._live: frozenset[str] = frozenset()

    @classmethod
    def open(cls, settings: Settings, on_slow: Callable[[str], None] = lambda _: None) -> Archive:
        """Open the checkpoint; raise :class:`FileNotFoundError` when there is none, :class:`CheckpointError`.

        A store may take long for that: ``on_slow`` is told then in words what is waited for, on a thread of its own.
        """
        if settings.address is None:
            return cls(Place.open(settings.path, create=False), settings.codecs)
        place = Place.open(settings.path)
        try:
            objects = Objects.at(settings.address)
            mirror = Mirror(objects, place)
            with _told_when_slow(settings, on_slow):
                mirror.copy.open(create=False)
                mirror.pull(owns=False)
                live = live_runs(objects)
            archive = cls(place, settings.codecs)
            archive._live = live
        except BaseException:
            place.close()
            raise
        return archive

    @classmethod
    def require(cls, settings: Settings, on_slow: Callable[[str], None]) -> None:
        """Raise what :meth:`open` does; of a store no more is asked than whether it holds a checkpoint.

        Where that is to be settled, one that was emptied may be filled again with what this machine has of it.
        """
        if settings.address is None:
            cls.open(settings).close()
            return
        try:
            with _told_when_slow(settings, on_slow):
                Objects.at(settings.address).get(VERSION)
        except FileNotFoundError:
            if not settings.settles:
                raise
            Place.open(settings.path, create=False).close()

    @property
    def path(self) -> Path:
        """The folder it is in."""
        return self._place.path

    def close(self) -> None:
        """Close all files."""
        self.store.close()
        self._place.close()

    def ids(self) -> list[str]:
        """Return the ids of all runs, the oldest first."""
        return self._place.runs()

    def run(self, run: str) -> RunRecord:
        """Return the run with that id; raise :class:`CheckpointError`."""
        if run not in self._runs:
            try:
                with self._place.reading(run) as journal:
                    self._runs[run] = fold(run, journal.checked())
                    self.torn[run] = journal.torn_bytes
            except FileNotFoundError:
                known = ", ".join(self.ids()[-5:]) or "none"
                msg = f"the checkpoint holds no run {run!r}; the last ones are: {known} (--ff-history lists all)"
                raise CheckpointError(msg) from None
        return self._runs[run]

    def chosen(self, run: str = "") -> RunRecord | None:
        """Return that run, or the last one that something can be built on; None when there is none.

        Raises :class:`CheckpointError` for a run on which nothing can be built.
        """
        if not run:
            return next((found for found in map(self.run, reversed(self.ids())) if found.complete), None)
        found = self.run(run)
        if not found.complete:
            msg = f"run {run} was killed before it had said what it builds on: choose another one (--ff-history)"
            raise CheckpointError(msg)
        return found

    def last(self, run: str = "") -> RunRecord | None:
        """Return that run, or the last one that has begun; None when there is none."""
        if run:
            return self.run(run)
        # A run that was killed before it had said anything is none.
        return next((found for found in map(self.run, reversed(self.ids())) if found.began), None)

    def is_about(self, files: Iterable[str]) -> bool:
        """Whether the last run is known to have known of tasks in *files* only, and so of nothing else."""
        ids = self.ids()
        if not ids:
            return True
        head = self._place.read(ids[-1], most=1).records
        known = head[0].get("files") if head else None
        return isinstance(known, list) and set(files).issuperset(known)

    def history(self) -> Iterator[RunRecord | Unreadable]:
        """Yield all runs, the oldest first."""
        for run in self.ids():
            try:
                yield self.run(run)
            except CheckpointError as error:
                yield Unreadable(run, error)

    def is_alive(self, run: str) -> bool:
        """Whether the process of that run is known to be there, or seems to be on another machine."""
        if run in self._live:
            return True
        holder = RunLock(self._place.folder).holder()
        return holder is not None and holder.run == run and holder.is_alive

    def faults(self, run: RunRecord) -> list[tuple[TaskId, str]]:
        """Return the tasks of *run* whose result can not be loaded, each with the reason."""
        stored = [(task, record.result) for task, record in run.standing.items() if record.result is not None]
        return [(task, reason) for task, ref in stored if (reason := self.store.fault(ref))]

    def parts(self, run: str) -> dict[str, str]:
        """Return the digests of the pieces of code that a run was made of; empty when that is not known any more."""
        if run not in self._parts:
            found = self._parts[run] = {}
            with contextlib.suppress(OSError, CheckpointError), self._place.reading(run) as journal:
                for record in journal:
                    if record["ev"] == "run_code":
                        found.update(record.get("parts", {}))
        return self._parts[run]

    def earlier(self, task: TaskId) -> Iterator[TaskRecord]:
        """Yield the successes of *task* in all runs that can be read, the newest first."""
        for run in self._newest_first():
            record = run.known(task)
            if record is not None and record.state in SUCCEEDED:
                yield record

    def _newest_first(self) -> Iterator[RunRecord]:
        if self._ids is None:
            self._ids = self.ids()
        for run in reversed(self._ids):
            with contextlib.suppress(CheckpointError):
                yield self.run(run)

    # Results.

    def restore(self, question: Question, reads: Callable[[TaskId], Iterable[TaskId]]) -> Decision:
        """Decide, with results that can not be loaded counted as faulty where a task that runs would read them.

        ``reads`` returns the upstreams whose results a task may look at.
        """
        faults: dict[ResultRef, str] = {}

        def fault(ref: ResultRef) -> str:
            return faults[ref] if ref in faults else self.store.fault(ref)

        while True:
            decision = decide(replace(question, fault=fault))
            read = {need for task in decision.reasons for need in reads(task) if need in decision.restored}
            refs = [ref for need in read if (ref := decision.restored[need].result) is not None]
            before = len(faults)
            faults.update((ref, reason) for ref in refs if (reason := self._try(ref)))
            if len(faults) == before:
                return decision

    def _try(self, ref: ResultRef) -> str:
        """Load a result and keep it for now, if it is small; return why it can not be loaded, or nothing.

        A large one is verified and not decoded: it might not fit in here, and be wanted elsewhere.
        """
        if ref in self._loaded:
            return ""
        if ref.length > _MOST_LOADED:
            return self.store.fault(ref)
        try:
            value = self.store.get(ref)
        except ResultError as error:
            return error.reason
        if self._loaded_bytes + ref.length <= _MOST_LOADED:
            self._loaded[ref] = value
            self._loaded_bytes += ref.length
        return ""

    def load(self, record: TaskRecord, *, fresh: bool = False) -> Any:
        """Return the result of a task; raise :class:`ResultError` when that can not be done.

        It is given away: asked again, or with *fresh*, it is decoded anew.
        """
        ref = record.result
        if ref is None:
            msg = "a result was not stored, and is not there any more: its task has to run again"
            raise ResultMissing(msg)
        if ref in self._loaded:
            self._loaded_bytes -= ref.length
            value = self._loaded.pop(ref)
            if not fresh:
                return value
        return self.store.get(ref)


class Keeper:
    """Keeps one run. Made when the lock is held; a sink for events once the run has begun.

    What goes wrong with the disk does not end the run on the spot: ``broken`` says what it was, nothing is written any
    more, and ``unsaved`` gathers the tasks whose success nobody will know of. ``tell`` takes sentences for people.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[str], None],
        files: Files | None = None,
        *,
        on_wait: Callable[[], None] = lambda: None,
        on_slow: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Lock the checkpoint; raise :class:`CheckpointError`.

        Workers of a run that was killed are waited for, after a call of ``on_wait``: they may still do its tasks.
        A store may take long to be opened, and to get the rest at the end: ``on_slow`` is told then in words what is
        waited for, on a thread of its own.
        """
        self._settings = settings
        self._tell = tell
        self._on_slow = on_slow
        #: What was said of journals that were not the same here and in the store.
        self.settled: list[str] = []
        #: Undoes what was done so far, until everything is.
        with contextlib.ExitStack() as undo:
            self._place = Place.open(settings.path, files)
            undo.callback(self._place.close)
            # Who uses the store may be on this machine: it knows more of that than the lock does.
            self._sender = self._taken(undo)
            self._lock = RunLock(self._place.folder)
            #: Who held it before and had no chance to say that it ended.
            self.killed: Holder | None = self._lock.acquire(settings.wait)
            undo.callback(self._lock.release)
            self._wait_for_workers(on_wait)
            if self._sender is not None:
                with _told_when_slow(settings, self._on_slow):
                    self.settled = self._sender.pull(settles=settings.settles)
            undo.pop_all()
        self.archive = Archive(self._place, settings.codecs)
        self.run = ""
        self.broken: CheckpointUnwritable | None = None
        self.unsaved: list[TaskId] = []
        self._commit = GroupCommit(settings.durability)
        self._journal: Journal | None = None
        self._store: ResultStore | None = None
        self._recorder: Recorder | None = None
        #: Whether the run has said everything about itself that others need to build on it.
        self._described = False
        self._results: dict[TaskId, ResultRef] = {}
        #: Runs that were deleted here, and are to be in the store.
        self._gone: list[str] = []
        #: Digests of the files that tasks have made, by task and path.
        self.outputs: dict[TaskId, Mapping[str, str]] = {}
        #: Tasks that turned out to be made of something else when they started.
        self.fingerprints: dict[TaskId, Fingerprint] = {}

    def _taken(self, undo: contextlib.ExitStack) -> Sending | None:
        """Take the store, where there is one."""
        settings = self._settings
        if settings.address is None:
            return None
        # Who waits for another run has been told so.
        with contextlib.nullcontext() if settings.wait else _told_when_slow(settings, self._on_slow):
            sender = sending(settings.address, settings.path, settings.interval)
            undo.callback(sender.give_up)
            sender.take(settings.wait)
        self._place.fetch = sender.fetch
        return sender

    def _wait_for_workers(self, on_wait: Callable[[], None]) -> None:
        workers = WorkersLock(self._place.folder)
        if workers.are_gone(0.0):
            return
        on_wait()
        if not workers.are_gone(PATIENCE):
            msg = (
                f"workers of the last run still work at the checkpoint {self._place.path}, although that run has ended:"
                " wait until their tasks are done or end them, or use another folder with --ff-checkpoint"
            )
            raise CheckpointLocked(msg)

    def begin(self, at: float, header: RunHeader) -> None:
        """Begin a run at *at* that says of itself what *header* does, but for its id, which it gets here.

        Raises :class:`CheckpointUnwritable`.
        """
        settings = self._settings
        self.run = self._place.new_run(at)
        self._lock.announce(self.run)
        self._recorder = Recorder(replace(header, run=self.run), self._results, self.outputs, self.fingerprints)
        self._journal = self._place.journal(self.run, on_append=self._commit.touch)
        self._store = ResultStore(
            self._place,
            self.run,
            codecs=settings.codecs,
            on_put=self._commit.touch,
            sync_large=settings.durability != "off",
        )
        self._commit.watch(self._store, self._journal)
        if self._sender is not None:
            self._sender.begin(self.run)

    def __call__(self, event: Event) -> None:
        """Write *event* down."""
        if self._recorder is None or self._journal is None:
            return
        if self.broken is None:
            try:
                if isinstance(event, RunEnded):
                    self._commit.commit()
                for text in self._recorder.texts(event):
                    self._journal.append_text(text)
                self._described = self._described or isinstance(event, RunBegan)
            except CheckpointUnwritable as error:
                self.broken = error
        if self.broken is not None and isinstance(event, TaskMoved) and event.after in SUCCEEDED:
            self.unsaved.append(event.task)

    def put(self, task: TaskId, label: str, value: Any) -> bool:
        """Store the result of *task*, called *label*, and return whether that was done; what can not be is said."""
        if self._store is None or self.broken is not None:
            return False
        try:
            self._results[task] = self._store.put(value)
        except CheckpointUnwritable as error:
            self.broken = error
        except ResultUnstorable as error:
            self._tell(f"the result of {label} {error}: it is passed on in memory; {label} runs again on --ff-resume")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - pickling calls methods of the value, which may raise anything
            why = f"{type(error).__name__} while it was pickled"
            self._tell(f"the result of {label} can not be stored ({why}): {label} runs again on --ff-resume")
        else:
            return True
        return False

    def stored(self, task: TaskId, ref: ResultRef) -> None:
        """*task* has stored its result in this run by itself, in another process."""
        self._results[task] = ref

    def size_of(self, task: TaskId) -> int | None:
        """Return how many bytes the result takes that *task* has stored in this run; None where there is none."""
        ref = self._results.get(task)
        return None if ref is None else ref.length

    def expect(self, growth: Growth) -> None:
        """Take note of instances that are about to be added to the run."""
        if self._recorder is not None:
            self._recorder.expect(growth)

    def token(self, task: TaskId) -> str:
        """Return what tasks downstream of *task*, which has ended, have seen of it; empty if that is not known."""
        return "" if self._recorder is None else self._recorder.token(task)

    def load(self, task: TaskId) -> Any:
        """Return the result that *task* has stored in this run, decoded anew; raise :class:`ResultError`."""
        ref = self._results.get(task)
        if self._store is None or ref is None:
            msg = "a result was not stored, and can not be read anew"
            raise ResultMissing(msg)
        return self._store.get(ref)

    def durations(self) -> dict[str, float]:
        """Return how many seconds tasks took when they last succeeded."""
        return self._place.durations()

    def keep_durations(self, seconds: Mapping[TaskId, float]) -> None:
        """Remember how many seconds these tasks took. It is advice: where it can not be kept, there is none."""
        if seconds and self.broken is None:
            with contextlib.suppress(CheckpointError, OSError):
                self._place.keep_durations(
                    {**self._place.durations(), **{str(task): took for task, took in seconds.items()}}
                )

    def save(self) -> None:
        """Make everything survive a power cut, now."""
        if self.broken is None:
            try:
                self._commit.commit()
            except CheckpointUnwritable as error:
                self.broken = error

    def repair(self) -> list[Repaired]:
        """Keep the good records of damaged journals; return what was done. Raises :class:`CheckpointUnwritable`."""
        done = []
        for run in self.archive.ids():
            found, old = self._place.repair(run)
            if old is not None:
                damage = found.damage
                problem = f"line {damage.line}: {damage.reason}" if damage else f"{found.torn_bytes} bytes of a record"
                done.append(Repaired(run, len(found.records), old.name, problem))
                if self._sender is not None:
                    self._sender.replace_journal(run)
        return done

    def clear(self) -> None:
        """Delete all runs and results."""
        gone = self._place.ids()
        self._place.clear()
        if self._sender is not None:
            self._sender.prune(gone)

    def prune(self) -> None:
        """Delete the oldest runs; never what a run that is kept was built on. In a store it is done by :meth:`send`."""
        if not self._described:
            # This run takes the place of none: nothing can be built on it.
            return
        try:
            self._gone += self._place.prune(self._settings.keep_runs)
        except (OSError, CheckpointError) as error:
            self._tell(f"old runs could not be deleted: {error}")

    def send(self) -> bool:
        """Send what is new to the store, where there is one, and let others use that; say what could not be sent.

        Returns whether everything is where it belongs. Ctrl-C ends that, and nothing else: what was to be done is done,
        and whoever does not want to wait for the network need not.
        """
        sender, self._sender = self._sender, None
        if sender is None:
            return True
        words = f"sending to {self._settings.shown} ... (Ctrl-C leaves the rest for the next run)"
        try:
            news, unsent = sender.end(self._gone, self._settings.farewell, lambda: self._on_slow(words))
        except KeyboardInterrupt:
            news = []
            unsent = (
                f"sending was interrupted: what the store does not have yet is in {self._settings.path}, and goes"
                " there with the next run of this machine with the same --ff-checkpoint"
            )
        for sentence in (*news, *([unsent] if unsent else [])):
            self._tell(sentence)
        return not unsent

    def close(self) -> None:
        """Let the next run in. Call it however the run has ended."""
        try:
            self._commit.close()
        except CheckpointUnwritable as error:
            self.broken = self.broken or error
        finally:
            # Whatever went wrong here: a store that nobody lets go of is kept from all others as long as this process
            # lives.
            try:
                self.send()
            finally:
                if self._journal is not None:
                    self._journal.close()
                if self._store is not None:
                    self._store.close()
                self._lock.release()
                self.archive.close()
