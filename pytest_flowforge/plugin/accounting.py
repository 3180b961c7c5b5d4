"""The last check before an exit status of 0: that every selected task has an outcome.

It goes by the reports that reached pytest, not by what the engine or an executor believes, so that a task that any of
them loses is noticed and named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.messages import Event, InstancesAdded
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Accounting"]

_INTERNAL_ERROR = 3
_MOST_NAMES = 10


class Accounting:
    """Counts outcomes by node id.

    ``excused`` returns the tasks that a stop (-x, an interrupt) has kept from starting: they have no outcome and the
    run says so elsewhere. With ``setups_only`` (--setup-only, --setup-plan) no task is called.
    """

    def __init__(
        self,
        selected: Iterable[str],
        excused: Callable[[], Iterable[str]],
        tell: Callable[[str], None],
        *,
        setups_only: bool,
    ) -> None:
        self._missing: dict[str, None] = dict.fromkeys(selected)
        self._total = len(self._missing)
        self._excused = excused
        self._tell = tell
        self._setups_only = setups_only

    def __call__(self, event: Event) -> None:
        """Expect the outcomes of instances in place of that of their mapped task; a sink for the events of the run."""
        if isinstance(event, InstancesAdded) and event.instances:
            self._missing.pop(event.task, None)
            self._missing.update(dict.fromkeys(event.instances))
            self._total += len(event.instances) - 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" and report.passed:
            return
        # A set-up that passed says nothing yet, unless set-ups are all there is.
        if report.when == "setup" and report.passed and not self._setups_only:
            return
        if report.outcome != "rerun":  # type: ignore[comparison-overlap]
            self._missing.pop(report.nodeid, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        # An interrupted session or an internal error has said already that things are missing.
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        for task in self._excused():
            self._missing.pop(task, None)
        if self._missing:
            self._complain()
            session.exitstatus = _INTERNAL_ERROR

    def _complain(self) -> None:
        names = list(self._missing)
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        have = "has" if len(names) == 1 else "have"
        self._tell(f"{len(names)} of {plural(self._total, 'task')} {have} no outcome: {shown}")
