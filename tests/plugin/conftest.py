"""Running flows the way a user does: `pytest --flowforge` in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Protocol

import pytest

# pytest.approx imports it, and what was imported in a test is forgotten: the next time it would warn of that.
with suppress(ImportError):
    import numpy as np  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.plugin.clusters import RunningCluster

# Whoever starts the tests in the background (nohup, a shell without job control) has these ignored, and the runs that
# tests start would inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (getattr(signal, "SIGHUP", 0), signal.SIG_DFL)):
    if _number and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

#: How many times as long things may take: in CI, other suites run beside this one.
SLOWER = 4 if os.environ.get("CI") else 1

#: The plugin and what it depends on. Whatever else is installed here is no part of a story that does not name it.
_PLUGINS = ("pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout")


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are those of a person, wherever the tests run: in a CI job, pytest does not cut lines, for one thing."""
    for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


#: A flow file that imports all of the package.
_EVERYTHING = """
import importlib
import pkgutil

import pytest_flowforge

for module in pkgutil.walk_packages(pytest_flowforge.__path__, "pytest_flowforge."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)


def flow_nothing():
    pass
"""


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs import is there compiled, if the environment lets Python write it.

    Most runs do not write it themselves (see ``flow``), and each of them would compile some hundred modules anew. Some
    are rewritten by pytest when a run imports them and not otherwise, so that it has to be a run that does it.
    """
    if sys.dont_write_bytecode:
        return
    folder = tmp_path_factory.mktemp("compiled")
    folder.joinpath("flow_everything.py").write_text(_EVERYTHING, encoding="utf-8")
    settings = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ",".join(_PLUGINS), "PYTEST_ADDOPTS": ""}
    # A worker imports what the process beside it does not.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--flowforge", "-n", "1"],
        cwd=folder,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60 * SLOWER,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")


class Flow(Protocol):
    """What the fixture ``flow`` is: a function that writes files and runs them."""

    def __call__(
        self,
        files: str | Mapping[str, str],
        *args: str,
        plugins: Sequence[str] = (),
        flowforge: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> pytest.RunResult: ...


@pytest.fixture
def flow(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Write *files* into ``pytester.path`` and run ``pytest --flowforge *args`` there, in a subprocess.

    *files* is the source of ``flow_it.py``, or a dict of sources by path; an empty one runs what is there already.
    Only our plugin, pytest-xdist, pytest-timeout and the modules in *plugins* are loaded.
    ``flowforge=False`` leaves the option out.
    A run that takes longer than *timeout* seconds is killed, and the test fails.
    """
    # With the plugins of the environment, each run would take longer and depend on what is installed.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # What is said while a run goes on is to be seen without that, too.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    # Nor is the key of whoever runs the tests used, or made.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.delenv("FLOWFORGE_KEY", raising=False)
    # Python overlooks an edit within a second where it has compiled the file before.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def flow(
        files: str | Mapping[str, str],
        *args: str,
        plugins: Sequence[str] = (),
        flowforge: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> pytest.RunResult:
        for name, source in ({"flow_it.py": files} if isinstance(files, str) else files).items():
            path = pytester.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(source), encoding="utf-8")
        monkeypatch.setenv("PYTEST_PLUGINS", ",".join([*_PLUGINS, *plugins]))
        command = [sys.executable, "-m", "pytest", *(["--flowforge"] if flowforge else []), *args]
        given = pytester.CLOSE_STDIN if stdin is None else stdin.encode()
        return pytester.run(*command, timeout=timeout * SLOWER, stdin=given)

    return flow


_WORD = re.compile(r"^\S+::flow_(\S+) ([A-Z]+)", re.MULTILINE)


def words(result: pytest.RunResult) -> list[tuple[str, str]]:
    """The task and the word of each line that ``-v`` shows, in order: ``("extract", "PASSED")``."""
    return _WORD.findall(result.stdout.str())


@pytest.fixture
def log(pytester: pytest.Pytester) -> Callable[[], list[str]]:
    """Flows may say ``from log import log``, and ``log("a line")``; this returns the lines so far, and forgets them."""
    lines = pytester.path / "log.txt"
    source = f"""
        def log(line):
            with open({str(lines)!r}, "a", encoding="utf-8") as file:
                file.write(f"{{line}}\\n")
    """
    pytester.path.joinpath("log.py").write_text(dedent(source), encoding="utf-8")
    lines.touch()
    known = 0

    def read() -> list[str]:
        nonlocal known
        content = lines.read_bytes()
        if len(content) < known:
            # A test has emptied it.
            known = 0
        # It is not emptied here: what runs write between the reading and that would be lost.
        begin, known = known, content.rfind(b"\n") + 1
        return content[begin:known].decode().splitlines()

    return read


# ---- runs beside a test, and what they leave behind ------------------------------------------------------------------

#: In the environment of a test and of all processes that it starts, directly or not.
MARK = "FLOWFORGE_TESTS"


@dataclass(frozen=True, slots=True)
class Beside:
    """A run that goes on beside its test, in a process group of its own. What it prints goes to a file."""

    process: subprocess.Popen[bytes]
    begun: float
    path: Path

    @property
    def output(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    def kill(self, number: int) -> None:
        """Send a signal to the process that was started, and to no other."""
        os.kill(self.process.pid, number)

    def kill_all(self, number: int) -> None:
        """Send a signal as a terminal does."""
        os.killpg(self.process.pid, number)

    def end(self, timeout: float = 30.0) -> int:
        """Wait for the end, and return the exit status."""
        return self.process.wait(timeout * SLOWER)


#: A conftest.py with which each process that hears of Ctrl-C leaves a file, so that a second one can be told from the
#: first, and with which what runs then has so long to end that it does not matter when the second one comes.
HEARD = """
    import os
    from pathlib import Path

    from pytest_flowforge.interrupts import Interrupts
    from pytest_flowforge.plugin.pools import PoolBackend
    from pytest_flowforge.plugin.processes import ProcessBackend

    take = Interrupts._take

    def hear(self, *args):
        __tracebackhide__ = True
        Path(f"heard-{os.getpid()}").touch()
        take(self, *args)

    Interrupts._take = hear
    PoolBackend.grace = ProcessBackend.grace = 60.0
"""


#: A conftest.py with which the time of a session is up when ``is_up(engine)`` says so, which is to be put before: how
#: long processes take to start is a matter of the machine.
TIME_IS_UP = """
    import time

    from pytest_flowforge.plugin.session_time import SessionTime

    is_over_by = SessionTime._is_over_by

    def wait_for_it(self, at):
        while not is_up(self._engine):
            if self._over.wait(0.01):
                return True
        SessionTime._is_over_by = is_over_by
        self._at = time.monotonic()
        return False

    SessionTime._is_over_by = wait_for_it
"""


class Begin(Protocol):
    """What the fixture ``begin`` is: a function that begins to run what :class:`Flow` has written."""

    def __call__(self, *args: str, ignored: Sequence[int] = ()) -> Beside: ...


@pytest.fixture
def begin(flow: Flow, pytester: pytest.Pytester) -> Iterator[Begin]:  # noqa: ARG001 - it sets the environment
    """Run ``pytest --flowforge *args`` without waiting for it; the signals in *ignored* are ignored there."""
    started: list[Beside] = []

    def begin(*args: str, ignored: Sequence[int] = ()) -> Beside:
        def prepare() -> None:
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        path = pytester.path / f"output-{len(started)}"
        command = [sys.executable, "-m", "pytest", "--flowforge", *args]
        environment = {**os.environ, "PYTEST_PLUGINS": ",".join(_PLUGINS)}
        with path.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=pytester.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - no threads here
            )
        started.append(Beside(process, time.monotonic(), path))
        return started[-1]

    yield begin
    for run in started:
        if run.process.poll() is None:
            with suppress(OSError):
                run.kill_all(signal.SIGKILL)
            run.process.wait(60)


class Processes:
    """All processes that descend from a test, whoever their parent is now."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()

    def all(self) -> dict[int, str]:
        """Those that live, with their command lines."""
        found = {}
        for path in Path("/proc").iterdir():
            # Others come and go, and not all are ours to look at.
            with suppress(OSError):
                if path.name.isdecimal() and self._mark in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def after(self, seconds: float) -> dict[int, str]:
        """Those that are left after at most that time; returns as soon as there are none."""
        until = time.monotonic() + seconds
        while (left := self.all()) and time.monotonic() < until:
            time.sleep(0.02)
        return left

    def kill(self) -> None:
        for number in self.all():
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Those that the test has started; none may be left at its end."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    found = Processes(mark)
    yield found
    # What was killed may take a while to go where others keep the machine busy.
    left = found.after(10.0)
    found.kill()
    assert not left, f"left behind: {left}"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until *condition* holds; fail if it does not."""
    until = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < until, "waited for in vain"
        time.sleep(0.01)


# ---- a Dask cluster --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A scheduler and two workers of one thread each, for all tests of this session: to start one takes seconds."""
    pytest.importorskip("distributed")
    from tests.plugin.clusters import running_cluster  # noqa: PLC0415 - it needs what is above

    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(
    session_cluster: RunningCluster,
    flow: Flow,  # noqa: ARG001 - it sets the environment
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningCluster:
    """That cluster, as if it had been started for this test: where its files are, with the key of its runs."""
    monkeypatch.setenv("FLOWFORGE_KEY", session_cluster.environment["FLOWFORGE_KEY"])
    session_cluster.move_to(pytester.path)
    return session_cluster
