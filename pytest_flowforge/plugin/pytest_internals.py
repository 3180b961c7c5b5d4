"""Every private name of pytest that this plugin leans on, in one place.

:func:`probe` asks at start-up whether they still fit; when one does not, the session ends with a sentence that
names it, instead of with a strange failure in the middle of a run. What each is needed for:

* ``_pytest.runner.SetupState`` (``session._setupstate``): pytest keeps set-ups as a *stack* that follows the order
  of the items. The order of a graph interleaves modules, so :class:`SetupTree` keeps them as a tree in which a
  collector is torn down when the last of its tasks is done.
* ``_pytest.runner.runtestprotocol``: an attempt must be judged as a whole before it is reported.
* ``ExceptionChainRepr.chain`` and what is in it: what a report shows is cut where it is very large.
* ``item._report_sections``: pytest gathers what an item has written, and an attempt is to show its own.
* ``item._fixtureinfo``: which parameters a function asks for, and which fixtures answer.
* ``FixtureManager._register_fixture``: the public ``pytest.register_fixture`` is new in pytest 9.1.
* ``_pytest.runner.collect_one_node``: a flow file that another one refers to may lie in a folder that this session does
  not collect, and whose conftest.py counts.
* ``FixtureDef._finalizers``, ``.cached_result``: one fixture of scope "module" may live for several modules at a time.
* ``_pytest.runner.call_and_report``, ``_pytest.warnings.catch_warnings_for_item`` and the wrapper of assertions: under
  executors that make calls on other threads the phases of an item are apart, and what pytest has for one item at a
  time holds for the whole run.
* ``item.callspec``, its ``_idlist`` and its class (``CallSpec``, ``CallSpec2`` before pytest 9.1): what stands in the
  brackets of an item that is made while the session runs.
* ``CaptureManager.resume_global_capture`` and its twins: what child processes of tasks write while no item is in a
  phase.
* ``config._env_timeout`` and ``_get_item_settings`` of pytest-timeout: its mark, option, ini value and environment
  variable, read and checked; ``SESSION_TIMEOUT_KEY`` and ``SESSION_EXPIRE_KEY``, what it has read about the session.
* ``CallInfo.from_call``, and that it is given a lambda: a time-out must not be raised outside of phases of items.
* the variable ``_pdb`` in the wrapper that ``--trace`` puts around a function: tracing without losing the result.
* ``Cache._ensure_cache_dir_and_supporting_files``: who makes the cache folder puts a .gitignore into it, and pytest
  does that only if it is the first.
* ``TerminalWriter._file``: an answer for machines needs standard output for itself.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
import warnings
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, TextIO

import pytest
from _pytest.assertion import pytest_runtest_protocol as _assertion_protocol
from _pytest.runner import SetupState, call_and_report, collect_one_node, runtestprotocol
from _pytest.warnings import catch_warnings_for_item

try:
    from _pytest.python import CallSpec as _CallSpec
except ImportError:
    from _pytest.python import CallSpec2 as _CallSpec

from pytest_flowforge.failures import capped

if sys.version_info < (3, 11):
    # pytest itself depends on the backport there.
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from types import FrameType

    from _pytest.fixtures import FixtureDef
    from _pytest.nodes import Node

__all__ = [
    "Capturing",
    "FixtureView",
    "OwnFixtures",
    "SetupTree",
    "another_item",
    "call",
    "call_of",
    "cap_shown",
    "collect_children",
    "ends_processes_late",
    "fixture_view",
    "forget_output",
    "has_time_limits",
    "is_debugging",
    "is_in_phase",
    "keep_hook_proxies",
    "make_cache_folder",
    "phase",
    "probe",
    "redirect_terminal",
    "register_fixture",
    "run_attempt",
    "session_limit",
    "time_settings",
    "warning_filters",
    "whole_run",
]

#: What ends a set-up or a teardown without ending the session, as pytest itself sees it.
_TEST_OUTCOME = (pytest.fail.Exception, pytest.skip.Exception, Exception)


def probe(session: pytest.Session) -> None:
    """Raise UsageError naming the first private name that is no longer there."""
    manager = getattr(session, "_fixturemanager", None)
    checks = {
        "Session._setupstate.stack": isinstance(getattr(_setup_state(session), "stack", None), dict),
        "Session._fixturemanager.getfixturedefs": hasattr(manager, "getfixturedefs"),
        "FixtureManager._register_fixture": hasattr(pytest, "register_fixture")
        or hasattr(manager, "_register_fixture"),
        "CallInfo.from_call": hasattr(getattr(pytest.CallInfo.from_call, "__func__", None), "__code__"),
    }
    if has_time_limits(session.config):
        names = ("_get_item_settings", "SESSION_TIMEOUT_KEY", "SESSION_EXPIRE_KEY", "is_debugging")
        checks |= {f"pytest_timeout.{name}": hasattr(sys.modules.get("pytest_timeout"), name) for name in names}
    for name, fits in checks.items():
        if not fits:
            msg = (
                f"pytest-flowforge does not fit this pytest ({pytest.__version__}): {name} has changed. Install "
                "versions that it was tested with, or a newer pytest-flowforge."
            )
            raise pytest.UsageError(msg)


def _setup_state(session: pytest.Session) -> Any:
    return getattr(session, "_setupstate", None)


class SetupTree(SetupState):
    """Set-ups of collectors and items as a tree.

    A collector (module, class, package, session) is set up before the first of its tasks and torn down after the
    last of them, however the tasks of different modules are interleaved; a task is torn down when it ends.

    ``prepare`` is called with each task before it is set up. ``comes_again`` tells, before a task is torn down, whether
    another attempt at it will follow. ``claim`` returns what to raise for a KeyboardInterrupt out of a fixture.
    """

    def __init__(
        self,
        items: Iterable[pytest.Item],
        prepare: Callable[[pytest.Item], None],
        comes_again: Callable[[pytest.Item], bool],
        claim: Callable[[KeyboardInterrupt], BaseException],
    ) -> None:
        super().__init__()
        self._prepare = prepare
        self._comes_again = comes_again
        self._claim = claim
        #: How many tasks and collectors directly under each collector are not done. Never negative.
        self._remaining: dict[Node, int] = {}
        #: Tasks and collectors that no longer count, so that a second attempt does not count twice.
        #: A dict for its keys: in a set they would take twice the memory.
        self._done: dict[Node, None] = {}
        #: The task that was set up last and is not torn down; None means that a teardown is that of everything.
        self._current: pytest.Item | None = None
        for item in items:
            self.add(item)

    def add(self, item: pytest.Item) -> None:
        """*item* is to come, too."""
        self._count(item)

    def _count(self, node: Node) -> None:
        while node.parent is not None:
            known = node.parent in self._remaining
            self._remaining[node.parent] = self._remaining.get(node.parent, 0) + 1
            if known:
                return
            node = node.parent

    def install(self, session: pytest.Session) -> None:
        """Take the place of the stack of *session*."""
        session._setupstate = self  # noqa: SLF001

    def setup(self, item: pytest.Item) -> None:
        """Set up what of the chain to *item* is not set up; a collector that failed fails again, untried."""
        self._current = item
        self._prepare(item)
        stack = self.stack
        for node in item.listchain():
            if node in stack:
                failure = stack[node][1]
                if failure:
                    raise failure[0].with_traceback(failure[1])
                continue
            stack[node] = ([node.teardown], None)
            try:
                node.setup()
            except _TEST_OUTCOME as error:
                stack[node] = (stack[node][0], (error, error.__traceback__))
                raise
            except BaseException as broken:
                # An interrupt: what is half set up must not be taken for set up by the clean-up tasks to come.
                if node is not item:
                    self._finalize(node)
                if isinstance(broken, KeyboardInterrupt):
                    raise self._claim(broken) from None
                raise

    def teardown_exact(self, nextitem: pytest.Item | None) -> None:
        """Tear down the current task and what nobody needs any more; without such a task, everything."""
        item, self._current = self._current, None
        if item is None:
            # pytest-rerunfailures asks a second time for a task; only at the end of the session nothing comes next.
            self._tear_down([] if nextitem is not None else list(reversed(self.stack)))
        elif self._comes_again(item):
            self._tear_down([item])
        else:
            self._tear_down([item, *self._given_up_by(item)])

    def resume(self, item: pytest.Item) -> None:
        """*item*, which was set up before others were, is the current task again."""
        self._current = item

    def abandon(self) -> None:
        """Tear down the task that was interrupted, if there is one; its errors are not worth more words."""
        if self._current is not None:
            with suppress(Exception):
                self.teardown_exact(None)

    def release(self, item: pytest.Item) -> None:
        """*item* will never run: tear down what was kept for it alone."""
        self._tear_down(self._given_up_by(item))

    def _given_up_by(self, item: pytest.Item) -> list[Node]:
        """The collectors, innermost first, that no task needs once *item* is done."""
        given_up: list[Node] = []
        node: Node = item
        while node.parent is not None:
            if node not in self._done:
                self._done[node] = None
                self._remaining[node.parent] -= 1
            node = node.parent
            if self._remaining[node]:
                break
            given_up.append(node)
        return given_up

    def _tear_down(self, nodes: Sequence[Node]) -> None:
        errors = [error for node in nodes if node in self.stack for error in self._finalize(node)]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            msg = "errors during teardown"
            raise BaseExceptionGroup(msg, errors)

    def _finalize(self, node: Node) -> list[BaseException]:
        finalizers, _ = self.stack.pop(node)
        errors: list[BaseException] = []
        while finalizers:
            try:
                finalizers.pop()()
            except _TEST_OUTCOME as error:
                errors.append(error)
            except KeyboardInterrupt as interrupt:
                claimed = self._claim(interrupt)
                if claimed is interrupt:
                    raise
                errors.append(claimed)
        return errors


def run_attempt(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Set up, call and tear down *item*; return the reports without making them known."""
    return runtestprotocol(item, log=False, nextitem=nextitem)


def cap_shown(report: pytest.TestReport) -> None:
    """Cut what *report* shows of an error to a bearable size: a message may be a document of megabytes."""
    shown: Any = report.longrepr
    if shown is None:
        return
    if isinstance(shown, str):
        report.longrepr = capped(shown)
    elif isinstance(shown, tuple):
        path, line, reason = shown
        report.longrepr = (path, line, capped(reason))
    for traceback, crash, _ in getattr(shown, "chain", ()):
        for part in (crash, *(getattr(entry, "reprfileloc", None) for entry in traceback.reprentries)):
            if part is not None:
                part.message = capped(part.message)
        for entry in traceback.reprentries:
            entry.lines = _few([capped(line) for line in entry.lines])


def _few(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST_LINES:
        return lines
    half = _MOST_LINES // 2
    return [*lines[:half], f"... {len(lines) - 2 * half:,} lines dropped ...", *lines[-half:]]


#: Lines of one level of a traceback that are shown.
_MOST_LINES = 10_000


def forget_output(item: pytest.Item) -> None:
    """Let the reports of *item* that are made from here on say nothing of what it has written before."""
    item._report_sections.clear()  # noqa: SLF001


def phase(item: pytest.Item, when: Literal["setup", "call", "teardown"], **arguments: Any) -> pytest.TestReport:
    """Go through one phase of *item*; return its report without making it known."""
    report = call_and_report(item, when, log=False, **arguments)
    if when == "teardown":
        # As pytest does it: nothing of what was set up is to be kept alive.
        item._request = False  # type: ignore[attr-defined]  # noqa: SLF001
        item.funcargs = None  # type: ignore[attr-defined]
    return report


@contextmanager
def whole_run(config: pytest.Config, item: pytest.Item) -> Iterator[None]:
    """Have for a whole run what pytest otherwise has while one item runs.

    That is the filters for warnings, and the explanations of assertions that plugins make, as *item* sees them.
    """
    protocol = _assertion_protocol(item)
    next(protocol)
    try:
        with catch_warnings_for_item(config=config, ihook=config.hook, when="runtest", item=None):
            yield
    finally:
        with suppress(StopIteration):
            protocol.send(None)


def warning_filters(item: pytest.Item) -> list[Any] | None:
    """The filters for warnings of *item*, if it has any of its own."""
    if item.get_closest_marker("filterwarnings") is None:
        return None
    with catch_warnings_for_item(config=item.config, ihook=item.ihook, when="runtest", item=item):
        return list(warnings.filters)


class Capturing:
    """pytest's capture between the phases of items, while nobody tells apart what is written to file descriptors."""

    def __init__(self, config: pytest.Config) -> None:
        self._manager: Any = config.pluginmanager.get_plugin("capturemanager")
        self._stray: list[str] = []
        self._length = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep from the terminal what is written meanwhile."""
        if self._manager is None or not self._manager.is_globally_capturing():
            yield
            return
        self._manager.resume_global_capture()
        try:
            yield
        finally:
            self._manager.suspend_global_capture(in_=False)
            out, err = self._manager.read_global_capture()
            for text in (out, err):
                if text and self._length < _MOST_STRAY:
                    self._stray.append(text[:_MOST_STRAY])
                    self._length += len(text)

    def stray(self) -> str:
        """What was written, up to a limit."""
        return "".join(self._stray)[:_MOST_STRAY]


#: Characters of what nobody has written that are kept.
_MOST_STRAY = 64 * 1024


class FixtureView:
    """What pytest knows at collection about the fixtures of one function."""

    def __init__(self, parameters: tuple[str, ...], names: tuple[str, ...], found: Mapping[str, Any]) -> None:
        #: Names that the function's own signature asks for.
        self.parameters = parameters
        #: All names that are asked for: by the signature, by marks, by other fixtures.
        self.names = names
        self._found: Mapping[str, Sequence[FixtureDef[Any]]] = found

    def functions(self) -> list[Any]:
        """The functions behind all fixtures that the task may use, by name and then from the widest override on."""
        return [definition.func for name in sorted(self._found) for definition in self._found[name]]

    def is_fixture(self, name: str) -> bool:
        """Whether a fixture, or a parameter set by parametrize, answers to *name*."""
        # `request` has no definition: pytest makes it up for each task.
        return name == "request" or bool(self._found.get(name))

    def describe(self, name: str) -> str:
        """Where the fixture *name* comes from, for people."""
        if name not in self._found:
            return f"fixture {name!r} (of pytest itself)"
        definition = self._found[name][-1]
        function = definition.func
        module = getattr(function, "__module__", "?")
        return f"fixture {name!r} (defined in {module})"

    def askers(self, name: str) -> list[tuple[str, str, int]]:
        """The fixtures that ask for *name*: the name of each, its scope, and what tells it from others of its name."""
        return [
            (definition.argname, definition.scope, id(definition))
            for definitions in self._found.values()
            for definition in definitions
            if name in definition.argnames
        ]


def fixture_view(item: pytest.Function) -> FixtureView:
    """Read the fixture information that pytest has collected for *item*."""
    info = item._fixtureinfo  # noqa: SLF001
    return FixtureView(tuple(info.argnames), tuple(info.names_closure), info.name2fixturedefs)


def another_item(item: pytest.Function, label: str) -> pytest.Function:
    """Return a new item like *item*, marks that it was given later included, with *label* added in the brackets."""
    parameters = getattr(item, "callspec", None) or _CallSpec()
    # pytest makes the name and the node id of these; a list that is shared would change those of all.
    parameters = dataclasses.replace(parameters, _idlist=[*parameters._idlist, label])  # noqa: SLF001
    stand_in = {"callobj": item.stash[_CALLED]} if _CALLED in item.stash else {}
    other: pytest.Function = type(item).from_parent(
        item.parent,
        name=f"{item.originalname}[{parameters.id}]",
        callspec=parameters,
        fixtureinfo=item._fixtureinfo,  # noqa: SLF001
        originalname=item.originalname,
        **stand_in,
    )
    # Those that conftest.py files have added, too.
    other.own_markers[:] = item.own_markers
    other.keywords.update({mark.name: mark for mark in item.own_markers})
    return other


#: What an item calls that stands in the place of another.
_CALLED: pytest.StashKey[Any] = pytest.StashKey()


def item_like(item: pytest.Function, function: Any, *, without: Collection[str] = ()) -> pytest.Function:
    """Return a new item in the place of *item* that calls *function*, with its marks but for those in *without*."""
    callspec = getattr(item, "callspec", None)
    if item.cls is not None:
        function = _as_a_method(function)
    other: pytest.Function = pytest.Function.from_parent(
        item.parent, name=item.name, callspec=callspec, callobj=function, originalname=item.originalname
    )
    other.stash[_CALLED] = function
    # What parametrize has made of its arguments is known to the function of the file only.
    known, own = item._fixtureinfo.name2fixturedefs, other._fixtureinfo.name2fixturedefs  # noqa: SLF001
    own.update((name, known[name]) for name in getattr(callspec, "params", ()) if name in known)
    other.own_markers[:] = [mark for mark in item.own_markers if mark.name not in without]
    other.keywords.update({mark.name: mark for mark in other.own_markers})
    return other


def _as_a_method(function: Any) -> Any:
    """Return *function* with a parameter before its own, which pytest takes for ``self`` and hands nothing to."""

    def call(**arguments: Any) -> Any:
        return function(**arguments)

    signature = inspect.signature(function)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    others = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    call.__signature__ = signature.replace(parameters=[itself, *others])  # type: ignore[attr-defined]
    return call


@contextmanager
def keep_hook_proxies(session: pytest.Session) -> Iterator[None]:
    """Let *session* choose only once for each path which conftest.py files have a say there.

    pytest chooses anew for each hook it calls for an item. To be used where no folder is collected, which loads those
    files. What is chosen stays alive to plugins that come and go: it names the files that are left out, and nothing
    else.
    """
    session.gethookproxy = cache(session.gethookproxy)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del session.gethookproxy


class OwnFixtures:
    """Gives each class and each module its own copy of the fixtures of these scopes that it shares with others.

    pytest keeps one value for each fixture definition, which is enough where one module is done before the next
    begins. In a graph they interleave. The first class or module gets the original, each other one a copy.
    ``of_tasks`` is for tasks that are under way at the same time: each has copies of those of scope "function" then.
    """

    def __init__(self, *, of_tasks: bool = False) -> None:
        self._of_tasks = of_tasks
        #: What the tasks under way have of their own, and what they had before.
        self._tasks: dict[Node, tuple[Any, dict[int, FixtureDef[Any]]]] = {}
        #: Definition (by identity: the fixture manager keeps them alive) -> who has the original.
        self._first: dict[int, Node] = {}
        self._copies: dict[tuple[int, Node], FixtureDef[Any]] = {}

    @contextmanager
    def serve(self, session: pytest.Session) -> Iterator[None]:
        """Give them to those, too, who ask by ``request.getfixturevalue`` while the session runs."""
        manager: Any = session._fixturemanager  # noqa: SLF001
        original = manager.getfixturedefs

        def own(name: str, node: Node) -> Sequence[FixtureDef[Any]] | None:
            definitions: Sequence[FixtureDef[Any]] | None = original(name, node)
            if not definitions or not isinstance(node, pytest.Function):
                return definitions
            return tuple(self._own(definition, node) for definition in definitions)

        manager.getfixturedefs = own
        try:
            yield
        finally:
            del manager.getfixturedefs

    def give(self, items: Sequence[pytest.Function]) -> None:
        """Replace the fixtures of a function; *items* are its parameter sets."""
        item = items[0]
        found: dict[str, Sequence[FixtureDef[Any]]] = item._fixtureinfo.name2fixturedefs  # noqa: SLF001
        for name, definitions in found.items():
            if any(definition.scope in _SHARED_SCOPES for definition in definitions):
                found[name] = tuple(self._own(definition, item) for definition in definitions)
        for each in items:
            # Before pytest 9 each item has a copy.
            asked: Any = each._request._arg2fixturedefs  # noqa: SLF001
            if asked is not found:
                asked.update(found)

    def give_task(self, item: pytest.Function) -> None:
        """Give *item*, which is about to be set up, fixtures of scope "function" of its own."""
        info: Any = item._fixtureinfo  # noqa: SLF001
        self._tasks[item] = (info, {})
        own = {
            name: tuple(self._own(definition, item) for definition in definitions)
            for name, definitions in info.name2fixturedefs.items()
        }
        item._fixtureinfo = dataclasses.replace(info, name2fixturedefs=own)  # noqa: SLF001
        item._initrequest()  # noqa: SLF001

    def take_from_task(self, item: pytest.Function) -> None:
        """*item* is torn down."""
        item._fixtureinfo, _ = self._tasks.pop(item)  # noqa: SLF001

    def _own(self, definition: FixtureDef[Any], item: pytest.Function) -> FixtureDef[Any]:
        if self._of_tasks and definition.scope == "function" and item in self._tasks:
            copies = self._tasks[item][1]
            if id(definition) not in copies:
                copies[id(definition)] = _unused(definition)
            return copies[id(definition)]
        kind = _SHARED_SCOPES.get(definition.scope)
        if kind is None:
            return definition
        # For a function outside of classes the scope "class" is the function, as pytest has it.
        node: Node = item.getparent(kind) or item
        if self._first.setdefault(id(definition), node) is node:
            return definition
        key = (id(definition), node)
        if key not in self._copies:
            self._copies[key] = _unused(definition)
        return self._copies[key]


_SHARED_SCOPES: dict[str, type[Node]] = {"class": pytest.Class, "module": pytest.Module}


def _unused(definition: FixtureDef[Any]) -> FixtureDef[Any]:
    """A copy of *definition* that has no value yet."""
    other: Any = copy.copy(definition)
    other.cached_result = None
    other._finalizers = []  # noqa: SLF001
    return other  # type: ignore[no-any-return]


def call_of(item: pytest.Function) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of *item* and its arguments, once it is set up."""
    return item.obj, {name: item.funcargs[name] for name in item._fixtureinfo.argnames}  # noqa: SLF001


def call(item: pytest.Function) -> Any:
    """Call the function of *item* with its arguments, once it is set up; return what it returns."""
    function, arguments = call_of(item)
    if item.config.option.trace:
        # pytest has put a function around it that calls the debugger, and drops the result.
        debugger = inspect.getclosurevars(item.obj).nonlocals.get("_pdb")
        if debugger is not None:
            return debugger.runcall(partial(function.__wrapped__, **arguments))  # type: ignore[attr-defined]
    return function(**arguments)


def has_time_limits(config: pytest.Config) -> bool:
    """Whether pytest-timeout is there."""
    return hasattr(config, "_env_timeout")


def time_settings(item: pytest.Item) -> Any:
    """What pytest-timeout has read from mark, option, ini value and environment about *item*; None for no limit.

    That is an object with ``timeout`` (seconds, more than 0), ``method`` (``signal`` or ``thread``), ``func_only`` and
    ``disable_debugger_detection``. Raises ValueError and TypeError for a mark that can not be meant.
    """
    config: Any = item.config
    if not has_time_limits(config) or (item.get_closest_marker("timeout") is None and not config._env_timeout):  # noqa: SLF001
        return None
    settings = sys.modules["pytest_timeout"]._get_item_settings(item)  # noqa: SLF001
    return settings if settings.timeout is not None and settings.timeout > 0 else None


def is_debugging() -> bool:
    """Whether pytest-timeout thinks that a debugger is at work on this thread."""
    return bool(sys.modules["pytest_timeout"].is_debugging())


def session_limit(config: pytest.Config) -> tuple[float, float]:
    """The seconds that pytest-timeout gives the session, and when they end (seconds since the epoch); 0 without."""
    module = sys.modules.get("pytest_timeout")
    if module is None or not has_time_limits(config):
        return 0.0, 0.0
    return config.stash.get(module.SESSION_TIMEOUT_KEY, 0.0), config.stash.get(module.SESSION_EXPIRE_KEY, 0.0)


#: What takes in all that is raised in a phase of an item.
_PHASE = pytest.CallInfo.from_call.__func__.__code__  # type: ignore[attr-defined]


def is_in_phase(frame: FrameType | None) -> bool:
    """Whether *frame* is part of a phase of an item, so that what is raised there is that item's failure."""
    inner = None
    while frame is not None and frame.f_code is not _PHASE:
        inner, frame = frame, frame.f_back
    # Its own lines stand outside of what it takes in.
    return frame is not None and inner is not None and inner.f_code.co_name == "<lambda>"


def ends_processes_late(config: pytest.Config) -> bool:
    """Whether pytest's own timer for tracebacks is in use (ini ``faulthandler_timeout``): there is but one."""
    try:
        return float(config.getini("faulthandler_timeout") or 0.0) > 0
    except ValueError:
        # Without that plugin (-p no:faulthandler) the value is unknown.
        return False


def register_fixture(node: Node, name: str, function: Callable[..., Any], scope: Any) -> None:
    """Make *function* the fixture *name* for everything below *node*."""
    if hasattr(pytest, "register_fixture"):
        pytest.register_fixture(name=name, func=function, node=node, scope=scope)
        return
    manager: Any = node.session._fixturemanager  # noqa: SLF001
    manager._register_fixture(name=name, func=function, nodeid=node.nodeid, scope=scope)  # noqa: SLF001


def collect_children(collector: pytest.Collector) -> None:
    """Let *collector* collect, as pytest does on its way to a file, and report it if that fails."""
    report = collect_one_node(collector)
    if not report.passed:
        collector.ihook.pytest_collectreport(report=report)


def make_cache_folder(config: pytest.Config) -> None:
    """Let pytest make its cache folder, with all that belongs into it, unless it is there."""
    ensure = getattr(getattr(config, "cache", None), "_ensure_cache_dir_and_supporting_files", None)
    # What can not be made now will be missed, and said, by whoever needs it.
    if ensure is not None:
        with suppress(OSError):
            ensure()


def redirect_terminal(config: pytest.Config, stream: TextIO) -> TextIO:
    """Let pytest's terminal reporter write to *stream*; return what it wrote to before."""
    writer: Any = config.get_terminal_writer()
    before: TextIO = writer._file  # noqa: SLF001
    writer._file = stream  # noqa: SLF001
    return before
