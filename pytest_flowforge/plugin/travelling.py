"""Calls of tasks in pools of other processes and interpreters: what is sent, and what is made of the answer."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from pytest_flowforge.core.model import Outcome, Success
from pytest_flowforge.errors import ResultUnstorable
from pytest_flowforge.executors.calls import Returned, pack, perform, unpack
from pytest_flowforge.failures import one_line
from pytest_flowforge.plugin.bodies import Body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.ports import Job

__all__ = ["answer_of", "order_of", "packed_call", "taken_in", "travel_by_value"]


def travel_by_value(entries: Iterable[Entry]) -> None:
    """Let functions and classes of these flow files be sent as what they are, not as names that others must know."""
    for name in {entry.item.module.__name__ for entry in entries}:
        if name in sys.modules:
            cloudpickle.register_pickle_by_value(sys.modules[name])


def order_of(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What is sent for a job; raises what pickling raises."""
    body = getattr(job.call, "__self__", None)
    if not isinstance(body, Body):
        # It has ended already, and only that is to be told.
        return _nothing, ()
    return perform, (packed_call(body, body.arguments), body.tell)


def packed_call(body: Body, arguments: Mapping[str, Any]) -> bytes:
    """Return the call of *body*, with some of its *arguments*, as bytes; raise :class:`ResultUnstorable`."""
    filters = warnings.filters if body.output.filters is None else body.output.filters
    try:
        return pack(body.function, arguments, filters)
    except Exception as error:
        msg = (
            f"{_first_unsendable(arguments)} can not be sent to another process ({one_line(error)}): make it in the "
            "task, or use --ff-executor thread or process"
        )
        raise ResultUnstorable(msg) from error


def _first_unsendable(arguments: Mapping[str, Any]) -> str:
    for name, value in arguments.items():
        try:
            pack(int, {name: value})
        except Exception:  # noqa: BLE001 - methods of the value may raise anything
            return f"the value of the parameter {name!r} ({type(value).__module__}.{type(value).__qualname__})"
    return "the function of the task, or what it refers to,"


def answer_of(job: Job, payload: Any) -> tuple[Outcome, Any]:
    """What a job came to."""
    body = getattr(job.call, "__self__", None)
    if not isinstance(body, Body):
        return job.call()
    taken_in(body, unpack(payload))
    return Success(), body


def taken_in(body: Body, came: Returned) -> None:
    """Let *body*, whose call was made elsewhere, be what that came to."""
    body.value, body.error, body.trace = came.value, _error(came), came.trace
    body.start, body.seconds, body.measures = came.start, came.seconds, came.measures
    body.output.stdout.write(came.stdout)
    body.output.stderr.write(came.stderr)
    body.output.records.extend(came.records)
    for text, category, filename, line in came.warnings:
        body.output.warnings.append(warnings.WarningMessage(category(text), category, filename, line))


def _error(came: Returned) -> BaseException | None:
    if came.outcome is None:
        return came.error
    name, facts = came.outcome
    text = str(facts.get("msg") or "")
    if name == "Skipped":
        return pytest.skip.Exception(text)
    if name == "XFailed":
        return pytest.xfail.Exception(text)
    if name == "Exit":
        return pytest.exit.Exception(text, facts.get("returncode"))
    return pytest.fail.Exception(text, pytrace=bool(facts.get("pytrace", True)))


def _nothing() -> None:
    """Done in a pool for a task whose call is not made."""
