"""The fixtures that flows get: ``upstream``, and one for each task result that another fixture asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.graphing import SCOPES
from pytest_flowforge.plugin.pytest_internals import register_fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_flowforge.core.joining import Joined
    from pytest_flowforge.plugin.graphing import Shared
    from pytest_flowforge.plugin.values import Arrivals

__all__ = ["VALUES", "register_results", "upstream"]

#: Where the results of this session's run are found while it lasts.
VALUES: pytest.StashKey[Arrivals] = pytest.StashKey()


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The results of the direct upstreams of this task: {task name: result}.

    An upstream without a result is there as a NoResult, which is falsy and says why.
    """
    return request.config.stash[VALUES].upstream_of(request.node)


def register_results(shared: Iterable[Shared]) -> list[Problem]:
    """Make fixtures of the results that fixtures ask for; return what can not be done.

    The scope of such a fixture is the widest among those who ask for it together. Wider than one task, it must mean the
    same for all tasks that share it.
    """
    problems: list[Problem] = []
    places: dict[tuple[Any, str], list[Shared]] = {}
    for uses in _together(shared):
        widest = _widest(uses)
        if widest in ("session", "package"):
            problems += _disagreement(uses, widest)
        # Made known where it is used and no further up: other files may have a task of that name.
        reach = pytest.Module if SCOPES.index(widest) <= SCOPES.index("module") else None
        for use in uses:
            node = use.entry.item.getparent(reach) if reach else use.entry.item.parent
            places.setdefault((node, use.name), []).append(use)
    for (node, name), uses in places.items():
        scope = _widest(uses)
        found = [] if scope == "function" else _disagreement(uses, scope)
        if not found:
            register_fixture(node, name, _per_task(name) if scope == "function" else _for_all(uses[0].joined), scope)
        problems += found
    return list(dict.fromkeys(problems))


def _widest(uses: Iterable[Shared]) -> str:
    return min((use.scope for use in uses), key=SCOPES.index)


def _disagreement(uses: list[Shared], scope: str) -> list[Problem]:
    """What is wrong when the result does not mean the same for all of *uses*, which share it."""
    first = uses[0]
    other = next((use for use in uses if use.joined != first.joined), None)
    if other is None:
        return []
    text = (
        f"a fixture of scope {scope} asks for the result of {first.name!r}, which is not the same for {first.entry.id} "
        f"and {other.entry.id}: give that fixture the scope 'function'"
    )
    return [Problem(str(other.entry.home.location), text)]


def _together(shared: Iterable[Shared]) -> Iterable[list[Shared]]:
    """Uses of one name, grouped so that those with a fixture in common are in one group."""
    groups: list[tuple[str, set[int], list[Shared]]] = []
    by_asker: dict[tuple[str, int], int] = {}
    for use in shared:
        met = sorted({by_asker[use.name, asker] for asker in use.askers if (use.name, asker) in by_asker})
        if not met:
            groups.append((use.name, set(), []))
            met = [len(groups) - 1]
        _, askers, uses = groups[met[0]]
        for other in met[1:]:
            askers |= groups[other][1]
            uses += groups[other][2]
            groups[other] = (use.name, set(), [])
        uses.append(use)
        askers |= use.askers
        by_asker.update({(use.name, asker): met[0] for asker in askers})
    return [uses for _, _, uses in groups if uses]


def _per_task(name: str) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[VALUES].arrival_for(request.node, name)

    return result


def _for_all(joined: Joined) -> Callable[..., Any]:
    def result(request: pytest.FixtureRequest) -> Any:
        return request.config.stash[VALUES].arrival(joined)

    return result
