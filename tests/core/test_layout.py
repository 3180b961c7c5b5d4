"""Drawings of graphs: nothing overlaps, everything leads to the right, and the same graph gives the same drawing."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flowforge.report.layout import GAP, HEIGHT, WIDTH, Box, Layout, Route, layout

if TYPE_CHECKING:
    from collections.abc import Sequence

Edges = list[tuple[str, str]]
MANY = 2_000


@st.composite
def drawable(draw: st.DrawFn) -> tuple[list[str], Edges, dict[str, float]]:
    """Tasks in any order of declaration, edges without cycles, and some widths."""
    order = [f"t{number}" for number in range(draw(st.integers(0, 25)))]
    ends = st.sampled_from(order) if order else st.nothing()
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=60)) if order else []
    place = {task: number for number, task in enumerate(order)}
    edges = [(one, other) if place[one] < place[other] else (other, one) for one, other in pairs if one != other]
    widths = draw(st.dictionaries(ends, st.floats(10, 500), max_size=5)) if order else {}
    return draw(st.permutations(order)), edges, widths


def check(drawn: Layout, tasks: Sequence[str], edges: Edges) -> None:
    boxes = {box.id: box for box in drawn.nodes}
    assert [box.id for box in drawn.nodes] == list(tasks)
    assert [(route.source, route.target) for route in drawn.edges] == list(dict.fromkeys(edges))
    for box in drawn.nodes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= drawn.width
        assert box.y + box.height <= drawn.height
    for route in drawn.edges:
        source, target = boxes[route.source], boxes[route.target]
        assert source.layer < target.layer
        assert source.x + source.width < target.x
        assert route.points[0] == pytest.approx((source.x + source.width, source.y + source.height / 2), abs=0.11)
        assert route.points[-1] == pytest.approx((target.x, target.y + target.height / 2), abs=0.11)
        assert len(route.points) % 2 == 0
        assert all(x <= to_x for (x, _), (to_x, _) in pairwise(route.points))
        assert all(0 <= y <= drawn.height for _, y in route.points)
    assert not overlapping(drawn.nodes)


def overlapping(boxes: Sequence[Box]) -> list[tuple[str, str]]:
    by_column: dict[object, list[Box]] = {}
    for box in boxes:
        by_column.setdefault(box.x + box.width / 2, []).append(box)
    # Columns may be wider than they look: all pairs, where there are few.
    pairs = (
        [(one, other) for place, one in enumerate(boxes) for other in boxes[:place]]
        if len(boxes) < 100
        else [pair for column in by_column.values() for pair in pairwise(sorted(column, key=lambda box: box.y))]
    )
    return [(one.id, other.id) for one, other in pairs if touch(one, other)]


def touch(one: Box, other: Box) -> bool:
    beside = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not (beside or one.y + one.height <= other.y or other.y + other.height <= one.y)


@given(drawable())
def test_any_graph_is_drawn_without_overlaps_and_to_the_right(graph: tuple[list[str], Edges, dict[str, float]]) -> None:
    tasks, edges, widths = graph
    drawn = layout(tasks, edges, widths)
    check(drawn, tasks, edges)
    assert {box.id: box.width for box in drawn.nodes} == {
        task: pytest.approx(widths.get(task, WIDTH) + 0.05, abs=0.06) for task in tasks
    }
    assert {box.height for box in drawn.nodes} <= {HEIGHT}


@given(drawable())
def test_the_same_graph_gives_the_same_drawing(graph: tuple[list[str], Edges, dict[str, float]]) -> None:
    assert layout(*graph) == layout(*graph)


@given(drawable())
def test_edges_pass_layers_clear_of_the_tasks_there(graph: tuple[list[str], Edges, dict[str, float]]) -> None:
    tasks, edges, widths = graph
    drawn = layout(tasks, edges, widths)
    for route in drawn.edges:
        for (x, y), (to_x, to_y) in list(pairwise(route.points))[::2]:
            assert y == to_y
            assert not [
                box.id
                for box in drawn.nodes
                if box.x + 0.05 < to_x and x + 0.05 < box.x + box.width and box.y < y < box.y + box.height
            ]


def test_no_tasks_and_one() -> None:
    nothing = layout([], [])
    assert (nothing.nodes, nothing.edges) == ((), ())
    (box,) = layout(["only"], []).nodes
    assert (box.id, box.width, box.height, box.layer) == ("only", WIDTH, HEIGHT, 0)


def test_layers_are_by_the_longest_way_and_repeated_edges_are_one() -> None:
    drawn = layout("abcd", [("a", "b"), ("b", "c"), ("a", "c"), ("a", "b"), ("c", "d")])
    assert [box.layer for box in drawn.nodes] == [0, 1, 2, 3]
    assert len(drawn.edges) == 4


def test_what_waits_for_nobody_stands_right_before_those_who_want_it() -> None:
    drawn = layout(["a", "b", "c", "settings"], [("a", "b"), ("b", "c"), ("settings", "c")])
    assert {box.id: box.layer for box in drawn.nodes} == {"a": 0, "b": 1, "c": 2, "settings": 1}


def test_the_order_of_declaration_is_kept_where_edges_say_nothing_else() -> None:
    wide = layout(["s", *"abcdef"], [("s", each) for each in "abcdef"])
    heights = [box.y for box in wide.nodes[1:]]
    assert heights == sorted(heights)
    # The middle one of those in the middle.
    assert wide.nodes[0].y == pytest.approx(sum(heights) / 6, abs=0.11)


def test_crossings_that_need_not_be_are_not_there() -> None:
    tasks = [*"abcd", *"wxyz"]
    drawn = layout(tasks, [("a", "z"), ("b", "y"), ("c", "x"), ("d", "w"), ("a", "y"), ("b", "x"), ("c", "w")])
    y = {box.id: box.y for box in drawn.nodes}
    crossings = [
        (one, other)
        for place, one in enumerate(drawn.edges)
        for other in drawn.edges[:place]
        if (y[one.source] - y[other.source]) * (y[one.target] - y[other.target]) < 0
    ]
    assert not crossings


def test_lines_that_pass_a_layer_keep_apart() -> None:
    tasks = "abcdefg"
    drawn = layout(tasks, [(one, other) for place, other in enumerate(tasks) for one in tasks[:place]])
    by_layer: dict[float, list[float]] = {}
    for route in drawn.edges:
        for x, y in route.points[2:-2:2]:
            by_layer.setdefault(x, []).append(y)
    assert len(by_layer) == 5
    assert all(lower - upper > 8 for lines in by_layer.values() for upper, lower in pairwise(sorted(lines)))


@given(drawable())
def test_parts_that_have_nothing_to_do_with_each_other_do_not_mix(
    graph: tuple[list[str], Edges, dict[str, float]],
) -> None:
    tasks, edges, widths = graph
    part = {task: task for task in tasks}
    for _ in tasks:
        for ends in edges:
            part.update(dict.fromkeys(ends, min(part[end] for end in ends)))
    connected = {end for ends in edges for end in ends}
    by_layer: dict[int, list[str]] = {}
    for box in sorted(layout(tasks, edges, widths).nodes, key=lambda box: box.y):
        if box.id in connected:
            by_layer.setdefault(box.layer, []).append(part[box.id])
    for parts in by_layer.values():
        changes = [after for before, after in pairwise(parts) if before != after]
        assert len({parts[0], *changes}) == len(changes) + 1


def test_tasks_without_edges_stand_in_rows_below() -> None:
    drawn = layout(["a", "b", *map(str, range(100))], [("a", "b")])
    alone = drawn.nodes[2:]
    assert min(box.y for box in alone) > max(box.y + box.height for box in drawn.nodes[:2])
    assert len({box.x for box in alone}) > 3
    assert len({box.y for box in alone}) > 3


def chain() -> tuple[list[str], Edges]:
    tasks = [str(number) for number in range(MANY)]
    return tasks, list(pairwise(tasks))


def wide() -> tuple[list[str], Edges]:
    middle = [str(number) for number in range(MANY)]
    return ["first", *middle, "last"], [edge for each in middle for edge in (("first", each), (each, "last"))]


def far() -> tuple[list[str], Edges]:
    """Half of the tasks of a chain also read one that is far before them."""
    tasks, edges = chain()
    return tasks, [*edges, *zip(tasks[: MANY // 2], tasks[MANY // 2 :], strict=True)]


def random_edges() -> tuple[list[str], Edges]:
    chance = random.Random(6)  # noqa: S311 - a picture, no secret
    pairs = {(chance.randrange(after), after) for after in chance.choices(range(1, MANY), k=3 * MANY)}
    return [str(number) for number in range(MANY)], [(str(one), str(other)) for one, other in sorted(pairs)]


@pytest.mark.parametrize("shape", [chain, wide, far, random_edges])
def test_large_graphs(shape: object) -> None:
    tasks, edges = shape()  # type: ignore[operator]
    check(layout(tasks, edges), tasks, edges)


def test_what_is_drawn_stays_within_a_multiple_of_the_graph() -> None:
    tasks, edges = far()
    points = sum(len(route.points) for route in layout(tasks, edges).edges)
    assert points <= 2 * 4 * (len(tasks) + len(edges))


@pytest.mark.parametrize("edges", [[("a", "b"), ("b", "a")], [("a", "a")]])
def test_cycles_are_refused(edges: Edges) -> None:
    with pytest.raises(ValueError, match="edges go in a cycle, at 'a' or before it"):
        layout("ab", edges)


def test_edges_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="an edge leads to 'z', which is no task here"):
        layout("ab", [("a", "z")])


def test_a_route_is_a_path_of_level_lines_and_curves() -> None:
    route = Route("a", "b", ((0.0, 1.0), (2.0, 1.0), (10.0, 2.0), (30.0, 2.0), (40.5, 8.0), (40.5, 8.0)))
    assert route.path == "M0,1H2C6,1 6,2 10,2H30C35.2,2 35.2,8 40.5,8"


@given(st.integers(1, 30))
def test_a_fan_is_as_close_as_it_can_be(count: int) -> None:
    tasks = [str(number) for number in range(count)]
    heights = [box.y for box in layout(["s", *tasks], [("s", each) for each in tasks]).nodes[1:]]
    assert heights == pytest.approx([heights[0] + place * (HEIGHT + GAP) for place in range(count)], abs=0.11)
