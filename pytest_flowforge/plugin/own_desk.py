"""Where the process of the run makes attempts itself, one after the other: all of them, or those left to it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge import measuring
from pytest_flowforge.core.messages import AttemptFinished
from pytest_flowforge.core.model import Failure, FailureKind, Outcome
from pytest_flowforge.errors import ResultError
from pytest_flowforge.plugin.attempts import Attempts
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.ports import Finished, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from pytest_flowforge.core.model import Measures, TaskId
    from pytest_flowforge.plugin.backends import Holding, Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.limits import Watch
    from pytest_flowforge.plugin.values import Arrivals

__all__ = ["HERE", "OwnDesk"]

#: What the process of the run is called where workers have names.
HERE = "main"


class OwnDesk:
    """Makes attempts at *tasks* of a run where pytest would run tests; *values* has what arrives at them.

    ``is_last`` tells, when an attempt begins, that no other follows. ``watch`` ends attempts that do not end when their
    time is up.
    """

    def __init__(
        self,
        work: Work,
        tasks: Iterable[TaskId],
        values: Arrivals,
        is_last: Callable[[], bool] = lambda: False,
        *,
        watch: Watch,
    ) -> None:
        self._work = work
        self._values = values
        self._is_last = is_last
        #: What the attempt has taken that was made last, until somebody asks.
        self._measures: Measures | None = None
        self._attempts = Attempts(
            work.session,
            [work.entries[task] for task in tasks],
            work.comes_again,
            self._cut_off,
            work.tell,
            is_asked_for=work.interrupts.is_asked_for,
            watch=watch,
            may_end_process=True,
        )

    @contextmanager
    def serve(self, holding: Holding, *, alone: bool = False) -> Iterator[None]:
        """Be there for attempts as long as this lasts; with ``alone`` no other plugin may make them."""
        self._holding = holding
        with self._attempts.serve(alone=alone):
            yield

    def job(self, task: TaskId, attempt: int) -> Job:
        """What makes that attempt."""
        entry = self._work.entries[task]
        try:
            inputs = self._values.arrivals(task)
        except ResultError as error:
            # Kept, and not to be had any more: an end like any other, which pytest is to know of.
            return Job(task, attempt, partial(self._miss, entry, str(error)))
        return Job(task, attempt, partial(self._perform, entry, Attempt(attempt, inputs)))

    def add(self, entries: Iterable[Entry]) -> None:
        """There will be attempts at *entries*, too."""
        self._attempts.add(entries)

    def release(self, item: pytest.Item) -> None:
        """*item* will not run (again): give up what was set up for it alone. Raises what that raises."""
        self._attempts.tree.release(item)

    def measured(self, finished: Finished) -> Finished:
        """Return the end of an attempt that was made here, with what that has taken."""
        measures, self._measures = self._measures, None
        return Finished(finished.task, finished.attempt, finished.outcome, finished.value, measures)

    def _miss(self, entry: Entry, text: str) -> tuple[Outcome, None]:
        self._holding.hold_failure(entry.id, text)
        self._measures = None
        return Failure(message=text, longrepr=text), None

    def _perform(self, entry: Entry, attempt: Attempt) -> tuple[Outcome, Any]:
        self._work.interrupts.forget()
        retried = bool(self._work.graph[entry.id].retry.max_retries)
        before = measuring.of_process()
        outcome, value = self._attempts.perform(entry, attempt, retried=retried, last=self._is_last())
        self._measures = measuring.since(before, HERE)
        if attempt.reports is not None:
            self._holding.hold(entry.id, attempt.reports)
        return outcome, value

    def _cut_off(self, entry: Entry, attempt: Attempt, status: int) -> None:
        """The task that runs calls ``os._exit``: write down what can still be said."""
        keeper = self._work.checkpointing.keeper
        if keeper is not None:
            crash = Failure(FailureKind.CRASHED, f"called os._exit({status})")
            end = AttemptFinished(entry.id, attempt.number, crash, self._work.clock.now())
            for event in self._work.engine.handle(end, hold=True).events:
                keeper(event)
            keeper.save()
