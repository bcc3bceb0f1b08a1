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


def loss_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Mean training loss over epochs."""
    return _curves(epochs, {"loss": ("loss", BLUE)}, hover="%{y:.4g}")


def score_figure(epochs: Sequence[Mapping[str, Any]], score: ScoreName) -> Figure | None:
    """The headline score on the test split over epochs, of the EMA weights and of the raw weights."""
    names = {"score_ema": ("EMA weights", BLUE), "score_model": ("raw weights", AMBER)}
    if score.is_share:
        return _curves(epochs, names, hover="%{y:.1%}", tickformat=".0%")
    return _curves(epochs, names, hover="%{y:.4g}")


def lr_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Learning rate over epochs."""
    figure = _curves(epochs, {"lr": ("learning rate", BLUE)}, hover="%{y:.4g}")
    if figure is not None:
        figure["layout"]["yaxis"]["exponentformat"] = "e"
    return figure


def speed_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Images per second over epochs. Hovering shows the share of time spent waiting for data."""
    figure = _curves(epochs, {"images_per_second": ("images per second", BLUE)}, hover="%{y:,.0f} per second")
    if figure is not None and any("data_wait" in entry for entry in epochs):
        trace = figure["data"][0]
        trace["customdata"] = finite(entry.get("data_wait") for entry in _with(epochs, "images_per_second"))
        trace["hovertemplate"] = (
            "%{y:,.0f} per second, %{customdata:.0%} of the time waiting for data<extra></extra>"
        )
    return figure


def _curves(
    epochs: Sequence[Mapping[str, Any]],
    names: Mapping[str, tuple[str, str]],
    *,
    hover: str,
    tickformat: str = "",
) -> Figure | None:
    """Lines over epochs: `names` maps each key to its label and color. None if there is no value at all."""
    traces: list[dict[str, Any]] = []
    for key, (label, color) in names.items():
        entries = _with(epochs, key)
        if not entries:
            continue
        traces.append(
            {
                "type": "scatter",
                "x": [entry["epoch"] for entry in entries],
                "y": [entry[key] for entry in entries],
                "name": label,
                "mode": "lines+markers" if len(entries) <= _MOST_MARKERS else "lines",
                "line": {"color": color, "width": 2},
                "marker": {"size": 5},
                "hovertemplate": f"{hover}<extra>{label if len(names) > 1 else ''}</extra>",
            }
        )
    if not traces:
        return None
    layout = {
        "hovermode": "x unified",
        "showlegend": len(names) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero", "hoverformat": ".4~g"},
        "yaxis": {"tickformat": tickformat, "rangemode": "normal" if tickformat else "tozero"},
    }
    return {"data": traces, "layout": layout}


def _with(epochs: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The entries that have a number under `key`."""
    return [entry for entry in epochs if is_number(entry.get(key))]


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
