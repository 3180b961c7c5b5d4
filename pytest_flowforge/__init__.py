"""pytest-flowforge: your pipeline is a pytest suite.

What flow files and their tests may import stands here, and only here. Names load when they are first used, because
this package is imported in every pytest session of the environment, flows or not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_flowforge.declare import depends_on
    from pytest_flowforge.errors import CheckpointError, FlowforgeError, GraphError, ResultError, SelectionError
    from pytest_flowforge.results import NoResult, only

__all__ = [
    "CheckpointError",
    "FlowforgeError",
    "GraphError",
    "NoResult",
    "ResultError",
    "SelectionError",
    "__version__",
    "depends_on",
    "only",
]

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_HOMES = {
    "CheckpointError": "pytest_flowforge.errors",
    "FlowforgeError": "pytest_flowforge.errors",
    "GraphError": "pytest_flowforge.errors",
    "NoResult": "pytest_flowforge.results",
    "ResultError": "pytest_flowforge.errors",
    "SelectionError": "pytest_flowforge.errors",
    "depends_on": "pytest_flowforge.declare",
    "only": "pytest_flowforge.results",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
