"""Run-time fan-out: from the result of an upstream to one task for each of its elements.

What the elements are is found out in one process; all others are told the labels, and make the same tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from itertools import count, islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pytest_flowforge.codeprint.values import value_digest
from pytest_flowforge.core.fingerprint import text_digest
from pytest_flowforge.core.joining import Joined, Shape
from pytest_flowforge.errors import FlowforgeError
from pytest_flowforge.plugin.entries import Entry, task_id
from pytest_flowforge.plugin.graphing import Needs
from pytest_flowforge.plugin.items import adopt
from pytest_flowforge.plugin.pytest_internals import another_item
from pytest_flowforge.report.text import printable
from pytest_flowforge.results import NoResult
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task, TaskId
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.values import Arrivals

__all__ = ["FanOut", "NotMappable", "element_of", "instance_test", "label_of"]

#: Characters of an element that name its task; a longer text is cut, and a digest stands for the rest.
_LONGEST_LABEL = 80


class NotMappable(FlowforgeError):
    """A result that can not be taken apart into elements, or elements that can not be named."""


class FanOut:
    """Makes the tasks for the elements of mapped tasks, and adds them to *entries* and *blueprint*."""

    def __init__(self, entries: dict[TaskId, Entry], blueprint: Blueprint) -> None:
        self._entries = entries
        self._blueprint = blueprint

    def is_mapped(self, task: TaskId) -> bool:
        """Whether *task* has instances, known or not."""
        return task in self._blueprint.mapped

    def expand(self, task: Task, arrivals: Arrivals) -> list[Entry]:
        """Add one task for each element of what arrives at the mapped *task*; return what was added.

        Raises :class:`NotMappable`, and ResultError where the result can not be had.
        """
        rule = self._blueprint.mapped[task.id]
        result = arrivals.arrival(self._source(task.id))
        pairs = _pairs(f"map({quoted(rule.parameter)}) of {task.label}", result)
        names = [_label(rule.ids, rule.parameter, key, value, task) for key, value in pairs]
        made = self.add(task.id, _told_apart(names))
        for one, (_, value) in zip(made, pairs, strict=True):
            self._blueprint.elements[one.id] = (rule.parameter, value_digest(value), quoted(value))
        return made

    def add(self, task: TaskId, labels: Iterable[str]) -> list[Entry]:
        """Add one task for each of *labels*, which are those of the elements in their order; return what was added."""
        entry = self._entries[task]
        blueprint = self._blueprint
        instances = blueprint.instances[task] = {}
        made = []
        for label, needs in zip(labels, self._needs_of_elements(task)):  # noqa: B905 - there may be endlessly many
            variant = label if entry.variant is None else f"{entry.variant}-{label}"
            item = another_item(entry.item, label)
            one = Entry(item, task_id(item), entry.home, variant, entry.params, task, label)
            self._entries[one.id] = one
            blueprint.needs[one.id] = needs
            if task in blueprint.rules:
                blueprint.rules[one.id] = blueprint.rules[task]
            if task in blueprint.once:
                blueprint.once.add(one.id)
            instances[label] = one.id
            made.append(one)
        adopt([one.item for one in made])
        return made

    def _source(self, task: TaskId) -> Joined:
        """Return what a mapped task is mapped over."""
        return self._blueprint.needs[task].parameters[self._blueprint.mapped[task].parameter]

    def _needs_of_elements(self, task: TaskId) -> Iterator[Needs]:
        """Yield what each instance needs: where an element is the result of a task, that and not all of them."""
        needs, source = self._blueprint.needs[task], self._source(task)
        parameter = self._blueprint.mapped[task].parameter
        members = [member for _, member in source.members]
        if source.shape is Shape.VALUE:
            instances = self._blueprint.instances.get(members[0])
            if instances is None:
                yield from (Needs(needs.parameters, needs.by_key, (parameter, place)) for place in count())
                return
            members = list(instances.values())
        for member in members:
            yield Needs({**needs.parameters, parameter: Joined(Shape.VALUE, (("", member),))}, needs.by_key)

    def tasks(self, task: Task, entries: Iterable[Entry]) -> tuple[Task, ...]:
        """Return the tasks that *entries*, instances of *task*, are."""
        pools = task.pools
        if self._blueprint.mapped[task.id].limit is not None:
            pools = (*pools, (_pool_of(task), 1))
        return tuple(
            replace(task, id=entry.id, name=entry.name, pools=pools, mapped=False, instance_of=task.id)
            for entry in entries
        )

    def pools(self, task: Task) -> dict[str, int]:
        """Return the pool that only the instances of *task* share."""
        limit = self._blueprint.mapped[task.id].limit
        return {} if limit is None else {_pool_of(task): limit}

    def sources(self, task: TaskId) -> tuple[TaskId, ...]:
        """Return the upstreams whose results a mapped task is mapped over."""
        return tuple(member for _, member in self._source(task).members)

    def built_of(self, tasks: Iterable[TaskId]) -> dict[TaskId, tuple[TaskId, ...]]:
        """Return the upstreams whose results *tasks* are built on, for those where that is not all they need.

        An instance is made of its element, which its fingerprint knows; whoever needs a mapped task, of its instances.
        """
        if not self._blueprint.mapped:
            return {}
        return {task: basis for task in tasks if (basis := self._basis(task)) is not None}

    def _basis(self, task: TaskId) -> tuple[TaskId, ...] | None:
        blueprint = self._blueprint
        needs = tuple(dict.fromkeys(blueprint.needs[task].by_key.values()))
        of = self._entries[task].instance_of
        beside = frozenset() if of is None else frozenset(self.sources(of))
        basis = tuple(need for need in needs if need not in beside)
        if any(need in blueprint.instances for need in basis):
            basis = tuple(one for need in basis for one in blueprint.instances.get(need, {}).values() or (need,))
        return None if basis == needs else basis

    def instances_in(self, graph: TaskGraph) -> dict[TaskId, tuple[TaskId, ...]]:
        """Return the mapped tasks of *graph* whose instances are known, with these."""
        known = self._blueprint.instances.items()
        return {task: tuple(instances.values()) for task, instances in known if task in graph}


def label_of(task: str, mapped: str) -> str:
    """Return what an instance of *mapped* that is called *task* is called among them; empty for any other task."""
    before = _beginning(mapped)
    return task[len(before) : -1] if task.startswith(before) else ""


def _beginning(mapped: str) -> str:
    """How the instances of *mapped* are called, up to what tells them apart."""
    return f"{mapped[:-1]}-" if mapped.endswith("]") else f"{mapped}["


def instance_test(mapped: Iterable[TaskId]) -> Callable[[str], bool]:
    """Return what tells whether a task is called like an instance of one of the *mapped* tasks."""
    by_function: dict[str, list[str]] = {}
    for one in mapped:
        by_function.setdefault(one.partition("[")[0], []).append(_beginning(one))

    def is_called_so(task: str) -> bool:
        return any(map(task.startswith, by_function.get(task.partition("[")[0], ())))

    return is_called_so


def element_of(value: Any, place: int) -> Any:
    """Return the element at *place* of what an upstream has returned."""
    if isinstance(value, Mapping):
        return next(islice(value.values(), place, None))
    return value[place]


def _pool_of(task: Task) -> str:
    return f"map of {task.id}"


def _pairs(who: str, result: Any) -> list[tuple[Any, Any]]:
    """Return the elements of *result* with what names them."""
    if isinstance(result, Mapping):
        return list(result.items())
    if isinstance(result, Sequence) and not isinstance(result, (str, bytes, bytearray)):
        return [(value, value) for value in result]
    if isinstance(result, NoResult):
        what = f"the result of {result.task}, which {result.state}, does not exist"
    else:
        what = f"the result is of type {type(result).__name__}"
    msg = f"{who}: {what}; it must be a list, a tuple or a dict: these have elements in an order"
    raise NotMappable(msg)


def _label(ids: Callable[[Any], Any] | None, parameter: str, key: Any, value: Any, task: Task) -> str:
    """Return what an element is called; empty for one that has no short text of its own."""
    named = key
    if ids is not None:
        try:
            named = ids(value)
        except Exception as error:
            msg = f"map({quoted(parameter)}) of {task.label}: ids raised {type(error).__name__} for {quoted(value)}"
            raise NotMappable(msg) from error
    if isinstance(named, Enum):
        named = named.name
    if not isinstance(named, (str, int, float, bool, PurePath, type(None))):
        return parameter
    text = str(named)
    if len(text) > _LONGEST_LABEL:
        text = f"{text[:_LONGEST_LABEL]}~{text_digest(text)[:8]}"
    return printable(text, 2 * _LONGEST_LABEL)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return *names* with a number behind those that others have, too: the same elements get the same names."""
    count = Counter(names)
    taken = set(names)
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        one = name
        while count[name] > 1 and (one == name or one in taken):
            one = f"{name}{seen[name]}"
            seen[name] += 1
        taken.add(one)
        result.append(one)
    return result
