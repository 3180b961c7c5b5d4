"""A run in numbers, as JSON and in the text format of Prometheus."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.metrics import AttemptMetrics, PathStep, RunMetrics, TaskMetrics

__all__ = ["FORMAT", "metrics_as_json", "metrics_as_prometheus"]

#: Version of the JSON; a new member is no new version, a changed meaning is.
FORMAT = 1


# JSON.


def metrics_as_json(run: RunMetrics, graph: TaskGraph) -> str:
    """Return *run* as JSON in ASCII. Times are in seconds, those called ``..._at`` since the epoch; sizes in bytes."""
    counts = _counts(run)
    facts = {
        "began_at": run.began_at,
        "ended_at": run.last_at,
        "ended": run.ended,
        "stopped": run.stopped,
        "makespan": run.makespan,
        "work": run.work,
        "cpu": run.cpu,
        "speed_up": run.speed_up,
        "critical_path_seconds": run.critical_path_seconds,
        "critical_path": [_step(step) for step in run.critical_path],
        "states": {state.value: count for state, count in counts.items() if count},
        "workers": [
            {"name": name, "attempts": one.attempts, "busy": one.busy, "utilization": one.utilization}
            for name, one in run.workers.items()
        ],
    }
    # A line for each task: for people who look, and many times as quick to write as indented JSON.
    tasks = ",\n".join(_dumped(_task(run.tasks[task.id], task.label)) for task in graph)
    return f'{{"format": {FORMAT}, "run": {_dumped(facts)}, "tasks": [\n{tasks}\n]}}\n'


def _dumped(facts: dict[str, Any]) -> str:
    return json.dumps(facts, allow_nan=False)


def _step(step: PathStep) -> dict[str, Any]:
    attempt = step.attempt
    return {
        "task": attempt.task,
        "attempt": attempt.number,
        "waited_for": step.waited_for.value,
        "wait": step.wait,
        "seconds": attempt.seconds,
    }


def _task(task: TaskMetrics, name: str) -> dict[str, Any]:
    return {
        "id": task.task,
        "name": name,
        "state": task.state.value,
        "seconds": task.seconds,
        "cpu": task.cpu,
        "queue_wait": task.queue_wait,
        "retry_wait": task.retry_wait,
        "peak_memory": task.peak_memory,
        "result_bytes": task.result_bytes,
        "attempts": [_attempt(attempt) for attempt in task.attempts],
    }


def _attempt(attempt: AttemptMetrics) -> dict[str, Any]:
    measures = attempt.measures
    return {
        "number": attempt.number,
        "state": attempt.state.value,
        "ready_at": attempt.ready_at,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "seconds": attempt.seconds,
        "cpu": None if measures is None else measures.cpu,
        "peak_memory": None if measures is None else measures.peak_memory,
        "worker": (measures.worker or None) if measures is not None else None,
    }


# Prometheus.


@dataclass(slots=True)
class _Family:
    """A metric with its samples; all are gauges: they say what one run has come to, and start anew with the next."""

    name: str
    text: str
    samples: list[str] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        """Add a sample; what is not known has none."""
        if value is not None:
            inner = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels.items())
            self.samples.append(f"{self.name}{{{inner}}} {value!r}" if inner else f"{self.name} {value!r}")

    def lines(self) -> list[str]:
        if not self.samples:
            return []
        return [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} gauge", *self.samples]


def metrics_as_prometheus(run: RunMetrics, graph: TaskGraph) -> str:
    """Return *run* in the text format of Prometheus, version 0.0.4. What is not known is left out."""
    families = [*_of_run(run), *_of_workers(run), *_of_tasks(run, graph)]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _of_run(run: RunMetrics) -> list[_Family]:
    values: list[tuple[str, str, float | None]] = [
        ("start_time_seconds", "When the run began, in seconds since the epoch.", run.began_at),
        ("end_time_seconds", "When the run ended, or was last heard of, in seconds since the epoch.", run.last_at),
        ("duration_seconds", "From the beginning of the run to its end.", run.makespan),
        ("work_seconds", "How long all attempts of the run took together.", run.work),
        ("cpu_seconds", "Processor time of all attempts.", run.cpu),
        ("critical_path_seconds", "How long the attempts took that the end waited for.", run.critical_path_seconds),
        ("speed_up_ratio", "Work divided by the duration.", run.speed_up),
        ("completed", "1 if the run came to its end without being stopped, else 0.", int(_is_complete(run))),
    ]
    families = [_Family(f"flowforge_run_{name}", text) for name, text, _ in values]
    for family, (_, _, value) in zip(families, values, strict=True):
        family.add(value)
    tasks = _Family("flowforge_run_tasks", "Number of tasks in each state.")
    for state, count in _counts(run).items():
        tasks.add(count, state=state.value)
    return [*families, tasks]


def _of_workers(run: RunMetrics) -> list[_Family]:
    attempts = _Family("flowforge_worker_attempts", "Number of attempts that a worker has made.")
    busy = _Family("flowforge_worker_busy_seconds", "For how long a worker had at least one attempt.")
    part = _Family("flowforge_worker_utilization_ratio", "Which part of the run that is.")
    for name, one in run.workers.items():
        attempts.add(one.attempts, worker=name)
        busy.add(one.busy, worker=name)
        part.add(one.utilization, worker=name)
    return [attempts, busy, part]


def _of_tasks(run: RunMetrics, graph: TaskGraph) -> list[_Family]:
    state = _Family("flowforge_task_state", "1 for the state that a task is in.")
    attempts = _Family("flowforge_task_attempts", "Number of attempts at a task.")
    seconds = _Family("flowforge_task_duration_seconds", "How long all attempts at a task took.")
    cpu = _Family("flowforge_task_cpu_seconds", "Processor time of all attempts at a task.")
    queue = _Family("flowforge_task_queue_wait_seconds", "How long a task was ready and waited for a slot or a pool.")
    retry = _Family("flowforge_task_retry_wait_seconds", "Waits between attempts at a task.")
    memory = _Family("flowforge_task_peak_memory_bytes", "The most resident memory that a task has reached, if known.")
    size = _Family("flowforge_task_result_bytes", "What the result of a task takes where it is stored.")
    for task in graph:
        one = run.tasks[task.id]
        state.add(1, task=task.id, state=one.state.value)
        attempts.add(len(one.attempts), task=task.id)
        if one.attempts:
            seconds.add(one.seconds, task=task.id)
            cpu.add(one.cpu, task=task.id)
            queue.add(one.queue_wait, task=task.id)
            retry.add(one.retry_wait, task=task.id)
            memory.add(one.peak_memory, task=task.id)
            size.add(one.result_bytes, task=task.id)
    return [state, attempts, seconds, cpu, queue, retry, memory, size]


def _escaped(label: str) -> str:
    """Return *label* as the format has it between quotes."""
    # Halves of characters can not be written; as an escape of ours they would be read as one of the format.
    label = label.encode("utf-8", "backslashreplace").decode()
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _is_complete(run: RunMetrics) -> bool:
    return run.ended and not run.stopped


def _counts(run: RunMetrics) -> Mapping[TaskState, int]:
    return {**dict.fromkeys(TaskState, 0), **Counter(task.state for task in run.tasks.values())}
