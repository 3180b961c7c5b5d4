"""When a failure is tried again, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy

OS = ("builtins.FileNotFoundError", "builtins.OSError", "builtins.Exception")


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 5])
def test_three_retries_are_four_attempts(attempt: int) -> None:
    assert RetryPolicy(3).wants(attempt, OS) == (attempt <= 3)


def test_by_default_nothing_is_tried_again() -> None:
    assert not NO_RETRY.wants(1, OS)


@pytest.mark.parametrize(
    ("on", "not_on", "mro", "wanted"),
    [
        ((), (), OS, True),
        (("builtins.OSError",), (), OS, True),
        (("builtins.ValueError",), (), OS, False),
        (("builtins.ValueError", "builtins.OSError"), (), OS, True),
        ((), ("builtins.OSError",), OS, False),
        (("builtins.OSError",), ("builtins.FileNotFoundError",), OS, False),
        ((), ("builtins.ValueError",), OS, True),
        ((), (), (), True),
        (("builtins.OSError",), (), (), False),
        ((), ("builtins.OSError",), (), True),
    ],
)
def test_classes_decide(on: tuple[str, ...], not_on: tuple[str, ...], mro: tuple[str, ...], *, wanted: bool) -> None:
    assert RetryPolicy(1, on=on, not_on=not_on).wants(1, mro) is wanted


BOOM = ("builtins.ValueError", "builtins.Exception")
GROUP = ("builtins.ExceptionGroup", "builtins.BaseExceptionGroup", "builtins.Exception")


@pytest.mark.parametrize(
    ("on", "not_on", "members", "wanted"),
    [
        pytest.param((), (), (OS, BOOM), True, id="any failure"),
        pytest.param(("builtins.OSError",), (), (OS,), True, id="all it holds"),
        pytest.param(("builtins.OSError",), (), (OS, BOOM), False, id="one of two"),
        pytest.param(("builtins.OSError", "builtins.ValueError"), (), (OS, BOOM), True, id="each of them"),
        pytest.param(("builtins.ExceptionGroup",), (), (OS, BOOM), True, id="the group itself"),
        pytest.param((), ("builtins.ValueError",), (OS, BOOM), False, id="one is exempt"),
        pytest.param(("builtins.OSError",), ("builtins.FileNotFoundError",), (OS,), False, id="wanted and exempt"),
        pytest.param((), ("builtins.ExceptionGroup",), (OS,), False, id="groups are exempt"),
        pytest.param(("builtins.OSError",), (), (), False, id="no member is known"),
    ],
)
def test_a_group_counts_as_what_it_holds(
    on: tuple[str, ...], not_on: tuple[str, ...], members: tuple[tuple[str, ...], ...], *, wanted: bool
) -> None:
    policy = RetryPolicy(1, on=on, not_on=not_on)
    assert policy.wants(1, GROUP, members) is wanted
    assert not policy.wants(2, GROUP, members)


def test_waits_grow_up_to_their_bound() -> None:
    policy = RetryPolicy(9, delay=1.0, backoff=2.0, max_delay=6.0)
    assert [policy.seconds_before(retry, "") for retry in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_a_strategy_replaces_delay_and_backoff() -> None:
    policy = RetryPolicy(9, delay=100.0, backoff=2.0, max_delay=7.0, wait=lambda retry: 3.0 * retry)
    assert [policy.seconds_before(retry, "") for retry in (1, 2, 3)] == [3.0, 6.0, 7.0]


def test_a_wait_that_no_float_can_hold_is_as_long_as_it_may_be() -> None:
    assert RetryPolicy(9999, delay=1.0, backoff=2.0).seconds_before(5000, "") == float("inf")
    assert RetryPolicy(9999, delay=1.0, backoff=2.0, max_delay=60.0).seconds_before(5000, "") == 60.0


def test_a_strategy_may_not_go_back_in_time() -> None:
    assert RetryPolicy(1, wait=lambda _: -1.0).seconds_before(1, "") == 0.0


@given(st.floats(0, 1e6), st.floats(0, 1), st.integers(1, 50), st.text())
def test_jitter_lengthens_by_its_share_at_most_and_is_the_same_each_time(
    delay: float, jitter: float, retry: int, key: str
) -> None:
    policy = RetryPolicy(99, delay=delay, jitter=jitter)
    seconds = policy.seconds_before(retry, key)
    assert delay <= seconds <= delay * (1 + jitter)
    assert seconds == policy.seconds_before(retry, key)


def test_jitter_tells_tasks_retries_and_seeds_apart() -> None:
    policy = RetryPolicy(9, delay=1.0, jitter=1.0)
    waits = {policy.seconds_before(retry, key) for retry in (1, 2) for key in ("/a", "/b", "7/a")}
    assert len(waits) == 6
