"""The files of a project: which ones they are, what they are called, and which one a module is."""

from __future__ import annotations

import os
import os.path as ospath
import site
import sys
import sysconfig
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_flowforge.codeprint.reading import read_index

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_flowforge.codeprint.index import FileIndex

__all__ = ["FileCache", "Project", "SourceFile"]

# Paths are strings here, and os.path asks about them: a Path costs more than the question, and every task asks.
# ruff: noqa: PTH110, PTH113, PTH116, PTH118, PTH119, PTH120, PTH123

_Stamp = tuple[int, int]


@dataclass(slots=True, eq=False)
class SourceFile:
    """A file of the project; ``label`` is what it is called in parts, the same on every machine."""

    path: str
    label: str
    index: FileIndex
    #: The global names of the module that was made from it, once it is known.
    live: dict[str, Any] | None = None


class FileCache:
    """What files define, kept for those whose path, size and time of change stay as they were.

    Give the same one to one printer after another in a process that lives long.
    """

    #: Nanoseconds. A file changed this short a time before it was read may change again unseen, because clocks of file
    #: systems are coarse: it is not kept.
    FRESH = 2_000_000_000

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Stamp, FileIndex | None]] = {}
        #: How many files have been parsed.
        self.parsed = 0

    def index(self, path: str) -> FileIndex | None:
        """The index of the file at *path*; None if it can not be read."""
        try:
            now = time.time_ns()
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._known.get(path)
            if known and known[0] == stamp:
                return known[1]
            with open(path, "rb") as file:
                index = read_index(file.read())
        except OSError:
            return None
        self.parsed += 1
        if now - status.st_mtime_ns > self.FRESH:
            self._known[path] = (stamp, index)
        return index


class Project:
    """Tells the files of the project from all others, and finds its modules by name."""

    def __init__(self, roots: Sequence[Path], cache: FileCache) -> None:
        self._roots = [ospath.realpath(root) for root in roots]
        self._labels = _root_labels(self._roots)
        self._cache = cache
        #: By the names that were asked for, and by the real paths behind them.
        self._files: dict[str, SourceFile | None] = {}
        self._real: dict[str, SourceFile | None] = {}
        self._modules: dict[tuple[str, str], SourceFile | str] = {}
        #: Folders elsewhere that links in the project lead to -> what their files are called.
        self._linked: dict[str, str] = {}
        #: Folders -> whether they are, or are in, a virtual environment or a folder of installed packages.
        self._foreign: dict[str, bool] = {}

    @cached_property
    def _installed(self) -> tuple[str, ...]:
        """Folders of the standard library and of installed packages."""
        kinds = ("stdlib", "platstdlib", "purelib", "platlib")
        found = [*map(sysconfig.get_path, kinds), *site.getsitepackages(), site.getusersitepackages()]
        return tuple(sorted({ospath.join(ospath.realpath(folder), "") for folder in found}))

    def close(self) -> None:
        """Forget all files; what the cache holds stays with those who share it."""
        self._cache = FileCache()
        for known in (self._files, self._real, self._modules, self._foreign):
            known.clear()

    def file(self, name: str, *, always: bool = False) -> SourceFile | None:
        """The file of this name, if it belongs to the project (or *always*, if it is no installed one)."""
        found = self._files.get(name)
        if found is None and (always or name not in self._files):
            path = ospath.realpath(name)
            found = self._real.get(path)
            if found is None and (always or path not in self._real):
                found = self._real[path] = self._open(name, path, always=always)
            self._files[name] = found
        return found

    def _open(self, name: str, path: str, *, always: bool) -> SourceFile | None:
        label = self.label(path) or self._label_by_link(name, path)
        label = label or (ospath.basename(path) if always and not self._is_foreign(path) else None)
        if label is None or not path.endswith((".py", ".pyw")):
            return None
        index = self._cache.index(path)
        return None if index is None else SourceFile(path, label, index)

    def label(self, path: str) -> str | None:
        """What the file at the real *path* is called; None for one that is not of this project."""
        for root, label in zip(self._roots, self._labels, strict=True):
            folder = ospath.join(root, "")
            if path.startswith(folder):
                return None if self._is_foreign(path, folder) else label + path[len(folder) :].replace(os.sep, "/")
        for folder, label in self._linked.items():
            if path.startswith(folder):
                return label + path[len(folder) :].replace(os.sep, "/")
        return None

    def _label_by_link(self, name: str, path: str) -> str | None:
        """What a file is called that lies elsewhere, and that a link in the project leads to under this *name*."""
        given = ospath.abspath(name)  # noqa: PTH100 - links are the very thing
        label = self.label(given) if given != path else None
        if label is not None and ospath.basename(given) == ospath.basename(path):
            # What lies beside it there is reached through the same link.
            self._linked[ospath.join(ospath.dirname(path), "")] = label[: -len(ospath.basename(path))]
        return label

    def _is_foreign(self, path: str, root: str = "") -> bool:
        """Whether the file belongs to Python or to an installed package; folders above *root* do not tell."""
        if path.startswith(self._installed):
            return True
        folder = ospath.dirname(path)
        unknown = []
        while folder not in self._foreign and len(folder) >= len(root) and folder != ospath.dirname(folder):
            unknown.append(folder)
            folder = ospath.dirname(folder)
        answer = self._foreign.get(folder, False)
        for one in reversed(unknown):
            answer = answer or ospath.basename(one) in {"site-packages", "dist-packages"}
            answer = self._foreign[one] = answer or ospath.exists(ospath.join(one, "pyvenv.cfg"))
        return answer

    def module(self, name: str, importer: SourceFile, level: int = 0) -> SourceFile | str:
        """The file of the module that *importer* calls *name*, or its full name if it is not of the project.

        *level* counts leading dots.
        """
        folder = ospath.dirname(importer.path)
        if level:
            for _ in range(level - 1):
                folder = ospath.dirname(folder)
            return self._below(folder, name) or "." * level + name
        known = self._modules.get((name, folder))
        if known is None:
            known = self._modules[name, folder] = self._find(name, folder)
        return known

    def may_hold_modules(self, name: str) -> bool:
        """Whether the module of this full name, no file of the project, may be a folder with files of the project."""
        module = sys.modules.get(name)
        if module is None:
            return name.partition(".")[0] not in sys.stdlib_module_names
        return getattr(module, "__file__", None) is None and hasattr(module, "__path__")

    def _find(self, name: str, folder: str) -> SourceFile | str:
        module = sys.modules.get(name)
        place = getattr(module, "__file__", None)
        if isinstance(place, str):
            found = self.file(place)
            if found is not None and found.live is None:
                found.live = vars(module)
            return found or name
        if module is not None or name.partition(".")[0] in sys.stdlib_module_names:
            return name
        # Not imported so far: a function will do it when it runs.
        folders = [entry or os.curdir for entry in sys.path]
        places = dict.fromkeys([*folders, folder, *self._roots])
        return next((below for place in places if (below := self._below(place, name))), name)

    def _below(self, folder: str, name: str) -> SourceFile | None:
        """The module or package *name* in *folder*; the package that *folder* is, if there is no name."""
        base = ospath.join(folder, *name.split("."))
        places = [ospath.join(base, "__init__.py"), *([base + ".py"] if name else [])]
        return next((found for place in places if ospath.isfile(place) and (found := self.file(place))), None)


def _root_labels(roots: Sequence[str]) -> list[str]:
    """What stands before the names of files of each root: nothing for the first one."""
    labels: list[str] = []
    for number, root in enumerate(roots):
        label = f"{ospath.basename(root)}:" if number else ""
        labels.append(f"{number}:{label}" if label in labels else label)
    return labels
