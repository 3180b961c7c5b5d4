"""The executor of pytest-xdist's workers: which worker gets which attempt, and what becomes of it.

xdist starts workers, notices when they die, and replaces them; this module decides what each of them does. A worker is
sent an attempt when it is idle, or when what it does takes so little time that it would be idle before the next order
arrives; orders that turn out to wait behind a long task are asked back as soon as another worker has nothing to do.

Time-outs are the workers' own matter, up to a grace: a worker that is still at the same attempt then is killed,
whatever it does.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Measures, Success
from pytest_flowforge.plugin.boards import Board
from pytest_flowforge.plugin.wire import decode, to_measures, to_outcome
from pytest_flowforge.plugin.worker import BOARD, CHANNEL, CONTROLLER
from pytest_flowforge.plugin.worker_record import Answer, NoAnswer, Worker
from pytest_flowforge.plugin.xdist_internals import Controller, exit_reason, kill, process_id
from pytest_flowforge.ports import Executor, Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.ports import Job, Key

__all__ = ["Workers"]

#: Attempts sent ahead, down to which a worker is not sent more.
_FEW = 1

#: Seconds between looks at orders that wait while a worker is idle, and at what idle workers are to forget.
_LOOK = 0.02

#: Seconds after which it is asked whether an attempt has a time limit.
_SOON = 0.1

#: Told apart from an order without a job.
_NO_JOB = object()


class Workers(Executor):
    """The workers; a plugin for the hooks of xdist as well.

    ``make_controller`` returns the side of xdist that starts them.
    """

    def __init__(self, make_controller: Callable[[], Controller]) -> None:
        self._make_controller = make_controller
        self._workers: dict[Any, Worker] = {}
        #: Accepted, and at no worker.
        self._waiting: deque[Job] = deque()
        #: Tasks that no worker, or no other one, has to keep anything for; those that come later hear of them, too.
        self._gone: dict[TaskId, None] = {}
        self._ends: list[Finished] = []
        #: Sent ahead: where; and how those have ended that are not started yet.
        self._ahead: dict[Key, Worker] = {}
        self._early: dict[Key, Finished] = {}
        #: Orders that had not begun when the run was interrupted.
        self._unwanted: set[Key] = set()
        self._failure = ""
        #: Whether workers are ended because the run goes on without them.
        self._leaving = False
        self._closing = False
        self._has_worked = False
        #: Workers that died before they had collected.
        self._unborn = 0
        self._wanted = 0
        self._slots_seen = 0
        #: Whether a worker has met an error of its own or of a plugin.
        self.internal_error = False

    def connect(
        self,
        ids: Sequence[TaskId],
        first: Callable[[], dict[str, Any]],
        order: Callable[[Worker, TaskId], dict[str, Any]],
        holds: Callable[[TaskId], Iterable[TaskId]],
        alone: Callable[[TaskId], bool],
        follower: Callable[[TaskId], TaskId | None],
        on_note: Callable[[Worker, dict[str, Any]], None],
        patience: Callable[[TaskId], tuple[float, float] | None],
    ) -> None:
        """Say what a run is about, before it begins.

        ``ids`` are the tasks that each worker has to know, in this order. ``first`` is what a worker is told first,
        ``order`` what it is told of one task. ``holds`` returns the results that a task asks for; ``alone`` tells of a
        task that it must not lie around, and ``follower`` returns the one that is sure to start where a task has
        succeeded. ``on_note`` takes what workers say besides how attempts have ended. ``patience`` returns the time
        limit of a task, and how long after it a worker is waited for; None for a task without a limit.
        """
        self._ids = list(ids)
        self._places: dict[TaskId, int] = {}
        self._patience = patience
        self._first, self._order, self._holds, self._alone = first, order, holds, alone
        self._follower, self._on_note = follower, on_note
        self._controller = self._make_controller()
        self._controller.begin()

    # ------------------------------------------------------------------ hooks of xdist

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker a channel of our own; xdist's is for what xdist knows."""
        channel = node.gateway.newchannel()
        node.workerinput[CHANNEL] = channel
        node.workerinput[CONTROLLER] = os.getpid()
        board = Board.make() if process_id(node) is not None else None
        node.workerinput[BOARD] = board.address if board is not None else None
        worker = self._workers[node] = Worker(node, channel, node.gateway.id, board=board)
        queue = node.putevent

        def take_in(text: str | None) -> None:
            if text is not None:
                queue(("flowforge", {"worker": worker, "text": text}))

        channel.setcallback(take_in, endmarker=None)
        self._wanted = max(self._wanted, len(self._workers))

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(self) -> Any:
        return _Scheduling(self)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        # Not before: pytest sets what follows from failures at the end of its loop.
        if self.internal_error and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    # ------------------------------------------------------------------ what xdist tells

    def has_collected(self, node: Any, ids: Sequence[str]) -> None:
        """A worker has collected its tasks."""
        worker = self._workers[node]
        if list(ids) != self._ids:
            self._failure = self._failure or _differences(worker.name, self._ids, ids)
            return
        worker.ready = self._has_worked = True
        worker.send(self._first())
        worker.gone = list(self._gone)

    def has_died(self, node: Any) -> None:
        """A worker is gone, or is about to end in order."""
        worker = self._workers.pop(node, None)
        if worker is None:
            return
        if worker.board is not None:
            worker.board.close()
        if self._closing:
            return
        self._unborn += not worker.ready
        if not worker.orders:
            return
        why = exit_reason(node)
        task, attempt = next(iter(worker.orders))
        reason = f"worker {worker.name} crashed while it ran" + (f" ({why})" if why else "")
        if self._leaving:
            reason = f"{self._failure}: worker {worker.name} was ended"
        elif worker.leaving is not None and worker.leaving[0] == (task, attempt):
            reason = f"{worker.leaving[1]}: worker {worker.name} is gone"
        self._break_off(worker, Finished(task, attempt, Lost(reason), measures=Measures(worker.name)))

    def _break_off(self, worker: Worker, end: Finished) -> None:
        """*worker* does nothing any more: what it did has come to *end*, and what had not begun is done by others."""
        orders = list(worker.orders.items())
        worker.orders.clear()
        key, first = orders[0]
        if key not in worker.dropped:
            if first is not None:
                self._ends.append(end)
            else:
                self._early[key] = end
        for key, job in reversed(orders):
            self._ahead.pop(key, None)
            if job is not None and job is not first and key not in worker.dropped:
                self._waiting.appendleft(job)

    # ------------------------------------------------------------------ the executor

    @property
    def slots(self) -> int:
        """How many attempts the workers may have, those that lie around included."""
        # A copy: the status line asks in a thread of its own.
        return sum(worker.slots for worker in tuple(self._workers.values()))

    @property
    def lost(self) -> str:
        """Why nothing can be executed any more; empty while it can."""
        return self._failure

    def start(self, job: Job) -> None:
        key = (job.task, job.attempt)
        worker = self._ahead.pop(key, None)
        if key in self._early:
            self._ends.append(self._early.pop(key))
        elif worker is not None:
            worker.orders[key] = job
            self._is_with(worker, job.task)
        else:
            self._waiting.append(job)
            return
        if worker is not None and worker.ahead <= _FEW:
            ahead = self._send_ahead(worker)
            if ahead:
                worker.send({"do": "run", "orders": ahead})

    def is_made(self, task: TaskId, attempt: int) -> bool:
        return (task, attempt) in self._ahead or (task, attempt) in self._early

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Nobody waits for that attempt: a worker that makes it is ended."""
        key = (task, attempt)
        self._waiting = deque(job for job in self._waiting if (job.task, job.attempt) != key)
        for worker in self._workers.values():
            if key in worker.orders and key not in worker.dropped:
                worker.dropped.add(key)
                if next(iter(worker.orders)) == key:
                    worker.ended = True
                    kill(worker.node)

    def leftover(self) -> Sequence[Job]:
        """Return the jobs that no worker has begun; a worker that is still there is of no use any more."""
        self._leaving = True
        for worker in list(self._workers.values()):
            kill(worker.node)
            self.has_died(worker.node)
        jobs, self._waiting = list(self._waiting), deque()
        return jobs

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what runs; what has not begun does not begin, and ends as interrupted."""
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            self._not_begun((job.task, job.attempt))
        for worker in self._workers.values():
            # Also the first: it may come back, too, where the worker is about to begin with it.
            self._unwanted.update(worker.orders)
            if worker.orders:
                # It may have heard of it before us, from the terminal, and have given all back by itself.
                worker.send({"do": "recall"})
            process = process_id(worker.node)
            if worker.orders and process is not None:
                with suppress(OSError):
                    os.kill(process, signal.SIGINT)

    def _not_begun(self, key: Key) -> None:
        self._unwanted.discard(key)
        self._ends.append(Finished(*key, Failure(FailureKind.INTERRUPTED, "it had not begun")))

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        self._place()
        self._slots_seen = self.slots
        until = None if timeout is None else time.monotonic() + timeout
        while not self._has_news():
            now = time.monotonic()
            left = None if until is None else max(until - now, 0.0)
            look = _LOOK if self._has_to_look() else None
            due = self._next_limit(now)
            limit = min((seconds for seconds in (left, look, due) if seconds is not None), default=None)
            for name, arguments in self._controller.events(limit):
                self._take_in(name, arguments)
            self._end_overdue()
            self._place()
            self._look()
            if left == 0.0:
                break
        ends, self._ends = self._ends, []
        return ends

    def close(self) -> None:
        """Let workers tear down what they have set up, and end; those that still do something are ended."""
        self._closing = True
        controller = self._controller
        for end in self._early.values():
            if isinstance(end.value, Answer):
                self._on_note(end.value.worker, {"is": "unasked", "task": end.task})
        try:
            for worker in list(self._workers.values()):
                if worker.orders or not worker.ready:
                    worker.ended = True
                    kill(worker.node)
                worker.send({"do": "stop"})
            controller.shut_down()
            while controller.alive:
                for name, arguments in controller.events(_LONGEST_LOOK):
                    self._take_in(name, arguments)
        finally:
            for worker in self._workers.values():
                if worker.board is not None:
                    worker.board.close()
                if worker.node.gateway.spec.popen and controller.alive:
                    kill(worker.node)

    def forget(self, task: TaskId) -> None:
        """*task* is done, and will not come to any worker.

        That is not so when it was sent to one: orders are asked back, and attempts are followed by others elsewhere. A
        worker that was told so too early would tear down what it has to set up again.
        """
        self._gone[task] = None
        for worker in self._workers.values():
            if worker.ready:
                worker.gone.append(task)

    def grow(self, task: TaskId, labels: list[str]) -> None:
        """The elements of a mapped *task* are known; workers that come later are told when they begin."""
        for worker in self._workers.values():
            if worker.ready:
                worker.grown[task] = labels

    # ------------------------------------------------------------------ within

    def _has_news(self) -> bool:
        return bool(self._ends or self._failure) or self.slots != self._slots_seen

    def _place(self) -> None:
        """Send what waits to workers that have room."""
        if not self._waiting:
            return
        rooms = {worker: room for worker in self._workers.values() if (room := worker.room)}
        orders: dict[Worker, list[dict[str, Any]]] = {}
        while self._waiting:
            job = self._waiting[0]
            worker = self._best_for(job, rooms)
            if worker is None:
                break
            self._waiting.popleft()
            rooms[worker] -= 1
            orders.setdefault(worker, []).append(self._place_at(worker, job))
        for worker, placed in orders.items():
            worker.send({"do": "run", "orders": [*placed, *self._send_ahead(worker)]})

    def _best_for(self, job: Job, rooms: Mapping[Worker, int]) -> Worker | None:
        alone = self._alone(job.task)
        able = [worker for worker, room in rooms.items() if room > 0 and not (alone and worker.orders)]
        if len(able) <= 1:
            return able[0] if able else None
        needs = set(self._holds(job.task))
        least = min(len(worker.orders) for worker in able)
        return max(
            (worker for worker in able if len(worker.orders) == least), key=lambda worker: len(needs & worker.near)
        )

    def _is_with(self, worker: Worker, task: TaskId) -> None:
        for other in self._workers.values():
            if other is not worker and other.ready:
                other.away.append(task)

    def _place_at(self, worker: Worker, job: Job) -> dict[str, Any]:
        if not worker.orders:
            worker.since = time.monotonic()
        worker.orders[job.task, job.attempt] = job
        self._is_with(worker, job.task)
        worker.near.update(self._holds(job.task))
        return {"task": job.task, "attempt": job.attempt, **self._order(worker, job.task)}

    def _send_ahead(self, worker: Worker) -> list[dict[str, Any]]:
        """Return orders for what is sure to follow what the worker was sent last, should that succeed.

        Without them a chain would wait at each of its tasks for a message to come and one to go.
        """
        orders: list[dict[str, Any]] = []
        task = next(reversed(worker.orders))[0] if worker.orders else None
        most = max(worker.most // 2, 1)
        while task is not None and worker.ahead < most and (follower := self._follower(task)) is not None:
            key = (follower, 1)
            if key in self._ahead or key in worker.orders:
                break
            worker.orders[key] = None
            worker.follows[follower] = task
            self._ahead[key] = worker
            orders.append({"task": follower, "attempt": 1, "after": task, **self._order(worker, follower)})
            task = follower
        return orders

    def _take_in(self, name: str, arguments: dict[str, Any]) -> None:
        if name == "flowforge":
            worker = arguments["worker"]
            if worker.node in self._workers:
                self._hear(worker, decode(arguments["text"]))
            return
        if name == "collectreport":
            # The controller has collected the same files, and has reported what was wrong with them.
            return
        if name == "errordown" and self._closing:
            # xdist would start another one. Where it is our doing, nobody needs to hear of it.
            node = arguments["node"]
            ended = self._leaving or (node in self._workers and self._workers[node].ended)
            self._controller.dismiss(node, None if ended else arguments["error"])
            return
        if name == "errordown" and (gone := self._workers.get(arguments["node"])) is not None and gone.ended:
            self.has_died(gone.node)
            self._controller.replace(gone.node, "it was ended")
            self._look_for_workers()
            return
        if name == "internal_error":
            self.internal_error = True
            self.has_died(arguments["node"])
        self._controller.handle(name, arguments)
        if self._closing:
            return
        if name == "workerready" and self._controller.closing:
            # xdist has told it to end, by a channel that it does not listen to.
            self._workers[arguments["node"]].send({"do": "stop"})
        if not self._has_worked and self._unborn >= self._wanted:
            self._failure = self._failure or "every worker process has ended before it had collected the tasks"
        self._look_for_workers()

    def _look_for_workers(self) -> None:
        if self._failure or (self._controller.alive and self._workers):
            return
        self._failure = "no worker left"
        # Of what had been sent ahead nobody else says that it has begun.
        for end in self._early.values():
            if isinstance(end.outcome, Lost):
                self._failure += f" ({end.task}, which had been sent ahead: {end.outcome.reason})"

    def _hear(self, worker: Worker, message: dict[str, Any]) -> None:
        what = message["is"]
        if what == "done":
            self._on_done(worker, message)
        elif what == "returned":
            worker.recalled = False
            for task, attempt in reversed(message["tasks"]):
                job = worker.orders.pop((task, attempt), None)
                self._ahead.pop((task, attempt), None)
                if job is None or (task, attempt) in worker.dropped:
                    continue
                if (task, attempt) in self._unwanted:
                    self._not_begun((task, attempt))
                else:
                    self._waiting.appendleft(job)
        elif what == "leaving":
            worker.leaving = ((message["task"], message["attempt"]), message["why"])
        else:
            self._on_note(worker, message)

    def _on_done(self, worker: Worker, message: dict[str, Any]) -> None:
        key = (message["task"], message["attempt"])
        outcome = to_outcome(message["outcome"])
        job = worker.orders.pop(key, None)
        if not isinstance(outcome, Success) or outcome.only is not None:
            self._call_off(worker, key[0])
        worker.answered(time.monotonic())
        worker.near.add(message["task"])
        if key in worker.dropped:
            worker.dropped.discard(key)
            return
        measures = to_measures(worker.name, message["measures"]) if "measures" in message else Measures(worker.name)
        end = Finished(*key, outcome, Answer(worker, message), measures)
        if job is None and key in self._ahead:
            self._early[key] = end
        else:
            self._ends.append(end)

    def _call_off(self, worker: Worker, task: TaskId) -> None:
        """*task* has not succeeded, or has chosen who goes on.

        What was sent ahead to follow it is not made, and what follows that neither.
        """
        ended = {task}
        for follower, after in list(worker.follows.items()):
            if after in ended:
                ended.add(follower)
                del worker.follows[follower]
                if worker.orders.get((follower, 1), _NO_JOB) is None:
                    del worker.orders[follower, 1]
                    self._ahead.pop((follower, 1), None)

    def _has_to_look(self) -> bool:
        counts = [len(worker.orders) for worker in self._workers.values() if worker.ready]
        return (0 in counts and max(counts) > 1) or any(
            worker.has_news and not worker.orders for worker in self._workers.values() if worker.ready
        )

    def _look(self) -> None:
        """Ask orders back that wait while somebody is idle; tell idle workers what they can forget."""
        ready = [worker for worker in self._workers.values() if worker.ready]
        idle = [worker for worker in ready if not worker.orders]
        if not idle:
            return
        now = time.monotonic()
        for worker in idle:
            if worker.has_news and now - worker.since >= _LOOK:
                worker.since = now
                worker.send({"do": "forget"})
        for worker in ready:
            if len(worker.orders) > 1 and not worker.recalled and now - worker.since >= _LOOK:
                worker.recalled = True
                worker.pace = None
                worker.send({"do": "recall"})

    # ------------------------------------------------------------------ time limits

    def _next_limit(self, now: float) -> float | None:
        """Seconds until a worker has to be looked at because of a time limit; None when none has one."""
        first = min((self._watch(worker) for worker in self._workers.values()), default=math.inf)
        return None if first == math.inf else max(first - now, 0.0)

    def _watch(self, worker: Worker) -> float:
        """When to look at what *worker* does."""
        key = next(iter(worker.orders), None)
        if key != worker.watched:
            worker.watched, worker.limit = key, None
            # Which limit it has is asked when it has taken a while: most are over by then.
            worker.look_at = math.inf if key is None or worker.ended else worker.since + _SOON
        return worker.look_at

    def _end_overdue(self) -> None:
        """End workers that are still at what they should have ended."""
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if self._watch(worker) <= now and worker.watched is not None:
                self._judge(worker, worker.watched, now)

    def _judge(self, worker: Worker, key: Key, now: float) -> None:
        """End *worker* if the time of *key* is over, with all patience; it may have begun long after it was sent."""
        if worker.limit is None:
            patience = self._patience(key[0])
            if patience is None:
                worker.look_at = math.inf
                return
            worker.limit, worker.patience = patience[0], sum(patience)
            worker.look_at = worker.since + worker.patience
            if worker.look_at > now:
                return
        if worker.board is not None:
            entry = worker.board.read()
            place = self._place_of(key[0])
            if entry is None or (entry.place, entry.attempt) != (place, key[1]):
                # It has not begun, is between two limited parts, or its end is on its way.
                worker.look_at = now + min(max(worker.limit, _LOOK), _LONGEST_LOOK)
                return
            worker.look_at = entry.since + worker.patience
            if worker.look_at > now:
                return
        process = process_id(worker.node)
        stacks = worker.board.stacks(process) if worker.board is not None and process is not None else ""
        kill(worker.node)
        later = f"it was still there {worker.patience - worker.limit:g} s later, so " * (worker.patience > worker.limit)
        text = f"Timeout (>{worker.limit}s): {later}worker {worker.name} was killed"
        failure = Failure(FailureKind.TIMED_OUT, text, longrepr=f"{stacks}{text}")
        node = worker.node
        del self._workers[node]
        self._call_off(worker, key[0])
        self._break_off(worker, Finished(*key, failure, NoAnswer(failure.longrepr), Measures(worker.name)))
        if worker.board is not None:
            worker.board.close()
        self._controller.replace(node, f"killed, because the time of {key[0]} was up")
        self._look_for_workers()

    def _place_of(self, task: TaskId) -> int:
        if not self._places:
            self._places = {task: place for place, task in enumerate(self._ids)}
        return self._places[task]


#: Seconds between two looks at whether workers are there, where they are to end.
_LONGEST_LOOK = 0.5


class _Scheduling:
    """What xdist asks of a scheduler. It gets no index to run: workers have a channel of their own for that."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.nodes: list[Any] = []

    collection_is_completed = True
    tests_finished = False
    has_pending = True

    def add_node(self, node: Any) -> None:
        self.nodes.append(node)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        self._workers.has_collected(node, collection)

    def remove_node(self, node: Any) -> None:
        """Return no item that has crashed: what becomes of it is ours to report."""
        self._workers.has_died(node)
        if node not in self.nodes:
            # As xdist has it of a worker that dies before it is ready.
            raise KeyError(node)
        self.nodes.remove(node)

    def schedule(self) -> None:
        """Nothing: see above."""

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Nothing: see above."""

    def mark_test_pending(self, item: str) -> None:
        """Nothing: retries are the engine's."""

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Nothing: see above."""


def _differences(name: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
    known, found = set(ours), set(theirs)
    more = [task for task in theirs if task not in known]
    less = [task for task in ours if task not in found]
    if more or less:
        what = f"it has {more[0]}" if more else f"it lacks {less[0]}"
    else:
        first = next(one for one, other in zip(theirs, ours, strict=False) if one != other)
        what = f"the order differs, beginning with {first}"
    return (
        f"worker {name} has collected other tasks than the controller: {what}. All processes must collect the same"
        " tasks in the same order: parameters from a set, from the time or from chance do not; sort or fix them"
    )
