"""Options, ini values and marks: what they are called, what they mean, and reading them once.

Loaded in every pytest session, so it imports nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin.checkpoint_options import NEED_FLOWS, CheckpointOptions, add_checkpoint_options
from pytest_flowforge.plugin.cluster_options import (
    ONLY_FOR_CLUSTERS,
    ClusterOptions,
    add_cluster_options,
    number_from,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Format", "Mode", "Options", "add_options", "is_active", "register_marks"]

_MARKS = (
    (
        "depends_on(*tasks, when='all_success'): run after these tasks (names, 'file.py::name', 'name[variant]'); "
        "when: all_success, all_done, any_success, any_failed, always"
    ),
    "retry(max_retries, delay=0, backoff=1, max_delay=None, jitter=0, on=(), not_on=()): try a failed task again",
    "priority(number): among the tasks that are ready, higher numbers start first (default 0)",
    "pool(*names, **units): run only while the pools have room; sizes by ini flowforge_pools or --ff-pool",
    "exclusive: run alone",
    "map(upstream, limit=None, ids=None): one task for each element of the upstream's result, at most limit at a time",
    "cache(enabled=True, inputs=(), outputs=(), env=(), version=None): what else a result depends on",
    "idempotent(value): idempotent(False) is not run again by --ff-resume when it may have done its work",
)


#: Options that would be ignored without --flowforge, --ff-format apart, which has a default.
_ONLY_FOR_FLOWS = (
    "ff-executor",
    "ff-workers",
    *ONLY_FOR_CLUSTERS,
    "ff-list",
    "ff-validate",
    "ff-dry-run",
    "ff-select",
    "ff-only",
    "ff-retries",
    "ff-max-retries-total",
    "ff-seed",
    "ff-pool",
    "ff-report",
    "ff-report-values",
    "ff-events",
    "ff-metrics",
    "ff-graph",
    *NEED_FLOWS,
)


class Mode(Enum):
    """What a session is to do with the flows it collects."""

    RUN = "run"
    LIST = "list"
    VALIDATE = "validate"
    DRY_RUN = "dry-run"


class Format(Enum):
    """How questions are answered."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line and the ini file, read once."""

    mode: Mode
    format: Format
    #: The executor by name; empty where none was chosen.
    executor: str
    #: Whether that was said on the command line.
    executor_given: bool
    #: How many tasks at a time; 0 for as many as fit, None where that was not said.
    workers: int | None
    select: tuple[str, ...]
    only: bool
    retries: int
    #: How many retries all tasks together may be given; None for any number.
    max_retries_total: int | None
    #: What the jitter of retries depends on; one of this session where none was given.
    seed: str
    pools: Mapping[str, int]
    #: Seconds that attempts have to end by themselves once their time is up.
    grace: float
    #: Seconds that clean-up has once the time of the session is up.
    session_grace: float
    #: Files for the run in numbers.
    metrics: tuple[str, ...]
    #: Files for the graph.
    graph: tuple[str, ...]
    files: tuple[str, ...]
    functions: tuple[str, ...]
    #: Where the page of the run is written to; empty for nowhere.
    report: str
    #: Whether that shows values.
    report_values: bool
    #: Where events are written to; empty for nowhere.
    events: str
    checkpoint: CheckpointOptions
    cluster: ClusterOptions

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read the options of *config*; raises UsageError for a value that can not be meant."""
        return cls(
            mode=_mode(config),
            format=Format(config.getoption("ff_format")),
            executor=config.getoption("ff_executor") or str(config.getini("flowforge_executor")),
            executor_given=bool(config.getoption("ff_executor")),
            workers=_workers(config),
            select=tuple(config.getoption("ff_select") or ()),
            only=bool(config.getoption("ff_only")),
            retries=_number_of(config, "retries") or 0,
            max_retries_total=_number_of(config, "max-retries-total"),
            seed=_seed(config),
            pools=_pools([*config.getini("flowforge_pools"), *(config.getoption("ff_pool") or ())]),
            grace=_seconds(config, "flowforge_timeout_grace"),
            session_grace=_seconds(config, "flowforge_session_grace"),
            metrics=_file_names(config, "metrics"),
            graph=_file_names(config, "graph"),
            files=tuple(config.getini("flowforge_files")),
            functions=tuple(config.getini("flowforge_functions")),
            report=_report(config),
            report_values=bool(config.getoption("ff_report_values")),
            events="".join(_file_names(config, "events")),
            checkpoint=CheckpointOptions.of(config),
            cluster=ClusterOptions.of(config),
        )


def add_options(parser: pytest.Parser) -> None:
    """Add the group "flowforge" to the command line, and the ini values."""
    group = parser.getgroup("flowforge", "flowforge: workflows of flow_* functions")
    add = group.addoption
    add("--flowforge", action="store_true", help="Run flows (flow_* functions in flow files) instead of tests.")
    add(
        "--ff-executor",
        metavar="NAME",
        help="Where tasks run: local (default), one after the other in this process; thread; process, in the workers "
        "of pytest-xdist (as -n N); dask, on a Dask cluster; or package.module:factory, which makes a "
        "concurrent.futures.Executor.",
    )
    add("--ff-workers", metavar="N", help="How many tasks run at a time: a number, or auto.")
    add("--ff-list", action="store_true", help="List the tasks in an order they can run in; run nothing.")
    add(
        "--ff-validate",
        action="store_true",
        help="Check everything, run nothing: exit status 0, or 4 and all problems.",
    )
    add("--ff-dry-run", action="store_true", help="Show what would run, level by level; run nothing.")
    add(
        "--ff-format",
        choices=[item.value for item in Format],
        default=Format.TEXT.value,
        help="How --ff-list, --ff-validate, --ff-dry-run, --ff-status and --ff-history answer: for people (text, "
        "default) or machines (json).",
    )
    add(
        "--ff-select",
        metavar="EXPR",
        action="append",
        help="Choose tasks by the graph: 'train' (and what it needs), '+train' (its upstreams too), 'train+' (its "
        "downstreams), '1+train+2' (so many levels). A space joins, a comma intersects; * and ? match.",
    )
    add("--ff-only", action="store_true", help="Run just the chosen tasks, not what they need.")
    add("--ff-retries", metavar="N", help="Retries of tasks without a retry mark.")
    add("--ff-max-retries-total", metavar="N", help="Retries of all tasks together; after these, failures stand.")
    add("--ff-seed", metavar="TEXT", help="Have retries wait as in the run that showed this seed (see jitter=).")
    add("--ff-pool", metavar="NAME=N", action="append", help="Size of a pool; may be given more than once.")
    add("--ff-report", metavar="FILE", help="Write a page of the run to FILE (HTML), and again while the run goes on.")
    add(
        "--ff-report-values",
        action="store_true",
        help="Show results, arguments and local variables in the page of --ff-report too.",
    )
    add("--ff-events", metavar="FILE", help="Write each event of the run to FILE as it happens, a JSON object a line.")
    add(
        "--ff-metrics",
        metavar="FILE",
        action="append",
        help="Write durations, waits, memory and the critical path to FILE.json or FILE.prom (Prometheus) when the run "
        "is over; may be given more than once.",
    )
    add(
        "--ff-graph",
        metavar="FILE",
        action="append",
        help="Write the graph with the states of its tasks to FILE.mmd (Mermaid), FILE.dot (Graphviz), FILE.svg or "
        "FILE.json; also with --ff-dry-run, and more than once.",
    )
    add_checkpoint_options(parser)
    add_cluster_options(parser)
    parser.addini("flowforge", "run flows as if --flowforge was given", type="bool", default=False)
    parser.addini("flowforge_files", "file names of flow files", type="args", default=["flow_*.py", "*_flow.py"])
    parser.addini("flowforge_functions", "prefixes or patterns of task functions", type="args", default=["flow_"])
    parser.addini("flowforge_executor", "executor when --ff-executor is not given", default="")
    parser.addini("flowforge_workers", "number of tasks at a time when --ff-workers is not given", default="")
    parser.addini("flowforge_retries", "retries of tasks without a retry mark", default="0")
    parser.addini("flowforge_max_retries_total", "retries of all tasks together; empty for any number", default="")
    parser.addini("flowforge_seed", "seed of the jitter of retries when --ff-seed is not given", default="")
    parser.addini("flowforge_pools", "sizes of pools, NAME=N each", type="args", default=[])
    parser.addini(
        "flowforge_timeout_grace", "seconds a task has to end when its time is up, before it is ended", default="3"
    )
    parser.addini(
        "flowforge_junit_properties",
        "give each test case in JUnit XML properties for state, attempts and worker of its task",
        type="bool",
        default=True,
    )
    parser.addini("flowforge_session_grace", "seconds that clean-up has when --session-timeout is over", default="60")


def register_marks(config: pytest.Config) -> None:
    """Make the marks known, also to suites that only import flow files under --strict-markers."""
    for line in _MARKS:
        config.addinivalue_line("markers", line)


def is_active(config: pytest.Config) -> bool:
    """Whether this session runs flows; raises UsageError for options that only mean something if it does."""
    if config.getoption("flowforge") or config.getini("flowforge"):
        return True
    for name in _ONLY_FOR_FLOWS:
        given = config.getoption(name.replace("-", "_"))
        if given is not None and given is not False:
            msg = f"--{name} is about flows, and this session runs tests: add --flowforge"
            raise pytest.UsageError(msg)
    return False


def _mode(config: pytest.Config) -> Mode:
    chosen = [
        mode
        for mode, option in ((Mode.LIST, "ff_list"), (Mode.VALIDATE, "ff_validate"), (Mode.DRY_RUN, "ff_dry_run"))
        if config.getoption(option)
    ]
    if len(chosen) > 1:
        names = " and ".join(f"--ff-{mode.value}" for mode in chosen)
        msg = f"{names} were given together: choose one"
        raise pytest.UsageError(msg)
    return chosen[0] if chosen else Mode.RUN


def _report(config: pytest.Config) -> str:
    names = _file_names(config, "report")
    if not names and config.getoption("ff_report_values"):
        msg = "--ff-report-values is about a page: add --ff-report FILE"
        raise pytest.UsageError(msg)
    return "".join(names)


def _file_names(config: pytest.Config, option: str) -> tuple[str, ...]:
    given = config.getoption(f"ff_{option}")
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    if "" in names:
        msg = f"--ff-{option}: name a file"
        raise pytest.UsageError(msg)
    return names


def _number_of(config: pytest.Config, name: str) -> int | None:
    """Read a number of retries; None for an empty ini value."""
    ini = f"flowforge_{name.replace('-', '_')}"
    given = config.getoption(f"ff_{name.replace('-', '_')}")
    text = str(config.getini(ini) if given is None else given).strip()
    if not text and given is None:
        return None
    if not _is_natural(text):
        source = f"ini {ini}" if given is None else f"--ff-{name}"
        msg = f"{source}: {text[:_LONGEST_QUOTE]!r} is no number of retries; give 0 or more"
        raise pytest.UsageError(msg)
    return int(text)


def _seed(config: pytest.Config) -> str:
    given = config.getoption("ff_seed") or str(config.getini("flowforge_seed"))
    if len(given) > _LONGEST_QUOTE:
        msg = (
            f"--ff-seed (ini flowforge_seed): {given[:_LONGEST_QUOTE]!r}... is too long; take at most {_LONGEST_QUOTE}"
            " characters"
        )
        raise pytest.UsageError(msg)
    return given or os.urandom(4).hex()


def _is_natural(text: str) -> bool:
    # Python refuses to read numbers of thousands of digits, and nobody means them.
    return text.isdecimal() and len(text) <= _MOST_DIGITS


_MOST_DIGITS = 18
_LONGEST_QUOTE = 100


def _seconds(config: pytest.Config, name: str) -> float:
    return number_from(f"ini {name}", str(config.getini(name)).strip(), "seconds")


def _workers(config: pytest.Config) -> int | None:
    given = config.getoption("ff_workers")
    text = str(config.getini("flowforge_workers") if given is None else given).strip()
    if not text and given is None:
        return None
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        source = "ini flowforge_workers" if given is None else "--ff-workers"
        msg = f"{source}: {text!r} is no number of tasks; give 1 or more, or auto"
        raise pytest.UsageError(msg)
    return int(text)


def _pools(lines: Iterable[str]) -> dict[str, int]:
    pools = {}
    for line in lines:
        name, _, size = line.partition("=")
        if not name.strip() or not _is_natural(size.strip()):
            msg = (
                f"pool {line[:_LONGEST_QUOTE]!r}: write NAME=N with a whole number N, as in gpu=2 (ini flowforge_pools,"
                " --ff-pool)"
            )
            raise pytest.UsageError(msg)
        pools[name.strip()] = int(size)
    return pools
