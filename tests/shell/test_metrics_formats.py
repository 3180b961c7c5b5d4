"""Metrics as others read them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.metrics import Metrics, RunMetrics
from pytest_flowforge.core.model import Measures, Task, TaskId
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.metrics import metrics_as_json, metrics_as_prometheus

#: What a name may hold: anything but halves of characters, which no file can hold as they are.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def a_run(name: str, worker: str) -> tuple[RunMetrics, TaskGraph]:
    done, left = TaskId(name), TaskId(f"{name}, left")
    graph = TaskGraph.build([Task(done, name="one"), Task(left, (done,))])
    metrics = Metrics(graph)
    measures = Measures(worker, cpu=0.5, result_bytes=7)
    events: list[Event] = [
        RunBegan(2, 100.0),
        TaskMoved(done, TaskState.PENDING, TaskState.RUNNING, 1, 101.0),
        TaskMoved(done, TaskState.RUNNING, TaskState.SUCCESS, 1, 103.0, measures=measures),
        RunEnded(104.0, "enough"),
    ]
    for event in events:
        metrics(event)
    return metrics.snapshot(), graph


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples of each metric, by labels; every metric is documented, typed, and there once."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found
        assert family.type == "gauge"
        assert family.documentation
        assert all(sample.name == family.name for sample in family.samples)
        found[family.name] = {tuple(sample.labels.items()): sample.value for sample in family.samples}
        assert len(found[family.name]) == len(family.samples), "no sample is there twice"
    return found


@given(_TEXT, _TEXT)
@example("\\n", "\n\\")
@example('a "quoted" one\\', '",} 1\n')
def test_prometheus_reads_every_name_as_it_is(name: str, worker: str) -> None:
    found = parsed(metrics_as_prometheus(*a_run(name, worker)))
    assert found["flowforge_task_duration_seconds"] == {(("task", name),): 2.0}
    assert found["flowforge_task_queue_wait_seconds"] == {(("task", name),): 1.0}
    assert found["flowforge_task_state"] == {
        (("task", name), ("state", "success")): 1,
        (("task", f"{name}, left"), ("state", "pending")): 1,
    }
    if worker:
        assert found["flowforge_worker_utilization_ratio"] == {(("worker", worker),): 0.5}
    assert "flowforge_task_peak_memory_bytes" not in found, "what is not known is not 0"
    assert found["flowforge_run_duration_seconds"] == {(): 4.0}
    assert found["flowforge_run_completed"] == {(): 0}
    assert found["flowforge_run_tasks"][("state", "pending"),] == 1


def test_halves_of_characters_are_escaped_such_that_prometheus_reads_them() -> None:
    text = metrics_as_prometheus(*a_run("half \udc80", ""))
    assert text.encode("utf-8")
    assert parsed(text)["flowforge_task_duration_seconds"] == {(("task", r"half \udc80"),): 2.0}


@given(_TEXT)
def test_json_says_the_same(name: str) -> None:
    facts: dict[str, Any] = json.loads(metrics_as_json(*a_run(name, "")))
    assert facts["format"] == 1
    run, (one, left) = facts["run"], facts["tasks"]
    assert (run["makespan"], run["work"], run["cpu"], run["speed_up"]) == (4.0, 2.0, 0.5, 0.5)
    assert (run["ended"], run["stopped"], run["states"]) == (True, "enough", {"success": 1, "pending": 1})
    assert run["critical_path"] == [
        {"task": name, "attempt": 1, "waited_for": "nothing", "wait": 1.0, "seconds": 2.0},
    ]
    assert (one["id"], one["name"], one["cpu"], one["peak_memory"], one["result_bytes"]) == (name, "one", 0.5, None, 7)
    assert one["attempts"] == [
        {
            "number": 1,
            "state": "success",
            "ready_at": 100.0,
            "started_at": 101.0,
            "ended_at": 103.0,
            "seconds": 2.0,
            "cpu": 0.5,
            "peak_memory": None,
            "worker": None,
        }
    ]
    assert (left["state"], left["attempts"], left["cpu"]) == ("pending", [], None)
