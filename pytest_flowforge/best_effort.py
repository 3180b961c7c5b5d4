"""Sinks that do not fail the run: what goes wrong there is told, once, and is no fault of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.core.messages import Event

__all__ = ["BestEffort"]


class BestEffort:
    """A sink that hands events on to *sink*, called *name*, until that raises: *tell* hears of it, and that is all.

    What is no error of the sink (Ctrl-C, and all else that *errors* does not name) passes.
    """

    def __init__(
        self,
        name: str,
        sink: Callable[[Event], object],
        tell: Callable[[str], None],
        errors: tuple[type[BaseException], ...] = (Exception,),
    ) -> None:
        self._name = name
        self._sink: Callable[[Event], object] | None = sink
        self._tell = tell
        self._errors = errors

    def __call__(self, event: Event) -> None:
        """Hand *event* on."""
        if self._sink is None:
            return
        try:
            self._sink(event)
        except self._errors as error:
            self._sink = None
            self._tell(f"{self._name}: {one_line(error)}; nothing more of the run is told there")
