"""Which worker gets what, and what becomes of it: with a stand-in for pytest-xdist, and no process."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.core.model import Failure, FailureKind, Lost, Success, TaskId
from pytest_flowforge.plugin.boards import Entry
from pytest_flowforge.plugin.inbox import Inbox
from pytest_flowforge.plugin.wire import decode, encode, from_outcome
from pytest_flowforge.plugin.workers import Workers
from pytest_flowforge.ports import Finished, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDS = [TaskId(name) for name in "abcdefgh"]


class Channel:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, text: str) -> None:
        self.sent.append(decode(text))

    def setcallback(self, callback: Any, endmarker: object) -> None:
        self.callback, self.endmarker = callback, endmarker


class Node(SimpleNamespace):
    """A worker as xdist has it: told apart by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Xdist:
    """The controller of xdist: events are put, and handled as DSession does it as far as anybody looks."""

    def __init__(self) -> None:
        self.queue: deque[tuple[str, dict[str, Any]]] = deque()
        self.nodes: list[Any] = []
        self.workers: Any = None
        self.killed: list[str] = []
        #: What was told of workers that ended at the end.
        self.told: list[object] = []
        self.closing = False
        #: What starts a worker in the place of one that was ended on purpose.
        self.clone: Callable[[], object] = lambda: None
        self.cloned = 0

    def begin(self) -> None: ...

    def put(self, name: str, **arguments: Any) -> None:
        self.queue.append((name, arguments))

    def events(self, timeout: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
        assert self.queue or timeout is not None, "it would wait for ever"
        while self.queue:
            yield self.queue.popleft()

    def handle(self, name: str, arguments: dict[str, Any]) -> None:
        node = arguments["node"]
        if name == "collectionfinish":
            self.workers.has_collected(node, arguments["ids"])
        elif name == "errordown":
            self.workers.has_died(node)
            self.nodes.remove(node)
        elif name == "workerfinished":
            self.nodes.remove(node)

    def replace(self, node: Any, why: str) -> None:
        self.told.append(why)
        self.nodes.remove(node)
        self.clone()

    def dismiss(self, node: Any, error: object) -> None:
        self.told.append(error)
        self.nodes.remove(node)

    @property
    def alive(self) -> bool:
        return bool(self.nodes)

    def shut_down(self) -> None:
        self.closing = True
        for node in list(self.nodes):
            self.put("errordown" if node.gateway.id in self.killed else "workerfinished", node=node, error="gone")


class Office:
    """Workers, and what they are told and tell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, followers: dict[str, str] | None = None) -> None:
        self.xdist = Xdist()
        self.workers = Workers(lambda: self.xdist)  # type: ignore[arg-type, return-value]
        self.xdist.workers = self.workers
        self.notes: list[dict[str, Any]] = []
        self.holds: dict[str, set[str]] = {}
        self.alone: set[str] = set()
        self.followers = followers or {}
        self.patience: dict[str, tuple[float, float]] = {}
        self.now = 0.0
        monkeypatch.setattr("pytest_flowforge.plugin.workers.time.monotonic", lambda: self.now)
        monkeypatch.setattr("pytest_flowforge.plugin.workers.kill", self.kill)
        monkeypatch.setattr("pytest_flowforge.plugin.workers.exit_reason", lambda _: "exit status 7")
        self.workers.connect(
            IDS,
            lambda: {"do": "begin"},
            lambda *_: {"inputs": {}},
            lambda task: self.holds.get(task, set()),  # type: ignore[arg-type, return-value]
            self.alone.__contains__,
            self.followers.get,  # type: ignore[arg-type]
            lambda _, message: self.notes.append(message),
            self.patience.get,
        )

    def kill(self, node: Any) -> None:
        self.xdist.killed.append(node.gateway.id)

    def hire(self, name: str, ids: list[TaskId] = IDS) -> Any:
        gateway = SimpleNamespace(id=name, newchannel=Channel, spec=SimpleNamespace(popen=True), _io=None)
        node = Node(gateway=gateway, workerinput={}, putevent=self.xdist.queue.append)
        self.workers.pytest_configure_node(node)
        node.channel = node.workerinput["flowforge_channel"]
        self.xdist.nodes.append(node)
        self.xdist.put("collectionfinish", node=node, ids=ids)
        return node

    def start(self, *names: str) -> None:
        for name in names:
            self.workers.start(Job(TaskId(name), 1, lambda: (Success(), None)))

    def wait(self) -> list[Finished]:
        return list(self.workers.wait(0.0))

    def done(self, node: Any, name: str, outcome: Any = None, *, seconds: float = 1.0) -> list[Finished]:
        self.now += seconds
        message = {"is": "done", "task": name, "attempt": 1, "outcome": from_outcome(outcome or Success())}
        node.channel.callback(encode(message))
        return self.wait()


def orders(node: Any) -> list[str]:
    """The tasks a worker was sent, in order; one that follows another with that."""
    sent = [order for message in node.channel.sent if message["do"] == "run" for order in message["orders"]]
    return [order["task"] + (f"<{order['after']}" if "after" in order else "") for order in sent]


def outcomes(ends: list[Finished]) -> dict[str, Any]:
    return {end.task: end.outcome for end in ends}


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(monkeypatch)


def test_there_is_nobody_before_they_have_collected(office: Office) -> None:
    assert office.workers.slots == 0
    one = office.hire("one")
    office.wait()
    assert office.workers.slots == 1
    assert [message["do"] for message in one.channel.sent] == ["begin"]


def test_an_idle_worker_gets_one_task_and_the_rest_waits(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.wait()
    office.start("a", "b", "c")
    office.wait()
    assert (orders(one), orders(two)) == (["a"], ["b"])
    ends = office.done(one, "a")
    assert outcomes(ends) == {"a": Success()}
    office.wait()
    assert orders(one) == ["a", "c"]


def test_one_that_is_quick_gets_several_in_one_message(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=0.001)
    assert office.workers.slots > 4
    office.start("b", "c", "d")
    office.wait()
    assert [[order["task"] for order in message["orders"]] for message in one.channel.sent[1:]] == [
        ["a"],
        ["b", "c", "d"],
    ]


def test_one_that_is_rather_quick_gets_one_ahead(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=0.05)
    assert office.workers.slots == 2
    office.start("b", "c")
    office.wait()
    office.done(one, "b", seconds=0.05)
    office.start("d")
    office.wait()
    assert orders(one) == ["a", "b", "c", "d"]


def test_what_must_not_lie_around_waits_for_an_idle_worker(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=0.001)
    office.alone.add("c")
    office.start("b", "c")
    office.wait()
    assert orders(one) == ["a", "b"]
    office.done(one, "b", seconds=0.001)
    office.wait()
    assert orders(one) == ["a", "b", "c"]


def test_the_worker_that_has_the_inputs_is_preferred(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.wait()
    office.start("a", "b")
    office.wait()
    office.done(one, "a")
    office.done(two, "b")
    office.holds["c"] = {"b"}
    office.start("c")
    office.wait()
    assert (orders(one), orders(two)) == (["a"], ["b", "c"])


def test_orders_behind_a_long_task_are_asked_back_for_an_idle_worker(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=0.001)
    office.start("b", "c", "d")
    office.wait()
    two = office.hire("two")
    office.now += 1.0
    office.wait()
    office.wait()
    assert one.channel.sent[-1]["do"] == "recall"
    assert office.workers.slots >= 1
    one.channel.callback(encode({"is": "returned", "tasks": [("c", 1), ("d", 1)]}))
    office.wait()
    office.wait()
    assert orders(two) == ["c"], "one at a time: nobody knows how long they take"
    office.done(two, "c")
    office.wait()
    assert orders(two) == ["c", "d"]


def test_a_worker_that_dies_takes_only_what_it_did(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=0.001)
    office.start("b", "c")
    office.wait()
    office.xdist.put("errordown", node=one, error="gone")
    two = office.hire("two")
    ends = office.wait()
    assert outcomes(ends) == {"b": Lost("worker one crashed while it ran (exit status 7)")}
    office.wait()
    assert orders(two) == ["c"]


def test_a_worker_that_said_why_it_leaves_is_quoted(office: Office) -> None:
    one = office.hire("one")
    office.hire("two")
    office.wait()
    office.start("a")
    office.wait()
    one.channel.callback(encode({"is": "leaving", "task": "a", "attempt": 1, "why": "called os._exit(0)"}))
    office.xdist.put("errordown", node=one, error="gone")
    assert outcomes(office.wait()) == {"a": Lost("called os._exit(0): worker one is gone")}


def test_an_answer_that_came_before_the_death_counts(office: Office) -> None:
    one = office.hire("one")
    office.hire("two")
    office.wait()
    office.start("a")
    office.wait()
    message = {"is": "done", "task": "a", "attempt": 1, "outcome": from_outcome(Success())}
    one.channel.callback(encode(message))
    office.xdist.put("errordown", node=one, error="gone")
    assert outcomes(office.wait()) == {"a": Success()}


def test_without_workers_it_is_lost(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    assert office.workers.lost == ""
    office.xdist.put("errordown", node=one, error="gone")
    office.wait()
    assert office.workers.lost == "no worker left"


def test_without_workers_what_has_not_begun_is_left_over(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.start("b", "c")
    office.xdist.put("errordown", node=one, error="gone")
    assert outcomes(office.wait()) == {"a": Lost("worker one crashed while it ran (exit status 7)")}
    office.workers.cancel(IDS[2], 1)
    office.start("d")
    assert [job.task for job in office.workers.leftover()] == ["b", "d"]
    assert office.workers.leftover() == []


def test_workers_that_are_left_without_use_are_ended(office: Office) -> None:
    office.hire("one")
    office.wait()
    office.start("a", "b")
    office.wait()
    office.hire("two", IDS[:-1])
    office.wait()
    assert "has collected other tasks" in office.workers.lost
    assert [job.task for job in office.workers.leftover()] == ["b"]
    assert office.xdist.killed == ["one", "two"]
    assert office.workers.slots == 0
    [end] = office.wait()
    assert end.task == "a"
    assert isinstance(end.outcome, Lost)
    assert end.outcome.reason.endswith("worker one was ended")
    office.workers.close()
    assert office.xdist.told == [None, None], "it was our doing"


def test_workers_that_never_get_there_are_no_reason_to_wait(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.xdist.queue.clear()
    for node in (one, two):
        office.xdist.put("errordown", node=node, error="gone")
        # A replacement, which will fare no better.
        office.xdist.nodes.append(Node())
    office.wait()
    assert "before it had collected" in office.workers.lost


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([*IDS[:-1], TaskId("other")], "it has other"),
        (IDS[:-1], "it lacks h"),
        ([IDS[1], IDS[0], *IDS[2:]], "the order differs, beginning with b"),
    ],
)
def test_other_tasks_than_ours_are_named(office: Office, ids: list[TaskId], text: str) -> None:
    office.hire("one", ids)
    office.wait()
    assert text in office.workers.lost


def test_what_is_cancelled_is_killed_and_its_end_is_dropped(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.wait()
    office.start("a", "b", "c")
    office.wait()
    office.workers.cancel(TaskId("a"), 1)
    office.workers.cancel(TaskId("c"), 1)
    assert office.xdist.killed == ["one"]
    assert office.done(one, "a") == []
    office.done(two, "b")
    office.wait()
    assert orders(two) == ["b"]


def test_what_is_over_its_time_is_killed_and_only_that_is_lost(office: Office) -> None:
    office.patience["a"] = (5.0, 2.0)
    one = office.hire("one")
    office.wait()
    office.start("a", "b")
    office.wait()
    office.now = 6.9
    assert office.wait() == []
    office.xdist.clone = lambda: office.hire("two")
    office.now = 7.0
    (end,) = office.wait()
    assert (end.task, end.attempt) == ("a", 1)
    assert isinstance(end.outcome, Failure)
    assert end.outcome.kind is FailureKind.TIMED_OUT
    assert end.outcome.message == "Timeout (>5.0s): it was still there 2 s later, so worker one was killed"
    assert office.xdist.killed == ["one"]
    assert one not in office.xdist.nodes
    # What had not begun goes to the one that comes in its place.
    office.wait()
    (two,) = office.xdist.nodes
    assert orders(two) == ["b"]
    assert [end.task for end in office.done(two, "b")] == ["b"]


def test_each_attempt_has_its_own_time(office: Office) -> None:
    office.patience.update(a=(5.0, 2.0), b=(5.0, 2.0))
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.done(one, "a", seconds=6.0)
    office.start("b")
    office.wait()
    office.now = 12.9
    assert office.wait() == []
    office.now = 13.0
    assert [end.task for end in office.wait()] == ["b"]


def test_an_answer_that_has_come_counts_however_late_it_is_read(office: Office) -> None:
    office.patience["a"] = (5.0, 2.0)
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    (end,) = office.done(one, "a", seconds=100.0)
    assert isinstance(end.outcome, Success)
    assert not office.xdist.killed


def test_the_clock_starts_when_the_worker_says_so(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    board = FakeBoard()
    monkeypatch.setattr("pytest_flowforge.plugin.workers.Board.make", lambda: board)
    monkeypatch.setattr("pytest_flowforge.plugin.workers.process_id", lambda _: 1)
    office.patience["b"] = (5.0, 2.0)
    office.hire("one")
    office.wait()
    office.start("b")
    office.wait()
    office.now = 50.0
    assert office.wait() == [], "it has not begun"
    board.entry = Entry(0, 1, 3.0)
    office.now = 60.0
    assert office.wait() == [], "it is at another task"
    board.entry = Entry(1, 1, 60.0)
    office.now = 66.9
    assert office.wait() == []
    office.now = 67.0
    (end,) = office.wait()
    assert isinstance(end.outcome, Failure)
    assert end.outcome.longrepr.startswith("where it stands")
    assert board.closed


class FakeBoard:
    address = "nowhere"
    entry: Entry | None = None
    closed = False

    def read(self) -> Entry | None:
        return self.entry

    def stacks(self, process: int) -> str:
        return f"where it stands ({process})\n"

    def close(self) -> None:
        self.closed = True


def test_a_worker_that_is_ended_for_nobody_gets_no_more_and_is_replaced(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.workers.cancel(TaskId("a"), 1)
    assert office.workers.slots == 0
    office.start("b")
    office.wait()
    assert orders(one) == ["a"]
    office.xdist.put("errordown", node=one, error="gone")
    office.xdist.clone = lambda: office.hire("two")
    office.wait()
    office.wait()
    (two,) = office.xdist.nodes
    assert office.xdist.told == ["it was ended"]
    assert orders(two) == ["b"]


def test_what_orders_say_of_results_stays_said_when_they_are_asked_back() -> None:
    # The controller says it once to each worker.
    returned: list[dict[str, Any]] = []
    inbox = Inbox()
    inbox.work_for(returned.append)
    order = {"task": "b", "attempt": 1, "inputs": {"a": ["none", "a", "failed", "boom", "boom"]}}
    grown = {"d": ["one", "two"]}
    inbox.take_in(encode({"do": "run", "orders": [order], "gone": ["c"], "away": ["d"], "grown": grown}))
    inbox.take_in(encode({"do": "recall", "gone": [], "away": []}))
    assert returned == [{"is": "returned", "tasks": [("b", 1)]}]
    assert inbox.next() == {"do": "learn", "inputs": order["inputs"], "gone": ["c"], "away": ["d"], "grown": grown}
    assert inbox.next() == {"do": "recall", "gone": [], "away": []}


def test_orders_that_are_asked_back_before_anybody_works_on_them_are_not_lost() -> None:
    returned: list[dict[str, Any]] = []
    inbox = Inbox()
    inbox.take_in(encode({"do": "run", "orders": [{"task": "a", "attempt": 1, "inputs": {}}], "gone": [], "away": []}))
    inbox.take_in(encode({"do": "recall", "gone": [], "away": []}))
    inbox.work_for(returned.append)
    assert returned == [{"is": "returned", "tasks": [("a", 1)]}]
    assert [inbox.next(), inbox.next()] == [
        {"do": "learn", "inputs": {}, "gone": [], "away": [], "grown": {}},
        {"do": "recall", "gone": [], "away": []},
    ]


def test_closing_ends_all_and_replaces_none(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.wait()
    office.start("a")
    office.wait()
    office.workers.close()
    assert office.xdist.killed == ["one"], "it still did something"
    assert office.xdist.told == [None], "and nobody is told that it has not ended properly"
    assert two.channel.sent[-1]["do"] == "stop"
    assert not office.xdist.alive
    assert one not in office.xdist.nodes


def gone(node: Any, what: str = "gone") -> list[str]:
    return [task for message in node.channel.sent for task in message[what]]


def test_nobody_is_told_that_a_task_does_not_come_before_it_is_done(office: Office) -> None:
    one, two = office.hire("one"), office.hire("two")
    office.wait()
    office.start("a")
    office.wait()
    office.now += 1.0
    office.wait()
    assert gone(one) == gone(two) == [], "it may be asked back, or be followed by another attempt"
    assert (gone(one, "away"), gone(two, "away")) == ([], ["a"]), "and results can be read again"
    office.workers.forget(TaskId("a"))
    office.now += 1.0
    office.wait()
    assert gone(two) == ["a"]
    office.done(one, "a")
    office.start("b")
    office.wait()
    assert gone(one) == ["a"]


def test_a_worker_that_comes_later_hears_of_what_does_not_come(office: Office) -> None:
    office.workers.forget(TaskId("h"))
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    two = office.hire("two")
    office.wait()
    office.start("b")
    office.wait()
    assert gone(one) == gone(two) == ["h"]


# ---- sent ahead ------------------------------------------------------------------------------------------------------


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(monkeypatch, followers={"a": "b", "b": "c", "c": "d", "d": "e"})


def test_what_can_only_follow_is_sent_along(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    assert orders(one) == ["a", "b<a"]
    assert chain.workers.slots == 1, "it is not started"
    chain.done(one, "a")
    chain.start("b")
    chain.wait()
    assert orders(one) == ["a", "b<a", "c<b"], "not sent again, and the next one with it"
    assert outcomes(chain.done(one, "b")) == {"b": Success()}


def test_quick_ones_are_sent_along_further(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a", seconds=0.001)
    chain.start("b")
    chain.wait()
    assert orders(one) == ["a", "b<a", "c<b", "d<c", "e<d"]


def test_one_that_has_ended_before_it_was_started_ends_at_once(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a")
    assert chain.done(one, "b") == []
    chain.start("b")
    assert outcomes(chain.wait()) == {"b": Success()}


def test_what_is_sent_along_counts_as_made_until_it_is_started(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    assert [chain.workers.is_made(TaskId(task), 1) for task in "abc"] == [False, True, False]
    chain.done(one, "a")
    chain.done(one, "b")
    assert chain.workers.is_made(TaskId("b"), 1)
    chain.start("b")
    assert not chain.workers.is_made(TaskId("b"), 1)


def test_what_comes_back_when_all_is_interrupted_has_not_begun(office: Office) -> None:
    one = office.hire("one")
    office.wait()
    office.start("a")
    office.wait()
    office.workers.interrupt()
    one.channel.callback(encode({"is": "returned", "tasks": [("a", 1)]}))
    assert outcomes(office.wait()) == {"a": Failure(FailureKind.INTERRUPTED, "it had not begun")}


def test_nothing_follows_a_failure(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a", Failure(message="boom"))
    chain.start("f")
    chain.wait()
    assert orders(one) == ["a", "b<a", "f"]
    chain.done(one, "f")
    # A second attempt elsewhere may have succeeded: then it is sent as any other.
    chain.start("b")
    chain.wait()
    assert orders(one)[-2:] == ["b", "c<b"]


def test_one_that_takes_its_worker_along_before_it_was_started_is_lost_when_it_is(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a")
    two = chain.hire("two")
    chain.xdist.put("errordown", node=one, error="gone")
    assert chain.wait() == []
    chain.start("b")
    assert outcomes(chain.wait()) == {"b": Lost("worker one crashed while it ran (exit status 7)")}
    assert orders(two) == [], "it is not made twice"


def test_one_that_takes_the_last_worker_along_before_it_was_started_is_named(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a")
    chain.xdist.put("errordown", node=one, error="gone")
    assert chain.wait() == []
    ahead = "b, which had been sent ahead: worker one crashed while it ran (exit status 7)"
    assert chain.workers.lost == f"no worker left ({ahead})"
    chain.start("b")
    assert outcomes(chain.wait()) == {"b": Lost("worker one crashed while it ran (exit status 7)")}
    assert chain.workers.leftover() == [], "it is not made twice"


def test_one_that_has_run_and_was_not_to_is_told(chain: Office) -> None:
    one = chain.hire("one")
    chain.wait()
    chain.start("a")
    chain.wait()
    chain.done(one, "a")
    chain.done(one, "b")
    chain.workers.close()
    assert chain.notes == [{"is": "unasked", "task": "b"}]
