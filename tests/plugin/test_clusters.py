"""Tasks on a Dask cluster, under fire: what users see when workers die, schedulers go and calls do not end.

What is the same under every executor is in ``test_executors_agree``.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import SLOWER, wait_until, words
from tests.plugin.keeping import ran_in, reused_in, states_in

pytest.importorskip("distributed")

from tests.plugin.clusters import client_of, running_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugin.clusters import RunningCluster
    from tests.plugin.conftest import Begin, Flow, Processes

    Log = Callable[[], list[str]]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
_INTERNAL, _USAGE = pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR


# ---- workers that die ------------------------------------------------------------------------------------------------


_CRASH = """
    import os, signal, time
    from log import log

    def flow_before():
        log("before")
        return bytes(200_000)

    def flow_crash(before):
        log("crash")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    def flow_read(before):
        log("read")
        assert len(before) == 200_000

    def flow_beside():
        log("beside")
        time.sleep(0.5)
        return "beside"

    import pytest

    @pytest.mark.depends_on("crash", when="all_done")
    def flow_after(before, beside):
        log("after")
        return len(before) + len(beside)
"""


def test_a_worker_that_dies_is_one_crashed_attempt(
    cluster: RunningCluster, flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    result = flow(_CRASH, "-v", *cluster.options)

    assert result.ret == _FAILED
    assert dict(words(result))["crash"] == "FAILED"
    assert states_in(pytester)["crash"] == "crashed"
    assert result.parseoutcomes() == {"passed": 4, "failed": 1}
    # What it had is read from the checkpoint by those that want it, and not made again.
    assert sorted(log()) == ["after", "before", "beside", "crash", "read"]
    result.stdout.fnmatch_lines(["*its worker tcp://127.0.0.1:* died*"])


def test_what_was_lost_with_a_worker_and_is_not_kept(cluster: RunningCluster, flow: Flow, log: Log) -> None:
    # With anything beside it, that might be sent to the other worker, which would then have it, too.
    source = """
        import os, signal
        import pytest
        from log import log

        def flow_before():
            log("before")
            return bytes(200_000)

        def flow_crash(before):
            os.kill(os.getpid(), signal.SIGKILL)

        @pytest.mark.depends_on("crash", when="all_done")
        def flow_after(before):
            return len(before)
    """
    result = flow(source, "-v", "-p", "no:cacheprovider", *cluster.options)

    assert result.ret == _FAILED
    assert dict(words(result))["after"] in ("FAILED", "ERROR")
    assert "before" in log()
    lost = "the result of before was lost with the worker that had it, and is not kept"
    result.stdout.fnmatch_lines([f"*{lost}: before runs again on --ff-resume*"])


def test_another_client_restarts_all_workers(
    cluster: RunningCluster, flow: Flow, begin: Begin, log: Log, pytester: pytest.Pytester
) -> None:
    source = """
        import time
        from log import log

        def flow_first():
            return bytes(200_000)

        def flow_slow(first):
            log("slow")
            time.sleep(30)

        def flow_last(first):
            log("last")
    """
    flow(source, "--collect-only")
    run = begin("-v", "-k", "first or slow", *cluster.options)
    wait_until(lambda: "slow" in log())
    with client_of(cluster) as client:
        client.restart(timeout=60)

    assert run.end() == _FAILED
    assert states_in(pytester) == {"first": "success", "slow": "crashed"}


def test_nothing_waits_for_a_worker_that_has_gone(flow: Flow) -> None:
    # While one worker is told to end what does not end, the other one dies; then both are started anew.
    flows = """
        import os, time, pytest

        @pytest.mark.timeout(1)
        def flow_slow():
            time.sleep(30)

        @pytest.mark.retry(1)
        def flow_dies():
            os._exit(3)

        @pytest.fixture
        def late():
            yield
            time.sleep(6)

        def flow_fails():
            raise ValueError("no")

        # A worker that is new imports pytest first.
        @pytest.mark.timeout(3)
        def flow_ends(late):
            pass
    """
    result = flow(flows, "-v", "--ff-executor", "dask", "--ff-workers", "2")
    assert result.ret == _FAILED
    result.assert_outcomes(passed=1, failed=3, errors=1)
    result.stdout.re_match_lines_random(
        [
            r".*::flow_slow FAILED \([\d.]+s, timed out\)",
            r".*::flow_dies RETRY \([\d.]+s, crashed\)",
            r".*::flow_dies FAILED \([\d.]+s, crashed, attempt 2\)",
            r".*::flow_fails FAILED \([\d.]+s\)",
            r".*::flow_ends PASSED \([\d.]+s\)",
            r".*::flow_ends ERROR \([\d.]+s, timed out\)",
        ]
    )


def test_who_waits_behind_what_kills_a_worker_has_lost_nothing(flow: Flow) -> None:
    # Quick calls wait at workers for each other. One that dies at once has no time to say that it has begun.
    flows = """
        import os, pytest

        @pytest.mark.parametrize("number", range(40))
        def flow_quick(number):
            if number % 10 == 7:
                os._exit(1)
            return number
    """
    result = flow(flows, "--ff-executor", "dask", "--ff-workers", "1")
    result.assert_outcomes(passed=36, failed=4)
    for number in (7, 17, 27, 37):
        result.stdout.fnmatch_lines_random([f"FAILED *::flow_quick[[]{number}] - its worker * died"])


# ---- schedulers that go ----------------------------------------------------------------------------------------------


_STEPS = """
    import time
    from pathlib import Path
    from log import log

    def flow_first():
        log("first")
        return bytes(100_000)

    def flow_second(first):
        log("second")
        until = time.monotonic() + 30
        while not Path("ready").exists() and time.monotonic() < until:
            time.sleep(0.02)
        return len(first)

    def flow_third(second, first):
        log("third")
        assert second == len(first) == 100_000
"""


def test_the_scheduler_is_killed(
    flow: Flow, begin: Begin, log: Log, pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow(_STEPS, "--collect-only")
    with running_cluster(tmp_path) as cluster:
        monkeypatch.setenv("FLOWFORGE_KEY", cluster.environment["FLOWFORGE_KEY"])
        cluster.move_to(pytester.path)
        run = begin("-v", "--ff-dask-timeout", "5", *cluster.options)
        wait_until(lambda: "second" in log())
        cluster.processes["scheduler"].kill()
        killed = time.monotonic()
        assert run.end() == _INTERNAL
        assert time.monotonic() - killed < 20 * SLOWER
    assert "the Dask scheduler does not answer any more" in run.output
    assert "Traceback" not in run.output

    pytester.path.joinpath("ready").touch()
    resumed = flow({}, "-v", "--ff-resume", "--ff-executor", "thread")
    assert resumed.ret == _OK
    assert reused_in(resumed) == {"first"}
    assert log() == ["second", "third"]


def test_the_scheduler_is_stopped(
    cluster: RunningCluster, flow: Flow, begin: Begin, log: Log, pytester: pytest.Pytester
) -> None:
    flow(_STEPS, "--collect-only")
    run = begin("-v", "--ff-dask-timeout", "4", *cluster.options)
    wait_until(lambda: "second" in log())
    scheduler = cluster.processes["scheduler"]
    os.kill(scheduler.pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        assert run.end() == _INTERNAL
        assert time.monotonic() - stopped < 20 * SLOWER
    finally:
        os.kill(scheduler.pid, signal.SIGCONT)
        # Nobody could stop it.
        pytester.path.joinpath("ready").touch()
    assert "the Dask scheduler does not answer any more" in run.output
    assert "continue with:" in run.output
    assert states_in(pytester)["first"] == "success"


def test_nobody_at_the_address(flow: Flow) -> None:
    begun = time.monotonic()
    result = flow("def flow_a(): ...", "--ff-dask-address=tcp://127.0.0.1:9", "--ff-dask-timeout=1")

    assert result.ret == _INTERNAL
    assert time.monotonic() - begun < 8 * SLOWER
    (result.stdout if "scheduler" in result.stdout.str() else result.stderr).fnmatch_lines(
        ["*--ff-dask-address tcp://127.0.0.1:9: no Dask scheduler answers there within 1 s*"]
    )


def test_what_is_no_address_and_no_dask(flow: Flow) -> None:
    result = flow("def flow_a(): ...", "--ff-dask-address=tcp://127.0.0.1:9", "--ff-dask-timeout=0")
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["*--ff-dask-timeout: nobody answers within 0 seconds; give more*"])

    result = flow("def flow_a(): ...", "--ff-dask-address=localhost:8786")
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["*--ff-dask-address localhost:8786: it is neither the address of a scheduler*"])

    # Dask would say so at once, and then wait for itself.
    begun = time.monotonic()
    for address, why in (
        ("http://127.0.0.1:8786", "Dask has no addresses that begin with http://: use tcp:// or tls://"),
        ("tls://127.0.0.1:9", "a certificate is needed for it: name distributed.comm.tls.client.cert*"),
    ):
        result = flow("def flow_a(): ...", f"--ff-dask-address={address}")
        assert result.ret == _USAGE
        result.stderr.fnmatch_lines([f"*--ff-dask-address {address}: {why}*"])
    assert time.monotonic() - begun < 20 * SLOWER

    files = {"conftest.py": "import sys\nsys.modules['distributed'] = None", "flow_it.py": "def flow_a(): ..."}
    result = flow(files, "--ff-executor", "dask")
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["*pip install 'pytest-flowforge?dask?'*"])


# ---- calls that do not end -------------------------------------------------------------------------------------------


# A worker that is new imports pytest first: that, too, is within the limit.
_HANGS = """
    import pytest, time
    from collections import deque
    from itertools import repeat

    @pytest.mark.timeout(3.5)
    def flow_sleeps():
        time.sleep(100)

    @pytest.mark.timeout(3.5)
    def flow_holds():
        deque(repeat(0), maxlen=0)

    @pytest.mark.depends_on("sleeps", "holds", when="all_done")
    def flow_left():
        return "left"

    @pytest.mark.depends_on("sleeps", "holds", when="all_done")
    def flow_right():
        time.sleep(0.1)
        return "right"

    def flow_end(left, right):
        assert left + right == "leftright"
"""


def test_workers_whose_calls_do_not_end_are_restarted(cluster: RunningCluster, flow: Flow) -> None:
    result = flow(_HANGS, "-v", "-o", "flowforge_timeout_grace=0.5", *cluster.options)

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"passed": 3, "failed": 2}
    result.stdout.fnmatch_lines(["*time.sleep(100)*", "Failed: Timeout (>3.5s) from pytest-timeout."])
    result.stdout.no_fnmatch_line("*a thread less for us*")


def test_a_worker_that_others_use_is_not_restarted(cluster: RunningCluster, flow: Flow) -> None:
    source = """
        import pytest, time

        # It is to sleep when its time is up: a worker that is new imports pytest first.
        @pytest.mark.timeout(2)
        def flow_sleeps():
            time.sleep(8)

        @pytest.mark.depends_on("sleeps", when="all_done")
        def flow_after():
            return "after"
    """
    with client_of(cluster) as client:
        before = set(client.scheduler_info()["workers"])
        data = [client.scatter(b"of others", workers=[worker], hash=False) for worker in before]
        result = flow(source, "-v", "-o", "flowforge_timeout_grace=0.2", *cluster.options)

        assert client.gather(data) == [b"of others"] * 2
        assert set(client.scheduler_info()["workers"]) == before
    assert words(result) == [("sleeps", "FAILED"), ("after", "PASSED")]
    result.stdout.fnmatch_lines(["*1 call goes on at the worker tcp://* that nobody waits for: it is not restarted*"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_frees_the_cluster(
    cluster: RunningCluster, flow: Flow, begin: Begin, log: Log, number: int
) -> None:
    source = """
        import time
        from log import log

        def flow_busy():
            while True:
                log("busy")
                time.sleep(0.05)

        def flow_next(busy):
            log("next")
    """
    flow(source, "--collect-only")
    with client_of(cluster) as client:
        data = client.scatter(b"of others", hash=False)
        run = begin("-v", *cluster.options)
        wait_until(lambda: "busy" in log())
        run.kill(number)
        told = time.monotonic()
        assert run.end() == _INTERRUPTED
        assert time.monotonic() - told < 12 * SLOWER

        def is_silent() -> bool:
            log()
            time.sleep(0.3)
            return not log()

        def is_free() -> bool:
            tasks = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
            return not [key for key in tasks if key.startswith("flowforge:")]

        # A worker that stands still just then takes notice when it goes on.
        wait_until(is_silent, 10)
        wait_until(is_free, 10)
        assert client.gather(data) == b"of others"


# ---- results ---------------------------------------------------------------------------------------------------------


_MEMORY = r"""
    import re

    def pytest_sessionfinish(session):
        with open("/proc/self/status") as status, open("memory.txt", "w") as file:
            file.write(str(1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read())[1])))
"""

_ARRAYS = """
    import numpy
    from pathlib import Path
    from log import log

    SIZE = int(Path("size").read_text())

    def flow_one():
        log("one")
        return numpy.ones(SIZE, dtype="uint8")

    def flow_two(one):
        return one + 1

    def flow_three(two):
        return two + 1

    def flow_four(three):
        return three + 1

    def flow_five(four):
        log("five")
        assert Path("ready").exists()
        assert four.sum() == 4 * SIZE
"""


def _memory_of(pytester: pytest.Pytester) -> int:
    return int(pytester.path.joinpath("memory.txt").read_text(encoding="utf-8"))


def test_large_results_do_not_come_here(
    cluster: RunningCluster, flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    files = {"flow_it.py": _ARRAYS, "conftest.py": _MEMORY}
    pytester.path.joinpath("ready").touch()
    pytester.path.joinpath("size").write_text("1000", encoding="utf-8")
    assert flow(files, *cluster.options).ret == _OK
    base = _memory_of(pytester)
    pytester.path.joinpath("ready").unlink()
    pytester.path.joinpath("size").write_text("100000000", encoding="utf-8")
    log()

    assert flow({}, *cluster.options).ret == _FAILED
    assert _memory_of(pytester) - base < 50e6
    pytester.path.joinpath("ready").touch()
    resumed = flow({}, "-v", "--ff-resume", *cluster.options)
    assert resumed.ret == _OK
    assert reused_in(resumed) == {"one", "two", "three", "four"}
    # A worker has loaded it; here it was only verified, piece by piece.
    assert _memory_of(pytester) - base < 90e6
    assert log() == ["one", "five", "five"]


def test_workers_with_another_key_store_nothing(
    cluster: RunningCluster, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "another key " * 4)
    source = """
        def flow_made():
            return bytes(100_000)

        def flow_read(made):
            assert len(made) == 100_000
    """
    result = flow(source, "-v", *cluster.options)

    assert result.ret == _OK
    told = "flowforge: Dask workers have another FLOWFORGE_KEY than this process and keep no results: they are fetched"
    assert [line for line in result.errlines if "FLOWFORGE_KEY" in line] == [told]
    again = flow({}, "-v", "--ff-resume", *cluster.options)
    assert again.parseoutcomes()["reused"] == 2
    monkeypatch.setenv("FLOWFORGE_KEY", "a third key " * 4)
    result = flow({}, "-v", "-o", "flowforge_dask_fetch=0", *cluster.options)
    result.stdout.fnmatch_lines(["*the result of made (0 MB) is on the cluster alone, whose workers do not see *"])


def test_fixtures_that_can_not_travel_are_named(cluster: RunningCluster, flow: Flow) -> None:
    source = """
        import sqlite3, threading
        import pytest

        @pytest.fixture
        def database():
            with sqlite3.connect(":memory:") as connection:
                yield connection

        @pytest.fixture
        def lock():
            return threading.Lock()

        @pytest.fixture
        def file(tmp_path):
            with open(tmp_path / "it", "w") as file:
                yield file

        @pytest.fixture
        def path(tmp_path):
            return tmp_path

        def flow_database(database): ...

        def flow_lock(lock): ...

        def flow_file(file): ...

        def flow_path(path):
            assert path.is_dir()
    """
    result = flow(source, "-v", *cluster.options)

    assert result.ret == _FAILED
    assert sorted(words(result)) == [
        *[("database", "FAILED"), ("file", "FAILED"), ("lock", "FAILED"), ("path", "PASSED")],
    ]
    for line in (
        "the value of the parameter 'database' (sqlite3.Connection) can not be sent to another process",
        "the value of the parameter 'lock' (_thread.lock) can not be sent to another process",
        "the value of the parameter 'file' (_io.TextIOWrapper) can not be sent to another process",
    ):
        result.stdout.fnmatch_lines([f"*{line}*"])


# ---- code ------------------------------------------------------------------------------------------------------------


_HELPERS = {
    "pack/__init__.py": "from .numbers import base",
    "pack/numbers.py": "from . import deeper\n\ndef base():\n    return deeper.NUMBER",
    "pack/deeper.py": "NUMBER = 1",
    "helper.py": "from pack import base\n\ndef value():\n    return base() * 10",
    "late.py": "NUMBER = 100",
    "flow_it.py": """
        import helper

        def flow_value():
            import late
            from pack.deeper import NUMBER
            return helper.value(), NUMBER, late.NUMBER

        def flow_show(value):
            print("the value is", value)
    """,
}


def test_helper_modules_are_what_they_are_here(cluster: RunningCluster, flow: Flow) -> None:
    flow(_HELPERS, "-s", "-rP", *cluster.options).stdout.fnmatch_lines(["*the value is (10, 1, 100)*"])

    edited = {"pack/deeper.py": "NUMBER = 2", "late.py": "NUMBER = 200"}
    flow(edited, "-rP", *cluster.options).stdout.fnmatch_lines(["*the value is (20, 2, 200)*"])


def _older(folder: Path) -> Path:
    """What a worker loads to be one with an older version."""
    preload = folder / "older.py"
    preload.write_text(
        "import importlib.metadata as metadata\n"
        "def version(name, version=metadata.version):\n"
        "    return '0.0.1' if name == 'pytest-flowforge' else version(name)\n"
        "metadata.version = version\n",
        encoding="utf-8",
    )
    return preload


def test_a_worker_with_another_version_that_comes_late(
    cluster: RunningCluster, flow: Flow, begin: Begin, log: Log, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    source = """
        import time
        from pathlib import Path
        import pytest
        from distributed import get_worker
        from log import log

        def flow_first():
            log("first")
            while not Path("ready").exists():
                time.sleep(0.02)

        @pytest.mark.parametrize("number", range(4))
        def flow_next(first, number):
            log(get_worker().name)
    """
    flow(source, "--collect-only")
    run = begin("-v", *cluster.options)
    wait_until(lambda: "first" in log())
    with cluster.one_more_worker("older", "--preload", str(_older(tmp_path)), "--name", "older"):
        wait_until(lambda: "a Dask worker has come that is not like this process: tcp://" in run.output)
        pytester.path.joinpath("ready").touch()
        assert run.end() == _OK
    assert "has pytest-flowforge 0.0.1, and here it is" in run.output
    assert "older" not in log()


def test_a_dashboard_is_shown(flow: Flow, tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    with running_cluster(tmp_path) as cluster:
        flow("def flow_a(): ...", *cluster.options).stdout.fnmatch_lines(["flowforge: Dask at *, dashboard http://*"])


def test_a_server_without_a_dashboard_is_not_shown(flow: Flow, tmp_path: Path) -> None:
    with running_cluster(tmp_path, scheduler=["--no-dashboard"]) as cluster:
        result = flow("def flow_a(): ...", *cluster.options)
    result.stdout.fnmatch_lines(["flowforge: Dask at *, 2 workers, 2 threads"])


def test_an_address_that_others_reach_is_said_with_q_too(flow: Flow, tmp_path: Path) -> None:
    from distributed.utils import get_ip  # noqa: PLC0415 - an extra

    if ipaddress.ip_address(get_ip()).is_loopback:
        pytest.skip("this machine has no address that others reach")
    with running_cluster(tmp_path, scheduler=["--host", get_ip()]) as cluster:
        address = cluster.address
        result = flow("def flow_a(): ...", "-q", *cluster.options)
    assert result.ret == _OK
    result.stdout.no_fnmatch_line("*Dask at*")
    result.stdout.fnmatch_lines([f"flowforge: whoever reaches {address} can run code there: tls://*"])


def test_workers_with_other_versions(cluster: RunningCluster, flow: Flow, tmp_path: Path) -> None:
    preload = _older(tmp_path)
    with cluster.one_more_worker("older", "--preload", str(preload)):
        result = flow("def flow_a(): ...", *cluster.options)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(
        ["*the workers of tcp://* are not alike: tcp://* has pytest-flowforge 0.0.1, and here*"]
    )


def test_a_task_that_uses_the_cluster_itself(cluster: RunningCluster, flow: Flow) -> None:
    source = """
        from distributed import worker_client

        def flow_sum():
            with worker_client() as client:
                return sum(client.gather(client.map(abs, [-1, 2, -3])))

        def flow_check(sum):
            assert sum == 6
    """
    result = flow(source, "-v", *cluster.options)
    assert words(result) == [("sum", "PASSED"), ("check", "PASSED")]


# ---- particular workers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Workers that do not see the checkpoint: one with four threads, one with a resource, one with little memory."""
    folder = tmp_path_factory.mktemp("odd")
    preload = folder / "blind.py"
    preload.write_text(
        "from pytest_flowforge.storage.places import Place\n"
        "def open(*args, **options):\n"
        "    raise FileNotFoundError('not here')\n"
        "Place.open = open\n",
        encoding="utf-8",
    )
    blind = ("--preload", str(preload))
    workers = [
        (*blind, "--nthreads", "4", "--resources", "MANY=4"),
        (*blind, "--resources", "GPU=1", "--no-nanny"),
        (*blind, "--resources", "SMALL=1", "--memory-limit", "300MB"),
    ]
    with running_cluster(folder, workers) as cluster:
        yield cluster


@pytest.fixture
def odd(
    odd_cluster: RunningCluster,
    flow: Flow,  # noqa: ARG001 - it sets the environment
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningCluster:
    monkeypatch.setenv("FLOWFORGE_KEY", odd_cluster.environment["FLOWFORGE_KEY"])
    odd_cluster.move_to(pytester.path)
    return odd_cluster


def test_workers_that_do_not_see_the_checkpoint(odd: RunningCluster, flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        def flow_small():
            return bytes(100_000)

        def flow_large():
            return bytes(3_000_000)

        def flow_read(small, large):
            assert (len(small), len(large)) == (100_000, 3_000_000)
    """
    result = flow(source, "-v", "-o", "flowforge_dask_fetch=1", *odd.options)

    assert result.ret == _OK
    result.stdout.fnmatch_lines(["*the result of large (3 MB) is on the cluster alone, whose workers do not see*"])
    result.stdout.no_fnmatch_line("*the result of small*")
    assert flow({}, "-v", "--ff-resume", *odd.options).ret == _OK
    assert ran_in(pytester) == ["large", "read"]


def test_four_tasks_at_once_in_one_worker_are_told_apart(odd: RunningCluster, flow: Flow) -> None:
    source = """
        import logging, time, warnings
        import pytest

        @pytest.mark.pool("many")
        @pytest.mark.parametrize("number", range(8))
        def flow_noisy(number):
            for _ in range(20):
                print(f"printed by {number}")
                time.sleep(0.01)
            logging.getLogger().warning("logged by %d", number)
            warnings.warn(f"warned by {number}")
            assert False
    """
    options = ("--ff-pool", "many=4", "-o", "flowforge_dask_resources=many=MANY")
    result = flow(source, *options, *odd.options)

    assert result.ret == _FAILED
    parts = result.stdout.str().split("_ flow_noisy[")[1:]
    assert len(parts) == 8
    for part in parts:
        number = part.partition("]")[0]
        shown = part.partition("warnings summary")[0]
        assert shown.count(f"printed by {number}\n") == 20
        assert shown.count("printed by") == 20
        assert shown.count("logged by") == shown.count(f"logged by {number}") == 1
    assert {f"warned by {number}" in result.stdout.str() for number in range(8)} == {True}


def test_pools_are_resources_and_priority_is_passed_on(odd: RunningCluster, flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from distributed import get_worker
        from log import log

        @pytest.mark.pool("gpu")
        @pytest.mark.parametrize("number", range(3))
        def flow_model(number):
            log(get_worker().name)

        @pytest.mark.priority(7)
        def flow_first():
            # Others come meanwhile.
            tasks = list(get_worker().state.tasks.values())
            log([str(-task.priority[0]) for task in tasks if task.key.startswith("flowforge:first")])
    """
    options = ("--ff-pool", "gpu=2", "-o", "flowforge_dask_resources=gpu=GPU")
    result = flow(source, *options, *odd.options)

    assert result.ret == _OK
    assert sorted(log()) == ["['7']", "w1", "w1", "w1"]


def test_a_worker_with_too_little_memory(odd: RunningCluster, flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import time
        import pytest

        @pytest.mark.pool("small")
        def flow_greedy():
            kept = bytearray(b"1" * 600_000_000)
            time.sleep(20)

        def flow_other():
            return 1
    """
    options = ("--ff-pool", "small=1", "-o", "flowforge_dask_resources=small=SMALL")
    result = flow(source, "-v", *options, *odd.options)

    assert dict(words(result)) == {"greedy": "FAILED", "other": "PASSED"}
    assert states_in(pytester)["greedy"] == "crashed"


def test_a_resource_that_no_worker_has(odd: RunningCluster, flow: Flow, begin: Begin) -> None:
    source = """
        import pytest

        @pytest.mark.pool("tpu")
        def flow_model(): ...
    """
    flow(source, "--ff-pool", "tpu=1", "--collect-only")
    run = begin("--ff-pool", "tpu=1", "-o", "flowforge_dask_resources=tpu", *odd.options)
    wait_until(lambda: "no Dask worker has 1 of the resource tpu (the most is 0)" in run.output)
    run.kill(signal.SIGINT)
    assert run.end() == _INTERRUPTED


def test_a_worker_without_a_nanny_loses_a_thread(odd: RunningCluster, flow: Flow) -> None:
    source = """
        import pytest, time

        @pytest.mark.pool("gpu")
        # As above.
        @pytest.mark.timeout(2)
        def flow_hangs():
            time.sleep(8)

        @pytest.mark.depends_on("hangs", when="all_done")
        def flow_after(): ...
    """
    options = ("--ff-pool", "gpu=1", "-o", "flowforge_dask_resources=gpu=GPU", "-o", "flowforge_timeout_grace=0.2")
    result = flow(source, "-v", *options, *odd.options)

    assert words(result) == [("hangs", "FAILED"), ("after", "PASSED")]
    result.stdout.fnmatch_lines(["*1 call goes on at the worker tcp://*could not be restarted (*nanny*"])


# ---- other clusters --------------------------------------------------------------------------------------------------


def test_a_cluster_of_its_own(flow: Flow, log: Log) -> None:
    result = flow(_CRASH, "-v", "--ff-executor", "dask", "--ff-workers", "2")

    assert result.ret == _FAILED
    assert result.parseoutcomes() == {"passed": 4, "failed": 1}
    assert sorted(log()) == ["after", "before", "beside", "crash", "read"]
    result.stdout.fnmatch_lines(["flowforge: Dask at tcp://127.0.0.1:*, 2 workers, 2 threads*"])


def test_a_cluster_of_its_own_goes_with_its_run(flow: Flow, begin: Begin, processes: Processes, log: Log) -> None:
    source = """
        from collections import deque
        from itertools import repeat
        from log import log

        def flow_holds():
            log("holds")
            deque(repeat(0), maxlen=0)
    """
    flow(source, "--collect-only")
    run = begin("--ff-executor", "dask", "--ff-workers", "1")
    wait_until(lambda: "holds" in log())
    run.kill(signal.SIGKILL)
    run.end()
    assert processes.after(20.0 * SLOWER) == {}


def test_ctrl_c_on_a_terminal_is_for_the_run(flow: Flow, begin: Begin, processes: Processes, log: Log) -> None:
    """And not for the workers that it has started, which get it, too."""
    source = """
        import subprocess, sys, time
        import pytest
        from log import log

        CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"

        def flow_busy():
            log(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True).stdout.strip())
            while True:
                time.sleep(0.05)

        def flow_next(busy): ...

        @pytest.mark.depends_on("busy", when="always")
        def flow_tidy():
            log("tidy")
    """
    flow(source, "--collect-only")
    run = begin("-v", "--ff-executor", "dask", "--ff-workers", "2")
    wait_until(lambda: "True" in log())
    run.kill_all(signal.SIGINT)
    assert run.end() == _INTERRUPTED
    assert "Traceback" not in run.output
    assert "1 interrupted: busy" in run.output
    assert log() == ["tidy"]
    assert processes.after(20.0 * SLOWER) == {}


def test_workers_that_come_late(flow: Flow, begin: Begin, tmp_path: Path) -> None:
    flow("def flow_a(): return 1\ndef flow_b(a): assert a == 1", "--collect-only")
    with running_cluster(tmp_path, workers=()) as cluster:
        run = begin(*cluster.options)
        wait_until(lambda: "the Dask cluster has no workers: tasks wait until there are some" in run.output)
        cluster.add_worker("late")
        assert run.end() == _OK
    assert "no workers yet" in run.output


_ADAPTIVE = """
    import sys
    from distributed import LocalCluster

    if __name__ == "__main__":
        options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=0, threads_per_worker=1, **options) as cluster:
            cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
            print(cluster.scheduler_address, flush=True)
            sys.stdin.read()
"""


def test_an_adaptive_cluster(flow: Flow, pytester: pytest.Pytester) -> None:
    import textwrap  # noqa: PLC0415

    script = pytester.path / "adaptive.py"
    script.write_text(textwrap.dedent(_ADAPTIVE), encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        source = """
            import time

            def flow_a():
                return bytes(100_000)

            def flow_b(a):
                time.sleep(0.3)
                return a

            def flow_c(a, b):
                assert a == b
        """
        result = flow(source, "-v", f"--ff-dask-address={address}")
        assert words(result) == [("a", "PASSED"), ("b", "PASSED"), ("c", "PASSED")]
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        process.kill()


def test_tls(flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificates here")
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    settings = {f"{tls}CA_FILE": str(certificate), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        settings[f"{tls}{role}__CERT"], settings[f"{tls}{role}__KEY"] = str(certificate), str(key)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with running_cluster(tmp_path, [], scheduler=["--protocol", "tls"]) as cluster:
        cluster.add_worker("w0")
        assert cluster.address.startswith("tls://")
        result = flow(
            "def flow_a(): return 1\ndef flow_b(a): assert a == 1", "-v", f"--ff-dask-address={cluster.address}"
        )
    assert words(result) == [("a", "PASSED"), ("b", "PASSED")]
    result.stdout.no_fnmatch_line("*can run code there*")
