"""Tasks that are coroutine functions.

Without help from another plugin a coroutine is run to its end with :func:`asyncio.run`. pytest-asyncio puts an item of
its own in the place of a coroutine function, which runs it on the loop of its fixtures and drops what it returns:
there, the result is caught inside the coroutine.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.plugin.items import FlowFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CALLED_BY_US", "Caught"]

#: pytest's own kind of item, before and after it was adopted.
CALLED_BY_US = (pytest.Function, FlowFunction)


class Caught:
    """The results of coroutine functions that another plugin runs."""

    def __init__(self, items: Iterable[pytest.Function]) -> None:
        self._values: dict[pytest.Item, Any] = {}
        self._left: set[pytest.Item] = set()
        for item in items:
            self.watch(item)

    def watch(self, item: pytest.Function) -> None:
        """Catch the result of *item*, too, if another plugin is to run it."""
        if not inspect.iscoroutinefunction(item.obj):
            return
        if item.get_closest_marker("anyio") is not None and item.config.pluginmanager.has_plugin("anyio"):
            self._left.add(item)
        elif type(item) in CALLED_BY_US:
            return
        item.obj = self._catching(item, item.obj)

    def is_run_by_another(self, item: pytest.Item) -> bool:
        """Whether a plugin that was asked for by a mark is to call *item* (anyio, with the loop of its fixtures)."""
        return item in self._left

    def take(self, item: pytest.Item, returned: Any) -> Any:
        """The result of *item*: what was caught, else what its function *returned*."""
        return self._values.pop(item, returned) if self._values else returned

    def _catching(self, item: pytest.Item, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def caught(*args: Any, **kwargs: Any) -> Any:
            value = await function(*args, **kwargs)
            self._values[item] = value
            return value

        return caught
