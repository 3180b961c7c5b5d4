"""What the controller and its workers tell each other: JSON, whatever people return, raise and print.

A worker must not lose a task because something in a report can not be sent, so what JSON does not know becomes a text
of bounded length, lone surrogates included, and what is nested too deeply is cut.
"""

from __future__ import annotations

import json
import reprlib
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Measures, Outcome, Skipped, Success
from pytest_flowforge.failures import capped

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "decode",
    "encode",
    "from_measures",
    "from_outcome",
    "from_reports",
    "to_measures",
    "to_outcome",
    "to_reports",
]

#: How deep a report may be nested; pytest's own are not half as deep.
_DEEPEST = 20


def encode(message: dict[str, Any]) -> str:
    """Return *message* as JSON in ASCII."""
    try:
        return json.dumps(message, separators=(",", ":"), default=_in_words)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_plain(message, _DEEPEST), separators=(",", ":"))


def decode(text: str) -> dict[str, Any]:
    """Return what :func:`encode` was given."""
    return json.loads(text)  # type: ignore[no-any-return]


def _in_words(value: object) -> str:
    """Return *value* as a short text, whatever its class makes of that."""
    try:
        return reprlib.repr(value)
    except BaseException as error:  # noqa: BLE001 - it comes from a __repr__; nobody wants to exit
        return f"<repr() of {type(value).__name__} raised {type(error).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        # Python refuses to write down very long ones.
        return int(value) if value.bit_length() < _LONGEST_NUMBER else hex(value)[:_LONGEST_NUMBER]
    if depth and isinstance(value, dict):
        return {key if isinstance(key, str) else _in_words(key): _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    return _in_words(value)


#: Bits of a number that is sent as one, and characters of one that is not.
_LONGEST_NUMBER = 1000


# Outcomes.

_SUCCESS = Success()


def from_outcome(outcome: Outcome) -> list[Any]:
    """Return *outcome* as what JSON knows."""
    if isinstance(outcome, Success):
        return ["success"] if outcome.only is None else ["success", list(outcome.only)]
    if isinstance(outcome, Skipped):
        return ["skipped", outcome.reason]
    if isinstance(outcome, Lost):
        return ["lost", outcome.reason]
    kind, message, mro = outcome.kind.value, outcome.message, list(outcome.mro)
    return ["failure", kind, message, mro, outcome.longrepr, outcome.expected, list(outcome.members)]


def to_outcome(data: list[Any]) -> Outcome:
    """Return what :func:`from_outcome` was given."""
    if data[0] == "success":
        return _SUCCESS if len(data) == 1 else Success(tuple(data[1]))
    if data[0] == "skipped":
        return Skipped(data[1])
    if data[0] == "lost":
        return Lost(data[1])
    _, kind, message, mro, longrepr, expected, members = data
    return Failure(FailureKind(kind), message, tuple(mro), longrepr, expected, tuple(map(tuple, members)))


def from_measures(measures: Measures) -> list[Any]:
    """Return *measures* as what JSON knows; who has taken them is known by where that comes from."""
    return [measures.seconds, measures.cpu, measures.peak_memory]


def to_measures(worker: str, data: list[Any]) -> Measures:
    """Return what :func:`from_measures` was given, as that of *worker*."""
    return Measures(worker, *data)


# Reports.

#: What every report of pytest has, and nothing else where there is nothing special about it.
_USUAL = frozenset(
    ["keywords", "outcome", "longrepr", "when", "user_properties", "sections", "duration", "start", "stop"]
)
_NAMES = (frozenset(["nodeid", "location"]), frozenset(["_id", "location"]))


def from_reports(config: pytest.Config, reports: Iterable[pytest.TestReport]) -> dict[str, Any]:
    """Return *reports*, which are about one item, as what JSON knows; what they share is there once.

    Those of phases that passed are lists of what differs: nearly all are, and pytest's own way is made for the others.
    """
    keywords: Any = None
    out: list[Any] = []
    for report in reports:
        if keywords is None:
            keywords = report.keywords
        sections = [(name, capped(text)) for name, text in report.sections]
        if report.keywords == keywords and _is_usual(report):
            out.append([report.when, report.duration, report.start, report.stop, sections, report.user_properties])
            continue
        data = _serialized(config, report)
        del data["nodeid"], data["location"]
        data["sections"] = sections
        out.append(data)
    return {"reports": out, "keywords": list(keywords or ())}


def to_reports(config: pytest.Config, item: pytest.Item, message: dict[str, Any]) -> list[pytest.TestReport]:
    """Return the reports about *item* that :func:`from_reports` was given."""
    keywords: Any = dict.fromkeys(message["keywords"], 1)
    nodeid, location = item.nodeid, item.location
    reports = []
    for data in message["reports"]:
        if isinstance(data, list):
            when, duration, start, stop, sections, properties = data
            report = pytest.TestReport(
                nodeid,
                location,
                keywords,
                "passed",
                None,
                when,
                _pairs(sections),
                duration,
                start,
                stop,
                _pairs(properties),
            )
        else:
            data["nodeid"], data["location"] = nodeid, location
            data["sections"], data["user_properties"] = _pairs(data["sections"]), _pairs(data["user_properties"])
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            if isinstance(report.longrepr, list):
                # Of a skip: file, line and reason.
                report.longrepr = tuple(report.longrepr)
        reports.append(report)
    return reports


def _is_usual(report: pytest.TestReport) -> bool:
    if report.outcome != "passed" or report.longrepr is not None or type(report) is not pytest.TestReport:
        return False
    return report.__dict__.keys() - _USUAL in _NAMES


def _pairs(lists: list[Any]) -> list[Any]:
    return [tuple(pair) if isinstance(pair, list) else pair for pair in lists] if lists else []


def _serialized(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    try:
        data: dict[str, Any] = config.hook.pytest_report_to_serializable(config=config, report=report)
    except Exception as error:  # noqa: BLE001 - the text of an exception of the user's own can not be had
        report.longrepr = f"{_in_words(report.longrepr)}\n(could not be shown: {type(error).__name__})"
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
    return data
