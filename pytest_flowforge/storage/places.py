"""What is where in a checkpoint, and what may be thrown away.

    <checkpoint>/           only the current user can write it
        VERSION             major version of all of it
        STORE               which store it goes with, where it is the copy of one
        run.lock  RUNNING   who uses it
        workers.lock        held by its worker processes
        durations.json      how long tasks took, lately: advice, and no more
        runs/<run id>/      journal.jsonl, written by the run's controller
            results/        what its tasks returned

Runs are deleted as a whole, the oldest first, but never results that a kept run still needs.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointDamaged, CheckpointError, CheckpointUnsafe, CheckpointVersion
from pytest_flowforge.storage.files import Files, Folder, unwritable
from pytest_flowforge.storage.journal import JOURNAL, Journal, Reading, Scan, reading, repair, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["BLOB", "DURATIONS", "MOST_DURATIONS", "RUN", "SEGMENT", "STORE", "Place", "check_run", "is_result_file"]

STORE = "STORE"
DURATIONS = "durations.json"

#: Bytes of that file that are read: enough for a million tasks.
MOST_DURATIONS = 128 << 20

#: How runs are called, and files with results: many small ones, or a large one.
RUN = r"\d{8}-\d{6}-[0-9a-f]{4}"
SEGMENT = r"[0-9a-f]{32}\.seg"
BLOB = r"[0-9a-f]{32}\.bin"

_VERSION = 1
_RESULTS = "results"
_RUN_ID = re.compile(RUN, re.ASCII)
_RESULT_FILE = re.compile(rf"{SEGMENT}|{BLOB}", re.ASCII)
_TEMPORARY = ".tmp-"

#: What else may stand in a checkpoint.
_OURS = (".gitignore", "runs", "run.lock", "workers.lock", "RUNNING", DURATIONS, STORE)

#: A checkpoint may stand in a project's tree; what is in it is no source.
_IGNORE = b"# Results of pytest-flowforge runs.\n*\n"


def check_run(run: str) -> None:
    """Raise :class:`CheckpointError` for what can not be the id of a run."""
    if not _RUN_ID.fullmatch(run):
        msg = f"{run!r:.100} is no id of a run: they look like 20261123-205212-9f3a (--ff-history lists them)"
        raise CheckpointError(msg)


def is_result_file(name: str) -> bool:
    """Whether a file with results may be called *name*."""
    return _RESULT_FILE.fullmatch(name) is not None


def _nothing() -> None:
    """Tell nobody that there is something new."""


def _from_nowhere(run: str, name: str, end: int) -> bool:
    """There is nothing but what is here."""
    del run, name, end
    return False


class Place:
    """The checkpoint in a folder. What changes it is to be done under its lock (:mod:`.locks`)."""

    def __init__(self, folder: Folder, runs: Folder) -> None:
        self.folder = folder
        self._runs = runs
        #: Brings a file with results here, of which so many bytes are needed, from where the checkpoint has it as well;
        #: returns whether it has done something.
        self.fetch: Callable[[str, str, int], bool] = _from_nowhere
        self._restoring = threading.Lock()

    @classmethod
    def open(cls, path: Path, files: Files | None = None, *, create: bool = True) -> Place:
        """Open the checkpoint at *path*; make it, or with ``create=False`` raise :class:`FileNotFoundError`.

        Raises :class:`CheckpointUnsafe`, and :class:`CheckpointVersion` when a newer version wrote it.
        """
        # Whatever becomes of the working folder: it may have to be made anew.
        folder = Folder.open(path.absolute(), files or Files(), create=create)
        try:
            _check_version(folder, create=create)
            return cls(folder, folder.folder("runs", create=create))
        except BaseException:
            folder.close()
            raise

    @property
    def path(self) -> Path:
        return self.folder.path

    def close(self) -> None:
        self._runs.close()
        self.folder.close()

    def runs(self) -> list[str]:
        """Return the ids of the runs that have a journal, the oldest first."""
        return [run for run in self._ids() if self._has(run, JOURNAL)]

    def ids(self) -> list[str]:
        """Return the ids of all runs of which anything is there, the oldest first."""
        return self._ids()

    def folder_of(self, run: str) -> Folder:
        """Open the folder of *run*; raise :class:`FileNotFoundError`."""
        return self._run(run)

    def uses(self, runs: Iterable[str]) -> set[str] | None:
        """Return the runs whose results *runs* need; None when nobody knows, as when a journal is not here."""
        return self._uses(runs)

    def forget(self, run: str, *, results: bool) -> None:
        """Delete the journal of *run*, and its *results* as well."""
        self._delete(run, results=results)

    def new_run(self, at: float) -> str:
        """Make the place of a run that begins at *at* (seconds since the epoch) and return its id.

        It sorts behind all others, even when the clock was set back.
        """
        last = self._ids()[-1:]
        suffix = self.folder.files.urandom(2).hex()
        stamp = _stamp(at)
        if last and stamp <= last[0][: len(stamp)]:
            stamp = _stamp(_seconds(last[0][: len(stamp)]) + 1)
        run = f"{stamp}-{suffix}"
        self._runs.make(run)
        with self._run(run) as folder:
            folder.make(_RESULTS)
            try:
                folder.sync()
                self._runs.sync()
            except OSError as error:
                raise unwritable(folder.path, error) from error
        return run

    def durations(self) -> dict[str, float]:
        """Return how many seconds tasks took when they last succeeded; empty when that can not be read."""
        try:
            facts = json.loads(self.folder.text(DURATIONS, MOST_DURATIONS))
        except (OSError, ValueError, RecursionError, CheckpointError):
            return {}
        if not isinstance(facts, dict):
            return {}
        return {
            task: float(seconds)
            for task, seconds in facts.items()
            if isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
        }

    def keep_durations(self, seconds: Mapping[str, float]) -> None:
        """Remember how many seconds tasks took; raise :class:`CheckpointUnwritable`."""
        self.folder.put(DURATIONS, json.dumps(dict(seconds), separators=(",", ":")).encode("ascii"))

    def journal(self, run: str, *, on_append: Callable[[], None] = _nothing) -> Journal:
        """Begin the journal of *run*; raise :class:`FileExistsError` when it was begun before."""
        with self._run(run) as folder:
            return Journal(folder, on_append=on_append, restore=lambda: self.restore(run))

    def read(self, run: str, *, most: int | None = None) -> Scan:
        """Read the journal of *run*, or its first records; raise :class:`FileNotFoundError`."""
        with self._run(run) as folder:
            return scan(folder, most=most)

    @contextlib.contextmanager
    def reading(self, run: str) -> Iterator[Reading]:
        """Open the journal of *run* for reading it record by record; raise :class:`FileNotFoundError`."""
        with self._run(run) as folder, reading(folder) as opened:
            yield opened

    def repair(self, run: str) -> tuple[Scan, Path | None]:
        """Keep the good records of the journal of *run*; see :func:`.journal.repair`."""
        with self._run(run) as folder:
            return repair(folder)

    def results(self, run: str) -> Folder:
        """Open the folder with the results of *run*; raise :class:`FileNotFoundError`."""
        with self._run(run) as folder:
            return folder.folder(_RESULTS)

    def restore(self, run: str) -> Folder:
        """Make the folders of *run*, and those above it, where they were deleted; return that of the run.

        What was in them stays lost, but for what is open in a process and written anew by it. Threads and processes
        may do this at the same time. Raises :class:`CheckpointUnwritable` and :class:`CheckpointUnsafe`.
        """
        with self._restoring:
            try:
                self._restore_above()
                folder = self._runs.folder(run, create=True)
            except OSError as error:
                raise unwritable(self.path, error) from error
        try:
            folder.folder(_RESULTS, create=True).close()
            folder.sync()
        except OSError as error:
            folder.close()
            raise unwritable(folder.path, error) from error
        except BaseException:
            folder.close()
            raise
        return folder

    def _restore_above(self) -> None:
        if self.folder.gone:
            self.folder.become(Folder.open(self.path, self.folder.files, create=True))
        _check_version(self.folder, create=True)
        if self._runs.gone:
            self._runs.become(self.folder.folder("runs", create=True))
            self.folder.sync()
        self._runs.sync()

    def prune(self, keep: int) -> list[str]:
        """Delete all but the last *keep* runs, and what killed runs left half-written; return the ids.

        Results that a kept run was built on stay, until that run goes, too. When a kept journal can not be read, nobody
        knows what it needs, and nothing is deleted.
        """
        _empty(self.folder, only=_TEMPORARY)
        runs = self.runs()
        kept = runs[max(len(runs) - keep, 0) :] if keep > 0 else []
        needed = self._uses(kept)
        if needed is None:
            return []
        gone = []
        for run in self._ids():
            if kept and run >= kept[0]:
                # Without a journal as well: it may be about to begin.
                self._tidy(run)
                continue
            self._tidy(run)
            had_journal = self._has(run, JOURNAL)
            self._delete(run, results=run not in needed)
            if had_journal:
                gone.append(run)
        return gone

    def clear(self) -> None:
        """Delete all runs and results."""
        for run in reversed(self._ids()):
            self._delete(run, results=True)

    def _ids(self) -> list[str]:
        return [name for name in self._runs.names() if _RUN_ID.fullmatch(name)]

    def _run(self, run: str) -> Folder:
        check_run(run)
        return self._runs.folder(run)

    def _has(self, run: str, name: str) -> bool:
        try:
            with self._run(run) as folder:
                folder.status(name)
        except FileNotFoundError:
            return False
        return True

    def _uses(self, kept: Iterable[str]) -> set[str] | None:
        """Return the runs whose results those *kept* were built on; None when nobody knows."""
        needed: set[str] = set()
        for run in kept:
            try:
                head = self.read(run, most=1).checked()
            except (OSError, CheckpointDamaged, CheckpointUnsafe):
                return None
            # Without a first record the run was ended before it could build on anything.
            uses = head[0].get("uses", []) if head else []
            if not isinstance(uses, list):
                return None
            needed.update(map(str, uses))
        return needed

    def _tidy(self, run: str) -> None:
        with self._run(run) as folder, contextlib.suppress(FileNotFoundError):
            _empty(folder, only=_TEMPORARY)
            with folder.folder(_RESULTS) as results:
                _empty(results, only=_TEMPORARY)

    def _delete(self, run: str, *, results: bool) -> None:
        with self._run(run) as folder:
            # The journal first: results without a journal are garbage, a journal without results would be a lie.
            _empty(folder)
            if results:
                with contextlib.suppress(FileNotFoundError), folder.folder(_RESULTS) as stored:
                    _empty(stored)
                folder.remove_folder(_RESULTS)
        self._runs.remove_folder(run)


def _empty(folder: Folder, only: str = "") -> None:
    """Remove the files in *folder* whose names begin with *only*; folders in it stay."""
    for name in folder.names():
        if name.startswith(only) and name != _RESULTS:
            folder.remove(name)


def _check_version(folder: Folder, *, create: bool) -> None:
    try:
        text = folder.text("VERSION")
    except FileNotFoundError:
        if create:
            _claim(folder)
        return
    if not re.fullmatch(rb"\d{1,9}\n", text):
        msg = f"{folder.path / 'VERSION'} holds no version: this is no checkpoint, choose another --ff-checkpoint"
        raise CheckpointDamaged(msg)
    if int(text) > _VERSION:
        msg = (
            f"{folder.path} was written in format {int(text)}, and this version of pytest-flowforge reads up to"
            f" {_VERSION}: update it, or use another --ff-checkpoint"
        )
        raise CheckpointVersion(msg)


def _claim(folder: Folder) -> None:
    """Make a checkpoint of an empty folder; raise :class:`CheckpointUnsafe` for one that is somebody else's."""
    # What a process leaves behind that was killed on its way here is ours.
    others = [name for name in folder.names() if not name.startswith((_TEMPORARY, *_OURS))]
    with contextlib.suppress(FileNotFoundError):
        if folder.text(".gitignore") != _IGNORE:
            others.append(".gitignore")
    if others:
        msg = (
            f"{folder.path} is no checkpoint and holds other things ({others[0]}): choose an empty folder with"
            " --ff-checkpoint, or one that is not there yet"
        )
        raise CheckpointUnsafe(msg)
    folder.put(".gitignore", _IGNORE)
    folder.put("VERSION", b"%d\n" % _VERSION)


def _stamp(at: float) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))


def _seconds(stamp: str) -> float:
    import calendar  # noqa: PLC0415  (for clocks that were set back, and for two runs in a second)

    try:
        return float(calendar.timegm(time.strptime(stamp, "%Y%m%d-%H%M%S")))
    except ValueError as error:
        msg = f"a run has the id {stamp}, which is no time: remove its folder"
        raise CheckpointDamaged(msg) from error
