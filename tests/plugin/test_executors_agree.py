"""One contract for all executors: the same flow files come to the same end, wherever their tasks run.

What is to be the same is said here once, whatever the executor; the order in which independent tasks end is not. Where
executors are documented to differ, a :class:`Kind` says so.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.plugin.clusters import RunningCluster
    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED, _INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED


@dataclass(frozen=True)
class Kind:
    """An executor, and what is documented to differ there."""

    name: str
    options: tuple[str, ...]
    #: Whether several tasks run at a time.
    at_once: bool = True
    #: How many processes set up fixtures: each has module and session fixtures of its own, where it needs them.
    homes: int = 1
    #: Whether the calls of tasks see the objects of this process, or copies.
    shares_memory: bool = False
    needs: str = "concurrent.futures"


_KINDS = [
    Kind("local", (), at_once=False, shares_memory=True),
    Kind("thread", ("--ff-executor", "thread", "--ff-workers", "4"), shares_memory=True),
    Kind("process", ("-n", "2"), homes=2),
    Kind("pool", ("--ff-executor", "concurrent.futures:ProcessPoolExecutor", "--ff-workers", "2")),
    # And the address of a cluster, which is known when it has been started.
    Kind("dask", ("--ff-executor", "dask", "--ff-workers", "2"), needs="distributed"),
    Kind("loky", ("--ff-executor", "loky:get_reusable_executor", "--ff-workers", "2"), needs="loky"),
]


@pytest.fixture(params=_KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    pytest.importorskip(kind.needs)
    if kind.name == "dask":
        cluster: RunningCluster = request.getfixturevalue("cluster")
        return replace(kind, options=(*kind.options, *cluster.options))
    return kind


#: A task and its word, in lines of ``-v``, and as pytest-xdist writes them.
_LINE = re.compile(
    r"^\S+::flow_(\S+) ([A-Z]+)|^\[gw\d+\] \[ *\d+%\] ([A-Z]+)(?: \([^)]*\))? \S+::flow_(\S+)", re.MULTILINE
)


def ends(result: pytest.RunResult) -> dict[str, list[str]]:
    """The words that ``-v`` shows of each task, in order."""
    found: dict[str, list[str]] = {}
    for task, word, other_word, other_task in _LINE.findall(result.stdout.str()):
        found.setdefault(task or other_task, []).append(word or other_word)
    return found


def once(**words: str) -> dict[str, list[str]]:
    return {task: [word] for task, word in words.items()}


# ---- what arrives ----------------------------------------------------------------------------------------------------


_ARRIVALS = """
    import asyncio
    import dataclasses
    import numpy
    import pytest

    @dataclasses.dataclass
    class Point:
        x: int
        y: int

    class Table:
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

    def flow_json():
        return {"list": [1, 2.5, None, True], "\u00fc": "\\u2028 \\ud800"}

    def flow_point():
        return Point(1, 2)

    def flow_table():
        return Table([Point(3, 4)])

    def flow_array():
        return numpy.arange(6).reshape(2, 3)

    def flow_nothing(): ...

    def flow_large():
        return "x" * 1_000_000

    def flow_values(json, point, table, array, nothing, large):
        assert json == {"list": [1, 2.5, None, True], "\u00fc": "\\u2028 \\ud800"}
        assert isinstance(point, Point) and point == Point(1, 2)
        assert type(table) is Table and len(table) == 1 and table.rows == [Point(3, 4)]
        assert array.dtype.kind == "i" and array.sum() == 15 and array.shape == (2, 3)
        assert nothing is None
        assert len(large) == 1_000_000

    fold = pytest.mark.parametrize("fold", [3, 1, 2], ids=["c", "a", "b"])
    model = pytest.mark.parametrize("model", ["tree", "line"])

    @fold
    def flow_fit(fold, json):
        return fold * 10

    @fold
    @model
    def flow_score(model, fold, fit):
        assert fit == fold * 10
        return f"{model}{fit}"

    @fold
    def flow_best(fold, score):
        assert list(score.values()) == [f"{name}{fold * 10}" for name in ("tree", "line")]
        return fold

    def flow_all(fit, best, score):
        assert list(fit.items()) == [("c", 30), ("a", 10), ("b", 20)]
        assert list(best.items()) == [("c", 3), ("a", 1), ("b", 2)]
        assert len(score) == 6

    @pytest.mark.depends_on("fit[a]", "table")
    def flow_by_name(upstream, json):
        assert list(upstream) == ["json", "fit[a]", "table"] or sorted(upstream) == ["fit[a]", "json", "table"]
        assert upstream["fit[a]"] == 10 and type(upstream["table"]) is Table and upstream["json"] == json

    class FlowReport:
        title = "report"

        def flow_head(self, best):
            return f"{type(self).__name__} {self.title} {len(best)}"

        @pytest.mark.parametrize("copy", [1, 2])
        def flow_tail(self, copy, head):
            assert head == "FlowReport report 3"
            return copy

    def flow_after_class(tail):
        assert sorted(tail.values()) == [1, 2]

    async def flow_fetch(json):
        await asyncio.sleep(0.01)
        return len(json)

    async def flow_refetch(fetch, tmp_path):
        await asyncio.sleep(0)
        assert fetch == 2 and tmp_path.is_dir()
        return fetch + 1

    @pytest.fixture
    def prepared(refetch):
        return refetch * 2

    @pytest.fixture(scope="module")
    def whole(table):
        return len(table)

    def flow_by_fixture(prepared, whole):
        assert (prepared, whole) == (6, 1)

    def flow_fixture_again(whole, by_fixture):
        assert whole == 1 and by_fixture is None
"""

_FOLDS = [f"[{fold}]" for fold in "cab"]
_ARRIVED = [
    *("json", "point", "table", "array", "nothing", "large", "values", "all", "by_name", "head", "after_class"),
    *("fetch", "refetch", "by_fixture", "fixture_again", "tail[1]", "tail[2]"),
    *(f"{task}{fold}" for task in ("fit", "best") for fold in _FOLDS),
    *(f"score[{model}-{fold}]" for fold in "cab" for model in ("tree", "line")),
]


def test_what_arrives(kind: Kind, flow: Flow) -> None:
    result = flow(_ARRIVALS, "-v", "-W", "error", *kind.options)

    assert result.ret == _OK
    assert sorted(ends(result)) == sorted(_ARRIVED)
    assert {word for words in ends(result).values() for word in words} == {"PASSED"}
    assert result.parseoutcomes() == {"passed": len(_ARRIVED)}


# ---- how tasks end ---------------------------------------------------------------------------------------------------


#: Trigger rule -> what becomes of a task with that rule, by what became of its upstreams.
_UPSTREAMS = ("good", "bad", "lazy", "good bad", "good lazy", "expected")
_RULES = {
    "all_success": ("PASSED", "BLOCKED", "SKIPPED", "BLOCKED", "SKIPPED", "BLOCKED"),
    "all_done": ("PASSED", "PASSED", "PASSED", "PASSED", "PASSED", "PASSED"),
    "any_success": ("PASSED", "BLOCKED", "SKIPPED", "PASSED", "PASSED", "BLOCKED"),
    "any_failed": ("SKIPPED", "PASSED", "SKIPPED", "PASSED", "SKIPPED", "PASSED"),
    "always": ("PASSED", "PASSED", "PASSED", "PASSED", "PASSED", "PASSED"),
}


def _by_rule() -> Iterator[tuple[str, str, str, str]]:
    """Task, rule, upstreams, word."""
    for rule, words in _RULES.items():
        for upstreams, word in zip(_UPSTREAMS, words, strict=True):
            yield f"{rule}_{upstreams.replace(' ', '_')}", rule, upstreams, word


_ENDS = """
    import logging
    import os
    import sys
    import time
    import warnings
    from pathlib import Path

    import pytest
    from log import log
    from pytest_flowforge import NoResult

    def attempt(name):
        "How often this was called with that name, this time included, whatever the process."
        folder = Path("attempts", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(len(list(folder.iterdir())))).touch()
        return len(list(folder.iterdir()))

    SHOWN = [
        *("bad", "expected", "not_run", "imperative", "other_error", "strict", "flaky", "hopeless", "exempt"),
        *("no_start", "no_end", "exits", "fails", "async"),
    ]

    @pytest.fixture
    def rows(record_property):
        record_property("rows", 7)
        return 7

    def flow_good(rows):
        assert rows == 7
        return 1

    def flow_bad(good):
        raise ValueError(f"boom {good}")

    def flow_blocked(bad): ...

    def flow_far(blocked): ...

    def flow_lazy():
        pytest.skip("no need")

    def flow_carried(lazy): ...

    @pytest.mark.skip(reason="off")
    def flow_off(): ...

    @pytest.mark.xfail(reason="known")
    def flow_expected():
        assert False

    @pytest.mark.xfail(run=False, reason="ends the process")
    def flow_not_run():
        os._exit(1)

    def flow_imperative():
        pytest.xfail("half way")

    @pytest.mark.xfail(raises=KeyError)
    def flow_other_error():
        raise TypeError("another")

    @pytest.mark.xfail(strict=True)
    def flow_strict(): ...

    def flow_after_strict(strict): ...

    @pytest.mark.xfail
    def flow_lax():
        return 5

    def flow_after_lax(lax):
        assert lax == 5

    class Busy(OSError):
        "An exception of this file, with more to it than its text."

        def __init__(self, host, port):
            super().__init__(f"{host}:{port} is busy")

    @pytest.mark.retry(2, on=(OSError,))
    def flow_flaky(tmp_path):
        assert not list(tmp_path.iterdir())
        (tmp_path / "used").touch()
        if attempt("flaky") < 3:
            raise Busy("db", 7)
        return attempt("flaky")

    def flow_after_flaky(flaky):
        assert flaky == 4

    @pytest.mark.retry(1, on=(LookupError,))
    def flow_hopeless():
        raise KeyError("never")

    @pytest.mark.retry(2, not_on=(TypeError,))
    def flow_exempt():
        raise TypeError("at once")

    @pytest.fixture
    def bad_start():
        raise OSError("no device")

    @pytest.fixture
    def bad_end():
        yield
        raise OSError("disk full")

    def flow_no_start(bad_start): ...

    def flow_no_end(bad_end): ...

    def flow_exits():
        sys.exit(3)

    def flow_fails():
        pytest.fail("on purpose", pytrace=False)

    async def flow_async(good):
        assert good == 2, "late"

    # Filters of warnings are the process's, and pytest ignores all warnings for a moment when it shows a traceback: on
    # threads one would be lost that is issued just then. So these are issued when no other failure is shown.
    @pytest.mark.depends_on(*SHOWN, when="all_done")
    @pytest.mark.parametrize("side", ["left", "right"])
    def flow_noisy(side):
        warnings.warn(f"<{side} care>")
        for number in range(3):
            print(f"<{side} out {number}>")
            print(f"<{side} err {number}>", file=sys.stderr)
            logging.getLogger(side).warning("<%s log %d>", side, number)
            # Longer than others take where the machine is busy.
            time.sleep(0.1)
        raise RuntimeError(f"<{side} error>")

    @pytest.mark.depends_on("no_end", when="all_done")
    def flow_report(good, bad, blocked, lazy, expected, no_end, exits, not_run, hopeless, upstream):
        assert good == 1
        for task in (bad, blocked, lazy, expected, no_end, exits, not_run, hopeless):
            assert isinstance(task, NoResult) and not task
        assert (bad.task, bad.state, bad.reason, bad.error) == ("bad", "failed", "ValueError: boom 1", bad.reason)
        assert (blocked.state, blocked.reason, blocked.error) == ("blocked", "upstream bad failed", None)
        assert (lazy.state, lazy.reason, lazy.error) == ("skipped", "no need", None)
        assert (expected.state, not_run.state) == ("failed", "failed")
        assert (no_end.state, no_end.error) == ("failed", "OSError: disk full (in teardown)")
        assert (exits.state, exits.error) == ("failed", "SystemExit: 3")
        assert hopeless.error == "KeyError: 'never'"
        assert {name for name, result in upstream.items() if result} == {"good"}
        assert upstream["blocked"].reason == "upstream bad failed"
"""

_LISTENER = """
    import os
    from log import log

    HOME = os.getpid()

    def tell(line):
        log(line if os.getpid() == HOME and "PYTEST_XDIST_WORKER" not in os.environ else f"elsewhere: {line}")

    def pytest_flowforge_run_started(run):
        tell(f"run of {len(run.graph)}")

    def pytest_flowforge_task_started(task, attempt):
        tell(f"{task.label}: start {attempt}")

    def pytest_flowforge_task_retrying(task, attempt, result, delay):
        tell(f"{task.label}: retry {attempt} {result.because} {delay:g}")

    def pytest_flowforge_task_finished(task, result):
        tell(f"{task.label}: end {result.state.value} {result.attempt}")

    def pytest_flowforge_run_finished(run):
        tell(f"over {run.summary.snapshot().ok}")
"""

_ENDED = {
    **once(
        good="PASSED",
        bad="FAILED",
        blocked="BLOCKED",
        far="BLOCKED",
        lazy="SKIPPED",
        carried="SKIPPED",
        off="SKIPPED",
        expected="XFAIL",
        not_run="XFAIL",
        imperative="XFAIL",
        other_error="FAILED",
        strict="FAILED",
        after_strict="BLOCKED",
        lax="XPASS",
        after_lax="PASSED",
        after_flaky="PASSED",
        exempt="FAILED",
        no_start="ERROR",
        exits="FAILED",
        fails="FAILED",
        report="PASSED",
    ),
    "flaky": ["RETRY", "RETRY", "PASSED"],
    "hopeless": ["RETRY", "FAILED"],
    "no_end": ["PASSED", "ERROR"],
    "async": ["FAILED"],
    "noisy[left]": ["FAILED"],
    "noisy[right]": ["FAILED"],
    **{task: [word] for task, _, _, word in _by_rule()},
}

#: What the hooks are told of some tasks.
_TOLD = {
    "good": ["start 1", "end success 1"],
    "bad": ["start 1", "end failed 1"],
    "blocked": ["end blocked 0"],
    "carried": ["end skipped 0"],
    "lazy": ["start 1", "end skipped 1"],
    "expected": ["start 1", "end failed 1"],
    "flaky": [
        "start 1",
        "retry 1 Busy: db:7 is busy 0",
        "start 2",
        "retry 2 Busy: db:7 is busy 0",
        "start 3",
        "end success 3",
    ],
    "hopeless": ["start 1", "retry 1 KeyError: 'never' 0", "start 2", "end failed 2"],
    "no_end": ["start 1", "end failed 1"],
    "no_start": ["start 1", "end failed 1"],
}

#: Some tasks in JUnit: the elements there, each with its message.
_IN_JUNIT: dict[str, list[tuple[str, str | None]]] = {
    "good": [],
    "bad": [("failure", "ValueError: boom 1")],
    "blocked": [("error", 'failed on setup with "BLOCKED: upstream bad failed"')],
    "far": [("error", 'failed on setup with "BLOCKED: upstream blocked was blocked"')],
    "lazy": [("skipped", "no need")],
    "carried": [("skipped", "upstream lazy was skipped: no need")],
    "off": [("skipped", "off")],
    "expected": [("skipped", "known")],
    "flaky": [],
    "hopeless": [("failure", "KeyError: 'never'")],
    "no_start": [("error", 'failed on setup with "OSError: no device"')],
    "no_end": [("error", 'failed on teardown with "OSError: disk full"')],
    "strict": [("failure", "[XPASS(strict)] ")],
    "fails": [("failure", "Failed: on purpose")],
}


def test_how_tasks_end(kind: Kind, flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    rules = [
        f"@pytest.mark.depends_on(*{upstreams.split()}, when={rule!r})\ndef flow_{task}(): ...\n"
        for task, rule, upstreams, _ in _by_rule()
    ]
    files = {"flow_it.py": dedent(_ENDS) + "\n".join(rules), "conftest.py": _LISTENER}

    result = flow(
        files,
        "-v",
        "--durations=3",
        "--junitxml=junit.xml",
        "-o",
        "junit_logging=all",
        "-o",
        "junit_family=xunit1",
        *kind.options,
    )

    assert result.ret == _FAILED
    assert ends(result) == _ENDED
    counts = Counter(word for words in _ENDED.values() for word in words)
    names = {"PASSED": "passed", "FAILED": "failed", "BLOCKED": "blocked", "SKIPPED": "skipped", "RETRY": "retried"}
    others = {"XFAIL": "xfailed", "XPASS": "xpassed", "ERROR": "errors"}
    expected = {name: counts[word] for word, name in {**names, **others}.items()}
    assert result.parseoutcomes() == {**expected, "warnings": 2}

    told, around = _told(log())
    assert around == [f"run of {len(_ENDED)}", "over False"]
    assert set(told) == set(_ENDED)
    assert {task: told[task] for task in _TOLD} == _TOLD
    assert all(sum(line.startswith("end") for line in lines) == 1 for lines in told.values())

    # --durations names the slowest, which are the noisy ones.
    result.stdout.fnmatch_lines(["*slowest 3 durations*"])
    assert len(re.findall(r"^\d+\.\d+s call +\S+::flow_noisy", result.stdout.str(), re.MULTILINE)) >= 1
    result.stdout.fnmatch_lines(["* blocked behind bad (failed at flow_it.py:*): blocked, far*"])

    cases = _in_junit(pytester)
    assert set(cases) == set(_ENDED)
    shown = {
        task: [
            (child.tag, child.get("message"))
            for child in cases[task]
            if not child.tag.startswith(("system-", "properties"))
        ]
        for task in _IN_JUNIT
    }
    shown["strict"] = [(tag, message or "[XPASS(strict)] ") for tag, message in shown["strict"]]
    assert shown == _IN_JUNIT
    properties = [(found.get("name"), found.get("value")) for found in cases["good"].iter("property")]
    assert properties[:3] == [("rows", "7"), ("flowforge_state", "success"), ("flowforge_attempts", "1")]
    assert [name for name, _ in properties[3:]] == ["flowforge_worker"]
    _check_what_was_written(result, cases)


def _told(lines: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """What was said of each task, and what of the run."""
    told: dict[str, list[str]] = {}
    for line in lines:
        task, colon, what = line.partition(": ")
        if colon:
            told.setdefault(task, []).append(what)
    assert lines[0].startswith("run of")
    assert lines[-1].startswith("over")
    return told, [line for line in lines if ": " not in line]


def _in_junit(pytester: pytest.Pytester) -> dict[str, ET.Element]:
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    cases = {case.attrib["name"].removeprefix("flow_"): case for case in suite}
    assert len(suite) == len(cases)
    return cases


def _check_what_was_written(result: pytest.RunResult, cases: Mapping[str, ET.Element]) -> None:
    """Each of the noisy tasks has what it has written, in order, and nothing of the other."""
    shown = result.stdout.str()
    for side, other in (("left", "right"), ("right", "left")):
        failure = re.search(rf"^_+ flow_noisy\[{side}\] _+$\n(.*?)^(?:_|=){{5}}", shown, re.MULTILINE | re.DOTALL)
        assert failure, "its failure is shown"
        streams = {
            name: re.search(
                rf"^-+ Captured {name} call -+$\n(.*?)(?=^-+ Captured|\Z)", failure[1], re.MULTILINE | re.DOTALL
            )
            for name in ("stdout", "stderr", "log")
        }
        case = cases[f"noisy[{side}]"]
        written = {tag: "".join(case.findtext(tag) or "") for tag in ("system-out", "system-err")}
        for name, short, tag in (
            ("stdout", "out", "system-out"),
            ("stderr", "err", "system-err"),
            ("log", "log", "system-out"),
        ):
            found = streams[name]
            assert found, f"there is a section for {name}"
            assert re.findall(r"<[^>]*>", found[1]) == [f"<{side} {short} {number}>" for number in range(3)]
            assert all(f"<{side} {short} {number}>" in written[tag] for number in range(3))
        assert f"<{other}" not in failure[1]
        assert f"<{other}" not in "".join(written.values())
        assert re.search(rf"^flow_it\.py::flow_noisy\[{side}\]\n.*UserWarning: <{side} care>$", shown, re.MULTILINE)
        assert f"RuntimeError: <{side} error>" in failure[1]


# ---- fixtures --------------------------------------------------------------------------------------------------------


_SCOPES = """
    import os
    import pytest
    from log import log

    def make(scope):
        @pytest.fixture(scope=scope)
        def fixture(request):
            life = f"{scope} {request.node.name} {os.getpid()}"
            log(f"+ {life}")
            yield life
            log(f"- {life}")
        return fixture

"""

_LIVES = {
    "scopes.py": _SCOPES,
    "conftest.py": """
        from scopes import make
        per_session, per_module, per_class, per_function = map(make, ["session", "module", "class", "function"])
    """,
    "in/__init__.py": "",
    "in/conftest.py": """
        from scopes import make
        per_package = make("package")
    """,
    "in/flow_left.py": """
        from pathlib import Path
        import pytest
        from log import log

        @pytest.fixture(scope="module")
        def shared():
            log("+ shared")
            yield []
            log("- shared")

        def flow_one(per_session, per_package, per_module, per_function, shared, tmp_path):
            log(f"one | {per_session} | {per_package} | {per_module} | {per_function} | {tmp_path}")
            shared.append("one")

        @pytest.mark.depends_on("flow_right.py::FlowPair::flow_two")
        def flow_three(one, per_module, per_function, shared, tmp_path):
            log(f"three | {per_module} | {per_function} | {tmp_path}")
            log(f"shared {shared}")

        @pytest.mark.retry(1)
        @pytest.mark.depends_on("three")
        def flow_twice(per_module, per_function, tmp_path):
            log(f"twice | {per_module} | {per_function} | {tmp_path}")
            assert not list(tmp_path.iterdir())
            (tmp_path / "used").touch()
            mark = Path("twice.txt")
            if not mark.exists():
                mark.touch()
                raise OSError("once")
    """,
    "in/flow_right.py": """
        import pytest
        from log import log

        class FlowPair:
            @pytest.mark.depends_on("flow_left.py::one")
            def flow_two(self, per_module, per_class, per_function, tmp_path):
                log(f"two | {per_module} | {per_class} | {per_function} | {tmp_path}")

            @pytest.mark.depends_on("flow_left.py::three")
            def flow_four(self, per_module, per_class, per_function, tmp_path):
                log(f"four | {per_module} | {per_class} | {per_function} | {tmp_path}")

        @pytest.mark.parametrize("number", range(4))
        def flow_many(number, per_session, per_module, per_function, tmp_path):
            log(f"many {number} | {per_session} | {per_module} | {per_function} | {tmp_path}")
    """,
}

#: Which fixtures each task has, by scope and node, and how many attempts there are.
_USES = {
    "one": ({"session ", "package in", "module flow_left.py", "function flow_one"}, 1),
    "two": ({"module flow_right.py", "class FlowPair", "function flow_two"}, 1),
    "three": ({"module flow_left.py", "function flow_three"}, 1),
    "four": ({"module flow_right.py", "class FlowPair", "function flow_four"}, 1),
    "twice": ({"module flow_left.py", "function flow_twice"}, 2),
    **{f"many {n}": ({"session ", "module flow_right.py", f"function flow_many[{n}]"}, 1) for n in range(4)},
}


def test_fixtures_live_as_long_as_they_are_asked_for(kind: Kind, flow: Flow, log: Log) -> None:
    result = flow(_LIVES, "-v", *kind.options)

    assert result.ret == _OK
    assert ends(result) == {
        **once(one="PASSED", two="PASSED", three="PASSED", four="PASSED"),
        "twice": ["RETRY", "PASSED"],
        **{f"many[{number}]": ["PASSED"] for number in range(4)},
    }
    lines = log()
    shared = [line for line in lines if "shared" in line and "|" not in line]
    lines = [line for line in lines if line not in shared]
    # A task has the fixtures it asks for, alive, and a temporary folder of its own.
    folders: list[str] = []
    alive: set[str] = set()
    set_up: Counter[str] = Counter()
    for line in lines:
        if line.startswith("+ "):
            assert line[2:] not in alive, "set up twice"
            alive.add(line[2:])
            set_up[line[2:].rpartition(" ")[0]] += 1
        elif line.startswith("- "):
            alive.remove(line[2:])
        else:
            task, *lives, folder = line.split(" | ")
            folders.append(folder)
            assert {life.rpartition(" ")[0] for life in lives} == _USES[task][0]
            assert set(lives) <= alive
    assert not alive, "everything was torn down"
    assert len(set(folders)) == len(folders) == sum(number for _, number in _USES.values())
    for name, number in set_up.items():
        attempts = sum(count for uses, count in _USES.values() if name in uses)
        assert attempts
        if name.startswith("function"):
            assert number == attempts, "each attempt has its own"
        else:
            assert 1 <= number <= kind.homes, "once in a process, and only where it is needed"
    # Objects of fixtures are the same for all tasks only where calls share their memory.
    assert shared.count("+ shared") == shared.count("- shared") <= kind.homes
    if kind.shares_memory:
        assert "shared ['one']" in shared
    elif kind.homes == 1:
        assert "shared []" in shared


def test_a_fixture_is_kept_for_another_attempt_that_may_come(kind: Kind, flow: Flow, log: Log) -> None:
    """Where the first attempt was made elsewhere, too."""
    if not kind.at_once:
        pytest.skip("one attempt at a time")
    result = flow(
        {
            "flow_left.py": """
                import os
                import time
                from pathlib import Path
                import pytest
                from log import log

                @pytest.fixture(scope="module")
                def server():
                    log(f"+ {os.getpid()}")
                    yield
                    log(f"- {os.getpid()}")

                def wait_for(path):
                    until = time.monotonic() + 30
                    while not path.exists():
                        assert time.monotonic() < until
                        time.sleep(0.01)

                def flow_first(server):
                    wait_for(Path("tried"))
                    Path("first").touch()

                @pytest.mark.retry(1)
                def flow_second(server):
                    again = Path("tried").exists()
                    Path("tried").touch()
                    wait_for(Path("first"))
                    if not again:
                        # Long enough for whoever has nothing to do to be told what it need not keep.
                        time.sleep(0.5)
                        raise OSError
            """
        },
        "-v",
        *kind.options,
    )
    assert ends(result) == {"first": ["PASSED"], "second": ["RETRY", "PASSED"]}
    lines = log()
    assert len(set(lines)) == len(lines) <= 2 * kind.homes, "once in a process"


# ---- the end of a run ------------------------------------------------------------------------------------------------


_INTERRUPTIONS = """
    import pytest
    from log import log

    @pytest.fixture(scope="module")
    def server():
        log("+ server")
        yield "server"
        log("- server")

    def flow_first(server):
        log("first")

    def flow_broken_off(first):
        {action}

    def flow_after(broken_off):
        log("never")

    @pytest.mark.depends_on("after", when="always")
    def flow_clean_up(server, upstream):
        log(f"clean up {{upstream['after'].state}}")
"""


@pytest.mark.parametrize(
    ("action", "status", "shown"),
    [
        pytest.param('pytest.exit("enough")', _INTERRUPTED, "*! _pytest.outcomes.Exit: enough !*", id="exit"),
        pytest.param('pytest.exit("enough", 7)', 7, "*! _pytest.outcomes.Exit: enough !*", id="exit status"),
    ],
)
def test_a_task_may_end_the_run(kind: Kind, flow: Flow, log: Log, action: str, status: int, shown: str) -> None:
    result = flow(_INTERRUPTIONS.format(action=action), *kind.options)

    assert result.ret == status
    result.stdout.fnmatch_lines([shown])
    lines = log()
    assert [line for line in lines if "server" not in line] == ["first", "clean up blocked"]
    assert 1 <= lines.count("+ server") == lines.count("- server") <= kind.homes


_STOPS = """
    import time
    from pathlib import Path
    import pytest
    from log import log

    def wait_for(name):
        deadline = time.monotonic() + 30
        while not Path(name).exists():
            assert time.monotonic() < deadline, name
            time.sleep(0.005)

    def flow_bad():
        if {at_once}:
            wait_for("slow has begun")
        raise ValueError("one")

    @pytest.mark.depends_on("bad", when="any_failed")
    def flow_worse():
        raise ValueError("two")

    def flow_slow():
        log("slow")
        Path("slow has begun").touch()
        wait_for("worse has failed")
        time.sleep(0.1)

    def flow_late(slow):
        log("never")

    @pytest.mark.depends_on("worse", when="all_done")
    def flow_later():
        log("never")

    @pytest.mark.depends_on("worse", when="any_failed")
    def flow_alarm():
        log("alarm")

    @pytest.mark.depends_on("late", when="always")
    def flow_clean_up(upstream):
        log(f"clean up {{upstream['late'].state}}")
"""

_STOP_LISTENER = """
    from pathlib import Path

    def pytest_flowforge_task_finished(task):
        if task.label == "worse":
            Path("worse has failed").touch()
"""


def test_after_maxfail_nothing_starts_but_clean_up(kind: Kind, flow: Flow, log: Log) -> None:
    files = {"flow_it.py": _STOPS.format(at_once=kind.at_once), "conftest.py": _STOP_LISTENER}

    result = flow(files, "-v", "--maxfail=2", *kind.options)

    assert result.ret == _FAILED
    running = {"slow": ["PASSED"]} if kind.at_once else {}
    assert ends(result) == {
        "bad": ["FAILED"],
        "worse": ["FAILED"],
        **once(alarm="PASSED", clean_up="PASSED"),
        **running,
    }
    assert sorted(log()) == sorted([*running, "alarm", "clean up pending"])
    result.stdout.fnmatch_lines(["*! stopping after 2 failures !*"])


# ---- choosing --------------------------------------------------------------------------------------------------------


_CHOICES = """
    import pytest

    method = pytest.mark.parametrize("method", ["svm", "tree"])

    def flow_extract():
        return 1

    @method
    def flow_fit(method, extract):
        return method

    @method
    def flow_score(method, fit):
        assert fit == method

    def flow_loose(): ...

    def flow_last(score): ...
"""


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        pytest.param(["-k", "score and svm", "-p", "no:cacheprovider"], "extract fit[svm] score[svm]", id="-k"),
        pytest.param(["flow_it.py::flow_fit[tree]", "flow_it.py::flow_loose"], "extract fit[tree] loose", id="node id"),
        pytest.param(["--ff-select", "1+flow_score[svm]", "--ff-select", "loose", "-m", "not slow"],
                     "extract fit[svm] score[svm] loose", id="graph"),
        pytest.param(["-k", "nothing"], "", id="nothing"),
    ],
)  # fmt: skip
def test_what_is_chosen_runs_with_what_it_needs(kind: Kind, flow: Flow, options: list[str], tasks: str) -> None:
    result = flow(_CHOICES, "-v", "--strict-markers", "-o", "markers=slow", *options, *kind.options)

    assert result.ret == (_OK if tasks else pytest.ExitCode.NO_TESTS_COLLECTED)
    assert ends(result) == {task: ["PASSED"] for task in tasks.split()}


# ---- branches --------------------------------------------------------------------------------------------------------


_BRANCHES = """
    from pathlib import Path
    import pytest
    from log import log
    from pytest_flowforge import only

    class Rows(list): ...

    def flow_choose():
        log("choose")
        return only("load_eu", value=Rows([1, 2]))

    def flow_load_eu(choose):
        log("load_eu")
        assert type(choose) is Rows
        return only(flow_north, value=sum(choose))

    def flow_load_us(choose):
        log("load_us")

    @pytest.mark.depends_on("load_us")
    def flow_after_us():
        log("after_us")

    def flow_north(load_eu):
        log("north")
        assert load_eu == 3

    def flow_south(load_eu):
        log("south")

    @pytest.mark.depends_on("north", "south")
    def flow_all():
        log("all")

    @pytest.mark.depends_on("north", "load_us", when="any_success")
    def flow_any(upstream):
        log("any")
        assert upstream["load_us"].reason == "choose went on with load_eu only"

    @pytest.mark.depends_on("after_us", "north", when="all_done")
    def flow_done(upstream):
        log("done")
        assert upstream["after_us"].reason == "upstream load_us was skipped: choose went on with load_eu only"

    @pytest.mark.depends_on("choose", "load_eu", when="always")
    def flow_always(upstream):
        log("always")
        # Left out by both, with results all the same.
        assert upstream == {"choose": [1, 2], "load_eu": 3}

    @pytest.mark.depends_on("load_us", "south", when="any_failed")
    def flow_alarm():
        log("alarm")

    async def flow_chain():
        log("chain")
        return only(value=1)

    def flow_chained(chain):
        log("chained")

    @pytest.mark.retry(1)
    def flow_twice():
        log("twice")
        if not Path("tried").exists():
            Path("tried").touch()
            return only("nobody")
        return only("once")

    @pytest.mark.depends_on("twice")
    def flow_once():
        log("once")

    @pytest.mark.depends_on("twice")
    def flow_other():
        log("other")

    def flow_last(north):
        log("last")
        assert Path("ready").exists()
"""


def test_a_task_chooses_who_goes_on(kind: Kind, flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    done = ["choose", "load_eu", "north", "any", "done", "always", "chain", "once"]
    left_out = ["load_us", "after_us", "south", "all", "alarm", "chained", "other"]

    result = flow(_BRANCHES, "-v", *kind.options)

    assert result.ret == _FAILED
    skipped = {task: ["SKIPPED"] for task in left_out}
    passed = {task: ["PASSED"] for task in done}
    assert ends(result) == {**skipped, **passed, "twice": ["RETRY", "PASSED"], "last": ["FAILED"]}
    assert sorted(log()) == sorted([*done, "twice", "twice", "last"])

    pytester.path.joinpath("ready").touch()
    resumed = flow({}, "-v", "--ff-resume", *kind.options)

    assert resumed.ret == _OK
    reused = {task: ["REUSED"] for task in [*done, "twice"]}
    assert ends(resumed) == {**skipped, **reused, "last": ["PASSED"]}
    assert log() == ["last"]


def test_what_was_sent_ahead_runs_only_where_it_was_chosen(kind: Kind, flow: Flow, log: Log) -> None:
    # Quick tasks, each the only one that follows: workers are sent such tasks before their upstream has ended.
    chain = "".join(f"def flow_c{n}(c{n - 1}): ...\n" for n in range(1, 30))
    source = f"""
from log import log
from pytest_flowforge import only

def flow_c0(): ...
{chain}
def flow_choose(c29):
    return only("next")

def flow_next(choose):
    log("next")
    return only()

def flow_after(next):
    log("after")

def flow_last(after):
    log("last")
"""
    result = flow(source, "-v", *kind.options, timeout=30)

    assert result.ret == _OK
    left_out = {task: words for task, words in ends(result).items() if words != ["PASSED"]}
    assert left_out == once(after="SKIPPED", last="SKIPPED")
    assert log() == ["next"]
    result.stdout.no_fnmatch_line("*does not count*")


# ---- time limits -----------------------------------------------------------------------------------------------------


def test_what_becomes_of_a_value_does_not_count(kind: Kind, flow: Flow) -> None:
    source = """
        import time
        import pytest

        class Slow:
            def __init__(self):
                self.kept = bytes(100_000)

            def __reduce__(self):
                time.sleep(1.5)
                return Slow, ()

        @pytest.mark.timeout(1)
        def flow_slow():
            return Slow()

        @pytest.mark.timeout(1)
        def flow_late():
            time.sleep(1.5)
            return Slow()
    """
    result = flow(source, "-v", *kind.options)

    assert ends(result) == once(slow="PASSED", late="FAILED")


# ---- one task for each element ---------------------------------------------------------------------------------------


_MAPPED = """
    import asyncio
    import time
    from pathlib import Path
    import pytest
    from log import log

    class Part:
        def __init__(self, name):
            self.name = name

    def flow_parts():
        return [Part(name) for name in "abcde"]

    def flow_factor():
        return 10

    @pytest.fixture(scope="module")
    def shop():
        return "shop"

    @pytest.mark.map("parts", limit=2, ids=lambda part: part.name)
    @pytest.mark.retry(1)
    def flow_make(parts, factor, shop, tmp_path):
        log(f"begin {parts.name}")
        time.sleep(0.02)
        log(f"end {parts.name}")
        assert not list(tmp_path.iterdir()) and type(parts) is Part
        if parts.name == "b" and not Path("ready").exists():
            raise ConnectionError("no route")
        return factor * (ord(parts.name) - 96)

    @pytest.mark.map("make")
    async def flow_twice(make):
        await asyncio.sleep(0)
        return 2 * make

    def flow_all(make, twice):
        assert list(make.items()) == [("a", 10), ("b", 20), ("c", 30), ("d", 40), ("e", 50)]
        assert list(twice.values()) == [20, 40, 60, 80, 100]

    @pytest.mark.depends_on(when="any_success")
    def flow_some(make):
        assert [label for label, value in make.items() if value] == list("acde") or Path("ready").exists()
        assert make["b"] or (make["b"].state, make["b"].error) == ("failed", "ConnectionError: no route")

    @pytest.mark.depends_on("make", when="any_failed")
    def flow_alarm(): ...

    def flow_none():
        return ()

    @pytest.mark.map("none")
    def flow_never(none): ...

    def flow_nothing(never):
        assert never == {}

    @pytest.mark.map("factor")
    def flow_wrong(factor): ...
"""


def test_one_task_for_each_element(kind: Kind, flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    failed = flow(_MAPPED, "-v", *kind.options)

    assert failed.ret == _FAILED
    assert ends(failed) == {
        **once(parts="PASSED", factor="PASSED", none="PASSED", never="PASSED", nothing="PASSED", wrong="ERROR"),
        **{f"make[{name}]": ["PASSED"] for name in "acde"},
        "make[b]": ["RETRY", "FAILED"],
        **once(twice="BLOCKED", all="BLOCKED", some="PASSED", alarm="PASSED"),
    }
    failed.stdout.fnmatch_lines(["*map('factor') of wrong: the result is of type int; it must be a list*"])
    assert _most_at_a_time(log()) <= 2

    pytester.path.joinpath("ready").touch()
    resumed = flow({}, "-v", "--ff-resume", *kind.options)
    assert resumed.ret == _FAILED
    assert ends(resumed) == {
        **once(parts="REUSED", factor="REUSED", none="REUSED", never="REUSED", nothing="REUSED", wrong="ERROR"),
        **{f"make[{name}]": ["REUSED"] for name in "acde"},
        "make[b]": ["PASSED"],
        **{f"twice[{name}]": ["PASSED"] for name in "abcde"},
        **once(all="PASSED", some="PASSED", alarm="SKIPPED"),
    }
    assert log() == ["begin b", "end b"]
    for result in (failed, resumed):
        assert not re.search(r"\[(?:1[1-9]\d|\d{4,})%\]", result.stdout.str()), "progress is a part of all"


def _most_at_a_time(lines: list[str]) -> int:
    running, most = 0, 0
    for line in lines:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    return most


# ---- what earlier runs have made -------------------------------------------------------------------------------------


_RESUMABLE = """
    from pathlib import Path
    import pytest
    from log import log

    class Rows(list): ...

    def flow_extract():
        log("extract")
        return Rows([1, 2, 3])

    def flow_audit(extract):
        log("audit")
        return len(extract)

    @pytest.mark.depends_on("audit")
    def flow_transform(extract):
        log("transform")
        assert type(extract) is Rows
        if not Path("ready 1").exists():
            raise ConnectionError("no route")
        return Rows(number * 10 for number in extract)

    def flow_load(transform, audit):
        log("load")
        assert type(transform) is Rows and audit == 3
        if not Path("ready 2").exists():
            raise ConnectionError("no table")
        return sum(transform)

    def flow_report(load, extract):
        log("report")
        assert load == 60 and extract == [1, 2, 3]
"""


def test_a_run_goes_on_under_another_executor(kind: Kind, flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    others = [other for other in _KINDS if other.needs == "concurrent.futures"]
    other = others[(others.index(kind) + 1) % len(others)] if kind in others else others[0]

    failed = flow(_RESUMABLE, "-x", *kind.options)
    assert failed.ret == _FAILED
    assert log() == ["extract", "audit", "transform"]

    pytester.path.joinpath("ready 1").touch()
    resumed = flow({}, "-v", "--ff-resume", *other.options)
    assert resumed.ret == _FAILED
    assert ends(resumed) == once(extract="REUSED", audit="REUSED", transform="PASSED", load="FAILED", report="BLOCKED")
    assert log() == ["transform", "load"]

    pytester.path.joinpath("ready 2").touch()
    again = flow({}, "-v", "--ff-resume", *kind.options)
    assert again.ret == _OK
    assert ends(again) == once(extract="REUSED", audit="REUSED", transform="REUSED", load="PASSED", report="PASSED")
    assert log() == ["load", "report"]

    cached = flow({}, "-v", "--ff-cache", *kind.options)
    assert cached.ret == _OK
    assert ends(cached) == once(extract="REUSED", audit="REUSED", transform="REUSED", load="REUSED", report="REUSED")
    assert log() == []
