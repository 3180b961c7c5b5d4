"""What runs leave behind, and what the next one says of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.plugin.conftest import words

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_REASON = re.compile(r"^  run +(\S+) +(.+)$", re.MULTILINE)

#: Files that the fixtures of these tests write.
_OURS = frozenset({"stdout", "stderr", "log.txt"})


def place_of(pytester: pytest.Pytester) -> Path:
    """Where runs are kept."""
    return pytester.path / ".pytest_cache" / "flowforge"


def run_ids(pytester: pytest.Pytester) -> list[str]:
    """The ids of the runs, the oldest first."""
    return sorted(path.name for path in place_of(pytester).joinpath("runs").iterdir())


def journal_of(pytester: pytest.Pytester, run: int = -1) -> Path:
    """The journal of a run, by default the last one."""
    return place_of(pytester) / "runs" / run_ids(pytester)[run] / "journal.jsonl"


def records_in(journal: Path) -> list[dict[str, Any]]:
    """What it says, line by line."""
    return [json.loads(line) for line in journal.read_text(encoding="ascii").splitlines()]


def tree_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below *folder*, with the time of their last change and their content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in _OURS]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def flip(path: Path, place: int) -> None:
    """Damage one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def make_ready(pytester: pytest.Pytester) -> None:
    """Let flows succeed that fail as long as this file is not there."""
    pytester.path.joinpath("ready").touch()


def reasons_in(result: pytest.RunResult) -> dict[str, str]:
    """Why each task runs, as the run says when it begins."""
    return {name: reason.strip() for name, reason in _REASON.findall(result.stdout.str())}


def reused_in(result: pytest.RunResult) -> set[str]:
    """The tasks that ``-v`` shows as reused."""
    return {name for name, word in words(result) if word == "REUSED"}


def ends_in(pytester: pytest.Pytester, run: int = -1) -> dict[str, list[tuple[int, str, str]]]:
    """How attempts ended, by the name of the task: the number of the attempt, the state, and what was said of it."""
    ends: dict[str, list[tuple[int, str, str]]] = {}
    for record in records_in(journal_of(pytester, run)):
        if record["ev"] in ("task_finished", "task_retrying"):
            said = record.get("outcome", {}).get("message") or record.get("because", "")
            ends.setdefault(record["task"].partition("::flow_")[2], []).append(
                (record["try"], record.get("state", "retrying"), said)
            )
    return ends


def states_in(pytester: pytest.Pytester, run: int = -1) -> dict[str, str]:
    """The state of each task that has one, by its name."""
    return {name: ends[-1][1] for name, ends in ends_in(pytester, run).items()}


def ran_in(pytester: pytest.Pytester, run: int = -1) -> list[str]:
    """The tasks whose attempts have started, in alphabetical order, each as often as it did."""
    records = records_in(journal_of(pytester, run))
    return sorted(record["task"].partition("::flow_")[2] for record in records if record["ev"] == "task_started")
