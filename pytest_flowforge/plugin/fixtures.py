"""The fixtures that flows get: ``upstream``, and one for each task result that another fixture asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.pytest_internals import register_fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_flowforge.core.joining import Joined
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.running import Runner

__all__ = ["RUNNER", "register_results", "upstream"]

#: Where the run of this session is found while it lasts.
RUNNER: pytest.StashKey[Runner] = pytest.StashKey()

_SCOPES = ("session", "package", "module", "class", "function")


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The results of the direct upstreams of this task: {task name: result}.

    An upstream without a result is there as a NoResult, which is falsy and says why.
    """
    return request.config.stash[RUNNER].upstream_of(request.node)


def register_results(shared: Iterable[tuple[Entry, str, Joined, str]]) -> list[Problem]:
    """Make fixtures of the results that fixtures ask for; return what can not be done.

    The scope of such a fixture is the widest among those who ask. Wider than one task, it must mean the same for all
    tasks that share it.
    """
    uses: dict[str, list[_Use]] = {}
    for entry, name, joined, scope in shared:
        uses.setdefault(name, []).append(_Use(entry, joined, scope))
    problems: list[Problem] = []
    for name, all_uses in uses.items():
        widest = min((use.scope for use in all_uses), key=_SCOPES.index)
        groups: dict[Any, list[_Use]] = {}
        for use in all_uses:
            groups.setdefault(_node(use.entry.item, widest), []).append(use)
        for node, group in groups.items():
            problems += _register(node, name, group)
    return problems


@dataclass(frozen=True, slots=True)
class _Use:
    """A task that uses a fixture that asks for a result; ``scope`` is the widest of such fixtures."""

    entry: Entry
    joined: Joined
    scope: str


def _node(item: pytest.Function, scope: str) -> Any:
    """Where a fixture is to be known that is asked for in *scope*."""
    if scope in ("session", "package"):
        return item.session
    return item.getparent(pytest.Module) if scope == "module" else item.parent


def _register(node: Any, name: str, uses: list[_Use]) -> list[Problem]:
    scope = min((use.scope for use in uses), key=_SCOPES.index)
    if scope == "function":
        register_fixture(node, name, _per_task(name), scope)
    elif len({use.joined for use in uses}) == 1:
        register_fixture(node, name, _for_all(uses[0].joined), scope)
    else:
        return [_ambiguous(uses, name, scope)]
    return []


def _per_task(name: str) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[RUNNER].arrival_for(request.node, name)

    return result


def _for_all(joined: Joined) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[RUNNER].arrival(joined)

    return result


def _ambiguous(uses: list[_Use], name: str, scope: str) -> Problem:
    first, other = uses[0], next(use for use in uses if use.joined != uses[0].joined)
    text = (
        f"a fixture of scope {scope} asks for the result of {name!r}, which is not the same for {first.entry.id} and "
        f"{other.entry.id}: give that fixture the scope 'function'"
    )
    return Problem(str(other.entry.home.location), text)
