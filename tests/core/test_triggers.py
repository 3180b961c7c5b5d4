"""The trigger rules as a table, for every combination of ends of two upstreams and for random sets."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.messages import AttemptFinished, RunStarted
from pytest_flowforge.core.model import Failure, Outcome, Skipped, Success, Task, TaskId, Trigger
from pytest_flowforge.core.states import DONE, TaskState
from pytest_flowforge.core.triggers import CLASSES, Verdict, judge, verdict
from tests.core.flows import Play, rule_says, task, tid

# Columns: no upstream, then success, skipped, failed, blocked, and each pair of those four.
_ENDS = (TaskState.SUCCESS, TaskState.SKIPPED, TaskState.FAILED, TaskState.BLOCKED)
COLUMNS = [(), *combinations_with_replacement(_ENDS, 1), *combinations_with_replacement(_ENDS, 2)]
_LETTERS = {"R": Verdict.RUN, "B": Verdict.BLOCK, "S": Verdict.SKIP}
#                          -   S  K  F  B   SS SK SF SB KK KF KB FF FB BB
TABLE = {
    Trigger.ALL_SUCCESS: " R   R  S  B  B   R  S  B  B  S  B  B  B  B  B",
    Trigger.ALL_DONE: "    R   R  R  R  R   R  R  R  R  R  R  R  R  R  R",
    Trigger.ALWAYS: "      R   R  R  R  R   R  R  R  R  R  R  R  R  R  R",
    Trigger.ANY_SUCCESS: " R   R  S  B  B   R  R  R  R  S  B  B  B  B  B",
    Trigger.ANY_FAILED: "  S   S  S  R  R   S  S  R  R  S  R  R  R  R  R",
}
CASES = [
    (when, ends, _LETTERS[letter])
    for when, row in TABLE.items()
    for ends, letter in zip(COLUMNS, row.split(), strict=True)
]


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(Trigger)


@pytest.mark.parametrize(("when", "ends", "expected"), CASES)
def test_verdict(when: Trigger, ends: tuple[TaskState, ...], expected: Verdict) -> None:
    assert verdict(when, ends) is expected


@given(st.sampled_from(Trigger), st.lists(st.sampled_from(sorted(DONE, key=lambda state: state.value))))
def test_only_the_kinds_of_ends_matter(when: Trigger, ends: list[TaskState]) -> None:
    kinds = 0
    for state in ends:
        kinds |= CLASSES[state]
    answers = [verdict(when, ends), verdict(when, reversed(ends)), verdict(when, ends + ends), judge(when, kinds)]
    assert {answer.value for answer in answers} == {rule_says(when, ends)}


@pytest.mark.parametrize("state", [state for state in TaskState if state not in DONE])
def test_what_is_not_settled_is_not_judged(state: TaskState) -> None:
    with pytest.raises(ValueError, match="not settled"):
        verdict(Trigger.ALL_SUCCESS, [TaskState.SUCCESS, state])


_MAKERS: dict[TaskState, Outcome] = {
    TaskState.SUCCESS: Success(),
    TaskState.SKIPPED: Skipped("no data"),
    TaskState.FAILED: Failure(message="boom"),
}


@pytest.mark.parametrize(("when", "ends", "expected"), CASES)
def test_the_engine_agrees(when: Trigger, ends: tuple[TaskState, ...], expected: Verdict) -> None:
    """Whichever upstream ends last."""
    for order in (range(len(ends)), reversed(range(len(ends)))):
        blockers = [task(f"blocker{place}") for place, end in enumerate(ends) if end is TaskState.BLOCKED]
        upstreams = [
            task(f"up{place}", *([f"blocker{place}"] if end is TaskState.BLOCKED else []))
            for place, end in enumerate(ends)
        ]
        play = Play(*blockers, *upstreams, task("down", *(up.name for up in upstreams), when=when), slots=9).start()
        for place in order:
            if ends[place] is TaskState.BLOCKED:
                play.fail(f"blocker{place}")
            else:
                play.finish(f"up{place}", outcome=_MAKERS[ends[place]])
        assert play.states["down"] == {"run": "running", "block": "blocked", "skip": "skipped"}[expected.value]


def test_reused_counts_as_success() -> None:
    play = Play(task("a"), task("b", "a"), restored={"a": "from run 7"}).start()
    assert play.running == ["b"]


def test_an_upstream_is_only_told_once() -> None:
    graph_task = Task(TaskId("b"), (TaskId("a"),))
    play = Play(Task(TaskId("a")), graph_task)
    play.feed(RunStarted(0.0))
    play.feed(AttemptFinished(TaskId("a"), 1, Success(), 1.0))
    play.feed(AttemptFinished(TaskId("a"), 1, Failure(), 2.0))
    assert play.engine.running == ((TaskId("b"), 1),)
    assert tid("b") not in play.graph
