"""The call of a task, made elsewhere than on the main thread, and what came of it."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge import measuring
from pytest_flowforge.awaiting import run_to_its_end
from pytest_flowforge.core.model import Measures, Outcome, Success
from pytest_flowforge.plugin.guard import FORKED
from pytest_flowforge.writers import Output, writing_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Body"]

_ON_LOOP = Measures("event loop")


@dataclass(eq=False, slots=True)
class Body:
    """A call: *function* with *arguments*. Afterwards, what it returned or raised, when, and what it wrote.

    ``seconds`` is how long it took; ``start`` is in seconds since the epoch. ``tell`` is where another process is to
    write when it begins.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    value: Any = None
    error: BaseException | None = None
    #: The traceback of the error as text, where it was raised in another process.
    trace: str = ""
    start: float = 0.0
    seconds: float = 0.0
    output: Output = field(default_factory=Output)
    #: The process that makes the call.
    process: int = 0
    tell: tuple[str, int] | None = None
    #: What the call has taken, and who has made it.
    measures: Measures | None = None

    @property
    def is_coroutine(self) -> bool:
        """Whether it belongs on an event loop."""
        return inspect.iscoroutinefunction(self.function)

    def run(self) -> tuple[Outcome, Body]:
        """Make the call on this thread. What it raises is kept: what that means is judged elsewhere."""
        begin = self._begin()
        used = measuring.of_thread()
        try:
            with writing_to(self.output):
                deepest = sys.getrecursionlimit()
                try:
                    value = self.function(**self.arguments)
                    self.value = run_to_its_end(value) if inspect.iscoroutine(value) else value
                finally:
                    sys.setrecursionlimit(deepest)
        except BaseException as error:  # noqa: BLE001 - whatever it is, pytest is to see it, on the main thread
            self.error = error
        self.measures = measuring.thread_since(used, threading.current_thread().name)
        return self._end(begin)

    async def run_as_coroutine(self) -> tuple[Outcome, Body]:
        """Make the call on the event loop of this thread."""
        begin = self._begin()
        try:
            with writing_to(self.output):
                self.value = await self.function(**self.arguments)
        except BaseException as error:  # noqa: BLE001 - as above; a cancellation is the end of it, too
            self.error = error
        # The processor time of its thread is that of all coroutines there.
        self.measures = _ON_LOOP
        return self._end(begin)

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        __tracebackhide__ = True
        if self.error is not None:
            raise self.error
        return self.value

    def _begin(self) -> float:
        self.start = time.time()
        self.process = os.getpid()
        return time.perf_counter()

    def _end(self, begin: float) -> tuple[Outcome, Body]:
        if os.getpid() != self.process:
            # A child that the task has forked: it must not go on as if it were us.
            os._exit(FORKED)
        self.seconds = time.perf_counter() - begin
        # What it asked for is not kept longer than it was needed.
        self.arguments = {}
        return Success(), self
