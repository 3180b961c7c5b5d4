"""Workflows in code on a Dask cluster: one of their own, and one that somebody has a client of."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge import TaskFailed, Workflow, WorkflowError, task
from pytest_flowforge.core.states import TaskState

distributed = pytest.importorskip("distributed")
np = pytest.importorskip("numpy")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUCCESS, CRASHED, TIMED_OUT = TaskState.SUCCESS, TaskState.CRASHED, TaskState.TIMED_OUT


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a cluster of two workers, of one thread each."""
    # Nannies set variables for their workers in this process, a seed of hashes among them, and leave them there.
    before = dict(os.environ)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def test_values_of_all_sizes_come_back(client: Any) -> None:
    with Workflow("sizes") as sizes:

        @task
        def large() -> Any:
            return np.ones(100_000)

        @task(retries=1)
        async def total(large: Any) -> float:
            return float(large.sum())

        @task
        def told(total: float) -> str:
            return f"{total:.0f}"

    run = sizes.run(executor=client)
    run.raise_for_failure()
    assert run["told"] == "100000"
    assert run["large"].sum() == 100_000
    # The client is somebody else's.
    assert client.submit(len, "abc").result() == 3


def test_a_call_that_dies_or_hangs_is_stopped_and_nothing_else(client: Any) -> None:
    theirs = client.submit(lambda: 42)
    assert theirs.result() == 42
    with Workflow("faults") as faults:

        @task
        def dies() -> None:
            os._exit(3)

        @task(timeout=1)
        def hangs() -> None:
            time.sleep(60)

        @task(depends_on=[dies, hangs], when="all_done")
        def clean_up() -> str:
            return "clean"

    begun = time.monotonic()
    run = faults.run(executor=client)
    assert run.states == {"dies": CRASHED, "hangs": TIMED_OUT, "clean_up": SUCCESS}
    assert run["clean_up"] == "clean"
    assert time.monotonic() - begun < 55
    with pytest.raises(TaskFailed, match=r"its worker tcp://127\.0\.0\.1:\d+ died"):
        run["dies"]


def test_a_cluster_of_its_own_goes_with_the_run() -> None:
    with Workflow("own") as own:

        @task
        def where() -> int:
            return os.getpid()

        @task
        def what_can_not_travel() -> Any:
            return {"deep": [threading.Lock()]}

    before = dict(os.environ)
    run = own.run(executor="dask", workers=1)
    assert dict(os.environ) == before
    there = run["where"]
    assert there != os.getpid()
    until = time.monotonic() + 60
    while _lives(there) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(there)
    with pytest.raises(WorkflowError, match=r"result\['deep'\]\[0\]: _thread\.lock"):
        run["what_can_not_travel"]


_UNGUARDED = """\
from pytest_flowforge import Workflow, task

with Workflow("unguarded") as unguarded:

    @task
    def one():
        return 1

unguarded.run(executor="dask", workers=1)
"""


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(_UNGUARDED, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('in a script, run() has to stand below `if __name__ == "__main__":`')


def test_an_asynchronous_client_is_refused() -> None:
    async def ask() -> None:
        async with distributed.Client(processes=False, dashboard_address="127.0.0.1:0", asynchronous=True) as client:
            with pytest.raises(WorkflowError, match="asynchronous"):
                Workflow("empty").run(executor=client)

    asyncio.run(ask())


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
