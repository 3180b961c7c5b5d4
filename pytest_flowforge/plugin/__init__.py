"""The pytest side: the only package that knows pytest.

Without ``--flowforge`` this module is all that an ordinary session loads, with the options and the hook
specifications: it registers marks and goes back to sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_flowforge.plugin.inner_runs import RunFlow

__all__: list[str] = []


@pytest.fixture
def run_flow(request: pytest.FixtureRequest) -> RunFlow:
    """Run a flow file, or a Workflow, within a test, with stand-ins for some tasks, and return its Run.

    ``run_flow("flows/flow_etl.py", replace={"extract": [1]})["load"]`` is the result of the task ``load``.
    """
    from pytest_flowforge.plugin.inner_runs import RunFlow  # noqa: PLC0415 - see the module docstring

    return RunFlow(request)


def pytest_addoption(parser: pytest.Parser) -> None:
    from pytest_flowforge.plugin.options import add_options  # noqa: PLC0415 - see the module docstring

    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_flowforge import hookspecs  # noqa: PLC0415

    pluginmanager.add_hookspecs(hookspecs)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    from pytest_flowforge.plugin.checkpoint_options import errand_of  # noqa: PLC0415

    errand = errand_of(config)
    if errand is None or config.option.help or config.option.version:
        return None
    from pytest_flowforge.plugin.errands import run  # noqa: PLC0415

    return run(config, errand)


def pytest_configure(config: pytest.Config) -> None:
    from pytest_flowforge.plugin.options import is_active, register_marks  # noqa: PLC0415

    register_marks(config)
    if is_active(config):
        from pytest_flowforge.plugin.activation import activate  # noqa: PLC0415

        activate(config)
