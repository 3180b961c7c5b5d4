"""What is wrong with a flow is found before any task runs, and told all at once: where, what, and the way out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]


def problems(result: pytest.RunResult) -> list[str]:
    """The problems of a run that was refused, in the order in which they were told."""
    title, *found = [text.strip() for text in re.split(r"^ERROR: ", result.stderr.str(), flags=re.MULTILINE)[1:]]
    count = f"{len(found)} problem{'' if len(found) == 1 else 's'}"
    assert title == f"flowforge: {count} in the flows, nothing was run"
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert set(result.parseoutcomes()) <= {"deselected"}
    return found


def place(problem: str) -> str:
    """``file:line`` of a problem."""
    return problem.partition(": ")[0]


def matching(found: Sequence[str], expected: Sequence[tuple[str, ...]]) -> None:
    """Assert that each of *found* is at the place that comes first in its entry of *expected*, and has all the rest."""
    assert [place(problem) for problem in found] == [where for where, *_ in expected]
    for problem, (_, *parts) in zip(found, expected, strict=True):
        assert [part for part in parts if part not in problem] == [], problem


# ---- everything at once ----------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_in_the_order_of_files_and_lines(flow: Flow, log: Log) -> None:
    files = {
        "flow_b.py": """
            import functools
            from log import log

            def flow_unfinished(exctract, nonsense):
                log("ran")

            def flow_extract():
                log("ran")

            def flow_lines():
                yield 1

            async def flow_stream():
                yield 1

            flow_limit = 3

            def lost(function):
                "A decorator that has forgotten to return something."

            @lost
            def flow_decorated(): ...

            flow_partial = functools.partial(print, 1)

            class FlowTrain:
                def __init__(self, size): ...
                def flow_learn(self): ...

            def flow_twice(): ...
            def flow_twice(): ...

            # No problem of its own: what it asks for exists, or will, once the others are solved.
            def flow_fine(extract, lines, learn, decorated): ...
        """,
        "flow_c.py": """
            import pytest
            from log import log

            def flow_a(c): ...
            def flow_b(a): ...
            def flow_c(b): log("ran")

            def flow_self(itself): ...
            def flow_itself(itself): ...

            @pytest.mark.depends_on("extarct", "flow_a.py::load", "b::extarct", "train::fit", "FlowOne::load")
            def flow_refers(): ...

            @pytest.mark.parametrize("fold", ["one", "two"])
            def flow_fit(fold): ...

            @pytest.mark.depends_on("fit[three]", "a[one]", "fit[")
            def flow_variants(): ...

            @pytest.mark.parametrize("fold", ["two", "three"])
            def flow_score(fold, fit): ...

            class FlowOne:
                def flow_step(self): ...
            class FlowTwo:
                def flow_step(self): ...

            @pytest.mark.depends_on("step")
            def flow_which(): ...
            def flow_either(step): ...

            @pytest.fixture
            def raw(missing): ...
            def flow_raw(): ...
            def flow_both(raw, tmp_path): ...
            def flow_year(): ...
            @pytest.mark.parametrize("year", [1])
            def flow_three(year): ...

            @pytest.mark.pool("cpu")
            def flow_no_pool(): ...
            @pytest.mark.pool("gpu", mem=9)
            def flow_too_much(): ...
        """,
    }

    result = flow(files, "--ff-pool", "mem=8", "--ff-pool", "gpu=1")

    assert log() == []
    matching(
        problems(result),
        [
            ("flow_b.py:5", "'exctract' of flow_unfinished is neither a task nor a fixture", "did you mean 'extract'?"),
            ("flow_b.py:5", "'nonsense' of flow_unfinished is neither a task nor a fixture"),
            ("flow_b.py:11", "flow_lines is a generator function", "return a list"),
            ("flow_b.py:14", "flow_stream is a generator function", "return a list"),
            ("flow_b.py:17", "flow_limit is 3, not a function", "rename it"),
            ("flow_b.py:22", "flow_decorated is None, not a function", "a decorator must return a function"),
            ("flow_b.py:25", "flow_partial is functools.par", "not a function"),
            ("flow_b.py:27", "class FlowTrain has tasks and a constructor", "use fixtures or class attributes"),
            ("flow_b.py:32", "flow_twice is defined twice", "first at line 31", "rename one of them"),
            ("flow_c.py:5", "a -> b -> c -> a", "a: flow_c.py:5", "b: flow_c.py:6", "c: flow_c.py:7"),
            ("flow_c.py:10", "'itself' depends on itself"),
            ("flow_c.py:12", "'extarct' names no task", "did you mean 'flow_b.py::extract'?"),
            ("flow_c.py:12", "'flow_a.py::load' names no task"),
            ("flow_c.py:12", "'b::extarct' names no task", "did you mean 'flow_b.py::extract'?"),
            ("flow_c.py:12", "'train::fit' names no task", "'fit'"),
            ("flow_c.py:12", "'FlowOne::load' names no task"),
            ("flow_c.py:18", "fit has no variant 'three'", "there is 'fit[one]', 'fit[two]'"),
            ("flow_c.py:18", "a has no variant 'one'"),
            ("flow_c.py:18", "'fit['"),
            ("flow_c.py:21", "score[three] depends on fit", "no variant has fold='three'"),
            ("flow_c.py:29", "'step' is ambiguous", "FlowOne::step (flow_c.py:25)", "FlowTwo::step (flow_c.py:27)"),
            ("flow_c.py:31", "'step' is ambiguous", "'FlowOne::step'"),
            ("flow_c.py:36", "'raw' of flow_both names the task raw (flow_c.py:35) and the fixture 'raw'", "rename"),
            ("flow_c.py:36", "parameter 'missing' of fixture 'raw' is neither a task nor a fixture"),
            ("flow_c.py:38", "'year' of flow_three names the task year (flow_c.py:37) and the parametrize mark sets"),
            ("flow_c.py:41", "'no_pool' asks for pool 'cpu', and there is no such pool"),
            ("flow_c.py:43", "'too_much' asks for 9 units of pool 'mem', which has 8"),
        ],
    )


def test_bad_arguments_of_marks_are_quoted_with_what_was_expected(flow: Flow, log: Log) -> None:
    cases = [
        ("retry(-1)", "retry(max_retries=-1): give a whole number of 0 or more"),
        ("retry(True)", "retry(max_retries=True)"),
        ('retry("3")', "retry(max_retries='3')"),
        ("retry()", "retry(): missing a required argument: 'max_retries'"),
        ("retry(1, backof=2)", "unexpected keyword argument 'backof'; it takes max_retries, delay, backoff"),
        ("retry(1, delay=-1)", "retry(delay=-1): give a number, 0 or more"),
        ('retry(1, delay=float("nan"))', "retry(delay=nan): give a number, 0 or more"),
        ("retry(1, jitter=2)", "retry(jitter=2): give a number, 0 to 1"),
        ('retry(1, max_delay="1m")', "retry(max_delay='1m'): give a number"),
        ("retry(1, on=OSError())", "retry(on=OSError()): give exception classes, as in on=(OSError,)"),
        ('retry(1, not_on=("OSError",))', "retry(not_on=('OSError',)): give exception classes"),
        ("retry(1, on=(int,))", "retry(on=(<class 'int'>,)): give exception classes"),
        ("pool()", 'pool() names no pool: write pool("gpu") or pool(mem=8)'),
        ("pool(3)", "pool(3): a pool is named by a string"),
        ("pool(mem=0)", "pool(mem=0): give a whole number of 1 or more"),
        ("pool(mem=1.5)", "pool(mem=1.5): give a whole number of 1 or more"),
        ('priority("high")', "priority('high'): give a whole number"),
        ("priority()", "priority(): missing a required argument"),
        ('depends_on("ok", when="sometimes")', "when='sometimes'): there is no such rule; use one of 'all_success', "),
        ('depends_on("ok", when=["all_done"])', "when=['all_done']): there is no such rule"),
        ('depends_on(["ok", "other"])', "give the names one by one, as in depends_on('ok', 'other')"),
        ("depends_on(3)", "3 is no reference to a task"),
        ("depends_on(None)", "None is no reference to a task"),
        ('depends_on("")', "'' names no task"),
        ("depends_on(print, log)", "print is not a task of this session"),
        ('depends_on("ok", wenn="all_done")', "depends_on() has no argument 'wenn'"),
        ('depends_on(tests=["ok"])', "is the mark of the plugin pytest-depends-on", "-p no:depends_on"),
        ("depends_on()", "has a depends_on mark without any task"),
        ("depends_on", "has a depends_on mark without any task"),
    ]
    tasks = [
        f"@pytest.mark.{mark}\ndef flow_task{number}():\n    log('ran')\n" for number, (mark, *_) in enumerate(cases)
    ]
    source = "\n".join(["import pytest", "from log import log", "def flow_ok(): log('ran')", *tasks])

    found = problems(flow(source))

    assert log() == []
    # print and log are two; each other mark has one.
    found = [problem for problem in found if "log is not a task" not in problem]
    matching(found, [(f"flow_it.py:{4 + 4 * number}", *parts) for number, (_, *parts) in enumerate(cases)])
    for problem, (number, _) in zip(found, enumerate(cases), strict=True):
        assert f"flow_task{number}" in problem


def test_three_hundred_problems_are_three_hundred_problems(flow: Flow) -> None:
    source = "\n".join(f"def flow_task{number}(tsak{number}): ..." for number in range(300))

    found = problems(flow(source, timeout=60))

    assert [place(problem) for problem in found] == [f"flow_it.py:{line}" for line in range(1, 301)]
    # Looking for close names takes its time; it need not be done for all of so many.
    assert "did you mean 'task0'" in found[0]


def test_problems_of_a_part_that_was_not_asked_for_are_told_as_well(flow: Flow) -> None:
    source = """
        def flow_good(): ...
        def flow_bad(nothing): ...
    """

    assert len(problems(flow(source, "flow_it.py::flow_good"))) == 1
    assert len(problems(flow({}, "-k", "good"))) == 1
    assert len(problems(flow({}, "--ff-select", "good", "-q"))) == 1


# ---- circles ---------------------------------------------------------------------------------------------------------


def test_each_circle_is_told_once_and_wherever_it_leads(flow: Flow) -> None:
    files = {
        "flow_one.py": """
            import pytest

            @pytest.mark.depends_on("two::b")
            def flow_a(): ...

            @pytest.fixture
            def table(last): ...

            def flow_first(table): ...
            class FlowMiddle:
                def flow_middle(self, first): ...
            def flow_last(middle): ...

            @pytest.mark.parametrize("n", [1, 2])
            @pytest.mark.depends_on("even")
            def flow_odd(n): ...

            @pytest.mark.parametrize("n", [1, 2])
            def flow_even(n, odd): ...
        """,
        "flow_two.py": """
            import pytest

            @pytest.mark.depends_on("one::a")
            def flow_b(): ...

            def flow_free(): ...
        """,
        "flow_long.py": "\n".join(f"def flow_t{number}(t{(number + 1) % 3000}): ..." for number in range(3000)),
    }

    found = problems(flow(files))

    matching(
        found,
        [
            ("flow_long.py:1", "t0 -> t2999 -> t2998 -> ", "... 2,980 more -> t0"),
            ("flow_one.py:4", "a -> b -> a", "a: flow_one.py:4", "b: flow_two.py:4"),
            ("flow_one.py:10", "first -> FlowMiddle::middle -> last -> first", "last: flow_one.py:13"),
            ("flow_one.py:15", "odd[1] -> even[1] -> odd[1]"),
            ("flow_one.py:15", "odd[2] -> even[2] -> odd[2]"),
        ],
    )
    assert all(len(problem) < 3000 for problem in found)


# ---- depends_on(flow_a) ----------------------------------------------------------------------------------------------


def test_the_mark_with_one_bare_function_never_passes_in_silence(flow: Flow, log: Log) -> None:
    files = {
        "flow_plain.py": """
            import pytest
            from log import log

            def flow_a(): log("ran")

            @pytest.mark.depends_on(flow_a)
            def flow_b(): log("ran")
        """,
        "flow_params.py": """
            import pytest

            @pytest.fixture
            def raw(): ...

            def flow_a(raw):
                return raw

            @pytest.mark.depends_on(flow_a)
            def flow_b(): ...

            def flow_c(b): ...
        """,
        "flow_class.py": """
            import pytest
            from pytest import mark

            class FlowIt:
                def flow_a(self): ...

                @mark.depends_on(flow_a)
                def flow_b(self): ...
        """,
        "flow_file.py": """
            import pytest

            def flow_a(): ...
            pytestmark = pytest.mark.depends_on(flow_a)
            def flow_b(): ...
        """,
        "flow_module.py": """
            import flow_target
            import pytest

            @pytest.mark.depends_on(flow_target.flow_goal)
            def flow_b(): ...
        """,
        "flow_target.py": """
            def flow_goal(value=None):
                return value
        """,
    }

    found = problems(flow(files))

    assert log() == []
    matching(
        found,
        [
            ("flow_class.py:8", "depends_on(flow_a) with one bare function", '@pytest.mark.depends_on("a")'),
            ("flow_file.py:5", "depends_on(flow_a) with one bare function"),
            ("flow_module.py:5", "depends_on(flow_goal) with one bare function", "pytest_flowforge.depends_on("),
            ("flow_params.py:10", "depends_on(flow_a) with one bare function", "@pytest_flowforge.depends_on(flow_a)"),
            ("flow_plain.py:7", "depends_on(flow_a) with one bare function"),
        ],
    )


def test_nor_does_it_under_another_name(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        after = pytest.mark.depends_on

        def flow_a(value):
            return value

        @after(flow_a)
        def flow_b():
            log("ran")

        def flow_c(value=None): ...

        @after(flow_c)
        def flow_d():
            log("ran")
    """
    elsewhere = {
        "flow_lib.py": """
            def flow_goal(value=None):
                return value
        """,
        "flow_use.py": """
            import pytest
            from flow_lib import flow_goal as goal
            from log import log

            @pytest.mark.depends_on(goal)
            def flow_b():
                log("ran")
        """,
    }

    found = problems(flow(source))
    assert [place(problem) for problem in found] == ["flow_it.py:7", "flow_it.py:14", "flow_it.py:16"]
    for problem in found[:2]:
        assert "has a depends_on mark without any task" in problem
        assert "with one bare function can not work" in problem

    # The file with the function that now carries the mark is not even part of the session.
    assert "with one bare function can not work" in " ".join(problems(flow(elsewhere, "flow_use.py")))
    assert log() == []


# ---- files that can not be collected ---------------------------------------------------------------------------------


def test_a_file_that_does_not_import_hides_no_other_problem(flow: Flow, log: Log) -> None:
    files = {
        "flow_a.py": """
            from log import log

            def flow_a(b): log("ran")
            def flow_b(a): log("ran")
        """,
        "flow_broken.py": """
            import pytest

            def flow_load(): ...

            raise ValueError("not today")
        """,
        "flow_syntax.py": """
            def flow_parse(: ...
        """,
        "flow_use.py": """
            import pytest
            from log import log

            # That these are not there is the fault of the files that are broken.
            @pytest.mark.depends_on("flow_broken.py::load", "broken::load", "syntax::parse", "flow_syntax.py::parse")
            def flow_use(): log("ran")

            def flow_use_it(nothing): ...
        """,
    }

    result = flow(files)

    assert log() == []
    assert result.ret == pytest.ExitCode.INTERRUPTED
    output = result.stdout.str()
    # Each of the two is told once, and what is said is about the flow, not about us.
    assert result.parseoutcomes() == {"errors": 2}
    assert output.count("ValueError: not today") == 2  # In the report and in pytest's short summary.
    assert "FileNotCollected" not in output
    told = output.partition("= flowforge =")[2].partition("\n=")[0].splitlines()[1:]
    assert [place(line) for line in told if not line.startswith(" ")] == ["flow_a.py:4", "flow_use.py:9"]


def test_a_file_that_can_not_be_collected_lets_nothing_run_without_it(flow: Flow, log: Log) -> None:
    files = {
        "flow_broken.py": """
            raise ValueError("not today")
            def flow_load(): ...
        """,
        "flow_fine.py": """
            import pytest
            from log import log

            @pytest.mark.depends_on("broken::load")
            def flow_use(): log("use")

            def flow_next(use): log("next")

            def flow_other(): log("other")
        """,
    }

    # pytest goes on with what it has; a task whose upstream is missing is not among that.
    result = flow(files, "--continue-on-collection-errors")

    assert result.ret != pytest.ExitCode.OK
    assert {"use", "next"}.isdisjoint(log())


def test_a_file_that_skips_itself_lets_nothing_run_without_it(flow: Flow, log: Log) -> None:
    files = {
        "flow_linux.py": """
            import pytest
            pytest.skip("only on linux", allow_module_level=True)
            def flow_load(): ...
        """,
        "flow_use.py": """
            import pytest
            from log import log

            @pytest.mark.depends_on("linux::load")
            def flow_use(): log("use")

            def flow_other(): log("other")
        """,
    }

    result = flow(files, "-rs")

    # Skipped with its upstream or refused: both are fine, as long as the reason is told.
    assert "use" not in log()
    assert "only on linux" in result.stdout.str() + result.stderr.str()
    assert "FileNotCollected" not in result.stdout.str() + result.stderr.str()


def test_a_file_given_twice_is_there_once(flow: Flow) -> None:
    source = """
        def flow_a(): ...
        def flow_b(a): ...
    """

    result = flow(source, "flow_it.py::flow_b", "./flow_it.py::flow_b", ".", "flow_it.py::flow_a")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 2}


def test_nothing_to_run_is_no_success(flow: Flow) -> None:
    assert flow({"flow_empty.py": "", "test_it.py": "def test_it(): ..."}).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert flow({"flow_empty.py": "def helper(): ..."}, "flow_empty.py").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_no_flow_files_is_no_success(flow: Flow) -> None:
    result = flow({"test_it.py": "def test_it(): raise ValueError"})
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED

    result = flow({}, "flow_missing.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: file or directory not found: flow_missing.py"])


# ---- names -----------------------------------------------------------------------------------------------------------


def test_two_tasks_of_one_name_are_refused_however_they_come_about(flow: Flow) -> None:
    files = {
        "pytest.ini": """
            [pytest]
            flowforge_functions = flow_ step_
        """,
        "flow_it.py": """
            def flow_load(): ...
            def step_load(): ...
            def flow_use(load): ...
        """,
    }

    found = problems(flow(files))

    assert any("load" in problem and "flow_it.py:2" in problem and "flow_it.py:3" in problem for problem in found)


@pytest.mark.parametrize("name", ["tmp_path", "upstream", "request"])
def test_a_parameter_that_could_be_a_task_or_a_fixture_is_refused(name: str, flow: Flow) -> None:
    source = f"""
        def flow_{name}(): ...
        def flow_use({name}): ...
    """

    [problem] = problems(flow(source))

    assert f"parameter '{name}' of flow_use names the task {name} (flow_it.py:2) and the fixture '{name}'" in problem


def test_a_name_without_a_task_leads_to_the_one_in_another_file(flow: Flow) -> None:
    files = {
        "flow_etl.py": "def flow_load(): ...",
        "flow_use.py": """
            import pytest
            def flow_by_parameter(load): ...
            @pytest.mark.depends_on("load")
            def flow_by_mark(): ...
        """,
    }

    by_parameter, by_mark = problems(flow(files))

    assert "from flow_etl import flow_load" in by_parameter
    assert "'flow_etl.py::load'" in by_mark


def test_references_to_several_files_of_one_name_ask_for_the_path(flow: Flow) -> None:
    files = {
        "a/flow_etl.py": "def flow_load(): ...",
        "b/etl_flow.py": "def flow_load(): ...",
        "flow_use.py": """
            import pytest
            @pytest.mark.depends_on("etl::load")
            def flow_use(): ...
        """,
    }

    [problem] = problems(flow(files))

    assert "'etl' may be any of a/flow_etl.py, b/etl_flow.py: write the path" in problem


STRANGE = r"""
    import pytest

    IDS = [
        "it's \"quoted\"", "two\nlines", "tab\t", "naïve ☃ 🙂", "a::b", "br[a]ck[", "]", "", " ", "-x", "*?",
        "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "null\x00", "fold,1", "+a+", "../..", "%s{0}", "\u202egnp.exe",
    ]
    strange = pytest.mark.parametrize("name", IDS, ids=IDS)

    @strange
    def flow_a(name):
        return name

    @strange
    def flow_b(name, a):
        assert name == a
        return name

    @pytest.mark.parametrize("big", ["x" * 1_000_000], ids=["big"])
    def flow_big(big):
        return big

    def flow_all(a, b, big, upstream):
        assert list(a.values()) == list(b.values()) == IDS
        assert len(big["big"]) == 1_000_000
        assert len(upstream) == 2 * len(IDS) + 1

    def flow_naïve(): ...
    def flow_use(naïve): ...
"""


@pytest.mark.parametrize("escaping", ["escaped", "as they are"])
def test_names_may_hold_anything(escaping: str, flow: Flow) -> None:
    files = {"flow_it.py": STRANGE}
    if escaping == "as they are":
        # An option of pytest's that lets ids through to the terminal; ours are made printable all the same.
        files["pytest.ini"] = "[pytest]\ndisable_test_id_escaping_and_forfeit_all_rights_to_community_support = true"

    result = flow(files, "-q", "--junitxml=report.xml")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 19 * 2 + 4}
    for arguments in (["--ff-list", "-v"], ["--ff-dry-run", "--ff-select", "all"]):
        result = flow({}, *arguments)
        assert result.ret == pytest.ExitCode.OK
        if escaping == "escaped":
            assert "\x1b" not in result.stdout.str()
        else:
            # Up to the first of our lines, pytest speaks.
            assert "\x1b" not in result.stdout.str().partition("collected ")[2]
        # Not to be taken for all variants of the function.
        assert "a[]" in result.stdout.str()


def test_what_is_quoted_in_a_problem_can_do_no_harm(flow: Flow, log: Log) -> None:
    source = r"""
        import pytest
        from log import log

        class Escape:
            def __repr__(self):
                return "\x1b[31mred\x1b]0;title\x07\rline\nline"

        class NoRepr:
            def __repr__(self):
                raise RuntimeError("no repr")

        class Huge:
            def __repr__(self):
                return "x" * 1_000_000

        flow_value1, flow_value2, flow_value3 = Escape(), NoRepr(), Huge()

        def flow_ok(): log("ran")

        @pytest.mark.depends_on(Escape(), "\x1b[31m", "x" * 1_000_000)
        def flow_refers(): ...
        @pytest.mark.depends_on(NoRepr())
        def flow_refers2(): ...
        @pytest.mark.depends_on("ok", when=NoRepr())
        def flow_when(): ...
        @pytest.mark.depends_on([NoRepr()])
        def flow_list(): ...
        @pytest.mark.retry(Escape())
        def flow_retry(): ...
        @pytest.mark.retry(1, on=NoRepr())
        def flow_retry2(): ...
        @pytest.mark.retry(1, delay=Huge())
        def flow_retry3(): ...
        @pytest.mark.priority(NoRepr())
        def flow_priority(): ...
        @pytest.mark.pool(NoRepr())
        def flow_pool(): ...
        @pytest.mark.pool("\x1b[2J", mem=Huge())
        def flow_pool2(): ...

        @pytest.mark.parametrize("value", [NoRepr(), 1, Huge()], ids=["a", "b", "c"])
        def flow_values(value): ...
        @pytest.mark.parametrize("value", [NoRepr(), 2, Huge()], ids=["a", "b", "c"])
        def flow_downstream(value, values): ...
    """

    result = flow(source)

    assert log() == []
    found = problems(result)
    assert "\x1b" not in result.stderr.str()
    assert max(len(problem) for problem in found) < 5000
    named = ["value1", "value2", "value3", "refers", "refers2", "when", "list", "retry", "retry2", "retry3"]
    for name in [*named, "priority", "pool", "pool2", "downstream"]:
        assert any(name in problem for problem in found), name
