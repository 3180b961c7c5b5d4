"""What a task prints, logs and warns about, kept apart from that of all others that run at the same time.

The calls of tasks run on threads and on an event loop, and a context variable tells whose call it is that writes. What
was gathered is written again when the call is reported, on the main thread, where pytest and its plugins expect it.
What a task starts (threads of its own, child processes) has no such variable; pytest captures it, and it is nobody's.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_flowforge.writers import Gatherer, Output, action_of, split, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

__all__ = ["Attribution"]


#: Handlers of pytest's logging plugin that show what a test has logged.
_HANDLERS = ("caplog_handler", "report_handler", "log_cli_handler", "log_file_handler")


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
        gatherer, level = Gatherer(), root.level
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
        # One that can not be split is no stream of pytest's.
        if id(stream) not in self._streams and split(stream, name):
            self._streams[id(stream)] = stream

    def _on_warning(self, message: warnings.WarningMessage) -> None:
        output = writer()
        filters = output.filters if output is not None else self._filters_of_the_phase()
        action = "" if filters is None else action_of(filters, message)
        if action == "error":
            raise message.message if isinstance(message.message, Warning) else message.category(message.message)
        if action == "ignore":
            return
        if output is not None:
            output.warnings.append(message)
        elif self._show is not None:
            self._show(message)

    def _filters_of_the_phase(self) -> Sequence[Any] | None:
        # Threads that tasks have left behind are not in it.
        here = threading.current_thread() is threading.main_thread()
        return self.filters.get(self.item) if here and self.item is not None else None


def _is_nobodys(_: logging.LogRecord) -> bool:
    return writer() is None
