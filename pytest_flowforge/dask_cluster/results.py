"""Results that workers of a Dask cluster store and load themselves, where they see the checkpoint of the run.

That is a folder that is there for them as well, or the store of the checkpoint, which they reach from anywhere. What is
pickled is signed: workers need the key of the run (FLOWFORGE_KEY).
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.errors import CheckpointError, ResultMissing, ResultUnstorable
from pytest_flowforge.failures import one_line
from pytest_flowforge.storage.blobs import describe
from pytest_flowforge.storage.codec import JsonCodec, PickleCodec
from pytest_flowforge.storage.elsewhere import get_elsewhere, is_there, put_elsewhere
from pytest_flowforge.storage.files import Files
from pytest_flowforge.storage.keys import Key
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowforge.storage.codec import Codec

__all__ = ["OTHER_KEY", "Keep", "load_result", "sees", "store_result"]


#: Why a worker does not store a result: what it signs would not be believed where the run is.
OTHER_KEY = "has another key"


@dataclass(frozen=True, slots=True)
class Keep:
    """Where results are kept: as those of *run* in the checkpoint in *folder*, and at *url* where that has a store.

    ``codecs`` are names of ours, or codecs that are packed. ``proof`` is what the key has signed with which stored
    results are read again.
    """

    folder: str
    url: str
    run: str
    codecs: tuple[str | bytes, ...]
    durable: bool
    proof: bytes

    @classmethod
    def of(cls, folder: Path, url: str, run: str, codecs: Iterable[Codec], *, durable: bool) -> Keep:
        """Return what workers have to know; raises what packing a codec raises."""
        packed = tuple(
            codec.name if isinstance(codec, JsonCodec | PickleCodec) else cloudpickle.dumps(codec) for codec in codecs
        )
        return cls(str(folder), url, run, packed, durable, _proof())

    def unpacked(self) -> list[Codec]:
        """Return the codecs."""
        return [_CODECS[one]() if isinstance(one, str) else cloudpickle.loads(one) for one in self.codecs]

    @property
    def has_our_key(self) -> bool:
        """Whether what is stored here is believed where the run is."""
        return _proof() == self.proof


_CODECS: Mapping[str, Callable[[], Codec]] = {JsonCodec.name: JsonCodec, PickleCodec.name: PickleCodec}


def _proof() -> bytes:
    """Return what only who has the same key can return."""
    return Key(Files()).sign("proof", bytes(32))


def _folder(keep: Keep) -> Place | None:
    """The checkpoint as it is here; None where its folder is not to be seen, or is another one of the same name."""
    with suppress(OSError, CheckpointError):
        place = Place.open(Path(keep.folder), create=False)
        if keep.run in place.runs():
            return place
        place.close()
    return None


# On workers.


def store_result(keep: Keep, value: Any) -> Sequence[Any] | str | None:
    """Store a value; return where it is, or in words why it can not be stored.

    That is None where there is no such place here.
    """
    try:
        place = _folder(keep)
        if place is None and not keep.url:
            return None
        if not keep.has_our_key:
            return OTHER_KEY
        if place is None:
            return list(put_elsewhere(keep.url, keep.run, value, codecs=keep.unpacked()).to_json())
        with closing(place):
            return _put(keep, place, value)
    except (CheckpointError, ResultUnstorable) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - it comes from the disk, or from codecs; the task itself has succeeded
        return f"could not be stored by its worker ({one_line(error)})"


def _put(keep: Keep, place: Place, value: Any) -> Sequence[Any]:
    with closing(ResultStore(place, keep.run, codecs=keep.unpacked(), sync_large=keep.durable)) as store:
        ref = store.put(value)
        if keep.durable:
            store.sync()
    return list(ref.to_json())


def sees(keep: Keep) -> bool:
    """Return whether results that are stored as *keep* says can be read here."""
    place = _folder(keep)
    if place is not None:
        place.close()
    elif not keep.url or not is_there(keep.url):
        return False
    return keep.has_our_key


def load_result(keep: Keep, ref: Sequence[Any]) -> Any:
    """Return a stored result; raise :class:`~pytest_flowforge.errors.ResultError`."""
    wanted = ResultRef(*ref)
    place = _folder(keep)
    if place is not None:
        with closing(place), closing(ResultStore(place, keep.run, codecs=keep.unpacked())) as store:
            try:
                return store.get(wanted)
            except ResultMissing:
                if not keep.url:
                    raise
    if not keep.url:
        msg = f"{describe(wanted)} is not to be seen from this worker"
        raise ResultMissing(msg)
    return get_elsewhere(keep.url, wanted, codecs=keep.unpacked())
