"""Where a worker makes the attempts that it was asked for, and keeps the results that it needs again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge import measuring
from pytest_flowforge.core.model import Failure, FailureKind, Success
from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import CheckpointUnwritable, ResultError, ResultUnstorable
from pytest_flowforge.failures import safe_text
from pytest_flowforge.plugin import fixtures
from pytest_flowforge.plugin.attempts import Attempts
from pytest_flowforge.plugin.fanning import FanOut
from pytest_flowforge.plugin.outcomes import Attempt
from pytest_flowforge.plugin.settings import codecs_of
from pytest_flowforge.plugin.values import Arrivals, Reading
from pytest_flowforge.plugin.wire import from_measures, from_outcome, from_reports
from pytest_flowforge.plugin.xdist_internals import Interactor
from pytest_flowforge.report.previews import preview
from pytest_flowforge.results import NoResult, ValueStore
from pytest_flowforge.storage.locks import WorkersLock
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.syncing import GroupCommit
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.plugin.boards import WorkersBoard
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.inbox import Inbox, WorkerInterrupts
    from pytest_flowforge.plugin.options import Options

__all__ = ["Desk", "Results"]


class Desk:
    """Where a worker works off its orders. ``first`` tells where results are stored, and which tasks there may be."""

    def __init__(
        self,
        session: pytest.Session,
        options: Options,
        entries: dict[TaskId, Entry],
        blueprint: Blueprint,
        first: dict[str, Any],
        send: Any,
        interrupts: WorkerInterrupts,
        board: WorkersBoard,
    ) -> None:
        self._config = session.config
        self._send = send
        self._interrupts = interrupts
        self._board = board
        self._interactor = Interactor(session.config)
        self._index = {entry.id: place for place, entry in enumerate(entries.values())}
        self._tasks: dict[TaskId, Task] = {task.id: task for task in blueprint.tasks}
        self._fan_out = FanOut(entries, blueprint)
        for task, labels in first["instances"].items():
            self._know(self._fan_out.add(task, labels))
        chosen = first["tasks"]
        self._entries = {task: entries[task] for task in (entries if chosen is None else chosen)}
        self._attempts = Attempts(
            session,
            list(self._entries.values()),
            self._comes_again,
            self._on_cut_off,
            self._tell,
            is_asked_for=interrupts.is_asked_for,
            watch=board,
            is_run=False,
        )
        place = Place.open(Path(first["place"]), create=False)
        self._lock = WorkersLock(place.folder)
        self._lock.share()
        self._commit = GroupCommit(options.checkpoint.durability)
        self._store = ResultStore(
            place,
            first["run"],
            codecs=codecs_of(self._config, options.checkpoint.codecs),
            on_put=self._commit.touch,
            sync_large=options.checkpoint.durability != "off",
        )
        self._commit.watch(self._store)
        self._place = place
        self._keeps = first["keeps"]
        self._previews = options.report_values
        #: What has succeeded here lately, and that an order needs not follow anything.
        self._succeeded: set[TaskId | None] = {None}
        self._results = Results(self._store, self._entries, blueprint, fresh=first["isolates"])
        self._config.stash[fixtures.VALUES] = self._arrivals = Arrivals(
            blueprint, self._results.get, self._results.is_known
        )

    def work(self, inbox: Inbox) -> None:
        """Do what the inbox says until there is nothing more to come."""
        inbox.work_for(self._send)
        with self._attempts.serve(alone=True):
            while (message := inbox.next()) is not None and message.get("do") != "stop":
                if "task" in message:
                    if message.get("after") in self._succeeded:
                        self._run(message)
                    if self._interrupts.taken:
                        # Nothing more is to start; that was said to the controller, too, which may take its time.
                        self._interrupts.taken = False
                        inbox.recall()
                else:
                    for task, labels in message.get("grown", {}).items():
                        self._grow(task, labels)
                    self._results.learn(message.get("inputs", {}))
                    for task in message["away"]:
                        self._results.release(task)
                    self._forget(message["gone"])
            self._forget(list(self._tasks))

    def close(self) -> None:
        """Make everything survive a power cut, and close all files."""
        with suppress(CheckpointUnwritable):
            self._commit.close()
        self._store.close()
        self._place.close()
        self._lock.release()

    def _grow(self, task: TaskId, labels: list[str]) -> None:
        """Be ready for the instances of a mapped *task*."""
        entries = self._fan_out.add(task, labels)
        self._know(entries)
        self._entries.update((entry.id, entry) for entry in entries)
        self._attempts.add(entries)
        self._results.reread(task)

    def _know(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            of = entry.instance_of
            if of is not None:
                self._index[entry.id] = self._index[of]
                self._tasks[entry.id] = self._tasks[of]

    # ------------------------------------------------------------------ one attempt

    def _run(self, order: dict[str, Any]) -> None:
        entry = self._entries[order["task"]]
        self._interactor.is_about(self._index[entry.id])
        self._board.is_about(self._index[entry.id], order["attempt"])
        answer: dict[str, Any] = {"is": "done", "task": entry.id, "attempt": order["attempt"]}
        try:
            inputs = self._arrivals.arrivals(entry.id)
        except ResultError as error:
            self._send({**answer, "outcome": from_outcome(Failure(message=str(error))), "missed": str(error)})
            return
        attempt = Attempt(order["attempt"], inputs)
        value: Any = None
        before = measuring.of_process()
        try:
            with self._interrupts.allowed():
                outcome, value = self._attempts.perform(entry, attempt, retried=True, last=False)
        except KeyboardInterrupt:
            outcome = Failure(FailureKind.INTERRUPTED, "KeyboardInterrupt")
            if not self._interrupts.taken:
                answer["stops"] = ["interrupt", f"{entry.name} raised KeyboardInterrupt"]
        except pytest.exit.Exception as error:
            outcome = Failure(FailureKind.INTERRUPTED, f"Exit: {safe_text(error)}")
            answer["stops"] = ["exit", safe_text(error), error.returncode]
        answer["measures"] = from_measures(measuring.since(before))
        self._succeeded.discard(entry.id)
        if isinstance(outcome, Success):
            outcome = self._keep(entry, value, answer) or outcome
            if self._previews:
                # There it is never decoded.
                answer["preview"] = preview(value)
        if isinstance(outcome, Success) and outcome.only is None:
            # Where one has chosen who goes on, that is for the controller to say.
            self._succeeded.add(entry.id)
        del inputs, value
        attempt.inputs = {}
        final = not self._comes_again(entry, attempt)
        if final:
            self._results.release(entry.id)
        if attempt.reports is not None:
            answer.update(from_reports(self._config, attempt.reports))
        answer["outcome"] = from_outcome(outcome)
        self._send(answer)

    def _keep(self, entry: Entry, value: Any, answer: dict[str, Any]) -> Failure | None:
        """Store the result where somebody may ask for it; say in *answer* where it is. Return what is wrong with it."""
        wanted = self._results.is_wanted(entry.id)
        if not wanted and not self._keeps:
            return None
        try:
            ref = self._store.put(value)
        except CheckpointUnwritable as error:
            answer["unwritable"] = str(error)
        except ResultUnstorable as error:
            return _not_stored(entry, str(error), answer, wanted=wanted)
        except Exception as error:  # noqa: BLE001 - pickling calls methods of the value, which may raise anything
            text = f"can not be stored ({type(error).__name__} while it was pickled)"
            return _not_stored(entry, text, answer, wanted=wanted)
        else:
            answer["result"] = ref.to_json()
            self._results.put(entry.id, value, ref)
        return None

    def _comes_again(self, entry: Entry, attempt: Attempt) -> bool:
        task = self._tasks[entry.id]
        return bool(task.retry.max_retries) and task.wants_another(attempt.number, attempt.outcome())

    def _on_cut_off(self, entry: Entry, attempt: Attempt, status: int) -> None:
        self._send({"is": "leaving", "task": entry.id, "attempt": attempt.number, "why": f"called os._exit({status})"})

    def _tell(self, sentence: str) -> None:
        self._send({"is": "note", "text": sentence})

    # ------------------------------------------------------------------ what will not come here any more

    def _forget(self, tasks: list[TaskId]) -> None:
        """Give up what was kept for these tasks alone; an error there is told as one of the task's teardown."""
        for task in tasks:
            entry = self._entries.get(task)
            if entry is None:
                continue
            self._results.release(task)
            try:
                self._attempts.tree.release(entry.item)
            except Exception as error:  # noqa: BLE001 - it comes from a fixture, and is reported as that of a task
                self._tell_late(entry, error)

    def _tell_late(self, entry: Entry, error: Exception) -> None:
        def fail() -> None:
            raise error

        call = pytest.CallInfo.from_call(fail, "teardown")
        report = pytest.TestReport.from_item_and_call(entry.item, call)
        self._send({"is": "late", "task": entry.id, **from_reports(self._config, [report])})


def _not_stored(entry: Entry, why: str, answer: dict[str, Any], *, wanted: bool) -> Failure | None:
    """The failure of an attempt whose result can not be stored; None where nobody asks for it."""
    if not wanted:
        answer["note"] = f"the result of {entry.name} {why}: {entry.name} runs again on --ff-resume"
        return None
    message = f"the result of {entry.name} {why}. Tasks in other processes ask for it: return something else"
    return Failure(message=message, longrepr=message)


class Results:
    """The results that tasks in this worker ask for: where they are, and those that are in memory anyway."""

    def __init__(
        self, store: ResultStore, entries: Mapping[TaskId, Entry], blueprint: Blueprint, *, fresh: bool
    ) -> None:
        self._store = store
        self._fresh = fresh
        self._known: dict[TaskId, ResultRef | NoResult] = {}
        self._reading = Reading(entries, blueprint)
        self._values = ValueStore({task: reads for task in entries if (reads := self._reading.of(task))})

    def reread(self, mapped: TaskId) -> None:
        """Whoever reads the result of a *mapped* task reads those of its instances, which are known now."""
        for reader in self._reading.readers(mapped):
            self._values.reads_now(reader, self._reading.of(reader))

    def is_wanted(self, task: TaskId) -> bool:
        """Whether some task may ask for that result, be it elsewhere."""
        return task in self._values.wanted

    def is_known(self, task: TaskId) -> bool:
        """Whether anything was said about the result of *task*."""
        return task in self._known

    def learn(self, inputs: Mapping[TaskId, list[Any]]) -> None:
        """Take in where results are, or why there are none."""
        for task, facts in inputs.items():
            self._known[task] = ResultRef(*facts[1:]) if facts[0] == "ref" else NoResult(*facts[1:])

    def put(self, task: TaskId, value: Any, ref: ResultRef) -> None:
        """*task* has made *value* here."""
        self._known[task] = ref
        if not self._fresh:
            self._values.put(task, value)

    def get(self, task: TaskId) -> Any:
        """Return the result of *task*, or a :class:`NoResult`; raise :class:`ResultError`."""
        known = self._known[task]
        if isinstance(known, NoResult):
            return known
        if task in self._values:
            return self._values.get(task)
        value = self._store.get(known)
        if not self._fresh:
            self._values.put(task, value)
        return value

    def release(self, task: TaskId) -> None:
        """*task* is not known to come here (again): what only it would ask for need not be kept in memory."""
        self._values.done(task)
