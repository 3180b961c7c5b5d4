"""Workflows in code that stand in flow files: the same tasks, whoever runs them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

_OK, _FAILED, _USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR

ETL = """
    from contextlib import contextmanager
    from pathlib import Path
    import pytest
    from pytest_flowforge import SkipTask, Workflow, only, retry, task

    def flow_source():
        return [1, 2, 3]

    @contextmanager
    def connect():
        with Path("connections").open("a") as file:
            file.write("open ")
            yield "db"
            file.write("closed ")

    def flaky():
        if not Path("tried").exists():
            Path("tried").touch()
            raise OSError("not yet")
        return "flaky"

    with Workflow("etl", pools={"db": 1}) as etl:

        @task
        def extract(source):  # a function of the file
            return [number + 1 for number in source]

        @task(timeout=30)
        def transform(extract):
            return [number * 10 for number in extract]

        task(name="retried", retries=retry(2, delay=0.01, on=OSError))(flaky)

        @task(pool="db", arguments={"data": transform, "factor": 2}, resources={"db": connect})
        def load(data, factor, db):
            return sum(data) * factor, db

        @task
        async def asynchronous(load):
            return load[0] + 1

        @task
        def quiet():
            raise SkipTask("nothing new")

        @task(depends_on=[quiet, "asynchronous"], when="all_done")
        def cleanup(upstream):
            return sorted(upstream)

        @task
        def choose():
            return only("left", value=1)

        task(name="left")(lambda choose: choose)
        task(name="right")(lambda choose: choose)

    def flow_report(load):  # and a function of the file after a task of the workflow
        assert load == (180, "db")

    @pytest.mark.depends_on("etl::cleanup", etl.graph["load"])
    def flow_end(upstream):
        assert upstream == {"etl::cleanup": ["asynchronous", "quiet"], "etl::load": (180, "db")}
"""

ENDS = {
    "flow_source": "PASSED", "etl::extract": "PASSED", "etl::transform": "PASSED", "etl::retried": "PASSED",
    "etl::load": "PASSED", "etl::asynchronous": "PASSED", "etl::quiet": "SKIPPED", "etl::cleanup": "PASSED",
    "etl::choose": "PASSED", "etl::left": "PASSED", "etl::right": "SKIPPED", "flow_report": "PASSED",
    "flow_end": "PASSED",
}  # fmt: skip


def _ends(result: pytest.RunResult) -> dict[str, str]:
    """The last word about each task."""
    lines = re.findall(r"^(?:\[gw\d\] \[[ \d]+%\] )?(.*)$", result.stdout.str(), re.MULTILINE)
    ends = {}
    for line in lines:
        found = re.match(r"(?:flow_it\.py::(\S+) ([A-Z]+)\b|([A-Z]+) \(.*\) flow_it\.py::(\S+))", line)
        if found:
            ends[found[1] or found[4]] = found[2] or found[3]
    return ends


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-n", "2"],
        ["--ff-executor", "thread", "--ff-workers", "3"],
        ["--ff-executor", "loky:ProcessPoolExecutor", "--ff-workers", "2"],
    ],
    ids=["local", "process", "thread", "pool"],
)
def test_its_tasks_run_like_functions(flow: Flow, options: list[str], pytester: pytest.Pytester) -> None:
    result = flow(ETL, "-v", *options)
    assert result.ret == _OK, result.stdout.str()
    assert _ends(result) == ENDS
    assert (pytester.path / "connections").read_text() == "open closed "
    result.stdout.fnmatch_lines(["*11 passed, 2 skipped, 1 retried*"])


def test_what_is_selected_brings_along_what_it_needs(flow: Flow) -> None:
    result = flow(ETL, "-v", "-k", "transform")
    assert _ends(result) == {"flow_source": "PASSED", "etl::extract": "PASSED", "etl::transform": "PASSED"}
    result = flow({}, "-v", "flow_it.py::etl::choose")
    assert _ends(result) == {"etl::choose": "PASSED"}
    result = flow({}, "-v", "--ff-select", "etl::quiet")
    assert _ends(result) == {"etl::quiet": "SKIPPED"}


def test_resume_knows_code_arguments_and_resources(flow: Flow) -> None:
    def again(old: str, new: str) -> list[str]:
        assert old in ETL
        result = flow(ETL.replace(old, new), "-v", "--ff-resume")
        assert result.ret in (_OK, _FAILED)
        ran = [task for task, end in _ends(result).items() if end not in ("REUSED", "SKIPPED")]
        return [task for task in ran if task not in ("etl::cleanup", "flow_end")]  # behind one that skips itself

    flow(ETL)
    assert again("import pytest", "import pytest  # a comment") == []
    assert again("number * 10", "number * 11")[0] == "etl::transform"
    flow(ETL)
    assert again('"factor": 2', '"factor": 3')[0] == "etl::load"
    flow(ETL)
    assert again('yield "db"', 'yield "other"')[0] == "etl::load"


def test_it_runs_by_itself_as_well(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        from pytest_flowforge import Workflow, task

        with Workflow("alone") as wf:
            @task
            def one():
                return 1

            @task
            def two(one):
                return one + 1

        if __name__ == "__main__":
            print(wf.run()["two"])
    """
    assert flow(source).ret == _OK
    assert pytester.runpython(pytester.path / "flow_it.py").stdout.str() == "2"


def test_a_workflow_is_collected_in_the_file_that_made_it(flow: Flow) -> None:
    files = {
        "flow_it.py": """
            from pytest_flowforge import Workflow, task
            with Workflow("made here") as made:
                task(name="one")(int)
            again = made
        """,
        "flow_other.py": """
            from flow_it import made
            import pytest
            @pytest.mark.depends_on(made.graph["one"], "flow_it.py::made here::one")
            def flow_two(upstream):
                assert upstream == {"flow_it.py::made here::one": 0}
        """,
    }
    result = flow(files, "-v")
    assert result.ret == _OK, result.stdout.str()
    result.assert_outcomes(passed=2)


def test_what_holds_for_its_tasks_are_marks(flow: Flow) -> None:
    files = {
        "flow_it.py": """
            from pytest_flowforge import Workflow, task
            with Workflow("wf", pools={"gpu": 2}) as wf:
                task(
                    name="one", retries=2, timeout=30, pool={"gpu": 2}, exclusive=True, priority=3, idempotent=False,
                    when="all_done",
                )(int)
                task(name="plain")(int)
        """,
        "conftest.py": """
            def pytest_collection_finish(session):
                for item in session.items:
                    marks = sorted(item.iter_markers(), key=lambda mark: mark.name)
                    facts = [(mark.name, mark.args and getattr(mark.args[0], "max_retries", mark.args[0]), mark.kwargs)
                             for mark in marks]
                    print(item.name, facts)
        """,
    }
    result = flow(files, "--collect-only", "-q", "-s")
    marks = (
        "('depends_on', (), {'when': 'all_done'}), ('exclusive', (), {}), ('idempotent', False, {}), "
        "('pool', (), {'gpu': 2}), ('priority', 3, {}), ('retry', 2, {}), ('timeout', 30.0, {})"
    )
    result.stdout.fnmatch_lines_random([f"one [[]{marks}]", "plain [[]]"])


def test_methods_are_tasks_and_edges(flow: Flow) -> None:
    source = """
        from pytest_flowforge import Workflow

        class Api:
            def get(self):
                return 1

            def use(self, data, change):
                return change(data)

        api = Api()
        wf = Workflow("wf")
        wf.task(name="get")(api.get)
        wf.task(name="use", arguments={"data": api.get, "change": str})(api.use)
        wf.task(name="after", depends_on=[api.use])(lambda upstream: upstream)

        def flow_check(after):
            assert after == {"use": "1"}
    """
    assert flow(source).ret == _OK
    result = flow(source.replace('"change": str', '"change": repr'), "-v", "--ff-resume")
    assert _ends(result)["wf::get"] == "REUSED"
    assert _ends(result)["wf::use"] == "PASSED", "a function that is just a value counts, too"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('task(name="b", depends_on="a")(int)', "'a' names no task"),
        ('task(name="b")(lambda extrct: extrct)', "parameter 'extrct' of b is neither a task nor a fixture"),
        ('task(name="a", depends_on="b")(int); task(name="b", depends_on="a")(int)', "wf::a -> wf::b -> wf::a"),
        ('task(name="b", pool="gpu")(int)', "gpu"),
        ("pass\nother = Workflow('wf')", "two workflows called 'wf'"),
        ('task(name="b", retries=-1)(int)', "give a whole number of 0 or more"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(flow: Flow, source: str, said: str) -> None:
    result = flow(f"from pytest_flowforge import Workflow, task\nwith Workflow('wf') as wf:\n    {source}\n")
    assert result.ret in (_USAGE, pytest.ExitCode.INTERRUPTED)
    assert said in result.stdout.str() + result.stderr.str()
