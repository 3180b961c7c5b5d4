"""Questions about earlier runs, and what is done to a checkpoint as a whole, from its files alone.

No session begins, nothing is collected; the answer is printed where a shell expects it.
"""
# ruff: noqa: T201

from __future__ import annotations

import contextlib
import stat
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.messages import RunBegan, RunEnded
from pytest_flowforge.core.records import RunHeader
from pytest_flowforge.errors import CheckpointError, CheckpointUnreachable, LeaseLost
from pytest_flowforge.keeping import Archive, Keeper, Unreadable
from pytest_flowforge.plugin.checkpoint_options import CheckpointOptions, Errand
from pytest_flowforge.plugin.settings import settings_of
from pytest_flowforge.report import runs as report
from pytest_flowforge.report.text import printable
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.keeping import Settings

__all__ = ["run"]

_LONGEST = 2000
_MOST = 20


def run(config: pytest.Config, errand: Errand) -> int:
    """Run *errand* and return the exit status; raises UsageError for a checkpoint that can not be used."""
    options = CheckpointOptions.of(config)
    settings = settings_of(config, options)
    if settings is None:
        msg = (
            f"--{errand.value}: nothing is kept without the cache of pytest (-p no:cacheprovider): add --ff-checkpoint"
        )
        raise pytest.UsageError(msg)
    try:
        return _ERRANDS[errand](config, options, settings)
    except FileNotFoundError:
        if config.option.ff_format == "json" and errand in _NOTHING_AS_JSON:
            print(_NOTHING_AS_JSON[errand])
            return _WITHOUT_RUNS[errand]
        print(f"no runs are kept in {printable(settings.shown, _LONGEST)}")
        return _WITHOUT_RUNS[errand]
    except CheckpointError as error:
        raise pytest.UsageError(printable(str(error), _LONGEST)) from error
    except KeyboardInterrupt:
        # A store may be silent for long. There is no session yet whose end would say it.
        print(f"--{errand.value} was interrupted", file=sys.stderr)
        return pytest.ExitCode.INTERRUPTED


#: What machines are answered where nothing is kept.
_NOTHING_AS_JSON = {
    Errand.STATUS: report.no_status_as_json(),
    Errand.HISTORY: report.history_as_json((), {}),
}

#: The exit status where nothing is kept.
_WITHOUT_RUNS = {
    Errand.STATUS: pytest.ExitCode.NO_TESTS_COLLECTED,
    Errand.HISTORY: pytest.ExitCode.OK,
    # Whoever asks whether the last run has ended expects that there was one.
    Errand.CHECK: pytest.ExitCode.TESTS_FAILED,
    Errand.REPAIR: pytest.ExitCode.OK,
    Errand.CLEAR: pytest.ExitCode.OK,
    Errand.ROLLBACK: pytest.ExitCode.USAGE_ERROR,
}


def _status(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    with contextlib.closing(Archive.open(settings, _say_at_once)) as archive:
        found = archive.last(options.run)
        if found is None:
            raise FileNotFoundError
        alive = archive.is_alive(found.id)
        if config.option.ff_format == "json":
            print(report.status_as_json(found, alive=alive))
        else:
            last = found.id == archive.ids()[-1]
            _print(report.status_lines(found, config.get_verbosity(), alive=alive, last=last))
    return pytest.ExitCode.OK


def _history(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    del options
    with contextlib.closing(Archive.open(settings, _say_at_once)) as archive:
        everything = list(archive.history())
        readable = [(one, archive.is_alive(one.id)) for one in everything if not isinstance(one, Unreadable)]
        unreadable = {one.id: str(one.error) for one in everything if isinstance(one, Unreadable)}
    if config.option.ff_format == "json":
        print(report.history_as_json(readable, unreadable))
        return pytest.ExitCode.OK
    if not everything:
        raise FileNotFoundError
    _print(report.history_lines(readable))
    _print([f"{found}: {printable(problem, _LONGEST)}" for found, problem in unreadable.items()])
    return pytest.ExitCode.OK


def _check(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    del config, options
    with contextlib.closing(Archive.open(settings, _say_at_once)) as archive:
        everything = list(archive.history())
        problems = [printable(str(one.error), _LONGEST) for one in everything if isinstance(one, Unreadable)]
        readable = [one for one in everything if not isinstance(one, Unreadable)]
        last = readable[-1] if readable else None
        problems += [
            f"run {one.id}: {archive.torn[one.id]:,} bytes behind its last record ('pytest --ff-repair' cuts them off)"
            for one in readable
            if one.ended is not None and archive.torn.get(one.id)
        ]
        if last is not None and last.ended is None:
            alive = archive.is_alive(last.id)
            problems.append(f"last run {last.id} {'is running' if alive else 'did not finish'}")
        faults = {fault: one.id for one in readable for fault in archive.faults(one)}
    advice = "--ff-resume makes them again" if faults else ""
    problems += [f"run {of}: {printable(task)}: {reason}" for (task, reason), of in list(faults.items())[:_MOST]]
    if len(faults) > _MOST:
        problems.append(f"and {len(faults) - _MOST:,} more results that can not be used")
    problems += [advice] if advice else []
    if not problems and last is None:
        raise FileNotFoundError
    _print(
        problems or [f"{plural(len(readable), 'run')}, all whole; the last one, {last.id if last else ''}, has ended"]
    )
    return pytest.ExitCode.TESTS_FAILED if problems else pytest.ExitCode.OK


def _repair(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    del config, options

    def repair(keeper: Keeper) -> list[str]:
        repaired = [
            f"run {found.run}: {plural(found.records, 'good record')} kept; what it was is now {found.old} there "
            f"({printable(found.problem, _LONGEST)})"
            for found in keeper.repair()
        ]
        return [printable(sentence, _LONGEST) for sentence in keeper.settled] + repaired or ["nothing to repair"]

    return _do(replace(settings, settles=True), repair)


def _clear(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    del config, options
    if settings.address is None:
        _take_back(settings)

    def clear(keeper: Keeper) -> list[str]:
        count = len(keeper.archive.ids())
        keeper.clear()
        return [f"{plural(count, 'run')} and all results deleted from {printable(settings.shown, _LONGEST)}"]

    # What contradicts itself is thrown away as well.
    return _do(replace(settings, settles=True), clear)


def _take_back(settings: Settings) -> None:
    """Keep others out of a folder of ours that they can write: what is in it is thrown away unread."""
    status = settings.path.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        with contextlib.suppress(OSError):
            settings.path.chmod(0o700)


def _rollback(config: pytest.Config, options: CheckpointOptions, settings: Settings) -> int:
    del options
    target: str = config.option.ff_rollback

    def roll_back(keeper: Keeper) -> list[str]:
        to = keeper.archive.chosen(target)
        if to is None:
            raise FileNotFoundError
        at = time.time()
        header = RunHeader(
            "",
            {},
            graph_digest=to.graph_digest,
            argv=sys.argv[1:],
            resumes=to.id,
            carried=to.standing,
            rolls_back=to.id,
        )
        keeper.begin(at, header)
        keeper(RunBegan(0, at))
        keeper(RunEnded(at))
        if keeper.broken is not None:
            raise keeper.broken
        return [f"the results of run {target} are the current ones now; --ff-resume continues from there"]

    return _do(settings, roll_back)


def _do(settings: Settings, act: Callable[[Keeper], list[str]]) -> int:
    """Have *act* do something to the checkpoint, which has to exist; print what it says, and return the exit status.

    What was done here and has not reached the store is not done for the others, and is not said to be.
    """
    Archive.require(settings, _say_at_once)
    problems: list[str] = []
    keeper = Keeper(settings, problems.append, on_slow=_say_at_once)
    try:
        said = act(keeper)
        sent = keeper.send()
    except (CheckpointUnreachable, LeaseLost) as error:
        said, sent = [], False
        problems.append(str(error))
    finally:
        keeper.close()
    if sent:
        _print([*problems, *said])
        return pytest.ExitCode.OK
    for line in (*problems, f"this was not done in {settings.shown}, or not all of it: try again when it answers"):
        print(printable(line, _LONGEST), file=sys.stderr)
    return pytest.ExitCode.INTERNAL_ERROR


def _say_at_once(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line)


_ERRANDS: dict[Errand, Callable[[pytest.Config, CheckpointOptions, Settings], int]] = {
    Errand.STATUS: _status,
    Errand.HISTORY: _history,
    Errand.CHECK: _check,
    Errand.REPAIR: _repair,
    Errand.CLEAR: _clear,
    Errand.ROLLBACK: _rollback,
}
