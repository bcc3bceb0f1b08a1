"""The figures of a classifier's page, as plotly.js draws them. The page adds the theme; see `report/figures.py`.

Shapes: `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from resnet_rs.report.figures import BLUE, GRAY, Figure, is_number, labels_of, line, ticks
from resnet_rs.report.statistics import wilson_interval

MOST_BESIDE = 100
"""Above this many classes, the confusion matrix takes the whole width, so that its cells stay visible."""
_MOST_BARS = 50
"""Above this many classes, the bars are vertical, and their names are shown only on hover."""
_MOST_NAMED = 24
"""Above this many classes, the confusion matrix shows their names only on hover."""
_MOST_NUMBERS = 16
"""Up to this many classes, the cells of the confusion matrix show their numbers."""
_BAR_PIXELS = 24
_CALIBRATION_PIXELS = 420


def confusion_figure(names: Sequence[str], confusion: Int[np.ndarray, "K K"]) -> Figure:
    """How often each class (row) was predicted as each class (column), colored by the share of the row."""
    labels = labels_of(names)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.round(confusion / np.maximum(totals, 1), 4)
    is_small = len(names) <= _MOST_NUMBERS
    axis = {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "showticklabels": len(names) <= _MOST_NAMED,
        **(ticks(labels) if len(names) <= _MOST_NAMED else {}),
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
        "hovertemplate": "%{y}<br>predicted as %{x}<br>%{customdata:,} times, %{z:.1%} of its images<extra></extra>",
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
    """Recall of each class with its interval, the lowest first. Classes without a test image are left out.

    Up to 50 classes are horizontal bars with their names. More are thin vertical bars with the names on hover.
    """
    labels = labels_of([entry["name"] for entry in classes])
    seen = [pair for pair in zip(classes, labels, strict=True) if is_number(pair[0].get("recall"))]
    if not seen:
        return None
    seen.sort(key=lambda pair: (pair[0]["recall"], pair[0]["name"]))
    entries, labels = [entry for entry, _ in seen], [label for _, label in seen]
    recalls = [entry["recall"] for entry in entries]
    intervals = [(entry["recall_low"], entry["recall_high"]) for entry in entries]
    hover = "%{text}: %{RECALL:.1%}<br>%{customdata[0]} (95 %)<br>%{customdata[1]:,} images<extra></extra>"
    is_horizontal = len(entries) <= _MOST_BARS
    along, across = ("x", "y") if is_horizontal else ("y", "x")
    trace = {
        "type": "bar",
        "orientation": "h" if is_horizontal else "v",
        along: recalls,
        across: labels if is_horizontal else list(range(1, len(entries) + 1)),
        f"error_{along}": _errors(recalls, intervals),
        "marker": {"color": BLUE, "opacity": 0.55, "line": {"width": 0}},
        "text": labels,
        "textposition": "none",
        "customdata": [
            [f"{low:.1%} to {high:.1%}", entry["count"]]
            for (low, high), entry in zip(intervals, entries, strict=True)
        ],
        "hovertemplate": hover.replace("RECALL", along),
    }
    recall_axis = {"range": [0, 1.01], "tickformat": ".0%", "title": {"text": "recall"}}
    if is_horizontal:
        names = {"type": "category", "autorange": "reversed", "showgrid": False, **ticks(labels)}
        layout = {"height": _BAR_PIXELS * len(entries) + 60, "bargap": 0.35}
    else:
        names = {"title": {"text": "classes, the lowest recall first"}, "showgrid": False}
        layout = {"height": 320, "bargap": 0.0 if len(entries) > 200 else 0.2}
    return {"data": [trace], "layout": {**layout, f"{along}axis": recall_axis, f"{across}axis": names}}


def reliability_figure(bins: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy against confidence with 95 % intervals, above the number of images in each bin."""
    full = [bin for bin in bins if bin["count"]]
    if not full:
        return None
    accuracies = [bin["accuracy"] for bin in full]
    intervals = [wilson_interval(round(bin["accuracy"] * bin["count"]), bin["count"]) for bin in full]
    diagonal = line([(0.0, 0.0), (1.0, 1.0)], name="", color=GRAY, dash="dot")
    hover = "confidence %{x:.1%}, accuracy %{y:.1%}<br>%{customdata:,} images<extra></extra>"
    points = [(bin["confidence"], bin["accuracy"]) for bin in full]
    curve = line(points, name="", color=BLUE, hover=hover, most_markers=len(full))
    curve |= {"error_y": _errors(accuracies, intervals), "customdata": [bin["count"] for bin in full]}
    diagonal["line"]["width"] = 1
    curve["marker"] = {"size": 7}
    counts = {
        "type": "bar",
        "x": [(bin["low"] + bin["high"]) / 2 for bin in bins],
        "y": [bin["count"] for bin in bins],
        "width": [0.94 * (bin["high"] - bin["low"]) for bin in bins],
        "yaxis": "y2",
        "marker": {"color": GRAY, "opacity": 0.6},
        "customdata": [f"{bin['low']:.0%} to {bin['high']:.0%}" for bin in bins],
        "hovertemplate": "%{y:,} images of confidence %{customdata}<extra></extra>",
    }
    return {
        "data": [diagonal, curve, counts],
        "layout": {
            "height": _CALIBRATION_PIXELS,
            "showlegend": False,
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1], "tickformat": ".0%", "anchor": "y2"},
            "yaxis": {
                "title": {"text": "accuracy"},
                "range": [0, 1.02],
                "tickformat": ".0%",
                "domain": [0.3, 1],
            },
            "yaxis2": {"title": {"text": "images"}, "domain": [0, 0.2], "nticks": 3, "rangemode": "tozero"},
        },
    }


def _errors(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Error bars that span each interval."""
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
    """A color scale: transparent at 0, of opacity `weakest` just above 0 so that one image is visible."""
    stops = {0: 0.0, 0.001: weakest, 1: 0.85}
    return [[share, f"rgba(74,134,197,{opacity})"] for share, opacity in stops.items()]
