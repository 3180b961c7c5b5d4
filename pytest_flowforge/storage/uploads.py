"""From this machine to a store: results first, then the records that name them.

What can not be sent stays here, is tried again, and goes up with the next run at the latest.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointError, CheckpointLocked, CheckpointUnreachable
from pytest_flowforge.storage.copies import MARK, read_range
from pytest_flowforge.storage.inventory import File, Inventory
from pytest_flowforge.storage.journal import JOURNAL
from pytest_flowforge.storage.objects import BLOCK
from pytest_flowforge.storage.pieces import Piece, digest_of_bytes, next_piece
from pytest_flowforge.storage.places import DURATIONS, MOST_DURATIONS, is_result_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_flowforge.storage.copies import Copy
    from pytest_flowforge.storage.files import Folder

__all__ = ["Uploads"]


def _nothing() -> None:
    """Let it be sent."""


class Uploads:
    """Brings to the store of *copy* what is new in its folder. Threads may share it: one file at a time goes.

    Whatever asks the store raises :class:`CheckpointUnreachable`.
    """

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._lock = threading.RLock()
        #: The run that is written here; empty for none.
        self._current = ""
        #: Runs that are not in the store yet, or not all of them.
        self._pending: set[str] = set()
        #: Files that are known to be there as they are here, and do not change.
        self._done: set[File] = set()
        #: Asked before anything is sent; raises :class:`CheckpointError` when that may not be done any more.
        self.before_send: Callable[[], None] = _nothing

    def compare(self) -> None:
        """Find out what is here and not in the store, as far as that is known."""
        self._done.clear()
        self._pending = {run for run in self._copy.place.runs() if self._copy.journal_end(run)[1]}

    def begin(self, run: str) -> None:
        """From now on *run* is written here."""
        self._pending.add(run)
        self._current = run

    def push(self) -> None:
        """Send what is new here. What is wrong with one run does not keep the others here; it is raised behind them."""
        wrong: Exception | None = None
        for run in sorted(self._pending):
            try:
                with self._lock:
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
        end, new = self._copy.journal_end(run)
        try:
            with self._copy.place.results(run) as results:
                for name in results.names():
                    if is_result_file(name) and File(run, name) not in self._done:
                        with contextlib.suppress(FileNotFoundError):
                            self._push_file(File(run, name), results)
        except FileNotFoundError:
            # Deleted during the run, which writes anew what it has open.
            self._copy.place.restore(run).close()
        if not new:
            return
        file = File(run, JOURNAL)
        with self._copy.place.folder_of(run) as folder:
            self._push_piece(file, folder, end)
        self._copy.mark(run)

    def push_result(self, run: str, name: str) -> None:
        """Send the file *name* with results of *run*."""
        with self._lock, self._copy.place.results(run) as results:
            self._push_file(File(run, name), results)

    def _push_file(self, file: File, folder: Folder) -> None:
        size = folder.status(file.name).st_size
        if file.grows:
            self._push_piece(file, folder, size)
            return
        if self._copy.inventory.sizes.get(file) != size:
            self._send(file.object, file.name, folder, 0, size)
            self._copy.inventory.sizes[file] = size
        self._done.add(file)

    def _push_piece(self, file: File, folder: Folder, end: int) -> None:
        chain = self._copy.inventory.chain(file)
        if end <= self._copy.inventory.end(file):
            return
        planned = next_piece(chain, end)
        fd = folder.read(file.name)
        try:
            digest = digest_of_bytes(read_range(folder.files.pread, fd, planned.start, end))
        finally:
            folder.files.close(fd)
        piece = Piece(planned.start, end, planned.level, digest)
        self._send(f"{file.object}/{piece.name}", file.name, folder, planned.start, end)
        known = self._copy.inventory.pieces.get(file, [])
        self._copy.inventory.pieces[file] = [*chain[: len(chain) - len(planned.absorbed)], piece]
        # Last: until then there are both, and the longer one counts. What an earlier try has left goes as well.
        self._copy.objects.delete(
            f"{file.object}/{one.name}" for one in known if one.start >= piece.start and one != piece
        )

    def replace_journal(self, run: str) -> None:
        """Make the journal of *run* in the store what it is here: the first part of what it was."""
        file = File(run, JOURNAL)
        with self._lock, self._copy.place.folder_of(run) as folder:
            known = self._copy.inventory.pieces.pop(file, [])
            end = folder.status(JOURNAL).st_size
            if not end:
                # What was there and is not any more is deleted here.
                folder.remove(MARK)
            self._push_piece(file, folder, end)
            kept = self._copy.inventory.chain(file)
            # From the end on: what is left is always a first part of it, at least as long as this one.
            others = sorted(set(known).difference(kept), key=lambda piece: (piece.end, piece.start), reverse=True)
            self._copy.objects.delete(f"{file.object}/{piece.name}" for piece in others)

    def _send(self, name: str, source: str, folder: Folder, start: int, end: int) -> None:
        self.before_send()
        fd = folder.read(source)
        try:
            chunks = read_range(folder.files.pread, fd, start, end)
            if end - start <= BLOCK:
                self._copy.objects.put(name, b"".join(chunks))
            else:
                self._copy.objects.upload(name, chunks, end - start)
        finally:
            folder.files.close(fd)

    def unsent(self) -> int:
        """Return how many records are here and not in the store."""
        return sum(self._copy.journal_end(run)[1] for run in sorted(self._pending))

    def prune(self, gone: Iterable[str]) -> None:
        """Delete the runs *gone* in the store, which were deleted here: journals first, then results nobody needs.

        What is not here for another reason stays there: somebody may have deleted this folder during the run.
        """
        with self._lock:
            inventory = Inventory.of(self._copy.objects.list("runs"))
            gone = set(gone)
            kept = {*inventory.journals(), *filter(None, [self._current])} - gone
            needed = self._copy.place.uses(sorted(kept))
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
        self._copy.objects.delete(journals)
        if results:
            self._copy.objects.delete(others)

    def push_durations(self) -> None:
        """Send how long tasks took."""
        with contextlib.suppress(FileNotFoundError):
            self._copy.objects.put(DURATIONS, self._copy.place.folder.text(DURATIONS, MOST_DURATIONS))
