"""What arrives where: the joining rule, the ``upstream`` fixture, fixtures that ask for results, values of any kind.

The flows check themselves: a task that gets something else than it expects fails, and so does the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Loaded here once for all: numpy can not be imported again by a test of which pytester forgets the modules.
import numpy as np  # noqa: F401
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]


# ---- the joining rule ------------------------------------------------------------------------------------------------


def test_variants_are_joined_by_the_parameters_they_share(flow: Flow) -> None:
    source = """
        import pytest

        # Neither alphabetical nor numerical: the order of declaration is what counts.
        fold = pytest.mark.parametrize("fold", [3, 1, 2], ids=["c", "a", "b"])
        model = pytest.mark.parametrize("model", ["tree", "line"])

        def flow_data():
            return "data"

        @fold
        def flow_split(fold, data):
            "An upstream without parameters is broadcast."
            assert data == "data"
            return fold * 10

        @model
        @fold
        def flow_fit(fold, model, split):
            "One match by sharing: the bare value."
            assert split == fold * 10
            return f"{model}{fold}"

        @fold
        @model
        def flow_score(fold, model, fit, data):
            "All parameters shared; the order of the marks, and so the ids, may differ."
            assert fit == f"{model}{fold}"
            return fit

        @fold
        def flow_best(fold, score, fit):
            "Some shared, several left: a dict, by the ids that each upstream has."
            assert list(score.items()) == [(f"tree-{ID[fold]}", f"tree{fold}"), (f"line-{ID[fold]}", f"line{fold}")]
            assert list(fit.items()) == [(f"{ID[fold]}-tree", f"tree{fold}"), (f"{ID[fold]}-line", f"line{fold}")]
            return fold

        def flow_report(best, split, score, data):
            "Nothing shared: all of them, in the order of declaration."
            assert list(best.items()) == [("c", 3), ("a", 1), ("b", 2)]
            assert list(split) == ["c", "a", "b"]
            assert list(score) == ["tree-c", "tree-a", "tree-b", "line-c", "line-a", "line-b"]
            assert data == "data"

        @pytest.mark.parametrize("other", [7])
        def flow_stranger(other, best):
            "Parameters of its own are none that it shares."
            assert list(best) == ["c", "a", "b"]
            return other

        def flow_single(stranger):
            "A parametrized upstream is a dict however many variants it has."
            assert stranger == {"7": 7}

        @pytest.mark.depends_on("split[a]", "flow_fit[c-line]", "best", "data")
        def flow_chosen(upstream):
            "One variant by name: that one, and the value is bare."
            assert upstream == {
                "split[a]": 10, "fit[c-line]": "line3", "best[c]": 3, "best[a]": 1, "best[b]": 2, "data": "data"
            }

        @fold
        @pytest.mark.depends_on("split", "score")
        def flow_by_mark(fold, upstream):
            "Marks join by the same rule."
            assert upstream == {
                f"split[{ID[fold]}]": fold * 10,
                f"score[tree-{ID[fold]}]": f"tree{fold}",
                f"score[line-{ID[fold]}]": f"line{fold}",
            }

        @pytest.mark.parametrize("model", ["line"])
        @pytest.mark.parametrize("fold", [2])
        def flow_few(fold, model, score):
            "A downstream need not have all variants."
            assert score == "line2"

        ID = {3: "c", 1: "a", 2: "b"}
    """

    result = flow(source, "-q")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1 + 3 + 6 + 6 + 3 + 1 + 1 + 1 + 1 + 3 + 1}


def test_parametrized_fixtures_are_parameters_too(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.fixture(params=["test", "live"])
        def stage(request):
            return request.param.upper()

        @pytest.fixture(params=[1, 2], scope="module")
        def size(request):
            return request.param

        def flow_deploy(stage):
            return stage

        def flow_check(deploy, stage):
            assert deploy == stage
            return deploy

        def flow_report(check):
            assert check == {"test": "TEST", "live": "LIVE"}

        def flow_grow(size, check, stage):
            "Shares one of its two parameters; the fixture of the wider scope comes first in the ids."
            assert check == stage
            return size

        def flow_sizes(grow, size):
            assert grow == {f"{size}-test": size, f"{size}-live": size}

        @pytest.mark.parametrize("stage", ["live", "spare"], indirect=True)
        def flow_indirect(stage):
            "The parameter is what was given to the fixture, not what the fixture makes of it."
            return stage

        @pytest.mark.parametrize("stage", ["spare"])
        def flow_direct(stage, indirect):
            assert (stage, indirect) == ("spare", "SPARE")
    """

    result = flow(source, "-q")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 2 + 2 + 1 + 4 + 2 + 2 + 1}


def test_parameters_are_compared_whatever_they_are(flow: Flow) -> None:
    source = """
        import pytest

        class Array:
            "Like an array: nobody may ask whether it equals another one."
            def __eq__(self, other):
                return self
            def __bool__(self):
                raise ValueError("the truth value is ambiguous")
            __hash__ = None

        class Broken:
            def __eq__(self, other):
                raise RuntimeError("no")
            def __hash__(self):
                raise RuntimeError("no")

        values = pytest.mark.parametrize(
            "value", [Array(), Array(), Broken(), [1], {"a": []}, float("nan"), None, 0],
            ids=["array", "other", "broken", "list", "dict", "nan", "none", "zero"],
        )

        @values
        def flow_a(value):
            return [value]

        @values
        def flow_b(value, a):
            assert a[0] is value

        # Equal is enough: this one is built anew.
        @pytest.mark.parametrize("value", [{"a": []}, False])
        def flow_c(value, a):
            assert type(a) is list and len(a) == 1
    """

    result = flow(source, "-q")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 18}


# ---- upstream --------------------------------------------------------------------------------------------------------


def test_upstream_holds_the_direct_upstreams_by_the_names_one_would_write(flow: Flow) -> None:
    files = {
        "flow_etl.py": """
            import pytest

            @pytest.mark.parametrize("part", ["a", "b"])
            def flow_load(part):
                return part

            class FlowTrain:
                def flow_fit(self, load):
                    return list(load)
        """,
        "flow_use.py": """
            import pytest
            from flow_etl import flow_load

            @pytest.fixture
            def keys(upstream):
                return list(upstream)

            class FlowUse:
                def flow_first(self): ...

                @pytest.mark.depends_on("first", "other", "etl::fit")
                def flow_second(self, load, upstream, keys):
                    assert list(upstream.items()) == [
                        ("flow_etl.py::load[a]", "a"),
                        ("flow_etl.py::load[b]", "b"),
                        ("first", None),
                        ("other", 5),
                        ("flow_etl.py::FlowTrain::fit", ["a", "b"]),
                    ]
                    assert keys == list(upstream)
                    upstream.clear()

            def flow_other():
                return 5

            @pytest.mark.depends_on("FlowUse::second")
            def flow_last(upstream, other):
                "Not the upstreams of its upstreams."
                assert upstream == {"other": 5, "FlowUse::second": None}
        """,
    }

    result = flow(files, "-q")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 7}


# ---- fixtures that ask for results -----------------------------------------------------------------------------------


def test_fixtures_of_every_scope_may_ask_for_a_result(flow: Flow, log: Log) -> None:
    files = {
        "conftest.py": """
            import pytest
            from log import log

            @pytest.fixture(scope="session")
            def everywhere(load):
                log("session")
                return {"loaded": load}

            @pytest.fixture(scope="module")
            def here(load, everywhere):
                log("module")
                return [load]

            @pytest.fixture(scope="class")
            def together(load):
                log("class")
                return [load]

            @pytest.fixture
            def alone(load, part):
                log("function")
                return (load, part)
        """,
        "flow_it.py": """
            import pytest

            def flow_load():
                return "data"

            @pytest.mark.parametrize("part", [1, 2])
            def flow_part(part):
                return part * 10

            def flow_one(everywhere, here):
                assert (everywhere, here) == ({"loaded": "data"}, ["data"])
                here.append("one")

            def flow_two(one, everywhere, here):
                "The wider scopes keep what they made."
                assert here == ["data", "one"]

            class FlowIt:
                def flow_three(self, together):
                    together.append("three")
                def flow_four(self, together, three):
                    assert together == ["data", "three"]

            @pytest.mark.parametrize("n", [1, 2])
            def flow_five(alone, n):
                "No parameter of it says so, and still it waits for what its fixture asks for."
                assert alone == ("data", {"1": 10, "2": 20})

            @pytest.fixture
            def mine(piece):
                return piece

            @pytest.mark.parametrize("piece", [2])
            def flow_six(mine, piece):
                "What the mark sets is what the fixture gets, as in pytest."
                assert mine == 2
        """,
    }

    result = flow(files, "-v")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 10}
    assert sorted(log()) == ["class", "function", "function", "module", "session"]
    table = flow({}, "--ff-list").stdout
    table.fnmatch_lines_random(["one * <- load *", "five[[]1[]] * <- load, part[[]1[]], part[[]2[]] *"])


def test_a_fixture_shared_by_tasks_must_mean_one_result(flow: Flow, log: Log) -> None:
    module = """
        import pytest

        @pytest.fixture(scope="module")
        def shared(load): ...

        @pytest.mark.parametrize("part", ["a", "b"])
        def flow_load(part): ...

        def flow_all(shared): ...

        @pytest.mark.parametrize("part", ["a", "b"])
        def flow_each(part, shared): ...
    """
    session = """
        from log import log

        def flow_load():
            return "{name}"

        def flow_use(database):
            log(f"{name} has got the data of {{database}}")
    """
    conftest = """
        import pytest

        @pytest.fixture(scope="session")
        def database(load):
            return load
    """

    result = flow(module)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: flow_it.py:*: *fixture*of scope module asks for the result of 'load'*"])

    result = flow(
        {
            "flow_it.py": "",
            "conftest.py": conftest,
            "flow_one.py": session.format(name="one"),
            "flow_two.py": session.format(name="two"),
        }
    )
    # There is one database, and two tasks called `load`.
    assert log() == []
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: flow_*.py:*: *fixture*of scope session asks for the result of 'load'*"])


def test_fixtures_that_nobody_shares_do_not_get_in_the_way_of_each_other(flow: Flow) -> None:
    classes = """
        import pytest

        @pytest.fixture(scope="class")
        def wide(load):
            return [load]

        @pytest.fixture
        def narrow(load):
            return [load]

        class FlowA:
            def flow_load(self):
                return "a"

            def flow_use(self, wide):
                assert wide == ["a"]

        class FlowB:
            def flow_load(self):
                return "b"

            def flow_use(self, narrow):
                assert narrow == ["b"]
    """
    session = """
        import pytest

        @pytest.fixture(scope="session")
        def database(load):
            return [load]

        def flow_load():
            return __name__

        def flow_use(database):
            assert database == [__name__]
    """

    result = flow({"flow_classes.py": classes, "flow_one.py": session, "flow_two.py": session})

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 8}


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_parameter_with_a_default_is_no_edge(flow: Flow) -> None:
    source = """
        def flow_size():
            return 5

        def flow_use(size=3, *args, key=None, **rest):
            assert (size, args, key, rest) == (3, (), None, {})
    """

    assert flow(source).parseoutcomes() == {"passed": 2}
    assert "<-" not in flow({}, "--ff-list").stdout.str()


def test_a_result_may_be_anything_and_is_handed_on_as_it_is(flow: Flow) -> None:
    source = """
        import threading

        class Frame:
            "Like a table: no truth value, no equality, no copy, no pickle."
            def __bool__(self):
                raise ValueError("the truth value is ambiguous")
            def __eq__(self, other):
                raise ValueError("can only compare identically labelled objects")
            def __len__(self):
                raise TypeError("no length")
            def __copy__(self):
                raise TypeError("no copy")
            def __reduce_ex__(self, protocol):
                raise TypeError("no pickle")
            def __getattr__(self, name):
                raise RuntimeError(name)
            def __repr__(self):
                raise RuntimeError("no repr")
            __hash__ = None

        FRAME, LOCK, ERROR = Frame(), threading.Lock(), ValueError("a value, not a failure")

        def flow_nothing(): ...
        def flow_frame(): return FRAME
        def flow_lock(): return LOCK
        def flow_error(): return ERROR
        def flow_class(): return Frame
        def flow_false(): return NotImplemented
        def flow_generator(): return (number for number in range(3))
        async def flow_coroutine(): return [1]

        def flow_check(nothing, frame, lock, error, false, generator, coroutine, upstream):
            assert nothing is None
            assert frame is FRAME
            assert lock is LOCK
            assert error is ERROR
            assert false is NotImplemented
            assert list(generator) == [0, 1, 2]
            assert coroutine is upstream["coroutine"]
            coroutine.append(2)

        def flow_after(check, coroutine):
            "By reference: what one changes, all others see."
            assert coroutine == [1, 2]

        def flow_values(upstream, frame):
            assert upstream["frame"] is frame
    """

    result = flow(source, "-W", "error", "-v")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 11}


def test_arrays_are_results_and_parameters(flow: Flow) -> None:
    source = """
        import numpy
        import pytest

        arrays = pytest.mark.parametrize("array", [numpy.zeros(3), numpy.ones(3)], ids=["zeros", "ones"])

        @arrays
        def flow_sum(array):
            return array + 1

        @arrays
        def flow_check(array, sum):
            assert (sum == array + 1).all()

        def flow_all(sum, upstream):
            assert set(sum) == {"zeros", "ones"}
            assert upstream["sum[ones]"] is sum["ones"]
    """

    assert flow(source, "-W", "error").parseoutcomes() == {"passed": 5}


def test_names_that_only_mean_something_in_a_class_are_ordinary_elsewhere(flow: Flow) -> None:
    source = """
        def flow_self():
            return 3

        def flow_cls(self):
            return self + 1

        def flow_use(cls):
            assert cls == 4
    """

    assert flow(source).parseoutcomes() == {"passed": 3}
