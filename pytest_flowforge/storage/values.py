"""The results of tasks on disk.

Small results are appended to a file of the process that writes them, large ones get a file of their own: written to a
temporary name, synced, renamed. A reference says where a result is and what its bytes must be, and nothing is decoded
before they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import threading
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import (
    CheckpointError,
    CheckpointUnwritable,
    ResultDamaged,
    ResultError,
    ResultMissing,
    ResultRefused,
    ResultUnstorable,
)
from pytest_flowforge.storage.blobs import Blob, Source, damaged, describe, table
from pytest_flowforge.storage.codec import Codec, JsonCodec, PickleCodec
from pytest_flowforge.storage.files import Files, check_written, unwritable
from pytest_flowforge.storage.keys import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowforge.storage.files import Folder
    from pytest_flowforge.storage.places import Place

__all__ = ["ResultStore"]

_MARK = 32
_SEGMENT = re.compile(r"[0-9a-f]{32}\.(?:seg|bin)", re.ASCII)

#: How many files of other processes are kept open for reading.
_OPEN_FILES = 32


def _nothing() -> None:
    """Tell nobody that there is something new."""


class ResultStore:
    """Stores the results of one run in one process, and loads those of any run of the same checkpoint.

    ``codecs`` are tried in this order, and nothing else is decoded. ``on_put`` is told after each result. Threads may
    share a store; forks make one of their own.
    """

    def __init__(
        self,
        place: Place,
        run: str,
        *,
        codecs: Sequence[Codec] | None = None,
        key: Key | None = None,
        on_put: Callable[[], None] = _nothing,
        sync_large: bool = True,
    ) -> None:
        """Store what *run* makes; ``sync_large`` is to be false under the durability ``off``."""
        self._place = place
        self._run = run
        self._what = f"the results of run {run}"
        self._codecs = {codec.name: codec for codec in codecs or (JsonCodec(), PickleCodec())}
        self.files: Files = place.folder.files
        self._key = key or Key(self.files)
        self._on_put = on_put
        self._sync_large = sync_large
        self._lock = threading.Lock()
        self.sha256 = hashlib.sha256
        self._folder: Folder | None = None
        self._segment: _Segment | None = None
        #: Whether names were made that a power cut would take.
        self._new_names = False
        self._readers: dict[tuple[str, str], int] = {}

    # Storing.

    def put(self, value: Any) -> ResultRef:
        """Store *value* and return where it is.

        Raises :class:`ResultUnstorable` when it can not be stored, and :class:`CheckpointUnwritable`.
        """
        codec = self._codec_for(value)
        blob = Blob(self)
        try:
            buffers = codec.encode(value, blob)
            stream = blob.size
            blob.write(table([stream, *map(blob.add, buffers)]))
            digest = blob.digest()
            if codec.signed:
                blob.write(self._key.sign(codec.name, digest))
            segment, offset = blob.keep()
        except OSError as error:
            raise unwritable(self._what, error) from error
        finally:
            blob.close()
        self._on_put()
        return ResultRef(self._run, segment, offset, blob.size, digest.hex(), codec.name)

    @property
    def dirty(self) -> bool:
        """Whether there is something that a power cut would take."""
        return self._new_names or (self._segment is not None and self._segment.dirty)

    def sync(self) -> None:
        """Make everything survive a power cut: contents first, then names. Raises :class:`CheckpointUnwritable`."""
        try:
            with self._lock:
                segment, folder, new_names = self._segment, self._folder, self._new_names
                self._new_names = False
            if segment is not None:
                segment.sync()
            if new_names and folder is not None:
                folder.sync()
        except OSError as error:
            raise unwritable(self._what, error) from error

    def close(self) -> None:
        """Close all files, without syncing them."""
        for fd in self._readers.values():
            self.files.close(fd)
        self._readers.clear()
        if self._segment is not None:
            self.files.close(self._segment.fd)
        if self._folder is not None:
            self._folder.close()

    def _codec_for(self, value: Any) -> Codec:
        for codec in self._codecs.values():
            if codec.accepts(value):
                return codec
        msg = f"can not be stored as {' or '.join(self._codecs)}, which is all that is allowed here (--ff-codec)"
        raise ResultUnstorable(msg)

    def results(self) -> Folder:
        """Return the folder this run stores in."""
        if self._folder is None:
            try:
                self._folder = self._place.results(self._run)
            except FileNotFoundError as error:
                raise unwritable(self._what, error) from error
        return self._folder

    def append(self, data: bytes) -> tuple[str, int]:
        """Append the small result *data* to the file of this process; return where it is."""
        with self._lock:
            if self._segment is None or self._segment.owner != self.files.getpid():
                # Made before it is known: another process must not append to the file of this one.
                self._segment = _Segment(self.results())
                self._new_names = True
            return self._segment.name, self._segment.append(data)

    def adopt(self, temporary: str, fd: int, digest: bytes) -> str:
        """Give a large result, whole in the file *temporary*, its name, and return that."""
        if self._sync_large:
            self.files.sync(fd)
        # Its name is its content: the same result again replaces itself.
        name = f"{digest.hex()[:32]}.bin"
        self.results().replace(temporary, name)
        with self._lock:
            self._new_names = True
        return name

    # Loading.

    def get(self, ref: ResultRef) -> Any:
        """Return the value that *ref* points at; raise :class:`ResultError` when there is anything wrong with it."""
        codec = self._allowed(ref)
        stream, buffers = self._verified(ref, codec, keep=True)
        try:
            return codec.decode(memoryview(stream), buffers)
        except Exception as wrong:
            msg = f"{describe(ref)} can not be decoded ({type(wrong).__name__}: {wrong}): its task has to run again"
            raise ResultDamaged(msg) from wrong

    def fault(self, ref: ResultRef) -> str:
        """Return why the result can not be loaded (``"result missing"``), or nothing.

        All of it is read and verified; nothing is decoded.
        """
        try:
            self._verified(ref, self._allowed(ref), keep=False)
        except ResultError as wrong:
            return wrong.reason
        return ""

    def _allowed(self, ref: ResultRef) -> Codec:
        codec = self._codecs.get(ref.codec)
        if codec is None:
            msg = f"{describe(ref)} says it is {ref.codec!r:.40}, and only {', '.join(self._codecs)} is allowed here"
            raise ResultRefused(msg)
        if not _SEGMENT.fullmatch(ref.segment):
            msg = f"{ref.segment!r:.100} is no name of a file with results: its task has to run again"
            raise ResultDamaged(msg)
        return codec

    def _verified(self, ref: ResultRef, codec: Codec, *, keep: bool) -> tuple[Any, list[Any]]:
        """Return stream and buffers (or nothing, unless they are to be kept), whose every byte has been verified."""
        extra = _MARK if codec.signed else 0
        try:
            fd, close = self._open(ref)
            try:
                return self._read(fd, ref, extra, codec, keep=keep)
            finally:
                if close:
                    self.files.close(fd)
        except FileNotFoundError:
            msg = f"{describe(ref)} is not there any more: its task has to run again"
            raise ResultMissing(msg) from None
        except (OSError, struct.error) as wrong:
            msg = f"{describe(ref)} can not be read ({wrong}): its task has to run again"
            raise ResultDamaged(msg) from wrong
        except CheckpointUnwritable:
            # Of the key: that is no fault of the result.
            raise
        except CheckpointError as wrong:
            raise ResultRefused(str(wrong)) from wrong

    def _read(self, fd: int, ref: ResultRef, extra: int, codec: Codec, *, keep: bool) -> tuple[Any, list[Any]]:
        if self.files.fstat(fd).st_size < ref.offset + ref.length:
            # Asked before any memory is set aside for it.
            raise damaged(ref)
        source = Source(self.files, fd, ref, self.sha256)
        lengths = source.lengths(ref.length - extra)
        parts = source.parts(lengths, keep=keep)
        digest = source.finish(ref.length - extra)
        if digest.hex() != ref.sha256:
            raise damaged(ref)
        if codec.signed and not self._key.vouches(source.at(ref.length - _MARK, _MARK), codec.name, digest):
            msg = (
                f"{describe(ref)} was not stored with this key, and is not loaded: its task has to run again"
                " (results travel between machines only with the same FLOWFORGE_KEY)"
            )
            raise ResultRefused(msg)
        return (parts[0], parts[1:]) if keep else (b"", [])

    def _open(self, ref: ResultRef) -> tuple[int, bool]:
        """Return a descriptor of the file, and whether it is to be closed after use."""
        key = (ref.run, ref.segment)
        with self._lock:
            if key in self._readers:
                return self._readers[key], False
        with self._place.results(ref.run) as folder:
            fd = folder.read(ref.segment)
        with self._lock:
            if not ref.segment.endswith(".seg") or len(self._readers) >= _OPEN_FILES or key in self._readers:
                return fd, True
            self._readers[key] = fd
        return fd, False


class _Segment:
    """The file to which one process appends its small results."""

    def __init__(self, folder: Folder) -> None:
        self._files = folder.files
        self.owner = self._files.getpid()
        self.name = f"{self._files.urandom(16).hex()}.seg"
        self.fd = folder.create(self.name, append=True)
        self._end = 0
        self._synced = 0

    @property
    def dirty(self) -> bool:
        return self._synced != self._end

    def append(self, data: bytes) -> int:
        """Append *data* and return its offset; when that fails the file is as before."""
        offset = self._end
        # Whatever an exception in the middle left behind: the next result goes behind it.
        self._end = offset + len(data)
        try:
            check_written(self._files.write(self.fd, data), len(data))
        except OSError:
            with contextlib.suppress(OSError):
                self._files.truncate(self.fd, offset)
            self._end = self._files.fstat(self.fd).st_size
            raise
        except BaseException:
            self._end = self._files.fstat(self.fd).st_size
            raise
        return offset

    def sync(self) -> None:
        end = self._end
        self._files.sync(self.fd)
        self._synced = end
