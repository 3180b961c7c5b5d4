"""The trigger rules: what becomes of a task, given what became of its upstreams.

One pure function, :func:`verdict`. The documentation's table is generated from it, and the engine asks the same rule
with the upstreams added up one by one.
"""

from __future__ import annotations

from enum import Enum, IntFlag
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.states import DONE, FAILED_STATES, SUCCEEDED, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CLASSES", "CLEAN_UP", "EndClass", "Verdict", "judge", "verdict"]


class Verdict(Enum):
    """What a trigger rule says about a task whose upstreams are settled."""

    RUN = "run"
    BLOCK = "block"
    SKIP = "skip"


class EndClass(IntFlag):
    """The kinds of end that a trigger rule tells apart; a set of them is what it judges."""

    NONE = 0
    SUCCEEDED = 1
    FAILED = 2
    SKIPPED = 4
    BLOCKED = 8


#: The class of each state that is an end.
CLASSES: dict[TaskState, EndClass] = {
    **dict.fromkeys(sorted(SUCCEEDED, key=lambda state: state.value), EndClass.SUCCEEDED),
    **dict.fromkeys(sorted(FAILED_STATES, key=lambda state: state.value), EndClass.FAILED),
    TaskState.SKIPPED: EndClass.SKIPPED,
    TaskState.BLOCKED: EndClass.BLOCKED,
}

#: The rules of tasks that may still run once a run was stopped: clean-up and alarms.
CLEAN_UP = frozenset({Trigger.ALWAYS, Trigger.ANY_FAILED})

_BAD = EndClass.FAILED | EndClass.BLOCKED


def verdict(when: Trigger, upstream_states: Iterable[TaskState]) -> Verdict:
    """Return what the rule *when* makes of upstreams that ended in these states.

    Raises :class:`ValueError` for a state that is no end. Neither the order nor the number of equal states matters.
    """
    ends = EndClass.NONE
    for state in upstream_states:
        if state not in DONE:
            msg = f"an upstream that is {state.value} is not settled, so there is nothing to judge yet"
            raise ValueError(msg)
        ends |= CLASSES[state]
    return judge(when, ends)


def judge(when: Trigger, ends: int) -> Verdict:
    """Return what the rule *when* makes of upstreams of which some ended in each class of *ends*."""
    return _TABLE[when][ends]


def _decide(when: Trigger, ends: EndClass) -> Verdict:
    if when is Trigger.ALL_SUCCESS:
        return Verdict.BLOCK if ends & _BAD else Verdict.SKIP if ends & EndClass.SKIPPED else Verdict.RUN
    if when is Trigger.ANY_SUCCESS:
        if ends & EndClass.SUCCEEDED or not ends:
            return Verdict.RUN
        return Verdict.BLOCK if ends & _BAD else Verdict.SKIP
    if when is Trigger.ANY_FAILED:
        return Verdict.RUN if ends & _BAD else Verdict.SKIP
    return Verdict.RUN


#: Every rule with every set of classes, worked out once: the engine asks for each task.
_TABLE: dict[Trigger, tuple[Verdict, ...]] = {
    when: tuple(_decide(when, EndClass(ends)) for ends in range(16)) for when in Trigger
}
