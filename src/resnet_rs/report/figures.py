"""The figures of a run's page, as plotly.js draws them: a plain dict of `data` and `layout` each.

Background, text and grid are left open, for the page sets them to suit a light or a dark screen; the few colors given
here are readable on both. A matrix stays a NumPy array, so that the page can store it sparsely.

Shapes: `K` classes.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from resnet_rs.report.statistics import wilson_interval

Figure = dict[str, Any]

BLUE = "#4a86c5"
AMBER = "#cf8a3a"
GRAY = "#8c8c88"

_MOST_BARS = 50
"""Above this many classes, bars stand side by side without their names; pointing at one tells its name."""
_MOST_NAMED = 24
"""Above this many classes, the confusion matrix leaves their names to pointing, too."""
_MOST_NUMBERS = 16
"""Up to this many classes, the cells of the confusion matrix show their numbers."""
_MOST_MARKERS = 40
_LONGEST_LABEL = 22
_BAR_PIXELS = 24


def loss_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Mean training loss over epochs."""
    return _curves(epochs, {"loss": ("loss", BLUE)}, hover="%{y:.4g}")


def top1_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Test top-1 over epochs, of the weight average and of the weights themselves."""
    names = {"top1_average": ("average of the weights", BLUE), "top1_model": ("weights", AMBER)}
    return _curves(epochs, names, hover="%{y:.1%}", tickformat=".0%")


def lr_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Learning rate over epochs."""
    return _curves(epochs, {"lr": ("learning rate", BLUE)}, hover="%{y:.4g}")


def speed_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Pictures per second over epochs; pointing at one tells the share of time spent waiting for data."""
    figure = _curves(
        epochs, {"images_per_second": ("pictures per second", BLUE)}, hover="%{y:,.0f} per second"
    )
    if figure is not None and any("data_wait" in entry for entry in epochs):
        trace = figure["data"][0]
        trace["customdata"] = _finite(entry.get("data_wait") for entry in _with(epochs, "images_per_second"))
        trace["hovertemplate"] = (
            "%{y:,.0f} per second, %{customdata:.0%} of the time waiting for data<extra></extra>"
        )
    return figure


def confusion_figure(names: Sequence[str], confusion: Int[np.ndarray, "K K"]) -> Figure:
    """How often each class (row) was taken for each class (column), colored by the share of its row."""
    labels = _labels(names)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.round(confusion / np.maximum(totals, 1), 4)
    is_small = len(names) <= _MOST_NUMBERS
    axis = {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "showticklabels": len(names) <= _MOST_NAMED,
        **(_ticks(labels) if len(names) <= _MOST_NAMED else {}),
    }
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": shares,
        "customdata": confusion,
        "zmin": 0,
        "zmax": 1,
        "colorscale": _fading_blue(0.12 if len(names) <= _MOST_BARS else 0.4),
        "showscale": False,
        "xgap": 1 if is_small else 0,
        "ygap": 1 if is_small else 0,
        "hovertemplate": "%{y}<br>taken for %{x}<br>%{customdata:,} times, %{z:.1%} of its pictures<extra></extra>",
    }
    if is_small:
        trace["text"] = [[f"{count:,}" if count else "" for count in row] for row in confusion.tolist()]
        trace["texttemplate"] = "%{text}"
    return {
        "data": [trace],
        "layout": {
            "xaxis": {**axis, "title": {"text": "predicted"}, "tickangle": -45},
            "yaxis": {**axis, "title": {"text": "truth"}, "autorange": "reversed"},
        },
    }


def recall_figure(classes: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Recall of each class with its interval, the lowest first. Classes without a test picture are left out."""
    labels = _labels([entry["name"] for entry in classes])
    labeled: list[dict[str, Any]] = [
        {**entry, "label": label} for entry, label in zip(classes, labels, strict=True)
    ]
    seen = [entry for entry in labeled if _is_number(entry.get("recall"))]
    if not seen:
        return None
    order = sorted(seen, key=lambda entry: (entry["recall"], entry["name"]))
    return _named_bars(order) if len(order) <= _MOST_BARS else _nameless_bars(order)


def reliability_figure(bins: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy against confidence with 95 % intervals, above the number of pictures in each bin."""
    full = [bin for bin in bins if bin["count"]]
    if not full:
        return None
    accuracies = [bin["accuracy"] for bin in full]
    intervals = [wilson_interval(round(bin["accuracy"] * bin["count"]), bin["count"]) for bin in full]
    diagonal = {
        "type": "scatter",
        "x": [0, 1],
        "y": [0, 1],
        "mode": "lines",
        "line": {"color": GRAY, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    points = {
        "type": "scatter",
        "x": _finite(bin["confidence"] for bin in full),
        "y": accuracies,
        "mode": "lines+markers",
        "line": {"color": BLUE, "width": 2},
        "marker": {"size": 7},
        "error_y": _errors(accuracies, intervals),
        "customdata": [bin["count"] for bin in full],
        "hovertemplate": "%{x:.1%} sure, %{y:.1%} right<br>%{customdata:,} pictures<extra></extra>",
    }
    counts = {
        "type": "bar",
        "x": [(bin["low"] + bin["high"]) / 2 for bin in bins],
        "y": [bin["count"] for bin in bins],
        "width": [0.94 * (bin["high"] - bin["low"]) for bin in bins],
        "yaxis": "y2",
        "marker": {"color": GRAY, "opacity": 0.6},
        "customdata": [f"{bin['low']:.0%} to {bin['high']:.0%}" for bin in bins],
        "hovertemplate": "%{y:,} pictures, %{customdata} sure<extra></extra>",
    }
    return {
        "data": [diagonal, points, counts],
        "layout": {
            "showlegend": False,
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1], "tickformat": ".0%", "anchor": "y2"},
            "yaxis": {
                "title": {"text": "accuracy"},
                "range": [0, 1.02],
                "tickformat": ".0%",
                "domain": [0.3, 1],
            },
            "yaxis2": {"title": {"text": "pictures"}, "domain": [0, 0.2], "nticks": 3, "rangemode": "tozero"},
        },
    }


def _curves(
    epochs: Sequence[Mapping[str, Any]],
    names: Mapping[str, tuple[str, str]],
    *,
    hover: str,
    tickformat: str = "",
) -> Figure | None:
    """Lines over epochs: `names` gives the key of each with its label and color. None without a single value."""
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


def _named_bars(classes: Sequence[Mapping[str, Any]]) -> Figure:
    """One horizontal bar per class, from the top."""
    labels = [entry["label"] for entry in classes]
    trace = _bars(classes) | {
        "x": [entry["recall"] for entry in classes],
        "y": labels,
        "orientation": "h",
        "error_x": _errors([entry["recall"] for entry in classes], _intervals(classes)),
        "hovertemplate": "%{y}: %{x:.1%}<br>%{customdata[0]} (95 %)<br>%{customdata[1]:,} pictures<extra></extra>",
    }
    layout = {
        "height": _BAR_PIXELS * len(classes) + 60,
        "bargap": 0.35,
        "xaxis": {"range": [0, 1.01], "tickformat": ".0%", "title": {"text": "recall"}},
        "yaxis": {
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
            **_ticks(labels),
        },
    }
    return {"data": [trace], "layout": layout}


def _nameless_bars(classes: Sequence[Mapping[str, Any]]) -> Figure:
    """One thin upright bar per class, from the left."""
    trace = _bars(classes) | {
        "x": list(range(1, len(classes) + 1)),
        "y": [entry["recall"] for entry in classes],
        "text": [entry["label"] for entry in classes],
        "textposition": "none",
        "error_y": _errors([entry["recall"] for entry in classes], _intervals(classes)),
        "hovertemplate": "%{text}: %{y:.1%}<br>%{customdata[0]} (95 %)<br>%{customdata[1]:,} pictures<extra></extra>",
    }
    layout = {
        "height": 320,
        "bargap": 0.0 if len(classes) > 200 else 0.2,
        "xaxis": {"title": {"text": "classes, the lowest recall first"}, "showgrid": False},
        "yaxis": {"range": [0, 1.01], "tickformat": ".0%", "title": {"text": "recall"}},
    }
    return {"data": [trace], "layout": layout}


def _bars(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What upright and lying bars share."""
    intervals = [f"{low:.1%} to {high:.1%}" for low, high in _intervals(classes)]
    counts = [entry["count"] for entry in classes]
    return {
        "type": "bar",
        "marker": {"color": BLUE, "opacity": 0.55, "line": {"width": 0}},
        "customdata": [list(pair) for pair in zip(intervals, counts, strict=True)],
    }


def _intervals(classes: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(entry["recall_low"], entry["recall_high"]) for entry in classes]


def _errors(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Error bars from the low to the high end of each interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [round(high - value, 4) for value, (_, high) in zip(values, intervals, strict=True)],
        "arrayminus": [round(value - low, 4) for value, (low, _) in zip(values, intervals, strict=True)],
        "color": GRAY if len(values) <= _MOST_BARS else "rgba(140,140,136,0.4)",
        "thickness": 1.2,
        "width": 0,
    }


def _fading_blue(weakest: float) -> list[list[Any]]:
    """Colors from nothing at 0 over an opacity of `weakest` just above it, so that one picture is seen, to 1."""
    stops = {0: 0.0, 0.001: weakest, 1: 0.85}
    return [[share, f"rgba(74,134,197,{opacity})"] for share, opacity in stops.items()]


def _with(epochs: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The entries that have a number under `key`."""
    return [entry for entry in epochs if _is_number(entry.get(key))]


def _is_number(value: float | int | None) -> bool:
    return value is not None and math.isfinite(value)


def _finite(values: Iterable[float | int | None]) -> list[float | int | None]:
    """`values` with None, which JSON knows, for those that are not finite, which it does not."""
    return [value if _is_number(value) else None for value in values]


def _labels(names: Sequence[str]) -> list[str]:
    """Names for the places of an axis. It would merge equal ones (ImageNet has two cranes): these get their number."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    # The zero-width space in front keeps plotly.js from losing classes that are called like a JavaScript property.
    return ["\u200b" + escaped(f"{name} ({i})" if name in repeated else name) for i, name in enumerate(names)]


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """One tick per label, with long ones cut. Pointing at a mark tells the whole."""
    plain = [html.unescape(label) for label in labels]
    short = [name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…" for name in plain]
    return {"tickvals": list(labels), "ticktext": [escaped(name) for name in short]}


def escaped(name: str) -> str:
    """`name` as text for plotly.js, which would read tags in it, and formulas between dollar signs."""
    return html.escape(name, quote=False).replace("$", "&#36;")
