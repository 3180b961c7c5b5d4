"""Failed tasks beside the code in GitHub Actions: one annotation for each that failed by itself, none for its victims.

Made where ``GITHUB_ACTIONS`` is ``true``, in the process of the run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.annotations import Annotation, annotation_lines

if TYPE_CHECKING:
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Task
    from pytest_flowforge.core.observed import Run
    from pytest_flowforge.core.summary import RunSummary

__all__ = ["Annotations"]

#: Makes an annotation of every report that failed, those of victims included.
_OTHER = "pytest_github_actions_annotate_failures"

_MOST_VICTIMS = 8


class Annotations:
    """A plugin that listens to the run, and prints annotations at the end of the session."""

    @classmethod
    def activate(cls, config: pytest.Config) -> None:
        """Register one where it is of use."""
        if os.environ.get("GITHUB_ACTIONS") == "true" and not config.pluginmanager.has_plugin(_OTHER):
            config.pluginmanager.register(cls(config), "flowforge-annotations")

    def __init__(self, config: pytest.Config) -> None:
        self._root = config.rootpath
        # Tasks may change their environment, which is ours.
        self._workspace = Path(os.environ.get("GITHUB_WORKSPACE") or config.rootpath)
        self._run: Run | None = None
        #: Lines where tasks have failed, for those that have failed in their own file.
        self._lines: dict[str, int] = {}

    def pytest_flowforge_run_started(self, run: Run) -> None:
        self._run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        crash = getattr(report.longrepr, "reprcrash", None) if report.failed else None
        # The path of the file is the first part of the id, as seen from the root.
        if crash is not None and Path(crash.path) == self._root / report.nodeid.partition("::")[0]:
            self._lines.setdefault(report.nodeid, crash.lineno)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._run is None:
            return
        summary, graph = self._run.summary.snapshot(), self._run.graph
        # What was interrupted has not failed, and runs again.
        failed = [task for task in summary.failed if summary.states[task] is not TaskState.INTERRUPTED]
        terminalreporter.ensure_newline()
        for line in annotation_lines([self._annotation(graph[task], graph, summary) for task in failed]):
            terminalreporter.write_line(line)

    def _annotation(self, task: Task, graph: TaskGraph, summary: RunSummary) -> Annotation:
        lines = [summary.reasons.get(task.id, "")]
        attempts = summary.attempts.get(task.id, 0)
        if attempts > 1:
            lines.append(f"after {attempts:,} attempts")
        victims = summary.blocked_by_root.get(task.id, ())
        if victims:
            names = [graph[victim].label for victim in victims[:_MOST_VICTIMS]]
            more = ["..."] if len(victims) > len(names) else []
            lines.append(f"{len(victims):,} blocked behind it: {', '.join([*names, *more])}")
        path, line = "", None
        if task.location is not None:
            path, line = self._path(task.location.path), self._lines.get(task.id, task.location.line)
        return Annotation(task.label, summary.states[task.id].value, path, line, lines)

    def _path(self, shown: str) -> str:
        """The path as GitHub wants it: relative to where the repository was checked out, if it lies there."""
        path = self._root / shown
        if path.is_relative_to(self._workspace):
            return path.relative_to(self._workspace).as_posix()
        return shown
