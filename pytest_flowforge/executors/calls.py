"""A call in another process or interpreter: how it travels there, and what comes back.

Imported by those processes, so it needs little. A function of a flow file travels by value, because nobody there has
imported that file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import cloudpickle

from pytest_flowforge import measuring
from pytest_flowforge.awaiting import run_to_its_end
from pytest_flowforge.failures import Stranger, capped, qualified_members, qualified_mro, safe_text, shortened
from pytest_flowforge.starts import tell_return, tell_start
from pytest_flowforge.writers import Output, writing_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pytest_flowforge.core.model import Measures

__all__ = ["Returned", "gathering_its_own", "made", "pack", "packed", "perform", "unpack"]


@dataclass(slots=True)
class Returned:
    """What a call came to. ``value`` or ``error``; ``trace`` is the traceback of the error as text.

    ``start`` is in seconds since the epoch. ``records`` are log records whose messages are complete.
    """

    value: Any = None
    error: BaseException | None = None
    #: Class, arguments and attributes of an error that pickle does not bring back.
    parts: tuple[type[BaseException], tuple[Any, ...], dict[str, Any]] | None = None
    #: What pytest calls an outcome (``Skipped``, ``Failed``), instead of an error: its class, and its facts.
    outcome: tuple[str, dict[str, Any]] | None = None
    trace: str = ""
    #: Whether the error is that the value can not be packed, and the call itself had succeeded.
    unsendable: bool = False
    start: float = 0.0
    seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""
    records: list[logging.LogRecord] = field(default_factory=list)
    warnings: list[tuple[str, type[Warning], str, int]] = field(default_factory=list)
    #: What it has taken, and who has made it.
    measures: Measures | None = None


def pack(function: Callable[..., Any], arguments: Mapping[str, Any], filters: Iterable[Any] = ()) -> bytes:
    """Return a call as bytes; raise what pickling raises.

    *filters* are those of warnings, as :data:`warnings.filters` has them.
    """
    # What is pickled by value forgets its file, which tracebacks are to show.
    code = getattr(function, "__code__", None)
    file = getattr(code, "co_filename", "")
    return cloudpickle.dumps((function, dict(arguments), file, _packed_filters(tuple(filters)), os.getpid()))  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _packed_filters(filters: tuple[Any, ...]) -> bytes:
    """They are nearly always the same, and to pack them takes longer than all the rest."""
    return cloudpickle.dumps(filters)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def _unpacked_filters(filters: bytes) -> tuple[Any, ...]:
    return cloudpickle.loads(filters)  # type: ignore[no-any-return]


def perform(call: bytes, tell: tuple[str, int] | None = None) -> bytes:
    """Make the call that :func:`pack` has packed; return a :class:`Returned`, packed.

    ``tell`` is a file, and the place in it where to write when the call begins and returns, if that can be opened here.
    """
    if tell is None:
        return packed(made(call))
    tell_start(*tell)
    came = made(call)
    tell_return(*tell)
    return packed(came)


def made(
    call: bytes,
    inputs: Mapping[str, Any] = MappingProxyType({}),
    gathering: Callable[[Sequence[Any]], AbstractContextManager[Output]] | None = None,
) -> Returned:
    """Make the call that :func:`pack` has packed, with *inputs* besides; return what it came to.

    ``gathering(filters)`` gathers what is written meanwhile; by default that is all that this process writes.
    """
    function, arguments, file, packed_filters, home = cloudpickle.loads(call)
    filters = _unpacked_filters(packed_filters)
    with contextlib.suppress(AttributeError):
        function.__code__ = function.__code__.replace(co_filename=file)
    came = Returned(start=time.time())
    measure = _measuring(home)
    begin = time.perf_counter()
    deepest = sys.getrecursionlimit()
    output = Output()
    try:
        with (gathering or _gathering_all)(filters) as output:
            try:
                value = function(**arguments, **inputs)
                came.value = run_to_its_end(value) if inspect.iscoroutine(value) else value
            finally:
                # Before anything else: with what a task has set there may be no room for any call.
                sys.setrecursionlimit(deepest)
    except BaseException as error:  # noqa: BLE001 - whatever it is, pytest is to judge it, in its own process
        if any(cls.__name__ == "OutcomeException" for cls in type(error).__mro__):
            # These say that they are builtins, so that no other process finds their classes.
            came.outcome = (type(error).__name__, dict(vars(error)))
        else:
            came.error = error
        # The first frame is this one.
        shown = shortened(error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None))
        came.trace = capped("".join(traceback.format_exception(shown)))
    came.seconds = time.perf_counter() - begin
    came.measures = measure()
    came.stdout, came.stderr = output.stdout.getvalue(), output.stderr.getvalue()
    came.records = [_sendable(record) for record in output.records]
    came.warnings = [(str(one.message), one.category, one.filename, one.lineno) for one in output.warnings]
    return came


@contextlib.contextmanager
def _gathering_all(filters: Sequence[Any]) -> Iterator[Output]:
    output = Output()
    handler = _Gatherer(output.records)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with (
            warnings.catch_warnings(record=True) as output.warnings,
            contextlib.redirect_stdout(output.stdout),
            contextlib.redirect_stderr(output.stderr),
        ):
            _filter_warnings(filters)
            yield output
    finally:
        root.removeHandler(handler)


@contextlib.contextmanager
def gathering_its_own(filters: Sequence[Any]) -> Iterator[Output]:
    """Gather what the call writes that is made here, beside others in this process (:func:`.writers.tell_apart`)."""
    output = Output(filters=filters)
    with writing_to(output):
        yield output


def _measuring(home: int) -> Callable[[], Measures]:
    """Begin to measure; return what tells the result. *home* is the process that the call was packed in."""
    if os.getpid() != home and threading.current_thread() is threading.main_thread():
        before = measuring.of_process()
        process = sys.modules.get("multiprocessing.process")
        name = process.current_process().name if process is not None else ""
        if name in ("", "MainProcess"):
            name = f"process {os.getpid()}"
        return lambda: replace(measuring.since(before, name), seconds=None)
    # Interpreters and threads of one process.
    used, thread = measuring.of_thread(), threading.current_thread().name
    return lambda: measuring.thread_since(used, thread)


def _filter_warnings(filters: Iterable[Any]) -> None:
    """Have these filters and no others."""
    warnings.resetwarnings()
    for action, message, category, module, line in filters:
        # Those that Python itself has made are texts, and match as a whole.
        texts = [
            part.pattern if isinstance(part, re.Pattern) else "" if part is None else rf"{re.escape(part)}\Z"
            for part in (message, module)
        ]
        warnings.filterwarnings(action, texts[0], category, texts[1], line, append=True)


def unpack(data: bytes) -> Returned:
    """Return what a call came to; raise what unpickling raises."""
    came: Returned = cloudpickle.loads(data)
    if came.parts is not None:
        came.error, came.parts = _assembled(*came.parts), None
    return came


def _assembled(cls: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def packed(came: Returned) -> bytes:
    """Return *came* as bytes; where something in it can not travel, that is said in its place."""
    try:
        data: bytes = cloudpickle.dumps(came)
        if came.error is not None:
            # Exceptions are known to pickle and not to unpickle.
            cloudpickle.loads(data)
    except BaseException as wrong:  # noqa: BLE001 - it comes from methods of the value
        if came.error is None:
            came.value, came.error, came.unsendable = None, wrong, True
            came.trace = "".join(traceback.format_exception_only(wrong))
            return packed(came)
        return _packed_in_parts(came, came.error)
    return data


def _packed_in_parts(came: Returned, error: BaseException) -> bytes:
    """Pack an exception that does not pickle: its class still tells whether the task is tried again."""
    came.error = None
    for attributes in (dict(vars(error)), {}):
        came.parts = (type(error), error.args, attributes)
        with contextlib.suppress(Exception):
            data: bytes = cloudpickle.dumps(came)
            unpack(data)
            return data
    came.parts = None
    line = f"{type(error).__name__}: {capped(safe_text(error))}"
    came.error = Stranger(line, qualified_mro(error), qualified_members(error))
    return cloudpickle.dumps(came)  # type: ignore[no-any-return]


class _Gatherer(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(_sendable(record))


def _sendable(record: logging.LogRecord) -> logging.LogRecord:
    # Arguments and exceptions may not travel; what they say may.
    record.msg, record.args = record.getMessage(), None
    if record.exc_info:
        record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return record
