"""Without ``--flowforge`` the plugin is not there, as far as anybody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

#: A suite that has nothing to do with flows, in a folder that has some.
SUITE = {
    "pytest.ini": """
        [pytest]
        addopts = --strict-markers --strict-config -W error
    """,
    "conftest.py": """
        import sys

        import pytest

        @pytest.fixture
        def upstream():
            return "the suite's own"

        def pytest_flowforge_run_started(run):
            raise AssertionError("no run, no event")

        def pytest_flowforge_task_finished(task, result): ...

        def pytest_sessionfinish():
            print("\\nloaded:", *sorted(name for name in sys.modules if name.startswith("pytest_flowforge")))
    """,
    "flow_etl.py": """
        raise AssertionError("flow files are not imported")
    """,
    "test_it.py": """
        import pytest

        pytestmark = [pytest.mark.priority(1), pytest.mark.exclusive]

        @pytest.mark.depends_on("whatever", when="some day")
        @pytest.mark.retry(3)
        @pytest.mark.pool("gpu", mem=3)
        def test_it(upstream):
            assert upstream == "the suite's own"

        def flow_it():
            raise AssertionError("no test")

        class FlowIt:
            def test_it(self):
                raise AssertionError("no test")
    """,
}


def test_an_ordinary_suite_does_not_notice_the_plugin(flow: Flow) -> None:
    result = flow(SUITE, "-s", "-v", flowforge=False)

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.no_fnmatch_line("*flowforge:*")
    # What an ordinary session pays for: this list is to stay as short as it is.
    [loaded] = [line for line in result.stdout.lines if line.startswith("loaded:")]
    assert loaded.split()[1:] == [
        "pytest_flowforge",
        "pytest_flowforge.hookspecs",
        "pytest_flowforge.plugin",
        "pytest_flowforge.plugin.checkpoint_options",
        "pytest_flowforge.plugin.cluster_options",
        "pytest_flowforge.plugin.options",
    ]


def test_a_flow_file_named_on_the_command_line_is_a_test_file_without_tests(flow: Flow) -> None:
    source = """
        import pytest
        from pytest_flowforge import depends_on

        def flow_a(): ...

        @depends_on(flow_a, when="all_done")
        def flow_b(a): ...
    """

    result = flow(source, "flow_it.py", flowforge=False)

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert result.parseoutcomes() == {}


def test_help_and_markers_tell_of_flows(flow: Flow) -> None:
    text = flow({}, "--help", flowforge=False).stdout.str()
    assert "--flowforge " in text
    assert "--ff-select=EXPR" in text
    assert "flowforge_files (args)" in text

    lines = flow({}, "--markers", flowforge=False).stdout.lines
    for mark in ("depends_on(", "retry(", "priority(", "pool(", "exclusive:"):
        assert [line for line in lines if line.startswith(f"@pytest.mark.{mark}")]


def test_asking_for_a_dry_run_of_flows_never_runs_tests_instead(flow: Flow, pytester: pytest.Pytester) -> None:
    source = """
        def test_it():
            open("canary", "w").close()
    """

    # Whether this is refused or --flowforge is understood: tests are not what was asked about.
    result = flow({"test_it.py": source}, "--ff-dry-run", flowforge=False)

    assert not pytester.path.joinpath("canary").exists()
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ([], ["graph_files", "live_page", "event_log", "making", "worker"]),
        (["-n", "1"], ["session", "checkpointing", "terminal", "watching"]),
    ],
    ids=["local", "worker"],
)
def test_a_process_imports_what_it_needs(flow: Flow, options: list[str], left_out: list[str]) -> None:
    source = f"""
        import sys

        def flow_it():
            assert "pytest_flowforge.plugin.fixtures" in sys.modules
            unwanted = {{f"pytest_flowforge.plugin.{{name}}" for name in {left_out}}}
            assert not unwanted.intersection(sys.modules)
    """
    assert flow(source, *options).parseoutcomes() == {"passed": 1}
