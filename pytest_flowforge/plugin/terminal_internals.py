"""What stands between pytest's reporter and the terminal: all that is known here of how the two are joined."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from pytest_flowforge.report.progress import cells

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TerminalTap", "is_plain_terminal"]


def is_plain_terminal(config: pytest.Config) -> bool:
    """Whether pytest's own reporter, and none that takes its place, writes to a terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if type(reporter) is not pytest.TerminalReporter:
        return False
    file = getattr(config.get_terminal_writer(), "_file", None)
    return isinstance(file, TextIOWrapper) and file.isatty()


class TerminalTap:
    """Stands between pytest's terminal writer and its terminal, and calls *before* ahead of whatever is written."""

    def __init__(self, config: pytest.Config, before: Callable[[], None]) -> None:
        self._writer: Any = config.get_terminal_writer()
        self._before = before
        self._file: TextIO = self._writer._file  # noqa: SLF001
        self._lock: AbstractContextManager[object] = nullcontext()
        #: How many cells of the line that pytest is at are taken; None when nobody can tell.
        # What pytest counts itself is no longer true once a line was written anew.
        self.column = _column_after(getattr(self._writer, "_current_line", "\t"), 0)

    def open(self, lock: AbstractContextManager[object]) -> None:
        """Begin; *lock* is held while *before* is called and what follows it is written."""
        self._lock = lock
        self._writer._file = self  # noqa: SLF001

    def close(self) -> None:
        """Give the terminal back."""
        if self._writer._file is self:  # noqa: SLF001
            self._writer._file = self._file  # noqa: SLF001

    def write(self, text: str) -> int:
        """Write *text*, all of it at once: the terminal is to have it when somebody else writes next."""
        with self._lock:
            self._before()
            written = self._file.write(text)
            self._file.flush()
            self.column = _column_after(text, self.column)
            return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


#: What a terminal obeys without moving its cursor: colours, and what is no text (titles, progress).
_SILENT = re.compile(r"\x1b\[[0-9;:]*m|\x1b\].*?(?:\x07|\x1b\\)")


def _column_after(text: str, column: int | None) -> int | None:
    """Return where *text* leaves a cursor that was in *column*; None where nobody can tell."""
    last = re.search(r"[\r\n](?=[^\r\n]*\Z)", text)
    if last is not None:
        text, column = text[last.end() :], 0
    text = _SILENT.sub("", text)
    return column + cells(text) if column is not None and (not text or text.isprintable()) else None
