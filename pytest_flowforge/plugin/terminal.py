"""What the terminal says besides pytest's own lines: lists and plans, what came along, who blocked whom."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from pytest_flowforge.core.plan import plan
from pytest_flowforge.core.resume import IN_DOUBT
from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.checkpointing import Reuse
from pytest_flowforge.plugin.options import Format, Mode
from pytest_flowforge.plugin.pytest_internals import redirect_terminal
from pytest_flowforge.plugin.reporting import RETRIED
from pytest_flowforge.report import text
from pytest_flowforge.report.timing import timing_lines
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.metrics import Metrics
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.plan import PlannedTask
    from pytest_flowforge.core.selection import Selection
    from pytest_flowforge.core.summary import Summary
    from pytest_flowforge.plugin.options import Options

__all__ = ["Terminal"]

_MOST_ALONG = 8
_MOST_NOTES = 20
_LONGEST_NOTE = 1000
_MOST_RETRIED = 200

#: -vv
_ALL_THERE_IS = 2

#: Seconds of work from which on people want to know where the time of a run went.
_A_LONG_RUN = 10.0


class Terminal:
    """Gathers what is to be said and says it in pytest's own places."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        #: Problems of a session that ends for another reason (a file that can not be imported).
        self.problems: tuple[Problem, ...] = ()
        self._graph: TaskGraph | None = None
        self._selection: Selection | None = None
        self._summary: Summary | None = None
        self._metrics: Metrics | None = None
        self._reuse = Reuse()
        self._decided = False
        #: What the jitter of retries depends on; empty where there is none.
        self.seed = ""
        #: The command that continues this run, should it not end well.
        self.resume_command = ""
        #: What is to be said before anything else.
        self.first_lines: Sequence[str] = ()
        #: States in the last run, for --ff-list.
        self.last_states: Mapping[TaskId, str] = {}
        #: Lines about each task, for --ff-explain.
        self.explanation: Sequence[str] = ()
        #: Sentences for the end of the session.
        self._notes: list[str] = []
        #: Files that could not be collected; pytest shows them to people.
        self._uncollected: list[Problem] = []
        #: The attempt whose output was shown last, by task and number.
        self._shown_retry = ("", 0)
        #: Where an answer in JSON goes, when all else that pytest prints is kept from there.
        self._answers: TextIO = sys.stdout

    def tell(self, sentence: str) -> None:
        """Say *sentence* at the end of the session."""
        self._notes.append(sentence)

    def flows(self, graph: TaskGraph, selection: Selection) -> None:
        """Take note of what the session is about."""
        self._graph = graph
        self._selection = selection

    def reuses(self, reuse: Reuse) -> None:
        """Take note of what stands of earlier runs."""
        self._reuse = reuse
        self._decided = True

    def watch(self, summary: Summary) -> None:
        """Show this run at the end."""
        self._summary = summary

    def measures(self, metrics: Metrics) -> None:
        """Show where the time of this run went, at the end, where it was long or that was asked for (-vv)."""
        self._metrics = metrics

    def came_along(self, items: Sequence[pytest.Item]) -> None:
        """*items* were deselected by some plugin and are needed all the same: do not count them as deselected."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not items:
            return
        along = set(items)
        reporter.stats["deselected"] = [item for item in reporter.stats.get("deselected", []) if item not in along]

    # ------------------------------------------------------------------ answers

    def answer(self, graph: TaskGraph, selection: Selection) -> Sequence[PlannedTask]:
        """Answer --ff-list, --ff-dry-run or --ff-validate; return what a run would do."""
        reuse = self._reuse
        planned = plan(graph, selection, reuse.because, reuse.reasons, reuse.refused)
        if self._options.mode is Mode.VALIDATE:
            self._answer_validate(graph)
        elif self._options.format is Format.JSON:
            print(text.plan_as_json(planned, self.last_states), file=self._answers)
        elif self._options.mode is Mode.LIST:
            self._write(text.task_lines(planned, graph, self._verbosity, self.last_states))
        else:
            self._write(text.plan_lines(planned, graph, self._verbosity))
        return planned

    def show_problems(self, problems: Sequence[Problem]) -> None:
        """Answer --ff-validate for machines when there are problems; people get them as pytest's usage errors."""
        if self._options.mode is Mode.VALIDATE and self._options.format is Format.JSON:
            print(text.validation_as_json(0, [*self._uncollected, *problems]), file=self._answers)

    @property
    def _answers_machines(self) -> bool:
        return self._options.mode is not Mode.RUN and self._options.format is Format.JSON

    def _answer_validate(self, graph: TaskGraph) -> None:
        if self._options.format is Format.JSON:
            print(text.validation_as_json(len(graph), ()), file=self._answers)
            return
        files = {task.location.path for task in graph if task.location}
        self._write([f"{plural(len(graph), 'task')} in {plural(len(files), 'file')}: no problems"])

    @property
    def _verbosity(self) -> int:
        return self._config.get_verbosity()

    def _write(self, lines: Sequence[str]) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(line)

    # ------------------------------------------------------------------ pytest's hooks

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None, object, object]:
        if self._answers_machines and self._config.pluginmanager.has_plugin("terminalreporter"):
            # Before anything is printed: standard output is for the answer alone.
            self._answers = redirect_terminal(self._config, sys.stderr)
        return (yield)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash is not None else report.longreprtext
            self._uncollected.append(Problem(report.nodeid, text.strip().splitlines()[0] if text.strip() else "failed"))

    def pytest_report_collectionfinish(self) -> list[str]:
        if self._selection is None or self._graph is None:
            return []
        if self._options.mode is not Mode.RUN and self._verbosity < 0:
            # Names alone were asked for.
            return list(self.explanation)
        along = self._along(self._graph, self._selection)
        return [*self.first_lines, *along, *self._seeded(), *self._reused(self._graph), *self.explanation]

    def _seeded(self) -> list[str]:
        if not self.seed or self._options.mode is not Mode.RUN or self._verbosity < 0:
            return []
        return [f"flowforge: jitter of retries: --ff-seed={text.printable(self.seed)}"]

    def _reused(self, graph: TaskGraph) -> list[str]:
        if not self._decided or self._options.mode is not Mode.RUN or not self._options.checkpoint.reuses:
            return []
        reuse = self._reuse
        again = [task for task in reuse.in_doubt if task not in reuse.refused and reuse.reasons[task] == IN_DOUBT]
        lines = text.in_doubt_lines([graph[task] for task in again], graph)
        start = "reuses what earlier runs have made" if self._options.checkpoint.cache else "no earlier run to continue"
        if reuse.run is not None and self._options.checkpoint.resume:
            start = f"continues run {reuse.run.id}"
        return lines + text.reuse_lines(graph, (reuse.restored, reuse.reasons, reuse.refused), start, self._verbosity)

    def _along(self, graph: TaskGraph, selection: Selection) -> list[str]:
        if not selection.along:
            return []
        along = [task for task in graph if task.id in selection.along]
        name = text.names(graph)
        shown = ", ".join(name(task) for task in along[:_MOST_ALONG])
        more = f" and {len(along) - _MOST_ALONG:,} more" if len(along) > _MOST_ALONG else ""
        return [f"flowforge: {plural(len(along), 'task')} not asked for but needed: {shown}{more}"]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """With -vv, show what an attempt has written below its line, all together, when it has ended."""
        # Of an attempt that is followed by another there are its failed phases alone, each with all that was written.
        retried = getattr(report, "flowforge_attempt", 0)
        if self._verbosity < _ALL_THERE_IS or not (retried or report.when == "teardown"):
            return
        attempt = (report.nodeid, retried)
        if retried and attempt == self._shown_retry:
            return
        self._shown_retry = attempt
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        sections = list(self._shown(report))
        if reporter is None or not sections:
            return
        reporter.ensure_newline()
        for name, content in sections:
            reporter.write_sep("-", _whole(f"{report.nodeid}: {name}"))
            for line in _harmless_lines(content):
                reporter.write_line(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self._show_retried(terminalreporter)
        lines = [str(problem) for problem in self.problems]
        if self._summary is not None and self._graph is not None:
            lines += text.summary_lines(self._summary.snapshot(), self._graph)
            lines += self._timing(self._graph)
        lines += [text.printable(note, _LONGEST_NOTE) for note in self._notes[:_MOST_NOTES]]
        if len(self._notes) > _MOST_NOTES:
            lines.append(f"and {len(self._notes) - _MOST_NOTES:,} more notes")
        if self.resume_command and self._summary is not None and not self._summary.snapshot().ok:
            # Whole, whatever its length: it is to be pasted.
            lines.append(f"continue with: {text.printable(self.resume_command, sys.maxsize)}")
        if lines:
            terminalreporter.write_sep("=", "flowforge")
            for line in lines:
                terminalreporter.write_line(line)

    def _timing(self, graph: TaskGraph) -> list[str]:
        metrics = self._metrics
        if metrics is None or self._verbosity < 0:
            return []
        if self._verbosity < _ALL_THERE_IS and metrics.work < _A_LONG_RUN:
            return []
        return timing_lines(metrics.snapshot(), graph)

    def _shown(self, report: pytest.TestReport) -> Iterator[tuple[str, str]]:
        """Return what was captured, as far as --show-capture wants it."""
        shown = self._config.option.showcapture
        return ((name, content) for name, content in report.sections if shown == "all" or shown in name)

    def _show_retried(self, reporter: pytest.TerminalReporter) -> None:
        """Show the attempts that others followed as pytest shows failures, where that was asked for (-v, -rR, -rA)."""
        retried = reporter.stats.get(RETRIED, [])
        option = self._config.option
        if not retried or option.tbstyle == "no" or not (self._verbosity > 0 or {*option.reportchars} & {"R", "A"}):
            return
        writer = self._config.get_terminal_writer()
        reporter.write_sep("=", "RETRIES")
        for report in retried[:_MOST_RETRIED]:
            head = _whole(f"{report.head_line} (attempt {report.flowforge_attempt})")
            reporter.write_sep("_", head, yellow=True, bold=True)
            if option.tbstyle == "line":
                crash = getattr(report.longrepr, "reprcrash", None)
                writer.line(text.printable(str(crash or report.longreprtext), _LONGEST_NOTE))
                continue
            for line in _harmless_lines(_rendered(report, writer)):
                writer.line(line)
            for name, content in self._shown(report):
                writer.sep("-", _whole(name))
                for line in _harmless_lines(content):
                    writer.line(line)
        if len(retried) > _MOST_RETRIED:
            writer.line(f"and {len(retried) - _MOST_RETRIED:,} more (--ff-status -v has their errors)")


def _whole(line: str) -> str:
    return text.printable(line, sys.maxsize)


def _harmless_lines(content: str) -> list[str]:
    return text.harmless(content.rstrip("\n")).split("\n")


def _rendered(report: pytest.TestReport, writer: Any) -> str:
    """Return what pytest would show of the error of *report* at *writer*."""
    file = StringIO()
    other = type(writer)(file)
    other.hasmarkup, other.fullwidth = writer.hasmarkup, writer.fullwidth
    other.code_highlight = writer.code_highlight
    report.toterminal(other)
    return file.getvalue()
