"""How a session becomes one that runs flows: what all of its processes register, and what this kind of process does.

The process of the run and its workers import what they need and not what the other does: workers start in numbers.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from pytest_flowforge.plugin import fixtures
from pytest_flowforge.plugin.collecting import Collecting
from pytest_flowforge.plugin.leaving import Leaving
from pytest_flowforge.plugin.options import Options
from pytest_flowforge.plugin.xdist_internals import is_worker

__all__ = ["activate"]


def activate(config: pytest.Config) -> None:
    """Make this session one that runs flows; raises UsageError for options that can not be met."""
    options = Options.of(config)
    if config.getoption("stepwise", None) or config.getoption("stepwise_skip", None):
        msg = "--stepwise goes by the order of a file, and a flow has a graph: use -x, and then --lf"
        raise pytest.UsageError(msg)
    # pytest-randomly would shuffle the order in which ready tasks start; two runs of one flow are to be alike.
    if hasattr(config.option, "randomly_reorganize"):
        config.option.randomly_reorganize = False
    manager = config.pluginmanager
    # --lf leaves out files and functions in which nothing failed; the graph needs them.
    if manager.has_plugin("lfplugin-collwrapper"):
        manager.unregister(name="lfplugin-collwrapper")
    collecting = Collecting(config, options)
    manager.register(collecting, "flowforge-collecting")
    manager.register(fixtures, "flowforge-fixtures")
    if is_worker(config):
        _work(config, options, collecting)
    else:
        from pytest_flowforge.plugin.session import lead  # noqa: PLC0415 - see the module docstring

        lead(config, options, collecting)


def _work(config: pytest.Config, options: Options, collecting: Collecting) -> None:
    from pytest_flowforge.plugin.sendable import SendableWarnings  # noqa: PLC0415 - see the module docstring
    from pytest_flowforge.plugin.worker import WorkerSession  # noqa: PLC0415 - likewise

    manager = config.pluginmanager
    manager.register(SendableWarnings(), "flowforge-warnings")
    manager.register(Leaving(config, _write_at_once, is_worker=True), "flowforge-leaving")
    manager.register(WorkerSession(config, options, collecting), "flowforge-session")


def _write_at_once(sentence: str) -> None:
    # There is nobody any more who would tell it later.
    with suppress(OSError):
        os.write(2, f"flowforge: {sentence}\n".encode("utf-8", "backslashreplace"))
