"""Every private name of pytest that this plugin leans on, in one place.

:func:`probe` asks at start-up whether they still fit; when one does not, the session ends with a sentence that
names it, instead of with a strange failure in the middle of a run. What each is needed for:

* ``_pytest.runner.SetupState`` (``session._setupstate``): pytest keeps set-ups as a *stack* that follows the order
  of the items. The order of a graph interleaves modules, so :class:`SetupTree` keeps them as a tree in which a
  collector is torn down when the last of its tasks is done.
* ``_pytest.runner.runtestprotocol``: an attempt must be judged as a whole before it is reported.
* ``item._fixtureinfo``: which parameters a function asks for, and which fixtures answer.
* ``FixtureManager._register_fixture``: the public ``pytest.register_fixture`` is new in pytest 9.1.
* ``_pytest.runner.collect_one_node``: a flow file that another one refers to may lie in a folder that this session does
  not collect, and whose conftest.py counts.
* ``FixtureDef._finalizers``, ``.cached_result``: one fixture of scope "module" may live for several modules at a time.
* the variable ``_pdb`` in the wrapper that ``--trace`` puts around a function: tracing without losing the result.
* ``Cache._ensure_cache_dir_and_supporting_files``: who makes the cache folder puts a .gitignore into it, and pytest
  does that only if it is the first.
* ``TerminalWriter._file``: an answer for machines needs standard output for itself.
"""

from __future__ import annotations

import copy
import inspect
import sys
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from _pytest.runner import SetupState, collect_one_node, runtestprotocol

if sys.version_info < (3, 11):
    # pytest itself depends on the backport there.
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from _pytest.fixtures import FixtureDef
    from _pytest.nodes import Node

__all__ = [
    "FixtureView",
    "OwnFixtures",
    "SetupTree",
    "call",
    "collect_children",
    "fixture_view",
    "keep_hook_proxies",
    "make_cache_folder",
    "probe",
    "redirect_terminal",
    "register_fixture",
    "run_attempt",
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
    }
    for name, fits in checks.items():
        if not fits:
            msg = (
                f"pytest-flowforge does not fit this pytest ({pytest.__version__}): {name} has changed. "
                "Install a version of pytest that it was tested with, or a newer pytest-flowforge."
            )
            raise pytest.UsageError(msg)


def _setup_state(session: pytest.Session) -> Any:
    return getattr(session, "_setupstate", None)


class SetupTree(SetupState):
    """Set-ups of collectors and items as a tree.

    A collector (module, class, package, session) is set up before the first of its tasks and torn down after the
    last of them, however the tasks of different modules are interleaved; a task is torn down when it ends.

    ``prepare`` is called with each task before it is set up. ``comes_again`` tells, before a task is torn down, whether
    another attempt at it will follow.
    """

    def __init__(
        self,
        items: Iterable[pytest.Item],
        prepare: Callable[[pytest.Item], None],
        comes_again: Callable[[pytest.Item], bool],
    ) -> None:
        super().__init__()
        self._prepare = prepare
        self._comes_again = comes_again
        #: How many tasks and collectors directly under each collector are not done. Never negative.
        self._remaining: dict[Node, int] = {}
        #: Tasks and collectors that no longer count, so that a second attempt does not count twice.
        #: A dict for its keys: in a set they would take twice the memory.
        self._done: dict[Node, None] = {}
        #: The task that was set up last and is not torn down; None means that a teardown is that of everything.
        self._current: pytest.Item | None = None
        for item in items:
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
            except BaseException:
                # An interrupt: what is half set up must not be taken for set up by the clean-up tasks to come.
                if node is not item:
                    self._finalize(node)
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
        return errors


def run_attempt(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Set up, call and tear down *item*; return the reports without making them known."""
    return runtestprotocol(item, log=False, nextitem=nextitem)


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
    """

    def __init__(self) -> None:
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

    def _own(self, definition: FixtureDef[Any], item: pytest.Function) -> FixtureDef[Any]:
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


def call(item: pytest.Function) -> Any:
    """Call the function of *item* with its arguments, once it is set up; return what it returns."""
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}  # noqa: SLF001
    if item.config.option.trace:
        # pytest has put a function around it that calls the debugger, and drops the result.
        debugger = inspect.getclosurevars(item.obj).nonlocals.get("_pdb")
        if debugger is not None:
            return debugger.runcall(partial(item.obj.__wrapped__, **arguments))
    return item.obj(**arguments)


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
