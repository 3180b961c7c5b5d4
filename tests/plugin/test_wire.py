"""What workers and controller tell each other arrives, whatever is in it."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success
from pytest_flowforge.plugin.wire import decode, encode, from_outcome, from_reports, to_outcome, to_reports

_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _plain))
def test_what_json_knows_arrives_as_it_is(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


class Nasty:
    def __repr__(self) -> NoReturn:
        raise SystemExit(3)


def _cyclic() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(5_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (object, "<class 'object'>"),
        (Nasty(), "<repr() of Nasty raised SystemExit>"),
        ({(1, 2): "key"}, {"(1, 2)": "key"}),
        (10**5000, hex(10**5000)[:1000]),
        ({1, 2}, "{1, 2}"),
    ],
    ids=["class", "repr raises", "key", "long number", "set"],
)
def test_what_json_does_not_know_arrives_as_a_text(value: object, shown: object) -> None:
    assert decode(encode({"is": "done", "value": value})) == {"is": "done", "value": shown}


@pytest.mark.parametrize(
    ("value", "longest"),
    # Some versions of Python have JSON write down what is as deep as this; what has no end is always cut.
    [(_cyclic(), 1000), (_deep(), 20_000)],
    ids=["cyclic", "deep"],
)
def test_what_is_too_deep_ends_nothing(value: object, longest: int) -> None:
    message = decode(encode({"is": "done", "value": value}))
    assert message["is"] == "done"
    assert len(str(message)) < longest


@pytest.mark.parametrize(
    "outcome",
    [
        Success(),
        Skipped("no data"),
        Lost("gone"),
        Failure(FailureKind.TIMED_OUT, "late", ("builtins.OSError", "builtins.Exception"), "trace", expected=True),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_outcomes_arrive(outcome: Outcome) -> None:
    assert to_outcome(decode(encode({"outcome": from_outcome(outcome)}))["outcome"]) == outcome


def _report(item: pytest.Item, when: Any, **rest: Any) -> pytest.TestReport:
    usual: dict[str, Any] = {"outcome": "passed", "longrepr": None, "sections": [], "user_properties": []}
    facts = {**usual, **rest}
    keywords: Any = {"flow_x": 1}
    return pytest.TestReport(
        item.nodeid, item.location, keywords, when=when, duration=0.5, start=1.0, stop=1.5, **facts
    )


def test_reports_arrive(request: pytest.FixtureRequest) -> None:
    item, config = request.node, request.config
    failed = _report(item, "call", outcome="failed", longrepr="boom", sections=[("Captured stdout call", "hi")])
    marked = _report(item, "setup", user_properties=[("size", 3)])
    marked.wasxfail = "known"
    skipped = _report(item, "teardown", outcome="skipped", longrepr=("file.py", 3, "Skipped: no"))
    plain = _report(item, "setup", user_properties=[("size", 3)], sections=[("Captured log", "line")])
    reports = [plain, marked, failed, skipped]

    arrived = to_reports(config, item, decode(encode(from_reports(config, reports))))

    # Named by pytest on the way, and left there.
    ours = {"$report_type"}
    facts = [{name: fact for name, fact in vars(report).items() if name not in ours} for report in arrived]
    assert facts == [vars(report) for report in reports]


def test_much_output_is_cut_in_the_middle(request: pytest.FixtureRequest) -> None:
    text = "a" * 100_000 + "b" * 1_000_000 + "c" * 300_000
    report = _report(request.node, "call", sections=[("Captured stdout call", text)])

    (arrived,) = to_reports(request.config, request.node, from_reports(request.config, [report]))

    ((name, shown),) = arrived.sections
    assert name == "Captured stdout call"
    assert len(shown) < 330_000
    assert shown.startswith("a" * 64 * 1024 + "\n... 1.1 MB dropped ...\n")
    assert shown.endswith("c" * 256 * 1024)
