"""From collected items to tasks: edges from parameters, fixtures and marks, with every problem found on the way.

Nothing is raised here for a mistake in a flow file: problems are gathered, so that all can be shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.joining import Joined, NoMatch, Shape
from pytest_flowforge.core.model import Task, TaskId, Trigger
from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.marks import BadMark, CacheRule, MapRule, Marks
from pytest_flowforge.plugin.pytest_internals import FixtureView, fixture_view
from pytest_flowforge.plugin.references import Ambiguous, BadReference, LostReference
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flowforge.core.model import Location
    from pytest_flowforge.plugin.entries import Entry, TaskFunction
    from pytest_flowforge.plugin.options import Options
    from pytest_flowforge.plugin.references import Directory

__all__ = ["SCOPES", "Blueprint", "Needs", "Shared", "draw"]


@dataclass(slots=True)
class Needs:
    """What one task depends on.

    ``parameters`` tells what arrives under which name; ``by_key`` names all direct upstreams as the ``upstream``
    fixture shows them. ``element`` is for an instance of a mapped task: the parameter where one element of what arrives
    takes the place of the whole, and its number.
    """

    parameters: dict[str, Joined] = field(default_factory=dict)
    by_key: dict[str, TaskId] = field(default_factory=dict)
    element: tuple[str, int] | None = None


#: One for all tasks without upstreams, and there may be thousands; nobody changes it.
_NO_NEEDS = Needs()


@dataclass(frozen=True, slots=True)
class Shared:
    """A result that fixtures ask for on behalf of a task.

    ``name`` is what they call it and ``joined`` what that means for the task; ``scope`` is the widest of their scopes;
    ``askers`` tells the fixtures apart.
    """

    entry: Entry
    name: str
    joined: Joined
    scope: str
    askers: frozenset[int]


@dataclass(slots=True)
class Blueprint:
    """The tasks of a session, what each needs, and what is wrong."""

    tasks: list[Task] = field(default_factory=list)
    needs: dict[TaskId, Needs] = field(default_factory=dict)
    #: A dict for its keys: variants of one function share its mistakes, and each is told once.
    problems: dict[Problem, None] = field(default_factory=dict)
    #: Results that fixtures ask for.
    shared: list[Shared] = field(default_factory=list)
    #: What the results of tasks depend on besides code and parameters, for those that say so.
    rules: dict[TaskId, CacheRule] = field(default_factory=dict)
    #: Tasks that must not run twice.
    once: set[TaskId] = field(default_factory=set)
    #: Mapped tasks; and those whose elements are known, with their instances by what stands in the brackets.
    mapped: dict[TaskId, MapRule] = field(default_factory=dict)
    instances: dict[TaskId, dict[str, TaskId]] = field(default_factory=dict)
    #: What each instance is made of: where its element arrives, the digest of that, and a text for people.
    elements: dict[TaskId, tuple[str, str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Links:
    """What a task function asks for by name, resolved once for all its variants."""

    parameters: dict[str, TaskFunction] = field(default_factory=dict)
    #: Names that fixtures ask for -> the widest scope of those fixtures, and the fixtures.
    scopes: dict[str, tuple[str, frozenset[int]]] = field(default_factory=dict)
    #: Why a task that a parameter names does not exist in this session; empty when all do.
    lost: str = ""


def draw(directory: Directory, options: Options) -> Blueprint:
    """Turn all entries of *directory* into tasks.

    Raises FileNotCollected when a reference leads into a flow file that is not part of the session: collect it and
    draw again.
    """
    blueprint = Blueprint()
    for first, second in directory.clashes:
        both = f"{second.function} and {first.function} ({first.location})"
        text = f"{both} are both called {first.name!r}: rename one of them"
        _complain(blueprint, second.location, text)
    for home in directory.functions:
        links = _links(home, directory, blueprint)
        for entry in home.entries:
            _draw_entry(entry, links, directory, options, blueprint)
    return blueprint


def _links(home: TaskFunction, directory: Directory, blueprint: Blueprint) -> _Links:
    """Find the tasks that the parameters of *home*, and the fixtures it uses, are named after."""
    first = home.entries[0]
    view = fixture_view(first.item)
    links = _Links()
    for name in view.names:
        try:
            task = _given(name, home, directory) or directory.named(name, home)
        except Ambiguous as error:
            if name in view.parameters or not view.is_fixture(name):
                _complain(blueprint, home.location, _no_way_to_choose(name, home, error))
            continue
        except LostReference as lost:
            links.lost = str(lost)
            continue
        if view.is_fixture(name):
            # flow_year(year) with a parametrize mark for `year`: nothing waits for itself, so this one is clear.
            if task is not None and task is not home and name in view.parameters:
                _complain(blueprint, home.location, _two_meanings(name, home, task, view, first))
        elif task is not None:
            _link(links, name, task, view)
        else:
            _complain_unknown(blueprint, directory, home, name, view)
    return links


def _given(name: str, home: TaskFunction, directory: Directory) -> TaskFunction | None:
    """The task whose result a workflow in code hands to the parameter *name*, where it says so."""
    given = home.handed.get(name)
    return None if given is None else directory.resolve(given, home)[0]


def _link(links: _Links, name: str, task: TaskFunction, view: FixtureView) -> None:
    links.parameters[name] = task
    askers = view.askers(name)
    if askers:
        widest = min((scope for _, scope, _ in askers), key=SCOPES.index)
        links.scopes[name] = (widest, frozenset(identity for _, _, identity in askers))


#: Beyond so many problems each is told without a search for the way out: the pattern is clear by then.
_MANY = 50

#: The scopes of fixtures, the widest first.
SCOPES = ("session", "package", "module", "class", "function")


def _no_way_to_choose(name: str, home: TaskFunction, error: Ambiguous) -> str:
    text = str(error).rpartition(": write")[0]
    return (
        f"parameter {name!r} of {home.function}: {text}: "
        f"write {error.first!r} in depends_on and take the result from the upstream fixture"
    )


def _two_meanings(name: str, home: TaskFunction, task: TaskFunction, view: FixtureView, entry: Entry) -> str:
    other = f"the parametrize mark sets {name!r}" if name in entry.params else f"the {view.describe(name)}"
    return (
        f"parameter {name!r} of {home.function} names the task {task.label} ({task.location}) and {other} too: "
        "rename one of them"
    )


def _complain_unknown(
    blueprint: Blueprint, directory: Directory, home: TaskFunction, name: str, view: FixtureView
) -> None:
    if directory.is_wrong(name, home):
        return
    askers = ", ".join(f"fixture {asker!r}" for asker, _, _ in view.askers(name))
    who = askers if askers and name not in view.parameters else home.function
    text = (
        f"parameter {name!r} of {who} is neither a task nor a fixture{directory.suggestion(name, home)}"
        f"{_elsewhere(directory, blueprint, home, name)}"
    )
    _complain(blueprint, home.location, text)


def _elsewhere(directory: Directory, blueprint: Blueprint, home: TaskFunction, name: str) -> str:
    """The way to a task of this name in another file, where there is exactly one."""
    if len(blueprint.problems) > _MANY:
        return ""
    others = [other for other in directory.functions if other.name == name and other.path != home.path]
    if len(others) != 1:
        return ""
    other = others[0]
    return (
        f" (a parameter names tasks of its own file: write `from {other.path.stem} import {other.function}` to have "
        f'{name!r} mean that one, or depends_on("{other.location.path}::{other.label}") and the upstream fixture)'
    )


def _draw_entry(entry: Entry, links: _Links, directory: Directory, options: Options, blueprint: Blueprint) -> None:
    marks = Marks(entry.item)
    if links.lost:
        _leave_out(entry, links.lost)
    needs = Needs()
    edges: dict[TaskId, None] = {}
    for name, task in links.parameters.items():
        joined = _join(entry, task, blueprint)
        if joined is None:
            continue
        needs.parameters[name] = joined
        if name in links.scopes:
            blueprint.shared.append(Shared(entry, name, joined, *links.scopes[name]))
        _add_edges(edges, needs, entry, task, joined)
    for task, joined in _marked(entry, marks, directory, blueprint):
        _add_edges(edges, needs, entry, task, joined)
    _map(entry, marks, links, directory, blueprint)
    blueprint.needs[entry.id] = needs if edges else _NO_NEEDS
    blueprint.tasks.append(_task(entry, marks, tuple(edges), options, blueprint))


def _map(entry: Entry, marks: Marks, links: _Links, directory: Directory, blueprint: Blueprint) -> None:
    """Take note of what the task is mapped over."""
    home = entry.home
    try:
        given = marks.map()
        if given is None:
            return
        reference, limit, ids = given
        upstream, variant = directory.resolve(reference, home)
    except BadMark as error:
        _complain(blueprint, home.location, f"{home.function}: {error}")
        return
    except BadReference as error:
        _complain(blueprint, home.location, f"map of {home.function}: {error}")
        return
    except LostReference as lost:
        _leave_out(entry, str(lost))
        return
    parameter = next((name for name, task in links.parameters.items() if task is upstream), None)
    if variant is not None or parameter is None:
        wanted = f"map({quoted(reference)}) of {home.function}"
        why = (
            "names one variant: name the function; parameters that both have choose among its variants"
            if variant is not None
            else f"there is no parameter {upstream.name!r} in which the element could arrive: add it"
        )
        _complain(blueprint, home.location, f"{wanted} {why}" if variant is not None else f"{wanted}: {why}")
        return
    blueprint.mapped[entry.id] = MapRule(parameter, limit, ids)


def _add_edges(edges: dict[TaskId, None], needs: Needs, entry: Entry, task: TaskFunction, joined: Joined) -> None:
    for variant, upstream in joined.members:
        edges[upstream] = None
        needs.by_key[_key(entry, task, variant)] = upstream


def _key(entry: Entry, task: TaskFunction, variant: str) -> str:
    """What a reference from *entry* to this upstream would say."""
    if task.path == entry.home.path:
        label = task.name if task.owner == entry.home.owner else task.label
    else:
        label = f"{task.location.path}::{task.label}"
    return f"{label}[{variant}]" if task.parametrized else label


def _join(entry: Entry, task: TaskFunction, blueprint: Blueprint) -> Joined | None:
    try:
        return task.joiner.join(entry.params)
    except NoMatch as error:
        text = (
            f"{entry.name} depends on {task.label} and shares parameters with it, but {error}: "
            "a task depends on the variants that agree with it on every parameter the two share"
        )
        _complain(blueprint, entry.home.location, text)
        return None


def _marked(
    entry: Entry, marks: Marks, directory: Directory, blueprint: Blueprint
) -> Iterator[tuple[TaskFunction, Joined]]:
    try:
        for reference, on_function in marks.dependencies():
            yield from _referenced(entry, reference, marks, directory, blueprint, on_function=on_function)
    except BadMark as error:
        _complain(blueprint, entry.home.location, f"{entry.home.function}: {error}")


def _referenced(
    entry: Entry, reference: object, marks: Marks, directory: Directory, blueprint: Blueprint, *, on_function: bool
) -> Iterator[tuple[TaskFunction, Joined]]:
    try:
        task, chosen = directory.resolve(reference, entry.home)
    except LostReference as lost:
        if marks.trigger() not in _CONTENT_WITHOUT:
            _leave_out(entry, str(lost))
        return
    except BadReference as error:
        _complain(blueprint, entry.home.location, f"depends_on of {entry.home.function}: {error}")
        return
    if not on_function and task is entry.home:
        # A mark on the file or the class says "all of these come after that one"; that one is not meant.
        return
    if chosen is not None:
        yield task, Joined(Shape.VALUE, ((chosen.variant or "", chosen.id),))
        return
    joined = _join(entry, task, blueprint)
    if joined is not None:
        yield task, joined


def _task(entry: Entry, marks: Marks, needs: tuple[TaskId, ...], options: Options, blueprint: Blueprint) -> Task:
    where = entry.home.location
    try:
        rule = marks.cache()
        if rule is not None:
            blueprint.rules[entry.id] = rule
        if not marks.idempotent():
            blueprint.once.add(entry.id)
        marks.check_timeout()
        return Task(
            id=entry.id,
            needs=needs,
            when=marks.trigger(),
            retry=marks.retry(options.retries),
            pools=marks.pools(),
            exclusive=marks.exclusive(),
            priority=marks.priority(),
            mapped=entry.id in blueprint.mapped,
            name=entry.name,
            location=where,
        )
    except BadMark as error:
        _complain(blueprint, where, f"{entry.home.function}: {error}")
        # A stand-in, so that its edges can be checked all the same; it never runs.
        return Task(id=entry.id, needs=needs, name=entry.name, location=where)


#: Rules under which a task runs although an upstream, that it only follows, does not exist.
_CONTENT_WITHOUT = frozenset({Trigger.ALL_DONE, Trigger.ALWAYS})


def _leave_out(entry: Entry, why: str) -> None:
    """Skip a task whose upstream does not exist because its file skips itself; the engine carries the skip on."""
    entry.item.add_marker(pytest.mark.skip(reason=f"an upstream is missing, {why}"))


def _complain(blueprint: Blueprint, where: Location, text: str) -> None:
    blueprint.problems[Problem(str(where), text)] = None
