"""What people ask for of a task: from what they wrote to values that are valid, or a sentence that says why not.

Marks in flow files and tasks in code take the same, and say the same about what can not be meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.failures import safe_text
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BadRule",
    "Strategy",
    "mapping",
    "number",
    "pool_name",
    "priority",
    "qualified_name",
    "retry",
    "trigger",
    "whole",
]

_TRIGGERS = {rule.value: rule for rule in Trigger}


class BadRule(ValueError):
    """Something was asked for that can not be meant; the text is for people."""


def trigger(who: str, when: object) -> Trigger:
    """Return the trigger rule that *when* names; *who* is what it was given to."""
    if isinstance(when, str) and when in _TRIGGERS:
        return _TRIGGERS[when]
    msg = f"{who}(when={quoted(when)}): there is no such rule; use one of {', '.join(map(repr, _TRIGGERS))}"
    raise BadRule(msg)


def retry(
    max_retries: int,
    delay: float | Callable[..., Any] = 0.0,
    backoff: float = 1.0,
    max_delay: float | None = None,
    jitter: float = 0.0,
    on: Any = (),
    not_on: Any = (),
) -> RetryPolicy:
    """Return how a task is tried again: *max_retries* attempts may follow the first one.

    The wait before retry *n* is ``delay * backoff ** (n - 1)`` seconds, at most *max_delay*; *delay* may be a function
    of the number of the attempt that failed, or a wait object of tenacity. *jitter* (0 to 1) makes it longer by up to
    that share. With *on* only failures by these classes of exceptions are tried again, those of *not_on* never are.
    Raises :class:`BadRule`.
    """
    return RetryPolicy(
        max_retries=whole("retry", "max_retries", max_retries),
        delay=0.0 if callable(delay) else number("retry", "delay", delay),
        backoff=number("retry", "backoff", backoff),
        max_delay=None if max_delay is None else number("retry", "max_delay", max_delay),
        jitter=number("retry", "jitter", jitter, most=1.0),
        on=_classes("on", on),
        not_on=_classes("not_on", not_on),
        wait=Strategy(delay) if callable(delay) else None,
    )


def priority(value: object) -> int:
    """Return *value* as a priority."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"priority({quoted(value)}): give a whole number, as in priority(10)"
        raise BadRule(msg)
    return value


def pool_name(name: object) -> str:
    """Return *name* as that of a pool."""
    if not isinstance(name, str):
        msg = f'pool({quoted(name)}): a pool is named by a string, as in pool("gpu") or pool(mem=8)'
        raise BadRule(msg)
    return name


def mapping(option: str, given: object, holds: str) -> dict[str, Any]:
    """Return *given*, the value of *option*, as a dict of its own; *holds* says what such a dict holds."""
    if isinstance(given, Mapping):
        return dict(given)
    msg = f"{option}={quoted(given)}: give a dict with {holds}"
    raise BadRule(msg)


def qualified_name(cls: type) -> str:
    """The name by which a class travels: ``builtins.OSError``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def whole(who: str, name: str, value: object, *, least: int = 0) -> int:
    """Return *value*, given as *name* to *who*, if it is a whole number of at least *least*."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{who}({name}={quoted(value)}): give a whole number of {least} or more"
        raise BadRule(msg)
    return value


def number(who: str, name: str, value: object, *, most: float = math.inf) -> float:
    """Return *value*, given as *name* to *who*, if it is a number from 0 to *most*."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= most:
        return float(value)
    bounds = "0 or more" if most == math.inf else f"0 to {most:g}"
    msg = f"{who}({name}={quoted(value)}): give a number, {bounds}"
    raise BadRule(msg)


def _classes(name: str, value: object) -> tuple[str, ...]:
    classes = value if isinstance(value, (tuple, list)) else (value,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            msg = f"retry({name}={quoted(value)}): give exception classes, as in {name}=(OSError,)"
            raise BadRule(msg)
    return tuple(qualified_name(cls) for cls in classes)


class Strategy:
    """A callable as a wait strategy: called with the number of the attempt that failed, or a tenacity wait object.

    One that raises, or returns anything but a finite number of seconds, means no wait: the task's own failure must not
    turn into one of the run. ``trouble`` then says what was wrong the first time; else it is empty.
    """

    def __init__(self, delay: Callable[..., Any]) -> None:
        self._delay = delay
        self._ask = _tenacious(delay) if type(delay).__module__.partition(".")[0] == "tenacity" else delay
        self.trouble = ""
        #: What is to stop the run when it comes out of the strategy.
        self.fatal: tuple[type[BaseException], ...] = (KeyboardInterrupt,)

    def __call__(self, attempt: int) -> float:
        try:
            answer = self._ask(attempt)
        except self.fatal:
            raise
        except BaseException as error:  # noqa: BLE001 - it is the user's function, and may raise anything
            self._complain(f"raised {type(error).__name__}: {safe_text(error)}")
            return 0.0
        try:
            seconds = float(answer)
        except Exception:  # noqa: BLE001 - so may a method of what it returns
            seconds = math.nan
        if math.isfinite(seconds):
            return seconds
        self._complain(f"returned {quoted(answer)}, which is no number of seconds")
        return 0.0

    def _complain(self, what: str) -> None:
        name = getattr(self._delay, "__qualname__", type(self._delay).__qualname__)
        self.trouble = self.trouble or f"retry(delay={name}) {what}"


def _tenacious(delay: Callable[..., Any]) -> Callable[[int], Any]:
    def wait(attempt: int) -> Any:
        from tenacity import RetryCallState  # noqa: PLC0415 - only who has tenacity comes here

        # No wait object looks at what is tried again: there is only the number of the attempt.
        nobody: Any = None
        state = RetryCallState(retry_object=nobody, fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        return delay(state)

    return wait
