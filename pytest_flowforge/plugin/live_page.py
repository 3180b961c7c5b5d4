"""``--ff-report FILE``: a page of the run, rewritten while the run goes on and once more when it ends.

It takes as little of the run's time as one asks for: after each writing comes a wait of fifty times as long as that
has taken. What happens meanwhile is written when the wait is over, whether or not anything else happens then.
"""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import Event, RunBegan, RunEnded
from pytest_flowforge.core.records import redact
from pytest_flowforge.failures import capped, one_line, safe_text
from pytest_flowforge.plugin import forks
from pytest_flowforge.plugin.output_files import OutputFile
from pytest_flowforge.plugin.reporting import BLOCKED
from pytest_flowforge.report.gathering import Gathering
from pytest_flowforge.report.page import About, Page
from pytest_flowforge.report.previews import preview

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.backends import Work
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.plugin.output_files import Places

__all__ = ["LivePage"]

#: Writing takes at most one part in so many of the time.
_SHARE = 50
#: Seconds between two writings, at least: nobody reads faster.
_LEAST = 2.0
#: And at most, also when one took long because the machine stood still. So often the page loads itself again, too.
_MOST = 60.0
_LONGEST_VALUE = 200
#: Seconds that a fork waits for a page that is being written.
_PATIENCE = 10.0
#: What is told of earlier attempts is there anyway.
_NOT_SHOWN = ("Earlier attempts",)
_PLAIN = (str, int, float, bool, type(None))


class LivePage:
    """A sink, to stand behind those that make reports known, and a plugin of pytest that hears these.

    Once the file can not be written any more, that is told to ``tell`` and it ends there. With ``values`` the page
    shows what tasks returned, were given and had in local variables.
    """

    def __init__(
        self, config: pytest.Config, places: Places, name: str, tell: Callable[[str], None], *, values: bool
    ) -> None:
        self._name = name
        self._tell = tell
        self._values = values
        self._config = config
        # Sources and logs are not for everybody.
        self._file = OutputFile("--ff-report", places.find("--ff-report", name), 0o600)
        self._gathering: Gathering | None = None
        self._page: Page | None = None
        # Held by whoever changes or reads what is gathered: a page that is due is written by a thread.
        self._lock = threading.Lock()
        self._timer: _Timer | None = None
        self._due = 0.0
        self._wait = _LEAST
        self._given_up = False
        #: Whether the page of the end is there.
        self._final = False
        # Bound before any task runs: some put other clocks in the place of these.
        self._clock, self._now = time.perf_counter, time.time

    def begin(self, work: Work, before: Mapping[TaskId, float]) -> None:
        """Be the page of *work*; *before* has the seconds that tasks took in earlier runs."""
        entries = work.entries
        typed = [os.fspath(argument) for argument in self._config.invocation_params.args]
        about = About(
            self._config.rootpath.name or "flows",
            " ".join(["pytest", *redact(typed)]),
            before,
            lambda task: self._parameters(entries[task]) if task in entries else {},
        )
        self._gathering = Gathering(work.graph)
        self._page = Page(about, self._gathering)
        forks.register(self)

    def _parameters(self, entry: Entry) -> dict[str, str]:
        shown = {}
        for name, value in entry.params.items():
            plain = self._values or isinstance(value, _PLAIN)
            text = preview(value, _LONGEST_VALUE) if plain else type(value).__name__
            # One that is called a password is one.
            shown[name] = "***" if redact([f"{name}=x"]) != [f"{name}=x"] else text
        return shown

    @property
    def shows_values(self) -> bool:
        """Whether results are to be seen in it."""
        return self._values

    def take(self, task: TaskId, value: Any) -> None:
        """*task* has returned *value*, which is here as an object."""
        if self._values:
            self.take_preview(task, preview(value))

    def take_preview(self, task: TaskId, text: str) -> None:
        """*task* has returned what looks like *text*; the value itself is elsewhere."""
        if self._page is not None:
            self._page.previews[task] = text

    # ------------------------------------------------------------------ recording

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._gathering is None or getattr(report, "flowforge_state", "") == BLOCKED:
            return
        error = ""
        if report.failed or hasattr(report, "flowforge_attempt"):
            error = capped(_text_of(report.longrepr, values=self._values))
        sections = [(name, text) for name, text in report.sections if name not in _NOT_SHOWN]
        if error or sections or getattr(report, "worker_id", ""):
            with self._lock:
                self._gathering.record(report.nodeid, sections, error, getattr(report, "worker_id", ""))

    def __call__(self, event: Event) -> None:
        if self._gathering is None or self._given_up:
            return
        with self._lock:
            self._gathering.apply(event)
            ends = isinstance(event, RunEnded)
            if ends or isinstance(event, RunBegan) or self._clock() >= self._due:
                self._write(None if ends else self._wait)
            elif self._timer is None:
                self._start_timer()

    def _start_timer(self) -> None:
        self._timer = _Timer(max(self._due - self._clock(), 0.0), self._write_late)
        self._timer.start()

    def _write_late(self) -> None:
        with self._lock:
            # Somebody may have been faster, or the run may be over.
            if self._timer is threading.current_thread() and not self._given_up:
                self._write(self._wait)

    def _write(self, refresh: float | None) -> None:
        """Write the page now; the lock is held."""
        if self._page is None:
            return
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.call_off()
        began = self._clock()
        try:
            self._file.write(self._page.render(self._now(), refresh))
            self._final = refresh is None
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody's task is to fail of it
            self._given_up = True
            self._tell(f"--ff-report {self._name}: {one_line(error)}; nothing more is written there")
        ended = self._clock()
        self._wait = min(max(_SHARE * (ended - began), _LEAST), _MOST)
        self._due = ended + self._wait

    def close(self) -> None:
        """The run is over: the page as it is now is the last, if it was not written as such."""
        forks.unregister(self)
        with self._lock:
            if not self._final and not self._given_up:
                self._write(None)
            self._given_up = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.call_off()

    # ------------------------------------------------------------------ tasks that fork

    def before_fork(self) -> None:
        """Have no thread: a child must not inherit what it holds, and Python warns of forks beside threads."""
        timer = self._timer
        if timer is not None and timer is not threading.current_thread():
            timer.call_off()
            timer.join(_PATIENCE)

    def after_fork(self) -> None:
        """Go on, if there is anything left to be written."""
        with self._lock:
            # It is alive already where two threads fork at a time.
            if self._timer is not None and not self._timer.is_alive():
                self._start_timer()


class _Timer(threading.Thread):
    """Calls *action* after *seconds*, unless it is called off before."""

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        super().__init__(name="flowforge-page", daemon=True)
        self._seconds = seconds
        self._action = action
        self._called_off = threading.Event()

    def call_off(self) -> None:
        """Do not act, if that has not begun."""
        self._called_off.set()

    def run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Signals are for the main thread.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if not self._called_off.wait(self._seconds):
            self._action()


def _text_of(longrepr: Any, *, values: bool) -> str:
    """Return what pytest shows of an error; without *values* neither arguments, which may be results, nor locals."""
    if not values and (chain := getattr(longrepr, "chain", None)):
        longrepr = copy.copy(longrepr)
        longrepr.chain = [(_bare(trace), *rest) for trace, *rest in chain]
        longrepr.reprtraceback = longrepr.chain[-1][0]
    elif not values and hasattr(longrepr, "reprtraceback"):
        longrepr = copy.copy(longrepr)
        longrepr.reprtraceback = _bare(longrepr.reprtraceback)
    return "" if longrepr is None else safe_text(longrepr).strip("\n")


def _bare(trace: Any) -> Any:
    trace = copy.copy(trace)
    trace.reprentries = [copy.copy(entry) for entry in trace.reprentries]
    for entry in trace.reprentries:
        for name in ("reprfuncargs", "reprlocals"):
            if hasattr(entry, name):
                setattr(entry, name, None)
    return trace
