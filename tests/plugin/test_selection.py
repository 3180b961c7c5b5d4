"""What a run is about: what was asked for, by pytest's own means or by the graph, and what comes along."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]
    Chosen = Callable[..., tuple[str, str]]

#: Two files; each task logs its name when it runs.
FILES = {
    "conftest.py": """
        import pytest
        from log import log

        @pytest.fixture(autouse=True)
        def logged(request):
            log(request.node.name.removeprefix("flow_"))
    """,
    "pytest.ini": """
        [pytest]
        markers = slow
    """,
    "flow_etl.py": """
        import pytest

        @pytest.mark.slow
        def flow_extract(): ...

        @pytest.mark.parametrize("part", ["a", "b"])
        def flow_clean(part, extract): ...

        def flow_load(clean): ...

        @pytest.mark.depends_on("load")
        def flow_notify(): ...

        class FlowTrain:
            def flow_fit(self, load): ...
            def flow_score(self, fit): ...
    """,
    "flow_report.py": """
        from flow_etl import flow_load

        def flow_table(load): ...

        def flow_page(table): ...

        def flow_loads(): ...
    """,
}

#: What nearly everything here needs.
UP = "extract clean[a] clean[b]"


@pytest.fixture
def chosen(flow: Flow, log: Log) -> Chosen:
    """List the flows above; return what was asked for and what comes along, in an order they can run in."""

    def chosen(*args: str) -> tuple[str, str]:
        result = flow(FILES, "--ff-list", "--ff-format", "json", *args)
        assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        tasks = json.loads(result.stdout.str())["tasks"]
        assert (result.ret == pytest.ExitCode.OK) == bool(tasks)
        assert log() == []
        asked, along = ([task["name"] for task in tasks if task["selected"] is wanted] for wanted in (True, False))
        return " ".join(asked), " ".join(along)

    return chosen


# ---- by pytest's own means -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "asked", "along"),
    [
        (["-k", "load"], "load loads", UP),
        (["-k", "clean and b"], "clean[b]", "extract"),
        (["-m", "slow"], "extract", ""),
        (["-m", "not slow", "-k", "etl and not Train"], "clean[a] clean[b] load notify", "extract"),
        (["flow_etl.py::flow_load"], "load", UP),
        (["flow_etl.py::flow_clean"], "clean[a] clean[b]", "extract"),
        (["flow_etl.py::flow_clean[b]"], "clean[b]", "extract"),
        (["flow_etl.py::FlowTrain"], "FlowTrain::fit FlowTrain::score", f"{UP} load"),
        (["flow_etl.py::FlowTrain::flow_fit", "flow_report.py::flow_loads"], "FlowTrain::fit loads", f"{UP} load"),
        (["flow_report.py", "flow_etl.py::flow_extract"], "loads extract table page", "clean[a] clean[b] load"),
        (["flow_report.py"], "table page loads", f"{UP} load"),
        (["flow_report.py::flow_page", "--deselect", "flow_report.py::flow_table"], "page", f"{UP} load table"),
        (["flow_report.py", "--deselect", "flow_report.py::flow_page", "-k", "not loads"], "table", f"{UP} load"),
        (["-k", "nothing"], "", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_pytest_chooses_brings_along_what_it_needs(
    arguments: list[str], asked: str, along: str, chosen: Chosen
) -> None:
    assert chosen(*arguments) == (asked, along)


def test_what_comes_along_is_run_and_shown(flow: Flow, log: Log) -> None:
    result = flow(FILES, "-v", "-k", "fit or loads")

    assert result.ret == pytest.ExitCode.OK
    assert log() == ["extract", "clean[a]", "clean[b]", "load", "fit", "loads"]
    result.stdout.fnmatch_lines(
        [
            "collect* 10 items / 4 deselected / 6 selected",
            "flowforge: 4 tasks not asked for but needed: flow_etl.py::extract, flow_etl.py::clean[[]a[]], *",
            "*= 6 passed, 4 deselected in *",
        ]
    )


def test_the_count_holds_when_a_file_comes_along(flow: Flow, log: Log) -> None:
    result = flow(FILES, "flow_report.py::flow_table")

    assert log() == ["extract", "clean[a]", "clean[b]", "load", "table"]
    # Three more of the other file and two of this one are known, and not run.
    result.stdout.fnmatch_lines(["collect* 10 items / 5 deselected / 5 selected", "*= 5 passed, 5 deselected in *"])


def test_nothing_comes_along_where_everything_was_asked_for(flow: Flow, log: Log) -> None:
    result = flow(FILES, "-q")

    assert len(log()) == 10

    result.stdout.no_fnmatch_line("*not asked for*")
    assert result.parseoutcomes() == {"passed": 10}


def test_many_that_come_along_are_a_number(flow: Flow) -> None:
    tasks = [f"def flow_t{number}(t{number - 1}): ..." for number in range(1, 15)]

    result = flow("\n".join(["def flow_t0(): ...", *tasks]), "-k", "t14", "--ff-dry-run")

    result.stdout.fnmatch_lines(["flowforge: 14 tasks not asked for but needed: t0, t1, *, t7 and 6 more"])


def test_collect_only_shows_what_would_run(flow: Flow, log: Log) -> None:
    result = flow(FILES, "--collect-only", "-q", "flow_report.py::flow_table")

    assert result.ret == pytest.ExitCode.OK
    assert [line for line in result.stdout.lines if "::flow_" in line] == [
        "flow_etl.py::flow_extract",
        "flow_etl.py::flow_clean[a]",
        "flow_etl.py::flow_clean[b]",
        "flow_etl.py::flow_load",
        "flow_report.py::flow_table",
    ]
    assert log() == []


def test_a_node_id_that_names_nothing_is_refused_with_the_closest_names(flow: Flow, log: Log) -> None:
    result = flow(FILES, "flow_etl.py::flow_extract", "flow_report.py::flow_tabel")

    assert log() == []
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: not found: flow_report.py::flow_tabel (*; did you mean flow_table*"])


# ---- by the graph ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "asked", "along"),
    [
        ("load", "load", UP),
        ("flow_load", "load", UP),
        ("+load", f"{UP} load", ""),
        ("1+load", "clean[a] clean[b] load", "extract"),
        ("load+1", "load notify FlowTrain::fit table", UP),
        ("load+", "load notify FlowTrain::fit FlowTrain::score table page", UP),
        ("1+load+1", "clean[a] clean[b] load notify FlowTrain::fit table", "extract"),
        ("clean", "clean[a] clean[b]", "extract"),
        ("clean[b]", "clean[b]", "extract"),
        ("clean[?]", "clean[a] clean[b]", "extract"),
        ("cl*[a] loads", "clean[a] loads", "extract"),
        ("load*", "load loads", UP),
        ("score,+score", "FlowTrain::score", f"{UP} load FlowTrain::fit"),
        ("+table,load+ loads", "load table loads", UP),
        ("page,extract", "", ""),
        ("FlowTrain::*", "FlowTrain::fit FlowTrain::score", f"{UP} load"),
        ("etl::FlowTrain::fit", "FlowTrain::fit", f"{UP} load"),
        ("etl::load report::loads", "load loads", UP),
        ("flow_report.py::l*", "loads", ""),
        ("*::notify", "notify", f"{UP} load"),
    ],
)
def test_an_expression_chooses_by_the_graph(expression: str, asked: str, along: str, chosen: Chosen) -> None:
    assert chosen("--ff-select", expression) == (asked, along)


def test_expressions_add_up_and_pytest_chooses_among_them(chosen: Chosen) -> None:
    assert chosen("--ff-select", "loads", "--ff-select", "notify") == ("notify loads", f"{UP} load")
    assert chosen("--ff-select", "load+", "-k", "score or loads") == ("FlowTrain::score", f"{UP} load FlowTrain::fit")
    assert chosen("--ff-select", "load+", "flow_report.py") == ("table page", f"{UP} load")


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("lood", "'lood' names no task; did you mean 'flow_etl.py::load'*"),
        ("load nothing::load", "'nothing::load' names no task*"),
        ("clean[c]", "'clean[[]c[]]' names no task*"),
        ("load,,page", "*column 6: a comma stands between two terms*"),
        ("load ++page", "*column 6: one plus sign before a name*"),
        ("clean[a", "*column 6: this bracket is never closed*"),
        ("", "*an expression names at least one task*"),
    ],
)
def test_an_expression_that_means_nothing_is_refused(expression: str, complaint: str, flow: Flow, log: Log) -> None:
    result = flow(FILES, "--ff-select", expression)

    assert log() == []
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --ff-select: {complaint}"])


# ---- --ff-only -------------------------------------------------------------------------------------------------------


def test_only_what_was_asked_for_runs_where_that_is_possible(flow: Flow, log: Log) -> None:
    result = flow(FILES, "--ff-only", "-v", "--ff-select", "notify")

    assert result.ret == pytest.ExitCode.OK
    assert log() == ["notify"]
    result.stdout.no_fnmatch_line("*not asked for*")

    # In an order that respects the edges that are left.
    assert flow({}, "--ff-only", "--ff-select", "+score").ret == pytest.ExitCode.OK
    assert log() == ["extract", "clean[a]", "clean[b]", "load", "fit", "score"]


def test_only_what_was_asked_for_does_not_run_without_a_value_it_needs(flow: Flow, log: Log) -> None:
    result = flow(FILES, "--ff-only", "--ff-select", "score notify")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --ff-only leaves out *FlowTrain::fit, whose result *FlowTrain::score asks for*"]
    )

    result = flow({}, "--ff-only", "--ff-select", "load clean[a]", "--ff-dry-run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ff-only leaves out *clean[[]b[]], whose result *load asks for*"])
    assert log() == []


def test_only_counts_what_fixtures_ask_for(flow: Flow) -> None:
    source = """
        import pytest

        def flow_load(): ...

        @pytest.fixture
        def table(load): ...

        def flow_by_fixture(table): ...

        @pytest.fixture
        def everything(upstream): ...

        @pytest.mark.depends_on("load")
        def flow_by_upstream(everything): ...
    """

    result = flow(source, "--ff-only", "-k", "by_")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --ff-only leaves out load, whose result by_fixture asks for*",
            "ERROR: --ff-only leaves out load, whose result by_upstream asks for*",
        ]
    )
