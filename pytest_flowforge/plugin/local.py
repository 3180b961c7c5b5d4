"""Running tasks one after the other in this process: what pytest does, in the order of the graph."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import Event, StartAttempt, TaskMoved
from pytest_flowforge.core.states import DONE
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.plugin.backends import Backend
from pytest_flowforge.plugin.last_resort import LastResort
from pytest_flowforge.plugin.own_desk import OwnDesk
from pytest_flowforge.plugin.pytest_internals import ends_processes_late
from pytest_flowforge.plugin.values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.plugin.backends import Holding, Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.ports import Finished, Job

__all__ = ["LocalBackend"]


class LocalBackend(Backend):
    """Runs each attempt where pytest would run a test."""

    grace = 0.0

    def __init__(self, work: Work) -> None:
        self._work = work
        self._last_resort = LastResort(work.grace, taken=ends_processes_late(work.session.config))
        self.executor = InlineExecutor(work.clock)
        self.values = Values.of(work)
        #: Tasks that may still run; pytest is told of a next item as long as there is one.
        self._left = len(work.graph)
        tasks = [task.id for task in work.graph]
        self._desk = OwnDesk(work, tasks, self.values, lambda: self._left <= 1, watch=self._last_resort)
        self.sinks = (self._count_down, self.values)

    @contextmanager
    def serve(self, holding: Holding) -> Iterator[None]:
        with self._desk.serve(holding), self._last_resort:
            yield

    def job(self, command: StartAttempt) -> Job:
        return self._desk.job(command.task, command.attempt)

    def conclude(self, finished: Finished) -> Finished:
        return self._desk.measured(finished)

    def keep(self, task: TaskId, value: Any) -> int | None:
        return self._work.keep(self.values, task, value)

    def add(self, _: TaskId, entries: Sequence[Entry], restored: Mapping[TaskId, TaskRecord]) -> None:
        self._desk.add(entries)
        self.values.learn(restored)
        self._left += len(entries)

    def release(self, item: pytest.Item) -> None:
        self._desk.release(item)

    def _count_down(self, event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after in DONE:
            self._left -= 1
