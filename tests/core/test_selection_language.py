"""What a selection expression means, and what it says when it means nothing."""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.core.graph import TaskGraph
from pytest_flowforge.core.model import Task, TaskId
from pytest_flowforge.core.selection import Selection, Term, parse_expression, select
from pytest_flowforge.errors import SelectionError, UnknownTask
from tests.core.flows import graphs

if TYPE_CHECKING:
    from collections.abc import Iterable

# a -> b -> c -> d -> e, and x -> c
GRAPH = TaskGraph.build(
    Task(TaskId(name), tuple(map(TaskId, needs)))
    for name, needs in {"a": "", "b": "a", "x": "", "c": "bx", "d": "c", "e": "d", "fit[a, b+1]": ""}.items()
)


def resolve(reference: str) -> list[TaskId]:
    return [task.id for task in GRAPH if task.id == reference or fnmatchcase(task.id, reference)]


def chosen(text: str) -> set[str]:
    return set(parse_expression(text).evaluate(GRAPH, resolve))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c", "c"),
        ("+c", "abxc"),
        ("c+", "cde"),
        ("+c+", "abxcde"),
        ("1+c", "bxc"),
        ("0+c+0", "c"),
        ("2+c", "abxc"),
        ("c+1", "cd"),
        ("1+c+1", "bxcd"),
        ("99999999999999999999+c", "abxc"),
        ("a e", "ae"),
        ("  a\t e\n", "ae"),
        ("+c,b+", "bc"),
        ("+c,b+ e", "bce"),
        ("a,b", ""),
        ("[ab]", "ab"),
        ("?,+b", "ab"),
    ],
)
def test_meaning(text: str, expected: str) -> None:
    assert chosen(text) == set(expected)


def test_brackets_keep_spaces_commas_and_plus_signs() -> None:
    assert chosen("fit[a, b+1]") == {"fit[a, b+1]"}
    assert chosen("a +fit[a, b+1]+ b") == {"a", "b", "fit[a, b+1]"}


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("train", Term("train", 0, 0)),
        ("+train", Term("train", None, 0)),
        ("12+train+3", Term("train", 12, 3)),
        ("train+", Term("train", 0, None)),
        ("c++x", Term("c++x", 0, 0)),
        ("7", Term("7", 0, 0)),
        ("flow_c+.py::load", Term("flow_c+.py::load", 0, 0)),
        ("fit[+]", Term("fit[+]", 0, 0)),
        ("fit[a[0], 1]+2", Term("fit[a[0], 1]", 0, 2)),
    ],
)
def test_terms(text: str, term: Term) -> None:
    assert parse_expression(text).groups == ((term,),)


@pytest.mark.parametrize(
    ("text", "column", "rule"),
    [
        ("", 1, "names at least one task"),
        ("   ", 1, "names at least one task"),
        ("a,,b", 3, "a comma stands between two terms"),
        (",a", 1, "a comma stands between two terms"),
        ("a, b", 3, "a comma stands between two terms, without white space"),
        ("b a ,b", 5, "a comma stands between two terms"),
        ("+", 1, "before or behind the name"),
        ("a 3+", 3, "before or behind the name"),
        ("++a", 1, "one plus sign before a name"),
        ("x a++", 3, "one plus sign before a name"),
        ("a fit[1", 6, "this bracket is never closed"),
        ("fit[[1]", 4, "this bracket is never closed"),
        ("fit]1", 4, "this bracket closes nothing"),
    ],
)
def test_errors_say_where_and_why(text: str, column: int, rule: str) -> None:
    with pytest.raises(SelectionError) as raised:
        parse_expression(text)
    head, shown, pointer = str(raised.value).split("\n")
    assert head.startswith(f"selection {text!r}, column {column}: ")
    assert rule in head
    assert shown == f"    {text}"
    assert pointer.index("^") == column + 3


def test_a_reference_to_nothing_is_an_error_with_its_place() -> None:
    with pytest.raises(SelectionError, match="selection 'a nobody\\+', column 3: 'nobody' names no task"):
        chosen("a nobody+")


def test_whoever_resolves_may_object_as_well() -> None:
    def objects(reference: str) -> Iterable[TaskId]:
        msg = f"{reference} is ambiguous"
        raise SelectionError(msg)

    with pytest.raises(SelectionError, match="a is ambiguous"):
        parse_expression("a").evaluate(GRAPH, objects)


@given(st.one_of(st.text(max_size=30), st.text("ab1+,[] ", max_size=12)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression = parse_expression(text)
    except SelectionError:
        return
    assert expression.groups
    for term in itertools.chain(*expression.groups):
        assert term.reference
        assert text[term.column - 1 :].lstrip("0123456789+").startswith(term.reference.lstrip("0123456789+"))


_REFERENCES = st.from_regex(r"[a-z_:./]{1,5}(\[[a-z ,+0-9]{0,5}\])?", fullmatch=True)
_TERMS = st.builds(Term, _REFERENCES, st.none() | st.integers(0, 99), st.none() | st.integers(0, 99), st.just(1))


@given(st.lists(st.lists(_TERMS, min_size=1, max_size=3), min_size=1, max_size=3), st.sampled_from([" ", "  ", "\n"]))
def test_what_is_written_down_is_read_back(groups: list[list[Term]], space: str) -> None:
    text = space.join(",".join(map(_written, group)) for group in groups)
    read = [[Term(term.reference, term.up, term.down) for term in group] for group in parse_expression(text).groups]
    assert read == groups


def _written(term: Term) -> str:
    up = "" if term.up == 0 else "+" if term.up is None else f"{term.up}+"
    down = "" if term.down == 0 else "+" if term.down is None else f"+{term.down}"
    return f"{up}{term.reference}{down}"


# Closing a selection.


def test_what_targets_need_comes_along() -> None:
    selection = select(GRAPH, [TaskId("c"), TaskId("b")])
    assert selection == Selection(frozenset({TaskId("b"), TaskId("c")}), frozenset({TaskId("a"), TaskId("x")}))
    assert selection.all == {"a", "b", "c", "x"}


def test_only_means_only() -> None:
    assert select(GRAPH, [TaskId("c")], only=True) == Selection(frozenset({TaskId("c")}))


@pytest.mark.parametrize("only", [False, True])
def test_unknown_targets_are_refused(*, only: bool) -> None:
    with pytest.raises(UnknownTask):
        select(GRAPH, [TaskId("nobody")], only=only)


@given(graphs(10, plain=True), st.data())
def test_a_selection_is_closed_and_no_larger_than_it_must_be(graph: TaskGraph, data: st.DataObject) -> None:
    targets = data.draw(st.sets(st.sampled_from([task.id for task in graph])))
    selection = select(graph, targets)
    assert selection.targets == targets
    assert selection.along.isdisjoint(targets)
    assert all(need in selection.all for name in selection.all for need in graph[name].needs)
    assert all(not targets.isdisjoint(graph.descendants([name])) for name in selection.along)
