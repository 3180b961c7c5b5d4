"""A checkpoint in a store: a folder of this machine, and all that is in it in the store as well.

The folder is a checkpoint like any other: what was written there survives ``kill -9``, and nothing on the way of a task
waits for the network. What is new goes up from time to time, by a thread: results first, then the records of the
journal that name them, whole lines only. So whatever is in the store is the first part of what happened, with all its
results, at any moment. Journals come down when the checkpoint is opened, results when somebody reads them.

What can not be sent stays here, is tried again, and goes up with the next run at the latest.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING

from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointLocked,
    CheckpointUnreachable,
    CheckpointUnsafe,
    CheckpointVersion,
)
from pytest_flowforge.storage.files import persist
from pytest_flowforge.storage.inventory import VERSION, File, Inventory
from pytest_flowforge.storage.journal import JOURNAL, scan, scan_bytes
from pytest_flowforge.storage.objects import BLOCK
from pytest_flowforge.storage.pieces import Piece, digest_of_bytes, next_piece
from pytest_flowforge.storage.places import DURATIONS, MOST_DURATIONS, STORE, is_result_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pytest_flowforge.storage.files import Folder
    from pytest_flowforge.storage.objects import Objects
    from pytest_flowforge.storage.places import Place

__all__ = ["Mirror"]

_FORMAT = 1
_VERSION = re.compile(rb"(\d{1,9}) ([0-9a-f]{16})\n")

#: In the folder of a run whose journal is in a store, or was: which store that is.
_MARK = "mirrored"

#: What stands there in the folder of this machine.
_KNOWN = re.compile(rb"([0-9a-f]{16}) (.{1,4000})\n")

#: How often a file is fetched whose pieces are merged meanwhile.
_TRIES = 5


def _nothing() -> None:
    """Let it be sent."""


class Mirror:
    """What is in the folder of *place* and in the store of *objects*, and what has to go where.

    Threads may share it. Whatever asks the store raises :class:`CheckpointUnreachable`.
    """

    def __init__(self, objects: Objects, place: Place) -> None:
        self.objects = objects
        self.url = objects.url
        self._place = place
        self._inventory = Inventory()
        self._identity = b""
        #: Held while a file comes, and while files go: one at a time each way.
        self._down, self._up = threading.RLock(), threading.RLock()
        #: The run that is written here; empty for none.
        self._current = ""
        #: Runs that are not in the store yet, or not all of them.
        self._pending: set[str] = set()
        #: Files that are known to be there as they are here, and do not change.
        self._done: set[File] = set()
        #: Asked before anything is sent; raises :class:`CheckpointError` when that may not be done any more.
        self.before_send: Callable[[], None] = _nothing

    @property
    def path(self) -> Path:
        """The folder of this machine."""
        return self._place.path

    # ------------------------------------------------------------------ opening

    def check(self) -> None:
        """Raise what :meth:`open` does where the store is to be made a checkpoint and can not be; write nothing."""
        try:
            self.open(create=False, settles=True)
        except FileNotFoundError:
            others = Inventory.of(self.objects.list()).others
            if others:
                msg = (
                    f"{self.url} is no checkpoint and holds other things ({others[0]:.100}): choose another prefix"
                    " with --ff-checkpoint, where nothing is"
                )
                raise CheckpointUnsafe(msg) from None

    def open(self, *, create: bool, settles: bool = False) -> list[str]:
        """Look whether the store holds a checkpoint, or make it one with *create*.

        Raises :class:`FileNotFoundError` where there is none, :class:`CheckpointVersion`, and :class:`CheckpointUnsafe`
        where the folder of this machine goes with another store; with *settles* that one was made anew, which is said
        in the sentences that are returned.
        """
        try:
            text = self.objects.get(VERSION)
        except FileNotFoundError:
            if not create:
                raise
            if not settles:
                self._refuse_another(b"")
            text = b"%d %b\n" % (_FORMAT, os.urandom(8).hex().encode("ascii"))
            self.objects.put(VERSION, text)
        found = _VERSION.fullmatch(text)
        if found is None:
            msg = f"{self.url}/{VERSION} holds no version: this is no checkpoint, choose another --ff-checkpoint"
            raise CheckpointDamaged(msg)
        if int(found[1]) > _FORMAT:
            msg = (
                f"{self.url} was written in format {int(found[1])}, and this version of pytest-flowforge reads up to"
                f" {_FORMAT}: update it, or use another --ff-checkpoint"
            )
            raise CheckpointVersion(msg)
        if not settles:
            self._refuse_another(found[2])
        self._identity = found[2]
        return self._settle_store() if create else []

    def _known_store(self) -> tuple[bytes, str]:
        """Return which store the folder of this machine goes with, and its URL; nothing where that is not known."""
        try:
            found = _KNOWN.fullmatch(self._place.folder.text(STORE))
        except FileNotFoundError:
            found = None
        return (found[1], found[2].decode("utf-8", "replace")) if found is not None else (b"", "")

    def _refuse_another(self, identity: bytes) -> None:
        known, url = self._known_store()
        if not known or known == identity:
            return
        here = f"which is store {identity.decode()}" if identity else "where there is no checkpoint"
        msg = (
            f"what is in {self._place.path} belongs to store {known.decode()}, which was at {url}, and not to"
            f" {self.url}, {here}: name the account and the endpoint it is at. If it is the same store, made anew or"
            " emptied, 'pytest --ff-repair' with this --ff-checkpoint sends there what is here; or remove this folder"
        )
        raise CheckpointUnsafe(msg)

    def _settle_store(self) -> list[str]:
        known, url = self._known_store()
        self._keep_store()
        if not known or known == self._identity:
            return []
        said = (
            f"what is in {self._place.path} belonged to store {known.decode()}, which was at {url}; all of it goes to"
            f" {self.url} now, which is store {self._identity.decode()}"
        )
        return [said]

    def _keep_store(self) -> None:
        """Note down which store the folder of this machine goes with."""
        if self._known_store() != (self._identity, self.url):
            text = self._identity + f" {self.url}\n".encode()
            persist(lambda: self._place.folder.put(STORE, text))

    def pull(self, *, owns: bool, settles: bool = False) -> list[str]:
        """Bring the journals here that are in the store. Who *owns* both also deletes here what was deleted there.

        A journal that is not the same in both raises :class:`CheckpointDamaged`; with *settles* the one with more good
        records is kept, which is said in the sentences that are returned.
        """
        said: list[str] = []
        with self._down:
            self._inventory = Inventory.of(self.objects.list())
            self._done.clear()
            for run in self._inventory.journals():
                if not self._pull_journal(run):
                    if not settles:
                        raise self._contradiction(run)
                    said.append(self._settle(run))
            if owns:
                self._forget()
                self._pending = {run for run in self._place.runs() if self._journal_end(run)[1]}
                self._pull_durations()
            self._place.fetch = self.fetch
        return said

    def _pull_journal(self, run: str) -> bool:
        """Bring the journal of *run* here, if there is more of it in the store; return False for a contradiction."""
        file = File(run, JOURNAL)
        with self._folder(file) as folder:
            try:
                fd = folder.read(JOURNAL)
            except FileNotFoundError:
                self._download(file, folder)
                self._mark(run)
                return True
            files = folder.files
            try:
                here = files.fstat(fd).st_size
                for piece in self._inventory.chain(file):
                    end = min(piece.end, here)
                    if piece.end > here:
                        # Only a part of it is here: all of it has to be seen to tell whether it is the same.
                        content = b"".join(self._content(file))
                        mine = files.pread(fd, here, 0)
                        if content[: mine.rfind(b"\n") + 1] != mine[: mine.rfind(b"\n") + 1]:
                            return False
                        folder.fill(JOURNAL, [content])
                        break
                    if digest_of_bytes(_range(files.pread, fd, piece.start, end)) != piece.digest:
                        return False
            finally:
                files.close(fd)
        self._mark(run)
        return True

    def _contradiction(self, run: str) -> CheckpointDamaged:
        return CheckpointDamaged(
            f"the journal of run {run} is not the same in {self.url} and in {self._place.path}: one of them was changed"
            " by something else than us. 'pytest --ff-repair' with this --ff-checkpoint keeps the one with more good"
            " records, and the other one beside it"
        )

    def _settle(self, run: str) -> str:
        file = File(run, JOURNAL)
        with self._folder(file) as folder:
            content = b"".join(self._content(file))
            there, here = len(scan_bytes(content).records), len(scan(folder).records)
            old = f"{JOURNAL}.{os.urandom(4).hex()}.old"
            if there > here:
                fd = folder.read(JOURNAL)
                try:
                    folder.files.close(folder.copy(fd, None, old))
                finally:
                    folder.files.close(fd)
                folder.fill(JOURNAL, [content])
            else:
                folder.fill(old, [content])
                # Before it is gone there: what was there and is not any more is deleted here.
                folder.remove(_MARK)
                self._drop(file)
        kept = "the one of this machine"
        if there > here:
            self._mark(run)
            kept = f"the one in {self.url}"
        return (
            f"run {run}: its journal was not the same here and there; {kept} is kept, and the other one is now {old}"
            f" in {self._place.path / 'runs' / run}"
        )

    def _drop(self, file: File) -> None:
        """Delete a growing file in the store, from its end on: what is left is always the first part of it."""
        pieces = sorted(self._inventory.pieces.pop(file, ()), key=lambda piece: (piece.end, piece.start), reverse=True)
        self.objects.delete(f"{file.object}/{piece.name}" for piece in pieces)

    def _forget(self) -> None:
        """Delete here what was there once and is not any more: somebody has deleted it there."""
        for run in self._place.ids():
            if self._is_marked(run) and not self._inventory.end(File(run, JOURNAL)):
                self._place.forget(run, results=not self._inventory.names.get(run))

    def _pull_durations(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._place.folder.put(DURATIONS, self.objects.get(DURATIONS))

    # ------------------------------------------------------------------ down

    def fetch(self, run: str, name: str, end: int) -> bool:
        """Bring a file with results of *run* here, of which *end* bytes are needed; return whether that was done."""
        file = File(run, name)
        if not is_result_file(name):
            return False
        with self._down:
            if self._inventory.end(file) < end:
                self._look(file)
            there = self._inventory.end(file)
            if there < end:
                return False
            with self._folder(file) as folder:
                with contextlib.suppress(FileNotFoundError):
                    if folder.status(name).st_size >= there:
                        return True
                self._download(file, folder)
            return True

    def _look(self, file: File) -> None:
        """Ask what is there of *file* now."""
        found = Inventory.of(self.objects.list(file.object))
        if file.grows:
            self._inventory.pieces[file] = found.pieces.get(file, [])
        elif file in found.sizes:
            self._inventory.sizes[file] = found.sizes[file]

    def _download(self, file: File, folder: Folder) -> None:
        # See _mark.
        persist(lambda: folder.fill(file.name, self._content(file)))

    def _content(self, file: File) -> Iterator[bytes]:
        """Yield what is in the store of *file*; somebody may be merging its pieces meanwhile."""
        done = 0
        for _ in range(_TRIES):
            try:
                for name, start, end in self._parts(file):
                    skip = done - start
                    for chunk in self.objects.chunks(name, end - start):
                        rest = chunk[max(skip, 0) :]
                        skip -= len(chunk)
                        if rest:
                            done += len(rest)
                            yield rest
            except FileNotFoundError:
                self._look(file)
            else:
                return
        msg = f"cannot read {self.url}/{file.object}: it changes all the time; try again"
        raise CheckpointUnreachable(msg)

    def _parts(self, file: File) -> list[tuple[str, int, int]]:
        """Return the objects that *file* consists of, and where each begins and ends in it."""
        if not file.grows:
            return [(file.object, 0, self._inventory.end(file))]
        return [(f"{file.object}/{piece.name}", piece.start, piece.end) for piece in self._inventory.chain(file)]

    # ------------------------------------------------------------------ up

    def begin(self, run: str) -> None:
        """From now on *run* is written here."""
        self._pending.add(run)
        self._current = run

    def push(self) -> None:
        """Send what is new here. What is wrong with one run does not keep the others here; it is raised behind them."""
        wrong: Exception | None = None
        for run in sorted(self._pending):
            try:
                with self._up:
                    self._push_run(run)
                    if run != self._current:
                        self._pending.discard(run)
            except (CheckpointUnreachable, CheckpointLocked):
                raise
            except (CheckpointError, OSError) as error:
                wrong = wrong or error
        if wrong is not None:
            raise wrong

    def _push_run(self, run: str) -> None:
        # Asked first: the results that these records name are there by now.
        end, new = self._journal_end(run)
        try:
            with self._place.results(run) as results:
                for name in results.names():
                    if is_result_file(name) and File(run, name) not in self._done:
                        with contextlib.suppress(FileNotFoundError):
                            self._push_file(File(run, name), results)
        except FileNotFoundError:
            # Deleted during the run, which writes anew what it has open.
            self._place.restore(run).close()
        if not new:
            return
        file = File(run, JOURNAL)
        with self._place.folder_of(run) as folder:
            self._push_piece(file, folder, end)
        self._mark(run)

    def push_result(self, run: str, name: str) -> None:
        """Send the file *name* with results of *run*."""
        with self._up, self._place.results(run) as results:
            self._push_file(File(run, name), results)

    def _push_file(self, file: File, folder: Folder) -> None:
        size = folder.status(file.name).st_size
        if file.grows:
            self._push_piece(file, folder, size)
            return
        if self._inventory.sizes.get(file) != size:
            self._send(file.object, file.name, folder, 0, size)
            self._inventory.sizes[file] = size
        self._done.add(file)

    def _push_piece(self, file: File, folder: Folder, end: int) -> None:
        chain = self._inventory.chain(file)
        if end <= self._inventory.end(file):
            return
        planned = next_piece(chain, end)
        fd = folder.read(file.name)
        try:
            digest = digest_of_bytes(_range(folder.files.pread, fd, planned.start, end))
        finally:
            folder.files.close(fd)
        piece = Piece(planned.start, end, planned.level, digest)
        self._send(f"{file.object}/{piece.name}", file.name, folder, planned.start, end)
        known = self._inventory.pieces.get(file, [])
        self._inventory.pieces[file] = [*chain[: len(chain) - len(planned.absorbed)], piece]
        # Last: until then there are both, and the longer one counts. What an earlier try has left goes as well.
        self.objects.delete(f"{file.object}/{one.name}" for one in known if one.start >= piece.start and one != piece)

    def replace_journal(self, run: str) -> None:
        """Make the journal of *run* in the store what it is here: the first part of what it was."""
        file = File(run, JOURNAL)
        with self._up, self._place.folder_of(run) as folder:
            known = self._inventory.pieces.pop(file, [])
            end = folder.status(JOURNAL).st_size
            if not end:
                # What was there and is not any more is deleted here.
                folder.remove(_MARK)
            self._push_piece(file, folder, end)
            kept = self._inventory.chain(file)
            # From the end on: what is left is always a first part of it, at least as long as this one.
            others = sorted(set(known).difference(kept), key=lambda piece: (piece.end, piece.start), reverse=True)
            self.objects.delete(f"{file.object}/{piece.name}" for piece in others)

    def _send(self, name: str, source: str, folder: Folder, start: int, end: int) -> None:
        self.before_send()
        fd = folder.read(source)
        try:
            chunks = _range(folder.files.pread, fd, start, end)
            if end - start <= BLOCK:
                self.objects.put(name, b"".join(chunks))
            else:
                self.objects.upload(name, chunks, end - start)
        finally:
            folder.files.close(fd)

    def _journal_end(self, run: str) -> tuple[int, int]:
        """Return up to where there are whole lines in the journal of *run*, and how many of them are not in the store.

        A line that is not whole may still be taken back.
        """
        there = self._inventory.end(File(run, JOURNAL))
        end, lines = there, 0
        try:
            with self._place.folder_of(run) as folder:
                fd = folder.read(JOURNAL)
                try:
                    offset = there
                    for chunk in _range(folder.files.pread, fd, there, None):
                        lines += chunk.count(b"\n")
                        end = offset + chunk.rfind(b"\n") + 1 if b"\n" in chunk else end
                        offset += len(chunk)
                finally:
                    folder.files.close(fd)
        except FileNotFoundError:
            return there, 0
        return end, lines

    def unsent(self) -> int:
        """Return how many records are here and not in the store."""
        return sum(self._journal_end(run)[1] for run in sorted(self._pending))

    def prune(self, gone: Iterable[str]) -> None:
        """Delete the runs *gone* in the store, which were deleted here: journals first, then results nobody needs.

        What is not here for another reason stays there: somebody may have deleted this folder during the run.
        """
        with self._up:
            inventory = Inventory.of(self.objects.list("runs"))
            gone = set(gone)
            kept = {*inventory.journals(), *filter(None, [self._current])} - gone
            needed = self._place.uses(sorted(kept))
            if needed is None:
                return
            first = min(kept, default="")
            for run in sorted(inventory.names):
                # Without a journal its results may be left of one that is gone, or of one that is about to begin.
                if run in gone or (run not in kept and (not first or run < first)):
                    self._delete(run, inventory.names[run], results=run not in needed)

    def _delete(self, run: str, names: Iterable[str], *, results: bool) -> None:
        journals: list[str] = []
        others: list[str] = []
        for name in sorted(names, reverse=True):
            (others if name.startswith(f"runs/{run}/results/") else journals).append(name)
        self.objects.delete(journals)
        if results:
            self.objects.delete(others)

    def push_durations(self) -> None:
        """Send how long tasks took."""
        with contextlib.suppress(FileNotFoundError):
            self.objects.put(DURATIONS, self._place.folder.text(DURATIONS, MOST_DURATIONS))

    # ------------------------------------------------------------------ folders

    def _folder(self, file: File) -> Folder:
        """Open the folder here in which *file* belongs; it is made where it is not there."""
        opens = self._place.folder_of if file.name == JOURNAL else self._place.results
        try:
            return opens(file.run)
        except FileNotFoundError:
            self._place.restore(file.run).close()
            return opens(file.run)

    def _is_marked(self, run: str) -> bool:
        try:
            with self._place.folder_of(run) as folder:
                return folder.text(_MARK) == self._identity
        except FileNotFoundError:
            return False

    def _mark(self, run: str) -> None:
        if not self._is_marked(run):
            with self._place.folder_of(run) as folder:
                # The run that is at it tidies up behind others, also what is about to get its name.
                persist(lambda: folder.put(_MARK, self._identity))
            self._keep_store()


def _range(pread: Callable[[int, int, int], bytes], fd: int, start: int, end: int | None) -> Iterator[bytes]:
    """Yield the bytes of *fd* from *start* up to *end* (None: its end), some at a time."""
    while end is None or start < end:
        chunk = pread(fd, BLOCK if end is None else min(BLOCK, end - start), start)
        if not chunk:
            if end is None:
                return
            msg = f"a file ends at {start:,} that had {end:,} bytes"
            raise CheckpointError(msg)
        yield chunk
        start += len(chunk)
