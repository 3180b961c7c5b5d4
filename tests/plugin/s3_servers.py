"""A server that answers as S3 does, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import fsspec

if TYPE_CHECKING:
    from pathlib import Path

#: They are to appear nowhere: not in what is printed, not in what is kept.
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTEDXY",
    "AWS_SECRET_ACCESS_KEY": "planted/Secret0123456789planted+Secret01",
}


_KEPT: list[Any] = []


class S3Server:
    """moto's server; ``environment`` is what makes fsspec and s3fs ask it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self._files: Any = None
        self.url = ""
        for line in self.process.stdout:
            found = re.search(r"Running on (http://\S+)", line)
            if found:
                self.url = found[1]
                break
        assert self.url, "the server has not begun"
        # What is not read would stop it.
        self._reading = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reading.start()

    @property
    def environment(self) -> dict[str, str]:
        return {**SECRETS, "FSSPEC_S3_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}

    def file_system(self) -> Any:
        if self._files is not None:
            return self._files
        options = {"key": "k", "secret": "s", "endpoint_url": self.url}
        self._files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **options)
        # To the end of all tests: what is collected as garbage may warn of connections, in any of them.
        _KEPT.append(self._files)
        return self._files

    def bucket(self) -> Bucket:
        """Make an empty one."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        found = self.file_system()
        found.mkdir(name)
        return Bucket(found, name)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self._reading.join(20)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Bucket:
    """A bucket of its own for a test."""

    def __init__(self, fs: Any, name: str) -> None:
        self._fs = fs
        self._name = name
        self.url = f"s3://{name}/flows/nightly"

    def names(self, under: str = "") -> list[str]:
        """The names of the objects of the checkpoint, in alphabetical order."""
        start = f"{self._name}/flows/nightly/"
        return sorted(path[len(start) :] for path in self._fs.find(self._name) if path.startswith(start + under))

    def journal_end(self) -> int:
        """How many bytes of the journals are there."""
        return sum(
            max(int(name.rpartition("/")[2].split("-")[1]) for name in self.names(f"runs/{run}/journal.jsonl/"))
            for run in {name.split("/")[1] for name in self.names("runs") if "/journal.jsonl/" in name}
        )

    def content(self) -> dict[str, bytes]:
        return {path: self._fs.cat_file(path) for path in self._fs.find(self._name)}

    def put(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._name}/flows/nightly/{name}", content)


def everything_below(folder: Path) -> bytes:
    """The content of all files there, with their names."""
    return b"\n".join(
        str(path).encode() + b"\n" + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    )
