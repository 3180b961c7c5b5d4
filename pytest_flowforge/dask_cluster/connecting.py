"""Finding a Dask cluster, or starting one on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_flowforge.dask_cluster import leash
from pytest_flowforge.dask_cluster.likeness import SAME_THERE, differences, facts_of
from pytest_flowforge.dask_cluster.watchdog import has_dashboard
from pytest_flowforge.dask_cluster.workers import in_background, unreachable
from pytest_flowforge.errors import ClusterError, ClusterUnreachable
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Cluster", "connect", "start"]


class Cluster:
    """What *client* is one of. *cluster* was started here, with so many *workers*, and goes when this is closed."""

    def __init__(self, client: Any, cluster: Any = None, workers: int = 0) -> None:
        self.client = client
        self._cluster = cluster
        self._workers = workers

    @property
    def address(self) -> str:
        return str(self.client.scheduler.address)

    @property
    def dashboard(self) -> str:
        """The link of Dask's dashboard; empty where there is none."""
        # With --no-dashboard, too, there is a server: it has other pages.
        try:
            is_there = in_background(self.client.run_on_scheduler, has_dashboard()).result(_ANSWER)
        except Exception:  # noqa: BLE001 - it is only to be shown
            return ""
        return str(self.client.dashboard_link or "") if is_there else ""

    @property
    def is_open_to_others(self) -> bool:
        """Whether whoever reaches the machine of the scheduler can have code executed there."""
        scheme, _, rest = self.address.partition("://")
        host = urlsplit(f"//{rest}").hostname or ""
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = host == "localhost"
        return scheme in ("tcp", "ws") and not here

    @property
    def replenish(self) -> Callable[[], None] | None:
        """What starts workers that are missing; None where that is not for us to do.

        Their nannies do so by themselves, but for a worker that dies just when its nanny has started it: Dask lets that
        one go after a while (``distributed.deploy.lost-worker-timeout``), and starts another one when it is asked to.
        """
        return None if self._cluster is None else partial(self._cluster.scale, self._workers)

    def check_workers(self, patience: float) -> None:
        """Raise :class:`ClusterError` when workers can not make our calls, because of what is installed there.

        Raises :class:`ClusterUnreachable` when the scheduler does not answer within *patience* seconds. Workers that do
        not, which may be busy, are taken for alike.
        """
        try:
            facts: Mapping[str, Any] = self.client.sync(self._ask_all, patience, callback_timeout=2 * patience)
        except Exception as error:
            raise unreachable(error, patience) from error
        problems = [problem for worker, there in facts.items() for problem in differences(worker, there)]
        if problems:
            shown = "; ".join(problems[:_MOST])
            more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
            msg = f"the workers of {self.address} and this process are not alike: {shown}{more}. {SAME_THERE}"
            raise ClusterError(msg)

    async def _ask_all(self, patience: float) -> dict[str, Any]:
        """Return the facts of those workers that tell them in time."""
        identity = await asyncio.wait_for(self.client.scheduler.identity(), patience)
        asked = {
            worker: asyncio.ensure_future(self.client.run(facts_of(), workers=[worker]))
            for worker in identity["workers"]
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=min(patience, _ANSWER))
        for answer in asked.values():
            answer.cancel()
        return {
            worker: answer.exception() or answer.result()[worker]
            for worker, answer in asked.items()
            if answer.done() and not answer.cancelled()
        }

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        # A scheduler that has gone answers to neither.
        with suppress(Exception):
            self.client.close(timeout=_FAREWELL)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=_FAREWELL)


#: Seconds that workers have to tell what is installed there.
_ANSWER = 5.0

#: Seconds that it may take to leave a cluster.
_FAREWELL = 5.0

#: What Dask raises when nobody answers, or answers something else. In Python 3.10, a time-out is no OSError.
_ERRORS = (OSError, ValueError, RuntimeError, TypeError, asyncio.TimeoutError)

#: Differences that are shown.
_MOST = 5


def connect(address: str, patience: float) -> Cluster:
    """Return a client of the cluster whose scheduler is at *address*, or is described by that file.

    Raises :class:`ClusterUnreachable` when nobody answers within *patience* seconds, and :class:`ClusterError` for what
    is no address, and without Dask.
    """
    distributed = _distributed()
    where: dict[str, Any] = {"address": address}
    if "://" not in address:
        if not Path(address).is_file():
            msg = "it is neither the address of a scheduler (tcp://HOST:PORT, tls://HOST:PORT) nor a scheduler file"
            raise ClusterError(msg)
        where = {"scheduler_file": address}
    else:
        _check(address)
    try:
        client = distributed.Client(**where, timeout=patience, set_as_default=False, name="pytest-flowforge")
    except _ERRORS as error:
        msg = f"no Dask scheduler answers there within {patience:g} s ({one_line(error)})"
        raise ClusterUnreachable(msg) from None
    return Cluster(client)


def _check(address: str) -> None:
    """Raise :class:`ClusterError` for what Dask can not connect to: its clients would wait for themselves."""
    scheme = address.partition("://")[0]
    known = import_module("distributed.comm.registry").backends
    if scheme not in known:
        msg = f"Dask has no addresses that begin with {scheme}://: use tcp:// or tls://"
        raise ClusterError(msg)
    if scheme in ("tls", "wss"):
        try:
            context = import_module("distributed.security").Security().get_connection_args("client")["ssl_context"]
        except (OSError, ValueError, RuntimeError) as error:
            msg = (
                f"the certificate for it can not be used ({one_line(error)}): see distributed.comm.tls of Dask's "
                "configuration"
            )
            raise ClusterError(msg) from error
        if context is None:
            msg = (
                "a certificate is needed for it: name distributed.comm.tls.client.cert, tls.client.key and tls.ca-file "
                "in Dask's configuration"
            )
            raise ClusterError(msg)


def start(workers: int, patience: float) -> Cluster:
    """Start *workers* processes of one thread each, which only this machine can reach.

    Raises :class:`ClusterUnreachable`, and :class:`ClusterError` without Dask.
    """
    distributed = _distributed()
    # Its scheduler is in this process, and what it says of its work would be in the reports of tasks.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    before = dict(os.environ)
    with ExitStack() as stack:
        # What nannies set for their workers they set here.
        stack.callback(_restore, before)
        try:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                # Besides those of the user, whose place this takes.
                preload=[*import_module("dask.config").get("distributed.worker.preload"), leash.__name__],
            )
            stack.callback(cluster.close)
            client = distributed.Client(cluster, timeout=patience, set_as_default=False, name="pytest-flowforge")
        except _ERRORS as error:
            msg = f"a Dask cluster of {workers} workers could not be started here ({one_line(error)})"
            raise ClusterUnreachable(msg) from error
        stack.pop_all()
    _restore(before)
    return Cluster(client, cluster, workers)


def _restore(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError:
        msg = "--ff-executor dask needs Dask: pip install 'pytest-flowforge[dask]'"
        raise ClusterError(msg) from None
