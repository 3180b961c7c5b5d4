"""Declaring dependencies by function instead of by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["depends_on"]


def depends_on(*tasks: Callable[..., Any] | str, when: str | None = None) -> pytest.MarkDecorator:
    """Return a decorator that makes a task wait for *tasks*: task functions, or names of tasks.

    ``when`` is the trigger rule: ``all_success`` (the default), ``all_done``, ``any_success``, ``any_failed`` or
    ``always``. This is ``@pytest.mark.depends_on`` for functions: the mark itself, given one bare function, can
    not tell an argument from the function it decorates.

    Nothing is checked here: a wrong name or rule is reported with all other problems when flows are collected.
    """
    keywords = {} if when is None else {"when": when}
    return pytest.mark.depends_on.with_args(*tasks, **keywords)
