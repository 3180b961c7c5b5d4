"""A run of a workflow, when it is over: what became of each task, what it returned, what it raised, and how long."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.states import SUCCEEDED, TaskState
from pytest_flowforge.errors import TaskFailed, UnknownTask
from pytest_flowforge.wording import plural, quoted

if sys.version_info < (3, 11):
    # pytest itself depends on the backport there.
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_flowforge.core.metrics import RunMetrics
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.summary import RunSummary

__all__ = ["Run"]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a run came to; tasks are named by their names, in the order in which they were declared.

    ``states`` has every task that the run was about, ``results`` what those have returned that succeeded (now or in an
    earlier run), ``errors`` the exceptions of those that failed. ``reasons`` says in a line why a task is where it is.
    ``id`` names it in its checkpoint, empty where it was not kept; ``notes`` are
    sentences about what went wrong beside the tasks.
    """

    name: str
    id: str
    summary: RunSummary
    states: Mapping[str, TaskState]
    results: Mapping[str, Any]
    errors: Mapping[str, BaseException]
    notes: tuple[str, ...] = ()
    _resolve: Callable[[Any], str] = str
    _measured: Metrics | None = None

    @cached_property
    def metrics(self) -> RunMetrics:
        """The run in numbers: how long everything took, how busy who was, and what the end waited for."""
        return (self._measured or Metrics(TaskGraph.build(()))).snapshot()

    @property
    def ok(self) -> bool:
        """Whether every task succeeded, was reused or skipped, and the run was not stopped."""
        return self.summary.ok and not self.summary.stopped

    @property
    def reasons(self) -> Mapping[TaskId, str]:
        """Why tasks are where they are, for those of which that was said."""
        return self.summary.reasons

    def __getitem__(self, task: Any) -> Any:
        """Return what *task*, given by its name, as its function or itself, has returned.

        Raises what it has raised, :class:`~pytest_flowforge.errors.TaskFailed` if there is no result for another
        reason, and :class:`~pytest_flowforge.errors.UnknownTask` for a task that the run was not about.
        """
        name = self._resolve(task)
        if name in self.results:
            return self.results[name]
        if name in self.errors:
            raise self.errors[name]
        if name not in self.states:
            known = ", ".join(map(quoted, list(self.states)[:8]))
            msg = f"the run was not about a task {quoted(name)}; it was about {known or 'nothing'}"
            raise UnknownTask(msg)
        if self.states[name] in SUCCEEDED:
            msg = f"the result of {quoted(name)} was not asked for: run it with keep_results"
            raise TaskFailed(msg)
        raise TaskFailed(self._line(name))

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the tasks that the run was about."""
        return iter(self.states)

    def __len__(self) -> int:
        """How many tasks the run was about."""
        return len(self.states)

    def __bool__(self) -> bool:
        # One without tasks is a run, too.
        return True

    def __contains__(self, task: object) -> bool:
        return self._resolve(task) in self.states

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state.value}" for state, count in self.summary.counts.items() if count)
        name = f" of {quoted(self.name)}" if self.name else ""
        return f"<Run{name}: {counts or 'no tasks'}>"

    def raise_for_failure(self) -> None:
        """Raise an ExceptionGroup with the exceptions of all tasks that failed; nothing when the run is ok.

        Tasks that have none (timed out, crashed) are :class:`~pytest_flowforge.errors.TaskFailed` in it, and so is the
        reason where the run was stopped.
        """
        if self.ok:
            return
        errors = [self._raisable(name) for name in self.summary.failed]
        rest = list(self.summary.never_started)
        if self.summary.stopped:
            errors.append(TaskFailed(f"the run was stopped: {self.summary.stopped}"))
        elif not errors and rest:
            errors.append(TaskFailed(f"did not run: {', '.join(rest)}"))
        blocked = self.summary.counts[TaskState.BLOCKED]
        if not errors:
            names = [name for name, state in self.states.items() if state is TaskState.BLOCKED]
            errors = [TaskFailed(self._line(name)) for name in names]
        behind = f", {blocked} blocked" if blocked else ""
        of = f" of {self.name}" if self.name else ""
        msg = f"{plural(len(self.summary.failed), 'task')}{of} failed{behind}"
        raise ExceptionGroup(msg, errors)

    def _raisable(self, name: TaskId) -> Exception:
        error = self.errors.get(name)
        if error is None:
            return TaskFailed(self._line(name))
        if not isinstance(error, Exception):
            # A task that raises SystemExit has failed, and does not end whoever asks.
            told = TaskFailed(self._line(name))
            told.__cause__ = error
            return told
        note = f"in task {quoted(name)}"
        if sys.version_info >= (3, 11) and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return error

    def _line(self, name: str) -> str:
        why = self.summary.reasons.get(name)  # type: ignore[call-overload]
        return f"task {quoted(name)}: {self.states[name].value}{f': {why}' if why else ''}"
