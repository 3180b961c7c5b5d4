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

__all__ = ["Parts", "Thing", "forget", "settle"]

Expansion: TypeAlias = "tuple[str | None, Iterable[Thing]]"


class Thing:
    """A function, class, constant, ... that a digest covers.

    ``expansion`` is called once, and tells its own digest (None: it only stands for others) and what it leads to. What
    leads nowhere may go without, and have its ``own`` digest from the beginning.
    """

    __slots__ = ("expansion", "index", "key", "low", "own", "targets", "value")

    def __init__(self, key: str, expansion: Callable[[], Expansion] | None = None) -> None:
        #: What it is called in parts, the same in every process; two things may share one.
        self.key = key
        self.expansion = expansion
        self.own: str | None = None
        self.targets: tuple[Thing, ...] = ()
        #: What stands for all it reaches, itself included; empty until :func:`settle` has been there.
        self.value = ""
        #: Order of discovery, from 1; 0 for not yet.
        self.index = 0
        #: The earliest thing still open that can be reached from here.
        self.low = 0

    def expand(self) -> None:
        """Find out what it is and where it leads."""
        if self.expansion is not None:
            self.own, targets = self.expansion()
            self.targets = tuple(dict.fromkeys(targets))
            # It holds on to what is not needed any more.
            self.expansion = None

    def forget(self) -> None:
        """Let go of all that it holds, and of what it leads to."""
        self.expansion = None
        self.own = None
        self.targets = ()
        self.value = ""


def forget(things: Iterable[Thing]) -> None:
    """Take apart *things* and all they reach, so that nothing of them stays: they may hold each other in circles."""
    pending = list(things)
    while pending:
        thing = pending.pop()
        pending += thing.targets
        thing.forget()


def settle(root: Thing) -> str:
    """Return the value of *root*; give all it reaches theirs."""
    if not root.value and not _leads_nowhere(root):
        _settle_all(root)
    return root.value


def _settle_all(root: Thing) -> None:
    """Give *root*, which is expanded, and all it reaches their values (Tarjan's algorithm)."""
    counter = 0
    #: Things seen whose circle is not complete yet.
    open_things: list[Thing] = []
    path: list[tuple[Thing, Iterator[Thing]]] = []
    fresh: Thing | None = root
    while True:
        if fresh is not None:
            counter += 1
            fresh.index = fresh.low = counter
            open_things.append(fresh)
            path.append((fresh, iter(fresh.targets)))
            fresh = None
        thing, targets = path[-1]
        for target in targets:
            if target.value:
                continue
            if target.index:
                thing.low = min(thing.low, target.index)
            elif not _leads_nowhere(target):
                fresh = target
                break
        if fresh is not None:
            continue
        path.pop()
        if thing.low == thing.index:
            _close(open_things, thing)
        if not path:
            return
        path[-1][0].low = min(path[-1][0].low, thing.low)


def _leads_nowhere(thing: Thing) -> bool:
    """Expand a thing; one that leads nowhere has its value at once."""
    thing.expand()
    if thing.targets:
        return False
    # This needs no digest: all other values are digests, and have no space in them.
    thing.value = f"{thing.key} {thing.own}"
    return True


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

    __slots__ = ("_made", "_roots")

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
            self._made = _parts(self._roots)
            self._roots = ()
        return self._made


def _parts(roots: Iterable[Thing]) -> dict[str, str]:
    """The own digests of all that *roots* reach, by key, sorted; of several with one key the digest of them all."""
    owns: dict[str, str] = {}
    several: dict[str, set[str]] = {}
    seen = set(roots)
    pending = list(seen)
    while pending:
        thing = pending.pop()
        if not thing.value:
            message = f"the printer was closed before anybody asked for the parts of {thing.key}"
            raise RuntimeError(message)
        if thing.own is not None and owns.setdefault(thing.key, thing.own) != thing.own:
            several.setdefault(thing.key, {owns[thing.key]}).add(thing.own)
        fresh = [target for target in thing.targets if target not in seen]
        seen.update(fresh)
        pending += fresh
    for key, own in several.items():
        owns[key] = digest_of(*sorted(own))
    return dict(sorted(owns.items()))
