"""The fixtures that flows get: ``upstream``, and one for each task result that another fixture asks for."""

from __future__ import annotations

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

    The scope is the widest among the askers. Wider than one task, it must mean the same for all that use it.
    """
    groups: dict[tuple[pytest.Module, str], list[tuple[Entry, Joined, str]]] = {}
    for entry, name, joined, scope in shared:
        module = entry.item.getparent(pytest.Module)
        if module is not None:
            groups.setdefault((module, name), []).append((entry, joined, scope))
    problems: list[Problem] = []
    for (module, name), uses in groups.items():
        scope = min((scope for _, _, scope in uses), key=_SCOPES.index)
        meanings = {joined for _, joined, _ in uses}
        if scope == "function":
            register_fixture(module, name, _per_task(name), scope)
        elif len(meanings) == 1:
            register_fixture(module, name, _for_all(uses[0][1]), scope)
        else:
            problems.append(_ambiguous(uses, name, scope))
    return problems


def _per_task(name: str) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[RUNNER].arrival_for(request.node, name)

    return result


def _for_all(joined: Joined) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[RUNNER].arrival(joined)

    return result


def _ambiguous(uses: list[tuple[Entry, Joined, str]], name: str, scope: str) -> Problem:
    first, other = uses[0], next(use for use in uses if use[1] != uses[0][1])
    text = (
        f"a fixture of scope {scope} asks for the result of {name!r}, which is not the same for {first[0].name} and "
        f"{other[0].name}: give that fixture the scope 'function'"
    )
    return Problem(str(other[0].home.location), text)
