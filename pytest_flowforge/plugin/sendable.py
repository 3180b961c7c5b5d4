"""Warnings in a worker, made such that pytest-xdist can send them.

xdist sends warnings its own way, at the moment they are recorded. A text that UTF-8 does not know, arguments nested too
deeply, or a class that the other side can not import would end a process there: the worker, or its whole session.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.failures import safe_text

if TYPE_CHECKING:
    import warnings

__all__ = ["SendableWarnings"]


class SendableWarnings:
    """A plugin for workers: what can not be sent as it is becomes a UserWarning of the same words."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        message = warning_message.message
        kind = type(message)
        text = safe_text(message)
        known = all(_is_known(one) for one in (kind, warning_message.category))
        plain = all(argument is None or type(argument) in _PLAIN for argument in getattr(message, "args", ()))
        if known and plain and _is_sendable(text):
            return
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        warning_message.message = UserWarning(f"{kind.__module__}.{kind.__qualname__}: {text}")
        if not known:
            warning_message.category = UserWarning


#: Of these, arguments are sent as they are; a text among them is checked as part of the message.
_PLAIN = (str, int, float, bool)


def _is_known(kind: type) -> bool:
    """Whether *kind* is found by its module and its name."""
    return getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _is_sendable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
