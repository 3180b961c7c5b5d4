"""Files and folders, opened so that nothing planted in their place is followed, waited for or written through.

The functions of ``os`` are bound to an instance when it is made, before any task runs: tasks may replace them (pyfakefs
and ``monkeypatch`` do), and what is written for a run must reach the disk all the same. Tests hand in an instance
whose functions fail.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pytest_flowforge.errors import CheckpointUnsafe, CheckpointUnwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Durability", "Files", "Folder", "check_written", "is_gone", "persist", "unwritable"]

#: ``normal``, ``full`` or ``off``; see :mod:`pytest_flowforge.storage.syncing`.
Durability: TypeAlias = str

_T = TypeVar("_T")

#: Absent on Windows, where links need rights of their own.
_SAFELY = os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else getattr(os, "O_NOINHERIT", 0)
_SAFELY |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_HAS_DIR_FD = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")

#: The names we give: nothing with a separator, and neither ``.`` nor ``..``.
_NAME = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._-]{0,150}", re.ASCII)

#: What a folder that can not be synced says: Windows, and some file systems on a network.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EACCES, errno.EBADF, errno.EPERM, errno.ENOTSUP})

#: How often something is tried that a deletion may come in between of.
_TRIES = 3

#: Bytes that are copied at a time.
_CHUNK = 1 << 20

#: File descriptors from here on are out of the way of tasks that close what they do not know.
_HIGH = 200

#: What we make is for the current user alone, whatever the umask is: tasks may set it to anything.
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _sync(fd: int) -> None:
    """Make the data of *fd* survive a power cut."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  (not there on Windows)

        # Its fsync leaves the data in the cache of the disk.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(fd)
    else:
        os.fdatasync(fd)


def _high(fd: int) -> int:
    """Return *fd*, moved out of the way where that is possible."""
    if sys.platform == "win32":
        return fd
    import fcntl  # noqa: PLC0415  (not there on Windows)

    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:
        # Fewer descriptors are allowed than that.
        return fd
    os.close(fd)
    return moved


def _pread(fd: int, length: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    data = _pread(fd, len(view), offset)
    view[: len(data)] = data
    return len(data)


def _keep_mode(fd: int, mode: int) -> None:
    """Leave the mode of *fd* as it is."""


class Files:
    """The functions of the operating system that a checkpoint needs, as they were when this was made."""

    def __init__(self) -> None:
        self.open = os.open
        self.close = os.close
        self.raw = io.FileIO
        self.write = os.write
        self.pread = getattr(os, "pread", _pread)
        self.read_into = _read_into
        self.sync = _sync
        self.sync_folder = os.fsync
        self.truncate = os.ftruncate
        self.high = _high
        self.stat = os.stat
        self.fstat = os.fstat
        self.replace = os.replace
        self.link = os.link
        self.unlink = os.unlink
        self.mkdir = os.mkdir
        self.chmod = os.chmod
        # Windows knows no such modes.
        self.set_mode = getattr(os, "fchmod", _keep_mode)
        self.rmdir = os.rmdir
        self.listdir = os.listdir
        self.getpid = os.getpid
        self.urandom = os.urandom


def unwritable(what: object, error: OSError) -> CheckpointUnwritable:
    """Return the one error for everything that can not be written."""
    why = error.strerror or repr(error)
    msg = f"cannot write {what} ({why}): make room or choose another --ff-checkpoint, then continue with --ff-resume"
    return CheckpointUnwritable(msg)


def check_written(written: int | None, length: int) -> None:
    """Raise :class:`OSError` for a short write: that is how a full disk begins."""
    if written != length:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {written or 0:,} of {length:,} bytes were written")


def is_gone(files: Files, fd: int) -> bool:
    """Whether what is open as *fd* was deleted. On a file system that does not count names this is always so."""
    try:
        return not files.fstat(fd).st_nlink
    except OSError:
        # Something is wrong with it; whoever uses it is told what.
        return False


def persist(action: Callable[[], _T]) -> _T:
    """Return what *action* returns; try again when it fails, as folders may be on their way out underneath."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(OSError, CheckpointUnwritable):
            return action()
    return action()


class Folder:
    """A folder that only the current user can write, and the files in it.

    It stays the same folder even if something else takes its place (POSIX). Where others could write it, and where a
    link or anything but a plain file or folder stands in the place of one, :class:`CheckpointUnsafe` is raised.
    Names are ours: letters, digits, and a few signs.
    """

    def __init__(self, path: Path, files: Files, fd: int | None) -> None:
        self.path = path
        self.files = files
        self._fd = fd
        #: The descriptors of folders that were here before. Another thread may still be using them.
        self._former: list[int] = []

    @property
    def gone(self) -> bool:
        """Whether this folder was deleted, whatever is at its path now."""
        if self._fd is not None:
            return is_gone(self.files, self._fd)
        try:
            self.files.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def become(self, other: Folder) -> None:
        """Be the folder that *other* is, from now on; *other* is not to be used any more."""
        if self._fd is not None:
            self._former.append(self._fd)
        self._fd, other._fd = other._fd, None

    @classmethod
    def open(cls, path: Path, files: Files, *, create: bool = False) -> Folder:
        """Open *path*; raise :class:`FileNotFoundError` when there is none and it is not to be made."""
        if create:
            try:
                _make_parents(path, files)
                _make(files, str(path))
            except FileExistsError:
                pass
            except OSError as error:
                raise unwritable(path, error) from error
        return cls._opened(path, files, str(path), None)

    def folder(self, name: str, *, create: bool = False) -> Folder:
        """Open the folder *name* in this one; raise :class:`FileNotFoundError` as :meth:`open` does."""
        if create:
            with contextlib.suppress(FileExistsError):
                self.make(name)
        return self._opened(self.path / _checked(name), self.files, self._at(name), self._fd)

    def make(self, name: str) -> None:
        """Make the folder *name*; raise :class:`FileExistsError` when there is one."""
        try:
            _make(self.files, self._at(name), **self._dir_fd())
        except FileExistsError:
            raise
        except OSError as error:
            raise unwritable(self.path / name, error) from error

    @classmethod
    def _opened(cls, path: Path, files: Files, at: str, dir_fd: int | None) -> Folder:
        if not _HAS_DIR_FD:
            _check_folder(path, files.stat(path, follow_symlinks=False))
            return cls(path, files, None)
        try:
            fd = files.open(at, os.O_RDONLY | os.O_DIRECTORY | _SAFELY, dir_fd=dir_fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _strange(path, error, "folder") from error
        try:
            _check_folder(path, files.fstat(fd))
            return cls(path, files, files.high(fd))
        except BaseException:
            files.close(fd)
            raise

    def create(self, name: str, *, append: bool = False) -> int:
        """Make the new file *name* and return its descriptor; raise :class:`FileExistsError` when there is one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY | (os.O_APPEND if append else 0)
        try:
            fd = self.files.open(self._at(name), flags, _FILE_MODE, **self._dir_fd())
        except FileExistsError:
            raise
        except OSError as error:
            raise unwritable(self.path / name, error) from error
        try:
            _set_mode(self.files, fd, _FILE_MODE)
        except OSError as error:
            self.files.close(fd)
            raise unwritable(self.path / name, error) from error
        return self.files.high(fd)

    def read(self, name: str, *, write: bool = False) -> int:
        """Open the file *name* that exists and return its descriptor; raise :class:`FileNotFoundError`."""
        path = self.path / name
        try:
            # Never waits for whoever might write into a FIFO.
            fd = self.files.open(self._at(name), (os.O_RDWR if write else os.O_RDONLY) | _SAFELY, **self._dir_fd())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _strange(path, error, "file") from error
        try:
            _check_file(path, self.files.fstat(fd))
        except BaseException:
            self.files.close(fd)
            raise
        return fd

    def status(self, name: str) -> os.stat_result:
        """Return what is known of *name* itself, whatever it is; raise :class:`FileNotFoundError`."""
        return self.files.stat(self._at(name), follow_symlinks=False, **self._dir_fd())

    def names(self) -> list[str]:
        """Return the names in this folder, sorted."""
        return sorted(self.files.listdir(self.path if self._fd is None else self._fd))

    def text(self, name: str, limit: int = 65536) -> bytes:
        """Return the content of the small file *name*, at most *limit* bytes; raise :class:`FileNotFoundError`."""
        fd = self.read(name)
        try:
            return self.files.pread(fd, limit, 0)
        finally:
            self.files.close(fd)

    def put(self, name: str, content: bytes) -> None:
        """Make *content* that of the small file *name*: the whole old content or the whole new one, at any moment."""
        temporary = f".tmp-{self.files.urandom(8).hex()}"
        fd = self.create(temporary)
        try:
            try:
                check_written(self.files.write(fd, content), len(content))
                self.files.sync(fd)
            finally:
                self.files.close(fd)
            self.replace(temporary, name)
            self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise unwritable(self.path / name, error) from error
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise

    def copy(self, source: int, length: int | None, name: str, *, append: bool = False) -> int:
        """Make the file *name* of the first *length* bytes of *source* (None: of all), all of it or nothing.

        It takes the place of a file of this name, survives a power cut, and its descriptor is returned. Raises
        :class:`OSError` (also when there are fewer bytes), and :class:`CheckpointUnwritable`.
        """
        temporary = f".tmp-{self.files.urandom(8).hex()}"
        fd = self.create(temporary, append=append)
        try:
            self._fill(fd, source, length)
            self.files.sync(fd)
            self.replace(temporary, name)
            self.sync()
        except BaseException:
            self.files.close(fd)
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise
        return fd

    def fill(self, name: str, chunks: Iterable[bytes]) -> None:
        """Make the file *name* of these *chunks*: all of it, when it is there, and it takes the place of a former one.

        Raises :class:`CheckpointUnwritable`, and whatever *chunks* raises.
        """
        temporary = f".tmp-{self.files.urandom(8).hex()}"
        fd = self.create(temporary)
        try:
            for chunk in chunks:
                self._write_all(fd, chunk)
            self._finish(fd, temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise
        finally:
            self.files.close(fd)

    def _write_all(self, fd: int, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self.files.write(fd, rest) :]
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _finish(self, fd: int, temporary: str, name: str) -> None:
        try:
            self.files.sync(fd)
            self.replace(temporary, name)
            self.sync()
        except OSError as error:
            raise unwritable(self.path / name, error) from error

    def _fill(self, fd: int, source: int, length: int | None) -> None:
        offset = 0
        while chunk := self.files.pread(source, _CHUNK if length is None else min(_CHUNK, length - offset), offset):
            rest = memoryview(chunk)
            while rest:
                rest = rest[self.files.write(fd, rest) :]
            offset += len(chunk)
        if length is not None and offset != length:
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: {offset:,} of {length:,} bytes could be read")

    def replace(self, name: str, by: str) -> None:
        """Give the file *name* the name *by*, in the place of the file that has it."""
        if self._fd is None:
            self.files.replace(self._at(name), self._at(by))
        else:
            self.files.replace(_checked(name), _checked(by), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def link(self, name: str, to: str) -> None:
        """Give the file *name* the name *to* as well; raise :class:`FileExistsError` when something has it."""
        if self._fd is None:
            self.files.link(self._at(name), self._at(to))
        else:
            self.files.link(_checked(name), _checked(to), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove the file *name*, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(self._at(name), **self._dir_fd())

    def remove_folder(self, name: str) -> None:
        """Remove the folder *name* if it is there and empty; otherwise it stays."""
        with contextlib.suppress(OSError):
            self.files.rmdir(self._at(name), **self._dir_fd())

    def sync(self) -> None:
        """Make the names in this folder survive a power cut, where the system can do that."""
        if self._fd is None:
            return
        try:
            self.files.sync_folder(self._fd)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise

    def __enter__(self) -> Folder:  # noqa: PYI034  (Self came with Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self.files.close(fd)
        while self._former:
            self.files.close(self._former.pop())

    def _at(self, name: str) -> str:
        _checked(name)
        return name if self._fd is not None else str(self.path / name)

    def _dir_fd(self) -> dict[str, Any]:
        return {} if self._fd is None else {"dir_fd": self._fd}


def _make(files: Files, at: str, **dir_fd: Any) -> None:
    """Make the folder *at*, for the current user alone; raise :class:`OSError`."""
    files.mkdir(at, _FOLDER_MODE, **dir_fd)
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _SAFELY
    if not _HAS_DIR_FD:
        return
    try:
        fd = files.open(at, flags, **dir_fd)
    except PermissionError:
        # The umask left us no right to open it. By name, then; where others could put a link there, it is opened, and
        # refused, next.
        files.chmod(at, _FOLDER_MODE, **dir_fd)
        return
    try:
        _set_mode(files, fd, _FOLDER_MODE)
    finally:
        files.close(fd)


def _set_mode(files: Files, fd: int, mode: int) -> None:
    # File systems without modes refuse, and what others may write is refused when it is opened.
    with contextlib.suppress(PermissionError):
        files.set_mode(fd, mode)


def _make_parents(path: Path, files: Files) -> None:
    """Make the folders above *path* that are not there, usable whatever the umask is; raise :class:`OSError`.

    They are not ours alone: what others may do there is said by the umask.
    """
    missing = []
    for parent in path.parents:
        try:
            files.stat(parent)
            break
        except FileNotFoundError:
            missing.append(parent)
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):
            files.mkdir(parent)
            mode = stat.S_IMODE(files.stat(parent).st_mode)
            if mode & _FOLDER_MODE != _FOLDER_MODE:
                files.chmod(parent, mode | _FOLDER_MODE)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"{name!r:.200} is no name of a file in a checkpoint"
        raise CheckpointUnsafe(msg)
    return name


def _check_folder(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise _not_a(path, "folder", status)
    _check_owner(path, status)
    if os.name == "posix" and status.st_mode & _OTHERS_CAN_WRITE:
        msg = f"{path} can be written by others, who could plant results in it: chmod go-w '{path}', or --ff-clear"
        raise CheckpointUnsafe(msg)


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_a(path, "file", status)
    _check_owner(path, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        msg = f"{path} belongs to another user (uid {status.st_uid}): choose a folder of your own with --ff-checkpoint"
        raise CheckpointUnsafe(msg)


_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISREG, "a file"),
)


def _not_a(path: Path, wanted: str, status: os.stat_result) -> CheckpointUnsafe:
    kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
    msg = f"{path} is {kind}, and a plain {wanted} should be there: look at it, and remove it if it is not yours"
    return CheckpointUnsafe(msg)


def _strange(path: Path, error: OSError, wanted: str) -> CheckpointUnsafe:
    """Say what stands at *path*, where opening it as a plain *wanted* failed."""
    with contextlib.suppress(OSError):
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116  (no pathlib where tasks may replace things)
        if not (stat.S_ISREG(status.st_mode) if wanted == "file" else stat.S_ISDIR(status.st_mode)):
            return _not_a(path, wanted, status)
    msg = f"cannot open {path} ({error.strerror or error!r}): look at its rights, or choose another --ff-checkpoint"
    return CheckpointUnsafe(msg)
