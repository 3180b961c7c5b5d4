"""Where the tasks of a graph are drawn: in layers from left to right, with routes for the edges between them.

The usual way for such drawings: layers by the longest way, an order within each layer that follows the mean place of
the neighbours (sweeps to and fro, a fixed number of them), then heights as close to the neighbours as the order allows.
Everything is linear in tasks and edges but for sorting, nothing recurses, and the same graph always gives the same
picture. It knows nothing of pytest, states, fonts or file formats: whoever draws says how wide a task is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["GAP", "HEIGHT", "MARGIN", "WIDTH", "Box", "Layout", "Route", "layout"]

#: In the unit of the drawing (pixels of an SVG): a task where no width is given, and the room around things.
WIDTH = 160.0
HEIGHT = 32.0
#: Between two tasks of one layer.
GAP = 14.0
#: Around everything.
MARGIN = 16.0

#: Between two layers, at least; many edges there get more room, up to the second number.
_LAYER_GAP = (56.0, 160.0)
#: Between an edge that passes a layer and whatever is next to it there.
_LANE = 9.0
#: Sweeps for the order within layers, and for heights. More make hardly any difference to what one sees.
_ORDER_SWEEPS = 6
_HEIGHT_SWEEPS = 6
#: How many lanes there are at most, as a multiple of tasks and edges: a chain in which every task also reads a very
#: early one would else have a quadratic number of them.
_LANES = 2
#: Tasks without any edge stand in a block of about this shape (width to height).
_BLOCK_SHAPE = 1.6

_NO_WIDTHS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Box:
    """Where a task is drawn: ``x`` and ``y`` are its upper left corner. ``layer`` counts from 0, from left to right."""

    id: str
    x: float
    y: float
    width: float
    height: float
    layer: int


@dataclass(frozen=True, slots=True)
class Route:
    """How an edge is drawn, from the right side of ``source`` to the left side of ``target``.

    ``points`` are an even number of (x, y), x never decreases. From the first to the second, and then between every
    other two, the edge is on a straight level line: out of the layer of ``source``, past layers, clear of the tasks
    there, and into the layer of ``target``. In between it crosses the room between two layers. In graphs with very
    many edges that pass layers some go straight through them: draw edges before tasks.
    """

    source: str
    target: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """The route as the ``d`` of an SVG path, with smooth curves between layers."""
        (x, y), *rest = self.points
        parts = [f"M{x:g},{y:g}"]
        for number, (to_x, to_y) in enumerate(rest):
            if number % 2 == 0:
                if to_x > x:
                    parts.append(f"H{to_x:g}")
            else:
                middle = round((x + to_x) / 2, 1)
                parts.append(f"C{middle:g},{y:g} {middle:g},{to_y:g} {to_x:g},{to_y:g}")
            x, y = to_x, to_y
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawing of ``width`` by ``height``, everything within it: a box per task and a route per edge, as given."""

    width: float
    height: float
    nodes: tuple[Box, ...]
    edges: tuple[Route, ...]


def layout(
    tasks: Iterable[str],
    edges: Iterable[tuple[str, str]],
    widths: Mapping[str, float] = _NO_WIDTHS,
    height: float = HEIGHT,
) -> Layout:
    """Return a drawing of *tasks*, in which every edge (from, to) leads to a later layer.

    The order of *tasks* is kept within a layer where edges say nothing else. Repeated edges are drawn once. ``widths``
    are those of tasks that are not as wide as the default, rounded up to tenths; ``height`` is that of all. Raises
    :class:`ValueError` for an edge with an end that is no task, and for edges in a cycle.
    """
    drawing = _Drawing(tuple(dict.fromkeys(tasks)), edges, widths, height)
    drawing.number_layers()
    drawing.lay_lanes()
    drawing.order_layers()
    drawing.find_heights()
    return drawing.finish()


class _Drawing:
    """Works on positions. From ``len(tasks)`` on, these are lanes: places where an edge passes a layer."""

    def __init__(
        self, tasks: Sequence[str], edges: Iterable[tuple[str, str]], widths: Mapping[str, float], height: float
    ) -> None:
        self._tasks = tasks
        # In tenths, as all that comes out: what touches in one number is not to overlap in another.
        self._widths = [math.ceil(10 * widths.get(task, WIDTH)) / 10 for task in tasks]
        self._height = height
        place = {task: position for position, task in enumerate(tasks)}
        for ends in edges:
            for end in ends:
                if end not in place:
                    msg = f"an edge leads to {end!r}, which is no task here"
                    raise ValueError(msg)
        self._edges = list(dict.fromkeys((place[source], place[target]) for source, target in edges))
        self._below: list[list[int]] = [[] for _ in tasks]
        self._above: list[list[int]] = [[] for _ in tasks]
        for source, target in self._edges:
            self._below[source].append(target)
            self._above[target].append(source)
        #: Tasks without any edge, which stand apart.
        self._alone = [task for task in range(len(tasks)) if not (self._below[task] or self._above[task])]
        #: Per position.
        self._layer: list[int] = []
        self._component: list[int] = []
        self._y: list[float] = []
        #: Positions per layer, from top to bottom.
        self._layers: list[list[int]] = []
        #: The lanes of each edge that has some.
        self._lanes: dict[tuple[int, int], list[int]] = {}

    # ------------------------------------------------------------------ layers

    def number_layers(self) -> None:
        order = self._topological()
        layer = [0] * len(self._tasks)
        for task in order:
            for below in self._below[task]:
                layer[below] = max(layer[below], layer[task] + 1)
        # What waits for nobody stands right before the first who wants it: that makes for short edges.
        for task in order:
            if not self._above[task] and self._below[task]:
                layer[task] = min(layer[below] for below in self._below[task]) - 1
        self._layer = layer

    def _topological(self) -> list[int]:
        missing = [len(above) for above in self._above]
        order = [task for task, count in enumerate(missing) if not count]
        for task in order:
            for below in self._below[task]:
                missing[below] -= 1
                if not missing[below]:
                    order.append(below)
        if len(order) < len(self._tasks):
            stuck = next(task for task, count in enumerate(missing) if count)
            msg = f"edges go in a cycle, at {self._tasks[stuck]!r} or before it"
            raise ValueError(msg)
        return order

    def lay_lanes(self) -> None:
        """Put lanes where edges pass layers, the short edges first, as long as there are not too many."""
        layer = self._layer
        left = _LANES * (len(self._tasks) + len(self._edges))
        long = [edge for edge in self._edges if layer[edge[1]] - layer[edge[0]] > 1]
        for source, target in sorted(long, key=lambda edge: layer[edge[1]] - layer[edge[0]]):
            passed = range(layer[source] + 1, layer[target])
            if len(passed) > left:
                break
            left -= len(passed)
            lanes = list(range(len(layer), len(layer) + len(passed)))
            layer.extend(passed)
            self._lanes[source, target] = lanes
        self._link()

    def _link(self) -> None:
        """Have neighbours be those that lines are drawn to: lanes instead of the far ends of edges that have some."""
        self._below = [[] for _ in self._layer]
        self._above = [[] for _ in self._layer]
        for edge in self._edges:
            way = [edge[0], *self._lanes.get(edge, ()), edge[1]]
            for source, target in itertools.pairwise(way):
                self._below[source].append(target)
                self._above[target].append(source)

    # ------------------------------------------------------------------ the order within layers

    def order_layers(self) -> None:
        connected = [task for task in range(len(self._tasks)) if self._below[task] or self._above[task]]
        self._layers = [[] for _ in range(max((self._layer[task] for task in connected), default=-1) + 1)]
        for position in self._walk(connected):
            self._layers[self._layer[position]].append(position)
        rank = [0.0] * len(self._layer)
        for layer in self._layers:
            _rank(layer, rank)
        for sweep in range(_ORDER_SWEEPS):
            changed = False
            to_the_right = sweep % 2 == 0
            neighbours = self._above if to_the_right else self._below
            for layer in self._layers if to_the_right else reversed(self._layers):
                changed |= self._sort(layer, neighbours, rank)
            if sweep and not changed:
                break

    def _walk(self, connected: Sequence[int]) -> list[int]:
        """Return what is connected, part by part, each in the order of a walk that goes deep first."""
        component = [-1] * len(self._layer)
        walked = []
        # In the order of declaration, beginning with what waits for nobody.
        for number, start in enumerate(sorted(connected, key=lambda task: (bool(self._above[task]), task))):
            to_visit = [start]
            while to_visit:
                position = to_visit.pop()
                if component[position] >= 0:
                    continue
                component[position] = number
                walked.append(position)
                to_visit += reversed(self._above[position])
                to_visit += reversed(self._below[position])
        self._component = component
        return walked

    def _sort(self, layer: list[int], neighbours: Sequence[Sequence[int]], rank: list[float]) -> bool:
        """Sort *layer* by where its *neighbours* are; return whether that changed anything."""
        wanted = {
            position: sum(rank[other] for other in others) / len(others)
            if (others := neighbours[position])
            else rank[position]
            for position in layer
        }
        # Parts that have nothing to do with each other never mix.
        ordered = sorted(layer, key=lambda position: (self._component[position], wanted[position]))
        if ordered == layer:
            return False
        layer[:] = ordered
        _rank(layer, rank)
        return True

    # ------------------------------------------------------------------ heights

    def find_heights(self) -> None:
        """Find the ``y`` of every middle line: as near to its neighbours as order and room allow."""
        self._y = y = [0.0] * len(self._layer)
        offsets = [self._offsets(layer) for layer in self._layers]
        for layer, offset in zip(self._layers, offsets, strict=True):
            middle = offset[-1] / 2
            for position, below_first in zip(layer, offset, strict=True):
                y[position] = below_first - middle
        for sweep in range(_HEIGHT_SWEEPS):
            to_the_right = sweep % 2 == 0
            neighbours = self._above if to_the_right else self._below
            numbers = range(len(self._layers))
            for number in numbers if to_the_right else reversed(numbers):
                layer = self._layers[number]
                wanted = [
                    sum(y[other] for other in others) / len(others) if (others := neighbours[position]) else y[position]
                    for position in layer
                ]
                for position, found in zip(layer, _spread(wanted, offsets[number]), strict=True):
                    y[position] = found

    def _offsets(self, layer: Sequence[int]) -> list[float]:
        """Return how far each middle line of *layer* is below the first, where all stand as close as they may."""
        offsets = [0.0]
        for upper, lower in itertools.pairwise(layer):
            offsets.append(offsets[-1] + (self._room(upper) + self._room(lower)) / 2)
        return offsets

    def _room(self, position: int) -> float:
        return self._height + GAP if position < len(self._tasks) else _LANE

    # ------------------------------------------------------------------ numbers

    def finish(self) -> Layout:
        left, column_widths = self._columns()
        connected = [position for layer in self._layers for position in layer]
        top = min((self._y[position] for position in connected), default=0.0)
        bottom = max((self._y[position] for position in connected), default=0.0)
        shift = MARGIN + self._height / 2 - top
        y = [round(each + shift, 1) for each in self._y]
        boxes: dict[int, Box] = {}
        for layer in self._layers:
            for task in layer:
                if task < len(self._tasks):
                    # In the middle of its column, which is as wide as the widest there.
                    x = left[self._layer[task]] + (column_widths[self._layer[task]] - self._widths[task]) / 2
                    boxes[task] = self._box(task, x, y[task] - self._height / 2)
        width = left[-1] + column_widths[-1] if self._layers else 0.0
        below = bottom + shift + self._height / 2 if self._layers else 0.0
        boxes.update(self._block(width, below))
        return Layout(
            max((box.x + box.width for box in boxes.values()), default=0.0) + MARGIN,
            max([box.y + box.height for box in boxes.values()] + [each + _LANE for each in y], default=0.0) + MARGIN,
            tuple(boxes[task] for task in range(len(self._tasks))),
            tuple(self._route(edge, boxes, y, left, column_widths) for edge in self._edges),
        )

    def _columns(self) -> tuple[list[float], list[float]]:
        """Return where the column of each layer begins, and how wide it is."""
        widths = [max((self._widths[p] for p in layer if p < len(self._tasks)), default=0.0) for layer in self._layers]
        left = []
        x = MARGIN
        for layer, width in zip(self._layers, widths, strict=True):
            left.append(x)
            lines = sum(len(self._below[position]) for position in layer)
            least, most = _LAYER_GAP
            x += width + min(most, max(least, 2 * lines))
        return left, widths

    def _block(self, width: float, below: float) -> dict[int, Box]:
        """Return the boxes of tasks without edges: rows beneath everything else, about as wide as that."""
        if not self._alone:
            return {}
        column = max(self._widths[task] for task in self._alone) + GAP
        row = self._height + GAP
        by_shape = math.ceil(math.sqrt(len(self._alone) * _BLOCK_SHAPE * row / column))
        columns = max(int((width - MARGIN + GAP) // column), by_shape, 1)
        top = below + 2 * GAP if below else MARGIN
        return {
            task: self._box(task, MARGIN + number % columns * column, top + number // columns * row)
            for number, task in enumerate(self._alone)
        }

    def _box(self, task: int, x: float, y: float) -> Box:
        return Box(self._tasks[task], round(x, 1), round(y, 1), self._widths[task], self._height, self._layer[task])

    def _route(
        self,
        edge: tuple[int, int],
        boxes: Mapping[int, Box],
        y: Sequence[float],
        left: Sequence[float],
        widths: Sequence[float],
    ) -> Route:
        source, target = edge
        first, last = self._layer[source], self._layer[target]
        points = [
            (round(boxes[source].x + boxes[source].width, 1), y[source]),
            (round(left[first] + widths[first], 1), y[source]),
        ]
        for lane in self._lanes.get(edge, ()):
            number = self._layer[lane]
            points += [(round(left[number], 1), y[lane]), (round(left[number] + widths[number], 1), y[lane])]
        points += [(round(left[last], 1), y[target]), (boxes[target].x, y[target])]
        return Route(self._tasks[source], self._tasks[target], tuple(points))


def _rank(layer: Sequence[int], rank: list[float]) -> None:
    """Number the places of *layer* from its middle, as layers of different sizes stand beside each other."""
    middle = (len(layer) - 1) / 2
    for number, position in enumerate(layer):
        rank[position] = number - middle


def _spread(wanted: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """Return numbers near to those *wanted* (least squares) that are as far apart as *offsets* are, or farther.

    Isotonic regression by pooling: neighbours that would come too close share the mean of what they want.
    """
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        total, count = want - offset, 1
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            earlier, many = pools.pop()
            total, count = total + earlier, count + many
        pools.append((total, count))
    means = (total / count for total, count in pools for _ in range(count))
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
