"""Writes `page.html` of a run from the files in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from resnet_rs import config, storage
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Source, Splits
from resnet_rs.report.blocks import Block, Gallery
from resnet_rs.report.page import Edit, RunPage, render_run_page
from resnet_rs.report.score import Number, ScoreName
from resnet_rs.report.table import duration_text
from resnet_rs.training.curves import evaluations
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log

_NUM_AUGMENTED = 24

Pixels = UInt8[np.ndarray, "H W C"]


def write_page(folder: Path, splits: Splits | None) -> Path:
    """Write the page of the run in `folder` and return its path. Without `splits` the page has no images."""
    info = storage.read_json(folder / "run.json")
    experiment: Experiment = config.from_plain(storage.read_json(folder / "experiment.json"))
    task = experiment.task
    scores = storage.read_json(folder / "scores.json") if (folder / "scores.json").is_file() else {}
    log = read_log(folder / "log.jsonl")
    blocks = task.blocks(scores)
    page = RunPage(
        title=f"{info['name']} on {info['data_title']}",
        headline=_headline(task.numbers(scores), scores, log, info),
        score=task.headline,
        scored="validation" if info.get("num_validation") else "test",
        epochs=_epochs(log, task.headline),
        is_finished=bool(scores),
        numbers=task.numbers(scores),
        blocks=blocks,
        images={} if splits is None else _test_images(blocks, splits.test, experiment.data),
        unreadable=scores.get("unreadable", []),
        augmented=[] if splits is None else _augmented(splits.train, experiment.data, seed=info["seed"]),
        augmented_note=experiment.data.describe_augmentation(),
        experiment=config.to_plain(experiment) | ({"task": scores["task"]} if scores else {}),
        edits=_edits(info),
        environment=info["environment"],
    )
    path = folder / "page.html"
    storage.write_text(path, render_run_page(page))
    return path


def _headline(
    numbers: Sequence[Number],
    scores: Mapping[str, Any],
    log: list[dict[str, Any]],
    info: Mapping[str, Any],
) -> dict[str, str]:
    """The few numbers at the top of the page."""
    found: dict[str, str] = {}
    best = numbers[0]
    if best.value is not None:
        found[best.name.label] = best.name.text(best.value) + (f" ({best.interval})" if best.interval else "")
    if scores:
        found["images scored"] = f"{scores['count']:,} of {info['num_test']:,}"
    unreadable = {line["key"] for line in log if line["kind"] == "unreadable"}
    if unreadable:
        found["unreadable in training"] = f"{len(unreadable):,} of {info['num_train']:,}"
    if info.get("start_from"):
        found["start weights"] = info["start_from"]["name"]
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    if evaluations:
        found["time"] = duration_text(evaluations[-1]["seconds"] / 60)
        speeds = [line["images_per_second"] for line in evaluations]
        found["images per second"] = f"{np.median(speeds):.0f}"
    return found


def _epochs(log: list[dict[str, Any]], score: ScoreName) -> list[dict[str, float]]:
    """One entry per evaluation: loss and speed since the previous one, and the headline score of each model."""
    names = ("epoch", "step", "loss", "lr", "images_per_second", "data_wait")
    return [
        {name: line[name] for name in names}
        | {f"score_{name}": s[score.key] for name, s in line["summaries"].items() if score.key in s}
        for line in evaluations(log)
    ]


def _test_images(blocks: Sequence[Block], test: Source, data: Data) -> dict[int, Pixels]:
    """The test images of all galleries, as the network sees them. Images whose key has changed are left out."""
    found = dict[int, Pixels]()
    for tile in (tile for block in blocks if isinstance(block, Gallery) for tile in block.tiles):
        if tile.index < len(test) and test.key(tile.index) == tile.key:
            with suppress(Unreadable):
                sample = test.read(tile.index, data.test_request())
                found[tile.index] = _as_image(data.test_input(sample)[0])
    return found


def _augmented(source: Source, data: Data, *, seed: int) -> list[Pixels]:
    """Training samples with the augmentation of the first epoch."""
    images = list[Pixels]()
    for i in range(min(_NUM_AUGMENTED, len(source))):
        index = len(source) * i // _NUM_AUGMENTED
        with suppress(Unreadable):
            sample = source.read(index, data.train_request(seed=seed, epoch=0, index=index))
            images.append(_as_image(data.train_input(sample, seed=seed, epoch=0, index=index)[0]))
    return images


def _as_image(inputs: Tensor) -> Pixels:
    """[C, H, W] on the 0-255 scale, or the first frame of [C, T, H, W], as uint8 [H, W, C]."""
    pixels = inputs if inputs.dim() == 3 else inputs[:, 0]
    return np.clip(pixels.permute(1, 2, 0).numpy(), 0, 255).astype(np.uint8)


def _edits(info: Mapping[str, Any]) -> list[Edit]:
    """The differences from the zoo, with the reason of those that `--fit` made."""
    reasons = {change["path"]: change["reason"] for change in info["changes"]}
    return [
        Edit(path=path, before=config.as_text(old), after=config.as_text(new), reason=reasons.get(path, ""))
        for path, (old, new) in info["edits"].items()
    ]
