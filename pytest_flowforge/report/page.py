"""The page of a run (``--ff-report``): facts in, one HTML document out, which needs nothing but itself.

What comes from outside is JSON in a data block, with everything escaped that HTML could take for markup; the script
only ever sets text. The policy in the page names script and style by their hashes and forbids everything else, so that
nothing is loaded or sent, and nothing else would run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.states import TaskState
from pytest_flowforge.report.gathering import Gathering, as_json
from pytest_flowforge.report.views import file_of, views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.core.model import Task, TaskId

__all__ = ["About", "Page", "escaped"]


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a run before it begins; ``before`` has the seconds that tasks took in earlier runs.

    ``command`` is to be free of secrets. ``parameters`` says what to show of those of a task.
    """

    title: str
    command: str = ""
    before: Mapping[TaskId, float] = field(default_factory=dict)
    parameters: Callable[[TaskId], Mapping[str, str]] = lambda _: {}


class Page:
    """The page of one run; what does not change between two states of it is made once."""

    def __init__(self, about: About, gathering: Gathering) -> None:
        self._about = about
        self._gathering = gathering
        #: What has been said of each task, and for how many tasks.
        self._fixed: list[dict[str, Any]] = []
        self._index: dict[TaskId, int] = {}
        self._views: list[dict[str, Any]] = []
        #: Results to be shown, by task.
        self.previews: dict[TaskId, str] = {}

    def render(self, now: float, refresh: float | None) -> str:
        """Return the page as of *now*, which reloads itself after *refresh* seconds; None for one that is final."""
        return _document(self._about.title, escaped(self._facts(now, refresh)))

    def _facts(self, now: float, refresh: float | None) -> dict[str, Any]:
        gathering = self._gathering
        self._describe()
        tasks = [self._task(task) for task in self._index]
        for root, blocked in gathering.summary.blocked_by_root().items():
            tasks[self._index[root]]["blocks"] = len(blocked)
        for task in gathering.summary.expected:
            tasks[self._index[task]]["expected"] = True
        path = dict.fromkeys(step.attempt.task for step in gathering.metrics.snapshot().critical_path)
        return {
            "title": self._about.title,
            "command": self._about.command,
            "began": round(gathering.began, 3),
            "last": round(gathering.last, 3),
            "written": round(now, 3),
            "ended": gathering.ended,
            "stopped": gathering.stopped,
            "refresh": refresh,
            "states": [state.value for state in TaskState],
            "path": [self._index[task] for task in path if task in self._index],
            "views": self._views,
            "tasks": tasks,
        }

    def _describe(self) -> None:
        # The graph may have grown already, in another thread, by tasks that nothing has been heard of.
        known, graph = self._gathering.tasks, self._gathering.graph
        if len(self._fixed) == len(known):
            return
        tasks = [graph[task] for task in known]
        self._index = {task.id: number for number, task in enumerate(tasks)}
        self._fixed = [self._fixed_facts(task) for task in tasks]
        self._views = views(tasks)

    def _fixed_facts(self, task: Task) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "id": task.id,
            "name": task.label,
            "file": file_of(task),
            "line": task.location.line if task.location else 0,
            "needs": [self._index[need] for need in task.needs if need in self._index],
            "when": task.when.value,
            "parameters": dict(self._about.parameters(task.id)),
            "before": self._about.before.get(task.id),
            "mapped": task.mapped,
        }
        if task.instance_of in self._index:
            facts["instance_of"] = self._index[task.instance_of]
        return {name: fact for name, fact in facts.items() if fact not in (None, "", [], {}, False)}

    def _task(self, task: TaskId) -> dict[str, Any]:
        known = self._gathering.tasks[task]
        facts: dict[str, Any] = {**self._fixed[self._index[task]], "state": known.state.value}
        if known.because:
            facts["because"] = known.because
        if known.cause in self._index:
            facts["cause"] = self._index[known.cause]
        if known.attempts:
            facts["attempts"] = [as_json(attempt) for attempt in known.attempts]
        if task in self.previews:
            facts["result"] = self.previews[task]
        return facts


def escaped(facts: Any) -> str:
    """Return *facts* as JSON that can stand in a script element."""
    # In ASCII, because JavaScript has more line ends than JSON, and lone surrogates can not be written as UTF-8.
    text = json.dumps(facts, ensure_ascii=True, separators=(",", ":"))
    # What ends a script element, or begins a comment in one. Many times as fast as str.translate.
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


@cache
def _part(name: str) -> str:
    return files("pytest_flowforge.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _document(title: str, facts: str) -> str:
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(" ".join(title.encode("utf-8", "replace").decode().split())),
        "style": style,
        "script": script,
        "facts": facts,
    }
    # One after the other would find places of one in another.
    pieces = _part("page.html").split("%%")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))
