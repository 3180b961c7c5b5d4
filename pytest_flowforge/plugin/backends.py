"""Where the tasks of a run are executed: what a run asks of each such place, and what it tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import pytest

    from pytest_flowforge.core.engine import Engine
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import StartAttempt
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.interrupts import Interrupts
    from pytest_flowforge.plugin.checkpointing import Checkpointing, Reuse
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.live_page import LivePage
    from pytest_flowforge.plugin.outcomes import Attempt
    from pytest_flowforge.plugin.reporting import Phase
    from pytest_flowforge.plugin.session_time import SessionTime
    from pytest_flowforge.plugin.stand_ins import Observer
    from pytest_flowforge.plugin.values import Arrivals, Values
    from pytest_flowforge.ports import Clock, EventSink, Executor, Finished, Job

__all__ = ["Backend", "Holding", "Work"]


class Holding(Protocol):
    """What takes the reports of an attempt until it is known what they mean."""

    def hold(self, task: TaskId, reports: list[pytest.TestReport]) -> None:
        """Keep the reports of the attempt at *task* that ends now."""

    def hold_failure(self, task: TaskId, text: str, when: Phase = "setup") -> None:
        """Keep a report of an attempt that could not even begin, or that broke off in the phase *when*."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is about; ``tell`` takes sentences for people, and ``grace`` is what comes after a time limit."""

    session: pytest.Session
    graph: TaskGraph
    entries: dict[TaskId, Entry]
    blueprint: Blueprint
    reuse: Reuse
    checkpointing: Checkpointing
    tell: Callable[[str], None]
    engine: Engine
    clock: Clock
    #: What the executor has to know of an instance of a mapped task is added to it.
    fit: Callable[[Task, Entry], Task]
    interrupts: Interrupts
    time: SessionTime
    grace: float
    page: LivePage | None
    #: For a session within a test: who wants to know.
    observer: Observer | None = None

    def comes_again(self, entry: Entry, attempt: Attempt) -> bool:
        """Whether *attempt*, as far as it has come, will be followed by another."""
        # Asked for every task at teardown: most have no retries and need no judgement.
        if not self.graph[entry.id].retry.max_retries:
            return False
        return self.engine.would_retry(entry.id, attempt.number, attempt.outcome())

    def store(self, task: TaskId, value: Any) -> bool:
        """Store what *task* has returned in this process; return whether that could be done."""
        if self.page is not None:
            self.page.take(task, value)
        if self.observer is not None:
            self.observer.take(task, value)
        keeper = self.checkpointing.keeper
        return keeper is not None and keeper.put(task, self.graph[task].label, value)

    def keep(self, values: Values, task: TaskId, value: Any) -> int | None:
        """Store what *task* has returned in this process, and have it at hand in *values*.

        Returns how many bytes are stored, None where nothing is.
        """
        stored = self.store(task, value)
        values.put(task, value, stored=stored)
        return self.size_of(task) if stored else None

    def size_of(self, task: TaskId) -> int | None:
        """How many bytes the result takes that *task* has stored in this run; None where there is none."""
        keeper = self.checkpointing.keeper
        return None if keeper is None else keeper.size_of(task)


class Backend(Protocol):
    """A place where attempts are made."""

    #: What the driver hands jobs to.
    executor: Executor
    #: What the fixtures of this process get results from.
    values: Arrivals
    #: Who is told of events before they are kept and shown.
    sinks: Sequence[EventSink]
    #: Seconds that attempts have to end by themselves when the run is interrupted.
    grace: float

    def serve(self, holding: Holding) -> AbstractContextManager[None]:
        """Be there for as long as the run lasts."""

    def job(self, command: StartAttempt) -> Job:
        """What executes this attempt; raises what is to be the failure of the attempt."""

    def conclude(self, finished: Finished) -> Finished:
        """Do what is left to be done on this thread, and return what has become of the attempt."""

    def keep(self, task: TaskId, value: Any) -> int | None:
        """*task* has succeeded with *value*, and nobody knows yet: see to it that it can be had.

        Returns how many bytes it takes where it is stored, None where it is not.
        """

    def add(self, task: TaskId, entries: Sequence[Entry], restored: Mapping[TaskId, TaskRecord], /) -> None:
        """The instances of a mapped *task* are known, and which of them have results that stand."""

    def release(self, item: pytest.Item) -> None:
        """*item* will not run (again): give up what was set up for it alone. Raises what that raises."""
