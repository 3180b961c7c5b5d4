"""Options about checkpoints: where runs are kept and how, what is reused, and questions about earlier runs.

Loaded in every pytest session, as :mod:`~pytest_flowforge.plugin.options` is, so it imports nothing heavy.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.storage.addresses import Address

__all__ = ["NEED_FLOWS", "CheckpointOptions", "Errand", "add_checkpoint_options", "errand_of"]

_DURABILITIES = ("normal", "full", "off")

#: Options that would be ignored without --flowforge. The errands are not among them: they need no flows.
NEED_FLOWS = (
    "ff-resume",
    "ff-cache",
    "ff-force",
    "ff-explain",
    "ff-replay",
    "ff-save",
    "ff-rerun-unsafe",
    "ff-require-checkpoint",
    "ff-isolate",
)


class Errand(Enum):
    """What is done with the files of a checkpoint alone, without a session; the value is the name of the option."""

    STATUS = "ff-status"
    HISTORY = "ff-history"
    CHECK = "ff-check"
    REPAIR = "ff-repair"
    CLEAR = "ff-clear"
    ROLLBACK = "ff-rollback"


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """The command line and the ini file, read once.

    ``folder`` is where runs are kept; None where pytest was told to keep nothing (``-p no:cacheprovider``).
    ``explicit`` tells that somebody has named that folder, and so expects it to be used. With an ``address``, runs are
    kept there, and ``folder`` is where this machine has them as well; what is new is sent every ``interval`` seconds,
    and the rest at the end of the run, unless the store does not answer for ``farewell`` seconds.
    """

    folder: Path | None
    address: Address | None
    interval: float
    farewell: float
    explicit: bool
    durability: str
    codecs: tuple[str, ...]
    keep_runs: int
    wait: float
    resume: bool
    run: str
    cache: bool
    force: tuple[str, ...]
    explain: bool
    replay: str
    save: bool
    isolate: bool
    rerun_unsafe: bool
    required: bool

    @property
    def reuses(self) -> bool:
        """Whether earlier results may stand."""
        return (self.resume or self.cache) and not self.replay

    @classmethod
    def of(cls, config: pytest.Config) -> CheckpointOptions:
        """Read the options of *config*; raises UsageError for a value that can not be meant."""
        option = config.option
        named = option.ff_checkpoint or str(config.getini("flowforge_checkpoint"))
        if option.ff_save and not option.ff_replay:
            msg = "--ff-save keeps what --ff-replay returns, and there is no --ff-replay"
            raise pytest.UsageError(msg)
        cache = bool(option.ff_cache or config.getini("flowforge_cache"))
        if option.ff_run and not (option.ff_resume or option.ff_replay or cache or errand_of(config)):
            msg = "--ff-run says which run --ff-resume, --ff-cache, --ff-status or --ff-replay means: give one of them"
            raise pytest.UsageError(msg)
        address = _address(named)
        return cls(
            folder=_folder(config, named) if address is None else _copy_of(config, address),
            address=address,
            interval=_seconds_of(config, "flowforge_send_interval"),
            farewell=_seconds_of(config, "flowforge_send_farewell"),
            explicit=bool(named),
            durability=_one_of(config, "durability", _DURABILITIES),
            codecs=_codecs(_text(config, "codec")),
            keep_runs=_keep_runs(config),
            wait=option.ff_wait or 0.0,
            resume=bool(option.ff_resume),
            run=option.ff_run or "",
            cache=cache,
            force=tuple(option.ff_force or ()),
            explain=bool(option.ff_explain),
            replay=option.ff_replay or "",
            save=bool(option.ff_save),
            isolate=bool(option.ff_isolate or config.getini("flowforge_isolate")),
            rerun_unsafe=bool(option.ff_rerun_unsafe),
            required=bool(option.ff_require_checkpoint or option.ff_resume),
        )


def add_checkpoint_options(parser: pytest.Parser) -> None:
    """Add the options and ini values."""
    add = parser.getgroup("flowforge").addoption
    flag = _flags(add)
    flag("--ff-resume", "Continue the last run: reuse what succeeded, run the rest.")
    add("--ff-run", metavar="ID", help="The run that --ff-resume, --ff-status or --ff-replay means; default: the last.")
    flag("--ff-cache", "Reuse any earlier success that was made of the same code, parameters and inputs.")
    add(
        "--ff-force",
        metavar="EXPR",
        action="append",
        help="Run these tasks although their results stand; EXPR as for --ff-select.",
    )
    flag("--ff-explain", "Say of each task why it runs or does not, and what has changed from what to what.")
    flag("--ff-rerun-unsafe", "Run tasks marked idempotent(False) again although they may have done their work.")
    add("--ff-replay", metavar="TASK", help="Run just this task in this process, with the inputs it had in a run.")
    flag("--ff-save", "With --ff-replay: keep the result, so that --ff-resume goes on from there.")
    add(
        "--ff-checkpoint",
        metavar="DIR",
        help="Keep runs there instead of in the cache directory of pytest; a folder, or a URL as s3://bucket/prefix.",
    )
    flag("--ff-require-checkpoint", "Do not run where the run can not be kept (implied by --ff-resume).")
    add("--ff-durability", choices=_DURABILITIES, help="What survives a power cut: all but 50 ms (normal), full, off.")
    add(
        "--ff-codec",
        metavar="NAMES",
        help="How results may be stored and loaded: json, pickle (default: both).",
    )
    flag("--ff-isolate", "Hand every task results of its own, decoded anew.")
    add(
        "--ff-wait",
        metavar="SECONDS",
        nargs="?",
        const=math.inf,
        type=_seconds,
        help="Wait for another run on the same checkpoint (without SECONDS: as long as it takes); write --ff-wait=60.",
    )
    flag("--ff-status", "Show the last run, or that of --ff-run, task by task.")
    flag("--ff-history", "Show the runs that are kept.")
    flag("--ff-check", "Tell by the exit status (0 or 1) whether the checkpoint is whole and the last run has ended.")
    flag("--ff-repair", "Keep the good records of a damaged checkpoint.")
    flag("--ff-clear", "Throw all runs and their results away.")
    add("--ff-rollback", metavar="ID", help="Make the results of that run the current ones; nothing is deleted.")
    parser.addini("flowforge_checkpoint", "folder or URL where runs are kept", default="")
    parser.addini("flowforge_send_interval", "seconds until what is new is sent to the URL", default="2")
    parser.addini("flowforge_send_farewell", "seconds without an answer until a run that ends gives up", default="60")
    parser.addini("flowforge_cache", "reuse results as if --ff-cache was given", type="bool", default=False)
    parser.addini("flowforge_keep_runs", "how many runs are kept", default="20")
    parser.addini("flowforge_durability", "what survives a power cut: normal, full or off", default="normal")
    parser.addini("flowforge_codec", "how results may be stored and loaded", default="")
    parser.addini("flowforge_isolate", "decode results anew for each task", type="bool", default=False)


def _flags(add: Callable[..., None]) -> Callable[[str, str], None]:
    def flag(name: str, text: str) -> None:
        add(name, action="store_true", help=text)

    return flag


def errand_of(config: pytest.Config) -> Errand | None:
    """The errand that was asked for instead of a session; raises UsageError when there are several."""
    given = [errand for errand in Errand if getattr(config.option, errand.value.replace("-", "_"), None)]
    if len(given) > 1:
        msg = f"{' and '.join(f'--{errand.value}' for errand in given)} were given together: choose one"
        raise pytest.UsageError(msg)
    return given[0] if given else None


def _refuse_misleading(config: pytest.Config, folder: Path) -> None:
    """Raise UsageError where pytest has taken the folder of --ff-checkpoint for a part of the project.

    It does not know the options of plugins yet when it looks for the root of the project, and an argument that is a
    folder counts. Tasks would then be called otherwise than in the run before.
    """
    root, here = config.rootpath, config.invocation_params.dir
    apart = "--ff-checkpoint" in map(str, config.invocation_params.args)
    if apart and config.inipath is None and root != here and root in here.parents and not folder.is_relative_to(here):
        msg = (
            f"--ff-checkpoint {folder}: pytest takes this folder for a part of the project, whose root would be "
            f"{root}: write --ff-checkpoint={folder}, or add a pytest.ini to the project"
        )
        raise pytest.UsageError(msg)


def _folder(config: pytest.Config, named: str) -> Path | None:
    if named and config.option.ff_checkpoint:
        _refuse_misleading(config, _absolute(config.invocation_params.dir, named))
    if named:
        base = config.invocation_params.dir if config.option.ff_checkpoint else config.rootpath
        return _absolute(base, named)
    if not config.pluginmanager.has_plugin("cacheprovider"):
        return None
    # As pytest does it; its own answer, config.cache, is there only within a session.
    return _absolute(config.rootpath, str(config.getini("cache_dir"))) / "flowforge"


def _address(named: str) -> Address | None:
    if not named:
        return None
    from pytest_flowforge.errors import CheckpointError  # noqa: PLC0415  (only for those who name a place)
    from pytest_flowforge.storage.addresses import Address, is_address  # noqa: PLC0415

    if not is_address(named):
        return None
    try:
        return Address.of(named)
    except CheckpointError as error:
        raise pytest.UsageError(str(error)) from error


def _copy_of(config: pytest.Config, address: Address) -> Path:
    """Where this machine has what is in a store: in the cache directory of pytest, or in that of the user."""
    if config.pluginmanager.has_plugin("cacheprovider"):
        folder = _absolute(config.rootpath, str(config.getini("cache_dir")))
        return folder / "flowforge-remote" / address.key()
    return address.folder()


def _seconds_of(config: pytest.Config, ini: str) -> float:
    text = str(config.getini(ini)).strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        msg = f"ini {ini}: {text!r} is no number of seconds; give more than 0"
        raise pytest.UsageError(msg)
    return seconds


def _absolute(base: Path, text: str) -> Path:
    # Links are left alone: what may not be followed is refused later.
    return Path(os.path.abspath(base / os.path.expanduser(os.path.expandvars(text))))  # noqa: PTH100, PTH111


def _text(config: pytest.Config, name: str) -> str:
    given = getattr(config.option, f"ff_{name}")
    return str(config.getini(f"flowforge_{name}")) if given is None else str(given)


def _one_of(config: pytest.Config, name: str, choices: tuple[str, ...]) -> str:
    text = _text(config, name).strip()
    if text not in choices:
        msg = f"ini flowforge_{name}: {text!r} is none of {', '.join(choices)}"
        raise pytest.UsageError(msg)
    return text


def _codecs(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _keep_runs(config: pytest.Config) -> int:
    text = str(config.getini("flowforge_keep_runs")).strip()
    if not text.isdecimal() or int(text) < 1:
        msg = f"ini flowforge_keep_runs: {text!r} is no number of runs; give 1 or more"
        raise pytest.UsageError(msg)
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        msg = f"{text!r} is no number of seconds: write --ff-wait=60, or put --ff-wait behind the paths"
        raise argparse.ArgumentTypeError(msg)
    return seconds
