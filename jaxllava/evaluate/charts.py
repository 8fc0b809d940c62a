"""Small SVG charts for the report: markup only, so that the page's own style colours them in light and dark.

Every function returns one `<svg>` element as text. All text that comes in is escaped here. The classes used
(`arm-NAME`, `axis`, `grid`, `chance`, `zero`, `raw`, `smooth`) are styled in templates/report.html.jinja.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340  # user units; the page scales it to the column, and text stays readable on a phone at this width
_ROW = 27
_LABEL = 70
_VALUE = 52
_LETTER = 7  # of a value, at most

Format = Callable[[float], str]


@dataclass(frozen=True)
class Row:
    """One arm of an interval chart: `text` is the value as printed at the right; `strong` makes it bold.

    `seeds` are the single runs behind the mean, drawn faint.
    """

    label: str
    css: str
    mean: float
    low: float
    high: float
    text: str
    strong: bool = False
    seeds: tuple[float, ...] = ()


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns some `count` round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / (count + 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns at most about six round numbers inside [low, high], low > 0.

    1, 2 and 5 times the powers of ten; over a wide range every power, every second power, and so on.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors, step = ((1, 2, 5), 1) if last - first <= 2 else ((1,), math.ceil((last - first) / 6))
    values = [factor * 10.0**power for power in range(first, last + 1, step) for factor in factors]
    return [value for value in values if low <= value <= high]


def interval_chart(
    rows: Sequence[Row],
    tick_format: Format,
    title: str,
    reference: float | None = None,
    reference_text: str = "",
    log: bool = False,
    label_width: int = _LABEL,
) -> str:
    """Returns a dot and its interval per row, and a dashed line at `reference` (chance, zero) where given.

    With `log` the axis is logarithmic; all values have to be above zero then. Labels longer than some ten
    letters need more than the usual width.
    """
    values = [v for row in rows for v in (row.mean, row.low, row.high, *row.seeds)]
    if reference is not None:
        values.append(reference)
    scale = math.log if log else float
    low, high = scale(min(values)), scale(max(values))
    pad = (high - low) * 0.06 or max(abs(high) * 0.1, 0.05)
    low, high = low - pad, high + pad
    marks = log_ticks(math.exp(low), math.exp(high)) if log else ticks(low, high)
    value_width = max(_VALUE, *(_LETTER * len(row.text) for row in rows))  # a perplexity may have ten letters
    left, right = label_width, WIDTH - value_width - 8
    top = 20 if reference_text else 8
    bottom = top + _ROW * len(rows)
    height = bottom + 22

    def x(value: float) -> float:
        return round(left + (scale(value) - low) / (high - low) * (right - left), 1)

    parts = [_open(height, title)]
    for tick in marks:
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x(tick), bottom + 15, tick_format(tick), "axis", "middle"))
    if reference is not None:
        at = x(reference)
        parts.append(f'<line class="chance" x1="{at}" x2="{at}" y1="{top - 4}" y2="{bottom}"/>')
        # The label keeps clear of the chart's edges, where a middle anchor would run into the arms' names.
        anchor = "start" if at < left + 40 else "end" if at > right - 40 else "middle"
        parts.append(_text(at, top - 8, reference_text, "axis chance-text", anchor))
    for index, row in enumerate(rows):
        y = top + _ROW * index + _ROW / 2
        bold = " strong" if row.strong else ""
        parts.append(_text(left - 10, y + 4, row.label, f"label {row.css}-text{bold}", "end"))
        parts.append(f'<g class="{escape(row.css)}">')
        parts.append(f'<line class="whisker" x1="{x(row.low)}" x2="{x(row.high)}" y1="{y}" y2="{y}"/>')
        parts += [f'<circle class="seed" cx="{x(value)}" cy="{y}" r="2.5"/>' for value in row.seeds]
        parts.append(f'<circle cx="{x(row.mean)}" cy="{y}" r="4.5"/></g>')
        parts.append(_text(WIDTH - 2, y + 4, row.text, f"value{bold}", "end"))
    return "".join([*parts, "</svg>"])


def line_chart(points: Sequence[tuple[float, float]], title: str) -> str:
    """Returns a loss curve: the values as they came, faint, and their running mean over them.

    Args:
        points: (step, loss) in order. Losses that are not finite are left out as gaps.
        title: read out by screen readers.
    """
    finite = [(step, loss) for step, loss in points if math.isfinite(loss) and math.isfinite(step)]
    if not finite:
        return ""
    steps = [step for step, _ in finite]
    losses = [loss for _, loss in finite]
    x_low, x_high = min(steps), max(max(steps), min(steps) + 1)
    y_low, y_high = min(losses), max(losses)
    pad = (y_high - y_low) * 0.08 or max(abs(y_high) * 0.1, 0.05)
    y_low, y_high = max(0.0, y_low - pad) if min(losses) >= 0 else y_low - pad, y_high + pad
    left, right, top, bottom = 40, WIDTH - 10, 10, 132

    def x(step: float) -> float:
        return round(left + (step - x_low) / (x_high - x_low) * (right - left), 1)

    def y(loss: float) -> float:
        return round(bottom - (loss - y_low) / (y_high - y_low) * (bottom - top), 1)

    parts = [_open(bottom + 22, title)]
    for tick in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(_text(left - 6, y(tick) + 4, f"{tick:g}", "axis", "end"))
    for tick in ticks(x_low, x_high):
        parts.append(_text(x(tick), bottom + 16, f"{tick:,.10g}", "axis", "middle"))
    raw = _thin([(x(s), y(v)) if math.isfinite(v) else None for s, v in points])
    smooth = _thin([(x(s), y(v)) for s, v in zip(steps, _running_mean(losses), strict=True)])
    parts.append(f'<path class="raw" d="{_path(raw)}"/><path class="smooth" d="{_path(smooth)}"/>')
    return "".join([*parts, "</svg>"])


def _running_mean(values: Sequence[float]) -> list[float]:
    # Centred, over a twentieth of the run: an exponential mean would lag behind a falling loss.
    half = len(values) // 40
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    out = []
    for i in range(len(values)):
        # Symmetric at the steep start, or its height is lost; cut at the flat end, or one value bends it.
        reach = min(half, i)
        end = min(i + reach + 1, len(values))
        out.append((sums[end] - sums[i - reach]) / (end - i + reach))
    return out


def _thin(points: list[tuple[float, float] | None], most: int = 600) -> list[tuple[float, float] | None]:
    """Returns about `most` points at most: the lowest and highest of each stretch, so that spikes stay."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    out: list[tuple[float, float] | None] = []
    for start in range(0, len(points), size):
        block = [point for point in points[start : start + size] if point is not None]
        if block:
            ends = {min(block, key=lambda p: p[1]), max(block, key=lambda p: p[1])}
            out.extend(sorted(ends))
        else:
            out.append(None)
    return out


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    parts = []
    pen = "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        parts.append(f"{pen}{point[0]} {point[1]}")
        pen = "L"
    return "".join(parts)


def _open(height: float, title: str) -> str:
    name = escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">'
        f"<title>{name}</title>"
    )


def _text(x: float, y: float, text: str, css: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" class="{escape(css)}" text-anchor="{anchor}">{escape(text)}</text>'
