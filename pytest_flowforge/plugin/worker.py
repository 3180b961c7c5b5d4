"""A worker process of pytest-xdist: it collects the same tasks as the controller and makes the attempts it is sent.

Nothing is decided here. The controller owns the graph, the journal and the reports; a worker gets where the results of
upstreams are, makes the attempt, stores what was returned, and tells how it ended. It takes its orders from a channel
of its own, because a worker of xdist does not begin with an item before it knows the next one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.plugin import fixtures
from pytest_flowforge.plugin.boards import WorkersBoard
from pytest_flowforge.plugin.desk import Desk
from pytest_flowforge.plugin.drawing import draw_all, is_task
from pytest_flowforge.plugin.inbox import Inbox, WorkerInterrupts
from pytest_flowforge.plugin.items import adopt
from pytest_flowforge.plugin.pytest_internals import probe
from pytest_flowforge.plugin.selecting import take_node_ids
from pytest_flowforge.plugin.wire import encode
from pytest_flowforge.plugin.xdist_internals import keep_from_children

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.collecting import Collecting
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.options import Options

__all__ = ["BOARD", "CHANNEL", "CONTROLLER", "WorkerSession"]

#: In ``config.workerinput``: the channel to the controller, its process, and the address of the worker's board.
CHANNEL = "flowforge_channel"
CONTROLLER = "flowforge_controller"
BOARD = "flowforge_board"


class WorkerSession:
    """The hooks of a worker."""

    def __init__(self, config: pytest.Config, options: Options, collecting: Collecting) -> None:
        self._config = config
        self._options = options
        self._collecting = collecting
        self._entries: dict[TaskId, Entry] = {}
        self._blueprint: Blueprint | None = None
        workerinput: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
        self._channel = workerinput[CHANNEL]
        self._board = WorkersBoard(workerinput.get(BOARD))
        self._inbox = Inbox()
        _die_with(workerinput[CONTROLLER])
        keep_from_children(self._channel)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        probe(session)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        # What was asked for more exactly is the controller's choice; here is all it may choose from.
        take_node_ids(self._config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        items[:] = [item for item in items if is_task(item)]
        adopt(items)
        directory, self._blueprint = draw_all(session, items, self._collecting, self._options)
        # What is wrong with the flows is found, and said, by the controller.
        fixtures.register_results(self._blueprint.shared)
        self._entries = dict(directory.entries)
        self._collecting.garbage.set_aside()
        result = yield
        # Whatever other plugins have chosen, and in which order: see above.
        items[:] = [entry.item for entry in self._entries.values()]
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._channel.setcallback(self._inbox.take_in, endmarker=None)
        interrupts = WorkerInterrupts()
        with interrupts.serve():
            first = self._inbox.next()
            if first is None or first["do"] != "begin" or self._blueprint is None:
                return True
            desk = Desk(
                session, self._options, self._entries, self._blueprint, first, self._send, interrupts, self._board
            )
            try:
                desk.work(self._inbox)
            finally:
                desk.close()
        return True

    def _send(self, message: dict[str, Any]) -> None:
        # Nobody there any more: this process is about to be ended.
        with suppress(OSError):
            self._channel.send(encode(message))


def _die_with(controller: int) -> None:
    """Have the system end this process when the one that started it is gone, where it can do that (Linux)."""
    if not sys.platform.startswith("linux") or os.getppid() != controller:
        return
    with suppress(Exception):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != controller:
        # It has gone in the meantime.
        os.kill(os.getpid(), signal.SIGKILL)


_PR_SET_PDEATHSIG = 1
