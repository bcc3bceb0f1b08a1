"""The figures of pages, as plotly.js draws them: a plain dict of `data` and `layout` each.

The page sets the colors of background, text and grid for light and dark screens. The colors here suit both.
A matrix stays a NumPy array, so that the page can store it sparsely.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_rs.report.score import ScoreName
from resnet_rs.report.table import Table, interval_text

Figure = dict[str, Any]

BLUE = "#4a86c5"
AMBER = "#cf8a3a"
GRAY = "#8c8c88"

_PALETTE = (
    (BLUE, AMBER, "#5b9e6f", "#a86bb5", "#c95d5d", "#4fa6a6")
    + ("#8f7d4f", "#7a86cf", "#c77fa3", GRAY, "#6f9bb3")
)  # fmt: skip
"""Readable on white and on black, and distinct for most people with color blindness."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_ROW_PIXELS = 30
_LEGEND = {"orientation": "h", "y": -0.25}
_MOST_MARKERS = 40
_LONGEST_LABEL = 22
_FROM_ZERO: Mapping[str, Any] = {"rangemode": "tozero"}
_SHARE_AXIS: Mapping[str, Any] = {"tickformat": ".0%"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured configuration."""

    label: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    """Bounds of `y`, if it has an interval."""
    group: str


def run_figures(
    epochs: Sequence[Mapping[str, Any]], score: ScoreName, *, scored: str = "test"
) -> dict[str, Figure]:
    """The curves of a run by their titles, with the `score` of the `scored` part. Curves without values are left out.

    Hovering over the speed shows the share of time spent waiting for data.
    """
    hover, share_axis = ("%{y:.1%}", _SHARE_AXIS) if score.is_share else ("%{y:.4g}", _FROM_ZERO)
    scores = {"score_ema": "EMA weights", "score_model": "raw weights"}
    speed_hover = "%{y:,.0f} per second"
    if any("data_wait" in entry for entry in epochs):
        speed_hover += ", %{customdata:.0%} of the time waiting for data"
    drawn = {
        "Training loss": _curves(epochs, {"loss": "loss"}),
        f"{scored.capitalize()} {score.label}": _curves(epochs, scores, hover=hover, axis=share_axis),
        "Learning rate": _curves(epochs, {"lr": "learning rate"}, axis={**_FROM_ZERO, "exponentformat": "e"}),
        "Images per second": _curves(epochs, {"images_per_second": "images per second"}, hover=speed_hover),
    }
    return {title: figure for title, figure in drawn.items() if figure["data"]}


def _curves(
    epochs: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    *,
    hover: str = "%{y:.4g}",
    axis: Mapping[str, Any] = _FROM_ZERO,
) -> Figure:
    """Lines over epochs: `labels` maps the key of each line to its label."""
    traces: list[dict[str, Any]] = []
    for (key, label), color in zip(labels.items(), (BLUE, AMBER), strict=False):
        entries = [entry for entry in epochs if is_number(entry.get(key))]
        if entries:
            points = [(float(entry["epoch"]), float(entry[key])) for entry in entries]
            shown = f"{hover}<extra>{label if len(labels) > 1 else ''}</extra>"
            waits = finite(entry.get("data_wait") for entry in entries)
            curve = line(points, name=label, color=color, hover=shown, most_markers=_MOST_MARKERS)
            traces.append(curve | {"customdata": waits})
    layout = {
        "hovermode": "x unified",
        "showlegend": len(labels) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero", "hoverformat": ".4~g"},
        "yaxis": axis,
    }
    return {"data": traces, "layout": layout}


def dots_figure(table: Table) -> Figure:
    """The score of each row with its interval, from the first row at the top."""
    name = table.score
    unit = 100 if name.is_share else 1
    rows = [(row.label, row.score) for row in table.rows if row.score is not None]
    means = [mean for _, mean in rows]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [unit * mean.value for mean in means],
        "y": [escaped(label) for label, _ in rows],
        "error_x": _error_bars([(unit * m.value, unit * m.low, unit * m.high) for m in means], BLUE),
        "customdata": [
            f"{interval_text(name.cell, m)}, {m.num_seeds} {'seed' if m.num_seeds == 1 else 'seeds'}"
            for m in means
        ],
        "marker": {"color": BLUE, "size": 9},
        "hovertemplate": "%{y}<br>%{x:.4g} (%{customdata})<extra></extra>",
    }
    layout = {
        "height": 90 + _ROW_PIXELS * len(rows),
        "xaxis": {"title": {"text": f"test {name.title}"}},
        "yaxis": {"type": "category", "autorange": "reversed"},
    }
    return {"data": [trace] if rows else [], "layout": layout}


def curves_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str, y_title: str
) -> Figure:
    """A line for each name."""
    traces = [
        line(
            points,
            name=name,
            color=_PALETTE[i % len(_PALETTE)],
            dash=("solid", "dot", "dash")[i // 4 % 3],
            hover=f"{escaped(name)}<br>%{{x:.3g}}: %{{y:.4g}}<extra></extra>",
            most_markers=2,
        )
        for i, (name, points) in enumerate(curves.items())
    ]
    layout = {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}, "legend": _LEGEND}
    return {"data": traces, "layout": layout}


def points_figure(
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    log: Literal["x", "y", "xy"],
    lines: Sequence[dict[str, Any]] = (),
) -> Figure:
    """Points with their intervals, a color and shape for each group, and lines; axes in `log` are logarithmic."""
    traces = [*lines]
    for i, group in enumerate(dict.fromkeys(point.group for point in points)):
        chosen, color = [point for point in points if point.group == group], _PALETTE[i % len(_PALETTE)]
        bounds = [(point.y, point.low, point.high) for point in chosen]
        has_intervals = any(is_number(low) for _, low, _ in bounds)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(group),
                "x": [point.x for point in chosen],
                "y": [point.y for point in chosen],
                "text": [escaped(point.label) for point in chosen],
                "marker": {"color": color, "size": 9, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
                **({"error_y": _error_bars(bounds, color)} if has_intervals else {}),
                "hovertemplate": f"%{{text}}<br>{x_title}: %{{x:.4s}}<br>{y_title}: %{{y:.4g}}<extra></extra>",
            }
        )
    layout = {
        "xaxis": _axis(x_title, is_log="x" in log),
        "yaxis": _axis(y_title, is_log="y" in log),
        "legend": _LEGEND,
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}


def line(
    points: Sequence[tuple[float, float]],
    *,
    name: str,
    color: str = GRAY,
    dash: str = "solid",
    hover: str = "",
    most_markers: int = 0,
) -> dict[str, Any]:
    """A line through points of (x, y). Up to `most_markers` points are marked; without `hover` it has no label."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= most_markers else "lines",
        "name": escaped(name),
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"size": 5},
        **({"hovertemplate": hover} if hover else {"hoverinfo": "skip"}),
    }


def _error_bars(bounds: Sequence[tuple[float, float, float]], color: str) -> dict[str, Any]:
    """Bars from (value, low, high); none where the interval is infinite."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value if math.isfinite(high) else 0.0 for value, _, high in bounds],
        "arrayminus": [value - low if math.isfinite(low) else 0.0 for value, low, _ in bounds],
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def _axis(title: str, *, is_log: bool) -> dict[str, Any]:
    # On a log axis plotly names every digit between powers of ten; `D2` leaves 1, 2 and 5.
    return {"title": {"text": title}, **({"type": "log", "dtick": "D2"} if is_log else {})}


def is_number(value: float | int | None) -> bool:
    """Whether `value` is a finite number."""
    return value is not None and math.isfinite(value)


def finite(values: Iterable[float | int | None]) -> list[float | int | None]:
    """`values` with None in place of NaN and infinity, which JSON lacks."""
    return [value if is_number(value) else None for value in values]


def labels_of(names: Sequence[str]) -> list[str]:
    """Distinct axis labels. plotly.js would merge equal names (ImageNet has two cranes), so these get their index."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    # Without the zero-width space, plotly.js loses classes that are named like a JavaScript property.
    return ["\u200b" + escaped(f"{name} ({i})" if name in repeated else name) for i, name in enumerate(names)]


def ticks(labels: Sequence[str]) -> dict[str, Any]:
    """One tick per label. Long labels are shortened; hovering shows the whole."""
    plain = [html.unescape(label) for label in labels]
    short = [name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…" for name in plain]
    return {"tickvals": list(labels), "ticktext": [escaped(name) for name in short]}


def escaped(name: str) -> str:
    """`name` as plain text for plotly.js, which would interpret tags, and formulas between dollar signs."""
    return html.escape(name, quote=False).replace("$", "&#36;")
