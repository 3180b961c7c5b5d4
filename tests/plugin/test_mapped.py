"""One task for each element of a result: what people see, what arrives, and what a resumed run does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.conftest import words
from tests.plugin.keeping import states_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED, _USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR

#: Which files there are, which of them are bad, and who has run, stands in files beside.
_FLOW = """
    from pathlib import Path
    import pytest

    def note(text):
        with Path("ran").open("a") as file:
            file.write(text + "\\n")

    def flow_list_files():
        note("list_files")
        return Path("files").read_text().split()

    @pytest.mark.map("list_files")
    def flow_process(list_files):
        note(f"process {list_files}")
        assert list_files not in Path("bad").read_text().split()
        return len(list_files)

    def flow_report(process):
        note("report")
        return process
"""


def _ran(pytester: pytest.Pytester) -> list[str]:
    path = pytester.path / "ran"
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return lines


def _files(pytester: pytest.Pytester, files: str, bad: str = "") -> None:
    (pytester.path / "files").write_text(files)
    (pytester.path / "bad").write_text(bad)


def test_each_element_is_a_task(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a.csv bb.csv")
    result = flow(_FLOW, "-v", "--junitxml=junit.xml")

    assert result.ret == _OK
    assert words(result) == [
        ("list_files", "PASSED"),
        ("process[a.csv]", "PASSED"),
        ("process[bb.csv]", "PASSED"),
        ("report", "PASSED"),
    ]
    assert result.parseoutcomes() == {"passed": 4}
    assert "[100%]" in result.stdout.str()
    assert not re.search(r"\[1[1-9]\d%\]", result.stdout.str())
    assert _ran(pytester) == ["list_files", "process a.csv", "process bb.csv", "report"]
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - we have just made it
    names = [case.get("name") for case in suite]
    assert names == ["flow_list_files", "flow_process[a.csv]", "flow_process[bb.csv]", "flow_report"]


def test_one_that_fails_blocks_what_needs_all(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a b c", bad="b")
    result = flow(_FLOW, "-v")

    assert result.ret == _FAILED
    assert words(result)[1:] == [
        ("process[a]", "PASSED"),
        ("process[b]", "FAILED"),
        ("process[c]", "PASSED"),
        ("report", "BLOCKED"),
    ]
    assert result.parseoutcomes() == {"passed": 3, "failed": 1, "blocked": 1}
    result.stdout.fnmatch_lines(["1 blocked behind process[[]b[]] (failed at flow_it.py:*): report"])


def test_a_resumed_run_repeats_the_elements_that_failed(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a b c", bad="b")
    flow(_FLOW)
    _ran(pytester)
    _files(pytester, "a b c")

    plan = flow({}, "--ff-resume", "--ff-dry-run", "--ff-format=json")
    verdicts = {task["name"]: task["verdict"] for task in json.loads(plan.stdout.str())["tasks"]}
    assert verdicts == {
        "list_files": "reuse",
        "process[a]": "reuse",
        "process[b]": "run",
        "process[c]": "reuse",
        "process": "run",
        "report": "run",
    }
    result = flow({}, "--ff-resume", "-v")
    assert result.ret == _OK
    assert _ran(pytester) == ["process b", "report"]
    assert result.parseoutcomes() == {"passed": 2, "reused": 3}

    assert "[100%]" in result.stdout.str()
    assert not re.search(r"\[1[1-9]\d%\]", result.stdout.str())

    again = flow({}, "--ff-resume")
    assert again.parseoutcomes() == {"reused": 5}
    assert _ran(pytester) == []


def test_a_task_that_needs_all_is_replayed(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a bb")
    flow(_FLOW)
    _ran(pytester)
    result = flow(_FLOW.replace("return process", 'assert process == {"a": 1, "bb": 2}'), "--ff-replay=report")
    assert result.ret == _OK, result.stdout.str()
    assert _ran(pytester) == ["report"]


def test_an_element_that_is_new(flow: Flow, pytester: pytest.Pytester) -> None:
    """The list is made again, and only what is new in it is done."""
    _files(pytester, "a b")
    flow(_FLOW)
    _ran(pytester)
    _files(pytester, "b new a")
    result = flow({}, "--ff-resume", "--ff-force=list_files", "-v")

    assert result.ret == _OK
    assert _ran(pytester) == ["list_files", "process new", "report"]
    assert dict(words(result))["process[a]"] == "REUSED"
    # One less is another result for what needs all.
    _files(pytester, "b new")
    flow({}, "--ff-resume", "--ff-force=list_files")
    assert _ran(pytester) == ["list_files", "report"]
    # And none at all is one more.
    _files(pytester, "")
    assert flow({}, "--ff-resume", "--ff-force=list_files").ret == _OK
    assert _ran(pytester) == ["list_files", "report"]
    assert flow({}, "--ff-resume").ret == _OK
    assert _ran(pytester) == []


_ROWS = """
    import json, os
    from pathlib import Path
    import pytest

    def note(text):
        with Path("ran").open("a") as file:
            file.write(text + "\\n")

    def flow_rows():
        return json.loads(Path("rows").read_text())

    def flow_factor():
        return int(Path("factor").read_text())

    {marks}
    @pytest.mark.map("rows", ids=lambda row: row["name"])
    def flow_load(rows, factor):
        note(rows["name"])
        if rows["name"] == Path("kills").read_text():
            os.kill(os.getpid(), 9)
        return rows["value"] * factor

    def flow_total(load):
        return sum(load.values())
"""


def _rows(pytester: pytest.Pytester, factor: int = 1, kills: str = "", **values: int) -> None:
    rows = [{"name": name, "value": value} for name, value in values.items()]
    (pytester.path / "rows").write_text(json.dumps(rows))
    (pytester.path / "factor").write_text(str(factor))
    (pytester.path / "kills").write_text(kills)


def test_an_element_of_the_same_name_that_is_another_one(flow: Flow, pytester: pytest.Pytester) -> None:
    _rows(pytester, a=1, b=2)
    flow(_ROWS.format(marks=""))
    assert _ran(pytester) == ["a", "b"]
    _rows(pytester, a=1, b=3)
    again = ("--ff-resume", "--ff-force=rows")
    assert flow({}, *again).parseoutcomes() == {"passed": 3, "reused": 2}
    assert _ran(pytester) == ["b"]
    # What else a task has been given counts as well.
    _rows(pytester, factor=2, a=1, b=3)
    assert flow({}, *again, "--ff-force=factor").ret == _OK
    assert _ran(pytester) == ["a", "b"]
    # As long as it is something else.
    assert flow({}, *again, "--ff-force=factor").ret == _OK
    assert _ran(pytester) == []


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_a_run_that_is_killed_in_the_middle_of_its_elements(
    flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    _rows(pytester, kills="b", a=1, b=2, c=3)
    flow(_ROWS.format(marks=""), *options)
    lost = 1 if options else 0
    assert _ran(pytester) == ["a", "b", "c"][: 2 + lost]
    _rows(pytester, a=1, b=2, c=3)
    assert flow({}, "--ff-resume", *options).ret == _OK
    assert _ran(pytester) == ["b", "c"][: 2 - lost]


def test_an_element_that_may_have_been_done_is_not_done_twice(flow: Flow, pytester: pytest.Pytester) -> None:
    _rows(pytester, kills="b", a=1, b=2, c=3)
    flow(_ROWS.format(marks="@pytest.mark.idempotent(False)"))
    _ran(pytester)
    _rows(pytester, a=1, b=2, c=3)
    # Whether its elements are known before the run or not.
    for options in ((), ("--ff-force=rows",)):
        result = flow({}, "--ff-resume", "-v", *options)
        assert result.ret == _FAILED
        assert dict(words(result))["load[b]"] == "BLOCKED"
        result.stdout.fnmatch_lines(["*load[[]b[]] was not run: it was running when run * ended, it may have done*"])
    assert _ran(pytester) == ["c"]
    assert flow({}, "--ff-resume", "--ff-rerun-unsafe").ret == _OK
    assert _ran(pytester) == ["b"]


def test_elements_that_are_not_to_be_cached(flow: Flow, pytester: pytest.Pytester) -> None:
    _rows(pytester, a=1, b=2)
    flow(_ROWS.format(marks="@pytest.mark.cache(False)"))
    _ran(pytester)
    for options in ((), ("--ff-force=rows",)):
        assert flow({}, "--ff-cache", *options).ret == _OK
        assert _ran(pytester) == ["a", "b"]


def test_code_that_changed(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a b")
    flow(_FLOW)
    _ran(pytester)
    flow(_FLOW.replace("return len(list_files)", "return 2 * len(list_files)"), "--ff-resume")
    assert _ran(pytester) == ["process a", "process b", "report"]


def test_a_run_that_ended_before_its_elements_were_known(flow: Flow, pytester: pytest.Pytester) -> None:
    """What an earlier run has made of elements is not forgotten by one that did not come so far."""
    _files(pytester, "a b")
    flow(_FLOW)
    source = _FLOW.replace('note("list_files")', 'note("list_files"); assert not Path("bad").read_text()')
    _files(pytester, "a b", bad="x")
    assert flow(source, "--ff-resume").ret == _FAILED
    _files(pytester, "a b")
    _ran(pytester)
    assert flow({}, "--ff-resume").ret == _OK
    # It was blocked in between; what the elements came to was not.
    assert _ran(pytester) == ["list_files", "report"]


def test_the_cache_finds_elements(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "a b")
    flow(_FLOW, "--ff-cache")
    _ran(pytester)
    _files(pytester, "a c")
    assert flow({}, "--ff-cache", "--ff-force=list_files").ret == _OK
    assert _ran(pytester) == ["list_files", "process c", "report"]
    # The list was shorter then, and is so again.
    for files in ("", "a", ""):
        _files(pytester, files)
        assert flow({}, "--ff-cache", "--ff-force=list_files").ret == _OK
    assert _ran(pytester) == ["list_files", "report"] * 3
    assert flow({}, "--ff-cache").ret == _OK
    assert _ran(pytester) == []


def test_the_cache_finds_an_element_that_was_another_one_meanwhile(flow: Flow, pytester: pytest.Pytester) -> None:
    again = ("--ff-cache", "--ff-force=rows")
    for value, ran in ((1, ["a", "b"]), (5, ["a"]), (1, [])):
        _rows(pytester, a=value, b=2)
        assert flow(_ROWS.format(marks=""), *again).ret == _OK
        assert _ran(pytester) == ran


def test_no_element_is_no_error(flow: Flow, pytester: pytest.Pytester) -> None:
    _files(pytester, "")
    result = flow(_FLOW, "-v")
    assert result.ret == _OK
    assert words(result) == [("list_files", "PASSED"), ("process", "PASSED"), ("report", "PASSED")]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("None", "the result is of type NoneType"),
        ("'abc'", "the result is of type str"),
        ("{1, 2}", "the result is of type set"),
        ("(number for number in [1])", "the result is of type generator"),
    ],
)
def test_a_result_that_has_no_elements(flow: Flow, value: str, says: str) -> None:
    source = f"""
        import pytest

        def flow_numbers():
            return {value}

        @pytest.mark.map("numbers")
        def flow_each(numbers): ...

        def flow_all(each): ...
    """
    result = flow(source, "-v", "-p", "no:cacheprovider")
    assert result.ret == _FAILED
    assert words(result) == [("numbers", "PASSED"), ("each", "FAILED"), ("all", "BLOCKED")] or words(result) == [
        ("numbers", "PASSED"),
        ("each", "ERROR"),
        ("all", "BLOCKED"),
    ]
    result.stdout.fnmatch_lines([f"*map('numbers') of each: {says}; it must be a list, a tuple or a dict*"])


def test_what_elements_are_called(flow: Flow) -> None:
    source = """
        import enum
        import pytest
        from pathlib import PurePosixPath

        class Colour(enum.Enum):
            RED = 1

        VALUES = ["a b", 1, 2.5, None, True, PurePosixPath("x/y"), Colour.RED, "tab\\t", "é", ""]
        VALUES += ["same", "same", "l" * 200]

        def flow_values():
            return [*VALUES, [1], [2]]

        @pytest.mark.map("values")
        def flow_each(values):
            return values

        def flow_all(each):
            assert list(each.values()) == [*VALUES, [1], [2]]
            assert list(each)[:11] == ["a b", "1", "2.5", "None", "True", "x/y", "RED", "tab\\\\t", "é", "", "same0"]
            assert list(each)[11] == "same1" and list(each)[13:] == ["values0", "values1"]
            assert len(list(each)[12]) < 100

        def flow_table():
            return {"north": 1, "south": 2}

        @pytest.mark.map("table")
        def flow_row(table):
            return table * 10

        def flow_rows(row):
            assert row == {"north": 10, "south": 20}

        @pytest.mark.map("row", ids=lambda value: f"v{value}")
        def flow_again(row):
            return row + 1

        @pytest.mark.depends_on("again", "table")
        def flow_last(upstream):
            assert upstream["again"] == {"v10": 11, "v20": 21} and upstream["table"] == {"north": 1, "south": 2}
    """
    result = flow(source, "-v")
    assert result.ret == _OK, result.stdout.str()
    assert ("again[v20]", "PASSED") in words(result)


def test_with_parameters_classes_and_fixtures(flow: Flow) -> None:
    source = """
        import pytest

        def flow_parts():
            return ["x", "y"]

        @pytest.fixture(scope="module")
        def shop():
            print("OPEN")
            yield "shop"
            print("CLOSE")

        @pytest.fixture
        def upper(parts):
            return parts.upper()

        class FlowMake:
            @pytest.mark.map("parts")
            @pytest.mark.parametrize("size", [1, 2])
            def flow_make(self, size, parts, shop, upper, tmp_path):
                assert upper == parts.upper() and not list(tmp_path.iterdir())
                (tmp_path / "mark").touch()
                return f"{parts}{size}"

        def flow_all(make):
            assert make == {"1": {"x": "x1", "y": "y1"}, "2": {"x": "x2", "y": "y2"}}

        @pytest.mark.parametrize("size", [2])
        def flow_some(make, size):
            assert make == {"x": "x2", "y": "y2"}

        async def flow_ids():
            return (1, 2)

        @pytest.mark.map("ids")
        async def flow_fetch(ids):
            return ids

        def flow_fetched(fetch):
            assert fetch == {"1": 1, "2": 2}
    """
    result = flow(source, "-v", "-s")
    assert result.ret == _OK, result.stdout.str()
    assert result.parseoutcomes() == {"passed": 11}
    assert re.findall(r"OPEN|CLOSE", result.stdout.str()) == ["OPEN", "CLOSE"]


@pytest.mark.parametrize(
    ("mark", "parameters", "says"),
    [
        ('map("nothing")', "numbers", "*map of flow_each: *nothing*"),
        ('map("numbers")', "", "*map('numbers') of flow_each: there is no parameter 'numbers' in which*"),
        ("map()", "numbers", "*flow_each: map(): missing a required argument: 'upstream'*"),
        ('map("numbers", limit=0)', "numbers", "*map(limit=0): give a whole number of 1 or more"),
        ('map("numbers", ids=3)', "numbers", "*map(ids=3): give a function*"),
    ],
)
def test_marks_that_can_not_be_meant(flow: Flow, mark: str, parameters: str, says: str) -> None:
    source = f"""
        import pytest

        def flow_numbers():
            return [1]

        @pytest.mark.{mark}
        def flow_each({parameters}): ...
    """
    result = flow(source, "--ff-validate")
    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([says])


def test_results_are_given_up_when_nobody_will_ask_any_more(flow: Flow) -> None:
    source = """
        import gc, weakref
        import pytest

        class Value: ...

        MADE = []

        def flow_numbers():
            return [1, 2, 3]

        @pytest.mark.map("numbers")
        def flow_each(numbers):
            value = Value()
            MADE.append(weakref.ref(value))
            return value

        def flow_all(each):
            assert all(made() is not None for made in MADE)
            each.clear()

        @pytest.mark.depends_on("all")
        def flow_last():
            gc.collect()
            assert len(MADE) == 3 and not any(made() for made in MADE)
    """
    assert flow(source).parseoutcomes() == {"passed": 6}


def test_attempts_of_their_own(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        from pathlib import Path

        def flow_numbers():
            return [1, 2, 3]

        @pytest.mark.map("numbers", limit=1)
        @pytest.mark.retry(2)
        def flow_each(numbers, tmp_path_factory):
            with Path(f"tries{numbers}").open("a") as file:
                file.write("x")
            assert Path(f"tries{numbers}").stat().st_size == numbers

        def flow_all(each): ...
    """
    result = flow(source)
    assert result.ret == _OK
    assert result.parseoutcomes() == {"passed": 5, "retried": 3}
    states = states_in(pytester)
    assert states["each[3]"] == "success"
