"""A folder of this machine and the store that it is the copy of, and what is known of both."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointUnsafe,
    CheckpointVersion,
)
from pytest_flowforge.storage.files import persist
from pytest_flowforge.storage.inventory import VERSION, File, Inventory
from pytest_flowforge.storage.journal import JOURNAL
from pytest_flowforge.storage.objects import BLOCK
from pytest_flowforge.storage.places import STORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flowforge.storage.files import Folder
    from pytest_flowforge.storage.objects import Objects
    from pytest_flowforge.storage.places import Place

__all__ = ["MARK", "Copy", "read_range"]

_FORMAT = 1
_VERSION = re.compile(rb"(\d{1,9}) ([0-9a-f]{16})\n")

#: In the folder of a run whose journal is in a store, or was: which store that is.
MARK = "mirrored"

#: What stands there in the folder of this machine.
_KNOWN = re.compile(rb"([0-9a-f]{16}) (.{1,4000})\n")


class Copy:
    """The folder of *place* and the store of *objects*; ``inventory`` is what is known to be there.

    Threads may share it. Whatever asks the store raises :class:`CheckpointUnreachable`.
    """

    def __init__(self, objects: Objects, place: Place) -> None:
        self.objects = objects
        self.url = objects.url
        self.place = place
        self.inventory = Inventory()
        #: Which store it is; empty until it was opened.
        self.identity = b""

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
        self.identity = found[2]
        return self._settle_store() if create else []

    def _known_store(self) -> tuple[bytes, str]:
        """Return which store the folder of this machine goes with, and its URL; nothing where that is not known."""
        try:
            found = _KNOWN.fullmatch(self.place.folder.text(STORE))
        except FileNotFoundError:
            found = None
        return (found[1], found[2].decode("utf-8", "replace")) if found is not None else (b"", "")

    def _refuse_another(self, identity: bytes) -> None:
        known, url = self._known_store()
        if not known or known == identity:
            return
        here = f"which is store {identity.decode()}" if identity else "where there is no checkpoint"
        msg = (
            f"what is in {self.place.path} belongs to store {known.decode()}, which was at {url}, and not to"
            f" {self.url}, {here}: name the account and the endpoint it is at. If it is the same store, made anew or"
            " emptied, 'pytest --ff-repair' with this --ff-checkpoint sends there what is here; or remove this folder"
        )
        raise CheckpointUnsafe(msg)

    def _settle_store(self) -> list[str]:
        known, url = self._known_store()
        self._keep_store()
        if not known or known == self.identity:
            return []
        said = (
            f"what is in {self.place.path} belonged to store {known.decode()}, which was at {url}; all of it goes to"
            f" {self.url} now, which is store {self.identity.decode()}"
        )
        return [said]

    def _keep_store(self) -> None:
        """Note down which store the folder of this machine goes with."""
        if self._known_store() != (self.identity, self.url):
            text = self.identity + f" {self.url}\n".encode()
            persist(lambda: self.place.folder.put(STORE, text))

    def look(self, file: File) -> None:
        """Ask what is there of *file* now."""
        found = Inventory.of(self.objects.list(file.object))
        if file.grows:
            self.inventory.pieces[file] = found.pieces.get(file, [])
        elif file in found.sizes:
            self.inventory.sizes[file] = found.sizes[file]

    def drop(self, file: File) -> None:
        """Delete a growing file in the store, from its end on: what is left is always the first part of it."""
        pieces = sorted(self.inventory.pieces.pop(file, ()), key=lambda piece: (piece.end, piece.start), reverse=True)
        self.objects.delete(f"{file.object}/{piece.name}" for piece in pieces)

    def journal_end(self, run: str) -> tuple[int, int]:
        """Return up to where there are whole lines in the journal of *run*, and how many of them are not in the store.

        A line that is not whole may still be taken back.
        """
        there = self.inventory.end(File(run, JOURNAL))
        end, lines = there, 0
        try:
            with self.place.folder_of(run) as folder:
                fd = folder.read(JOURNAL)
                try:
                    offset = there
                    for chunk in read_range(folder.files.pread, fd, there, None):
                        lines += chunk.count(b"\n")
                        end = offset + chunk.rfind(b"\n") + 1 if b"\n" in chunk else end
                        offset += len(chunk)
                finally:
                    folder.files.close(fd)
        except FileNotFoundError:
            return there, 0
        return end, lines

    def folder(self, file: File) -> Folder:
        """Open the folder here in which *file* belongs; it is made where it is not there."""
        opens = self.place.folder_of if file.name == JOURNAL else self.place.results
        try:
            return opens(file.run)
        except FileNotFoundError:
            self.place.restore(file.run).close()
            return opens(file.run)

    def is_marked(self, run: str) -> bool:
        try:
            with self.place.folder_of(run) as folder:
                return folder.text(MARK) == self.identity
        except FileNotFoundError:
            return False

    def mark(self, run: str) -> None:
        if not self.is_marked(run):
            with self.place.folder_of(run) as folder:
                # The run that is at it tidies up behind others, also what is about to get its name.
                persist(lambda: folder.put(MARK, self.identity))
            self._keep_store()


def read_range(pread: Callable[[int, int, int], bytes], fd: int, start: int, end: int | None) -> Iterator[bytes]:
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
