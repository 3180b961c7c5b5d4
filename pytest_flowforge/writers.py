"""Whose call writes: what each of several calls in one process prints, logs and warns about, kept apart.

The calls are made on threads and on event loops, and a context variable tells whose call it is that writes. What a call
starts (threads of its own, child processes) has no such variable: what it writes is nobody's.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge.failures import safe_text

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Gatherer", "Output", "action_of", "split", "tell_apart", "writer", "writing_to"]


@dataclass(eq=False, slots=True)
class Output:
    """What one call has printed, logged and warned about.

    ``filters`` are its own filters for warnings, where it has any, as :data:`warnings.filters` has them.
    """

    stdout: io.StringIO = field(default_factory=io.StringIO)
    stderr: io.StringIO = field(default_factory=io.StringIO)
    records: list[logging.LogRecord] = field(default_factory=list)
    warnings: list[warnings.WarningMessage] = field(default_factory=list)
    filters: Sequence[Any] | None = None


#: Whose call this is; None outside of calls.
_WRITER: ContextVar[Output | None] = ContextVar("pytest_flowforge_writer", default=None)


def writer() -> Output | None:
    """Return what gathers for the call that is made here; None outside of calls."""
    return _WRITER.get()


@contextmanager
def writing_to(output: Output) -> Iterator[None]:
    """Let everything that is written within this context be *output*'s."""
    token = _WRITER.set(output)
    try:
        yield
    finally:
        _WRITER.reset(token)


def split(stream: Any, name: str) -> bool:
    """Have *stream* (``"stdout"`` or ``"stderr"``) tell writers apart; return whether that could be done.

    ``del stream.write`` undoes it.
    """
    write = stream.write

    def divide(text: str) -> int:
        output = _WRITER.get()
        if output is None:
            return write(text)  # type: ignore[no-any-return]
        return getattr(output, name).write(text)  # type: ignore[no-any-return]

    # A stream without attributes of its own can not be split.
    with suppress(AttributeError, TypeError):
        stream.write = divide
        return True
    return False


class Gatherer(logging.Handler):
    """Keeps the records of calls."""

    def emit(self, record: logging.LogRecord) -> None:
        output = _WRITER.get()
        if output is not None:
            output.records.append(record)


def action_of(filters: Sequence[Any], message: warnings.WarningMessage) -> str:
    """Return what the first of *filters* that fits a warning says; empty if none does."""
    text = safe_text(message.message)
    for action, pattern, category, module, line in filters:
        fits = issubclass(message.category, category) and line in (0, message.lineno)
        if fits and _matches(pattern, text) and (module is None or _matches(module, _module_of(message.filename))):
            return str(action)
    return ""


def _matches(pattern: re.Pattern[str] | str | None, text: str) -> bool:
    if pattern is None or isinstance(pattern, str):
        return pattern is None or pattern == text
    return pattern.match(text) is not None


def _module_of(file: str) -> str:
    """The name of the module in *file*, which is what filters go by, and what a warning does not tell."""
    found = (name for name, module in [*sys.modules.items()] if getattr(module, "__file__", None) == file)
    return next(found, file.removesuffix(".py"))


def tell_apart() -> None:
    """Tell writers apart in this process from now on: on its standard streams, in its log, in its warnings.

    For processes that make calls for others, on several threads: nothing undoes it.
    """
    with _LOCK:
        if _TOLD_APART:
            return
        _TOLD_APART.append(True)
        for name in ("stdout", "stderr"):
            if not split(getattr(sys, name), name):
                setattr(sys, name, _Divided(getattr(sys, name), name))
        logging.getLogger().addHandler(Gatherer())
        show: Callable[[warnings.WarningMessage], None] | None = getattr(warnings, "_showwarnmsg", None)
        if show is None:
            return

        before = tuple(warnings.filters)

        def on_warning(message: warnings.WarningMessage) -> None:
            output = _WRITER.get()
            filters = before if output is None or output.filters is None else output.filters
            action = action_of(filters, message)
            if action == "error":
                raise message.message if isinstance(message.message, Warning) else message.category(message.message)
            if action == "ignore":
                return
            if output is None:
                show(message)
            else:
                output.warnings.append(message)

        # The one place through which every warning goes that is not filtered out, whoever records warnings. What the
        # filters of the process would leave out has to come that far, for each call has filters of its own.
        warnings._showwarnmsg = on_warning  # type: ignore[attr-defined]  # noqa: SLF001
        warnings.simplefilter("always")


_LOCK = threading.Lock()
_TOLD_APART: list[bool] = []


class _Divided:
    """A stream that tells writers apart, in the place of one that can not be split."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        output = _WRITER.get()
        stream = self._stream if output is None else getattr(output, self._name)
        return stream.write(text)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
