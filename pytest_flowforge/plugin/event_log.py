"""Events for those who are no plugin: a file of JSON lines, as a sink of the run."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, TYPE_CHECKING

from pytest_flowforge.failures import one_line
from pytest_flowforge.plugin.output_files import unwritable
from pytest_flowforge.report.events import EventLines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.states import TaskState
    from pytest_flowforge.plugin.output_files import Places

__all__ = ["EventFile"]

_OPTION = "--ff-events"


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
    def open(cls, places: Places, name: str, tell: Callable[[str], None]) -> EventFile:
        """Open the file *name*, which may be a pipe or a device; raises UsageError where that fails."""
        path = places.find(_OPTION, name)
        try:
            return cls(path.open("w", encoding="ascii"), name, tell)
        except OSError as error:
            raise unwritable(_OPTION, path, error) from None

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
            self._tell(f"{_OPTION} {self._name}: {one_line(error)}; nothing more is written there")
            self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            # What could not be written has been told.
            with suppress(OSError):
                file.close()
