"""Digests of values: equal for what is equal, different for what differs, never an exception."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import functools
import operator
import re
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timezone
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.codeprint.values import code_object_digest, parameter_digest, value_digest


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")  # noqa: PYI024 - an old one is what is wanted


@dataclasses.dataclass
class Config:
    size: int
    names: set[str] = dataclasses.field(default_factory=set)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def get(self) -> object:
        return self.value


class Text(str):
    __slots__ = ()


class Endless:
    def __reduce__(self) -> Any:
        return Endless, (Endless(),)


class Awkward:
    def __reduce__(self) -> Any:
        message = "no"
        raise RuntimeError(message)

    def __repr__(self) -> str:
        message = "neither"
        raise RuntimeError(message)


class Lying:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        message = "no class"
        raise RuntimeError(message)


def one(x: int = 1) -> int:
    return x


def adder(n: int) -> Any:
    return lambda x: x + n


#: All of these differ from each other.
DIFFERENT: list[Any] = [
    None, ..., NotImplemented, True, False, 0, 1, -1, 10**5000, 1.0, 0.0, -0.0, float("nan"), float("inf"), 1j,
    "", "1", "a", "ab", "\ud800", b"", b"1", b"a", bytearray(b"a"), Text("a"),
    [], [1], [1, 2], [2, 1], [[1], 2], [[1, 2]], ["1", "2"], ["12"], (), (1,), (1, 2), ((1,), 2), {}, {1: 2}, {2: 1},
    {1: {2: 3}}, {1: 2, 3: 4}, {1: 4, 3: 2}, set(), {1}, {1, 2}, frozenset(), frozenset({1}), {(1, 2)}, {"a": [1]},
    range(3), range(0, 3, 2), slice(1), slice(1, 2), Colour.RED, Colour.BLUE, Level.LOW, Point(1, 2), Point(2, 1),
    OrderedDict([(1, 2), (3, 4)]), OrderedDict([(3, 4), (1, 2)]), defaultdict(list, {1: 2}), defaultdict(int, {1: 2}),
    Counter("aab"), Counter("abb"), deque([1, 2]), deque([1, 2], 2), decimal.Decimal("1.0"), decimal.Decimal("1.00"),
    date(2020, 1, 1), date(2020, 1, 2), datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=timezone.utc),  # noqa: DTZ001
    re.compile("a"), re.compile("a", re.IGNORECASE), re.compile("b"), PurePosixPath("a"), PurePosixPath("b"),
    Config(1), Config(2), Config(1, {"a"}), Config(1, {"a", "b"}), Slotted(1), Slotted(2), Slotted([1]),
    len, max, str.upper, [1].append, [2].append, int, Colour, one, adder(1), adder(2), lambda x: x - 1, lambda x: x * 1,
    lambda x, y=1: x + y, lambda x, y=2: x + y, functools.partial(one, 1), functools.partial(one, 2),
    operator.attrgetter("a"),
    operator.attrgetter("b"), enum, re, Slotted(1).get, threading.Lock(), threading.Event, iter([1]), iter([2]),
    np.array([1, 2]), np.array([1.0, 2]), np.array([1, 2], "i4"), np.array([[1, 2]]), np.array([2, 1]), np.array([]),
    np.int64(1), np.float64(1), np.float64(2), np.array(["a"], object), np.array([{"a": 1}], object), np.dtype("i4"),
    np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), np.array([(1, 2.0)], [("a", "i4"), ("c", "f8")]),
    np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-02"], "M8[D]"), np.ma.masked_array([1, 2], [False, True]),
    np.ma.masked_array([1, 2], [True, False]), BaseException("a"), BaseException("b"), memoryview(b"a").__class__,
]  # fmt: skip


def test_what_differs_has_digests_that_differ() -> None:
    seen: dict[str, Any] = {}
    for value in DIFFERENT:
        told = value_digest(value)
        assert len(told) == 32
        assert told not in seen, (value, seen[told])
        seen[told] = value
    inside = {parameter_digest({"x": [value]}) for value in DIFFERENT}
    assert len(inside) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (Config(1, {"x", "y", "z"}), Config(1, {"z", "y", "x"})),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
        (adder(1), adder(1)),
        (["ab", "ab"], [str(b"ab", "ascii"), str(b"ab", "ascii")]),
        (object(), object()),
        (threading.Lock(), threading.Lock()),
        (Slotted({"k": {1, 2}}), Slotted({"k": {2, 1}})),
        (Awkward(), Awkward()),
    ],
)
def test_what_is_equal_has_one_digest(left: Any, right: Any) -> None:
    assert value_digest(left) == value_digest(right)
    assert value_digest([left, left]) == value_digest([left, right]), "which of them are one object does not matter"


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=12,
)


def _tagged(value: Any) -> Any:
    """The value with its types beside it, so that 1 == True does not hold."""
    if isinstance(value, list | tuple):
        return type(value), [_tagged(child) for child in value]
    if isinstance(value, dict):
        return dict, sorted(((repr(_tagged(key)), _tagged(child)) for key, child in value.items()), key=repr)
    if isinstance(value, set):
        return set, sorted(repr(_tagged(child)) for child in value)
    return type(value), repr(value)


@given(left=_plain, right=_plain)
def test_plain_values_have_one_digest_exactly_when_they_are_equal_in_type_and_content(left: Any, right: Any) -> None:
    assert (value_digest(left) == value_digest(right)) == (repr(_tagged(left)) == repr(_tagged(right)))


@given(_plain)
def test_a_copy_has_the_digest_of_its_original(value: Any) -> None:
    backwards = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert value_digest(backwards) == value_digest(value)
    assert value_digest([value, value]) == value_digest([value, backwards])


def test_depth_and_circles_do_no_harm() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    assert value_digest(deep) != value_digest(deep[0])
    shared: list[Any] = [1]
    for _ in range(200):
        shared = [shared, shared]
    assert value_digest(shared) != value_digest(shared[0])
    circle: list[Any] = [1]
    circle.append(circle)
    other: list[Any] = [1]
    other.append(other)
    assert value_digest(circle) == value_digest(other) != value_digest([1, [1]])
    assert value_digest([1, circle]) == value_digest([1, other])
    knot = Slotted(None)
    knot.value = {"me": knot}
    assert value_digest(knot) == value_digest(knot)


def test_no_value_is_too_odd() -> None:
    for odd in (
        Endless(),
        Awkward(),
        Lying(),
        [Awkward()],
        (x for x in "a"),
        type("T", (), {})(),
        open,
        print,
        globals(),
    ):
        assert len(value_digest(odd)) == 32
        assert len(parameter_digest({"x": odd})) == 32
    assert value_digest([Awkward(), 1]) != value_digest([Awkward(), 2])


def test_somebody_else_may_describe_code() -> None:
    def describe(value: object) -> str | None:
        return "told" if value is one else None

    assert value_digest([one], describe) == value_digest([one], lambda _: "told")
    assert value_digest([one], describe) != value_digest([one])
    assert value_digest([len], describe) == value_digest([len])
    assert value_digest([functools.partial(one, 1)], describe) != value_digest([functools.partial(one, 1)])


def test_parameters_are_told_apart_by_name() -> None:
    assert parameter_digest({}) == value_digest({})
    told = [parameter_digest(one) for one in ({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": {"b": 1}})]
    assert len(set(told)) == len(told)
    assert parameter_digest({"a": 1, "b": 2}) == parameter_digest({"b": 2, "a": 1})


def test_compiled_code() -> None:
    def digest(source: str, doc: str | None = None) -> str:
        space: dict[str, Any] = {}
        exec(source, space)  # noqa: S102 - a function without a file is what is wanted
        return code_object_digest(space["f"].__code__, doc)

    plain = digest("def f(a):\n    return a + g(1)")
    assert digest("\n\ndef f(a):\n    # why\n    return a + g(1)") == plain
    others = ["a - g(1)", "a + g(2)", "a + h(1)", "a + g(1.0)", "(lambda: a + g(1))()", "a in {1, 2}", "a in {1, 3}"]
    told = [plain, *[digest(f"def f(a):\n    return {text}") for text in others]]
    assert len(set(told)) == len(told)
    assert digest("def f(a):\n    return lambda: 1") != digest("def f(a):\n    return lambda: 2")
    assert digest("def f(a):\n    'one'\n    return 2", "one") == digest("def f(a):\n    'two'\n    return 2", "two")
