"""Who follows a run because somebody has asked for it: by an option, or by sitting in front of a terminal.

What writes graphs, pages and events is imported by those who ask for these: the others start sooner without it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pytest_flowforge.core.estimate import Estimate
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.plugin.options import Mode
from pytest_flowforge.plugin.output_files import OutputFiles, Places
from pytest_flowforge.plugin.status_line import StatusLine, is_wanted
from pytest_flowforge.report.metrics import metrics_as_json, metrics_as_prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_flowforge.plugin.backends import Work
    from pytest_flowforge.plugin.event_log import EventFile
    from pytest_flowforge.plugin.graph_files import GraphFiles
    from pytest_flowforge.plugin.live_page import LivePage
    from pytest_flowforge.plugin.options import Options
    from pytest_flowforge.plugin.running import Runner
    from pytest_flowforge.plugin.terminal import Terminal

__all__ = ["Watching"]

_NUMBERS = {".json": metrics_as_json, ".prom": metrics_as_prometheus}


class Watching:
    """Looks at the files that options name, before anything is collected; raises UsageError for one that is no good."""

    def __init__(self, config: pytest.Config, options: Options, terminal: Terminal) -> None:
        self._config = config
        self._terminal = terminal
        places, tell = Places(config), terminal.tell
        runs = options.mode is Mode.RUN and not config.option.collectonly
        self._metrics_files = OutputFiles(
            places, "--ff-metrics", options.metrics if runs else (), _NUMBERS, terminal.tell
        )
        draws = options.mode in {Mode.RUN, Mode.DRY_RUN} and not config.option.collectonly
        #: Those that --ff-dry-run writes, too; there are none for other questions.
        self.graph_files: GraphFiles | None = None
        if options.graph and draws:
            from pytest_flowforge.plugin.graph_files import GraphFiles  # noqa: PLC0415 - see the module docstring

            self.graph_files = GraphFiles(places, options.graph, tell)
        #: The page of the run, for those who have values to show there.
        self.page: LivePage | None = None
        if options.report and runs:
            from pytest_flowforge.plugin.live_page import LivePage  # noqa: PLC0415 - likewise

            self.page = LivePage(config, places, options.report, tell, values=options.report_values)
            config.pluginmanager.register(self.page, "flowforge-page")
        self._event_file: EventFile | None = None
        if options.events and runs:
            from pytest_flowforge.plugin.event_log import EventFile  # noqa: PLC0415 - likewise

            self._event_file = EventFile.open(places, options.events, tell)
            config.add_cleanup(self._event_file.close)

    @contextmanager
    def follow(self, runner: Runner, work: Work) -> Iterator[None]:
        """Follow the run that goes on within."""
        metrics = Metrics(work.graph)
        runner.watch("metrics", metrics)
        self._terminal.measures(metrics)
        if self._event_file is not None:
            self._event_file.begin(runner.run_id, runner.summary.counts)
            runner.watch("--ff-events", self._event_file)
        with ExitStack() as stack:
            # However it ends.
            if self.graph_files is not None:
                stack.callback(
                    self.graph_files.write_run, work.graph, runner.summary.snapshot, work.entries, work.blueprint
                )
            if self._metrics_files:
                stack.callback(lambda: self._metrics_files.write(metrics.snapshot(), work.graph))
            if self.page is not None:
                stack.callback(self.page.close)
                self.page.begin(work, work.checkpointing.durations)
                runner.watch("--ff-report", self.page)
            if is_wanted(self._config):
                stack.enter_context(self._status_line(runner, work))
            yield

    @contextmanager
    def _status_line(self, runner: Runner, work: Work) -> Iterator[None]:
        executor = runner.backend.executor
        line = StatusLine(
            self._config,
            work.graph,
            runner.summary.counts,
            Estimate(work.graph, work.checkpointing.durations),
            lambda: executor.slots,
            work.clock,
        )
        runner.watch("status line", line)
        plugins = self._config.pluginmanager
        try:
            plugins.register(line, "flowforge-status-line")
            line.open()
            yield
        finally:
            line.close()
            # Ctrl-C may have come before.
            if plugins.is_registered(line):
                plugins.unregister(line)
