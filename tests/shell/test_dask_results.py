"""Results that workers of a cluster store and load by themselves: in the folder of the checkpoint, or in its store."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.dask_cluster.results import OTHER_KEY, Keep, load_result, sees, store_result
from pytest_flowforge.errors import ResultMissing, ResultRefused
from pytest_flowforge.storage.addresses import Address
from pytest_flowforge.storage.codec import JsonCodec, PickleCodec
from pytest_flowforge.storage.mirror import Mirror
from pytest_flowforge.storage.objects import Objects
from pytest_flowforge.storage.places import Place

if TYPE_CHECKING:
    from pathlib import Path

_CODECS = (JsonCodec(), PickleCodec())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "the one of the run")


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """A run with its folder, whose checkpoint has a store."""
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path / 'store'}"
    with closing(Place.open(tmp_path / "here")) as place:
        run = place.new_run(time.time())
        place.journal(run).close()
        Mirror(Objects.at(Address.of(url)), place).copy.open(create=True)
    return Keep.of(tmp_path / "here", url, run, _CODECS, durable=True)


_VALUES: list[Any] = [{"plain": [1, 2.5, None]}, {1, 2}, b"x" * 3_000_000]


@pytest.mark.parametrize("value", _VALUES, ids=["json", "pickle", "large"])
def test_results_are_where_the_worker_sees_the_checkpoint(value: Any, keep: Keep, tmp_path: Path) -> None:
    far = replace(keep, folder=str(tmp_path / "not there"))
    for there in (keep, far):
        assert sees(there)
        stored: Any = store_result(there, value)
        assert isinstance(stored, list)
        assert stored[0] == keep.run
        assert load_result(there, stored) == value
    # What was stored from elsewhere is not in the folder, and found all the same.
    assert load_result(keep, stored) == value


def test_without_a_store_there_has_to_be_a_folder(keep: Keep, tmp_path: Path) -> None:
    nowhere = replace(keep, folder=str(tmp_path / "not there"), url="")
    assert not sees(nowhere)
    assert store_result(nowhere, 1) is None
    stored = store_result(keep, [1])
    assert isinstance(stored, list)
    with pytest.raises(ResultMissing):
        load_result(nowhere, stored)
    with pytest.raises(ResultMissing):
        load_result(replace(keep, url=""), [*stored[:1], "0" * 32 + ".seg", *stored[2:]])


def test_another_run_in_a_folder_of_that_name_is_not_this_one(keep: Keep) -> None:
    other = replace(keep, run="20260101-000000-0000", url="")
    assert not sees(other)
    assert store_result(other, 1) is None


def test_a_worker_with_another_key_stores_nothing(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWFORGE_KEY", "another one")
    assert not sees(keep)
    assert store_result(keep, 1) == OTHER_KEY


def test_what_can_not_be_stored_is_said(keep: Keep) -> None:
    told = store_result(keep, {"deep": [threading.Lock()]})
    assert isinstance(told, str)
    assert "result['deep'][0]: _thread.lock" in told


def test_a_store_that_can_not_be_reached_is_said(keep: Keep, tmp_path: Path) -> None:
    gone = replace(keep, folder=str(tmp_path / "not there"), url="nosuch://bucket/prefix")
    assert not sees(gone)
    told = store_result(gone, 1)
    assert isinstance(told, str)
    assert "nosuch" in told


def test_codecs_of_plugins_travel_packed(keep: Keep) -> None:
    class Shouting:
        name = "shouting"
        signed = False

        def accepts(self, value: Any) -> bool:
            return isinstance(value, str)

        def encode(self, value: str, out: Any) -> list[memoryview]:
            out.write(value.upper().encode())
            return []

        def decode(self, stream: memoryview, buffers: Any) -> str:
            del buffers
            return bytes(stream).decode()

    shouting = Keep.of(keep.folder, keep.url, keep.run, [Shouting(), *_CODECS], durable=False)  # type: ignore[arg-type]
    stored = store_result(shouting, "quiet")
    assert isinstance(stored, list)
    assert ResultRef(*stored).codec == "shouting"
    assert load_result(shouting, stored) == "QUIET"
    with pytest.raises(ResultRefused):
        load_result(keep, stored)
