"""Modules of projects in a worker that lives longer than a run: as they are in their files when a run begins.

A module is thrown out when its file has changed since it was imported here, and with it those that import it, which
hold what it was before. All others stay, whoever asks: two runs at a time share them, and what is installed can often
not be imported twice.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_flowforge.codeprint.project import FileCache, Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from pytest_flowforge.codeprint.project import SourceFile

__all__ = ["ProjectModules"]

#: Nanoseconds. A file may be changed so long after it was read and have the same time of change.
_FRESH = 100_000_000


@dataclass(frozen=True, slots=True)
class _Imported:
    """A module that was imported here: its file, and time of change and size of that; None where that is not known."""

    module: int
    path: str
    stamp: tuple[int, int] | None


class ProjectModules:
    """The modules of this process. Those that were there before the first run are never thrown out."""

    def __init__(self) -> None:
        # Not a lock that the event loop of the worker waits for: to look at a module can be to import it.
        self._lock = threading.Lock()
        self._before: frozenset[str] | None = None
        self._imported: dict[str, _Imported] = {}
        #: Runs that have begun here.
        self._runs: set[str] = set()
        #: What there was when it was last looked, and when that was, in nanoseconds since the epoch.
        self._count = 0
        self._looked = 0

    def begin(self, run: str, paths: Sequence[str]) -> None:
        """Let a call of *run* find the modules in the folders *paths*; at its first one here, as they are now."""
        with self._lock:
            if self._before is None:
                self._before = frozenset(sys.modules)
            self._take_note()
            if run in self._runs:
                return
            self._runs.add(run)
            self._throw_out_changed(paths)
            sys.path.extend(path for path in paths if path not in sys.path and Path(path).is_dir())
            importlib.invalidate_caches()

    def end(self) -> None:
        """Take note of what a call has imported."""
        with self._lock:
            self._take_note()

    def _take_note(self) -> None:
        """Take note of modules that were imported since this was last done, and of what their files are."""
        looked, self._looked = self._looked, time.time_ns()
        if len(sys.modules) == self._count:
            return
        self._count = len(sys.modules)
        for name, module in list(sys.modules.items()):
            known = self._imported.get(name)
            if name in (self._before or ()) or (known is not None and known.module == id(module)):
                continue
            path = _file_of(module)
            if path:
                stamp = _stamp_of(path)
                # It may be what was written after the module was made from it.
                is_older = stamp is not None and stamp[0] < looked - _FRESH
                self._imported[name] = _Imported(id(module), path, stamp if is_older else None)

    def _throw_out_changed(self, paths: Sequence[str]) -> None:
        project = Project([Path(path) for path in paths], FileCache())
        ours = {name: one for name, one in self._imported.items() if project.label(one.path) is not None}
        changed = {one.path for one in ours.values() if one.stamp is None or one.stamp != _stamp_of(one.path)}
        if not changed:
            return
        files = {one.path: project.file(one.path) for one in ours.values()}
        imported = {path: set(_imported_by(project, file)) for path, file in files.items() if file is not None}
        while more := {path for path, others in imported.items() if path not in changed and others & changed}:
            changed |= more
        for name, one in ours.items():
            if one.path in changed and not name.startswith("pytest_flowforge."):
                del self._imported[name]
                _forget(name)
        # As many may be imported now as were thrown out.
        self._count = len(sys.modules)


def _imported_by(project: Project, file: SourceFile) -> Iterator[str]:
    """The files of the project that the top level of *file* imports something from."""
    bindings = [ref for binding in file.index.bindings.values() for ref in binding.imports]
    for module, attr, level in (*bindings, *file.index.stars):
        for name in (module, f"{module}.{attr}" if module else attr):
            found = project.module(name, file, level)
            if not isinstance(found, str):
                yield found.path


def _file_of(module: ModuleType) -> str:
    """The file of *module*, without links; empty where it has none."""
    # What is in sys.modules may be anything.
    with suppress(Exception):
        file = getattr(module, "__file__", None)
        return str(Path(file).resolve()) if isinstance(file, str) else ""
    return ""


def _stamp_of(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _forget(name: str) -> None:
    module = sys.modules.pop(name, None)
    package, _, child = name.rpartition(".")
    parent = sys.modules.get(package)
    # ``from package import child`` asks it first.
    if module is not None and getattr(parent, child, None) is module:
        delattr(parent, child)
