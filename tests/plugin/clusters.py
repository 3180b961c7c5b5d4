"""Dask clusters for tests: a scheduler and workers as processes of their own, on this machine, over TCP."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.plugin.conftest import MARK, SLOWER, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["KEY", "RunningCluster", "client_of", "running_cluster"]

#: What vouches for results, here and at the workers: each run has a configuration folder of its own.
KEY = "of the tests " * 3

#: Seconds that a process of a cluster has to end by itself.
_FAREWELL = 3.0

_DIES_WITH_PARENT = 1


@dataclass(frozen=True)
class RunningCluster:
    """A scheduler and its workers. ``file`` is its scheduler file; processes are by their names."""

    file: Path
    folder: Path
    environment: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """How a run is told of it."""
        # In two words, pytest takes the file for an argument, and looks for its root folder from there.
        return (f"--ff-dask-address={self.file}",)

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text(encoding="utf-8"))["address"])

    def start(self, name: str, *args: str, env: Mapping[str, str] | None = None) -> None:
        """Start ``dask *args``, which goes when whoever started it does."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *args],
                cwd=self.folder,
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_go_with_parent,  # noqa: PLW1509 - no threads that matter here
            )

    def add_worker(self, name: str, *args: str, env: Mapping[str, str] | None = None) -> None:
        """Start one more worker, of one thread unless *args* say something else."""
        threads = () if "--nthreads" in args else ("--nthreads", "1")
        where = ("--scheduler-file", str(self.file), "--local-directory", str(self.folder))
        self.start(
            name, "worker", *where, "--name", name, "--no-dashboard", "--host", "127.0.0.1", *threads, *args, env=env
        )

    @contextmanager
    def one_more_worker(self, name: str, *args: str) -> Iterator[None]:
        """Have one more worker for a while."""
        with client_of(self) as client:
            workers = len(client.scheduler_info()["workers"])
            self.add_worker(name, *args)
            try:
                client.wait_for_workers(workers + 1, timeout=30 * SLOWER)
                yield
            finally:
                _end([self.processes.pop(name)])
                # Who asks all workers next is not to ask one that has gone.
                wait_until(lambda: client.run_on_scheduler(_number_of_workers) <= workers)

    def move_to(self, folder: Path) -> None:
        """Have the workers, all of which have to be there, work in *folder*, as if they had been started there."""

        def move(folder: str) -> None:
            os.chdir(folder)
            # As in the runs of pytester.
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder

        with client_of(self) as client:
            client.wait_for_workers(len(self.processes) - 1, timeout=30 * SLOWER)
            client.run(move, str(folder))
            # And those that come after them.
            client.run(move, str(folder), nanny=True, on_error="ignore")

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """End all of its processes, whatever they are doing."""
        _end(list(self.processes.values()))


def _number_of_workers(dask_scheduler: Any = None) -> int:
    return len(dask_scheduler.workers)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    # Workers go by themselves when their nannies are told to.
    for number in (signal.SIGCONT, signal.SIGTERM):
        for process in processes:
            with suppress(OSError):
                os.killpg(process.pid, number)
    until = time.monotonic() + _FAREWELL
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.monotonic(), 0.0))
        # The group outlives its leader where a worker holds the interpreter.
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30 * SLOWER)


def _go_with_parent() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


@contextmanager
def running_cluster(
    folder: Path,
    workers: Sequence[Sequence[str]] = ((), ()),
    *,
    env: Mapping[str, str] | None = None,
    scheduler: Sequence[str] = (),
) -> Iterator[RunningCluster]:
    """Start a scheduler, and a worker for each of *workers*, which are options of theirs; all of it ends with this."""
    ours = {name: value for name, value in os.environ.items() if name != MARK and not name.startswith("PYTEST_")}
    # Workers are started by a method that needs no more than this.
    environment = {**ours, "FLOWFORGE_KEY": KEY, "XDG_CONFIG_HOME": str(folder)}
    # Python overlooks an edit within a second where it has compiled the file before.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    cluster = RunningCluster(folder / "scheduler.json", folder, environment)
    try:
        cluster.start(
            "scheduler",
            *("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-show"),
            *("--scheduler-file", str(cluster.file), *scheduler),
        )
        for number, args in enumerate(workers):
            cluster.add_worker(f"w{number}", *args)
        wait_until(lambda: cluster.file.exists() and cluster.file.read_text(encoding="utf-8").endswith("}"))
        if workers:
            with client_of(cluster) as client:
                client.wait_for_workers(len(workers), timeout=60)
        yield cluster
    finally:
        cluster.end()


@contextmanager
def client_of(cluster: RunningCluster) -> Iterator[Any]:
    """Somebody else who uses the same cluster."""
    from distributed import Client  # noqa: PLC0415 - an extra

    with Client(scheduler_file=str(cluster.file), set_as_default=False, timeout=30) as client:
        yield client
