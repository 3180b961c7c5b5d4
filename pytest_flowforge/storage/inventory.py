"""What is in a store, by the names of its objects.

<url>/VERSION                               major version of all of it, and which store this is
lease/<uuid>                          who uses it
durations.json                        how long tasks took, lately: advice, and no more
runs/<run id>/journal.jsonl/<piece>   of the journal, whole lines
runs/<run id>/results/<x>.seg/<piece> of a file of small results
runs/<run id>/results/<x>.bin         a large result
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_flowforge.storage.journal import JOURNAL
from pytest_flowforge.storage.pieces import Piece, chain_of, end_of
from pytest_flowforge.storage.places import BLOB, DURATIONS, RUN, SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VERSION", "File", "Inventory"]

VERSION = "VERSION"

_RUN = re.compile(rf"runs/({RUN})/(.+)", re.ASCII)
_OURS = re.compile(rf"{VERSION}|{re.escape(DURATIONS)}|lease/[^/]+|runs/.+", re.ASCII)
_RESULT = re.compile(rf"results/({BLOB})", re.ASCII)
_GROWING = re.compile(rf"(?:({re.escape(JOURNAL)})|results/({SEGMENT}))/([^/]+)", re.ASCII)


class File(NamedTuple):
    """A file of a run: its journal, or one with results."""

    run: str
    name: str

    @property
    def grows(self) -> bool:
        """Whether it is there in pieces."""
        return not self.name.endswith(".bin")

    @property
    def object(self) -> str:
        """Return the name of its object, or of the folder of its pieces."""
        return f"runs/{self.run}/{'' if self.name == JOURNAL else 'results/'}{self.name}"


@dataclass(slots=True)
class Inventory:
    """The files of all runs that are in a store: ``sizes`` of whole ones in bytes, ``pieces`` of growing ones.

    ``others`` are objects that are not ours, ``names`` all of them by run.
    """

    sizes: dict[File, int] = field(default_factory=dict)
    pieces: dict[File, list[Piece]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, objects: Mapping[str, int]) -> Inventory:
        """Return what *objects*, sizes by name, are."""
        found = cls()
        for name, size in objects.items():
            if not _OURS.fullmatch(name):
                found.others.append(name)
                continue
            of_run = _RUN.fullmatch(name)
            if of_run is None:
                continue
            run, rest = of_run[1], of_run[2]
            found.names.setdefault(run, []).append(name)
            whole, part = _RESULT.fullmatch(rest), _GROWING.fullmatch(rest)
            if whole is not None:
                found.sizes[File(run, whole[1])] = size
            elif part is not None:
                piece = Piece.of(part[3], size)
                if piece is not None:
                    found.pieces.setdefault(File(run, part[1] or part[2]), []).append(piece)
        return found

    def journals(self) -> list[str]:
        """Return the runs that have a journal, the oldest first."""
        return sorted(file.run for file in self.pieces if file.name == JOURNAL and self.end(file))

    def chain(self, file: File) -> list[Piece]:
        """Return the pieces that a growing file consists of."""
        return chain_of(self.pieces.get(file, ()))

    def end(self, file: File) -> int:
        """Return how many bytes of *file* are there."""
        return end_of(self.chain(file)) if file.grows else self.sizes.get(file, 0)
