"""Workflows in code: the engine, its executors, checkpoints and numbers without a test session.

:class:`Workflow` and :func:`task` are how people write them; :class:`Task`, :class:`TaskGraph` and :class:`Scheduler`
are the same in single steps. Nothing here knows pytest.
"""

from pytest_flowforge.workflow.checkpoints import Checkpoint
from pytest_flowforge.workflow.graphs import TaskGraph
from pytest_flowforge.workflow.runs import Run
from pytest_flowforge.workflow.scheduler import Scheduler
from pytest_flowforge.workflow.tasks import Task
from pytest_flowforge.workflow.workflows import Workflow, task

__all__ = ["Checkpoint", "Run", "Scheduler", "Task", "TaskGraph", "Workflow", "task"]
