"""Values that stay on a Dask cluster: what stands for one here, and how it comes to calls, or to this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flowforge.errors import ResultMissing
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ValueThere", "futures_in", "is_lost", "on_its_way", "values_in"]

_T = TypeVar("_T")


@dataclass(eq=False)
class ValueThere:
    """Stands for the value of the task *label* on the cluster; handed to a call, the value arrives in its place.

    ``gather`` fetches the value of a future. ``load`` returns the value where it is kept elsewhere, too; ``reload`` has
    a worker load it from there, and returns the future of that. ``way_out`` is what people can do once it is nowhere.
    """

    future: Any
    nbytes: int
    gather: Callable[[Any], Any]
    label: str = ""
    load: Callable[[], Any] | None = None
    reload: Callable[[], Any] | None = None
    way_out: str = ""
    _loading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def is_lost(self) -> bool:
        """Whether it has gone with the workers that had it, or could not be loaded there."""
        return is_lost(self.future)

    def fetch(self) -> Any:
        """Return the value; raise :class:`ResultMissing` where it can not be had any more."""
        why: BaseException | None = None
        if not self.is_lost:
            try:
                return self.gather(self.future)
            except Exception as error:  # noqa: BLE001 - it comes from Dask, or from methods of the value
                why = error
        elif self.future.status == "error":
            why = self.future.exception()
        if self.load is not None:
            return self.load()
        raise ResultMissing(self._why_missing(why)) from why

    def _why_missing(self, why: BaseException | None) -> str:
        if why is not None and self.future.status == "error":
            what = f"could not be loaded by a worker ({one_line(why)})"
        elif why is not None and not self.is_lost:
            # It may have gone on its way, and then that is why.
            what = f"can not be brought here ({one_line(why)})"
        else:
            what = "was lost with the worker that had it"
        text = f"the result of {self.label} {what}, and is not kept"
        return f"{text}: {self.way_out}" if self.way_out else text

    @property
    def is_to_be_loaded_here(self) -> bool:
        """Whether it is lost, and no worker can load it."""
        return self.is_lost and (self.reload is None or self.future.status == "error")

    def on_its_way(self, put: Callable[[Any], Any]) -> Any:
        """Return the future of it, which Dask replaces by the value; raise what loading it raises, where it is lost.

        ``put`` puts a value on the cluster, and returns the future of that.
        """
        with self._loading:
            if self.is_to_be_loaded_here:
                # It did not work, and would not the next time: that worker may not see where it is.
                self.reload = None
                self.future = put(self.fetch())
            elif self.is_lost and self.reload is not None:
                self.future = self.reload()
            return self.future


def values_in(inputs: Mapping[str, Any]) -> list[ValueThere]:
    """Return what stands for values among *inputs*, of which some are dicts of them."""
    return _instances_in(inputs, ValueThere)


def futures_in(inputs: Mapping[str, Any]) -> list[Any]:
    """Return the futures of Dask among *inputs* that are on their way, of which some are dicts of them."""
    from distributed import Future  # noqa: PLC0415 - an extra

    return _instances_in(inputs, Future)


def _instances_in(inputs: Mapping[str, Any], kind: type[_T]) -> list[_T]:
    found = []
    for value in inputs.values():
        found += [one for one in (value.values() if type(value) is dict else (value,)) if isinstance(one, kind)]
    return found


def is_lost(future: Any) -> bool:
    """Whether the value of a Dask future is nowhere on the cluster, and none is on its way there."""
    return future.status not in ("finished", "pending")


def on_its_way(value: Any, put: Callable[[Any], Any]) -> Any:
    """What is sent in the place of *value*, which may be a dict of such that are on the cluster."""
    if isinstance(value, ValueThere):
        return value.on_its_way(put)
    if type(value) is dict:
        return {name: on_its_way(one, put) for name, one in value.items()}
    return value
