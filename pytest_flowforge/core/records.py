"""What is written down about a run: each event as JSON-able dicts, so that a journal read later tells the whole run.

A run describes itself completely before its first task starts: the code it runs, and every earlier result it builds
on. Older journals are therefore never needed to understand it, and may be deleted. Nothing here reads or writes files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.core.fingerprint import Fingerprint, digest_of
from pytest_flowforge.core.messages import InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Branch, Failure, Lost, Outcome, Skipped, Success, TaskId
from pytest_flowforge.core.states import SUCCEEDED, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.messages import Event

__all__ = [
    "FORMAT",
    "NOTHING",
    "STATES",
    "Growth",
    "Record",
    "Recorder",
    "ResultRef",
    "RunHeader",
    "TaskRecord",
    "built_on",
    "from_fingerprint",
    "key_of",
    "redact",
    "to_chosen",
    "to_fingerprint",
    "to_pairs",
    "to_result_ref",
    "to_task_record",
]

#: Major and minor version of what is written. A reader refuses a higher major and ignores what a minor adds.
FORMAT = (1, 1)

#: One record: a JSON-able dict with at least ``t`` (seconds since the epoch), ``ev`` and ``run``.
Record: TypeAlias = dict[str, Any]

_quote = json.encoder.encode_basestring_ascii
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode

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

    def to_text(self) -> str:
        """The same as JSON: nothing in it needs quoting but what plugins call their codecs."""
        where = f'["{self.run}","{self.segment}",{self.offset},{self.length}'
        return f'{where},"{self.sha256}",{_quote(self.codec)}]'


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is known of a task.

    ``seconds`` is how long the last attempt that ended took; ``failure`` the kind of its failure in a word, else
    empty. ``made`` is where the record that ended it stands: its run and its sequence number there, which order all
    ends there ever were. A reused task keeps that of its result, and ``reused_from`` names the run. ``built_on`` is the
    digest of the results of its upstreams (see :func:`built_on`), empty when it has none or that is not known;
    ``outputs`` has (path, digest) of the files it declared to make. ``expected`` is for a failure that was. ``chosen``
    are the downstreams that it chose to go on with, as they are called in records; None: it did not choose. ``earlier``
    has the reason and the seconds of each attempt before the last one, as far as its own run knows; it is not handed on
    to later runs.
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
    built_on: str = ""
    outputs: tuple[tuple[str, str], ...] = ()
    expected: bool = False
    chosen: tuple[TaskId, ...] | None = None
    earlier: tuple[tuple[str, float], ...] = ()

    @property
    def token(self) -> str:
        """What tasks downstream have seen of it: the digest of its result, or else its state; empty if unknown."""
        return _token(self.state, self.result)

    @property
    def origin(self) -> str:
        """What is said of a task that reuses its result."""
        return f"reused from run {self.made[0]}"

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
            "on": self.built_on,
            "outputs": dict(self.outputs),
            "expected": self.expected,
        }
        facts = {name: fact for name, fact in facts.items() if fact}
        # To choose none is not the same as not to choose.
        return facts if self.chosen is None else {**facts, "only": list(self.chosen)}


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
        _checked(entry.get("on", ""), str),
        to_pairs(entry.get("outputs")),
        bool(entry.get("expected", False)),
        to_chosen(entry),
    )


def to_chosen(entry: Mapping[str, Any]) -> tuple[TaskId, ...] | None:
    """Return the downstreams that *entry* says were chosen, None for no choice; raise :class:`TypeError`."""
    if "only" not in entry:
        return None
    return tuple(TaskId(_checked(task, str)) for task in _checked(entry["only"], list))


def to_fingerprint(entry: Sequence[Any]) -> Fingerprint:
    """Return the fingerprint *entry* was made from; raise :class:`ValueError` or :class:`TypeError`."""
    code, parameters, *more = entry
    for text in (code, parameters):
        if not isinstance(text, str):
            msg = f"{text!r:.80} is no digest"
            raise TypeError(msg)
    if not more:
        return Fingerprint(code, parameters)
    return Fingerprint(code, parameters, to_pairs(more[0]), to_pairs(more[1]) if more[1:] else ())


def to_pairs(entry: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of texts that *entry* was made from; raise :class:`TypeError` when it is none."""
    return tuple((what, _checked(digest, str)) for what, digest in entry.items()) if entry else ()


def from_fingerprint(fingerprint: Fingerprint) -> list[Any]:
    """Return *fingerprint* as JSON; :func:`to_fingerprint` turns it back."""
    if not (fingerprint.extra or fingerprint.shown):
        return [fingerprint.code, fingerprint.parameters]
    shown = [dict(fingerprint.shown)] if fingerprint.shown else []
    return [fingerprint.code, fingerprint.parameters, dict(fingerprint.extra), *shown]


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


#: How many files a run names in its first record; it is read often.
_MOST_FILES = 200

#: Characters of an id in records; a longer one is cut there, and its digest stands for the rest.
_LONGEST_ID = 1000


def key_of(task: TaskId) -> TaskId:
    """Return what *task* is called in records: its id, unless that is very long."""
    return task if len(task) <= _LONGEST_ID else TaskId(f"{task[:_LONGEST_ID]}…{digest_of(task)}")


def _token(state: TaskState, result: ResultRef | None) -> str:
    if state in SUCCEEDED:
        return result.sha256 if result is not None else ""
    return state.value


def built_on(tokens: Iterable[tuple[TaskId, str]]) -> str:
    """Return the digest of what upstreams have handed on, given as pairs of a task and its token.

    It is empty, and so equal to none, when one of them is not known.
    """
    texts = []
    for task, token in tokens:
        if not token:
            return ""
        texts += [task, token]
    return digest_of(*texts)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What a run says about itself before its first task starts.

    ``fingerprints`` has every task of the graph, in the order of declaration. ``restored`` are the tasks of the graph
    whose results stand, with their records. ``carried`` are records of tasks outside of the graph (it may be a
    selection) that a later run may still build on. ``resumes`` is the run this one continues, else empty. ``argv`` is
    written redacted. ``refused`` are tasks of the graph that may not run, with what is known of them: they stay what
    they were. ``needs`` are the direct upstreams of tasks that have any, whether or not they are in the graph.
    ``parts`` are the digests of the pieces of code that tasks are made of, by name. ``rolls_back`` is the run whose
    results were made the current ones, for a run that did nothing else. ``seed`` is what the jitter of its retries
    depends on, empty where there is none.
    """

    run: str
    fingerprints: Mapping[TaskId, Fingerprint]
    graph_digest: str = ""
    argv: Sequence[str] = ()
    resumes: str = ""
    restored: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    carried: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    refused: Mapping[TaskId, TaskRecord] = field(default_factory=dict)
    needs: Mapping[TaskId, Sequence[TaskId]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    rolls_back: str = ""
    seed: str = ""

    @property
    def results_from(self) -> set[str]:
        """The runs whose results this one is built on."""
        inherited = (*self.restored.values(), *self.refused.values(), *self.carried.values())
        return {record.result.run for record in inherited if record.result is not None}


@dataclass(frozen=True, slots=True)
class Growth:
    """What is said of the instances of the mapped task ``task`` when they are added to a run.

    ``fingerprints``, ``restored`` and ``refused`` are as in :class:`RunHeader`. ``needs`` tells of the instances what
    their results are built on, and of those that need the mapped task that they need the instances.
    """

    task: TaskId
    fingerprints: Mapping[TaskId, Fingerprint]
    restored: Mapping[TaskId, TaskRecord]
    refused: Mapping[TaskId, TaskRecord]
    needs: Mapping[TaskId, Sequence[TaskId]]


#: What a mapped task without instances hands on, as a token.
NOTHING = "nothing"


class Recorder:
    """Makes records of events.

    ``results`` is looked at when a task succeeds: whoever stores results puts the reference there before that is told.
    So is ``outputs``, for digests of the files that a task has made, and ``fingerprints``, for tasks that were made of
    something else when they started than the header says.
    """

    def __init__(
        self,
        header: RunHeader,
        results: Mapping[TaskId, ResultRef],
        outputs: Mapping[TaskId, Mapping[str, str]] = MappingProxyType({}),
        fingerprints: Mapping[TaskId, Fingerprint] = MappingProxyType({}),
    ) -> None:
        self._run = header.run
        #: Given up once it is written: it may be large.
        self._header: RunHeader | None = header
        self._needs = dict(header.needs)
        self._results = results
        self._outputs = outputs
        self._fingerprints = fingerprints
        #: Tasks of which everything is said when the run begins, or when they are added to it.
        self._said = {*header.restored, *header.refused}
        #: What is to be said of instances that are about to be added, by mapped task.
        self._growth: dict[TaskId, Growth] = {}
        #: Mapped tasks without instances.
        self._empty: set[TaskId] = set()
        #: What tasks have handed on, for those that others need.
        self._tokens = {task: record.token for task, record in (*header.carried.items(), *header.restored.items())}
        #: When the attempts that run began.
        self._since: dict[TaskId, float] = {}
        #: The beginning of every record behind its time and kind, and what ids are in JSON, for tasks that run.
        self._of_run = f'","run":{_quote(header.run)}'
        self._quoted: dict[TaskId, str] = {}

    def expect(self, growth: Growth) -> None:
        """Take note of instances that are about to be added to the run."""
        self._growth[growth.task] = growth
        self._needs.update(growth.needs)
        self._said.update((*growth.restored, *growth.refused))
        self._tokens.update((task, record.token) for task, record in growth.restored.items())
        if not growth.fingerprints:
            self._empty.add(growth.task)

    def token(self, task: TaskId) -> str:
        """Return what tasks downstream of *task*, which has ended, have seen of it; empty if that is not known."""
        return self._tokens.get(task, "")

    def texts(self, event: Event) -> Sequence[str]:
        """Return the records of *event* as JSON without the braces.

        It is what the records themselves say, in a fraction of the time for those that every task makes.
        """
        if isinstance(event, TaskMoved):
            if event.after is TaskState.RUNNING:
                self._since[event.task] = event.at
                quoted = self._quoted[event.task] = _quote(key_of(event.task))
                return (f'"t":{event.at!r},"ev":"task_started{self._of_run},"task":{quoted},"try":{event.attempt}',)
            quoted = self._quoted.pop(event.task, "")
            if event.after is TaskState.SUCCESS and quoted and self._is_plain(event):
                return (self._plain_success(event, quoted),)
        return [_encode(record)[1:-1] for record in self(event)]

    def _is_plain(self, event: TaskMoved) -> bool:
        """Whether nothing is to be said of a success but its result."""
        if event.because or _branch(event.outcome) is not None:
            return False
        task = event.task
        return not (task in self._needs or task in self._outputs or task in self._fingerprints)

    def _plain_success(self, event: TaskMoved, quoted: str) -> str:
        task = event.task
        stored = self._results.get(task)
        if self._needs:
            self._tokens[task] = _token(event.after, stored)
        seconds = round(event.at - self._since.pop(task), 6)
        head = f'"t":{event.at!r},"ev":"task_finished{self._of_run},"task":{quoted},"try":{event.attempt}'
        result = "null" if stored is None else stored.to_text()
        return f'{head},"state":"success","dur":{seconds!r},"result":{result}'

    def __call__(self, event: Event) -> Sequence[Record]:
        """Return the records of *event*, to be written in this order."""
        if isinstance(event, TaskMoved):
            return self._moved(event)
        if isinstance(event, RunBegan):
            return self._opening(event.at)
        if isinstance(event, InstancesAdded):
            return self._added(event)
        return (self._end(event),)

    def _opening(self, at: float) -> Sequence[Record]:
        header, self._header = self._header, None
        if header is None:
            return ()
        known = {**header.refused, **header.carried}
        inherited = [*_inherited(header.restored, restored=True), *_inherited(known, restored=False)]
        files = sorted({key_of(task).partition("::")[0] for task in (*header.fingerprints, *header.carried)})
        start: Record = {
            **self._head(at, "run_started"),
            "v": list(FORMAT),
            "argv": redact(header.argv),
            "graph": header.graph_digest,
            "resumes": header.resumes,
            "tasks": len(header.fingerprints),
            "inherits": len(inherited),
            # The first line alone says whose results this run needs: pruning reads no more than that.
            "uses": sorted(header.results_from),
            **({"files": files} if len(files) <= _MOST_FILES else {}),
            **({"back": header.rolls_back} if header.rolls_back else {}),
            **({"seed": header.seed} if header.seed else {}),
        }
        prints = ((key_of(task), from_fingerprint(print_)) for task, print_ in header.fingerprints.items())
        entries = ((key_of(task), record.to_json()) for task, record in inherited)
        return (
            start,
            *({**self._head(at, "run_tasks"), "tasks": chunk} for chunk in _chunks(prints)),
            *({**self._head(at, "run_inherits"), "tasks": chunk} for chunk in _chunks(entries)),
            *({**self._head(at, "run_code"), "parts": chunk} for chunk in _chunks(header.parts.items())),
        )

    def _added(self, event: InstancesAdded) -> Sequence[Record]:
        growth = self._growth.pop(event.task, None)
        if growth is None:
            return ()
        head = {**self._head(event.at, "task_mapped"), "task": key_of(event.task)}
        inherited = [*_inherited(growth.restored, restored=True), *_inherited(growth.refused, restored=False)]
        prints = ((key_of(task), from_fingerprint(print_)) for task, print_ in growth.fingerprints.items())
        entries = ((key_of(task), record.to_json()) for task, record in inherited)
        return (
            *({**head, "tasks": chunk} for chunk in _chunks(prints)),
            *({**head, "inherits": chunk} for chunk in _chunks(entries)),
        )

    def _moved(self, event: TaskMoved) -> Sequence[Record]:
        if event.after is TaskState.RUNNING:
            self._since[event.task] = event.at
            head = self._head(event.at, "task_started")
            return ({**head, "task": key_of(event.task), "try": event.attempt},)
        if event.attempt == 0 and event.task in self._said:
            return ()
        return (self._ended(event),)

    def _ended(self, event: TaskMoved) -> Record:
        retried = event.after is TaskState.RETRYING
        record = self._head(event.at, "task_retrying" if retried else "task_finished")
        record["task"] = key_of(event.task)
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
            record["cause"] = key_of(event.cause)
        if event.resume_at is not None:
            # A strategy may say "never": JSON has no word for infinity.
            record["resume_at"] = min(event.resume_at, 1e15)
        stored = None
        if event.after is TaskState.SUCCESS:
            stored = self._results.get(event.task)
            record["result"] = stored.to_json() if stored is not None else None
            branch = _branch(event.outcome)
            if branch is not None:
                record["only"] = [key_of(task) for task in branch.chosen]
            self._add_what_it_was_made_of(record, event.task)
        if self._needs and not retried:
            self._tokens[event.task] = NOTHING if event.task in self._empty else _token(event.after, stored)
        return record

    def _add_what_it_was_made_of(self, record: Record, task: TaskId) -> None:
        needs = self._needs.get(task)
        if needs:
            record["on"] = built_on((need, self._tokens.get(need, "")) for need in needs)
        if task in self._outputs:
            record["outputs"] = dict(self._outputs[task])
        if task in self._fingerprints:
            record["print"] = from_fingerprint(self._fingerprints[task])

    def _end(self, event: RunEnded) -> Record:
        record = self._head(event.at, "run_stopped" if event.stopped else "run_finished")
        if event.stopped:
            record["because"] = _short(event.stopped)
        return record

    def _head(self, at: float, event: str) -> Record:
        return {"t": at, "ev": event, "run": self._run}


def _inherited(records: Mapping[TaskId, TaskRecord], *, restored: bool) -> Iterator[tuple[TaskId, TaskRecord]]:
    for task, record in records.items():
        yield task, _reused(record) if restored else record


def _reused(record: TaskRecord) -> TaskRecord:
    return TaskRecord(
        state=TaskState.REUSED,
        because=record.origin,
        seconds=record.seconds,
        result=record.result,
        fingerprint=record.fingerprint,
        reused_from=record.made[0],
        made=record.made,
        built_on=record.built_on,
        outputs=record.outputs,
        chosen=record.chosen,
    )


def _chunks(entries: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    chunk: dict[str, Any] = {}
    size = 0
    for name, entry in entries:
        chunk[name] = entry
        size += len(name) + len(str(entry))
        if size >= _CHUNK:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk


def _branch(outcome: Outcome | None) -> Branch | None:
    return outcome.branch if isinstance(outcome, Success) else None


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
        # "-otoken=x" is "-o token=x", and so is "--override-ini=token=x".
        option = next((begin for begin in ("--override-ini=", "-o") if argument.startswith(begin)), "")
        name, equals, _ = argument.removeprefix(option).partition("=")
        secret = bool(_SECRET.search(name)) and "/" not in name
        if hide_next and not argument.startswith("-"):
            shown.append("***")
        elif equals and secret:
            shown.append(f"{option}{name}=***")
        else:
            shown.append(_USERINFO.sub("***", argument))
        hide_next = secret and not equals and argument.startswith("-")
    return shown
