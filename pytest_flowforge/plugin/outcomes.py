"""From the reports of pytest to the outcome of an attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success
from pytest_flowforge.failures import Stranger, qualified_members, qualified_mro, safe_text
from pytest_flowforge.results import Only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowforge.plugin.bodies import Body

__all__ = ["Attempt", "overrun"]

#: An error message is shown in one line; one that is a whole document helps nobody there.
_LONGEST_MESSAGE = 300


class Attempt:
    """What is known about an attempt that runs through pytest's protocol.

    ``inputs`` are the parameters that name tasks, with what arrives there; ``value`` is what the function returned.
    ``reports`` are those of pytest, to be made known; None while there are none, or when somebody else does that.
    ``body`` is the call, where that is made elsewhere. ``limit`` is the time in seconds that it may take, None where
    there is no limit; ``stacks`` is where its threads stood when that was over.
    """

    __slots__ = (
        "_ended",
        "_keywords",
        "_overran",
        "_phases",
        "_since",
        "_troubles",
        "body",
        "inputs",
        "limit",
        "number",
        "reports",
        "stacks",
        "value",
    )

    #: Kept here because tasks, and what they leave behind (freezegun), put other clocks in its place.
    _now = staticmethod(time.monotonic)

    def __init__(self, number: int, inputs: Mapping[str, Any]) -> None:
        self.number = number
        self.inputs = inputs
        self.value: Any = None
        self.reports: list[pytest.TestReport] | None = None
        self.body: Body | None = None
        self.limit: float | None = None
        self.stacks = ""
        #: When what is limited began and ended, by the monotonic clock; None while it goes on.
        self._since = 0.0
        self._ended: float | None = None
        #: The limit and the seconds of a call elsewhere that took longer.
        self._overran: tuple[float, float] | None = None
        #: How many phases have been reported.
        self._phases = 0
        #: Those of the last report.
        self._keywords: Mapping[str, Any] | None = None
        #: The phases that did not pass, with the exception that ended each.
        self._troubles: list[tuple[pytest.TestReport, BaseException | None]] = []

    def begins(self, limit: float) -> None:
        """What may take *limit* seconds begins."""
        self.limit, self._since, self._ended = limit, self._now(), None

    def ends(self) -> None:
        """It has ended."""
        self._ended = self._now()

    def overran(self, limit: float, took: float) -> None:
        """Its call, which was made elsewhere, has taken longer than it may."""
        self._overran = limit, took

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
        """Judge the attempt by the phases so far: the first that failed counts, else a skip, else it is a success.

        One that took longer than its limit has timed out, whatever it made of being told so.
        """
        outcome = self._by_phases()
        if self._overran is not None:
            return overrun(outcome, *self._overran)
        return outcome if self.limit is None else self._in_time(outcome, self.limit)

    def _in_time(self, outcome: Outcome, limit: float) -> Outcome:
        took = (self._now() if self._ended is None else self._ended) - self._since
        return outcome if took <= limit else overrun(outcome, limit, took)

    def _by_phases(self) -> Outcome:
        if not self._phases:
            return Lost("pytest has made no report of it: another plugin took the task and did not run it")
        for report, error in self._troubles:
            if report.failed:
                return _failure(report, error)
        for report, error in self._troubles:
            return _skip(report, error)
        return _SUCCESS

    def end(self, returned: Any) -> tuple[Outcome, Any]:
        """Return the outcome of the attempt and the result of the task, whose function *returned* that."""
        outcome = self.outcome()
        if type(returned) is not Only:
            return outcome, returned
        return Success(returned.names) if isinstance(outcome, Success) else outcome, returned.value


#: One for all: there is nothing to tell apart.
_SUCCESS = Success()


def overrun(outcome: Outcome, limit: float, took: float) -> Outcome:
    """What an attempt that would have ended with *outcome* has come to if it *took* longer than its *limit*.

    A skip, and a failure that was expected, stay what they are.
    """
    if isinstance(outcome, Success):
        return Failure(FailureKind.TIMED_OUT, f"took {took:.1f} s, and its limit is {limit:g} s")
    if isinstance(outcome, Failure) and outcome.kind is FailureKind.ERROR and not outcome.expected:
        text = f"took {took:.1f} s, and its limit is {limit:g} s; then {outcome.message}"
        return Failure(FailureKind.TIMED_OUT, text, longrepr=outcome.longrepr)
    return outcome


def _failure(report: pytest.TestReport, error: BaseException | None) -> Failure:
    if error is None:
        # For example a strict xfail that passed: there is a text and no exception.
        return Failure(message=_first_line(safe_text(report.longrepr)))
    message = _first_line(_message(error))
    if report.when != "call":
        message = f"{message} (in {report.when})"
    if _is_time_out(error):
        # It has no classes that retries could ask for: what ended elsewhere has none either.
        return Failure(FailureKind.TIMED_OUT, message)
    return Failure(FailureKind.ERROR, message, qualified_mro(error), members=qualified_members(error))


def _skip(report: pytest.TestReport, error: BaseException | None) -> Outcome:
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        message = str(expected or "expected to fail") if error is None else _message(error)
        return Failure(message=_first_line(message), mro=() if error is None else qualified_mro(error), expected=True)
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else safe_text(report.longrepr)
    return Skipped(_first_line(text.removeprefix("Skipped: ")))


def _message(error: BaseException) -> str:
    text = safe_text(error)
    if isinstance(error, Stranger):
        return text
    if isinstance(error, pytest.fail.Exception):
        return text or "failed"
    name = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        # Nobody has pressed anything.
        name = f"raised {name}"
    return f"{name}: {text}" if text else name


def _is_time_out(error: BaseException) -> bool:
    # pytest-timeout fails a test like anybody else does; its text is all there is to tell it by.
    return isinstance(error, pytest.fail.Exception) and safe_text(error).startswith("Timeout (>")


def _first_line(text: str) -> str:
    line = next((line for line in text[: _LONGEST_MESSAGE * 4].splitlines() if line.strip()), "").strip()
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 3]}..."
