"""Reading the marks of a task: from what people wrote to values that are valid, or a sentence that says why not."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge import rules
from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy
from pytest_flowforge.plugin.pytest_internals import time_settings
from pytest_flowforge.rules import BadRule
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BadMark", "CacheRule", "MapRule", "Marks"]


#: A mark with an argument that can not be meant.
BadMark = BadRule


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What the result of a task depends on besides its code and parameters.

    ``inputs`` and ``outputs`` are paths or patterns relative to the folder of the flow file, ``env`` names environment
    variables, ``version`` is the text of whatever was given. ``enabled`` tells whether --ff-cache may reuse a result.
    """

    enabled: bool = True
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class MapRule:
    """That a task is there once for each element of what an upstream has returned.

    ``parameter`` is where the element arrives, ``limit`` how many run at a time (None: any number), ``ids`` what names
    an element.
    """

    parameter: str
    limit: int | None = None
    ids: Callable[[Any], Any] | None = None


class Marks:
    """The marks of one task, its own first, then those of its class and file."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        # One walk for all: there are several questions about each of perhaps ten thousand tasks.
        self._found: dict[str, list[tuple[object, pytest.Mark]]] = {}
        for node, mark in item.iter_markers_with_node():
            self._found.setdefault(mark.name, []).append((node, mark))

    def _all(self, name: str) -> list[tuple[object, pytest.Mark]]:
        return self._found.get(name, [])

    def _closest(self, name: str) -> pytest.Mark | None:
        found = self._found.get(name)
        return found[0][1] if found else None

    def dependencies(self) -> Iterator[tuple[object, bool]]:
        """Yield each reference of the ``depends_on`` marks, and whether it stands on the function itself.

        One that stands on the class or the file reaches all tasks there, the one it names included.
        """
        for node, mark in self._all("depends_on"):
            if "tests" in mark.kwargs:
                msg = (
                    "depends_on(tests=[...]) is the mark of the plugin pytest-depends-on; in a flow file write "
                    'depends_on("name", ...), and switch that plugin off with -p no:depends_on if it gets in the way'
                )
                raise BadMark(msg)
            unknown = sorted(set(mark.kwargs) - {"when"})
            if unknown:
                msg = f"depends_on() has no argument {quoted(unknown[0])}; it takes names of tasks and when="
                raise BadMark(msg)
            if not mark.args and not mark.kwargs:
                msg = 'depends_on() says nothing: write depends_on("extract"), or depends_on(when="all_done")'
                raise BadMark(msg)
            for reference in mark.args:
                if isinstance(reference, (list, tuple, set, frozenset)):
                    inner = ", ".join(quoted(name) for name in reference)
                    msg = f"depends_on({quoted(reference)}): give the names one by one, as in depends_on({inner})"
                    raise BadMark(msg)
                yield reference, node is self._item

    def trigger(self) -> Trigger:
        """The trigger rule of the closest ``depends_on`` mark that gives one."""
        for _, mark in self._all("depends_on"):
            if "when" in mark.kwargs:
                return rules.trigger("depends_on", mark.kwargs["when"])
        return Trigger.ALL_SUCCESS

    def retry(self, default: int) -> RetryPolicy:
        """The retry policy of the closest ``retry`` mark; *default* retries without one."""
        mark = self._closest("retry")
        if mark is None:
            return RetryPolicy(max_retries=default) if default else NO_RETRY
        if mark.args and isinstance(mark.args[0], RetryPolicy):
            # That of a task in code, which was looked at when it was made.
            return mark.args[0]
        policy = rules.retry(**_bound(rules.retry, mark))
        if isinstance(policy.wait, rules.Strategy):
            policy.wait.fatal = (KeyboardInterrupt, pytest.exit.Exception)
        return policy

    def priority(self) -> int:
        """The number of the closest ``priority`` mark, else 0."""
        mark = self._closest("priority")
        if mark is None:
            return 0
        return rules.priority(_bound(_priority_signature, mark)["number"])

    def pools(self) -> tuple[tuple[str, int], ...]:
        """All pools that the ``pool`` marks ask for, with units; the closest mark wins for a pool named twice."""
        wanted: dict[str, int] = {}
        for _, mark in self._all("pool"):
            if not mark.args and not mark.kwargs:
                msg = 'pool() names no pool: write pool("gpu") or pool(mem=8)'
                raise BadMark(msg)
            for name in mark.args:
                wanted.setdefault(rules.pool_name(name), 1)
            for name, units in mark.kwargs.items():
                wanted.setdefault(name, rules.whole("pool", name, units, least=1))
        return tuple(wanted.items())

    def cache(self) -> CacheRule | None:
        """What the closest ``cache`` mark says; None without one."""
        mark = self._closest("cache")
        if mark is None:
            return None
        given = _bound(_cache_signature, mark)
        if not isinstance(given["enabled"], bool):
            msg = f"cache({quoted(given['enabled'])}): give True or False, and inputs=, outputs=, env= by name"
            raise BadMark(msg)
        return CacheRule(
            given["enabled"],
            _texts("inputs", given["inputs"]),
            _texts("outputs", given["outputs"]),
            _texts("env", given["env"]),
            "" if given["version"] is None else quoted(given["version"]),
        )

    def idempotent(self) -> bool:
        """Whether the task may run twice: yes, unless the closest ``idempotent`` mark says no."""
        mark = self._closest("idempotent")
        if mark is None:
            return True
        value = _bound(_idempotent_signature, mark)["value"]
        if not isinstance(value, bool):
            msg = f"idempotent({quoted(value)}): give True or False"
            raise BadMark(msg)
        return value

    def map(self) -> tuple[object, int | None, Callable[[Any], Any] | None] | None:
        """The upstream, the limit and the naming function of the ``map`` mark; None without one."""
        found = self._all("map")
        if not found:
            return None
        if len(found) > 1:
            msg = "there are two map() marks: a task is mapped over one upstream; return pairs there to combine two"
            raise BadMark(msg)
        given = _bound(_map_signature, found[0][1])
        limit, ids = given["limit"], given["ids"]
        if ids is not None and not callable(ids):
            msg = f"map(ids={quoted(ids)}): give a function that takes an element and returns a text"
            raise BadMark(msg)
        return given["upstream"], None if limit is None else rules.whole("map", "limit", limit, least=1), ids

    def check_timeout(self) -> None:
        """Raise BadMark for a ``timeout`` mark that pytest-timeout, whose mark that is, can make nothing of."""
        mark = self._closest("timeout")
        if mark is None or (not mark.kwargs and len(mark.args) == 1 and isinstance(mark.args[0], (int, float))):
            # As nearly all are.
            return
        try:
            time_settings(self._item)
        except (TypeError, ValueError) as error:
            msg = f"timeout(): {error}; it takes the seconds, method= and func_only="
            raise BadMark(msg) from None

    def exclusive(self) -> bool:
        """Whether the task asks to run alone."""
        return self._closest("exclusive") is not None


def _priority_signature(number: int) -> None:
    """The argument of the mark, for :func:`inspect.signature` only."""


def _cache_signature(
    enabled: object = True,  # noqa: FBT002 - cache(False) is how it is written
    *,
    inputs: Any = (),
    outputs: Any = (),
    env: Any = (),
    version: object = None,
) -> None:
    """The arguments of the mark, for :func:`inspect.signature` only."""


def _map_signature(upstream: object, *, limit: int | None = None, ids: object = None) -> None:
    """The arguments of the mark, for :func:`inspect.signature` only."""


def _idempotent_signature(value: object) -> None:
    """The argument of the mark, for :func:`inspect.signature` only."""


def _texts(name: str, value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, (tuple, list)) else (value,)
    for text in texts:
        if not isinstance(text, (str, PurePath) if name != "env" else str) or not str(text).strip():
            what = "names" if name == "env" else "paths or patterns"
            msg = f"cache({name}={quoted(value)}): give {what} as texts, as in {name}=[{_EXAMPLES[name]!r}]"
            raise BadMark(msg)
        if name != "env" and any("**" in part and part != "**" for part in PurePath(str(text)).parts):
            msg = f"cache({name}={quoted(value)}): ** stands alone between slashes, as in raw/**/*.csv"
            raise BadMark(msg)
    return tuple(str(text) for text in texts)


_EXAMPLES = {"inputs": "raw/*.csv", "outputs": "model.bin", "env": "MODEL"}


#: Asked once for each mark, of which there may be very many.
_signature = cache(inspect.signature)


def _bound(signature: Callable[..., Any], mark: pytest.Mark) -> dict[str, Any]:
    try:
        bound = _signature(signature).bind(*mark.args, **mark.kwargs)
    except TypeError as error:
        names = ", ".join(_signature(signature).parameters)
        msg = f"{mark.name}(): {error}; it takes {names}"
        raise BadMark(msg) from None
    bound.apply_defaults()
    return dict(bound.arguments)
