"""What tasks are like, and may not ask for, where their calls are made on other threads or in other processes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.plugin.choosing import THREAD
from pytest_flowforge.plugin.pytest_internals import fixture_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.plugin.entries import Entry

__all__ = ["fit", "fitted"]

#: Fixtures that change or watch the whole process; tasks that run at the same time would get each other's.
_OF_THE_PROCESS = frozenset(
    {
        "caplog",
        "capfd",
        "capfdbinary",
        "capsys",
        "capsysbinary",
        "capteesys",
        "monkeypatch",
        "recwarn",
    }
)

_MOST_SHOWN = 10


def fit(graph: TaskGraph, entries: Mapping[TaskId, Entry], executor: str) -> TaskGraph:
    """Return *graph* with what the executor has to know: which tasks share one event loop and take no thread.

    Raises UsageError for tasks that use fixtures which belong to the whole process, unless they run alone.
    """
    problems = [text for task in graph for text in _problems(task, entries[task.id], executor)]
    if problems:
        more = [f"... and {len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        raise pytest.UsageError(*problems[:_MOST_SHOWN], *more)
    if executor != THREAD:
        # Whoever runs a coroutine there does nothing else.
        return graph
    tasks = [fitted(task, entries[task.id]) for task in graph]
    if all(one is other for one, other in zip(tasks, graph, strict=True)):
        return graph
    return TaskGraph.build(tasks, graph.pools)


def _problems(task: Task, entry: Entry, executor: str) -> Iterator[str]:
    if task.exclusive:
        # It is called on the main thread, with nothing beside it.
        return
    for name in fixture_view(entry.item).names:
        if name in _OF_THE_PROCESS:
            yield (
                f"{task.location}: {task.label} uses {name}, which is for the whole process, and under --ff-executor "
                f"{executor} other tasks run at the same time: mark it @pytest.mark.exclusive (it then runs alone), "
                "or use --ff-executor local or process"
            )


def fitted(task: Task, entry: Entry) -> Task:
    """Return *task* with what threads have to know of it."""
    return replace(task, takes_slot=False) if inspect.iscoroutinefunction(entry.item.obj) else task
