"""A session that runs flows: from the options to the graph, and from the graph to what was asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.engine import Engine
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.ranking import ranks
from pytest_flowforge.core.retry import NO_RETRY
from pytest_flowforge.core.selection import Selection, select
from pytest_flowforge.driver import SystemClock
from pytest_flowforge.errors import GraphError, Problem, ResultError
from pytest_flowforge.interrupts import Interrupts, TimeIsUp
from pytest_flowforge.plugin import fixtures
from pytest_flowforge.plugin.accounting import Accounting
from pytest_flowforge.plugin.annotations import Annotations
from pytest_flowforge.plugin.backends import Work
from pytest_flowforge.plugin.checkpointing import Checkpointing, Reuse
from pytest_flowforge.plugin.choosing import LOCAL, PROCESS, THREAD, Choice, choose
from pytest_flowforge.plugin.collecting import Collecting
from pytest_flowforge.plugin.command import resume_command
from pytest_flowforge.plugin.drawing import draw_all, is_task
from pytest_flowforge.plugin.entries import task_id
from pytest_flowforge.plugin.fanning import FanOut, NotMappable
from pytest_flowforge.plugin.fitting import fit, fitted
from pytest_flowforge.plugin.graphing import Blueprint
from pytest_flowforge.plugin.items import adopt
from pytest_flowforge.plugin.leaving import Leaving
from pytest_flowforge.plugin.local import LocalBackend
from pytest_flowforge.plugin.options import Mode, Options
from pytest_flowforge.plugin.pytest_internals import probe
from pytest_flowforge.plugin.references import Directory
from pytest_flowforge.plugin.reporting import Statuses
from pytest_flowforge.plugin.running import Runner
from pytest_flowforge.plugin.selecting import NodeIds, by_expressions, only_one, take_node_ids
from pytest_flowforge.plugin.session_time import SessionTime
from pytest_flowforge.plugin.stand_ins import OBSERVER, STAND_INS, StandIns
from pytest_flowforge.plugin.terminal import Terminal
from pytest_flowforge.plugin.values import Arrivals, Reading
from pytest_flowforge.plugin.watching import Watching
from pytest_flowforge.report.changes import explain_lines
from pytest_flowforge.report.text import printable
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.backends import Backend
    from pytest_flowforge.plugin.entries import Entry

__all__ = ["FlowSession", "lead"]

#: Plugins of pytest that write to its cache at the end of a session, which listing and validating must not do.
_WRITERS = ("lfplugin", "nfplugin", "stepwiseplugin")


def lead(config: pytest.Config, options: Options, collecting: Collecting) -> None:
    """Register what the process of the run needs; raises UsageError for options that can not be met."""
    manager = config.pluginmanager
    terminal = Terminal(config, options)
    manager.register(Leaving(config, terminal.tell, is_worker=False), "flowforge-leaving")
    choice = choose(config, options, terminal.tell)
    make_backend: Callable[[Work], Backend] = LocalBackend
    if choice.name != LOCAL:
        from pytest_flowforge.plugin.making import backend_maker  # noqa: PLC0415 - few need it, see there

        make_backend = backend_maker(config, options, choice)
    manager.register(Statuses(), "flowforge-statuses")
    manager.register(terminal, "flowforge-terminal")
    Annotations.activate(config)
    checkpointing = Checkpointing(config, options, terminal.tell)
    watching = Watching(config, options, terminal)
    session = FlowSession(config, options, collecting, terminal, checkpointing, choice, make_backend, watching)
    manager.register(session, "flowforge-session")
    # Registered last, it opens the checkpoint before anything else happens, and closes it when nothing else does.
    manager.register(checkpointing, "flowforge-checkpointing")


@dataclass(slots=True)
class _Flows:
    """What a session has collected."""

    graph: TaskGraph
    #: Of the directory, which is large and whose work is done, this alone is kept.
    entries: dict[TaskId, Entry]
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
        choice: Choice,
        make_backend: Callable[[Work], Backend],
        watching: Watching,
    ) -> None:
        self._config = config
        self._options = options
        self._collecting = collecting
        self._terminal = terminal
        self._checkpointing = checkpointing
        self._choice = choice
        self._make_backend = make_backend
        self._watching = watching
        self._node_ids = NodeIds(())
        #: Items that this session, or another plugin, has left out.
        self._deselected: set[pytest.Item] = set()
        self._flows: _Flows | None = None
        #: For a session within a test.
        self._stand_ins = config.stash.get(STAND_INS, None) or StandIns({})
        self._observer = config.stash.get(OBSERVER, None)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        probe(session)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        self._node_ids = take_node_ids(self._config)
        result = yield
        if self._choice.name == PROCESS:
            # pytest-xdist keeps the controller from collecting, and ours owns the graph.
            session.perform_collect()
        return result

    # ------------------------------------------------------------------ from items to the selected graph

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Draw the graph before any other plugin chooses among the items, and complete their choice after."""
        self._keep(items, [item for item in items if is_task(item)])
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
        requested = self._node_ids.choose(items) if self._node_ids else list(items)
        directory, blueprint = draw_all(session, items, self._collecting, self._options)
        self._collecting.garbage.set_aside()
        if self._stand_ins:
            before = TaskGraph.build(blueprint.tasks, self._pools)
            everything = self._stand_ins.put_in([entry.item for entry in directory.entries.values()], directory.entries)
            adopt(everything)
            directory, blueprint = draw_all(session, everything, self._collecting, self._options)
            after = TaskGraph.build(blueprint.tasks, self._pools)
            needed = self._stand_ins.needed(before, after)
            requested = [directory.entries[task_id(item)].item for item in requested if task_id(item) in needed]
            items[:] = everything
        self._keep(items, requested)
        return directory, blueprint

    @property
    def _pools(self) -> Mapping[str, int]:
        """The sizes of pools: those that workflows in code have given, and before these what was asked for here."""
        return {**self._collecting.collected.pools, **self._options.pools}

    def _check(self, session: pytest.Session, items: list[pytest.Item], blueprint: Blueprint) -> TaskGraph | None:
        """Return the graph of all tasks; None when files could not be collected, which pytest reports itself."""
        problems = [*self._collecting.collected.problems, *blueprint.problems]
        problems += fixtures.register_results(blueprint.shared)
        problems += self._stand_ins.problems
        graph = None
        try:
            graph = TaskGraph.build(blueprint.tasks, self._pools)
        except GraphError as error:
            problems += error.problems
        problems.sort(key=_place)
        collected_badly = session.testsfailed and not self._config.option.continue_on_collection_errors
        if problems and collected_badly:
            self._terminal.problems = tuple(problems)
        elif problems:
            items.clear()
            self._terminal.show_problems(problems)
            if self._observer is not None:
                self._observer.refuse(problems)
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
        while grown := self._fan_out(graph, ordered, directory, blueprint, reuse):
            selection = Selection(
                selection.targets.union(*(ids for task, ids in grown.items() if task in selection.targets)),
                selection.along.union(*(ids for task, ids in grown.items() if task not in selection.targets)),
            )
            self._terminal.flows(ordered, selection)
            reuse = self._decide(graph, ordered, directory, blueprint)
        if replay:
            task = graph[ordered.tasks[0].id]
            self._checkpointing.replay(task, directory.entries, blueprint, reuse)
            # Alone, and whatever its rule says: it has been judged.
            ordered = TaskGraph.build([dataclasses.replace(task, needs=(), when=Trigger.ALWAYS)], graph.pools)
        elif self._options.only:
            self._take_from_earlier(graph, selection, directory, blueprint, reuse)
        if self._choice.calls_elsewhere:
            ordered = fit(ordered, directory.entries, self._choice.name)
        if self._config.option.usepdb:
            ordered = self._without_retries(ordered)
        if any(task.retry.is_seeded for task in ordered):
            self._terminal.seed = self._options.seed
        return _Flows(ordered, directory.entries, blueprint, selection, reuse)

    def _fan_out(
        self, graph: TaskGraph, ordered: TaskGraph, directory: Directory, blueprint: Blueprint, reuse: Reuse
    ) -> dict[TaskId, list[TaskId]]:
        """Add the instances of mapped tasks whose elements are known from an earlier run; return them.

        What depends on a mapped task can then be seen to stand. All others are added while the run goes on.
        """
        archive = self._checkpointing.archive
        fan_out = FanOut(directory.entries, blueprint)
        grown: dict[TaskId, list[TaskId]] = {}
        if archive is None:
            return grown

        arrivals = Arrivals(blueprint, lambda task: archive.load(reuse.restored[task]), lambda _: True)
        for task in [task for task in ordered if task.mapped and task.id not in blueprint.instances]:
            if not all(source in reuse.restored for source in fan_out.sources(task.id)):
                continue
            if any(task.id in branch.closed for branch in reuse.branches.values()):
                # Another way was chosen: it has no instances this time.
                continue
            try:
                entries = fan_out.expand(task, arrivals)
            except (ResultError, NotMappable):
                # That is found again, and said, when the task would start.
                continue
            for each in {id(graph): graph, id(ordered): ordered}.values():
                each.grow(task.id, fan_out.tasks(each[task.id], entries), fan_out.pools(task))
            grown[task.id] = [entry.id for entry in entries]
        return grown

    def _without_retries(self, graph: TaskGraph) -> TaskGraph:
        """Whoever debugs a failure wants to see that one."""
        if not any(task.retry.max_retries for task in graph):
            return graph
        self._terminal.tell("--pdb: failed tasks are not tried again")
        return TaskGraph.build([dataclasses.replace(task, retry=NO_RETRY) for task in graph], graph.pools)

    def _decide(self, graph: TaskGraph, ordered: TaskGraph, directory: Directory, blueprint: Blueprint) -> Reuse:
        """Find out which of the selected tasks run."""
        forced = by_expressions(self._options.checkpoint.force, graph, directory, "--ff-force")
        reading = Reading(directory.entries, blueprint)
        members = [task.id for task in ordered]
        # What --ff-only leaves out still tells whether what was built on it stands.
        whole = graph.restrict({*members, *graph.ancestors(members)}) if self._options.only else ordered
        reuse = self._checkpointing.decide(whole, ordered, directory.entries, blueprint, forced, reading.of, graph)
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
        reading = Reading(directory.entries, blueprint)
        wanted = {need for task in selection.targets for need in reading.of(task)} - selection.targets
        if wanted:
            whole = graph.restrict(selection.targets | graph.ancestors(selection.targets))
            reuse.outside = self._checkpointing.records_for(whole, directory.entries, blueprint, wanted, graph)
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
        if self._flows is None and self._choice.name == PROCESS:
            # As pytest's own loop would say it; that of pytest-xdist stands before that.
            msg = f"{plural(session.testsfailed, 'error')} during collection"
            raise session.Interrupted(msg)
        if self._flows is None or self._config.option.collectonly:
            # pytest's own loop says what is wrong, or does nothing.
            return None
        if self._options.mode is Mode.RUN:
            self._run(session, self._flows)
        else:
            flows = self._flows
            planned = self._terminal.answer(flows.graph, flows.selection)
            if self._watching.graph_files is not None:
                self._watching.graph_files.write_plan(flows.graph, planned, flows.entries, flows.blueprint)
        return True

    def _silence_writers(self) -> None:
        manager = self._config.pluginmanager
        for name in filter(manager.has_plugin, _WRITERS):
            manager.unregister(name=name)

    def _work(self, session: pytest.Session, flows: _Flows) -> Work:
        """Return what the run is about, and what is there for the whole of it."""
        reuse, graph = flows.reuse, flows.graph
        order = None
        if self._choice.name != LOCAL:
            # One after the other they take as long in any order, and people read them in theirs.
            order = ranks(graph, self._checkpointing.durations)
        policy = dataclasses.replace(
            self._choice.policy, seed=self._options.seed, max_retries=self._options.max_retries_total
        )
        engine = Engine(
            graph, policy, restored=reuse.because, branches=reuse.branches, refused=reuse.refused, ranks=order
        )
        interrupts = Interrupts()
        return Work(
            session,
            graph,
            flows.entries,
            flows.blueprint,
            reuse,
            self._checkpointing,
            self._terminal.tell,
            engine,
            SystemClock(),
            fitted if self._choice.name == THREAD else lambda task, _: task,
            interrupts,
            SessionTime(self._config, self._options.session_grace, interrupts, engine),
            self._options.grace,
            self._watching.page,
            self._observer,
        )

    def _run(self, session: pytest.Session, flows: _Flows) -> None:
        work = self._work(session, flows)
        runner = Runner(work, self._make_backend)
        self._config.stash[fixtures.VALUES] = runner.backend.values
        self._terminal.watch(runner.summary)
        accounting = Accounting(
            (task.id for task in flows.graph if not flows.blueprint.instances.get(task.id)),
            lambda: runner.excused,
            self._terminal.tell,
            setups_only=bool(self._config.option.setuponly),
        )
        self._config.pluginmanager.register(accounting, "flowforge-accounting")
        runner.sinks.append(accounting)
        if self._observer is not None:
            self._observer.begin(flows.graph, flows.entries)
            runner.sinks.append(self._observer)
        # As for those that are added while the run goes on: progress is shown as a part of all.
        session.testscollected += sum(max(len(ids) - 1, 0) for ids in flows.blueprint.instances.values())
        self._collecting.garbage.set_aside()
        work.time.start(runner.backend.grace)
        try:
            with self._watching.follow(runner, work):
                runner.run()
        except TimeIsUp as up:
            session.shouldfail = up.reason
        finally:
            work.time.run_is_over()
            keeper = self._checkpointing.keeper
            if keeper is not None and keeper.run:
                keeper.keep_durations(runner.seconds)
                self._terminal.resume_command = resume_command(self._config)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        # Blocked tasks are no failures to pytest, and still the work is not done.
        if not session.testsfailed and not runner.summary.snapshot().ok:
            session.testsfailed = 1


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
