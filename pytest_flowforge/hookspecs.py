"""The hooks of pytest-flowforge, for conftest.py files and plugins.

All are called in the process that runs pytest (never in a worker). The observers (``run_started`` to
``run_finished``) are called once for each event and in order; what they return is ignored, and one that raises is
named once and not called again: it never fails the run. Arguments may be left out of an implementation, as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from pytest_flowforge.core.model import Task
    from pytest_flowforge.core.observed import Run, TaskResult
    from pytest_flowforge.storage.codec import Codec

__all__: list[str] = []


def pytest_flowforge_run_started(run: Run) -> None:
    """The run begins: the graph is valid, nothing has started yet."""


def pytest_flowforge_task_expanded(task: Task, instances: tuple[Task, ...]) -> None:
    """The mapped *task* has got *instances*, which are tasks of the run from now on; none for an empty list."""


def pytest_flowforge_task_started(task: Task, attempt: int) -> None:
    """An attempt (counted from 1) at *task* is about to start."""


def pytest_flowforge_task_retrying(task: Task, attempt: int, result: TaskResult, delay: float) -> None:
    """Attempt number *attempt* failed with *result*; the next one starts in *delay* seconds or later."""


def pytest_flowforge_task_finished(task: Task, result: TaskResult) -> None:
    """*task* has come to its end, whatever that is: success, failure, skip, block."""


def pytest_flowforge_run_finished(run: Run) -> None:
    """Nothing runs and nothing will; ``run.summary`` has the counts."""


def pytest_flowforge_fingerprint(item: pytest.Item) -> Mapping[str, object] | object | None:
    """What the task *item* is made of besides its code and parameters: a value, or a dict of values by name.

    Called once a task when fingerprints are taken, in every session that keeps or reuses results. When a value differs
    from that of an earlier run, its result does not stand. None adds nothing; the answers of all implementations count.
    """


@pytest.hookspec(firstresult=True)
def pytest_flowforge_make_executor(config: pytest.Config, name: str, workers: int) -> Executor | None:
    """What ``--ff-executor NAME`` means, for names that are not ours: a pool that runs *workers* calls at a time.

    Called when a run begins, and again when a pool has broken. None says that the name is not known.
    """


def pytest_flowforge_make_codec(config: pytest.Config) -> Codec | None:
    """A way to store results, tried before JSON and pickle; see :class:`pytest_flowforge.storage.codec.Codec`.

    Called when a checkpoint is opened. None adds nothing; the last plugin that was registered is asked first.
    """
