"""Which tasks run, each with one reason, and which earlier results stand.

It decides from what was recorded and from what tasks are made of now. It looks at no file: whether a stored result can
be read, and what declared files look like, is asked of somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_flowforge.core.branching import branch_of, declared, downstream_of
from pytest_flowforge.core.records import NOTHING, TaskRecord, built_on, key_of
from pytest_flowforge.core.states import SUCCEEDED, TaskState
from pytest_flowforge.core.triggers import Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.fingerprint import Fingerprint
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Branch, TaskId
    from pytest_flowforge.core.records import ResultRef

__all__ = ["FORCED", "IN_DOUBT", "NEVER_STARTED", "NEW_TASK", "Decision", "Question", "decide"]

NEW_TASK = "new task"
NEVER_STARTED = "never started"
FORCED = "forced"
_NOT_CACHED = "cache(False)"
IN_DOUBT = "was running when the run ended"
_SKIPPED = "was skipped"
_OTHER_INPUTS = "no earlier run had the same inputs"

#: Why a task that has not succeeded runs again, by its state.
_BY_STATE = {
    TaskState.PENDING: NEVER_STARTED,
    TaskState.RUNNING: IN_DOUBT,
    TaskState.FAILED: "failed last time",
    TaskState.TIMED_OUT: "timed out last time",
    TaskState.CRASHED: "crashed last time",
    TaskState.INTERRUPTED: "was interrupted",
    TaskState.BLOCKED: "was blocked",
}

#: The same for a task that waited for its next attempt, by what had become of the last one.
_BY_FAILURE = {
    "timed out": "timed out last time",
    "crashed": "crashed last time",
    "lost": "crashed last time",
    "interrupted": "was interrupted",
}

#: When what is handed on was made, where only that matters whether it is known: before everything, or after.
_BEFORE = ("", -1)
_AFTER = ("~", -1)

#: States in which a task may have done its work without anybody having been told.
_DOUBTFUL = frozenset({TaskState.RUNNING, TaskState.CRASHED, TaskState.INTERRUPTED, TaskState.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Decision:
    """What a run does with each task: every one is in ``restored`` or in ``reasons``, in topological order.

    ``restored`` has the record of the result that stands, ``reasons`` why a task runs, or why it is to be skipped.
    ``branches`` are the ways on that restored tasks have chosen. ``in_doubt`` are tasks that run
    and may have done their work before: those that were running when the run ended, or were cut off by an interrupt, a
    crash or their time limit. Whoever must not do it twice is to be asked first.
    """

    restored: Mapping[TaskId, TaskRecord]
    reasons: Mapping[TaskId, str]
    in_doubt: tuple[TaskId, ...] = ()
    branches: Mapping[TaskId, Branch] = field(default_factory=dict)


def _no_fault(_: ResultRef) -> str:
    return ""


def _no_outputs(_: TaskId) -> None:
    """Nothing is declared."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a decision is made from.

    ``run`` is the run to continue (None: there is none). ``fingerprints`` has every task of ``graph``, which may be a
    selection: ``flow`` has all tasks there are (None: the same). ``fault``
    returns what is wrong with a stored result as a reason (``"result damaged"``), or nothing; it is asked only where
    that alone decides. ``outputs`` returns the digests that the declared output files of a task have now, by path,
    empty for one that is missing; None for a task that declares none.

    ``instances`` has the instances of mapped tasks as far as they are known: the mapped task stands when all of them
    do. ``built_of`` names the upstreams whose results a task is built on, where that is not just what it needs.
    ``handed_on`` has the tokens of upstreams that are no part of ``graph``, empty for one that is not known.

    ``forced`` tasks run in any case. With ``earlier`` any success stands that was made of the same and built on the
    same, whichever run it comes from: it returns the successes of a task in older runs, the newest first. Tasks in
    ``uncached`` never stand then.
    """

    graph: TaskGraph
    run: RunRecord | None
    fingerprints: Mapping[TaskId, Fingerprint]
    fault: Callable[[ResultRef], str] = _no_fault
    outputs: Callable[[TaskId], Mapping[str, str] | None] = _no_outputs
    forced: frozenset[TaskId] = frozenset()
    earlier: Callable[[TaskId], Iterable[TaskRecord]] | None = None
    uncached: frozenset[TaskId] = frozenset()
    instances: Mapping[TaskId, Sequence[TaskId]] = field(default_factory=dict)
    built_of: Mapping[TaskId, Sequence[TaskId]] = field(default_factory=dict)
    handed_on: Mapping[TaskId, str] = field(default_factory=dict)
    flow: TaskGraph | None = None


def decide(question: Question) -> Decision:
    """Return what is to be done with the tasks of the graph."""
    deciding = _Deciding(question)
    for task in question.graph.order:
        deciding.take(task)
    return Decision(deciding.restored, deciding.reasons, tuple(deciding.in_doubt), deciding.branches)


@dataclass(slots=True)
class _Deciding:
    """A decision on its way down the graph."""

    question: Question
    restored: dict[TaskId, TaskRecord] = field(default_factory=dict)
    reasons: dict[TaskId, str] = field(default_factory=dict)
    in_doubt: list[TaskId] = field(default_factory=list)
    #: Skipped by their own rule, with nothing changed above them: they will be again, and start nothing downstream.
    quiet: set[TaskId] = field(default_factory=set)
    #: When what each task hands on was made, and what that is.
    made: dict[TaskId, tuple[str, int]] = field(default_factory=dict)
    tokens: dict[TaskId, str] = field(default_factory=dict)
    #: The ways on that restored tasks have chosen.
    branches: dict[TaskId, Branch] = field(default_factory=dict)
    standing: Mapping[TaskId, TaskRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.standing = {} if self.question.run is None else self.question.run.standing
        self.tokens.update(self.question.handed_on)
        self.made.update((task, _BEFORE if token else _AFTER) for task, token in self.question.handed_on.items())

    def take(self, task: TaskId) -> None:
        known = self.standing.get(key_of(task))
        if task in self.question.instances:
            self._gather(task, known)
            return
        if known is not None:
            self._hand_on(task, known)
        left_out = self._left_out(task, known)
        reason = left_out or (FORCED if task in self.question.forced else self._reason(task, known))
        if reason:
            self.reasons[task] = reason
            if not left_out and known is not None and known.state in _DOUBTFUL:
                self.in_doubt.append(task)

    def _gather(self, task: TaskId, known: TaskRecord | None) -> None:
        """Decide about a mapped task: it is what its instances are."""
        instances = self.question.instances[task]
        reason = FORCED if task in self.question.forced else self._upstream(task)
        if reason:
            self.reasons[task] = reason
            return
        if known is None or known.state not in SUCCEEDED:
            made = max((self.made[instance] for instance in instances), default=_BEFORE)
            known = TaskRecord(TaskState.SUCCESS, made=made, fingerprint=self.question.fingerprints[task])
        self._hand_on(task, known)
        if not instances:
            self.tokens[task] = NOTHING
        self.restored[task] = known

    def _hand_on(self, task: TaskId, record: TaskRecord) -> None:
        self.made[task] = record.made
        self.tokens[task] = record.token

    def _reason(self, task: TaskId, known: TaskRecord | None) -> str:
        """Why *task* runs; empty when it does not, and its result was taken."""
        if self.question.earlier is not None:
            return self._reason_not_to_search(task, known) or self._search(task, known)
        reason = self._own(task, known) or self._upstream(task)
        if reason or known is None:
            return reason
        return self._later(task, known) or self._skip(task, known) or self._take_if_it_stands(task, known)

    def _left_out(self, task: TaskId, known: TaskRecord | None) -> str:
        """Why *task* is skipped whatever is known of it: upstreams that stand chose others."""
        needs = self.question.graph[task].needs
        closed_by = next((need for need in needs if self._is_closed(need, task)), None)
        if closed_by is None or self._upstream(task) or not self._is_skipped_again(task):
            return ""
        if known is not None and known.state is TaskState.SKIPPED and not known.attempts:
            self.quiet.add(task)
        # Should it have a success from an earlier choice, that is not what those downstream will see.
        self.made[task] = max(self.made[need] for need in needs)
        self.tokens[task] = TaskState.SKIPPED.value
        return self.branches[closed_by].because

    def _is_closed(self, upstream: TaskId, task: TaskId) -> bool:
        branch = self.branches.get(upstream)
        return branch is not None and declared(self.question.graph, task) in branch.closed

    def _own(self, task: TaskId, known: TaskRecord | None) -> str:
        """Why *task* would run whatever becomes of others."""
        if known is None:
            return NEW_TASK if self.question.run is not None else NEVER_STARTED
        return _state(known) or self._change(task, known)

    def _reason_not_to_search(self, task: TaskId, known: TaskRecord | None) -> str:
        if task in self.question.uncached:
            return _NOT_CACHED
        upstream = self._upstream(task)
        return upstream and (self._own(task, known) or upstream)

    def _search(self, task: TaskId, known: TaskRecord | None) -> str:
        """Take the newest earlier success that was made of the same and built on the same; or say why *task* runs."""
        fault = ""
        on = self._built_on(task)
        for candidate in self._candidates(task, known):
            if self._change(task, candidate) or on != candidate.built_on:
                continue
            fault = self._take_if_it_stands(task, candidate)
            if not fault:
                return ""
        reason = fault or self._own(task, known)
        if reason or known is None:
            return reason
        return self._later(task, known) or self._skip(task, known) or _OTHER_INPUTS

    def _candidates(self, task: TaskId, known: TaskRecord | None) -> Iterator[TaskRecord]:
        if known is not None and known.state in SUCCEEDED:
            yield known
        if self.question.earlier is not None:
            yield from self.question.earlier(task)

    def _basis(self, task: TaskId) -> Sequence[TaskId]:
        known = self.question.built_of.get(task) if self.question.built_of else None
        return self.question.graph[task].needs if known is None else known

    def _label(self, task: TaskId) -> str:
        return self.question.graph[task].label if task in self.question.graph else task

    def _built_on(self, task: TaskId) -> str:
        needs = self._basis(task)
        return built_on((need, self.tokens.get(need, "")) for need in needs) if needs else ""

    def _take_if_it_stands(self, task: TaskId, record: TaskRecord) -> str:
        """Take an earlier success; or say what is missing of what it left behind."""
        if record.result is None:
            return "result missing"
        reason = self._lost_way(task, record) or self._outputs(task, record) or self.question.fault(record.result)
        if not reason:
            self._hand_on(task, record)
            self.restored[task] = record
            if record.chosen is not None:
                self.branches[task] = branch_of(self._flow, task, self._chosen(task, record).values())
        return reason

    @property
    def _flow(self) -> TaskGraph:
        return self.question.flow or self.question.graph

    def _chosen(self, task: TaskId, record: TaskRecord) -> dict[TaskId, TaskId]:
        """The downstreams that *task* chose, by what they are called in records, as far as they are there."""
        chosen = record.chosen or ()
        return {key: one for one in downstream_of(self._flow, task) if (key := key_of(one)) in chosen}

    def _lost_way(self, task: TaskId, record: TaskRecord) -> str:
        """Whether *task* chose a downstream that is none any more: what it would choose now, nobody knows."""
        known = self._chosen(task, record)
        lost = next((key for key in record.chosen or () if key not in known), None)
        return "" if lost is None else f"{lost.rpartition('::')[2]}, which it chose, is not downstream of it any more"

    def _outputs(self, task: TaskId, record: TaskRecord) -> str:
        now = self.question.outputs(task)
        if now is None:
            return ""
        before = dict(record.outputs)
        for path in sorted({**before, **now}):
            if not now.get(path):
                return f"output {path} missing"
            if now[path] != before.get(path):
                return f"output {path} {'changed' if path in before else 'was not recorded'}"
        return ""

    def _skip(self, task: TaskId, known: TaskRecord) -> str:
        if known.state is not TaskState.SKIPPED:
            return ""
        if not known.attempts and self._is_skipped_again(task):
            self.quiet.add(task)
            # Such a skip is repeated in every run and means nothing new.
            needs = self.question.graph[task].needs
            self.made[task] = max((self.made[need] for need in needs), default=("", -1))
        return _SKIPPED

    def _is_skipped_again(self, task: TaskId) -> bool:
        """Whether the rule of *task*, none of whose upstreams does anything new, skips it: it may be another rule."""
        rule = self.question.graph[task]
        ends = [
            TaskState.SKIPPED if need in self.quiet or self._is_closed(need, task) else TaskState.REUSED
            for need in rule.needs
        ]
        return verdict(rule.when, ends) is Verdict.SKIP

    def _upstream(self, task: TaskId) -> str:
        """Look for an upstream that runs."""
        graph = self.question.graph
        for need in graph[task].needs:
            if need in self.reasons and need not in self.quiet:
                return f"upstream {graph[need].label} runs again"
        return ""

    def _change(self, task: TaskId, known: TaskRecord) -> str:
        now = self.question.fingerprints[task]
        return "code changed" if known.fingerprint is None else known.fingerprint.change(now)

    def _later(self, task: TaskId, known: TaskRecord) -> str:
        """Look for an upstream that hands on something else than what *task* was built on.

        Digests tell, where both are known: --ff-cache may have brought an older result back, and a newer one with the
        same content is the same. Else a newer record does: all upstreams of a task that started had ended before.
        """
        needs = self._basis(task)
        on = self._built_on(task)
        if on and known.built_on:
            if on == known.built_on:
                return ""
            newest = max(needs, key=lambda need: self.made[need])
            return f"upstream {self._label(newest)} ran again"
        newer = next((need for need in needs if self.made[need] > known.made), None)
        return "" if newer is None else f"upstream {self._label(newer)} ran again"


def _state(known: TaskRecord) -> str:
    if known.state is TaskState.RETRYING:
        return _BY_FAILURE.get(known.failure, "failed last time")
    return _BY_STATE.get(known.state, "")
