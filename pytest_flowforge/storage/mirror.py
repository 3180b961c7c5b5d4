"""A checkpoint in a store: a folder of this machine, and all that is in it in the store as well.

The folder is a checkpoint like any other: what was written there survives ``kill -9``, and nothing on the way of a task
waits for the network. What is new goes up from time to time, by a thread: results first, then the records of the
journal that name them, whole lines only. So whatever is in the store is the first part of what happened, with all its
results, at any moment. Journals come down when the checkpoint is opened, results when somebody reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.storage.copies import Copy
from pytest_flowforge.storage.downloads import Downloads
from pytest_flowforge.storage.uploads import Uploads

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_flowforge.storage.objects import Objects
    from pytest_flowforge.storage.places import Place

__all__ = ["Mirror"]


class Mirror:
    """The folder of *place* and the store of *objects*: ``down`` brings what is there here, ``up`` the other way.

    Threads may share it. Whatever asks the store raises :class:`CheckpointUnreachable`.
    """

    def __init__(self, objects: Objects, place: Place) -> None:
        self.copy = Copy(objects, place)
        self.down, self.up = Downloads(self.copy), Uploads(self.copy)

    @property
    def url(self) -> str:
        """What the store is called."""
        return self.copy.url

    @property
    def path(self) -> Path:
        """The folder of this machine."""
        return self.copy.place.path

    def pull(self, *, owns: bool, settles: bool = False) -> list[str]:
        """Bring the journals here that are in the store. Who *owns* both also deletes here what was deleted there.

        A journal that is not the same in both raises :class:`CheckpointDamaged`; with *settles* the one with more good
        records is kept, which is said in the sentences that are returned.
        """
        said = self.down.pull(owns=owns, settles=settles)
        if owns:
            self.up.compare()
        self.copy.place.fetch = self.down.fetch
        return said
