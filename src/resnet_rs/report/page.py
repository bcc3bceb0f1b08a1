"""The page of a run: one self-contained HTML file that opens without a network.

Names of classes and files come from other people's data and are treated as hostile: everything is escaped, for HTML by
the template, for plotly.js (which reads tags in labels) in `figures`, for the JSON inside a script element here.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from resnet_rs.report import figures
from resnet_rs.report.figures import Figure
from resnet_rs.report.frame import percent, render, stored
from resnet_rs.report.statistics import is_telling

_LARGEST_SIDE = 144
"""Larger pictures are shrunk to this many pixels, which keeps a page with fifty of them small."""
_SMALL_SIDE = 80
"""Pictures up to this many pixels are shown with their pixels as squares."""
_NUM_PAIRS = 10
_NUM_UNREADABLE = 100
_MOST_BESIDE = 100
"""Above this many classes, the confusion matrix takes the whole width, for a cell should have a pixel."""

_LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
    "count": "pictures scored",
}
_SHARES = {"top1", "top5"}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test picture that the model was sure of and wrong about."""

    key: str
    truth: str
    predicted: str
    confidence: float
    """Probability that the model gave to `predicted`."""
    picture: UInt8[np.ndarray, "H W C"]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One difference to the experiment of the zoo."""

    path: str
    before: object
    after: object
    reason: str = ""
    """Why it was made; empty if a person chose it."""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What the page of a run shows, as plain values. Every part may be empty."""

    title: str
    headline: Mapping[str, float | int | str]
    """The few numbers that are read first, each under its label."""
    epochs: Sequence[Mapping[str, float | int | None]]
    """Per evaluation: epoch, step, loss, lr, images_per_second, data_wait (a share), top1_average, top1_model."""
    scores: Mapping[str, Any] | None
    """What the evaluator found, with its keys; None if the run is not finished."""
    worst: Sequence[Mistake]
    augmented: Sequence[UInt8[np.ndarray, "H W C"]]
    """Training samples as the network sees them."""
    augmented_note: str = ""
    """What a reader should know of how they were made."""
    experiment: Mapping[str, Any]
    """The four slots as nested plain values."""
    edits: Sequence[Edit]
    environment: Mapping[str, str]


class _Number(NamedTuple):
    """A labeled number, with what belongs to it in smaller print."""

    label: str
    value: str
    note: str


class _Picture(NamedTuple):
    uri: str
    is_small: bool


def render_run_page(page: RunPage) -> str:
    """`page` as HTML."""
    scores = page.scores or {}
    curves, results = stored(_curve_figures(page.epochs)), stored(_result_figures(scores))
    return render(
        "run_page.html",
        page=page,
        has_figures=bool(curves or results),
        headline=[_headline_number(label, value) for label, value in page.headline.items()],
        curves=curves,
        results=results,
        numbers=_numbers(scores),
        classes=sorted(scores.get("classes") or [], key=_recall_order),
        is_wide=len(scores.get("classes") or []) > _MOST_BESIDE,
        pairs=_confused_pairs(scores),
        unreadable=list(scores.get("unreadable") or [])[:_NUM_UNREADABLE],
        num_unreadable=len(scores.get("unreadable") or []),
        mistakes=[(mistake, _embedded(mistake.picture)) for mistake in page.worst],
        augmented=[_embedded(picture) for picture in page.augmented],
        edits=[(edit, _typed(edit.before), _typed(edit.after)) for edit in page.edits],
        slots=_slots(page.experiment, edited=[edit.path for edit in page.edits]),
    )


def _headline_number(label: str, value: float | int | str) -> _Number:
    """A leading number is set large, and what follows it small: `78.4% (76.1% to 80.5%)`, `12.3 min`."""
    if not isinstance(value, str):
        return _Number(label, _plain_number(value), "")
    first, _, rest = value.partition(" ")
    return _Number(label, first, rest) if first[:1].isdigit() else _Number(label, value, "")


def _curve_figures(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Figure | None]:
    return {
        "Training loss": figures.loss_figure(epochs),
        "Test top-1": figures.top1_figure(epochs),
        "Learning rate": figures.lr_figure(epochs),
        "Pictures per second": figures.speed_figure(epochs),
    }


def _result_figures(scores: Mapping[str, Any]) -> dict[str, Figure | None]:
    confusion = _confusion(scores)
    names = [entry["name"] for entry in scores.get("classes") or []]
    return {
        "confusion": figures.confusion_figure(names, confusion) if confusion is not None else None,
        "recall": figures.recall_figure(scores.get("classes") or []),
        "reliability": figures.reliability_figure(scores.get("reliability") or []),
    }


def _confusion(scores: Mapping[str, Any]) -> Int[np.ndarray, "K K"] | None:
    """The confusion matrix, if there is one with a picture in it."""
    confusion = np.array(scores.get("confusion") or [], dtype=np.int64)
    return confusion if confusion.any() else None


def _numbers(scores: Mapping[str, Any]) -> list[_Number]:
    """The scores that are single numbers, with their intervals."""
    num_classes = len(scores.get("classes") or [])
    found: list[_Number] = []
    for key, value in scores.items():
        is_bound = key.endswith(("_low", "_high"))
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not is_number or is_bound or not is_telling(key, num_classes):
            continue
        shown = percent if key in _SHARES else _plain_number
        low, high = scores.get(f"{key}_low"), scores.get(f"{key}_high")
        note = "" if low is None or high is None else f"{shown(low)} to {shown(high)}"
        found.append(_Number(_LABELS.get(key, key), shown(value), note))
    return found


def _confused_pairs(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of classes that were most often taken for each other, most frequent first."""
    confusion = _confusion(scores)
    if confusion is None:
        return []
    totals = confusion.sum(axis=1)
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_PAIRS]
    names = [entry["name"] for entry in scores["classes"]]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        {
            "truth": names[i],
            "predicted": names[j],
            "count": int(wrong[i, j]),
            "share": wrong[i, j] / totals[i],
        }
        for i, j in pairs
        if wrong[i, j]
    ]


def _recall_order(entry: Mapping[str, Any]) -> tuple[bool, float, str]:
    """The lowest recall first; classes without a test picture last."""
    recall = entry.get("recall")
    return (recall is None, recall or 0.0, entry["name"])


def _slots(experiment: Mapping[str, Any], *, edited: Sequence[str]) -> list[dict[str, Any]]:
    """Each slot with its type and its fields by dotted path, those that were edited marked."""
    slots: list[dict[str, Any]] = []
    for name, value in experiment.items():
        if name == "type":
            continue
        fields = dict(_flat(value, name)) if isinstance(value, Mapping) else {name: value}
        kind = fields.pop(f"{name}.type", "")
        rows = [(path, _typed(field), _is_within(path, edited)) for path, field in fields.items()]
        slots.append({"name": name, "kind": kind, "rows": rows})
    return slots


def _flat(value: Mapping[str, Any], path: str) -> Iterable[tuple[str, Any]]:
    """The leaves of a nested dict by dotted path, types by their last name."""
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{path}.{name}")
        elif name == "type":
            yield f"{path}.{name}", str(inner).rpartition(".")[2]
        else:
            yield f"{path}.{name}", inner


def _is_within(path: str, edited: Sequence[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in edited)


def _embedded(picture: UInt8[np.ndarray, "H W C"]) -> _Picture:
    """A picture as a PNG data URI: three channels in color, fewer in gray (the first), more by their first three."""
    height, width, channels = picture.shape
    shown = picture[:, :, :3] if channels >= 3 else picture[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return _Picture(uri, is_small=max(height, width) <= _SMALL_SIDE)


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain_number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
