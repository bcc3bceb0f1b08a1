"""The curves of a run's page, as plotly.js draws them: a plain dict of `data` and `layout` each.

The page sets the colors of background, text and grid for light and dark screens. The colors here suit both.
A matrix stays a NumPy array, so that the page can store it sparsely.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_rs.report.score import ScoreName

Figure = dict[str, Any]

BLUE = "#4a86c5"
AMBER = "#cf8a3a"
GRAY = "#8c8c88"

_MOST_MARKERS = 40
_LONGEST_LABEL = 22
_FROM_ZERO: Mapping[str, Any] = {"rangemode": "tozero"}
_SHARE_AXIS: Mapping[str, Any] = {"tickformat": ".0%"}


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


def line(
    points: Sequence[tuple[float, float]],
    *,
    name: str,
    color: str,
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
