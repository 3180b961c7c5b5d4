"""Short texts about numbers and values, for messages to people."""

from __future__ import annotations

import reprlib

__all__ = ["plural", "quoted"]


def plural(count: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


def quoted(value: object) -> str:
    """The repr of *value*, which may be anything, in one short printable line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in _REPR.repr(value))
