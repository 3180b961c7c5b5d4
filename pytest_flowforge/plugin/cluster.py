"""Tasks on a Dask cluster: set up and torn down in this process, called there; their results stay there."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Outcome, Success
from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.dask_pool import DaskPool, OnCluster, call_on_worker, store_on_worker
from pytest_flowforge.executors.calls import pack, unpack
from pytest_flowforge.failures import one_line
from pytest_flowforge.plugin.bodies import Body
from pytest_flowforge.plugin.pools import PoolBackend
from pytest_flowforge.plugin.travelling import taken_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor as Pool

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.backends import Work
    from pytest_flowforge.ports import Job

__all__ = ["ClusterBackend", "pool_maker"]

#: Seconds that a scheduler has to answer.
_PATIENCE = 20

#: Bytes of a result that is fetched to be kept, where the workers do not share the file system of this process.
_FETCHED = 64 << 20


def pool_maker(name: str, workers: int, address: str) -> Callable[[], DaskPool]:
    """Return what connects to the cluster at *address*, or starts one; raises UsageError without Dask."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        msg = "--ff-executor dask needs Dask: pip install 'pytest-flowforge[dask]'"
        raise pytest.UsageError(msg) from None

    def make() -> DaskPool:
        if not address:
            cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50
            )
            client = distributed.Client(cluster, set_as_default=False)

            def close() -> None:
                client.close()
                cluster.close()

            return DaskPool(client, name, close)
        try:
            client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            msg = f"--ff-dask-address {address}: no scheduler answers there within {_PATIENCE} s ({one_line(error)})"
            raise pytest.UsageError(msg) from None
        return DaskPool(client, name, client.close)

    return make


class ClusterBackend(PoolBackend):
    """Keeps results where they are, and has the workers store them where these can."""

    def __init__(self, work: Work, make_pool: Callable[[], Pool], workers: int) -> None:
        super().__init__(work, make_pool, workers, prepare=_order_of, decode=_answer_of)

    def keep(self, task: TaskId, value: Any) -> int | None:
        if not isinstance(value, OnCluster):
            return super().keep(task, value)
        self.values.put(task, value, stored=False)
        return self._keep_there(task, value)

    def _keep_there(self, task: TaskId, value: OnCluster) -> int | None:
        """Have the worker that made *value* store it; where it can not, fetch and store it if it is not too large."""
        checkpointing = self._work.checkpointing
        keeper = checkpointing.keeper
        if keeper is None or checkpointing.path is None:
            return None
        facts = value.ask(store_on_worker, str(Path(checkpointing.path)), keeper.run)
        if isinstance(facts, list):
            ref = ResultRef(*facts)
            keeper.stored(task, ref)
            return ref.length
        label = self._work.graph[task].label
        if facts:
            self._work.tell(f"the result of {label} {facts}: {label} runs again on --ff-resume")
            return None
        if value.nbytes > _FETCHED:
            self._work.tell(
                f"the result of {label} ({value.nbytes / 1e6:,.0f} MB) is on the cluster alone, whose workers do not "
                f"share {checkpointing.path}: {label} runs again on --ff-resume"
            )
            return None
        return self._work.size_of(task) if self._work.store(task, value.fetch()) else None


def _order_of(job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What is sent for a job; raises what pickling raises."""
    body = getattr(job.call, "__self__", None)
    if not isinstance(body, Body):
        return int, ()
    there = {name: value for name, value in body.arguments.items() if _is_there(value)}
    here = {name: value for name, value in body.arguments.items() if name not in there}
    filters = warnings.filters if body.output.filters is None else body.output.filters
    return call_on_worker, (pack(body.function, here, filters), there)


def _is_there(value: Any) -> bool:
    return isinstance(value, OnCluster) or (
        type(value) is dict and any(isinstance(one, OnCluster) for one in value.values())
    )


def _answer_of(job: Job, payload: Any) -> tuple[Outcome, Any]:
    """What a job came to."""
    body = getattr(job.call, "__self__", None)
    if not isinstance(body, Body):
        return job.call()
    data, value = payload
    came = unpack(data)
    if value is not None:
        came.value = value
    taken_in(body, came)
    return Success(), body
