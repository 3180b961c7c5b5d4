"""Work for executors of every kind: functions that other processes can import, and files as gates between them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.model import Failure, Outcome, Skipped, Success

if TYPE_CHECKING:
    from pathlib import Path


def give(value: Any) -> tuple[Outcome, Any]:
    return Success(), value


def add(**parts: int) -> tuple[Outcome, Any]:
    return Success(), sum(parts.values())


def fail(message: str) -> tuple[Outcome, Any]:
    return Failure(message=message), None


def skip(reason: str) -> tuple[Outcome, Any]:
    return Skipped(reason), None


def crash(**_ignored: Any) -> tuple[Outcome, Any]:
    os._exit(3)


def throw(error: BaseException) -> tuple[Outcome, Any]:
    raise error


def throw_once_open(error: BaseException, gate: Path) -> tuple[Outcome, Any]:
    until_there(gate)
    raise error


def pass_gate(began: Path, gate: Path) -> tuple[Outcome, Any]:
    """Say that it runs, and by which process, then wait for the gate to be opened."""
    say(began, os.getpid())
    until_there(gate)
    return Success(), began.name


def crash_at_gate(began: Path, gate: Path) -> tuple[Outcome, Any]:
    say(began, os.getpid())
    until_there(gate)
    os._exit(3)


def hang(began: Path) -> tuple[Outcome, Any]:
    say(began, os.getpid())
    while True:
        time.sleep(3600)


def meet(folder: Path, name: str, number: int) -> tuple[Outcome, Any]:
    """Return once *number* of these have begun in *folder*, which is for nothing else."""
    say(folder / name, name)
    while len(list(folder.glob("?"))) < number:
        time.sleep(0.005)
    return Success(), name


def lock() -> tuple[Outcome, Any]:
    return Success(), threading.Lock()


def break_a_pool_of_its_own() -> tuple[Outcome, Any]:
    msg = "somebody else's"
    raise BrokenProcessPool(msg)


def do_not_start() -> None:
    """What breaks every process of a pool before it has done anything."""
    msg = "no worker today"
    raise OSError(msg)


def say(path: Path, what: object) -> None:
    """Write at once or not at all: others read as soon as it is there."""
    draft = path.with_name(f".{path.name}.{threading.get_ident()}")
    draft.write_text(str(what), encoding="utf-8")
    draft.rename(path)


def until_there(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} is not there"
        time.sleep(0.005)
