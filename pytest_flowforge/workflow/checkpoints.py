"""What a workflow in code remembers of its runs: on disk, or as long as the workflow itself is there.

Both decide about a resume in the same way, from the same records. On disk it is what ``pytest --flowforge`` keeps: a
journal and a store of results, which its commands read.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flowforge.codeprint import CodePrinter
from pytest_flowforge.codeprint.values import code_object_digest, parameter_digest
from pytest_flowforge.core.checkpoint import carry, fold
from pytest_flowforge.core.fingerprint import Fingerprint, digest_of
from pytest_flowforge.core.records import Recorder, ResultRef, RunHeader
from pytest_flowforge.core.resume import Decision, Question, decide
from pytest_flowforge.errors import CheckpointError, CheckpointUnwritable
from pytest_flowforge.keeping import Archive, Keeper, Settings
from pytest_flowforge.run_log import LOGGER
from pytest_flowforge.storage.addresses import Address, is_address
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import Record, TaskRecord
    from pytest_flowforge.workflow.graphs import Plan
    from pytest_flowforge.workflow.tasks import Task

__all__ = ["Checkpoint", "InMemory", "Keeping", "OnDisk", "Resumed"]


class Checkpoint:
    """The runs that are kept in *folder*, to be read; ``checkpoint=`` takes one, or just the folder.

    That may be a URL, as ``s3://bucket/prefix``: what is there is also in a folder of this machine, *local*, or one in
    the cache of the user. Raises :class:`CheckpointError` for a URL that can not be used. Reading needs no lock, and
    may go on beside a run.
    """

    def __init__(self, folder: str | Path, *, local: str | Path | None = None) -> None:
        if isinstance(folder, str) and is_address(folder):
            address = Address.of(folder)
            path = address.folder() if local is None else Path(local)
            self.settings = Settings(path.expanduser().absolute(), address=address)
        elif local is not None:
            msg = f"Checkpoint({quoted(folder)}, local=...): a folder of this machine needs no other one"
            raise CheckpointError(msg)
        else:
            self.settings = Settings(Path(folder).expanduser().absolute())

    def __repr__(self) -> str:
        return f"Checkpoint({self.settings.shown!r})"

    def history(self) -> list[RunRecord]:
        """Return what is kept of each run, the oldest first; raises :class:`CheckpointError` for a damaged one."""
        try:
            archive = Archive.open(self.settings, _say_at_once)
        except FileNotFoundError:
            return []
        try:
            with _in_words_of_code():
                return [archive.run(run) for run in archive.ids()]
        finally:
            archive.close()

    def result(self, task: str, run: str = "") -> Any:
        """Return the result that *task* had in *run* (the last one by default).

        Raises :class:`CheckpointError` where there is no such run or no such task in it, and
        :class:`~pytest_flowforge.errors.ResultError` where the result can not be loaded.
        """
        try:
            archive = Archive.open(self.settings, _say_at_once)
        except FileNotFoundError:
            msg = f"nothing is kept in {self.settings.shown}"
            raise CheckpointError(msg) from None
        try:
            with _in_words_of_code():
                found = archive.last(run)
            record = None if found is None else found.known(task)  # type: ignore[arg-type]
            if found is None or record is None:
                msg = f"{'run ' + found.id if found else 'no run'} in {self.settings.shown} knows a task {quoted(task)}"
                raise CheckpointError(msg)
            return archive.load(record)
        finally:
            archive.close()


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a run makes of the one before: ``decision``, and the run it is built on (None: there is none)."""

    decision: Decision
    run: RunRecord | None = None

    @property
    def reasons(self) -> dict[TaskId, str]:
        """For the tasks whose results stand, where these come from."""
        return {task: record.origin for task, record in self.decision.restored.items()}


NOTHING = Resumed(Decision({}, {}))


class Keeping(Protocol):
    """What remembers a run; a sink for its events. Closed however the run ends."""

    @property
    def run(self) -> str:
        """The id of the run; empty where it has none."""

    @property
    def broken(self) -> Exception | None:
        """Why nothing can be kept any more."""

    def resume(self, plan: Plan, graph: TaskGraph) -> Resumed:
        """Return which tasks of *graph*, a part of that of *plan*, stand."""

    def begin(self, at: float, plan: Plan, graph: TaskGraph, resumed: Resumed, seed: str) -> None:
        """The run of *graph* begins."""

    def __call__(self, event: Event) -> None: ...

    def put(self, task: TaskId, value: Any) -> int | None:
        """Keep the result of *task*, whose success nobody has been told of; return its size in bytes, if known."""

    def load(self, task: TaskId, record: TaskRecord) -> Any:
        """Return the result that *task* had in an earlier run; raises :class:`ResultError`."""

    def durations(self) -> Mapping[TaskId, float]:
        """Return how many seconds tasks took when they last succeeded, as far as that is known."""

    def close(self, seconds: Mapping[TaskId, float]) -> None:
        """The run has ended, and its successful tasks took so many *seconds*."""


_NO_ARGUMENTS = parameter_digest({})


class _Prints:
    """What tasks are made of: their functions and resources with all they reach, and their arguments."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Folders, not the working directory: where a script is started from is not what it is.
        files = dict.fromkeys(getattr(_code_of(task.func), "co_filename", "") for task in plan.tasks.values())
        folders = dict.fromkeys(Path(file).absolute().parent for file in files if file and Path(file).is_file())
        self._printer = CodePrinter(list(folders) or [Path.cwd()])
        #: By the identity of functions, which live as long as the plan.
        self._codes: dict[tuple[int, ...], str] = {}

    def take(self, graph: TaskGraph) -> dict[TaskId, Fingerprint]:
        """Return the fingerprints of the tasks of *graph*."""
        return {task.id: self._of(task.id) for task in graph}

    def parts(self) -> dict[str, str]:
        """Return the digests of all pieces of code that the tasks are made of, by name."""
        return self._printer.parts()

    def close(self) -> None:
        self._printer.close()

    def _of(self, task: TaskId) -> Fingerprint:
        declared, arriving = self._plan.tasks[task], self._plan.arriving[task]
        code = self._code(declared)
        if not (arriving.values or self._plan.graph[task].needs):
            return Fingerprint(code, _NO_ARGUMENTS)
        needs = [f"{name}={upstream}" for name, upstream in sorted(arriving.results.items())]
        needs += self._plan.graph[task].needs
        extra = (("upstreams", digest_of(*needs)),) if needs else ()
        shown = tuple((name, quoted(value)[:60]) for name, value in arriving.values.items())
        return Fingerprint(code, parameter_digest(arriving.values, self._described), extra, shown)

    def _code(self, task: Task) -> str:
        """Return the digest of the code of *task*; looked at once for all tasks with one function."""
        functions = (task.func, *task.resources.values())
        known = self._codes.get(tuple(map(id, functions)))
        if known is None:
            own = [_bytecode(function) for function in functions]
            known = digest_of(self._printer.digest(task.func, functions[1:]).value, *own)
            self._codes[tuple(map(id, functions))] = known
        return known

    def _described(self, value: object) -> str | None:
        return self._printer.digest(value).value if callable(value) and _code_of(value) is not None else None


def _code_of(func: Any) -> Any:
    return getattr(getattr(func, "__func__", func), "__code__", None)


def _bytecode(func: Any) -> str:
    """Return a digest of the code of a function that was made by another, empty for any other.

    For the printer it is what made it, and that may have made several.
    """
    while isinstance(func, partial):
        func = func.func
    code = _code_of(func)
    made = code is not None and "<" in getattr(func, "__qualname__", "")
    return code_object_digest(code, func.__doc__) if made else ""


def _question(
    plan: Plan, graph: TaskGraph, run: RunRecord | None, prints: Mapping[TaskId, Fingerprint]
) -> tuple[Question, Callable[[TaskId], Sequence[TaskId]]]:
    def reads(task: TaskId) -> Sequence[TaskId]:
        return tuple(plan.arriving[task].read)

    return Question(graph, run, prints, flow=plan.graph), reads


def _header(
    run: str,
    plan: Plan,
    graph: TaskGraph,
    resumed: Resumed,
    prints: Mapping[TaskId, Fingerprint],
    parts: Mapping[str, str],
    seed: str,
    previous: RunRecord | None,
) -> RunHeader:
    needs = {task.id: task.needs for task in plan.graph if task.needs}
    restored = resumed.decision.restored
    return RunHeader(
        run,
        prints,
        graph_digest=digest_of(*[text for task, mark in sorted(prints.items()) for text in (task, mark.code)]),
        argv=sys.argv,
        resumes=resumed.run.id if resumed.run is not None else "",
        restored=restored,
        carried=carry(previous, (task.id for task in graph), plan.tasks),
        needs=needs,
        parts=parts,
        seed=seed if any(task.retry.is_seeded for task in graph) else "",
    )


#: What stands in sentences about checkpoints for options of the command line, where there is none.
_WORDS_OF_CODE = {
    " with --ff-wait": "",
    "--ff-checkpoint": "checkpoint=",
    "--ff-resume": "resume=True",
    "--ff-run": "resume='ID'",
    "--ff-history": "Checkpoint.history()",
    " (ini flowforge_send_farewell)": "",
}


def _in_code(sentence: str) -> str:
    for option, words in _WORDS_OF_CODE.items():
        sentence = sentence.replace(option, words)
    return sentence


@contextmanager
def _in_words_of_code() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        error.args = (_in_code(str(error)),)
        raise


def _say_at_once(words: str) -> None:
    """Log what is waited for: before or after the run."""
    LOGGER.warning("%s", words, extra={"run": "", "task": "", "attempt": 0})


class OnDisk(Keeping):
    """Keeps runs in the folder of a :class:`Checkpoint`, which it locks; raises :class:`CheckpointError`."""

    def __init__(self, checkpoint: Checkpoint, tell: Callable[[str], None], run: str = "") -> None:
        with _in_words_of_code():
            self._keeper = Keeper(checkpoint.settings, lambda sentence: tell(_in_code(sentence)), on_slow=_say_at_once)
        self._chosen = run
        self._fingerprints: dict[TaskId, Fingerprint] = {}
        self._prints: _Prints | None = None

    @property
    def run(self) -> str:
        return self._keeper.run

    @property
    def broken(self) -> Exception | None:
        broken = self._keeper.broken
        return None if broken is None else CheckpointUnwritable(_in_code(str(broken)))

    def resume(self, plan: Plan, graph: TaskGraph) -> Resumed:
        with _in_words_of_code():
            run = self._keeper.archive.chosen(self._chosen)
            question, reads = _question(plan, graph, run, self._taken(plan, graph))
            return Resumed(self._keeper.archive.restore(question, reads), run)

    def begin(self, at: float, plan: Plan, graph: TaskGraph, resumed: Resumed, seed: str) -> None:
        taken = self._taken(plan, graph)
        previous = resumed.run
        if previous is None and len(graph) < len(plan.graph):
            # Results of tasks that this run leaves out stay for later.
            previous = self._keeper.archive.chosen()
        parts = {} if self._prints is None else self._prints.parts()
        with _in_words_of_code():
            self._keeper.begin(at, _header("", plan, graph, resumed, taken, parts, seed, previous))
        if self._prints is not None:
            self._prints.close()

    def _taken(self, plan: Plan, graph: TaskGraph) -> dict[TaskId, Fingerprint]:
        if self._prints is None:
            self._prints = _Prints(plan)
            self._fingerprints = self._prints.take(graph)
        return self._fingerprints

    def __call__(self, event: Event) -> None:
        self._keeper(event)

    def put(self, task: TaskId, value: Any) -> int | None:
        return self._keeper.size_of(task) if self._keeper.put(task, task, value) else None

    def load(self, task: TaskId, record: TaskRecord) -> Any:  # noqa: ARG002 - the record says it all
        return self._keeper.archive.load(record)

    def durations(self) -> Mapping[TaskId, float]:
        return self._keeper.durations()  # type: ignore[return-value]

    def close(self, seconds: Mapping[TaskId, float]) -> None:
        try:
            if self._keeper.run:
                self._keeper.keep_durations(seconds)
                self._keeper.save()
                self._keeper.prune()
        finally:
            self._keeper.close()


@dataclass(slots=True)
class _Story:
    """A run in memory: what it was about, what happened, and what its tasks returned."""

    id: str
    header: RunHeader
    events: list[Event] = field(default_factory=list)
    results: dict[TaskId, Any] = field(default_factory=dict)
    refs: dict[TaskId, ResultRef] = field(default_factory=dict)
    durations: dict[TaskId, float] = field(default_factory=dict)

    def record(self) -> RunRecord:
        """Return the run as a journal would tell it."""
        recorder = Recorder(self.header, self.refs)
        records: list[Record] = [record for event in self.events for record in recorder(event)]
        return fold(self.id, ({**record, "s": number} for number, record in enumerate(records)))


class InMemory(Keeping):
    """Keeps the last run of a workflow, for as long as the workflow itself is there."""

    def __init__(self, number: int, last: InMemory | None, *, keep_results: bool = True) -> None:
        self._number = number
        self._keep_results = keep_results
        #: Tasks whose results are given up as soon as nobody in the run needs them.
        self._passing: frozenset[TaskId] = frozenset()
        self._last = None if last is None else last.story
        #: The run; None before it begins. When it is over without having begun, the one before.
        self.story: _Story | None = None
        self._prints: dict[TaskId, Fingerprint] | None = None

    @property
    def run(self) -> str:
        return ""

    @property
    def broken(self) -> Exception | None:
        return None

    def resume(self, plan: Plan, graph: TaskGraph) -> Resumed:
        run = None if self._last is None else self._last.record()
        question, _ = _question(plan, graph, run, self._taken(plan, graph))
        return Resumed(decide(question), run)

    def begin(self, at: float, plan: Plan, graph: TaskGraph, resumed: Resumed, seed: str) -> None:  # noqa: ARG002 - its events tell when it began
        run = f"memory-{self._number:06}"
        previous = resumed.run
        if previous is None and self._last is not None and len(graph) < len(plan.graph):
            previous = self._last.record()
        header = _header(run, plan, graph, resumed, self._taken(plan, graph), {}, seed, previous)
        story = self.story = _Story(run, header)
        if not self._keep_results:
            self._passing = frozenset(task.id for task in graph if graph.downstream(task.id))
        for task, record in {**story.header.carried, **resumed.decision.restored}.items():
            if record.result is not None and self._last is not None and task in self._last.results:
                story.results[task] = self._last.results[task]

    def _taken(self, plan: Plan, graph: TaskGraph) -> dict[TaskId, Fingerprint]:
        if self._prints is None:
            prints = _Prints(plan)
            self._prints = prints.take(graph)
            prints.close()
        return self._prints

    def __call__(self, event: Event) -> None:
        if self.story is not None:
            self.story.events.append(event)

    def put(self, task: TaskId, value: Any) -> int | None:
        story = self.story
        if story is not None and task not in self._passing:
            story.results[task] = value
            # What tells this result from any other one is who made it.
            story.refs[task] = ResultRef(story.id, "memory", 0, 0, f"{story.id} {task}", "memory")
        return None

    def load(self, task: TaskId, record: TaskRecord) -> Any:  # noqa: ARG002 - there is one result for each task
        return self.story.results[task] if self.story is not None else None

    def durations(self) -> Mapping[TaskId, float]:
        return {} if self._last is None else self._last.durations

    def close(self, seconds: Mapping[TaskId, float]) -> None:
        if self.story is None:
            # It has not begun, and the one before is still the last.
            self.story = self._last
        else:
            self.story.durations.update(seconds)
        self._last = None
