"""An executor that stands by for another one: what goes where once that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Success, TaskId
from pytest_flowforge.executors.standby import Standby
from pytest_flowforge.ports import Job
from pytest_flowforge.testing import FakeClock, ScriptedExecutor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.ports import Executor


class First(ScriptedExecutor):
    """Loses itself when it is told to; has not begun what it is given by then or later."""

    def lose(self) -> None:
        self.lost, self.available = "gone", 0

    def leftover(self) -> Sequence[Job]:
        keys = [key for key in self._flying if key[0] != "over"]
        return [self._flying.pop(key)[1] for key in keys]


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.first = First(self.clock, slots=4)
        self.second = ScriptedExecutor(self.clock)
        self.made: list[Executor] = []
        self.standby = Standby(self.first, self.make)

    def make(self) -> Executor:
        self.made.append(self.second)
        return self.second

    def start(self, *names: str) -> None:
        for name in names:
            self.standby.start(Job(TaskId(name), 1, lambda: (Success(), None)))

    def wait(self) -> list[str]:
        return [end.task for end in self.standby.wait(5.0)]


def test_as_long_as_the_first_is_there_nobody_else_is_made() -> None:
    world = World()
    world.start("a", "b")
    assert world.wait() == ["a", "b"]
    world.standby.cancel(TaskId("a"), 1)
    world.standby.interrupt()
    assert (world.standby.slots, world.standby.lost, world.made) == (4, "", [])
    world.standby.close()
    assert world.first.closed


def test_what_had_not_begun_and_was_not_cancelled_goes_to_the_second() -> None:
    world = World()
    world.start("work", "tidy")
    world.first.lose()
    assert (world.standby.slots, world.standby.lost) == (1, "gone")
    assert world.wait() == [], "first of all the loss is to be known"
    assert world.clock.now() == 0.0
    assert not world.made
    world.standby.cancel(TaskId("work"), 1)
    assert world.wait() == ["tidy"]
    world.start("late")
    assert world.wait() == ["late"]
    assert world.second.log == [("start", "tidy", 1), ("start", "late", 1)]
    assert len(world.made) == 1
    world.start("last")
    assert world.standby.wait(0.5) == []
    world.standby.interrupt()
    world.standby.cancel(TaskId("last"), 1)
    assert world.second.log[-2:] == [("interrupt", "", 0), ("cancel", "last", 1)]
    world.standby.close()
    assert world.first.closed
    assert world.second.closed


def test_what_the_first_knows_the_end_of_is_not_executed_again() -> None:
    world = World()
    world.first.lose()
    assert world.wait() == []
    world.first._seconds = {("over", 1): 0.0}
    world.start("over", "tidy")
    assert world.wait() == ["over"]
    assert world.wait() == ["tidy"]
    assert world.second.log == [("start", "tidy", 1)]
