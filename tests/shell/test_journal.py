"""The journal on good and on bad disks: cut, flipped, shuffled, full, forked, and read by others."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointLocked,
    CheckpointUnsafe,
    CheckpointUnwritable,
    CheckpointVersion,
)
from pytest_flowforge.storage.files import Files, Folder
from pytest_flowforge.storage.journal import JOURNAL, LONGEST_LINE, Journal, _decode, reading, repair, scan, scan_bytes
from pytest_flowforge.storage.locks import Holder, RunLock
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.syncing import GroupCommit
from tests.shell.disks import BadFiles, folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix = pytest.mark.skipif(os.name != "posix", reason="links, FIFOs, modes and forks of POSIX")


#: To be closed at the end of the test.
_open: list[Journal] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def begin(place: Folder | Place, run: str = "") -> Journal:
    journal = place.journal(run) if isinstance(place, Place) else Journal(place)
    _open.append(journal)
    return journal


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"t": 1.5 + number, "ev": "note", "run": "r", "number": number, **more}


def line(body: str) -> bytes:
    return f'{body},"c":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return [entry["number"] for entry in records]


def content(count: int = 6) -> bytes:
    parts: list[bytes] = []
    before = "00000000"
    for number in range(count):
        body = f'{{"s":{number},"p":"{before}","t":{number}.5,"ev":"note","run":"r","number":{number}'
        parts.append(line(body))
        before = parts[-1][-11:-3].decode()
    return b"".join(parts)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Folder]:
    with folder(tmp_path / "place") as made:
        yield made


def write(place: Folder, count: int = 6) -> Path:
    journal = begin(place)
    for number in range(count):
        journal.append(record(number))
    journal.close()
    return journal.path


# Writing and reading.


def test_what_is_written_is_read(place: Folder) -> None:
    path = write(place)
    text = path.read_bytes()
    found = scan(place)
    assert numbers(found.checked()) == list(range(6))
    assert (found.good_bytes, found.torn_bytes, found.damage) == (len(text), 0, None)
    assert text.isascii()
    assert [entry["s"] for entry in found.records] == list(range(6))
    assert [one["c"] for one, _ in pairwise(found.records)] == [two["p"] for _, two in pairwise(found.records)]
    assert found.records[0]["p"] == "00000000"


@posix
def test_only_the_user_can_read_it(place: Folder) -> None:
    path = write(place)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@posix
@pytest.mark.parametrize("umask", [0o777, 0o277, 0o000])
def test_what_is_made_has_its_mode_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        place = Place.open(tmp_path / "above" / "place")
        run = place.new_run(1000.0)
        journal = begin(place, run)
        journal.append(record(0))
        with place.results(run) as results:
            results.put("x.bin", b"result")
        assert repair(place._run(run))[1] is None
    finally:
        os.umask(before)
    made = [place.path, *place.path.rglob("*")]
    assert len(made) == 8
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} == {0o600}
    assert stat.S_IMODE(place.path.parent.stat().st_mode) == 0o777 & ~umask | 0o700


@posix
def test_a_folder_that_the_umask_forbids_to_open_is_made_all_the_same(tmp_path: Path) -> None:
    files = Files()
    real = files.open

    def strict(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        # As for everybody but root.
        if flags & os.O_DIRECTORY and not files.stat(path, **more).st_mode & 0o400:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *rest, **more)

    files.open = strict
    before = os.umask(0o777)
    try:
        with folder(tmp_path / "place", files) as place:
            place.make("inner")
            with place.folder("inner") as inner:
                assert stat.S_IMODE(inner.path.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_any_text_is_written_as_ascii(place: Folder) -> None:
    journal = begin(place)
    journal.append(record(0, text="ü\n\u2028\ud800 😀\0"))
    journal.close()
    assert scan(place).checked()[0]["text"] == "ü\n\u2028\ud800 😀\0"


def test_a_journal_is_made_once(place: Folder) -> None:
    write(place)
    with pytest.raises(FileExistsError):
        begin(place)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_is_no_json_is_refused_and_the_journal_goes_on(place: Folder, value: Any) -> None:
    journal = begin(place)
    with pytest.raises(CheckpointError, match=r"record 0 of .* can not be written as JSON"):
        journal.append(record(0, value=value))
    journal.append(record(1))
    assert numbers(scan(place).checked()) == [1]


def test_a_record_above_the_limit_is_refused(place: Folder) -> None:
    journal = begin(place)
    with pytest.raises(CheckpointError, match="1 MiB is the limit"):
        journal.append(record(0, text="x" * LONGEST_LINE))
    journal.append(record(1))
    assert numbers(scan(place).checked()) == [1]


def test_the_first_records_alone(place: Folder) -> None:
    write(place)
    assert numbers(scan(place, most=2).checked()) == [0, 1]


# Damage.


def test_cut_at_every_byte() -> None:
    text = content()
    ends = [place + 1 for place, byte in enumerate(text) if byte == ord("\n")]
    for cut in range(len(text) + 1):
        found = scan_bytes(text[:cut])
        whole = [end for end in ends if end <= cut]
        assert numbers(found.checked()) == list(range(len(whole)))
        assert found.good_bytes == (whole[-1] if whole else 0)
        assert found.torn_bytes == cut - found.good_bytes


def test_every_flipped_bit_is_noticed() -> None:
    text = content()
    good = scan_bytes(text).records
    last = text[:-1].rindex(b"\n") + 1
    for place in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[place] ^= 1 << bit
            found = scan_bytes(bytes(flipped))
            assert found.records == good[: len(found.records)]
            assert len(found.records) < len(good)
            # In the last line it can not be told from a torn one; but behind a whole record nothing is torn.
            torn = last <= place < len(text) - 1
            assert (found.damage is None) == (found.torn_bytes > 0) == torn


@given(st.data())
def test_a_changed_block_never_makes_a_wrong_record(data: st.DataObject) -> None:
    text = content()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    found = scan_bytes(text[:start] + data.draw(st.binary(max_size=64)) + text[end:])
    assert found.records == scan_bytes(text).records[: len(found.records)]


LINES = content().splitlines(keepends=True)
OTHER = content().replace(b"note", b"memo").splitlines(keepends=True)
OTHER[1] = line(OTHER[1][:-17].decode())


@pytest.mark.parametrize(
    ("text", "good", "where"),
    [
        pytest.param(b"".join(LINES[1:]), 0, 1, id="first line lost"),
        pytest.param(b"".join([*LINES[:2], *LINES[3:]]), 2, 3, id="line lost"),
        pytest.param(b"".join([*LINES[:2], LINES[1], *LINES[2:]]), 2, 3, id="line doubled"),
        pytest.param(b"".join([*LINES, LINES[-1]]), 6, 7, id="last line doubled"),
        pytest.param(b"".join([LINES[1], LINES[0], *LINES[2:]]), 0, 1, id="lines swapped"),
        pytest.param(content() + content(), 6, 7, id="two journals joined"),
        pytest.param(content().replace(b"\n", b"\r\n"), 0, 1, id="line ends converted"),
        pytest.param(LINES[0][:-1] + b"".join(LINES[1:]), 0, 1, id="lines glued"),
        pytest.param(content().replace(b"note", b"nose", 1), 0, 1, id="edited by hand"),
        pytest.param(b"\n" + content(), 0, 1, id="empty line"),
        pytest.param(LINES[0] + OTHER[1] + LINES[2], 2, 3, id="line of another journal"),
        pytest.param(line('{"s":1,"p":"00000000","t":1,"ev":"x","run":"r"'), 0, 1, id="wrong number"),
        pytest.param(LINES[0] + b"\0" * 4096 + b"".join(LINES[1:]), 1, 2, id="a hole"),
        pytest.param(b"x" * (LONGEST_LINE + 1), 0, 1, id="endless line"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":"x","run":"r","v":' + "[" * 200_000), 0, 1, id="nested"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":"x","run":"r","v":' + "9" * 5000), 0, 1, id="number"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":"x","run":"r","v":NaN'), 0, 1, id="NaN"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":"x","ev":"y","run":"r"'), 0, 1, id="doubled member"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":7,"run":"r"'), 0, 1, id="wrong type"),
        pytest.param(line('{"s":0,"p":"00000000","t":1,"ev":"x"'), 0, 1, id="no run"),
    ],
)
def test_damage_is_refused_and_located(text: bytes, good: int, where: int) -> None:
    found = scan_bytes(text, "j")
    assert len(found.records) == good
    assert found.damage is not None
    assert found.damage.line == where
    with pytest.raises(CheckpointDamaged, match=rf"j:{where} is damaged .*{good} good records before it.*--ff-repair"):
        found.checked()


MEMBERS = [
    '"a":1',
    '"a":2',
    '"a" :1',
    '"a"\t:1',
    '"a"\r:1',
    '"\\u0061":3',
    '"b":{"c":1,"c":2}',
    '"b":{"c":1,"d":2}',
    '"b":[{"c":1},{"c":2}]',
    '"b":{}',
    '"e":"x\\":y"',
    '"e":"x :y"',
    '"e":"NaN"',
    '"e":NaN',
    '"e":[-Infinity]',
    '"n":' + "9" * 39,
    '"n":' + "9" * 40,
    '"n":-' + "9" * 40,
    '"n":' + "9" * 41,
    '"n":0.' + "9" * 50,
    '"n":[1,]',
    '"s":0',
    "{}",
    "1",
    "",
]


@given(
    st.lists(st.sampled_from(MEMBERS), max_size=4), st.sampled_from(["{", " {", "[{", ""]), st.sampled_from(["", "]"])
)
def test_plain_lines_are_read_as_strictly_as_others(members: list[str], start: str, rest: str) -> None:
    body = start + ",".join(['"s":0,"p":"00000000","t":1,"ev":"x","run":"r"', *members]) + rest
    text = line(body)
    try:
        expected = _decode(text.decode())
    except ValueError:
        expected = None
    found = scan_bytes(text)
    assert found.records == ([expected] if isinstance(expected, dict) else [])
    assert (found.damage is None) == bool(found.records)
    # One odd line among plain ones makes no difference to any of them.
    follows = line(f'{{"s":1,"p":"{text[-11:-3].decode()}","t":2,"ev":"x","run":"r"')
    if found.records:
        assert len(scan_bytes(text + follows).checked()) == 2


def test_reading_keeps_no_record_and_says_what_it_found(place: Folder) -> None:
    with write(place).open("ab") as file:
        file.write(b"torn")
    with reading(place) as opened:
        records = opened.checked()
        assert next(records)["number"] == 0
        assert numbers(list(records)) == [1, 2, 3, 4, 5]
    assert (opened.torn_bytes, opened.damage) == (4, None)
    assert opened.good_bytes + opened.torn_bytes == (place.path / JOURNAL).stat().st_size


def test_reading_raises_for_damage_behind_the_good_records(place: Folder) -> None:
    path = write(place)
    path.write_bytes(path.read_bytes().replace(b'"number":3', b'"number":4'))
    read: list[int] = []
    with reading(place) as opened, pytest.raises(CheckpointDamaged, match=r":4 is damaged .*3 good records"):
        read.extend(entry["number"] for entry in opened.checked())
    assert read == [0, 1, 2]


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
def test_the_size_of_what_is_read_at_a_time_makes_no_difference(
    place: Folder, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    write(place)
    monkeypatch.setattr("pytest_flowforge.storage.journal._CHUNK", chunk)
    assert numbers(scan(place).checked()) == list(range(6))


@pytest.mark.parametrize("zeros", [1, 4096, 3 * LONGEST_LINE])
def test_zeros_at_the_end_are_a_torn_record(place: Folder, zeros: int) -> None:
    with write(place).open("ab") as file:
        file.write(b"\0" * zeros)
    found = scan(place)
    assert numbers(found.checked()) == list(range(6))
    assert found.torn_bytes


def test_repair_keeps_the_good_records_and_the_old_file(place: Folder) -> None:
    path = write(place)
    damaged = path.read_bytes().replace(b'"number":3', b'"number":4')
    path.write_bytes(damaged)
    found, old = repair(place)
    assert found.damage is not None
    assert old is not None
    assert old.read_bytes() == damaged
    assert numbers(scan(place).checked()) == [0, 1, 2]
    assert repair(place)[1] is None
    assert not [name for name in place.names() if name.startswith(".tmp")]


# Disks that fail.


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT, None], ids=str)
@pytest.mark.parametrize("fail_at", range(14))
def test_the_nth_call_fails(tmp_path: Path, fail_at: int, error: int | None) -> None:
    files = BadFiles(fail_at + 3, error or errno.ENOSPC, short=error is None)
    with folder(tmp_path / "place", files) as place:
        written = 0
        try:
            journal = begin(place)
            for number in range(10):
                journal.append(record(number))
                written += 1
                if number in {3, 6}:
                    journal.sync()
        except CheckpointUnwritable as failed:
            assert os.strerror(error or errno.ENOSPC) in str(failed)  # noqa: PT017  (it may not fail at all)
            assert "--ff-resume" in str(failed)  # noqa: PT017  (likewise)
            with pytest.raises(CheckpointUnwritable):
                journal.append(record(99))
            with pytest.raises(CheckpointUnwritable):
                journal.sync()
        found = scan(place)
        assert numbers(found.checked()) == list(range(written))
        assert not found.torn_bytes


def test_a_disk_that_stays_full_leaves_a_torn_line_at_worst(tmp_path: Path) -> None:
    files = BadFiles(5, short=True, stay=True)
    with folder(tmp_path / "place", files) as place:
        journal = begin(place)
        journal.append(record(0))
        journal.append(record(1))
        with pytest.raises(CheckpointUnwritable):
            journal.append(record(2))
        found = scan(place)
        assert found.damage is None
        assert found.torn_bytes


def test_a_failed_sync_is_not_asked_again(tmp_path: Path) -> None:
    files = BadFiles()
    with folder(tmp_path / "place", files) as place:
        journal = begin(place)
        journal.append(record(0))
        files.fail_at, files.error = len(files.log), errno.EIO
        for _ in range(2):
            with pytest.raises(CheckpointUnwritable, match="Input/output error"):
                journal.sync()
        assert files.log.count("sync") == 1


@pytest.mark.parametrize("when", ["before", "after", "half"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_interrupted_append_is_finished_by_the_next(
    place: Folder, monkeypatch: pytest.MonkeyPatch, when: str, count: int
) -> None:
    journal = begin(place)
    journal.append(record(0))
    real = journal._write

    def interrupted(data: bytes) -> None:
        if when != "before":
            journal._file.write(data if when == "after" else data[: len(data) * 2 // 3])
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(record(1)) if count == 1 else journal.append_all([record(1), record(2), record(3)])
    monkeypatch.setattr(journal, "_write", real)
    journal.append_all([record(count + 1)])
    assert numbers(scan(place).checked()) == list(range(count + 2))


def test_several_records_are_written_at_once(tmp_path: Path) -> None:
    files = BadFiles()
    with folder(tmp_path / "place", files) as place:
        told: list[int] = []
        journal = Journal(place, on_append=lambda: told.append(files.log.count("write")))
        _open.append(journal)
        journal.append(record(0))
        journal.append_all(record(number) for number in (1, 2, 3))
        journal.append_all(())
        journal.append(record(4))
        assert told == [1, 2, 3]
        assert numbers(scan(place).checked()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [object(), "x" * LONGEST_LINE], ids=["no JSON", "too long"])
def test_one_record_that_is_refused_refuses_all_of_them(place: Folder, value: Any) -> None:
    journal = begin(place)
    with pytest.raises(CheckpointError, match="record 1 "):
        journal.append_all([record(0), record(1, value=value), record(2)])
    journal.append_all([record(3), record(4)])
    assert numbers(scan(place).checked()) == [3, 4]


def test_a_record_that_contains_itself_is_refused(place: Folder) -> None:
    journal = begin(place)
    endless: list[Any] = []
    endless.append(endless)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="can not be written as JSON"):
            journal.append(record(0, value=endless))
    journal.append(record(1, value=[endless[:0], endless[:0]]))
    assert numbers(scan(place).checked()) == [1]


def test_records_are_written_alike_without_the_encoder_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = record(0, text='ü"\\\n', values=[1, 2.5, None, True, {"a": []}], more={})
    with folder(tmp_path / "one") as place:
        fast = begin(place)
        fast.append(entry)
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    with folder(tmp_path / "two") as place:
        slow = begin(place)
        slow.append(entry)
    assert fast.path.read_bytes() == slow.path.read_bytes()


@pytest.mark.parametrize("error", [errno.ENOSPC, None], ids=str)
def test_a_disk_that_is_full_takes_none_of_several_records(tmp_path: Path, error: int | None) -> None:
    files = BadFiles(error=error or errno.ENOSPC, short=error is None)
    with folder(tmp_path / "place", files) as place:
        journal = begin(place)
        journal.append(record(0))
        files.fail_at = len(files.log)
        with pytest.raises(CheckpointUnwritable):
            journal.append_all(record(number) for number in range(1, 9))
        with pytest.raises(CheckpointUnwritable):
            journal.append_all([record(9)])
        found = scan(place)
        assert (numbers(found.checked()), found.torn_bytes) == ([0], 0)


def test_what_is_synced_is_not_dirty(place: Folder) -> None:
    journal = begin(place)
    seen = [journal.dirty]
    journal.append(record(0))
    seen.append(journal.dirty)
    journal.sync()
    seen.append(journal.dirty)
    assert seen == [False, True, False]


def test_a_journal_that_was_deleted_is_noticed(place: Folder) -> None:
    journal = begin(place)
    journal.append(record(0))
    journal.path.unlink()
    with pytest.raises(CheckpointUnwritable, match="deleted during the run"):
        journal.sync()


def deleted(tmp_path: Path, files: Files | None = None) -> tuple[Place, str, Journal]:
    """Return a place that is gone, and a journal with four records that was in it."""
    place = Place.open(tmp_path / "above" / "c", files)
    run = place.new_run(1000.0)
    journal = begin(place, run)
    journal.append(record(0))
    journal.sync()
    journal.append_all([record(1), record(2)])
    shutil.rmtree(tmp_path / "above")
    journal.append(record(3))
    return place, run, journal


@pytest.mark.parametrize("has_dir_fd", [True, False])
def test_a_journal_that_was_deleted_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_dir_fd: bool
) -> None:
    if not has_dir_fd:
        monkeypatch.setattr("pytest_flowforge.storage.files._HAS_DIR_FD", False)
    place, run, journal = deleted(tmp_path)
    # Whatever the umask and the working folder of a task are.
    monkeypatch.chdir("/")
    before = os.umask(0o777)
    try:
        journal.sync()
    finally:
        os.umask(before)
    assert not journal.dirty
    journal.append(record(4))
    again = Place.open(tmp_path / "above" / "c", create=False)
    assert numbers(again.read(run).checked()) == [0, 1, 2, 3, 4]
    # Our own view of the place is the new one.
    assert numbers(place.read(run).checked()) == [0, 1, 2, 3, 4]
    assert (place.runs(), place.folder.names()) == ([run], [".gitignore", "VERSION", "runs"])
    assert sorted(path.name for path in journal.path.parent.iterdir()) == [JOURNAL, "results"]
    if os.name == "posix" and has_dir_fd:
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700
    shutil.rmtree(tmp_path / "above")
    journal.sync()
    assert numbers(again.read(run).checked() if not has_dir_fd else scan_bytes(journal.path.read_bytes()).checked())


def test_a_journal_alone_that_was_deleted_is_written_anew(tmp_path: Path) -> None:
    place = Place.open(tmp_path / "c")
    run = place.new_run(1000.0)
    journal = begin(place, run)
    journal.append(record(0))
    journal.sync()
    journal.path.unlink()
    # Also when there is nothing new.
    assert journal.dirty
    journal.sync()
    assert numbers(place.read(run).checked()) == [0]


def test_an_interrupted_append_survives_that_the_journal_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, run, journal = deleted(tmp_path)
    real = journal._write

    def interrupted(data: bytes) -> None:
        real(data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(record(4))
    journal.sync()
    journal.append(record(5))
    assert numbers(place.read(run).checked()) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_lost_between_a_deletion_and_its_discovery(tmp_path: Path) -> None:
    files = Files()
    real = files.sync

    def slow(fd: int) -> None:
        real(fd)
        time.sleep(0.01)

    files.sync = slow
    place = Place.open(tmp_path / "c", files)
    run = place.new_run(1000.0)
    commit = GroupCommit("normal", interval=0.0)
    journal = place.journal(run, on_append=commit.touch)
    _open.append(journal)
    commit.watch(journal)
    for number in range(3000):
        if number % 500 == 250:
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
        journal.append(record(number))
    commit.close()
    assert numbers(Place.open(tmp_path / "c").read(run).checked()) == list(range(3000))


@pytest.mark.parametrize("stay", [False, True])
def test_the_nth_call_fails_while_a_journal_is_written_anew(tmp_path: Path, *, stay: bool) -> None:
    for fail_at in range(60):
        files = BadFiles(stay=stay)
        path = tmp_path / str(fail_at)
        place, run, journal = deleted(path, files)
        # Behind the sync that notices.
        files.fail_at = len(files.log) + 1 + fail_at
        try:
            journal.sync()
        except CheckpointUnwritable as failed:
            assert stay, "what fails once is tried again"
            assert "deleted during the run, and can not be written anew" in str(failed)  # noqa: PT017  (likewise)
            with pytest.raises(CheckpointUnwritable):
                journal.append(record(4))
            continue
        assert numbers(place.read(run).checked()) == [0, 1, 2, 3]
        if len(files.log) <= files.fail_at:
            break
        assert not stay
    else:
        pytest.fail("there are more calls than that")


def test_what_was_put_in_the_place_of_a_deleted_checkpoint_is_not_used(tmp_path: Path) -> None:
    _, _, journal = deleted(tmp_path)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointUnwritable, match=r"can not be written anew: .* is a symbolic link"):
        journal.sync()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_system_that_does_not_count_names_is_no_deletion(tmp_path: Path) -> None:
    files = Files()
    real = files.fstat
    files.fstat = lambda fd: os.stat_result([*real(fd)[:3], 0, *real(fd)[4:]])
    with folder(tmp_path / "place", files) as place:
        journal = begin(place)
        journal.append(record(0))
        journal.sync()
        assert not journal.dirty


def test_tasks_that_replace_os_change_nothing(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begin(place)
    with monkeypatch.context() as patch:
        for name in ("write", "open", "fsync", "fdatasync", "ftruncate", "fstat", "getpid"):
            patch.setattr(os, name, None, raising=False)
        patch.setattr("json.dumps", None)
        patch.setattr("zlib.crc32", None)
        patch.setattr("pytest_flowforge.storage.journal.crc32", None)
        journal.append(record(0))
    assert numbers(scan(place).checked()) == [0]


@posix
def test_a_fork_writes_nothing(place: Folder) -> None:
    journal = begin(place)
    journal.append(record(0))
    child = os.fork()
    if not child:
        try:
            journal.append(record(1))
        except CheckpointError as refused:
            os._exit(7 if "is a fork of it" in str(refused) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert numbers(scan(place).checked()) == [0]


KILLED = """
import os, sys
from pathlib import Path
from pytest_flowforge.storage.files import Files, Folder
from pytest_flowforge.storage.journal import Journal
journal = Journal(Folder.open(Path(sys.argv[1]), Files()))
for number in range(10**6):
    journal.append({"t": 1.0, "ev": "note", "run": "r", "number": number})
    os.write(1, b"%d\\n" % number)
"""


@posix
def test_a_killed_process_loses_nothing_it_had_written(place: Folder) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place.path)], stdout=subprocess.PIPE, cwd=place.path
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    whole = [int(number) for number in acknowledged if number.endswith(b"\n")]
    found = scan(place)
    assert numbers(found.checked())[: len(whole)] == whole
    assert len(found.records) <= len(whole) + 2


# Something else in its place.


@posix
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_what_is_planted_is_neither_followed_nor_waited_for(tmp_path: Path, place: Folder, kind: str) -> None:
    victim = tmp_path / "victim"
    if kind != "dangling":
        victim.write_bytes(b"precious")
    path = place.path / JOURNAL
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim)
    with pytest.raises(FileExistsError):
        begin(place)
    shown = {"fifo": "a FIFO", "folder": "a folder"}.get(kind, "a symbolic link")
    with pytest.raises(CheckpointUnsafe, match=f"is {shown}, and a plain file should be there"):
        scan(place)
    assert not victim.exists() if kind == "dangling" else victim.read_bytes() == b"precious"


@posix
def test_folders_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(CheckpointUnsafe, match="is a symbolic link, and a plain folder"):
        folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointUnsafe, match="is a file, and a plain folder"):
        folder(tmp_path / "file")
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(CheckpointUnsafe, match=r"can be written by others.*chmod go-w"):
        folder(tmp_path / "real")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".", "..", "x" * 300, "a\0b", "-x"])
def test_names_that_are_not_ours(place: Folder, name: str) -> None:
    with pytest.raises(CheckpointUnsafe, match="no name of a file"):
        place.create(name)
    with pytest.raises(CheckpointUnsafe, match="no name of a file"):
        place.read(name)


# Durability.


class Target:
    def __init__(self, name: str, log: list[str], *, fails: bool = False) -> None:
        self.name = name
        self.log = log
        self.dirty = True
        self.fails = fails
        self.synced = threading.Event()

    def sync(self) -> None:
        self.log.append(self.name)
        self.synced.set()
        if self.fails:
            msg = "full"
            raise CheckpointUnwritable(msg)
        self.dirty = False


def group(durability: str, *, fails: bool = False) -> tuple[GroupCommit, Target, Target, list[str]]:
    log: list[str] = []
    commit = GroupCommit(durability, interval=0.0)
    results, journal = Target("results", log, fails=fails), Target("journal", log)
    commit.watch(results, journal)
    return commit, results, journal, log


def test_full_durability_syncs_before_it_goes_on() -> None:
    commit, _, _, log = group("full")
    commit.touch()
    assert log == ["results", "journal"]
    commit.touch()
    assert log == ["results", "journal"]


def test_normal_durability_syncs_soon_results_first() -> None:
    commit, _, journal, log = group("normal")
    commit.touch()
    assert journal.synced.wait(60)
    commit.close()
    assert log == ["results", "journal"]


def test_off_syncs_nothing() -> None:
    commit, _, _, log = group("off")
    commit.touch()
    commit.close()
    assert not log


def test_closing_syncs_what_is_new() -> None:
    commit, _, _, log = group("normal")
    commit.close()
    assert log == ["results", "journal"]


def test_an_error_of_the_thread_is_raised_by_the_next_call() -> None:
    commit, results, _, log = group("normal", fails=True)
    commit.touch()
    assert results.synced.wait(60)
    thread = commit._thread
    assert thread is not None
    thread.join()
    for call in (commit.touch, commit.commit, commit.close):
        with pytest.raises(CheckpointUnwritable, match="full"):
            call()
    assert log == ["results"]


# The place as a whole.


def test_runs_are_sorted_by_time_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    place = Place.open(tmp_path / "c")
    made = [place.new_run(at) for at in (1000.0, 1000.0, 1000.2, 500.0, 2000.0)]
    assert made == sorted(made)
    assert len(set(made)) == 5
    assert not place.runs()
    for run in made:
        begin(place, run)
    assert place.runs() == made


@pytest.mark.parametrize("run", ["x", "../x", "20261123-205212-zzzz", ""])
def test_ids_that_are_none(tmp_path: Path, run: str) -> None:
    with pytest.raises(CheckpointError, match="no id of a run"):
        Place.open(tmp_path / "c").read(run)


def test_versions(tmp_path: Path) -> None:
    path = tmp_path / "c"
    Place.open(path).close()
    Place.open(path, create=False).close()
    (path / "VERSION").write_text("2\n")
    with pytest.raises(CheckpointVersion, match=r"format 2.*update it"):
        Place.open(path)
    (path / "VERSION").write_text("what\n")
    with pytest.raises(CheckpointDamaged, match="no checkpoint"):
        Place.open(path)
    with pytest.raises(FileNotFoundError):
        Place.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_pruning_keeps_results_that_are_needed(tmp_path: Path) -> None:
    place = Place.open(tmp_path / "c")
    runs = [place.new_run(1000.0 + number) for number in range(4)]
    for run, uses in zip(runs, [[], [], [runs[0]], [runs[0]]], strict=True):
        journal = begin(place, run)
        journal.append({"t": 1.0, "ev": "run_started", "run": run, "uses": uses})
        journal.close()
        with place.results(run) as results:
            results.put("0" * 32 + ".seg", b"result")
            os.close(results.create(".tmp-left"))
    assert place.prune(2) == runs[:2]
    assert place.runs() == runs[2:]
    results_of = {run: sorted(path.name for path in (tmp_path / "c" / "runs" / run).rglob("*.seg")) for run in runs}
    assert [bool(results_of[run]) for run in runs] == [True, False, True, True]
    assert not (tmp_path / "c" / "runs" / runs[1]).exists()
    # Whoever was killed leaves something half-written; that of runs that are kept goes, too.
    assert not list((tmp_path / "c" / "runs" / runs[3]).rglob(".tmp*"))
    assert place.prune(2) == []
    about_to_begin = place.new_run(5000.0)
    place.prune(1)
    assert (tmp_path / "c" / "runs" / about_to_begin).exists()
    place.clear()
    assert not list((tmp_path / "c" / "runs").iterdir())


def test_nothing_is_pruned_when_nobody_knows_what_is_needed(tmp_path: Path) -> None:
    place = Place.open(tmp_path / "c")
    runs = [place.new_run(1000.0 + number) for number in range(3)]
    for run in runs:
        journal = begin(place, run)
        journal.append({"t": 1.0, "ev": "run_started", "run": run, "uses": []})
        journal.append({"t": 1.0, "ev": "run_finished", "run": run})
        journal.close()
    path = tmp_path / "c" / "runs" / runs[2] / JOURNAL
    path.write_bytes(path.read_bytes().replace(b"uses", b"used"))
    assert place.prune(1) == []
    assert place.runs() == runs


def test_the_nth_call_fails_while_pruning(tmp_path: Path) -> None:
    for fail_at in range(40):
        path = tmp_path / f"c{fail_at}"
        place = Place.open(path)
        runs = [place.new_run(1000.0 + number) for number in range(3)]
        for run in runs:
            journal = begin(place, run)
            journal.append({"t": 1.0, "ev": "run_started", "run": run, "uses": []})
            journal.close()
            with place.results(run) as results:
                results.put("0" * 32 + ".seg", b"result")
        files = BadFiles(fail_at, errno.EIO)
        with contextlib.suppress(OSError, CheckpointError):
            Place.open(path, files).prune(1)
        again = Place.open(path)
        for run in again.runs():
            # A journal never outlives its results.
            assert list((path / "runs" / run).rglob("*.seg"))
        again.prune(1)
        assert [one.name for one in (path / "runs").iterdir()] == [runs[2]]


# The lock.

HOLDER = """
import sys
from pathlib import Path
from pytest_flowforge.storage.locks import RunLock
from pytest_flowforge.storage.places import Place
lock = RunLock(Place.open(Path(sys.argv[1])).folder)
lock.acquire()
lock.announce("their-run")
print("locked", flush=True)
sys.stdin.readline()
lock.release()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    Place.open(tmp_path / "c").close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "c")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_two_runs_at_once(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    lock = RunLock(Place.open(tmp_path / "c").folder)
    with pytest.raises(
        CheckpointLocked, match=rf"another flowforge run \(pid {other.pid}, host .*their-run\).*--ff-wait"
    ):
        lock.acquire()
    holder = lock.holder()
    assert holder is not None
    assert holder.pid == other.pid
    if sys.platform == "linux":
        assert holder.is_alive
    other.communicate("go\n")
    assert lock.acquire(wait=60) is None
    lock.release()
    assert lock.holder() is None


def test_the_lock_of_a_killed_run_is_free_and_tells_of_it(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    lock = RunLock(Place.open(tmp_path / "c").folder)
    before = lock.acquire(wait=60)
    assert before is not None
    assert (before.run, before.is_alive) == ("their-run", False)
    lock.release()


@posix
def test_a_lock_that_is_something_else(tmp_path: Path) -> None:
    place = Place.open(tmp_path / "c")
    os.mkfifo(tmp_path / "c" / "run.lock")
    with pytest.raises(CheckpointUnsafe, match="no plain file"):
        RunLock(place.folder).acquire()


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_process_of_the_system_is_taken_for_ours(pid: int) -> None:
    assert not Holder("r", pid, socket.gethostname(), 0.0, "1", "x").is_alive


def test_reading_needs_no_lock(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    place = Place.open(tmp_path / "c", create=False)
    assert place.runs() == []
    assert other.poll() is None


def test_files_without_directory_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_flowforge.storage.files._HAS_DIR_FD", False)
    place = Place.open(tmp_path / "c", Files())
    run = place.new_run(1000.0)
    journal = begin(place, run)
    journal.append(record(0))
    journal.sync()
    journal.close()
    assert numbers(place.read(run).checked()) == [0]
    assert place.prune(0) == [run]
