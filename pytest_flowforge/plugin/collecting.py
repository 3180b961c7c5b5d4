"""Collecting flow files: which functions become items, and what is wrong with those that can not.

pytest's own collectors do the work; here they are told to look for flows instead of tests, and what they would drop
with a warning, or in silence, becomes a problem that is reported before anything runs.
"""

from __future__ import annotations

import inspect
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.garbage import Garbage
from pytest_flowforge.plugin.naming import FileNames, FunctionNames
from pytest_flowforge.plugin.pytest_internals import keep_hook_proxies
from pytest_flowforge.plugin.source import bare_function_text, line_of, scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowforge.plugin.options import Options
    from pytest_flowforge.workflow import Workflow

__all__ = ["COLLECTING", "Collected", "Collecting", "FlowModule", "Origin", "origin"]

#: A function by where it was written: (file, qualified name). Survives decorators and second imports.
Origin = tuple[Path, str]


def origin(function: Any) -> Origin | None:
    """Where *function* was written; None for what is no Python function."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(plain, "__code__", None)
    return None if code is None else (Path(code.co_filename), plain.__qualname__)


@dataclass(slots=True)
class Collected:
    """What collecting found besides the items."""

    problems: list[Problem] = field(default_factory=list)
    #: Files whose tasks could not be collected, and why: the file skips itself, or it is wrong.
    lost: dict[Path, str] = field(default_factory=dict)
    #: File -> names of tasks that it would have if something were not wrong with them.
    wrong: dict[Path, set[str]] = field(default_factory=dict)
    #: File -> task functions it has imported from other flow files: name there -> where it was written.
    imported: dict[Path, dict[str, Origin]] = field(default_factory=dict)
    #: The sizes of pools that workflows in code have given.
    pools: dict[str, int] = field(default_factory=dict)


class FlowModule(pytest.Module):
    """A flow file."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        collecting: Collecting = self.config.stash[COLLECTING]
        source = scan(self.path, collecting.shown(self.path), collecting.functions)
        collecting.collected.problems.extend(source.problems)
        if not source.importable:
            collecting.collected.lost[self.path] = "it was not imported"
            return []
        try:
            with keep_hook_proxies(self.session):
                found = list(super().collect())
        except BaseException as error:
            skipped = isinstance(error, pytest.skip.Exception)
            collecting.collected.lost[self.path] = f"it was skipped: {error}" if skipped else "it was not imported"
            raise
        collecting.garbage.set_aside()
        return found


class Collecting:
    """The hooks that make pytest collect flows."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.files = FileNames(options.files)
        self.functions = FunctionNames(options.functions)
        self.collected = Collected()
        self.garbage = Garbage()
        config.add_cleanup(self.garbage.give_back)
        self._shown: dict[Path, str] = {}
        #: The workflows in code of each file.
        self._workflows: dict[Path, list[Workflow]] = {}
        config.stash[COLLECTING] = self
        # The lists are pytest's own and are changed in place: its assertion rewriting holds them too.
        config.getini("python_files")[:] = options.files
        config.getini("python_functions")[:] = options.functions
        config.getini("python_classes")[:] = ["Flow"]

    def shown(self, path: Path) -> str:
        """*path* as people want to read it: relative to the root of the project if it lies there."""
        if path not in self._shown:
            inside = path.is_relative_to(self.config.rootpath)
            self._shown[path] = path.relative_to(self.config.rootpath).as_posix() if inside else str(path)
        return self._shown[path]

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return FlowModule.from_parent(parent, path=module_path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[pytest.Item] | list[pytest.Collector] | None:
        """Return an empty list for what is not to become a task, None for what pytest shall look at."""
        if isinstance(obj, type):
            return self._look_at_class(collector, name, obj)
        if type(obj).__name__ == "Workflow":
            return self._look_at_workflow(collector, name, obj)
        if not self.functions.matches(name):
            return None
        return self._look_at_function(collector, name, obj)

    def _look_at_workflow(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[pytest.Collector] | None:
        # Most flows have none, and need not pay for what makes them run by themselves.
        from pytest_flowforge.plugin.coded import WorkflowNode  # noqa: PLC0415
        from pytest_flowforge.workflow import Workflow  # noqa: PLC0415

        if not isinstance(obj, Workflow):
            return None
        path = Path(obj.file)
        at_home = path == collector.path or not (self.files.matches(path) or collector.session.isinitpath(path))
        if not at_home or not isinstance(collector, pytest.Module) or obj in self._workflows.get(collector.path, ()):
            return []
        self._workflows.setdefault(collector.path, []).append(obj)
        if any(other is not obj and other.name == obj.name for other in self._workflows[collector.path]):
            self._problem(
                collector, name, f"there are two workflows called {obj.name!r}: give one of them another name"
            )
            return []
        for pool, size in obj.graph.pools.items():
            self.collected.pools[pool] = min(size, self.collected.pools.get(pool, size))
        return [WorkflowNode.from_parent(collector, name=obj.name, workflow=obj)]

    def _look_at_class(self, collector: pytest.Collector, name: str, obj: type) -> list[pytest.Item] | None:
        if any(base.__module__.startswith("unittest") and base.__name__ == "TestCase" for base in obj.__mro__):
            return []
        if not name.startswith("Flow") or not self._has_tasks(obj):
            # A plain class that happens to be called Flow... is none of our business, nor pytest's.
            return [] if name.startswith("Flow") else None
        if self._is_elsewhere(collector, obj):
            return []
        if any("__init__" in vars(base) or "__new__" in vars(base) for base in obj.__mro__[:-1]):
            self._problem(
                collector,
                name,
                f"class {name} has tasks and a constructor, so it can not be collected: "
                "pytest makes a new instance for each task; use fixtures or class attributes instead",
            )
            wrong = self.collected.wrong.setdefault(collector.path, set())
            wrong.update(self.functions.task_name(task) for task in dir(obj) if self.functions.matches(task))
            return []
        return None

    def _has_tasks(self, obj: type) -> bool:
        return any(self.functions.matches(name) or _is_inner(obj, name) for name in dir(obj))

    def _look_at_function(self, collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
        # A module (`import flow_etl`) or a fixture may well be called flow_something.
        if inspect.ismodule(obj) or _is_fixture(obj) or getattr(obj, "__test__", True) is False:
            return []
        function = inspect.unwrap(getattr(obj, "__func__", obj))  # type: ignore[arg-type]
        if not inspect.isfunction(function):
            self._problem(collector, name, self._no_function_text(name, obj))
            return []
        if isinstance(collector, pytest.Module) and self._is_imported(collector, name, function):
            return []
        if function.__code__.co_flags & _HAS_YIELD:
            self._problem(
                collector,
                name,
                f"{name} is a generator function (it has a yield): a task returns its "
                "result; return a list, or make it a fixture if the yield is there for clean-up",
            )
            return []
        if any(mark.name == "depends_on" and not mark.args and not mark.kwargs for mark in _own_marks(function)):
            self._problem(
                collector,
                name,
                f"{name} has a depends_on mark without any task. If it was meant for "
                f"another function: {bare_function_text(name, self.functions)}",
            )
            return []
        return None

    def _no_function_text(self, name: str, obj: object) -> str:
        return (
            f"{name} is {reprlib.repr(obj)}, not a function, so it can not be a task. If a decorator stands above it, "
            f"look there (a decorator must return a function); else rename it or make it a function"
        )

    def _is_imported(self, collector: pytest.Module, name: str, function: Any) -> bool:
        """Whether *function* is a task of another flow file; then it is remembered as a name for that task."""
        # Compared as text first: this is asked about every task, and nearly all are at home.
        if function.__code__.co_filename == str(collector.path) or not self._is_elsewhere(collector, function):
            return False
        if "<locals>" in function.__qualname__ or not self.functions.matches(function.__name__):
            # Made by a decorator or a factory of that file, for this one.
            return False
        written = origin(function)
        if written is not None:
            self.collected.imported.setdefault(collector.path, {})[self.functions.task_name(name)] = written
        return True

    def _is_elsewhere(self, collector: pytest.Collector, obj: Any) -> bool:
        """Whether *obj* was written in another flow file, which collects it itself."""
        code = getattr(obj, "__code__", None)
        try:
            path = Path(code.co_filename if code else inspect.getfile(obj))
        except (TypeError, OSError):
            return False
        return path != collector.path and (self.files.matches(path) or collector.session.isinitpath(path))

    def _problem(self, collector: pytest.Collector, name: str, text: str) -> None:
        line = line_of(collector.path, name)
        shown = self.shown(collector.path)
        self.collected.problems.append(Problem(f"{shown}:{line}" if line else shown, text))
        wrong = self.collected.wrong.setdefault(collector.path, set())
        wrong.add(self.functions.task_name(name))


COLLECTING = pytest.StashKey[Collecting]()


#: What the code of generator functions says, with and without ``async``.
_HAS_YIELD = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def _is_inner(obj: type, name: str) -> bool:
    return name.startswith("Flow") and isinstance(getattr(obj, name, None), type)


def _is_fixture(obj: object) -> bool:
    # pytest 8.4 and newer wrap fixtures in an object of this class.
    return type(obj).__name__ == "FixtureFunctionDefinition"


def _own_marks(function: Any) -> list[pytest.Mark]:
    return [mark for mark in getattr(function, "pytestmark", []) if isinstance(mark, pytest.Mark)]
