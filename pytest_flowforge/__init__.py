"""pytest-flowforge: your pipeline is a pytest suite.

What flow files and their tests may import stands here, and only here. Names load when they are first used, because
this package is imported in every pytest session of the environment, flows or not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_flowforge.core.states import TaskState
    from pytest_flowforge.declare import depends_on
    from pytest_flowforge.errors import (
        CheckpointError,
        FlowforgeError,
        GraphError,
        ResultError,
        SelectionError,
        SkipTask,
        TaskFailed,
        UnknownTask,
        WorkflowError,
    )
    from pytest_flowforge.results import NoResult, only
    from pytest_flowforge.rules import retry
    from pytest_flowforge.workflow import Checkpoint, Run, Scheduler, Task, TaskGraph, Workflow, task

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FlowforgeError",
    "GraphError",
    "NoResult",
    "ResultError",
    "Run",
    "Scheduler",
    "SelectionError",
    "SkipTask",
    "Task",
    "TaskFailed",
    "TaskGraph",
    "TaskState",
    "UnknownTask",
    "Workflow",
    "WorkflowError",
    "__version__",
    "depends_on",
    "only",
    "retry",
    "task",
]

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "Checkpoint": "pytest_flowforge.workflow",
    "CheckpointError": "pytest_flowforge.errors",
    "FlowforgeError": "pytest_flowforge.errors",
    "GraphError": "pytest_flowforge.errors",
    "NoResult": "pytest_flowforge.results",
    "ResultError": "pytest_flowforge.errors",
    "Run": "pytest_flowforge.workflow",
    "Scheduler": "pytest_flowforge.workflow",
    "SelectionError": "pytest_flowforge.errors",
    "SkipTask": "pytest_flowforge.errors",
    "Task": "pytest_flowforge.workflow",
    "TaskFailed": "pytest_flowforge.errors",
    "TaskGraph": "pytest_flowforge.workflow",
    "TaskState": "pytest_flowforge.core.states",
    "UnknownTask": "pytest_flowforge.errors",
    "Workflow": "pytest_flowforge.workflow",
    "WorkflowError": "pytest_flowforge.errors",
    "depends_on": "pytest_flowforge.declare",
    "only": "pytest_flowforge.results",
    "retry": "pytest_flowforge.rules",
    "task": "pytest_flowforge.workflow",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
