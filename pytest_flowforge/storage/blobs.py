"""The bytes of one result, on their way to the disk and back.

They are its stream, the buffers beside it, a table of their lengths, and behind them the mark of who vouches for them.
What is large is never copied: it is hashed while it is written, and read to where it stays.

The SHA-256 of a result is that of its bytes up to the mark, but with each buffer of 1 MiB and more replaced by the
SHA-256s of its pieces of 4 MiB: those can be made side by side. The table at the end says which buffers those are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flowforge.errors import ResultDamaged
from pytest_flowforge.storage.files import persist, unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from pytest_flowforge.core.records import ResultRef
    from pytest_flowforge.storage.files import Files, Folder

__all__ = ["CHUNK", "LARGE", "Blob", "Home", "Source", "damaged", "describe", "small_lengths", "small_parts", "table"]

#: Results of more bytes than this get a file of their own.
LARGE = 1 << 20

#: Bytes that are written, read and hashed at a time. It is part of the format, see above.
CHUNK = 4 << 20

#: The shortest table: of one length.
_TABLE = struct.Struct("<QI")

_HASHERS = max(2, min(4, os.cpu_count() or 1))


def describe(ref: ResultRef) -> str:
    """Return *ref* in words."""
    return f"the result in {ref.run}/{ref.segment} at {ref.offset:,}"


def damaged(ref: ResultRef) -> ResultDamaged:
    """Return the error for a result whose bytes are not those that were stored."""
    return ResultDamaged(f"{describe(ref)} is damaged: its task has to run again")


def table(lengths: Sequence[int]) -> bytes:
    """Return the table of these lengths in bytes; its own length is known from its end."""
    return struct.pack(f"<{len(lengths)}QI", *lengths, len(lengths))


def small_lengths(ref: ResultRef, data: bytes, end: int) -> Sequence[int]:
    """Return the lengths of the parts of a small result, whose table ends at *end*.

    They are not verified yet, but add up to what is there; :class:`ResultDamaged` is raised when they do not.
    """
    if len(data) != ref.length or end < _TABLE.size:
        raise damaged(ref)
    first, count = _TABLE.unpack_from(data, end - _TABLE.size)
    start = end - 4 - 8 * count
    if count == 1 and first == start:
        return (first,)
    if not count or start < 0:
        raise damaged(ref)
    lengths = struct.unpack_from(f"<{count}Q", data, start)
    if sum(lengths) != start:
        raise damaged(ref)
    return lengths


def small_parts(data: bytes, lengths: Sequence[int]) -> list[Any]:
    """Return the parts of a small result, which have these lengths, each in memory that can be written."""
    ends = accumulate(lengths)
    return [bytearray(data[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


class Home(Protocol):
    """Where the bytes of results go."""

    @property
    def files(self) -> Files: ...

    @property
    def sha256(self) -> Callable[..., Any]: ...

    def results(self) -> Folder:
        """Return the folder for large results."""

    def adopt(self, temporary: str, fd: int, digest: bytes) -> str:
        """Store a large result that is whole in the file *temporary*; return the name of its file."""


class Blob:
    """One result on its way to the disk: in memory as long as it is small, then in a temporary file.

    ``size`` is how many bytes were written. Most results are small, and cost little more than what they are.
    """

    __slots__ = ("_home", "_parts", "_spilled", "size")

    def __init__(self, home: Home) -> None:
        self._home = home
        self._parts: list[Any] = []
        self._spilled: _Spilled | None = None
        self.size = 0

    def write(self, data: Any, /) -> int:
        if type(data) is bytes and self._spilled is None and self.size + len(data) <= LARGE:
            self._parts.append(data)
            self.size += len(data)
            return len(data)
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._spilled is not None:
            self._spilled.write(view)
        else:
            # A view of what may change later is no copy of it.
            self._parts.append(data if type(data) is bytes else view)
            if self.size > LARGE:
                self._spill()
        return len(view)

    def add(self, buffer: memoryview) -> int:
        """Write a buffer that goes beside the stream, and return its length in bytes."""
        if buffer.nbytes < LARGE:
            return self.write(buffer)
        self.size += buffer.nbytes
        self._spill().add(buffer)
        return buffer.nbytes

    def restart(self) -> None:
        self.close()
        self._parts.clear()
        self.size = 0

    def digest(self) -> bytes:
        """Return the SHA-256 of what was written; what is written afterwards does not count."""
        if self._spilled is not None:
            return self._spilled.digest()
        content = b"".join(self._parts)
        self._parts[:] = [content]
        return bytes(self._home.sha256(content).digest())

    def small(self) -> bytes | None:
        """Return what was written if it is a small result; otherwise it is to be kept."""
        return None if self._spilled is not None else b"".join(self._parts)

    def keep(self, digest: bytes) -> str:
        """Store what was written, which has this digest, as a large result; return the name of its file."""
        return self._spill().keep(digest)

    def close(self) -> None:
        """Free everything; a file that was not kept is removed."""
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None

    def _spill(self) -> _Spilled:
        if self._spilled is None:
            self._spilled = _Spilled(self._home)
            parts, self._parts = self._parts, []
            for part in parts:
                self._spilled.write(memoryview(part))
        return self._spilled


class _Spilled:
    """A large result in a temporary file. Nothing is copied: what comes is hashed and written at the same time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._files = home.files
        self._hash = home.sha256()
        self._digested = False
        temporary = f".tmp-{self._files.urandom(16).hex()}"
        self._fd = persist(lambda: home.results().create(temporary))
        self._temporary = temporary
        self._hasher = _hashers()

    def write(self, view: memoryview) -> None:
        """Write a part of the stream, or what follows the buffers."""
        for piece in _pieces(view):
            # Small pieces are not worth a message to a thread; and what comes later must not be hashed earlier.
            hashed = None
            if not self._digested:
                if len(piece) >= LARGE:
                    hashed = self._hasher.submit(self._hash.update, piece)
                else:
                    self._hash.update(piece)
            self._out(piece)
            if hashed is not None:
                hashed.result()

    def add(self, buffer: memoryview) -> None:
        """Write a large buffer: its pieces are there already, and are hashed side by side while they are written."""
        digests = [self._hasher.submit(self._digest_of, piece) for piece in _pieces(buffer)]
        self._out(buffer)
        for digest in digests:
            self._hash.update(digest.result())

    def digest(self) -> bytes:
        self._digested = True
        return bytes(self._hash.digest())

    def keep(self, digest: bytes) -> str:
        name = self._home.adopt(self._temporary, self._fd, digest)
        self._temporary = ""
        return name

    def close(self) -> None:
        self._hasher.shutdown(cancel_futures=True)
        self._files.close(self._fd)
        if self._temporary:
            with contextlib.suppress(OSError):
                self._home.results().remove(self._temporary)

    def _digest_of(self, piece: memoryview) -> bytes:
        return bytes(self._home.sha256(piece).digest())

    def _out(self, view: memoryview) -> None:
        for piece in _pieces(view):
            rest = piece
            while rest:
                try:
                    rest = rest[self._files.write(self._fd, rest) :]
                except OSError as error:
                    # Told apart from those that a value raises while it is encoded.
                    raise unwritable(self._home.results().path / self._temporary, error) from error


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def _hashers() -> ThreadPoolExecutor:
    """Return threads that hash: about a gigabyte a second each, which is slower than many disks."""
    return ThreadPoolExecutor(_HASHERS, "flowforge-hash")


class Source:
    """Reads and hashes the bytes of one large result, from the first to the last."""

    def __init__(self, files: Files, fd: int, ref: ResultRef, sha256: Callable[..., Any]) -> None:
        self._files = files
        self._fd = fd
        self._ref = ref
        self._sha256 = sha256
        self._hash = sha256()
        self._done = 0

    def at(self, start: int, length: int) -> bytes:
        """Return *length* bytes from *start* on; raise :class:`ResultDamaged` when there are less."""
        if start < 0:
            raise damaged(self._ref)
        data = self._files.pread(self._fd, length, self._ref.offset + start)
        if len(data) != length:
            raise damaged(self._ref)
        return data

    def lengths(self, end: int) -> Sequence[int]:
        """Return the lengths of the parts: they are not verified yet, but add up to what is there."""
        (count,) = struct.unpack("<I", self.at(end - 4, 4))
        table = 8 * count
        if not count or table > end - 4:
            raise damaged(self._ref)
        lengths = struct.unpack(f"<{count}Q", self.at(end - 4 - table, table))
        if sum(lengths) != end - 4 - table:
            raise damaged(self._ref)
        return lengths

    def parts(self, lengths: Sequence[int], *, keep: bool) -> list[Any]:
        """Read and hash parts of these lengths; return each in memory that can be written, if they are to be kept."""
        stream, *buffers = lengths
        with _hashers() as hashers:
            parts = [self._part(stream, hashers, keep=keep, is_stream=True)]
            parts += [self._part(length, hashers, keep=keep) for length in buffers]
        return parts

    def finish(self, end: int) -> bytes:
        """Hash what is left up to *end* and return the SHA-256 of everything."""
        self._hash.update(self.at(self._done, end - self._done))
        return bytes(self._hash.digest())

    def _small_part(self, length: int) -> bytearray:
        part = bytearray(self.at(self._done, length))
        self._hash.update(part)
        self._done += length
        return part

    def _part(self, length: int, hashers: ThreadPoolExecutor, *, keep: bool, is_stream: bool = False) -> Any:
        if length < LARGE:
            return self._small_part(length)
        # What is not kept goes to a few places in turns: some are hashed while one is filled.
        places = 1 if is_stream else _HASHERS
        memory = _memory(length if keep else min(length, (places + 1) * CHUNK))
        view = memoryview(memory)
        waiting: deque[Future[bytes | None]] = deque()
        for done in range(0, length, CHUNK):
            start = done if keep else done % len(view)
            piece = view[start : start + min(CHUNK, length - done)]
            self._fill(piece)
            if len(waiting) == places:
                self._take(waiting.popleft())
            waiting.append(hashers.submit(self._hash.update if is_stream else self._digest_of, piece))
        while waiting:
            self._take(waiting.popleft())
        return memory

    def _take(self, hashed: Future[bytes | None]) -> None:
        digest = hashed.result()
        if digest is not None:
            self._hash.update(digest)

    def _digest_of(self, piece: memoryview) -> bytes:
        return bytes(self._sha256(piece).digest())

    def _fill(self, chunk: memoryview) -> None:
        while chunk:
            got = self._files.read_into(self._fd, chunk, self._ref.offset + self._done)
            if not got:
                raise damaged(self._ref)
            self._done += got
            chunk = chunk[got:]


def _memory(length: int) -> Any:
    """Return *length* writable bytes, without filling them first where that can be done."""
    if length < LARGE:
        return bytearray(length)
    memory = mmap.mmap(-1, length)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
