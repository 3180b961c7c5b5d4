"""Asking about a flow: ``--ff-list``, ``--ff-validate``, ``--ff-dry-run``. Nothing runs, nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Ask = Callable[..., pytest.RunResult]

MODES = ("--ff-list", "--ff-validate", "--ff-dry-run")

#: A flow that would leave traces, warns, and prints.
FLOW = {
    "pytest.ini": """
        [pytest]
        flowforge_pools = gpu=2 mem=8
    """,
    "flow_it.py": """
        import sys
        import warnings

        import pytest

        print("printed while importing")
        print("and to stderr", file=sys.stderr)
        warnings.warn("about something")

        @pytest.fixture(scope="session", autouse=True)
        def canary():
            open("canary", "w").close()

        @pytest.mark.retry(2)
        @pytest.mark.pool("gpu", mem=4)
        def flow_train(clean):
            open("canary", "w").close()

        @pytest.mark.parametrize("part", ["a", "b"])
        @pytest.mark.depends_on("extract", when="all_done")
        def flow_clean(part): ...

        @pytest.mark.priority(5)
        def flow_extract(): ...

        @pytest.mark.exclusive
        def flow_other(): ...
    """,
}

PROBLEM = {"flow_bad.py": "def flow_bad(nothing): ..."}

BROKEN = {"flow_broken.py": "raise ValueError('not today')"}


@pytest.fixture
def ask(flow: Flow, pytester: pytest.Pytester) -> Ask:
    """Run a mode, and see to it that it leaves nothing behind."""

    def ask(files: dict[str, str], *args: str) -> pytest.RunResult:
        result = flow(files, *args)
        left = {str(path.relative_to(pytester.path)) for path in pytester.path.rglob("*") if path.is_file()}
        # Where Python keeps what it has compiled is no business of ours; pytester keeps what it has caught.
        left = {path for path in left if "__pycache__" not in path and path not in ("stdout", "stderr")}
        assert left == set(files)
        assert not pytester.path.joinpath(".pytest_cache").exists()
        return result

    return ask


def document(result: pytest.RunResult) -> Any:
    """Standard output, which is one JSON document and nothing else."""
    return json.loads(result.stdout.str())


def answer(result: pytest.RunResult) -> list[str]:
    """The lines between pytest's header and its footer."""
    lines = result.stdout.lines
    start = next(number for number, line in enumerate(lines) if line.startswith("collect"))
    return lines[start + 1 : lines.index("", start)]


# ---- for people ------------------------------------------------------------------------------------------------------


def test_a_list_shows_the_tasks_in_an_order_they_can_run_in(ask: Ask) -> None:
    result = ask(FLOW, "--ff-list")

    assert result.ret == pytest.ExitCode.OK
    assert answer(result) == [
        "extract                          flow_it.py:24",
        "clean[a]  <- extract             flow_it.py:20",
        "clean[b]  <- extract             flow_it.py:20",
        "train     <- clean[a], clean[b]  flow_it.py:15",
        "other                            flow_it.py:27",
    ]
    # What pytest has to say besides is said as always.
    result.stdout.fnmatch_lines(["*UserWarning: about something", "*= 1 warning in *"])

    verbose = ask(FLOW, "--ff-list", "-v")
    assert [line.partition("flow_it.py:")[2][4:] for line in answer(verbose)] == [
        "priority=5",
        "when=all_done",
        "when=all_done",
        "retries=2 gpu=1 mem=4",
        "exclusive",
    ]


def test_a_dry_run_shows_what_would_run_level_by_level_and_why(ask: Ask) -> None:
    result = ask(FLOW, "--ff-dry-run", "--ff-select", "train")

    assert result.ret == pytest.ExitCode.OK
    assert answer(result)[1:] == [
        "level 0",
        "  run  extract  needed by clean[a] and 1 more",
        "level 1",
        "  run  clean[a]  needed by train",
        "  run  clean[b]  needed by train",
        "level 2",
        "  run  train  selected",
    ]
    quiet = ask(FLOW, "--ff-dry-run", "-q", "-W", "ignore")
    assert quiet.stdout.lines[:5] == ["run extract", "run other", "run clean[a]", "run clean[b]", "run train"]


def test_a_validation_says_that_all_is_well_or_what_is_not(ask: Ask) -> None:
    good = ask(FLOW, "--ff-validate", "-q", "-W", "ignore")
    assert good.ret == pytest.ExitCode.OK
    assert good.stdout.lines[0] == "5 tasks in 1 file: no problems"

    bad = ask({**FLOW, **PROBLEM}, "--ff-validate")
    assert bad.ret == pytest.ExitCode.USAGE_ERROR
    bad.stderr.fnmatch_lines(
        ["ERROR: flowforge: 1 problem in the flows*", "ERROR: flow_bad.py:1: parameter 'nothing' *"]
    )


def test_the_names_of_a_quiet_list_can_be_given_to_select(flow: Flow, ask: Ask) -> None:
    files = {
        "flow_one.py": f"""
            import pytest

            NAMES = ["a", "a b", "a,b", "a::b", "[a]", "", "+a+", "{"x" * 150}"]

            @pytest.mark.parametrize("name", NAMES, ids=NAMES)
            def flow_a(name): ...

            def flow_all(a): ...

            class FlowIt:
                def flow_all(self, a): ...
        """,
        "deep/er/two_flow.py": """
            def flow_all(): ...
        """,
    }

    def selected(*names: str) -> list[str]:
        found = document(flow({}, "--ff-list", "--ff-format=json", "--ff-select", " ".join(names)))
        return [task["id"] for task in found["tasks"] if task["selected"]]

    lines = ask(files, "--ff-list", "-q").stdout.lines
    names = lines[: lines.index("")]

    assert len(names) == 11
    one, two, three = (name for name in names if name.endswith("::all"))
    assert selected(one) == ["deep/er/two_flow.py::flow_all"]
    assert selected(two) == ["flow_one.py::flow_all"]
    assert selected(three) == ["flow_one.py::FlowIt::flow_all"]
    variants = [name for name in names if name.endswith("]")]
    assert len(selected(*variants)) == 8
    assert selected(variants[5]) == ["flow_one.py::flow_a[]"]


# ---- for machines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["--ff-list", "--ff-dry-run"])
def test_a_plan_for_machines_is_one_document(mode: str, ask: Ask) -> None:
    result = ask(FLOW, mode, "--ff-format", "json", "-v", "--ff-select", "clean[b] other")

    assert result.ret == pytest.ExitCode.OK
    found = document(result)
    assert found["format"] == 1
    assert found["tasks"][0] == {
        "id": "flow_it.py::flow_extract",
        "name": "extract",
        "file": "flow_it.py",
        "line": 24,
        "level": 0,
        "needs": [],
        "when": "all_success",
        "retries": 0,
        "priority": 5,
        "pools": {},
        "exclusive": False,
        "selected": False,
        "verdict": "run",
        "reason": "needed by clean[b]",
        "last_state": None,
    }
    assert [(task["id"], task["needs"]) for task in found["tasks"][1:]] == [
        ("flow_it.py::flow_clean[b]", ["flow_it.py::flow_extract"]),
        ("flow_it.py::flow_other", []),
    ]
    # Warnings, headers and footers go to the other stream.
    result.stderr.fnmatch_lines(["*test session starts*", "*UserWarning: about something", "*1 warning in *"])


def test_a_validation_for_machines_is_one_document(ask: Ask) -> None:
    good = ask(FLOW, "--ff-validate", "--ff-format", "json", "-q")
    assert good.ret == pytest.ExitCode.OK
    assert document(good) == {"format": 1, "valid": True, "tasks": 5, "problems": []}

    bad = ask({**FLOW, **PROBLEM}, "--ff-validate", "--ff-format", "json")
    assert bad.ret == pytest.ExitCode.USAGE_ERROR
    found = document(bad)
    assert found["valid"] is False
    [problem] = found["problems"]
    assert problem["where"] == "flow_bad.py:1"
    assert problem["text"].startswith("parameter 'nothing' of flow_bad is neither a task nor a fixture")
    bad.stderr.fnmatch_lines(["ERROR: flow_bad.py:1: *"])


def test_a_validation_for_machines_names_files_that_can_not_be_collected(ask: Ask) -> None:
    result = ask({**FLOW, **PROBLEM, **BROKEN}, "--ff-validate", "--ff-format", "json")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = document(result)
    assert found["valid"] is False
    assert {problem["where"].partition(":")[0] for problem in found["problems"]} == {"flow_bad.py", "flow_broken.py"}
    assert "ValueError: not today" in json.dumps(found["problems"])


@pytest.mark.parametrize("mode", ["--ff-list", "--ff-dry-run"])
def test_where_there_is_no_plan_machines_get_the_exit_status_and_no_half_document(mode: str, ask: Ask) -> None:
    result = ask({**FLOW, **PROBLEM}, mode, "--ff-format", "json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stdout.str().strip() == ""
    result.stderr.fnmatch_lines(["ERROR: flow_bad.py:1: *"])

    result = ask({**FLOW, **PROBLEM, **BROKEN}, mode, "--ff-format", "json", "-q")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.stdout.str().strip() == ""
    result.stderr.fnmatch_lines(["*ValueError: not today", "flow_bad.py:1: *"])


# ---- always ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_an_answer(mode: str, ask: Ask) -> None:
    files = {"flow_empty.py": "", "test_it.py": "def test_it(): open('canary', 'w')"}

    result = ask(files, mode, "--ff-format=json")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert document(result)["tasks"] in ([], 0)


def test_a_session_answers_one_question(ask: Ask) -> None:
    for pair in (MODES[:2], MODES[1:], MODES):
        result = ask(FLOW, *pair)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {' and '.join(pair)} were given together: choose one"])


def test_asking_does_not_make_pytest_forget_what_failed(flow: Flow) -> None:
    source = """
        def flow_a(): ...
        def flow_bad(a): raise ValueError
        def flow_other(): ...
    """
    assert flow(source).ret == pytest.ExitCode.TESTS_FAILED

    for mode in MODES:
        assert flow({}, mode, "-k", "other").ret == pytest.ExitCode.OK

    result = flow({}, "--lf", "--ff-list", "-q")
    assert result.stdout.lines[:2] == ["a", "bad"]
    assert flow({}, "--lf").parseoutcomes() == {"passed": 1, "failed": 1, "deselected": 1}
