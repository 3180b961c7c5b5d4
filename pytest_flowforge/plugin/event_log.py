"""Events for those who are no plugin: a file of JSON lines, as a sink of the run."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, TYPE_CHECKING

import pytest

from pytest_flowforge.core.messages import Event
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.failures import one_line
from pytest_flowforge.plugin.output_files import place_of
from pytest_flowforge.report.events import EventLines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EventFile"]


class EventFile:
    """``--ff-events FILE``: a line for each event, with the operating system before the next thing happens.

    It is opened, and emptied, before anything is collected: what an earlier run has left there is never taken for this
    one's. Once it can not be written any more, that is told to *tell* and it ends there.
    """

    def __init__(self, file: IO[str], name: str, tell: Callable[[str], None]) -> None:
        self._file: IO[str] | None = file
        self._name = name
        self._tell = tell
        self._lines = EventLines(str, {})

    @classmethod
    def open(cls, config: pytest.Config, name: str, tell: Callable[[str], None]) -> EventFile:
        """Open the file *name*, as pytest does with those of its reports; raises UsageError where that fails."""
        try:
            return cls(place_of(config, name).open("w", encoding="ascii"), name, tell)
        except (OSError, ValueError, RuntimeError) as error:
            msg = f"--ff-events {name!r} can not be written: {error}"
            raise pytest.UsageError(msg) from None

    def begin(self, run: Callable[[], str], counts: Mapping[TaskState, int]) -> None:
        """*run* returns the id of the run once it has begun; *counts* is kept up to date by the caller."""
        self._lines = EventLines(run, counts)

    def __call__(self, event: Event) -> None:
        file = self._file
        line = self._lines.line(event) if file is not None else ""
        if file is None or not line:
            return
        try:
            file.write(line)
            file.flush()
        except OSError as error:
            self._tell(f"--ff-events {self._name}: {one_line(error)}; nothing more is written there")
            self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            # What could not be written has been told.
            with suppress(OSError):
                file.close()
