"""Who keeps a store in step with the folder of a run while the run goes on: a process, or threads of this one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from pytest_flowforge.storage.locks import Holder
from pytest_flowforge.storage.objects import Objects
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.sender import Sender, nothing
from pytest_flowforge.storage.sender_process import SenderProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_flowforge.storage.addresses import Address

__all__ = ["Sending", "sending"]


class Sending(Protocol):
    """What a run asks of whoever keeps its store in step. All of it raises :class:`CheckpointError`."""

    def take(self, wait: float) -> None:
        """Take the store, waiting for at most *wait* seconds for another run; raise :class:`CheckpointLocked`."""

    def pull(self, *, settles: bool) -> list[str]:
        """Bring here what the store has; return what was said of contradictions that were settled."""

    def fetch(self, run: str, name: str, end: int) -> bool:
        """Bring a file with results here, of which *end* bytes are needed; return whether that was done."""

    def begin(self, run: str) -> None:
        """Send what *run* writes, from now on."""

    def replace_journal(self, run: str) -> None:
        """Make the journal of *run* there what it is here, after a repair."""

    def prune(self, gone: Sequence[str]) -> None:
        """Delete the runs *gone* there, which were deleted here."""

    def end(self, gone: Sequence[str], patience: float, on_slow: Callable[[], None] = nothing) -> tuple[list[str], str]:
        """Send what is new, delete the runs *gone* there and let the next run in.

        A store that has done nothing of it for *patience* seconds is waited for no longer. Calls *on_slow* once where
        all of it takes longer than some seconds. Returns sentences about what went wrong meanwhile, and
        what could not be sent, in words; empty for nothing.
        """

    def give_up(self) -> None:
        """Let the next run in, without anything else."""


def sending(address: Address, path: Path, interval: float) -> Sending:
    """Return who keeps the store at *address* in step with the checkpoint in the folder *path*.

    Raises :class:`CheckpointError`. What is in the memory of this process can not be seen from another one.
    """
    if address.protocol == "memory" or not sys.executable:
        return Sender(Objects.at(address), Place.open(path), Holder.here(""), interval)
    return SenderProcess(address, path, interval)
