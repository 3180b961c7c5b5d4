"""Tasks on a Dask cluster: set up and torn down in this process, called there; their results stay there."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from pytest_flowforge.codeprint.project import FileCache, Project
from pytest_flowforge.core.model import Outcome, Success
from pytest_flowforge.core.records import ResultRef
from pytest_flowforge.dask_cluster.connecting import Cluster, connect, start
from pytest_flowforge.dask_cluster.orders import SMALL, Order
from pytest_flowforge.dask_cluster.pool import Answer, DaskPool, Request, told_at
from pytest_flowforge.dask_cluster.results import OTHER_KEY, Keep
from pytest_flowforge.dask_cluster.values import ValueThere
from pytest_flowforge.errors import ClusterError, ClusterUnreachable
from pytest_flowforge.executors.calls import unpack
from pytest_flowforge.plugin.bodies import Body
from pytest_flowforge.plugin.pools import PoolBackend, body_of
from pytest_flowforge.plugin.travelling import packed_call, taken_in, travel_by_value
from pytest_flowforge.plugin.values import Arrivals, Values
from pytest_flowforge.storage.files import Files
from pytest_flowforge.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord
    from pytest_flowforge.plugin.backends import Work
    from pytest_flowforge.plugin.cluster_options import ClusterOptions
    from pytest_flowforge.plugin.entries import Entry
    from pytest_flowforge.ports import Job

__all__ = ["ClusterBackend"]


class ClusterBackend(PoolBackend):
    """Keeps results where they are, and has the workers store them where these can.

    Raises UsageError where no cluster can be had. *workers* is how many there are to be in a cluster of our own, and
    how many tasks run at a time in any other (None: as many as it has threads).
    """

    writes_here = False

    def __init__(self, work: Work, options: ClusterOptions, workers: int | None) -> None:
        self._options = options
        self._has_alerted = False
        #: Where people read while pytest keeps what is written.
        self._errors = os.dup(2)
        self._cluster = _cluster_of(options, workers or 1)
        try:
            self._cluster.check_workers(options.timeout)
            pool = DaskPool(
                self._cluster.client,
                _mark(),
                self._order_of,
                most=workers,
                patience=options.timeout,
                grace=work.grace,
                close=self._cluster.close,
                replenish=self._cluster.replenish,
                tell=work.tell,
                alert=self._alert,
            )
        except ClusterUnreachable as error:
            self._cluster.close()
            pytest.exit(_about(options, error), pytest.ExitCode.INTERNAL_ERROR)
        except ClusterError as error:
            self._cluster.close()
            raise pytest.UsageError(str(error)) from error
        except BaseException:
            self._cluster.close()
            raise
        self._dask = pool
        _say(work.session.config, self._cluster, pool)
        super().__init__(work, lambda: pool, pool.slots, prepare=self._request_of, decode=self._answer_of)
        self.values: ValuesThere = ValuesThere.of(work)
        self.values.there = self._earlier
        self.sinks = (self.values, *self.sinks[1:])
        _travel(work.entries.values(), work.session.config)
        work.session.config.pluginmanager.register(self, "flowforge-cluster")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        os.close(self._errors)
        self._errors = -1
        # What has not run is no fault of the flow.
        if self._dask.lost and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _alert(self, sentence: str) -> None:
        with suppress(OSError):
            os.write(self._errors, f"\nflowforge: {sentence}\n".encode(errors="backslashreplace"))

    # What is sent, and what comes back.

    def _request_of(self, job: Job) -> tuple[Any, tuple[Any, ...]]:
        body = getattr(job.call, "__self__", None)
        if not isinstance(body, Body):
            return _nothing, ()
        there = {name: value for name, value in body.arguments.items() if _is_there(value)}
        limited = (job.task, job.attempt) in self._limits
        here = {name: value for name, value in body.arguments.items() if name not in there}
        task = self._work.graph[job.task]
        resources = self._options.resources
        request = Request(
            name=self._work.entries[job.task].home.label,
            call=packed_call(body, here),
            inputs=there,
            priority=task.priority,
            resources={resources[pool]: units for pool, units in task.pools if pool in resources},
            **(told_at(body.tell) if limited else {}),
        )
        return request, ()

    def _order_of(self, key: str, topic: str, request: Request) -> Order:
        previews = self._work.page is not None and self._work.page.shows_values
        return Order(key, topic, request.call, request.on_begin is not None, previews, self._keep, self._paths)

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """What this process has put before its path, to import what belongs to the project."""
        project = Project([self._work.session.config.rootpath], FileCache())
        return tuple(path for path in sys.path if path and project.label(f"{path}/x.py") is not None)

    @cached_property
    def _keep(self) -> Keep | None:
        """Where workers are to store results; asked when the run has begun."""
        checkpointing = self._work.checkpointing
        keeper, settings = checkpointing.keeper, checkpointing.settings
        if keeper is None or settings is None or not keeper.run:
            return None
        url = "" if settings.address is None else settings.address.url
        durable = settings.durability != "off"
        return Keep.of(settings.path, url, keeper.run, settings.codecs, durable=durable)

    def _answer_of(self, job: Job, payload: Any) -> tuple[Outcome, Any]:
        body = getattr(job.call, "__self__", None)
        if not isinstance(body, Body):
            return job.call()
        answer: Answer = payload
        taken_in(body, unpack(answer.data))
        if answer.value is not None:
            label = self._work.graph[job.task].label
            answer.value.label, answer.value.way_out = label, f"{label} runs again on --ff-resume"
            body.value = answer.value
            self._answers[job.task] = answer
        return Success(), body

    @cached_property
    def _answers(self) -> dict[TaskId, Answer]:
        """Of attempts that have ended with a value that stays there, until it is known what became of them."""
        return {}

    def _nearby(self, job: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A call in this process, which needs the values themselves."""
        body = getattr(job.call, "__self__", None)
        if isinstance(body, Body):
            body.arguments = {name: _fetched(value) for name, value in body.arguments.items()}
        return body_of(job)

    # Results.

    def _inputs(self, entry: Entry) -> dict[str, Any]:
        inputs = super()._inputs(entry)
        return {name: _fetched(value) for name, value in inputs.items()} if self._stays_here(entry) else inputs

    def keep(self, task: TaskId, value: Any) -> int | None:
        if not isinstance(value, ValueThere):
            return super().keep(task, value)
        answer = self._answers.pop(task, None)
        if self.values.are_mapped(task):
            # Its elements go to the workers one by one.
            return super().keep(task, value.fetch())
        if self._work.page is not None and answer is not None and answer.preview:
            self._work.page.take_preview(task, answer.preview)
        size = self._keep_there(task, value, answer.stored if answer is not None else None)
        keeper = self._work.checkpointing.keeper
        if size is not None and keeper is not None:
            value.load = partial(keeper.load, task)
        self.values.put(task, value, stored=size is not None)
        return size

    def _earlier(self, record: TaskRecord) -> ValueThere | None:
        """Have a worker load the result of an earlier run; None for a small one, and where that can not be done."""
        ref, archive = record.result, self._work.checkpointing.archive
        if ref is None or archive is None or ref.length <= SMALL or self._shared is None:
            return None
        reload = partial(self._dask.load, self._shared, ref.to_json())
        return ValueThere(reload(), ref.length, self._dask.gather, load=partial(archive.load, record), reload=reload)

    @cached_property
    def _shared(self) -> Keep | None:
        """Where all workers see the results that are stored; None where they do not."""
        return self._keep if self._keep is not None and self._dask.all_see(self._keep) else None

    def _keep_there(self, task: TaskId, value: ValueThere, stored: Any) -> int | None:
        """Take note of where the worker that made *value* has stored it; where it can not, fetch and store it."""
        checkpointing = self._work.checkpointing
        keeper = checkpointing.keeper
        if keeper is None:
            return None
        label = self._work.graph[task].label
        if stored == OTHER_KEY:
            self._alert_of_keys()
            stored = None
        if isinstance(stored, str):
            self._work.tell(f"the result of {label} {stored}: {label} runs again on --ff-resume")
            return None
        if stored is not None:
            ref = ResultRef(*stored)
            keeper.stored(task, ref)
            if self._keep is not None:
                value.reload = partial(self._dask.load, self._keep, stored)
            return ref.length
        if value.nbytes > self._options.fetched:
            self._work.tell(
                f"the result of {label} ({value.nbytes / 1e6:,.0f} MB) is on the cluster alone, whose workers do not "
                f"see {checkpointing.path}: {label} runs again on --ff-resume (ini flowforge_dask_fetch fetches larger "
                "ones)"
            )
            return None
        return self._work.size_of(task) if self._work.store(task, value.fetch()) else None

    def _alert_of_keys(self) -> None:
        if not self._has_alerted:
            self._has_alerted = True
            self._alert(
                "Dask workers have another FLOWFORGE_KEY than this process and keep no results: they are fetched"
            )


class ValuesThere(Values):
    """Results of which some are on the cluster: their readers here get the values, calls get what stands for them."""

    #: What has a worker load an earlier result, where that can be done.
    there: Callable[[TaskRecord], ValueThere | None] | None = None

    def are_mapped(self, task: TaskId) -> bool:
        """Whether tasks are made from the elements of what *task* returns."""
        return task in self._mapped_over

    @cached_property
    def _mapped_over(self) -> frozenset[TaskId]:
        return frozenset(
            member
            for task, rule in self._blueprint.mapped.items()
            for _, member in self._blueprint.needs[task].parameters[rule.parameter].members
        )

    def _from_earlier(self, task: TaskId, record: TaskRecord) -> Any:
        if self._fresh is None and task not in self._store and self.there is not None and not self.are_mapped(task):
            value = self.there(record)
            if value is not None:
                value.label = str(task)
                self._store.put(task, value)
        return super()._from_earlier(task, record)

    def result(self, task: TaskId) -> Any:
        return _fetched(super().result(task))

    def arrivals(self, task: TaskId) -> dict[str, Any]:
        return self._as_they_are.arrivals(task)

    @cached_property
    def _as_they_are(self) -> Arrivals:
        return Arrivals(self._blueprint, super().result, self._is_known)


def _fetched(value: Any) -> Any:
    if isinstance(value, ValueThere):
        return value.fetch()
    if _is_there(value):
        return {name: _fetched(one) for name, one in value.items()}
    return value


def _is_there(value: Any) -> bool:
    return isinstance(value, ValueThere) or (
        type(value) is dict and any(isinstance(one, ValueThere) for one in value.values())
    )


def _cluster_of(options: ClusterOptions, workers: int) -> Cluster:
    try:
        return connect(options.address, options.timeout) if options.address else start(workers, options.timeout)
    except ClusterError as error:
        msg = _about(options, error)
        if isinstance(error, ClusterUnreachable):
            # Nobody has used anything wrongly.
            pytest.exit(msg, pytest.ExitCode.INTERNAL_ERROR)
        raise pytest.UsageError(msg) from error


def _about(options: ClusterOptions, error: ClusterError) -> str:
    return f"--ff-dask-address {options.address}: {error}" if options.address else str(error)


def _say(config: pytest.Config, cluster: Cluster, pool: DaskPool) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    if reporter.verbosity >= 0:
        threads = sum(pool.workers.values())
        dashboard = f", dashboard {link}" if (link := cluster.dashboard) else ""
        many = f"{plural(len(pool.workers), 'worker')}, {plural(threads, 'thread')}" if threads else "no workers yet"
        reporter.write_line(f"flowforge: Dask at {cluster.address}, {many}{dashboard}")
    if cluster.is_open_to_others:
        # With -q, too: nobody is to find out too late.
        reporter.write_line(f"flowforge: whoever reaches {cluster.address} can run code there: tls:// keeps others out")
    reporter.flush()


def _travel(entries: Iterable[Entry], config: pytest.Config) -> None:
    """Have what belongs to the project sent as it is here: workers may not have it, or have what it was before."""
    travel_by_value(entries)
    project = Project([config.rootpath], FileCache())
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] == "pytest_flowforge" or project.label(file) is None:
            continue
        try:
            cloudpickle.register_pickle_by_value(module)
        except ValueError:
            # Known by another name.
            continue


def _mark() -> str:
    return f"{Files().urandom(4).hex()}"


def _nothing() -> None:
    """Done for a task whose call is not made."""
