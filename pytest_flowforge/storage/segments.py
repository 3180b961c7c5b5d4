"""The files of small results: one process appends to each, and others read pieces of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_flowforge.storage.files import check_written, is_gone

if TYPE_CHECKING:
    from pytest_flowforge.storage.files import Files, Folder

__all__ = ["Segment", "SegmentReader"]

#: Bytes that are read ahead: hundreds of small results, in the time of a few.
_AHEAD = 1 << 16


class Segment:
    """The file to which one process appends its small results."""

    def __init__(self, folder: Folder) -> None:
        self._files = folder.files
        self.owner = self._files.getpid()
        self.name = f"{self._files.urandom(16).hex()}.seg"
        self.fd = folder.create(self.name, append=True)
        #: Where names are not counted, nobody can tell.
        self._can_go = not is_gone(self._files, self.fd)
        self._end = 0
        self._synced = 0

    @property
    def dirty(self) -> bool:
        return self._synced != self._end or self.gone

    @property
    def gone(self) -> bool:
        """Whether it was deleted; it is open, and can be written anew."""
        return self._can_go and is_gone(self._files, self.fd)

    def write_anew(self, folder: Folder) -> None:
        """Go on in a copy in *folder*, which is synced; raise :class:`OSError`. Not while something is appended."""
        former, self.fd = self.fd, folder.copy(self.fd, None, self.name, append=True)
        self._files.close(former)
        self._synced = self._end

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


class SegmentReader:
    """Reads pieces of a segment, which may grow."""

    def __init__(self, files: Files, fd: int) -> None:
        self.fd = fd
        self._pread = files.pread
        #: What was read last, from which offset on, and the offsets of the pieces that were taken from it.
        self._block: tuple[int, bytes, set[int]] = (0, b"", set())

    def piece(self, offset: int, length: int) -> bytes:
        """Return the bytes that are there now; fewer when the file ends before."""
        return self._pread(self.fd, length, offset)

    def next_piece(self, offset: int, length: int) -> bytes:
        """Return the bytes of a piece among whose neighbours the next one is likely to be.

        They are read together. A piece is given out of what was read before only once: who asks again wants to know
        what is there now.
        """
        start, block, taken = self._block
        if offset not in taken:
            if start <= offset and offset + length <= start + len(block):
                taken.add(offset)
                return block[offset - start : offset - start + length]
            if length < _AHEAD:
                block = self._pread(self.fd, _AHEAD, offset)
                self._block = (offset, block, {offset})
                return block[:length]
        return self.piece(offset, length)
