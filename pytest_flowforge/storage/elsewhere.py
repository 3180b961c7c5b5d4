"""Results that are stored from another machine, where there is no folder of the run: on a cluster, for instance.

Each is an object of its own in the store of the run's checkpoint. Whoever keeps the run writes down where it is, as of
any result, and fetches it when somebody reads it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_flowforge.errors import CheckpointError
from pytest_flowforge.storage.addresses import Address
from pytest_flowforge.storage.copies import Copy
from pytest_flowforge.storage.downloads import Downloads
from pytest_flowforge.storage.inventory import VERSION
from pytest_flowforge.storage.objects import Objects
from pytest_flowforge.storage.places import Place, check_run
from pytest_flowforge.storage.uploads import Uploads
from pytest_flowforge.storage.values import ResultStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_flowforge.core.records import ResultRef
    from pytest_flowforge.storage.codec import Codec

__all__ = ["get_elsewhere", "is_there", "put_elsewhere"]

#: Those that this process has asked, by process (a fork needs its own) and URL: connections are worth keeping.
_ASKED: dict[tuple[int, str], Objects] = {}


def put_elsewhere(url: str, run: str, value: Any, *, codecs: Sequence[Codec] | None = None) -> ResultRef:
    """Store *value* in the checkpoint at *url* as a result of *run*, and return where it is.

    ``codecs`` are tried in this order (by default JSON, then pickle); what is pickled is signed with the key of this
    machine, which is to be the same FLOWFORGE_KEY. The store has it when this returns. Raises
    :class:`ResultUnstorable`, and :class:`CheckpointError` for what is no id of a run and for a store that can not be
    used.
    """
    check_run(run)
    objects = _objects(url)
    with _passing_place() as place:
        place.restore(run).close()
        # The power may go: what matters is what is in the store.
        with contextlib.closing(ResultStore(place, run, codecs=codecs, sync_large=False)) as store:
            ref = store.put(value)
        Uploads(Copy(objects, place)).push_result(run, ref.segment)
    return ref


def get_elsewhere(url: str, ref: ResultRef, *, codecs: Sequence[Codec] | None = None) -> Any:
    """Return the value of the result *ref* of the checkpoint at *url*, verified as always.

    Raises :class:`ResultError`, and :class:`CheckpointError` for a URL that can not be used.
    """
    objects = _objects(url)
    with _passing_place() as place:
        place.fetch = Downloads(Copy(objects, place)).fetch
        with contextlib.closing(ResultStore(place, ref.run, codecs=codecs)) as store:
            return store.get(ref)


def is_there(url: str) -> bool:
    """Return whether the checkpoint at *url* can be reached from here."""
    try:
        _objects(url).get(VERSION)
    except (CheckpointError, FileNotFoundError):
        return False
    return True


def _objects(url: str) -> Objects:
    address = Address.of(url)
    key = (os.getpid(), address.url)
    if key not in _ASKED:
        _ASKED[key] = Objects.at(address)
    return _ASKED[key]


@contextlib.contextmanager
def _passing_place() -> Iterator[Place]:
    """A checkpoint that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="flowforge-") as folder,
        contextlib.closing(Place.open(Path(folder) / "passing")) as place,
    ):
        yield place
