"""Running the tasks of a graph in code: the same engine and driver as in a test session, and nothing of pytest.

Nothing is printed: what happens is logged to ``pytest_flowforge.run``, told to ``events``, and is in the
:class:`~pytest_flowforge.workflow.runs.Run` that is returned.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from pytest_flowforge.core.model import TaskId
from pytest_flowforge.core.selection import select
from pytest_flowforge.errors import UnknownTask, WorkflowError
from pytest_flowforge.rules import BadRule, whole
from pytest_flowforge.wording import quoted
from pytest_flowforge.workflow.calls import is_coroutine_function
from pytest_flowforge.workflow.checkpoints import Checkpoint, InMemory, OnDisk
from pytest_flowforge.workflow.execution import Cancelled, Execution, Rules
from pytest_flowforge.workflow.graphs import TaskGraph
from pytest_flowforge.workflow.replacing import replaced
from pytest_flowforge.workflow.tasks import several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.graph import TaskGraph as CoreGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.workflow.checkpoints import Keeping
    from pytest_flowforge.workflow.executing import ExecutorChoice
    from pytest_flowforge.workflow.graphs import Plan
    from pytest_flowforge.workflow.runs import Run
    from pytest_flowforge.workflow.tasks import Reference

    #: Something that is called with every event.
    Handler: TypeAlias = Callable[[Event], object]

    class Options(TypedDict, total=False):
        """The options of a :class:`Scheduler`."""

        name: str
        executor: ExecutorChoice
        workers: int | None
        events: Handler | Iterable[Handler]
        checkpoint: Checkpoint | str | Path | None
        max_failures: int | None
        seed: str
        keep_results: bool


__all__ = ["Past", "Scheduler"]


class Past:
    """What is remembered in this process of the runs of a graph."""

    def __init__(self) -> None:
        #: The run that ended last, also when it was interrupted; None before.
        self.run: Run | None = None
        self.memory: InMemory | None = None
        self.runs = 0
        #: Held while there is a run: there is one at a time.
        self.busy = threading.Lock()


class Scheduler:
    """Runs the tasks of *graph*, as often as it is asked to, one run at a time.

    ``executor`` is ``"local"`` (one after the other on this thread), ``"thread"``, ``"process"``, a
    :class:`concurrent.futures.Executor`, or a function that makes one for a number of workers; ``workers`` is how many
    tasks run at a time. ``events`` are called with every event, in order, on the thread that runs. With ``checkpoint``,
    a folder or a :class:`Checkpoint`, runs are kept on disk; without, the last one is remembered. After
    ``max_failures`` failed tasks no other begins but for clean-up. ``seed`` makes the jitter of retries reproducible.
    Without ``keep_results`` only those of tasks that nobody waits for are kept to the end; without a checkpoint, the
    others are then not remembered either.

    Raises :class:`~pytest_flowforge.errors.WorkflowError` for options that can not be met.
    """

    def __init__(  # noqa: PLR0913 - all but the first are options with a default
        self,
        graph: TaskGraph,
        *,
        name: str = "",
        executor: ExecutorChoice = "local",
        workers: int | None = None,
        events: Handler | Iterable[Handler] = (),
        checkpoint: Checkpoint | str | Path | None = None,
        max_failures: int | None = None,
        seed: str = "",
        keep_results: bool = True,
    ) -> None:
        self._graph = _checked_graph(graph)
        self.name = name
        self._checkpoint = _checked_checkpoint(checkpoint)
        try:
            whole("run", "max_failures", 1 if max_failures is None else max_failures, least=1)
        except BadRule as error:
            raise WorkflowError(str(error)) from None
        self._options = Rules(
            executor, workers, _handlers(events), max_failures, seed or secrets.token_hex(4), keep_results
        )
        self.past = Past()

    def run(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
    ) -> Run:
        """Run all tasks, or *targets* and what they need, and return what became of them; a failure is no exception.

        With *resume* tasks are reused that succeeded in the last run (or in that with the given id) and are made of the
        same. *replace* has functions to be called, or values to be taken, in the place of tasks; what only these
        needed does not run.

        Ctrl-C stops the run in order and is raised in the end. Raises :class:`~pytest_flowforge.errors.GraphError` for
        tasks that do not fit together, :class:`~pytest_flowforge.errors.WorkflowError` when it runs already, and
        :class:`~pytest_flowforge.errors.CheckpointError`.
        """
        return self._run(targets, resume, replace, None)

    async def arun(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
    ) -> Run:
        """Do the same as :meth:`run` on another thread; cancelled, it stops the run in order first."""
        import asyncio  # noqa: PLC0415 - others need not pay for it

        stop = threading.Event()
        running = asyncio.ensure_future(asyncio.to_thread(self._run, targets, resume, replace, stop))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            with suppress(Cancelled):
                await running
            raise

    def _run(
        self,
        targets: Any,
        resume: bool | str,  # noqa: FBT001 - what run() was given
        replace: Mapping[str, Any],
        stop: threading.Event | None,
    ) -> Run:
        graph = replaced(self._graph, replace) if replace else self._graph
        plan = graph.plan()
        chosen = _chosen(graph, plan, targets, self._graph)
        past = self.past
        if not past.busy.acquire(blocking=False):
            msg = f"{self.name or 'this workflow'} runs already: wait for that run, or make another Workflow"
            raise WorkflowError(msg)
        try:
            past.runs += 1
            notes: list[str] = []
            keeping = self._keeping(notes.append, resume if isinstance(resume, str) else "")
            execution = Execution(self.name, self._options, plan, chosen, keeping, notes, stop)
            try:
                execution.run(resume=bool(resume))
            finally:
                past.run = execution.outcome(lambda task: _name_in(graph, task))
            return past.run
        finally:
            past.busy.release()

    def _keeping(self, tell: Callable[[str], None], run: str) -> Keeping:
        if self._checkpoint is not None:
            return OnDisk(self._checkpoint, tell, run)
        if run:
            msg = f"resume={quoted(run)}: only the last run is remembered without checkpoint="
            raise WorkflowError(msg)
        self.past.memory = InMemory(self.past.runs, self.past.memory, keep_results=self._options.keep_results)
        return self.past.memory


def _checked_graph(graph: Any) -> TaskGraph:
    if isinstance(graph, TaskGraph):
        return graph
    msg = f"Scheduler({quoted(graph)}): give a TaskGraph, as in Scheduler(TaskGraph(tasks)); a Workflow runs itself"
    raise WorkflowError(msg)


def _checked_checkpoint(given: Any) -> Checkpoint | None:
    if given is None or isinstance(given, Checkpoint):
        return given
    if isinstance(given, (str, Path)) and str(given):
        return Checkpoint(given)
    msg = f"checkpoint={quoted(given)}: give a folder, or a Checkpoint"
    raise WorkflowError(msg)


def _handlers(events: Any) -> tuple[Handler, ...]:
    handlers = several(events)
    for handler in handlers:
        if not callable(handler):
            msg = f"events={quoted(handler)}: give a function that is called with each event, or several"
            raise WorkflowError(msg)
        if is_coroutine_function(handler):
            msg = f"events={quoted(handler)}: nobody awaits it; give a function that is no coroutine function"
            raise WorkflowError(msg)
    return handlers


def _name_in(graph: TaskGraph, task: Any) -> str:
    """Return what *task*, a task, its name or its function, is called; as it is where the graph has none such."""
    try:
        return graph[task].name
    except UnknownTask:
        return str(getattr(task, "__qualname__", task))


def _chosen(graph: TaskGraph, plan: Plan, targets: Any, original: TaskGraph) -> CoreGraph:
    """Return the part of the graph that is to run."""
    if targets is not None:
        names = [TaskId(graph[target].name) for target in several(targets)]
    elif original is graph:
        return plan.graph
    else:
        # What nobody waits for is what a run is about; what only replaced tasks needed is not.
        names = [TaskId(name) for name in original.ends()]
    return plan.graph.restrict(select(plan.graph, names).all)
