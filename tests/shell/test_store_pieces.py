"""Files that grow, as pieces: how many there are, and how often a byte is sent."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.storage import pieces
from pytest_flowforge.storage.pieces import Piece, chain_of, end_of, next_piece


def grown(steps: list[int]) -> tuple[list[Piece], int]:
    """The pieces of a file that has grown by these *steps*, and how many bytes were sent for them."""
    chain: list[Piece] = []
    end = sent = 0
    for step in steps:
        end += step
        planned = next_piece(chain, end)
        chain = [*chain[: len(chain) - len(planned.absorbed)], Piece(planned.start, end, planned.level, "0" * 16)]
        sent += end - planned.start
        assert planned.end == end
        assert all(piece.start >= planned.start for piece in planned.absorbed)
    return chain, sent


def bounds(uploads: int) -> int:
    """The levels that there can be after so many uploads."""
    return 1 + int(math.log(max(uploads, 1), pieces.FAN_IN) + 1e-9)


@given(st.lists(st.integers(1, 10_000), max_size=700))
def test_what_is_there_is_all_of_it(steps: list[int]) -> None:
    chain, _ = grown(steps)
    assert chain_of(chain) == chain
    assert end_of(chain) == sum(steps)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=700))
def test_neither_objects_nor_bytes_become_many(steps: list[int]) -> None:
    chain, sent = grown(steps)
    assert len(chain) <= (pieces.FAN_IN - 1) * bounds(len(steps))
    assert sent <= sum(steps) * bounds(len(steps))


def test_a_month_of_uploads_every_other_second() -> None:
    chain, sent = grown([200] * 1_300_000)
    assert len(chain) <= 49 + 1_300_000 * 200 / (8 << 20)
    assert sent <= 7 * 1_300_000 * 200


def test_large_pieces_are_not_sent_again() -> None:
    chain, sent = grown([32 << 20] * 100)
    assert len(chain) == 100
    assert sent == 100 * (32 << 20)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.data())
def test_pieces_that_were_merged_do_not_matter(steps: list[int], data: st.DataObject) -> None:
    chain: list[Piece] = []
    ever: list[Piece] = []
    end = 0
    for step in steps:
        end += step
        planned = next_piece(chain, end)
        new = Piece(planned.start, end, planned.level, "0" * 16)
        chain = [*chain[: len(chain) - len(planned.absorbed)], new]
        ever.append(new)
    left = [piece for piece in ever if piece in chain or data.draw(st.booleans())]
    assert end_of(chain_of(left)) == end
    assert len(chain_of(left)) <= len(chain)


def test_names_are_read_back_and_others_are_none() -> None:
    piece = Piece(0, 12, 3, "0123456789abcdef")
    assert Piece.of(piece.name, 12) == piece
    # Not whole: a store whose writes can be seen in the middle.
    assert Piece.of(piece.name, 11) is None
    for name in ("", "0-12-3-0123456789abcdef", piece.name + "x", piece.name.replace("-", "_")):
        assert Piece.of(name, 12) is None


def test_a_gap_ends_what_is_there() -> None:
    first, third = Piece(0, 5, 0, "0" * 16), Piece(9, 12, 0, "0" * 16)
    assert chain_of([third, first]) == [first]
    assert end_of(chain_of([third])) == 0
