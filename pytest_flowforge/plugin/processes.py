"""Running tasks in the worker processes of pytest-xdist, with everything that decides in this process."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.messages import Event, StartAttempt, TaskMoved
from pytest_flowforge.core.model import Lost
from pytest_flowforge.core.records import ResultRef, TaskRecord
from pytest_flowforge.core.states import DONE, FAILED_STATES, SUCCEEDED, TaskState
from pytest_flowforge.core.triggers import CLEAN_UP
from pytest_flowforge.errors import CheckpointUnwritable
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.executors.standby import Standby
from pytest_flowforge.plugin.backends import Backend
from pytest_flowforge.plugin.last_resort import LastResort
from pytest_flowforge.plugin.own_desk import OwnDesk
from pytest_flowforge.plugin.pytest_internals import ends_processes_late, time_settings
from pytest_flowforge.plugin.settings import codecs_of
from pytest_flowforge.plugin.values import Arrivals, Reading
from pytest_flowforge.plugin.wire import to_reports
from pytest_flowforge.plugin.worker_record import Answer, NoAnswer
from pytest_flowforge.ports import Finished, Job
from pytest_flowforge.results import Absences
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.model import Outcome, TaskId
    from pytest_flowforge.plugin.backends import Holding, Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.worker_record import Worker
    from pytest_flowforge.plugin.workers import Workers
    from pytest_flowforge.ports import Clock, Executor

__all__ = ["ProcessBackend"]

#: Seconds that tasks have to end when the run is interrupted.
_GRACE = 2.0


class ProcessBackend(Backend):
    """Sends attempts to workers. The results of tasks stay where they were stored; what travels is where that is."""

    grace = _GRACE

    def __init__(self, work: Work, workers: Workers) -> None:
        self._work = work
        self._workers = workers
        self._config = work.session.config
        self.executor: Executor = Standby(workers, self._stand_in)
        self._reading = Reading(work.entries, work.blueprint)
        #: Where the results of tasks are; those of earlier runs from the start.
        self._refs: dict[TaskId, ResultRef] = {}
        self._learn({**work.reuse.outside, **work.reuse.restored})
        self._absences = Absences(work.graph, work.reuse.outside, lambda: work.engine.stopped)
        #: What attempts in this process have returned; until workers are lost there are none.
        self._made_here: dict[TaskId, Callable[[], Any]] = {}
        self.values = Arrivals(work.blueprint, self._result, self._is_known)
        self._desk: OwnDesk | None = None
        self.sinks = (self._absences, self._on_event)
        #: Attempts whose end a worker, or its death, has told.
        self._told: set[tuple[TaskId, int]] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @contextmanager
    def serve(self, holding: Holding) -> Iterator[None]:
        self._holding = holding
        self._stack = ExitStack()
        work = self._work
        manager = self._config.pluginmanager
        # The terminal would show a line for the beginning, and another one for the end.
        self._log_start = manager.subset_hook_caller(
            "pytest_runtest_logstart", [manager.get_plugin("terminalreporter")]
        )
        self._workers.connect(
            [task for task, entry in work.entries.items() if entry.instance_of is None],
            self._first,
            self._order,
            self._reading.of,
            self._is_alone,
            self._follower,
            self._on_note,
            self._patience,
        )
        with self._stack:
            yield

    def _learn(self, earlier: Mapping[TaskId, TaskRecord]) -> None:
        for task, record in earlier.items():
            if record.state in SUCCEEDED and record.result is not None:
                self._refs[task] = record.result

    def job(self, command: StartAttempt) -> Job:
        return Job(command.task, command.attempt, self._elsewhere)

    def _elsewhere(self) -> tuple[Outcome, Any]:
        msg = "workers know what to do by themselves"
        raise NotImplementedError(msg)

    def conclude(self, finished: Finished) -> Finished:
        """Take in what the worker said; a success without a result that can be had is none."""
        entry = self._work.entries[finished.task]
        self._told.add((finished.task, finished.attempt))
        if isinstance(finished.outcome, Lost):
            self._holding.hold_failure(entry.id, finished.outcome.reason, "call")
            return finished
        if isinstance(finished.value, NoAnswer):
            self._holding.hold_failure(entry.id, finished.value.text, "call")
            return finished
        if not isinstance(finished.value, Answer):
            # It was made here, and its reports are held; or it had not begun.
            return finished if self._desk is None else self._desk.measured(finished)
        message, node = finished.value.message, finished.value.worker.node
        if "stops" in message:
            # Raised here, while it is this attempt's end that is looked at: nothing that follows from it has started.
            raise _to_exception(message["stops"])
        if "missed" in message:
            self._holding.hold_failure(entry.id, message["missed"])
        if "reports" in message:
            self._log_start(nodeid=entry.item.nodeid, location=entry.item.location)
            reports = to_reports(self._config, entry.item, message)
            for report in reports:
                _from_worker(report, node)
            self._holding.hold(entry.id, reports)
        if "note" in message:
            self._work.tell(message["note"])
        keeper = self._work.checkpointing.keeper
        if "unwritable" in message and keeper is not None:
            keeper.broken = keeper.broken or CheckpointUnwritable(message["unwritable"])
        return finished

    def keep(self, task: TaskId, value: Any) -> int | None:
        if not isinstance(value, Answer):
            return self._keep_here(task, value)
        if self._work.page is not None and "preview" in value.message:
            self._work.page.take_preview(task, value.message["preview"])
        facts = value.message.get("result")
        if facts is None:
            return None
        ref = self._refs[task] = ResultRef(*facts)
        keeper = self._work.checkpointing.keeper
        if keeper is not None:
            keeper.stored(task, ref)
        return ref.length

    def add(self, task: TaskId, entries: Sequence[Entry], restored: Mapping[TaskId, TaskRecord]) -> None:
        self._learn(restored)
        self._workers.grow(task, [entry.label for entry in entries])
        if self._desk is not None:
            self._desk.add(entries)

    def release(self, item: pytest.Item) -> None:
        """Give up what was set up in this process for *item* alone: nothing, as long as there are workers."""
        if self._desk is not None:
            self._desk.release(item)

    # ------------------------------------------------------------------ without workers

    def _stand_in(self) -> Executor:
        """Return what makes attempts in this process, once there is nobody else who could."""
        engine, graph = self._work.engine, self._work.graph
        left = [task.id for task in graph if task.when in CLEAN_UP and engine.state(task.id) not in DONE]
        self._work.tell(f"clean-up and alarms ran in the process of the run: {engine.lost}")
        last_resort = LastResort(self._work.grace, taken=ends_processes_late(self._config))
        self._desk = OwnDesk(self._work, left, self.values, watch=last_resort)
        self._stack.enter_context(last_resort)
        self._stack.enter_context(self._desk.serve(self._holding, alone=True))
        return _Here(self._work.clock, self._desk)

    def _is_known(self, task: TaskId) -> bool:
        return task in self._work.graph or task in self._work.reuse.outside

    def _result(self, task: TaskId) -> Any:
        """The result of *task* for an attempt in this process; raises :class:`ResultError`."""
        if task in self._made_here:
            return self._made_here[task]()
        ref = self._refs.get(task)
        return self._absences.of(task) if ref is None else self._store.get(ref)

    @cached_property
    def _store(self) -> ResultStore:
        """Where the results of tasks are."""
        keeper = self._work.checkpointing.keeper
        if keeper is not None:
            return keeper.archive.store
        folder, run = self._temporary()
        place = Place.open(folder, create=False)
        self._stack.callback(place.close)
        store = ResultStore(place, run, codecs=codecs_of(self._config, ()))
        self._stack.callback(store.close)
        return store

    def _keep_here(self, task: TaskId, value: Any) -> int | None:
        checkpointing = self._work.checkpointing
        keeper = checkpointing.keeper
        stored = self._work.store(task, value)
        if keeper is not None and stored and checkpointing.isolates:
            self._made_here[task] = partial(keeper.load, task)
        else:
            self._made_here[task] = lambda: value
        return self._work.size_of(task) if stored else None

    # ------------------------------------------------------------------ what workers are told

    def _first(self) -> dict[str, Any]:
        work = self._work
        checkpointing = work.checkpointing
        place, run = self._place()
        tasks = None if len(work.graph) == len(work.entries) else [task.id for task in work.graph]
        return {
            "do": "begin",
            "place": str(place),
            "run": run,
            "keeps": checkpointing.keeper is not None,
            "tasks": tasks,
            "isolates": checkpointing.isolates,
            "instances": {task: list(labels) for task, labels in work.blueprint.instances.items()},
        }

    def _place(self) -> tuple[Path, str]:
        """Where results are stored, and as those of which run."""
        checkpointing = self._work.checkpointing
        if checkpointing.keeper is None or checkpointing.path is None:
            return self._temporary()
        return checkpointing.path, checkpointing.keeper.run

    def _temporary(self) -> tuple[Path, str]:
        """A place for results that nobody wants to keep: they have to travel all the same."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="flowforge-")
            self._stack.callback(self._folder.cleanup)
            place = Place.open(Path(self._folder.name) / "results")
            self._temporary_run = place.new_run(self._work.clock.now())
            place.close()
        return Path(self._folder.name) / "results", self._temporary_run

    def _is_alone(self, task: TaskId) -> bool:
        """Whether *task* must not lie around at a worker: once it is sent, it counts as started."""
        return task in self._work.blueprint.once or self._work.graph[task].exclusive

    def _follower(self, task: TaskId) -> TaskId | None:
        follower = self._work.engine.follower(task)
        if follower is None or self._is_alone(follower) or follower in self._work.blueprint.rules:
            # What its result depends on is looked at when it starts.
            return None
        return follower

    def _order(self, worker: Worker, to_run: TaskId) -> dict[str, Any]:
        inputs = {}
        for task in self._reading.of(to_run):
            if self._is_open(task):
                # It follows what makes that result, at the same worker.
                continue
            if task not in worker.told and (facts := self._facts(task)) is not None:
                inputs[task] = facts
                worker.told.add(task)
        return {"inputs": inputs}

    def _is_open(self, task: TaskId) -> bool:
        return task in self._work.graph and self._work.engine.state(task) not in DONE and not self._work.engine.stopped

    def _patience(self, task: TaskId) -> tuple[float, float] | None:
        """The time limit of *task*, and how long after it its worker is waited for."""
        settings = time_settings(self._work.entries[task].item)
        if settings is None:
            return None
        # By that method, nothing is raised in the task: there is nothing to wait for.
        return settings.timeout, 0.0 if settings.method == "thread" else self._work.grace

    def _facts(self, task: TaskId) -> list[Any] | None:
        """Where the result of an upstream is, or why there is none; None for a task this run knows nothing of."""
        ref = self._refs.get(task)
        if ref is not None:
            return ["ref", *ref.to_json()]
        absence = self._absences.of(task)
        return None if absence is None else ["none", absence.task, absence.state, absence.reason, absence.error]

    # ------------------------------------------------------------------ what happens

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, TaskMoved):
            return
        if event.after in DONE:
            self._workers.forget(event.task)
        if event.before is not TaskState.RUNNING:
            return
        if (event.task, event.attempt) in self._told:
            self._told.discard((event.task, event.attempt))
        elif event.task not in self._work.blueprint.mapped and event.after in FAILED_STATES:
            # Decided without the worker, most likely because there is none any more.
            self._holding.hold_failure(event.task, event.because, "call")

    def _on_note(self, worker: Worker, message: dict[str, Any]) -> None:
        if message["is"] == "note":
            self._work.tell(message["text"])
        elif message["is"] == "unasked":
            label = self._work.graph[message["task"]].label
            self._work.tell(f"{label} has run, and was not to start any more when that was known: it does not count")
        elif message["is"] == "late":
            item = self._work.entries[message["task"]].item
            for report in to_reports(self._config, item, message):
                _from_worker(report, worker.node)
                item.ihook.pytest_runtest_logreport(report=report)


class _Here(InlineExecutor):
    """Makes the attempts it is given at a desk in this process."""

    def __init__(self, clock: Clock, desk: OwnDesk) -> None:
        super().__init__(clock)
        self._desk = desk

    def start(self, job: Job) -> None:
        super().start(self._desk.job(job.task, job.attempt))


def _to_exception(facts: list[Any]) -> BaseException:
    if facts[0] == "exit":
        return pytest.exit.Exception(facts[1], facts[2])
    return KeyboardInterrupt(facts[1])


def _from_worker(report: pytest.TestReport, node: Any) -> None:
    """Mark *report* as xdist does."""
    report.node = node  # type: ignore[attr-defined]
    report.worker_id = node.gateway.id  # type: ignore[attr-defined]
    report.testrun_uid = node.workerinput["testrunuid"]  # type: ignore[attr-defined]
