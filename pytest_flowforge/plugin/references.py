"""From what people write (``"fit[fold1]"``, ``"flow_etl.py::load"``, ``flow_load``) to the task functions it means."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Location, TaskId
from pytest_flowforge.plugin.collecting import Origin, origin
from pytest_flowforge.plugin.entries import Entry, TaskFunction
from pytest_flowforge.plugin.naming import FileNames
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_flowforge.plugin.collecting import Collecting
    from pytest_flowforge.workflow import Task

__all__ = ["Ambiguous", "BadReference", "Directory", "FileNotCollected", "LostReference", "is_called", "split"]


_NO_PARAMS: Mapping[str, object] = MappingProxyType({})


class BadReference(Exception):
    """A reference that means nothing, or more than one thing; the text is for people."""


class Ambiguous(BadReference):
    """A name that several tasks have; ``first`` is how one of them is called without doubt."""

    def __init__(self, name: str, candidates: Sequence[TaskFunction]) -> None:
        self.first = candidates[0].label
        places = ", ".join(f"{home.label} ({home.location})" for home in candidates)
        super().__init__(f"{name!r} is ambiguous, it may be any of {places}: write {self.first!r}")


class LostReference(Exception):
    """A reference into a file whose tasks could not be collected; the text says why."""


class FileNotCollected(Exception):
    """A reference into a flow file that exists but is not part of this session yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


class Directory:
    """All tasks of a session, by every name they can be called."""

    def __init__(self, items: Iterable[pytest.Function], collecting: Collecting) -> None:
        self._collecting = collecting
        self._root = collecting.config.rootpath
        self.entries: dict[TaskId, Entry] = {}
        #: (file, class or "", function name) -> the function.
        self._functions: dict[tuple[Path, str, str], TaskFunction] = {}
        #: Tasks in code, by the identity of the task and of its function; both live as long as their workflow.
        self._in_code: dict[int, TaskFunction] = {}
        #: file -> task name -> the functions called that: one, unless methods of several classes share the name.
        self._files: dict[Path, dict[str, tuple[TaskFunction, ...]]] = {}
        self._suggestions = 400
        #: Functions of one file or class that make tasks of the same name: only the first can be referred to.
        self.clashes: list[tuple[TaskFunction, TaskFunction]] = []
        self.add(items)

    def add(self, items: Iterable[pytest.Function]) -> None:
        """Take in more tasks."""
        for item in items:
            if item.nodeid in self.entries:
                # The same file twice on the command line, with --keep-duplicates.
                continue
            entry = self._entry(item)
            self.entries[entry.id] = entry
            entry.home.entries.append(entry)

    @property
    def functions(self) -> Iterator[TaskFunction]:
        """All task functions, in the order they were collected."""
        return iter(self._functions.values())

    def resolve(self, reference: object, asker: TaskFunction) -> tuple[TaskFunction, Entry | None]:
        """Return the function that *reference* means for *asker*, and the variant of it where one is asked for.

        Raises :class:`BadReference`, :class:`FileNotCollected` or :class:`LostReference`.
        """
        if isinstance(reference, str):
            return self._by_text(reference, asker)
        if callable(reference):
            return self._by_function(reference), None
        msg = f'{quoted(reference)} is no reference to a task: give names or functions, as in depends_on("extract")'
        raise BadReference(msg)

    def named(self, name: str, asker: TaskFunction) -> TaskFunction | None:
        """The task a bare *name* (a parameter, say) means for *asker*; None when there is none.

        Raises :class:`BadReference` when it is ambiguous.
        """
        candidates = self._called(asker.path, name)
        for owner in (asker.owner, ""):
            for candidate in candidates:
                if candidate.owner == owner:
                    return candidate
        # A name in the file itself comes before what only a class knows.
        written = self._collecting.collected.imported.get(asker.path, {}).get(name)
        if written is not None:
            return self._by_origin(written)
        if len(candidates) > 1:
            raise Ambiguous(name, candidates)
        return candidates[0] if candidates else None

    def lookup(self, text: str) -> list[Entry]:
        """The tasks that *text* means on the command line: a name, a variant or a pattern, in any file.

        Raises :class:`BadReference` when there is none.
        """
        file, name, variant = split(text)
        called = [home for home in self._functions.values() if is_called(home, file, name)]
        if not any(char in name for char in "*?"):
            # As within a file: a function comes before methods of the same name.
            outside = {home.path for home in called if not home.owner}
            called = [home for home in called if not home.owner or home.path not in outside or _fits(home.owner, file)]
        found = [
            entry
            for home in called
            for entry in home.entries
            if variant is None or (entry.variant is not None and _fits(entry.variant, variant))
        ]
        if not found:
            raise BadReference(self._unknown(text, None))
        return found

    def is_wrong(self, name: str, asker: TaskFunction) -> bool:
        """Whether *name* would be a task of the same file if there were not another problem with it."""
        return name in self._collecting.collected.wrong.get(asker.path, ())

    def suggestion(self, name: str, asker: TaskFunction) -> str:
        """Return the question whether one of the closest names was meant, or nothing."""
        return self._unknown_hint(name, asker)

    # ------------------------------------------------------------------ building

    def _entry(self, item: pytest.Function) -> Entry:
        callspec = getattr(item, "callspec", None)
        return Entry(
            item=item,
            id=TaskId(item.nodeid),
            home=self._home(item),
            variant=None if callspec is None else callspec.id,
            params=_NO_PARAMS if callspec is None else callspec.params,
        )

    def _home(self, item: pytest.Function) -> TaskFunction:
        # Most are plain functions, and looking for their class is a walk up to the session.
        owner = "" if isinstance(item.parent, pytest.Module) else _owner(item)
        key = (item.path, owner, item.originalname)
        home = self._functions.get(key)
        if home is None:
            home = self._functions[key] = self._new_home(item, owner)
            known = self._files.setdefault(item.path, {})
            others = known.get(home.name, ())
            self.clashes += [(other, home) for other in others if other.owner == owner]
            known[home.name] = (*others, home)
        return home

    def _called(self, path: Path, name: str) -> tuple[TaskFunction, ...]:
        """The functions of a file that *name* may mean: a task's name, or that of its function."""
        known = self._files.get(path, {})
        if name in known:
            return known[name]
        short = self._collecting.functions.task_name(name)
        return tuple(home for home in known.get(short, ()) if home.function == name)

    def _new_home(self, item: pytest.Function, owner: str) -> TaskFunction:
        shown = self._collecting.shown(item.path)
        line = (item.location[1] or 0) + 1
        name = self._collecting.functions.task_name(item.originalname)
        declared: Task | None = getattr(item.obj, "flowforge_task", None)
        home = TaskFunction(item.path, owner, item.originalname, name, Location(shown, line), declared)
        if declared is not None:
            home.handed, home.given = item.obj.flowforge_handed, item.obj.flowforge_given
            self._in_code[id(declared)] = home
            self._in_code.setdefault(id(declared.func), home)
        return home

    # ------------------------------------------------------------------ looking up

    def _by_text(self, text: str, asker: TaskFunction) -> tuple[TaskFunction, Entry | None]:
        head, name, variant = split(text)
        home = self._within(head, name, asker) if head else self.named(name, asker)
        if home is None and not head and self.is_wrong(name, asker):
            msg = "there is another problem with it"
            raise LostReference(msg)
        if home is None:
            raise BadReference(self._unknown(text, asker))
        chosen = None if variant is None else home.entry_of(variant)
        if variant is not None and chosen is None:
            known = ", ".join(repr(entry.name) for entry in home.entries[:8])
            more = ", ..." if len(home.entries) > 8 else ""  # noqa: PLR2004 - enough to see the pattern
            msg = f"{quoted(text)}: {home.label} has no variant {quoted(variant)}; there is {known}{more}"
            raise BadReference(msg)
        return home, chosen

    def _within(self, head: str, name: str, asker: TaskFunction) -> TaskFunction | None:
        """The task *name* in what *head* names: a class of this file, a file, a class in a file."""
        own = [home for home in self._called(asker.path, name) if home.owner == head]
        if own:
            return own[0]
        file, _, owner = head.partition("::")
        path = self._file(file, asker)
        if path is None:
            return None
        candidates = self._called(path, name)
        if owner:
            candidates = tuple(home for home in candidates if home.owner == owner)
        outside = tuple(home for home in candidates if not home.owner)
        candidates = outside or candidates
        if len(candidates) > 1:
            raise Ambiguous(name, candidates)
        return candidates[0] if candidates else None

    def _file(self, text: str, asker: TaskFunction) -> Path | None:
        """The flow file that *text* names: a path, or a stem without ``flow_``. None when there is none."""
        if text.endswith(".py"):
            places = [(folder / text).resolve() for folder in (asker.path.parent, self._root)]
        else:
            places = self._stems.get(text, [])
            if len(places) > 1:
                nearby = [path for path in places if path.parent == asker.path.parent]
                if len(nearby) != 1:
                    names = ", ".join(self._collecting.shown(path) for path in places)
                    path_of_one = self._collecting.shown(places[0])
                    msg = f"{quoted(text)} may be any of {names}: write the path, as in {path_of_one!r}"
                    raise BadReference(msg)
                places = nearby
            folder = asker.path.parent
            places = [*places, *(folder / name for name in (f"flow_{text}.py", f"{text}_flow.py"))]
        for path in places:
            if path in self._files:
                return path
        for path in places:
            self._refuse_lost(path)
            if path.is_file() and path not in self._collecting_tried:
                raise FileNotCollected(path)
        return None

    def _refuse_lost(self, path: Path) -> None:
        why = self._collecting.collected.lost.get(path)
        if why is not None:
            msg = f"{self._collecting.shown(path)}: {why}"
            raise LostReference(msg)

    @cached_property
    def _collecting_tried(self) -> set[Path]:
        """Files that were collected on demand and gave no task."""
        return set()

    def tried(self, path: Path) -> None:
        """*path* has been collected now, whatever came of it."""
        self._collecting_tried.add(path)
        self.__dict__.pop("_stems", None)

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = {}
        for path in self._files:
            for stem in dict.fromkeys((self._collecting.files.stem(path), path.stem)):
                stems.setdefault(stem, []).append(path)
        return stems

    def _by_function(self, function: Callable[..., Any]) -> TaskFunction:
        in_code = self._in_code.get(id(function))
        if in_code is not None:
            return in_code
        written = origin(function)
        home = None if written is None else self._by_origin(written)
        if home is None:
            name = getattr(function, "__qualname__", repr(function))
            msg = f"{name} is not a task of this session (a task is a flow_* function in a flow file)"
            raise BadReference(msg)
        return home

    def _by_origin(self, written: Origin) -> TaskFunction | None:
        path, qualified = written
        owner, _, function = _nested(qualified).rpartition("::")
        home = self._functions.get((path, owner, function))
        if home is None:
            self._refuse_lost(path)
        if home is None and path not in self._files and path not in self._collecting_tried and path.is_file():
            raise FileNotCollected(path)
        return home

    # ------------------------------------------------------------------ messages

    def _unknown(self, text: str, asker: TaskFunction | None) -> str:
        return f"{quoted(text)} names no task{self._unknown_hint(text, asker)}"

    def _unknown_hint(self, text: str, asker: TaskFunction | None) -> str:
        """The closest names, those of the same file first."""
        # Comparing with all names is slow, and after so many suggestions the pattern is clear.
        self._suggestions -= 1
        if self._suggestions < 0:
            return ""
        wanted = text.partition("[")[0].rpartition("::")[2]
        wanted = self._collecting.functions.task_name(wanted)
        near = [home for home in self._functions.values() if asker is not None and home.path == asker.path]
        far = [home for home in self._functions.values() if asker is None or home.path != asker.path]
        named: dict[str, list[str]] = {}
        for home in near:
            named.setdefault(home.name, []).append(repr(home.label))
        for home in far:
            named.setdefault(home.name, []).append(repr(f"{home.location.path}::{home.label}"))
        close = difflib.get_close_matches(wanted, named, n=3, cutoff=0.6)
        shown = [label for name in close for label in named[name]][:4]
        return f"; did you mean {' or '.join(shown)}?" if shown else ""


def is_called(home: TaskFunction, head: str, name: str) -> bool:
    """Whether *name*, in the file or class that *head* names, may mean the function; both may be patterns."""
    if not (_fits(home.name, name) or _fits(home.function, name)):
        return False
    if not head:
        return True
    file, _, owner = head.partition("::")
    if not owner and _fits(home.owner, file):
        return True
    names = (FileNames.stem(home.path), home.path.stem, home.path.name, home.location.path)
    return any(_fits(known, file) for known in names) and (not owner or _fits(home.owner, owner))


def split(text: str) -> tuple[str, str, str | None]:
    """``"flow_a.py::FlowB::fit[x]"`` -> ``("flow_a.py::FlowB", "fit", "x")``."""
    plain, bracket, variant = text.partition("[")
    head, _, name = plain.rpartition("::")
    return head, name, variant.removesuffix("]") if bracket else None


def _owner(item: pytest.Function) -> str:
    """The class or the workflow in code that the function of *item* belongs to."""
    if getattr(item.obj, "flowforge_task", None) is not None:
        return item.parent.name if item.parent is not None else ""
    return "" if item.cls is None else _nested(item.cls.__qualname__)


def _nested(qualified: str) -> str:
    """``FlowA.FlowInner`` as a node id has it; a class made inside a function is known by its own name."""
    return qualified.rpartition("<locals>.")[2].replace(".", "::")


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or (any(char in wanted for char in "*?") and fnmatchcase(name, wanted))
