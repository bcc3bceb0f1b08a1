"""The figures of a study's page, as plotly.js draws them. The page adds colors of text and background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_rs.report.figures import AMBER, BLUE, GRAY, Figure, escaped
from resnet_rs.report.table import Table, mean_interval_text, score_title

PALETTE = (
    BLUE,
    AMBER,
    "#5b9e6f",
    "#a86bb5",
    "#c95d5d",
    "#4fa6a6",
    "#8f7d4f",
    "#7a86cf",
    "#c77fa3",
    GRAY,
    "#6f9bb3",
)
"""Readable on white and on black, and distinct for most people with color blindness."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_ROW_PIXELS = 30


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a figure."""

    title: str
    is_log: bool


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured configuration."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    """Bounds of `y`."""
    group: str
    """Points of a group share color and shape."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points of (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]
    is_dashed: bool


def dots_figure(table: Table) -> Figure | None:
    """The score of each row with its interval, from the first row at the top."""
    rows = [(row.label, row.score) for row in table.rows if row.score is not None]
    if not rows:
        return None
    name = table.score
    unit = 100 if name.is_share else 1
    labels, means = zip(*rows, strict=True)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [unit * mean.value for mean in means],
        "y": [escaped(label) for label in labels],
        "error_x": _error_bars([(unit * m.value, unit * m.low, unit * m.high) for m in means], BLUE),
        "customdata": [
            f"{mean_interval_text(name, m)}, {m.num_seeds} {'seed' if m.num_seeds == 1 else 'seeds'}"
            for m in means
        ],
        "marker": {"color": BLUE, "size": 9},
        "hovertemplate": "%{y}<br>%{x:.4g} (%{customdata})<extra></extra>",
    }
    return {
        "data": [trace],
        "layout": {
            "height": 90 + _ROW_PIXELS * len(rows),
            "xaxis": {"title": {"text": f"test {score_title(name)}"}},
            "yaxis": {"type": "category", "autorange": "reversed"},
        },
    }


def curves_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str, y_title: str
) -> Figure | None:
    """A line for each name."""
    if not curves:
        return None
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(points) < 3 else "lines",
            "name": escaped(name),
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
            "line": {"color": PALETTE[i % len(PALETTE)], "width": 2, "dash": _dash(i)},
            "hovertemplate": f"{escaped(name)}<br>%{{x:.3g}}: %{{y:.4g}}<extra></extra>",
        }
        for i, (name, points) in enumerate(curves.items())
    ]
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
            "legend": {"orientation": "h", "y": -0.25},
        },
    }


def points_figure(points: Sequence[Point], *, x: Axis, y: Axis, lines: Sequence[Line] = ()) -> Figure | None:
    """Points with their intervals, by group, and lines among them."""
    if not points:
        return None
    groups = list(dict.fromkeys(point.group for point in points))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escaped(line.label),
            "x": [at for at, _ in line.points],
            "y": [value for _, value in line.points],
            "line": {"color": GRAY, "width": 1.5, "dash": "dash" if line.is_dashed else "solid"},
            "hoverinfo": "skip",
        }
        for line in lines
    ]
    for i, group in enumerate(groups):
        traces.append(_group(group, [point for point in points if point.group == group], i, x=x, y=y))
    return {
        "data": traces,
        "layout": {
            "xaxis": _axis(x),
            "yaxis": _axis(y),
            "legend": {"orientation": "h", "y": -0.25},
            "showlegend": True,
        },
    }


def _group(name: str, points: Sequence[Point], i: int, *, x: Axis, y: Axis) -> dict[str, Any]:
    color = PALETTE[i % len(PALETTE)]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": escaped(name),
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "text": [escaped(point.label) for point in points],
        "marker": {"color": color, "size": 9, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
        "hovertemplate": f"%{{text}}<br>{x.title}: %{{x:.4s}}<br>{y.title}: %{{y:.4g}}<extra></extra>",
    }
    if any(point.low is not None and point.high is not None for point in points):
        bounds = [(p.y, p.y if p.low is None else p.low, p.y if p.high is None else p.high) for p in points]
        trace["error_y"] = _error_bars(bounds, color)
    return trace


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


def _axis(axis: Axis) -> dict[str, Any]:
    # On a log axis plotly names every digit between powers of ten; `D2` leaves 1, 2 and 5.
    return {"title": {"text": axis.title}, **({"type": "log", "dtick": "D2"} if axis.is_log else {})}


def _dash(i: int) -> str:
    return ("solid", "dot", "dash")[i // 4 % 3]
