"""The checkpoint of a session: opening it, deciding what stands, beginning the run that is kept."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.checkpoint import carry
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Task
from pytest_flowforge.core.records import Growth, RunHeader, key_of
from pytest_flowforge.core.resume import Decision, Question, decide
from pytest_flowforge.core.states import DONE, SUCCEEDED, TaskState
from pytest_flowforge.core.triggers import Verdict, verdict
from pytest_flowforge.errors import CheckpointError, CheckpointLocked, CheckpointUnwritable
from pytest_flowforge.keeping import Archive, Keeper
from pytest_flowforge.plugin.fanning import FanOut, instance_test, label_of
from pytest_flowforge.plugin.fingerprints import Fingerprints, digest_of_graph
from pytest_flowforge.plugin.options import Mode
from pytest_flowforge.plugin.pytest_internals import make_cache_folder
from pytest_flowforge.plugin.settings import settings_of
from pytest_flowforge.plugin.stand_ins import OBSERVER
from pytest_flowforge.report.changes import Change
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.model import Branch, TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.keeping import Settings
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.options import Options

__all__ = ["Checkpointing", "Reuse"]


@dataclass(slots=True)
class Reuse:
    """What a session makes of earlier runs.

    ``run`` is the run that is continued, if there is one. ``restored`` are tasks whose results stand, ``branches`` the
    ways on that some of these have chosen; ``reasons`` says why the others run, and is empty where nothing is reused
    anyway. ``refused`` are tasks in doubt that must not run twice, with what is said of them. ``outside`` has records
    of upstreams that are no part of the run.
    """

    run: RunRecord | None = None
    restored: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    branches: Mapping[TaskId, Branch] = field(default_factory=dict)
    reasons: Mapping[TaskId, str] = field(default_factory=dict)
    refused: Mapping[TaskId, str] = field(default_factory=dict)
    in_doubt: tuple[TaskId, ...] = ()
    outside: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    forced: frozenset[TaskId] = frozenset()
    fingerprints: dict[TaskId, Fingerprint] = field(default_factory=dict)

    @property
    def because(self) -> Mapping[TaskId, str]:
        """For the tasks whose results stand, where these come from."""
        return {task: record.origin for task, record in self.restored.items()}


class Checkpointing:
    """Opens the checkpoint when a session needs it, and closes it when the session ends.

    ``keeper`` keeps the run; None where nothing is kept. ``archive`` reads earlier runs; None where there are none.
    ``tell`` takes sentences for the end of the session.
    """

    def __init__(self, config: pytest.Config, options: Options, tell: Callable[[str], None]) -> None:
        self._config = config
        self._options = options
        self._tell = tell
        self.keeper: Keeper | None = None
        self.archive: Archive | None = None
        #: A keeper that could not begin; it still holds the lock and the archive.
        self._unkept: Keeper | None = None
        #: Where and how runs are kept; None where nothing is.
        self._settings: Settings | None = None
        self._prints: Fingerprints | None = None
        #: What is asked about the instances of mapped tasks while the run goes on.
        self._later: _Later | None = None
        config.add_cleanup(self.close)

    @cached_property
    def durations(self) -> dict[TaskId, float]:
        """How many seconds tasks took when they last succeeded before this run; empty where nothing is kept."""
        return {} if self.keeper is None else self.keeper.durations()  # type: ignore[return-value]

    @property
    def isolates(self) -> bool:
        """Whether every task is to get results of its own."""
        return self._options.checkpoint.isolate and self.keeper is not None

    @property
    def settings(self) -> Settings | None:
        """Where and how runs are kept; None where they are not."""
        return self._settings

    @property
    def path(self) -> Path | None:
        """Where runs are kept; None where they are not."""
        return self._settings.path if self._settings is not None else None

    # ------------------------------------------------------------------ opening and closing

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Before anything of the project is imported: nothing is worth starting if another run is at it."""
        option = self._config.option
        chosen = self._options.checkpoint
        self._settings = settings_of(self._config, chosen)
        runs = self._options.mode is Mode.RUN and not option.collectonly and not option.setuponly
        if self._settings is None:
            if chosen.required or chosen.replay or chosen.isolate:
                msg = "nothing is kept without the cache of pytest (-p no:cacheprovider): add --ff-checkpoint DIR"
                raise pytest.UsageError(msg)
            if runs and OBSERVER not in self._config.stash:
                self._tell(
                    "results are not being saved: pytest keeps nothing without its cache (-p no:cacheprovider); "
                    "--ff-checkpoint=DIR would keep them"
                )
        elif runs and not (chosen.replay and not chosen.save):
            self._open_to_write(self._settings)
        elif self._options.mode is not Mode.VALIDATE:
            self._open_to_read(self._settings)

    def _open_to_write(self, settings: Settings) -> None:
        if not self._options.checkpoint.explicit or settings.address is not None:
            make_cache_folder(self._config)
        try:
            self.keeper = self._lock(settings)
        except CheckpointUnwritable as error:
            self._not_kept(error)
            return
        except CheckpointError as error:
            raise pytest.UsageError(str(error)) from error
        self.archive = self.keeper.archive

    def _lock(self, settings: Settings) -> Keeper:
        def say_why() -> None:
            self._say_at_once("flowforge: waiting for workers of the last run")

        if settings.wait:
            try:
                return Keeper(replace(settings, wait=0.0), self._tell, on_wait=say_why, on_slow=self._say_what_is_slow)
            except CheckpointLocked as error:
                self._say_at_once(f"flowforge: waiting: {str(error).rpartition(': wait for it')[0]}")
        return Keeper(settings, self._tell, on_wait=say_why, on_slow=self._say_what_is_slow)

    def _say_what_is_slow(self, words: str) -> None:
        self._say_at_once(f"flowforge: {words}")

    def _say_at_once(self, line: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(line)
            # Where it goes to a file, that would keep it until there is more.
            reporter.flush()

    def _open_to_read(self, settings: Settings) -> None:
        try:
            self.archive = Archive.open(settings, self._say_what_is_slow)
        except FileNotFoundError:
            # Nothing was kept so far.
            return
        except CheckpointError as error:
            if self._options.checkpoint.reuses or self._options.checkpoint.replay:
                raise pytest.UsageError(str(error)) from error
            self._tell(f"earlier runs can not be read: {error}")

    def _not_kept(self, error: CheckpointError) -> None:
        """A run that can not be kept goes on all the same, unless somebody counts on that."""
        if self._options.checkpoint.required or self._options.checkpoint.explicit:
            raise pytest.UsageError(str(error)) from error
        self._tell(f"results are not being saved: {error}")

    def close(self) -> None:
        """Let other runs in."""
        keeper, archive = self.keeper or self._unkept, self.archive
        self.keeper = self.archive = self._unkept = None
        if keeper is not None:
            keeper.close()
        elif archive is not None:
            archive.close()

    # ------------------------------------------------------------------ deciding

    def decide(
        self,
        graph: TaskGraph,
        members: Container[TaskId],
        entries: dict[TaskId, Entry],
        blueprint: Blueprint,
        forced: frozenset[TaskId],
        reads: Callable[[TaskId], Iterable[TaskId]],
        flow: TaskGraph,
    ) -> Reuse:
        """Return what is to be done with the *members* of *graph*, which has all that they depend on as well.

        *flow* has all tasks. Raises UsageError for a run that can not be used.
        """
        options = self._options.checkpoint
        wanted = self.keeper is not None or options.reuses or options.explain
        if self._settings is None or not wanted:
            return Reuse()
        prints = self._fingerprints(entries, blueprint)
        reuse = Reuse(fingerprints=prints.take(task.id for task in graph))
        if not options.reuses:
            return reuse
        try:
            reuse.run = self.archive.chosen(options.run) if self.archive is not None else None
            reuse.forced = forced
            decision = self._decision(graph, reuse, entries, blueprint, reads, flow)
        except CheckpointError as error:
            raise pytest.UsageError(str(error)) from error
        reuse.restored = {task: record for task, record in decision.restored.items() if task in members}
        reuse.branches = {task: branch for task, branch in decision.branches.items() if task in members}
        reuse.reasons = {task: reason for task, reason in decision.reasons.items() if task in members}
        reuse.in_doubt = tuple(task for task in decision.in_doubt if task in members)
        reuse.fingerprints = {task: mark for task, mark in reuse.fingerprints.items() if task in members}
        if not options.rerun_unsafe:
            reuse.refused = {task: _doubt(task, reuse.run) for task in reuse.in_doubt if task in blueprint.once}
        return reuse

    def _decision(
        self,
        graph: TaskGraph,
        reuse: Reuse,
        entries: dict[TaskId, Entry],
        blueprint: Blueprint,
        reads: Callable[[TaskId], Iterable[TaskId]],
        flow: TaskGraph,
    ) -> Decision:
        prints, archive = self._prints, self.archive
        uncached = frozenset(task for task, rule in blueprint.rules.items() if not rule.enabled)
        question = Question(
            graph,
            reuse.run,
            reuse.fingerprints,
            outputs=prints.outputs if prints is not None else lambda _: None,
            forced=reuse.forced,
            uncached=uncached,
            flow=flow,
        )
        if blueprint.mapped:
            fan_out = FanOut(entries, blueprint)
            built_of = fan_out.built_of(task.id for task in graph)
            question = replace(question, instances=fan_out.instances_in(graph), built_of=built_of)
        if archive is None:
            return decide(question)
        if self._options.checkpoint.cache:
            question = replace(question, earlier=archive.earlier)
        return archive.restore(question, reads)

    def first_lines(self, reuse: Reuse) -> list[str]:
        """Return what is to be said of an earlier run that was killed."""
        lines = []
        killed = self.keeper.killed if self.keeper is not None else None
        if killed is not None and self._is_left(killed.run) and not self._options.checkpoint.reuses:
            again = f"--ff-resume --ff-run {killed.run}"
            lines.append(f"flowforge: the last run did not finish; {again} would continue it")
        torn = self.archive.torn.get(reuse.run.id, 0) if self.archive is not None and reuse.run is not None else 0
        if torn:
            lines.append(f"flowforge: dropped {torn:,} bytes of an unfinished record at the end of its journal")
        return lines

    def _is_left(self, run: str) -> bool:
        """Whether something can be built on that run, and nobody has: another machine may have continued it."""
        archive = self.archive
        if not run or archive is None:
            return False
        try:
            later = [one for one in archive.ids() if one > run]
            return archive.run(run).complete and not any(archive.run(one).resumes == run for one in later)
        except CheckpointError:
            return False

    def replay(self, task: Task, entries: dict[TaskId, Entry], blueprint: Blueprint, reuse: Reuse) -> None:
        """Give *task* the inputs it had in an earlier run; raises UsageError when they are not all there."""
        archive = self.archive
        try:
            run = archive.chosen(self._options.checkpoint.run) if archive is not None else None
        except CheckpointError as error:
            raise pytest.UsageError(str(error)) from error
        if run is None or archive is None:
            msg = f"--ff-replay {task.label}: no run is kept whose inputs it could have"
            raise pytest.UsageError(msg)
        known = {need: run.known(need) for need in blueprint.needs[task.id].by_key.values()}
        states = [record.state for record in known.values() if record is not None]
        self._recall_instances(known, run, FanOut(entries, blueprint))
        problems = [
            f"--ff-replay {task.label}: of its upstream {entries[need].name} run {run.id} has {problem}"
            for need, record in known.items()
            if (problem := _missing(record, archive))
        ]
        if problems:
            raise pytest.UsageError(*problems)
        if not set(states) <= DONE or verdict(task.when, states) is not Verdict.RUN:
            words = ", ".join(f"{entries[need].name} {record.state.value}" for need, record in known.items() if record)
            msg = f"--ff-replay {task.label}: in run {run.id} it could not run (when={task.when.value}; {words})"
            raise pytest.UsageError(msg)
        reuse.run = run
        reuse.outside = {need: record for need, record in known.items() if record is not None}

    def _recall_instances(self, known: dict[TaskId, TaskRecord | None], run: RunRecord, fan_out: FanOut) -> None:
        """Have in *known* the instances that mapped tasks had in *run*, in place of these; they are made anew."""
        for mapped in [task for task in known if fan_out.is_mapped(task)]:
            labels = [label for task in run.tasks if (label := label_of(task, mapped))]
            if labels:
                del known[mapped]
                known.update((entry.id, run.known(entry.id)) for entry in fan_out.add(mapped, labels))

    def changes(self, graph: TaskGraph, reuse: Reuse) -> dict[TaskId, Change]:
        """Return what has changed about the tasks of *graph* that are made of something else than before."""
        prints, archive = self._prints, self.archive
        try:
            run = reuse.run if reuse.run is not None else (archive.chosen() if archive is not None else None)
        except CheckpointError as error:
            self._tell(f"what has changed can not be told: {error}")
            return {}
        if run is None or prints is None or archive is None:
            return {}
        found = {}
        for task in graph:
            known = run.known(task.id)
            now = reuse.fingerprints[task.id]
            before = known.fingerprint if known is not None else None
            if known is not None and before is not None and before != now:
                # A result that was never made goes back to the run that has tried.
                parts = archive.parts(known.made[0] or run.id) if before.code != now.code else {}
                found[task.id] = Change(before, now, parts, prints.parts_of(task.id))
        return found

    def last_states(self, graph: TaskGraph) -> dict[TaskId, str]:
        """Return the states of tasks in the last run that knew of them, in words; empty when there is none."""
        try:
            run = self.archive.last() if self.archive is not None else None
        except CheckpointError as error:
            self._tell(f"the last run can not be read: {error}")
            return {}
        if run is None:
            return {}
        return {task.id: record.state.value for task in graph if (record := run.known(task.id)) is not None}

    def records_for(
        self,
        graph: TaskGraph,
        entries: dict[TaskId, Entry],
        blueprint: Blueprint,
        tasks: Iterable[TaskId],
        flow: TaskGraph,
    ) -> dict[TaskId, TaskRecord]:
        """Return the records of those *tasks* whose results would stand if *graph*, a part of *flow*, was resumed."""
        if self.archive is None:
            return {}
        prints = self._fingerprints(entries, blueprint)
        try:
            reuse = Reuse(self.archive.chosen(self._options.checkpoint.run))
            reuse.fingerprints = prints.take(task.id for task in graph)
            decision = self._decision(graph, reuse, entries, blueprint, lambda _: (), flow)
        except CheckpointError as error:
            raise pytest.UsageError(str(error)) from error
        return {task: decision.restored[task] for task in tasks if task in decision.restored}

    def _fingerprints(self, entries: dict[TaskId, Entry], blueprint: Blueprint) -> Fingerprints:
        if self._prints is None:
            self._prints = Fingerprints(self._config, entries, blueprint)
        return self._prints

    # ------------------------------------------------------------------ the run that is kept

    def begin(
        self, at: float, graph: TaskGraph, entries: dict[TaskId, Entry], blueprint: Blueprint, reuse: Reuse
    ) -> None:
        """Begin to keep the run of *graph*, a selection of *entries*."""
        keeper = self.keeper
        if keeper is None or self._prints is None:
            return
        files = {task.partition("::")[0] for task in entries}
        previous = self._previous(files, reuse, everything=len(graph) == len(entries))
        root = self._config.rootpath

        is_instance = instance_test(blueprint.mapped)

        def is_gone(task: TaskId) -> bool:
            if is_instance(task):
                # Of a mapped task whose elements are not known yet.
                return False
            file = task.partition("::")[0]
            return file in files or not (root / file).exists()

        fan_out = FanOut(entries, blueprint)
        needs = {task: tuple(needs.by_key.values()) for task, needs in blueprint.needs.items() if needs.by_key}

        header = RunHeader(
            "",
            reuse.fingerprints,
            graph_digest=digest_of_graph(reuse.fingerprints),
            argv=sys.argv[1:],
            resumes=reuse.run.id if reuse.run is not None else "",
            restored=reuse.restored,
            carried={
                **carry(previous, (task.id for task in graph), entries, is_gone),
                # What is handed in from outside is what these tasks are built on.
                **{key_of(task): record for task, record in reuse.outside.items()},
            },
            refused={task: record for task in reuse.refused if reuse.run and (record := reuse.run.known(task))},
            needs={**needs, **fan_out.built_of(entries)},
            parts=self._prints.parts(),
            seed=self._options.seed if any(task.retry.is_seeded for task in graph) else "",
        )
        try:
            keeper.begin(at, header)
        except CheckpointError as error:
            self._not_kept(error)
            # The archive stays: there may be results in it that this run reads.
            self._unkept, self.keeper = keeper, None
        # Code is much, and is asked about no more; of fingerprints only those that may still change are needed.
        self._prints.close()
        if blueprint.mapped:
            mapped = {task: reuse.fingerprints[task] for task in blueprint.mapped if task in graph}
            self._later = _Later(reuse, mapped, frozenset(header.results_from))
        reuse.fingerprints = {task: reuse.fingerprints[task] for task in blueprint.rules if task in graph}

    def _previous(self, files: set[str], reuse: Reuse, *, everything: bool) -> RunRecord | None:
        """The run whose results outside of this one are kept for later; None when there are none.

        ``everything`` tells that this run has all tasks of its *files*.
        """
        if reuse.run is not None or self.archive is None:
            return reuse.run
        try:
            if everything and self.archive.is_about(files):
                # Whatever it knows of is about to run again: it need not be read.
                return None
            return self.archive.chosen()
        except CheckpointError as error:
            self._tell(f"what earlier runs have left of other tasks is not used: {error}")
            return None

    def grow(
        self, graph: TaskGraph, mapped: Task, instances: Sequence[TaskId], blueprint: Blueprint, fan_out: FanOut
    ) -> tuple[Mapping[TaskId, TaskRecord], Mapping[TaskId, str]]:
        """Return the instances of *mapped* whose results stand, and those that may not run, with what is said of them.

        They are about to be added to the run.
        """
        later, prints, keeper = self._later, self._prints, self.keeper
        if later is None or prints is None or keeper is None:
            return {}, {}
        fingerprints = {one: prints.of_instance(one, later.fingerprints[mapped.id]) for one in instances}
        needs = fan_out.built_of([*instances, *graph.downstream(mapped.id)])
        decision = Decision({}, {})
        options = self._options.checkpoint
        if options.reuses and self.archive is not None:
            question = Question(
                TaskGraph.build(Task(one) for one in instances),
                later.reuse.run,
                fingerprints,
                fault=self.archive.store.fault,
                outputs=prints.outputs,
                forced=frozenset(instances if mapped.id in later.reuse.forced else ()),
                earlier=self._kept_by(later) if options.cache else None,
                uncached=frozenset(instances if _is_uncached(mapped.id, blueprint) else ()),
                built_of=needs,
                handed_on={need: keeper.token(need) for one in instances for need in needs.get(one, ())},
            )
            decision = decide(question)
        run = later.reuse.run
        once: Container[TaskId] = () if options.rerun_unsafe else blueprint.once
        refused = {one: _doubt(one, run) for one in decision.in_doubt if one in once}
        known = {one: record for one in refused if run is not None and (record := run.known(one)) is not None}
        keeper.expect(Growth(mapped.id, fingerprints, decision.restored, known, needs))
        if mapped.id in blueprint.rules:
            later.reuse.fingerprints.update(fingerprints)
        return decision.restored, refused

    def _kept_by(self, later: _Later) -> Callable[[TaskId], Iterable[TaskRecord]]:
        """Return what finds earlier successes, of those runs that stay because this one is built on them."""
        archive = self.archive

        def earlier(task: TaskId) -> Iterator[TaskRecord]:
            for record in archive.earlier(task) if archive is not None else ():
                if record.result is not None and record.result.run in later.runs:
                    yield record

        return earlier

    def starting(self, task: TaskId, before: Fingerprint, blueprint: Blueprint) -> None:
        """*task* starts now: what it declares to read may have been made in this very run."""
        rule = blueprint.rules.get(task)
        if self.keeper is not None and self._prints is not None and rule is not None and rule.inputs:
            now = self._prints.again(task, before)
            if now != before:
                self.keeper.fingerprints[task] = now
            else:
                # Of an attempt before.
                self.keeper.fingerprints.pop(task, None)

    def made(self, task: TaskId) -> None:
        """*task* has succeeded: take note of the files it declares to make."""
        if self.keeper is not None and self._prints is not None:
            outputs = self._prints.outputs(task)
            if outputs:
                self.keeper.outputs[task] = outputs

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        keeper = self.keeper
        if keeper is None:
            return
        keeper.save()
        if keeper.broken is not None:
            self._complain(keeper)
            session.exitstatus = _INTERNAL_ERROR
        elif keeper.run:
            keeper.prune()
            if not keeper.send() and self._config.option.ff_require_checkpoint:
                session.exitstatus = _INTERNAL_ERROR
        self.close()

    def _complain(self, keeper: Keeper) -> None:
        lost = ", ".join(keeper.unsaved[:_MOST_NAMES]) or "none so far"
        more = f" and {len(keeper.unsaved) - _MOST_NAMES:,} more" if len(keeper.unsaved) > _MOST_NAMES else ""
        self._tell(f"{keeper.broken}")
        self._tell(f"{plural(len(keeper.unsaved), 'result')} not saved: {lost}{more}")


@dataclass(frozen=True, slots=True)
class _Later:
    """What is needed to decide about instances while a run goes on.

    ``fingerprints`` are those of their mapped tasks; ``runs`` are those whose results this run is built on.
    """

    reuse: Reuse
    fingerprints: Mapping[TaskId, Fingerprint]
    runs: frozenset[str]


def _is_uncached(task: TaskId, blueprint: Blueprint) -> bool:
    return task in blueprint.rules and not blueprint.rules[task].enabled


def _missing(record: TaskRecord | None, archive: Archive) -> str:
    """What is missing of an upstream whose result is to be handed in again; empty for nothing."""
    if record is None:
        return "no record: choose another run with --ff-run"
    if record.state not in SUCCEEDED:
        return ""
    if record.result is None:
        return "no stored result: it could not be stored"
    fault = archive.store.fault(record.result)
    return f"no result that can be loaded ({fault})" if fault else ""


_INTERNAL_ERROR = 3
_MOST_NAMES = 10


def _doubt(task: TaskId, run: RunRecord | None) -> str:
    record = run.known(task) if run is not None else None
    state = record.state if record is not None else TaskState.RUNNING
    what = "was running when" if state is TaskState.RUNNING else f"{_CUT_OFF.get(state, state.value)} before"
    of = f"{what} run {record.made[0]} ended" if record is not None and record.made[0] else "was running"
    return (
        f"it {of}, it may have done its work, and it is marked idempotent(False): look whether it has, "
        "then add --ff-rerun-unsafe to run it again"
    )


#: How an attempt was cut off, in words.
_CUT_OFF = {TaskState.INTERRUPTED: "was interrupted", TaskState.TIMED_OUT: "timed out", TaskState.CRASHED: "crashed"}
