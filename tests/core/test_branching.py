"""Tasks that choose who goes on: what a choice closes, what the engine makes of it, what is recorded and resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.branching import branch_of
from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Branch, Outcome, Skipped, Success, TaskId, Trigger
from pytest_flowforge.core.records import Recorder, RunHeader, TaskRecord, to_task_record
from pytest_flowforge.core.resume import Question, decide
from pytest_flowforge.core.states import SUCCEEDED, TaskState
from tests.core.flows import Play, graphs, names, predict, task, tid
from tests.core.test_checkpoint import CODE, World, flow, ids, reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


# What a choice closes.


def closed(graph: TaskGraph, name: str, *chosen: str) -> list[str]:
    return sorted(names(branch_of(graph, tid(name), list(map(tid, chosen))).closed))


DIAMOND = flow(task("choose"), task("eu", "choose"), task("us", "choose"), task("join", "choose", "eu", "us"))


def test_the_others_are_closed() -> None:
    assert closed(DIAMOND, "choose", "eu", "us") == []
    assert closed(DIAMOND, "choose") == ["eu", "join", "us"]
    assert closed(DIAMOND, "eu", "join") == []


def test_what_waits_for_a_chosen_one_is_no_other_way() -> None:
    assert closed(DIAMOND, "choose", "eu") == ["us"]
    assert closed(DIAMOND, "choose", "join") == ["eu", "us"]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([], "a went on with none of its downstream tasks"),
        (["0"], "a went on with 0 only"),
        (["1", "0"], "a went on with 0 and 1 only"),
        ("0123456", "a went on with 0, 1, 2, 3, 4 and 2 more only"),
    ],
)
def test_a_choice_in_words(chosen: list[str], words: str) -> None:
    graph = flow(task("a"), *(task(f"{place}", "a") for place in range(9)))
    branch = branch_of(graph, tid("a"), list(map(tid, chosen)))
    assert branch.because == words
    assert names(branch.chosen) == sorted(chosen)


@given(st.data())
def test_a_choice_closes_what_no_chosen_one_leads_to(data: st.DataObject) -> None:
    graph = data.draw(graphs(plain=True))
    name = data.draw(st.sampled_from(ids(graph)))
    downstream = graph.downstream(name)
    chosen = data.draw(st.sets(st.sampled_from(downstream)) if downstream else st.just(set()))
    branch = branch_of(graph, name, chosen)
    assert branch.closed == set(downstream) - chosen - graph.descendants(chosen)
    assert branch.chosen == tuple(one for one in downstream if one in chosen)


def test_a_choice_does_not_look_at_the_whole_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [task("c0", "eu"), *(task(f"c{place}", f"c{place - 1}") for place in range(1, 1000))]
    graph = flow(task("choose"), task("eu", "choose"), task("us", "choose"), *chain)
    asked: list[TaskId] = []
    downstream = TaskGraph.downstream

    def counted(self: TaskGraph, name: TaskId) -> tuple[TaskId, ...]:
        asked.append(name)
        return downstream(self, name)

    monkeypatch.setattr(TaskGraph, "downstream", counted)
    assert closed(graph, "choose", "eu") == ["us"]
    assert len(asked) < 5


# What the engine makes of it.


def going_on(graph: TaskGraph, name: str, *chosen: str) -> Success:
    return Success(chosen, branch_of(graph, tid(name), list(map(tid, chosen))))


WAY = "choose went on with eu only"


@pytest.mark.parametrize(
    ("when", "state", "reason"),
    [
        (Trigger.ALL_SUCCESS, "skipped", f"upstream us was skipped: {WAY}"),
        (Trigger.ANY_SUCCESS, "success", ""),
        (Trigger.ALL_DONE, "success", ""),
        (Trigger.ALWAYS, "success", ""),
        (Trigger.ANY_FAILED, "skipped", "no upstream failed"),
    ],
)
def test_a_join_goes_by_its_rule(when: Trigger, state: str, reason: str) -> None:
    play = Play(
        task("choose"), task("eu", "choose"), task("us", "choose"), task("join", "us", "eu", when=when), slots=2
    )
    play.start().finish("choose", outcome=going_on(play.graph, "choose", "eu"))
    assert play.running == ["eu"]
    assert (play.last("us").because, play.last("us").cause) == (WAY, tid("choose"))
    play.finish("eu")
    if play.running:
        play.finish("join")
    assert play.states == {"choose": "success", "eu": "success", "us": "skipped", "join": state}
    assert play.last("join").because == reason


@pytest.mark.parametrize(
    ("when", "state"),
    [
        (Trigger.ALL_SUCCESS, "skipped"),
        (Trigger.ANY_SUCCESS, "skipped"),
        (Trigger.ALL_DONE, "pending"),
        (Trigger.ALWAYS, "pending"),
        (Trigger.ANY_FAILED, "skipped"),
    ],
)
def test_a_closed_way_counts_as_skipped(when: Trigger, state: str) -> None:
    play = Play(task("choose"), task("next", "choose", when=when), slots=0).start().slots(1).slots(0)
    play.finish("choose", outcome=going_on(play.graph, "choose"))
    assert play.states["next"] == state


def test_any_success_asks_the_others() -> None:
    play = Play(task("choose"), task("other"), task("next", "choose", "other", when=Trigger.ANY_SUCCESS), slots=2)
    play.start().finish("choose", outcome=going_on(play.graph, "choose")).finish("other")
    assert play.running == ["next"]


def test_two_that_choose_must_agree() -> None:
    play = Play(task("a"), task("b"), task("next", "a", "b"), slots=2).start()
    play.finish("a", outcome=going_on(play.graph, "a", "next"))
    play.finish("b", outcome=going_on(play.graph, "b"))
    assert play.last("next").because == "b went on with none of its downstream tasks"


def test_a_restored_choice_stands() -> None:
    graph = flow(task("choose"), task("eu", "choose"), task("us", "choose"))
    branches = {tid("choose"): branch_of(graph, tid("choose"), [tid("us")])}
    play = Play(*graph.tasks, restored={"choose": "stands"}, branches=branches).start()
    assert play.states == {"choose": "reused", "eu": "skipped", "us": "running"}


# What is recorded and resumed.


def by_choice(graph: TaskGraph, choices: Mapping[str, tuple[str, ...]]) -> Callable[[TaskId, int], Outcome]:
    ways = {tid(name): going_on(graph, name, *chosen) for name, chosen in choices.items()}
    return lambda name, _: ways.get(name, Success())


REGIONS = flow(
    task("choose"),
    task("eu", "choose"),
    task("us", "choose"),
    task("sum", "eu", "us", when=Trigger.ANY_SUCCESS),
    task("all", "eu", "us"),
)


def test_a_choice_is_recorded_and_inherited() -> None:
    world = World()
    choose = by_choice(REGIONS, {"choose": ("eu",), "eu": ()})
    world.run(REGIONS, choose)
    assert world.current.tasks[tid("choose")].chosen == (tid("eu"),)
    assert world.current.tasks[tid("eu")].chosen == ()
    assert world.current.tasks[tid("sum")].chosen is None
    world.run(REGIONS, choose, decision=world.decide(REGIONS))
    assert world.current.tasks[tid("choose")].chosen == (tid("eu"),)
    assert world.current.tasks[tid("eu")].chosen == ()
    # As does one that was only carried, past a run of something else.
    world.run(flow(task("choose")), decision=None, collected=REGIONS)
    assert world.current.carried[tid("eu")].chosen == ()


def test_the_choice_of_a_task_without_upstreams_is_recorded_in_the_quick_way_too() -> None:
    play = Play(task("choose"), task("eu", "choose"), slots=1).start()
    play.finish("choose", outcome=going_on(play.graph, "choose"))
    header = RunHeader("run", dict.fromkeys(ids(play.graph), CODE))
    records, texts = Recorder(header, {}), Recorder(header, {})
    told = [(records(event), texts.texts(event)) for event in play.events]
    assert all(
        json.loads(json.dumps(list(one))) == [json.loads(f"{{{text}}}") for text in lines] for one, lines in told
    )
    assert [record["only"] for one, _ in told for record in one if "only" in record] == [[]]


@pytest.mark.parametrize("chosen", [None, (), (tid("a"), tid("b"))])
def test_choices_as_json(chosen: tuple[TaskId, ...] | None) -> None:
    record = TaskRecord(TaskState.SUCCESS, chosen=chosen)
    assert to_task_record(record.to_json()) == record


def test_nothing_behind_a_restored_choice_runs_again() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))
    decision = world.decide(REGIONS)
    assert reasons(decision) == {"us": WAY, "all": "was skipped"}
    assert names(decision.restored) == ["choose", "eu", "sum"]
    world.run(REGIONS, decision=decision)
    states = {name: record.state.value for name, record in world.current.tasks.items()}
    assert states == {
        **dict.fromkeys(map(tid, ("choose", "eu", "sum")), "reused"),
        **dict.fromkeys(map(tid, ("us", "all")), "skipped"),
    }
    assert world.decide(REGIONS).restored.keys() == decision.restored.keys()


def test_an_edit_of_what_is_not_chosen_means_nothing() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))
    prints = {**dict.fromkeys(ids(REGIONS), CODE), tid("us"): CODE.__class__("new")}
    assert reasons(world.decide(REGIONS, prints)) == {"us": WAY, "all": "was skipped"}


def test_another_choice_overrules_an_earlier_success() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("us",)}))
    # Run alone, it has chosen another way with the same result.
    world.run(flow(task("choose")), by_choice(REGIONS, {"choose": ("eu",)}), collected=REGIONS)
    decision = world.decide(REGIONS)
    assert reasons(decision) == {
        "eu": "upstream choose ran again",
        "us": WAY,
        "sum": "upstream eu runs again",
        "all": "upstream eu runs again",
    }
    world.run(REGIONS, decision=decision)
    assert world.current.tasks[tid("us")].state is TaskState.SKIPPED


def test_the_cache_does_not_bring_back_what_is_not_chosen() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("us",)}))
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))

    def earlier(name: TaskId) -> list[TaskRecord]:
        known = [run.known(name) for run in reversed(world.runs)]
        return [record for record in known if record is not None and record.state in SUCCEEDED]

    decision = decide(Question(REGIONS, world.current, dict.fromkeys(ids(REGIONS), CODE), earlier=earlier))
    assert reasons(decision) == {"us": WAY, "all": "was skipped"}
    assert decision.branches[tid("choose")].closed == {tid("us")}


def test_a_choice_that_leads_nowhere_any_more_is_made_again() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))
    edited = flow(task("choose"), task("eu"), task("us", "choose"), task("sum", "us"))
    told = reasons(world.decide(edited))
    assert told["choose"] == "id:eu, which it chose, is not downstream of it any more"
    assert told["us"] == "upstream choose runs again"


def test_a_choice_outside_of_the_selection_stands() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))
    part = REGIONS.restrict([tid("choose"), tid("us")])
    decision = decide(Question(part, world.current, dict.fromkeys(ids(part), CODE), flow=REGIONS))
    assert reasons(decision) == {"us": WAY}


def test_forcing_opens_no_way() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("eu",)}))
    prints = dict.fromkeys(ids(REGIONS), CODE)
    decision = decide(Question(REGIONS, world.current, prints, forced=frozenset({tid("us")})))
    assert reasons(decision) == {"us": WAY, "all": "was skipped"}


def test_what_was_interrupted_before_another_choice_is_in_no_doubt() -> None:
    world = World()
    world.run(REGIONS, by_choice(REGIONS, {"choose": ("us",)}), until=6)
    assert world.current.in_doubt == (tid("us"),)
    world.run(flow(task("choose")), by_choice(REGIONS, {"choose": ("eu",)}), collected=REGIONS)
    assert world.decide(REGIONS).in_doubt == ()


def test_a_skip_of_its_own_is_not_silenced() -> None:
    world = World()
    graph = flow(task("choose"), task("eu", "choose"), task("us", "choose"), task("last", "eu", when=Trigger.ALL_DONE))
    ways = by_choice(graph, {"choose": ("eu",)})
    world.run(graph, lambda name, attempt: Skipped("no data") if name == tid("eu") else ways(name, attempt))
    assert reasons(world.decide(graph)) == {"eu": "was skipped", "us": WAY, "last": "upstream eu runs again"}


@given(st.data())
def test_a_resumed_run_comes_to_the_same_end(data: st.DataObject) -> None:
    graph = data.draw(graphs(7, plain=True))
    choices: dict[TaskId, Branch] = {}
    for name in ids(graph):
        downstream = graph.downstream(name)
        chooses: bool = data.draw(st.booleans())
        if downstream and chooses:
            chosen: set[TaskId] = data.draw(st.sets(st.sampled_from(downstream)))
            choices[name] = branch_of(graph, name, chosen)

    def outcome(name: TaskId, _: int) -> Outcome:
        return Success(branch=choices.get(name))

    world = World()
    world.run(graph, outcome)
    first = world.current.tasks
    assert {name: record.state for name, record in first.items()} == predict(graph, outcome)
    decision = world.decide(graph)
    assert set(decision.restored) == {name for name, record in first.items() if record.state is TaskState.SUCCESS}
    world.run(graph, outcome, decision=decision)
    assert not [record for record in world.records if record["run"] == world.current.id and "dur" in record]
    second = world.current.tasks
    assert {name for name, record in second.items() if record.state is TaskState.SKIPPED} == set(decision.reasons)
