"""How values become bytes and bytes become values again.

Plain JSON values as JSON, everything else as pickle, with large buffers beside the stream instead of copied into it.
Whoever stores results chooses what may be decoded; data never does. Bytes come here verified.
"""

from __future__ import annotations

import json
import math
import pickle
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flowforge.errors import ResultUnstorable
from pytest_flowforge.storage.jsontext import json_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Codec", "JsonCodec", "Output", "PickleCodec", "explain_unpicklable", "is_plain"]

#: Levels of lists and dicts that are stored as JSON; the C code that writes them recurses.
_DEEPEST = 100

#: Integers up to this size are read back by every JSON reader in our own checks.
_LARGEST = 10**30

#: How deep into a value the search for what can not be pickled goes.
_SEARCH = 100


class Output(Protocol):
    """Where the stream of an encoded value goes."""

    def write(self, data: Any, /) -> int:
        """Take in a bytes-like object; it may be kept and must not change."""

    def restart(self) -> None:
        """Forget everything that was written."""


class Codec(Protocol):
    """A way to store values. ``name`` is written beside them and never changes its meaning."""

    @property
    def name(self) -> str:
        """Letters, digits and dashes."""

    @property
    def signed(self) -> bool:
        """Whether decoding may execute code, so that only authenticated bytes may be decoded."""

    def accepts(self, value: Any) -> bool:
        """Whether *value* comes back as it is. The first codec that says so is used."""

    def encode(self, value: Any, out: Output) -> Sequence[memoryview]:
        """Write the stream to *out* and return the buffers that go beside it; raise :class:`ResultUnstorable`."""

    def decode(self, stream: memoryview, buffers: Sequence[Any]) -> Any:
        """Return the value; *buffers* are writable and become part of it. May raise anything."""


class JsonCodec:
    """Plain JSON values: None, bool, int, float, str, and lists and dicts (with str keys) of them, exactly."""

    name = "json"
    signed = False

    def __init__(self) -> None:
        self._encode = json_encoder()
        self._decode = json.JSONDecoder().decode

    def accepts(self, value: Any) -> bool:
        return is_plain(value)

    def encode(self, value: Any, out: Output) -> Sequence[memoryview]:
        out.write(self._encode(value).encode("ascii"))
        return ()

    def decode(self, stream: memoryview, buffers: Sequence[Any]) -> Any:
        del buffers
        return self._decode(str(stream, "ascii"))


def is_plain(value: Any) -> bool:
    """Whether JSON gives back exactly *value*: types, order of keys, numbers and strings.

    Not so for NaN and infinities, lone surrogates, very large integers, tuples, subclasses, and containers that occur
    twice (JSON would make two of one).
    """
    if type(value) not in _CONTAINERS:
        return _children((value,)) is not None
    level: list[Any] = [value]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for container in level:
            inner = None if id(container) in seen else _children(container)
            if inner is None:
                return False
            seen.add(id(container))
            below += inner
        if not below:
            return True
        level = below
    return False


def _children(container: Iterable[Any]) -> Sequence[Any] | None:
    """Return the lists and dicts in *container*; None when it holds anything that is not plain."""
    values = container
    if type(container) is dict:
        for key in container:
            if type(key) is not str or not (key.isascii() or _is_text(key)):
                return None
        values = container.values()
    inner: list[Any] = []
    # One plain loop: most containers are small, and each result is looked at.
    for item in values:
        kind = type(item)
        if kind in _CONTAINERS:
            inner.append(item)
        elif not (item.isascii() or _is_text(item) if kind is str else kind in _SCALARS and _is_exact(item)):
            return None
    return inner


_CONTAINERS = frozenset({list, dict})
_SCALARS = frozenset({type(None), bool, int, float})


def _is_exact(number: Any) -> bool:
    """Whether JSON gives back this number; so it does for what is none."""
    if number is None or -_LARGEST < number < _LARGEST:
        return True
    return type(number) is float and math.isfinite(number)


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class PickleCodec:
    """Everything that pickle can store, and with cloudpickle what is defined inside of functions, too."""

    name = "pickle"
    signed = True

    def accepts(self, value: Any) -> bool:
        del value
        return True

    def encode(self, value: Any, out: Output) -> Sequence[memoryview]:
        buffers: list[pickle.PickleBuffer] = []
        try:
            pickle.Pickler(out, 5, buffer_callback=buffers.append).dump(value)
        except _NOT_PICKLED:
            out.restart()
            buffers.clear()
            _cloudpickle(value, out, buffers)
        return [buffer.raw() for buffer in buffers]

    def decode(self, stream: memoryview, buffers: Sequence[Any]) -> Any:
        return pickle.loads(stream, buffers=buffers)  # noqa: S301  (the bytes were authenticated before they came here)


#: What pickle and the methods it calls raise for a value that it can not take. Of a full disk they know nothing.
_NOT_PICKLED = (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError, RecursionError)


def _cloudpickle(value: Any, out: Output, buffers: list[pickle.PickleBuffer]) -> None:
    import cloudpickle  # noqa: PLC0415  (few values need it, and it takes time to import)

    try:
        cloudpickle.Pickler(out, 5, buffers.append).dump(value)
    except _NOT_PICKLED as wrong:
        msg = f"can not be stored: {explain_unpicklable(value)} ({type(wrong).__name__}: {wrong})"
        raise ResultUnstorable(msg) from wrong


def explain_unpicklable(value: Any, name: str = "result") -> str:
    """Return the path to what can not be pickled inside of *value*, and its type: ``result['a'][3]: _thread.lock``."""
    path = name
    for _ in range(_SEARCH):
        for step, part in _parts(value):
            if not _is_picklable(part):
                path, value = path + step, part
                break
        else:
            break
    kind = type(value)
    return f"{path}: {kind.__module__}.{kind.__qualname__}".replace(": builtins.", ": ")


def _is_picklable(value: Any) -> bool:
    import cloudpickle  # noqa: PLC0415  (see above)

    try:
        cloudpickle.Pickler(_Nowhere(), 5, lambda _: None).dump(value)
    except Exception:  # noqa: BLE001  (pickling calls methods of the value, which may raise anything)
        return False
    return True


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what *value* is made of, each with how to get there."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
            yield f".keys()[{_short(key)}]", key
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield f"[{place}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield "{...}", item
    elif not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in _attributes(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, slot):
                yield slot, getattr(value, slot)


def _short(key: Any) -> str:
    try:
        return f"{key!r:.60}"
    except Exception:  # noqa: BLE001  (a repr may raise anything)
        return f"<{type(key).__name__}>"
