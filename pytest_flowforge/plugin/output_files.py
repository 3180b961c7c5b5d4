"""Files that a run leaves for others: named on the command line, looked at before the run, written whole or not at all.

Nobody reads half of one, and one of an earlier run stays until the new one is complete.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.failures import one_line
from pytest_flowforge.storage.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["OutputFile", "OutputFiles", "Places", "unwritable"]

#: Whatever stands where the new file is to be made, it is not written through.
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Places:
    """Where the files are that options name, as pytest has it for those of its reports; each is for one of them."""

    def __init__(self, config: pytest.Config) -> None:
        self._folder = config.invocation_params.dir
        #: The options that files were given to, by where these are in the end.
        self._given: dict[Path, str] = {}

    def find(self, option: str, name: str) -> Path:
        """Return where the file *name* is to be, and make its folder; raises UsageError where that can not be."""
        try:
            path = Path(self._folder, os.path.expandvars(Path(name).expanduser()))
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise unwritable(option, name, error) from None
        if target in self._given:
            msg = f"{option} {name}: {self._given[target]} writes that file, too; name two"
            raise pytest.UsageError(msg)
        self._given[target] = option
        return path


def unwritable(option: str, where: object, error: Exception) -> pytest.UsageError:
    """Return the one error for all that can not be written."""
    why = getattr(error, "strerror", None) or error
    return pytest.UsageError(f"{option} {where}: can not be written ({why}); name another place")


class OutputFile:
    """The file at *path*, which *option* names; raises UsageError where it can not be written.

    It is replaced as a whole: whoever opens it sees the old or the new one, which has *mode* less the umask. A link
    stays one. Tasks may go to other folders afterwards, and may replace what is in os (pyfakefs does).
    """

    def __init__(self, option: str, path: Path, mode: int = 0o666) -> None:
        self.path = path
        self._mode = mode
        self._files = Files()
        try:
            with suppress(FileNotFoundError):
                _check(option, path)
            self._target = path.resolve()
            # The one way to know.
            self._files.unlink(self._make(b""))
        except (OSError, ValueError) as error:
            raise unwritable(option, path, error) from None

    def write(self, text: str) -> None:
        """Replace the file by one with this *text*; raises OSError."""
        temporary = self._make(text.encode("utf-8", "backslashreplace"))
        try:
            self._files.replace(temporary, str(self._target))
        except BaseException:
            self._drop(temporary)
            raise

    def _make(self, content: bytes) -> str:
        """Make a new file beside the one that is meant, under a name that nobody can know before."""
        files = self._files
        temporary = str(self._target.with_name(f".tmp-{files.urandom(8).hex()}"))
        descriptor = files.open(temporary, _ANEW, self._mode)
        try:
            try:
                left = memoryview(content)
                while left:
                    left = left[files.write(descriptor, left) :]
            finally:
                files.close(descriptor)
        except BaseException:
            self._drop(temporary)
            raise
        return temporary

    def _drop(self, temporary: str) -> None:
        # Why it could not be written is what is told.
        with suppress(OSError):
            self._files.unlink(temporary)


def _check(option: str, path: Path) -> None:
    """Raise UsageError where something stands at *path* that is not to be replaced, and OSError where nothing can."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no file"
        msg = f"{option} {path}: that is {what}; name a file"
        raise pytest.UsageError(msg)


class OutputFiles:
    """The files of these *names*, which *option* was given; raises UsageError for those that can not be written.

    *writers* make what is written, by suffix: it says which format is meant. *tell* takes sentences for people.
    """

    def __init__(
        self,
        places: Places,
        option: str,
        names: Iterable[str],
        writers: Mapping[str, Callable[..., str]],
        tell: Callable[[str], None],
    ) -> None:
        self._option = option
        self._tell = tell
        self._files: list[tuple[OutputFile, Callable[..., str]]] = []
        for name in names:
            path = places.find(option, name)
            suffix = path.suffix.lower()
            if suffix not in writers:
                *most, last = writers
                msg = (
                    f"{option} {name}: the name says which format is meant, and has to end with {', '.join(most)} or "
                    f"{last}"
                )
                raise pytest.UsageError(msg)
            self._files.append((OutputFile(option, path), writers[suffix]))

    def __bool__(self) -> bool:
        return bool(self._files)

    def write(self, *facts: object) -> None:
        """Write what the writers make of *facts*; a file that can not be written is told of."""
        for file, writer in self._files:
            try:
                file.write(writer(*facts))
            except Exception as error:  # noqa: BLE001 - the run is over, and is what it was without the file
                why = getattr(error, "strerror", None) or one_line(error)
                self._tell(f"{self._option} {file.path}: could not be written ({why})")
