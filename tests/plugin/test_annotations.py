"""Failed tasks beside the code in GitHub Actions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

_POOL = ("--ff-executor", "concurrent.futures:ProcessPoolExecutor", "--ff-workers", "2")
_EXECUTORS = pytest.mark.parametrize(
    "options",
    [(), ("--ff-executor", "thread", "--ff-workers", "2"), ("-n", "2"), _POOL],
    ids=["local", "thread", "process", "pool"],
)


@pytest.fixture(autouse=True)
def github(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester, no_ci: None) -> None:  # noqa: ARG001 - comes first
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))


def annotated(result: pytest.RunResult) -> list[tuple[dict[str, str], str]]:
    """Properties and message of each annotation, as GitHub takes them apart."""
    found = []
    for line in result.outlines + result.errlines:
        match = re.match(r"^\s*::error ([^:]*)::(.*)$", line)
        if match is None:
            assert "::error" not in line
            continue
        pairs = (part.partition("=")[::2] for part in match[1].split(","))
        found.append(({name: _unescaped(value) for name, value in pairs}, _unescaped(match[2])))
    return found


def _unescaped(text: str) -> str:
    for code, char in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, char)
    return text


@_EXECUTORS
def test_one_for_each_task_that_failed_by_itself(flow: Flow, options: tuple[str, ...]) -> None:
    files = """
        import pytest

        def helper():
            raise ValueError("100 %: a, b")

        def flow_bad():
            helper()

        def flow_blocked(bad):
            pass

        def flow_far(blocked):
            pass

        @pytest.mark.retry(1)
        def flow_stubborn():
            assert 0

        @pytest.mark.xfail(reason="known")
        def flow_expected():
            assert 0

        @pytest.fixture
        def broken():
            raise OSError("no disk")

        def flow_without(broken):
            pass

        def flow_skipped():
            pytest.skip("no need")

        def flow_good():
            pass
    """
    found = annotated(flow(files, *options))
    # From other processes of a pool comes a text, and no place that one could trust.
    bad, stubborn = ("7", "16") if options == _POOL else ("5", "18")
    assert sorted(found, key=lambda one: int(one[0]["line"])) == [
        (
            {"file": "flow_it.py", "line": bad, "title": "bad failed"},
            "ValueError: 100 %: a, b\n2 blocked behind it: blocked, far",
        ),
        (
            {"file": "flow_it.py", "line": stubborn, "title": "stubborn failed"},
            "AssertionError: assert 0\nafter 2 attempts",
        ),
        ({"file": "flow_it.py", "line": "26", "title": "without failed"}, "OSError: no disk (in setup)"),
    ]


def test_a_crash_stands_where_the_task_does(flow: Flow) -> None:
    files = "import os\n\n\ndef flow_crash():\n    os._exit(3)\n"
    ((place, message),) = annotated(flow(files, "-n", "1"))
    assert place == {"file": "flow_it.py", "line": "4", "title": "crash crashed"}
    assert message == "called os._exit(3): worker gw0 is gone"


def test_names_and_messages_can_not_break_out(flow: Flow) -> None:
    files = r"""
        import pytest

        @pytest.mark.parametrize("what", ["a,line=1::b", "%0A::error::x", "\x1b[31m"])
        def flow_bad(what):
            raise ValueError("first \x1b[0m \r::error::y\x1b[0m \u2028 %0A")
    """
    result = flow(files, "--tb=no", "-q")
    # What pytest itself shows of an exception is its own matter.
    lines = [line for line in result.outlines if line.startswith("::error file")]
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    assert "\u2028" not in "".join(lines)
    found = [re.match(r"^::error ([^:]*)::(.*)$", line) for line in lines]
    titles = [_unescaped(match[1].split(",")[2]) for match in found if match is not None]
    assert titles[0] == "title=bad[a,line=1::b] failed"
    assert titles[1].startswith("title=bad[%0A::error::x]")
    assert all(match is not None and match[2] == r"ValueError: first \x1b[0m" for match in found)


def test_what_github_would_not_show_is_named(flow: Flow) -> None:
    files = """
        import pytest

        @pytest.mark.parametrize("number", range(50))
        def flow_bad(number):
            assert 0
    """
    found = annotated(flow(files, "--tb=no", "-q"))
    assert len(found) == 10
    place, message = found[-1]
    assert place == {"title": "41 more tasks failed"}
    assert message.startswith("bad[9], bad[10], ")
    assert message.endswith(", and 21 more")
    assert len(annotated(flow({}, "--tb=no", "-q", "--ff-select", "bad[?]"))) == 10


def test_paths_are_those_of_the_repository(flow: Flow, pytester: pytest.Pytester) -> None:
    files = {"sub/pytest.ini": "[pytest]\n", "sub/flow_it.py": "def flow_bad():\n    assert 0\n"}
    ((place, _),) = annotated(flow(files, "--rootdir=sub", "-c", "sub/pytest.ini", "sub"))
    assert place["file"] == "sub/flow_it.py"
    assert place["line"] == "2"
    pytester.makeini("[pytest]\n")


def test_nobody_is_told_elsewhere(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "flow_it.py": "import os\n\ndef flow_bad():\n    os.environ['GITHUB_ACTIONS'] = 'true'\n    assert 0\n",
        "test_it.py": "def test_it():\n    assert 0\n",
    }
    assert annotated(flow(files, flowforge=False)) == [], "tests are no flows"
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert annotated(flow({})) == []


def test_another_plugin_that_does_it_is_left_to_it(flow: Flow, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(pytest_github_actions_annotate_failures="")
    files = "def flow_bad():\n    assert 0\n"
    assert annotated(flow(files, "-p", "pytest_github_actions_annotate_failures")) == []
