"""Using what was trained, by us or by others: evaluate, evaluate_neighbors, load, report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from resnet_rs import config, storage, zoo
from resnet_rs.bridges import hub_folder
from resnet_rs.data import dataset, imagenet
from resnet_rs.data.dataset import DataSet
from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import Split
from resnet_rs.data.source import Source, match_classes
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.paper import TIMM
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_imagenet import keep_classes, real_line, real_scores
from resnet_rs.tasks.classification_multi_label import task_for
from resnet_rs.tasks.classification_neighbors import NeighborClassifier
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.tasks.task import Task
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import evaluate as score_models
from resnet_rs.training.evaluate import scores as final_scores
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.predictions import predict_all
from resnet_rs.training.provenance import split_digest
from resnet_rs.training.ranks import ALONE
from resnet_rs.verbs.models import opened
from resnet_rs.verbs.runs import open_splits, recorded_split, stored_run

_WEIGHTS = {"ema": "EMA weights", "model": "raw weights"}
PROTOCOLS = ("own", "timm")
"""Of evaluation: as the weights were trained, or as timm evaluates the released ones."""
_READ_BY_EVALUATION = ("data.size", "data.crop_ratio", "data.crop_first", "data.resampling")


def evaluate(
    trained: str | Path,
    *,
    data: str,
    machine: Machine | None = None,
    edits: Mapping[str, Any] | None = None,
    protocol: str = "own",
    labels: str | None = None,
) -> dict[str, Any]:
    """Scores of a checkpoint, or of a run's newest, on the test split of `data`; classes are matched by name.

    A name of the zoo means the published weights, which are fetched once. A folder without splits is scored whole,
    unless it is the one that was split for training, even if it has moved: then its recorded test split is scored.
    Images are prepared as in training, or as `protocol` and `edits` of `data.size`, `data.crop_ratio`,
    `data.crop_first` and `data.resampling` say. `labels` are those of a test set made after ImageNet, one of
    `imagenet.LABELS`. Scores with `is_split_lost` may be of images that were trained on.
    """
    machine = machine or Machine()
    chosen = dataset.find(data, max_pixels=machine.max_pixels)
    source = chosen.open_test()  # before a network is fetched
    saved = opened(trained)
    experiment = _as_evaluated(saved.experiment, protocol, edits or {})
    model, classes = saved.load_model(), saved.classes
    split, is_split_lost = _split_of(chosen, source, saved)
    if split is not None:
        source = chosen.open_test(split=split)
    if labels is not None:
        known = _known_labels(labels, saved)
        source, classes = imagenet.labeled(source, known), imagenet.classes_of(known)
        keep_classes(model, [saved.classes.index(name) for name in classes])
    source = match_classes(source, classes)
    result = score_models({saved.weights: machine.device.place(model)}, source, experiment, machine=machine)
    found = final_scores(result, source, experiment.task)
    if is_split_lost:
        found["is_split_lost"] = True
    if labels == "imagenet-real":
        found |= real_scores(next(iter(result.meters.values())), source)
    return found


def evaluate_neighbors(
    trained: str | Path, *, data: str, num_neighbors: int, machine: Machine | None = None
) -> dict[str, Any]:
    """Scores of k-nearest-neighbor classification on the test part of `data`, whose training part votes.

    Nothing is trained. Classes are those of `data`, so the weights may be of other ones. `num_neighbors` training
    images vote for the class of each test image. Without parts of its own, `data` is split as a run splits it. The
    features of all training images are in memory.
    """
    if num_neighbors < 1:
        raise ValueError(f"the number of neighbors must be 1 or more, got {num_neighbors}.")
    machine = machine or Machine()
    chosen = dataset.find(data, max_pixels=machine.max_pixels)
    splits = chosen.open()  # before a network is fetched
    task = task_for(Classification(num_classes=len(splits.train.classes)), splits.train)
    if type(task) is not Classification:
        raise ValueError(
            f"{data} has several labels per image, and neighbors vote for one class of each. Use `train`."
        )
    saved = opened(trained)
    model = saved.load_model()
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{trained} is a {type(model).__name__}; expected a classifier, whose features are compared."
        )
    split, is_split_lost = _split_of(chosen, chosen.open_test(), saved)
    if split is not None:
        splits = chosen.open(split=split)
    experiment = replace(saved.experiment, task=task)
    model.reset_classifier(0)
    found = predict_all(machine.device.place(model), splits.train, experiment, machine=machine)
    if found.unreadable:
        warnings.warn(
            f"{len(found.unreadable):,} of {len(splits.train):,} training images cannot be read and do not vote; the "
            f"first: {found.unreadable[0]}",
            stacklevel=2,
        )
    classifier = NeighborClassifier(
        found.predictions,
        cast(Tensor, found.targets),
        num_classes=task.num_classes,
        num_neighbors=num_neighbors,
    )
    model.head.classifier = machine.device.place(classifier)
    result = score_models({saved.weights: model}, splits.test, experiment, machine=machine)
    scores = final_scores(result, splits.test, task) | {"num_neighbors": classifier.num_neighbors}
    return scores | ({"is_split_lost": True} if is_split_lost else {})


def _as_evaluated(experiment: Experiment, protocol: str, edits: Mapping[str, Any]) -> Experiment:
    """The experiment with the preprocessing that was asked for."""
    unexpected = [path for path in edits if path not in _READ_BY_EVALUATION]
    if unexpected:
        raise ValueError(
            f"evaluation reads {', '.join(_READ_BY_EVALUATION)} alone, and cannot change {unexpected[0]}."
        )
    if protocol not in PROTOCOLS:
        raise ValueError(f"a protocol is one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    if protocol == "timm":
        theirs = TIMM.get(zoo.nearest(experiment))
        if theirs is None:
            raise ValueError(
                f"timm evaluates none of these weights, but {', '.join(TIMM)}. Give data.size and data.crop_ratio."
            )
        sizes = {"data.size": theirs.size, "data.crop_ratio": theirs.crop_ratio}
        edits = {**sizes, "data.crop_first": False, "data.resampling": "bicubic", **edits}
    return config.edit(experiment, edits)


def _known_labels(labels: str, saved: checkpoint.Checkpoint) -> imagenet.Labels:
    if labels not in imagenet.LABELS:
        raise ValueError(f"labels are one of {', '.join(imagenet.LABELS)}, got {labels!r}.")
    if saved.classes != imagenet.classes():
        raise ValueError(
            f"{labels} is for models of ImageNet's 1,000 classes in their order; {saved.path} has "
            f"{len(saved.classes):,} classes, as {saved.classes[0]!r}. Leave --labels out."
        )
    return labels


def _split_of(data: DataSet, source: Source, saved: checkpoint.Checkpoint) -> tuple[Split | None, bool]:
    """How a run split `data`, whose images for scoring are `source`, and whether that is lost.

    None if `saved` was trained on other data, or on data with a test part. Where the record is lost, the test images
    may be among the training images of `saved`, which gives a warning.
    """
    if saved.is_split_lost:
        with suppress(ValueError):  # a folder that cannot be split is another one
            split = data.automatic_split(data.open())
            if split is not None and split_digest(split) == saved.split_digest:
                return split, False
    is_lost = saved.is_split_lost or hub_folder.SPLIT_LOST in saved.origin.values()
    if is_lost and not data.has_test_part:
        warnings.warn(
            "these weights have left their run, and which images they were trained on is not known here: if they are "
            f"among those of {data.title}, the scores are too high. Evaluate the run itself.",
            stacklevel=3,
        )
    if saved.split is None:
        return None, is_lost and not data.has_test_part
    # A few names such as `cat/1.jpg` are in every folder; half of them are only in the folder that was split.
    recorded = {*saved.split["train"], *saved.split["test"]}
    is_same = 2 * sum(source.key(i) in recorded for i in range(len(source))) >= len(recorded)
    return saved.split if is_same else None, is_lost and not data.has_test_part


def load(path: str | Path, *, device: str | None = None, max_pixels: int = MAX_PIXELS) -> Predictor:
    """The predictor of a checkpoint folder, of a run's newest checkpoint, or of the published weights of a name."""
    return Predictor(opened(path), device=Device.choose(device), max_pixels=max_pixels)


def describe_scores(scores: Mapping[str, Any]) -> Iterator[str]:
    """Scores as lines of text."""
    task: Task = config.from_plain(scores["task"], kinds=(Task,))
    for number in task.numbers(scores):
        if number.value is not None:
            interval = f"  (95 %: {number.interval})" if number.interval else ""
            yield f"{number.name.label}: {number.name.text(number.value)}{interval}"
    if "real" in scores:
        yield real_line(scores)
    at = f" of update {scores['step']:,}" if "step" in scores else ""
    yield f"scored {scores['count']:,} images with the {_WEIGHTS[scores['weights']]}{at}"
    if "num_neighbors" in scores:
        yield f"classified by the {scores['num_neighbors']:,} nearest training images, not by the trained classifier"
    for item in scores["unreadable"]:
        yield f"not scored: {item['key']!r}: {item['reason']}"
    yield from task.lines(scores)


def report(run_folder: str | Path) -> Path:
    """Write the page of a run anew, finished or not, and return its path."""
    folder = Path(run_folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run; expected a folder that `resnet-rs train --out` made."
        )
    info = storage.read_json(folder / "run.json", needs=("data",))
    try:
        chosen = dataset.find(info["data"], max_pixels=int(info.get("max_pixels", MAX_PIXELS)))
        experiment = config.from_plain(storage.read_json(folder / "experiment.json"), kinds=(Experiment,))
        split = recorded_split(chosen, stored_run(folder, ALONE))
        splits = open_splits(chosen, experiment, split=split)
    except (FileNotFoundError, TypeError, ValueError):
        splits = None  # the data has moved away; the page goes without its images
    return write_page(folder, splits)
