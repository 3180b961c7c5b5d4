"""One contract for all executors, and what those do that need more than it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.engine import Engine
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, StartAttempt, TaskMoved
from pytest_flowforge.core.model import Failure, Lost, Outcome, Skipped, Success, TaskId
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.driver import Driver, SystemClock
from pytest_flowforge.executors.coroutines import EventLoopThread
from pytest_flowforge.executors.futures import FuturesExecutor
from pytest_flowforge.executors.inline import InlineExecutor
from pytest_flowforge.executors.threads import DaemonThreads
from pytest_flowforge.ports import Executor, Finished, Job
from pytest_flowforge.testing import FakeClock
from tests.shell import jobs
from tests.shell.runs import task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Pools start processes while threads of other pools still wind down.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

#: Seconds after which a test gives up on something that takes milliseconds.
PATIENCE = 60.0

A, B, C, E = map(TaskId, "abce")


# The kinds.


def make_loky(workers: int) -> concurrent.futures.Executor:
    loky = pytest.importorskip("loky")
    pool: concurrent.futures.Executor = loky.ProcessPoolExecutor(workers)
    return pool


def make_interpreters(workers: int) -> concurrent.futures.Executor:
    kind = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    if kind is None:
        pytest.skip("interpreters of their own: Python 3.14 or later")
    pool: concurrent.futures.Executor = kind(workers)
    return pool


def make_processes(workers: int, *, method: str, **options: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), **options)


@dataclass(frozen=True)
class Kind:
    """One kind of pool; *pool* is called once to make the test skip where there is none."""

    name: str
    pool: Callable[[int], concurrent.futures.Executor] | None
    processes: bool = False

    def executor(self, slots: int = 2) -> Executor:
        if self.pool is None:
            return InlineExecutor(SystemClock())
        self.pool(1).shutdown()
        return FuturesExecutor(partial(self.pool, slots), slots, SystemClock())


KINDS = [
    Kind("inline", None),
    Kind("daemons", DaemonThreads),
    Kind("threads", ThreadPoolExecutor),
    Kind("interpreters", make_interpreters),
    Kind("fork", partial(make_processes, method="fork"), processes=True),
    Kind("spawn", partial(make_processes, method="spawn"), processes=True),
    Kind("loky", make_loky, processes=True),
]


def kinds(condition: Callable[[Kind], bool] = lambda _: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [kind for kind in KINDS if condition(kind)], ids=lambda kind: kind.name)


every_kind = kinds()
every_pool = kinds(lambda kind: kind.pool is not None)
every_process = kinds(lambda kind: kind.processes)


@pytest.fixture
def executor(kind: Kind) -> Iterator[Executor]:
    executor = kind.executor()
    yield executor
    executor.close()


def job(name: str, call: Callable[..., tuple[Outcome, Any]], /, **inputs: Any) -> Job:
    return Job(TaskId(name), 1, call, inputs)


def ends(executor: Executor, number: int) -> dict[str, Finished]:
    """Wait until *number* attempts have ended."""
    found: dict[str, Finished] = {}
    deadline = time.monotonic() + PATIENCE
    while len(found) < number:
        assert time.monotonic() < deadline, f"only {found}"
        for end in executor.wait(1.0):
            assert end.task not in found
            found[end.task] = end
    return found


def appears(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.005)
    return path.read_text(encoding="utf-8")


def has_gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


# Values and failures.


@every_kind
def test_what_jobs_return_is_their_end(executor: Executor) -> None:
    executor.start(job("a", jobs.give, value={"deep": [1, 2]}))
    executor.start(Job(B, 7, jobs.fail, {"message": "boom"}))
    assert ends(executor, 2) == {
        "a": Finished(A, 1, Success(), {"deep": [1, 2]}),
        "b": Finished(B, 7, Failure(message="boom")),
    }
    executor.start(job("c", jobs.skip, reason="nothing to do"))
    assert ends(executor, 1) == {"c": Finished(C, 1, Skipped("nothing to do"))}
    assert executor.lost == ""


@every_pool
def test_a_job_that_raises_an_exception_has_failed(executor: Executor) -> None:
    executor.start(job("a", jobs.throw, error=FileNotFoundError(2, "no such thing")))
    outcome = ends(executor, 1)["a"].outcome
    assert isinstance(outcome, Failure)
    assert outcome.message == "FileNotFoundError: [Errno 2] no such thing"
    assert outcome.mro[:2] == ("builtins.FileNotFoundError", "builtins.OSError")
    assert "raise error" in outcome.longrepr, "where it was raised, be it in another process"


@every_kind
@pytest.mark.parametrize("error", [KeyboardInterrupt("ctrl-c"), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_what_is_to_stop_the_run_comes_out_and_no_other_end_is_lost(executor: Executor, error: BaseException) -> None:
    executor.start(job("a", jobs.throw, error=error))
    executor.start(job("b", jobs.give, value=1))
    found: list[Finished] = []

    def wait_for_it() -> None:
        while True:
            found.extend(executor.wait(1.0))

    with pytest.raises(type(error)) as caught:
        wait_for_it()
    assert caught.value.args == error.args
    if not found:
        found.extend(ends(executor, 1).values())
    assert found == [Finished(B, 1, Success(), 1)]
    assert executor.wait(0.0) in ((), [])


@every_pool
def test_ends_that_are_there_when_one_stops_the_run_are_returned_by_the_next_wait(kind: Kind) -> None:
    executor = kind.executor(3)
    assert isinstance(executor, FuturesExecutor)
    executor.start(job("a", jobs.give, value=1))
    executor.start(job("b", jobs.throw, error=KeyboardInterrupt()))
    executor.start(job("c", jobs.give, value=3))
    until(lambda: len(executor._landed) == 3)
    with pytest.raises(KeyboardInterrupt):
        executor.wait(None)
    assert {end.task for end in executor.wait(None)} == {"a", "c"}
    executor.close()


def test_exceptions_of_fatal_classes_come_out_as_well() -> None:
    executor = FuturesExecutor(partial(DaemonThreads, 1), 1, SystemClock(), fatal=(LookupError,))
    executor.start(job("a", jobs.throw, error=KeyError("exit")))
    with pytest.raises(KeyError, match="exit"):
        executor.wait(None)
    executor.close()


# Waiting.


@every_pool
def test_ends_come_in_the_order_in_which_they_happen_and_all_at_once(executor: Executor, tmp_path: Path) -> None:
    assert isinstance(executor, FuturesExecutor)
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate a"))
    executor.start(job("b", jobs.pass_gate, began=tmp_path / "b", gate=tmp_path / "gate b"))
    (tmp_path / "gate b").touch()
    until(lambda: len(executor._landed) == 1)
    (tmp_path / "gate a").touch()
    until(lambda: len(executor._landed) == 2)
    assert [end.task for end in executor.wait(None)] == ["b", "a"]


@every_pool
def test_as_many_jobs_run_at_a_time_as_there_are_slots(executor: Executor, tmp_path: Path) -> None:
    assert executor.slots == 2
    for name in "ab":
        executor.start(job(name, jobs.meet, folder=tmp_path, name=name, number=2))
    assert set(ends(executor, 2)) == {"a", "b"}


@every_pool
def test_a_wait_is_no_longer_than_asked_for(executor: Executor, tmp_path: Path) -> None:
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    appears(tmp_path / "a")
    assert executor.wait(0.0) == executor.wait(-1.0) == []
    # Of this thread: what others still have to tidy up is no matter.
    before, cpu = time.monotonic(), time.thread_time()
    assert executor.wait(0.4) == []
    assert time.monotonic() - before >= 0.4
    assert time.thread_time() - cpu < 0.3, "it is not busy meanwhile"
    (tmp_path / "gate").touch()
    assert [end.task for end in executor.wait(math.inf)] == ["a"]


@every_kind
def test_with_nothing_in_flight_there_is_nothing_to_wait_for(executor: Executor) -> None:
    assert list(executor.wait(None)) == list(executor.wait(0.0)) == []


def test_with_nothing_in_flight_time_passes_by_the_clock() -> None:
    clock = FakeClock()
    executor = FuturesExecutor(partial(DaemonThreads, 1), 1, clock)
    assert executor.wait(1e9) == executor.wait(None) == []
    assert clock.slept == [1e9]
    executor.close()


# Cancelling.


@every_kind
def test_what_was_cancelled_before_it_began_is_never_executed(kind: Kind, tmp_path: Path) -> None:
    executor = kind.executor(1)
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    # Pools of processes count the one after next as begun, and loky two more.
    for name in "bcde":
        executor.start(job(name, jobs.pass_gate, began=tmp_path / name, gate=tmp_path / "gate"))
    executor.cancel(E, 1)
    executor.cancel(E, 1)
    executor.cancel(C, 2)
    (tmp_path / "gate").touch()
    assert set(ends(executor, 4)) == {"a", "b", "c", "d"}
    assert executor.slots == 1
    executor.close()
    assert not (tmp_path / "e").exists()


@kinds(lambda kind: kind.name in {"threads", "interpreters", "fork", "spawn", "loky"})
def test_what_can_not_be_stopped_keeps_its_slot_and_its_end_is_dropped(kind: Kind, tmp_path: Path) -> None:
    executor = kind.executor(3)
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    executor.start(job("b", jobs.pass_gate, began=tmp_path / "b", gate=tmp_path / "other"))
    appears(tmp_path / "a")
    executor.cancel(A, 1)
    assert executor.slots == 2
    assert executor.wait(0.0) == []
    (tmp_path / "gate").touch()
    assert executor.wait(None) == [], "it comes back because of the slot"
    assert executor.slots == 3
    (tmp_path / "other").touch()
    assert set(ends(executor, 1)) == {"b"}
    executor.close()


@kinds(lambda kind: kind.name in {"threads", "fork", "spawn", "loky"})
def test_a_pool_that_is_stuck_by_half_is_given_up_when_the_rest_has_ended(kind: Kind, tmp_path: Path) -> None:
    executor = kind.executor(2)
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    executor.start(job("b", jobs.pass_gate, began=tmp_path / "b", gate=tmp_path / "other"))
    appears(tmp_path / "a")
    appears(tmp_path / "b")
    executor.cancel(A, 1)
    assert executor.slots == 0, "nothing new goes there"
    (tmp_path / "other").touch()
    assert set(ends(executor, 1)) == {"b"}
    assert executor.slots == 2
    executor.start(job("c", jobs.give, value=3))
    assert ends(executor, 1) == {"c": Finished(C, 1, Success(), 3)}
    (tmp_path / "gate").touch()
    executor.close()


def test_a_thread_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    executor = FuturesExecutor(partial(DaemonThreads, 1), 1, SystemClock())
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    appears(tmp_path / "a")
    executor.cancel(A, 1)
    assert executor.slots == 1
    executor.start(job("b", jobs.give, value=2))
    assert ends(executor, 1) == {"b": Finished(B, 1, Success(), 2)}
    (tmp_path / "gate").touch()
    assert executor.wait(0.05) == []
    executor.close()


@every_process
def test_processes_that_hang_are_killed_when_nothing_else_could_run(executor: Executor, tmp_path: Path) -> None:
    pids = []
    for name in "ab":
        executor.start(job(name, jobs.hang, began=tmp_path / name))
    for task_id in (A, B):
        pids.append(int(appears(tmp_path / task_id)))
        executor.cancel(task_id, 1)
    assert executor.slots == 2
    assert all(map(has_gone, pids))
    executor.start(job("c", jobs.give, value=3))
    assert ends(executor, 1) == {"c": Finished(C, 1, Success(), 3)}


# Breaking.


@every_process
def test_a_crash_loses_what_was_in_the_pool_and_the_next_job_gets_another(executor: Executor, tmp_path: Path) -> None:
    executor.start(job("a", jobs.crash_at_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    executor.start(job("b", jobs.hang, began=tmp_path / "b"))
    other = int(appears(tmp_path / "b"))
    (tmp_path / "gate").touch()
    lost = ends(executor, 2)
    assert all(isinstance(end.outcome, Lost) and end.outcome.reason for end in lost.values())
    assert has_gone(other)
    assert executor.slots == 2
    executor.start(job("c", jobs.give, value=3))
    assert ends(executor, 1) == {"c": Finished(C, 1, Success(), 3)}


@kinds(lambda kind: kind.name in {"fork", "loky"})
def test_jobs_that_crash_do_not_make_the_executor_lost(executor: Executor) -> None:
    for name in "abcdef":
        executor.start(job(name, jobs.crash))
        assert isinstance(ends(executor, 1)[name].outcome, Lost)
    assert executor.lost == ""
    executor.start(job("g", jobs.give, value=7))
    assert ends(executor, 1)["g"].value == 7


@kinds(lambda kind: kind.name == "fork")
def test_no_pipe_of_a_broken_pool_is_closed_twice(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second time it is somebody else's, who has got the number in between: the next pool then hears of nothing.
    closed: list[Connection] = []
    close: Callable[[Connection], None] = Connection._close  # type: ignore[attr-defined]

    def close_slowly(pipe: Connection) -> None:
        closed.append(pipe)
        close(pipe)
        time.sleep(0.05)

    monkeypatch.setattr(Connection, "_close", close_slowly)
    executor.start(job("a", jobs.crash))
    assert isinstance(ends(executor, 1)["a"].outcome, Lost)
    executor.start(job("b", jobs.give, value=2))
    assert ends(executor, 1)["b"].value == 2
    executor.close()
    assert closed
    assert len(set(map(id, closed))) == len(closed)


@kinds(lambda kind: kind.name == "fork")
def test_a_process_that_dies_while_idle_costs_nothing(executor: Executor, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    ends(executor, 1)
    pid = int(appears(tmp_path / "a"))
    os.kill(pid, signal.SIGKILL)
    assert has_gone(pid)
    executor.start(job("b", jobs.give, value=2))
    # Told of the death before or after the job was submitted: that is for the pool to know.
    assert ends(executor, 1)["b"].outcome in (Success(), Lost(BROKEN))


BROKEN = "A process in the process pool was terminated abruptly while the future was running or pending."


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_pools_that_break_before_they_did_anything_are_not_made_for_ever() -> None:
    made: list[concurrent.futures.Executor] = []

    def make_pool() -> concurrent.futures.Executor:
        made.append(ThreadPoolExecutor(1, initializer=jobs.do_not_start))
        return made[-1]

    prepared: list[str] = []

    def prepare(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        prepared.append(job.task)
        return job.call, ()

    executor = FuturesExecutor(make_pool, 1, SystemClock(), prepare=prepare)
    executor.start(job("a", jobs.give, value=1))
    assert isinstance(ends(executor, 1)["a"].outcome, Lost)
    assert executor.lost == ""
    executor.start(job("b", jobs.give, value=2))
    assert "3 pools" in executor.lost
    assert "initializer failed" in executor.lost
    executor.start(job("c", jobs.give, value=3))
    executor.start(job("d", jobs.give, value=4))
    executor.cancel(C, 1)
    assert executor.wait(0.0) == []
    assert [left.task for left in executor.leftover()] == ["b", "d"], "those that have not begun"
    assert executor.leftover() == []
    assert len(made) == 3
    assert prepared == ["a", "b"]
    assert executor.slots == 0
    executor.close()


@kinds(lambda kind: kind.name in {"daemons", "threads", "fork"})
def test_a_broken_pool_of_a_job_is_that_jobs_failure(executor: Executor, tmp_path: Path) -> None:
    executor.start(job("b", jobs.pass_gate, began=tmp_path / "b", gate=tmp_path / "gate"))
    executor.start(job("a", jobs.break_a_pool_of_its_own))
    outcome = ends(executor, 1)["a"].outcome
    assert isinstance(outcome, Failure)
    assert outcome.message.endswith("BrokenProcessPool: somebody else's")
    (tmp_path / "gate").touch()
    assert ends(executor, 1)["b"].outcome == Success()


class Careless(concurrent.futures.Executor):
    """Takes three jobs, does none of them, and is then broken."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, _fn: Callable[..., Any], /, *_args: Any, **_kwargs: Any) -> Future[Any]:
        if len(self.futures) >= 3:
            msg = "no more"
            raise concurrent.futures.BrokenExecutor(msg)
        self.futures.append(Future())
        return self.futures[-1]


def test_a_pool_that_refuses_a_job_has_lost_the_others_but_for_those_that_have_ended() -> None:
    pools: list[concurrent.futures.Executor] = [Careless(), DaemonThreads(1)]
    first = pools[0]
    assert isinstance(first, Careless)
    executor = FuturesExecutor(lambda: pools.pop(0), 3, SystemClock())
    for name in "abc":
        executor.start(job(name, jobs.give, value=name))
    executor.cancel(C, 1)
    first.futures[0].set_result((Success(), "in time"))
    executor.start(job("d", jobs.give, value="again"))
    found = ends(executor, 3)
    assert found["a"].value == "in time"
    assert found["b"].outcome == Lost("no more")
    assert found["d"].value == "again"
    assert executor.slots == 3
    executor.close()


class Inattentive(Careless):
    """Notices that its process has died when it is given something to do."""

    def __init__(self) -> None:
        super().__init__()
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        self._processes = {process.pid: process}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.futures:
            if not self.futures[0].done():
                self.futures[0].set_exception(concurrent.futures.BrokenExecutor("noticed"))
            msg = "broken"
            raise concurrent.futures.BrokenExecutor(msg)
        return super().submit(fn, *args, **kwargs)


def test_a_death_that_the_pool_has_not_seen_is_pointed_out_to_it() -> None:
    executor = FuturesExecutor(Inattentive, 1, SystemClock())
    executor.start(job("a", jobs.give, value=1))
    assert ends(executor, 1)["a"].outcome == Lost("noticed")
    executor.close()


def test_a_future_that_somebody_else_cancels_is_lost() -> None:
    pool = Careless()
    executor = FuturesExecutor(lambda: pool, 1, SystemClock())
    executor.start(job("a", jobs.give, value=1))
    executor.start(job("b", jobs.give, value=2))
    pool.futures[0].cancel()
    pool.futures[1].set_exception(CancelledError())
    assert {type(end.outcome) for end in ends(executor, 2).values()} == {Lost}
    executor.close()


# Travelling.


def how_it_ends(executor: Executor, work: Job) -> Failure:
    """Start *work* as the driver does, for which an exception is a failure."""
    try:
        executor.start(work)
    except Exception as error:  # noqa: BLE001
        return Failure(message=f"{type(error).__name__}: {error}")
    outcome = ends(executor, 1)[work.task].outcome
    assert isinstance(outcome, Failure), outcome
    return outcome


@every_process
def test_what_can_not_travel_is_a_failure_that_says_so(executor: Executor) -> None:
    there = how_it_ends(executor, job("a", jobs.give, value=threading.Lock()))
    back = how_it_ends(executor, job("b", jobs.lock))
    for failure in (there, back):
        assert "pickle" in failure.message
    assert "lock" in there.message + there.longrepr
    assert "lock" in back.message + back.longrepr
    executor.start(job("c", jobs.give, value=3))
    assert ends(executor, 1)["c"].value == 3


def test_jobs_travel_as_those_say_who_make_them() -> None:
    def decode(work: Job, payload: Any) -> tuple[Outcome, Any]:
        if payload == "garbled":
            msg = f"{work.task}: can not be read"
            raise ValueError(msg)
        return Success(), f"{work.task} {payload}"

    def prepare(work: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return str, (work.inputs["text"],)

    executor = FuturesExecutor(partial(DaemonThreads, 1), 1, SystemClock(), prepare=prepare, decode=decode)
    executor.start(job("a", jobs.crash, text="x"))
    executor.start(job("b", jobs.crash, text="garbled"))
    found = ends(executor, 2)
    assert found["a"] == Finished(A, 1, Success(), "a x")
    outcome = found["b"].outcome
    assert isinstance(outcome, Failure)
    assert outcome.message == "ValueError: b: can not be read"
    with pytest.raises(KeyError):
        executor.start(job("c", jobs.crash))
    assert executor.wait(None) == []
    executor.close()


# Closing.


@every_process
def test_closing_leaves_no_process(kind: Kind, tmp_path: Path) -> None:
    executor = kind.executor()
    for name in "ab":
        executor.start(job(name, jobs.hang, began=tmp_path / name))
    executor.start(job("c", jobs.pass_gate, began=tmp_path / "c", gate=tmp_path / "gate"))
    pids = [int(appears(tmp_path / name)) for name in "ab"]
    executor.close()
    executor.close()
    assert all(map(has_gone, pids))
    assert not (tmp_path / "c").exists()


@every_process
def test_closing_after_all_has_ended_leaves_no_process(kind: Kind, tmp_path: Path) -> None:
    executor = kind.executor()
    (tmp_path / "gate").touch()
    executor.start(job("a", jobs.pass_gate, began=tmp_path / "a", gate=tmp_path / "gate"))
    ends(executor, 1)
    executor.close()
    assert has_gone(int(appears(tmp_path / "a")))


@kinds(lambda kind: kind.name in {"daemons", "threads"})
def test_closing_after_all_has_ended_leaves_no_thread(kind: Kind) -> None:
    before = set(threading.enumerate())
    executor = kind.executor()
    executor.start(job("a", jobs.give, value=1))
    ends(executor, 1)
    executor.close()
    # They have nothing to do any more, and are about to go.
    until(lambda: set(threading.enumerate()) <= before)


@every_kind
def test_nothing_has_to_be_started_to_be_closed(executor: Executor) -> None:
    executor.interrupt()
    executor.close()


#: These modules are looked for where they are, after everything that is installed.
LAST_RESORT = f"import sys; sys.path.append({str(Path(__file__).parents[2])!r})"

SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from pytest_flowforge.driver import SystemClock
from pytest_flowforge.executors.futures import FuturesExecutor
from pytest_flowforge.executors.threads import DaemonThreads
from pytest_flowforge.ports import Job
from tests.shell import jobs

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "daemons":
        make = DaemonThreads
    elif kind == "loky":
        from loky import ProcessPoolExecutor as make
    else:
        make = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context(kind))
    executor = FuturesExecutor(partial(make, 2), 2, SystemClock())
    executor.start(Job("a", 1, jobs.hang, {"began": folder / "a"}))
    executor.start(Job("b", 1, jobs.hang, {"began": folder / "b"}))
    # More than a pipe takes, on its way to a process that does not read.
    executor.start(Job("c", 1, jobs.give, {"value": bytes(10_000_000)}))
    executor.start(Job("d", 1, jobs.give, {"value": bytes(10_000_000)}))
    jobs.until_there(folder / "a")
    jobs.until_there(folder / "b")
    executor.close()
    print("closed", flush=True)
"""


@kinds(lambda kind: kind.processes or kind.name == "daemons")
def test_an_interpreter_exits_though_jobs_sleep_for_ever(kind: Kind, tmp_path: Path) -> None:
    kind.executor().close()
    (tmp_path / "script.py").write_text(f"{LAST_RESORT}\n{SCRIPT}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", kind.name, tmp_path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
    if kind.processes:
        assert all(has_gone(int(appears(tmp_path / name))) for name in "ab")


# Driven.


@every_kind
def test_the_same_graph_ends_the_same_everywhere(kind: Kind) -> None:
    executor = kind.executor()
    calls = {"c": partial(jobs.fail, "boom"), "s": partial(jobs.skip, "no need")}
    tasks = [
        *map(task, "abcs"),
        task("ab", "a", "b"),
        task("cd", "c"),
        task("sd", "s"),
        task("again", retry=RetryPolicy(1)),
        task("last", "ab", "again"),
    ]
    needs = {each.id: each.needs for each in tasks}
    values: dict[str, Any] = {}
    running: set[TaskId] = set()

    def make_job(command: StartAttempt) -> Job:
        running.add(command.task)
        assert len(running) <= executor.slots
        if command.task == "again" and command.attempt == 1:
            return Job(command.task, 1, jobs.fail, {"message": "not yet"})
        if command.task in calls:
            return Job(command.task, command.attempt, without_inputs, {"call": calls[command.task]})
        inputs: dict[str, int] = {need: values[need] for need in needs[command.task]}
        return Job(command.task, command.attempt, jobs.add, inputs or {"one": 1})

    def note(event: Event) -> None:
        if isinstance(event, TaskMoved) and event.before is TaskState.RUNNING:
            running.discard(event.task)

    engine = Engine(TaskGraph.build(tasks))
    Driver(engine, executor, make_job, [note], on_value=values.__setitem__).run()
    assert {name: state.value for name, state in engine.states.items()} == {
        "a": "success",
        "b": "success",
        "c": "failed",
        "s": "skipped",
        "ab": "success",
        "cd": "blocked",
        "sd": "skipped",
        "again": "success",
        "last": "success",
    }
    assert values == {"a": 1, "b": 1, "ab": 2, "again": 1, "last": 3}


def without_inputs(call: Callable[[], tuple[Outcome, Any]]) -> tuple[Outcome, Any]:
    return call()


@every_process
def test_a_task_that_crashes_is_crashed_and_the_run_goes_on(kind: Kind) -> None:
    def make_job(command: StartAttempt) -> Job:
        return Job(command.task, command.attempt, jobs.crash if command.task == "a" else jobs.add)

    engine = Engine(TaskGraph.build([task("a", exclusive=True, priority=1), task("b"), task("c", "b"), task("d", "a")]))
    Driver(engine, kind.executor(), make_job).run()
    assert {name: state.value for name, state in engine.states.items()} == {
        "a": "crashed",
        "b": "success",
        "c": "success",
        "d": "blocked",
    }


# Threads.


@pytest.fixture
def threads() -> Iterator[DaemonThreads]:
    pool = DaemonThreads(2)
    yield pool
    pool.shutdown(wait=False, cancel_futures=True)


def name_of_thread() -> str:
    return threading.current_thread().name


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Gate:
    """A call that says when it has begun and ends when it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.open = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.began.set()
        assert self.open.wait(PATIENCE)
        return value


def test_threads_start_when_needed_are_daemons_and_are_reused(threads: DaemonThreads) -> None:
    assert not threads._threads
    assert [threads.submit(name_of_thread).result(PATIENCE) for _ in range(20)] == ["flowforge-1"] * 20
    gate = Gate()
    held = threads.submit(gate)
    assert gate.began.wait(PATIENCE)
    assert threads.submit(name_of_thread).result(PATIENCE) == "flowforge-2"
    assert all(thread.daemon for thread in threads._threads)
    gate.open.set()
    held.result(PATIENCE)


def test_no_more_threads_run_than_were_asked_for(threads: DaemonThreads) -> None:
    gates = [Gate() for _ in range(3)]
    futures = [threads.submit(gate, place) for place, gate in enumerate(gates)]
    assert all(gate.began.wait(PATIENCE) for gate in gates[:2])
    assert len(threads._threads) == 2
    assert not gates[2].began.is_set()
    for gate in gates:
        gate.open.set()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one"):
        DaemonThreads(0)


def test_what_threads_raise_is_raised_by_the_future(threads: DaemonThreads) -> None:
    for error in (ValueError("boom"), SystemExit(3), KeyboardInterrupt()):
        assert threads.submit(jobs.throw, error).exception(PATIENCE) is error
    assert threads.submit(int, "7", base=8).result(PATIENCE) == 7


def test_an_abandoned_thread_makes_room_and_its_result_is_dropped() -> None:
    pool = DaemonThreads(1)
    gate = Gate()
    told: list[Future[Any]] = []
    stuck = pool.submit(gate, "late")
    stuck.add_done_callback(told.append)
    waiting = pool.submit(name_of_thread)
    assert gate.began.wait(PATIENCE)
    assert not pool.abandon(waiting)
    (thread,) = pool._threads
    assert pool.abandon(stuck)
    assert not pool.abandon(stuck)
    assert waiting.result(PATIENCE) == "flowforge-2"
    assert not pool.abandon(waiting)
    with pytest.raises(CancelledError, match="flowforge-1"):
        stuck.result(PATIENCE)
    pool.shutdown(wait=True)
    gate.open.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert told == [stuck]
    assert isinstance(stuck.exception(), CancelledError)


def test_pools_of_others_may_have_attributes_of_any_name() -> None:
    class Odd(ThreadPoolExecutor):
        slots = "many"
        lost = "and found"
        abandon = abandoned = None

    executor = FuturesExecutor(lambda: Odd(2), 2, SystemClock())
    executor.start(Job(TaskId("a"), 1, partial(jobs.give, 3)))
    assert [end.value for end in executor.wait(PATIENCE)] == [3]
    assert executor.slots == 2
    assert executor.abandoned == 0
    gate = Gate()
    executor.start(Job(TaskId("b"), 1, gate))
    assert gate.began.wait(PATIENCE)
    executor.cancel(TaskId("b"), 1)
    gate.open.set()
    executor.close()


def test_a_shutdown_does_not_wait_for_who_is_abandoned_meanwhile() -> None:
    pool = DaemonThreads(1)
    gate = Gate()
    stuck = pool.submit(gate)
    after = pool.submit(name_of_thread)
    assert gate.began.wait(PATIENCE)
    waiter = threading.Thread(target=pool.shutdown)
    waiter.start()
    until(lambda: pool._closed)
    assert waiter.is_alive()
    assert pool.abandon(stuck)
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert after.result(0) == "flowforge-2", "what was submitted before is done all the same"
    gate.open.set()


def test_a_shutdown_can_drop_what_has_not_begun() -> None:
    pool = DaemonThreads(1)
    gate = Gate()
    running, waiting = pool.submit(gate, 1), pool.submit(gate, 2)
    assert gate.began.wait(PATIENCE)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(gate)
    gate.open.set()
    pool.shutdown()
    assert running.result(0) == 1
    assert not pool._threads


def test_a_future_that_was_cancelled_is_passed_over(threads: DaemonThreads) -> None:
    gates = [Gate(), Gate()]
    held = [threads.submit(gate) for gate in gates]
    assert all(gate.began.wait(PATIENCE) for gate in gates)
    dropped, kept = threads.submit(pytest.fail, "executed"), threads.submit(name_of_thread)
    assert dropped.cancel()
    for gate in gates:
        gate.open.set()
    assert kept.result(PATIENCE).startswith("flowforge-")
    assert all(future.result(PATIENCE) is None for future in held)


def test_the_stack_of_a_future_is_where_its_thread_stands(threads: DaemonThreads) -> None:
    gate = Gate()

    def work() -> None:
        gate()

    future = threads.submit(work)
    assert gate.began.wait(PATIENCE)
    stack = threads.stack_of(future)
    assert "in work\n    gate()" in stack
    assert stack.index("in work") < stack.index("in __call__")
    assert "executors/threads.py" not in stack
    gate.open.set()
    future.result(PATIENCE)
    until(lambda: future not in threads._running)
    assert threads.stack_of(future) == threads.stack_of(Future()) == ""


COLOUR = contextvars.ContextVar("COLOUR", default="none")


def repaint() -> str:
    before = COLOUR.get()
    COLOUR.set("black")
    return before


def test_calls_see_the_context_of_their_submitter_and_keep_their_changes(threads: DaemonThreads) -> None:
    def submit(colour: str) -> Future[str]:
        COLOUR.set(colour)
        return threads.submit(repaint)

    assert contextvars.copy_context().run(submit, "red").result(PATIENCE) == "red"
    assert contextvars.copy_context().run(submit, "blue").result(PATIENCE) == "blue"
    assert threads.submit(repaint).result(PATIENCE) == threads.submit(repaint).result(PATIENCE) == "none"
    assert COLOUR.get() == "none"


# Coroutines.


@pytest.fixture
def loop() -> Iterator[EventLoopThread]:
    loop = EventLoopThread(patience=10.0)
    yield loop
    loop.close()


def here() -> contextvars.Context:
    return contextvars.copy_context()


async def answer(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def explode(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def test_a_thousand_coroutines_wait_at_once(loop: EventLoopThread) -> None:
    there = 0
    everybody = asyncio.Event()

    async def meet() -> int:
        nonlocal there
        there += 1
        if there == 1000:
            everybody.set()
        await everybody.wait()
        return there

    futures = [loop.submit(meet, here()) for _ in range(1000)]
    assert {future.result(PATIENCE) for future in futures} == {1000}


def test_a_thousand_sleep_as_long_as_one(loop: EventLoopThread) -> None:
    before = time.monotonic()
    futures = [loop.submit(partial(asyncio.sleep, 0.5, place), here()) for place in range(1000)]
    assert [future.result(PATIENCE) for future in futures] == list(range(1000))
    assert time.monotonic() - before < 50, "one after the other they take 500 seconds"


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt()])
def test_what_coroutines_raise_is_raised_by_the_future_and_the_loop_goes_on(
    loop: EventLoopThread, error: BaseException
) -> None:
    def refuse() -> Any:
        raise error

    async def by_a_child() -> None:
        await asyncio.create_task(explode(error))

    assert loop.submit(partial(explode, error), here()).exception(PATIENCE) is error
    assert loop.submit(refuse, here()).exception(PATIENCE) is error
    assert loop.submit(by_a_child, here()).exception(PATIENCE) is error
    assert loop.submit(partial(answer, 1), here()).result(PATIENCE) == 1


def test_coroutines_see_the_context_they_were_given_and_keep_their_changes(loop: EventLoopThread) -> None:
    async def repainted() -> str:
        return repaint()

    async def from_the_call(colour: str) -> tuple[str, str]:
        return colour, repaint()

    red = here()
    red.run(COLOUR.set, "red")
    assert loop.submit(repainted, red).result(PATIENCE) == "red"
    assert loop.submit(lambda: from_the_call(repaint()), red).result(PATIENCE) == ("red", "black")
    assert red[COLOUR] == "red"
    assert loop.submit(repainted, here()).result(PATIENCE) == "none"

    def from_within() -> str:
        result: str = loop.submit(repainted, red).result(PATIENCE)
        return result

    assert red.run(from_within) == "red", "a context that is in use"


def test_a_coroutine_can_be_cancelled(loop: EventLoopThread) -> None:
    began, ended = threading.Event(), threading.Event()

    async def sleep() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    future = loop.submit(sleep, here())
    assert began.wait(PATIENCE)
    loop.cancel(future)
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert ended.is_set()
    loop.cancel(future)
    loop.cancel(Future())
    assert loop.submit(partial(answer, 1), here()).result(PATIENCE) == 1


def test_a_coroutine_can_be_cancelled_before_it_begins(loop: EventLoopThread) -> None:
    gate = Gate()

    async def block() -> None:
        gate()

    blocked = loop.submit(block, here())
    assert gate.began.wait(PATIENCE)
    future = loop.submit(partial(pytest.fail, "begun"), here())
    loop.cancel(future)
    assert future.cancelled()
    gate.open.set()
    blocked.result(PATIENCE)
    assert loop.submit(partial(answer, 1), here()).result(PATIENCE) == 1


def test_what_has_not_begun_when_another_blocks_the_loop_goes_to_another_loop(loop: EventLoopThread) -> None:
    gate, free = threading.Event(), threading.Event()

    async def block(event: threading.Event) -> str:
        event.wait(PATIENCE)
        return "done"

    async def give(value: int) -> int:
        await asyncio.sleep(0)
        return value

    context = contextvars.copy_context()
    first = loop.submit(partial(block, gate), context)
    # Both come to the loop at once: neither is before the other but by the order.
    blocks = loop.submit(partial(block, free), context)
    waits = loop.submit(partial(give, 7), context)
    dropped = loop.submit(partial(give, 8), context)
    dropped.cancel()
    gate.set()
    assert first.result(PATIENCE) == "done"
    while not blocks.running():
        time.sleep(0.001)
    other = loop.replacement()
    assert other is not None
    assert waits.result(PATIENCE) == 7
    assert loop.owns(blocks)
    assert not loop.owns(waits)
    assert other.replacement() is None, "nothing blocks it"
    assert "event.wait(PATIENCE)" in loop.stack_of(blocks)
    free.set()
    assert blocks.result(PATIENCE) == "done", "it goes on where it began"
    other.close()


def test_where_a_coroutine_stands_that_waits(loop: EventLoopThread) -> None:
    began = threading.Event()

    async def inner() -> None:
        began.set()
        await asyncio.sleep(PATIENCE)

    async def outer() -> None:
        await inner()

    future = loop.submit(outer, contextvars.copy_context())
    assert began.wait(PATIENCE)
    until(lambda: "await asyncio.sleep(PATIENCE)" in loop.stack_of(future))
    shown = loop.stack_of(future)
    assert shown.index("await inner()") < shown.index("await asyncio.sleep(PATIENCE)")
    assert "coroutines.py" not in shown
    loop.cancel(future)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE)
    assert loop.stack_of(future) == ""


def test_closing_ends_all_coroutines_and_the_thread(loop: EventLoopThread) -> None:
    ended = threading.Event()

    async def sleep() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    futures = [loop.submit(sleep, here()) for _ in range(3)]
    loop.submit(partial(answer, 1), here()).result(PATIENCE)
    loop.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)
    assert ended.is_set()
    assert loop._thread is not None
    assert not loop._thread.is_alive()
    with pytest.raises(RuntimeError, match="after the event loop was closed"):
        loop.submit(sleep, here())
    loop.close()


def test_closing_does_not_wait_for_ever_for_a_coroutine_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    loop = EventLoopThread(patience=0.01)
    gate = Gate()

    async def block() -> None:
        gate()

    stuck = loop.submit(block, here())
    assert gate.began.wait(PATIENCE)
    waiting = loop.submit(partial(answer, 1), here())
    loop.close()
    with pytest.raises(CancelledError):
        stuck.result(0)
    with pytest.raises(CancelledError):
        waiting.result(0)
    gate.open.set()
    assert loop._thread is not None
    loop._thread.join(PATIENCE)
    assert not loop._thread.is_alive()
    assert not caplog.records, "a late end is no error"


def test_a_loop_that_nobody_needed_was_never_there(tmp_path: Path) -> None:
    code = """if True:
        import sys
        import pytest_flowforge.executors.coroutines
        pytest_flowforge.executors.coroutines.EventLoopThread().close()
        assert "asyncio" not in sys.modules
    """
    # Elsewhere: Python looks into the current folder first, and what is installed is to be tested.
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=PATIENCE)
