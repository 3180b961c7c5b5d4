"""Files that a run leaves for others: named on the command line, looked at before the run, written whole or not at all.

Nobody reads half of one, and one of an earlier run stays until the new one is complete.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

__all__ = ["OutputFile", "OutputFiles", "place_of"]

#: Whatever stands where the new file is to be made, it is not written through.
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class OutputFile:
    """The file that an option names; its ``suffix`` says in which format it is written.

    Raises UsageError for one that has none of *suffixes*. Tasks may change the working directory afterwards.
    """

    def __init__(self, option: str, name: str, suffixes: Collection[str]) -> None:
        self._option = option
        self.path = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 - links are for the system to follow
        self.suffix = self.path.suffix.lower()
        if self.suffix not in suffixes:
            *most, last = suffixes
            wanted = f"{', '.join(most)} or {last}" if most else last
            msg = f"{option} {name}: the name says which format is meant, and has to end with {wanted}"
            raise pytest.UsageError(msg)

    def prepare(self) -> None:
        """Make its folder; raise UsageError where the file can not be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():
                what = "a folder" if self.path.is_dir() else "no file"
                msg = f"{self._option} {self.path}: that is {what}; name a file"
                raise pytest.UsageError(msg)
            # The one way to know.
            temporary = self._make(b"")
            temporary.unlink()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            msg = f"{self._option} {self.path}: can not be written ({why}); name another place"
            raise pytest.UsageError(msg) from None

    def write(self, text: str) -> None:
        """Replace the file by one with this *text*; raises OSError."""
        temporary = self._make(text.encode("utf-8", "backslashreplace"))
        try:
            # A link stays one.
            temporary.replace(self.path.resolve())
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _make(self, content: bytes) -> Path:
        """Make a new file beside the one that is meant, under a name that nobody can know before."""
        temporary = self.path.resolve().with_name(f".tmp-{secrets.token_hex(8)}")
        descriptor = os.open(temporary, _ANEW, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        return temporary


class OutputFiles:
    """The files of these *names*, which *option* was given; raises UsageError for those that can not be written.

    *writers* make what is written, by suffix. *tell* takes sentences for people.
    """

    def __init__(
        self, option: str, names: Iterable[str], writers: Mapping[str, Callable[..., str]], tell: Callable[[str], None]
    ) -> None:
        self._option = option
        self._writers = writers
        self._tell = tell
        self._files = [OutputFile(option, name, writers) for name in names]
        for file in self._files:
            file.prepare()

    def __bool__(self) -> bool:
        return bool(self._files)

    def write(self, *facts: object) -> None:
        """Write what the writers make of *facts*; a file that can not be written is told of."""
        for file in self._files:
            try:
                file.write(self._writers[file.suffix](*facts))
            except Exception as error:  # noqa: BLE001 - the run is over, and is what it was without the file
                why = getattr(error, "strerror", None) or one_line(error)
                self._tell(f"{self._option} {file.path}: could not be written ({why})")


def place_of(config: pytest.Config, name: str) -> Path:
    """Return where the file *name* is to be, as pytest has it for those of its reports, and make its folder.

    Raises OSError where that can not be done, and ValueError or RuntimeError for what is no name of a file.
    """
    path = Path(config.invocation_params.dir, os.path.expandvars(Path(name).expanduser()))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
