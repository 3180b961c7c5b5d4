"""Which tasks a run is about, and the little language that says so (``+train fit[fold1],tag*``).

White space between terms is a union, a comma an intersection, a plus sign a walk along the edges::

    train      the task itself          1+train    and one level of upstreams
    +train     and all its upstreams    train+2    and two levels of downstreams
    train+     and all downstreams      +train+    both

What a reference stands for is the caller's business: :meth:`Expression.evaluate` takes a function that resolves it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import TaskId
from pytest_flowforge.errors import SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowforge.core.graph import TaskGraph

__all__ = ["Expression", "Selection", "Term", "parse_expression", "select"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for (``targets``) and what comes along because a target needs it; the two are disjoint."""

    targets: frozenset[TaskId]
    along: frozenset[TaskId] = frozenset()

    @property
    def all(self) -> frozenset[TaskId]:
        """Everything the run is about."""
        return self.targets | self.along


def select(graph: TaskGraph, targets: Iterable[TaskId], *, only: bool = False) -> Selection:
    """Return *targets* with everything they need, or with nothing else where *only* them are wanted.

    Raises :class:`UnknownTask` for a target that *graph* does not hold.
    """
    chosen = frozenset(targets)
    needed = graph.ancestors(chosen)
    return Selection(chosen, frozenset() if only else needed - chosen)


@dataclass(frozen=True, slots=True)
class Term:
    """One reference and how far to walk from it; None is as far as the edges go, 0 not at all.

    ``column`` is where it stands in the expression, counted from 1.
    """

    reference: str
    up: int | None = 0
    down: int | None = 0
    column: int = 1


@dataclass(frozen=True, slots=True)
class Expression:
    """A selection expression: the union of groups, each the intersection of its terms."""

    text: str
    groups: tuple[tuple[Term, ...], ...]

    def evaluate(self, graph: TaskGraph, resolve: Callable[[str], Iterable[TaskId]]) -> frozenset[TaskId]:
        """Return the ids of *graph* that the expression selects.

        ``resolve`` turns a reference into ids of *graph*. Raises :class:`SelectionError` when it finds none.
        """
        chosen: frozenset[TaskId] = frozenset()
        for group in self.groups:
            chosen |= frozenset.intersection(*(self._meaning(term, graph, resolve) for term in group))
        return chosen

    def _meaning(self, term: Term, graph: TaskGraph, resolve: Callable[[str], Iterable[TaskId]]) -> frozenset[TaskId]:
        named = frozenset(resolve(term.reference))
        if not named:
            raise _error(self.text, term.column, f"{term.reference!r} names no task")
        return named | graph.ancestors(named, term.up) | graph.descendants(named, term.down)


def parse_expression(text: str) -> Expression:
    """Return the meaning of *text*; raise :class:`SelectionError` with the place and the rule when it has none."""
    groups = tuple(tuple(_terms(text, start, word)) for start, word in _words(text))
    if not groups:
        raise _error(text, 1, "an expression names at least one task")
    return Expression(text, groups)


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Yield what stands between white space, with its index."""
    start = 0
    for index, character in _outside_brackets(text):
        if character.isspace():
            if index > start:
                yield start, text[start:index]
            start = index + 1
    if len(text) > start:
        yield start, text[start:]


def _terms(text: str, start: int, word: str) -> Iterator[Term]:
    """Yield the terms of *word*, which begins at index *start* of *text*."""
    begin = 0
    commas = [index for index, character in _outside_brackets(word) if character == ","]
    for end in [*commas, len(word)]:
        if begin == end:
            rule = "a comma stands between two terms, without white space"
            raise _error(text, start + begin + 1, rule)
        yield _term(text, start + begin + 1, word[begin:end])
        begin = end + 1


#: ``[N]+`` before and ``+[N]`` behind a reference. What is left of the reference may hold plus signs, but not at its
#: ends: ``++a`` says nothing that ``+a`` does not.
_TERM = re.compile(r"(?:(?P<up>[0-9]*)(?P<before>\+))?(?P<reference>.*?)(?:(?P<after>\+)(?P<down>[0-9]*))?", re.DOTALL)


def _term(text: str, column: int, term: str) -> Term:
    found = _TERM.fullmatch(term)
    # The pattern fits everything; the reference may be left empty.
    reference = found["reference"] if found else ""
    if not found or not reference:
        raise _error(text, column, "a plus sign stands before or behind the name of a task")
    if reference.startswith("+") or reference.endswith("+"):
        raise _error(text, column, "one plus sign before a name and one behind it is all there can be")
    up, down = _levels(found["before"], found["up"]), _levels(found["after"], found["down"])
    return Term(reference, up, down, column)


#: No graph is deeper than a number of this many digits says, and Python refuses to read very long ones.
_DIGITS = 9


def _levels(plus: str | None, number: str | None) -> int | None:
    if not plus:
        return 0
    return int(number) if number and len(number) <= _DIGITS else None


def _outside_brackets(text: str) -> Iterator[tuple[int, str]]:
    """Yield the characters of *text* that stand outside of square brackets, with their indexes."""
    opened: list[int] = []
    for index, character in enumerate(text):
        if character == "]":
            if not opened:
                raise _error(text, index + 1, "this bracket closes nothing; write ? for a bracket within a name")
            opened.pop()
        elif character == "[":
            opened.append(index)
        elif not opened:
            yield index, character
    if opened:
        raise _error(text, opened[-1] + 1, "this bracket is never closed; write ? for a bracket within a name")


def _error(text: str, column: int, rule: str) -> SelectionError:
    pointer = " " * (column - 1) + "^"
    return SelectionError(f"selection {text!r}, column {column}: {rule}\n    {text}\n    {pointer}")
