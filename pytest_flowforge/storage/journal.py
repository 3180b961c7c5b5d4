"""The journal of a run: one JSON object a line, each line checking itself and the one before it.

A line is ``{"s":17,"p":"9f01ac3e",...,"c":"5b0e77d1"}``: ``s`` counts from 0, ``p`` is the checksum of the line before,
``c`` the CRC-32 of everything up to it. That finds accidents; it is no signature, and nothing in a journal is executed.
There is one writer, the process that made the journal, and it never appends to the journal of another run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import threading
from dataclasses import dataclass
from itertools import islice
from json.scanner import make_scanner
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from pytest_flowforge.errors import CheckpointDamaged, CheckpointError
from pytest_flowforge.storage.files import check_written, is_gone, persist, unwritable
from pytest_flowforge.storage.jsontext import json_encoder

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_flowforge.errors import CheckpointUnwritable
    from pytest_flowforge.storage.files import Folder

__all__ = ["JOURNAL", "LONGEST_LINE", "Damage", "Journal", "Reading", "Scan", "reading", "repair", "scan", "scan_bytes"]

JOURNAL = "journal.jsonl"

#: Bytes of a line, its end included.
LONGEST_LINE = 1 << 20

#: What stands for the checksum before the first line.
_FIRST = "00000000"

#: The length of ``,"c":"5b0e77d1"}``.
_TAIL = 16

#: Digits of the largest number that is read: beyond, reading takes quadratic time.
_MOST_DIGITS = 40

#: As many digits as no number has whose length needs a closer look (a sign counts as well).
_LONG_NUMBER = b"0" * _MOST_DIGITS
_DIGITS_AS_ZEROS = bytes.maketrans(b"0123456789", b"0" * 10)

#: The types of ``t``, ``ev`` and ``run``.
_KINDS = frozenset({(float, str, str), (int, str, str)})

_CHUNK = 1 << 20

#: The end of a whole line. In a text its quotation marks would have backslashes.
_CHECKSUM = re.compile(rb',"c":"([0-9a-f]{8})"\}')


class _Tip(NamedTuple):
    """Where the next line goes: its number, the checksum of the line before, and its offset in bytes."""

    sequence: int
    checksum: int
    end: int


def _nothing() -> None:
    """Tell nobody that there is something new."""


class Journal:
    """Appends records to a new journal; each is with the operating system when :meth:`append` returns.

    What goes wrong once, stays: after an error nothing more is accepted, and what was written before is whole.
    ``on_append`` is told after each record. Used by one thread; :meth:`sync` may be called by another.

    A journal that is deleted while it is written is open still: :meth:`sync` notices, and writes it anew in the folder
    that ``restore`` returns (without one that is an error).
    """

    def __init__(
        self,
        folder: Folder,
        name: str = JOURNAL,
        *,
        on_append: Callable[[], None] = _nothing,
        restore: Callable[[], Folder] | None = None,
    ) -> None:
        """Make the file; raise :class:`CheckpointUnwritable`, or :class:`FileExistsError` when there is one."""
        self.path = folder.path / name
        self._name = name
        self._on_append = on_append
        self._restore = restore
        # Bound now: tasks may replace what these names mean later.
        self._files = files = folder.files
        self._truncate, self._fstat, self._sync, self._getpid = files.truncate, files.fstat, files.sync, files.getpid
        self._encode = json_encoder()
        self._crc32 = crc32
        self._owner = self._getpid()
        fd = folder.create(name, append=True)
        self._file: io.FileIO = files.raw(fd, "ab")
        try:
            folder.sync()
        except OSError as error:
            self._file.close()
            raise unwritable(self.path, error) from error
        #: Where names are not counted, nobody can tell.
        self._can_go = not is_gone(files, fd)
        #: Held while something is written, and while what is written is taken elsewhere: nothing is lost in between.
        self._lock = threading.Lock()
        self._tip = _Tip(0, 0, 0)
        #: The lines that are being written, and where the next one goes once they are.
        self._open: tuple[bytes, _Tip] | None = None
        self._broken: CheckpointUnwritable | None = None
        self._synced = 0

    @property
    def dirty(self) -> bool:
        """Whether there is something that a power cut would take."""
        return self._synced != self._tip.end or self._is_gone()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write *record*; raise :class:`CheckpointUnwritable`, or :class:`CheckpointError` for what is no record.

        Not to be called while it runs: from a signal handler, for instance.
        """
        self.append_text(self._members(record, self._tip.sequence))

    def append_text(self, members: str) -> None:
        """Write the record whose JSON, without the braces, is *members*; raise what :meth:`append` does."""
        self._check()
        with self._lock:
            if self._open is not None:
                self._settle()
            line, tip = self._framed(members, self._tip)
            self._put(line, tip)
        self._on_append()

    def append_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write *records* at once: all of them, or none when it raises what :meth:`append` does.

        Only a process that is killed in the middle, or a disk that can not even be cut back, may leave the first few
        and a torn one.
        """
        self._check()
        with self._lock:
            if self._open is not None:
                self._settle()
            tip = self._tip
            lines = []
            for record in records:
                line, tip = self._framed(self._members(record, tip.sequence), tip)
                lines.append(line)
            if not lines:
                return
            self._put(b"".join(lines), tip)
        self._on_append()

    def sync(self) -> None:
        """Make everything survive a power cut, and a journal that was deleted; raise :class:`CheckpointUnwritable`."""
        self._check()
        end = self._tip.end
        try:
            self._sync(self._file.fileno())
        except OSError as error:
            # The system may have dropped what it could not write: a second, successful sync would prove nothing.
            with self._lock:
                raise self._break(error) from error
        self._synced = self._write_anew() if self._is_gone() else end

    def _is_gone(self) -> bool:
        return self._can_go and is_gone(self._files, self._file.fileno())

    def _write_anew(self) -> int:
        """Write what was deleted where it belongs, go on there, and return up to where it is synced."""
        with self._lock:
            end, restore = self._tip.end, self._restore
            if restore is None:
                raise self._break(FileNotFoundError(errno.ENOENT, "it was deleted during the run"))
            try:
                fd = persist(lambda: self._copy(restore, end))
            except (OSError, CheckpointError) as error:
                why = OSError(errno.ENOENT, f"it was deleted during the run, and can not be written anew: {error}")
                raise self._break(why) from error
            former, self._file = self._file, self._files.raw(fd, "ab")
            former.close()
        return end

    def _copy(self, restore: Callable[[], Folder], end: int) -> int:
        with restore() as folder:
            return folder.copy(self._file.fileno(), end, self._name, append=True)

    def close(self) -> None:
        """Close the file, without syncing it."""
        self._file.close()

    def _check(self) -> None:
        if self._getpid() != self._owner:
            msg = f"{self.path} belongs to process {self._owner}, and this is a fork of it: only that one may write"
            raise CheckpointError(msg)
        if self._broken is not None:
            raise self._broken

    def _members(self, record: Mapping[str, Any], sequence: int) -> str:
        try:
            return self._encode(record)[1:-1]
        except (TypeError, ValueError, RecursionError) as wrong:
            msg = f"record {sequence} of {self.path} can not be written as JSON: {wrong}"
            raise CheckpointError(msg) from wrong

    def _framed(self, members: str, place: _Tip) -> tuple[bytes, _Tip]:
        """Return the line that goes to *place*, and where the next one goes."""
        sequence, before, end = place
        body = f'{{"s":{sequence},"p":"{before:08x}",{members}'.encode("ascii")
        checksum = self._crc32(body)
        line = b'%b,"c":"%08x"}\n' % (body, checksum)
        if len(line) > LONGEST_LINE:
            msg = f"record {sequence} of {self.path} has {len(line):,} bytes, and 1 MiB is the limit"
            raise CheckpointError(msg)
        return line, _Tip(sequence + 1, checksum, end + len(line))

    def _put(self, lines: bytes, tip: _Tip) -> None:
        self._open = (lines, tip)
        self._write(lines)
        self._tip = tip
        self._open = None

    def _write(self, lines: bytes) -> None:
        try:
            check_written(self._file.write(lines), len(lines))
        except OSError as error:
            raise self._break(error) from error

    def _settle(self) -> None:
        """Finish what an exception from outside (Ctrl-C) interrupted in the middle: find out how far it came."""
        if self._open is None or self._tip is self._open[1]:
            self._open = None
            return
        lines, tip = self._open
        if self._fstat(self._file.fileno()).st_size != tip.end:
            try:
                self._truncate(self._file.fileno(), self._tip.end)
            except OSError as error:
                raise self._break(error) from error
            self._write(lines)
        self._tip = tip
        self._open = None

    def _break(self, error: OSError) -> CheckpointUnwritable:
        """Cut back to the last whole line, and refuse everything from now on."""
        with contextlib.suppress(OSError):
            # If this fails as well, a torn line stays, which readers cut off.
            self._truncate(self._file.fileno(), self._tip.end)
        self._open = None
        self._broken = unwritable(self.path, error)
        return self._broken


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a journal was changed by something else than its writer; ``line`` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a journal holds: its good records, and what comes after them.

    ``torn_bytes`` is the length of an unfinished last record: a run that was killed leaves one, and one that goes on
    may be seen writing it. ``damage`` is set when anything else is wrong; the records before it are good.
    """

    path: str
    records: list[dict[str, Any]]
    good_bytes: int
    torn_bytes: int
    damage: Damage | None

    def checked(self) -> list[dict[str, Any]]:
        """Return the records; raise :class:`CheckpointDamaged` if any are damaged."""
        if self.damage is not None:
            raise _damaged(self.path, self.damage)
        return self.records


def _damaged(path: str, damage: Damage) -> CheckpointDamaged:
    msg = (
        f"{path}:{damage.line} is damaged ({damage.reason}); {damage.line - 1} good records before it."
        " 'pytest --flowforge --ff-repair' keeps those; without --ff-resume a new run ignores it"
    )
    return CheckpointDamaged(msg)


class Reading:
    """Reads a journal, one good record after the other, and keeps none: of a long run they are a lot of memory.

    What it says besides is known when all of them have been read: ``good_bytes`` and the rest are those of
    :class:`Scan`.
    """

    def __init__(self, path: str, chunks: Iterator[bytes]) -> None:
        self.path = path
        self.good_bytes = 0
        self.torn_bytes = 0
        self.damage: Damage | None = None
        self._chunks = chunks

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the good records. To be asked once."""
        before = _FIRST
        for number, (line, plain) in enumerate(_lines(self._chunks)):
            if self.damage is not None:
                # What could not be read is not the last line, and so not a torn one.
                self.torn_bytes = 0
                return
            wrong = _unreadable(line)
            if wrong:
                self.damage, self.torn_bytes = Damage(number + 1, wrong), len(line)
                if _was_whole(line):
                    self.torn_bytes = 0
                    return
                continue
            try:
                text = line.decode("ascii")
                record = _parse(text, number, before, plain=plain)
            except (ValueError, TypeError, RecursionError, MemoryError) as bad:
                self.damage = Damage(number + 1, str(bad) or type(bad).__name__)
                return
            before = text[-11:-3]
            self.good_bytes += len(line)
            yield record
        # Nothing came after it: it is a torn one.
        self.damage = None

    def checked(self) -> Iterator[dict[str, Any]]:
        """Yield the records; raise :class:`CheckpointDamaged` behind the last good one if any are damaged."""
        yield from self
        if self.damage is not None:
            raise _damaged(self.path, self.damage)


@contextlib.contextmanager
def reading(folder: Folder, name: str = JOURNAL) -> Iterator[Reading]:
    """Open a journal for reading it record by record; raise :class:`FileNotFoundError`."""
    fd = folder.read(name)
    try:
        yield Reading(str(folder.path / name), _chunks(folder, fd))
    finally:
        folder.files.close(fd)


def scan(folder: Folder, name: str = JOURNAL, *, most: int | None = None) -> Scan:
    """Read a journal, or its first *most* records; raise :class:`FileNotFoundError`."""
    with reading(folder, name) as opened:
        return _scan(opened, most)


def scan_bytes(content: bytes, path: str = "journal") -> Scan:
    """Read the journal that *content* is."""
    return _scan(Reading(path, iter([content])), None)


def _scan(opened: Reading, most: int | None) -> Scan:
    records = list(islice(opened, most))
    return Scan(opened.path, records, opened.good_bytes, opened.torn_bytes, opened.damage)


def _chunks(folder: Folder, fd: int) -> Iterator[bytes]:
    pread = folder.files.pread
    offset = 0
    while chunk := pread(fd, _CHUNK, offset):
        yield chunk
        offset += len(chunk)


def _lines(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each line with its end, unless it has none, and whether it is plain (see :func:`_is_plain`).

    Never holds much more than the longest line.
    """
    rest = b""
    for chunk in chunks:
        block, end, rest = (rest + chunk).rpartition(b"\n")
        if end:
            # Asked for all of them at once: that is cheaper, and nearly always the answer is yes.
            plain = _is_plain(block)
            for line in block.split(end):
                yield line + end, plain or _is_plain(line)
        if len(rest) > LONGEST_LINE and rest.strip(b"\0"):
            break
        if len(rest) > LONGEST_LINE:
            # Zeros, as a power cut may leave behind: as many as there are, without keeping them.
            rest = rest[: LONGEST_LINE + 1]
    if rest:
        yield rest, False


def _is_plain(text: bytes) -> bool:
    """Whether no number in *text* is too long, and the name of each member in it has its colon right behind it."""
    # Outside of strings we write no blanks, and JSON has no tab and no CR within one.
    if b"\t" in text or b"\r" in text or (b" " in text and b" :" in text):
        return False
    return _LONG_NUMBER not in text.translate(_DIGITS_AS_ZEROS)


def _unreadable(line: bytes) -> str:
    """Return why *line* is none of ours, as far as can be told without parsing it."""
    if len(line) > LONGEST_LINE:
        return "line too long"
    tail = line[-_TAIL - 1 :]
    # Compared as text: hex digits in capitals are not what was written.
    if not tail.endswith(b"\n"):
        return "its end is missing"
    if not line.isascii() or tail != b',"c":"%08x"}\n' % crc32(line[: -_TAIL - 1]):
        return "bad checksum"
    return ""


def _was_whole(line: bytes) -> bool:
    """Whether *line*, which can not be read, is no torn one: it is longer than any, or a whole one begins it."""
    line = line.rstrip(b"\0")
    if len(line) > LONGEST_LINE:
        return True
    return any(
        match.end() < len(line) and match[1] == b"%08x" % crc32(line[: match.start()])
        for match in _CHECKSUM.finditer(line)
    )


def _parse(text: str, sequence: int, before: str, *, plain: bool) -> dict[str, Any]:
    record = (_decode_plain(text) if plain else None) or _decode(text)
    if not isinstance(record, dict):
        msg = "no record"
        raise TypeError(msg)
    try:
        place, kinds = (record["s"], record["p"]), (type(record["t"]), type(record["ev"]), type(record["run"]))
    except KeyError as missing:
        msg = f"no {missing}"
        raise ValueError(msg) from None
    if place != (sequence, before):
        msg = "lines are missing, doubled or from elsewhere"
        raise ValueError(msg)
    if kinds not in _KINDS:
        msg = "no valid 't', 'ev' or 'run'"
        raise TypeError(msg)
    return record


def _decode_plain(text: str) -> dict[str, Any] | None:
    """Return what :func:`_decode` would, in half the time; None when it might object, and has to be asked.

    *text* is to be plain: then it has a ``":`` for each member, and maybe more of them in strings. When the record has
    as many members as that, none occurs twice, in it or in what is in it.
    """
    try:
        record, end = _scan_once(text, 0)
    except (StopIteration, ValueError):
        return None
    if type(record) is dict and end == len(text) - 1 and text.count('":') == len(record):
        return record
    return None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a member occurs twice"
        raise ValueError(msg)
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        msg = "a number is too long"
        raise ValueError(msg)
    return int(digits)


def _constant(name: str) -> float:
    msg = f"{name} is no JSON"
    raise ValueError(msg)


_decode = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_constant=_constant).decode
#: Without a call into Python for each member and number. Returns the value at a place in a text, and where it ends.
_scan_once: Callable[[str, int], tuple[Any, int]] = make_scanner(
    json.JSONDecoder(parse_constant=_constant)  # type: ignore[arg-type]  # its stub names the wrong type
)


def repair(folder: Folder, name: str = JOURNAL) -> tuple[Scan, Path | None]:
    """Keep the good records of a journal, and what it was under another name.

    Returns what was found, and where the old journal is now; that is None when there was nothing to repair.
    """
    found = scan(folder, name)
    if found.damage is None and not found.torn_bytes:
        return found, None
    old = f"{name}.{folder.files.urandom(4).hex()}.old"
    fd = folder.read(name)
    try:
        folder.files.close(folder.copy(fd, None, old))
        folder.files.close(folder.copy(fd, found.good_bytes, name))
    except OSError as error:
        raise unwritable(folder.path / name, error) from error
    finally:
        folder.files.close(fd)
    return found, folder.path / old
