"""What arrives at a task: the results of its upstreams, from this run or an earlier one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.joining import Shape
from pytest_flowforge.core.messages import Event, TaskMoved
from pytest_flowforge.core.model import Failure
from pytest_flowforge.core.records import key_of
from pytest_flowforge.core.states import DONE, SUCCEEDED, TaskState
from pytest_flowforge.plugin.entries import task_id
from pytest_flowforge.results import NoResult, ValueStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.joining import Joined
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Needs

__all__ = ["Reading", "Values"]


class Reading:
    """Knows whose results each task may look at."""

    def __init__(self, entries: Mapping[TaskId, Entry], needs: Mapping[TaskId, Needs]) -> None:
        self._entries = entries
        self._needs = needs

    def of(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* may look at."""
        # With `request` at hand a task may ask for the fixture `upstream` as it runs.
        return self._asked(task, _MAY_ASK)

    def surely(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* asks for."""
        return self._asked(task, _ASKS)

    def _asked(self, task: TaskId, for_all: frozenset[str]) -> frozenset[TaskId]:
        needs = self._needs[task]
        if not needs.by_key:
            return _NOBODY
        if not for_all.isdisjoint(self._entries[task].item.fixturenames):
            return frozenset(needs.by_key.values())
        return frozenset(member for joined in needs.parameters.values() for _, member in joined.members)


_ASKS = frozenset({"upstream"})
_MAY_ASK = _ASKS | {"request"}
_NOBODY: frozenset[TaskId] = frozenset()


class Values:
    """The results that tasks of one run ask for; a sink for its events.

    ``earlier`` has the records of tasks whose results come from earlier runs, or that are no part of this one, and
    ``load`` fetches such a result. ``stopped`` tells why the run was stopped. With ``fresh`` every reader gets a result
    of its own from that function.
    """

    def __init__(
        self,
        graph: TaskGraph,
        needs: Mapping[TaskId, Needs],
        reading: Reading,
        earlier: Mapping[TaskId, TaskRecord],
        load: Callable[[TaskRecord], Any],
        *,
        stopped: Callable[[], str],
        fresh: Callable[[TaskId], Any] | None = None,
    ) -> None:
        self._graph = graph
        self._needs = needs
        self._earlier = earlier
        self._load = load
        self._stopped = stopped
        self._fresh = fresh
        #: For the tasks that look at results of upstreams: those upstreams.
        self._reads = {task.id: reads for task in graph if (reads := self._within_reach(reading.of(task.id)))}
        self._store = ValueStore(Counter(upstream for reads in self._reads.values() for upstream in reads))
        self._succeeded: set[TaskId] = set()
        #: The last move of each task that ended without a result, for those who ask why.
        self._without: dict[TaskId, TaskMoved] = {}

    def _within_reach(self, upstreams: frozenset[TaskId]) -> frozenset[TaskId]:
        if not upstreams:
            return upstreams
        return frozenset(task for task in upstreams if task in self._graph or task in self._earlier)

    def put(self, task: TaskId, value: Any, *, stored: bool) -> None:
        """Keep *value* as the result of *task* as long as somebody may ask for it, unless it can be had *stored*."""
        if self._fresh is None or not stored:
            self._store.put(task, value)

    def __call__(self, event: Event) -> None:
        """Keep in mind why a task has no result; give up what no task will ask for any more."""
        if not isinstance(event, TaskMoved) or event.after not in DONE:
            return
        if event.after not in SUCCEEDED:
            self._without[event.task] = event
        elif event.task in self._store.wanted:
            self._succeeded.add(event.task)
        for upstream in self._reads.get(event.task, ()):
            self._store.release(upstream)

    def arrival(self, joined: Joined) -> Any:
        """What arrives under the name of an upstream: its result, or a dict of results by variant."""
        if joined.shape is Shape.VALUE:
            return self.result(joined.members[0][1])
        return {variant: self.result(task) for variant, task in joined.members}

    def arrivals(self, task: TaskId) -> dict[str, Any]:
        """What arrives at *task* under the names of its parameters."""
        return {name: self.arrival(joined) for name, joined in self._needs[task].parameters.items()}

    def arrival_for(self, item: pytest.Item, name: str) -> Any:
        """What arrives under *name* for the task *item*."""
        return self.arrival(self._needs[task_id(item)].parameters[name])

    def upstream_of(self, item: pytest.Item) -> dict[str, Any]:
        """The results of all direct upstreams of *item* by task name."""
        needs = self._needs[task_id(item)].by_key.items()
        return {key: self.result(task) for key, task in needs if task in self._graph or task in self._earlier}

    def result(self, task: TaskId) -> Any:
        """The result of *task*, or a :class:`NoResult` that says why there is none.

        Raises :class:`~pytest_flowforge.errors.ResultError` for one that was stored and can not be loaded any more.
        """
        record = self._earlier.get(task)
        if record is not None and record.state in SUCCEEDED:
            return self._from_earlier(task, record)
        if task in self._succeeded:
            return self._store.get(task) if self._fresh is None or task in self._store else self._fresh(task)
        if record is not None:
            name = key_of(task).rpartition("::")[2].removeprefix("flow_")
            return NoResult(name, record.state.value, record.because, record.because or None)
        return self._absence(task)

    def _from_earlier(self, task: TaskId, record: TaskRecord) -> Any:
        if self._fresh is not None:
            return self._load(record)
        if task not in self._store:
            self._store.put(task, self._load(record))
        return self._store.get(task)

    def _absence(self, task: TaskId) -> NoResult:
        move = self._without.get(task)
        name = self._graph[task].label
        if move is None:
            return NoResult(name, TaskState.PENDING.value, self._stopped() or "it has not run")
        error = move.outcome.message if isinstance(move.outcome, Failure) else None
        return NoResult(name, move.after.value, move.because or (error or ""), error)
