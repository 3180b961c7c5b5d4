"""Where the time of a run went, as people read it."""

from __future__ import annotations

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.model import Measures, Success, Task, TaskId
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.timing import timing_lines

_PENDING, _RUNNING = TaskState.PENDING, TaskState.RUNNING
_RETRYING, _SUCCESS = TaskState.RETRYING, TaskState.SUCCESS


def graph_of(**needs: str) -> TaskGraph:
    return TaskGraph.build(
        [Task(TaskId(name), needs=tuple(TaskId(need) for need in above.split())) for name, above in needs.items()]
    )


class Told:
    """Metrics, told of attempts."""

    def __init__(self, graph: TaskGraph) -> None:
        self.graph = graph
        self.metrics = Metrics(graph)
        self.metrics(RunBegan(len(graph), 100.0))

    def attempt(
        self, task: str, start: float, end: float, worker: str = "", number: int = 1, after: TaskState = _SUCCESS
    ) -> None:
        before = _PENDING if number == 1 else _RETRYING
        self.metrics(TaskMoved(TaskId(task), before, _RUNNING, number, 100 + start))
        measures = Measures(worker=worker) if worker else None
        resume_at = 100 + end if after is _RETRYING else None
        self.metrics(
            TaskMoved(
                TaskId(task), _RUNNING, after, number, 100 + end, outcome=Success(), resume_at=resume_at,
                measures=measures,
            )
        )  # fmt: skip

    def lines(self, end: float) -> list[str]:
        self.metrics(RunEnded(100 + end))
        return timing_lines(self.metrics.snapshot(), self.graph)


def test_of_a_run_in_which_nothing_ran_there_is_nothing_to_say() -> None:
    assert Told(graph_of(a="")).lines(1.0) == []


def test_what_the_end_waited_for_and_how_busy_workers_were() -> None:
    told = Told(graph_of(load="", wait="", train="load"))
    told.attempt("load", 0.0, 2.0, "gw0")
    told.attempt("wait", 0.0, 1.0, "gw1")
    told.attempt("train", 2.5, 92.5, "gw0")

    assert told.lines(100.0) == [
        "took 1m 40s for 1m 33s of work (0.9 x), 2 workers busy 46% of the time",
        "critical path: load 2.00s > (waits 0.50s) train 1m 30s",
        "slowest: train 1m 30s, load 2.00s, wait 1.00s",
    ]


def test_a_chain_is_cut_in_its_middle_and_attempts_of_one_task_are_one_step() -> None:
    chain = {f"t{number}": f"t{number - 1}" if number else "" for number in range(20)}
    told = Told(graph_of(**chain))
    told.attempt("t0", 0.0, 0.5, after=_RETRYING)
    told.attempt("t0", 0.5, 1.0, number=2)
    for number in range(1, 20):
        told.attempt(f"t{number}", number, number + 1.0)

    _, path, slowest, again = told.lines(20.0)
    assert path == (
        "critical path: t0 1.00s > t1 1.00s > t2 1.00s > t3 1.00s > 12 more > t16 1.00s > t17 1.00s > t18 1.00s > "
        "t19 1.00s"
    )
    assert slowest.count("1.00s") == 5
    assert again == "tried again: t0 2 attempts"


def test_a_wait_for_room_is_told_apart() -> None:
    told = Told(graph_of(a="", b=""))
    told.attempt("a", 3.0, 4.0)
    told.attempt("b", 4.5, 5.0)

    assert told.lines(5.0)[1] == "critical path: (waits 3.00s for a worker) a 1.00s > (waits 0.50s for room) b 0.50s"
