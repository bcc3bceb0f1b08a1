"""Two runs side by side: the edits between them, their scores, and a paired comparison.

Shapes: `N` test samples that both runs have scored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from resnet_rs import config, storage
from resnet_rs.report.comparison import compare
from resnet_rs.report.score import PerSample
from resnet_rs.report.table import difference_line, markdown_table, with_interval
from resnet_rs.training.experiment import Experiment


class _Run(NamedTuple):
    """What a finished run has stored."""

    folder: Path
    experiment: Experiment
    info: dict[str, Any]
    scores: dict[str, Any]


def compare_runs(old: Path, new: Path) -> str:
    """The comparison of two finished runs as Markdown; differences are `new - old`.

    Raises `ValueError` if they were scored on other test data, or by another score.
    """
    before, after = _read(old), _read(new)
    if before.info["test_digest"] != after.info["test_digest"]:
        raise ValueError(
            f"{old} and {new} have different test data, so their scores cannot be compared. "
            "Evaluate both on the same data with `resnet-rs evaluate`."
        )
    if before.scores["headline"] != after.scores["headline"]:
        raise ValueError(
            f"{old} is scored by {before.scores['headline']}, {new} by {after.scores['headline']}. "
            "Only runs with the same score can be compared."
        )
    edits = config.describe(config.diff(before.experiment, after.experiment)) or "the same experiment"
    if before.info["train_digest"] != after.info["train_digest"]:
        edits += "; other training data"
    if before.info["seed"] != after.info["seed"]:
        edits += f"; seed {before.info['seed']} and seed {after.info['seed']}"
    table = markdown_table(_rows(before, after))
    return f"From {old} to {new}: {edits}.\n\n{table}\n\n{_verdict(before, after)}"


def _read(folder: Path) -> _Run:
    for name in ("run.json", "experiment.json", "scores.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} is no finished run: {name} is missing. Give two folders that `train --out` has finished."
            )
    return _Run(
        folder=folder,
        experiment=config.from_plain(storage.read_json(folder / "experiment.json"), kinds=(Experiment,)),
        info=storage.read_json(folder / "run.json", needs=("seed", "train_digest", "test_digest")),
        scores=storage.read_json(
            folder / "scores.json", needs=("headline", "count", "per_sample", "unreadable")
        ),
    )


def _rows(before: _Run, after: _Run) -> list[dict[str, str]]:
    """A row per number of the task."""
    old, new = (
        {n.name.title: with_interval(n.name.cell, n) for n in run.experiment.task.numbers(run.scores)}
        for run in (before, after)
    )
    columns = {str(before.folder): old, str(after.folder): new}
    rows = [
        {"": title} | {folder: cells.get(title, "") for folder, cells in columns.items()}
        for title in {**old, **new}
    ]
    return [row for row in rows if any(row[folder] for folder in columns)]


def _verdict(before: _Run, after: _Run) -> str:
    score = after.experiment.task.headline
    new, old = (_values(run, before, after) for run in (after, before))
    if new is None or old is None:
        return f"{score.label} has no per-sample values, so one run each cannot be compared by a test."
    difference = compare([(new, old)])[0].clipped(1.0 if score.is_share else math.inf)
    verdict = difference.verdict(is_higher_better=score.is_higher_better)
    return (
        f"{score.label}: {difference_line(score, difference)}: {verdict}. "
        f"Paired over {new.shape[1]:,} test samples, of which {int((new != old).sum()):,} differ. The interval leaves "
        "out the seed variance: another seed gives another difference. `resnet-rs study` with --seeds 3 includes it."
    )


def _values(run: _Run, *both: _Run) -> Float[np.ndarray, "1 N"] | None:
    """The per-sample values of a run, without the samples that either run could not read."""
    if run.scores["per_sample"] is None:
        return None
    try:
        unscored = [item["index"] for other in both for item in other.scores["unreadable"]]
        num_samples = run.scores["count"] + len(run.scores["unreadable"])
        return np.delete(PerSample.from_plain(run.scores["per_sample"]).dense(num_samples), unscored)[None]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise storage.Damaged(
            f"{run.folder / 'scores.json'} has no values per sample that fit its count: {error}. Continue the run with "
            "its `train` command, which scores it again."
        ) from None
