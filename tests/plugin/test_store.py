"""Runs that are kept in an S3 bucket, by --ff-checkpoint=s3://bucket/prefix."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.plugin.conftest import SLOWER, wait_until
from tests.plugin.keeping import make_ready, reused_in
from tests.plugin.s3_servers import SECRETS, Bucket, S3Server, everything_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugin.conftest import Begin, Beside, Flow, Processes


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def bucket(server: S3Server, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Bucket:  # noqa: ARG001 - it sets the environment
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWFORGE_KEY", "the same everywhere")
    return server.bucket()


@pytest.fixture
def another_machine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Be on another machine, which has the same flows and nothing else."""

    def move() -> None:
        shutil.rmtree(pytester.path / ".pytest_cache", ignore_errors=True)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    return move


#: A plain result, a pickled one, and a large one.
FLOW = """
    from pathlib import Path
    from log import log

    def flow_plain():
        log("plain")
        return {"rows": 3}

    def flow_pickled(plain):
        log("pickled")
        return {1, 2, plain["rows"]}

    def flow_large(plain):
        log("large")
        return b"x" * 3_000_000

    def flow_last(pickled, large):
        log("last")
        if not Path("ready").exists():
            raise ValueError("not yet")
        return len(large) + len(pickled)
"""


def test_another_machine_continues(
    flow: Flow,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    pytester: pytest.Pytester,
) -> None:
    first = flow(FLOW, f"--ff-checkpoint={bucket.url}")
    first.assert_outcomes(passed=3, failed=1)
    first.stdout.fnmatch_lines([f"continue with: pytest --flowforge --ff-checkpoint={bucket.url} --ff-resume"])
    assert log() == ["plain", "pickled", "large", "last"]
    another_machine()
    make_ready(pytester)
    again = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-v")
    assert again.ret == 0
    assert reused_in(again) == {"plain", "pickled", "large"}
    assert log() == ["last"]
    another_machine()
    history = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-history", flowforge=False)
    assert [line.split()[3] for line in history.outlines] == ["failed", "ok"]
    status = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-status", flowforge=False)
    status.stdout.fnmatch_lines(["run * (*, 1 success, 3 reused, *", "  success  last *"])
    check = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-check", flowforge=False)
    check.stdout.fnmatch_lines(["2 runs, all whole; the last one, *, has ended"])
    assert check.ret == 0


@pytest.mark.parametrize("options", [("-n2",), ("--ff-executor=thread", "--ff-workers=2")])
def test_workers_need_not_know(
    flow: Flow,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    pytester: pytest.Pytester,
    options: tuple[str, ...],
) -> None:
    flow(FLOW, f"--ff-checkpoint={bucket.url}", *options).assert_outcomes(passed=3, failed=1)
    log()
    another_machine()
    make_ready(pytester)
    again = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", *options)
    assert again.ret == 0
    assert log() == ["last"]


def test_without_the_same_key_pickles_are_refused_and_plain_results_stand(
    flow: Flow,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow(FLOW, f"--ff-checkpoint={bucket.url}")
    log()
    another_machine()
    monkeypatch.setenv("FLOWFORGE_KEY", "another one")
    again = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-v")
    assert reused_in(again) == {"plain"}
    assert sorted(log()) == ["large", "last", "pickled"]
    again.stdout.fnmatch_lines_random(["  run  pickled  result refused", "  run  large *  result refused"])


#: Goes on until it may end.
SLOW = """
    import time
    from pathlib import Path
    from log import log
    import pytest

    @pytest.mark.parametrize("n", range(40))
    def flow_step(n):
        log(f"step {n}")
        time.sleep(0.05)
        while n == 30 and not Path("ready").exists():
            time.sleep(0.01)
        return n
"""


def gathered(lines: list[str], log: Callable[[], list[str]]) -> list[str]:
    """*lines*, with what was written meanwhile."""
    lines += log()
    return lines


def test_kill_9_loses_nothing_here_and_the_rest_goes_up_later(
    flow: Flow,
    begin: Begin,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    pytester: pytest.Pytester,
    processes: Processes,  # noqa: ARG001 - none may be left
) -> None:
    pytester.makeini("[pytest]\nflowforge_send_interval = 0.2")
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}")
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    wait_until(lambda: bucket.names("runs"))
    run.kill(signal.SIGKILL)
    run.end()
    make_ready(pytester)
    # Its lease is there still, and its process is known to be gone.
    assert len(bucket.names("lease")) == 1
    here = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-q")
    assert here.ret == 0
    assert sorted(log(), key=lambda line: int(line[5:])) == [f"step {n}" for n in range(30, 40)]
    assert bucket.names("lease") == []
    another_machine()
    there = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-q")
    assert there.ret == 0
    assert log() == []


def test_a_run_that_was_killed_is_continued_on_another_machine(
    flow: Flow,
    begin: Begin,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\nflowforge_send_interval = 0.2")
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}")
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    (journal,) = pytester.path.glob(".pytest_cache/flowforge-remote/*/runs/*/journal.jsonl")
    wait_until(lambda: bucket.journal_end() == journal.stat().st_size)
    run.kill(signal.SIGKILL)
    run.end()
    another_machine()
    make_ready(pytester)
    there = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-q")
    assert there.ret == 0
    again = log()
    # What had reached the store is not done again.
    assert sorted(again, key=lambda line: int(line[5:])) == [f"step {n}" for n in range(30, 40)]


def test_the_second_run_is_told_who_has_it_and_may_wait(
    flow: Flow,
    begin: Begin,
    log: Callable[[], list[str]],
    bucket: Bucket,
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}")
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    # Without what the first one keeps here, as on another machine: only the store knows.
    pytester.path.joinpath(".pytest_cache").rename(pytester.path / "moved")
    other = flow({}, f"--ff-checkpoint={bucket.url}")
    assert other.ret == 4
    who = f"another flowforge run (pid {run.process.pid}, host *, since *)"
    way_out = "wait for it with --ff-wait, or use another one with --ff-checkpoint"
    other.stderr.fnmatch_lines([f"ERROR: {who} uses the checkpoint {bucket.url}: {way_out}"])
    # To look needs no lease; and the run is there, wherever it is.
    wait_until(
        lambda: "running" in flow({}, f"--ff-checkpoint={bucket.url}", "--ff-status", flowforge=False).outlines[0]
    )
    status = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-history", flowforge=False)
    assert status.ret == 0
    waits = begin(f"--ff-checkpoint={bucket.url}", "--ff-wait=60", "-q", "--ff-resume")
    wait_until(lambda: f"flowforge: waiting: another flowforge run (pid {run.process.pid}, host" in waits.output)
    wait_until(lambda: f") uses the checkpoint {bucket.url}\n" in waits.output)
    make_ready(pytester)
    assert run.end() == 0
    assert waits.end() == 0
    assert "40 reused" in waits.output
    shutil.rmtree(pytester.path / "moved")


def test_what_another_machine_has_continued_is_not_left(
    flow: Flow, begin: Begin, log: Callable[[], list[str]], pytester: pytest.Pytester
) -> None:
    pytest.importorskip("fsspec")
    store = f"--ff-checkpoint=file://{pytester.path / 'store'}"
    pytester.makepyfile(flow_it=SLOW)
    run = begin(store, "-o", "flowforge_send_interval=0.1")
    lines: list[str] = []
    wait_until(lambda: "step 20" in gathered(lines, log))
    # What never came to the store could not be continued by anybody.
    wait_until(lambda: [path for path in pytester.path.glob("store/runs/*/journal.jsonl/*") if path.stat().st_size])
    run.kill_all(signal.SIGKILL)
    run.end()
    make_ready(pytester)
    # As on another machine, where nobody knows whether the first one lives.
    here, elsewhere = pytester.path / ".pytest_cache", pytester.path / "moved"
    here.rename(elsewhere)
    again = flow({}, store, "--ff-resume", "--ff-wait=90", timeout=120)
    assert again.ret == 0
    shutil.rmtree(here)
    elsewhere.rename(here)
    fresh = flow({}, store)
    assert fresh.ret == 0
    fresh.stdout.no_fnmatch_line("*did not finish*")


def test_credentials_are_nowhere(
    flow: Flow, log: Callable[[], list[str]], bucket: Bucket, pytester: pytest.Pytester
) -> None:
    results = [
        flow(FLOW, f"--ff-checkpoint={bucket.url}", "-vv", "--ff-events=events.jsonl", "--ff-report=run.html"),
        flow({}, f"--ff-checkpoint={bucket.url}", "--ff-status", "-v", flowforge=False),
        flow({}, f"--ff-checkpoint={bucket.url}-other", "--ff-check", flowforge=False),
    ]
    log()
    kept = everything_below(pytester.path) + repr(bucket.content()).encode()
    said = "".join(result.stdout.str() + result.stderr.str() for result in results)
    for secret in (*SECRETS.values(), "the same everywhere"):
        assert secret not in said
        assert secret.encode() not in kept


def test_a_url_with_credentials_is_refused(flow: Flow, pytester: pytest.Pytester) -> None:
    result = flow(FLOW, "--ff-checkpoint=s3://AKIAKEY:verySecret@bucket/prefix")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: the URL of the checkpoint holds credentials (s3://...@bucket): take them out, and give them as *"]
    )
    for secret in ("AKIAKEY", "verySecret"):
        assert secret not in result.stdout.str() + result.stderr.str()
        assert secret.encode() not in everything_below(pytester.path)


def test_a_store_that_does_not_answer_is_an_error_at_once(
    flow: Flow, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for args, flowforge in ((("--ff-resume",), True), ((), True), (("--ff-status",), False)):
        begun = time.monotonic()
        # By itself boto tries five times, for ten seconds. The first of these does.
        if args != ("--ff-resume",):
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        result = flow(FLOW, f"--ff-checkpoint={bucket.url}", *args, flowforge=flowforge)
        assert time.monotonic() - begun < 40 * SLOWER
        assert result.ret == 4
        result.stderr.fnmatch_lines(
            [f"ERROR: cannot * {bucket.url}* (EndpointConnectionError: *): look at the network, *"]
        )
        assert "Traceback" not in result.stderr.str()


def test_who_waits_for_a_silent_store_knows_it_and_may_leave(
    begin: Begin,
    flow: Flow,
    monkeypatch: pytest.MonkeyPatch,
    processes: Processes,  # noqa: ARG001 - none may be left
) -> None:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    assert flow("def flow_it(): ...", f"--ff-checkpoint={bucket.url}").ret == 0
    server.process.send_signal(signal.SIGSTOP)
    said = f"reading {bucket.url} takes long (Ctrl-C gives up)"

    def begins_to_wait(*args: str) -> Beside:
        run = begin(f"--ff-checkpoint={bucket.url}", *args)
        wait_until(lambda: said in run.output)
        return run

    for args in (["--ff-resume"], ["--ff-status"]):
        run = begins_to_wait(*args)
        run.kill(signal.SIGINT)
        assert run.end(20) == 2
        assert "Traceback" not in run.output
    assert run.output.endswith("--ff-status was interrupted\n")
    run = begins_to_wait("--ff-resume")
    server.process.send_signal(signal.SIGCONT)
    assert run.end(60) == 0
    server.close()


def test_a_bucket_that_is_not_there(flow: Flow, bucket: Bucket) -> None:
    assert bucket.names() == []
    result = flow(FLOW, "--ff-checkpoint=s3://no-such-bucket-anywhere/x")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: cannot write s3://no-such-bucket-anywhere/x/* (*bucket*): look at *"])


@pytest.mark.parametrize(("options", "status"), [((), 0), (("--ff-require-checkpoint",), 3)])
def test_a_store_that_goes_away_does_not_stop_the_run(
    begin: Begin,
    flow: Flow,
    log: Callable[[], list[str]],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    status: int,
) -> None:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket = server.bucket()
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}", *options)
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    server.close()
    make_ready(pytester)
    assert run.end(90) == status
    assert "40 passed" in run.output
    (said,) = [line for line in run.output.splitlines() if line.startswith("the last ")]
    assert " records are only in " in said
    assert f"and not in {bucket.url}: cannot " in said
    assert said.endswith("The next run of this machine with the same --ff-checkpoint sends them")
    assert all(secret not in run.output for secret in SECRETS.values())
    # Here it is whole.
    (folder,) = (pytester.path / ".pytest_cache" / "flowforge-remote").iterdir()
    check = flow({}, f"--ff-checkpoint={folder}", "--ff-check", flowforge=False)
    assert check.ret == 0


def test_ctrl_c_ends_the_sending_and_nothing_else(
    begin: Begin,
    flow: Flow,
    log: Callable[[], list[str]],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    processes: Processes,  # noqa: ARG001 - none may be left
) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "the same everywhere")
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}")
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    # From here on it does not answer.
    server.process.send_signal(signal.SIGSTOP)
    make_ready(pytester)
    wait_until(lambda: f"flowforge: sending to {bucket.url} ... (Ctrl-C leaves the rest for the next" in run.output)
    run.kill(signal.SIGINT)
    assert run.end(20) == 0
    assert "sending was interrupted: what the store does not have yet is in " in run.output
    assert "40 passed" in run.output
    server.process.send_signal(signal.SIGCONT)
    again = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-resume", "-q")
    assert again.ret == 0
    assert len({name.split("/")[1] for name in bucket.names("runs")}) == 2
    server.close()


def test_a_store_that_falls_silent_holds_nobody_up_for_long(
    begin: Begin,
    log: Callable[[], list[str]],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    processes: Processes,  # noqa: ARG001 - none may be left
) -> None:
    pytester.makeini("[pytest]\nflowforge_send_farewell = 4")
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    pytester.makepyfile(flow_it=SLOW)
    run = begin(f"--ff-checkpoint={bucket.url}")
    lines: list[str] = []
    wait_until(lambda: "step 30" in gathered(lines, log))
    server.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    make_ready(pytester)
    assert run.end(60) == 0
    assert time.monotonic() - begun < 20 * SLOWER
    # Before the summary: while it is waited for.
    said, _, summary = run.output.partition(f"flowforge: sending to {bucket.url} ... (Ctrl-C leaves the rest for the ")
    assert "40 passed" not in said
    assert "40 passed" in summary
    (line,) = [line for line in summary.splitlines() if line.startswith("the last ")]
    assert f", and not in {bucket.url}: it has not answered for 4 s " in line
    assert line.endswith("The next run of this machine with the same --ff-checkpoint sends them")
    server.close()


#: The store answers when it is opened, and no more when something is to be written or deleted.
GOES_AWAY = """
    from pytest_flowforge import keeping
    from pytest_flowforge.errors import CheckpointUnreachable
    from pytest_flowforge.storage.locks import Holder
    from pytest_flowforge.storage.objects import Objects
    from pytest_flowforge.storage.places import Place
    from pytest_flowforge.storage.sender import Sender

    def fail(*_):
        raise CheckpointUnreachable("cannot write there: the wire was cut")

    def sending(address, path, interval):
        sender = Sender(Objects.at(address), Place.open(path), Holder.here(""), interval)
        sender._mirror.copy.objects = Objects.at(address)
        sender._mirror.up._send = sender._mirror.copy.objects.delete = fail
        return sender

    keeping.sending = sending
"""


def test_what_has_not_reached_the_store_is_not_said_to_be_done(
    flow: Flow, log: Callable[[], list[str]], pytester: pytest.Pytester, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/store"
    make_ready(pytester)
    flow(FLOW, f"--ff-checkpoint={url}")
    log()
    (run,) = (path.name for path in (tmp_path / "store" / "runs").iterdir())
    (there,) = (tmp_path / "store" / "runs" / run / "journal.jsonl").iterdir()
    pytester.makeconftest(GOES_AWAY)
    for errand in (f"--ff-rollback={run}", "--ff-repair", "--ff-clear"):
        if errand == "--ff-repair":
            # It was damaged there, and comes here as it is.
            there.write_bytes(there.read_bytes().replace(b'"ev":"task_finished"', b'X"ev":"task_finished', 1))
            shutil.rmtree(pytester.path / ".pytest_cache")
        result = flow({}, f"--ff-checkpoint={url}", errand, flowforge=False)
        assert result.ret == 3, errand
        result.stderr.fnmatch_lines(
            ["*cannot write there: the wire was cut*", f"this was not done in {url}, or not all of it: try again *"]
        )
        assert result.stdout.str() == "", errand
    pytester.path.joinpath("conftest.py").unlink()
    cleared = flow({}, f"--ff-checkpoint={url}", "--ff-clear", flowforge=False)
    assert cleared.ret == 0
    assert list((tmp_path / "store").glob("runs/*/journal.jsonl/*")) == []


def test_clear_rollback_and_repair_reach_the_store(
    flow: Flow,
    log: Callable[[], list[str]],
    bucket: Bucket,
    another_machine: Callable[[], None],
    pytester: pytest.Pytester,
) -> None:
    make_ready(pytester)
    flow(FLOW, f"--ff-checkpoint={bucket.url}")
    flow({}, f"--ff-checkpoint={bucket.url}")
    log()
    another_machine()
    history = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-history", flowforge=False)
    first = history.outlines[0].split()[0]
    back = flow({}, f"--ff-checkpoint={bucket.url}", f"--ff-rollback={first}", flowforge=False)
    assert back.ret == 0
    another_machine()
    # A journal that was changed there is found, and repaired for everybody.
    (name,) = [name for name in bucket.names(f"runs/{first}/") if "journal" in name]
    content = next(content for path, content in bucket.content().items() if path.endswith(name))
    place = content.index(b'"ev":"task_finished"')
    bucket.put(name, content[:place] + b"X" + content[place + 1 :])
    broken = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-check", flowforge=False)
    assert broken.ret == 1
    broken.stdout.fnmatch_lines(["*journal.jsonl:* is damaged *--ff-repair*"])
    repaired = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-repair", flowforge=False)
    repaired.stdout.fnmatch_lines([f"run {first}: * good records kept; *"])
    another_machine()
    whole = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-history", flowforge=False)
    assert len(whole.outlines) == 3
    assert "damaged" not in whole.stdout.str()
    cleared = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-clear", flowforge=False)
    cleared.stdout.fnmatch_lines([f"3 runs and all results deleted from {bucket.url}"])
    assert bucket.names("runs") == bucket.names("lease") == []
    none = flow({}, f"--ff-checkpoint={bucket.url}", "--ff-history", flowforge=False)
    none.stdout.fnmatch_lines([f"no runs are kept in {bucket.url}"])


def test_runs_of_one_store_go_to_no_other_unless_somebody_says_so(
    flow: Flow, log: Callable[[], list[str]], pytester: pytest.Pytester, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/store"
    make_ready(pytester)
    flow(FLOW, f"--ff-checkpoint={url}")
    log()
    (tmp_path / "store").rename(tmp_path / "moved")
    refused = flow({}, f"--ff-checkpoint={url}", "--ff-resume")
    assert refused.ret == 4
    which = f"belongs to store *, which was at {url}, and not to {url}, where there is no checkpoint"
    way_out = "name the account and the endpoint *, 'pytest --ff-repair' with this --ff-checkpoint *"
    refused.stderr.fnmatch_lines([f"ERROR: what is in *flowforge-remote* {which}: {way_out}"])
    assert not (tmp_path / "store" / "VERSION").exists()
    repaired = flow({}, f"--ff-checkpoint={url}", "--ff-repair", flowforge=False)
    assert repaired.ret == 0
    repaired.stdout.fnmatch_lines([f"what is in * belonged to store *; all of it goes to {url} now, which is store *"])
    shutil.rmtree(pytester.path / ".pytest_cache")
    assert flow({}, f"--ff-checkpoint={url}", "--ff-resume").ret == 0
    assert log() == []


def test_old_runs_go_there_as_well(flow: Flow, bucket: Bucket, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nflowforge_keep_runs = 2")
    source = "def flow_a(): return 1"
    for _ in range(4):
        flow(source, f"--ff-checkpoint={bucket.url}")
    runs = {name.split("/")[1] for name in bucket.names("runs")}
    assert len(runs) == 2


def test_a_prefix_that_holds_other_things_is_left_alone(flow: Flow, bucket: Bucket) -> None:
    bucket.put("photos/me.jpg", b"x")
    result = flow(FLOW, f"--ff-checkpoint={bucket.url}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: s3://* is no checkpoint and holds other things (photos/me.jpg): choose *"])
    assert bucket.names() == ["photos/me.jpg"]


def test_what_is_not_installed_is_said_with_the_command_that_installs_it(flow: Flow, pytester: pytest.Pytester) -> None:
    for module, command in (
        ("fsspec", "pip install 'pytest-flowforge[[]fsspec]' s3fs"),
        ("s3fs", "pip install s3fs"),
    ):
        path = pytester.path / f"{module}.py"
        path.write_text("raise ImportError", encoding="utf-8")
        for args, flowforge in (((), True), (("--ff-history",), False)):
            result = flow("def flow_a(): ...", "--ff-checkpoint=s3://bucket/prefix", *args, flowforge=flowforge)
            assert result.ret == 4
            result.stderr.fnmatch_lines([f"ERROR: the checkpoint s3://bucket/prefix needs *: {command}"])
        path.unlink()
    result = flow("def flow_a(): ...", "--ff-checkpoint=nosuch://bucket/prefix")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: nosuch://bucket/prefix can not be the URL of a checkpoint: nosuch:// is not supported; *"]
    )


@pytest.mark.parametrize("ini", ["flowforge_send_interval", "flowforge_send_farewell"])
@pytest.mark.parametrize("text", ["0", "-1", "often", "inf"])
def test_seconds_that_are_none(flow: Flow, pytester: pytest.Pytester, ini: str, text: str) -> None:
    pytester.makeini(f"[pytest]\n{ini} = {text}")
    result = flow("def flow_a(): ...")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: ini {ini}: '{text}' is no number of seconds; *"])


def test_a_folder_by_its_url(
    flow: Flow, log: Callable[[], list[str]], pytester: pytest.Pytester, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/store"
    flow(FLOW, f"--ff-checkpoint={url}")
    log()
    shutil.rmtree(pytester.path / ".pytest_cache")
    make_ready(pytester)
    assert flow({}, f"--ff-checkpoint={url}", "--ff-resume").ret == 0
    assert log() == ["last"]
