"""Values shown in a few lines: quickly, however large they are, where their classes are those of Python itself.

Whatever other classes make of being shown, they take the time that takes, and raise nothing here.
"""

from __future__ import annotations

import reprlib

__all__ = ["preview"]

#: Characters of a preview.
_LONGEST = 2000


class _Shortener(reprlib.Repr):
    def repr_bytes(self, value: bytes | bytearray, _level: int) -> str:
        if len(value) <= self.maxstring:
            return repr(value)
        half = self.maxstring // 2
        return f"{value[:half]!r}...{value[-half:]!r}"

    #: Found by the name of the class.
    repr_bytearray = repr_bytes


_shortener = _Shortener()
_shortener.maxlevel = 5
_shortener.maxlist = _shortener.maxtuple = _shortener.maxset = _shortener.maxfrozenset = 20
_shortener.maxdict = _shortener.maxdeque = _shortener.maxarray = 20
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = _LONGEST


def preview(value: object, longest: int = _LONGEST) -> str:
    """Return *value* as Python would show it, cut where it is long."""
    try:
        text = _shortener.repr(value)
    except BaseException as error:  # noqa: BLE001 - even SystemExit: it comes from a __repr__, nobody wants to exit
        text = f"<repr() of {type(value).__name__} raised {type(error).__name__}>"
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
