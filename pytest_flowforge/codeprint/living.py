"""From living objects to things: the functions that a digest starts from.

What a function's place in a file can tell is left to :mod:`~pytest_flowforge.codeprint.reach`. Here is the rest: what
wraps it, the object it is bound to, values it closes over, and functions that no file knows.
"""

from __future__ import annotations

import os.path as ospath
import sys
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.codeprint.reach import WholeClass
from pytest_flowforge.codeprint.things import Thing
from pytest_flowforge.codeprint.values import code_object_digest, content_of, value_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowforge.codeprint.project import SourceFile
    from pytest_flowforge.codeprint.reach import Reach

__all__ = ["Living", "living_value"]

#: What stands behind the name of a function in parts when no file could be asked about it.
BYTECODE = " (bytecode)"


@dataclass(frozen=True, slots=True)
class _Found:
    """An object to look at: under which key it was found, and of what class the object is that it is a method of."""

    value: Any
    where: str = ""
    instance: WholeClass | None = None


#: The things that an object is, and others to look at.
_Seen: TypeAlias = "tuple[Iterable[Thing], list[_Found]]"


def living_value(reach: Reach, source: SourceFile, name: str, value: Any) -> Thing:
    """What a module has under a name that no statement of its file binds."""
    key = f"{source.label}::{name}"
    return Thing(
        f"{key} (value)", lambda: (None, Living(reach).things(value) if _is_code(value) else [_of(key, value)])
    )


class Living:
    """Makes things of functions, of what they are wrapped in, and of values."""

    def __init__(self, reach: Reach) -> None:
        self._project = reach.project
        self._reach = reach

    def things(self, *objects: Any, root: bool = False) -> list[Thing]:
        """What *objects* lead to. The file of a *root* belongs to the project wherever it is."""
        if len(objects) == 1 and (plain := self._plain(objects[0], root=root)) is not None:
            return [plain]
        things: dict[Thing, None] = {}
        pending = [_Found(one) for one in reversed(objects)]
        # What ids belong to stays alive, or another object could get the same one.
        seen: dict[int, object] = {}
        while pending:
            found = pending.pop()
            if id(found.value) not in seen:
                seen[id(found.value)] = found.value
                direct, more = self._look_at(found, root=root)
                things.update(dict.fromkeys(direct))
                pending += more
        return list(things)

    def _plain(self, one: Any, *, root: bool) -> Thing | None:
        """What a function is that stands at the top level of a file as it was made there; None for all others.

        Nearly all tasks are such functions, and nothing else has to be asked about them.
        """
        # A function has a __dict__ from the moment on that somebody looks at it.
        if type(one) is not FunctionType or hasattr(one, "__wrapped__"):
            return None
        code = one.__code__
        source = self._project.file(code.co_filename, always=root)
        if source is None or not source.index.begins(code.co_name, code.co_firstlineno):
            return None
        if source.live is None:
            source.live = one.__globals__
        return self._reach.defined(source, code.co_name)

    def _look_at(self, found: _Found, *, root: bool) -> _Seen:
        one, where = found.value, found.where
        if isinstance(one, FunctionType):
            return self._function(one, found.instance, root=root)
        if isinstance(one, MethodType):
            owner = one.__self__ if isinstance(one.__self__, type) else type(one.__self__)
            instance = self._whole(owner, root=root)
            state = () if owner is one.__self__ else _state(one.__self__, where)
            return state, [_Found(one.__func__, where, instance), *([] if instance else [_Found(owner)])]
        if isinstance(one, partial):
            named = [*_numbered(one.args), *sorted(one.keywords.items())]
            return (), [_Found(one.func), *[_Found(value, f"{where or 'partial'}[{name}]") for name, value in named]]
        return self._other(one, where)

    def _other(self, one: Any, where: str) -> _Seen:
        if isinstance(one, type):
            return self._class(one)
        if isinstance(one, ModuleType):
            return self._module(one), []
        if isinstance(one, BuiltinFunctionType):
            # That of a function is its module, that of a class method its class.
            bound = one.__self__ is not None and not isinstance(one.__self__, type | ModuleType)
            return [self._reach.outside(_qualified(one)), *(_state(one.__self__, where) if bound else ())], []
        if (wrapped := _wrapped(one)) is not None:
            # functools.lru_cache, a fixture of pytest, ...
            return [self._reach.outside(_qualified(type(one)))], [_Found(wrapped)]
        if callable(one):
            return _state(one, where), [_Found(type(one))]
        return [_of(where or _qualified(type(one)), one)], []

    def _function(self, function: FunctionType, instance: WholeClass | None, *, root: bool) -> _Seen:
        more: list[_Found] = []
        if hasattr(function, "__wrapped__"):
            more.append(_Found(function.__wrapped__, "", instance))
        code = function.__code__
        source = self._project.file(code.co_filename, always=root)
        if source is None:
            if not _has_no_file(code):
                return [self._reach.outside(_qualified(function))], more
            things, others = self._bytecode(function)
            return things, more + others
        if source.live is None:
            source.live = function.__globals__
        exact = _place(source, function)
        if exact is not None:
            return [self._at(source, *exact, instance)], more
        around = source.index.around(code.co_firstlineno)
        if not around:
            things, others = self._bytecode(function)
            return things, more + others
        # Made by another function: what that gave it is not in its syntax.
        enclosing = [self._at(source, name, method, instance) for name, method in around]
        given = _given(function, enclosing[0].key)
        if more and self._is_decorated(_innermost(function)):
            # A decorator made it: the arguments of that are in the syntax, the rest may be anything, such as a cache.
            given = [one for one in given if _is_code(one.value)]
        return enclosing, more + given

    def _is_decorated(self, function: Any) -> bool:
        """Whether the definition of *function* has decorators."""
        source = self._project.file(function.__code__.co_filename) if isinstance(function, FunctionType) else None
        exact = _place(source, function) if source is not None else None
        if source is None or exact is None:
            return False
        binding = source.index.bindings[exact[0]]
        definition = binding.shape.methods.get(exact[1]) if binding.shape else binding.definition
        return bool(definition and definition.decorators)

    def _at(self, source: SourceFile, name: str, method: str, instance: WholeClass | None) -> Thing:
        thing = self._reach.defined(source, name)
        if isinstance(thing, WholeClass) and method in thing.shape.methods:
            return self._reach.method(thing, method, instance or thing)
        return thing

    def _class(self, one: type) -> _Seen:
        whole = self._whole(one)
        if whole is not None:
            return [whole], []
        functions = [value for value in vars(one).values() if isinstance(value, FunctionType)]
        return [self._reach.outside(_qualified(one))], [_Found(one) for one in functions if _has_no_file(one.__code__)]

    def _whole(self, one: type, *, root: bool = False) -> WholeClass | None:
        """The class, if a file of the project defines it at its top level."""
        place = getattr(sys.modules.get(one.__module__), "__file__", None)
        source = self._project.file(place, always=root) if isinstance(place, str) else None
        binding = source.index.bindings.get(one.__qualname__) if source is not None else None
        if source is None or binding is None or not binding.is_defined:
            return None
        thing = self._reach.defined(source, one.__qualname__)
        return thing if isinstance(thing, WholeClass) else None

    def _module(self, module: ModuleType) -> list[Thing]:
        place = getattr(module, "__file__", None)
        source = self._project.file(place) if isinstance(place, str) else None
        return [self._reach.outside(module.__name__) if source is None else self._reach.module(source)]

    def _bytecode(self, function: FunctionType) -> _Seen:
        """A function that no file knows, by its compiled code and by what its names mean now."""
        place = function.__globals__.get("__file__")
        source = self._project.file(place) if isinstance(place, str) else None
        key = f"{source.label}::{function.__qualname__}" if source is not None else _qualified(function)
        own = code_object_digest(function.__code__, function.__doc__)
        things = [Thing(key + BYTECODE, lambda: (own, ()))]
        more = _given(function, key)
        names = _names(function.__code__)
        for name in names:
            binding = source.index.bindings.get(name) if source is not None else None
            if source is not None and binding is not None:
                # The bytecode does not tell which attribute belongs to which name: all of them to each.
                chains = [(name, (other,)) for other in names] if binding.imports else [(name, ())]
                things += self._reach.reads(source, chains)
            elif name in function.__globals__:
                more.append(_Found(function.__globals__[name], f"{key}[{name}]"))
        return things, more


def _place(source: SourceFile, function: FunctionType) -> tuple[str, str] | None:
    """(name, method or "") of the definition of *function* at the top level of *source*, or of a class there."""
    code = function.__code__
    for name, method in source.index.around(code.co_firstlineno):
        if (method or name) == code.co_name:
            return name, method
    # The file has been changed since it was imported, and lines have moved.
    name, _, method = function.__qualname__.partition(".")
    binding = source.index.bindings.get(name)
    if binding is None or (method or name) != code.co_name:
        return None
    if method:
        return (name, method) if binding.shape is not None and method in binding.shape.methods else None
    return (name, "") if binding.is_defined else None


def _given(function: FunctionType, key: str) -> list[_Found]:
    """What a function was given when it was made: the variables it closes over, and its default values."""
    cells = [content_of(cell) for cell in function.__closure__ or ()]
    named = [*zip(function.__code__.co_freevars, cells, strict=True), *_numbered(function.__defaults__ or ())]
    named += sorted((function.__kwdefaults__ or {}).items())
    return [_Found(value, f"{key}[{name}]") for name, value in named]


def _state(one: object, where: str) -> tuple[Thing, ...]:
    """What an object holds that is called, or one of whose methods is; nothing for one that holds nothing."""
    held = getattr(one, "__dict__", one)
    return () if isinstance(held, dict) and not held else (_of(where or _qualified(type(one)), held),)


def _of(key: str, value: object) -> Thing:
    return Thing(key, lambda: (value_digest(value), ()))


def _numbered(values: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(str(at), value) for at, value in enumerate(values)]


def _is_code(value: Any) -> bool:
    return isinstance(value, type | ModuleType) or callable(value)


def _wrapped(one: Any) -> Any:
    """What *one* wraps, by the convention of functools; an object that answers to any name does not count."""
    try:
        wrapped = one.__wrapped__
        return wrapped if callable(wrapped) and not hasattr(one, "__no_such_name__") else None
    except Exception:  # noqa: BLE001 - foreign code may answer
        return None


def _innermost(function: Any) -> Any:
    """What is left when everything that wraps *function* is taken off."""
    seen: dict[int, object] = {}
    while id(function) not in seen and isinstance(function, FunctionType):
        seen[id(function)] = function
        function = getattr(function, "__wrapped__", function)
    return function


def _qualified(one: Any) -> str:
    module = getattr(one, "__module__", None) or type(getattr(one, "__self__", None)).__module__
    return f"{module}.{getattr(one, '__qualname__', type(one).__qualname__)}"


def _has_no_file(code: CodeType) -> bool:
    name = code.co_filename
    return not name.startswith("<frozen ") and (name.startswith("<") or not ospath.isfile(name))  # noqa: PTH113 - a name


def _names(code: CodeType) -> list[str]:
    """All names that the code and the functions in it look up, in an order that is always the same."""
    names: set[str] = set()
    pending = [code]
    while pending:
        one = pending.pop()
        names.update(one.co_names)
        pending += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    return sorted(names)
