"""Flows that are run inside of tests, with stand-ins for some of their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

FLOW = """
    import pytest
    from pytest_flowforge import Workflow, task

    GREETING = "hello"

    @pytest.fixture
    def folder(tmp_path):
        yield tmp_path

    def flow_extract():
        raise OSError("no network")

    def flow_prepare(extract, folder):
        assert folder.is_dir()
        return [number + 1 for number in extract]

    @pytest.mark.parametrize("k", [1, 2])
    @pytest.mark.timeout(30)
    def flow_fit(prepare, k):
        return sum(prepare) * k

    def flow_best(fit):
        return max(fit.values())

    @pytest.mark.map("prepare")
    def flow_each(prepare):
        return prepare * 2

    def flow_all(each):
        return each

    @pytest.mark.depends_on("prepare", when="any_failed")
    def flow_alarm():
        print("alarm")

    class FlowTree:
        def flow_class(self, prepare):
            return len(prepare), GREETING

    with Workflow("coded") as coded:
        @task
        def first(prepare):
            return prepare[0]

        @task
        def second(first):
            return first + 1
"""

HEAD = """
    import pytest
    from pytest_flowforge import GraphError, NoResult, TaskState, WorkflowError
"""


def _outer(flow: Flow, test: str, *args: str, **files: str) -> pytest.RunResult:
    """Run *test* in a session of tests, beside the flow."""
    sources = {"flow_it.py": FLOW, "test_it.py": HEAD + test, **files}
    return flow(sources, *args, flowforge=False)


def test_the_run_of_a_flow_with_a_value_for_a_task(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    def test_it(run_flow):
        run = run_flow("flow_it.py", replace={"extract": [1, 2]})
        run.raise_for_failure()
        assert run.ok
        assert run["best"] == run["fit[2]"] == 10
        assert run["each"] == run["all"] == {"2": 4, "3": 6}
        assert run["FlowTree::class"] == (2, "hello")
        assert run["coded::second"] == 3
        assert run.states["alarm"] is TaskState.SKIPPED
        assert run.metrics.tasks["best"].attempts[0].number == 1
        assert repr(run).startswith("<Run of 'flow_it': ")
    """,
    )
    result.assert_outcomes(passed=1)


def test_functions_stand_in_and_what_only_they_replaced_does_not_run(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    def test_functions(run_flow):
        run = run_flow("flow_it.py", replace={
            "flow_prepare": lambda: [5], "fit": lambda k: k * 100, "each": lambda prepare: prepare + 1,
            "FlowTree::class": lambda prepare: "stand-in", "coded::first": 41,
        })
        run.raise_for_failure()
        assert "extract" not in run
        assert run["best"] == 200
        assert run["all"] == {"5": 6}
        assert run["FlowTree::class"] == "stand-in"
        assert run["coded::second"] == 42

    def test_one_variant(run_flow):
        run = run_flow("flow_it.py", replace={"prepare": [5], "fit[1]": 77, "fit[2]": lambda prepare: len(prepare)})
        assert run["fit[1]"] == run["best"] == 77
        assert run["fit[2]"] == 1

    def test_a_choice(run_flow):
        run = run_flow("flow_it.py", replace={"extract": [5]}, args=["-k", "best"])
        assert list(run.results) == ["extract", "prepare", "fit[1]", "fit[2]", "best"]
    """,
    )
    result.assert_outcomes(passed=3)


def test_failures_are_the_exceptions_themselves(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    def test_it(run_flow):
        seen = []
        run = run_flow("flow_it.py", replace={"alarm": lambda upstream: seen.append(upstream["prepare"])})
        assert run.states["extract"] is TaskState.FAILED
        assert run.states["best"] is TaskState.BLOCKED
        assert isinstance(seen[0], NoResult)
        with pytest.raises(OSError, match="no network"):
            run["extract"]
        with pytest.raises(Exception, match="1 task of flow_it failed") as caught:
            run.raise_for_failure()
        assert [type(error) for error in caught.value.exceptions] == [OSError]
    """,
    )
    result.assert_outcomes(passed=1)


def test_what_is_patched_is_patched_for_the_flow(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    import flow_it

    def test_it(run_flow, monkeypatch):
        monkeypatch.setattr(flow_it, "GREETING", "patched")
        assert run_flow("flow_it.py", replace={"extract": [1]})["FlowTree::class"] == (1, "patched")
        assert run_flow(flow_it.coded, replace={"first": 1})["second"] == 2
    """,
    )
    result.assert_outcomes(passed=1)


def test_what_can_not_be_run_is_said(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    import flow_it

    def test_names(run_flow):
        with pytest.raises(GraphError, match="did you mean 'extract'"):
            run_flow("flow_it.py", replace={"extrct": 1})
        with pytest.raises(GraphError, match="replace all its variants"):
            run_flow("flow_it.py", replace={"fit[1]": lambda prepare, other: 1})
        with pytest.raises(WorkflowError, match="no such file"):
            run_flow("nowhere.py")
        with pytest.raises(WorkflowError, match="are for pytest"):
            run_flow(flow_it.coded, args=["-k", "x"])

    def test_files(run_flow, tmp_path):
        path = tmp_path / "flow_it.py"
        path.write_text("def flow_a(b): ...")
        with pytest.raises(GraphError, match="neither a task nor a fixture"):
            run_flow(path)
        path.write_text("def flow_a(): return 1")
        assert run_flow(path)["a"] == 1
        path.write_text("def flow_a(): return 2")
        assert run_flow(path)["a"] == 2
        path.write_text("1 / 0")
        with pytest.raises(WorkflowError, match="exit status 2"):
            run_flow(path)
    """,
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("options", [["-n", "2"], ["-s"], ["--timeout", "20"], ["-p", "pytest_randomly"]])
def test_the_options_of_the_tests_are_not_those_of_the_flow(flow: Flow, options: list[str]) -> None:
    result = _outer(
        flow,
        """
    def test_one(run_flow):
        assert run_flow("flow_it.py", replace={"extract": [1]})["best"] == 4

    def test_two(run_flow, pytestconfig):
        assert run_flow("flow_it.py", replace={"extract": [2]})["best"] == 6
    """,
        *options,
        **{"pytest.ini": "[pytest]\naddopts = -v\nfilterwarnings = error\n"},
    )
    result.assert_outcomes(passed=2)


def test_the_time_out_of_the_test_goes_on_after_the_run(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    import signal, time

    @pytest.mark.timeout(25)
    def test_it(run_flow):
        run_flow("flow_it.py", replace={"extract": [1]})
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 25
        # What is left of it is over soon.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        time.sleep(60)
    """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Failed: Timeout (>25.0s)*"])


def test_ctrl_c_within_the_run_is_one_for_the_session(flow: Flow) -> None:
    result = _outer(
        flow,
        """
    import os, signal, time

    def test_it(run_flow):
        def interrupted():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        run_flow("flow_it.py", replace={"extract": interrupted})

    def test_other():
        pass
    """,
        "-p",
        "no:randomly",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.parseoutcomes().get("passed", 0) == 0
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
