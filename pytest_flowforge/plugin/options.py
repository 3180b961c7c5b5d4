"""Options, ini values and marks: what they are called, what they mean, and reading them once.

Loaded in every pytest session, so it imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin.checkpoint_options import NEED_FLOWS, CheckpointOptions, add_checkpoint_options

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
    "cache(enabled=True, inputs=(), outputs=(), env=(), version=None): what else a result depends on",
    "idempotent(value): idempotent(False) is not run again by --ff-resume when it may have done its work",
)


#: Options that would be ignored without --flowforge, --ff-format apart, which has a default.
_ONLY_FOR_FLOWS = (
    "ff-executor",
    "ff-list",
    "ff-validate",
    "ff-dry-run",
    "ff-select",
    "ff-only",
    "ff-retries",
    "ff-pool",
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
    executor: str
    select: tuple[str, ...]
    only: bool
    retries: int
    pools: Mapping[str, int]
    files: tuple[str, ...]
    functions: tuple[str, ...]
    checkpoint: CheckpointOptions

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read the options of *config*; raises UsageError for a value that can not be meant."""
        return cls(
            mode=_mode(config),
            format=Format(config.getoption("ff_format")),
            executor=config.getoption("ff_executor") or str(config.getini("flowforge_executor")),
            select=tuple(config.getoption("ff_select") or ()),
            only=bool(config.getoption("ff_only")),
            retries=_retries(config),
            pools=_pools([*config.getini("flowforge_pools"), *(config.getoption("ff_pool") or ())]),
            files=tuple(config.getini("flowforge_files")),
            functions=tuple(config.getini("flowforge_functions")),
            checkpoint=CheckpointOptions.of(config),
        )


def add_options(parser: pytest.Parser) -> None:
    """Add the group "flowforge" to the command line, and the ini values."""
    group = parser.getgroup("flowforge", "flowforge: workflows of flow_* functions")
    add = group.addoption
    add("--flowforge", action="store_true", help="Run flows (flow_* functions in flow files) instead of tests.")
    add("--ff-executor", metavar="NAME", help="Where tasks run: local, one after the other in this process (default).")
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
    add("--ff-retries", metavar="N", type=int, help="Retries of tasks without a retry mark.")
    add("--ff-pool", metavar="NAME=N", action="append", help="Size of a pool; may be given more than once.")
    add_checkpoint_options(parser)
    parser.addini("flowforge", "run flows as if --flowforge was given", type="bool", default=False)
    parser.addini("flowforge_files", "file names of flow files", type="args", default=["flow_*.py", "*_flow.py"])
    parser.addini("flowforge_functions", "prefixes or patterns of task functions", type="args", default=["flow_"])
    parser.addini("flowforge_executor", "executor when --ff-executor is not given", default="local")
    parser.addini("flowforge_retries", "retries of tasks without a retry mark", default="0")
    parser.addini("flowforge_pools", "sizes of pools, NAME=N each", type="args", default=[])


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


def _retries(config: pytest.Config) -> int:
    given = config.getoption("ff_retries")
    text = str(config.getini("flowforge_retries")) if given is None else str(given)
    if not text.strip().isdecimal():
        source = "ini flowforge_retries" if given is None else "--ff-retries"
        msg = f"{source}: {text!r} is no number of retries; give 0 or more"
        raise pytest.UsageError(msg)
    return int(text)


def _pools(lines: Iterable[str]) -> dict[str, int]:
    pools = {}
    for line in lines:
        name, _, size = line.partition("=")
        if not name.strip() or not size.strip().isdecimal():
            msg = f"pool {line!r}: write NAME=N with a whole number N, as in gpu=2 (ini flowforge_pools, --ff-pool)"
            raise pytest.UsageError(msg)
        pools[name.strip()] = int(size)
    return pools
