"""Ending calls on a Dask cluster that nobody wants any more.

Such a call is cancelled, which keeps it from beginning. One that has begun is told to end, again and again, until it
does. As the last step its worker is started anew, unless others use it. All of that is done by one thread, which sends
one question to a worker at a time, for all of its calls.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flowforge.dask_cluster.orders import running, stop
from pytest_flowforge.dask_cluster.watchdog import others_on
from pytest_flowforge.dask_cluster.workers import ANSWER, in_background
from pytest_flowforge.failures import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from pytest_flowforge.dask_cluster.workers import Workers

__all__ = ["Owner", "State", "Stopping"]

#: Seconds in which calls gather that are given up together.
_GATHER = 0.01

#: Seconds after which a call begins no more that was taken back.
_SETTLED = 0.5

#: Seconds between two looks at calls that are to end: at first, and at most.
_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

#: Seconds after which a call is told again to end.
_AGAIN = 0.5

#: Seconds between two looks at calls that have not ended although they had their time.
_LOOK = 2.0

#: Seconds that calls have to end when the pool is closed: the run has given them time before.
_LAST = 2.0

#: How often in a row a worker may leave a question unanswered before it counts as busy with what does not end.
_DEAF = 2


#: How many other workers are asked whether they can take the values of one that is started anew.
_ASKED = 8


class State(Enum):
    """What is done about a call that nobody wants. It is forgotten when it has ended, or its worker has gone.

    From COMING it goes to TOLD, if it begins after all; from TOLD to RESTARTING, when its time is up; from RESTARTING
    to STUCK, if its worker stays. No call goes back.
    """

    COMING = "it was cancelled, and is not known to have begun"
    TOLD = "it has begun, and is told to end"
    RESTARTING = "its worker is being started anew"
    STUCK = "its worker is not started anew, and it goes on"


class Owner(Protocol):
    """Whose calls these are."""

    def is_making_calls(self, worker: str) -> bool:
        """Whether *worker* makes calls that are wanted."""

    def will_die(self, worker: str) -> None:
        """Take note that *worker* is about to be started anew, and that what waits there has not begun."""

    def take_back_from(self, worker: str) -> None:
        """Hand over once more what waits at *worker* for a thread that does not come back."""


@dataclass(slots=True)
class _Unwanted:
    """A call that nobody wants: at which worker, empty where that is not known, and since when in this state."""

    worker: str
    state: State
    since: float

    def becomes(self, state: State) -> None:
        self.state, self.since = state, time.monotonic()


@dataclass(slots=True)
class _Questions:
    """What a worker is asked about its calls: what is under way, for which keys; when to ask, and to tell, again."""

    ask_at: float = 0.0
    tell_at: float = 0.0
    pause: float = _PAUSE
    asked: Future[Any] | None = None
    keys: Sequence[str] = ()
    #: Calls that have been told to end.
    told: frozenset[str] = frozenset()
    #: Questions in a row.
    unanswered: int = 0


class Stopping:
    """Ends calls of *run* on the cluster of *client*; ``tell`` takes sentences for people.

    ``grace`` is how many seconds a call has to end, ``patience`` how many the scheduler may be silent.
    """

    def __init__(
        self,
        client: Any,
        run: str,
        workers: Workers,
        owner: Owner,
        *,
        patience: float,
        grace: float,
        tell: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._workers = workers
        self._owner = owner
        self._patience = patience
        self._grace = grace
        self._tell = tell
        #: Held for what follows, and never while anybody is asked anything.
        self._lock = threading.Lock()
        self._unwanted: dict[str, _Unwanted] = {}
        self._to_cancel: list[Any] = []
        #: By worker; used by the one thread.
        self._questions: dict[str, _Questions] = {}
        self._wake = threading.Event()
        self._closed = threading.Event()
        #: There is no cluster any more.
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="flowforge-dask-stop", daemon=True)
        self._thread.start()

    # What is known. By any thread.

    @property
    def busy(self) -> Mapping[str, int]:
        """How many threads calls have that nobody wants, by worker; of workers that are there."""
        threads = self._workers.threads
        found: dict[str, int] = {}
        with self._lock:
            for call in self._unwanted.values():
                if call.worker in threads:
                    found[call.worker] = found.get(call.worker, 0) + 1
        return found

    @property
    def stuck(self) -> int:
        """How many calls go on that will not be ended."""
        return self._count({State.STUCK})

    @property
    def goes_on(self) -> bool:
        """Whether calls go on that will be ended."""
        return self._count(set(State) - {State.STUCK}) > 0

    def _count(self, states: Collection[State]) -> int:
        with self._lock:
            return sum(call.state in states for call in self._unwanted.values())

    # What happens. By any thread.

    def give_up(self, calls: Iterable[tuple[str, str, Any]]) -> None:
        """End calls: of each its key, its worker (empty: it is not known to have begun), and Dask's future."""
        now = time.monotonic()
        with self._lock:
            for key, worker, future in calls:
                self._to_cancel.append(future)
                # It may just have been told that it has begun.
                if key not in self._unwanted:
                    self._unwanted[key] = _Unwanted(worker, State.TOLD if worker else State.COMING, now)
        self._wake.set()

    def begun(self, key: str, worker: str) -> None:
        """Take note that a call has begun at *worker* that nobody wants."""
        with self._lock:
            call = self._unwanted.setdefault(key, _Unwanted(worker, State.COMING, 0.0))
            if call.state is State.COMING:
                call.worker = worker
                call.becomes(State.TOLD)
        self._wake.set()

    def hurry(self) -> None:
        """Give calls less time to end: nobody waits for anything else any more."""
        self._grace = min(self._grace, _LAST)
        self._wake.set()

    def forget_all(self) -> None:
        """Give up on all of them: there is no cluster any more."""
        self._is_over = True
        with self._lock:
            self._unwanted.clear()

    def close(self) -> None:
        """Leave what goes on to itself."""
        self._closed.set()
        self._wake.set()

    # The thread.

    def _work(self) -> None:
        pause: float | None = None
        while not self._closed.is_set():
            if self._wake.wait(pause):
                # Others are about to be given up with it.
                self._closed.wait(_GATHER)
            self._wake.clear()
            # Whatever is wrong with the client: the pool notices that, too, and closes this.
            with suppress(Exception, CancelledError):
                self._cancel()
            pause = self._look_at_all()

    def _cancel(self) -> None:
        with self._lock:
            futures, self._to_cancel = self._to_cancel, []
        if futures:
            self._client.cancel(futures, force=True)

    def _look_at_all(self) -> float | None:
        """Do what is to be done now; return the seconds until there is more, None where nothing is left."""
        now = time.monotonic()
        by_worker: dict[str, dict[str, _Unwanted]] = {}
        with self._lock:
            for key, call in list(self._unwanted.items()):
                if call.state is State.COMING and now >= call.since + _SETTLED:
                    # Should it begin all the same, that will be told.
                    del self._unwanted[key]
                elif call.state in (State.TOLD, State.STUCK):
                    by_worker.setdefault(call.worker, {})[key] = call
            is_any_left = bool(self._unwanted)
        self._questions = {worker: asked for worker, asked in self._questions.items() if worker in by_worker}
        for worker, calls in by_worker.items():
            if worker in self._workers.threads:
                with suppress(Exception):
                    self._look_at(worker, calls, now)
            else:
                self._forget(calls)
        if not is_any_left:
            return None
        due = [asked.ask_at for asked in self._questions.values() if asked.asked is None]
        # Those that are coming are looked at, too.
        return max(min([*due, now + _SETTLED]) - time.monotonic(), 0.0)

    def _look_at(self, worker: str, calls: Mapping[str, _Unwanted], now: float) -> None:
        """Look at the calls that *worker* makes, by key."""
        questions = self._questions.setdefault(worker, _Questions())
        if questions.asked is not None:
            if not questions.asked.done():
                return
            left = None if questions.asked.cancelled() else questions.asked.result()
            questions.asked = None
            calls = self._those_that_go_on(worker, questions, calls, left)
        told = {key: call for key, call in calls.items() if call.state is State.TOLD}
        is_deaf = questions.unanswered >= _DEAF
        are_told = questions.told.issuperset(told)
        # It begins when they are told: this thread may have stood still since they were given up.
        had_time = bool(told) and are_told and all(now > call.since + self._grace for call in told.values())
        if had_time and (is_deaf or not self._owner.is_making_calls(worker)):
            self._become(told.values(), State.RESTARTING)
            in_background(self._restart, worker, told, is_deaf=is_deaf)
            return
        if not are_told:
            questions.ask_at, questions.tell_at, questions.pause = now, now, _PAUSE
        if not calls or now < questions.ask_at:
            return
        # What is raised may meet code that ignores it: a destructor, a callback. Yet what cleans up needs its time.
        is_told = bool(told) and now >= questions.tell_at
        if is_told:
            self._become((told[key] for key in told.keys() - questions.told), State.TOLD)
            questions.tell_at, questions.told = now + _AGAIN, frozenset(told)
        questions.ask_at = now + (questions.pause if told else _LOOK)
        questions.pause = min(2 * questions.pause, _LONGEST_PAUSE)
        questions.keys = tuple(calls)
        questions.asked = self._workers.ask(worker, stop if is_told else running, questions.keys)
        questions.asked.add_done_callback(lambda _: self._wake.set())

    def _those_that_go_on(
        self, worker: str, questions: _Questions, calls: Mapping[str, _Unwanted], left: Collection[str] | None
    ) -> Mapping[str, _Unwanted]:
        """Return those of *calls* that may still go on.

        Of those that *worker* was asked about, *left* do; None where it has not answered.
        """
        questions.unanswered = questions.unanswered + 1 if left is None else 0
        if left is not None:
            ended = set(questions.keys) - set(left)
            self._forget(ended)
            calls = {key: call for key, call in calls.items() if key not in ended}
        stuck = sum(call.state is State.STUCK for call in calls.values())
        if stuck >= self._workers.threads.get(worker, 0):
            # The scheduler, to which these calls have ended, takes the worker for idle, and moves others there.
            in_background(self._owner.take_back_from, worker)
        return calls

    def _become(self, calls: Iterable[_Unwanted], state: State) -> None:
        with self._lock:
            for call in calls:
                call.becomes(state)

    def _forget(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._unwanted.pop(key, None)

    # The last step. On a thread of its own: each of these can be stuck with whom it asks.

    def _restart(self, worker: str, calls: Mapping[str, _Unwanted], *, is_deaf: bool) -> None:
        """Have a worker started anew where that can be; its calls are over then, else stuck."""
        is_restarted = False
        try:
            is_restarted = self._is_restarted(worker, len(calls), is_deaf=is_deaf)
        finally:
            if is_restarted:
                self._forget(calls)
            else:
                self._become(calls.values(), State.STUCK)
            self._wake.set()
        if not is_restarted:
            self._owner.take_back_from(worker)

    def _is_restarted(self, worker: str, number: int, *, is_deaf: bool) -> bool:
        """Have a worker started anew, unless others use it; return whether that was done."""
        goes = "1 call goes on" if number == 1 else f"{number} calls go on"
        what = f"{goes} at the worker {worker} that nobody waits for"
        try:
            others = in_background(self._client.run_on_scheduler, others_on(self._run), worker)
            if others.result(self._patience):
                self._tell(f"{what}: it is not restarted, for others use it, too, and has a thread less for us")
                return False
            if not is_deaf:
                with suppress(Exception):
                    in_background(self._save, worker).result(self._patience)
            self._owner.will_die(worker)
            restarted = in_background(self._client.restart_workers, [worker], timeout=self._patience)
            restarted.result(self._patience + ANSWER)
            self._workers.look(self._patience)
        except Exception as error:  # noqa: BLE001 - it stays as it is, and that is said
            if worker in self._workers.threads and not self._is_over and not self._closed.is_set():
                self._tell(f"{what}, and it could not be restarted ({one_line(error)}): it has a thread less for us")
                return False
        return True

    def _save(self, worker: str) -> None:
        """Have values that only this worker has copied to another one."""
        held = [key for key in self._client.has_what([worker]).get(worker, ()) if key in self._client.futures]
        if not held:
            return
        others = (other for other in self._workers.threads if other != worker)
        answering = self._that_answer([worker, *itertools.islice(others, _ASKED)])
        if answering[:1] == [worker] and len(answering) > 1:
            from distributed import Future as DaskFuture  # noqa: PLC0415 - an extra

            self._client.replicate([DaskFuture(key, self._client) for key in held], n=1, workers=answering[1:])

    def _that_answer(self, workers: Sequence[str]) -> list[str]:
        """Return those of *workers* that answer. One that is busy with a loop in C takes no value, and gives none.

        The scheduler would wait for it, and do no other such work, of anybody, meanwhile.
        """
        asked = [(worker, self._workers.ask(worker, running, ())) for worker in workers]
        return [worker for worker, answer in asked if answer.result(2 * ANSWER) is not None]
