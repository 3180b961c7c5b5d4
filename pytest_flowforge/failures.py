"""Exceptions turned into values: what is kept of one once the object itself has to stay where it was raised.

It judges nothing: what is a skip or a time-out is for those to say who know where the exception comes from. Whatever
people raise, showing it takes neither long nor much memory, and raises nothing.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

from pytest_flowforge.core.model import Failure, FailureKind

if sys.version_info < (3, 11):
    # pytest itself depends on the backport there.
    from exceptiongroup import BaseExceptionGroup

__all__ = [
    "Elided",
    "Stranger",
    "capped",
    "failure_of",
    "one_line",
    "qualified_members",
    "qualified_mro",
    "safe_text",
    "shortened",
]

#: Characters of a line for people.
_LONGEST_LINE = 300

#: Text is kept up to these many characters from the beginning and from the end.
_HEAD, _TAIL = 64 * 1024, 256 * 1024

#: Characters that tell what is missing in between: what was capped is not capped again.
_LONGEST_MARK = 100

#: Exceptions of a chain that are shown: pytest needs time that grows with the square of their number.
_MOST_LINKS = 50

#: Of these, how many stand at its beginning: what went wrong first.
_ROOTS = 10

#: Exceptions within a group, and levels of groups, that are shown; Python's own traceback shows fewer.
_MOST_MEMBERS, _DEEPEST = 16, 10


class Elided(Exception):
    """Stands in a chain or a group for exceptions that are not shown."""


class Stranger(Exception):
    """Stands for an exception that could not travel.

    ``line`` is its class and its text, ``mro`` and ``members`` are as in :class:`~pytest_flowforge.core.model.Failure`.
    """

    def __init__(self, line: str, mro: tuple[str, ...], members: tuple[tuple[str, ...], ...] = ()) -> None:
        super().__init__(line, mro, members)
        self.line = line
        self.mro = mro
        self.members = members

    def __str__(self) -> str:
        return self.line


def failure_of(error: BaseException) -> Failure:
    """Return *error* as the failure of an attempt, with its traceback as text."""
    line, mro, members = one_line(error), qualified_mro(error), qualified_members(error)
    longrepr = capped("".join(traceback.format_exception(shortened(error))))
    return Failure(FailureKind.ERROR, line, mro, longrepr, members=members)


def one_line(error: BaseException) -> str:
    """Return the first line that Python itself would show for *error* (``ValueError: boom``)."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 3]}..."


def qualified_mro(error: BaseException) -> tuple[str, ...]:
    """Return the qualified names of the classes of *error*, most derived first (``builtins.OSError``)."""
    if isinstance(error, Stranger):
        return error.mro
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__)


def qualified_members(error: BaseException) -> tuple[tuple[str, ...], ...]:
    """Return the same for what a group of exceptions holds, at any depth, each combination once; empty for others."""
    if isinstance(error, Stranger):
        return error.members
    if not isinstance(error, BaseExceptionGroup):
        return ()
    found: dict[tuple[str, ...], None] = {}
    # A group may be in several others: each is looked at once.
    groups: dict[int, BaseExceptionGroup[BaseException]] = {}
    waiting: list[BaseException] = [error]
    for one in waiting:
        if not isinstance(one, BaseExceptionGroup):
            found[qualified_mro(one)] = None
        elif id(one) not in groups:
            groups[id(one)] = one
            waiting.extend(one.exceptions)
    return tuple(found)


def safe_text(value: object) -> str:
    """``str(value)``, whatever the class of *value* makes of that."""
    try:
        return str(value)
    except BaseException as error:  # noqa: BLE001 - even SystemExit: it comes from a __str__, nobody wants to exit
        return f"<str() of {type(value).__name__} raised {type(error).__name__}>"


def capped(text: str) -> str:
    """Return *text*, or its beginning and its end where it is very long."""
    if len(text) <= _HEAD + _TAIL + _LONGEST_MARK:
        return text
    dropped = (len(text) - _HEAD - _TAIL) / 1e6
    return f"{text[:_HEAD]}\n... {dropped:.1f} MB dropped ...\n{text[-_TAIL:]}"


# Showing takes time and memory that grow with what is shown, at times with its square. So what is too much is taken out
# before anybody formats it.


def shortened(error: BaseException) -> BaseException:
    """Return *error* such that it can be shown: changed in place, or a copy of a group that holds too much.

    A long chain of causes loses its middle, a group what Python would not show either, texts among the arguments what
    :func:`capped` leaves out.
    """
    try:
        if isinstance(error, BaseExceptionGroup) and _is_too_much(error):
            error = _smaller(error, _DEEPEST)
        chain = _chain(error)
        if len(chain) > _MOST_LINKS:
            _cut(chain)
        for link in chain[:_MOST_LINKS] + chain[-_ROOTS:]:
            _cap_texts(link)
    except Exception:  # noqa: BLE001 - a class may have its own idea of `args`: then it is shown as it is
        return error
    return error


def _chain(error: BaseException) -> list[BaseException]:
    """Return *error* and what is shown before it, as far as it does not lead back."""
    chain = {id(error): error}
    while (before := _before(error)) is not None and id(before) not in chain:
        chain[id(before)] = error = before
    return list(chain.values())


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ if error.__cause__ is not None or error.__suppress_context__ else error.__context__


def _cut(chain: list[BaseException]) -> None:
    newest, root = chain[_MOST_LINKS - _ROOTS - 2], chain[-_ROOTS]
    elided = Elided(f"exceptions not shown: {len(chain) - _MOST_LINKS + 1:,}")
    elided.__cause__ = root
    # Python looks at both, whichever it shows.
    newest.__context__ = newest.__cause__ = elided
    root.__suppress_context__ = root.__suppress_context__ or root.__cause__ is not None


def _cap_texts(error: BaseException) -> None:
    if any(type(argument) is str and len(argument) > _HEAD + _TAIL + _LONGEST_MARK for argument in error.args):
        error.args = tuple(capped(argument) if type(argument) is str else argument for argument in error.args)


def _is_too_much(error: BaseException) -> bool:
    level: list[Any] = [error]
    for _ in range(_DEEPEST):
        level = [group for group in level if isinstance(group, BaseExceptionGroup)]
        if any(len(group.exceptions) > _MOST_MEMBERS for group in level):
            return True
        level = [member for group in level for member in group.exceptions]
        if len(level) > _MOST_MEMBERS * _DEEPEST:
            return True
    return any(isinstance(member, BaseExceptionGroup) for member in level)


def _smaller(group: BaseExceptionGroup[BaseException], depth: int) -> BaseException:
    members: list[BaseException] = []
    for member in group.exceptions[: _MOST_MEMBERS if depth > _DEEPEST - 2 else 1]:
        if not isinstance(member, BaseExceptionGroup):
            members.append(member)
        elif depth > 1:
            members.append(_smaller(member, depth - 1))
    missing = len(group.exceptions) - len(members)
    if missing:
        members.append(Elided(f"exceptions not shown: {missing:,}"))
    copy: BaseException = BaseExceptionGroup(group.message, members)
    copy.__cause__, copy.__context__ = group.__cause__, group.__context__
    copy.__suppress_context__ = group.__suppress_context__
    return copy.with_traceback(group.__traceback__)
