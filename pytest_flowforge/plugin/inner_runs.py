"""Flows run within tests: a session of pytest inside of the session, of which the test gets the run.

It is a session like any other, with the fixtures, marks and settings of the flow file, in the process of the test: what
the test has patched is patched for the tasks. Nothing is kept, nothing of the outer command line holds there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import Event, InstancesAdded, TaskMoved
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.model import TaskId
from pytest_flowforge.core.states import SUCCEEDED
from pytest_flowforge.core.summary import Summary
from pytest_flowforge.errors import GraphError, WorkflowError
from pytest_flowforge.plugin.stand_ins import OBSERVER, STAND_INS, Observer, StandIns
from pytest_flowforge.wording import quoted
from pytest_flowforge.workflow import Run, Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_flowforge.core.model import Task
    from pytest_flowforge.errors import Problem
    from pytest_flowforge.plugin.entries import Entry

__all__ = ["InnerRun", "RunFlow"]

#: Plugins that would change what belongs to the whole process, and is the outer session's business.
_NOT_INSIDE = ("cacheprovider", "faulthandler", "randomly")


class RunFlow:
    """What the fixture ``run_flow`` is: called with a flow it runs that, and returns the :class:`Run`."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._folders = (request.path.parent, request.config.rootpath, request.config.invocation_params.dir)

    def __call__(
        self,
        flow: str | os.PathLike[str] | Workflow,
        *,
        replace: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
    ) -> Run:
        """Run *flow*, a flow file or a workflow in code, and return what became of it; a failure is no exception.

        A file is looked for beside the test, in the root of the project and in the working directory. *replace* has
        functions to be called, or values to be taken, in the place of tasks, by name; what only these needed does not
        run. *args* are further arguments of pytest, such as ``["-k", "train"]``.

        Raises :class:`~pytest_flowforge.errors.GraphError` for a flow that is wrong, and
        :class:`~pytest_flowforge.errors.WorkflowError` for one that can not be run.
        """
        if isinstance(flow, Workflow):
            if args:
                msg = f"args={quoted(list(args))} are for pytest, which does not run a Workflow: leave them out"
                raise WorkflowError(msg)
            return flow.run(replace=replace or {})
        path = self._find(Path(flow))
        inner = InnerRun(path.stem, replace or {})
        with _outer_things_aside(), _as_it_is_now(path):
            status = pytest.main([*self._arguments(path), *args], plugins=[inner])
        if inner.interrupted is not None:
            # It was meant for the whole session.
            raise inner.interrupted
        if inner.problems:
            raise GraphError(inner.problems)
        if not inner.began:
            msg = f"{path} was not run (exit status {int(status)} of pytest): see what it has printed"
            raise WorkflowError(msg)
        return inner.run()

    def _find(self, path: Path) -> Path:
        places = [folder / path for folder in self._folders]
        for place in places:
            if place.exists():
                return place
        shown = ", ".join(dict.fromkeys(str(place.parent) for place in places))
        msg = f"run_flow({quoted(str(path))}): there is no such file in {shown}"
        raise WorkflowError(msg)

    def _arguments(self, path: Path) -> list[str]:
        config = self._config
        arguments = ["--flowforge", str(path), "-o", "addopts="]
        if path.is_relative_to(config.rootpath):
            # As the flow would be run from there; one that lies elsewhere has settings of its own.
            arguments.append(f"--rootdir={config.rootpath}")
            arguments += ["-c", str(config.inipath)] if config.inipath is not None else []
        for plugin in _NOT_INSIDE:
            arguments += ["-p", f"no:{plugin}"]
        manager = config.pluginmanager
        if not manager.has_plugin("flowforge"):
            # It was named, and is not found by itself.
            for plugin in ("pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout"):
                arguments += ["-p", plugin]
        return arguments


class InnerRun(Observer):
    """A plugin of an inner session that takes note of everything its run is, and puts stand-ins in."""

    def __init__(self, name: str, replaced: Mapping[str, Any]) -> None:
        self.name = name
        self.began = False
        self.problems: tuple[Problem, ...] = ()
        self.interrupted: KeyboardInterrupt | None = None
        self._stand_ins = StandIns(replaced)
        self._events: list[Event] = []
        self._graph = TaskGraph.build(())
        self._entries: Mapping[TaskId, Entry] = {}
        self._results: dict[TaskId, Any] = {}
        self._errors: dict[TaskId, BaseException] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[STAND_INS] = self._stand_ins
        config.stash[OBSERVER] = self

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        if call.excinfo is not None:
            self._errors[TaskId(item.nodeid)] = call.excinfo.value
        return (yield)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        error = excinfo.value
        # pytest ends a session that it stops by itself in the same way.
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, pytest.Session.Interrupted):
            self.interrupted = error

    def refuse(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)

    def begin(self, graph: TaskGraph, entries: Mapping[TaskId, Entry]) -> None:
        self.began = True
        self._graph, self._entries = graph, entries

    def take(self, task: TaskId, value: Any) -> None:
        self._results[task] = value

    def __call__(self, event: Event) -> None:
        self._events.append(event)

    def run(self) -> Run:
        """Return the run, with its tasks called by their names."""
        called = _told_apart(self._graph, self._entries)
        graph = TaskGraph.build([_renamed(task, called) for task in self._graph], self._graph.pools)
        summary, metrics = Summary(task.id for task in graph), Metrics(graph)
        for event in self._events:
            renamed = _of_event(event, called)
            summary.apply(renamed)
            metrics(renamed)
        now = summary.snapshot()
        results = {called[task]: value for task, value in self._results.items()}
        for task, label, of in ((one.id, one.label, one.instance_of) for one in self._entries.values()):
            if of is not None and called[task] in results:
                # As those see it that depend on the mapped task.
                results.setdefault(called[of], {})[label] = results[called[task]]
        failed = {task: error for task, error in self._errors.items() if called.get(task) in now.failed}
        return Run(
            self.name,
            "",
            now,
            {str(task): state for task, state in now.states.items()},
            {str(task): results[task] for task, state in now.states.items() if state in SUCCEEDED and task in results},
            {called[task]: error for task, error in failed.items()},
            _measured=metrics,
        )


def _told_apart(graph: TaskGraph, entries: Mapping[TaskId, Entry]) -> dict[TaskId, TaskId]:
    """Return what each task is called: by its name, or by its id where another file has a task of that name."""
    names = {task.id: entries[task.id].name for task in graph}
    count = Counter(names.values())
    return {task: TaskId(name) if count[name] == 1 else task for task, name in names.items()}


def _renamed(task: Task, called: Mapping[TaskId, TaskId]) -> Task:
    of = task.instance_of
    needs = tuple(called[need] for need in task.needs)
    return replace(task, id=called[task.id], needs=needs, instance_of=None if of is None else called[of])


def _of_event(event: Event, called: Mapping[TaskId, TaskId]) -> Event:
    if isinstance(event, TaskMoved):
        cause = None if event.cause is None else called.get(event.cause, event.cause)
        return replace(event, task=called[event.task], cause=cause)
    if isinstance(event, InstancesAdded):
        return replace(event, task=called[event.task], instances=tuple(called[one] for one in event.instances))
    return event


@contextmanager
def _outer_things_aside() -> Iterator[None]:
    """Keep from the inner session what was meant for the outer one, and give it back afterwards."""
    options = os.environ.pop("PYTEST_ADDOPTS", None)
    current = os.environ.get("PYTEST_CURRENT_TEST")
    alarm = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
    left = signal.getitimer(signal.ITIMER_REAL)[0] if alarm is not None else 0.0
    try:
        yield
    finally:
        if options is not None:
            os.environ["PYTEST_ADDOPTS"] = options
        if current is not None:
            os.environ["PYTEST_CURRENT_TEST"] = current
        if left:
            # The time-out of the test goes on; what the tasks have taken is not counted.
            signal.signal(signal.SIGALRM, alarm)
            signal.setitimer(signal.ITIMER_REAL, left)


#: The files of flows that were run in this process, with what tells their versions apart.
_VERSIONS: dict[Path, tuple[int, int]] = {}


@contextmanager
def _as_it_is_now(path: Path) -> Iterator[None]:
    """Have the flow file *path* imported, and not another one of that name, or what it was before it was written anew.

    A module that a test has imported from that very file is the one that runs.
    """
    if not path.is_file():
        yield
        return
    status = path.stat()
    version = (status.st_mtime_ns, status.st_size)
    module = sys.modules.get(path.stem)
    file = getattr(module, "__file__", None)
    if module is not None and (file is None or Path(file) != path or _VERSIONS.get(path, version) != version):
        del sys.modules[path.stem]
    _VERSIONS[path] = version
    writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_no_bytecode
