"""Every private name of pytest-xdist and execnet that this plugin leans on, in one place.

:func:`probe` asks whether they still fit when workers are wanted, and names the first that does not. What each is for:

* ``DSession.queue`` and its methods ``worker_*``: what workers tell the controller. xdist's own loop takes these events
  one by one and hands each to the method of its name; it can not wait until a given time, which retries and time-outs
  need, so the loop of this plugin does the same and leaves everything the methods do (start, crash, replacement, the
  limit of restarts) to xdist.
* ``DSession._clone_node``: workers that were ended on purpose are replaced, too, and are no crashes: they do not count
  for the limit of restarts.
* ``DSession._session``: how many tests there are, of which progress is a part.
* ``DSession.sched``, ``.shouldstop``, ``.shuttingdown``, ``.session_finished``, ``._active_nodes``: set by, or telling
  the end of, that loop.
* ``Gateway._io.popen``: the process of a worker, to name how it ended and to end it.
* ``Gateway._io.infile`` and ``.outfile``: in a worker, its pipes, which no child of it may hold.
* ``WorkerInteractor.item_index``: in a worker, the item that reports made by a test itself (subtests) are about.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Controller", "Interactor", "exit_reason", "is_worker", "keep_from_children", "kill", "process_id"]

_PARTS = (
    "queue",
    "_session",
    "sched",
    "shuttingdown",
    "session_finished",
    "_active_nodes",
    "_clone_node",
    "triggershutdown",
    "log",
)
_METHODS = ("workerready", "workerfinished", "internal_error", "errordown", "collectionfinish", "warning_recorded")


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


class Controller:
    """The side of pytest-xdist that starts workers and hears of them. Raises UsageError when it has changed."""

    def __init__(self, config: pytest.Config) -> None:
        found = config.pluginmanager.get_plugin("dsession")
        for name in (*_PARTS, *(f"worker_{method}" for method in _METHODS)):
            if not hasattr(found, name):
                msg = (
                    f"pytest-flowforge does not fit this pytest-xdist: DSession.{name} has changed. "
                    "Install a version that it was tested with, or use --ff-executor thread"
                )
                raise pytest.UsageError(msg)
        self._config = config
        self._session: Any = found

    def put(self, name: str, **arguments: Any) -> None:
        """Have :meth:`events` return this one, too; may be called by any thread."""
        self._session.queue.put((name, arguments))

    def begin(self) -> None:
        """Let xdist ask for a scheduler, as its own loop does."""
        session = self._session
        session.shouldstop = False
        session.sched = self._config.hook.pytest_xdist_make_scheduler(config=self._config, log=session.log)

    def events(self, timeout: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Wait for an event for at most *timeout* seconds (None: no limit); yield all that are there."""
        queue = self._session.queue
        try:
            yield queue.get(timeout=timeout) if timeout is None or timeout > 0 else queue.get_nowait()
            while True:
                yield queue.get_nowait()
        except Empty:
            return

    def handle(self, name: str, arguments: dict[str, Any]) -> None:
        """Let xdist do what it does about an event of its own."""
        ends = name in ("workerfinished", "errordown")
        if ends and arguments["node"] not in self._session._active_nodes:  # noqa: SLF001
            # After an internal error of the worker, which has been dealt with; it is not replaced.
            return
        collected = self._session._session.testscollected if name == "collectionfinish" else 0  # noqa: SLF001
        getattr(self._session, f"worker_{name}")(**arguments)
        if collected:
            # xdist counts what a worker has collected; with the instances of mapped tasks there are more.
            session = self._session._session  # noqa: SLF001
            session.testscollected = max(collected, session.testscollected)

    def replace(self, node: Any, why: str) -> None:
        """Start another worker for one that was ended on purpose."""
        session = self._session
        if node not in session._active_nodes:  # noqa: SLF001
            return
        self._config.hook.pytest_testnodedown(node=node, error=why)
        with suppress(KeyError):
            session.sched.remove_node(node)
        if not session.shuttingdown:
            session._clone_node(node)  # noqa: SLF001
        session._active_nodes.discard(node)  # noqa: SLF001

    def dismiss(self, node: Any, error: object) -> None:
        """A worker that is not to be replaced is gone."""
        if node not in self._session._active_nodes:  # noqa: SLF001
            return
        self._config.hook.pytest_testnodedown(node=node, error=error)
        self._session._active_nodes.discard(node)  # noqa: SLF001

    @property
    def alive(self) -> bool:
        """Whether there is a worker, or one that is being started."""
        return bool(self._session._active_nodes)  # noqa: SLF001

    @property
    def closing(self) -> bool:
        """Whether xdist starts no more workers."""
        return bool(self._session.shuttingdown)

    def shut_down(self) -> None:
        """Have xdist count on it that workers end."""
        self._session.triggershutdown()


def process_id(node: Any) -> int | None:
    """The process of a worker that lives on this machine; None for one elsewhere, or gone."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    # A worker behind ssh has a process here, too, which is not the worker.
    if process is None or not node.gateway.spec.popen:
        return None
    # The number of a process that is gone may be another's by now.
    return process.pid if process.poll() is None else None


def kill(node: Any) -> None:
    """End the process of a worker at once, and what it has started and waits for (Linux)."""
    process = process_id(node)
    children = [] if process is None else descendants(process)
    io = getattr(node.gateway, "_io", None)
    if io is not None and hasattr(io, "kill"):
        io.kill()
    for child in children:
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)


def descendants(process: int) -> list[int]:
    """The children of *process*, which lives, and theirs, as far as the system tells."""
    found = [process]
    for parent in found:
        with suppress(OSError, ValueError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found[1:]


def exit_reason(node: Any) -> str:
    """How the process of a worker that is gone has ended, in words; empty where that is not known."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if process is None:
        return ""
    try:
        status = process.wait(timeout=_PATIENCE)
    except Exception:  # noqa: BLE001 - it may be stopped, or detached: then nobody knows
        return ""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def keep_from_children(channel: Any) -> None:
    """In a worker: children that tasks fork do not have its pipes, which tell the controller that it lives."""
    io = getattr(channel.gateway, "_io", None)
    files = [file for name in ("infile", "outfile") if (file := getattr(io, name, None)) is not None]
    if not files or not hasattr(os, "register_at_fork"):
        return

    def let_go() -> None:
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_RDWR)
            for file in files:
                # Not closed: the number must not become that of another file.
                os.dup2(nothing, file.fileno(), inheritable=False)
            os.close(nothing)

    os.register_at_fork(after_in_child=let_go)


#: Seconds that a process whose pipe is closed has to end.
_PATIENCE = 2.0


class Interactor:
    """In a worker: the plugin of xdist that sends on what a test makes known by itself (subtests)."""

    def __init__(self, config: pytest.Config) -> None:
        plugins = config.pluginmanager.get_plugins()
        self._plugins: list[Any] = [plugin for plugin in plugins if type(plugin).__name__ == "WorkerInteractor"]

    def is_about(self, index: int) -> None:
        """Reports are about the item at *index* of the session."""
        for plugin in self._plugins:
            plugin.item_index = index
