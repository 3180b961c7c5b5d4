"""What went wrong with workflows in code, each once: odd input, odd surroundings, and what stays behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge import (
    Checkpoint,
    CheckpointError,
    GraphError,
    Scheduler,
    Task,
    TaskGraph,
    TaskState,
    Workflow,
    WorkflowError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


def _two() -> Workflow:
    two = Workflow("two")

    @two.task
    def one() -> int:
        return 1

    @two.task
    def double(one: int) -> int:
        return one * 2

    return two


# ---- what people write -----------------------------------------------------------------------------------------------


def test_a_task_stands_in_with_its_function() -> None:
    other = Task("other", lambda one: one * 100)
    assert _two().run(replace={"double": other})["double"] == 100


class _Like:
    """As arrays are: comparing two of them is no answer."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        msg = "the truth value of an array is ambiguous"
        raise ValueError(msg)

    __hash__ = None  # type: ignore[assignment]


def test_edges_that_are_tasks_lead_to_what_stands_in_for_these() -> None:
    graph = TaskGraph()
    one = graph.add(Task("one", lambda: 1))
    two = graph.add(Task("two", lambda x, y: x + 1, arguments={"x": one, "y": _Like()}))  # noqa: ARG005
    three = graph.add(Task("three", lambda x: x + 1, arguments={"x": two}))
    graph.add(Task("four", int, depends_on=[three]))
    scheduler = Scheduler(graph)
    assert dict(scheduler.run(replace={"one": 10}).results) == {"one": 10, "two": 11, "three": 12, "four": 0}
    run = scheduler.run(replace={"one": 10, "two": lambda x: x * 7})
    assert dict(run.results) == {"one": 10, "two": 70, "three": 71, "four": 0}


def test_edges_that_are_methods_lead_to_what_stands_in_for_these() -> None:
    held = _Holds(1)
    holds = Workflow("holds")
    holds.task(held.get)
    holds.task(name="waits", depends_on=[held.get])(lambda upstream: upstream)
    holds.task(name="takes", arguments={"value": held.get})(lambda value: value)
    assert dict(holds.run(replace={"get": 5}).results) == {"get": 5, "waits": {"get": 5}, "takes": 5}


def test_a_value_stands_in_whatever_the_rule_of_the_task() -> None:
    alarmed = Workflow("alarmed")
    alarmed.task(name="fine")(int)
    alarmed.task(name="alarm", when="any_failed")(lambda fine: fine.error)
    alarmed.task(name="told")(lambda alarm: alarm)
    assert alarmed.run(replace={"alarm": "it burns"})["told"] == "it burns"


def test_whatever_can_be_asked_for_by_item_is_in_the_run() -> None:
    two = _two()
    run = two.run("one")
    assert two.graph["one"] in run
    assert two.graph["one"].func in run
    assert "one" in run
    assert "double" not in run
    assert ["one"] not in run


def test_any_iterable_of_tasks_will_do() -> None:
    two = _two()
    assert list(two.run(name for name in ["one"]).states) == ["one"]
    assert list(two.run({"one": 1}.keys()).states) == ["one"]
    late = Task("late", int, depends_on=(name for name in ["one", "double"]), pool=(pool for pool in ["gpu"]))
    assert late.depends_on == ("one", "double")
    assert late.pools == (("gpu", 1),)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Task("a", int, arguments=[1]), "arguments=[1]: give a dict"),  # type: ignore[arg-type]
        (lambda: Task("a", int, resources=[1]), "resources=[1]: give a dict"),  # type: ignore[arg-type]
        (lambda: Task("a", len, resources={"obj": math.sqrt}), "needs 'x'; give them"),  # type: ignore[dict-item]
        (lambda: Task("a", Task("b", int)), "give its function"),
        (lambda: TaskGraph(pools=["gpu"]), "give a dict with the size"),  # type: ignore[arg-type]
        (lambda: _two().run(replace=["one"]), "replace=['one']: give a dict"),  # type: ignore[arg-type]
        (lambda: TaskGraph([Task("a", int, pool="gpu")]).validate(), "Workflow(..., pools={'gpu': 1})"),
        (lambda: _two().task(retris=3)(int), "retries, max_retries"),
    ],
)
def test_a_graph_that_is_wrong_says_so(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(GraphError) as caught:
        wrong()
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


async def _watch(event: object) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: _two().run(events=3), "events=3: give a function"),  # type: ignore[arg-type]
        (lambda: _two().run(events=[3]), "events=3: give a function"),  # type: ignore[list-item]
        (lambda: _two().run(events=_watch), "nobody awaits it"),
        (lambda: _two().run(checkpoint=3), "checkpoint=3: give a folder"),  # type: ignore[arg-type]
        (lambda: _two().run(checkpoint=""), "checkpoint='': give a folder"),
        (lambda: Scheduler(_two()), "a Workflow runs itself"),  # type: ignore[arg-type]
        (lambda: Scheduler([Task("a", int)]), "as in Scheduler(TaskGraph(tasks))"),  # type: ignore[arg-type]
    ],
)
def test_a_run_that_can_not_be_says_so(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        wrong()
    assert said in str(caught.value)


def test_an_option_that_is_not_there_is_told_with_its_place() -> None:
    with pytest.raises(GraphError, match=r"test_workflow_faults\.py:\d+: task 'wrong'"):

        @_two().task(retris=3)
        def wrong() -> None: ...


@pytest.mark.parametrize("executor", ["local", "thread"])
def test_a_limit_may_be_longer_than_the_system_counts(executor: str) -> None:
    assert Scheduler(TaskGraph([Task("a", int, timeout=1e12)]), executor=executor).run()["a"] == 0


def test_sentences_about_checkpoints_speak_of_code(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        _two().run(checkpoint=tmp_path / "other")
    assert "choose an empty folder with checkpoint=" in str(caught.value)

    odd = Workflow("odd")
    odd.task(name="generator")(lambda: (number for number in [1]))
    odd.task(name="inner")(lambda: _two().run(checkpoint=tmp_path / "runs"))
    run = odd.run(checkpoint=tmp_path / "runs")
    assert [note.partition("; ")[2] for note in run.notes] == ["generator runs again on resume=True"]
    with pytest.raises(CheckpointError, match=r"\(Checkpoint\.history\(\) lists them\)"):
        Checkpoint(tmp_path / "runs").result("inner", "nowhere")
    assert isinstance(run.errors["inner"], CheckpointError)
    assert "--ff" not in str(run.errors["inner"])


# ---- resume ----------------------------------------------------------------------------------------------------------


class _Holds:
    def __init__(self, number: int) -> None:
        self.number = number

    def get(self) -> int:
        return self.number


class _Slotted:
    __slots__ = ("number",)
    number: int

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> int:
        return self.number


@pytest.mark.parametrize(
    "function",
    [
        lambda number: _Holds(number).get,
        lambda number: partial(_Holds(number).get),
        _Slotted,
        lambda number: partial(itemgetter(number), [0, 1, 2]),
        lambda number: {"x": number}.values,
    ],
    ids=["method", "partial of a method", "object with slots", "itemgetter", "built-in method"],
)
def test_what_an_object_holds_counts_for_resume(function: Callable[[int], Callable[[], Any]], tmp_path: Path) -> None:
    def run(number: int) -> Any:
        graph = TaskGraph([Task("get", function(number))])
        return Scheduler(graph, checkpoint=tmp_path / "runs").run(resume=True)

    first = run(1)
    assert first.ok
    assert run(1).states["get"] is TaskState.REUSED or first.notes
    changed = run(2)
    assert changed.states["get"] is TaskState.SUCCESS


def test_a_run_that_could_not_begin_leaves_what_is_remembered() -> None:
    two = _two()
    two.run()
    with pytest.raises(WorkflowError):
        two.run(executor="treads")
    assert set(two.run(resume=True).states.values()) == {TaskState.REUSED}


METHODS = """
from pytest_flowforge import Workflow

wf = Workflow("w", checkpoint="runs")

@wf.task
def first():
    return 1

@wf.task(retries=0)
def second():
    return 2

if __name__ == "__main__":
    print(*[state.value for state in wf.run(resume=True).states.values()])
"""

BLOCK = """
from pytest_flowforge import Workflow, task

with Workflow("w", checkpoint="runs") as wf:
    @task
    def first():
        return 1

    @task(retries=0)
    def second():
        return 2

if __name__ == "__main__":
    print(*[state.value for state in wf.run(resume=True).states.values()])
"""


def _printed(folder: Path, script: str) -> str:
    (folder / "flow.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "flow.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("script", [METHODS, BLOCK], ids=["@wf.task", "@task"])
def test_a_change_of_one_task_or_of_its_rules_runs_no_other(script: str, tmp_path: Path) -> None:
    assert _printed(tmp_path, script) == "success success"
    changed = script.replace("return 1", "return 10")
    assert _printed(tmp_path, changed) == "success reused"
    assert _printed(tmp_path, changed.replace("retries=0", "retries=2, timeout=60")) == "reused reused"


# ---- resources -------------------------------------------------------------------------------------------------------


def _empty() -> Iterator[int]:
    yield from ()


async def _empty_on_loop() -> AsyncIterator[int]:
    for number in range(0):
        yield number


async def _uses(db: int) -> int:
    return db


@pytest.mark.parametrize("resource", [_empty, _empty_on_loop])
def test_a_resource_that_yields_nothing_is_named(resource: Callable[[], Any]) -> None:
    run = Scheduler(TaskGraph([Task("load", _uses, resources={"db": resource})])).run()
    assert "the resource 'db' has yielded nothing" in str(run.errors["load"])


# ---- what stays behind -----------------------------------------------------------------------------------------------


class _Large:
    alive = 0
    most = 0

    def __init__(self) -> None:
        _Large.alive += 1
        _Large.most = max(_Large.most, _Large.alive)

    def __del__(self) -> None:
        _Large.alive -= 1


def _makes(upstream: dict[str, Any]) -> _Large:
    assert len(upstream) <= 1
    return _Large()


@pytest.mark.parametrize("executor", ["local", "thread"])
def test_results_that_nobody_needs_are_let_go_at_once(executor: str) -> None:
    _Large.most = 0
    graph = TaskGraph(Task(f"{n}", _makes, depends_on=[f"{n - 1}"] if n else []) for n in range(20))
    gc.collect()
    gc.disable()
    try:
        scheduler = Scheduler(graph, executor=executor, keep_results=False)
        assert scheduler.run().ok
    finally:
        gc.enable()
    # A thread may still be about to let go of what it has just returned.
    assert _Large.most <= 6
    gc.collect()
    assert _Large.alive == 1
    assert scheduler.run(resume=True).ok


# ---- surroundings ----------------------------------------------------------------------------------------------------


def test_a_log_handler_that_raises_does_not_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
            msg = "no room for the log"
            raise OSError(msg)

    logger = logging.getLogger("pytest_flowforge.run")
    monkeypatch.setattr(logger, "handlers", [Broken()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    run = _two().run()
    assert run.ok
    assert ["no room for the log" in note for note in run.notes] == [True]


def _prints() -> int:
    print("heard", file=sys.stderr)  # noqa: T201
    print("heard")  # noqa: T201
    return 1


def test_a_service_has_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert Scheduler(TaskGraph([Task("prints", _prints)]), executor="process", workers=1).run()["prints"] == 1


def _leaves() -> None:
    raise SystemExit(3)


class _Leaving:
    def __reduce__(self) -> Any:
        return _leaves, ()


def test_a_result_that_wants_to_exit_when_it_is_loaded_is_a_failure() -> None:
    run = Scheduler(TaskGraph([Task("leaving", _Leaving), Task("other", int)]), executor="process", workers=1).run()
    assert run.states["leaving"] is TaskState.FAILED
    assert run["other"] == 0


def test_what_can_not_be_sent_is_named() -> None:
    lock = threading.Lock()
    graph = TaskGraph(
        [
            Task("argument", lambda obj: bool(obj), arguments={"obj": lock}),  # noqa: PLW0108
            Task("closure", lambda: lock),
            Task("result", threading.Lock),
        ]
    )
    run = Scheduler(graph, executor="process", workers=1).run()
    for name, what in {"argument": "what arrives at 'obj'", "closure": "the function", "result": "the result"}.items():
        reason = run.reasons[name]  # type: ignore[index]
        assert what in reason
        assert "can not be sent between processes (TypeError: cannot pickle" in reason
        assert "executor='thread'" in reason


def test_clean_up_is_done_when_nobody_awaits_the_run_any_more() -> None:
    began, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        assert goes_on.wait(60)

    long = Workflow("long")
    long.task(slow)
    long.task(name="clean", when="always", depends_on="slow")(lambda: "done")
    long.task(name="next", depends_on="slow")(int)

    async def main() -> None:
        running = asyncio.ensure_future(long.arun())
        assert await asyncio.to_thread(began.wait, 60)
        running.cancel()
        # What was cancelled is told so before this has waited.
        await asyncio.sleep(0.1)
        assert not running.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    run = long.last
    assert run is not None
    assert run.summary.stopped == "cancelled"
    assert {name: state.value for name, state in run.states.items()} == {
        "slow": "success", "clean": "success", "next": "pending",
    }  # fmt: skip


TERMINAL = """
import sys, time
from pathlib import Path
from pytest_flowforge import Workflow, task

with Workflow("long") as long:
    @task
    def slow():
        try:
            Path("slow").touch()
            time.sleep(60)
        finally:
            Path("closed").touch()

    @task(depends_on="slow", when="always")
    def clean():
        Path("clean").touch()

if __name__ == "__main__":
    try:
        long.run(executor="process", workers=1)
    except KeyboardInterrupt:
        print({name: state.value for name, state in long.last.states.items()}, dict(long.last.errors))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_a_terminal_interrupts_what_runs_in_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(TERMINAL))
    command = [sys.executable, "script.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "slow").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        # As a terminal does: all of them.
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == "{'slow': 'interrupted', 'clean': 'success'} {}\n"
    assert (tmp_path / "closed").exists()
    assert (tmp_path / "clean").exists()
