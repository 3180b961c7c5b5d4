"""Digests of files that tasks declare: what they read, and what they make."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["digests_of_files"]

_CHUNK = 1 << 20
_GLOB = frozenset("*?[")


def digests_of_files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Return the digests of the files that *patterns* mean now, by path, relative to *folder* as the pattern is.

    A pattern is a path or holds ``*``, ``?``, ``[...]`` or ``**``, and is relative to *folder* unless it is absolute. A
    folder means all files in it. A path that is not there has an empty digest, a pattern without matches has none. A
    file that can not be read has the digest of the reason, so that it counts as changed once it can.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in _matches(folder, pattern):
            shown = path if Path(pattern).is_absolute() else Path(os.path.relpath(path, folder))
            name = shown.as_posix()
            if name not in found:
                found[name] = _digest(path)
    return dict(sorted(found.items()))


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    wanted = Path(os.path.expanduser(pattern))  # noqa: PTH111 - leaves alone what is nobody's home
    if not _GLOB & set(pattern):
        yield from _files(folder / wanted)
        return
    # Of the pattern alone: the folder may have brackets in its name.
    fixed, rest = _split(wanted)
    for match in sorted((folder / fixed).glob(rest)):
        yield from _files(match)


def _split(path: Path) -> tuple[Path, str]:
    """Return the part of *path* before the first pattern in it, and the rest."""
    parts = path.parts
    at = next(place for place, part in enumerate(parts) if _GLOB & set(part))
    return Path(*parts[:at]), str(Path(*parts[at:]))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(one for one in path.rglob("*") if not one.is_dir())
    else:
        yield path


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        digest.update(f"unreadable {error}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:32]
