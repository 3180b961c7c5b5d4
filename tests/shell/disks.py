"""A file layer that fails when it is told to, and places to work in."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any

from pytest_flowforge.storage.files import Files, Folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What changes the disk, in the words of Files.
CHANGES = ("write", "sync", "sync_folder", "truncate", "replace", "link", "unlink", "mkdir", "rmdir", "open")


class BadFiles(Files):
    """Counts the calls that change the disk; call number *fail_at* fails, and so do all after it if it is to *stay*.

    ``log`` lists them. A *short* write writes half of what it was given.
    """

    def __init__(
        self, fail_at: int = -1, error: int = errno.ENOSPC, *, stay: bool = False, short: bool = False
    ) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.error = error
        self.stay = stay
        self.short = short
        self.log: list[str] = []
        for name in CHANGES:
            setattr(self, name, self._counted(name, getattr(self, name)))
        self.raw = self._raw  # type: ignore[assignment]

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **rest: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **rest)
            place = len(self.log)
            self.log.append(name)
            if place == self.fail_at or (self.stay and 0 <= self.fail_at <= place):
                if self.short and name == "write":
                    return real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise OSError(self.error, os.strerror(self.error))
            return real(*args, **rest)

        return call

    def _raw(self, fd: int, mode: str) -> io.FileIO:
        files = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                return int(files.write(self.fileno(), data))

        return Raw(fd, mode)


def folder(path: Path, files: Files | None = None) -> Folder:
    return Folder.open(path, files or Files(), create=True)
