"""What one file defines at its top level, name by name: data, filled by :mod:`~pytest_flowforge.codeprint.reading`."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from pytest_flowforge.codeprint.syntax import Facts, ImportRef, Read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Binding", "ClassShape", "Definition", "FileIndex", "Named", "Span"]

#: (first line, last line, names, spans of methods).
Span: TypeAlias = "tuple[int, int, tuple[str, ...], Sequence[Span]]"

_first = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Named:
    """A decorator, or a base of a class: what it is called, if it has a name, and its facts."""

    name: Read | None
    facts: Facts


# Not frozen, as Facts are not.
@dataclass(slots=True)
class Definition:
    """The facts of all statements about a name, in their order, and the decorators of the first definition among them.

    Those of another definition of the same name are in its facts: which one they belong to has to stay visible.
    """

    facts: tuple[Facts, ...]
    decorators: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassShape:
    """A class: its own statements, its bases, and its methods by name; ``own`` and each method hold the rest."""

    own: Definition
    bases: tuple[Named, ...]
    methods: dict[str, Definition]

    def as_definition(self) -> Definition:
        """The same without telling its methods apart."""
        pieces = [self.own, *self.methods.values()]
        told = [facts for piece in pieces for facts in piece.facts] + [base.facts for base in self.bases]
        return Definition(tuple(told), tuple([one for piece in pieces for one in piece.decorators]))


@dataclass(slots=True)
class Binding:
    """All that the top level of a file says about one name: imports, and a definition or a class."""

    imports: tuple[ImportRef, ...] = ()
    definition: Definition | None = None
    #: There if the name is defined once and by a class statement.
    shape: ClassShape | None = None
    #: What it is another name for, or a call of: ``slow = pytest.mark.slow("s")``.
    alias: Read | None = None
    #: Where a function begins that is the last of this name, counted from 1, decorators included: the place that its
    #: code object knows. 0 if the last definition is no function.
    line: int = 0

    @property
    def is_defined(self) -> bool:
        """Whether the file gives the name a meaning of its own, besides importing it."""
        return self.definition is not None or self.shape is not None


@dataclass(slots=True)
class FileIndex:
    """What one file defines at its top level."""

    bindings: dict[str, Binding] = field(default_factory=dict)
    #: Modules whose names were all imported by ``from module import *``.
    stars: list[ImportRef] = field(default_factory=list)
    #: Functions, classes, and all other statements that bind names, in the order of their lines.
    spans: list[Span] = field(default_factory=list)

    def begins(self, name: str, line: int) -> bool:
        """Whether the last function of this name begins at *line*."""
        binding = self.bindings.get(name)
        return binding is not None and binding.line == line

    def around(self, line: int) -> list[tuple[str, str]]:
        """(name, method or "") of what is defined around *line*; several where they share it."""
        found = []
        for _, _, names, methods in _covering(self.spans, line):
            method = next((inner for _, _, inner, _ in _covering(methods, line)), ("",))
            found += [(name, method[0]) for name in names]
        return found


def _covering(spans: Sequence[Span], line: int) -> Iterator[Span]:
    """Those of *spans* that hold *line*. They may share lines, but none holds another."""
    at = bisect_right(spans, line, key=_first) - 1
    while at >= 0 and spans[at][1] >= line:
        yield spans[at]
        at -= 1
