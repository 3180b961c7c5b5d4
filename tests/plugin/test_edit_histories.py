"""What `--ff-resume` runs after edits, compared with what must run by the words of the promise.

Hypothesis makes up histories: edits of code, parameters, files and of what is stored, with a resume after each step.
The oracle keeps sets of names. It has no fingerprints, no journal and no values, and does not know how ours work.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pytest_flowforge.keeping import Archive, Settings
from tests.places import python_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from pytest_flowforge.core.records import ResultRef

HELPERS = '''
    """Shared code."""

    RATE = {rate}


    def scale(value):
        return f"scale{scale}({{value}})*{{RATE}}"


    def show(value):
        return inner(f"show({{value}})")


    def inner(value):
        return f"inner{inner}({{value}})"


    def unused(value):
        return "unused{unused}"
'''

FLOW = """
    import os

    import helpers
    import pytest
    from helpers import show
    {comment}

    def ran():
        file = os.open(os.environ["EDITS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, os.environ["PYTEST_CURRENT_TEST"].split("flow_")[-1].split(" ")[0].encode() + b"\\n")
        os.close(file)


    @pytest.mark.cache(inputs=["data.txt"])
    def flow_numbers():
        ran()
        with open("data.txt") as file:
            return ["numbers{numbers}", file.read()]


    def flow_double(numbers):
        {docstring}
        ran()
        return ("double{double}", helpers.scale(numbers))


    def flow_total(double):
        ran()
        return f"total{total} {{double}}"


    @pytest.mark.parametrize("rate", [pytest.param({low}, id="low"), pytest.param({high}, id="high")])
    def flow_fit(total, rate):
        ran()
        return {{"fit{fit}": rate, "of": total}}


    def flow_label():
        ran()
        return "label{label}"


    @pytest.mark.depends_on("label")
    def flow_check():
        ran()
        return ("check{check}",)


    def flow_fragile(label):
        ran()
        assert not os.path.exists("broken")
        return [label, "fragile{fragile}"]


    def flow_after(fragile):
        ran()
        return (fragile, "after{after}")


    def flow_report(fit, label):
        ran()
        return show(f"report{report} {{fit}} {{label}}")
"""

#: Direct upstreams, each task after its own.
NEEDS = {
    "numbers": (),
    "double": ("numbers",),
    "total": ("double",),
    "fit[low]": ("total",),
    "fit[high]": ("total",),
    "label": (),
    "check": ("label",),
    "fragile": ("label",),
    "after": ("fragile",),
    "report": ("fit[low]", "fit[high]", "label"),
}

#: Tasks that are touched by an edit of each kind.
TOUCHES = {
    **{f"body of {name}": {name} for name in NEEDS if "[" not in name},
    "body of fit": {"fit[low]", "fit[high]"},
    "helper scale": {"double"},
    "constant rate": {"double"},
    "helper inner": {"report"},
    "helper unused": set(),
    "comment": set(),
    "docstring": set(),
    "parameter low": {"fit[low]"},
    "parameter high": {"fit[high]"},
    "data": {"numbers"},
    "nothing": set(),
}

#: Edits of what is stored, by what becomes of the result of one task.
DAMAGES = ("flip", "truncate", "remove")

Edit = tuple[str, str]


@dataclass
class Oracle:
    """Knows what has to run: tasks touched, failed, blocked or without a result, and all below one that runs."""

    #: Tasks that succeeded, were not touched since, and whose result is there.
    good: set[str] = field(default_factory=set)
    broken: bool = False

    def touch(self, tasks: set[str]) -> None:
        self.good -= tasks

    def run(self) -> tuple[set[str], bool]:
        """Return what starts, and whether all is well in the end."""
        due: set[str] = set()
        stuck: set[str] = set()
        started = set()
        for task, needs in NEEDS.items():
            if task in self.good and due.isdisjoint(needs):
                continue
            due.add(task)
            if not stuck.isdisjoint(needs):
                stuck.add(task)
                continue
            started.add(task)
            if task == "fragile" and self.broken:
                stuck.add(task)
        self.good = set(NEEDS) - stuck
        return started, not stuck


class Project:
    """A folder with the flow as it is now, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir(parents=True)
        self._log = folder / "log.txt"
        self._config = folder / "config"
        self._versions = dict.fromkeys(
            [*(name for name in NEEDS if "[" not in name), "fit", "scale", "rate", "inner", "unused", "low", "high"], 1
        )
        self._versions["high"] = 1000
        self._data = self._comments = self._docstrings = 0
        (self.folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        self._write()

    def edit(self, what: str) -> None:
        """Make an edit of the kind *what* in TOUCHES."""
        _, _, name = what.rpartition(" ")
        if what == "data":
            self._data += 1
        elif what == "comment":
            self._comments += 1
        elif what == "docstring":
            self._docstrings += 1
        elif what != "nothing":
            self._versions[name] += 1
        self._write()

    def _write(self) -> None:
        comment = "\n    ".join(f"# Comment {number}." for number in range(self._comments))
        docstring = f'"""Double, {self._docstrings}."""' if self._docstrings else ""
        flow = dedent(FLOW).format(**self._versions, comment=comment.replace("    ", ""), docstring=docstring)
        (self.folder / "flow_it.py").write_text(flow, encoding="utf-8")
        helpers = dedent(HELPERS).format(**self._versions) + f"\n# {self._comments}\n"
        (self.folder / "helpers.py").write_text(helpers, encoding="utf-8")
        (self.folder / "data.txt").write_text(f"data {self._data}", encoding="utf-8")

    def breaks(self, *, broken: bool) -> None:
        """Let ``fragile`` fail from now on, or not; that is no edit of the flow."""
        place = self.folder / "broken"
        if broken:
            place.touch()
        else:
            place.unlink(missing_ok=True)

    def resume(self, *args: str) -> tuple[int, list[str], str]:
        """Return the exit status, the tasks that started, and what was printed."""
        self._log.write_text("", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "--flowforge", "--ff-resume", "-v", *args]
        for plugin in ("pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout"):
            command += ["-p", plugin]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {
            "EDITS_LOG": str(self._log),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": python_path(),
            # Two edits within a second may leave a file as long as it was, and Python would not notice.
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CONFIG_HOME": str(self._config),
        }
        environment.pop("FLOWFORGE_KEY", None)
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        started = self._log.read_text(encoding="utf-8").split()
        return done.returncode, started, done.stdout + done.stderr

    def expected(self) -> dict[str, Any]:
        """Return what the flow as it is now comes to, without any of ours."""
        v = self._versions
        values: dict[str, Any] = {"numbers": [f"numbers{v['numbers']}", f"data {self._data}"]}
        values["double"] = (f"double{v['double']}", f"scale{v['scale']}({values['numbers']})*{v['rate']}")
        values["total"] = f"total{v['total']} {values['double']}"
        fit = {name: {f"fit{v['fit']}": v[name], "of": values["total"]} for name in ("low", "high")}
        values |= {f"fit[{name}]": value for name, value in fit.items()}
        values["label"] = f"label{v['label']}"
        values["check"] = (f"check{v['check']}",)
        values["fragile"] = [values["label"], f"fragile{v['fragile']}"]
        values["after"] = (values["fragile"], f"after{v['after']}")
        values["report"] = f"inner{v['inner']}(show(report{v['report']} {fit} {values['label']}))"
        return values

    def stored(self) -> dict[str, Any]:
        """Return the results a later run would build on."""
        with self._archive() as (archive, standing):
            return {name: archive.load(record) for name, record in standing.items() if record.result is not None}

    def damage(self, how: str, task: str) -> set[str]:
        """Spoil the stored result of *task*; return all tasks whose results are lost by that."""
        with self._archive() as (_, standing):
            refs: dict[str, ResultRef] = {name: one.result for name, one in standing.items() if one.result}
        hit = refs.get(task)
        if hit is None:
            return set()
        file = self.folder / ".pytest_cache" / "flowforge" / "runs" / hit.run / "results" / hit.segment
        if not file.exists():
            return set()
        together = {name: ref for name, ref in refs.items() if (ref.run, ref.segment) == (hit.run, hit.segment)}
        if how == "remove":
            file.unlink()
            return set(together)
        content = bytearray(file.read_bytes())
        if how == "truncate":
            file.write_bytes(content[: hit.offset + hit.length - 1])
            return {name for name, ref in together.items() if ref.offset >= hit.offset}
        if hit.offset < len(content):
            content[hit.offset + hit.length // 2 : hit.offset + hit.length // 2 + 1] = b"\xff"
            file.write_bytes(content)
        return {task}

    def _archive(self) -> Any:
        return _opened(self.folder / ".pytest_cache" / "flowforge", self._config)


class _opened:  # noqa: N801 - a context manager, used like a function
    def __init__(self, kept: Path, config: Path) -> None:
        self._kept = kept
        self._environment = mock.patch.dict(os.environ, {"XDG_CONFIG_HOME": str(config)})

    def __enter__(self) -> tuple[Archive, dict[str, Any]]:
        self._environment.start()
        os.environ.pop("FLOWFORGE_KEY", None)
        self._archive = Archive.open(Settings(self._kept))
        run = self._archive.chosen()
        assert run is not None
        names = {task.rpartition("::flow_")[2]: record for task, record in run.standing.items()}
        return self._archive, names

    def __exit__(self, *_: object) -> None:
        self._archive.close()
        self._environment.stop()


def edits() -> st.SearchStrategy[Edit]:
    touch = st.tuples(st.just("edit"), st.sampled_from(sorted(TOUCHES)))
    damage = st.tuples(st.sampled_from(DAMAGES), st.sampled_from(sorted(NEEDS)))
    fragile = st.tuples(st.just("break"), st.sampled_from(["yes", "no"]))
    return st.one_of(touch, touch, damage, fragile)


def histories() -> st.SearchStrategy[list[list[Edit]]]:
    step = st.lists(edits(), min_size=1, max_size=2, unique=True)
    return st.lists(step, min_size=3, max_size=5)


@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    # Each example takes seconds: a failing one tells its story, and is not made smaller.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(history=histories())
@example(
    history=[
        [("edit", "comment"), ("edit", "docstring"), ("edit", "helper unused")],
        [("edit", "helper inner"), ("edit", "parameter low")],
        [("edit", "data"), ("break", "yes")],
        [("edit", "body of fragile"), ("flip", "check")],
        [("break", "no")],
    ]
)
@example(
    history=[
        [("edit", "constant rate")],
        [("break", "yes"), ("edit", "body of label")],
        [("remove", "total")],
        [("break", "no"), ("truncate", "after")],
        [("edit", "nothing")],
    ]
)
def test_a_resume_runs_what_was_touched_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Edit]]
) -> None:
    project, oracle = Project(tmp_path_factory.mktemp("edits")), Oracle()
    story = [f"the history: {history}"]
    _check(project, oracle, story, "at first")
    for step in history:
        for what, which in step:
            _make(project, oracle, what, which)
        _check(project, oracle, story, " and ".join(f"{what} {which}" for what, which in step))


def _make(project: Project, oracle: Oracle, what: str, which: str) -> None:
    if what == "edit":
        project.edit(which)
        oracle.touch(TOUCHES[which])
    elif what == "break":
        oracle.broken = which == "yes"
        project.breaks(broken=oracle.broken)
    else:
        oracle.touch(project.damage(what, which))


def _check(project: Project, oracle: Oracle, story: list[str], step: str) -> None:
    must, well = oracle.run()
    status, started, output = project.resume()
    story.append(f"{step}: {sorted(must)} must run, {started} did, status {status}")
    tale = "\n".join([*story, *output.splitlines()[-40:]])
    assert len(set(started)) == len(started), f"started twice\n{tale}"
    assert set(started) == must, (
        f"too many: {sorted(set(started) - must)}, too few: {sorted(must - set(started))}\n{tale}"
    )
    assert status == (0 if well else 1), tale
    shown = set(re.findall(r"^flow_it\.py::flow_(\S+) (?:PASSED|REUSED)", output, re.MULTILINE))
    assert shown == oracle.good, f"shown as done: {sorted(shown)}\n{tale}"
    stored, expected = project.stored(), project.expected()
    stale = {name: stored.get(name) for name in oracle.good if stored.get(name) != expected[name]}
    assert not stale, f"not what the flow comes to now: {stale}\n{tale}"


# Nobody believes an oracle that was not asked.


def _oracle_after(*touched: str) -> Callable[[], set[str]]:
    oracle = Oracle()
    oracle.run()
    oracle.touch(set(touched))
    return lambda: oracle.run()[0]


def test_the_oracle() -> None:
    assert _oracle_after()() == set()
    assert _oracle_after("label")() == {"label", "check", "fragile", "after", "report"}
    assert _oracle_after("fit[low]")() == {"fit[low]", "report"}
    oracle = Oracle(broken=True)
    assert oracle.run() == (set(NEEDS) - {"after"}, False)
    assert oracle.run() == ({"fragile"}, False)
    oracle.broken = False
    assert oracle.run() == ({"fragile", "after"}, True)
    assert oracle.run() == (set(), True)
