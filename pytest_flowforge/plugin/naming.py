"""Which functions are tasks and what they are called; which files are flow files."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FileNames", "FunctionNames"]

_GLOB = "*?["


class FunctionNames:
    """The names that make a function a task: prefixes (``flow_``) or patterns (``*_step``)."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._prefixes = tuple(pattern for pattern in patterns if not _is_glob(pattern))
        self._globs = tuple(pattern for pattern in patterns if _is_glob(pattern))
        starts = (*self._prefixes, *(glob[:-1] for glob in self._globs if glob.endswith("*")))
        #: What a task's name leaves out.
        self._left_out = tuple(start for start in starts if not _is_glob(start))

    def matches(self, name: str) -> bool:
        """Whether a function of this name is a task."""
        return name.startswith(self._prefixes) or any(fnmatchcase(name, glob) for glob in self._globs)

    def task_name(self, function: str) -> str:
        """The name of the task: the function's name without the prefix that made it one."""
        for prefix in self._left_out:
            if function.startswith(prefix) and function != prefix:
                return function[len(prefix) :]
        return function


class FileNames:
    """The names that make a file a flow file, as patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)

    def matches(self, path: Path) -> bool:
        """Whether *path* is a flow file by its name."""
        return any(path.match(pattern) for pattern in self._patterns)

    @staticmethod
    def stem(path: Path) -> str:
        """The short name of a flow file: ``flow_etl.py`` and ``etl_flow.py`` are both ``etl``."""
        return path.stem.removeprefix("flow_").removesuffix("_flow")


def _is_glob(pattern: str) -> bool:
    return any(char in pattern for char in _GLOB)
