"""What the source of a flow file gives away before the file is imported."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin import source
from pytest_flowforge.plugin.naming import FunctionNames
from pytest_flowforge.plugin.source import SourceScan, bare_function_text, scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Look = Callable[[str], SourceScan]

NAMES = FunctionNames(["flow_"])


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Scan a source, given with the indentation of the test around it and a line break in front."""

    def look(text: str) -> SourceScan:
        path = tmp_path / "flow_it.py"
        path.write_text(dedent(text), encoding="utf-8")
        return scan(path, "flows/flow_it.py", NAMES)

    return look


def places(found: SourceScan) -> list[str]:
    return [problem.where for problem in found.problems]


def test_an_ordinary_file_names_its_functions_and_has_no_problems(look: Look) -> None:
    found = look(
        """
        import pytest

        def helper(): ...

        def flow_extract(): ...

        async def flow_load(extract): ...

        class FlowTrain:
            def flow_fit(self, load): ...
            def prepare(self): ...

        @pytest.mark.depends_on("load")
        def flow_report(): ...
        """
    )

    assert found == SourceScan(frozenset({"flow_extract", "flow_load", "flow_fit", "flow_report"}))
    assert found.importable


def test_what_makes_a_function_a_task_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "job.py"
    path.write_text("def step_a(): ...\ndef step_a(): ...\ndef flow_b(): ...\ndef flow_b(): ...\n", encoding="utf-8")

    found = scan(path, "job.py", FunctionNames(["step_"]))

    assert found.functions == {"step_a"}
    assert places(found) == ["job.py:2"]


# ---- one name, two functions -----------------------------------------------------------------------------------------


def test_a_second_function_of_a_name_is_told_with_the_line_of_the_first(look: Look) -> None:
    found = look(
        """
        def flow_a(): ...

        class FlowTrain:
            def flow_a(self): ...
            async def flow_fit(self): ...
            def flow_fit(self): ...

            class FlowInner:
                def flow_deep(self): ...
                def flow_deep(self): ...

        def flow_a(): ...
        def flow_a(): ...
        """
    )

    assert sorted(places(found)) == [f"flows/flow_it.py:{line}" for line in (11, 13, 14, 7)]
    texts = {problem.where: problem.text for problem in found.problems}
    assert "flow_fit is defined twice" in texts["flows/flow_it.py:7"]
    assert "line 6" in texts["flows/flow_it.py:7"]
    assert "line 2" in texts["flows/flow_it.py:13"]
    assert "line 2" in texts["flows/flow_it.py:14"]
    # Importing it does no harm, and shows what else is wrong.
    assert found.importable


@pytest.mark.parametrize(
    "text",
    [
        """
        import sys
        if sys.platform == "win32":
            def flow_a(): ...
        else:
            def flow_a(): ...
        """,
        """
        try:
            import orjson
            def flow_a(): ...
        except ImportError:
            def flow_a(): ...
        """,
        """
        class FlowOne:
            def flow_fit(self): ...
        class FlowTwo:
            def flow_fit(self): ...
        """,
        """
        def helper(): ...
        def helper(): ...
        """,
        '''
        def flow_a():
            """As in

            def flow_a(): ...
            def flow_a(): ...
            """
        ''',
        """
        def flow_a():
            def flow_b(): ...
        def flow_b(): ...
        """,
    ],
    ids=["if-else", "try-except", "two-classes", "no-tasks", "in-a-string", "in-a-function"],
)
def test_what_only_looks_like_a_second_definition(text: str, look: Look) -> None:
    assert look(text).problems == ()


# ---- depends_on(flow_a) ----------------------------------------------------------------------------------------------

BARE = {
    "a decorator": "@pytest.mark.depends_on(flow_a)\ndef flow_b(): ...",
    "the mark imported": "from pytest import mark\n@mark.depends_on(flow_a)\ndef flow_b(): ...",
    "an attribute": "import flow_etl\n@pytest.mark.depends_on(flow_etl.flow_a)\ndef flow_b(): ...",
    "an attribute of a class": "@pytest.mark.depends_on(FlowTrain.flow_a)\ndef flow_b(): ...",
    "spread over lines": "@pytest.mark.depends_on(\n    flow_a,\n)\ndef flow_b(): ...",
    "with a comment": "@pytest.mark.depends_on(  # first of all\n    flow_a\n)\ndef flow_b(): ...",
    "with spaces": "@pytest . mark . depends_on ( flow_a )\ndef flow_b(): ...",
    "in parentheses": "@pytest.mark.depends_on((flow_a))\ndef flow_b(): ...",
    "for the file": "pytestmark = pytest.mark.depends_on(flow_a)",
    "for the file, in a list": "pytestmark = [pytest.mark.slow, pytest.mark.depends_on(flow_a)]",
    "for a class": "@pytest.mark.depends_on(flow_a)\nclass FlowTrain:\n    def flow_b(self): ...",
    "for a method": "class FlowTrain:\n    @pytest.mark.depends_on(flow_a)\n    def flow_b(self): ...",
    "for one parameter": "X = pytest.param(1, marks=pytest.mark.depends_on(flow_a))",
    "in a function": "def helper():\n    return pytest.mark.depends_on(flow_a)",
    "after a plain one": '@pytest.mark.depends_on("x")\n@pytest.mark.depends_on(flow_a)\ndef flow_b(): ...',
}

#: Legal, or none of this module's business.
FINE = {
    "a name": '@pytest.mark.depends_on("a")\ndef flow_b(): ...',
    "another kind of string": "@pytest.mark.depends_on(r'a')\ndef flow_b(): ...",
    "a string made at run time": "@pytest.mark.depends_on(f'a[{1}]')\ndef flow_b(): ...",
    "two functions": "@pytest.mark.depends_on(flow_a, flow_c)\ndef flow_b(): ...",
    "a function and a name": '@pytest.mark.depends_on(flow_a, "c")\ndef flow_b(): ...',
    "a function and a rule": '@pytest.mark.depends_on(flow_a, when="all_done")\ndef flow_b(): ...',
    "a rule alone": '@pytest.mark.depends_on(when="all_done")\ndef flow_b(): ...',
    "a variable": "UPSTREAM = 'a'\n@pytest.mark.depends_on(UPSTREAM)\ndef flow_b(): ...",
    "our own decorator": "@pytest_flowforge.depends_on(flow_a)\ndef flow_b(): ...",
    "our own decorator, imported": "@depends_on(flow_a)\ndef flow_b(): ...",
    "another mark": "@pytest.mark.slow(flow_a)\ndef flow_b(): ...",
    "something else of that name": "graph.depends_on(flow_a)",
    "a comment": "# @pytest.mark.depends_on(flow_a)\ndef flow_b(): ...",
    "a string": 'TEXT = "@pytest.mark.depends_on(flow_a)"',
}


@pytest.mark.parametrize("text", BARE.values(), ids=BARE)
def test_a_mark_with_one_bare_function_is_found_before_it_can_do_harm(text: str, look: Look) -> None:
    found = look(f"import pytest\n\ndef flow_a(x): ...\n\n{text}\n")

    [problem] = found.problems
    line = 5 + text[: text.rindex("depends_on")].count("\n")
    assert problem.where == f"flows/flow_it.py:{line}"
    assert problem.text == bare_function_text("flow_a", NAMES)
    assert not found.importable
    # The functions are known all the same: references to them are no further problems.
    assert "flow_a" in found.functions


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_other_uses_of_the_mark_are_left_alone(text: str, look: Look) -> None:
    found = look(f"import pytest\n\ndef flow_a(x): ...\n\n{text}\n")

    assert found.problems == ()
    assert found.importable


def test_the_message_says_how_to_write_it() -> None:
    text = bare_function_text("flow_extract", NAMES)

    assert '@pytest.mark.depends_on("extract")' in text
    assert "@pytest_flowforge.depends_on(flow_extract)" in text


@pytest.mark.parametrize("text", [*BARE.values(), *FINE.values()], ids=[*BARE, *FINE])
def test_the_quick_look_misses_nothing_that_the_syntax_tree_shows(
    text: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"import pytest\n\ndef flow_a(x): ...\n\n{text}\n"
    quick = look(text)
    monkeypatch.setattr(source, "_BARE_MARK", re.compile(""))

    assert look(text) == quick


# ---- files that are no Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"def flow_a(: ...\ndef flow_a(): ...\n",
        b"def flow_a(): ...\ndef flow_a(): ...\n\x00",
        b"# coding: utf-8\ndef flow_a(): ...\ndef flow_a(): ...\n# \xff\xfe",
        b"# coding: klingon\ndef flow_a(): ...\ndef flow_a(): ...\n",
        b"def flow_a(): ...\ndef flow_a(): ...\nX = " + b"-" * 100_000 + b"1\n",
        b"def flow_a(): ...\ndef flow_a(): ...\nX = " + b"(" * 100_000 + b")" * 100_000 + b"\n",
    ],
    ids=["syntax", "null", "not-utf-8", "unknown-encoding", "deep", "deep-parentheses"],
)
def test_a_file_that_can_not_be_parsed_is_left_to_the_import(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flow_it.py"
    path.write_bytes(content)

    assert scan(path, "flow_it.py", NAMES) == SourceScan()


def test_a_file_that_can_not_be_read_is_left_to_the_import(tmp_path: Path) -> None:
    assert scan(tmp_path / "flow_missing.py", "flow_missing.py", NAMES) == SourceScan()
    assert scan(tmp_path, "folder", NAMES) == SourceScan()


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_lines_are_counted_as_editors_count_them(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "flow_it.py"
    lines = ["# coding: latin-1", "# é", "X = 1", "\x0c", "def flow_a(): ...", "", "def flow_a(): ..."]
    path.write_bytes(ending.join(lines).encode("latin-1"))

    assert places(scan(path, "flow_it.py", NAMES)) == ["flow_it.py:7"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "flow_it.py"
    path.write_text("def flow_a(): ...\ndef flow_a(): ...\n", encoding="utf-8-sig")

    assert places(scan(path, "flow_it.py", NAMES)) == ["flow_it.py:2"]
