"""Objects by name in a store that can write them whole, list them and delete them, and nothing else.

That is what object stores have in common: nothing is appended, nothing renamed, nothing locked. Whatever a file system
of fsspec raises becomes one error, without the secrets that may stand in its text.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flowforge.errors import CheckpointUnreachable
from pytest_flowforge.storage.addresses import censored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowforge.storage.addresses import Address

__all__ = ["BLOCK", "Objects"]

_T = TypeVar("_T")

#: Bytes that are sent or fetched at a time: large objects are never in memory as a whole.
BLOCK = 8 << 20

#: Parts of which an object may consist; S3 allows 10,000.
_MOST_PARTS = 9_000

_UNIT = 1 << 20


class Objects:
    """The objects below *root* in the file system *fs*; ``url`` is what that is called.

    All methods raise :class:`CheckpointUnreachable`, those that read also :class:`FileNotFoundError`.
    """

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self.url = url
        #: How often something was done: a store that goes on with it, however slowly, has not fallen silent.
        self.steps = 0
        #: Not objects, but folders that have to be made.
        self._has_folders = "file" in _protocols(fs)

    @classmethod
    def at(cls, address: Address) -> Objects:
        """Return those at *address*; raise :class:`CheckpointError`. The network is not asked."""
        fs, root = address.file_system()
        return cls(fs, root, address.url)

    def list(self, under: str = "") -> dict[str, int]:
        """Return the names of all objects, or of those below the name *under*, with their sizes in bytes."""
        folder = f"{self._root}/{under}" if under else self._root

        def ask() -> dict[str, int]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(folder, detail=True)
            except FileNotFoundError:
                return {}
            start = f"{self._root}/"
            return {
                str(path)[len(start) :]: int(facts.get("size") or 0)
                for path, facts in found.items()
                if str(path).startswith(start)
            }

        return self._asked("list", under, ask)

    def get(self, name: str) -> bytes:
        """Return the content of a small object."""
        return self._asked("read", name, lambda: bytes(self._fs.cat_file(self._at(name))))

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the content of an object of *size* bytes, some of it at a time; all of it, or an error is raised."""
        for start in range(0, size, BLOCK):
            end = min(start + BLOCK, size)
            chunk = self._asked("read", name, partial(self._some, name, start, end))
            if len(chunk) != end - start:
                early = EOFError(f"{len(chunk):,} bytes came of {end - start:,}")
                raise self._failed("read", name, early)  # noqa: EM101  (no exception yet: the first part of one)
            yield chunk

    def _some(self, name: str, start: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(self._at(name), start=start, end=end))

    def put(self, name: str, content: bytes) -> None:
        """Make *content* that of the object *name*."""

        def send() -> None:
            self._make_folder(name)
            self._fs.pipe_file(self._at(name), content)

        self._sent(name, send)

    def upload(self, name: str, chunks: Iterable[bytes], size: int) -> None:
        """Make an object of *size* bytes that come in *chunks*; it is there when all of it is."""

        def send() -> None:
            self._make_folder(name)
            # In whole MiB: Google wants a multiple of 256 KiB.
            block = max(BLOCK, (size // _MOST_PARTS // _UNIT + 1) * _UNIT)
            file = self._fs.open(self._at(name), "wb", block_size=block)
            try:
                for chunk in chunks:
                    file.write(chunk)
                    self.steps += 1
            except BaseException:
                _abandon(file)
                raise
            file.close()

        self._sent(name, send)

    def delete(self, names: Iterable[str]) -> None:
        """Delete these objects, in this order, as far as they are there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._asked("delete", name, partial(self._fs.rm_file, self._at(name)))

    def modified(self, name: str) -> float:
        """Return when the object was written, in seconds since the epoch by the clock of the store."""

        def ask() -> float:
            self._fs.invalidate_cache()
            return _seconds(self._fs.modified(self._at(name)))

        return self._asked("look at", name, ask)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, name: str) -> None:
        if self._has_folders:
            self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    def _sent(self, name: str, send: Callable[[], None]) -> None:
        try:
            self._asked("write", name, send)
        except FileNotFoundError as error:
            failed = self._failed("write", name, error)
            raise failed from None

    def _asked(self, what: str, name: str, ask: Callable[[], _T]) -> _T:
        try:
            found = ask()
        except (FileNotFoundError, CheckpointUnreachable):
            raise
        except Exception as error:  # noqa: BLE001  (file systems raise what they like)
            # Without the cause: its text, and that of its causes, may hold secrets.
            raise self._failed(what, name, error) from None
        self.steps += 1
        return found

    def _failed(self, what: str, name: str, error: Exception) -> CheckpointUnreachable:
        return CheckpointUnreachable(
            f"cannot {what} {self.url}{'/' if name else ''}{name} ({type(error).__name__}: {censored(str(error))}):"
            " look at the network, at the name of the bucket and at the rights you have there"
        )


def _abandon(file: Any) -> None:
    """Give up an object that is not whole: to close it would complete it."""
    with contextlib.suppress(Exception):
        file.discard()
    with contextlib.suppress(Exception):
        file.closed = True


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = getattr(fs, "protocol", ())
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _seconds(moment: object) -> float:
    import datetime as dt  # noqa: PLC0415  (for those who keep runs in a store)

    if isinstance(moment, dt.datetime):
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.timezone.utc)
        return aware.timestamp()
    return float(str(moment))
