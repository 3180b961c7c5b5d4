"""Results: stored exactly, found damaged when they are, never executed when planted, on disks that fail."""

from __future__ import annotations

import errno
import math
import os
import pickle
import shutil
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import (
    CheckpointDamaged,
    CheckpointUnwritable,
    ResultDamaged,
    ResultError,
    ResultMissing,
    ResultRefused,
    ResultUnstorable,
)
from pytest_flowforge.storage.blobs import LARGE
from pytest_flowforge.storage.codec import JsonCodec, explain_unpicklable, is_plain
from pytest_flowforge.storage.files import Files
from pytest_flowforge.storage.journal import scan_bytes
from pytest_flowforge.storage.keys import Key
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.values import ResultStore
from tests.shell.disks import BadFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

posix = pytest.mark.skipif(os.name != "posix", reason="links, FIFOs and modes of POSIX")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResultStore]:
    made = open_store(tmp_path)
    yield made
    made.close()


def open_store(path: Path, files: Files | None = None, **rest: Any) -> ResultStore:
    place = Place.open(path / "c", files)
    return ResultStore(place, place.new_run(1000.0), **rest)


def reopen(path: Path, ref: ResultRef, **rest: Any) -> ResultStore:
    """Return what another process would see."""
    return ResultStore(Place.open(path / "c"), ref.run, **rest)


def file_of(path: Path, ref: ResultRef) -> Path:
    return path / "c" / "runs" / ref.run / "results" / ref.segment


# What comes back.

Point = namedtuple("Point", "x y")  # noqa: PYI024  (a plain one, as users write them)


class Colour(IntEnum):
    RED = 1


@dataclass
class Model:
    weights: Any
    name: str = "m"


PLAIN: list[Any] = [
    None,
    True,
    0,
    -5,
    1.5,
    -0.0,
    1e308,
    "",
    "ü😀\n\0",
    [],
    {},
    [1, [2, {"a": None}]],
    {"b": 1, "a": [{}]},
]
OTHER: list[Any] = [
    (1, 2),
    {1: 2},
    {"a": (1,)},
    {1, 2},
    b"x",
    Point(1, 2),
    Colour.RED,
    OrderedDict(a=1),
    10**40,
    "\ud800",
    ["\ud800\udc00"],
    {"\ud800": 1},
    math.inf,
    [1.0, -math.inf],
    Model([1]),
]


def same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and repr(one) == repr(two)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_are_json_and_come_back_exactly(store: ResultStore, tmp_path: Path, value: Any) -> None:
    ref = store.put(value)
    assert ref.codec == "json"
    assert same(reopen(tmp_path, ref).get(ref), value)


@pytest.mark.parametrize("value", OTHER, ids=repr)
def test_other_values_are_pickled_and_come_back_exactly(store: ResultStore, tmp_path: Path, value: Any) -> None:
    ref = store.put(value)
    assert ref.codec == "pickle"
    assert same(reopen(tmp_path, ref).get(ref), value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_is_called_plain_comes_back_exactly(value: Any) -> None:
    if is_plain(value):
        written: list[bytes] = []

        class Out:
            def write(self, data: Any, /) -> int:
                written.append(bytes(data))
                return len(data)

            def restart(self) -> None:
                written.clear()

        codec = JsonCodec()
        codec.encode(value, Out())
        assert same(codec.decode(memoryview(b"".join(written)), ()), value)


def test_what_occurs_twice_or_in_itself_or_too_deep_is_not_plain() -> None:
    twice: list[Any] = [1]
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert not is_plain([twice, twice])
    assert not is_plain(cycle)
    assert not is_plain(deep)


def test_aliases_and_cycles_survive(store: ResultStore) -> None:
    cycle: list[Any] = [[1]]
    cycle += [cycle[0], cycle]
    got = store.get(store.put(cycle))
    assert got[0] is got[1]
    assert got[2] is got


def test_nan(store: ResultStore) -> None:
    ref = store.put([math.nan])
    assert ref.codec == "pickle"
    assert math.isnan(store.get(ref)[0])


@pytest.mark.parametrize("size", [10, LARGE // 8 - 200, LARGE // 8, LARGE, 3 * LARGE])
def test_arrays_come_back_writable(store: ResultStore, tmp_path: Path, size: int) -> None:
    value = {"a": np.arange(size, dtype=np.int64), "b": [np.arange(5), np.zeros((0, 3))], "t": np.eye(300).T}
    ref = store.put(value)
    got = reopen(tmp_path, ref).get(ref)
    assert all(np.array_equal(got[name], value[name]) for name in ("a", "t"))
    assert np.array_equal(got["b"][0], np.arange(5))
    got["a"][0] = 7


@pytest.mark.parametrize("size", [LARGE - 100, LARGE - 13, LARGE - 12, LARGE - 2, LARGE, LARGE + 1, 9 * LARGE + 5])
def test_sizes_around_the_limit(store: ResultStore, tmp_path: Path, size: int) -> None:
    for value in ("x" * size, b"y" * size):
        ref = store.put(value)
        assert (
            ref.segment.endswith(".bin") == (ref.length > LARGE + (32 if ref.codec == "pickle" else 0)) or size < LARGE
        )
        assert reopen(tmp_path, ref).get(ref) == value
        assert reopen(tmp_path, ref).fault(ref) == ""


def test_small_results_share_a_file_and_large_ones_do_not(store: ResultStore, tmp_path: Path) -> None:
    small = [store.put(number) for number in range(100)]
    large = store.put("x" * 2 * LARGE)
    assert len({ref.segment for ref in small}) == 1
    assert [store.get(ref) for ref in small] == list(range(100))
    assert file_of(tmp_path, large).stat().st_size == large.length
    assert len(list(file_of(tmp_path, large).parent.iterdir())) == 2


@pytest.mark.parametrize("value", [None, {"a": [1]}, (1, 2), np.arange(4)], ids=["none", "json", "pickle", "buffers"])
def test_a_small_result_that_comes_again_is_not_written_again(tmp_path: Path, value: Any) -> None:
    files = BadFiles()
    store = open_store(tmp_path, files)
    first = store.put(value)
    other = store.put("other")
    files.log.clear()
    assert store.put(value) == first
    assert not files.log
    assert store.put("other") == other != first
    assert same(reopen(tmp_path, first).get(first), value)


def test_json_and_pickle_with_the_same_bytes_are_two_results(store: ResultStore, tmp_path: Path) -> None:
    class Same:
        name = "same"
        signed = True
        accepts = staticmethod(is_plain)
        encode = JsonCodec().encode
        decode = JsonCodec().decode

    one = store.put([1])
    store._codecs = {"same": Same()}
    two = store.put([1])
    assert one.sha256 == two.sha256
    assert (one.offset, two.length - one.length) == (0, 32)
    assert reopen(tmp_path, two, codecs=[Same()]).get(two) == [1]


def test_what_is_remembered_of_stored_results_is_bounded(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_flowforge.storage.values._REMEMBERED", 3)
    refs = [store.put(number) for number in [*range(10), *range(10)]]
    assert len({ref.offset for ref in refs}) == 3 + 2 * 7
    assert [store.get(ref) for ref in refs] == [*range(10), *range(10)]


def test_a_result_that_could_not_be_written_is_not_remembered(tmp_path: Path) -> None:
    files = BadFiles()
    store = open_store(tmp_path, files)
    store.put([1])
    files.fail_at, files.short = len(files.log), True
    with pytest.raises(CheckpointUnwritable):
        store.put([2])
    assert store.get(store.put([2])) == [2]


def test_results_beside_each_other_are_read_together(store: ResultStore, tmp_path: Path) -> None:
    files = Files()
    reads: list[int] = []
    real = files.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return real(fd, length, offset)

    files.pread = counted
    refs = [store.put([number, "x" * (number % 7)]) for number in range(5000)]
    reader = ResultStore(Place.open(tmp_path / "c", files), refs[0].run)
    reads.clear()
    assert not any(map(reader.fault, refs))
    assert len(reads) < 10
    # In no particular order as well, and growing meanwhile.
    assert not any(map(reader.fault, [*refs[1::2], *refs[::2], store.put("new")]))
    assert reader.get(refs[7]) == [7, ""]


def test_what_was_checked_is_read_again_when_it_is_asked_again(store: ResultStore, tmp_path: Path) -> None:
    refs = [store.put(number) for number in range(3)]
    reader = reopen(tmp_path, refs[0])
    assert [reader.fault(ref) for ref in refs] == ["", "", ""]
    path = file_of(tmp_path, refs[1])
    content = bytearray(path.read_bytes())
    content[refs[1].offset] ^= 1
    path.write_bytes(content)
    assert [reader.fault(ref) for ref in refs] == ["", "result damaged", ""]


def test_local_functions_and_classes_need_cloudpickle(store: ResultStore, tmp_path: Path) -> None:
    class Local:
        x = 3

    ref = store.put([lambda y: y + 1, Local()])
    function, instance = reopen(tmp_path, ref).get(ref)
    assert (function(1), instance.x) == (2, 3)


def test_threads_share_a_store(store: ResultStore) -> None:
    refs: dict[int, ResultRef] = {}

    def work(start: int) -> None:
        for number in range(start, start + 200):
            refs[number] = store.put([number, "x" * (number % 50)])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.get(ref)[0] == number for number, ref in refs.items())


@posix
def test_a_fork_writes_a_file_of_its_own(store: ResultStore) -> None:
    first = store.put(1)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, store.put(2).segment.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != first.segment
    assert store.put(3).segment == first.segment
    os.close(read)
    os.close(write)


# What can not be stored.


def test_what_can_not_be_pickled_is_named(store: ResultStore) -> None:
    value = {"a": [1, 2, 3, threading.Lock()]}
    with pytest.raises(ResultUnstorable, match=r"can not be stored: result\['a'\]\[3\]: _thread\.lock \("):
        store.put(value)
    assert store.get(store.put(1)) == 1


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Refuses:
    def __reduce__(self) -> Any:
        msg = "never"
        raise TypeError(msg)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "result: _thread.lock"),
        ((1, (x for x in [1])), "result[1]: generator"),
        (Model(Slotted([threading.Lock()])), "result.weights.inner[0]: _thread.lock"),
        ({"m": Model(1, name=Refuses())}, "result['m'].name: tests.shell.test_result_store.Refuses"),  # type: ignore[arg-type]
        ({Slotted(1): 1, "b": [Refuses()]}, "result['b'][0]: tests.shell.test_result_store.Refuses"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_path_to_what_can_not_be_pickled(value: Any, path: str) -> None:
    assert explain_unpicklable(value) in {path, path.replace("tests.shell.", "")}


def test_a_large_value_that_fails_half_way_leaves_nothing(store: ResultStore, tmp_path: Path) -> None:
    with pytest.raises(ResultUnstorable):
        store.put([b"x" * 3 * LARGE, threading.Lock()])
    assert not list(tmp_path.rglob(".tmp*"))
    assert not list(tmp_path.rglob("*.bin"))


def test_only_json_where_only_json_is_allowed(store: ResultStore, tmp_path: Path) -> None:
    ref = store.put((1, 2))
    reader = reopen(tmp_path, ref, codecs=[JsonCodec()])
    with pytest.raises(ResultRefused, match="only json is allowed"):
        reader.get(ref)
    assert reader.fault(ref) == "result refused"
    with pytest.raises(ResultUnstorable, match="stored as json, which is all"):
        reader.put((1, 2))


# Damage.


@pytest.mark.parametrize("value", [{"a": [1, 2]}, (1, "x"), np.arange(4)], ids=["json", "pickle", "buffers"])
def test_every_flipped_bit_of_a_result_is_noticed(store: ResultStore, tmp_path: Path, value: Any) -> None:
    ref = store.put(value)
    path = file_of(tmp_path, ref)
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            flipped = bytearray(good)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            assert store.fault(ref) in {"result damaged", "result refused"}
    path.write_bytes(good)
    assert store.fault(ref) == ""


@pytest.mark.parametrize("value", ["x" * 40, (1,), b"x" * 2 * LARGE], ids=["json", "pickle", "large"])
def test_cut_results_are_noticed(store: ResultStore, tmp_path: Path, value: Any) -> None:
    ref = store.put(value)
    path = file_of(tmp_path, ref)
    good = path.read_bytes()
    for cut in {0, 1, len(good) // 2, len(good) - 1, *range(min(len(good), 200))}:
        path.write_bytes(good[:cut])
        assert store.fault(ref) == "result damaged"
        with pytest.raises(ResultDamaged, match="its task has to run again"):
            store.get(ref)


@pytest.mark.parametrize("place", [0, LARGE, 4 * LARGE - 1, 4 * LARGE, -1, -33, -45])
def test_a_damaged_large_result(store: ResultStore, tmp_path: Path, place: int) -> None:
    ref = store.put(np.zeros(5 * LARGE, np.uint8))
    path = file_of(tmp_path, ref)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert store.fault(ref) in {"result damaged", "result refused"}
    with pytest.raises(ResultError):
        store.get(ref)


def test_missing_and_swapped_results(store: ResultStore, tmp_path: Path) -> None:
    one, two = store.put("1" * 2 * LARGE), store.put("2" * 2 * LARGE)
    paths = file_of(tmp_path, one), file_of(tmp_path, two)
    contents = [path.read_bytes() for path in paths]
    for path, data in zip(paths, reversed(contents), strict=True):
        path.write_bytes(data)
    assert store.fault(one) == store.fault(two) == "result damaged"
    paths[0].unlink()
    assert store.fault(one) == "result missing"
    with pytest.raises(ResultMissing, match="not there any more"):
        store.get(one)


@pytest.mark.parametrize(
    "change",
    [
        {"segment": "../../../../etc/passwd"},
        {"segment": "key"},
        {"run": "../x"},
        {"run": "19990101-000000-0000"},
        {"offset": 5},
        {"offset": 2**70},
        {"length": 2**62},
        {"length": 0},
        {"length": 3},
        {"sha256": "0" * 64},
        {"codec": "pickle"},
        {"codec": "zip"},
    ],
    ids=str,
)
def test_a_reference_from_elsewhere_is_a_miss(store: ResultStore, change: dict[str, Any]) -> None:
    assert store.fault(replace(store.put([1, 2, 3]), **change)).startswith("result ")


# Attacks.


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_planted_pickle_is_not_executed(store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store.put((1, 2))
    monkeypatch.setenv("FLOWFORGE_KEY", "of somebody else")
    planted = reopen(tmp_path, mine).put(Bomb(tmp_path / "executed"))
    monkeypatch.delenv("FLOWFORGE_KEY")
    reader = reopen(tmp_path, mine)
    assert reader.fault(planted) == "result refused"
    with pytest.raises(ResultRefused, match="was not stored with this key, and is not loaded"):
        reader.get(planted)
    with pytest.raises(ResultError):
        reader.get(replace(planted, codec="json"))
    assert not (tmp_path / "executed").exists()
    assert reader.get(mine) == (1, 2)


def test_a_signed_pickle_is_executed_by_who_signed_it(store: ResultStore, tmp_path: Path) -> None:
    # The test above would pass if nothing were ever loaded.
    store.get(store.put(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_a_json_result_can_not_be_called_a_pickle(store: ResultStore, tmp_path: Path) -> None:
    payload = pickle.dumps(Bomb(tmp_path / "executed")).decode("latin-1")
    assert store.fault(replace(store.put(payload), codec="pickle")).startswith("result ")
    assert not (tmp_path / "executed").exists()


def test_a_pickle_that_can_not_be_rebuilt_is_a_miss(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.put(Model(1))
    monkeypatch.delattr(f"{__name__}.Model")
    with pytest.raises(ResultDamaged, match="can not be decoded"):
        store.get(ref)


@posix
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_results_that_are_something_else_are_misses(store: ResultStore, tmp_path: Path, kind: str) -> None:
    ref = store.put("x" * 2 * LARGE)
    path = file_of(tmp_path, ref)
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert store.fault(ref) == "result refused"


# The key.


@posix
def test_the_key_is_made_once_and_for_the_user_alone(tmp_path: Path) -> None:
    keys = [Key(Files()) for _ in range(2)]
    assert keys[0].vouches(keys[1].sign("pickle", b"x"), "pickle", b"x")
    assert not keys[0].vouches(keys[1].sign("pickle", b"x"), "other", b"x")
    path = tmp_path / "config" / "flowforge" / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["key"]
    path.chmod(0o644)
    with pytest.raises(CheckpointDamaged, match="others can read the key"):
        Key(Files()).sign("pickle", b"x")
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(CheckpointDamaged, match="holds no key"):
        Key(Files()).sign("pickle", b"x")


def test_the_key_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "k")
    Key(Files()).sign("pickle", b"x")
    assert not (tmp_path / "config").exists()


def test_json_needs_no_key(store: ResultStore, tmp_path: Path) -> None:
    store.get(store.put([1]))
    assert not (tmp_path / "config").exists()


# Disks that fail.


@pytest.mark.parametrize("short", [False, True], ids=["error", "short write"])
def test_the_nth_call_fails(tmp_path: Path, *, short: bool) -> None:
    values = [[1, 2], "x" * 3 * LARGE, (1, 2), b"y" * 2 * LARGE, {"z": 1}]
    for fail_at in range(60):
        files = BadFiles()
        store = open_store(tmp_path / str(fail_at), files)
        files.log.clear()
        files.fail_at, files.short = fail_at, short
        refs: list[tuple[ResultRef, Any]] = []
        for value in values:
            try:
                refs.append((store.put(value), value))
                store.sync()
            except (CheckpointUnwritable, ResultUnstorable) as failed:
                # Without a key for pickles the disk is still well.
                assert "No space left" in str(failed)  # noqa: PT017  (it may not fail at all)
        # What was acknowledged is there, and what failed left nothing that is named like a result.
        assert len(refs) >= len(values) - 1
        reader = reopen(tmp_path / str(fail_at), refs[0][0])
        assert all(reader.get(ref) == value for ref, value in refs)
        if "unlink" not in files.log[fail_at : fail_at + 1]:
            assert not list((tmp_path / str(fail_at)).rglob("c/**/.tmp*"))
        if fail_at >= len(files.log):
            break
    else:
        pytest.fail("there are more calls than that")


@pytest.mark.parametrize("what", ["c", "c/runs", "c/runs/*/results", "c/runs/*/results/*"])
def test_results_that_were_deleted_during_the_run(tmp_path: Path, what: str) -> None:
    store = open_store(tmp_path)
    small, large = [store.put([1]), store.put((2,))], store.put("x" * 2 * LARGE)
    store.sync()
    assert store.fault(small[0]) == ""
    for path in tmp_path.glob(what):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Nothing new, and yet there is something to be done.
    seen = [store.dirty]
    store.sync()
    seen.append(store.dirty)
    assert seen == [True, False]
    small += [store.put([1]), store.put({"three": 3})]
    later = store.put("y" * 2 * LARGE)
    store.sync()
    for reader in (store, reopen(tmp_path, large)):
        assert [reader.get(ref) for ref in small] == [[1], (2,), [1], {"three": 3}]
        assert reader.get(later) == "y" * 2 * LARGE
        assert reader.fault(large) == "result missing"


def test_a_large_result_finds_its_folder_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(1)
    shutil.rmtree(tmp_path / "c")
    ref = store.put("x" * 2 * LARGE)
    assert reopen(tmp_path, ref).get(ref) == "x" * 2 * LARGE


class Deletes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        shutil.rmtree(self.path)
        return (int, ())


def test_a_large_result_is_deleted_while_it_is_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ref = store.put([b"x" * 2 * LARGE, Deletes(tmp_path / "c")])
    assert reopen(tmp_path, ref).get(ref) == [b"x" * 2 * LARGE, 0]


def test_results_that_can_not_be_written_anew(tmp_path: Path) -> None:
    files = BadFiles(stay=True)
    store = open_store(tmp_path, files)
    store.put(1)
    shutil.rmtree(tmp_path / "c")
    files.fail_at = len(files.log) + 1
    with pytest.raises(CheckpointUnwritable, match="No space left"):
        store.sync()


def test_room_that_comes_back_is_used(tmp_path: Path) -> None:
    files = BadFiles()
    store = open_store(tmp_path, files)
    first = store.put([1])
    files.fail_at, files.short = len(files.log), True
    with pytest.raises(CheckpointUnwritable):
        store.put([2])
    last = store.put([3])
    assert [store.get(first), store.get(last)] == [[1], [3]]


# Every state a power cut can leave behind: what was not synced is there, cut, zeroed or gone, in all combinations.


class Disk:
    """The operations of one store and journal, as the model of FAULTS 3.6 sees them."""

    def __init__(self, result: bytes, line: bytes) -> None:
        self.result = result
        self.line = line

    def states(self, steps: list[str]) -> Iterator[tuple[bytes | None, bytes]]:
        """Yield (what is at the result's name, what is in the journal)."""
        data = self._contents(self.result, synced="sync result" in steps) if "write result" in steps else {None}
        named = {True} if "sync folder" in steps else {False, True} if "rename" in steps else {False}
        journal = self._contents(self.line, synced="sync journal" in steps) if "write journal" in steps else {b""}
        for content in data:
            for is_named in named:
                for text in journal:
                    yield (content if is_named else None), text or b""

    @staticmethod
    def _contents(whole: bytes, *, synced: bool) -> set[bytes | None]:
        if synced:
            return {whole}
        cuts = {whole[: len(whole) * part // 4] for part in range(5)}
        return {*cuts, *(cut.ljust(len(whole), b"\0") for cut in cuts)}


PROTOCOL_F = ["write result", "sync result", "rename", "sync folder", "write journal", "sync journal"]


def every_loss(steps: list[str]) -> Iterator[list[str]]:
    """Yield *steps* with each choice of its syncs."""
    syncs = [step for step in steps if step.startswith("sync")]
    for left_out in chain.from_iterable(combinations(syncs, count) for count in range(len(syncs) + 1)):
        yield [step for step in steps if step not in left_out]


def test_no_crash_gives_a_wrong_value_and_protocol_f_loses_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    value = "v" * 2 * LARGE
    ref = store.put(value)
    path = file_of(tmp_path, ref)
    place = Place.open(tmp_path / "c")
    journal = place.journal(ref.run)
    journal.append({"t": 1.0, "ev": "task_finished", "run": ref.run, "result": ref.to_json()})
    journal.close()
    disk = Disk(path.read_bytes(), journal.path.read_bytes())
    checked: dict[bytes | None, str] = {}
    seen = 0
    for protocol in every_loss(PROTOCOL_F):
        for count in range(len(protocol) + 1):
            for content, text in disk.states(protocol[:count]):
                seen += 1
                records = scan_bytes(text).checked()
                if content not in checked:
                    path.unlink(missing_ok=True)
                    if content is not None:
                        path.write_bytes(content)
                    checked[content] = store.fault(ref)
                assert (checked[content] == "") == (content == disk.result)
                if protocol == PROTOCOL_F and records:
                    # Named by the journal: there, whole.
                    assert checked[content] == ""
                if protocol == PROTOCOL_F and count == len(protocol):
                    assert records
    assert seen > 100


def test_what_is_done_in_which_order(tmp_path: Path) -> None:
    files = BadFiles()
    store = open_store(tmp_path, files)
    files.log.clear()
    store.put("x" * 2 * LARGE)
    assert [call for call in files.log if call not in {"open", "write"}] == ["sync", "replace"]
    files.log.clear()
    store.sync()
    assert files.log == ["sync_folder"]
    store.put(1)
    files.log.clear()
    store.sync()
    assert files.log == ["sync", "sync_folder"]
    assert not store.dirty


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EACCES])
def test_a_system_that_can_not_sync_folders(tmp_path: Path, error: int) -> None:
    files = BadFiles(error=error)
    store = open_store(tmp_path, files)
    store.put(1)
    files.fail_at = len(files.log) + 1
    store.sync()
    assert files.log[files.fail_at] == "sync_folder"
