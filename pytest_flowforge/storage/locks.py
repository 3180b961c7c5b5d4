"""One run at a time: the lock of a checkpoint, and who holds it.

The lock itself is one of the operating system: it goes when its process goes, however that ends. A file beside it says
who holds it; that file outlives a run that was killed, and so tells that it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: Any = None
else:
    fcntl = _fcntl

from pytest_flowforge.errors import CheckpointError, CheckpointLocked, CheckpointUnsafe
from pytest_flowforge.storage.files import unwritable

if TYPE_CHECKING:
    from pytest_flowforge.storage.files import Folder

__all__ = ["Holder", "RunLock", "WorkersLock", "numbering"]

_LOCK = "run.lock"
_WORKERS = "workers.lock"
_HOLDER = "RUNNING"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds, or held, a checkpoint.

    ``started`` and ``boot`` tell it from another process that got the same pid later; empty where the system does not
    say. ``since`` is in seconds since the epoch.
    """

    run: str
    pid: int
    host: str
    since: float
    started: str = ""
    boot: str = ""

    @classmethod
    def here(cls, run: str) -> Holder:
        """Return this process, as the holder for *run*, which may have no id yet."""
        pid = os.getpid()
        return cls(run, pid, socket.gethostname(), time.time(), _started(pid), _boot())

    @classmethod
    def of(cls, text: bytes) -> Holder:
        """Return the one that *text*, as :meth:`facts` wrote it, tells of; raise ValueError, KeyError or TypeError."""
        facts = json.loads(text)
        return cls(
            str(facts["run"]),
            int(facts["pid"]),
            str(facts["host"]),
            float(facts["since"]),
            str(facts["started"]),
            str(facts["boot"]),
        )

    def facts(self) -> bytes:
        """Return what :meth:`of` reads."""
        return json.dumps(asdict(self)).encode("ascii")

    @property
    def is_known_dead(self) -> bool:
        """Whether that very process is known to be gone: it was one of this machine, since it was started."""
        here = Holder.here("")
        return (
            bool(here.boot and self.started) and (self.host, self.boot) == (here.host, here.boot) and not self.is_alive
        )

    @property
    def is_alive(self) -> bool:
        """Whether that very process is known to live on this machine."""
        if self.pid <= 1 or self.host != socket.gethostname() or not self.started:
            return False
        return self.boot == _boot() and self.started == _started(self.pid)

    def __str__(self) -> str:
        at = time.strftime("%H:%M", time.localtime(self.since))
        run = f", run {self.run}" if self.run else ""
        return f"pid {self.pid}, host {self.host}, since {at}{run}"


class RunLock:
    """The exclusive lock of the checkpoint in *folder*."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        # Never a soft lock, a file that stays when its process is killed: rather no run than two at once.
        self._lock = FileLock(folder.path / _LOCK, mode=0o600, thread_local=False, fallback_to_soft=False)

    def acquire(self, wait: float = 0.0) -> Holder | None:
        """Lock the checkpoint, waiting for at most *wait* seconds.

        Returns the holder before, when that one was ended without a chance to say so. Raises
        :class:`CheckpointLocked`, or :class:`CheckpointUnsafe` when something else stands in the place of the lock.
        """
        self._check_place()
        try:
            self._lock.acquire(timeout=wait)
        except Timeout:
            holder = self.holder()
            who = f" ({holder})" if holder is not None else ""
            msg = (
                f"another flowforge run{who} uses the checkpoint {self._folder.path}: wait for it with --ff-wait,"
                " or use another folder with --ff-checkpoint"
            )
            raise CheckpointLocked(msg) from None
        except OSError as error:
            raise unwritable(self._folder.path / _LOCK, error) from error
        except NotImplementedError as error:
            msg = f"{self._folder.path} is on a file system without locks: use another one with --ff-checkpoint"
            raise CheckpointError(msg) from error
        before = self.holder()
        try:
            self.announce("")
        except BaseException:
            self._lock.release()
            raise
        return before

    def announce(self, run: str) -> None:
        """Say who holds the checkpoint, for *run*, which may have no id yet; raise :class:`CheckpointUnwritable`."""
        self._folder.put(_HOLDER, Holder.here(run).facts())

    def release(self) -> None:
        """Say that the run has ended, and let the next one in."""
        if self._lock.is_locked:
            # Where nothing can be changed any more it stays, and this run will be taken for one that was killed.
            with contextlib.suppress(OSError):
                self._folder.remove(_HOLDER)
            self._lock.release()

    def holder(self) -> Holder | None:
        """Return who holds the checkpoint, or did when it was killed; None when nobody does or nobody knows."""
        try:
            return Holder.of(self._folder.text(_HOLDER))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, CheckpointUnsafe):
            return None

    def _check_place(self) -> None:
        try:
            status = self._folder.status(_LOCK)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            msg = f"{self._folder.path / _LOCK} is no plain file: look at it, and remove it if it is not yours"
            raise CheckpointUnsafe(msg)


class WorkersLock:
    """Held by every worker of the run that uses the checkpoint in *folder*, for as long as it lives.

    A run that was killed may leave workers behind that still do its work; the next run can see them, and wait. Where
    the system knows no shared locks (Windows) nothing is held, and nobody is seen.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fd: int | None = None

    def share(self) -> None:
        """Hold the lock together with other workers; where that can not be done, go without."""
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(self._open(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                # A daemon that a task has forked would hold it for ever. To close is not to unlock: we still hold it.
                os.register_at_fork(after_in_child=self.release)

    def are_gone(self, wait: float) -> bool:
        """Whether no worker holds it, after waiting for at most *wait* seconds."""
        if fcntl is None:
            return True
        until = time.monotonic() + wait
        try:
            fd = self._open()
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= until:
                        return False
                    time.sleep(_PAUSE)
                else:
                    return True
        except OSError:
            # No such lock here: nobody can hold it.
            return True
        finally:
            self.release()

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self._folder.path / _WORKERS, flags, 0o600)
        return self._fd


#: Seconds between two looks at a lock.
_PAUSE = 0.05


def _started(pid: int) -> str:
    """Return when the process began, in a form that only compares; empty where the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  (a path of the kernel's)
            # The name of the program, in parentheses, may hold anything.
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError, ValueError):
        return ""


def _boot() -> str:
    """Return what tells this start of the machine from others; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123  (a path of the kernel's)
            return file.read().decode("ascii").strip()
    except (OSError, ValueError):
        return ""


def numbering() -> str:
    """Return what tells apart where pids are counted (containers count their own); empty where that is not known."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (no file, but a name of the kernel's)
    return ""
