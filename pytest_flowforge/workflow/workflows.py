"""A workflow written as functions: ``with Workflow("etl"):`` and ``@task``."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pytest_flowforge.core.graph import NO_POOLS
from pytest_flowforge.errors import GraphError, Problem, WorkflowError
from pytest_flowforge.wording import quoted
from pytest_flowforge.workflow.graphs import TaskGraph
from pytest_flowforge.workflow.scheduler import Past, Scheduler
from pytest_flowforge.workflow.tasks import NOT_IN_NAMES, Task, location_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextvars import Token
    from pathlib import Path

    from typing_extensions import Self, Unpack

    from pytest_flowforge.workflow.checkpoints import Checkpoint
    from pytest_flowforge.workflow.runs import Run
    from pytest_flowforge.workflow.scheduler import Options
    from pytest_flowforge.workflow.tasks import Reference

__all__ = ["Workflow", "task"]

_F = TypeVar("_F", bound="Callable[..., Any]")

#: The workflow that is being written.
_CURRENT: ContextVar[Workflow | None] = ContextVar("pytest_flowforge_workflow", default=None)


#: What a task takes besides its function.
_OPTIONS = ", ".join(["name", *(name for name in Task.__init__.__kwdefaults__ or ())])


class Workflow:
    """A graph with a name that runs itself.

    Within ``with Workflow("etl"):`` what is decorated with :func:`task` is added to it; elsewhere :meth:`task` does the
    same. ``pools`` maps pools to their sizes; with ``checkpoint`` runs are kept there unless they say something else.
    """

    def __init__(
        self, name: str, *, pools: Mapping[str, int] = NO_POOLS, checkpoint: Checkpoint | str | Path | None = None
    ) -> None:
        self.name = _checked(name)
        #: The file in which it was made, as Python has it.
        self.file = sys._getframe(1).f_code.co_filename  # noqa: SLF001 - the one way to know who calls
        self.graph = TaskGraph(pools=pools)
        self.checkpoint = checkpoint
        self._past = Past()
        self._tokens: list[Token[Workflow | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_CURRENT.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<Workflow {quoted(self.name)} of {len(self.graph):,} tasks>"

    @property
    def last(self) -> Run | None:
        """The run that ended last, also when it was interrupted; None before."""
        return self._past.run

    @overload
    def task(self, func: _F, /) -> _F: ...
    @overload
    def task(self, /, **rules: Any) -> Callable[[_F], _F]: ...
    def task(self, func: Any = None, /, **rules: Any) -> Any:
        """Add a function as a task, and return it as it was; what it takes is what :func:`task` takes."""
        if func is not None:
            return self._add(func, {})
        return lambda func: self._add(func, rules)

    def _add(self, func: _F, rules: Mapping[str, Any]) -> _F:
        others = dict(rules)
        name = others.pop("name", None) or name_of(func)
        if not name:
            text = f"{quoted(func)} has no name that a task could have: give one, as in task(name='load')"
            raise GraphError([Problem("", text)])
        try:
            self.graph.add(Task(name, func, **others))
        except TypeError as error:
            # An option that is not there.
            text = f"task {quoted(name)}: {str(error).removeprefix('Task.__init__() ')}; it takes {_OPTIONS}"
            raise GraphError([Problem(str(location_of(func) or ""), text)]) from None
        return func

    def run(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
        **options: Unpack[Options],
    ) -> Run:
        """Run it; the options are those of :class:`Scheduler`, and the others those of :meth:`Scheduler.run`."""
        return self._scheduler(options).run(targets, resume=resume, replace=replace)

    async def arun(
        self,
        targets: Iterable[Reference] | Reference | None = None,
        *,
        resume: bool | str = False,
        replace: Mapping[str, Any] = MappingProxyType({}),
        **options: Unpack[Options],
    ) -> Run:
        """Do the same as :meth:`run` beside an event loop, see :meth:`Scheduler.arun`."""
        return await self._scheduler(options).arun(targets, resume=resume, replace=replace)

    def _scheduler(self, options: Options) -> Scheduler:
        given: Options = {"name": self.name, "checkpoint": self.checkpoint}
        given.update(options)
        scheduler = Scheduler(self.graph, **given)
        scheduler.past = self._past
        return scheduler


def _checked(name: object) -> str:
    if isinstance(name, str) and name.strip() and name.isprintable() and not any(part in name for part in NOT_IN_NAMES):
        return name
    msg = f"Workflow({quoted(name)}): a workflow needs a name: a printable text without '::', '[' and ']'"
    raise WorkflowError(msg)


@overload
def task(func: _F, /) -> _F: ...
@overload
def task(**rules: Any) -> Callable[[_F], _F]: ...
def task(func: Any = None, /, **rules: Any) -> Any:
    """Add a function as a task to the workflow within whose ``with`` block it stands, and return it as it was.

    ``name`` is what it is called, by default as the function without ``flow_``; the others are those of :class:`Task`.
    Raises :class:`~pytest_flowforge.errors.WorkflowError` outside of such a block.
    """
    workflow = _CURRENT.get()
    if workflow is None:
        msg = "@task stands outside of a workflow: write it in `with Workflow(...):`, or as @workflow.task"
        raise WorkflowError(msg)
    return workflow.task(func) if func is not None else workflow.task(**rules)
