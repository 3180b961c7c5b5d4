"""Tasks that choose which of their downstream tasks go on."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge import only
from tests.plugin.conftest import words
from tests.plugin.keeping import make_ready, reasons_in, reused_in, run_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED


def _choose(what: str, before: str = "") -> str:
    return (
        dedent("""
            import asyncio
            from pathlib import Path
            import pytest
            from log import log
            from pytest_flowforge import NoResult, only
        """)
        + dedent(before)
        + dedent(f"""
            def flow_choose():
                log("choose")
                return {what}

            def flow_load_eu(choose):
                log(f"load_eu {{choose}}")
                return "eu"

            def flow_load_us(choose):
                log(f"load_us {{choose}}")
                return "us"

            @pytest.mark.depends_on(when="any_success")
            def flow_report(load_eu, load_us):
                log(f"report {{load_eu or load_eu.reason}}, {{load_us or load_us.reason}}")

            def flow_both(load_eu, load_us):
                log("both")
        """)
    )


def test_the_others_are_skipped_and_say_why(flow: Flow, log: Log) -> None:
    result = flow(_choose('only("load_eu", value=[1, 2])'), "-v", "-rs")

    assert result.ret == _OK
    result.assert_outcomes(passed=3, skipped=2)
    assert log() == ["choose", "load_eu [1, 2]", "report eu, choose went on with load_eu only"]
    result.stdout.fnmatch_lines(
        [
            "SKIPPED * choose went on with load_eu only",
            "SKIPPED * upstream load_us was skipped: choose went on with load_eu only",
        ]
    )


@pytest.mark.parametrize(
    "name",
    [
        '"load_eu"',
        '"flow_load_eu"',
        '"flow_it.py::load_eu"',
        '"flow_it.py::flow_load_eu"',
        '"it::load_eu"',
        "flow_load_eu",
        '*["load_eu", "load_eu"]',
    ],
)
def test_a_task_is_named_as_in_other_places(flow: Flow, log: Log, name: str) -> None:
    assert flow(_choose(f"only({name})")).ret == _OK
    assert log()[:2] == ["choose", "load_eu None"]


def test_none_may_go_on(flow: Flow, log: Log) -> None:
    result = flow(_choose("only()"), "-rs")
    result.assert_outcomes(passed=1, skipped=4)
    assert log() == ["choose"]
    result.stdout.fnmatch_lines(["SKIPPED * choose went on with none of its downstream tasks"])


def test_all_may_go_on(flow: Flow, log: Log) -> None:
    flow(_choose("only(flow_load_us, flow_load_eu, value=3)")).assert_outcomes(passed=5)
    assert log() == ["choose", "load_eu 3", "load_us 3", "report eu, us", "both"]


def test_inside_of_something_else_it_is_a_value(flow: Flow, log: Log) -> None:
    flow(_choose('[only("load_eu")]')).assert_outcomes(passed=5)
    assert log()[1] == "load_eu [Only(names=('load_eu',), value=None)]"


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        (
            'only("laod_eu")',
            (
                "choose returned only('laod_eu'): that is none of the tasks that depend on choose directly; "
                "choose among 'load_eu', 'load_us' (did you mean 'load_eu'?)"
            ),
        ),
        # A task, and none that waits for this one directly.
        ('only("load_eu", "report")', "returned only('report'): that is none of the tasks"),
        ('only("load_eu[fr]")', "returned only('load_eu[fr]'): that is none of"),
        ("only(flow_choose)", "returned only('flow_it::flow_choose'): that is none of"),
        ("only(3)", "TypeError: only() takes names of tasks and task functions, as in"),
    ],
)
def test_a_wrong_name_fails_the_task(flow: Flow, log: Log, what: str, complaint: str) -> None:
    result = flow(_choose(what), "-v", "-rf")

    assert result.ret == _FAILED
    assert words(result)[0] == ("choose", "FAILED")
    assert complaint in result.stdout.str()
    assert {word for task, word in words(result) if task != "choose"} == {"BLOCKED"}
    assert log() == ["choose"]


def test_where_nothing_follows_there_is_nothing_to_choose_from(flow: Flow) -> None:
    source = """
        from pytest_flowforge import only

        def flow_last():
            return only("next", value=1)

        def flow_none():
            return only(value=1)
    """
    result = flow(source, "-rf")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*only('next'): nothing depends on last, so there is nothing to choose from: return*"])


def test_variants_are_chosen_alone_or_together(flow: Flow) -> None:
    source = """
        import pytest
        from pytest_flowforge import only

        country = pytest.mark.parametrize("country", ["fr", "de", "us"])

        def flow_one():
            return only("load[fr]", "flow_it.py::flow_load[us]")

        @country
        def flow_load(country, one): ...

        @country
        def flow_each(country):
            return only("store" if country == "de" else "drop")

        @country
        def flow_store(country, each): ...

        @country
        def flow_drop(country, each): ...

        def flow_all():
            return only("split")

        @country
        def flow_split(country, all): ...

        def flow_other(all): ...
    """
    result = flow(source, "-v")
    skipped = {task for task, word in words(result) if word == "SKIPPED"}
    assert skipped == {"load[de]", "store[fr]", "store[us]", "drop[de]", "other"}


#: A way that leads back: what is stored waits for the one who chose as well.
_STORED = """
    from log import log
    from pytest_flowforge import only

    def flow_choose():
        return only("clean", value="rows")

    def flow_clean(choose):
        return f"clean {choose}"

    def flow_store(choose, clean):
        log(f"store {choose} and {clean}")
"""


def test_what_waits_for_a_chosen_one_as_well_goes_on(flow: Flow, log: Log) -> None:
    raw = """
    def flow_raw(choose): ...
    """
    flow(_STORED + raw).assert_outcomes(passed=3, skipped=1)
    assert log() == ["store rows and clean rows"]


_ACROSS = {
    "flow_a.py": """
        from flow_b import flow_other
        from pytest_flowforge import only

        def flow_choose():
            return only({})

        def flow_load(choose): ...

        class FlowStore:
            def flow_load(self, choose):
                return only("save")

            def flow_save(self, load): ...

            def flow_drop(self, load): ...
    """,
    "flow_b.py": """
        import pytest

        @pytest.mark.depends_on("flow_a.py::choose")
        def flow_load(): ...

        @pytest.mark.depends_on("flow_a.py::choose")
        def flow_other(): ...
    """,
    "flow_c.py": """
        import pytest

        @pytest.mark.depends_on("flow_a.py::choose")
        def flow_more(): ...

        @pytest.mark.depends_on("more")
        def flow_choose(): ...
    """,
    "flow_d.py": """
        import pytest

        @pytest.mark.depends_on("flow_a.py::choose")
        def flow_more(): ...
    """,
}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ('"load"', "flow_a.py::flow_load"),
        ('"flow_b.py::load"', "flow_b.py::flow_load"),
        ('"other"', "flow_b.py::flow_other"),
        ("flow_other", "flow_b.py::flow_other"),
        ('"FlowStore::load"', "flow_a.py::FlowStore::flow_load"),
        ('"flow_a.py::FlowStore::flow_load"', "flow_a.py::FlowStore::flow_load"),
    ],
)
def test_names_lead_into_other_files_and_classes(flow: Flow, names: str, chosen: str) -> None:
    files = {**_ACROSS, "flow_a.py": _ACROSS["flow_a.py"].replace("{}", names)}
    result = flow(files, "-v")

    assert result.ret == _OK
    save = {"flow_a.py::FlowStore::flow_save"} if "FlowStore" in chosen else set()
    passed = {line.partition(" ")[0] for line in result.outlines if "PASSED" in line}
    assert passed == {"flow_a.py::flow_choose", chosen} | save


def test_a_name_that_several_have_is_refused(flow: Flow) -> None:
    files = {**_ACROSS, "flow_a.py": _ACROSS["flow_a.py"].replace("{}", '"more"')}
    result = flow(files, "-rf")
    assert result.ret == _FAILED
    result.stdout.fnmatch_lines(
        ["choose returned only('more'): 'more' is ambiguous, it may be any of more (flow_c.py:*"]
    )


def test_any_kind_of_task_may_choose(flow: Flow) -> None:
    source = """
        import pytest
        from pathlib import Path
        from pytest_flowforge import only

        async def flow_coroutine():
            return only("a", value=1)

        def flow_a(coroutine):
            assert coroutine == 1

        def flow_b(coroutine): ...

        class FlowClass:
            def flow_method(self):
                return only("c", value=2)

            def flow_c(self, method):
                assert method == 2

            def flow_d(self, method): ...

        @pytest.mark.retry(1)
        def flow_second():
            if not Path("tried").exists():
                Path("tried").touch()
                raise OSError
            return only("e", value=3)

        def flow_e(second):
            assert second == 3

        def flow_f(second): ...

        @pytest.fixture
        def chosen():
            return only("g", value=4)

        def flow_by_fixture(chosen):
            return chosen

        def flow_g(by_fixture):
            assert by_fixture == 4

        def flow_h(by_fixture): ...

        def flow_receives(chosen, g):
            assert chosen.names == ("g",)
    """
    result = flow(source, "-v")
    assert result.ret == _OK
    assert sorted(re.findall(r"flow_(\w) SKIPPED", result.stdout.str())) == ["b", "d", "f", "h"]
    result.assert_outcomes(passed=9, skipped=4)


@pytest.mark.parametrize("plugin", ["pytest_asyncio.plugin", "anyio.pytest_plugin", "pytest_rerunfailures"])
def test_a_task_that_another_plugin_runs_may_choose(flow: Flow, log: Log, plugin: str) -> None:
    pytest.importorskip(plugin.partition(".")[0])
    marks = {
        "pytest_asyncio.plugin": "@pytest.mark.asyncio\nasync ",
        "anyio.pytest_plugin": "@pytest.mark.anyio\nasync ",
        "pytest_rerunfailures": "@pytest.mark.flaky(reruns=2)\n",
    }
    source = _choose('only("load_us", value=5)').replace("def flow_choose", f"{marks[plugin]}def flow_choose")
    backend = "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    result = flow({"flow_it.py": source, "conftest.py": backend}, "-v", plugins=[plugin])

    assert result.ret == _OK
    assert log() == ["choose", "load_us 5", "report choose went on with load_us only, us"]


def test_what_failed_after_it_returned_has_not_chosen(flow: Flow, log: Log) -> None:
    fixture = """
        @pytest.fixture(autouse=True)
        def breaks(request):
            yield
            assert request.node.name != "flow_choose", "in the teardown"
    """
    result = flow(_choose('only("load_eu")', fixture), "-v")
    assert result.ret == _FAILED
    assert log() == ["choose"]
    result.stdout.fnmatch_lines(["*load_eu BLOCKED*", "*load_us BLOCKED*"])


# ---- mapped tasks ----------------------------------------------------------------------------------------------------


_MAPPED = """
    import pytest
    from log import log
    from pytest_flowforge import only

    def flow_choose():
        return only("each", value=[1, 2])

    @pytest.mark.map("choose")
    def flow_each(choose):
        return choose

    @pytest.mark.map("choose")
    def flow_other(choose): ...

    @pytest.mark.depends_on("each", "other", when="any_success")
    def flow_last():
        log("last")
"""


def test_a_mapped_task_is_one_way(flow: Flow, log: Log) -> None:
    result = flow(_MAPPED, "-v")
    assert sorted(words(result)) == [
        ("choose", "PASSED"),
        ("each[1]", "PASSED"),
        ("each[2]", "PASSED"),
        ("last", "PASSED"),
        ("other", "SKIPPED"),
    ]
    assert log() == ["last"]
    resumed = flow({}, "-v", "--ff-resume")
    assert reused_in(resumed) == {"choose", "each[1]", "each[2]", "last"}
    assert reasons_in(resumed) == {"other": "choose went on with each only"}
    assert log() == []


def test_instances_do_not_choose(flow: Flow, log: Log) -> None:
    result = flow(_MAPPED.replace("return choose", 'return only("last")'), "-v")
    assert result.ret == _FAILED
    result.stdout.fnmatch_lines(["each?1? returned only(): it is one of several instances of a mapped task, *"])
    assert log() == []


# ---- parts of the graph ----------------------------------------------------------------------------------------------


def test_what_is_not_part_of_the_run_may_be_chosen(flow: Flow, log: Log) -> None:
    result = flow(_choose('only("load_eu")'), "-v", "-k", "load_us")
    assert words(result) == [("choose", "PASSED"), ("load_us", "SKIPPED")]
    assert log() == ["choose"]
    # It went another way then, and still does.
    assert words(flow({}, "-v", "--ff-resume", "-k", "load_us")) == [("choose", "REUSED"), ("load_us", "SKIPPED")]
    assert log() == []
    assert reused_in(flow({}, "-v", "--ff-resume")) == {"choose"}
    assert log() == ["load_eu None", "report eu, choose went on with load_eu only"]


def test_a_join_that_waits_for_what_is_left_out_goes_on(flow: Flow, log: Log) -> None:
    flow(_STORED)
    result = flow({}, "-v", "--ff-only", "flow_it.py::flow_choose", "flow_it.py::flow_store")
    assert words(result) == [("choose", "PASSED"), ("store", "PASSED")]
    assert log() == ["store rows and clean rows"] * 2


def test_whoever_asks_for_it_alone_gets_it(flow: Flow, log: Log) -> None:
    flow(_choose('only("load_eu", value=1)'))
    log()
    result = flow({}, "-v", "--ff-only", "-k", "load_us")
    assert words(result) == [("load_us", "PASSED")]
    assert log() == ["load_us 1"]


def test_a_choice_can_be_replayed(flow: Flow, log: Log) -> None:
    flow(_choose('only("load_eu")'))
    log()
    assert flow({}, "-v", "--ff-replay", "choose").ret == _OK
    assert log() == ["choose"]
    refused = flow({}, "--ff-replay", "both")
    refused.stderr.fnmatch_lines(["*in run * it could not run (when=all_success; load_eu success, load_us skipped)*"])


# ---- earlier runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--ff-resume", "--ff-cache"])
def test_a_choice_is_remembered(flow: Flow, log: Log, how: str) -> None:
    source = _choose('only("load_eu", value=1)') + dedent("""
        def flow_last(load_eu):
            log("last")
            assert Path("ready").exists()
    """)
    assert flow(source).ret == _FAILED
    log()
    asked = flow({}, how, "--ff-dry-run")
    asked.stdout.fnmatch_lines(["*load_us*choose went on with load_eu only*"])
    for _ in range(2):
        assert flow({}, how).ret == _FAILED
        assert log() == ["last"]
    resumed = flow({}, "-v", how)
    assert reused_in(resumed) == {"choose", "load_eu", "report"}
    assert reasons_in(resumed) == {
        "load_us": "choose went on with load_eu only",
        "both": "was skipped",
        "last": "failed last time",
    }


def test_another_choice_makes_other_tasks_run(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = _choose('only("load_us" if Path("ready").exists() else "load_eu")')
    flow(source)
    assert log() == ["choose", "load_eu None", "report eu, choose went on with load_eu only"]
    make_ready(pytester)
    assert flow({}, "--ff-resume", "--ff-force", "choose").ret == _OK
    assert log() == ["choose", "load_us None", "report choose went on with load_us only, us"]
    # Both have a success now that was made of the same; only one is chosen.
    assert reused_in(flow({}, "-v", "--ff-cache")) == {"choose", "load_us", "report"}
    assert log() == []


def test_a_choice_that_leads_nowhere_any_more_is_made_again(flow: Flow, log: Log) -> None:
    flow(_choose('only("load_eu")'))
    log()
    source = _choose('only("load_eu")').replace("def flow_load_eu(choose):", "def flow_load_eu(choose=0):")
    result = flow(source, "-v", "--ff-resume")
    assert reasons_in(result)["choose"] == "flow_load_eu, which it chose, is not downstream of it any more"
    assert log()[0] == "choose"
    result.stdout.fnmatch_lines(["*choose returned only('load_eu'): that is none of*"])


def test_a_choice_survives_going_back(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    flow(_choose('only("load_eu")'))
    flow(_choose('only("load_us")'))
    log()
    flow(_choose('only("load_eu")'), "--ff-rollback", run_ids(pytester)[0])
    assert reused_in(flow({}, "-v", "--ff-resume")) == {"choose", "load_eu", "report"}
    assert log() == []


@pytest.mark.usefixtures("log")
def test_what_became_of_it_is_told(flow: Flow) -> None:
    flow(_choose('only("load_eu")'))
    status = flow({}, "--ff-status", "-v")
    status.stdout.fnmatch_lines(["*skipped*load_us*choose went on with load_eu only*"])


def test_only_is_a_value_that_can_be_looked_at() -> None:
    def flow_load() -> None: ...

    assert only("a", value=1) == only("a", value=1)
    assert only(flow_load).names == ("test_branches::test_only_is_a_value_that_can_be_looked_at::<locals>::flow_load",)
