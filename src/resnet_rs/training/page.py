"""The page of a run: what its folder holds, put into `page.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from resnet_rs import config, storage
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Source, Splits
from resnet_rs.report.page import Edit, Mistake, RunPage, render_run_page
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log

_NUM_AUGMENTED = 24

Pixels = UInt8[np.ndarray, "H W C"]


def write_page(folder: Path, splits: Splits | None) -> Path:
    """Write the page of the run in `folder`; without its data, without its pictures."""
    info = storage.read_json(folder / "run.json")
    experiment = config.from_plain(storage.read_json(folder / "experiment.json"))
    scores = storage.read_json(folder / "scores.json") if (folder / "scores.json").is_file() else None
    log = read_log(folder / "log.jsonl")
    page = RunPage(
        title=f"{info['name']} on {_data_name(info)}",
        headline=_headline(scores, log, info),
        epochs=_epochs(log),
        scores=scores,
        worst=_mistakes(scores, splits, experiment),
        augmented=_augmented(splits, experiment, seed=info["seed"]),
        augmented_note=experiment.data.describe_augmentation(),
        experiment=config.to_plain(experiment),
        edits=_edits(info),
        environment=info["environment"],
    )
    path = folder / "page.html"
    storage.write_text(path, render_run_page(page))
    return path


def _data_name(info: Mapping[str, Any]) -> str:
    return "the built-in pictures" if info["data"] == "builtin" else Path(info["data"]).name


def _headline(
    scores: Mapping[str, Any] | None, log: list[dict[str, Any]], info: Mapping[str, Any]
) -> dict[str, str]:
    """The few numbers that are read first."""
    found: dict[str, str] = {}
    if scores is not None and scores.get("top1") is not None:
        found["top-1"] = f"{scores['top1']:.1%} ({scores['top1_low']:.1%} to {scores['top1_high']:.1%})"
        found["calibration error"] = (
            f"{scores['ece']:.3f} ({scores['ece_low']:.3f} to {scores['ece_high']:.3f})"
        )
    if scores is not None:
        found["pictures scored"] = f"{scores['count']:,} of {info['num_test']:,}"
    left_out = {line["key"] for line in log if line["kind"] == "unreadable"}
    if left_out:
        found["unreadable in training"] = f"{len(left_out):,} of {info['num_train']:,}"
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    if evaluations:
        found["time"] = f"{evaluations[-1]['seconds'] / 60:.1f} min"
        speeds = [line["images_per_second"] for line in evaluations]
        found["pictures per second"] = f"{np.median(speeds):.0f}"
    return found


def _epochs(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One entry per evaluation: how training went since the one before, and what was scored."""
    entries: list[dict[str, float]] = []
    lr = 0.0
    for line in log:
        if line["kind"] == "update":
            lr = line["lr"]
        if line["kind"] != "evaluation":
            continue
        tops = {f"top1_{name}": s["top1"] for name, s in line["summaries"].items() if "top1" in s}
        names = ("epoch", "step", "loss", "images_per_second", "data_wait")
        entries.append({name: line[name] for name in names} | {"lr": lr} | tops)
    return entries


def _mistakes(
    scores: Mapping[str, Any] | None, splits: Splits | None, experiment: Experiment
) -> list[Mistake]:
    """The worst errors with their pictures as the network saw them."""
    if scores is None or splits is None:
        return []
    mistakes: list[Mistake] = []
    for item in scores.get("worst", []):
        picture = _test_picture(splits.test, item["index"], experiment)
        if picture is not None and splits.test.key(item["index"]) == item["key"]:
            mistakes.append(
                Mistake(
                    key=item["key"],
                    truth=item["truth"],
                    predicted=item["predicted"],
                    confidence=item["confidence"],
                    picture=picture,
                )
            )
    return mistakes


def _test_picture(source: Source, index: int, experiment: Experiment) -> Pixels | None:
    if index >= len(source):
        return None
    try:
        sample = source.read(index, channels=experiment.data.channels)
    except Unreadable:
        return None
    return _as_picture(experiment.data.test_input(sample)[0])


def _augmented(splits: Splits | None, experiment: Experiment, *, seed: int) -> list[Pixels]:
    """Training samples as the first epoch shows them."""
    if splits is None:
        return []
    pictures: list[Pixels] = []
    source = splits.train
    for i in range(min(_NUM_AUGMENTED, len(source))):
        index = len(source) * i // _NUM_AUGMENTED
        try:
            sample = source.read(index, channels=experiment.data.channels)
        except Unreadable:
            continue
        inputs, _ = experiment.data.train_input(sample, seed=seed, epoch=0, index=index)
        pictures.append(_as_picture(inputs))
    return pictures


def _as_picture(inputs: Tensor) -> Pixels:
    """[C, H, W] on the 0-255 scale, or the first frame of [C, T, H, W], as uint8 [H, W, C]."""
    pixels = inputs if inputs.dim() == 3 else inputs[:, 0]
    return np.clip(pixels.permute(1, 2, 0).numpy(), 0, 255).astype(np.uint8)


def _edits(info: Mapping[str, Any]) -> list[Edit]:
    """The difference to the zoo, with what it was before and why where `--fit` made it."""
    changes = {change["path"]: change for change in info["changes"]}
    return [
        Edit(
            path=path,
            before=config.as_typed(before),
            after=config.as_typed(after),
            reason=changes.get(path, {}).get("reason", ""),
        )
        for path, (before, after) in info["edits"].items()
    ]
