"""One attempt at a task: the call of its function with what arrives there, wherever that is made.

What the function raises is kept and judged, never raised further. A call in another process travels as a
:class:`Body`, and comes back as what the executors call :class:`~pytest_flowforge.executors.calls.Returned`.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
import time
import warnings
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowforge import measuring
from pytest_flowforge.awaiting import run_to_its_end
from pytest_flowforge.core.model import Failure, FailureKind, Measures, Outcome, Skipped, Success
from pytest_flowforge.errors import SkipTask, WorkflowError
from pytest_flowforge.executors.calls import Returned, pack, perform, unpack
from pytest_flowforge.failures import failure_of, one_line, safe_text
from pytest_flowforge.results import Only

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from pytest_flowforge.ports import Job

__all__ = ["Body", "Call", "RemoteTraceback", "answer_of", "is_coroutine_function", "order_of", "text_of_time"]

_ON_LOOP = Measures("event loop")

#: That of every call that is over: what has become of it, it says itself.
_SUCCESS = Success()

#: Exit status of a child process that a task has forked and that came back to us.
_FORKED = 71


class Body:
    """A function and the resources that are opened for it. It travels, and whoever calls it needs nothing else."""

    def __init__(self, func: Callable[..., Any], resources: Mapping[str, Callable[[], Any]]) -> None:
        self.func = func
        self.resources = dict(resources)
        self.is_coroutine = is_coroutine_function(func)

    def __getstate__(self) -> dict[str, Any]:
        # What is pickled by value forgets its file, which tracebacks are to show.
        return {**vars(self), "file": getattr(getattr(self.func, "__code__", None), "co_filename", "")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state.pop("file")
        vars(self).update(state)
        if inspect.isfunction(self.func):
            self.func.__code__ = self.func.__code__.replace(co_filename=file)

    def __call__(self, **inputs: Any) -> Any:
        """Return what the function returns; for a coroutine function, what is to be awaited."""
        if self.is_coroutine:
            return self._awaited(inputs)
        if not self.resources:
            return self.func(**inputs)
        with ExitStack() as stack:
            for name, make in self.resources.items():
                inputs[name] = stack.enter_context(_opened(name, make))
            value = self.func(**inputs)
            # One that turns out to be a coroutine needs its resources until it is done.
            return run_to_its_end(value) if inspect.iscoroutine(value) else value

    async def _awaited(self, inputs: dict[str, Any]) -> Any:
        async with AsyncExitStack() as stack:
            for name, make in self.resources.items():
                inputs[name] = await stack.enter_async_context(_opened_on_loop(name, make))
            return await self.func(**inputs)


class Call:
    """An attempt, while and after it is made in this process or another.

    ``outcome`` says what became of it, ``value`` is what it returned, ``error`` what it raised. ``start`` and ``tell``
    are as in :class:`~pytest_flowforge.call_limits.Call`.
    """

    __slots__ = ("body", "error", "inputs", "measures", "outcome", "process", "start", "tell", "value")

    def __init__(self, body: Body, inputs: dict[str, Any]) -> None:
        self.body = body
        self.inputs = inputs
        self.outcome: Outcome = _SUCCESS
        self.value: Any = None
        self.error: BaseException | None = None
        self.measures: Measures | None = None
        self.start = 0.0
        self.tell: tuple[str, int] | None = None
        self.process = os.getpid()

    @property
    def is_coroutine(self) -> bool:
        """Whether it belongs on an event loop."""
        return self.body.is_coroutine

    def run(self) -> tuple[Outcome, Call]:
        """Make the call on this thread, beside others."""
        used = measuring.of_thread()
        self.run_alone()
        self.measures = measuring.thread_since(used, threading.current_thread().name)
        return _SUCCESS, self

    def run_alone(self) -> None:
        """Make the call on this thread."""
        self.start = time.time()
        deepest = sys.getrecursionlimit()
        try:
            value = self.body(**self.inputs)
            self.returned(run_to_its_end(value) if inspect.iscoroutine(value) else value)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this attempt and no more
            self.raised(error)
        finally:
            # With what a task has set there may be no room for any call.
            sys.setrecursionlimit(deepest)
        self._end()

    async def run_as_coroutine(self) -> tuple[Outcome, Call]:
        """Make the call on the event loop of this thread."""
        self.start = time.time()
        try:
            self.returned(await self.body(**self.inputs))
        except BaseException as error:  # noqa: BLE001 - as above; a cancellation is the end of it, too
            self.raised(error)
        # The processor time of its thread is that of all coroutines there.
        self.measures = _ON_LOOP
        self._end()
        return _SUCCESS, self

    def returned(self, value: Any) -> None:
        """Take note of what the function returned."""
        self.value = value
        if isinstance(value, Only):
            self.outcome, self.value = Success(value.names), value.value

    def raised(self, error: BaseException) -> None:
        """Take note of what the function raised."""
        self.error = error
        self.outcome = _outcome_of(error)

    def timed_out(self, seconds: float, stack: str = "") -> None:
        """Take note that its time was up, whatever it came to."""
        text = text_of_time(seconds)
        self.value, self.error = None, None
        self.outcome = Failure(FailureKind.TIMED_OUT, text, longrepr=f"{stack}{text}")

    def _end(self) -> None:
        if os.getpid() != self.process:
            # A child that the task has forked: it must not go on as if it were us.
            os._exit(_FORKED)
        # What it asked for is not kept longer than it was needed.
        self.inputs = {}


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in another process: how it came about there, as text."""


def text_of_time(seconds: float) -> str:
    """What is said of an attempt whose time was up."""
    return f"did not end within {seconds:g} s"


def is_coroutine_function(func: Any) -> bool:
    """Whether what *func* returns is to be awaited, as far as that can be seen."""
    while isinstance(func, partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(vars(type(func)).get("__call__"))


def _outcome_of(error: BaseException) -> Outcome:
    if isinstance(error, SkipTask):
        return Skipped(safe_text(error))
    if type(error).__name__ == "Skipped" and any(cls.__name__ == "OutcomeException" for cls in type(error).__mro__):
        # That of pytest, which need not be there.
        return Skipped(safe_text(getattr(error, "msg", "") or ""))
    return failure_of(error)


# Resources.


@contextmanager
def _opened(name: str, make: Callable[[], Any]) -> Iterator[Any]:
    made = make()
    if inspect.isgenerator(made):
        # As pytest has it for fixtures: what the task raises is not the generator's concern.
        try:
            value = next(made)
        except StopIteration:
            raise RuntimeError(_unyielding(name)) from None
        try:
            yield value
        finally:
            _finish(name, made)
    elif hasattr(type(made), "__enter__"):
        with made as value:
            yield value
    elif hasattr(type(made), "__aenter__") or inspect.isasyncgen(made) or inspect.iscoroutine(made):
        if inspect.iscoroutine(made):
            made.close()
        msg = f"the resource {name!r} is asynchronous, and so must be the task: write async def"
        raise TypeError(msg)
    else:
        yield made


def _unyielding(name: str) -> str:
    return f"the resource {name!r} has yielded nothing: it must yield once"


def _finish(name: str, generator: Any) -> None:
    try:
        next(generator)
    except StopIteration:
        return
    generator.close()
    msg = f"the resource {name!r} has yielded a second time: it may yield once"
    raise RuntimeError(msg)


@asynccontextmanager
async def _opened_on_loop(name: str, make: Callable[[], Any]) -> AsyncIterator[Any]:
    made = make()
    if inspect.iscoroutine(made):
        made = await made
    if inspect.isasyncgen(made):
        try:
            value = await anext(made)
        except StopAsyncIteration:
            raise RuntimeError(_unyielding(name)) from None
        try:
            yield value
        finally:
            async for _ in made:
                msg = f"the resource {name!r} has yielded a second time: it may yield once"
                raise RuntimeError(msg)
    elif hasattr(type(made), "__aenter__"):
        async with made as value:
            yield value
    else:
        with _opened(name, lambda: made) as value:
            yield value


# Other processes.


def order_of(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what is sent for a job; raises :class:`WorkflowError` where that can not be."""
    call: Call = job.call.__self__  # type: ignore[attr-defined]
    return perform, (packed_call(call), call.tell)


def packed_call(call: Call) -> bytes:
    """Return a call as bytes; raise :class:`WorkflowError` where it can not travel."""
    try:
        return pack(call.body, call.inputs, warnings.filters)
    except Exception as error:
        raise _unsendable(_first_unsendable(call), error) from error


def _first_unsendable(call: Call) -> str:
    for name, value in call.inputs.items():
        try:
            pack(int, {name: value})
        except Exception:  # noqa: BLE001 - methods of the value may raise anything
            return f"what arrives at {name!r}"
    return "the function, or what it closes over,"


def _unsendable(what: str, error: BaseException) -> WorkflowError:
    return WorkflowError(
        f"{what} can not be sent between processes ({one_line(error)}): "
        "use executor='thread', or make it within the task, as its resource"
    )


def answer_of(job: Job, payload: Any) -> tuple[Outcome, Any]:
    """Return what a job came to."""
    return taken_in(job, unpack(payload))


def taken_in(job: Job, came: Returned) -> tuple[Outcome, Any]:
    """Return what a job came to whose call was made elsewhere."""
    call: Call = job.call.__self__  # type: ignore[attr-defined]
    _write_again(came)
    call.start, call.measures = came.start, came.measures
    call.inputs = {}
    if came.outcome is not None:
        name, facts = came.outcome
        text = str(facts.get("msg") or "")
        call.outcome = Skipped(text) if name == "Skipped" else Failure(message=f"{name}: {text}", longrepr=came.trace)
    elif came.error is None:
        call.returned(came.value)
    else:
        call.raised(_unsendable("the result", came.error) if came.unsendable else came.error)
        if isinstance(call.outcome, Failure):
            # The traceback that the exception has here tells nothing.
            call.outcome = replace(call.outcome, longrepr=came.trace)
            if call.error is not None and call.error.__cause__ is None:
                call.error.__cause__ = RemoteTraceback(f"in another process:\n{came.trace}")
    return _SUCCESS, call


def _write_again(came: Returned) -> None:
    """Let be heard here what was printed, logged and warned about there."""
    # A service may have neither.
    if came.stdout and sys.stdout is not None:
        sys.stdout.write(came.stdout)
    if came.stderr and sys.stderr is not None:
        sys.stderr.write(came.stderr)
    for record in came.records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    for text, category, filename, line in came.warnings:
        warnings.warn_explicit(text, category, filename, line)
