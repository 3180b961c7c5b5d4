"""A driver with a scripted world around it, told by names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, RunBegan, RunEnded, StartAttempt, TaskMoved
from pytest_flowforge.core.model import Outcome, Success, Task, TaskId
from pytest_flowforge.driver import Driver
from pytest_flowforge.ports import Job
from pytest_flowforge.testing import FakeClock, ScriptedExecutor

if TYPE_CHECKING:
    from collections.abc import Mapping


def task(name: str, *needs: str, **rest: Any) -> Task:
    return Task(TaskId(name), tuple(map(TaskId, needs)), **rest)


def job_for(command: StartAttempt) -> Job:
    return Job(command.task, command.attempt, lambda: (Success(), command.task.upper()))


class Run:
    """Everything a driver needs, scripted; ``log`` is what happened in the order in which it did.

    ``grace`` is the engine's, after time-outs; the driver's, after an interrupt, is ``patience``.
    """

    def __init__(
        self,
        *tasks: Task,
        outcomes: Mapping[tuple[str, int], Outcome | BaseException] | None = None,
        seconds: Mapping[tuple[str, int], float] | None = None,
        slots: int = 1,
        grace: float | None = None,
        **options: Any,
    ) -> None:
        self.clock = FakeClock()
        self.executor = ScriptedExecutor(self.clock, outcomes, seconds, slots=slots)
        self.engine = Engine(TaskGraph.build(tasks, options.pop("pools", {})), RunPolicy(grace=grace))
        self.log: list[str] = []
        self.values: dict[str, Any] = {}
        options.setdefault("make_job", job_for)
        options["grace"] = options.pop("patience", 0.0)
        self.driver = Driver(
            self.engine, self.executor, sinks=[self.note], clock=self.clock, on_value=self.keep, **options
        )

    def listen(self, *sinks: Any) -> None:
        """Tell these and nobody else."""
        self.driver._sinks = sinks

    def note(self, event: Event) -> None:
        if isinstance(event, RunBegan):
            self.log.append("began")
        elif isinstance(event, RunEnded):
            self.log.append(f"ended {event.stopped}".strip())
        elif isinstance(event, TaskMoved):
            self.log.append(f"{event.task} {event.after.value}")

    def keep(self, task: TaskId, value: Any) -> None:
        self.log.append(f"{task} = {value}")
        self.values[task] = value

    @property
    def states(self) -> dict[str, str]:
        return {task: state.value for task, state in self.engine.states.items()}

    @property
    def executed(self) -> list[str]:
        return [f"{what} {task} {attempt}" for what, task, attempt in self.executor.log]
