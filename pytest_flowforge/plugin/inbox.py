"""What a worker has been asked to do, and what may interrupt it."""

from __future__ import annotations

import signal
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_flowforge.plugin.wire import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Inbox", "WorkerInterrupts"]


class Inbox:
    """What the controller has sent. Orders that have not begun can be asked back, also while a task runs."""

    def __init__(self) -> None:
        self._messages: deque[dict[str, Any] | None] = deque()
        self._changed = threading.Condition()
        #: Tells the controller about orders it has asked back; there once somebody works on them.
        self._give_back: Callable[[dict[str, Any]], None] | None = None
        #: Whether they were asked back before that.
        self._recalled = False

    def work_for(self, give_back: Callable[[dict[str, Any]], None]) -> None:
        """From now on somebody works on the orders; *give_back* tells the controller what does not begin here."""
        with self._changed:
            self._give_back = give_back
            if self._recalled:
                self._recall()

    def take_in(self, text: str | None) -> None:
        """Called by a thread of execnet, at last with None: the controller has gone."""
        message = None if text is None else decode(text)
        with self._changed:
            if message is None or message["do"] != "run":
                self._messages.append(message)
            else:
                # Said once, and true whatever becomes of the orders: they may be asked back, and then come again.
                inputs = {task: facts for order in message["orders"] for task, facts in order.pop("inputs").items()}
                grown = message.get("grown", {})
                told = {"gone": message["gone"], "away": message["away"], "grown": grown, "inputs": inputs}
                self._messages.append({"do": "learn", **told})
                self._messages.extend(message["orders"])
            if message is not None and message["do"] == "recall":
                self._recall()
            self._changed.notify()

    def recall(self) -> None:
        """Give back what has not begun."""
        with self._changed:
            self._recall()

    def _recall(self) -> None:
        if self._give_back is None:
            # They stay here until somebody can say so: dropped now, they would be nobody's.
            self._recalled = True
            return
        orders = [kept for kept in self._messages if kept is not None and "task" in kept]
        self._messages = deque(kept for kept in self._messages if kept is None or "task" not in kept)
        self._give_back({"is": "returned", "tasks": [(order["task"], order["attempt"]) for order in orders]})

    def next(self) -> dict[str, Any] | None:
        """Wait for what is to be done next; None when there is nobody to work for."""
        with self._changed:
            while not self._messages:
                self._changed.wait()
            return self._messages.popleft()


class WorkerInterrupts:
    """SIGINT in a worker: it interrupts the attempt that runs, once, and nothing else.

    A terminal sends it to all processes; what it means for the run is decided by the controller.
    """

    def __init__(self) -> None:
        self._in_attempt = False
        self._serves = False
        #: Whether the last attempt was interrupted.
        self.taken = False

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Take SIGINT, unless it is ignored; afterwards ignore it: the session ends, and nothing is left to do."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._take)
            self._serves = True
        try:
            yield
        finally:
            self._serves = False
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """While this lasts an interrupt is raised."""
        self.taken = False
        self._in_attempt = True
        try:
            yield
        finally:
            self._in_attempt = False

    def is_asked_for(self) -> bool:
        """Whether a KeyboardInterrupt that comes out of the attempt may be one of ours; else it is the task's own."""
        return self.taken or not self._serves

    def _take(self, number: int, frame: Any) -> None:
        __tracebackhide__ = True
        if self._in_attempt and not self.taken:
            self.taken = True
            signal.default_int_handler(number, frame)
