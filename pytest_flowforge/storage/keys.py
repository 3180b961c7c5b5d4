"""The key that vouches for pickled results.

It is never in the checkpoint: who can only write there can not make a result that is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_flowforge.errors import CheckpointDamaged
from pytest_flowforge.storage.files import Folder, unwritable

if TYPE_CHECKING:
    from pytest_flowforge.storage.files import Files

__all__ = ["Key", "configuration_folder"]

_BYTES = 32


def configuration_folder() -> Path:
    """Return where the configuration of the current user is kept."""
    if os.name == "nt":
        base = os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "flowforge"


class Key:
    """Signs and verifies; the key is looked up when it is first needed.

    It is what FLOWFORGE_KEY says, else that of a file in the configuration folder of the user, which is made when
    there is none.
    """

    def __init__(self, files: Files, folder: Path | None = None) -> None:
        self._files = files
        self._place = folder
        self._secret: bytes | None = None

    def sign(self, codec: str, digest: bytes) -> bytes:
        """Return the 32 bytes that vouch for content with this SHA-256, encoded by *codec*."""
        if self._secret is None:
            self._secret = self._find()
        return hmac.digest(self._secret, b"flowforge result 1\0" + codec.encode() + b"\0" + digest, "sha256")

    def vouches(self, mark: bytes, codec: str, digest: bytes) -> bool:
        """Whether *mark* was made by :meth:`sign` with this key for the same content."""
        return hmac.compare_digest(mark, self.sign(codec, digest))

    def _find(self) -> bytes:
        given = os.environ.get("FLOWFORGE_KEY")
        if given:
            return hashlib.sha256(b"flowforge key\0" + given.encode("utf-8", "surrogateescape")).digest()
        with Folder.open(self._place or configuration_folder(), self._files, create=True) as folder:
            try:
                return _key_in(folder)
            except FileNotFoundError:
                _make_key(folder)
                return _key_in(folder)


def _key_in(folder: Folder) -> bytes:
    text = folder.text("key")
    if os.name == "posix" and folder.status("key").st_mode & 0o077:
        path = folder.path / "key"
        msg = f"others can read the key {path}: remove it (pickled results will then be made again), or chmod 600 it"
        raise CheckpointDamaged(msg)
    if not re.fullmatch(rb"[0-9a-f]{64}\n", text):
        msg = f"{folder.path / 'key'} holds no key: remove it, and a new one is made"
        raise CheckpointDamaged(msg)
    return bytes.fromhex(text.decode("ascii"))


def _make_key(folder: Folder) -> None:
    """Make the key, unless another process was faster."""
    files = folder.files
    temporary = f".tmp-{files.urandom(8).hex()}"
    folder.put(temporary, files.urandom(_BYTES).hex().encode("ascii") + b"\n")
    try:
        folder.link(temporary, "key")
    except FileExistsError:
        pass
    except OSError as error:
        raise unwritable(folder.path / "key", error) from error
    finally:
        with contextlib.suppress(OSError):
            folder.remove(temporary)
    folder.sync()
