"""The calls of a workflow in code on a Dask cluster: its own, or that of a client that somebody has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_flowforge.dask_cluster.connecting import Cluster, start
from pytest_flowforge.dask_cluster.orders import Order
from pytest_flowforge.dask_cluster.pool import Answer, DaskPool, Request, told_at
from pytest_flowforge.errors import ClusterError, ClusterUnreachable, WorkflowError
from pytest_flowforge.executors.calls import unpack
from pytest_flowforge.executors.futures import FuturesExecutor
from pytest_flowforge.workflow.calls import packed_call, taken_in
from pytest_flowforge.workflow.executing import InPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge import ports
    from pytest_flowforge.core.model import Outcome
    from pytest_flowforge.ports import Job
    from pytest_flowforge.workflow.calls import Call

__all__ = ["ClusterPlace"]

#: Seconds that the scheduler may be silent, and that a call has to end when its time is up.
_PATIENCE, _GRACE = 30.0, 3.0


class ClusterPlace(InPool):
    """The threads of the workers of a cluster; what calls return comes back.

    *client* is one of ``distributed``, which stays open; None for a cluster of *workers* processes on this machine,
    which goes with the run. Raises :class:`WorkflowError` where there is no cluster, or none that could make the calls.
    """

    def __init__(self, client: Any, clock: ports.Clock, workers: int | None, tell: Callable[[str], None]) -> None:
        if getattr(client, "asynchronous", False):
            msg = (
                "executor=: an asynchronous client of Dask can not be waited for here: use one that was made without "
                "asynchronous=True"
            )
            raise WorkflowError(msg)
        try:
            cluster = start(workers or os.cpu_count() or 1, _PATIENCE) if client is None else Cluster(client)
        except ClusterUnreachable as error:
            msg = f'{error}; in a script, run() has to stand below `if __name__ == "__main__":`'
            raise WorkflowError(msg) from error
        except ClusterError as error:
            raise WorkflowError(str(error)) from error
        close = cluster.close if client is None else _nothing
        try:
            cluster.check_workers(_PATIENCE)
            pool = DaskPool(
                cluster.client,
                os.urandom(4).hex(),
                _order_of,
                most=workers,
                patience=_PATIENCE,
                grace=_GRACE,
                close=close,
                replenish=cluster.replenish,
                tell=tell,
                alert=tell,
            )
        except ClusterError as error:
            close()
            raise WorkflowError(str(error)) from error
        except BaseException:
            close()
            raise
        super().__init__(lambda: pool, clock, pool.slots)
        # Closed also where nothing was to be run.
        self._pool = pool

    def _executor(self, make_pool: Callable[[], Any], slots: int, clock: ports.Clock) -> FuturesExecutor:
        return FuturesExecutor(make_pool, slots, clock, prepare=self._request_of, decode=_answer_of)

    def close(self) -> None:
        super().close()
        self._pool.shutdown()

    def _request_of(self, job: Job) -> tuple[Any, tuple[Any, ...]]:
        call: Call = job.call.__self__  # type: ignore[attr-defined]
        limited = (job.task, job.attempt) in self._limits
        options: dict[str, Any] = {**told_at(call.tell)} if limited else {}
        return Request(str(job.task), packed_call(call), **options), ()


def _order_of(key: str, topic: str, request: Request) -> Order:
    return Order(key, topic, request.call, request.on_begin is not None, previews=False, keep=None, paths=())


def _answer_of(job: Job, payload: Any) -> tuple[Outcome, Any]:
    answer: Answer = payload
    came = unpack(answer.data)
    if answer.value is not None:
        came.value = answer.value.fetch()
    return taken_in(job, came)


def _nothing() -> None:
    """Leave the client alone."""
