"""Mapped tasks while a run goes on: their elements are found out, and become tasks of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.core.messages import TaskExpanded
from pytest_flowforge.errors import ResultError
from pytest_flowforge.plugin.fanning import FanOut, NotMappable

if TYPE_CHECKING:
    from pytest_flowforge.core.messages import Signal
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.backends import Backend, Work
    from pytest_flowforge.plugin.reporting import Reporter

__all__ = ["Expander"]


class Expander:
    """Answers what the instances of a mapped task are, in the process of the run, so that all executors agree."""

    def __init__(self, work: Work, backend: Backend, reporter: Reporter) -> None:
        self._work = work
        self._backend = backend
        self._reporter = reporter
        self._fan_out = FanOut(work.entries, work.blueprint)

    def __call__(self, task: TaskId, at: float) -> Signal:
        """Return the instances of *task*, ready to run; raise what is to be the failure of *task*."""
        work = self._work
        mapped = work.graph[task]
        try:
            entries = self._fan_out.expand(mapped, self._backend.values)
        except (ResultError, NotMappable) as error:
            self._reporter.hold_failure(task, str(error))
            raise
        ids = [entry.id for entry in entries]
        restored, refused = work.checkpointing.grow(work.graph, mapped, ids, work.blueprint, self._fan_out)
        self._backend.add(task, entries, restored)
        if not entries:
            self._reporter.hold_nothing_to_do(task)
        work.session.testscollected += max(len(entries) - 1, 0)
        instances = tuple(map(work.fit, self._fan_out.tasks(mapped, entries), entries))
        because = {one: record.origin for one, record in restored.items()}
        return TaskExpanded(task, instances, at, self._fan_out.pools(mapped), because, refused)
