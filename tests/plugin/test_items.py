"""Items of our own class must answer exactly as those of pytest would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_ALL_KINDS = {
    "helper.py": """
        import functools

        def wrapping(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        def renaming(function):
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        def flow_from_elsewhere():
            pass
    """,
    "flow_kinds.py": """
        import functools
        import pytest
        from helper import flow_from_elsewhere, renaming, wrapping

        def flow_plain():
            pass

        @pytest.mark.priority(1)
        @pytest.mark.parametrize("x", [1, 2])
        def flow_parametrized(x):
            pass

        @wrapping
        def flow_wrapped():
            pass

        @renaming
        def flow_renamed():
            pass

        async def flow_coroutine():
            pass

        def flow_placed():
            pass

        flow_placed.place_as = flow_plain

        namespace = {}
        exec("def flow_executed():\\n    pass", namespace)
        flow_executed = namespace["flow_executed"]

        class FlowOuter:
            def flow_method(self):
                pass

            @staticmethod
            def flow_static():
                pass

            @wrapping
            def flow_wrapped(self):
                pass

            class FlowInner:
                @pytest.mark.parametrize("x", ["a.b"])
                def flow_method(self, x):
                    pass
    """,
    "below/flow_below.py": """
        def flow_below():
            pass
    """,
}


def test_where_a_task_is_and_how_it_shows_is_what_pytest_says(flow: Flow) -> None:
    conftest = """
        import pytest

        def pytest_collection_finish(session):
            for item in session.items:
                ours, pytests = item.location, pytest.Item.location.func(item)
                print("kind", type(item).__name__, repr(item), "same" if ours == pytests else (ours, pytests))
                assert item.reportinfo()[1:] == pytests[1:]
    """

    result = flow({**_ALL_KINDS, "conftest.py": conftest}, "--co", "-s")

    assert result.ret == pytest.ExitCode.OK
    kinds = [line.split(maxsplit=2)[1:] for line in result.outlines if line.startswith("kind ")]
    assert len(kinds) == 14
    assert {kind for kind, _ in kinds} == {"FlowFunction"}
    assert [shown for _, shown in kinds if not (shown.startswith("<Function flow_") and shown.endswith("> same"))] == []


def test_a_mark_is_found_wherever_and_whenever_it_was_added(flow: Flow, log: Log) -> None:
    conftest = """
        import pytest
        from log import log

        def marks(item):
            ours = list(item.iter_markers_with_node())
            assert ours == list(pytest.Item.iter_markers_with_node(item))
            assert [mark for _, mark in ours] == list(item.iter_markers())
            for _, mark in ours:
                assert item.get_closest_marker(mark.name) in [same for _, same in ours if same.name == mark.name]
                assert list(item.iter_markers(mark.name)) == [same for _, same in ours if same.name == mark.name]
            assert item.get_closest_marker("no_such") is None
            return [mark.name for _, mark in ours]

        def pytest_runtest_setup(item):
            log(f"{item.name} {marks(item)}")
            item.add_marker("on_item")
            log(f"{item.name} {marks(item)}")
            item.own_markers = []
            item.parent.add_marker("on_parent")
            log(f"{item.name} {marks(item)}")
            item.session.own_markers.append(pytest.mark.on_session.mark)
            log(f"{item.name} {marks(item)}")
            item.parent.own_markers.clear()
            item.session.own_markers.clear()
            log(f"{item.name} {marks(item)}")
    """
    source = """
        import pytest

        def flow_bare():
            pass

        @pytest.mark.priority(-1)
        def flow_marked():
            pass
    """
    markers = "-o", "markers=on_item\non_parent\non_session"

    result = flow({"flow_it.py": source, "conftest.py": conftest}, *markers)

    assert result.ret == pytest.ExitCode.OK
    assert log() == [
        "flow_bare []",
        "flow_bare ['on_item']",
        "flow_bare ['on_parent']",
        "flow_bare ['on_parent', 'on_session']",
        "flow_bare []",
        "flow_marked ['priority']",
        "flow_marked ['priority', 'on_item']",
        "flow_marked ['on_parent']",
        "flow_marked ['on_parent', 'on_session']",
        "flow_marked []",
    ]


def test_a_mark_that_a_fixture_adds_still_skips_the_task(flow: Flow) -> None:
    source = """
        import pytest

        @pytest.fixture
        def absent(request):
            request.applymarker(pytest.mark.xfail(reason="not there yet"))

        def flow_it(absent):
            assert False
    """

    result = flow(source)

    result.assert_outcomes(xfailed=1)


def test_items_of_another_plugin_stay_what_they_are(flow: Flow) -> None:
    conftest = """
        import pytest

        class Special(pytest.Function):
            def runtest(self):
                print("special", self.name)
                super().runtest()

        @pytest.hookimpl(wrapper=True)
        def pytest_pycollect_makeitem(collector, name, obj):
            found = yield
            if name == "flow_special":
                return [Special.from_parent(collector, name=name)]
            return found

        def pytest_collection_finish(session):
            print([type(item).__name__ for item in session.items])
    """
    source = """
        def flow_special(): ...
        def flow_plain(): ...
    """

    result = flow({"flow_it.py": source, "conftest.py": conftest}, "-s")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["['Special', 'FlowFunction']", "*special flow_special*"])


def test_a_file_that_only_a_reference_leads_to_has_items_like_all_others(flow: Flow) -> None:
    files = {
        "flow_a.py": """
            import pytest

            @pytest.mark.depends_on("flow_b.py::late")
            def flow_it(): ...
        """,
        "flow_b.py": "def flow_late(): ...",
        "conftest.py": """
            def pytest_collection_finish(session):
                print([type(item).__name__ for item in session.items])
        """,
    }

    result = flow(files, "-s", "flow_a.py")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["['FlowFunction', 'FlowFunction']"])


def test_hooks_of_a_folder_are_for_its_tasks_and_plugins_may_come_and_go_during_the_run(flow: Flow, log: Log) -> None:
    folder = """
        from log import log

        def pytest_runtest_call(item):
            log(f"{__file__[-13]} {item.name}")
    """
    conftest = """
        import pytest
        from log import log

        class Guest:
            def pytest_runtest_call(self, item):
                log(f"guest {item.name}")

        guest = Guest()

        def pytest_runtest_setup(item):
            if item.name == "flow_2":
                item.config.pluginmanager.register(guest)
            if item.name == "flow_3":
                item.config.pluginmanager.unregister(guest)

        @pytest.hookimpl(wrapper=True)
        def pytest_runtestloop(session):
            before = session.gethookproxy
            result = yield
            assert session.gethookproxy == before
            assert "gethookproxy" not in vars(session)
            return result
    """
    files = {
        "conftest.py": conftest,
        "a/conftest.py": folder,
        "b/conftest.py": folder,
        "a/flow_a.py": "def flow_1(): ...\ndef flow_2(): ...",
        "b/flow_b.py": "def flow_3(): ...\ndef flow_4(): ...",
    }

    result = flow(files)

    result.assert_outcomes(passed=4)
    assert log() == ["a flow_1", "guest flow_2", "a flow_2", "b flow_3", "b flow_4"]


def test_reports_of_a_task_have_the_keywords_it_had_at_that_moment(flow: Flow, log: Log) -> None:
    conftest = """
        from log import log

        reports = []

        def pytest_runtest_logreport(report):
            reports.append(report)

        def pytest_sessionfinish():
            for report in reports:
                names = sorted(set(report.keywords) & {"extra", "flow_a", "flow_b"})
                log(f"{report.nodeid.rpartition('::')[2]} {report.when} {names}")
    """
    source = """
        import pytest

        def flow_a(request):
            request.node.add_marker("extra")

        def flow_b(): ...
    """

    result = flow({"flow_it.py": source, "conftest.py": conftest}, "-o", "markers=extra")

    assert result.ret == pytest.ExitCode.OK
    assert log() == [
        "flow_a setup ['flow_a']",
        "flow_a call ['extra', 'flow_a']",
        "flow_a teardown ['extra', 'flow_a']",
        "flow_b setup ['flow_b']",
        "flow_b call ['flow_b']",
        "flow_b teardown ['flow_b']",
    ]
