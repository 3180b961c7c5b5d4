"""Which functions of which files become tasks, what they are called, and how they refer to each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_PASSED = re.compile(r"^(\S+::\S+) PASSED", re.MULTILINE)


def passed(result: pytest.RunResult) -> list[str]:
    """The node ids that ``-v`` shows as passed, in order; nothing else may have happened."""
    found = _PASSED.findall(result.stdout.str())
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes().get("passed") == len(found)
    return found


# ---- files and functions ---------------------------------------------------------------------------------------------


def test_flow_files_hold_tasks_and_other_files_are_not_opened(flow: Flow) -> None:
    files = {
        "flow_etl.py": """
            import pytest

            def flow_extract():
                return [1, 2]

            def test_extract(extract):
                raise AssertionError("tests are not run")

            class TestLoad:
                def test_it(self):
                    raise AssertionError("tests are not run")

            def helper_flow_(): ...

            @pytest.fixture
            def flow_data():
                "A fixture may have any name."
        """,
        "sub/train_flow.py": """
            def flow_fit(): ...
        """,
        "test_etl.py": "raise AssertionError('not a flow file')",
        "etl.py": "raise AssertionError('not a flow file')",
    }

    result = flow(files, "-v")

    assert passed(result) == ["flow_etl.py::flow_extract", "sub/train_flow.py::flow_fit"]
    result.stdout.no_fnmatch_line("*warning*")


def test_a_file_named_on_the_command_line_may_have_any_name(flow: Flow) -> None:
    files = {
        "nightly.py": """
            def flow_load():
                return 4
        """,
        "jobs/weekly.py": """
            from nightly import flow_load

            def flow_report(load):
                assert load == 4
        """,
    }

    # A function that one of them has imported from the other is one task all the same.
    assert passed(flow(files, "nightly.py", "jobs/weekly.py", "-v")) == [
        "nightly.py::flow_load",
        "jobs/weekly.py::flow_report",
    ]


def test_names_of_files_and_functions_are_configured(flow: Flow) -> None:
    files = {
        "pytest.ini": """
            [pytest]
            flowforge = true
            flowforge_files = job_*.py
            flowforge_functions = step_ *_task run_*_now
        """,
        "job_etl.py": """
            import pytest

            def step_extract():
                return 1

            def clean_task(extract):
                return extract + 1

            def run_load_now(clean_task):
                return clean_task + 1

            @pytest.mark.depends_on("extract", "step_extract", "clean_task", "run_load_now")
            def step_check(upstream):
                assert upstream == {"extract": 1, "clean_task": 2, "run_load_now": 3}

            def flow_no(): ...

            def step_():
                "There is nothing left of this name without the prefix."
        """,
        "job_two.py": """
            import pytest

            @pytest.mark.depends_on("job_etl.py::check", "job_etl::extract")
            def step_last(upstream):
                assert list(upstream.values()) == [None, 1]
        """,
        "flow_etl.py": "raise AssertionError('no flow file here')",
    }

    assert passed(flow(files, "-v", flowforge=False)) == [
        "job_etl.py::step_extract",
        "job_etl.py::clean_task",
        "job_etl.py::run_load_now",
        "job_etl.py::step_check",
        "job_etl.py::step_",
        "job_two.py::step_last",
    ]
    listed = flow({}, "--ff-list", "-q", "job_etl.py", flowforge=False).stdout.lines
    assert listed[:5] == ["extract", "clean_task", "run_load_now", "check", "step_"]


def test_what_others_would_collect_from_a_flow_file_is_no_task(flow: Flow) -> None:
    source = '''
        import unittest

        class FlowCase(unittest.TestCase):
            def flow_a(self):
                raise AssertionError("no task")

            def test_a(self):
                raise AssertionError("no test")

        class TestCase(unittest.IsolatedAsyncioTestCase):
            async def test_a(self):
                raise AssertionError("no test")

        class FlowOptions:
            "Has a name like a class of tasks, and a constructor, and no tasks."
            def __init__(self, size):
                self.size = size

        def flow_a():
            """
            >>> 1 + 1
            3
            """
    '''

    result = flow(source, "-v", "--doctest-modules")

    assert passed(result) == ["flow_it.py::flow_a"]


def test_coroutines_and_decorated_functions_are_tasks_of_the_file_they_are_defined_in(flow: Flow) -> None:
    files = {
        "flow_tools.py": """
            import functools

            def loud(function):
                @functools.wraps(function)
                def wrapper(*args, **kwargs):
                    return function(*args, **kwargs) + "!"
                return wrapper

            def twice(function):
                # Without functools.wraps: nothing tells what is inside.
                def wrapper():
                    return function() * 2
                return wrapper
        """,
        "flow_use.py": """
            from flow_tools import loud, twice

            async def flow_word():
                return "word"

            @loud
            def flow_say(word):
                return word

            @twice
            def flow_echo():
                return "echo"

            def flow_check(say, echo):
                assert (say, echo) == ("word!", "echoecho")
        """,
    }

    assert passed(flow(files, "-v")) == [
        "flow_use.py::flow_word",
        "flow_use.py::flow_say",
        "flow_use.py::flow_echo",
        "flow_use.py::flow_check",
    ]


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_methods_of_flow_classes_are_tasks(flow: Flow) -> None:
    source = """
        import pytest

        def flow_load():
            return 10

        class FlowBase:
            factor = 1

            def flow_fit(self, load):
                "Each task has an instance of its own, as each test has."
                assert not hasattr(self, "seen")
                self.seen = True
                return load * self.factor

            def flow_score(self, fit):
                return self.helper(fit)

            def helper(self, value):
                return value + 0.5

        class FlowDouble(FlowBase):
            factor = 2

        class FlowTriple(FlowBase):
            factor = 3

            def flow_score(self, fit, load):
                return self.helper(-fit)

            @staticmethod
            def flow_static(load):
                return load

            @classmethod
            def flow_class(cls, static):
                return cls.factor + static

        class Ignored(FlowBase): ...

        @pytest.mark.depends_on("FlowDouble::score", "FlowTriple::score", "FlowBase::flow_score", "class")
        def flow_compare(upstream):
            assert upstream == {
                "FlowDouble::score": 20.5,
                "FlowTriple::score": -29.5,
                "FlowBase::score": 10.5,
                "FlowTriple::class": 13,
            }
    """

    assert sorted(passed(flow(source, "-v"))) == sorted(
        [
            "flow_it.py::flow_load",
            *(
                f"flow_it.py::Flow{kind}::flow_{task}"
                for kind in ("Base", "Double", "Triple")
                for task in ("fit", "score")
            ),
            "flow_it.py::FlowTriple::flow_static",
            "flow_it.py::FlowTriple::flow_class",
            "flow_it.py::flow_compare",
        ]
    )


def test_a_method_sees_its_own_class_first(flow: Flow) -> None:
    files = {
        "flow_it.py": """
            import pytest

            def flow_data():
                return "of the file"

            class FlowA:
                def flow_data(self):
                    return "of A"

                def flow_use(self, data):
                    assert data == "of A"

            class FlowB:
                def flow_use(self, data):
                    assert data == "of the file"

                @pytest.mark.depends_on("FlowA::data", "use")
                def flow_both(self, upstream):
                    assert upstream == {"FlowA::data": "of A", "use": None}

            def flow_use(data):
                assert data == "of the file"
        """,
        "flow_other.py": """
            import pytest

            @pytest.mark.depends_on("it::data", "flow_it.py::FlowA::data", "it::FlowB::use", "it::both")
            def flow_all(upstream):
                assert upstream == {
                    "flow_it.py::data": "of the file",
                    "flow_it.py::FlowA::data": "of A",
                    "flow_it.py::FlowB::use": None,
                    "flow_it.py::FlowB::both": None,
                }
        """,
    }

    assert len(passed(flow(files, "-v"))) == 7


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_imported_tasks_run_once_and_can_be_asked_for(flow: Flow, log: Log) -> None:
    files = {
        "flow_etl.py": """
            from log import log

            def flow_load():
                log("load")
                return 4

            class FlowTrain:
                def flow_fit(self):
                    log("fit")
                    return "fitted"

            class FlowBase:
                def flow_prepare(self, load):
                    return load + 1
        """,
        "flow_use.py": """
            import flow_etl
            import pytest
            from flow_etl import FlowBase, FlowTrain, flow_load, flow_load as flow_get

            def flow_use(load, get, upstream):
                assert (load, get) == (4, 4)
                assert upstream == {"flow_etl.py::load": 4}

            class FlowMine(FlowBase):
                def flow_load(self):
                    return 40

                def flow_check(self, prepare):
                    assert prepare == 41

            @pytest.mark.depends_on(flow_etl.flow_load, FlowTrain.flow_fit)
            def flow_marked(upstream):
                assert upstream == {"flow_etl.py::load": 4, "flow_etl.py::FlowTrain::fit": "fitted"}
        """,
    }

    assert sorted(passed(flow(files, "-v"))) == [
        "flow_etl.py::FlowBase::flow_prepare",
        "flow_etl.py::FlowTrain::flow_fit",
        "flow_etl.py::flow_load",
        "flow_use.py::FlowMine::flow_check",
        "flow_use.py::FlowMine::flow_load",
        "flow_use.py::FlowMine::flow_prepare",
        "flow_use.py::flow_marked",
        "flow_use.py::flow_use",
    ]
    assert sorted(log()) == ["fit", "load"]


# ---- folders ---------------------------------------------------------------------------------------------------------

TWINS = {
    "a/flow_same.py": """
        def flow_one():
            return "a"
    """,
    "b/flow_same.py": """
        import pytest

        def flow_one():
            return "b"

        def flow_two(one):
            assert one == "b"

        @pytest.mark.depends_on("a/flow_same.py::one", "same::one")
        def flow_three(upstream):
            assert upstream == {"a/flow_same.py::one": "a", "one": "b"}
    """,
}


@pytest.mark.parametrize("how", ["packages", "importlib"])
def test_files_of_one_name_in_two_folders_are_two_files(how: str, flow: Flow) -> None:
    packages = {"a/__init__.py": "", "b/__init__.py": ""} if how == "packages" else {}
    options = ["--import-mode=importlib"] if how == "importlib" else []

    assert passed(flow({**TWINS, **packages}, "-v", *options)) == [
        "a/flow_same.py::flow_one",
        "b/flow_same.py::flow_one",
        "b/flow_same.py::flow_two",
        "b/flow_same.py::flow_three",
    ]


def test_conftest_fixtures_reach_the_tasks_of_their_folder(flow: Flow) -> None:
    files = {
        "conftest.py": """
            import pytest

            @pytest.fixture
            def who():
                return "top"

            @pytest.fixture(scope="session", autouse=True)
            def prepared(tmp_path_factory):
                return tmp_path_factory.mktemp("prepared")
        """,
        "flow_top.py": """
            def flow_who(who):
                assert who == "top"
        """,
        "sub/conftest.py": """
            import pytest

            @pytest.fixture
            def who(who):
                return f"{who}/sub"
        """,
        "sub/flow_sub.py": """
            def flow_who(who, prepared, tmp_path):
                assert who == "top/sub"
                assert prepared.is_dir() and tmp_path.is_dir()
        """,
    }

    # A task may have the name of a fixture as long as nobody asks for it.
    assert passed(flow(files, "-v")) == ["flow_top.py::flow_who", "sub/flow_sub.py::flow_who"]


# ---- references ------------------------------------------------------------------------------------------------------


def test_a_reference_leads_into_a_file_that_was_not_named(flow: Flow, log: Log) -> None:
    files = {
        "pytest.ini": "[pytest]",
        "extract/conftest.py": """
            import pytest

            @pytest.fixture(scope="package")
            def connection():
                return "connected"
        """,
        "extract/flow_db.py": """
            import pytest
            from log import log

            def flow_read(connection):
                log("read")
                return connection

            # And on from there, by its own way of speaking.
            @pytest.mark.depends_on("read", "../raw/raw_flow.py::fetch")
            def flow_merge(upstream):
                log("merge")
                return sorted(upstream)

            def flow_unwanted():
                log("unwanted")
        """,
        "raw/raw_flow.py": """
            from log import log

            def flow_fetch():
                log("fetch")
        """,
        "report/flow_report.py": """
            import pytest

            @pytest.mark.depends_on("../extract/flow_db.py::merge")
            def flow_by_folder(upstream):
                assert upstream == {"extract/flow_db.py::merge": ["raw/raw_flow.py::fetch", "read"]}

            @pytest.mark.depends_on("extract/flow_db.py::flow_merge")
            def flow_by_root(by_folder): ...

            @pytest.mark.depends_on("db::read")
            def flow_by_stem(upstream):
                assert upstream == {"extract/flow_db.py::read": "connected"}
        """,
    }

    result = flow(files, "report", "-v")

    assert sorted(passed(result)) == [
        "extract/flow_db.py::flow_merge",
        "extract/flow_db.py::flow_read",
        "raw/raw_flow.py::flow_fetch",
        "report/flow_report.py::flow_by_folder",
        "report/flow_report.py::flow_by_root",
        "report/flow_report.py::flow_by_stem",
    ]
    assert sorted(log()) == ["fetch", "merge", "read"]
    result.stdout.fnmatch_lines(["flowforge: 3 tasks not asked for but needed: *"])


def test_a_file_that_comes_along_shares_the_fixtures_of_its_folder(flow: Flow, log: Log) -> None:
    files = {
        "pytest.ini": "[pytest]",
        "sub/__init__.py": "",
        "sub/conftest.py": """
            import pytest
            from log import log

            @pytest.fixture(scope="package")
            def connection():
                log("connect")
                yield "connected"
                log("disconnect")
        """,
        "sub/flow_one.py": """
            from log import log

            def flow_read(connection):
                log(f"read {connection}")
        """,
        "sub/flow_two.py": """
            import pytest
            from log import log

            @pytest.mark.depends_on("one::read")
            def flow_write(connection):
                log(f"write {connection}")
        """,
    }

    result = flow(files, "-v", "sub/flow_two.py")

    assert passed(result) == ["sub/flow_one.py::flow_read", "sub/flow_two.py::flow_write"]
    assert log() == ["connect", "read connected", "write connected", "disconnect"]


def test_dependencies_are_declared_by_name_or_by_function(flow: Flow) -> None:
    source = """
        import pytest
        import pytest_flowforge

        def flow_a():
            return 1

        def flow_b():
            return 2

        @pytest.mark.depends_on("a", "flow_b")
        def flow_names(upstream):
            assert upstream == {"a": 1, "b": 2}

        @pytest.mark.depends_on("a")
        @pytest.mark.depends_on("b", "a")
        def flow_stacked(upstream):
            assert upstream == {"a": 1, "b": 2}

        @pytest.mark.depends_on(flow_a, flow_b)
        def flow_functions(upstream):
            assert upstream == {"a": 1, "b": 2}

        @pytest.mark.depends_on(flow_a, "b", when="all_done")
        def flow_mixed(upstream):
            assert upstream == {"a": 1, "b": 2}

        @pytest_flowforge.depends_on(flow_a)
        def flow_decorated(upstream, b):
            assert upstream == {"a": 1, "b": 2}

        @pytest_flowforge.depends_on(flow_a, "b", when="any_success")
        def flow_decorated_more(upstream):
            assert upstream == {"a": 1, "b": 2}

        @pytest.mark.depends_on(when="all_done")
        def flow_rule_alone(a):
            assert a == 1

        def flow_none(upstream):
            assert upstream == {}
    """

    result = flow(source, "-v")

    assert len(passed(result)) == 10
    rules = {line.split()[0]: line.split()[-1] for line in flow({}, "--ff-list", "-v").stdout.lines if "when=" in line}
    assert rules == {"mixed": "when=all_done", "decorated_more": "when=any_success", "rule_alone": "when=all_done"}


def test_functions_stay_plain(flow: Flow) -> None:
    files = {
        "flow_it.py": """
            import pytest
            import pytest_flowforge

            def flow_extract():
                return [1, 2, 3]

            @pytest_flowforge.depends_on(flow_extract, when="all_done")
            @pytest.mark.retry(3)
            def flow_transform(extract):
                return [value * 10 for value in extract]
        """,
        "test_it.py": """
            from flow_it import flow_transform

            def test_transform():
                assert flow_transform([1, 2]) == [10, 20]
        """,
    }

    result = flow(files, "--strict-markers", flowforge=False)

    assert result.parseoutcomes() == {"passed": 1}


def test_marks_on_a_file_or_a_class_reach_all_its_tasks(flow: Flow) -> None:
    source = """
        import pytest

        pytestmark = pytest.mark.depends_on("setup")

        def flow_setup(): ...

        def flow_a(): ...

        @pytest.mark.depends_on("a", when="all_done")
        class FlowK:
            def flow_one(self): ...
            def flow_two(self, one): ...

        class FlowL:
            pytestmark = [pytest.mark.depends_on("first"), pytest.mark.retry(2)]

            def flow_first(self): ...
            @pytest.mark.retry(5)
            def flow_next(self): ...
    """

    lines = flow(source, "--ff-list", "-v").stdout.lines

    # The one that a mark names is not meant to wait for itself.
    table = [re.split(r"  +", line) for line in lines if "flow_it.py:" in line]
    assert [[cell for cell in row if not cell.startswith("flow_it.py")] for row in table] == [
        ["setup"],
        ["a", "<- setup"],
        ["FlowK::one", "<- a, setup", "when=all_done"],
        ["FlowK::two", "<- FlowK::one, a, setup", "when=all_done"],
        ["FlowL::first", "<- setup", "retries=2"],
        ["FlowL::next", "<- FlowL::first, setup", "retries=5"],
    ]
