"""The results of tasks on disk.

Small results are appended to a file of the process that writes them, large ones get a file of their own: written to a
temporary name, synced, renamed. A reference says where a result is and what its bytes must be, and nothing is decoded
before they are.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import (
    CheckpointError,
    CheckpointUnreachable,
    CheckpointUnwritable,
    ResultDamaged,
    ResultError,
    ResultMissing,
    ResultRefused,
    ResultUnstorable,
)
from pytest_flowforge.storage.blobs import (
    LARGE,
    Blob,
    Source,
    damaged,
    describe,
    small_lengths,
    small_parts,
    table,
)
from pytest_flowforge.storage.codec import Codec, JsonCodec, PickleCodec
from pytest_flowforge.storage.files import Files, persist, unwritable
from pytest_flowforge.storage.keys import Key
from pytest_flowforge.storage.places import is_result_file
from pytest_flowforge.storage.segments import Segment, SegmentReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowforge.storage.files import Folder
    from pytest_flowforge.storage.places import Place

__all__ = ["ResultStore"]

_MARK = 32

#: How many small results are known to have been stored.
_REMEMBERED = 10_000

_NOTHING: tuple[bytes, list[Any]] = (b"", [])

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
        self._segment: Segment | None = None
        #: Where small results are, by codec and digest: what comes again is not written again. In a fork they are in
        #: the file of its parent, and as good as there.
        self._stored: dict[tuple[str, bytes], tuple[str, int]] = {}
        #: Where None is stored.
        self._nothing: ResultRef | None = None
        #: Whether names were made that a power cut would take.
        self._new_names = False
        self._readers: dict[tuple[str, str], SegmentReader] = {}
        self._former: list[SegmentReader] = []

    # Storing.

    def put(self, value: Any) -> ResultRef:
        """Store *value* and return where it is.

        Raises :class:`ResultUnstorable` when it can not be stored, and :class:`CheckpointUnwritable`.
        """
        if value is None and self._nothing is not None:
            # What most tasks return that are run for what they do.
            self._on_put()
            return self._nothing
        codec = self._codec_for(value)
        blob = Blob(self)
        try:
            buffers = _encoded(codec, value, blob)
            stream = blob.size
            blob.write(table([stream, *map(blob.add, buffers)]))
            digest = blob.digest()
            length = blob.size + (_MARK if codec.signed else 0)
            segment, offset = self._stored.get((codec.name, digest)) or self._store(blob, codec, digest)
        except OSError as error:
            raise unwritable(self._what, error) from error
        finally:
            blob.close()
        self._on_put()
        ref = ResultRef(self._run, segment, offset, length, digest.hex(), codec.name)
        if value is None:
            self._nothing = ref
        return ref

    def _store(self, blob: Blob, codec: Codec, digest: bytes) -> tuple[str, int]:
        """Write what is new; return the name of the file and the offset in it."""
        if codec.signed:
            blob.write(self._sign(codec, digest))
        data = blob.small()
        if data is None:
            return blob.keep(digest), 0
        place = self._append(data)
        if len(self._stored) < _REMEMBERED:
            self._stored[codec.name, digest] = place
        return place

    def _sign(self, codec: Codec, digest: bytes) -> bytes:
        try:
            return self._key.sign(codec.name, digest)
        except CheckpointError as error:
            # Another checkpoint would not help there.
            why = str(error).partition(":")[0] if isinstance(error, CheckpointUnwritable) else error
            msg = f"can not be stored: there is no key to sign it with ({why}); set FLOWFORGE_KEY, or XDG_CONFIG_HOME"
            raise ResultUnstorable(msg) from error

    @property
    def dirty(self) -> bool:
        """Whether there is something that a power cut would take."""
        return self._new_names or (self._segment is not None and self._segment.dirty)

    def sync(self) -> None:
        """Make everything survive a power cut: contents first, then names. Raises :class:`CheckpointUnwritable`.

        Small results whose file was deleted during the run are written anew; large ones are missing later.
        """
        try:
            with self._lock:
                segment, folder, new_names = self._segment, self._folder, self._new_names
                self._new_names = False
            if segment is not None:
                segment.sync()
                if segment.gone:
                    self._write_anew(segment)
            if new_names and folder is not None:
                folder.sync()
        except OSError as error:
            raise unwritable(self._what, error) from error

    def _write_anew(self, segment: Segment) -> None:
        with self._lock:
            persist(lambda: segment.write_anew(self.results()))
            reader = self._readers.pop((self._run, segment.name), None)
            if reader is not None:
                # Of the file that was deleted. Another thread may be reading.
                self._former.append(reader)

    def close(self) -> None:
        """Close all files, without syncing them."""
        for reader in (*self._readers.values(), *self._former):
            self.files.close(reader.fd)
        self._readers.clear()
        self._former.clear()
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
        """Return the folder this run stores in; it is made anew where it was deleted."""
        if self._folder is None:
            self._folder = self._results()
        elif self._folder.gone:
            self._folder.become(self._results())
        return self._folder

    def _results(self) -> Folder:
        try:
            return self._place.results(self._run)
        except FileNotFoundError:
            self._place.restore(self._run).close()
        try:
            return self._place.results(self._run)
        except FileNotFoundError as error:
            raise unwritable(self._what, error) from error

    def _append(self, data: bytes) -> tuple[str, int]:
        """Append the small result *data* to the file of this process; return where it is."""
        with self._lock:
            if self._segment is None or self._segment.owner != self.files.getpid():
                # Made before it is known: another process must not append to the file of this one.
                self._segment = Segment(self.results())
                self._new_names = True
            return self._segment.name, self._segment.append(data)

    def adopt(self, temporary: str, fd: int, digest: bytes) -> str:
        """Give a large result, whole in the file *temporary*, its name, and return that."""
        if self._sync_large:
            self.files.sync(fd)
        # Its name is its content: the same result again replaces itself.
        name = f"{digest.hex()[:32]}.bin"
        try:
            self.results().replace(temporary, name)
        except FileNotFoundError:
            # Deleted meanwhile: what is open is still there.
            self.files.close(persist(lambda: self.results().copy(fd, None, name)))
        with self._lock:
            self._new_names = True
        return name

    # Loading.

    def get(self, ref: ResultRef) -> Any:
        """Return the value that *ref* points at; raise :class:`ResultError` when there is anything wrong with it."""
        codec = self._allowed(ref)
        try:
            stream, buffers = self._verified(ref, codec, keep=True)
        except CheckpointUnreachable as error:
            msg = f"{describe(ref)} can not be fetched: {error}"
            raise ResultMissing(msg) from error
        try:
            return codec.decode(memoryview(stream), buffers)
        except Exception as wrong:
            msg = f"{describe(ref)} can not be decoded ({type(wrong).__name__}: {wrong}): its task has to run again"
            raise ResultDamaged(msg) from wrong

    def fault(self, ref: ResultRef) -> str:
        """Return why the result can not be loaded (``"result missing"``), or nothing.

        All of it is read and verified; nothing is decoded. Small results beside each other are read together. Raises
        :class:`CheckpointUnreachable` where the checkpoint has it elsewhere, and that does not answer.
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
        return codec

    def _verified(self, ref: ResultRef, codec: Codec, *, keep: bool) -> tuple[Any, list[Any]]:
        """Return stream and buffers (or nothing, unless they are to be kept), whose every byte has been verified."""
        read = self._small if ref.length <= LARGE else self._large
        try:
            return read(ref, codec, keep=keep)
        except FileNotFoundError:
            msg = f"{describe(ref)} is not there any more: its task has to run again"
            raise ResultMissing(msg) from None
        except CheckpointUnreachable:
            raise
        except (OSError, OverflowError) as wrong:
            msg = f"{describe(ref)} can not be read ({wrong}): its task has to run again"
            raise ResultDamaged(msg) from wrong
        except CheckpointError as wrong:
            raise ResultRefused(str(wrong)) from wrong

    def _small(self, ref: ResultRef, codec: Codec, *, keep: bool) -> tuple[Any, list[Any]]:
        data = self._bytes(ref, ahead=not keep)
        end = ref.length - (_MARK if codec.signed else 0)
        lengths = small_lengths(ref, data, end)
        self._check(ref, codec, self.sha256(data[:end]).digest(), data[end:])
        if not keep:
            return _NOTHING
        stream, *buffers = small_parts(data, lengths)
        return stream, buffers

    def _large(self, ref: ResultRef, codec: Codec, *, keep: bool) -> tuple[Any, list[Any]]:
        fd = self._open(ref)
        try:
            if self.files.fstat(fd).st_size < ref.offset + ref.length:
                # Asked before any memory is set aside for it.
                raise damaged(ref)
            end = ref.length - (_MARK if codec.signed else 0)
            source = Source(self.files, fd, ref, self.sha256)
            stream, *buffers = source.parts(source.lengths(end), keep=keep)
            self._check(ref, codec, source.finish(end), source.at(end, ref.length - end))
        finally:
            self.files.close(fd)
        return (stream, buffers) if keep else _NOTHING

    def _check(self, ref: ResultRef, codec: Codec, digest: bytes, mark: bytes) -> None:
        if digest.hex() != ref.sha256:
            raise damaged(ref)
        if codec.signed and not self._key.vouches(mark, codec.name, digest):
            msg = (
                f"{describe(ref)} was not stored with this key, and is not loaded: its task has to run again"
                " (results travel between machines only with the same FLOWFORGE_KEY)"
            )
            raise ResultRefused(msg)

    def _bytes(self, ref: ResultRef, *, ahead: bool) -> bytes:
        """Return the bytes of a small result, read now, or *ahead*: together with what is beside it."""
        data = self._bytes_here(ref, ahead=ahead)
        if len(data) < ref.length and self._place.fetch(ref.run, ref.segment, ref.offset + ref.length):
            # There is another file now in the place of the one that was too short.
            with self._lock:
                reader = self._readers.pop((ref.run, ref.segment), None)
                if reader is not None:
                    self._former.append(reader)
            data = self._bytes_here(ref, ahead=ahead)
        return data

    def _bytes_here(self, ref: ResultRef, *, ahead: bool) -> bytes:
        key = (ref.run, ref.segment)
        reader = self._readers.get(key)
        if reader is not None:
            return (reader.next_piece if ahead else reader.piece)(ref.offset, ref.length)
        reader = SegmentReader(self.files, self._open(ref))
        with self._lock:
            kept = ref.segment.endswith(".seg") and len(self._readers) < _OPEN_FILES and key not in self._readers
            if kept:
                self._readers[key] = reader
        try:
            return (reader.next_piece if ahead and kept else reader.piece)(ref.offset, ref.length)
        finally:
            if not kept:
                self.files.close(reader.fd)

    def _open(self, ref: ResultRef) -> int:
        """Return a descriptor of the file that holds the result."""
        if not is_result_file(ref.segment):
            msg = f"{ref.segment!r:.100} is no name of a file with results: its task has to run again"
            raise ResultDamaged(msg)
        try:
            return self._open_here(ref)
        except FileNotFoundError:
            if not self._place.fetch(ref.run, ref.segment, ref.offset + ref.length):
                raise
        return self._open_here(ref)

    def _open_here(self, ref: ResultRef) -> int:
        with self._place.results(ref.run) as folder:
            return folder.read(ref.segment)


def _encoded(codec: Codec, value: Any, blob: Blob) -> Sequence[memoryview]:
    try:
        return codec.encode(value, blob)
    except OSError as error:
        # Of the value: its file is closed, its connection is lost. The disk is well.
        msg = f"can not be stored ({type(error).__name__} while it was encoded: {error})"
        raise ResultUnstorable(msg) from error
