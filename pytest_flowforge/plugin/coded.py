"""Workflows in code that stand in flow files: each of their tasks becomes an item like a ``flow_*`` function.

What holds for a task is said in marks, so that everything that reads marks (``-m``, plugins, our own graph) needs to
know nothing of it.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Trigger
from pytest_flowforge.errors import SkipTask
from pytest_flowforge.failures import safe_text
from pytest_flowforge.workflow.calls import Body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowforge.workflow import Task, Workflow

__all__ = ["WorkflowNode"]


class WorkflowNode(pytest.Collector):
    """A workflow in a flow file; it is called as the workflow is."""

    def __init__(self, *, workflow: Workflow, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workflow = workflow

    def collect(self) -> Iterable[pytest.Item]:
        for task in self.workflow.graph:
            item = pytest.Function.from_parent(self, name=task.name, callobj=_function_of(task, self.workflow))
            for mark in _marks_of(task, self.workflow):
                item.add_marker(mark)
            yield item


def _function_of(task: Task, workflow: Workflow) -> Callable[..., Any]:
    """Return a function that asks for what *task* asks of others, by name, and brings along the rest."""
    body = Body(task.func, task.resources)
    meant = {name: workflow.graph.meant_by(value) for name, value in task.arguments.items()}
    given = {name: task.arguments[name] for name, upstream in meant.items() if upstream is None}
    function = (_awaited if body.is_coroutine else _called)(body, given)
    if inspect.isfunction(task.func):
        functools.update_wrapper(function, task.func)
    asked = [name for name in task.parameters if name not in given and name not in task.resources]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in asked]
    handed = {name: upstream for name, upstream in meant.items() if upstream is not None}
    vars(function).update(
        __signature__=inspect.Signature(parameters), flowforge_task=task, flowforge_given=given, flowforge_handed=handed
    )
    function.__name__ = task.name
    return function


def _called(body: Body, given: dict[str, Any]) -> Callable[..., Any]:
    def call(**inputs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return body(**inputs, **given)
        except SkipTask as skip:
            pytest.skip(safe_text(skip))

    return call


def _awaited(body: Body, given: dict[str, Any]) -> Callable[..., Any]:
    async def call(**inputs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return await body(**inputs, **given)
        except SkipTask as skip:
            pytest.skip(safe_text(skip))

    return call


def _marks_of(task: Task, workflow: Workflow) -> Iterator[pytest.MarkDecorator]:
    mark = pytest.mark
    if task.depends_on or task.when is not Trigger.ALL_SUCCESS:
        # The workflow knows best what it means: a bound method is another object each time that somebody asks for it.
        upstreams = (workflow.graph.meant_by(reference) or reference for reference in task.depends_on)
        yield mark.depends_on.with_args(*upstreams, when=task.when.value)
    if task.retry.max_retries:
        yield mark.retry.with_args(task.retry)
    if task.timeout is not None:
        yield mark.timeout.with_args(task.timeout)
    if task.pools:
        yield mark.pool.with_args(**dict(task.pools))
    if task.exclusive:
        yield mark.exclusive
    if task.priority:
        yield mark.priority.with_args(task.priority)
    if not task.idempotent:
        yield mark.idempotent.with_args(False)  # noqa: FBT003 - as it is written
