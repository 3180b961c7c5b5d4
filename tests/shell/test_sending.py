"""The process that keeps a store in step: it answers, it ends, and nothing that happens to it stops a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.errors import CheckpointLocked, CheckpointUnreachable, CheckpointUnsafe
from pytest_flowforge.storage import sender_process
from pytest_flowforge.storage.addresses import Address
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.sender_process import SenderProcess
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str], SenderProcess]]:
    made: list[SenderProcess] = []

    def begin(name: str) -> SenderProcess:
        Place.open(tmp_path / name).close()
        made.append(SenderProcess(Address.of(f"file://{tmp_path}/store"), tmp_path / name, 0.05))
        return made[-1]

    yield begin
    for sender in made:
        sender._process.kill()
        sender._close()


def names_in(tmp_path: Path, under: str) -> list[str]:
    folder = tmp_path / "store" / under
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write(place: Place, run: str) -> None:
    with place.folder_of(run):
        journal = place.journal(run)
        results = ResultStore(place, run)
        ref = results.put({"a": 1})
        journal.append({"t": 1.0, "ev": "stored", "run": run, "ref": ref.segment})
        journal.close()
        results.close()


def test_it_does_what_it_is_asked_for(tmp_path: Path, begin: Callable[[str], SenderProcess]) -> None:
    sender = begin("here")
    sender.take(0.0)
    assert sender.pull(settles=False) == []
    assert len(names_in(tmp_path, "lease")) == 1
    place = Place.open(tmp_path / "here")
    run = place.new_run(1_800_000_000.0)
    sender.begin(run)
    write(place, run)
    assert sender.end([], 20.0) == ([], "")
    assert sender._process.returncode == 0
    assert names_in(tmp_path, "lease") == []
    assert len(names_in(tmp_path, f"runs/{run}")) == 2
    # It was asked for by another machine.
    there = begin("there")
    there.take(0.0)
    there.pull(settles=False)
    with Place.open(tmp_path / "there").results(run) as results:
        assert results.names() == []
    (name,) = {path.partition("/")[0] for path in names_in(tmp_path, f"runs/{run}/results")}
    assert there.fetch(run, name, 1)
    assert not there.fetch(run, name, 1_000_000)
    there.prune([run])
    assert names_in(tmp_path, "runs") == []
    there.give_up()
    assert names_in(tmp_path, "lease") == []
    place.close()


def test_errors_come_back_as_they_are_and_the_holder_is_the_run(
    tmp_path: Path, begin: Callable[[str], SenderProcess]
) -> None:
    first, second = begin("here"), begin("there")
    first.take(0.0)
    with pytest.raises(CheckpointLocked, match=rf"\(pid {os.getpid()}, host "):
        second.take(0.0)
    first.give_up()
    tmp_path.joinpath("store", "photos").mkdir(parents=True)
    tmp_path.joinpath("store", "photos", "me.jpg").touch()
    with pytest.raises(CheckpointUnsafe, match="holds other things"):
        second.take(0.0)


def test_one_that_was_killed_stops_nothing(tmp_path: Path, begin: Callable[[str], SenderProcess]) -> None:
    sender = begin("here")
    sender.take(0.0)
    sender.pull(settles=False)
    sender._process.kill()
    with pytest.raises(CheckpointUnreachable, match=r"the process that sends to file://.* has ended"):
        sender.fetch("20261129-205808-3f88", f"{'a' * 32}.bin", 1)
    news, unsent = sender.end([], 20.0)
    assert news == []
    assert unsent.startswith(f"nobody knows what of {tmp_path}/here is not in file://{tmp_path}/store: the process ")


def test_one_that_does_not_answer_is_said_and_ended(
    tmp_path: Path, begin: Callable[[str], SenderProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_process, "SLOW", 0.1)
    monkeypatch.setattr(sender_process, "_PATIENCE", 0.5)
    monkeypatch.setattr(sender_process, "_STUCK", 0.5)
    sender, other = begin("here"), begin("there")
    for one in (sender, other):
        one._process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    told: list[float] = []
    _, unsent = sender.end([], 0.5, lambda: told.append(time.monotonic()))
    assert unsent.startswith(f"nobody knows what of {tmp_path}/here is not in file://{tmp_path}/store: the process ")
    assert len(told) == 1
    other.give_up()
    assert time.monotonic() - begun < 20
    assert sender._process.returncode == other._process.returncode == -signal.SIGKILL


def test_one_that_waits_for_its_store_says_that_it_is_there(
    tmp_path: Path, begin: Callable[[str], SenderProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than what the store has, and as much as can be: each sign that comes too late would end it.
    monkeypatch.setattr(sender_process, "_STUCK", 5.5)
    sender = begin("here")
    sender.take(0.0)
    sender.pull(settles=False)
    (tmp_path / "here" / "durations.json").write_text("{}", encoding="ascii")
    # Who writes there waits for a reader that never comes.
    os.mkfifo(tmp_path / "store" / "durations.json")
    news, unsent = sender.end([], 6.0)
    assert news == []
    there = f"file://{tmp_path}/store"
    assert unsent.startswith(f"all records are in {there}, but what was to be done there besides was not: it ")
    assert unsent.endswith("it has not answered for 6 s (ini flowforge_send_farewell)")


def test_a_run_that_is_suspended_while_it_waits_has_not_heard_nothing(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import signal, subprocess
        from pytest_flowforge.storage import sender_process

        sender_process._STUCK = 4.0
        sender.pull(settles=False)
        Path("here/durations.json").write_text("{}", encoding="ascii")
        # Who writes there waits for a reader that never comes.
        os.mkfifo("store/durations.json")
        # Ctrl-Z, and "fg" after longer than that.
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -STOP {os.getpid()}; sleep 5.5; kill -CONT {os.getpid()}"])
        print(sender.end([], 8.0))
        """,
    )
    assert "it has not answered for 8 s" in done.stdout, done.stderr


def test_an_interrupt_while_it_waits_ends_it_at_once(begin: Callable[[str], SenderProcess]) -> None:
    first, second = begin("here"), begin("there")
    first.take(0.0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            second.take(60.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    second.give_up()
    assert second._process.returncode is not None
    assert time.monotonic() - begun < 20


SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from pytest_flowforge.storage.addresses import Address
    from pytest_flowforge.storage.places import Place
    from pytest_flowforge.storage.sender_process import SenderProcess

    Place.open(Path("here")).close()
    sender = SenderProcess(Address.of(f"file://{os.getcwd()}/store"), Path("here").absolute(), 0.05)
    sender.take(0.0)
"""


def run_script(tmp_path: Path, rest: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", dedent(SCRIPT) + dedent(rest)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_ends_with_the_run_also_where_a_task_has_forked(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        if os.fork() == 0:
            # It has all that its parent has open.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            time.sleep(30)
            os._exit(0)
        print(sender._process.pid, flush=True)
        os.kill(os.getpid(), 9)
        """,
    )
    assert done.returncode == -signal.SIGKILL
    sender = int(done.stdout)
    # Before the child does.
    until = time.monotonic() + 20
    while _is_there(sender):
        assert time.monotonic() < until
        time.sleep(0.05)


def _is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_tasks_that_close_what_they_do_not_know_do_not_reach_it(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        os.closerange(3, 200)
        print(sender.pull(settles=False), sender.end([], 20.0))
        """,
    )
    assert done.stdout == "[] ([], '')\n", done.stderr


def test_a_fork_has_nothing_to_do_with_it(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        sender.pull(settles=False)
        child = os.fork()
        if child == 0:
            sender.give_up()
            os._exit(sender.end([], 20.0) != ([], ""))
        assert os.waitpid(child, 0)[1] == 0
        print(sender.end([], 20.0))
        """,
    )
    assert done.stdout == "([], '')\n", done.stderr
