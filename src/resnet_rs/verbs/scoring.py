"""Using what was trained, by us or by others: evaluate, load, report, convert."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from resnet_rs import config, storage, zoo
from resnet_rs.bridges import hub_folder, torch_file
from resnet_rs.data import imagenet
from resnet_rs.data.opening import open_data, open_test
from resnet_rs.data.source import Source, match_classes
from resnet_rs.deploy.predictor import Predictor
from resnet_rs.models.backbone import Model
from resnet_rs.paper import TIMM
from resnet_rs.report.statistics import is_telling, wilson_interval
from resnet_rs.tasks.classification import ClassificationHead, ClassificationMeter
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.evaluate import Evaluation
from resnet_rs.training.evaluate import evaluate as score_models
from resnet_rs.training.evaluate import scores as final_scores
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.page import write_page
from resnet_rs.training.ranks import ALONE
from resnet_rs.verbs.runs import recorded_split, stored_run
from resnet_rs.weights import pull

PROTOCOLS = ("own", "timm")
"""Of evaluation: as the weights were trained, or as timm evaluates the released ones."""
_READ_BY_EVALUATION = ("data.size", "data.crop_ratio", "data.crop_first", "data.resampling")
_NUM_CLASSES_SHOWN = 50


def evaluate(
    trained: str | Path,
    *,
    data: str,
    machine: Machine | None = None,
    edits: Mapping[str, Any] | None = None,
    protocol: str = "own",
    labels: str | None = None,
) -> dict[str, Any]:
    """Scores of a checkpoint, or of a run's newest, on the test half of `data`; classes are matched by name.

    A name of the zoo means the published weights, which are fetched once. Of a folder without halves all pictures are
    scored, unless it is the one that was split for training, wherever it lies by now: then its recorded test half is
    scored, so that nothing learned from is. Pictures are prepared as in training, or as `protocol` and `edits` of
    `data.size`, `data.crop_ratio`, `data.crop_first` and `data.resampling` say. `labels` are those of a test set made
    after ImageNet, one of `imagenet.LABELS`. Scores with `is_split_lost` may be of pictures that were learned from.
    """
    machine, source = machine or Machine(), open_test(data)  # before a network is fetched
    saved = opened(trained)
    experiment = _as_evaluated(saved.experiment, protocol, edits or {})
    model, classes = saved.load_model(), saved.classes
    is_split_lost = hub_folder.SPLIT_LOST in saved.origin.values() and _has_no_halves(source)
    if is_split_lost:
        warnings.warn(
            "these weights have left their run, and which pictures they were trained on is not known here: if they are "
            f"among those of {data}, the scores are too high. Evaluate the run itself.",
            stacklevel=2,
        )
    if saved.split is not None and _is_of_split(source, saved.split):
        source = open_test(data, split=saved.split)
    if labels is not None:
        known = _known_labels(labels, saved)
        source, classes = imagenet.labeled(source, known), imagenet.classes_of(known)
        _answer_among(model, [saved.classes.index(name) for name in classes])
    source = match_classes(source, classes)
    result = score_models({saved.weights: machine.device.place(model)}, source, experiment, machine=machine)
    found = final_scores(result, source) | ({"is_split_lost": True} if is_split_lost else {})
    return found | _reassessed(result, source) if labels == "imagenet-real" else found


def opened(trained: str | Path) -> checkpoint.Checkpoint:
    """The checkpoint in a folder, or of the published weights of that name in the zoo."""
    if str(trained) in zoo.EXPERIMENTS and not Path(trained).exists():
        return checkpoint.read(pull.pretrained(str(trained)))
    if hub_folder.is_hub_folder(Path(trained)):
        raise ValueError(
            f"{trained} holds weights as the Hub has them. Make a checkpoint of them: "
            f"`resnet-rs convert {trained} --from hub --out FOLDER`."
        )
    return checkpoint.read(Path(trained))


def _as_evaluated(experiment: Experiment, protocol: str, edits: Mapping[str, Any]) -> Experiment:
    """The experiment with the preprocessing that was asked for."""
    odd = [path for path in edits if path not in _READ_BY_EVALUATION]
    if odd:
        raise ValueError(
            f"evaluation reads {', '.join(_READ_BY_EVALUATION)} alone, and cannot change {odd[0]}."
        )
    if protocol not in PROTOCOLS:
        raise ValueError(f"a protocol is one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    if protocol == "timm":
        theirs = TIMM.get(zoo.nearest(experiment))
        if theirs is None:
            raise ValueError(
                f"timm evaluates none of these weights, but {', '.join(TIMM)}. Give data.size and data.crop_ratio."
            )
        facts = {"size": theirs.size, "crop_ratio": theirs.crop_ratio, "crop_first": False}
        facts |= {"resampling": "antialiased"}
        experiment = config.edit(experiment, {f"data.{name}": value for name, value in facts.items()})
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


def _answer_among(model: Model, places: Sequence[int]) -> None:
    """Take from a classifier all answers but those at `places`."""
    head = model.head
    if not isinstance(head, ClassificationHead) or not isinstance(head.classifier, nn.Linear):
        raise ValueError("only a classifier has answers to choose from.")
    layer = head.classifier
    layer.weight = nn.Parameter(layer.weight.detach()[list(places)])
    layer.bias = nn.Parameter(layer.bias.detach()[list(places)])


def _reassessed(result: Evaluation, source: Source) -> dict[str, Any]:
    """The share of answers that are right by ReaL's labels, with its interval."""
    (meter,) = result.meters.values()
    if not isinstance(meter, ClassificationMeter):
        raise ValueError("only a classifier has answers to judge.")
    keys = [source.key(int(i)) for i in meter.rows["index"]]
    judged = imagenet.reassess(keys, meter.rows["predicted"])
    if not len(judged.hits):
        raise ValueError("none of these pictures has labels of ReaL.")
    interval = wilson_interval(int(judged.hits.sum()), len(judged.hits))
    return {
        "real": float(judged.hits.mean()),
        "real_low": interval.low,
        "real_high": interval.high,
        "real_count": len(judged.hits),
        "real_without": judged.num_without,
    }


def _is_of_split(source: Source, split: Mapping[str, Sequence[str]]) -> bool:
    """Whether `source` holds at least half of the files of a recorded split.

    A few names such as `cat/1.jpg` are in every folder; half of them are only in the same one.
    """
    recorded = {*split["train"], *split["test"]}
    found = sum(source.key(i) in recorded for i in range(len(source)))
    return 2 * found >= len(recorded)


def _has_no_halves(source: Source) -> bool:
    """Whether the pictures lie in class folders alone, so that none are set apart for scoring."""
    return source.key(0).partition("/")[0] in source.classes


def load(path: str | Path, *, device: str | None = None) -> Predictor:
    """The predictor of a checkpoint folder, of a run's newest checkpoint, or of the published weights of a name."""
    return Predictor(opened(path), device=Device.choose(device))


def convert(weights: str | Path, out: str | Path, *, key: str | None = None) -> torch_file.Conversion:
    """Write the weights in a file of `torch.save` to `out`, a new safetensors file, without running what is in it."""
    return torch_file.convert(Path(weights), Path(out), key=key)


def describe_scores(scores: Mapping[str, Any]) -> Iterator[str]:
    """Scores as lines of text."""
    num_classes = len(scores.get("classes", []))
    for name, value in scores.items():
        if f"{name}_low" in scores and value is not None and is_telling(name, num_classes):
            yield f"{name:<6} {value:.4f}  (95 %: {scores[f'{name}_low']:.4f} to {scores[f'{name}_high']:.4f})"
    if "real" in scores:
        yield f"real: of {scores['real_count']:,} pictures; {scores['real_without']:,} have no label of ReaL"
    yield f"scored {scores['count']:,} pictures with the weights of the {scores['weights']}"
    for item in scores["unreadable"]:
        yield f"not scored: {item['key']!r}: {item['reason']}"
    for item in scores.get("classes", [])[:_NUM_CLASSES_SHOWN]:
        if item["recall"] is not None:
            interval = f"{item['recall_low']:.1%} to {item['recall_high']:.1%}"
            yield f"  {item['name']:<24} recall {item['recall']:>6.1%} ({interval}) of {item['count']:,}"


def report(run_folder: str | Path) -> Path:
    """Write the page of a run anew, finished or not, and return its path."""
    folder = Path(run_folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run; expected a folder that `resnet-rs train --out` made."
        )
    data = storage.read_json(folder / "run.json", needs=("data",))["data"]
    try:
        splits = open_data(data, split=recorded_split(data, stored_run(folder, ALONE)))
    except (FileNotFoundError, ValueError):
        splits = None  # the data has moved away; the page goes without its pictures
    return write_page(folder, splits)
