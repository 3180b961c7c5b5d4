"""From a store to this machine: journals when a checkpoint is opened, results when somebody reads them."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointDamaged, CheckpointUnreachable
from pytest_flowforge.storage.copies import MARK, read_range
from pytest_flowforge.storage.files import persist
from pytest_flowforge.storage.inventory import File, Inventory
from pytest_flowforge.storage.journal import JOURNAL, scan, scan_bytes
from pytest_flowforge.storage.pieces import digest_of_bytes
from pytest_flowforge.storage.places import DURATIONS, is_result_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flowforge.storage.copies import Copy
    from pytest_flowforge.storage.files import Folder

__all__ = ["Downloads"]

#: How often a file is fetched whose pieces are merged meanwhile.
_TRIES = 5


class Downloads:
    """Brings to the folder of *copy* what its store has. Threads may share it: one file at a time comes."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._lock = threading.RLock()

    def pull(self, *, owns: bool, settles: bool) -> list[str]:
        """Do what :meth:`.mirror.Mirror.pull` says."""
        said: list[str] = []
        with self._lock:
            self._copy.inventory = Inventory.of(self._copy.objects.list())
            for run in self._copy.inventory.journals():
                if not self._pull_journal(run):
                    if not settles:
                        raise self._contradiction(run)
                    said.append(self._settle(run))
            if owns:
                self._forget()
                self._pull_durations()
        return said

    def _pull_journal(self, run: str) -> bool:
        """Bring the journal of *run* here, if there is more of it in the store; return False for a contradiction."""
        file = File(run, JOURNAL)
        with self._copy.folder(file) as folder:
            try:
                fd = folder.read(JOURNAL)
            except FileNotFoundError:
                self._download(file, folder)
                self._copy.mark(run)
                return True
            files = folder.files
            try:
                here = files.fstat(fd).st_size
                for piece in self._copy.inventory.chain(file):
                    end = min(piece.end, here)
                    if piece.end > here:
                        # Only a part of it is here: all of it has to be seen to tell whether it is the same.
                        content = b"".join(self._content(file))
                        mine = files.pread(fd, here, 0)
                        if content[: mine.rfind(b"\n") + 1] != mine[: mine.rfind(b"\n") + 1]:
                            return False
                        folder.fill(JOURNAL, [content])
                        break
                    if digest_of_bytes(read_range(files.pread, fd, piece.start, end)) != piece.digest:
                        return False
            finally:
                files.close(fd)
        self._copy.mark(run)
        return True

    def _contradiction(self, run: str) -> CheckpointDamaged:
        return CheckpointDamaged(
            f"the journal of run {run} is not the same in {self._copy.url} and in {self._copy.place.path}: one of them"
            " was changed by something else than us. 'pytest --ff-repair' with this --ff-checkpoint keeps the one with"
            " more good records, and the other one beside it"
        )

    def _settle(self, run: str) -> str:
        file = File(run, JOURNAL)
        with self._copy.folder(file) as folder:
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
                folder.remove(MARK)
                self._copy.drop(file)
        kept = "the one of this machine"
        if there > here:
            self._copy.mark(run)
            kept = f"the one in {self._copy.url}"
        return (
            f"run {run}: its journal was not the same here and there; {kept} is kept, and the other one is now {old}"
            f" in {self._copy.place.path / 'runs' / run}"
        )

    def _forget(self) -> None:
        """Delete here what was there once and is not any more: somebody has deleted it there."""
        for run in self._copy.place.ids():
            if self._copy.is_marked(run) and not self._copy.inventory.end(File(run, JOURNAL)):
                self._copy.place.forget(run, results=not self._copy.inventory.names.get(run))

    def _pull_durations(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._copy.place.folder.put(DURATIONS, self._copy.objects.get(DURATIONS))

    def fetch(self, run: str, name: str, end: int) -> bool:
        """Bring a file with results of *run* here, of which *end* bytes are needed; return whether that was done."""
        file = File(run, name)
        if not is_result_file(name):
            return False
        with self._lock:
            if self._copy.inventory.end(file) < end:
                self._copy.look(file)
            there = self._copy.inventory.end(file)
            if there < end:
                return False
            with self._copy.folder(file) as folder:
                with contextlib.suppress(FileNotFoundError):
                    if folder.status(name).st_size >= there:
                        return True
                self._download(file, folder)
            return True

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
                    for chunk in self._copy.objects.chunks(name, end - start):
                        rest = chunk[max(skip, 0) :]
                        skip -= len(chunk)
                        if rest:
                            done += len(rest)
                            yield rest
            except FileNotFoundError:
                self._copy.look(file)
            else:
                return
        msg = f"cannot read {self._copy.url}/{file.object}: it changes all the time; try again"
        raise CheckpointUnreachable(msg)

    def _parts(self, file: File) -> list[tuple[str, int, int]]:
        """Return the objects that *file* consists of, and where each begins and ends in it."""
        if not file.grows:
            return [(file.object, 0, self._copy.inventory.end(file))]
        return [(f"{file.object}/{piece.name}", piece.start, piece.end) for piece in self._copy.inventory.chain(file)]
