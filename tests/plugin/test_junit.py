"""JUnit XML that a CI server reads: one case for each task, and what has become of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import xmlschema

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

_SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "xunit2.xsd"

_POOL = ("--ff-executor", "concurrent.futures:ProcessPoolExecutor", "--ff-workers", "2")
_EXECUTORS = pytest.mark.parametrize(
    "options",
    [(), ("--ff-executor", "thread", "--ff-workers", "2"), ("-n", "2"), _POOL],
    ids=["local", "thread", "process", "pool"],
)

_FLOW = r"""
    import os
    import sys
    import pytest

    @pytest.fixture
    def rows(record_property):
        record_property("rows", 7)

    def flow_good(rows):
        return [1, 2]

    @pytest.mark.retry(2)
    def flow_shaky(good):
        print("colours \x1b[31m, a bell \a, no character \ufffe, ]]> and <&>")
        if not os.path.exists("tried"):
            open("tried", "w").close()
            raise ValueError("not \x00 yet")

    @pytest.mark.retry(1)
    def flow_bad(good):
        sys.stderr.write("oops \x08\n")
        raise ValueError("boom \x1b[0m")

    def flow_blocked(bad):
        pass

    def flow_skips(good):
        pytest.skip("nothing to do")

    @pytest.fixture
    def broken():
        raise OSError("no disk")

    def flow_without(broken):
        pass

    @pytest.fixture
    def stays_open():
        yield
        raise OSError("does not close")

    def flow_untidy(stays_open):
        pass

    @pytest.mark.map("good")
    def flow_each(good):
        assert good == 1
"""


def cases_of(path: Path) -> dict[str, list[ET.Element]]:
    cases: dict[str, list[ET.Element]] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - it is ours
        cases.setdefault((case.get("name") or "").removeprefix("flow_"), []).append(case)
    return cases


def properties_of(case: ET.Element) -> dict[str, str]:
    return {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}


@_EXECUTORS
def test_each_task_is_a_case_that_says_what_has_become_of_it(
    flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    flow(_FLOW, *options, "--junitxml=junit.xml", "-o", "junit_logging=all")
    cases = cases_of(pytester.path / "junit.xml")
    # As for tests, an error of the teardown besides a failed call is a case of its own; nothing else is.
    assert {name: len(found) for name, found in cases.items()} == dict.fromkeys(
        ["good", "shaky", "bad", "blocked", "skips", "without", "untidy", "each[1]", "each[2]"], 1
    )
    said = {name: properties_of(found[0]) for name, found in cases.items()}
    workers = {name: facts.pop("flowforge_worker", None) for name, facts in said.items()}
    expected = {
        "good": ("success", "1"),
        "shaky": ("success", "2"),
        "bad": ("failed", "2"),
        "blocked": ("blocked", "0"),
        "skips": ("skipped", "1"),
        "without": ("failed", "1"),
        "untidy": ("failed", "1"),
        "each[1]": ("success", "1"),
        "each[2]": ("failed", "1"),
    }
    rows = said["good"].pop("rows")
    assert rows == "7"
    assert said == {
        name: {"flowforge_state": state, "flowforge_attempts": attempts} for name, (state, attempts) in expected.items()
    }
    assert workers["blocked"] is None
    # In pools, the call of a task whose set-up failed was made by nobody.
    made = {worker for name, worker in workers.items() if name not in ("blocked", "without")}
    assert None not in made
    if options == ("-n", "2"):
        assert made <= {"gw0", "gw1"}
    (failure,) = cases["bad"][0].iter("failure")
    assert "boom #x1B[0m" in failure.attrib["message"]
    assert "oops #x08" in "".join(cases["bad"][0].itertext())
    output = "".join(cases["shaky"][0].itertext())
    assert "colours #x1B[31m, a bell #x07, no character #xFFFE, ]]> and <&>" in output


@_EXECUTORS
def test_it_is_valid_for_the_schema_of_xunit2(flow: Flow, pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    schema = xmlschema.XMLSchema(str(_SCHEMA))
    ini = ("-o", "flowforge_junit_properties=false", "-o", "junit_logging=all")
    files = _FLOW.replace('record_property("rows", 7)', "pass")
    flow(files, *options, *ini, "--junitxml=strict.xml")
    schema.validate(pytester.path / "strict.xml")
    (pytester.path / "tried").unlink()
    flow({}, *options, "-o", "junit_logging=all", "--junitxml=more.xml")
    # Properties of cases go beyond the schema, whoever adds them; all else is as it has it.
    tree = ET.parse(pytester.path / "more.xml")  # noqa: S314 - it is ours
    assert not schema.is_valid(tree)
    for case in tree.iter("testcase"):
        for properties in case.findall("properties"):
            case.remove(properties)
    schema.validate(tree)


def test_what_was_reused_names_the_run(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("def flow_one():\n    pass\n\ndef flow_two(one):\n    assert 0\n", "-q")
    flow({}, "-q", "--ff-resume", "--junitxml=junit.xml")
    cases = cases_of(pytester.path / "junit.xml")
    facts = properties_of(cases["one"][0])
    assert (facts["flowforge_state"], facts["flowforge_attempts"]) == ("reused", "0")
    assert "run" in facts["flowforge"]


def test_a_crash_names_its_worker(flow: Flow, pytester: pytest.Pytester) -> None:
    flow("import os\n\ndef flow_crash():\n    os._exit(3)\n", "-n", "1", "--junitxml=junit.xml")
    cases = cases_of(pytester.path / "junit.xml")
    facts = {"flowforge_state": "crashed", "flowforge_attempts": "1", "flowforge_worker": "gw0"}
    assert properties_of(cases["crash"][0]) == facts


def test_a_retry_that_was_called_off_has_its_attempt(flow: Flow, pytester: pytest.Pytester) -> None:
    files = """
        import pytest

        @pytest.mark.retry(3, delay=60)
        def flow_waits():
            raise ValueError("not yet")

        def flow_bad():
            assert 0
    """
    flow(files, "-x", "--junitxml=junit.xml")
    cases = cases_of(pytester.path / "junit.xml")
    assert properties_of(cases["waits"][0]) == {"flowforge_state": "failed", "flowforge_attempts": "1"}
