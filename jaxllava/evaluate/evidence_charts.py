"""The chart that `charts.py` has not: one line for each arm over a few named places, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jaxllava.evaluate import charts

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 74, 12, 168
_APART = 9  # user units between the arms at one place, so that intervals do not lie on one another
_LINE = 14  # height of a label


@dataclass(frozen=True)
class Line:
    """One arm: (mean, low, high) at each place, None where it has none."""

    label: str
    css: str
    points: tuple[tuple[float, float, float] | None, ...]


def place_chart(
    lines: Sequence[Line],
    places: Sequence[str],
    tick_format: charts.Format,
    title: str,
    reference: float | None = None,
) -> str:
    """Returns an `<svg>`: places from left to right at equal distances, values upwards, a dashed line for chance."""
    values = [value for line in lines for point in line.points if point for value in point]
    values += [] if reference is None else [reference]
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or 0.05
    low, high = low - pad, high + pad
    right = charts.WIDTH - _RIGHT
    step = (right - _LEFT) / max(len(places), 1)
    y = lambda value: round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 1)

    def x(place: int, number: int) -> float:
        return round(_LEFT + (place + 0.5) * step + (number - (len(lines) - 1) / 2) * _APART, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {charts.WIDTH} {_BOTTOM + 24}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    ]
    for tick in charts.ticks(low, high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(_text(_LEFT - 7, y(tick) + 4, tick_format(tick), "axis", "end"))
    if reference is not None:
        at = y(reference)
        parts.append(f'<line class="chance" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
    for place, text in enumerate(places):
        parts.append(_text(_LEFT + (place + 0.5) * step, _BOTTOM + 18, text, "axis", "middle"))
    ends: list[tuple[float, Line]] = []
    for number, line in enumerate(lines):
        known = [(x(place, number), point) for place, point in enumerate(line.points) if point]
        path = "M" + "L".join(f"{at} {y(mean)}" for at, (mean, _, _) in known)
        parts.append(f'<g class="{escape(line.css)}"><path class="line" d="{path}"/>')
        for at, (mean, bottom, top) in known:
            parts.append(f'<line class="whisker" x1="{at}" x2="{at}" y1="{y(bottom)}" y2="{y(top)}"/>')
            parts.append(f'<circle cx="{at}" cy="{y(mean)}" r="3.5"/>')
        parts.append("</g>")
        if known:
            ends.append((y(known[-1][1][0]), line))
    for at, line in _spread(ends):
        parts.append(_text(right + 8, at + 4, line.label, f"label {line.css}-text", "start"))
    return "".join([*parts, "</svg>"])


def _spread(ends: Sequence[tuple[float, Line]]) -> list[tuple[float, Line]]:
    """The labels at the lines' ends, moved apart where they would lie on one another."""
    ordered = sorted(ends, key=lambda end: end[0])
    places: list[float] = []
    for at, _ in ordered:
        places.append(max(at, places[-1] + _LINE) if places else at)
    over = max((places[-1] if places else 0) - _BOTTOM, 0)
    return [(place - over, line) for place, (_, line) in zip(places, ordered, strict=True)]


def _text(x: float, y: float, text: str, css: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{escape(css)}" text-anchor="{anchor}">{escape(text)}</text>'
