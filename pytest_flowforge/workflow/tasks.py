"""A task as code declares it: a function, and what is to hold for it.

Everything that can be seen to be wrong with one task alone is found here, where the line that is wrong is still on the
stack. What only the other tasks tell (unknown names, cycles) is found when the graph is put together.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, TypeAlias

from pytest_flowforge import rules
from pytest_flowforge.core.model import Location, Trigger
from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy
from pytest_flowforge.errors import GraphError, Problem
from pytest_flowforge.wording import quoted

__all__ = ["NOT_IN_NAMES", "Reference", "Task", "location_of", "name_of", "several"]

#: In ids of tasks these tell files, classes and parameter sets apart.
NOT_IN_NAMES = ("::", "[", "]")

#: What names a task: its name, its function, or the task itself.
Reference: TypeAlias = "str | Callable[..., Any] | Task"

_NOTHING: Mapping[str, Any] = MappingProxyType({})

#: Parameters that are asked for by name, and may stay away.
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, init=False, eq=False)
class Task:
    """A function, and what is to hold when a workflow calls it.

    A parameter that is named after another task is an edge: that task runs first, and its result arrives there. So is
    what ``depends_on`` names, for the order only. ``upstream`` as a parameter receives the results of all direct
    upstreams by name. ``arguments`` says what arrives at other parameters: the result of a task where a task is given,
    else the value itself. ``resources`` has functions that are called before each attempt, on its thread; what they
    return arrives, and is closed afterwards where it is a context manager or a generator, as a fixture would be.

    ``when`` is the trigger rule, ``retries`` how many attempts may follow the first one, or what
    :func:`pytest_flowforge.retry` returns (``max_retries`` is another word for it), ``timeout`` the seconds that an
    attempt may take. ``pool`` names a pool, several, or maps them to units. An ``exclusive`` task runs alone; of ready
    tasks the one with the higher ``priority`` starts first. One that is not ``idempotent`` does not run again on resume
    when it may have done its work.

    Raises :class:`~pytest_flowforge.errors.GraphError` for what can not be meant.
    """

    name: str
    func: Callable[..., Any]
    depends_on: tuple[Reference, ...]
    arguments: Mapping[str, Any]
    resources: Mapping[str, Callable[[], Any]]
    when: Trigger
    retry: RetryPolicy
    timeout: float | None
    pools: tuple[tuple[str, int], ...]
    exclusive: bool
    priority: int
    idempotent: bool
    #: Where its function was written; None for one that has no source.
    location: Location | None = field(repr=False)
    #: The parameters that ask for something, in their order.
    parameters: tuple[str, ...] = field(repr=False)

    def __init__(  # noqa: PLR0913 - each of the last ones is an option with a default
        self,
        name: str,
        func: Callable[..., Any],
        *,
        depends_on: Iterable[Reference] | Reference = (),
        arguments: Mapping[str, Any] = _NOTHING,
        resources: Mapping[str, Callable[[], Any]] = _NOTHING,
        when: str | Trigger = Trigger.ALL_SUCCESS,
        retries: int | RetryPolicy = 0,
        max_retries: int | None = None,
        timeout: float | None = None,
        pool: str | Iterable[str] | Mapping[str, int] = (),
        exclusive: bool = False,
        priority: int = 0,
        idempotent: bool = True,
    ) -> None:
        where = location_of(func)
        try:
            facts = {
                "name": _checked_name(name),
                "func": _checked_function(name, func),
                "depends_on": _references(depends_on),
                "arguments": MappingProxyType(_by_parameter("arguments", arguments)),
                "resources": MappingProxyType(_factories(_by_parameter("resources", resources))),
                "when": when if isinstance(when, Trigger) else rules.trigger("Task", when),
                "retry": _retry(retries, max_retries),
                "timeout": None if timeout is None else _seconds(timeout),
                "pools": _pools(pool),
                "exclusive": bool(exclusive),
                "priority": rules.priority(priority),
                "idempotent": bool(idempotent),
                "location": where,
                "parameters": _parameters(func, arguments, resources),
            }
        except rules.BadRule as error:
            text = f"task {quoted(name)}: {error}"
            raise GraphError([Problem("" if where is None else str(where), text)]) from None
        for fact, value in facts.items():
            object.__setattr__(self, fact, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, as if it were no task."""
        return self.func(*args, **kwargs)


def name_of(func: Callable[..., Any]) -> str:
    """Return what a task is called whose function is *func*: as that, without ``flow_``; empty if it has no name."""
    plain: Any = func
    while isinstance(plain, partial):
        plain = plain.func
    name = str(getattr(plain, "__name__", "") or "")
    short = name.removeprefix("flow_") or name
    return short if short.isidentifier() else ""


def _checked_name(name: object) -> str:
    if isinstance(name, str) and name.strip() and name.isprintable() and not any(part in name for part in NOT_IN_NAMES):
        return name
    msg = "a task needs a name: a printable text without '::', '[' and ']'"
    raise rules.BadRule(msg)


def several(given: Any) -> tuple[Any, ...]:
    """Return what *given* holds if it is an iterable of references, or names of pools; else itself alone."""
    alone = isinstance(given, (str, Task)) or callable(given) or not isinstance(given, Iterable)
    return (given,) if alone else tuple(given)


def _checked_function(name: object, func: object) -> Callable[..., Any]:
    if isinstance(func, Task):
        msg = f"func={quoted(func.name)} is a task: give its function, as in Task({quoted(name)}, func=other.func)"
        raise rules.BadRule(msg)
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        msg = f"{_shown(func)} has a yield: a task returns its result; return a list, or make it a resource"
        raise rules.BadRule(msg)
    if callable(func):
        return func
    msg = f"func={quoted(func)} can not be called: give a function, as in Task({quoted(name)}, func=extract)"
    raise rules.BadRule(msg)


def _references(given: object) -> tuple[Reference, ...]:
    references = several(given)
    for reference in references:
        if not isinstance(reference, (str, Task)) and not callable(reference):
            msg = f"depends_on={quoted(reference)}: give names of tasks, tasks or their functions"
            raise rules.BadRule(msg)
    return references


def _by_parameter(option: str, given: object) -> dict[str, Any]:
    return rules.mapping(option, given, "what arrives at each parameter, by the names of these")


def _factories(resources: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    for name, factory in resources.items():
        if not callable(factory):
            msg = (
                f"resources={{{quoted(name)}: {quoted(factory)}}}: give a function that makes it, which is called "
                "before each attempt"
            )
            raise rules.BadRule(msg)
        if missing := _required(factory):
            msg = (
                f"resources={{{quoted(name)}: {_shown(factory)}}}: it is called without arguments, and needs "
                f"{', '.join(map(repr, missing))}; give them, as in functools.partial(connect, url)"
            )
            raise rules.BadRule(msg)
    return dict(resources)


def _required(func: Callable[..., Any]) -> list[str]:
    """Return the parameters without which *func* can not be called; none where it does not tell."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return []
    open_ends = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is inspect.Parameter.empty and one.kind not in open_ends]


def _retry(retries: object, max_retries: object) -> RetryPolicy:
    if max_retries is not None:
        if retries != 0:
            msg = "retries= and max_retries= say the same: give one of them"
            raise rules.BadRule(msg)
        retries = max_retries
    if isinstance(retries, RetryPolicy):
        return retries
    return rules.retry(retries) if retries != 0 else NO_RETRY  # type: ignore[arg-type]


def _seconds(timeout: object) -> float:
    seconds = rules.number("Task", "timeout", timeout)
    if not seconds:
        msg = f"Task(timeout={quoted(timeout)}): nothing is done in no time; leave it out for no limit"
        raise rules.BadRule(msg)
    return seconds


def _pools(given: object) -> tuple[tuple[str, int], ...]:
    if isinstance(given, Mapping):
        return tuple((rules.pool_name(name), rules.whole("pool", str(name), n, least=1)) for name, n in given.items())
    return tuple(dict.fromkeys((rules.pool_name(name), 1) for name in several(given)))


def _parameters(func: Callable[..., Any], *given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parameters of *func* that ask for something; raise BadRule where the *given* ones do not fit."""
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        # Some functions in C do not tell: they get what they are given.
        return tuple(name for names in given for name in names)
    parameters = signature.parameters.values()
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters if one.kind in _NAMED}
    asked: dict[str, int] = {}
    for mapping in given:
        for name in mapping:
            asked[name] = asked.get(name, 0) + 1
            if name not in names and not takes_any:
                msg = f"{_shown(func)} has no parameter {quoted(name)} that {quoted(mapping[name])} could arrive at"
                raise rules.BadRule(msg)
            if asked[name] > 1:
                msg = f"{quoted(name)} is in arguments= and in resources=: it can be only one of them"
                raise rules.BadRule(msg)
    for one in parameters:
        if one.kind is inspect.Parameter.POSITIONAL_ONLY and one.default is inspect.Parameter.empty:
            msg = f"parameter {one.name!r} of {_shown(func)} takes no name, and results arrive by name"
            raise rules.BadRule(msg)
    wanted = [one.name for one in parameters if one.kind in _NAMED and one.default is inspect.Parameter.empty]
    return tuple(dict.fromkeys([*wanted, *asked]))


def _shown(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)


def location_of(func: Any) -> Location | None:
    """Where *func* was written, relative to the working directory if it lies below that."""
    while isinstance(func, partial):
        func = func.func
    func = inspect.unwrap(func) if callable(func) else func
    code = getattr(getattr(func, "__func__", func), "__code__", None)
    if code is None:
        # An object that can be called: what that calls is a method of its class.
        code = getattr(vars(type(func)).get("__call__"), "__code__", None)
    if code is None:
        return None
    return Location(_shown_file(code.co_filename), code.co_firstlineno)


@lru_cache(maxsize=64)
def _shown_file(path: str) -> str:
    # Asked for each task, of which a file may have thousands.
    try:
        shown = os.path.relpath(path)
    except (OSError, ValueError):
        return path
    return path if shown.startswith(os.pardir) else shown
