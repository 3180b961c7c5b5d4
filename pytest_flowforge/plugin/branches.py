"""From the names that a task goes on with to the way it has chosen in the graph."""

from __future__ import annotations

import difflib
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_flowforge.core.branching import branch_of
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Failure, Success
from pytest_flowforge.plugin.references import Ambiguous, BadReference, is_called, split
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry, TaskFunction
    from pytest_flowforge.plugin.graphing import Blueprint

__all__ = ["Branches"]

#: Downstream tasks that are named where a name is none of them.
_MOST_NAMES = 8


class Branches:
    """Knows all tasks, whether or not they are part of the run: what is left out may be chosen as well."""

    def __init__(self, entries: Mapping[TaskId, Entry], blueprint: Blueprint, pools: Mapping[str, int]) -> None:
        self._entries = entries
        self._blueprint = blueprint
        self._pools = pools

    @cached_property
    def _flow(self) -> TaskGraph:
        # Made when a task chooses for the first time: most flows have no branches.
        return TaskGraph.build(self._blueprint.tasks, self._pools)

    def chosen(self, task: TaskId, success: Success) -> Success | Failure:
        """Return *success* with the way on that its names mean for *task*, or a failure that says what is wrong."""
        if task not in self._flow:
            message = (
                f"{self._entries[task].name} returned only(): it is one of several instances of a mapped task, and what"
                " depends on that waits for all of them. Return a value, and choose in a task that gets all of these"
            )
            return Failure(message=message, longrepr=message)
        chosen: dict[TaskId, None] = {}
        try:
            for name in success.only or ():
                chosen.update(dict.fromkeys(self._find(task, name)))
        except BadReference as error:
            message = f"{self._entries[task].name} returned only({quoted(name)}): {error}"
            return Failure(message=message, longrepr=message)
        return Success(success.only, branch_of(self._flow, task, chosen))

    def _find(self, task: TaskId, name: str) -> list[TaskId]:
        """Return the direct downstreams of *task* that *name* means; raise :class:`BadReference`."""
        downstream = [self._entries[one] for one in self._flow.downstream(task)]
        if any(entry.id == name for entry in downstream):
            return [self._entries[name].id]  # type: ignore[index]
        head, plain, variant = split(name)
        found = [entry for entry in downstream if is_called(entry.home, head, plain)]
        home = self._nearest(task, plain, list(dict.fromkeys(entry.home for entry in found)))
        found = [entry for entry in found if entry.home is home and variant in (None, entry.variant)]
        if not found:
            raise BadReference(self._none_of(task, name, downstream))
        return [entry.id for entry in found]

    def _nearest(self, task: TaskId, name: str, homes: Sequence[TaskFunction]) -> TaskFunction | None:
        """Return the one of *homes* that *name* means in the file and the class of *task*."""
        if len(homes) <= 1:
            return homes[0] if homes else None
        asker = self._entries[task].home
        for owner in (asker.owner, ""):
            for home in homes:
                if home.path == asker.path and home.owner == owner:
                    return home
        raise Ambiguous(name, homes)

    def _none_of(self, task: TaskId, name: str, downstream: Sequence[Entry]) -> str:
        label = self._entries[task].name
        if not downstream:
            return f"nothing depends on {label}, so there is nothing to choose from: return the value itself"
        names = [entry.name for entry in downstream]
        close = difflib.get_close_matches(name, names, n=1)
        shown = ", ".join(map(quoted, names[:_MOST_NAMES])) + (", ..." if len(names) > _MOST_NAMES else "")
        hint = f" (did you mean {quoted(close[0])}?)" if close else ""
        return f"that is none of the tasks that depend on {label} directly; choose among {shown}{hint}"
