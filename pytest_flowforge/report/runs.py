"""Runs that were kept, as lines of text and as JSON: status and history."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.states import SUCCEEDED, TaskState
from pytest_flowforge.report.text import FORMAT, columns, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.checkpoint import RunRecord
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord

__all__ = [
    "history_as_json",
    "history_lines",
    "no_status_as_json",
    "outcome_of",
    "status_as_json",
    "status_lines",
]

_LONGEST_REASON = 160
_DOUBT = "in doubt"


def outcome_of(run: RunRecord, *, alive: bool = False) -> str:
    """How *run* has ended, in a word or two; *alive* tells that its process is known to be there."""
    if run.rolls_back:
        return "rollback"
    if run.ended is None:
        return "running" if alive else "did not finish"
    if run.stopped:
        return "stopped"
    return "ok" if is_ok(run) else "failed"


def is_ok(run: RunRecord) -> bool:
    """Whether every task of *run* succeeded, was reused or skipped, or failed as expected."""
    fine = SUCCEEDED | {TaskState.SKIPPED}
    return all(record.state in fine or record.expected for record in run.tasks.values())


def seconds_of(run: RunRecord) -> float | None:
    """How long *run* took; None while nobody knows."""
    return None if run.ended is None else max(run.ended - run.began, 0.0)


# Status.


def status_lines(run: RunRecord, verbosity: int, *, alive: bool = False, last: bool = True) -> list[str]:
    """One line about *run*, and one for each of its tasks: state, attempts, duration, why.

    *last* tells whether it is the run that --ff-resume means.
    """
    again = f"continue it with --ff-resume{'' if last else f' --ff-run {run.id}'}"
    name = _names(run)
    counts = _counts(run, alive=alive)
    head = f"run {run.id}: {outcome_of(run, alive=alive)}"
    details = [_when(run.began), _enumerated(counts)]
    if run.seed:
        details.append(f"seed {printable(run.seed)}")
    if (seconds := seconds_of(run)) is not None:
        details.append(duration(seconds))
    if run.resumes:
        details.append(f"continues {printable(run.resumes)}")
    lines = [f"{head} ({', '.join(filter(None, details))})"]
    if run.stopped:
        lines.append(f"stopped: {printable(run.stopped, _LONGEST_REASON)}")
    if verbosity >= 0:
        rows = [
            [
                f"  {_state(record, run, alive=alive)}",
                name(task),
                f"{record.attempts} attempts" if record.attempts > 1 else "",
                duration(record.seconds) if record.seconds else "",
                printable(record.because, _LONGEST_REASON),
            ]
            for task, record in run.tasks.items()
        ]
        for task, line in zip(run.tasks.values(), columns(rows), strict=True):
            lines.append(line)
            if verbosity > 0:
                lines += _earlier_lines(task)
    if run.ended is None and not alive:
        lines.append(f"its process was killed, or the machine went down: {again}")
    elif not is_ok(run) and run.ended is not None:
        lines.append(again)
    return lines


def _earlier_lines(record: TaskRecord) -> list[str]:
    """What became of the attempts before the last one."""
    rows = [
        [f"    attempt {number}", duration(seconds), printable(reason, _LONGEST_REASON)]
        for number, (reason, seconds) in enumerate(record.earlier, 1)
    ]
    return columns(rows)


def status_as_json(run: RunRecord, *, alive: bool = False) -> str:
    """The same for machines."""
    tasks = [
        {
            "id": task,
            "state": _state(record, run, alive=alive),
            "attempts": record.attempts,
            "earlier_attempts": [{"reason": reason, "seconds": seconds} for reason, seconds in record.earlier],
            "seconds": record.seconds,
            "reason": record.because,
            "reused_from": record.reused_from or None,
        }
        for task, record in run.tasks.items()
    ]
    return json.dumps({"format": FORMAT, **_as_dict(run, alive=alive), "tasks": tasks}, indent=2)


def no_status_as_json() -> str:
    """The same where there is no run."""
    return json.dumps({"format": FORMAT, "run": None}, indent=2)


def _state(record: TaskRecord, run: RunRecord, *, alive: bool) -> str:
    # Nobody runs it any more, and nobody knows how far it came.
    ended = run.ended is not None or not alive
    return _DOUBT if record.state is TaskState.RUNNING and ended else record.state.value


# History.


def history_lines(runs: Iterable[tuple[RunRecord, bool]]) -> list[str]:
    """A line for each run, given with whether its process is alive: id, when, outcome, code, counts, duration."""
    rows = []
    for run, alive in runs:
        seconds = seconds_of(run)
        rows.append(
            [
                run.id,
                _when(run.began) if run.began else "",
                outcome_of(run, alive=alive),
                f"code {run.graph_digest[:8]}" if run.graph_digest else "",
                "" if seconds is None else duration(seconds),
                f"to {printable(run.rolls_back)}" if run.rolls_back else _enumerated(_counts(run, alive=alive)),
                f"continues {printable(run.resumes)}" if run.resumes and not run.rolls_back else "",
            ]
        )
    return columns(rows)


def history_as_json(runs: Iterable[tuple[RunRecord, bool]], unreadable: Mapping[str, str]) -> str:
    """The same for machines; *unreadable* maps runs whose journal is damaged to what is wrong."""
    listed = [{**_as_dict(run, alive=alive), "argv": list(run.argv)} for run, alive in runs]
    broken = [{"run": run, "problem": problem} for run, problem in unreadable.items()]
    return json.dumps({"format": FORMAT, "runs": listed, "unreadable": broken}, indent=2)


def _as_dict(run: RunRecord, *, alive: bool) -> dict[str, Any]:
    return {
        "run": run.id,
        "outcome": outcome_of(run, alive=alive),
        "began": run.began or None,
        "ended": run.ended,
        "seconds": seconds_of(run),
        "stopped": run.stopped,
        "resumes": run.resumes or None,
        "rolls_back": run.rolls_back or None,
        "code": run.graph_digest,
        "seed": run.seed or None,
        "counts": dict(_counts(run, alive=alive)),
    }


def _counts(run: RunRecord, *, alive: bool) -> Mapping[str, int]:
    found = Counter(_state(record, run, alive=alive) for record in run.tasks.values())
    return {word: found[word] for word in [*(state.value for state in TaskState), _DOUBT] if found[word]}


def _enumerated(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in counts.items())


def _names(run: RunRecord) -> Callable[[TaskId], str]:
    """How to call tasks: as in the flow, with the file where there are several."""
    files = {task.partition("::")[0] for task in run.tasks}

    def name(task: TaskId) -> str:
        file, _, inside = task.partition("::")
        plain, bracket, variant = inside.partition("[")
        owner, colons, function = plain.rpartition("::")
        label = f"{owner}{colons}{function.removeprefix('flow_')}{bracket}{variant}"
        return printable(f"{file}::{label}" if len(files) > 1 else label or file)

    return name


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def duration(seconds: float) -> str:
    """Seconds as people read them: ``0.03 s``, ``12.1 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:  # noqa: PLR2004 - from here on a tenth is enough
        return f"{seconds:.2f} s"
    if seconds < 60:  # noqa: PLR2004 - of a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
