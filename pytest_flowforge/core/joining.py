"""Which variants of a parametrized upstream a task depends on, and in which shape their results arrive.

One rule: a task depends on the variants that agree with it on every parameter the two share. Everything else, the bare
value by sharing, the fan-in of all variants, the broadcast of an unparametrized upstream, follows from it. Only
parameters are compared here; nothing is executed, and no comparison that fails gets out.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import TaskId

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

__all__ = ["Joined", "Joiner", "NoMatch", "Shape", "Variant", "agree"]


class Shape(Enum):
    """How the results of an upstream arrive: one bare value, or a dict from variant label to value."""

    VALUE = "value"
    MAPPING = "mapping"


@dataclass(frozen=True, slots=True)
class Variant:
    """One parameter set of an upstream function.

    ``label`` is what stands in the brackets of its name (``fold1``), empty when the function is not parametrized.
    """

    id: TaskId
    label: str
    params: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Joined:
    """The variants a task depends on: (label, id) pairs in the order of declaration, exactly one for a VALUE."""

    shape: Shape
    members: tuple[tuple[str, TaskId], ...]


class NoMatch(ValueError):
    """Parameters are shared, and no variant of the upstream has the values that the task has.

    ``shared`` holds the shared parameters with the values of the task.
    """

    def __init__(self, shared: Mapping[str, object]) -> None:
        self.shared = dict(shared)
        values = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in shared.items())
        super().__init__(f"no variant has {values}")


class Joiner:
    """Answers for one upstream function which of its variants a task depends on.

    Built once from all variants in the order of declaration; they carry the same parameter names. Each answer costs
    one look-up, or a scan where values can not be hashed. Equal answers are one object.
    """

    def __init__(self, variants: Sequence[Variant]) -> None:
        self._variants = tuple(variants)
        if not self._variants:
            msg = "an upstream function has at least one variant"
            raise ValueError(msg)
        self._names = tuple(dict.fromkeys(name for variant in self._variants for name in variant.params))
        self._everything = self._all()
        self._indexes: dict[tuple[str, ...], _Index] = {}

    def join(self, params: Mapping[str, object]) -> Joined:
        """Return what a task with *params* depends on; raise :class:`NoMatch` when no variant agrees with it."""
        shared = tuple(name for name in self._names if name in params)
        if self._everything.shape is Shape.VALUE or not shared:
            return self._everything
        if shared not in self._indexes:
            self._indexes[shared] = _Index(self._variants, shared)
        joined = self._indexes[shared].find(tuple(params[name] for name in shared))
        if joined is None:
            raise NoMatch({name: params[name] for name in shared})
        return joined

    def _all(self) -> Joined:
        members = tuple((variant.label, variant.id) for variant in self._variants)
        plain = len(members) == 1 and not self._variants[0].label and not self._variants[0].params
        return Joined(Shape.VALUE if plain else Shape.MAPPING, members)


class _Index:
    """The variants of one function by their values of some of its parameters."""

    def __init__(self, variants: Sequence[Variant], names: tuple[str, ...]) -> None:
        self._variants = variants
        self._values = tuple(tuple(variant.params.get(name, _ABSENT) for name in names) for variant in variants)
        #: Where each hashable tuple of values occurs.
        self._places: dict[Hashable, list[int]] = {}
        #: Variants with a value that can not be hashed; a hashable value may still equal theirs (a frozenset a set).
        self._unhashable: list[int] = []
        self._found: dict[tuple[int, ...], Joined] = {}
        for place, values in enumerate(self._values):
            self._file(place, values)

    def find(self, values: tuple[object, ...]) -> Joined | None:
        """Return the variants that agree with *values*; None when there is none."""
        places = self._matches(values)
        if not places:
            return None
        if places not in self._found:
            self._found[places] = self._joined(places)
        return self._found[places]

    def _file(self, place: int, values: tuple[object, ...]) -> None:
        # The library of another may raise whatever it likes from __hash__ and __eq__.
        try:
            self._places.setdefault(values, []).append(place)
        except Exception:  # noqa: BLE001
            self._unhashable.append(place)

    def _matches(self, values: tuple[object, ...]) -> tuple[int, ...]:
        try:
            hashed: Iterable[int] = self._places.get(values, ())
        except Exception:  # noqa: BLE001
            return self._scan(range(len(self._values)), values)
        if not self._unhashable:
            return tuple(hashed)
        return tuple(sorted([*hashed, *self._scan(self._unhashable, values)]))

    def _scan(self, places: Iterable[int], values: tuple[object, ...]) -> tuple[int, ...]:
        return tuple(place for place in places if all(map(agree, self._values[place], values)))

    def _joined(self, places: tuple[int, ...]) -> Joined:
        chosen = [self._variants[place] for place in places]
        shape = Shape.VALUE if len(chosen) == 1 else Shape.MAPPING
        return Joined(shape, tuple((variant.label, variant.id) for variant in chosen))


#: The value of a parameter that a variant does not have; equal to nothing.
_ABSENT = object()


def agree(one: object, other: object) -> bool:
    """Whether two parameter values are the same object or equal.

    A comparison that raises, or whose answer is neither true nor false (an array), is no agreement.
    """
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001  (the comparison belongs to somebody else's class)
        return False
