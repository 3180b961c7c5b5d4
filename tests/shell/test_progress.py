"""The text of the status line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.progress import cells, duration, status_line

_NONE = dict.fromkeys(TaskState, 0)


def test_what_it_says() -> None:
    counts = {**_NONE, TaskState.SUCCESS: 1200, TaskState.FAILED: 2, TaskState.RUNNING: 3, TaskState.RETRYING: 1}
    running = [("train", 192.0), ("load[eu]", 3.9), ("load[us]", 0.0)]

    assert status_line(counts, running, 7500.0, 120) == (
        "1,202/1,206, 2 failed, 1 retrying | train 3m 12s, load[eu] 3s, load[us] 0s | about 2h 05m left"
    )
    assert status_line(counts, running, None, 60) == "1,202/1,206, 2 failed, 1 retrying | train 3m 12s and 2 more"
    assert status_line(counts, running, None, 50) == "1,202/1,206, 2 failed, 1 retrying | 3 running"
    assert status_line(counts, running, None, 12) == "1,202/1,206,"
    assert status_line(_NONE, [], 0.0, 80) == "0/0 | about 1s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59.9, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (3600, "1h 00m"), (90000, "1d 01h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(
    st.lists(st.tuples(st.text(max_size=50), st.floats(0, 1e6)), max_size=5),
    st.none() | st.floats(0, 1e7),
    st.integers(0, 100),
)
def test_it_never_takes_more_room_than_there_is_nor_sends_anything_else(
    running: list[tuple[str, float]], remaining: float | None, width: int
) -> None:
    line = status_line({**_NONE, TaskState.RUNNING: len(running)}, running, remaining, width)

    assert line.isprintable()
    assert cells(line) <= width


def test_wide_and_combining_characters_are_counted_as_terminals_do() -> None:
    assert cells("abc") == 3
    assert cells("流れ") == 4
    assert cells("e\u0301") == 1
    # Thai, and a sign that encloses another.
    assert cells("\u0e17\u0e35\u0e48") == 1
    assert cells("1\u20e3") == 1
