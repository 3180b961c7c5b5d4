"""The address of a checkpoint that is not a folder of this machine: a URL that fsspec understands.

Credentials are no part of it. They come from where the file system finds them (environment, configuration files), are
never stored, and are cut out of whatever is said of a failure.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_flowforge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Address", "censored", "is_address"]

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_S3, _GOOGLE, _AZURE = ("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss")
_S3_TRIES = 2

#: What a checkpoint may be in. Others need more than a URL says (a host, a user), and none of them was tried.
_PROTOCOLS = (*_S3, *_GOOGLE, *_AZURE, "file", "memory")

#: No folder is called so and followed by a colon: there, a slash is missing.
_REMOTE = (*_S3, *_GOOGLE, *_AZURE)

#: What has to be installed for a protocol, where its name does not say it.
_PACKAGES = {
    **dict.fromkeys(_S3, "s3fs"),
    **dict.fromkeys(_GOOGLE, "gcsfs"),
    **dict.fromkeys(_AZURE, "adlfs"),
}

#: There, what stands before an @ is the name of a container.
_NAMES_BEFORE_AT = ("abfs", "abfss", "wasb", "wasbs")

#: Which of several stores with the same URL is meant is said by these variables, and by these options in the
#: configuration of fsspec. Names of buckets are the same for all projects of Google, and for all accounts of AWS.
_TELLING: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (_S3, ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), ("endpoint_url",)),
    (_GOOGLE, ("STORAGE_EMULATOR_HOST",), ("endpoint_url",)),
    (
        _AZURE,
        ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"),
        ("account_name", "account_host", "connection_string"),
    ),
)

#: What of a connection string of Azure says which store it is; the rest are keys and signatures.
_TELLING_PARTS = ("accountname", "blobendpoint", "endpointsuffix", "usedevelopmentstorage")


def is_address(text: str) -> bool:
    """Whether *text* is a URL, or was meant as one, and not the path of a folder."""
    protocol, colon, _ = text.partition(":")
    return "://" in text or bool(colon and protocol.lower() in _REMOTE)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a checkpoint is kept; ``url`` holds no credentials and no slash at its end."""

    protocol: str
    url: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Return the address that *text* is; raise :class:`CheckpointError` for one that can not be used.

        What looks like a secret in *text* is not repeated.
        """
        url = os.path.expandvars(text.strip())
        found = _PROTOCOL.match(url)
        protocol = found[1].lower() if found else ""
        rest = url.partition("://")[2]
        host, _, path = rest.partition("/")
        # What stands before an @ may be a password.
        hides = "@" in (host if found else url)
        shown = f"{protocol}://" if found else ""
        shown += f"...@{url.rpartition('@')[2]}" if hides else rest or url
        user = host.rpartition("@")[0]
        if user and (":" in user or protocol not in _NAMES_BEFORE_AT):
            msg = (
                f"the URL of the checkpoint holds credentials ({protocol}://...@{host.rpartition('@')[2]}): take them"
                " out, and give them as the file system looks for them, in its environment variables or files"
            )
            raise CheckpointError(msg)
        if not found or "::" in url or "?" in url or "#" in url or any(part in (".", "..") for part in path.split("/")):
            msg = (
                f"{censored(shown)} can not be the URL of a checkpoint: it has to look like s3://bucket/prefix, without"
                " '::', '?', '#' and '..'"
            )
            raise CheckpointError(msg)
        if protocol not in _PROTOCOLS:
            msg = (
                f"{censored(shown)} can not be the URL of a checkpoint: {protocol}:// is not supported; use a folder,"
                f" or one of {', '.join(f'{known}://' for known in _PROTOCOLS)}"
            )
            raise CheckpointError(msg)
        return cls(protocol, f"{protocol}://{rest}".rstrip("/") if rest.strip("/") else f"{protocol}://{rest}")

    def file_system(self) -> tuple[Any, str]:
        """Return the file system of fsspec, and the path in it.

        Raises :class:`CheckpointError`, with the command that installs it, where it is not installed.
        """
        try:
            import fsspec  # noqa: PLC0415  (an extra: only those who name a URL need it)
        except ImportError:
            packages = " ".join(["'pytest-flowforge[fsspec]'", *_package_of(self.protocol)])
            msg = f"the checkpoint {self.url} needs the package fsspec: pip install {packages}"
            raise CheckpointError(msg) from None
        try:
            kind = fsspec.get_filesystem_class(self.protocol)
        except ImportError as error:
            package = " ".join(_package_of(self.protocol))
            way = f"pip install {package}" if package else censored(str(error))
            msg = f"the checkpoint {self.url} needs a package for {self.protocol}://: {way}"
            raise CheckpointError(msg) from None
        try:
            # An instance of its own: what tasks do with theirs, and to it, is no matter of ours.
            named = kind._get_kwargs_from_urls(self.url)  # noqa: SLF001  (its one name for that, too)
            made = fsspec.filesystem(self.protocol, skip_instance_cache=True, use_listings_cache=False, **named)
            if self.protocol in _S3:
                # It tries five times what boto has given up after five. Once more is for an answer that breaks off.
                made.retries = _S3_TRIES
            return made, str(kind._strip_protocol(self.url)).rstrip("/")  # noqa: SLF001  (its one name for that)
        except Exception as error:  # noqa: BLE001  (file systems raise what they like)
            msg = f"the checkpoint {self.url} can not be opened ({type(error).__name__}: {censored(str(error))})"
            raise CheckpointError(msg) from None

    def key(self) -> str:
        """Return a name for this store, which is the same whenever the same one is meant."""
        parts = [self.url]
        for protocols, variables, options in _TELLING:
            if self.protocol in protocols:
                parts += [_without_keys(os.environ.get(name, "")) for name in variables]
                parts += [_without_keys(_option(protocols, name)) for name in options]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def folder(self) -> Path:
        """Return where this machine has what is in that store, unless somebody says otherwise."""
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "flowforge" / self.key()


def _option(protocols: Iterable[str], name: str) -> str:
    """Return what the environment or a file says of that option of fsspec; empty for nothing."""
    for protocol in protocols:
        given = os.environ.get(f"FSSPEC_{protocol.upper()}_{name.upper()}")
        if given:
            return given
    try:
        from fsspec.config import conf  # noqa: PLC0415  (an extra; who has none is told so later)
    except ImportError:
        return ""
    for protocol in protocols:
        options = conf.get(protocol, {})
        nested = options.get("client_kwargs")
        found = options.get(name) or (nested.get(name) if isinstance(nested, dict) else None)
        if found:
            return str(found)
    return ""


def _without_keys(text: str) -> str:
    """Return what of *text* says which store it is, where that is a connection string; else all of it."""
    if "=" not in text:
        return text
    parts = (part.partition("=") for part in text.split(";"))
    return ";".join(sorted(f"{name}={value}" for name, _, value in parts if name.strip().lower() in _TELLING_PARTS))


def _package_of(protocol: str) -> list[str]:
    return [_PACKAGES[protocol]] if protocol in _PACKAGES else []


_LONGEST = 300
_SHORTEST_SECRET = 6

#: Variables whose values are secrets.
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|CONNECTION_STRING|SAS", re.IGNORECASE)

#: What looks like a secret, and what is said in its place.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Names and passwords in URLs, and their queries: signed ones have everything there.
    (re.compile(r"(://)[^\s/@]+@"), r"\1...@"),
    (re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*"), r"\1?..."),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "..."),
    (
        re.compile(
            r"((?:access[_-]?key(?:[_-]?id)?|account[_-]?key|secret|signature|credential|token|password|passwd|\bsig)"
            r"[\w-]*['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]+",
            re.IGNORECASE,
        ),
        r"\1...",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+\S+"), r"\1 ..."),
    # Long and mixed, as keys are, and no path.
    (re.compile(r"(?<![\w+=/])(?=[^\s]*[a-z])(?=[^\s]*[A-Z])(?=[^\s]*[0-9])[A-Za-z0-9+/=_-]{32,}"), "..."),
)


def censored(text: str, environment: Iterable[tuple[str, str]] | None = None) -> str:
    """Return *text* on one line, cut to some length, without what is, or looks like, a secret."""
    for name, value in os.environ.items() if environment is None else environment:
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "...")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
