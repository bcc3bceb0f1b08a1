"""The report of a classifier: its scores, computed from one row per sample, and its tables and figures.

Shapes: `N` scored samples, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_rs.report.blocks import Block, Chart, Gallery, Listing, Tile
from resnet_rs.report.score import Number, ScoreName
from resnet_rs.report.statistics import (
    UNKNOWN,
    Estimate,
    calibration_error,
    mean_interval,
    mean_share,
    reliability_bins,
    wilson_interval,
)
from resnet_rs.tasks import classification_figures as figures

TOP1 = ScoreName(key="top1", label="top-1")
_NUMBERS = (
    TOP1,
    ScoreName(key="top5", label="top-5"),
    ScoreName(key="balanced_accuracy", label="balanced accuracy"),
    ScoreName(key="calibration_error", label="calibration error", is_share=False, is_higher_better=False),
    ScoreName(key="nll", label="negative log-likelihood", is_share=False, is_higher_better=False),
)

ROW = np.dtype(
    [
        ("index", np.int64),
        ("label", np.int64),
        ("predicted", np.int64),
        ("rank", np.int64),  # number of classes with a higher probability than the true one
        ("confidence", np.float64),  # probability of the predicted class
        ("nll", np.float64),
    ]
)
"""The record of one scored sample."""

NUM_WORST = 24
"""Mistakes on a page."""
_NUM_PAIRS = 10
NUM_CLASSES_PRINTED = 50
"""Classes on the command line."""
_TOP = 5
_MOST_IN_MATRIX = 1000
"""Above this many classes the page lists the most frequent confusions and draws no matrix."""


def summary(rows: np.ndarray) -> dict[str, float]:
    """Top-1 and mean negative log-likelihood."""
    return {"top1": mean(rows["predicted"] == rows["label"]), "nll": mean(rows["nll"])}


def scores(rows: np.ndarray, classes: Sequence[str], key: Callable[[int], str]) -> dict[str, Any]:
    """All scores as JSON, with 95 % intervals over the choice of images."""
    correct, top5 = rows["predicted"] == rows["label"], rows["rank"] < _TOP
    confidence, labels = rows["confidence"], rows["label"]
    counts, hits = (np.bincount(found, minlength=len(classes)) for found in (labels, labels[correct]))
    balanced = mean_share(hits[counts > 0], counts[counts > 0])
    return {
        "count": len(rows),
        **share_with_interval("top1", int(correct.sum()), len(rows)),
        **share_with_interval("top5", int(top5.sum()), len(rows)),
        **interval_fields("balanced_accuracy", balanced),
        **interval_fields("calibration_error", calibration_error(confidence, correct)),
        **interval_fields("nll", mean_loss(rows["nll"])),
        "classes": _class_scores(rows, classes),
        "confusion": _confusion(rows, len(classes)),
        "reliability": [bin._asdict() for bin in reliability_bins(confidence, correct)],
        "worst": _worst(rows, classes, key),
    }


def numbers(scores: Mapping[str, Any]) -> list[Number]:
    """Top-1, calibration error and negative log-likelihood.

    Top-5 is among them with more than five classes, and balanced accuracy where the classes differ in size; else it
    equals top-1.
    """
    counts = [item.get("count") for item in scores.get("classes") or []]
    is_needless = {"top5": len(counts) <= _TOP, "balanced_accuracy": len(set(counts)) < 2}
    return [name.number(scores) for name in _NUMBERS if not is_needless.get(name.key)]


def lines(scores: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of the first classes: its recall."""
    for item in (scores.get("classes") or [])[:NUM_CLASSES_PRINTED]:
        if item["recall"] is not None:
            recall = f"recall {item['recall']:>6.1%} ({_recall_interval(item)})"
            yield f"  {item['name']:<24} {recall} of {item['count']:,}"


def blocks(scores: Mapping[str, Any]) -> list[Block]:
    """Recall, calibration, confusions, all classes, and the worst mistakes."""
    classes = scores.get("classes") or []
    recall = figures.recall_figure(classes)
    reliability = figures.reliability_figure(scores.get("reliability") or [])
    found: list[Block] = [*_pairs(scores), *_all_classes(classes)]
    if recall is not None:
        found.append(Chart(title="Recall of each class", figure=recall))
    if reliability is not None:
        note = "On the dotted line, confidence equals accuracy. Below it, the model is overconfident."
        found.append(Chart(title="Calibration", figure=reliability, note=note))
    return [*found, *_matrix(scores), *_gallery(scores)]


def _matrix(scores: Mapping[str, Any]) -> Iterator[Chart]:
    """The confusion matrix, unless there are too many classes."""
    confusion, names = scores.get("confusion") or {}, [item["name"] for item in scores.get("classes") or []]
    if confusion.get("counts") and len(names) <= _MOST_IN_MATRIX:
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        counts[list(confusion["rows"]), list(confusion["columns"])] = confusion["counts"]
        figure = figures.confusion_figure(names, counts)
        note = "Colored by the share of each true class (row). Drag to zoom, double-click to zoom out."
        is_wide = len(names) > figures.MOST_BESIDE
        yield Chart(title="Confusion matrix", figure=figure, note=note, is_wide=is_wide)


def _class_scores(rows: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    num_classes = len(classes)
    correct = rows["label"][rows["predicted"] == rows["label"]]
    of_label, of_predicted, of_correct = (
        np.bincount(labels, minlength=num_classes).tolist()
        for labels in (rows["label"], rows["predicted"], correct)
    )
    return [
        {
            "name": name,
            "count": of_label[i],
            **share_with_interval("recall", of_correct[i], of_label[i]),
            **share_with_interval("precision", of_correct[i], of_predicted[i]),
        }
        for i, name in enumerate(classes)
    ]


def _confusion(rows: np.ndarray, num_classes: int) -> dict[str, list[int]]:
    """How often class `rows[i]` was predicted as class `columns[i]`: the nonzero entries of the matrix."""
    pairs, counts = np.unique(rows["label"] * num_classes + rows["predicted"], return_counts=True)
    return {
        "rows": (pairs // num_classes).tolist(),
        "columns": (pairs % num_classes).tolist(),
        "counts": counts.tolist(),
    }


def _worst(rows: np.ndarray, classes: Sequence[str], key: Callable[[int], str]) -> list[dict[str, Any]]:
    """The wrong predictions with the highest confidence, the highest first."""
    wrong = rows[rows["predicted"] != rows["label"]]
    order = np.argsort(-wrong["confidence"], kind="stable")[:NUM_WORST]
    return [
        {
            "index": int(row["index"]),
            "key": key(int(row["index"])),
            "truth": classes[row["label"]],
            "predicted": classes[row["predicted"]],
            "confidence": float(row["confidence"]),
        }
        for row in wrong[order]
    ]


def _pairs(scores: Mapping[str, Any]) -> Iterator[Listing]:
    """The most frequent pairs of true and wrongly predicted class."""
    confusion, classes = scores.get("confusion") or {}, scores.get("classes") or []
    entries = zip(*(confusion.get(name, []) for name in ("counts", "rows", "columns")), strict=True)
    wrong = sorted((-count, i, j) for count, i, j in entries if i != j)[:_NUM_PAIRS]
    if wrong:
        rows = [
            (
                f"{classes[i]['name']} → {classes[j]['name']}",
                f"{-count:,}",
                f"{-count / classes[i]['count']:.1%}",
            )
            for count, i, j in wrong
        ]
        yield Listing(
            title="Most frequent confusions",
            head=("truth → prediction", "images", "share of class"),
            rows=rows,
        )


def _all_classes(classes: Sequence[Mapping[str, Any]]) -> Iterator[Listing]:
    """A row per class, the lowest recall first; classes without a test image come last."""
    if not classes:
        return
    ordered = sorted(classes, key=lambda c: (c["recall"] is None, c["recall"] or 0.0, c["name"]))
    rows = [
        (
            c["name"],
            f"{c['count']:,}",
            "" if c["recall"] is None else f"{c['recall']:.1%}",
            "" if c["recall"] is None else _recall_interval(c),
            "" if c["precision"] is None else f"{c['precision']:.1%}",
        )
        for c in ordered
    ]
    head = ("class", "images", "recall", "95 % interval", "precision")
    yield Listing(title=f"All {len(classes):,} classes", head=head, rows=rows, is_folded=True)


def _gallery(scores: Mapping[str, Any]) -> Iterator[Gallery]:
    tiles = [
        Tile(
            index=item["index"],
            key=item["key"],
            lines=(item["truth"], f"{item['predicted']} {item['confidence']:.1%}"),
        )
        for item in scores.get("worst") or []
    ]
    if tiles:
        note = "Wrong predictions, the highest confidence first. Look for wrong labels here."
        yield Gallery(title="Worst mistakes", tiles=tiles, note=note)


def _recall_interval(item: Mapping[str, Any]) -> str:
    return f"{item['recall_low']:.1%} to {item['recall_high']:.1%}"


def share_with_interval(name: str, successes: int, count: int) -> dict[str, float | None]:
    """`name`: the share, `name_low` and `name_high`: its 95 % interval; None for a share of nothing."""
    found = Estimate(successes / count, *wilson_interval(successes, count)) if count else UNKNOWN
    return interval_fields(name, found)


def interval_fields(name: str, estimate: Estimate) -> dict[str, float | None]:
    """A score and its interval as fields of JSON: `name`, `name_low` and `name_high`; None for what is not known."""
    found = zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True)
    return {key: number if math.isfinite(number) else None for key, number in found}


def mean_loss(losses: np.ndarray) -> Estimate:
    """The mean of losses, which are not negative."""
    low, high = mean_interval(losses)
    return Estimate(mean(losses), max(low, 0.0), high)


def mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
