"""Up-to-date runs: any earlier success stands that was made of the same, and nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.plugin.keeping import make_ready, reasons_in, run_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Flow

    Log = Callable[[], list[str]]

_OK, _FAILED, _USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR


_CHAIN = """
    import os
    from log import log

    def flow_extract():
        log("extract")
        return [1, 2, 3]

    def flow_total(extract):
        log("total")
        return sum(extract)

    def flow_report(total):
        log("report")
        return f"total {total}"
"""


# ---- switching it on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "options"),
    [
        pytest.param("", ["--ff-cache"], id="option"),
        pytest.param("[pytest]\nflowforge_cache = true\n", [], id="ini"),
    ],
)
def test_what_is_up_to_date_does_not_run(
    flow: Flow, log: Log, pytester: pytest.Pytester, ini: str, options: list[str]
) -> None:
    files = {"flow_it.py": _CHAIN, **({"pytest.ini": ini} if ini else {})}
    first = flow(files, *options)
    assert first.parseoutcomes() == {"passed": 3}
    first.stdout.fnmatch_lines(["flowforge: reuses what earlier runs have made: 0 reused, 3 to run"])
    assert log() == ["extract", "total", "report"]

    result = flow({}, *options)

    assert result.ret == _OK
    assert result.parseoutcomes() == {"reused": 3}
    assert log() == []
    result.stdout.fnmatch_lines(["flowforge: reuses what earlier runs have made: 3 reused, 0 to run"])
    dry = flow({}, *options, "--ff-dry-run")
    assert dry.stdout.str().count(f"reused from run {run_ids(pytester)[0]}") == 3


def test_without_it_everything_runs(flow: Flow, log: Log) -> None:
    flow(_CHAIN)
    result = flow({})

    assert result.parseoutcomes() == {"passed": 3}
    assert log() == ["extract", "total", "report"] * 2


def test_after_a_failure_only_what_failed_runs(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    source = _CHAIN.replace('log("total")', 'log("total"); assert os.path.exists("ready")')
    assert flow(source, "--ff-cache").ret == _FAILED
    log()
    make_ready(pytester)

    result = flow({}, "--ff-cache", "-v")

    assert result.ret == _OK
    assert log() == ["total", "report"]
    assert reasons_in(result) == {"total": "failed last time", "report": "was blocked"}


def test_going_back_to_earlier_code_reuses_what_it_had_made(flow: Flow, log: Log, pytester: pytest.Pytester) -> None:
    other = _CHAIN.replace("sum(extract)", "max(extract)")
    flow(_CHAIN, "--ff-cache")
    flow(other, "--ff-cache")
    assert log() == ["extract", "total", "report", "total", "report"]
    first, _ = run_ids(pytester)

    result = flow(_CHAIN, "--ff-cache", "--ff-explain")

    assert result.ret == _OK
    assert log() == []
    result.stdout.fnmatch_lines([f"  reuse  report   reused from run {first}"])
    assert flow(other, "--ff-cache").parseoutcomes() == {"reused": 3}


def test_resume_does_not_go_back_further_than_the_run_it_continues(flow: Flow, log: Log) -> None:
    flow(_CHAIN)
    flow(_CHAIN.replace("sum(extract)", "max(extract)"))
    log()

    flow(_CHAIN, "--ff-resume")

    assert log() == ["total", "report"]


def test_results_of_runs_of_parts_are_found(flow: Flow, log: Log) -> None:
    flow(_CHAIN, "-k", "total")
    assert log() == ["extract", "total"]

    flow({}, "--ff-cache")

    assert log() == ["report"]


def test_an_upstream_that_gave_the_same_again_does_not_run_its_downstreams(flow: Flow, log: Log) -> None:
    flow(_CHAIN)
    flow({}, "-k", "extract")
    log()

    result = flow({}, "--ff-cache")

    assert result.parseoutcomes() == {"reused": 3}
    assert log() == []


def test_an_upstream_that_gave_something_else_runs_its_downstreams(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    source = _CHAIN.replace("[1, 2, 3]", "[int(open('value').read())]")
    pytester.path.joinpath("value").write_text("1", encoding="ascii")
    flow(source)
    pytester.path.joinpath("value").write_text("2", encoding="ascii")
    flow({}, "-k", "extract")
    log()

    result = flow({}, "--ff-cache", "-v")

    assert result.ret == _OK
    assert log() == ["total", "report"]
    assert reasons_in(result)["total"] == "upstream extract ran again"
    assert flow({}, "--ff-cache").parseoutcomes() == {"reused": 3}


def test_a_formatting_change_keeps_everything_up_to_date(flow: Flow, log: Log) -> None:
    flow(_CHAIN, "--ff-cache")
    log()

    flow(_CHAIN.replace("[1, 2, 3]", "[1, 2,\n        3]  # rows"), "--ff-cache")

    assert log() == []


# ---- input files -----------------------------------------------------------------------------------------------------

_READS = """
    import pathlib
    import pytest
    from log import log

    @pytest.mark.cache(inputs=["raw/*.csv"])
    def flow_read():
        log("read")
        here = pathlib.Path(__file__).parent
        return [path.read_text() for path in sorted(here.glob("raw/*.csv"))]

    def flow_use(read):
        log("use " + " ".join(read))

    def flow_other():
        log("other")
"""


def _raw(pytester: pytest.Pytester) -> Path:
    raw = pytester.path / "sub" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    return raw


def _change_input(raw: Path) -> None:
    raw.joinpath("a.csv").write_text("A", encoding="ascii")


def _add_input(raw: Path) -> None:
    raw.joinpath("c.csv").write_text("c", encoding="ascii")


def _remove_input(raw: Path) -> None:
    raw.joinpath("b.csv").unlink()


@pytest.mark.parametrize("option", ["--ff-cache", "--ff-resume"])
@pytest.mark.parametrize(
    ("edit", "reason", "seen"),
    [
        pytest.param(_change_input, "input raw/a.csv changed", "A b", id="changed"),
        pytest.param(_add_input, "input raw/c.csv added", "a b c", id="added"),
        pytest.param(_remove_input, "input raw/b.csv removed", "a", id="removed"),
    ],
)
def test_another_input_file_runs_the_task(
    flow: Flow,
    log: Log,
    pytester: pytest.Pytester,
    option: str,
    edit: Callable[[Path], None],
    reason: str,
    seen: str,
) -> None:
    raw = _raw(pytester)
    raw.joinpath("a.csv").write_text("a", encoding="ascii")
    raw.joinpath("b.csv").write_text("b", encoding="ascii")
    flow({"sub/flow_it.py": _READS})
    assert "use a b" in log()
    edit(raw)

    result = flow({}, option, "-v")

    assert result.ret == _OK
    assert log() == ["read", f"use {seen}"]
    assert reasons_in(result) == {"read": reason, "use": "upstream read runs again"}
    assert flow({}, option).parseoutcomes() == {"reused": 3}


def test_files_that_are_no_inputs_and_touching_those_that_are_do_not_count(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    raw = _raw(pytester)
    raw.joinpath("a.csv").write_text("a", encoding="ascii")
    flow({"sub/flow_it.py": _READS})
    log()
    raw.joinpath("a.csv").write_text("a", encoding="ascii")
    raw.joinpath("notes.txt").write_text("new", encoding="ascii")

    assert flow({}, "--ff-cache").parseoutcomes() == {"reused": 3}


@pytest.mark.parametrize(
    "inputs",
    ['"data.csv"', '["data.csv"]', '["../data/"]', '["**/*.csv"]', "[pathlib.Path('data.csv')]", "[HERE / 'data.csv']"],
)
def test_ways_to_name_inputs(flow: Flow, log: Log, pytester: pytest.Pytester, inputs: str) -> None:
    source = f"""
        import pathlib
        import pytest
        from log import log

        HERE = pathlib.Path(__file__).parent

        @pytest.mark.cache(inputs={inputs})
        def flow_read():
            log("read")
    """
    folder = pytester.path / "data"
    folder.mkdir()
    folder.joinpath("data.csv").write_text("1", encoding="ascii")
    flow({"data/flow_it.py": source})
    flow({}, "--ff-cache")
    assert log() == ["read"]
    folder.joinpath("data.csv").write_text("2", encoding="ascii")

    flow({}, "--ff-cache")

    assert log() == ["read"]


def test_going_back_to_earlier_input_reuses_what_was_made_of_it(
    flow: Flow, log: Log, pytester: pytest.Pytester
) -> None:
    raw = _raw(pytester)
    raw.joinpath("a.csv").write_text("a", encoding="ascii")
    flow({"sub/flow_it.py": _READS}, "--ff-cache")
    raw.joinpath("a.csv").write_text("A", encoding="ascii")
    flow({}, "--ff-cache")
    log()
    raw.joinpath("a.csv").write_text("a", encoding="ascii")

    result = flow({}, "--ff-cache")

    assert result.parseoutcomes() == {"reused": 3}
    assert log() == []


_WRITES_AND_READS = """
    import pathlib
    import pytest
    from log import log

    HERE = pathlib.Path(__file__).parent

    @pytest.mark.cache(inputs=["source.txt"]{outputs})
    def flow_make():
        log("make")
        (HERE / "made.txt").write_text((HERE / "source.txt").read_text().upper())

    @pytest.mark.depends_on("make")
    @pytest.mark.cache(inputs=["made.txt"])
    def flow_read():
        log("read " + (HERE / "made.txt").read_text())
        return (HERE / "made.txt").read_text()
"""


@pytest.mark.parametrize("outputs", ["", ', outputs=["made.txt"]'])
def test_an_input_that_an_upstream_writes_in_the_same_run(
    flow: Flow, log: Log, pytester: pytest.Pytester, outputs: str
) -> None:
    source = pytester.path / "source.txt"
    source.write_text("one", encoding="ascii")
    flow(_WRITES_AND_READS.format(outputs=outputs), "--ff-cache")
    assert log() == ["make", "read ONE"]
    assert flow({}, "--ff-cache").parseoutcomes() == {"reused": 2}

    source.write_text("two", encoding="ascii")
    flow({}, "--ff-cache")
    assert log() == ["make", "read TWO"]
    assert flow({}, "--ff-cache").parseoutcomes() == {"reused": 2}
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 2}
    pytester.path.joinpath("made.txt").write_text("edited", encoding="ascii")

    result = flow({}, "--ff-cache", "-v")

    if outputs:
        # Its output is not what it made: it is made again, and is what was read before.
        assert log() == ["make", "read TWO"]
        assert reasons_in(result)["make"] == "output made.txt changed"
    else:
        assert log() == ["read edited"]
        assert reasons_in(result) == {"read": "input made.txt changed"}


# ---- output files ----------------------------------------------------------------------------------------------------

_MODEL = """
    import pathlib
    import pytest
    from log import log

    @pytest.mark.cache(outputs=["model.bin", "plots/*.png"])
    def flow_train():
        log("train")
        here = pathlib.Path(__file__).parent
        (here / "model.bin").write_bytes(b"weights")
        (here / "plots").mkdir(exist_ok=True)
        (here / "plots" / "loss.png").write_bytes(b"pixels")

    @pytest.mark.depends_on("train")
    def flow_evaluate():
        log("evaluate")

    def flow_other():
        log("other")
"""


@pytest.mark.parametrize("option", ["--ff-cache", "--ff-resume"])
@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("model.bin", None, "output model.bin missing"),
        ("model.bin", b"noise", "output model.bin changed"),
        ("plots/loss.png", None, "output plots/loss.png missing"),
        ("plots/loss.png", b"noise", "output plots/loss.png changed"),
    ],
)
def test_an_output_that_is_gone_or_changed_is_made_again(
    flow: Flow, log: Log, pytester: pytest.Pytester, option: str, path: str, content: bytes | None, reason: str
) -> None:
    flow(_MODEL)
    log()
    assert flow({}, option).parseoutcomes() == {"reused": 3}
    if content is None:
        pytester.path.joinpath(path).unlink()
    else:
        pytester.path.joinpath(path).write_bytes(content)

    result = flow({}, option, "-v")

    assert result.ret == _OK
    assert log() == ["train", "evaluate"]
    assert reasons_in(result) == {"train": reason, "evaluate": "upstream train runs again"}
    assert flow({}, option).parseoutcomes() == {"reused": 3}


# ---- variables, versions, what is never reused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        pytest.param("small", "large", True, id="changed"),
        pytest.param("small", None, True, id="no longer set"),
        pytest.param(None, "", True, id="set to nothing"),
        pytest.param("small", "small", False, id="as before"),
    ],
)
def test_an_environment_variable_that_counts(
    flow: Flow, log: Log, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None, *, runs: bool
) -> None:
    source = """
        import pytest
        from log import log

        @pytest.mark.cache(env=["MODEL"])
        def flow_fit():
            log("fit")

        def flow_other():
            log("other")
    """

    def put(name: str, value: str | None) -> None:
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    put("MODEL", before)
    flow(source, "--ff-cache")
    log()
    put("MODEL", after)
    put("UNDECLARED", "new")

    result = flow({}, "--ff-cache", "-v")

    assert log() == (["fit"] if runs else [])
    assert reasons_in(result) == ({"fit": "env MODEL changed"} if runs else {})


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("version=1", "version=2", "version changed"),
        ("version='a'", "version='b'", "version changed"),
        ("", "version=1", "version added"),
        ("version=1", "", "version removed"),
    ],
)
def test_another_version_runs_the_task(flow: Flow, log: Log, before: str, after: str, reason: str) -> None:
    source = "import pytest\nfrom log import log\n\n@pytest.mark.cache({})\ndef flow_fit():\n    log('fit')\n"
    flow(source.format(before), "--ff-cache")
    log()

    result = flow(source.format(after), "--ff-cache", "-v")

    assert log() == ["fit"]
    assert reasons_in(result) == {"fit": reason}
    assert flow(source.format(before), "--ff-cache").parseoutcomes() == {"reused": 1}


def test_a_task_that_is_never_reused_and_what_depends_on_it(flow: Flow, log: Log) -> None:
    source = _CHAIN.replace(
        "    def flow_total", "    import pytest\n\n    @pytest.mark.cache(False)\n    def flow_total"
    )
    flow(source, "--ff-cache")
    log()

    result = flow({}, "--ff-cache", "-v")

    assert log() == ["total", "report"]
    assert reasons_in(result) == {"total": "cache(False)", "report": "upstream total runs again"}
    # What a run has done it has done: to resume is not to look for what is up to date.
    assert flow({}, "--ff-resume").parseoutcomes() == {"reused": 3}


def test_the_closest_mark_counts(flow: Flow, log: Log) -> None:
    source = """
        import pytest
        from log import log

        pytestmark = pytest.mark.cache(False)

        def flow_always(): log("always")

        @pytest.mark.cache(True)
        def flow_once(): log("once")

        class FlowEtl:
            pytestmark = pytest.mark.cache(version=1)

            def flow_in_class(self): log("in class")
    """
    flow(source, "--ff-cache")
    log()

    flow({}, "--ff-cache")

    assert log() == ["always"]


# ---- by force --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--ff-cache", "--ff-resume"])
@pytest.mark.parametrize(
    ("force", "reasons"),
    [
        ("report", {"report": "forced"}),
        ("total", {"total": "forced", "report": "upstream total runs again"}),
        ("extract total", {"extract": "forced", "total": "forced", "report": "upstream total runs again"}),
        ("total+", {"total": "forced", "report": "forced"}),
        ("+total,tot*", {"total": "forced", "report": "upstream total runs again"}),
    ],
)
def test_tasks_run_by_force(flow: Flow, log: Log, option: str, force: str, reasons: dict[str, str]) -> None:
    flow(_CHAIN)
    log()

    result = flow({}, option, "--ff-force", force, "-v")

    assert result.ret == _OK
    assert reasons_in(result) == reasons
    assert log() == list(reasons)


def test_what_is_to_be_forced_and_is_not_there(flow: Flow, log: Log) -> None:
    flow(_CHAIN)
    log()

    result = flow({}, "--ff-cache", "--ff-force", "totl")

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines(["ERROR: --ff-force*totl*total*"])
    assert log() == []


# ---- why -------------------------------------------------------------------------------------------------------------

_EXPLAINED = """
    import pytest
    import helpers
    from log import log

    def flow_extract():
        return 1

    @pytest.mark.parametrize("by", [pytest.param("old", id="x")])
    def flow_group(by):
        return by

    @pytest.mark.cache(inputs=["data.csv"], env=["MODEL"], version=1)
    def flow_fit():
        return helpers.fit()

    def flow_report(fit):
        return 1
"""


def _explained(result: pytest.RunResult) -> dict[str, str]:
    told = result.stdout.str().partition("flowforge: why each task runs or does not\n")[2]
    lines = re.findall(r"^  (run|reuse) +(\S+) {2,}(.+)$", told.partition("\nlevel 0\n")[0], re.MULTILINE)
    return {name: f"{verdict} {why}" for verdict, name, why in lines}


def _explained_files(pytester: pytest.Pytester) -> dict[str, str]:
    pytester.path.joinpath("data.csv").write_text("1", encoding="ascii")
    return {"helpers.py": "def fit():\n    return 1\n", "flow_it.py": _EXPLAINED}


def test_each_task_is_explained_in_a_line(flow: Flow, pytester: pytest.Pytester, log: Log) -> None:
    del log
    flow(_explained_files(pytester))
    (run,) = run_ids(pytester)

    told = _explained(flow({}, "--ff-cache", "--ff-explain"))

    assert told == dict.fromkeys(("extract", "group[x]", "fit", "report"), f"reuse reused from run {run}")


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        pytest.param("flow_it.py", '"old"', '"new"', {"group[[]x[]]": "run *by*'old' -> 'new'"}, id="parameter"),
        pytest.param("flow_it.py", "version=1", "version=2", {"fit": "run *version*: 1 -> 2"}, id="version"),
        pytest.param("data.csv", "1", "2", {"fit": "run *input data.csv*6b86b273 -> d4735e3a"}, id="input"),
        pytest.param(
            "flow_it.py",
            "def flow_extract():\n    return 1",
            "def flow_extract():\n    return 2",
            {"extract": "run *flow_it.py::flow_extract ???????? -> ????????"},
            id="code",
        ),
        pytest.param("helpers.py", "1", "2", {"fit": "run *helpers.py::fit ???????? -> ????????"}, id="helper"),
        pytest.param(
            "helpers.py",
            "return 1",
            "return more()\n\ndef more():\n    return 1",
            {"fit": "run *helpers.py::fit ???????? -> ????????; helpers.py::more new, ????????"},
            id="new helper",
        ),
    ],
)
def test_what_has_changed_is_told_from_what_to_what(
    flow: Flow, pytester: pytest.Pytester, log: Log, file: str, old: str, new: str, told: dict[str, str]
) -> None:
    del log
    flow(_explained_files(pytester))
    path = pytester.path / file
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1
    path.write_text(before.replace(old, new), encoding="utf-8")

    found = _explained(flow({}, "--ff-cache", "--ff-explain"))

    for name, pattern in told.items():
        task = name.replace("[[]", "[").replace("[]]", "]")
        pytest.LineMatcher([found[task]]).fnmatch_lines([pattern])
        assert "\n" not in found[task]
    if "fit" in told:
        assert found["report"] == "run upstream fit runs again"


def test_the_value_of_a_variable_is_not_told(
    flow: Flow, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    del log
    monkeypatch.setenv("MODEL", "hunter2")
    flow(_explained_files(pytester))
    monkeypatch.setenv("MODEL", "hunter3")

    result = flow({}, "--ff-cache", "--ff-explain")

    pytest.LineMatcher([_explained(result)["fit"]]).fnmatch_lines(["run *env MODEL*: ???????? -> ????????"])
    assert "hunter" not in result.stdout.str()


def test_explaining_without_reuse_says_what_is_missing(flow: Flow, pytester: pytest.Pytester, log: Log) -> None:
    del log
    flow(_explained_files(pytester))

    told = _explained(flow({}, "--ff-explain"))

    assert told["extract"] == "run nothing is reused without --ff-resume or --ff-cache"


def test_explaining_can_be_had_without_running(flow: Flow, log: Log) -> None:
    flow(_CHAIN)
    log()

    result = flow(_CHAIN.replace("sum(", "max("), "--ff-cache", "--ff-explain", "--ff-dry-run")

    assert log() == []
    assert _explained(result)["total"].startswith("run code changed")
    assert _explained(result)["extract"].startswith("reuse reused from run")


# ---- what plugins add ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        pytest.param("1", "2", "fingerprint changed", id="a value"),
        pytest.param("{'schema': 1, 'rows': 2}", "{'schema': 1, 'rows': 3}", "rows changed", id="a dict"),
        pytest.param("{'schema': 1}", "{'schema': 1, 'rows': 3}", "rows added", id="one more"),
        pytest.param("None", "[1]", "fingerprint added", id="something after nothing"),
        pytest.param("None", "None", "", id="nothing"),
        pytest.param("{'a': {1, 2}}", "{'a': {2, 1}}", "", id="the same"),
    ],
)
def test_a_hook_adds_to_what_a_task_is_made_of(flow: Flow, log: Log, before: str, after: str, reason: str) -> None:
    conftest = "def pytest_flowforge_fingerprint(item):\n    return {} if item.name == 'flow_total' else None\n"
    flow({"conftest.py": conftest.format(before), "flow_it.py": _CHAIN}, "--ff-cache")
    log()

    result = flow({"conftest.py": conftest.format(after)}, "--ff-cache", "-v")

    assert result.ret == _OK
    assert log() == (["total", "report"] if reason else [])
    assert reasons_in(result) == ({"total": reason, "report": "upstream total runs again"} if reason else {})


def test_a_hook_that_comes_or_goes_without_an_answer_changes_nothing(flow: Flow, log: Log) -> None:
    flow(_CHAIN, "--ff-cache")
    log()

    result = flow({"conftest.py": "def pytest_flowforge_fingerprint(item): pass\n"}, "--ff-cache")

    assert result.parseoutcomes() == {"reused": 3}


def test_two_hooks_both_count(flow: Flow, log: Log) -> None:
    one = "def pytest_flowforge_fingerprint(item):\n    return 1\n"
    flow({"conftest.py": one, "sub/conftest.py": one, "sub/flow_it.py": _CHAIN}, "--ff-cache")
    log()

    flow({"sub/conftest.py": one.replace("1", "2")}, "--ff-cache")

    assert log() == ["extract", "total", "report"]
    assert flow({}, "--ff-cache").parseoutcomes() == {"reused": 3}


# ---- marks that can not be meant -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ('cache("raw/*.csv")', "*cache('raw/[*].csv')*"),
        ("cache(1)", "*cache(1)*True or False*"),
        ("cache(False, True)", "*cache()*"),
        ("cache(input=['a'])", "*cache()*input*inputs*"),
        ("cache(inputs=3)", "*cache(inputs=3)*"),
        ("cache(inputs=[''])", "*cache(inputs=*"),
        ("cache(outputs=[None])", "*cache(outputs=*"),
        ("cache(env=[1])", "*cache(env=*"),
        ("cache(env={'MODEL': 1})", "*cache(env=*"),
        ("idempotent()", "*idempotent()*"),
        ("idempotent", "*idempotent*"),
        ("idempotent('no')", "*idempotent('no')*True or False*"),
    ],
)
def test_a_mark_that_can_not_be_meant_is_found_before_anything_runs(flow: Flow, log: Log, mark: str, says: str) -> None:
    source = f"""
        import pytest
        from log import log

        def flow_good():
            log("good")

        @pytest.mark.{mark}
        def flow_bad(good): ...
    """

    for option in ("--ff-validate", "--ff-cache"):
        result = flow(source, option)
        assert result.ret == _USAGE
        (line,) = [line for line in result.stderr.lines if "flow_it.py:" in line]
        pytest.LineMatcher([line]).fnmatch_lines([says])
        assert re.search(r"flow_it\.py:(7|8)\b", line)
    assert log() == []
