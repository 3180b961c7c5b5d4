"""JSON as it is written here: compact, ASCII, without NaN, and quickly for the small values that are most of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["json_encoder"]


def json_encoder() -> Callable[[Any], str]:
    """Return a function that writes a value as JSON.

    It raises what :meth:`json.JSONEncoder.encode` does, which would make its encoder in C anew for each value;
    a container in itself is a :class:`RecursionError`. It is made once and kept: tasks may replace what is in ``json``.
    """
    encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    text = json.encoder.encode_basestring_ascii
    # In this order: no memory of what contains what, how to go on, strings, indentation, separators, unsorted, strict.
    encode = make(None, encoder.default, text, None, ":", ",", False, False, False)  # noqa: FBT003  (it takes no names)
    join = "".join
    return lambda value: join(encode(value, 0))
