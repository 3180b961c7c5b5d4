"""Queues for limited resources against a model that looks at everybody each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.pools import PoolQueues
from tests.core.flows import task

if TYPE_CHECKING:
    from pytest_flowforge.core.model import Task

SIZES = {"gpu": 2, "mem": 3, "net": 1}


class Model:
    """Who holds what and who waits, as lists; whoever is not kept from it by somebody before, may go."""

    def __init__(self, tasks: list[Task]) -> None:
        self.wants = [dict(task.pools) for task in tasks]
        self.holding: list[int] = []
        self.waiting: list[int] = []

    def next_ones(self) -> set[int]:
        return {one for place, one in enumerate(self.waiting) if self._may_go(one, self.waiting[:place])}

    def _may_go(self, one: int, before: list[int]) -> bool:
        queued = {pool for other in before for pool in self.wants[other]}
        return all(pool not in queued and units <= self.left(pool) for pool, units in self.wants[one].items())

    def left(self, pool: str) -> int:
        return SIZES[pool] - sum(self.wants[one].get(pool, 0) for one in self.holding)

    def claim(self, one: int) -> bool:
        if one in self.waiting:
            self.waiting.remove(one)
        elif not self._may_go(one, self.waiting):
            self.waiting.append(one)
            return False
        self.holding.append(one)
        return True


_TASKS = st.lists(
    st.dictionaries(st.sampled_from(sorted(SIZES)), st.integers(1, 3), min_size=1).map(
        lambda wanted: task("x", pools=tuple((pool, min(units, SIZES[pool])) for pool, units in wanted.items()))
    ),
    min_size=2,
    max_size=8,
)


@given(_TASKS, st.data())
def test_queues_agree_with_the_model(tasks: list[Task], data: st.DataObject) -> None:
    model, queues = Model(tasks), PoolQueues(tasks, SIZES)
    called: set[int] = set()
    for _ in range(data.draw(st.sampled_from([30, 20, 10, 5]))):
        free = [one for one in range(len(tasks)) if one not in model.holding and one not in model.waiting]
        choices = [*(("claim", one) for one in [*free, *sorted(called)]), *(("release", one) for one in model.holding)]
        choices += [("dismiss", one) for one in model.waiting[:1]]
        what, one = data.draw(st.sampled_from(choices))
        before = model.next_ones()
        if what == "claim":
            got, calls = queues.claim(one)
            assert got == model.claim(one)
        elif what == "release":
            model.holding.remove(one)
            calls = queues.release(one)
        else:
            model.waiting.remove(one)
            calls = queues.dismiss(lambda position, gone=one: position == gone)  # type: ignore[misc]
        called = model.next_ones()
        assert set(calls) == called - before, "everybody is called once, and at once"
        assert queues.free == {pool: model.left(pool) for pool in SIZES}
        assert [*queues.waiting] == model.waiting
        queues.check(model.holding)


def test_an_exclusive_task_asks_for_nothing() -> None:
    assert PoolQueues([task("a", exclusive=True, pools=(("gpu", 1),))], SIZES).requests == {}


@pytest.mark.parametrize("damage", ["free", "queue", "called"])
def test_check_notices_damage(damage: str) -> None:
    queues = PoolQueues([task("a", pools=(("net", 1),)), task("b", pools=(("net", 1),))], SIZES)
    queues.claim(0)
    queues.claim(1)
    queues.check([0])
    if damage == "free":
        queues.free["net"] = 1
    elif damage == "queue":
        queues._queues["net"].clear()
    else:
        queues.waiting[1] = True
    with pytest.raises(AssertionError):
        queues.check([0])
