"""What arrives at a task: the results of its upstreams, from this run or an earlier one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.joining import Shape
from pytest_flowforge.core.messages import Event, InstancesAdded, TaskMoved
from pytest_flowforge.core.states import DONE, SUCCEEDED
from pytest_flowforge.plugin.entries import task_id
from pytest_flowforge.plugin.fanning import element_of
from pytest_flowforge.results import Absences, ValueStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pytest
    from typing_extensions import Self

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.joining import Joined
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.plugin.backends import Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint

__all__ = ["Arrivals", "Reading", "Values"]


class Reading:
    """Knows whose results each task may look at."""

    def __init__(self, entries: Mapping[TaskId, Entry], blueprint: Blueprint) -> None:
        self._entries = entries
        self._needs = blueprint.needs
        self._instances = blueprint.instances
        self._mapped = blueprint.mapped
        #: Made when it is asked for: most flows have no mapped tasks.
        self._readers: dict[TaskId, list[TaskId]] | None = None

    def of(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* may look at."""
        # With `request` at hand a task may ask for the fixture `upstream` as it runs.
        return self._asked(task, _MAY_ASK)

    def readers(self, mapped: TaskId) -> Sequence[TaskId]:
        """The tasks that may look at the result of a *mapped* task; not those that were added meanwhile."""
        if self._readers is None:
            self._readers = {}
            for task, needs in self._needs.items():
                for need in needs.by_key.values():
                    if need in self._mapped:
                        self._readers.setdefault(need, []).append(task)
        return self._readers.get(mapped, ())

    def surely(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* asks for."""
        return self._asked(task, _ASKS)

    def declared(self, task: TaskId) -> frozenset[TaskId]:
        """The upstreams whose results *task* asks for, mapped ones as they were declared: not their instances."""
        return self._named(task, _ASKS)

    def _asked(self, task: TaskId, for_all: frozenset[str]) -> frozenset[TaskId]:
        asked = self._named(task, for_all)
        if self._instances.keys().isdisjoint(asked):
            return asked
        return frozenset(one for need in asked for one in self._instances.get(need, {_ITSELF: need}).values())

    def _named(self, task: TaskId, for_all: frozenset[str]) -> frozenset[TaskId]:
        needs = self._needs[task]
        if not needs.by_key:
            return _NOBODY
        if not for_all.isdisjoint(self._entries[task].item.fixturenames):
            return frozenset(needs.by_key.values())
        return frozenset(member for joined in needs.parameters.values() for _, member in joined.members)


_ITSELF = ""
_ASKS = frozenset({"upstream"})
_MAY_ASK = _ASKS | {"request"}
_NOBODY: frozenset[TaskId] = frozenset()


class Arrivals:
    """What arrives at tasks under the names of their upstreams.

    ``result`` returns the result of a task, or a :class:`NoResult`; ``is_near`` tells whether there may be one.
    """

    def __init__(
        self, blueprint: Blueprint, result: Callable[[TaskId], Any], is_near: Callable[[TaskId], bool]
    ) -> None:
        self._needs = blueprint.needs
        self._instances = blueprint.instances
        self._result_of_one = result
        self._is_near_itself = is_near

    def _result(self, task: TaskId) -> Any:
        """The result of *task*; that of a mapped task is a dict of those of its instances, by what they are called."""
        instances = self._instances.get(task) if self._instances else None
        if instances is None:
            return self._result_of_one(task)
        return {label: self._result_of_one(instance) for label, instance in instances.items()}

    def _is_near(self, task: TaskId) -> bool:
        instances = self._instances.get(task)
        return self._is_near_itself(task) if instances is None else all(map(self._is_near_itself, instances.values()))

    def arrival(self, joined: Joined) -> Any:
        """What arrives under the name of an upstream: its result, or a dict of results by variant."""
        if joined.shape is Shape.VALUE:
            return self._result(joined.members[0][1])
        return {variant: self._result(task) for variant, task in joined.members}

    def arrivals(self, task: TaskId) -> dict[str, Any]:
        """What arrives at *task* under the names of its parameters."""
        needs = self._needs[task]
        arrived = {name: self.arrival(joined) for name, joined in needs.parameters.items()}
        if needs.element is not None:
            parameter, place = needs.element
            arrived[parameter] = element_of(arrived[parameter], place)
        return arrived

    def arrival_for(self, item: pytest.Item, name: str) -> Any:
        """What arrives under *name* for the task *item*."""
        needs = self._needs[task_id(item)]
        arrived = self.arrival(needs.parameters[name])
        if needs.element is not None and needs.element[0] == name:
            return element_of(arrived, needs.element[1])
        return arrived

    def upstream_of(self, item: pytest.Item) -> dict[str, Any]:
        """The results of all direct upstreams of *item* by task name."""
        needs = self._needs[task_id(item)].by_key.items()
        return {key: self._result(task) for key, task in needs if self._is_near(task)}


class Values(Arrivals):
    """The results that tasks of one run ask for; a sink for its events.

    ``earlier`` has the records of tasks whose results come from earlier runs, or that are no part of this one, and
    ``load`` fetches such a result. ``stopped`` tells why the run was stopped. With ``fresh`` every reader gets a result
    of its own from that function.
    """

    def __init__(
        self,
        graph: TaskGraph,
        blueprint: Blueprint,
        reading: Reading,
        earlier: Mapping[TaskId, TaskRecord],
        load: Callable[[TaskRecord], Any],
        *,
        stopped: Callable[[], str],
        fresh: Callable[[TaskId], Any] | None = None,
    ) -> None:
        super().__init__(blueprint, self.result, self._is_known)
        self._blueprint = blueprint
        self._reading = reading
        self._graph = graph
        self._earlier = dict(earlier)
        self._load = load
        self._absences = Absences(graph, earlier, stopped)
        self._fresh = fresh
        self._store = ValueStore(
            {task.id: reads for task in graph if (reads := self._within_reach(reading.of(task.id)))}
        )
        self._succeeded: set[TaskId] = set()

    @classmethod
    def of(cls, work: Work) -> Self:
        """Return the values of a run in this process."""
        keeper, archive = work.checkpointing.keeper, work.checkpointing.archive
        fresh = work.checkpointing.isolates

        def load(record: TaskRecord) -> Any:
            return archive.load(record, fresh=fresh) if archive is not None else None

        return cls(
            work.graph,
            work.blueprint,
            Reading(work.entries, work.blueprint),
            {**work.reuse.outside, **work.reuse.restored},
            load,
            stopped=lambda: work.engine.stopped,
            fresh=keeper.load if fresh and keeper is not None else None,
        )

    def _is_known(self, task: TaskId) -> bool:
        return task in self._graph or task in self._earlier

    def _within_reach(self, upstreams: frozenset[TaskId]) -> frozenset[TaskId]:
        return frozenset(filter(self._is_known, upstreams)) if upstreams else upstreams

    def put(self, task: TaskId, value: Any, *, stored: bool) -> None:
        """Keep *value* as the result of *task* as long as somebody may ask for it, unless it can be had *stored*."""
        if self._fresh is None or not stored:
            self._store.put(task, value)

    def __call__(self, event: Event) -> None:
        """Keep in mind why a task has no result; give up what no task will ask for any more."""
        if isinstance(event, InstancesAdded):
            self._reread(event.task)
        if not isinstance(event, TaskMoved) or event.after not in DONE:
            return
        if event.after not in SUCCEEDED:
            self._absences(event)
        elif event.task in self._store.wanted:
            self._succeeded.add(event.task)
        self._store.done(event.task)

    def learn(self, earlier: Mapping[TaskId, TaskRecord]) -> None:
        """More results come from earlier runs."""
        self._earlier.update(earlier)

    def _reread(self, mapped: TaskId) -> None:
        """Whoever reads the result of a *mapped* task reads those of its instances, which are known now."""
        for reader in self._reading.readers(mapped):
            self._store.reads_now(reader, self._within_reach(self._reading.of(reader)))

    def result(self, task: TaskId) -> Any:
        """The result of *task*, or a :class:`NoResult` that says why there is none.

        Raises :class:`~pytest_flowforge.errors.ResultError` for one that was stored and can not be loaded any more.
        """
        record = self._earlier.get(task)
        if record is not None and record.state in SUCCEEDED:
            return self._from_earlier(task, record)
        if task in self._succeeded:
            return self._store.get(task) if self._fresh is None or task in self._store else self._fresh(task)
        return self._absences.of(task)

    def _from_earlier(self, task: TaskId, record: TaskRecord) -> Any:
        if self._fresh is not None:
            return self._load(record)
        if task not in self._store:
            self._store.put(task, self._load(record))
        return self._store.get(task)
