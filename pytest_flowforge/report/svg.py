"""The graph of a run or of a plan as a picture: an SVG of its own, without scripts, styles, fonts or links.

Every text stands on a background of its own, and lines are of a grey that shows on white and on black: the picture can
be put on a light and on a dark page.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from pytest_flowforge.report.graphs import COLOURS, EdgeKind, NodeKind
from pytest_flowforge.report.layout import MARGIN, layout

if TYPE_CHECKING:
    from pytest_flowforge.report.graphs import Node, Picture
    from pytest_flowforge.report.layout import Box, Route

__all__ = ["as_svg"]

_LINE = "#757b85"
_FONT = "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
_HEIGHT = 40.0
_NARROWEST = 72.0
#: Widths of characters in a wide font (DejaVu Sans), for 12 pixels: whose fonts there are is not known here.
_NARROW, _USUAL, _CAPITAL, _WIDE = 4.8, 7.6, 8.8, 12.0
_PADDING = 12.0
_LEGEND = 44.0

_LINES = {
    EdgeKind.VALUE: f"stroke='{_LINE}' stroke-width='1.4'",
    EdgeKind.ORDER: f"stroke='{_LINE}' stroke-width='1.4' stroke-dasharray='5 4'",
    EdgeKind.MAP: f"stroke='{_LINE}' stroke-width='3'",
    EdgeKind.GATHER: f"stroke='{_LINE}' stroke-width='1.4' stroke-dasharray='1 3' stroke-linecap='round'",
}
_MEANINGS = {
    EdgeKind.VALUE: "result",
    EdgeKind.ORDER: "order only",
    EdgeKind.MAP: "one task per element",
    EdgeKind.GATHER: "gathered",
}

_ARROWHEAD = (
    "<defs><marker id='to' viewBox='0 0 8 8' refX='8' refY='4' markerWidth='8' markerHeight='8' "
    f"markerUnits='userSpaceOnUse' orient='auto'><path d='M0,0L8,4L0,8z' fill='{_LINE}'/></marker></defs>"
)


def as_svg(picture: Picture) -> str:
    """The graph as an SVG document: tasks in layers from left to right, with a legend above."""
    details: dict[str, str] = {node.task.id: _detail(node) for node in picture.nodes}
    widths: dict[str, float] = {node.task.id: _width_of_box(node, details[node.task.id]) for node in picture.nodes}
    drawn = layout(widths, [(arrow.source, arrow.target) for arrow in picture.arrows], widths, _HEIGHT)
    legend, legend_width = _legend(picture)
    width, height = max(drawn.width, legend_width), drawn.height + _LEGEND
    what = "Plan" if picture.of == "plan" else "Run"
    root = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' {_FONT} font-size='12'>"
    )
    parts = [
        root,
        f"<title>{what}: {len(picture.nodes):,} tasks</title>",
        _ARROWHEAD,
        *legend,
        f"<g transform='translate(0,{_LEGEND:g})'>",
        # Before the tasks: some pass behind them.
        "<g fill='none' marker-end='url(#to)'>",
        *(_edge(route, arrow.kind) for route, arrow in zip(drawn.edges, picture.arrows, strict=True)),
        "</g>",
        "<g text-anchor='middle'>",
        *(_node(box, node, details[box.id]) for box, node in zip(drawn.nodes, picture.nodes, strict=True)),
        "</g>",
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _edge(route: Route, kind: EdgeKind) -> str:
    return f"<path d='{route.path}' {_LINES[kind]}/>"


def _node(box: Box, node: Node, detail: str) -> str:
    middle = box.x + box.width / 2
    fill, stroke, text = COLOURS[node.word]
    rounding = 14 if node.kind is NodeKind.INSTANCE else 4
    shape = f"y='{box.y:g}' height='{box.height:g}' fill='{fill}' stroke='{stroke}'"
    inner = (
        f"<path d='M{box.x + 5:g},{box.y:g}V{box.y + box.height:g}M{box.x + box.width - 5:g},{box.y:g}"
        f"V{box.y + box.height:g}' stroke='{stroke}'/>"
        if node.kind is NodeKind.MAPPED
        else ""
    )
    return (
        f"<g><title>{escape(node.title)}</title>"
        f"<rect x='{box.x:g}' width='{box.width:g}' rx='{rounding}' {shape}/>{inner}"
        f"<text x='{middle:g}' y='{box.y + 17:g}' fill='{text}'>{escape(node.name)}</text>"
        f"<text x='{middle:g}' y='{box.y + 31:g}' fill='{text}' font-size='10'>{escape(detail)}</text></g>"
    )


def _detail(node: Node) -> str:
    words = [node.word]
    if node.seconds is not None:
        words.append(f"{node.seconds:,.2f} s")
    if node.attempts is not None and node.attempts > 1:
        words.append(f"{node.attempts} attempts")
    return ", ".join(words)


def _width_of_box(node: Node, detail: str) -> float:
    return round(max(_NARROWEST, 2 * _PADDING + max(_width(node.name), _width(detail) * 10 / 12)))


def _width(text: str) -> float:
    return sum(map(_width_of, text))


def _width_of(char: str) -> float:
    if char in "mMwW@%" or unicodedata.east_asian_width(char) in "WF":
        return _WIDE
    if char.isupper():
        return _CAPITAL
    return _NARROW if char in " iljtf.,:;'|![]()/" else _USUAL


def _legend(picture: Picture) -> tuple[list[str], float]:
    """What colours and lines mean, of those that there are; and how wide that is."""
    count = Counter(node.word for node in picture.nodes)
    parts = ["<g text-anchor='middle' font-size='11'>"]
    x = MARGIN
    for word, colours in COLOURS.items():
        if count[word]:
            x = _entry(parts, x, f"{count[word]:,} {word}", colours)
    used = {arrow.kind for arrow in picture.arrows}
    for kind in EdgeKind:
        if kind in used and used != {EdgeKind.VALUE}:
            parts.append(f"<path d='M{x:g},{MARGIN + 11:g}h30' fill='none' marker-end='url(#to)' {_LINES[kind]}/>")
            x = _entry(parts, x + 36, _MEANINGS[kind], ("#f3f4f6", _LINE, "#1f2937"))
    return [*parts, "</g>"], x + MARGIN


def _entry(parts: list[str], x: float, label: str, colours: tuple[str, str, str]) -> float:
    fill, stroke, text = colours
    width = round(_width(label) * 11 / 12 + 2 * _PADDING)
    parts.append(
        f"<rect x='{x:g}' y='{MARGIN:g}' width='{width:g}' height='22' rx='4' fill='{fill}' stroke='{stroke}'/>"
        f"<text x='{x + width / 2:g}' y='{MARGIN + 15:g}' fill='{text}'>{label}</text>"
    )
    return x + width + 10
