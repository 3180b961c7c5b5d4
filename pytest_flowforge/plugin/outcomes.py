"""From the reports of pytest to the outcome of an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success
from pytest_flowforge.driver import qualified_mro

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Attempt", "safe_text"]

#: An error message is shown in one line; one that is a whole document helps nobody there.
_LONGEST_MESSAGE = 300


class Attempt:
    """What is known about an attempt that runs through pytest's protocol.

    ``inputs`` are the parameters that name tasks, with what arrives there; ``value`` is what the function returned.
    ``reports`` are those of pytest, to be made known; None while there are none, or when somebody else does that.
    """

    __slots__ = ("_keywords", "_phases", "_troubles", "inputs", "number", "reports", "value")

    def __init__(self, number: int, inputs: Mapping[str, Any]) -> None:
        self.number = number
        self.inputs = inputs
        self.value: Any = None
        self.reports: list[pytest.TestReport] | None = None
        #: How many phases have been reported.
        self._phases = 0
        #: Those of the last report.
        self._keywords: Mapping[str, Any] | None = None
        #: The phases that did not pass, with the exception that ended each.
        self._troubles: list[tuple[pytest.TestReport, BaseException | None]] = []

    def note(self, report: pytest.TestReport, error: BaseException | None) -> None:
        """Take in the report of one phase."""
        if type(report) is not pytest.TestReport and not report.failed:
            # Of a part (a subtest), which says nothing about the whole unless it failed.
            return
        if report.when == "setup":
            # Another plugin may run several rounds (pytest-rerunfailures does): the last one counts.
            self._phases = 0
            self._troubles.clear()
        self._phases += 1
        if not report.passed:
            self._troubles.append((report, error))
        self._share_keywords(report)

    def _share_keywords(self, report: pytest.TestReport) -> None:
        # pytest keeps every report to the end. Three times the same keywords are a sixth of what a task takes up.
        if report.keywords == self._keywords:
            report.keywords = self._keywords
        else:
            self._keywords = report.keywords

    def outcome(self) -> Outcome:
        """Judge the attempt by the phases so far: the first that failed counts, else a skip, else it is a success."""
        if not self._phases:
            return Lost("pytest has made no report of it: another plugin took the task and did not run it")
        for report, error in self._troubles:
            if report.failed:
                return _failure(report, error)
        for report, error in self._troubles:
            return _skip(report, error)
        return _SUCCESS


#: One for all: there is nothing to tell apart.
_SUCCESS = Success()


def _failure(report: pytest.TestReport, error: BaseException | None) -> Failure:
    if error is None:
        # For example a strict xfail that passed: there is a text and no exception.
        return Failure(message=_first_line(safe_text(report.longrepr)))
    message = _first_line(_message(error))
    if report.when != "call":
        message = f"{message} (in {report.when})"
    kind = FailureKind.TIMED_OUT if _is_time_out(error) else FailureKind.ERROR
    return Failure(kind, message, qualified_mro(error))


def _skip(report: pytest.TestReport, error: BaseException | None) -> Outcome:
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        message = str(expected or "expected to fail") if error is None else _message(error)
        return Failure(message=_first_line(message), mro=() if error is None else qualified_mro(error), expected=True)
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else safe_text(report.longrepr)
    return Skipped(_first_line(text.removeprefix("Skipped: ")))


def _message(error: BaseException) -> str:
    text = safe_text(error)
    if isinstance(error, pytest.fail.Exception):
        return text or "failed"
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _is_time_out(error: BaseException) -> bool:
    # pytest-timeout fails a test like anybody else does; its text is all there is to tell it by.
    return isinstance(error, pytest.fail.Exception) and safe_text(error).startswith("Timeout (>")


def safe_text(value: object) -> str:
    """``str(value)``, whatever the class of *value* makes of that."""
    try:
        return str(value)
    except BaseException as error:  # noqa: BLE001 - even SystemExit: it comes from a __str__, nobody wants to exit
        return f"<str() of {type(value).__name__} raised {type(error).__name__}>"


def _first_line(text: str) -> str:
    line = next((line for line in text[: _LONGEST_MESSAGE * 4].splitlines() if line.strip()), "").strip()
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 3]}..."
