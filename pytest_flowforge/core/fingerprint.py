"""What a task is made of, as digests: its code, its parameters, and what else was declared to matter.

Digests are 32 hexadecimal digits (the first half of a SHA-256), the same in every process, on every machine, under
every hash seed. They tell versions apart; nothing here protects against somebody who wants two things to look alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DIGITS", "Fingerprint", "digest_of", "explain"]

#: Hexadecimal digits of a digest: enough that two of a trillion different things never share one by accident.
DIGITS = 32


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What one task is made of, apart from the results of its upstreams.

    ``code`` and ``parameters`` are digests. ``extra`` has (what, its digest or version) of everything else that counts:
    declared input files, environment variables, a version, which tasks are upstream, what plugins added. ``shown`` has
    (name, short text) of the parameters, for people only.
    """

    code: str
    parameters: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    shown: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def change(self, now: Fingerprint) -> str:
        """Say what is different *now*, the most telling difference only: ``code changed``; empty when nothing is."""
        if self.code != now.code:
            return "code changed"
        if self.parameters != now.parameters:
            return "parameter changed"
        return explain(dict(self.extra), dict(now.extra)).partition(", ")[0]


def digest_of(*texts: str) -> str:
    """The digest of *texts*, in this order; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    framed = "".join([f"{len(text)}:{text}" for text in texts])
    return sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def explain(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What has changed from one set of parts to another, such as ``helpers.py::clean changed``; empty for nothing.

    Sorted by name, separated by commas.
    """
    words = []
    for name in sorted({**before, **after}):
        if name not in before:
            words.append(f"{name} added")
        elif name not in after:
            words.append(f"{name} removed")
        elif before[name] != after[name]:
            words.append(f"{name} changed")
    return ", ".join(words)
