"""Things that reach each other, and one digest for each with all it reaches.

The things may reach each other in circles: those of one circle (a strongly connected component) share one value, the
digest of all of them and of the values they lead to. So each thing and each edge is looked at once, however many start
from it, and nothing recurses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from pytest_flowforge.core.fingerprint import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Parts", "Thing", "settle"]

Expansion: TypeAlias = "tuple[str | None, Iterable[Thing]]"


class Thing:
    """A function, class, constant, ... that a digest covers.

    ``expand`` is called once, and tells its own digest (None: it only stands for others) and what it leads to.
    """

    __slots__ = ("_expand", "index", "key", "low", "own", "targets", "value")

    def __init__(self, key: str, expand: Callable[[], Expansion] | None = None) -> None:
        #: What it is called in parts, the same in every process; two things may share one.
        self.key = key
        self._expand = expand
        self.own: str | None = None
        self.targets: tuple[Thing, ...] = ()
        #: The digest of all it reaches, itself included; empty until :func:`settle` has been there.
        self.value = ""
        #: Order of discovery, from 1; 0 for not yet.
        self.index = 0
        #: The earliest thing still open that can be reached from here.
        self.low = 0

    def expand(self) -> None:
        """Find out what it is and where it leads."""
        if self._expand is not None:
            self.own, targets = self._expand()
            self.targets = tuple(dict.fromkeys(targets))
            # It holds on to what is not needed any more.
            self._expand = None


def settle(root: Thing) -> str:
    """Return the value of *root*; give all it reaches theirs (Tarjan's algorithm)."""
    if root.value:
        return root.value
    counter = 0
    #: Things seen whose circle is not complete yet.
    open_things: list[Thing] = []
    path: list[tuple[Thing, Iterator[Thing]]] = []
    fresh: Thing | None = root
    while True:
        if fresh is not None:
            counter += 1
            fresh.index = fresh.low = counter
            fresh.expand()
            open_things.append(fresh)
            path.append((fresh, iter(fresh.targets)))
            fresh = None
        thing, targets = path[-1]
        for target in targets:
            if target.value:
                continue
            if not target.index:
                fresh = target
                break
            thing.low = min(thing.low, target.index)
        if fresh is not None:
            continue
        path.pop()
        if thing.low == thing.index:
            _close(open_things, thing)
        if not path:
            return root.value
        path[-1][0].low = min(path[-1][0].low, thing.low)


def _close(open_things: list[Thing], first: Thing) -> None:
    """Give one circle, which ends the list and begins with *first*, its value."""
    at = len(open_things) - 1
    while open_things[at] is not first:
        at -= 1
    circle = open_things[at:]
    del open_things[at:]
    mine = sorted([f"{thing.key} {thing.own}" for thing in circle])
    # Those of the circle have no value yet.
    beyond = {target.value for thing in circle for target in thing.targets if target.value}
    value = digest_of(*mine, "leads to", *sorted(beyond))
    for thing in circle:
        thing.value = value


class Parts(Mapping[str, str]):
    """The own digests of all that some things reach, by key, put together when first asked for.

    Ten thousand functions of which each calls the next reach fifty million things altogether.
    """

    def __init__(self, roots: Iterable[Thing]) -> None:
        self._roots = tuple(roots)
        self._made: dict[str, str] | None = None

    def __getitem__(self, key: str) -> str:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (self._all(),)

    def _all(self) -> dict[str, str]:
        if self._made is None:
            owns: dict[str, set[str]] = {}
            seen = dict.fromkeys(self._roots)
            pending = list(seen)
            while pending:
                thing = pending.pop()
                if thing.own is not None:
                    owns.setdefault(thing.key, set()).add(thing.own)
                for target in thing.targets:
                    if target not in seen:
                        seen[target] = None
                        pending.append(target)
            self._made = {
                key: min(own) if len(own) == 1 else digest_of(*sorted(own)) for key, own in sorted(owns.items())
            }
            self._roots = ()
        return self._made
