"""Pools, on every executor: what has units at a time, who waits for whom, and requests that can never be met."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

from tests.plugin.test_executors_agree import kind

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow
    from tests.plugin.test_executors_agree import Kind, Log

__all__ = ["kind"]

_OK, _USAGE = pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR


def four_slots(kind: Kind) -> tuple[str, ...]:
    """The options of *kind*, with four slots where there may be several."""
    return tuple("4" if option == "2" else option for option in kind.options)


_SHARED = """
    import time
    import pytest
    from log import log

    def work(name):
        log(f"+ {name}")
        # One worker alone is not done before another one comes.
        time.sleep(0.1)
        log(f"- {name}")

    @pytest.mark.pool("gpu")
    @pytest.mark.parametrize("number", range(5))
    def flow_gpu(number):
        work(f"gpu{number} gpu=1")

    @pytest.mark.pool(mem=3)
    @pytest.mark.parametrize("number", range(3))
    def flow_mem(number):
        work(f"mem{number} mem=3")

    @pytest.mark.pool("gpu", mem=2)
    @pytest.mark.retry(1)
    @pytest.mark.parametrize("number", range(3))
    def flow_both(number, tmp_path_factory):
        work(f"both{number} gpu=1 mem=2")
        mark = tmp_path_factory.getbasetemp().parent / f"both{number}"
        if not mark.exists():
            mark.touch()
            raise OSError("once")

    @pytest.mark.exclusive
    @pytest.mark.parametrize("number", range(2))
    def flow_alone(number):
        work(f"alone{number} all=1")

    @pytest.mark.parametrize("number", range(4))
    def flow_free(number):
        work(f"free{number}")
"""

_SIZES = {"gpu": 2, "mem": 4}


def _most_at_once(lines: list[str]) -> dict[str, int]:
    """How many units of each pool were in use at most, and how many tasks ran; nobody was beside one that is alone."""
    running: list[str] = []
    most = dict.fromkeys([*_SIZES, "tasks"], 0)
    for line in lines:
        sign, _, who = line.partition(" ")
        if sign == "-":
            running.remove(who)
            continue
        running.append(who)
        assert len(running) == 1 or "all=1" not in " ".join(running), f"not alone: {running}"
        requests = [request.partition("=") for one in running for request in one.split()[1:]]
        for pool in _SIZES:
            used = sum(int(units) for name, _, units in requests if name == pool)
            most[pool] = max(most[pool], used)
        most["tasks"] = max(most["tasks"], len(running))
    assert not running
    return most


@pytest.mark.parametrize("way", ["options", "ini"])
def test_nobody_takes_more_than_there_is(kind: Kind, flow: Flow, log: Log, way: str) -> None:
    ini = (
        "[pytest]\nflowforge_pools = gpu=2 mem=1\n" if way == "options" else "[pytest]\nflowforge_pools = gpu=2 mem=4\n"
    )
    options = ["--ff-pool", "mem=4"] if way == "options" else []

    result = flow({"flow_it.py": _SHARED, "pytest.ini": ini}, *options, *four_slots(kind))

    assert result.ret == _OK
    assert result.parseoutcomes() == {"passed": 17, "retried": 3}
    most = _most_at_once(log())
    assert all(most[pool] <= size for pool, size in _SIZES.items())
    # And what there is is used.
    assert (most["tasks"] > 1) is kind.at_once


_STREAM = """
    import time
    from pathlib import Path
    import pytest
    from log import log

    # Each small one lets the next one be ready before it ends, so that there is always one that would fit.
    def small(number):
        @pytest.mark.pool("mem")
        def flow_small():
            log(f"small {number}")
            time.sleep(0.05)
        return flow_small

    for number in range(30):
        globals()[f"flow_small_{number}"] = small(number)

    @pytest.mark.pool(mem=4)
    @pytest.mark.priority(-1)
    @pytest.mark.depends_on("small_0")
    def flow_big():
        log("big")

    # Only these are ready before it, and they outrank it; all others come later.
    for number in range(3, 30):
        pytest.mark.depends_on(f"small_{number - 3}")(globals()[f"flow_small_{number}"])
"""


def test_a_big_request_is_not_starved_by_small_ones(kind: Kind, flow: Flow, log: Log) -> None:
    if not kind.at_once:
        pytest.skip("one task at a time has every pool for itself")

    result = flow(_STREAM, "--ff-pool", "mem=4", *four_slots(kind))

    assert result.ret == _OK
    lines = log()
    assert len(lines) == 31
    assert lines.index("big") < 20


_UNMET = {
    "pytest.ini": "[pytest]\nflowforge_pools = gpu=2 none=0\n",
    "flow_it.py": """
        import pytest

        @pytest.mark.pool("gqu")
        def flow_misspelt(): ...

        @pytest.mark.pool(gpu=3)
        def flow_too_much(): ...

        @pytest.mark.pool("none")
        def flow_of_none(): ...

        @pytest.mark.pool(gpu=2)
        def flow_fits(): ...

        @pytest.mark.pool(gpu=9)
        @pytest.mark.exclusive
        def flow_alone(): ...
    """,
}

_PROBLEMS = [
    ("flow_it.py:4", "'misspelt' asks for pool 'gqu', and there is no such pool; did you mean 'gpu'?; give it a size*"),
    ("flow_it.py:7", "'too_much' asks for 3 units of pool 'gpu', which has 2, so it could never start; ask for less*"),
    ("flow_it.py:10", "'of_none' asks for 1 unit of pool 'none', which has 0, so it could never start; ask for less*"),
    ("flow_it.py:16", "'alone' asks for 9 units of pool 'gpu', which has 2, so it could never start; ask for less*"),
]


@pytest.mark.parametrize("options", [[], ["--ff-validate"], ["-n", "2"], ["--ff-executor", "thread"]], ids=str)
def test_a_request_that_can_never_be_met(flow: Flow, options: list[str]) -> None:
    result = flow(_UNMET, *options)

    assert result.ret == _USAGE
    for where, problem in _PROBLEMS:
        result.stderr.fnmatch_lines([f"ERROR: {where}: {problem}"])
    result.stderr.fnmatch_lines(["*with --ff-pool gqu=N or in the ini value flowforge_pools", "*make the pool larger"])
    assert "'fits'" not in result.stderr.str()


def test_machines_are_told_of_it_too(flow: Flow) -> None:
    result = flow(_UNMET, "--ff-validate", "--ff-format", "json")

    answer = json.loads(result.stdout.str())
    assert [problem["where"] for problem in answer["problems"]] == [where for where, _ in _PROBLEMS]
    for problem, (_, text) in zip(answer["problems"], _PROBLEMS, strict=True):
        assert fnmatchcase(problem["text"], text.replace("?", "[?]"))


@pytest.mark.parametrize(
    "size", ["gpu", "gpu=", "=2", "gpu=two", "gpu=-1", "gpu=1.5", "gpu=\u00b2", f"gpu={'9' * 5000}", "gpu=2=3"]
)
@pytest.mark.parametrize("way", ["option", "ini"])
def test_a_size_that_can_not_be_meant(flow: Flow, size: str, way: str) -> None:
    options = ["--ff-pool", size] if way == "option" else ["-o", f"flowforge_pools={size}"]

    result = flow("def flow_it(): ...", "--ff-validate", *options)

    assert result.ret == _USAGE
    result.stderr.fnmatch_lines([f"ERROR: pool '{size[:90]}*': write NAME=N with a whole number N, as in gpu=2 (ini*"])
