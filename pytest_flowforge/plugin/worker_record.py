"""What the controller knows of a worker process: what it was sent, what it holds, and how much more it may have."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge.plugin.wire import encode

if TYPE_CHECKING:
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.boards import Board
    from pytest_flowforge.ports import Job, Key

__all__ = ["Answer", "NoAnswer", "Worker"]

#: Seconds of work that a worker may have lying around: it is to be busy while the controller reads its answers.
_AHEAD = 0.01

#: Seconds of an attempt up to which one is sent ahead all the same: the way of an answer and the next order is felt.
_SHORT = 0.1

_ONE_AHEAD = 2

#: Attempts that a worker is sent ahead at most.
_MOST_AHEAD = 16

#: How much of its pace a worker is judged by is its last task.
_FRESH = 0.3


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process, as far as the controller knows."""

    node: Any
    channel: Any
    name: str
    #: Whether it has collected the same tasks, and has been told where results go.
    ready: bool = False
    #: What it was sent and has not answered; the first of these is what it does. Without a job: sent ahead, to be made
    #: when what it follows has succeeded, and not started yet by who decides.
    orders: dict[Key, Job | None] = field(default_factory=dict)
    #: Tasks that were sent ahead, in that order, with the task that each follows.
    follows: dict[TaskId, TaskId] = field(default_factory=dict)
    #: Orders whose end nobody waits for any more.
    dropped: set[Key] = field(default_factory=set)
    #: Tasks whose results it knows where to find, and those it has in memory or has read.
    told: set[TaskId] = field(default_factory=set)
    near: set[TaskId] = field(default_factory=set)
    #: Tasks that are done, for which it need not keep anything; and tasks that others have got, for which it need not
    #: keep results in memory. They may come here all the same, and then find fixtures set up, and results on the disk.
    gone: list[TaskId] = field(default_factory=list)
    away: list[TaskId] = field(default_factory=list)
    #: Mapped tasks with the labels of their elements, that it has not been told of.
    grown: dict[TaskId, list[str]] = field(default_factory=dict)
    #: Seconds a task takes there, lately; None before the first.
    pace: float | None = None
    #: When it began with what it does, by our clock.
    since: float = 0.0
    #: Whether orders have been asked back.
    recalled: bool = False
    #: What it said when it was about to leave.
    leaving: tuple[Key, str] | None = None
    #: Whether it was ended, in the middle of what it did, because nobody waits for that.
    ended: bool = False
    #: Where it writes whose time runs, where that can be had.
    board: Board | None = None
    #: The order that is watched, its time limit (None: not known yet), that with all patience, and when to look at it,
    #: by our clock.
    watched: Key | None = None
    limit: float | None = None
    patience: float = math.inf
    look_at: float = math.inf

    @property
    def most(self) -> int:
        """How many attempts it may have lying around, the one it makes included."""
        if self.pace is None or self.pace > _SHORT:
            return 1
        if self.pace > _AHEAD:
            return _ONE_AHEAD
        return min(1 + int(_AHEAD / max(self.pace, 1e-6)), _MOST_AHEAD)

    @property
    def room(self) -> int:
        """How many more attempts it may be sent now.

        What it was sent is used up by half before there is more: several go in one message.
        """
        if not self.ready or self.recalled or self.ended:
            return 0
        most, count = self.most, len(self.orders)
        return most - count if count <= most // 2 else 0

    @property
    def ahead(self) -> int:
        """How many attempts it was sent that are not started yet by who decides."""
        return sum(job is None for job in self.orders.values())

    @property
    def slots(self) -> int:
        """How many attempts it may have that are started."""
        return max(len(self.orders) - self.ahead + self.room, 1) if self.ready and not self.ended else 0

    @property
    def has_news(self) -> bool:
        """Whether it can forget something that it has not been told of."""
        return bool(self.gone or self.away)

    def answered(self, now: float) -> None:
        """It has ended what it did, and begins with the next."""
        took = now - self.since
        self.pace = took if self.pace is None else _FRESH * took + (1 - _FRESH) * self.pace
        self.since = now

    def send(self, message: dict[str, Any]) -> None:
        """Send it *message*; when it has gone, that is noticed elsewhere."""
        message["gone"], self.gone = self.gone, []
        message["away"], self.away = self.away, []
        if self.grown:
            message["grown"], self.grown = self.grown, {}
        with suppress(OSError):
            self.channel.send(encode(message))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said about an attempt, as the value of the attempt's end."""

    worker: Worker
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """That a worker was ended before it could answer, as the value of the attempt's end; ``text`` is what is shown."""

    text: str
