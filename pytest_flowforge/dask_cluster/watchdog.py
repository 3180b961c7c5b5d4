"""What the scheduler of a Dask cluster does for us. All of it travels there by value: it need not know this package."""

from __future__ import annotations

from typing import Any

__all__ = ["PREFIX", "belonging_to", "has_dashboard", "others_on", "stranded", "sweeper", "watchdog", "without"]

#: How the keys of our calls begin. What the dashboard groups by ends at the first dash.
PREFIX = "flowforge:"


def watchdog() -> Any:
    """Return a plugin for the scheduler that has our calls, and no others, made once.

    By itself Dask gives the call of a worker that died to three more workers, and makes calls again whose results were
    lost with a worker. Retries are ours, and so are the results that are kept.
    """
    from distributed import SchedulerPlugin  # noqa: PLC0415 - an extra

    prefix = PREFIX

    class Watchdog(SchedulerPlugin):  # type: ignore[misc]
        name = "pytest-flowforge-1"
        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def transition(self, key: Any, _start: str, finish: str, *_: Any, **__: Any) -> None:
            if not isinstance(key, str) or not key.startswith(prefix):
                return
            task = self.scheduler.tasks.get(key)
            if task is None:
                return
            if finish == "processing":
                # As many deaths as are allowed are behind it.
                task.suspicious = self.scheduler.allowed_failures
            elif finish == "memory":
                # As for data that somebody has put there: nobody knows how to make it again.
                task.run_spec = None

    return Watchdog()


def sweeper() -> Any:
    """Return a plugin for the scheduler that keeps nothing of what our calls tell, which is over once it was sent.

    By itself Dask keeps the last thousand events of each topic, and each topic for ever. Each run has one.
    """
    from distributed import SchedulerPlugin  # noqa: PLC0415 - an extra

    prefix = PREFIX

    class Sweeper(SchedulerPlugin):  # type: ignore[misc]
        name = "pytest-flowforge-events-1"
        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def log_event(self, topic: str, _: Any) -> None:
            topics = self._topics()
            if not topic.startswith(prefix) or topic not in topics:
                return
            if topics[topic].subscribers:
                topics[topic].events.clear()
            else:
                # A worker tells something, and the run is over.
                del topics[topic]

        def remove_client(self, scheduler: Any, client: str) -> None:
            # A run that was killed says nothing.
            topics = self._topics()
            for name in [name for name in topics if name.startswith(prefix)]:
                if not topics[name].subscribers & scheduler.clients.keys() - {client}:
                    del topics[name]

        def _topics(self) -> Any:
            # There is no public way to be rid of one.
            return getattr(getattr(self.scheduler, "_broker", None), "_topics", {})

    return Sweeper()


def without(topic: str) -> Any:
    """Return a function for the scheduler that forgets *topic*."""

    def forget(dask_scheduler: Any = None) -> None:
        getattr(getattr(dask_scheduler, "_broker", None), "_topics", {}).pop(topic, None)

    return forget


def belonging_to(run: str) -> Any:
    """Return a function, for here and for the scheduler: whether a key is that of something *run* has handed over."""
    start, mark = PREFIX, f"-{run}-"

    def belongs(key: Any) -> bool:
        return isinstance(key, str) and key.startswith(start) and mark in key

    return belongs


def others_on(run: str) -> Any:
    """Return a function for the scheduler: how many tasks and results of others a worker has, by its address.

    Others are all that do not belong to *run*, other runs of ours among them.
    """
    belongs = belonging_to(run)

    def count(address: str, dask_scheduler: Any = None) -> int:
        worker = dask_scheduler.workers.get(address)
        if worker is None:
            return 0
        keys = {task.key for task in (*worker.processing, *worker.has_what)}
        return sum(not belongs(key) for key in keys)

    return count


def stranded() -> Any:
    """Return a function for the scheduler: the keys of what waits for workers of which none is there any more."""

    def wait_in_vain(dask_scheduler: Any = None) -> list[Any]:
        there = dask_scheduler.workers.keys()
        return [
            task.key
            for task in dask_scheduler.unrunnable
            if task.worker_restrictions and there.isdisjoint(task.worker_restrictions)
        ]

    return wait_in_vain


def has_dashboard() -> Any:
    """Return a function for the scheduler: whether it serves Dask's dashboard."""

    def serves(dask_scheduler: Any = None) -> bool:
        if "dashboard" not in dask_scheduler.services:
            return False
        # A dashboard is an application of Bokeh besides the pages of the server.
        return bool(getattr(dask_scheduler.http_application, "applications", True))

    return serves
