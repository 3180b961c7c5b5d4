"""The backends of runs that are not local, made for the executor of a session.

Loaded by sessions that use one: most of what it imports is of no use to the others.
"""

from __future__ import annotations

import importlib
from concurrent.futures import Executor as Pool
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.failures import one_line
from pytest_flowforge.hands import Hands
from pytest_flowforge.plugin.choosing import DASK, PROCESS, THREAD
from pytest_flowforge.plugin.local import LocalBackend
from pytest_flowforge.plugin.pools import PoolBackend, as_it_came, body_of
from pytest_flowforge.plugin.processes import ProcessBackend
from pytest_flowforge.plugin.travelling import answer_of, order_of, travel_by_value
from pytest_flowforge.plugin.workers import Workers
from pytest_flowforge.plugin.xdist_internals import Controller

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowforge.plugin.backends import Backend, Work
    from pytest_flowforge.plugin.choosing import Choice
    from pytest_flowforge.plugin.cluster_options import ClusterOptions
    from pytest_flowforge.plugin.options import Options

__all__ = ["backend_maker"]


def backend_maker(config: pytest.Config, options: Options, choice: Choice) -> Callable[[Work], Backend]:
    """Return what makes the backend of a run; what is to be there before the session starts is made now.

    Raises UsageError for an executor that nobody knows.
    """
    if choice.name == PROCESS:
        workers = Workers(partial(Controller, config))
        config.pluginmanager.register(workers, "flowforge-workers")
        return partial(ProcessBackend, workers=workers)
    if choice.name == THREAD:
        return partial(_in_threads, partial(Hands, choice.workers), choice.workers)
    if choice.name == DASK:
        # A cluster that was there before has as many threads as it has, unless somebody wants fewer.
        most = options.workers or None if options.cluster.address else choice.workers
        return partial(_in_cluster, options.cluster, most)
    make_pool = _pool_maker(config, choice)
    return partial(_in_pool, make_pool, choice.workers)


def _in_cluster(options: ClusterOptions, workers: int | None, work: Work) -> Backend:
    if all(task.id in work.reuse.restored for task in work.graph):
        # Nobody needs to connect, or to start anything.
        return LocalBackend(work)
    from pytest_flowforge.plugin.cluster import ClusterBackend  # noqa: PLC0415 - nobody else needs it

    return ClusterBackend(work, options, workers)


def _in_threads(make_pool: Callable[[], Pool], workers: int, work: Work) -> Backend:
    return PoolBackend(work, make_pool, workers, prepare=body_of, decode=as_it_came)


def _in_pool(make_pool: Callable[[], Pool], workers: int, work: Work) -> Backend:
    pool = make_pool()
    first = [pool]

    def make() -> Pool:
        return first.pop() if first else make_pool()

    # An interpreter of its own is not reached by reference, although it is a thread.
    if isinstance(pool, ThreadPoolExecutor) and type(pool).__name__ != "InterpreterPoolExecutor":
        return _in_threads(make, workers, work)
    travel_by_value(work.entries.values())
    return PoolBackend(work, make, workers, prepare=order_of, decode=answer_of)


def _pool_maker(config: pytest.Config, choice: Choice) -> Callable[[], Pool]:
    module, colon, name = choice.name.partition(":")
    if not colon:

        def ask() -> Pool:
            pool = config.hook.pytest_flowforge_make_executor(config=config, name=choice.name, workers=choice.workers)
            if pool is None:
                msg = (
                    f"--ff-executor {choice.name}: there is no such executor; use local, thread, process, dask, "
                    "one that a plugin makes by pytest_flowforge_make_executor, or package.module:factory"
                )
                raise pytest.UsageError(msg)
            return _checked(pool, choice.name)

        return ask
    try:
        factory = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"--ff-executor {choice.name}: {error}; write package.module:factory, with a factory that can be imported"
        raise pytest.UsageError(msg) from error

    def make() -> Pool:
        try:
            pool = factory(choice.workers)
        except Exception as error:
            msg = f"--ff-executor {choice.name}: called with {choice.workers} it raised {one_line(error)}"
            raise pytest.UsageError(msg) from error
        return _checked(pool, choice.name)

    return make


def _checked(pool: Any, name: str) -> Pool:
    if not all(callable(getattr(pool, method, None)) for method in ("submit", "shutdown")):
        msg = (
            f"--ff-executor {name} made {pool!r:.100}, which has no submit() and shutdown(): an executor has the "
            "interface of concurrent.futures.Executor"
        )
        raise pytest.UsageError(msg)
    return pool  # type: ignore[no-any-return]
