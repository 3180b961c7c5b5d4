"""Kills runs of a real flow again and again, resumes them until they are done, and looks at what has become of them.

What must hold, whenever and however a run ends: a task whose success was shown or written down never starts again,
none is missing in the end, all results are those of a run that was left alone, journals are whole, and nothing
half-written stays behind.

``python -m tests.plugin.chaos --kills 200 --seed N`` from the root of the repository is the long version. Loaded as a
plugin of a run (``-p``), this module ends that run at one call of the file layer, as its environment says.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any
from unittest import mock

from pytest_flowforge.core.states import SUCCEEDED
from pytest_flowforge.keeping import Archive, Keeper, Settings
from pytest_flowforge.storage.files import Files
from pytest_flowforge.storage.places import Place
from tests.places import python_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.storage.journal import Scan

__all__ = ["AT_CALLS", "AT_EVENTS", "SIGNALS", "Chaos", "Kill", "Numbers", "pytest_configure", "stories"]

_ROOT = Path(__file__).resolve().parents[2]

#: What changes the disk, in the words of Files. Of ``open`` only what makes a file counts.
_CHANGES = ("write", "sync", "sync_folder", "truncate", "replace", "link", "unlink", "mkdir", "rmdir", "open")

#: At a call of the file layer: SIGKILL before it, after it, after half of what it was to write; SIGINT before, after.
AT_CALLS = ("before", "after", "within", "interrupt-before", "interrupt-after")

#: SIGINT when what has happened is about to be written down, before the event of that number.
AT_EVENTS = ("interrupt-event",)

#: From outside, after some time. The last one is what an impatient user does.
SIGNALS = ("KILL", "TERM", "INT", "INT-INT")

#: Seconds; a run takes about one.
_PATIENCE = 120.0

#: A story with that many resumes will not end.
_MOST_RUNS = 15

FLOW = '''
    """About sixty tasks: fan-out, fan-in, a chain, results of every kind, edges with and without values."""
    import datetime
    import decimal
    import os
    import time
    from contextlib import contextmanager
    from pickle import PickleBuffer

    import pytest

    SOURCES = range(8)
    PARTS = ["a", "b", "c"]
    MODELS = range(6)


    @contextmanager
    def noted():
        """Leave traces outside of everything that is kept for runs."""
        name = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
        note(f"start {name}")
        yield
        time.sleep(0.001)
        note(f"end {name}")


    def note(line):
        file = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, f"{line}\\n".encode())
        os.close(file)


    class Buffer(bytearray):
        """Large, and stored beside the stream of its pickle."""

        def __reduce_ex__(self, protocol):
            return bytearray, (PickleBuffer(self),)


    def flow_start():
        with noted():
            return {"seed": 7, "names": ["x", "ü", None, True, 1.5]}


    @pytest.mark.parametrize("number", SOURCES)
    def flow_source(start, number):
        with noted():
            return [start["seed"] * number, str(number)]


    @pytest.mark.parametrize("number", SOURCES)
    def flow_clean(source, number):
        with noted():
            return (source[0], {source[1]}, datetime.date(2020, 1, 1 + number))


    def flow_merge(clean):
        with noted():
            return {key: value[0] for key, value in clean.items()}


    @pytest.mark.depends_on("source")
    @pytest.mark.parametrize("part", PARTS)
    def flow_large(part):
        with noted():
            if part == "a":
                return part.encode() * 1_300_000
            if part == "b":
                return Buffer(part.encode() * 2_500_000)
            return "long " * 300_000


    @pytest.mark.parametrize("part", PARTS)
    def flow_size(large, part):
        with noted():
            return {"part": part, "size": len(large), "end": bytes(large[-3:], "ascii").hex()
                    if isinstance(large, str) else bytes(large[-3:]).hex()}


    @pytest.mark.parametrize("model", MODELS)
    def flow_fit(merge, model):
        with noted():
            return decimal.Decimal(sum(merge.values())) / (model + 1)


    @pytest.mark.parametrize("model", MODELS)
    def flow_score(fit, model):
        with noted():
            return {"score": float(fit), "model": model}


    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.depends_on("score")
    def flow_plot(model):
        with noted():
            return None


    def flow_best(score):
        with noted():
            return max(score.values(), key=lambda one: one["score"])["model"]


    @pytest.mark.depends_on("plot", "size")
    def flow_page(best):
        with noted():
            return f"best: {best}"


    class FlowChain:
        def flow_one(self, merge):
            with noted():
                return [len(merge)]

        def flow_two(self, one):
            with noted():
                return [*one, 2]

        def flow_three(self, two):
            with noted():
                return (*two, 3)

        def flow_four(self, three):
            with noted():
                return frozenset(three)

        def flow_five(self, four):
            with noted():
                return sorted(four)

        @pytest.mark.depends_on("five")
        def flow_six(self):
            with noted():
                return 6.5


    @pytest.mark.parametrize("shard", range(12))
    def flow_shard(start, shard):
        with noted():
            return {"shard": shard, "rows": list(range(shard))}


    def flow_total(shard):
        with noted():
            return sum(len(one["rows"]) for one in shard.values())


    @pytest.mark.depends_on("page", "FlowChain::six")
    def flow_report(total, size, page):
        with noted():
            return (total, [one["end"] for one in size.values()], page)
'''


# ---------------------------------------------------------------------- within the run that is to be killed


def pytest_configure() -> None:
    """End this run as the environment says; it says so in runs that this module has started, and in no other."""
    plan = os.environ.get("CHAOS")
    if plan:
        how, at = plan.split()
        _Faults(how, int(at)).install()


class _Faults:
    """Counts the calls of all file layers of this process, and ends it at number *at*."""

    def __init__(self, how: str, at: int) -> None:
        self._how = how
        self._at = at
        self._count = itertools.count()
        self._calls = 0

    def install(self) -> None:
        original, faults = Files.__init__, self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                return int(faults.call("write", super().write, (data,), {}))

        def made(files: Files) -> None:
            original(files)
            for name in _CHANGES:
                setattr(files, name, faults.counted(name, getattr(files, name)))
            files.raw = Raw

        if self._how in AT_EVENTS:
            self._install_in_keeper()
            return
        Files.__init__ = made  # type: ignore[method-assign, assignment]
        if self._how == "count":
            import atexit  # noqa: PLC0415  (to say how many there are)

            atexit.register(lambda: Path(os.environ["CHAOS_COUNT"]).write_text(f"{self._calls}", encoding="ascii"))

    def _install_in_keeper(self) -> None:
        original, faults = Keeper.__call__, self

        def told(keeper: Keeper, event: Event) -> None:
            if next(faults._count) == faults._at:
                _end(signal.SIGINT)
            original(keeper, event)

        Keeper.__call__ = told  # type: ignore[method-assign, assignment]

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **rest: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **rest)
            return self.call(name, real, args, rest)

        return counted

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], rest: Mapping[str, Any]) -> Any:
        place = next(self._count)
        self._calls = place + 1
        if place != self._at:
            return real(*args, **rest)
        how = self._how
        if how == "before":
            _end(signal.SIGKILL)
        elif how == "interrupt-before":
            _end(signal.SIGINT)
        elif how == "within" and name == "write":
            *before, data = args
            real(*before, bytes(data)[: len(data) // 2])
            _end(signal.SIGKILL)
        done = real(*args, **rest)
        _end(signal.SIGINT if how == "interrupt-after" else signal.SIGKILL)
        return done


def _end(number: signal.Signals) -> None:
    if number is signal.SIGINT and threading.current_thread() is threading.main_thread():
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


# ---------------------------------------------------------------------- outside of it


@dataclass(frozen=True, slots=True)
class Kill:
    """How a run is ended: at the call or event number *at*, or *at* seconds after its start."""

    how: str
    at: float

    def __str__(self) -> str:
        if self.how in SIGNALS:
            return f"{self.how} {self.at:.3f} s"
        return f"{self.how} {'' if self.how in AT_EVENTS else 'call '}{self.at:.0f}"


@dataclass(slots=True)
class Numbers:
    """What came of stories. ``again`` counts starts of tasks that had started before."""

    stories: int = 0
    kills: int = 0
    late: int = 0
    resumes: int = 0
    again: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{how} {number}" for how, number in sorted(self.by_kind.items()))
        return (
            f"{self.stories} stories, {self.kills} runs ended early ({kinds}), {self.late} kills came too late,"
            f" {self.resumes} resumes, {self.again} tasks started once more"
        )


@dataclass(slots=True)
class _Run:
    status: int
    output: str
    started: list[str]

    @property
    def end(self) -> str:
        """The last lines of what it has said."""
        return "\n".join(self.output.splitlines()[-40:])

    @property
    def shown(self) -> set[str]:
        return set(re.findall(r"^(\S+::flow_\S+) (?:PASSED|REUSED)", self.output, re.MULTILINE))


class _World:
    """A folder with the flow, and everything that its runs leave behind."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        self.log = folder / "log.txt"
        self.log.touch()
        self.config = folder / "config"
        self.kept = self.project / ".pytest_cache" / "flowforge"
        (self.project / "flow_it.py").write_text(dedent(FLOW), encoding="utf-8")
        ini = f"[pytest]\nflowforge_keep_runs = 3\nflowforge_durability = {durability}\n"
        (self.project / "pytest.ini").write_text(ini, encoding="utf-8")
        self._read = 0

    def run(self, *args: str, kill: Kill | None = None, count: Path | None = None) -> _Run:
        plugins = ("pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout", "tests.plugin.chaos")
        command = [sys.executable, "-m", "pytest", "--flowforge", "-v", *args]
        for plugin in plugins:
            command += ["-p", plugin]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CHAOS"))}
        environment |= {
            "CHAOS_LOG": str(self.log),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": python_path(),
            "PYTHONUNBUFFERED": "1",
            "XDG_CONFIG_HOME": str(self.config),
        }
        environment.pop("FLOWFORGE_KEY", None)
        if count is not None:
            environment |= {"CHAOS": "count -1", "CHAOS_COUNT": str(count)}
        elif kill is not None and kill.how not in SIGNALS:
            environment["CHAOS"] = f"{kill.how} {kill.at:.0f}"
        process = subprocess.Popen(
            command, cwd=self.project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            output = self._output(process, kill)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        lines = self.log.read_text(encoding="utf-8").splitlines()
        news, self._read = lines[self._read :], len(lines)
        return _Run(process.returncode, output, [line[6:] for line in news if line.startswith("start ")])

    @staticmethod
    def _output(process: subprocess.Popen[str], kill: Kill | None) -> str:
        if kill is not None and kill.how in SIGNALS:
            wait = kill.at
            for name in kill.how.split("-"):
                try:
                    return process.communicate(timeout=wait)[0]
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.Signals[f"SIG{name}"])
                wait = 0.02
        return process.communicate(timeout=_PATIENCE)[0]

    def journals(self) -> Iterator[tuple[str, Scan]]:
        """Yield the runs that have a journal, each with what that holds."""
        try:
            place = Place.open(self.kept, create=False)
        except FileNotFoundError:
            return
        try:
            for run in place.runs():
                yield run, place.read(run)
        finally:
            place.close()

    def values(self) -> dict[str, Any]:
        """Return what a later run would build on."""
        environment = {"XDG_CONFIG_HOME": str(self.config)}
        with mock.patch.dict(os.environ, environment):
            os.environ.pop("FLOWFORGE_KEY", None)
            archive = Archive.open(Settings(self.kept))
            try:
                run = archive.chosen()
                assert run is not None, "no run can be built on"
                bad = {
                    task: record.state.value for task, record in run.standing.items() if record.state not in SUCCEEDED
                }
                assert not bad, f"no standing success: {bad}"
                return {task: archive.load(record) for task, record in run.standing.items()}
            finally:
                archive.close()

    def leftovers(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.kept.rglob(".tmp-*"))


class Chaos:
    """Tells stories in folders of their own below *folder*, and compares each with a run that was left alone."""

    def __init__(self, folder: Path, durability: str = "normal") -> None:
        self._folder = folder
        self._durability = durability
        self.numbers = Numbers()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in a script that was started with "&": all that it starts would inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        first, world = _World(folder / "first", durability), _World(folder / "undisturbed", durability)
        run = first.run(count=first.folder / "count")
        assert run.status == 0, run.output
        #: How often a run calls what changes the disk.
        self.calls = int((first.folder / "count").read_text(encoding="ascii"))
        self.expected = first.values()
        assert len(self.expected) == len(run.started) == len(run.shown), run.output
        begin = time.monotonic()
        run = world.run()
        #: How long a run takes, in seconds.
        self.seconds = time.monotonic() - begin
        assert run.status == 0, run.output
        assert world.values() == self.expected, "two runs that were left alone have different results"

    def tell(self, kills: Sequence[Kill], title: str) -> None:
        """Run the flow and end its runs one after the other like that, then resume it until it is done.

        Raises :class:`AssertionError` for what must not be; its text begins with *title*.
        """
        self.numbers.stories += 1
        world = _World(self._folder / f"story-{self.numbers.stories}", self._durability)
        story = _Story(self, world)
        try:
            story.tell(kills)
        except AssertionError as wrong:
            tale = indent("\n".join([str(wrong), "", "the story:", *story.lines]), "    ")
            msg = f"{title} ({', '.join(map(str, kills))}), kept in {world.folder}\n{tale}"
            raise AssertionError(msg) from None
        shutil.rmtree(world.folder)


class _Story:
    """One flow from its first run to its end, and what is known of it on the way."""

    def __init__(self, chaos: Chaos, world: _World) -> None:
        self._chaos = chaos
        self._world = world
        self._ever_started: set[str] = set()
        #: Tasks that must never start again.
        self._done: set[str] = set()
        #: Each record of a success there ever was: runs are pruned.
        self._records: dict[tuple[str, int], str] = {}
        #: Runs whose journals have an unfinished last line.
        self._torn: set[str] = set()
        self.lines: list[str] = []

    def tell(self, kills: Sequence[Kill]) -> None:
        for number, kill in enumerate(itertools.chain(kills, itertools.repeat(None))):
            run = self._run(number, kill)
            if run.status == 0:
                break
            assert kill is not None, f"a resume that nobody has disturbed ended with {run.status}:\n{run.end}"
            assert number < _MOST_RUNS, "it does not come to an end"
        self._check_end()

    def _run(self, number: int, kill: Kill | None) -> _Run:
        numbers = self._chaos.numbers
        run = self._world.run(*(["--ff-resume"] if number else []), kill=kill)
        numbers.resumes += number > 0
        numbers.again += len(self._ever_started.intersection(run.started))
        if kill is not None and run.status:
            numbers.kills += 1
            numbers.by_kind[kill.how] += 1
        elif kill is not None:
            numbers.late += 1
        self.lines.append(
            f"run {number}, {kill or 'left alone'}: status {run.status}, {len(run.started)} tasks started,"
            f" {len(run.shown)} shown as done"
        )
        self._check(run)
        return run

    def _check(self, run: _Run) -> None:
        twice = [task for task, times in Counter(run.started).items() if times > 1]
        assert not twice, f"started twice in one run: {twice}\n{run.end}"
        again = self._done.intersection(run.started)
        assert not again, f"had succeeded, and started again: {sorted(again)}\n{run.end}"
        self._ever_started.update(run.started)
        self._read_journals(run)
        recorded = set(self._records.values())
        lost = run.shown - recorded
        assert not lost, f"shown and not written down: {sorted(lost)}\n{run.end}"
        self._done |= run.shown | recorded
        missing = set(self._chaos.expected) - self._done
        assert run.status != 0 or not missing, f"exit status 0, and there is work left: {sorted(missing)}\n{run.end}"

    def _read_journals(self, run: _Run) -> None:
        torn = set()
        for name, scan in self._world.journals():
            assert scan.damage is None, f"the journal of {name} is damaged: {scan.damage}\n{run.end}"
            ends = [record["ev"] for record in scan.records if record["ev"] in {"run_finished", "run_stopped"}]
            assert len(ends) <= (not scan.torn_bytes), f"the journal of {name} goes on after its end: {ends}\n{run.end}"
            if scan.torn_bytes:
                torn.add(name)
            for record in scan.records:
                if record["ev"] == "task_finished" and record["state"] == "success":
                    self._records[name, record["s"]] = record["task"]
        assert run.status < 0 or torn <= self._torn, f"torn, and it was not killed: {torn - self._torn}\n{run.end}"
        self._torn |= torn

    def _check_end(self) -> None:
        times = Counter(self._records.values())
        twice = {task: number for task, number in times.items() if number != 1}
        assert not twice, f"not exactly one success: {twice}"
        found = self._world.values()
        expected = self._chaos.expected
        assert found.keys() == expected.keys(), (
            f"missing {expected.keys() - found.keys()}, new {found.keys() - expected.keys()}"
        )
        wrong = sorted(task for task, value in found.items() if value != expected[task])
        assert not wrong, f"other results than those of a run that was left alone: {wrong}"
        left = self._world.leftovers()
        assert not left, f"temporary files stay behind: {left}"


def stories(chance: random.Random, calls: int, seconds: float, number: int) -> Iterator[list[Kill]]:
    """Yield *number* stories whose first kills are spread over all calls, in all ways; some have more kills to come."""
    ways: list[str] = []
    for place in range(number):
        ways = ways or chance.sample(AT_CALLS, len(AT_CALLS))
        kills = [Kill(ways.pop(), place * calls // number)]
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            if chance.random() < 0.7:
                # What is resumed has less to do, and makes fewer calls.
                kills.append(Kill(chance.choice(AT_CALLS + AT_EVENTS), int(calls * chance.random() ** 3)))
            else:
                kills.append(Kill(chance.choice(SIGNALS), chance.uniform(0.3, 1.0) * seconds))
        yield kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least that many; every call is hit in any case")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--durability", choices=("normal", "full", "off"), default="normal")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(10**6)  # noqa: S311 - no secret
    chance = random.Random(seed)  # noqa: S311 - no secret
    folder = Path(tempfile.mkdtemp(prefix="flowforge-chaos-"))
    print(f"seed {seed}, durability {given.durability}, in {folder}")  # noqa: T201
    begin = time.monotonic()
    chaos = Chaos(folder, given.durability)
    print(f"{len(chaos.expected)} tasks, {chaos.calls} calls, {chaos.seconds:.2f} s a run")  # noqa: T201
    failures = 0
    whole = itertools.chain.from_iterable(
        stories(chance, chaos.calls, chaos.seconds, chaos.calls) for _ in itertools.count()
    )
    for told, kills in enumerate(whole):
        if told >= chaos.calls and chaos.numbers.kills >= given.kills:
            break
        try:
            chaos.tell(kills, f"seed {seed}, story {told}")
        except AssertionError as wrong:
            failures += 1
            print(wrong, flush=True)  # noqa: T201
        if told % 50 == 49:
            print(f"{time.monotonic() - begin:.0f} s: {chaos.numbers}", flush=True)  # noqa: T201
    print(f"{time.monotonic() - begin:.0f} s: {chaos.numbers}; {failures} failures")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
