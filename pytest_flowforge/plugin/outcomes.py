"""From the reports of pytest to the outcome of an attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success
from pytest_flowforge.driver import qualified_mro

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Attempt", "safe_text"]

#: An error message is shown in one line; one that is a whole document helps nobody there.
_LONGEST_MESSAGE = 300


@dataclass(slots=True)
class Attempt:
    """What is known about an attempt that runs through pytest's protocol."""

    number: int
    #: Parameter -> value, for the parameters that name tasks.
    inputs: Mapping[str, Any]
    #: What the task function returned.
    value: Any = None
    #: Phase -> its report and the exception that ended it; of the last round where another plugin runs several.
    _phases: dict[str, tuple[pytest.TestReport, BaseException | None]] = field(default_factory=dict)

    def note(self, report: pytest.TestReport, error: BaseException | None) -> None:
        """Take in the report of one phase."""
        if report.when == "setup":
            self._phases.clear()
        self._phases[str(report.when)] = (report, error)

    def outcome(self) -> Outcome:
        """Judge the attempt by the phases so far: the first that failed counts, else a skip, else it is a success."""
        if not self._phases:
            return Lost("pytest has made no report of it: another plugin took the task and did not run it")
        for report, error in self._phases.values():
            if report.failed:
                return _failure(report, error)
        for report, error in self._phases.values():
            if report.skipped:
                return _skip(report, error)
        return Success()


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
        reason = f"expected: {expected}" if expected else "expected to fail"
        return Failure(message=_first_line(reason), mro=() if error is None else qualified_mro(error), expected=True)
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
