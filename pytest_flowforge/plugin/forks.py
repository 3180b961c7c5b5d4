"""Threads of ours step aside while a task forks.

A child must not inherit a lock that is held by a thread which it does not have, and Python warns of forks beside
threads, which is an error where a project makes it one.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["ForkAware", "register", "unregister"]


class ForkAware(Protocol):
    """Has a thread that comes and goes."""

    def before_fork(self) -> None:
        """End the thread, and wait for that."""

    def after_fork(self) -> None:
        """Let there be a thread again; in the parent alone."""


_living: WeakSet[ForkAware] = WeakSet()


def register(one: ForkAware) -> None:
    """From now on *one* steps aside."""
    _living.add(one)


def unregister(one: ForkAware) -> None:
    """*one* has no thread any more."""
    _living.discard(one)


def _before() -> None:
    for one in tuple(_living):
        one.before_fork()


def _after() -> None:
    if _living and threading.active_count() == 1:
        # From 3.13 on Python looks for threads after this, and would warn of those that were not there.
        warnings.filterwarnings(
            "ignore", r".* use of fork\w*\(\) may lead to deadlocks in the child", DeprecationWarning
        )
    for one in tuple(_living):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    _hooks: dict[str, Any] = {"before": _before, "after_in_parent": _after, "after_in_child": _living.clear}
    os.register_at_fork(**_hooks)
