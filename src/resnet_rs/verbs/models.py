"""Networks of experiments and of trained weights: create_model, save."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from resnet_rs import config, zoo
from resnet_rs.bridges import hub
from resnet_rs.bridges.download import NotFetched
from resnet_rs.bridges.hub_folder import as_begun, is_hub_folder
from resnet_rs.bridges.timm_names import describe_to_timm
from resnet_rs.models.backbone import ONLY_IN_TRAINING, Model
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.text import closest
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.provenance import Provenance
from resnet_rs.weights import pull
from resnet_rs.weights.convert import convert
from resnet_rs.weights.reading import SourceCheckpoint
from resnet_rs.weights.share import from_pretrained

_MAX_NAMES = 10_000
"""Most names of a folder among which the closest to a mistyped one is searched."""


def name_of(source: object) -> str | None:
    """`source` if it is a name of the zoo; None for a path or an experiment.

    A string that is both a name and a path is refused, because the two have different weights.
    """
    if not isinstance(source, str) or source not in zoo.EXPERIMENTS:
        return None
    if Path(source).exists():
        raise ValueError(
            f"{source!r} is a name of the zoo and a path in this folder. Give './{source}' for the path. For the name, "
            "rename the path or work in another folder."
        )
    return source


def existing(path: str | Path, *, names: Iterable[str] = (), also: str = "a study") -> Path:
    """The path of a run, a checkpoint, a Hub folder or `also`.

    For one that does not exist the error gives the closest of `names`, which may stand for a path, or the closest path.
    """
    path = Path(path)
    if path.exists():
        return path
    near = closest(str(path), names, at_most=1, likeness=0.6) or _closest_path(path)
    raise FileNotFoundError(
        f"{path} is no folder; expected a run folder of `resnet-rs train`, a checkpoint, a Hub folder or {also}. "
        f"{f'Closest: {near}.' if near else 'Check the path.'}"
    )


def opened(trained: str | Path) -> checkpoint.Checkpoint:
    """The checkpoint of a run, a checkpoint folder, a Hub folder, published weights by name, or `OWNER/NAME`.

    A Hub folder is converted to a checkpoint that lasts until the program ends.
    """
    if (name := name_of(trained)) is not None:
        return checkpoint.read(pull.pretrained(name))
    # A mistyped path looks like `OWNER/NAME`, so a path that is close is named first.
    if isinstance(trained, str) and hub.is_repo(trained) and _closest_path(Path(trained)) is None:
        try:
            folder = hub.fetch_folder(trained)
        except (NotFetched, ValueError) as error:  # the latter without huggingface_hub
            raise type(error)(
                f"{trained} is not a local path, and reading it from the Hub failed: {error}"
            ) from None
    else:
        folder = existing(trained, names=pull.NAMES, also="the name of published weights")
    if not is_hub_folder(folder):
        return checkpoint.read(folder)
    scratch = TemporaryDirectory(prefix="resnet-rs-hub-", ignore_cleanup_errors=True)
    atexit.register(scratch.cleanup)
    copy = Path(scratch.name, "checkpoint")
    convert(SourceCheckpoint(path=folder, kind="hub"), copy)
    return checkpoint.read(copy)


def _closest_path(path: Path) -> Path | None:
    """`path`, or the existing path whose name is closest to it; None if no name is close."""
    if path.exists():
        return path
    parent = _closest_path(path.parent)
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(parent)[:_MAX_NAMES] if parent is not None else []
    near = closest(path.name, names, at_most=1, likeness=0.6)
    return parent / near if parent is not None and near else None


def create_model(
    source: str | Path | Experiment,
    num_classes: int | None = None,
    in_chans: int | None = None,
    *,
    edits: Mapping[str, Any] | None = None,
    pretrained: bool | str | Path = False,
    features_only: bool = False,
) -> nn.Module:
    """A network in training mode: of a name of the zoo, of an experiment, or trained, of a path.

    It maps normalized images [B, C, H, W] to its prediction, or with `features_only` to their `Pyramid`. A classifier
    gives logits [B, K] and has timm's methods (`Classifier`).

    - A name or an experiment gives fresh weights from torch's generator. A name has 3 channels by default.
    - The path of a run, a checkpoint or a Hub folder gives its trained network with its own arch.
    - With a name, `pretrained=True` gives the published weights (extra `convert`).
    - With a name or an experiment, `pretrained` can be the path of weights of the same shapes. Then arch and data are
      those of the weights, except for the drop path rate and what else acts only in training. Task and recipe stay.

    `edits` are applied last. A classifier for another number of classes is fresh, and `num_classes=0` leaves it out.
    Batch norm has momentum 0.1, because another training loop may not average the statistics.
    """
    asked, trained = _asked(source, pretrained)
    known = asked if trained is None else _experiment_of(trained)
    if in_chans is None:
        in_chans = 3 if isinstance(source, str) and trained is None else known.data.channels
    owner = asked if isinstance(source, Experiment) else known
    classes = getattr(owner.task, "num_classes", None) if num_classes is None else num_classes
    chosen = _edited(_adapted(asked, classes, in_chans), edits or {})
    kept = {} if trained is None else _fitting(chosen, trained)
    if asked is not known:
        chosen = _edited(_with_arch_and_data(chosen, known), edits or {})
    model = chosen.build_model(seed=int(torch.randint(2**31, ())))
    if trained is not None:
        model.load_state_dict(kept, strict=False)
        model.origin = trained.origin
    if features_only:
        return model.backbone
    if isinstance(model, Classifier):
        describe_to_timm(model, chosen)
    if num_classes is not None and num_classes < 2:
        if not isinstance(model, Classifier):
            raise ValueError(
                f"num_classes={num_classes} is for classifiers, and this experiment builds a {type(model).__name__}. "
                "Give features_only=True for the network without its head."
            )
        model.reset_classifier(num_classes)
    return model


def _asked(source: str | Path | Experiment, pretrained: bool | str | Path) -> tuple[Experiment, Model | None]:
    """The experiment that was asked for, and the trained model whose weights it gets; None for fresh weights."""
    name = name_of(source)
    if name is None and not isinstance(source, Experiment):
        if pretrained:
            raise ValueError(f"{source} holds trained weights already. Leave pretrained={pretrained!r} out.")
        trained = _load(existing(source, names=zoo.EXPERIMENTS, also="a name of `resnet-rs list`"))
        return _experiment_of(trained), trained
    asked = source if isinstance(source, Experiment) else zoo.experiment(str(name))
    if pretrained is not True:
        return asked, _load(existing(pretrained)) if pretrained else None
    if name is None:
        raise ValueError(
            "weights are published by name, and pretrained=True was given with an Experiment. Give the name and "
            "`edits` instead, or a path as `pretrained`."
        )
    return asked, _load(pull.pretrained(name))


def _load(path: Path) -> Model:
    """The trained model at `path`."""
    if is_hub_folder(path):
        return from_pretrained(path)
    saved = checkpoint.read(path)
    model = saved.load_model()
    model.origin = as_begun(saved)
    return model


def _experiment_of(model: nn.Module) -> Experiment:
    known = getattr(model, "experiment", None)
    if not isinstance(known, Experiment):
        raise ValueError(
            f"expected a network of rs.create_model or rs.from_pretrained, got a {type(model).__name__} without an "
            "experiment. A network of timm.create_model is stored by timm.models.save_for_hf."
        )
    return known


def _adapted(asked: Experiment, num_classes: int | None, in_chans: int) -> Experiment:
    """`asked` for `num_classes` and `in_chans`. Fewer than two classes do not change its task."""
    if in_chans < 1:
        raise ValueError(
            f"in_chans must be 1 or more, got {in_chans}. Color images have 3, grayscale images 1."
        )
    if num_classes is not None and num_classes < 0:
        raise ValueError(f"num_classes must be 0 or more, got {num_classes}. 0 leaves the classifier out.")
    changes: dict[str, Any] = {}
    if num_classes is not None and num_classes > 1:
        changes["task.num_classes"] = num_classes
    if in_chans != asked.data.channels:
        changes |= {"data.mean": (0.5,) * in_chans, "data.std": (0.25,) * in_chans}
    return config.edit(asked, changes)


def _edited(chosen: Experiment, edits: Mapping[str, Any]) -> Experiment:
    """`chosen` with `edits`, for training loops that may not average the statistics of batch norm."""
    chosen = config.edit(chosen, edits)
    return config.edit(chosen, {"arch.norm_momentum": 0.1}) if chosen.arch.needs_ema else chosen


def save(model: nn.Module, out: str | Path, *, classes: Sequence[str]) -> Path:
    """Write a network of `create_model` or `from_pretrained` to the new checkpoint folder `out`.

    `classes` are the class names in the order of the logits. `evaluate`, `predict`, `create_model` and
    `save_pretrained` take the folder. Weights become float32.
    """
    names: tuple[Any, ...] = tuple(classes)
    is_list = not isinstance(classes, str) and all(isinstance(name, str) for name in names)
    if not is_list or len(set(names)) != len(names):
        raise ValueError(f"classes must be a list of different names, got {classes!r:.100}.")
    known = _experiment_of(model).with_classes(names)
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    expected = known.expected_tensors()
    unfit = different_shapes(expected, tensors)
    if unfit:
        raise ValueError(
            f"{len(names)} class names do not fit the network: {unfit[0]} is {_shape(tensors, unfit[0])}, "
            f"not {_shape(expected, unfit[0])}."
        )
    tensors = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    origin = {f"before: {name}": text for name, text in getattr(model, "origin", {}).items()}
    origin["source"] = "a network in a program, saved by rs.save"
    provenance = Provenance(experiment=known, classes=names, seed=0, origin=origin)
    checkpoint.write(Path(out), tensors, provenance)
    return Path(out)


def _fitting(chosen: Experiment, trained: Model) -> dict[str, Tensor]:
    """The tensors of `trained` for the network of `chosen`. Only tensors of the head may have other shapes."""
    mine, theirs = chosen.expected_tensors(), trained.state_dict()
    different = different_shapes(mine, theirs)
    unfit = [name for name in different if not name.startswith("head.")]
    if unfit:
        raise ValueError(
            f"the trained weights do not fit this network: {unfit[0]} has shape {_shape(theirs, unfit[0])} in the "
            f"weights and {_shape(mine, unfit[0])} in the network. Give the name, `edits` and `in_chans` of their "
            "training, or only their path."
        )
    return {name: tensor for name, tensor in theirs.items() if name not in different}


def _with_arch_and_data(chosen: Experiment, known: Experiment) -> Experiment:
    """`chosen` with the arch and data of `known`, except for fields of the arch that act only in training."""
    names = [name for name in ONLY_IN_TRAINING if hasattr(chosen.arch, name) and hasattr(known.arch, name)]
    arch = config.edit(known.arch, {name: getattr(chosen.arch, name) for name in names})
    return replace(chosen, arch=arch, data=known.data)


def different_shapes(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names whose shapes differ, or which only one of the two has."""
    return sorted(name for name in mine.keys() | theirs.keys() if _shape(mine, name) != _shape(theirs, name))


def _shape(state_dict: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(state_dict[name].shape) if name in state_dict else None
