"""A real flow, killed at calls that write to the disk and at random, and resumed until it is done; see chaos.py."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.plugin.chaos import AT_CALLS, Chaos, Kill, stories

if TYPE_CHECKING:
    from pathlib import Path

#: Another one: python -m tests.plugin.chaos --seed N
SEED = 3

#: About two seconds each.
STORIES = 7

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def told(chaos: Chaos) -> list[list[Kill]]:
    return list(stories(random.Random(SEED), chaos.calls, chaos.seconds, STORIES))  # noqa: S311 - no secret


@pytest.mark.parametrize("place", range(STORIES))
def test_nothing_that_finished_is_lost(chaos: Chaos, told: list[list[Kill]], place: int) -> None:
    chaos.tell(told[place], f"seed {SEED}, story {place}")


@pytest.mark.parametrize("call", [90, 91, 92])
def test_a_task_that_is_interrupted_while_its_result_is_kept(chaos: Chaos, call: int) -> None:
    """One of three calls in a row writes the result of a task that has returned, one its record."""
    chaos.tell([Kill("interrupt-before", call)], f"call {call}")


@pytest.mark.parametrize("event", [40, 41])
def test_a_run_that_is_interrupted_when_something_has_happened(chaos: Chaos, event: int) -> None:
    """A task has started, or ended: who is shown that must find it kept."""
    chaos.tell([Kill("interrupt-event", event)], f"event {event}")


def test_the_long_version_ends_a_run_at_every_call() -> None:
    kills = [kills[0] for kills in stories(random.Random(SEED), 60, 1.0, 60)]  # noqa: S311 - no secret
    assert [kill.at for kill in kills] == list(range(60))
    assert {kill.how for kill in kills} == set(AT_CALLS)


def test_what_must_not_be_is_noticed(chaos: Chaos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The story is told with what must not be, and how to tell it again."""
    monkeypatch.setattr(chaos, "_folder", tmp_path)
    monkeypatch.setitem(chaos.expected, "flow_it.py::flow_start", "something else")
    with pytest.raises(AssertionError) as caught:
        chaos.tell([Kill("after", 100)], "seed 5, story 2")
    text = str(caught.value)
    assert text.startswith("seed 5, story 2 (after call 100), kept in ")
    assert "other results than those of a run that was left alone: ['flow_it.py::flow_start']" in text
    assert "run 0, after call 100: status -9, " in text
