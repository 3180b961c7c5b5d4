"""Files that grow, in a store where nothing can be appended: pieces of them, by where they begin and end.

A piece is an object of its own. When eight pieces of one level stand behind each other, the eighth upload is of all
their bytes, as one piece of the next level. So after *n* uploads each byte was sent at most 1 + log8(n) times, and
there are at most 7 pieces a level. Pieces of 64 MiB together are not merged any more; with those, a file of *N* bytes
has at most 7 * (1 + log8(n)) + N / 8 MiB pieces.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Next", "Piece", "chain_of", "digest_of_bytes", "end_of", "next_piece"]

#: Pieces of one level become one of the next.
FAN_IN = 8

#: Bytes that are not sent again for the sake of fewer objects.
FULL = 64 << 20

_NAME = re.compile(r"(\d{16})-(\d{16})-(\d{1,2})-([0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of a file from ``start`` up to ``end``; ``digest`` tells them from others that could stand there."""

    start: int
    end: int
    level: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.start:016d}-{self.end:016d}-{self.level}-{self.digest}"

    @classmethod
    def of(cls, name: str, size: int) -> Piece | None:
        """Return the piece of that name; None for what is none, and for one that is not whole."""
        found = _NAME.fullmatch(name)
        if found is None or int(found[2]) - int(found[1]) != size or not size:
            return None
        return cls(int(found[1]), int(found[2]), int(found[3]), found[4])


def digest_of_bytes(chunks: Iterable[bytes]) -> str:
    """Return the digest of a piece with this content."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()[:16]


def chain_of(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the fewest pieces that follow each other from the start of the file; what they do not reach is not there.

    Merged pieces cover whole ones, so the longest at each place is the right one.
    """
    longest: dict[int, Piece] = {}
    for piece in pieces:
        known = longest.get(piece.start)
        if known is None or piece.end > known.end:
            longest[piece.start] = piece
    chain: list[Piece] = []
    end = 0
    while (piece_here := longest.get(end)) is not None:
        chain.append(piece_here)
        end = piece_here.end
    return chain


def end_of(chain: Sequence[Piece]) -> int:
    """Return how many bytes of the file are there."""
    return chain[-1].end if chain else 0


@dataclass(frozen=True, slots=True)
class Next:
    """A piece that is to be uploaded, and the ones that are not needed any more once it is there."""

    start: int
    end: int
    level: int
    absorbed: tuple[Piece, ...]


def next_piece(chain: Sequence[Piece], end: int) -> Next:
    """Return what is to be uploaded when the file has grown to *end*."""
    kept = len(chain)
    level = 0
    while kept >= FAN_IN - 1:
        trailing = chain[kept - FAN_IN + 1 : kept]
        if any(piece.level != level for piece in trailing) or end - trailing[0].start > FULL:
            break
        kept -= FAN_IN - 1
        level += 1
    start = chain[kept].start if kept < len(chain) else end_of(chain)
    return Next(start, end, level, tuple(chain[kept:]))
