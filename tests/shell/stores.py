"""A store in memory that fails when it is told to, with a clock of its own."""

from __future__ import annotations

import datetime as dt
import io
from typing import TYPE_CHECKING, Any

from pytest_flowforge.storage.objects import Objects

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = "bucket/prefix"


class Writing(io.BytesIO):
    """An object that is being written: it is there when it is closed."""

    def __init__(self, store: FakeStore, path: str) -> None:
        super().__init__()
        self._store = store
        self._path = path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._store.change("open", self._path, content)

    def discard(self) -> None:
        super().close()


class FakeStore:
    """What is used of a file system of fsspec.

    Call number *fail_at* fails, and all after it if it is to *stay*; with *late* it does what it was asked for first.
    """

    protocol = "fake"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.written: dict[str, float] = {}
        self.now = 1_000.0
        self.calls: list[str] = []
        self.fail_at = -1
        self.stay = self.late = False
        self.sent = 0
        self.deleted: list[str] = []
        self.blocks: list[int] = []
        #: Called before each call, with its name.
        self.before: Callable[[str], None] = lambda _: None

    def objects(self) -> Objects:
        return Objects(self, ROOT, f"fake://{ROOT}")

    def names(self, under: str = "") -> list[str]:
        start = f"{ROOT}/"
        return sorted(path[len(start) :] for path in self.content if path.startswith(start + under))

    def change(self, name: str, path: str, content: bytes | None) -> None:
        def act() -> None:
            if content is None:
                self.content.pop(path, None)
                self.deleted.append(path.removeprefix(f"{ROOT}/"))
            else:
                self.sent += len(content)
                self.content[path] = content
                self.written[path] = self.now

        self._called(name, act)

    def _called(self, name: str, act: Callable[[], Any]) -> Any:
        self.before(name)
        place = len(self.calls)
        self.calls.append(name)
        if place == self.fail_at or (self.stay and 0 <= self.fail_at <= place):
            if self.late:
                act()
            msg = "the wire was cut"
            raise ConnectionError(msg)
        return act()

    # In the words of fsspec.

    def invalidate_cache(self) -> None: ...

    def find(self, folder: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        assert detail

        def look() -> dict[str, dict[str, Any]]:
            return {
                path: {"size": len(content)}
                for path, content in sorted(self.content.items())
                if path == folder or path.startswith(f"{folder}/")
            }

        found: dict[str, dict[str, Any]] = self._called("find", look)
        return found

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        def read() -> bytes:
            if path not in self.content:
                raise FileNotFoundError(path)
            return self.content[path][start:end]

        found: bytes = self._called("cat_file", read)
        return found

    def pipe_file(self, path: str, content: bytes) -> None:
        self.change("pipe_file", path, bytes(content))

    def open(self, path: str, mode: str, *, block_size: int) -> Writing:
        assert mode == "wb"
        self.blocks.append(block_size)
        return Writing(self, path)

    def rm_file(self, path: str) -> None:
        if path not in self.content:
            raise FileNotFoundError(path)
        self.change("rm_file", path, None)

    def modified(self, path: str) -> dt.datetime:
        if path not in self.written or path not in self.content:
            raise FileNotFoundError(path)
        # In whole seconds, as S3 does it.
        return dt.datetime.fromtimestamp(int(self.written[path]), dt.timezone.utc)
