"""How often, after how long and after what a task is tried again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["NO_RETRY", "RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A small value with two questions: is this failure retried, and when.

    ``max_retries`` attempts may follow the first one. The wait before retry *n* (from 1) is
    ``delay * backoff ** (n - 1)`` seconds, at most ``max_delay``, or what ``wait(n)`` returns where a strategy
    is given; ``jitter`` (0 to 1) makes it longer by up to that share. ``on`` and ``not_on`` hold qualified
    names of exception classes (``builtins.OSError``); an empty ``on`` means any failure, and ``not_on`` goes first.
    """

    max_retries: int = 0
    delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    on: tuple[str, ...] = ()
    not_on: tuple[str, ...] = ()
    wait: Callable[[int], float] | None = None

    def wants(self, attempt: int, mro: tuple[str, ...], members: Iterable[tuple[str, ...]] = ()) -> bool:
        """Whether a failure of *attempt* (from 1) by an exception with these classes is tried again.

        *members* are the classes of each exception in a group: it is retried on what all of them, or the group itself,
        would be retried on, and not on what one of them would not. A crash or a time-out has no classes: it is
        retried unless ``on`` asks for particular ones.
        """
        if attempt > self.max_retries:
            return False
        members = tuple(members)
        not_on, on = set(self.not_on), set(self.on)
        if not all(map(not_on.isdisjoint, (mro, *members))):
            return False
        if not on or not on.isdisjoint(mro):
            return True
        return bool(members) and not any(map(on.isdisjoint, members))

    @property
    def is_seeded(self) -> bool:
        """Whether how long a retry waits depends on a seed."""
        return bool(self.max_retries and self.jitter)

    def seconds_before(self, retry: int, key: str) -> float:
        """Seconds to wait before *retry* (from 1); the same *key* always gets the same jitter."""
        seconds = self.wait(retry) if self.wait is not None else self._exponential(retry)
        if self.jitter:
            seconds *= 1.0 + self.jitter * _share(f"{key}#{retry}")
        # The bound holds whatever strategy, jitter included.
        if self.max_delay is not None:
            seconds = min(seconds, self.max_delay)
        return max(seconds, 0.0)

    def _exponential(self, retry: int) -> float:
        try:
            return self.delay * self.backoff ** (retry - 1)
        except OverflowError:
            # 2.0 ** 1024 does not fit a float: the wait is then as long as it may be.
            return self.max_delay if self.max_delay is not None else float("inf")


#: One attempt and no more.
NO_RETRY = RetryPolicy()


def _share(key: str) -> float:
    """A number in [0, 1) that depends on nothing but *key*, so that two runs with one seed wait alike."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
