"""The figures of a study's page, as plotly.js draws them. The page adds colors of text and background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_rs.report.figures import AMBER, BLUE, GRAY, Figure, escaped, line
from resnet_rs.report.table import Table, interval_text

_PALETTE = (
    (BLUE, AMBER, "#5b9e6f", "#a86bb5", "#c95d5d", "#4fa6a6")
    + ("#8f7d4f", "#7a86cf", "#c77fa3", GRAY, "#6f9bb3")
)  # fmt: skip
"""Readable on white and on black, and distinct for most people with color blindness."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_ROW_PIXELS = 30
_LEGEND = {"orientation": "h", "y": -0.25}


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
    """Points with their intervals, by group, and lines among them; the axes in `log` are logarithmic."""
    hover = f"%{{text}}<br>{x_title}: %{{x:.4s}}<br>{y_title}: %{{y:.4g}}<extra></extra>"
    groups = [
        _group(group, [point for point in points if point.group == group], i) | {"hovertemplate": hover}
        for i, group in enumerate(dict.fromkeys(point.group for point in points))
    ]
    layout = {
        "xaxis": _axis(x_title, is_log="x" in log),
        "yaxis": _axis(y_title, is_log="y" in log),
        "legend": _LEGEND,
        "showlegend": True,
    }
    return {"data": [*lines, *groups], "layout": layout}


def gray_line(label: str, points: Sequence[tuple[float, float]], *, is_dashed: bool) -> dict[str, Any]:
    """A line of `points_figure` through points of (x, y)."""
    return line(points, name=label, color=GRAY, dash="dash" if is_dashed else "solid")


def _group(name: str, points: Sequence[Point], i: int) -> dict[str, Any]:
    color = _PALETTE[i % len(_PALETTE)]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": escaped(name),
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "text": [escaped(point.label) for point in points],
        "marker": {"color": color, "size": 9, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
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


def _axis(title: str, *, is_log: bool) -> dict[str, Any]:
    # On a log axis plotly names every digit between powers of ten; `D2` leaves 1, 2 and 5.
    return {"title": {"text": title}, **({"type": "log", "dtick": "D2"} if is_log else {})}
