"""Digests of values: parameters of tasks, defaults and closures of functions, and of compiled code.

They are the same in every process, on every machine, under every hash seed, see
:func:`~pytest_flowforge.core.fingerprint.digest_of`.
"""

from __future__ import annotations

import copyreg
import re
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.fingerprint import DIGITS, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["code_object_digest", "content_of", "parameter_digest", "value_digest"]

#: How many objects may be inside one another, and how many values are taken apart: an object that holds a fresh copy of
#: itself would never end. Pickle gives up earlier. (Plain data may be nested as deeply as it likes.)
_DEEPEST = 2_000
_MOST = 5_000_000

#: Where objects live is not what they are.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def parameter_digest(parameters: Mapping[str, object], describe: Callable[[object], str | None] | None = None) -> str:
    """The digest of the parameters of one task, by name, whatever their order. It never raises.

    Values are compared by type and content: ``1``, ``1.0`` and ``True`` differ, two equal dicts or sets do not,
    numpy arrays are their type, shape and bytes. Other objects are what they would say of themselves to pickle, so one
    that says something else in every process, such as the time, has another digest there. Those that say nothing
    (locks, open files, generators) are their type and ``repr`` without addresses; what that leaves out is not seen.
    *describe* may give a text for a function, class or other callable, such as the digest of its code. Without it, a
    function is its qualified name and its bytecode, a class its qualified name.
    """
    return value_digest(dict(parameters), describe) if parameters else _NO_PARAMETERS


def value_digest(value: object, describe: Callable[[object], str | None] | None = None) -> str:
    """The digest of one value, as :func:`parameter_digest` makes it."""
    plain = _ATOMS.get(type(value))
    return _tagged(type(value).__name__, plain(value)) if plain else _Encoder(describe).digest(value)


def code_object_digest(code: CodeType, docstring: str | None = None) -> str:
    """The digest of compiled code: instructions, names and constants, without line numbers, files and *docstring*.

    It holds for one version of Python.
    """
    texts: list[str] = []
    pending = [code]
    while pending:
        one = pending.pop()
        counts = (one.co_argcount, one.co_posonlyargcount, one.co_kwonlyargcount, one.co_flags)
        names = (one.co_name, one.co_names, one.co_varnames, one.co_freevars, one.co_cellvars)
        constants = one.co_consts
        if docstring is not None and one is code and constants[:1] == (docstring,):
            constants = (None, *constants[1:])
        plain = tuple([None if isinstance(constant, CodeType) else constant for constant in constants])
        texts += [repr(counts), repr(names), one.co_code.hex(), value_digest(plain)]
        pending += [constant for constant in constants if isinstance(constant, CodeType)]
    return digest_of("code", *texts)


def _tagged(tag: str, content: bytes) -> str:
    return sha256(tag.encode("utf-8", "surrogatepass") + b"\0" + content).hexdigest()[:DIGITS]


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


#: Types whose content is a row of bytes. Only these very types: a subclass may mean something else.
_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"",
    type(...): lambda _: b"",
    type(NotImplemented): lambda _: b"",
    bool: lambda value: b"1" if value else b"0",
    # Not str(): Python refuses it for very large integers.
    int: lambda value: hex(value).encode(),
    float: lambda value: repr(value).encode(),
    complex: lambda value: repr(value).encode(),
    str: _text,
    bytes: bytes,
    bytearray: bytes,
}


def _qualified(value: Any) -> str:
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{module}.{name or type(value).__qualname__}"


@dataclass(slots=True)
class _Frame:
    """A value whose children are being looked at: (tag, whether their order counts)."""

    value: object
    tag: str
    ordered: bool
    children: list[object]
    #: How many children belong together: 2 for the keys and values of a dict.
    width: int = 1
    #: Whether it was taken apart by asking it.
    is_object: bool = False
    digests: list[str] = field(default_factory=list)

    def digest(self) -> str:
        rows = ["".join(self.digests[at : at + self.width]) for at in range(0, len(self.digests), self.width)]
        return _tagged(self.tag, ",".join(rows if self.ordered else sorted(rows)).encode())


class _Encoder:
    """Turns one value into a digest without recursion: values may be nested as deeply as they like."""

    def __init__(self, describe: Callable[[object], str | None] | None) -> None:
        self._describe = describe
        #: Digests by id, so that what is shared a thousand times is looked at once.
        self._known: dict[int, str] = {}
        #: How many objects, each inside the one before, were taken apart.
        self._depth = 0
        #: What ids belong to stays alive, or another object could get the same one.
        self._alive: list[object] = []

    def digest(self, value: object) -> str:
        top = _Frame(None, "", ordered=True, children=[value])
        frames = [top]
        open_at: dict[int, int] = {}
        while True:
            frame = frames[-1]
            if len(frame.digests) < len(frame.children):
                child = frame.children[len(frame.digests)]
                known = self._at_once(child, open_at)
                if known is None:
                    opened = self._open(child)
                    if isinstance(opened, _Frame):
                        open_at[id(child)] = len(frames)
                        frames.append(opened)
                        continue
                    known = self._known[id(child)] = opened
                frame.digests.append(known)
                continue
            if frame is top:
                return top.digests[0]
            frames.pop()
            self._depth -= frame.is_object
            del open_at[id(frame.value)]
            made = self._known[id(frame.value)] = frame.digest()
            frames[-1].digests.append(made)

    def _at_once(self, value: object, open_at: Mapping[int, int]) -> str | None:
        plain = _ATOMS.get(type(value))
        if plain:
            return _tagged(type(value).__name__, plain(value))
        if id(value) in open_at:
            return _tagged("inside itself", str(open_at[id(value)]).encode())
        return self._known.get(id(value))

    def _open(self, value: object) -> _Frame | str:
        """The digest of *value*, or what it consists of."""
        self._alive.append(value)
        try:
            return self._see_through(value)
        except Exception:  # noqa: BLE001 - foreign code answers here, and a digest is never worth a crash
            return _opaque(value)

    def _see_through(self, value: Any) -> _Frame | str:
        kind = type(value)
        if kind in _CONTAINERS:
            ordered, width = _CONTAINERS[kind]
            children = [one for pair in value.items() for one in pair] if kind is dict else list(value)
            return _Frame(value, kind.__name__, ordered, children, width)
        if callable(value) and self._describe and (told := self._describe(value)) is not None:
            return _tagged("described", _text(told))
        if isinstance(value, _CALLABLES):
            return _callable(value)
        if isinstance(value, Enum):
            return _Frame(value, f"enum {_qualified(kind)}.{value.name}", ordered=True, children=[value.value])
        if isinstance(value, ModuleType):
            return _tagged("module", _text(value.__name__))
        return _numpy(value) if _is_numpy(kind) else self._reduced(value)

    def _reduced(self, value: Any) -> _Frame | str:
        """What pickle would be told, piece by piece: its bytes depend on which equal strings are one object."""
        reducer = copyreg.dispatch_table.get(type(value))
        if self._depth >= _DEEPEST or len(self._alive) >= _MOST:
            return _opaque(value)
        told = reducer(value) if reducer else value.__reduce_ex__(4)
        if isinstance(told, str):
            return _tagged("global", _text(f"{_qualified(type(value))} {told}"))
        rebuild, arguments, *rest = told
        state, items, pairs = (*rest, None, None, None)[:3]
        children: list[object] = [rebuild, arguments, state]
        children += [None if items is None else list(items), None if pairs is None else list(pairs)]
        self._depth += 1
        return _Frame(value, f"object {_qualified(type(value))}", ordered=True, children=children, is_object=True)


def _callable(value: Any) -> _Frame | str:
    name = _qualified(value)
    if isinstance(value, FunctionType):
        cells = [content_of(cell) for cell in value.__closure__ or ()]
        code = code_object_digest(value.__code__, value.__doc__)
        children: list[object] = [code, value.__defaults__, value.__kwdefaults__, cells]
        return _Frame(value, f"function {name}", ordered=True, children=children)
    if isinstance(value, MethodType):
        return _Frame(value, f"method {name}", ordered=True, children=[value.__self__, value.__func__])
    owner = getattr(value, "__self__", None)
    if isinstance(value, type) or owner is None or isinstance(owner, ModuleType):
        return _tagged("class" if isinstance(value, type) else "builtin", _text(name))
    return _Frame(value, f"method {name}", ordered=True, children=[owner])


def _is_numpy(kind: type) -> bool:
    """Whether values of this type are arrays or scalars of numpy, and no subclass of somebody else."""
    names = {(base.__module__, base.__name__) for base in kind.__mro__}
    return kind.__module__ == "numpy" and not names.isdisjoint({("numpy", "ndarray"), ("numpy", "generic")})


def _numpy(value: Any) -> _Frame | str:
    if value.dtype.hasobject:
        children = [str(value.dtype), list(value.shape), value.tolist()]
        return _Frame(value, "numpy of objects", ordered=True, children=children)
    return _tagged(f"numpy {type(value).__name__} {value.dtype.descr} {value.shape}", value.tobytes())


_CALLABLES = (type, FunctionType, BuiltinFunctionType, MethodType)

#: Containers -> (whether the order counts, how many children belong together).
_CONTAINERS: dict[type, tuple[bool, int]] = {
    list: (True, 1),
    tuple: (True, 1),
    set: (False, 1),
    frozenset: (False, 1),
    dict: (False, 2),
}


def content_of(cell: Any) -> object:
    """What a variable of a closure holds; None as long as that is nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # nothing in it yet
        return None


def _opaque(value: object) -> str:
    """Type and ``repr`` of what can not be taken apart."""
    try:
        shown = _ADDRESS.sub("0x", repr(value))
    except Exception:  # noqa: BLE001 - as above
        shown = ""
    return _tagged(f"opaque {_qualified(type(value))}", _text(shown))


#: Most tasks have none.
_NO_PARAMETERS = value_digest({})
