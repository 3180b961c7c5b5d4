"""What has to be the same here and at the workers of a Dask cluster, for functions and values to travel."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SAME_THERE", "differences", "facts_of"]

_PACKAGES = ("pytest_flowforge", "cloudpickle", "distributed")

#: What people are told to do.
SAME_THERE = "Install the same there: the same Python (major and minor version), and pytest-flowforge[dask]"


def facts_of() -> Callable[[], dict[str, str]]:
    """Return a function that says what is installed where it is called. It travels by value."""
    packages = list(_PACKAGES)

    def facts() -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        found = {"python": "{}.{}".format(*sys.version_info)}
        for name in packages:
            try:
                found[name] = version(name.replace("_", "-"))
            except PackageNotFoundError:
                found[name] = ""
        return found

    return facts


@functools.cache
def _here() -> Mapping[str, str]:
    return facts_of()()


def differences(worker: str, there: Any) -> list[str]:
    """Return in words what *worker* has that is not as it is here: *there* are its facts, or what it raised."""
    if isinstance(there, BaseException):
        return [f"{worker} can not say what it has ({one_line(there)})"]
    return [
        f"{worker} has {_called(name)} {there[name] or 'not at all'}, and here it is {version}"
        for name, version in _here().items()
        if there[name] != version
    ]


def _called(name: str) -> str:
    return "Python" if name == "python" else name.replace("_", "-")
