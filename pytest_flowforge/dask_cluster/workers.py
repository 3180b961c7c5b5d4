"""The workers of a Dask cluster: who is there, and what they answer. Nobody waits for long for one that does not."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pytest_flowforge.errors import ClusterUnreachable
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = ["ANSWER", "Workers", "in_background", "unreachable"]

#: Seconds that a worker has to answer, before that is no matter any more.
ANSWER = 2.0


class Workers:
    """The workers of the cluster of *client*, as they were at the last look."""

    def __init__(self, client: Any) -> None:
        self._client = client
        #: Threads of each worker, by address. Replaced as a whole.
        self.threads: Mapping[str, int] = {}
        #: What each worker has that Dask calls resources. Replaced as a whole, too.
        self.resources: Mapping[str, Mapping[str, float]] = {}

    def look(self, patience: float) -> None:
        """Find out who is there; raise what that raises when the scheduler does not answer in time."""
        asked = self._on_loop(self._client.scheduler.identity())
        try:
            workers: Mapping[str, Any] = asked.result(patience)["workers"]
        finally:
            asked.cancel()
        self.resources = {address: worker.get("resources") or {} for address, worker in workers.items()}
        self.threads = {address: int(worker["nthreads"]) for address, worker in workers.items()}

    def most(self, name: str) -> float:
        """Return the most that a worker has of the resource *name*."""
        return max((float(has.get(name, 0)) for has in self.resources.values()), default=0.0)

    def that_have(self, resources: Mapping[str, float]) -> list[str]:
        """Return the workers that have so much of these resources."""
        return [
            worker
            for worker, has in self.resources.items()
            if all(has.get(name, 0) >= units for name, units in resources.items())
        ]

    def ask(self, worker: str, question: Callable[..., Any], *args: Any) -> Future[Any]:
        """Return the future of what a worker answers; None where it does not in time. No thread waits for that."""
        return self._on_loop(self._answer(worker, question, *args, on_error="ignore"))

    def ask_for_all(self, worker: str, question: Callable[..., Any]) -> Future[Any]:
        """As :meth:`ask`; what the worker raises is an answer."""
        return self._on_loop(self._answer(worker, question, on_error="return"))

    def answer(self, worker: str, question: Callable[..., Any], *args: Any) -> Any:
        """Return what a worker answers; None where it does not in time."""
        try:
            return self.ask(worker, question, *args).result(2 * ANSWER)
        except Exception:  # noqa: BLE001 - the client has gone
            return None

    async def _answer(self, worker: str, question: Callable[..., Any], *args: Any, on_error: str) -> Any:
        try:
            asked = asyncio.ensure_future(self._client.run(question, *args, workers=[worker], on_error=on_error))
            await asyncio.wait([asked], timeout=ANSWER)
            # And not waited for: to leave somebody who does not answer can take long.
            asked.cancel()
            return asked.result().get(worker) if asked.done() else None
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it has gone, or lets nothing else happen
            return None

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._client.loop.asyncio_loop)
        except BaseException:
            # It was closed.
            work.close()
            raise


def in_background(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call *function* on a thread of its own: who does not answer keeps nobody else waiting."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody asks
            future.set_exception(error)

    threading.Thread(target=work, name="flowforge-dask-ask", daemon=True).start()
    return future


#: What is raised when nobody answers: before Python 3.11, these are three classes.
_LATE = (TimeoutError, asyncio.TimeoutError, futures.TimeoutError)


def unreachable(error: BaseException, patience: float) -> ClusterUnreachable:
    """Return what is raised where the scheduler can not be asked, which it was to answer within *patience* seconds."""
    if isinstance(error, _LATE):
        return ClusterUnreachable(f"the Dask scheduler does not answer within {patience:g} s ({one_line(error)})")
    return ClusterUnreachable(f"the Dask scheduler can not be asked ({one_line(error)})")
