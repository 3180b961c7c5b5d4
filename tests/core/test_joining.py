"""Which variants a task depends on: the one rule, and the values that make comparing hard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.joining import Joined, Joiner, NoMatch, Shape, Variant, agree
from pytest_flowforge.core.model import TaskId

if TYPE_CHECKING:
    from collections.abc import Mapping


def variants(*sets: Mapping[str, object]) -> list[Variant]:
    return [Variant(TaskId(f"fit[{place}]"), str(place), params) for place, params in enumerate(sets)]


def labels(joined: Joined) -> list[str]:
    return [label for label, _ in joined.members]


def joined(upstream: list[Variant], **params: object) -> tuple[Shape, list[str]]:
    answer = Joiner(upstream).join(params)
    assert all(task == f"fit[{label}]" for label, task in answer.members)
    return answer.shape, labels(answer)


class ArrayLike:
    """Compares as arrays do: with an answer that is neither true nor false. Not hashable."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return NoTruth()


class NoTruth:
    def __bool__(self) -> bool:
        msg = "the truth of several values is ambiguous"
        raise ValueError(msg)


class Unequal:
    """Hashes like all of its kind and raises when compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        msg = "not comparable"
        raise RuntimeError(msg)


class NoHash:
    def __hash__(self) -> int:
        msg = "no hash today"
        raise RuntimeError(msg)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoHash)


def test_an_unparametrized_upstream_is_a_bare_value_for_everybody() -> None:
    joiner = Joiner([Variant(TaskId("extract"), "", {})])
    assert joiner.join({}) == Joined(Shape.VALUE, (("", TaskId("extract")),))
    assert joiner.join({"fold": 1}) is joiner.join({})


def test_sharing_with_one_match_is_the_bare_value() -> None:
    assert joined(variants({"fold": 1}, {"fold": 2}), fold=2) == (Shape.VALUE, ["1"])
    assert joined(variants({"fold": 1}, {"fold": 2}), fold=2, other=9) == (Shape.VALUE, ["1"])


def test_nothing_shared_is_the_dict_of_all() -> None:
    assert joined(variants({"fold": 1}, {"fold": 2})) == (Shape.MAPPING, ["0", "1"])
    assert joined(variants({"fold": 1}, {"fold": 2}), seed=2) == (Shape.MAPPING, ["0", "1"])


def test_a_single_variant_is_still_a_dict_when_nothing_is_shared() -> None:
    assert joined(variants({"fold": 1})) == (Shape.MAPPING, ["0"])


def test_a_variant_with_an_empty_label_is_still_a_variant() -> None:
    joiner = Joiner([Variant(TaskId("fit[]"), "", {"suffix": ""})])
    assert joiner.join({}) == Joined(Shape.MAPPING, (("", TaskId("fit[]")),))
    assert joiner.join({"suffix": ""}) == Joined(Shape.VALUE, (("", TaskId("fit[]")),))
    with pytest.raises(NoMatch):
        joiner.join({"suffix": "x"})


def test_a_partial_match_is_the_dict_of_those_that_agree() -> None:
    upstream = variants({"fold": 1, "seed": 1}, {"fold": 2, "seed": 1}, {"fold": 1, "seed": 2})
    assert joined(upstream, fold=1) == (Shape.MAPPING, ["0", "2"])
    assert joined(upstream, fold=2) == (Shape.VALUE, ["1"])
    assert joined(upstream, seed=2, fold=1) == (Shape.VALUE, ["2"])


def test_sharing_without_a_match_names_what_is_shared() -> None:
    with pytest.raises(NoMatch, match=r"no variant has fold=3, seed='x{10,20}\.\.\.") as raised:
        Joiner(variants({"fold": 1, "seed": ""})).join({"other": 0, "seed": "x" * 999, "fold": 3})
    assert raised.value.shared == {"fold": 3, "seed": "x" * 999}


def test_an_upstream_has_variants() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Joiner([])


def test_a_variant_without_a_parameter_of_the_others_agrees_with_no_value_of_it() -> None:
    assert joined(variants({"fold": 1}, {}), fold=1) == (Shape.VALUE, ["0"])


@pytest.mark.parametrize(
    "hard", [[1], {"a": 1}, {1}, float("nan"), ArrayLike(), Unequal(), NoHash()], ids=lambda hard: type(hard).__name__
)
def test_hard_values_agree_with_themselves(hard: object) -> None:
    upstream = variants({"value": 0}, {"value": hard}, {"value": "x"})
    assert joined(upstream, value=hard) == (Shape.VALUE, ["1"])
    assert joined(upstream, value="x") == (Shape.VALUE, ["2"])


def test_unhashable_values_agree_when_equal() -> None:
    upstream = variants({"value": [1]}, {"value": [2]}, {"value": [1]}, {"value": frozenset("a")})
    assert joined(upstream, value=[1]) == (Shape.MAPPING, ["0", "2"])
    assert joined(upstream, value={"a"}) == (Shape.VALUE, ["3"])


def test_a_hashable_value_may_equal_an_unhashable_one() -> None:
    assert joined(variants({"value": {1}}, {"value": frozenset({1})}), value=frozenset({1})) == (
        Shape.MAPPING,
        ["0", "1"],
    )


@pytest.mark.parametrize(("one", "other"), [(Unequal(), Unequal()), (ArrayLike(), ArrayLike()), (float("nan"), 1.0)])
def test_what_can_not_be_compared_does_not_agree(one: object, other: object) -> None:
    assert not agree(one, other)
    with pytest.raises(NoMatch):
        Joiner(variants({"value": one})).join({"value": other})


def test_an_error_message_survives_values_without_a_repr() -> None:
    class NoRepr:
        def __repr__(self) -> str:
            msg = "no"
            raise RuntimeError(msg)

    with pytest.raises(NoMatch, match="value=<NoRepr instance"):
        Joiner(variants({"value": 1})).join({"value": NoRepr()})


def test_equal_answers_are_one_object() -> None:
    joiner = Joiner(variants(*({"fold": fold, "seed": seed} for fold in range(3) for seed in range(3))))
    assert joiner.join({}) is joiner.join({"other": 1})
    assert joiner.join({"fold": 1}) is joiner.join({"fold": 1, "other": 1})


def test_ten_thousand_variants_for_ten_thousand_tasks() -> None:
    count = 10_000
    joiner = Joiner(variants(*({"fold": place} for place in range(count))))
    assert all(labels(joiner.join({"fold": place, "x": place})) == [str(place)] for place in range(count))
    assert len({id(joiner.join({"x": place})) for place in range(count)}) == 1


_VALUES = st.one_of(st.integers(0, 2), st.sampled_from([True, 1.0, "1", None]), st.lists(st.integers(0, 1), max_size=1))
_PARAMS = st.fixed_dictionaries({"a": _VALUES, "b": _VALUES})


@given(st.lists(_PARAMS, min_size=1, max_size=8), st.dictionaries(st.sampled_from("abc"), _VALUES))
def test_the_rule(sets: list[dict[str, object]], params: dict[str, object]) -> None:
    shared = [name for name in ("a", "b") if name in params]
    agreeing = [str(place) for place, values in enumerate(sets) if all(values[name] == params[name] for name in shared)]
    if not agreeing:
        with pytest.raises(NoMatch) as raised:
            Joiner(variants(*sets)).join(params)
        assert raised.value.shared == {name: params[name] for name in shared}
        return
    shape, found = joined(variants(*sets), **params)
    assert found == agreeing
    assert (shape is Shape.VALUE) == (len(agreeing) == 1 and bool(shared))
