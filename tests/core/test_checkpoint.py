"""Events to records to runs, and what a resumed run does: examples, and histories with an oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.checkpoint import RunRecord, carry, fold
from pytest_flowforge.core.engine import Engine, RunPolicy
from pytest_flowforge.core.fingerprint import Fingerprint
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.messages import AttemptFinished, RunBegan, RunEnded, RunStarted, StopRequested, TaskMoved
from pytest_flowforge.core.model import Failure, FailureKind, Lost, Outcome, Skipped, Success, Task, TaskId, Trigger
from pytest_flowforge.core.records import Recorder, ResultRef, RunHeader, TaskRecord, redact
from pytest_flowforge.core.resume import Decision, Question, decide
from pytest_flowforge.core.retry import RetryPolicy
from pytest_flowforge.core.states import SUCCEEDED, TaskState
from pytest_flowforge.errors import CheckpointDamaged, CheckpointVersion
from tests.core.flows import graphs, outcomes, task, tid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.records import Record

BOOM = Failure(message="boom")
CODE = Fingerprint("code", "parameters")


def ref(run: str, name: str) -> ResultRef:
    return ResultRef(run, "0" * 32 + ".seg", 0, 4, name[:100], "json")


def no_fault(_: ResultRef) -> str:
    return ""


def always_succeeds(_: TaskId, __: int) -> Outcome:
    return Success()


class World:
    """Journals of runs of one flow, as a killed or finished process leaves them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.count = 0

    @property
    def runs(self) -> list[RunRecord]:
        """What is read again, through JSON as it is written; the oldest first."""
        journals: dict[str, list[Record]] = {}
        for record in self.records:
            journals.setdefault(record["run"], []).append(json.loads(json.dumps(record)))
        return [fold(run, sorted(journals[run], key=itemgetter("s"))) for run in sorted(journals)]

    @property
    def last(self) -> RunRecord | None:
        """The last run that something can be built on."""
        return next((run for run in reversed(self.runs) if run.complete), None)

    @property
    def current(self) -> RunRecord:
        run = self.last
        assert run is not None
        return run

    def __getitem__(self, run: str) -> RunRecord:
        return next(found for found in self.runs if found.id == run)

    def decide(
        self,
        graph: TaskGraph,
        prints: Mapping[TaskId, Fingerprint] | None = None,
        fault: Callable[[ResultRef], str] = no_fault,
    ) -> Decision:
        return decide(Question(graph, self.last, prints or dict.fromkeys(ids(graph), CODE), fault))

    def run(  # noqa: PLR0913 - each test says one or two of these
        self,
        graph: TaskGraph,
        outcome: Callable[[TaskId, int], Outcome] = always_succeeds,
        *,
        prints: Mapping[TaskId, Fingerprint] | None = None,
        decision: Decision | None = None,
        collected: TaskGraph | None = None,
        until: int = 10**6,
        stored: bool = True,
        contents: str = "",
        outputs: Mapping[TaskId, Mapping[str, str]] | None = None,
    ) -> str:
        """Run *graph* in a process that is killed after *until* records."""
        before = self.last
        self.count += 1
        run = f"run{self.count:03}"
        restored = decision.restored if decision is not None and before is not None else {}
        results: dict[TaskId, ResultRef] = {}
        header = RunHeader(
            run,
            prints or dict.fromkeys(ids(graph), CODE),
            resumes=before.id if before is not None and decision is not None else "",
            restored=restored,
            carried=carry(before, ids(graph), ids(collected or graph)),
            needs={one.id: one.needs for one in collected or graph},
        )
        recorder, writer = (Recorder(header, results, outputs or {}) for _ in range(2))
        branches = decision.branches if decision is not None and before is not None else {}
        engine = Engine(graph, RunPolicy(2), restored=dict.fromkeys(restored, "reused"), branches=branches)
        written: list[Record] = []
        now = 100.0 * self.count
        reaction = engine.handle(RunStarted(now))
        while True:
            for event in reaction.events:
                if isinstance(event, TaskMoved) and event.after is TaskState.SUCCESS and stored:
                    results[event.task] = ref(run, f"{event.task}{contents}")
                records = recorder(event)
                assert [json.loads(f"{{{text}}}") for text in writer.texts(event)] == json.loads(json.dumps(records))
                written += records
            if engine.done:
                break
            now += 1.0
            name, attempt = engine.running[0]
            reaction = engine.handle(AttemptFinished(name, attempt, outcome(name, attempt), now))
        self.records += numbered(written)[:until]
        return run


def numbered(records: Iterable[Record]) -> list[Record]:
    """Give *records* the numbers that a journal does."""
    return [{**record, "s": place} for place, record in enumerate(records)]


def ids(graph: TaskGraph) -> list[TaskId]:
    return [one.id for one in graph]


def flow(*tasks: Task) -> TaskGraph:
    return TaskGraph.build(tasks)


CHAIN = flow(task("extract"), task("transform", "extract"), task("load", "transform"), task("notify"))


def reasons(decision: Decision) -> dict[str, str]:
    return {name.removeprefix("id:"): why for name, why in decision.reasons.items()}


def failing(*which: str, end: Outcome = BOOM) -> Callable[[TaskId, int], Outcome]:
    return lambda name, _: end if name.removeprefix("id:") in which else Success()


# What is written and read.


def test_a_run_is_told_by_its_records() -> None:
    world = World()
    run = world.run(CHAIN, failing("transform"))
    told = world.current
    assert (told.id, told.began, told.stopped, told.complete, told.in_doubt) == (run, 100.0, "", True, ())
    assert told.ended is not None
    states = {name.removeprefix("id:"): record.state.value for name, record in told.tasks.items()}
    assert states == {"extract": "success", "transform": "failed", "load": "blocked", "notify": "success"}
    extract, transform = told.tasks[tid("extract")], told.tasks[tid("transform")]
    assert (extract.result, extract.attempts, extract.fingerprint) == (ref(run, "id:extract"), 1, CODE)
    assert (transform.because, transform.failure, transform.result) == ("boom", "error", None)
    assert told.tasks[tid("load")].because == "upstream transform failed"
    assert extract.seconds > 0


def test_the_kinds_of_records() -> None:
    world = World()
    world.run(flow(task("a", retry=RetryPolicy(1))), lambda _, attempt: Success() if attempt == 2 else Lost("gone"))
    kinds = [record["ev"] for record in world.records]
    assert kinds == [
        "run_started",
        "run_tasks",
        "task_started",
        "task_retrying",
        "task_started",
        "task_finished",
        "run_finished",
    ]
    assert world.records[3]["outcome"] == {"kind": "lost", "message": "gone"}
    assert world.records[0]["v"] == [1, 1]


def test_a_stopped_run_says_why() -> None:
    engine = Engine(CHAIN)
    recorder = Recorder(RunHeader("run", dict.fromkeys(ids(CHAIN), CODE), argv=["pytest", "--token=x"]), {})
    events = [*engine.handle(RunStarted(1.0)).events, *engine.handle(StopRequested("ctrl-c", 2.0, abort=True)).events]
    told = fold("run", numbered(record for event in events for record in recorder(event)))
    assert told.stopped == "ctrl-c"
    assert told.argv == ("pytest", "--token=***")
    assert told.tasks[tid("extract")].state is TaskState.INTERRUPTED


def test_unknown_kinds_and_members_are_ignored() -> None:
    world = World()
    run = world.run(CHAIN)
    before = world[run]
    extra = [{**record, "colour": "red"} for record in world.records]
    extra.insert(3, {**extra[2], "s": 2.5, "ev": "weather_changed"})
    assert fold(run, extra) == before


@pytest.mark.parametrize("state", ["crashed", "failed"])
def test_the_first_end_of_a_task_is_its_end(state: str) -> None:
    world = World()
    run = world.run(CHAIN)
    late: Record = {"s": 99, "t": 1.0, "ev": "task_finished", "run": run, "task": "id:extract", "try": 1}
    world.records.append({**late, "state": state})
    world.records.append({**late, "s": 100, "ev": "task_started", "try": 2})
    assert world.current.tasks[tid("extract")].state is TaskState.SUCCESS


def test_one_journal_is_read_as_it_comes() -> None:
    world = World()
    run = world.run(CHAIN, failing("transform"))
    assert fold(run, iter(world.records)) == world.current
    assert fold(run, ()).complete is False
    with pytest.raises(CheckpointDamaged, match=r"run other: record 0 .*it is of run run001"):
        fold("other", world.records)


def test_a_newer_format_is_refused() -> None:
    world = World()
    run = world.run(CHAIN)
    world.records[0]["v"] = [2, 0]
    with pytest.raises(CheckpointVersion, match=rf"run {run} was written in format 2\.0.*update it"):
        _ = world.runs
    world.records[0]["v"] = [1, 99]
    assert world.runs


@pytest.mark.parametrize(
    "change",
    [
        {"task": "id:who"},
        {"state": "odd"},
        {"try": "x"},
        {"result": "here"},
        {"result": [1, 2, 3, 4, 5, 6]},
        {"result": ["r", "s", -1, 4, "d", "json"]},
        {"task": ["x"]},
        {"dur": None},
        {"outcome": "bad"},
    ],
    ids=str,
)
def test_a_known_record_that_makes_no_sense_is_damage(change: dict[str, Any]) -> None:
    world = World()
    world.run(CHAIN)
    place = next(place for place, record in enumerate(world.records) if record["ev"] == "task_finished")
    world.records[place].update(change)
    with pytest.raises(CheckpointDamaged, match=rf"record {place} \(task_finished\) makes no sense"):
        _ = world.runs


def test_many_tasks_are_told_in_several_records() -> None:
    graph = flow(*(task(f"{'x' * 200}{place}") for place in range(2000)))
    world = World()
    world.run(graph)
    listing = [record for record in world.records if record["ev"] == "run_tasks"]
    assert len(listing) > 2
    assert max(len(json.dumps(record)) for record in world.records) < 1 << 20
    assert len(world.current.tasks) == 2000
    world.run(graph, decision=world.decide(graph))
    assert len([record for record in world.records if record["ev"] == "run_inherits"]) > 2
    assert not world.decide(graph).reasons


def test_long_messages_are_cut() -> None:
    recorder = Recorder(RunHeader("run", {tid("a"): CODE}), {})
    moved = TaskMoved(
        tid("a"), TaskState.RUNNING, TaskState.FAILED, 1, 2.0, "x" * 10**6, outcome=Failure(message="y" * 10**6)
    )
    assert len(json.dumps(recorder(moved)[0])) < 10_000


def test_a_retry_that_never_comes_is_json() -> None:
    recorder = Recorder(RunHeader("run", {tid("a"): CODE}), {})
    moved = TaskMoved(tid("a"), TaskState.RUNNING, TaskState.RETRYING, 1, 2.0, outcome=BOOM, resume_at=float("inf"))
    json.dumps(recorder(moved)[0], allow_nan=False)


def test_the_attempts_before_the_last_are_told_too() -> None:
    graph = flow(task("a", retry=RetryPolicy(3)), task("b"))

    def outcome(name: TaskId, attempt: int) -> Outcome:
        return Failure(message=f"boom {attempt}") if name == tid("a") and attempt < 3 else Success()

    world = World()
    world.run(graph, outcome)
    record = world.current.tasks[tid("a")]
    assert (record.state, record.attempts) == (TaskState.SUCCESS, 3)
    assert [reason for reason, _ in record.earlier] == ["boom 1", "boom 2"]
    assert world.current.tasks[tid("b")].earlier == ()
    # Told step by step: while it waits for its next attempt, and while that runs.
    ends = [place for place, entry in enumerate(world.records) if entry.get("task") == tid("a")]
    seen = [fold(world.current.id, world.records[: place + 1]).tasks[tid("a")] for place in ends]
    assert [(record.state.value, len(record.earlier)) for record in seen] == [
        ("running", 0),
        ("retrying", 0),
        ("running", 1),
        ("retrying", 1),
        ("running", 2),
        ("success", 2),
    ]
    # A later run that builds on it has made no attempt.
    world.run(graph, decision=world.decide(graph))
    assert world.current.tasks[tid("a")].earlier == ()


def test_an_attempt_that_a_stop_has_made_the_last_is_no_earlier_one() -> None:
    header = RunHeader("run", {tid("a"): CODE}, seed="1f")
    recorder = Recorder(header, {})
    running, retrying = TaskState.RUNNING, TaskState.RETRYING
    events: list[Event] = [
        RunBegan(1, 0.0),
        TaskMoved(tid("a"), TaskState.PENDING, running, 1, 1.0),
        TaskMoved(tid("a"), running, retrying, 1, 2.0, "boom 1", outcome=BOOM, resume_at=9.0),
        TaskMoved(tid("a"), retrying, TaskState.FAILED, 1, 3.0, "not tried again: -x", outcome=BOOM),
    ]
    records = numbered([record for event in events for record in recorder(event)])
    run = fold("run", records)
    assert run.seed == "1f"
    assert (run.tasks[tid("a")].because, run.tasks[tid("a")].earlier) == ("not tried again: -x", ())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--db-password=hunter2"], ["--db-password=***"]),
        (["--token", "hunter2", "flows"], ["--token", "***", "flows"]),
        (["API_KEY=hunter2"], ["API_KEY=***"]),
        (["--api-key", "--verbose"], ["--api-key", "--verbose"]),
        (["--db=postgres://u:hunter2@h/x"], ["--db=postgres://***@h/x"]),
        (["postgres://u:hunter2@h/x?password=1"], ["postgres://***@h/x?password=1"]),
        (["-k", "author or monkey", "tests/token=3"], ["-k", "author or monkey", "tests/token=3"]),
        (["SECRET_TOKEN=hunter2"], ["SECRET_TOKEN=***"]),
    ],
    ids=str,
)
def test_secrets_on_the_command_line_are_not_written(given: list[str], shown: list[str]) -> None:
    assert redact(given) == shown


# What runs again, by example.


def test_without_a_run_everything_starts() -> None:
    assert set(reasons(World().decide(CHAIN)).values()) == {"never started"}


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (BOOM, "failed last time"),
        (Failure(FailureKind.TIMED_OUT), "timed out last time"),
        (Failure(FailureKind.CRASHED), "crashed last time"),
        (Lost("gone"), "crashed last time"),
        (Failure(FailureKind.INTERRUPTED), "was interrupted"),
        (Skipped("no data"), "was skipped"),
    ],
)
def test_what_did_not_succeed_runs_again(end: Outcome, reason: str) -> None:
    world = World()
    run = world.run(CHAIN, failing("transform", end=end))
    decision = world.decide(CHAIN)
    after = "upstream transform runs again" if isinstance(end, Skipped) else "was blocked"
    assert reasons(decision) == {"transform": reason, "load": after}
    assert {record.made[0] for record in decision.restored.values()} == {run}


def test_everything_that_succeeded_is_reused() -> None:
    world = World()
    world.run(CHAIN)
    assert not world.decide(CHAIN).reasons


def test_a_killed_run() -> None:
    world = World()
    # run_started, run_tasks, extract and notify start, extract ends, transform starts.
    world.run(CHAIN, until=6)
    decision = world.decide(CHAIN)
    in_doubt = "was running when the run ended"
    assert reasons(decision) == {"transform": in_doubt, "load": "never started", "notify": in_doubt}
    assert set(decision.in_doubt) == {tid("transform"), tid("notify")} == set(world.current.in_doubt)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (BOOM, "failed last time"),
        (Lost("gone"), "crashed last time"),
        (Failure(FailureKind.TIMED_OUT), "timed out last time"),
    ],
)
def test_a_run_killed_before_a_retry(end: Outcome, reason: str) -> None:
    world = World()
    world.run(flow(task("a", retry=RetryPolicy(1))), lambda _, __: end, until=4)
    assert reasons(world.decide(flow(task("a")))) == {"a": reason}


@pytest.mark.parametrize(
    ("now", "reason"),
    [(replace(CODE, code="new"), "code changed"), (replace(CODE, parameters="new"), "parameter changed")],
)
def test_what_changed_runs_again_and_what_is_below_it(now: Fingerprint, reason: str) -> None:
    world = World()
    world.run(CHAIN)
    prints = {**dict.fromkeys(ids(CHAIN), CODE), tid("transform"): now}
    assert reasons(world.decide(CHAIN, prints)) == {"transform": reason, "load": "upstream transform runs again"}


def test_what_can_not_be_loaded_runs_again() -> None:
    world = World()
    world.run(CHAIN)
    decision = world.decide(CHAIN, fault=lambda ref: "result damaged" if ref.sha256 == "id:transform" else "")
    assert reasons(decision) == {"transform": "result damaged", "load": "upstream transform runs again"}
    world.run(CHAIN, stored=False)
    assert reasons(world.decide(CHAIN))["extract"] == "result missing"


def test_new_tasks_run() -> None:
    world = World()
    world.run(flow(task("extract")))
    assert reasons(world.decide(CHAIN))["transform"] == "new task"


def test_an_alarm_that_had_nothing_to_say_does_not_start_what_is_below_it() -> None:
    graph = flow(
        task("a"), task("alarm", "a", when=Trigger.ANY_FAILED), task("z", "alarm", when=Trigger.ALL_DONE), task("b")
    )
    world = World()
    world.run(graph, failing("b"))
    for _ in range(3):
        decision = world.decide(graph)
        assert reasons(decision) == {"alarm": "was skipped", "b": "failed last time"}
        world.run(graph, failing("b"), decision=decision)


# Chains of runs.


def test_resumes_chain_and_name_the_run_a_result_comes_from() -> None:
    world = World()
    first = world.run(CHAIN, failing("transform"))
    second = world.run(CHAIN, failing("load"), decision=world.decide(CHAIN))
    assert world.current.resumes == first
    assert world.current.tasks[tid("extract")].state is TaskState.REUSED
    assert world.current.tasks[tid("extract")].reused_from == first
    decision = world.decide(CHAIN)
    assert reasons(decision) == {"load": "failed last time"}
    assert decision.restored[tid("extract")].made[0] == first
    assert decision.restored[tid("transform")].made[0] == second
    # The records of the last run are all that is needed.
    world.records = [record for record in world.records if record["run"] == second]
    assert world.decide(CHAIN) == decision


@pytest.mark.parametrize("until", range(12))
def test_a_resumed_run_that_is_killed_at_once_loses_nothing(until: int) -> None:
    world = World()
    world.run(CHAIN, failing("transform"))
    world.run(CHAIN, decision=world.decide(CHAIN), until=until)
    assert {tid("extract"), tid("notify")} <= set(world.decide(CHAIN).restored)


def test_what_was_not_selected_is_kept() -> None:
    world = World()
    world.run(CHAIN)
    world.run(flow(task("notify")), failing("notify"), collected=CHAIN)
    assert reasons(world.decide(CHAIN)) == {"notify": "failed last time"}


def test_what_was_not_selected_when_its_upstream_ran_again_runs_again() -> None:
    world = World()
    world.run(CHAIN)
    world.run(CHAIN.restrict([tid("transform")]), collected=CHAIN, contents=" and more")
    assert reasons(world.decide(CHAIN)) == {"load": "upstream transform ran again"}


def test_an_upstream_that_ran_again_and_returned_the_same_changes_nothing() -> None:
    world = World()
    world.run(CHAIN)
    world.run(CHAIN.restrict([tid("transform")]), collected=CHAIN)
    assert not reasons(world.decide(CHAIN))


# Any earlier success.


def search(world: World, graph: TaskGraph, version: str = "code", **question: Any) -> Decision:
    """Decide with all that was ever recorded."""
    runs = world.runs

    def earlier(name: TaskId) -> list[TaskRecord]:
        found = [run.standing[name] for run in reversed(runs) if name in run.standing]
        return [record for record in found if record.state in SUCCEEDED]

    current = world.last
    prints = {**dict.fromkeys(ids(graph), CODE), tid("extract"): Fingerprint(version, "parameters")}
    return decide(Question(graph, current, prints, earlier=earlier, **question))


def test_any_earlier_success_stands_that_was_made_of_the_same_and_built_on_the_same() -> None:
    world = World()
    prints = dict.fromkeys(ids(CHAIN), CODE)
    first = world.run(CHAIN, contents=" of the old")
    new = {**prints, tid("extract"): Fingerprint("new", "parameters")}
    second = world.run(CHAIN, prints=new, contents=" of the new")
    third = world.run(CHAIN, failing("extract"), prints=prints)
    for version, run in (("code", first), ("new", second)):
        decision = search(world, CHAIN, version)
        assert not decision.reasons
        assert [decision.restored[name].made[0] for name in ids(CHAIN)] == [run, run, run, third]
    newer = search(world, CHAIN, "newer")
    assert reasons(newer) == {
        "extract": "failed last time",
        "transform": "was blocked",
        "load": "was blocked",
    }


def test_a_success_built_on_something_else_does_not_stand() -> None:
    world = World()
    world.run(CHAIN)
    world.run(CHAIN.restrict([tid("extract")]), collected=CHAIN, contents=" and more")
    assert reasons(search(world, CHAIN)) == {
        "transform": "upstream extract ran again",
        "load": "upstream transform runs again",
    }


def test_an_older_result_that_came_back_is_another_one() -> None:
    world = World()
    prints = dict.fromkeys(ids(CHAIN), CODE)
    world.run(CHAIN, contents=" of the old")
    world.run(CHAIN, prints={**prints, tid("extract"): Fingerprint("new", "parameters")}, contents=" of the new")
    alone = CHAIN.restrict([tid("extract")])
    world.run(alone, prints=prints, decision=search(world, alone), collected=CHAIN)
    assert world.current.tasks[tid("extract")].state is TaskState.REUSED
    told = reasons(world.decide(CHAIN, prints))
    assert told == {"transform": "upstream extract ran again", "load": "upstream transform runs again"}


def test_a_skip_that_another_rule_would_not_repeat_is_none() -> None:
    def alarm(when: Trigger) -> TaskGraph:
        return flow(task("a"), task("b", "a", when=when), task("c", "b", when=Trigger.ALL_DONE))

    world = World()
    world.run(alarm(Trigger.ANY_FAILED))
    assert reasons(world.decide(alarm(Trigger.ANY_FAILED))) == {"b": "was skipped"}
    assert reasons(world.decide(alarm(Trigger.ALL_SUCCESS))) == {"b": "was skipped", "c": "upstream b runs again"}


def test_what_may_not_stand() -> None:
    world = World()
    world.run(CHAIN)
    for name, question in (("forced", "forced"), ("cache(False)", "uncached")):
        asked: dict[str, Any] = {question: frozenset({tid("transform")})}
        assert reasons(search(world, CHAIN, **asked)) == {"transform": name, "load": "upstream transform runs again"}
    assert reasons(search(world, CHAIN, fault=lambda ref: "result damaged" if "load" in ref.sha256 else "")) == {
        "load": "result damaged"
    }


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"a.bin": "1"}, None),
        ({"a.bin": "2"}, "output a.bin changed"),
        ({"a.bin": ""}, "output a.bin missing"),
        ({"a.bin": "1", "b.bin": "1"}, "output b.bin was not recorded"),
        ({}, "output a.bin missing"),
        (None, None),
    ],
)
def test_declared_outputs_have_to_be_there(now: dict[str, str] | None, reason: str | None) -> None:
    world = World()
    world.run(CHAIN, outputs={tid("extract"): {"a.bin": "1"}})

    def outputs(name: TaskId) -> dict[str, str] | None:
        return now if name == tid("extract") else None

    for decision in (
        search(world, CHAIN, outputs=outputs),
        decide(Question(CHAIN, world.current, dict.fromkeys(ids(CHAIN), CODE), outputs=outputs)),
    ):
        assert reasons(decision).get("extract") == reason


def test_forced_tasks_run_and_what_is_below_them() -> None:
    world = World()
    world.run(CHAIN)
    question = Question(CHAIN, world.current, dict.fromkeys(ids(CHAIN), CODE), forced=frozenset({tid("transform")}))
    assert reasons(decide(question)) == {"transform": "forced", "load": "upstream transform runs again"}


def test_what_is_in_doubt() -> None:
    world = World()
    world.run(CHAIN, until=4)
    assert world.decide(CHAIN).in_doubt == (tid("extract"), tid("notify"))
    world.run(CHAIN, failing("notify", end=Lost("gone")))
    assert world.decide(CHAIN).in_doubt == (tid("notify"),)


def test_a_run_that_rolls_back() -> None:
    world = World()
    first = world.run(CHAIN)
    world.run(CHAIN, failing("extract"))
    back = RunHeader("run003", {}, resumes=first, carried=world[first].standing, rolls_back=first)
    recorder = Recorder(back, {})
    written = [record for event in (RunBegan(0, 1.0), RunEnded(1.0)) for record in recorder(event)]
    world.records += numbered(written)
    assert world.current.rolls_back == first
    assert not world.decide(CHAIN).reasons


def test_very_long_ids_are_cut() -> None:
    graph = flow(task("x" * 3_000_000), task("y", "x" * 3_000_000))
    world = World()
    world.run(graph)
    assert max(len(json.dumps(record)) for record in world.records) < 10_000
    assert not world.decide(graph).reasons


def test_tasks_that_are_gone_are_forgotten() -> None:
    world = World()
    world.run(CHAIN)
    world.run(flow(task("notify")))
    assert not world.current.carried


def test_ten_thousand_tasks_in_a_chain() -> None:
    tasks = [task("t0"), *(task(f"t{place}", f"t{place - 1}") for place in range(1, 10_000))]
    graph = flow(*tasks)
    world = World()
    world.run(graph)
    prints = dict.fromkeys(ids(graph), CODE)
    assert not world.decide(graph, prints).reasons
    assert len(world.decide(graph, {**prints, tid("t0"): Fingerprint("new")}).reasons) == 10_000


# Histories, and an oracle that knows nothing of records.


@given(st.data())
def test_a_history_of_runs_edits_and_kills(data: st.DataObject) -> None:
    graph = data.draw(graphs(6, plain=True))
    history = History(graph)
    for _ in range(data.draw(st.integers(1, 4), label="runs")):
        history.step(data)
    history.compare(data.draw(damages(graph), label="damaged"))


def damages(graph: TaskGraph) -> st.SearchStrategy[set[TaskId]]:
    return st.sets(st.sampled_from(ids(graph)), max_size=1)


class History:
    """Runs of a flow that is edited, interrupted and resumed; remembers in plain sets what is true of each task."""

    def __init__(self, graph: TaskGraph) -> None:
        self.graph = graph
        self.world = World()
        self.version = dict.fromkeys(ids(graph), 0)
        #: Tasks whose last execution succeeded, with the version and the upstream executions it was built on.
        self.good: dict[TaskId, tuple[int, dict[TaskId, int]]] = {}
        #: How many times each task was executed or ended otherwise.
        self.ends = dict.fromkeys(ids(graph), 0)
        self.seen = False

    @property
    def prints(self) -> dict[TaskId, Fingerprint]:
        return {name: Fingerprint(str(version)) for name, version in self.version.items()}

    def step(self, data: st.DataObject) -> None:
        for name in data.draw(st.sets(st.sampled_from(ids(self.graph)), max_size=1), label="edited"):
            self.version[name] += 1
        damaged = data.draw(damages(self.graph), label="damaged")
        self.compare(damaged)
        resumed = data.draw(st.booleans(), label="resumed")
        decision = self.world.decide(self.graph, self.prints, faulty(damaged)) if resumed else None
        drawn: dict[tuple[TaskId, int], Outcome] = {}

        def outcome(name: TaskId, attempt: int) -> Outcome:
            return drawn.setdefault((name, attempt), data.draw(outcomes, label=name))

        until = data.draw(st.sampled_from([10_000, 10_000, *range(20)]), label="killed after")
        before = len(self.world.records)
        self.world.run(self.graph, outcome, prints=self.prints, decision=decision, until=until)
        self.believe(self.world.records[before:], set(decision.restored) if decision else set())

    def believe(self, written: list[Record], restored: set[TaskId]) -> None:
        if len(written) < 2 or (restored and len(written) < 3):
            # Killed before it had said what it would do: as if it had not been.
            return
        self.seen = True
        self.good = {name: known for name, known in self.good.items() if name in restored}
        for record in written:
            if record["ev"] != "task_finished":
                continue
            name = TaskId(record["task"])
            if record["state"] != "skipped" or record["try"]:
                self.ends[name] += 1
            if record["state"] == "success":
                self.good[name] = (self.version[name], {need: self.ends[need] for need in self.graph[name].needs})

    def compare(self, damaged: set[TaskId]) -> None:
        decision = self.world.decide(self.graph, self.prints, faulty(damaged))
        quiet = {
            name
            for name, record in (self.world.current.tasks if self.seen else {}).items()
            if record.state is TaskState.SKIPPED and not record.attempts
        }
        own = {
            name
            for name in ids(self.graph)
            if name in damaged or name not in self.good or self.good[name][0] != self.version[name]
        }
        changed = {name for name in quiet if decision.reasons[name] in {"code changed", "never started"}}
        starting = own - (quiet - changed)
        expected = own | self.graph.descendants(starting)
        assert set(decision.reasons) == expected
        assert set(decision.restored) == set(ids(self.graph)) - expected
        for name in set(decision.restored):
            assert self.good[name][1] == {need: self.ends[need] for need in self.graph[name].needs}


def faulty(damaged: set[TaskId]) -> Callable[[ResultRef], str]:
    return lambda ref: "result damaged" if ref.sha256 in damaged else ""


def test_events_of_a_run_that_recorded_nothing_else() -> None:
    recorder = Recorder(RunHeader("run", {}), {})
    records = [*recorder(RunBegan(0, 1.0)), *recorder(RunEnded(2.0))]
    told = fold("run", numbered(records))
    assert (told.tasks, told.ended) == ({}, 2.0)
