"""A session that runs flows: from the options to the graph, and from the graph to what was asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.selection import Selection, select
from pytest_flowforge.errors import GraphError, Problem
from pytest_flowforge.plugin import fixtures
from pytest_flowforge.plugin.accounting import Accounting
from pytest_flowforge.plugin.checkpointing import Checkpointing, Reuse
from pytest_flowforge.plugin.collecting import Collecting, FlowModule
from pytest_flowforge.plugin.command import resume_command
from pytest_flowforge.plugin.graphing import Blueprint, draw
from pytest_flowforge.plugin.items import adopt
from pytest_flowforge.plugin.joining_files import collect_file
from pytest_flowforge.plugin.naming import plural
from pytest_flowforge.plugin.options import Mode, Options
from pytest_flowforge.plugin.pytest_internals import probe
from pytest_flowforge.plugin.references import Directory, FileNotCollected
from pytest_flowforge.plugin.reporting import Statuses
from pytest_flowforge.plugin.running import Runner
from pytest_flowforge.plugin.selecting import NodeIds, by_expressions, only_one, take_node_ids
from pytest_flowforge.plugin.terminal import Terminal
from pytest_flowforge.plugin.values import Reading
from pytest_flowforge.report.changes import explain_lines
from pytest_flowforge.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Mapping

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry

__all__ = ["FlowSession", "activate"]

#: Plugins of pytest that write to its cache at the end of a session, which listing and validating must not do.
_WRITERS = ("lfplugin", "nfplugin", "stepwiseplugin")


def activate(config: pytest.Config) -> None:
    """Make this session one that runs flows; raises UsageError for options that can not be met."""
    options = Options.of(config)
    _refuse(config, options)
    # pytest-randomly would shuffle the order in which ready tasks start; two runs of one flow are to be alike.
    if hasattr(config.option, "randomly_reorganize"):
        config.option.randomly_reorganize = False
    manager = config.pluginmanager
    # --lf leaves out files and functions in which nothing failed; the graph needs them.
    if manager.has_plugin("lfplugin-collwrapper"):
        manager.unregister(name="lfplugin-collwrapper")
    collecting = Collecting(config, options)
    terminal = Terminal(config, options)
    manager.register(collecting, "flowforge-collecting")
    manager.register(fixtures, "flowforge-fixtures")
    manager.register(Statuses(), "flowforge-statuses")
    manager.register(terminal, "flowforge-terminal")
    checkpointing = Checkpointing(config, options, terminal.tell)
    manager.register(FlowSession(config, options, collecting, terminal, checkpointing), "flowforge-session")
    # Registered last, it opens the checkpoint before anything else happens, and closes it when nothing else does.
    manager.register(checkpointing, "flowforge-checkpointing")


def _refuse(config: pytest.Config, options: Options) -> None:
    if options.executor != "local":
        msg = f"--ff-executor {options.executor}: there is no such executor; this version has: local"
        raise pytest.UsageError(msg)
    if config.getoption("stepwise", None) or config.getoption("stepwise_skip", None):
        msg = "--stepwise goes by the order of a file, and a flow has a graph: use -x, and then --lf"
        raise pytest.UsageError(msg)
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no" or config.getoption("tx", None):
        msg = (
            "flows run in one process in this version, and pytest-xdist was asked for more: leave out -n "
            "(or add -n 0 where the configuration has it)"
        )
        raise pytest.UsageError(msg)


@dataclass(slots=True)
class _Flows:
    """What a session has collected."""

    graph: TaskGraph
    #: Of the directory, which is large and whose work is done, this alone is kept.
    entries: Mapping[TaskId, Entry]
    blueprint: Blueprint
    selection: Selection
    reuse: Reuse


class FlowSession:
    """The hooks that turn collected functions into a graph and do with it what the command line says."""

    def __init__(
        self,
        config: pytest.Config,
        options: Options,
        collecting: Collecting,
        terminal: Terminal,
        checkpointing: Checkpointing,
    ) -> None:
        self._config = config
        self._options = options
        self._collecting = collecting
        self._terminal = terminal
        self._checkpointing = checkpointing
        self._node_ids = NodeIds(())
        #: Items that this session, or another plugin, has left out.
        self._deselected: set[pytest.Item] = set()
        self._flows: _Flows | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        probe(session)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._node_ids = take_node_ids(self._config)

    # ------------------------------------------------------------------ from items to the selected graph

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Draw the graph before any other plugin chooses among the items, and complete their choice after."""
        self._keep(items, [item for item in items if _is_task(item)])
        adopt(items)
        directory, blueprint = self._draw(session, items)
        graph = self._check(session, items, blueprint)
        if graph is None:
            return (yield)
        self._choose(items, graph, directory)
        result = yield
        self._flows = self._complete(items, graph, directory, blueprint)
        return result

    def _draw(self, session: pytest.Session, items: list[pytest.Item]) -> tuple[Directory, Blueprint]:
        """Draw the tasks, collecting the files that references lead to until there is none left."""
        requested = self._node_ids.choose(items) if self._node_ids else list(items)
        directory = Directory(_functions(items), self._collecting)
        while True:
            try:
                blueprint = draw(directory, self._options)
                break
            except FileNotCollected as missing:
                found = collect_file(session, missing.path, (entry.item for entry in directory.entries.values()))
                directory.add(_functions(item for item in found if _is_task(item)))
                directory.tried(missing.path)
        self._collecting.garbage.set_aside()
        self._keep(items, requested)
        return directory, blueprint

    def _check(self, session: pytest.Session, items: list[pytest.Item], blueprint: Blueprint) -> TaskGraph | None:
        """Return the graph of all tasks; None when files could not be collected, which pytest reports itself."""
        problems = [*self._collecting.collected.problems, *blueprint.problems]
        problems += fixtures.register_results(blueprint.shared)
        graph = None
        try:
            graph = TaskGraph.build(blueprint.tasks, self._options.pools)
        except GraphError as error:
            problems += error.problems
        problems.sort(key=_place)
        collected_badly = session.testsfailed and not self._config.option.continue_on_collection_errors
        if problems and collected_badly:
            self._terminal.problems = tuple(problems)
        elif problems:
            items.clear()
            self._terminal.show_problems(problems)
            raise pytest.UsageError(*_as_arguments(problems))
        return None if collected_badly else graph

    def _choose(self, items: list[pytest.Item], graph: TaskGraph, directory: Directory) -> None:
        if self._options.select:
            chosen = by_expressions(self._options.select, graph, directory)
            self._keep(items, [item for item in items if item.nodeid in chosen])

    def _complete(
        self, items: list[pytest.Item], graph: TaskGraph, directory: Directory, blueprint: Blueprint
    ) -> _Flows:
        """Close the choice over the graph, and put the items into an order that they can run in."""
        # A plugin may have put an item there twice; a task runs once.
        replay = self._options.checkpoint.replay
        targets: list[str] = (
            [only_one(replay, directory)] if replay else list(dict.fromkeys(item.nodeid for item in items))
        )
        selection = select(graph, targets, only=self._options.only or bool(replay))  # type: ignore[arg-type]
        ordered = _in_order(graph, targets, selection)
        items[:] = [directory.entries[task].item for task in ordered.order]
        self._terminal.came_along([directory.entries[task.id].item for task in graph if task.id in selection.along])
        self._terminal.flows(ordered, selection)
        # Files that came along are counted as collected; so are their tasks that nobody needs as left out.
        wanted = selection.all
        unwanted = [entry.item for entry in directory.entries.values() if entry.id not in wanted]
        self._deselect([item for item in unwanted if item not in self._deselected])
        reuse = self._decide(graph, ordered, directory, blueprint)
        if replay:
            task = graph[ordered.tasks[0].id]
            self._checkpointing.replay(task, graph, blueprint, reuse)
            # Alone, and whatever its rule says: it has been judged.
            ordered = TaskGraph.build([dataclasses.replace(task, needs=(), when=Trigger.ALWAYS)], graph.pools)
        elif self._options.only:
            self._take_from_earlier(graph, selection, directory, blueprint, reuse)
        return _Flows(ordered, directory.entries, blueprint, selection, reuse)

    def _decide(self, graph: TaskGraph, ordered: TaskGraph, directory: Directory, blueprint: Blueprint) -> Reuse:
        """Find out which of the selected tasks run."""
        forced = by_expressions(self._options.checkpoint.force, graph, directory, "--ff-force")
        reading = Reading(directory.entries, blueprint.needs)
        members = [task.id for task in ordered]
        # What --ff-only leaves out still tells whether what was built on it stands.
        whole = graph.restrict({*members, *graph.ancestors(members)}) if self._options.only else ordered
        reuse = self._checkpointing.decide(whole, ordered, directory.entries, blueprint, forced, reading.of)
        self._terminal.reuses(reuse)
        self._terminal.first_lines = self._checkpointing.first_lines(reuse)
        if self._options.mode is Mode.LIST:
            self._terminal.last_states = self._checkpointing.last_states(ordered)
        if self._options.checkpoint.explain:
            changes = self._checkpointing.changes(ordered, reuse)
            self._terminal.explanation = explain_lines(ordered, reuse.because, reuse.reasons, changes)
        return reuse

    def _take_from_earlier(
        self, graph: TaskGraph, selection: Selection, directory: Directory, blueprint: Blueprint, reuse: Reuse
    ) -> None:
        """Find the results that --ff-only leaves out and that tasks ask for; raises UsageError where there is none."""
        reading = Reading(directory.entries, blueprint.needs)
        wanted = {need for task in selection.targets for need in reading.of(task)} - selection.targets
        if wanted:
            whole = graph.restrict(selection.targets | graph.ancestors(selection.targets))
            reuse.outside = self._checkpointing.records_for(whole, directory.entries, blueprint, wanted)
        asked = {task: reading.surely(task) - selection.targets for task in selection.targets}
        _refuse_missing_results(graph, asked, reuse.outside)

    def _keep(self, items: list[pytest.Item], kept: list[pytest.Item]) -> None:
        if len(kept) < len(items):
            chosen = set(kept)
            self._deselect([item for item in items if item not in chosen])
            items[:] = kept

    def _deselect(self, items: list[pytest.Item]) -> None:
        if items:
            self._config.hook.pytest_deselected(items=items)

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        self._deselected.update(items)

    def pytest_collection_finish(self) -> None:
        """Called however collection ends; what only asks is not to leave anything behind."""
        if self._options.mode is not Mode.RUN:
            self._silence_writers()

    # ------------------------------------------------------------------ doing it

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if self._flows is None and session.testsfailed:
            self._terminal.show_problems(self._terminal.problems)
        if self._flows is None or self._config.option.collectonly:
            # pytest's own loop says what is wrong, or does nothing.
            return None
        if self._options.mode is Mode.RUN:
            self._run(session, self._flows)
        else:
            self._terminal.answer(self._flows.graph, self._flows.selection)
        return True

    def _silence_writers(self) -> None:
        manager = self._config.pluginmanager
        for name in filter(manager.has_plugin, _WRITERS):
            manager.unregister(name=name)

    def _run(self, session: pytest.Session, flows: _Flows) -> None:
        runner = Runner(
            session,
            flows.graph,
            flows.entries,
            flows.blueprint,
            flows.reuse,
            self._checkpointing,
            self._terminal.tell,
        )
        self._config.stash[fixtures.VALUES] = runner.values
        self._terminal.watch(runner.summary)
        accounting = Accounting(
            (task.id for task in flows.graph),
            lambda: runner.excused,
            self._terminal.tell,
            setups_only=bool(self._config.option.setuponly),
        )
        self._config.pluginmanager.register(accounting, "flowforge-accounting")
        self._collecting.garbage.set_aside()
        try:
            runner.run()
        finally:
            keeper = self._checkpointing.keeper
            if keeper is not None and keeper.run:
                self._terminal.resume_command = resume_command(self._config)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        # Blocked tasks are no failures to pytest, and still the work is not done.
        if not session.testsfailed and not runner.summary.snapshot().ok:
            session.testsfailed = 1


def _is_task(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.getparent(FlowModule) is not None


def _functions(items: Iterable[pytest.Item]) -> list[pytest.Function]:
    return [item for item in items if isinstance(item, pytest.Function)]


_LONGEST_LINE = 2000


def _as_arguments(problems: list[Problem]) -> list[str]:
    title = f"flowforge: {plural(len(problems), 'problem')} in the flows, nothing was run"
    return [title, *("\n".join(map(_harmless, str(problem).split("\n"))) for problem in problems)]


def _harmless(line: str) -> str:
    # What people have written in names and values is quoted in problems.
    return printable(line, _LONGEST_LINE)


def _place(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)


def _in_order(graph: TaskGraph, targets: list[str], selection: Selection) -> TaskGraph:
    """The selected graph, its ties broken by the order in which pytest holds the items.

    That is the order of the files, changed only where plugins group or sort. What came along goes before.
    """
    restricted = graph.restrict(selection.all)
    along = [task.id for task in restricted if task.id in selection.along]
    wanted = [*along, *targets]
    if wanted == [task.id for task in restricted]:
        return restricted
    return TaskGraph.build([restricted[task] for task in wanted], graph.pools)  # type: ignore[index]


def _refuse_missing_results(
    graph: TaskGraph, asked: Mapping[TaskId, Collection[TaskId]], known: Collection[TaskId]
) -> None:
    """Raise UsageError when a task would have to run without a result that it asks for."""
    missing = []
    for task in graph:
        wanted = asked.get(task.id, ())
        names = [graph[upstream].label for upstream in task.needs if upstream in wanted and upstream not in known]
        if names:
            missing.append(
                f"--ff-only leaves out {', '.join(names)}, whose result {task.label} asks for, and no result of an "
                "earlier run stands; leave --ff-only out, or choose those tasks too"
            )
    if missing:
        raise pytest.UsageError(*missing)
