"""What a task prints, logs and warns about, kept apart from that of all others that run at the same time.

The calls of tasks run on threads and on an event loop, and a context variable tells whose call it is that writes. What
was gathered is written again when the call is reported, on the main thread, where pytest and its plugins expect it.
What a task starts (threads of its own, child processes) has no such variable; pytest captures it, and it is nobody's.
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

    import pytest

__all__ = ["Attribution", "Output", "writing_to"]


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

#: Handlers of pytest's logging plugin that show what a test has logged.
_HANDLERS = ("caplog_handler", "report_handler", "log_cli_handler", "log_file_handler")


@contextmanager
def writing_to(output: Output) -> Iterator[None]:
    """Let everything that is written within this context be *output*'s."""
    token = _WRITER.set(output)
    try:
        yield
    finally:
        _WRITER.reset(token)


class Attribution:
    """Gathers what calls write while it is served, and writes it again where it belongs."""

    def __init__(self, config: pytest.Config) -> None:
        self._shown_at_once = config.option.capture == "no"
        plugin: Any = config.pluginmanager.get_plugin("logging-plugin")
        self._handlers: list[logging.Handler] = [
            handler for name in _HANDLERS if (handler := getattr(plugin, name, None)) is not None
        ]
        self._log_level: int | None = getattr(plugin, "log_level", None)
        #: Streams that tell writers apart, with what they are called; by id, because a stream may not be hashable.
        self._streams: dict[int, Any] = {}
        self._show: Callable[[warnings.WarningMessage], None] | None = None
        #: The filters for warnings of items that have some of their own, as :data:`warnings.filters` has them.
        self.filters: dict[pytest.Item, Sequence[Any]] = {}
        #: The item that is being set up or torn down, outside of calls.
        self.item: pytest.Item | None = None

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Tell writers apart as long as this lasts."""
        root = logging.getLogger()
        gatherer, level = _Gatherer(), root.level
        root.addHandler(gatherer)
        if self._log_level is not None:
            root.setLevel(min(level, self._log_level))
        for handler in self._handlers:
            handler.addFilter(_is_nobodys)
        # Between two phases pytest captures nothing, and threads go on writing.
        self.watch()
        # The one place through which every warning goes that is not filtered out, whoever records warnings.
        self._show = getattr(warnings, "_showwarnmsg", None)
        if self._show is not None:
            warnings._showwarnmsg = self._on_warning  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            yield
        finally:
            if self._show is not None:
                warnings._showwarnmsg = self._show  # type: ignore[attr-defined]  # noqa: SLF001
            for handler in self._handlers:
                handler.removeFilter(_is_nobodys)
            root.setLevel(level)
            root.removeHandler(gatherer)
            for stream in self._streams.values():
                with suppress(AttributeError):
                    del stream.write
            self._streams.clear()

    def watch(self) -> None:
        """Tell writers apart on the standard streams of this moment, too: pytest changes them from phase to phase."""
        if not self._shown_at_once:
            self._split(sys.stdout, "stdout")
            self._split(sys.stderr, "stderr")

    def write_again(self, output: Output) -> None:
        """Write what was gathered, on behalf of the item whose call is being reported."""
        sys.stdout.write(output.stdout.getvalue())
        sys.stderr.write(output.stderr.getvalue())
        for record in output.records:
            for handler in self._handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
        if self._show is not None:
            for message in output.warnings:
                self._show(message)

    def _split(self, stream: Any, name: str) -> None:
        if id(stream) in self._streams:
            return
        write = stream.write

        def split(text: str) -> int:
            writer = _WRITER.get()
            if writer is None:
                return write(text)  # type: ignore[no-any-return]
            return getattr(writer, name).write(text)  # type: ignore[no-any-return]

        # A stream without attributes of its own can not be split, and is no stream of pytest's.
        with suppress(AttributeError, TypeError):
            stream.write = split
            self._streams[id(stream)] = stream

    def _on_warning(self, message: warnings.WarningMessage) -> None:
        writer = _WRITER.get()
        filters = writer.filters if writer is not None else self._filters_of_the_phase()
        action = "" if filters is None else _action(filters, message)
        if action == "error":
            raise message.message if isinstance(message.message, Warning) else message.category(message.message)
        if action == "ignore":
            return
        if writer is not None:
            writer.warnings.append(message)
        elif self._show is not None:
            self._show(message)

    def _filters_of_the_phase(self) -> Sequence[Any] | None:
        # Threads that tasks have left behind are not in it.
        here = threading.current_thread() is threading.main_thread()
        return self.filters.get(self.item) if here and self.item is not None else None


def _action(filters: Sequence[Any], message: warnings.WarningMessage) -> str:
    """What the first of *filters* that fits says; empty if none does."""
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


class _Gatherer(logging.Handler):
    """Keeps the records of calls."""

    def emit(self, record: logging.LogRecord) -> None:
        writer = _WRITER.get()
        if writer is not None:
            writer.records.append(record)


def _is_nobodys(_: logging.LogRecord) -> bool:
    return _WRITER.get() is None
