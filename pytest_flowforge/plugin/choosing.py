"""Which executor a session uses, from our options and those of pytest-xdist, which means one by ``-n``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.engine import RunPolicy
from pytest_flowforge.plugin.options import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_flowforge.plugin.options import Options

__all__ = ["DASK", "LOCAL", "PROCESS", "THREAD", "Choice", "choose"]

LOCAL, THREAD, PROCESS, DASK = "local", "thread", "process", "dask"

#: Ways in which xdist distributes tests that say nothing about which task goes where.
_WAYS = ("load", "worksteal")

#: Options of other plugins that run tests their own way, which they can do in this process only.
_OF_OTHERS = {
    "reruns": "--reruns",
    "forked": "--forked",
    "looponfail": "--looponfail",
    "flake_finder": "--flake-finder",
}

#: Threads that "auto" means at most: they mostly wait.
_MOST_THREADS = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """The executor of a session, and how many tasks it runs at a time."""

    name: str
    workers: int

    @property
    def calls_elsewhere(self) -> bool:
        """Whether tasks are set up in this process, and called in another thread or process."""
        return self.name not in (LOCAL, PROCESS)

    @property
    def policy(self) -> RunPolicy:
        """What holds for the whole run."""
        # Time-outs are for those to notice who know when an attempt has really begun.
        return RunPolicy(slots=self.workers)


def choose(config: pytest.Config, options: Options, tell: Callable[[str], None]) -> Choice:
    """Return what the session uses, and set the options of pytest-xdist to that; raises UsageError."""
    name = _name(config, options)
    if options.mode is not Mode.RUN or config.option.collectonly or config.option.setuponly:
        # Nothing runs: nobody to run it is needed.
        name = LOCAL
    elif name != LOCAL and (config.option.usepdb or config.option.trace):
        tell(f"the debugger needs this process: tasks run one after the other in it, not by --ff-executor {name}")
        name = LOCAL
    if name == LOCAL:
        _no_workers(config)
        if options.workers is not None and options.workers > 1 and name == _name(config, options):
            msg = f"--ff-workers {options.workers}: local runs one task at a time; add --ff-executor thread or process"
            raise pytest.UsageError(msg)
        return Choice(name, 1)
    for option, shown in _OF_OTHERS.items():
        if config.getoption(option, None):
            retries = "; --ff-retries and the retry mark do it" if option == "reruns" else ""
            msg = f"{shown} runs tests in its own way, in one process only: leave it out{retries}, or use -n 0"
            raise pytest.UsageError(msg)
    if name == PROCESS:
        return Choice(name, _processes(config, options))
    _no_workers(config)
    cores = os.cpu_count() or 1
    return Choice(name, options.workers or (cores if name == DASK else min(_MOST_THREADS, cores + 4)))


def _name(config: pytest.Config, options: Options) -> str:
    asked = config.getoption("numprocesses", None) or (
        config.getoption("dist", "no") != "no" and config.getoption("tx", None)
    )
    cluster = options.cluster
    if cluster.address_given and (asked or (options.executor_given and options.executor != DASK)):
        other = "-n (or --tx)" if asked else f"--ff-executor {options.executor}"
        msg = f"--ff-dask-address {cluster.address} and {other} contradict each other: leave out one of them"
        raise pytest.UsageError(msg)
    if not asked:
        if cluster.address_given or (cluster.address and not options.executor):
            return DASK
        if options.executor == PROCESS and config.getoption("numprocesses", None) == 0:
            if options.executor_given:
                msg = "--ff-executor process and -n 0 contradict each other: leave out one of them"
                raise pytest.UsageError(msg)
            return LOCAL
        return options.executor or LOCAL
    if options.executor_given and options.executor != PROCESS:
        msg = (
            f"-n (or --tx) means the executor process, and --ff-executor {options.executor} was given: add -n 0, and "
            "--ff-workers for the number of tasks at a time"
        )
        raise pytest.UsageError(msg)
    return PROCESS


def _processes(config: pytest.Config, options: Options) -> int:
    option = config.option
    if not hasattr(option, "numprocesses"):
        msg = "--ff-executor process needs pytest-xdist, which is not loaded (-p no:xdist)"
        raise pytest.UsageError(msg)
    if option.dist not in ("no", *_WAYS):
        msg = f"--dist {option.dist}: the graph says which task goes where; leave it out, or use --dist load"
        raise pytest.UsageError(msg)
    if option.tx:
        given = _workers_in(option.tx) if option.numprocesses is None else int(option.numprocesses)
        if options.workers and options.workers != given:
            msg = f"--ff-workers {options.workers} and -n {given} contradict each other: leave out one of them"
            raise pytest.UsageError(msg)
        return given
    number = options.workers or int(config.hook.pytest_xdist_auto_num_workers(config=config))
    option.numprocesses = number
    option.tx = ["popen"] * number
    option.dist = "load"
    return number


def _workers_in(specs: Iterable[str]) -> int:
    """Count the workers that ``--tx`` asks for: each is one, or as many as are written before a star."""
    numbers = (spec.partition("*") for spec in specs)
    return sum(int(number) if star and number.isdecimal() else 1 for number, star, _ in numbers)


def _no_workers(config: pytest.Config) -> None:
    if hasattr(config.option, "tx"):
        config.option.tx = []
        config.option.dist = "no"
        config.option.numprocesses = None
