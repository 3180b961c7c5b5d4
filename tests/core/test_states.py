"""Every pair of states, one by one."""

from __future__ import annotations

from itertools import product

import pytest

from pytest_flowforge.core.states import DONE, FAILED_STATES, MOVES, SUCCEEDED, TaskState, check_move
from pytest_flowforge.errors import IllegalMove

# Written out once more, by hand: the table may change, but not by accident.
LEGAL = {
    ("pending", "running"),
    ("pending", "reused"),
    ("pending", "skipped"),
    ("pending", "blocked"),
    ("running", "success"),
    ("running", "failed"),
    ("running", "timed out"),
    ("running", "crashed"),
    ("running", "interrupted"),
    ("running", "skipped"),
    ("running", "retrying"),
    ("retrying", "running"),
    ("retrying", "failed"),
    ("retrying", "timed out"),
    ("retrying", "crashed"),
}


@pytest.mark.parametrize(("before", "after"), list(product(TaskState, repeat=2)), ids=lambda state: state.value)
def test_a_move_is_legal_or_says_what_would_be(before: TaskState, after: TaskState) -> None:
    if (before.value, after.value) in LEGAL:
        check_move("extract", before, after)
        return
    with pytest.raises(IllegalMove) as raised:
        check_move("extract", before, after)
    assert f"extract: {before.value} -> {after.value} is no legal move" in str(raised.value)


def test_every_state_has_its_row() -> None:
    assert set(MOVES) == set(TaskState)


def test_a_state_is_an_end_or_leads_to_one() -> None:
    assert SUCCEEDED | FAILED_STATES | {TaskState.SKIPPED, TaskState.BLOCKED} == DONE
    assert SUCCEEDED.isdisjoint(FAILED_STATES)
    assert set(TaskState) - DONE == {TaskState.PENDING, TaskState.RUNNING, TaskState.RETRYING}


def test_an_end_is_named_as_such() -> None:
    with pytest.raises(IllegalMove, match="nothing: it is an end"):
        check_move("extract", TaskState.SUCCESS, TaskState.RUNNING)
