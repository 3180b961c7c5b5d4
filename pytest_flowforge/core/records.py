"""What is written down about a run: each event as JSON-able dicts, so that a journal read later tells the whole run.

A run describes itself completely before its first task starts: the code it runs, and every earlier result it builds
on. Older journals are therefore never needed to understand it, and may be deleted. Nothing here reads or writes files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.core.fingerprint import Fingerprint
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure, Lost, Outcome, Skipped, TaskId
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.messages import Event

__all__ = [
    "FORMAT",
    "STATES",
    "Record",
    "Recorder",
    "ResultRef",
    "RunHeader",
    "TaskRecord",
    "redact",
    "to_result_ref",
    "to_task_record",
]

#: Major and minor version of what is written. A reader refuses a higher major and ignores what a minor adds.
FORMAT = (1, 0)

#: One record: a JSON-able dict with at least ``t`` (seconds since the epoch), ``ev`` and ``run``.
Record: TypeAlias = dict[str, Any]

#: The states by the words that are written.
STATES: Mapping[str, TaskState] = {state.value: state for state in TaskState}

#: Characters of a message that are kept: a record is one line of at most 1 MiB.
_LONGEST_TEXT = 2000

#: Characters of ids and entries in one record that lists tasks, about; far below the limit of a line, whatever JSON
#: makes of them (six characters for one at worst).
_CHUNK = 100_000


@dataclass(frozen=True, slots=True)
class ResultRef:
    """Where a stored result is, and what its bytes must be.

    ``segment`` names a file in the results of ``run``; ``offset`` and ``length`` are in bytes; ``sha256`` is the hex
    digest of the content; ``codec`` the name of what encoded it.
    """

    run: str
    segment: str
    offset: int
    length: int
    sha256: str
    codec: str

    def to_json(self) -> list[Any]:
        return [self.run, self.segment, self.offset, self.length, self.sha256, self.codec]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is known of a task.

    ``seconds`` is how long the last attempt that ended took; ``failure`` the kind of its failure in a word, else
    empty. ``made`` is where the record that ended it stands: its run and its sequence number there, which order all
    ends there ever were. A reused task keeps that of its result, and ``reused_from`` names the run.
    """

    state: TaskState = TaskState.PENDING
    attempts: int = 0
    because: str = ""
    seconds: float = 0.0
    result: ResultRef | None = None
    fingerprint: Fingerprint | None = None
    reused_from: str = ""
    failure: str = ""
    made: tuple[str, int] = ("", -1)

    def to_json(self) -> Record:
        fingerprint = self.fingerprint
        facts: Record = {
            "state": self.state.value,
            "try": self.attempts,
            "because": self.because,
            "dur": self.seconds,
            "result": self.result.to_json() if self.result else None,
            "print": from_fingerprint(fingerprint) if fingerprint else None,
            "from": self.reused_from,
            "failure": self.failure,
            "made": list(self.made),
        }
        return {name: fact for name, fact in facts.items() if fact}


def to_result_ref(entry: object) -> ResultRef | None:
    """Return the reference *entry* was made from; raise :class:`ValueError` or :class:`TypeError` when it is none."""
    if entry is None:
        return None
    if not isinstance(entry, list):
        msg = f"a reference to a result is a list, and not {entry!r:.80}"
        raise TypeError(msg)
    run, segment, offset, length, sha256, codec, *_ = entry
    # All at once: there is one for each task.
    if not (
        isinstance(run, str)
        and isinstance(segment, str)
        and isinstance(offset, int)
        and isinstance(length, int)
        and isinstance(sha256, str)
        and isinstance(codec, str)
        and offset >= 0
        and length >= 0
    ):
        msg = f"no reference to a result looks like {entry!r:.160}"
        raise ValueError(msg)
    return ResultRef(run, segment, offset, length, sha256, codec)


def to_task_record(entry: Mapping[str, Any], fingerprint: Fingerprint | None = None) -> TaskRecord:
    """Return the record *entry* was made from, or with another *fingerprint* than it has.

    Raises :class:`KeyError`, :class:`ValueError` or :class:`TypeError` when it is none.
    """
    print_ = entry.get("print")
    run, sequence, *_ = entry.get("made", ("", -1))
    return TaskRecord(
        STATES[entry.get("state", "pending")],
        _natural(entry.get("try", 0)),
        _checked(entry.get("because", ""), str),
        float(entry.get("dur", 0.0)),
        to_result_ref(entry.get("result")),
        fingerprint or (to_fingerprint(print_) if print_ else None),
        _checked(entry.get("from", ""), str),
        _checked(entry.get("failure", ""), str),
        (_checked(run, str), _checked(sequence, int)),
    )


def to_fingerprint(entry: Sequence[Any]) -> Fingerprint:
    """Return the fingerprint *entry* was made from; raise :class:`ValueError` or :class:`TypeError`."""
    code, parameters, *more = entry
    extra: Mapping[str, str] = more[0] if more else {}
    for text in (code, parameters, *extra.values()):
        if not isinstance(text, str):
            msg = f"{text!r:.80} is no digest"
            raise TypeError(msg)
    return Fingerprint(code, parameters, tuple(extra.items()))


def from_fingerprint(fingerprint: Fingerprint) -> list[Any]:
    """Return *fingerprint* as JSON; :func:`to_fingerprint` turns it back."""
    extra = [dict(fingerprint.extra)] if fingerprint.extra else []
    return [fingerprint.code, fingerprint.parameters, *extra]


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        msg = f"{value!r:.80} is no {kind.__name__}"
        raise TypeError(msg)
    return value


def _natural(value: Any) -> int:
    if _checked(value, int) < 0:
        msg = f"{value} is negative"
        raise ValueError(msg)
    return int(value)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What a run says about itself before its first task starts.

    ``fingerprints`` has every task of the graph, in the order of declaration. ``restored`` are the tasks of the graph
    whose results stand, with their records. ``carried`` are records of tasks outside of the graph (it may be a
    selection) that a later run may still build on. ``resumes`` is the run this one continues, else empty. ``argv`` is
    written redacted.
    """

    run: str
    fingerprints: Mapping[TaskId, Fingerprint]
    graph_digest: str = ""
    argv: Sequence[str] = ()
    resumes: str = ""
    restored: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    carried: Mapping[TaskId, TaskRecord] = field(default_factory=dict)


class Recorder:
    """Makes records of events.

    ``results`` is looked at when a task succeeds: whoever stores results puts the reference there before that is told.
    """

    def __init__(self, header: RunHeader, results: Mapping[TaskId, ResultRef]) -> None:
        self._header = header
        self._results = results
        #: When the attempts that run began.
        self._since: dict[TaskId, float] = {}

    def __call__(self, event: Event) -> Sequence[Record]:
        """Return the records of *event*, to be written in this order."""
        if isinstance(event, TaskMoved):
            return self._moved(event)
        if isinstance(event, RunBegan):
            return self._opening(event.at)
        return (self._end(event),)

    def _opening(self, at: float) -> Sequence[Record]:
        header = self._header
        inherited = [*_inherited(header.restored, restored=True), *_inherited(header.carried, restored=False)]
        uses = {record.result.run for _, record in inherited if record.result is not None}
        start: Record = {
            **self._head(at, "run_started"),
            "v": list(FORMAT),
            "argv": redact(header.argv),
            "graph": header.graph_digest,
            "resumes": header.resumes,
            "tasks": len(header.fingerprints),
            "inherits": len(inherited),
            # The first line alone says whose results this run needs: pruning reads no more than that.
            "uses": sorted(uses),
        }
        prints = ((task, from_fingerprint(print_)) for task, print_ in header.fingerprints.items())
        entries = ((task, record.to_json()) for task, record in inherited)
        return (
            start,
            *({**self._head(at, "run_tasks"), "tasks": chunk} for chunk in _chunks(prints)),
            *({**self._head(at, "run_inherits"), "tasks": chunk} for chunk in _chunks(entries)),
        )

    def _moved(self, event: TaskMoved) -> Sequence[Record]:
        if event.after is TaskState.RUNNING:
            self._since[event.task] = event.at
            head = self._head(event.at, "task_started")
            return ({**head, "task": event.task, "try": event.attempt},)
        if event.after is TaskState.REUSED and event.task in self._header.restored:
            # Said when the run began.
            return ()
        return (self._ended(event),)

    def _ended(self, event: TaskMoved) -> Record:
        retried = event.after is TaskState.RETRYING
        record = self._head(event.at, "task_retrying" if retried else "task_finished")
        record["task"] = event.task
        record["try"] = event.attempt
        record["state"] = event.after.value
        if event.task in self._since:
            record["dur"] = round(event.at - self._since.pop(event.task), 6)
        outcome = _outcome(event.outcome)
        if outcome is not None:
            record["outcome"] = outcome
        if event.because and (outcome is None or outcome["message"] != _short(event.because)):
            record["because"] = _short(event.because)
        if event.cause is not None:
            record["cause"] = event.cause
        if event.resume_at is not None:
            # A strategy may say "never": JSON has no word for infinity.
            record["resume_at"] = min(event.resume_at, 1e15)
        if event.after is TaskState.SUCCESS:
            stored = self._results.get(event.task)
            record["result"] = stored.to_json() if stored is not None else None
        return record

    def _end(self, event: RunEnded) -> Record:
        record = self._head(event.at, "run_stopped" if event.stopped else "run_finished")
        if event.stopped:
            record["because"] = _short(event.stopped)
        return record

    def _head(self, at: float, event: str) -> Record:
        return {"t": at, "ev": event, "run": self._header.run}


def _inherited(records: Mapping[TaskId, TaskRecord], *, restored: bool) -> Iterator[tuple[TaskId, TaskRecord]]:
    for task, record in records.items():
        yield task, _reused(record) if restored else record


def _reused(record: TaskRecord) -> TaskRecord:
    return TaskRecord(
        state=TaskState.REUSED,
        because=f"reused from run {record.made[0]}",
        seconds=record.seconds,
        result=record.result,
        fingerprint=record.fingerprint,
        reused_from=record.made[0],
        made=record.made,
    )


def _chunks(entries: Iterable[tuple[TaskId, Any]]) -> Iterator[dict[TaskId, Any]]:
    chunk: dict[TaskId, Any] = {}
    size = 0
    for task, entry in entries:
        chunk[task] = entry
        size += len(task) + len(str(entry))
        if size >= _CHUNK:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk


def _outcome(outcome: Outcome | None) -> dict[str, Any] | None:
    if isinstance(outcome, Failure):
        facts: dict[str, Any] = {"kind": outcome.kind.value, "message": _short(outcome.message)}
        return {**facts, "expected": True} if outcome.expected else facts
    if isinstance(outcome, Skipped):
        return {"kind": "skipped", "message": _short(outcome.reason)}
    if isinstance(outcome, Lost):
        return {"kind": "lost", "message": _short(outcome.reason)}
    return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


# Command lines may hold secrets, and a journal is kept.

_SECRET = re.compile(
    r"(?:^|[-_.])(?:token|secret|passw(?:or)?d|passphrase|pwd|key|apikey|credentials?|auth)(?:$|[-_.])", re.IGNORECASE
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redact(argv: Iterable[str]) -> list[str]:
    """Return *argv* with ``***`` in place of secrets.

    Those are the values of options and variables whose name says so (``--db-password=x``, ``--token x``,
    ``API_KEY=x``), and user and password in a URL.
    """
    shown = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        secret = bool(_SECRET.search(name)) and "/" not in name
        if hide_next and not argument.startswith("-"):
            shown.append("***")
        elif equals and secret:
            shown.append(f"{name}=***")
        else:
            shown.append(_USERINFO.sub("***", argument))
        hide_next = secret and not equals and argument.startswith("-")
    return shown
