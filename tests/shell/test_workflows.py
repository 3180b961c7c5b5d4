"""Workflows in code: the same stories on every executor, and what a script, a notebook or a service does with them."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import loky
import pytest

import pytest_flowforge
from pytest_flowforge import (
    Checkpoint,
    GraphError,
    NoResult,
    Run,
    Scheduler,
    SkipTask,
    Task,
    TaskFailed,
    TaskGraph,
    TaskState,
    UnknownTask,
    Workflow,
    WorkflowError,
    only,
    retry,
    task,
)
from pytest_flowforge.core.messages import RunBegan, RunEnded, TaskMoved
from tests.shell.jobs import until_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def _spawned(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))


def _loky(workers: int) -> Any:
    return loky.ProcessPoolExecutor(workers)


#: Where calls are made.
PLACES: dict[str, dict[str, Any]] = {
    "local": {},
    "thread": {"executor": "thread", "workers": 3},
    "process": {"executor": "process", "workers": 2},
    "pool of threads": {"executor": ThreadPoolExecutor, "workers": 2},
    "pool of processes": {"executor": _spawned, "workers": 2},
    "loky": {"executor": _loky, "workers": 2},
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of a run on each executor."""
    return PLACES[request.param]


@pytest.fixture(params=["local", "thread", "process"])
def usual(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The same for those that have a name."""
    return PLACES[request.param]


class Broken(ValueError):
    """What tasks raise here."""


def _etl() -> Workflow:
    with Workflow("etl") as etl:

        @task
        def extract() -> list[int]:
            return [1, 2, 3]

        @task(retries=2, timeout=60)
        def transform(extract: list[int]) -> list[int]:
            return [number * 10 for number in extract]

        @task(depends_on=[transform], when="all_done")
        def cleanup(upstream: dict[str, Any]) -> list[str]:
            return sorted(upstream)

    return etl


# ---- what a run comes to ---------------------------------------------------------------------------------------------


def test_results_travel_along_the_graph(place: dict[str, Any]) -> None:
    run = _etl().run(**place)
    assert run["transform"] == [10, 20, 30]
    assert dict(run.results) == {"extract": [1, 2, 3], "transform": [10, 20, 30], "cleanup": ["transform"]}
    assert set(run.states.values()) == {TaskState.SUCCESS}
    assert run.ok
    run.raise_for_failure()
    assert repr(run) == "<Run of 'etl': 3 success>"
    assert run.metrics.makespan > 0
    assert all(len(one.attempts) == 1 and one.workers for one in run.metrics.tasks.values())


def _broken(number: int) -> None:
    msg = f"boom {number}"
    raise Broken(msg)


def test_a_failure_blocks_what_needs_it_and_nothing_else(place: dict[str, Any]) -> None:
    graph = TaskGraph()
    graph.add(Task("good", func=int))
    graph.add(Task("bad", func=_broken, arguments={"number": 7}))
    graph.add(Task("behind", func=int, depends_on=["bad"]))
    graph.add(Task("alarm", func=lambda bad: bad.error, depends_on=["bad"], when="any_failed"))
    run = Scheduler(graph, name="mixed", **place).run()
    states = {name: state.value for name, state in run.states.items()}
    assert states == {"good": "success", "bad": "failed", "behind": "blocked", "alarm": "success"}
    assert run["good"] == 0
    assert "boom 7" in run["alarm"]
    with pytest.raises(Broken, match="boom 7"):
        run["bad"]
    with pytest.raises(TaskFailed, match="task 'behind': blocked: upstream bad failed"):
        run["behind"]
    assert not run.ok
    with pytest.raises(ExceptionGroup, match="1 task of mixed failed, 1 blocked") as caught:
        run.raise_for_failure()
    (error,) = caught.value.exceptions
    assert isinstance(error, Broken)
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["in task 'bad'"]


def _fails_until(path: Path, times: int) -> int:
    tries = int(path.read_text()) if path.exists() else 0
    path.write_text(str(tries + 1))
    if tries < times:
        msg = "not yet"
        raise OSError(msg)
    return tries


def test_retries_are_given_as_a_mark_would(place: dict[str, Any], tmp_path: Path) -> None:
    graph = TaskGraph(
        [
            Task("twice", _fails_until, arguments={"path": tmp_path / "a", "times": 1}, max_retries=2),
            Task(
                "never",
                _fails_until,
                arguments={"path": tmp_path / "b", "times": 1},
                retries=retry(2, delay=0.01, on=KeyError),
            ),
        ]
    )
    run = Scheduler(graph, **place).run()
    assert run["twice"] == 1
    assert run.summary.attempts == {"twice": 2, "never": 1}
    assert run.states["never"] is TaskState.FAILED


async def _slowly(number: int) -> int:
    await asyncio.sleep(0.01)
    return number + 1


class _Adds:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, start: int) -> int:
        return start + self.number

    def method(self, start: int) -> int:
        return start - self.number


def test_whatever_can_be_called_is_a_function(place: dict[str, Any]) -> None:
    offset = 3

    def closure(start: int) -> int:
        return start + offset

    graph = TaskGraph([Task("start", lambda: 10)])
    functions: dict[str, Callable[..., Any]] = {
        "lambda": lambda start: start + 1,
        "closure": closure,
        "partial": partial(_Adds(0), 5),
        "object": _Adds(7),
        "method": _Adds(1).method,
        "coroutine": _slowly,
        "built-in": dict,
    }
    for name, func in functions.items():
        arguments = {"number": 1} if name == "coroutine" else {}
        graph.add(Task(name, func, arguments=arguments, depends_on=["start"]))
    run = Scheduler(graph, **place).run()
    run.raise_for_failure()
    assert dict(run.results) == {
        "start": 10, "lambda": 11, "closure": 13, "partial": 5, "object": 17, "method": 9, "coroutine": 2,
        "built-in": {},
    }  # fmt: skip


def _skips() -> None:
    msg = "nothing new"
    raise SkipTask(msg)


def test_tasks_skip_and_choose(place: dict[str, Any]) -> None:
    with Workflow("ways") as ways:
        task(name="quiet")(_skips)
        task(name="behind", depends_on="quiet")(int)

        @task
        def choose() -> Any:
            return only("left", value=5)

        @task
        def left(choose: int) -> int:
            return choose

        @task
        def right(choose: int) -> int:
            return choose

        task(name="told", when="all_done", depends_on=["quiet"])(lambda quiet: (quiet.state, quiet.reason, bool(quiet)))

    run = ways.run(**place)
    states = {name: state.value for name, state in run.states.items()}
    assert states == {
        "quiet": "skipped", "behind": "skipped", "choose": "success", "left": "success", "right": "skipped",
        "told": "success",
    }  # fmt: skip
    assert run["left"] == 5
    assert run["told"] == ("skipped", "nothing new", False)
    assert run.ok


def test_a_choice_of_what_is_not_there_is_a_failure() -> None:
    with Workflow("ways") as ways:
        task(name="choose")(lambda: only("lift"))
        task(name="left")(lambda choose: choose)
    run = ways.run()
    assert run.states["choose"] is TaskState.FAILED
    assert "only('lift')" in run.reasons["choose"]  # type: ignore[index]
    assert "'left'" in run.reasons["choose"]  # type: ignore[index]


def test_skips_of_pytest_are_skips(place: dict[str, Any]) -> None:
    graph = TaskGraph([Task("quiet", partial(pytest.skip, "not today"))])
    run = Scheduler(graph, **place).run()
    assert run.states["quiet"] is TaskState.SKIPPED
    assert "not today" in run.reasons["quiet"]  # type: ignore[index]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError("deep")])
def test_what_a_task_raises_ends_that_task_alone(error: BaseException, usual: dict[str, Any]) -> None:
    def raises() -> None:
        raise error

    with Workflow("odd") as odd:
        task(raises)
        task(name="other")(int)
    run = odd.run(**usual)
    assert run.states["raises"] is TaskState.FAILED
    assert run["other"] == 0
    with pytest.raises(ExceptionGroup) as caught:
        run.raise_for_failure()
    assert all(isinstance(one, Exception) for one in caught.value.exceptions)


def test_a_traceback_from_another_process_has_the_file() -> None:
    def local() -> None:
        raise Broken

    run = Scheduler(TaskGraph([Task("local", local)]), **PLACES["process"]).run()
    assert __file__ in str(run.errors["local"].__cause__)


# ---- resources -------------------------------------------------------------------------------------------------------


@contextmanager
def _journaled(log: Path) -> Iterator[str]:
    with log.open("a") as file:
        file.write("open\n")
    try:
        yield "db"
    finally:
        with log.open("a") as file:
            file.write("close\n")


def _like_a_fixture(log: Path) -> Iterator[str]:
    with log.open("a") as file:
        file.write("set up\n")
    yield "fixture"
    with log.open("a") as file:
        file.write("torn down\n")


def _uses(db: str, thing: str, plain: list[int], path: Path, times: int) -> tuple[str, str, list[int]]:
    _fails_until(path, times)
    return db, thing, plain


def test_resources_are_there_for_each_attempt_and_closed_after_it(place: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = Task(
        "load",
        _uses,
        arguments={"path": tmp_path / "tries", "times": 1},
        resources={"db": partial(_journaled, log), "thing": partial(_like_a_fixture, log), "plain": list},
        retries=1,
    )
    run = Scheduler(TaskGraph([one]), **place).run()
    assert run["load"] == ("db", "fixture", [])
    assert log.read_text().split("\n")[:-1] == ["open", "set up", "torn down", "close"] * 2


def test_resources_of_coroutines_may_be_asynchronous() -> None:
    log = []

    async def connect() -> Any:
        log.append("open")
        yield "db"
        log.append("close")

    async def load(db: str) -> str:
        log.append(f"use {db}")
        return db

    for executor in ("local", "thread"):
        log.clear()
        run = Scheduler(TaskGraph([Task("load", load, resources={"db": connect})]), executor=executor).run()
        assert run["load"] == "db"
        assert log == ["open", "use db", "close"]
    run = Scheduler(TaskGraph([Task("load", lambda db: db, resources={"db": connect})])).run()
    assert "so must be the task" in run.reasons["load"]  # type: ignore[index]


# ---- time and room ---------------------------------------------------------------------------------------------------


def _hangs() -> None:
    time.sleep(30)


def test_time_outs_bite(usual: dict[str, Any]) -> None:
    graph = TaskGraph([Task("hangs", _hangs, timeout=0.3), Task("good", int), Task("behind", int, depends_on="hangs")])
    begin = time.monotonic()
    run = Scheduler(graph, **usual).run()
    assert time.monotonic() - begin < 25
    assert run.states["hangs"] is TaskState.TIMED_OUT
    assert run.states["behind"] is TaskState.BLOCKED
    assert run["good"] == 0
    assert "did not end within 0.3 s" in run.reasons["hangs"]  # type: ignore[index]
    with pytest.raises(TaskFailed, match="did not end within"):
        run["hangs"]


def test_a_time_out_on_another_thread_is_seen_afterwards() -> None:
    runs: list[Run] = []
    graph = TaskGraph([Task("slow", partial(time.sleep, 0.2), timeout=0.05)])
    thread = threading.Thread(target=lambda: runs.append(Scheduler(graph).run()))
    thread.start()
    thread.join(30)
    assert runs[0].states["slow"] is TaskState.TIMED_OUT


def test_pools_and_exclusive_tasks_are_respected() -> None:
    running: list[str] = []
    seen: list[tuple[str, ...]] = []
    lock = threading.Lock()

    def works(name: str) -> None:
        with lock:
            running.append(name)
            seen.append(tuple(running))
        time.sleep(0.02)
        with lock:
            running.remove(name)

    graph = TaskGraph(pools={"gpu": 1})
    for number in range(4):
        graph.add(Task(f"gpu {number}", works, arguments={"name": "gpu"}, pool="gpu"))
        graph.add(Task(f"free {number}", works, arguments={"name": "free"}))
    graph.add(Task("alone", works, arguments={"name": "alone"}, exclusive=True))
    Scheduler(graph, executor="thread", workers=4).run().raise_for_failure()
    assert max(names.count("gpu") for names in seen) == 1
    assert max(names.count("free") for names in seen) > 1
    assert all(names == ("alone",) for names in seen if "alone" in names)


def _order_of(run_with: Scheduler) -> list[str]:
    """The tasks of a run in the order in which they ended."""
    ended = sorted(run_with.run().metrics.tasks.values(), key=lambda one: one.attempts[-1].ended_at)
    return [one.task for one in ended]


def test_what_has_priority_starts_first(usual: dict[str, Any]) -> None:
    graph = TaskGraph([Task("first", int), Task("urgent", int, priority=1), Task("last", int, priority=-1)])
    options = {**usual, "workers": 1} if usual else usual
    assert _order_of(Scheduler(graph, **options)) == ["urgent", "first", "last"]


def test_what_took_long_before_starts_first(tmp_path: Path) -> None:
    graph = TaskGraph([Task("short", int), Task("long", partial(time.sleep, 0.4))])
    for checkpoint in (None, tmp_path / "runs"):
        with_memory = Scheduler(graph, executor="thread", workers=1, checkpoint=checkpoint)
        assert _order_of(with_memory) == ["short", "long"]
        assert _order_of(with_memory) == ["long", "short"]


def test_the_same_seed_makes_the_same_waits() -> None:
    def waits(seed: str) -> list[float]:
        events: list[Any] = []
        bad = Task("bad", _broken, arguments={"number": 1}, retries=retry(2, delay=0.001, jitter=1.0))
        Scheduler(TaskGraph([bad]), seed=seed, events=events.append).run()
        moves = [event for event in events if isinstance(event, TaskMoved) and event.resume_at is not None]
        return [round(move.resume_at - move.at, 9) for move in moves if move.resume_at is not None]

    assert len(waits("one")) == 2
    assert waits("one") == pytest.approx(waits("one"), abs=1e-6)
    assert waits("one") != pytest.approx(waits("other"), abs=1e-6)


def test_a_pool_that_is_lent_is_left_alone() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert _etl().run(executor=pool).ok
        assert pool.submit(int).result() == 0


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Task("", int), "needs a name"),
        (lambda: Task("a::b", int), "needs a name"),
        (lambda: Task("a", 3), "can not be called"),  # type: ignore[arg-type]
        (lambda: Task("a", _like_a_fixture), "has a yield"),
        (lambda: Task("a", int, when="sometimes"), "'all_success'"),
        (lambda: Task("a", int, retries=-1), "give a whole number of 0 or more"),
        (lambda: Task("a", int, retries=1, max_retries=1), "give one of them"),
        (lambda: Task("a", int, timeout=0), "leave it out"),
        (lambda: Task("a", int, timeout="1s"), "give a number"),  # type: ignore[arg-type]
        (lambda: Task("a", int, pool={"gpu": 0}), "give a whole number of 1 or more"),
        (lambda: Task("a", int, priority=1.5), "give a whole number"),  # type: ignore[arg-type]
        (lambda: Task("a", int, depends_on=[3]), "give names of tasks"),  # type: ignore[list-item]
        (lambda: Task("a", lambda b: b, arguments={"c": 1}), "has no parameter 'c'"),
        (lambda: Task("a", lambda b: b, arguments={"b": 1}, resources={"b": int}), "only one of them"),
        (lambda: Task("a", lambda b: b, resources={"b": 3}), "give a function"),  # type: ignore[dict-item]
        (lambda: Task("a", lambda b, /: b), "takes no name"),
        (lambda: TaskGraph(pools={"gpu": -1}), "give a whole number of 1 or more"),
        (lambda: TaskGraph([Task("a", int), Task("a", int)]), "there is a task 'a' already"),
        (lambda: TaskGraph([Task("a", int)]).add(3), "is no task"),  # type: ignore[arg-type]
        (lambda: TaskGraph([Task("load", int), Task("b", int, depends_on="lod")]).plan(), "did you mean 'load'"),
        (lambda: TaskGraph([Task("b", int, depends_on=Task("a", int))]).plan(), "'a' is not in this graph"),
        (lambda: TaskGraph([Task("b", int, depends_on=len)]).plan(), "len is not the function of a task"),
        (lambda: TaskGraph([Task("b", lambda extrct: extrct), Task("extract", int)]).plan(), "did you mean 'extract'"),
        (lambda: TaskGraph([Task("a", int, depends_on="b"), Task("b", int, depends_on="a")]).plan(), "a -> b -> a"),
        (lambda: TaskGraph([Task("a", int, pool="gpu")]).plan(), "gpu"),
        (lambda: Workflow("w").task(lambda: 0), "has no name"),
        (lambda: Workflow("w").task(retrys=3)(_hangs), "retrys"),
        (lambda: _etl().run(replace={"extrakt": 1}), "names no task"),
    ],
)  # fmt: skip
def test_a_graph_that_is_wrong_says_so(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(GraphError) as caught:
        wrong()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Workflow(""), "needs a name"),
        (lambda: task(int), "outside of a workflow"),
        (lambda: _etl().run(executor="treads"), "'thread'"),
        (lambda: _etl().run(executor=3), "neither a name"),  # type: ignore[arg-type]
        (lambda: _etl().run(executor=lambda _: None), "no submit()"),  # type: ignore[arg-type,return-value]
        (lambda: _etl().run(executor=lambda _: 1 / 0), "ZeroDivisionError"),  # type: ignore[arg-type,return-value]
        (lambda: _etl().run(workers=4), "one task at a time"),
        (lambda: _etl().run(executor="thread", workers=0), "give a whole number"),
        (lambda: _etl().run(max_failures=0), "give a whole number"),
        (lambda: _etl().run(resume="20260101"), "without checkpoint="),
    ],
)  # fmt: skip
def test_a_run_that_can_not_be_says_so(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        wrong()
    assert said in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    graph = TaskGraph([Task("a", int, depends_on="x"), Task("b", lambda y: y), Task("c", int, depends_on="c")])
    with pytest.raises(GraphError) as caught:
        graph.validate()
    assert len(caught.value.problems) == 3


def test_a_name_that_the_run_was_not_about() -> None:
    run = _etl().run("extract")
    assert list(run.states) == ["extract"]
    for name in ("transform", "nowhere"):
        with pytest.raises(UnknownTask, match=name):
            run[name]
    with pytest.raises(UnknownTask):
        _etl().run("nowhere")


# ---- tasks and functions ---------------------------------------------------------------------------------------------


def test_functions_stay_plain_and_name_their_tasks() -> None:
    with Workflow("plain") as plain:

        @task
        def flow_extract() -> int:
            return 1

        @task(name="sum", arguments={"number": flow_extract, "other": 4})
        def add(number: int, other: int, default: int = 2) -> int:
            return number + other + default

    assert flow_extract() == 1
    assert add(1, 2) == 5
    run = plain.run()
    assert run[add] == run["sum"] == 7
    assert run[flow_extract] == run["extract"] == run["flow_extract"] == 1
    graph = plain.graph.validate()
    assert graph.order == ("extract", "sum")
    assert plain.graph["flow_extract"]() == 1


def test_blocks_may_stand_in_each_other() -> None:
    with Workflow("outer") as outer:
        with Workflow("inner") as inner:
            task(name="one")(int)
        task(name="two")(int)
    assert [one.name for one in inner.graph] == ["one"]
    assert [one.name for one in outer.graph] == ["two"]


def test_a_run_within_a_task_and_within_a_thread() -> None:
    graph = TaskGraph([Task("nested", lambda: _etl().run()["transform"])])
    for executor in ("local", "thread"):
        assert Scheduler(graph, executor=executor).run()["nested"] == [10, 20, 30]


# ---- replacing and choosing ------------------------------------------------------------------------------------------


def test_tasks_are_replaced_by_values_and_functions(usual: dict[str, Any]) -> None:
    etl = _etl()
    assert etl.run(replace={"extract": [5]}, **usual)["transform"] == [50]
    run = etl.run(replace={"transform": lambda extract: extract[:1]}, **usual)
    assert run["transform"] == [1]
    run = etl.run(replace={"transform": [7]}, **usual)
    assert run["transform"] == [7]
    assert "extract" not in run, "nobody else needs it"
    assert run["cleanup"] == ["transform"]
    assert etl.run(**usual)["transform"] == [10, 20, 30], "it was for that run alone"


def test_targets_bring_along_what_they_need() -> None:
    etl = _etl()
    assert list(etl.run("transform").states) == ["extract", "transform"]
    assert list(etl.run([etl.graph["extract"]]).states) == ["extract"]


# ---- resume ----------------------------------------------------------------------------------------------------------


def _counting(tmp_path: Path) -> tuple[Workflow, Callable[[], dict[str, int]]]:
    """A workflow that counts its calls in files, and fails in the middle as long as there is no file ``mended``."""
    with Workflow("counted") as counted:

        @task
        def first() -> int:
            with (tmp_path / "first").open("a") as file:
                file.write("x")
            return 1

        @task
        def second(first: int) -> int:
            with (tmp_path / "second").open("a") as file:
                file.write("x")
            if not (tmp_path / "mended").exists():
                raise Broken
            return first + 1

        @task
        def third(second: int) -> int:
            with (tmp_path / "third").open("a") as file:
                file.write("x")
            return second + 1

    def calls() -> dict[str, int]:
        return {
            name: len((tmp_path / name).read_text())
            for name in ("first", "second", "third")
            if (tmp_path / name).exists()
        }

    return counted, calls


@pytest.mark.parametrize("kept", ["in memory", "on disk"])
def test_resume_runs_what_did_not_succeed(kept: str, usual: dict[str, Any], tmp_path: Path) -> None:
    counted, calls = _counting(tmp_path)
    options = usual if kept == "in memory" else {**usual, "checkpoint": tmp_path / "runs"}
    run = counted.run(resume=True, **options)
    assert [state.value for state in run.states.values()] == ["success", "failed", "blocked"]
    (tmp_path / "mended").touch()
    run = counted.run(resume=True, **options)
    assert [state.value for state in run.states.values()] == ["reused", "success", "success"]
    assert dict(run.results) == {"first": 1, "second": 2, "third": 3}
    assert calls() == {"first": 1, "second": 2, "third": 1}
    run = counted.run(resume=True, **options)
    assert [state.value for state in run.states.values()] == ["reused"] * 3
    assert run["third"] == 3
    assert calls() == {"first": 1, "second": 2, "third": 1}
    assert counted.run(**options).summary.counts[TaskState.SUCCESS] == 3, "without resume all of it runs"


def test_what_must_not_run_twice_is_refused_when_in_doubt(usual: dict[str, Any]) -> None:
    charge = Task("charge", partial(time.sleep, 30), timeout=0.2, idempotent=False)
    scheduler = Scheduler(TaskGraph([charge, Task("after", int, depends_on=charge)]), **usual)
    assert scheduler.run().states["charge"] is TaskState.TIMED_OUT
    run = scheduler.run(resume=True)
    assert set(run.states.values()) == {TaskState.BLOCKED}
    assert "not idempotent" in run.reasons["charge"]  # type: ignore[index]


def test_a_changed_function_runs_again(tmp_path: Path) -> None:
    def workflow(double: Callable[[int], int]) -> Scheduler:
        graph = TaskGraph([Task("one", lambda: 1)])
        graph.add(Task("two", double, depends_on=["one"], arguments={"number": 4}))
        return Scheduler(graph, checkpoint=Checkpoint(tmp_path / "runs"))

    assert workflow(lambda number: number * 2).run()["two"] == 8
    run = workflow(lambda number: number * 3).run(resume=True)
    assert run["two"] == 12
    assert [state.value for state in run.states.values()] == ["reused", "success"]


def test_a_run_of_a_part_keeps_what_was_known_of_the_rest(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = [{}, {"checkpoint": tmp_path / "runs"}]
    for options in kept:
        etl = _etl()
        etl.run(**options)
        etl.run("extract", resume=True, **options)
        assert etl.run(resume=True, **options).summary.counts[TaskState.REUSED] == 3


def test_checkpoints_can_be_read_alone(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "runs")
    assert checkpoint.history() == []
    with pytest.raises(pytest_flowforge.CheckpointError, match="nothing is kept"):
        checkpoint.result("transform")
    run = _etl().run(checkpoint=checkpoint)
    (record,) = checkpoint.history()
    assert record.id == run.id
    assert {task: one.state.value for task, one in record.tasks.items()} == dict.fromkeys(run.states, "success")
    assert checkpoint.result("transform") == [10, 20, 30]
    with pytest.raises(pytest_flowforge.CheckpointError, match="nowhere"):
        checkpoint.result("nowhere")


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    said: list[str] = []

    def again() -> None:
        try:
            etl.run()
        except WorkflowError as error:
            said.append(str(error))
        try:
            other.run(checkpoint=tmp_path / "runs")
        except pytest_flowforge.CheckpointError as error:
            said.append(str(error))

    etl, other = Workflow("etl"), _etl()
    etl.task(again)
    etl.run(checkpoint=tmp_path / "runs").raise_for_failure()
    assert len(said) == 2
    assert "etl runs already" in said[0]
    assert "another run" in said[1] or "uses" in said[1]


# ---- events, logs, silence -------------------------------------------------------------------------------------------


def test_events_are_told_in_order_and_once(usual: dict[str, Any]) -> None:
    events: list[Any] = []
    _etl().run(events=events.append, **usual)
    assert isinstance(events[0], RunBegan)
    assert isinstance(events[-1], RunEnded)
    moves = [(event.task, event.after.value) for event in events if isinstance(event, TaskMoved)]
    assert moves == [(name, state) for name in ("extract", "transform", "cleanup") for state in ("running", "success")]


def test_a_handler_that_raises_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def broken(event: object) -> None:
        calls.append(event)
        raise Broken

    others: list[object] = []
    run = _etl().run(events=[broken, others.append])
    assert run.ok
    assert len(calls) == 1
    assert len(others) == 8
    assert len(run.notes) == 1
    assert "broken: " in run.notes[0]
    assert run.notes[0] in caplog.text


def test_nothing_is_printed_and_all_is_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pytest_flowforge.run"):
        _etl().run()
    assert capfd.readouterr() == ("", "")
    assert "transform begins, attempt 1" in caplog.messages


def _speaks() -> None:
    print("said by the task")  # noqa: T201
    logging.getLogger("task").error("logged by the task")


def test_what_tasks_print_and_log_is_heard(
    usual: dict[str, Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Scheduler(TaskGraph([Task("speaks", _speaks)]), **usual).run().raise_for_failure()
    assert capsys.readouterr().out == "said by the task\n"
    assert "logged by the task" in caplog.messages


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_enough_failures_stop_the_run() -> None:
    with Workflow("many") as many:
        for number in range(5):
            task(name=f"bad {number}", arguments={"number": number})(_broken)
        task(name="clean", when="always", depends_on=["bad 4"])(int)
    run = many.run(max_failures=2)
    assert len(run.errors) == 2
    assert run.summary.stopped == "stopping after 2 failures"
    assert run["clean"] == 0
    with pytest.raises(ExceptionGroup, match="2 tasks of many failed"):
        run.raise_for_failure()


SCRIPT = """
import sys, time
from pathlib import Path
from pytest_flowforge import Workflow, task

with Workflow("long") as long:
    @task
    def quick():
        return 1

    @task
    def slow(quick):
        Path("slow").touch()
        time.sleep(60)

    @task(depends_on="slow", when="always")
    def clean():
        Path("clean").touch()

if __name__ == "__main__":
    try:
        long.run(executor=sys.argv[1], checkpoint="runs")
    except KeyboardInterrupt:
        print({name: state.value for name, state in long.last.states.items()})
        sys.exit(130)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("executor", ["local", "thread", "process"])
def test_ctrl_c_stops_in_order_and_is_raised(executor: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "script.py", executor]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "slow").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert output == "{'quick': 'success', 'slow': 'interrupted', 'clean': 'success'}\n"
    assert (tmp_path / "clean").exists()
    (record,) = Checkpoint(tmp_path / "runs").history()
    assert record.ended is not None
    assert Checkpoint(tmp_path / "runs").result("quick") == 1


def test_awaiting_a_run(usual: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> Run:
        async def tick() -> None:
            for _ in range(4):
                await asyncio.sleep(0.001)
            (tmp_path / "ticked").touch()

        # The run can not end unless the loop goes on meanwhile.
        ticking = asyncio.ensure_future(tick())
        slow = Task("slow", until_there, arguments={"path": tmp_path / "ticked"})
        run = await Scheduler(TaskGraph([slow]), **usual).arun()
        await ticking
        return run

    assert asyncio.run(main()).ok


def test_a_run_that_is_awaited_no_more_is_stopped() -> None:
    async def main() -> Run:
        began, release = threading.Event(), threading.Event()

        def slow() -> None:
            began.set()
            release.wait(60)

        graph = TaskGraph([Task("slow", slow), Task("clean", int, depends_on="slow", when="always")])
        long = Scheduler(graph, executor="thread", workers=2)
        running = asyncio.ensure_future(long.arun())
        assert await asyncio.to_thread(began.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        release.set()
        assert long.past.run is not None
        return long.past.run

    run = asyncio.run(main())
    assert run.states["slow"] is TaskState.INTERRUPTED
    assert run["clean"] == 0
    assert "cancelled" in run.summary.stopped


def test_a_run_within_a_running_event_loop() -> None:
    async def main() -> Any:
        with Workflow("inside") as inside:
            task(name="coroutine", arguments={"number": 1})(_slowly)
        return inside.run()["coroutine"]

    assert asyncio.run(main()) == 2


def test_results_that_nobody_asked_for_are_given_up() -> None:
    run = _etl().run(keep_results=False)
    assert run["cleanup"] == ["transform"]
    with pytest.raises(TaskFailed, match="keep_results"):
        run["extract"]


def test_a_value_that_is_no_result(usual: dict[str, Any]) -> None:
    with Workflow("alarm") as alarm:
        task(name="bad", arguments={"number": 1})(_broken)
        task(name="told", when="any_failed")(lambda bad: bad)
    told = alarm.run(**usual)["told"]
    assert isinstance(told, NoResult)
    assert (told.task, told.state) == ("bad", "failed")


def test_a_run_names_its_tasks() -> None:
    with Workflow("few") as few:

        @task
        def one() -> int:
            return 1

        @task(depends_on=[one])
        def two() -> None:
            raise ValueError

    run = few.run()
    assert [(name, run.states[name].value) for name in run] == [("one", "success"), ("two", "failed")]
    assert len(run) == 2
    assert "one" in run
    assert 0 not in run
    empty = Workflow("none").run()
    assert list(empty) == []
    assert empty
