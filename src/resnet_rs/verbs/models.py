"""Experiments and their networks: experiment, list_models, create_model, save, show, outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_rs import config, zoo
from resnet_rs.bridges.hub_folder import as_begun, is_hub_folder
from resnet_rs.bridges.timm_names import describe_to_timm
from resnet_rs.models.backbone import Model
from resnet_rs.paper import RELEASED
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.weights import pull
from resnet_rs.weights.share import from_pretrained

_ONLY_IN_TRAINING = ("drop_path", "norm_momentum", "zero_init")


def experiment(name: str, edits: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of the zoo called `name`, with `edits` such as `{"recipe.epochs": 100}`."""
    return config.edit(zoo.experiment(name), edits or {})


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


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match `pattern`, such as `resnet-rs-*`."""
    return zoo.names(pattern)


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
    name = name_of(source)
    path = _weights(source, name, pretrained)
    trained = None if path is None else _load(path)
    asked = _asked(source, name, trained)
    known = asked if trained is None else _experiment_of(trained)
    if in_chans is None:
        in_chans = 3 if name is not None and trained is None else known.data.channels
    owner = asked if isinstance(source, Experiment) else known
    classes = getattr(owner.task, "num_classes", None) if num_classes is None else num_classes
    chosen = _edited(_adapted(asked, classes, in_chans), edits or {})
    seed = int(torch.randint(2**31, ()))
    if trained is None:
        model = chosen.build_model(seed=seed)
    else:
        _refuse_other_shapes(chosen, trained)
        if asked is not known:
            chosen = _edited(_with_arch_and_data(chosen, known), edits or {})
        model = _with_weights(chosen, trained, seed=seed)
    if features_only:
        return model.backbone
    if isinstance(model, Classifier):
        describe_to_timm(model, chosen)
    if num_classes is not None and num_classes < 2:
        _reset_classifier(model, num_classes)
    return model


def _reset_classifier(model: Model, num_classes: int) -> None:
    if not isinstance(model, Classifier):
        raise ValueError(
            f"num_classes={num_classes} is for classifiers, and this experiment builds a {type(model).__name__}. "
            "Give features_only=True for the network without its head."
        )
    model.reset_classifier(num_classes)


def _weights(source: str | Path | Experiment, name: str | None, pretrained: bool | str | Path) -> Path | None:
    """Where the trained weights are; None for fresh ones."""
    if name is None and not isinstance(source, Experiment):
        if pretrained:
            raise ValueError(f"{source} holds trained weights already. Leave pretrained={pretrained!r} out.")
        if isinstance(source, str) and not Path(source).exists():
            raise ValueError(
                f"{source!r} is neither in the zoo nor a folder. Give a name of `resnet-rs list`, such as "
                f"{zoo.closest(source)}, or the path of a run, a checkpoint or a Hub folder."
            )
        return Path(source)
    if pretrained is True:
        if name is None:
            raise ValueError(
                "weights are published by name, and pretrained=True was given with an Experiment. Give the name and "
                "`edits` instead, or a path as `pretrained`."
            )
        return pull.pretrained(name)
    return Path(pretrained) if pretrained else None


def _load(path: Path) -> Model:
    """The trained model at `path`."""
    if is_hub_folder(path):
        return from_pretrained(path)
    saved = checkpoint.read(path)
    model = saved.load_model()
    model.origin = as_begun(saved)
    return model


def _asked(source: str | Path | Experiment, name: str | None, trained: Model | None) -> Experiment:
    if isinstance(source, Experiment):
        return source
    return zoo.experiment(str(source)) if name is not None or trained is None else _experiment_of(trained)


def _experiment_of(model: Model) -> Experiment:
    if not isinstance(model.experiment, Experiment):
        raise ValueError(
            f"expected a network of rs.create_model or rs.from_pretrained, got a {type(model).__name__} without an "
            "experiment. A network of timm.create_model is stored by timm.models.save_for_hf."
        )
    return model.experiment


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
    given: tuple[Any, ...] = tuple(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"classes must be a list of names, got {classes!r:.100}.")
    if not isinstance(model, Model):
        raise ValueError(
            f"expected a network of rs.create_model or rs.from_pretrained, got a {type(model).__name__}. A network of "
            "timm.create_model is stored by timm.models.save_for_hf."
        )
    names, known = tuple(classes), _experiment_of(model).with_classes(tuple(classes))
    tensors = _fitting(model, known, names)
    before = {f"before: {name}": said for name, said in model.origin.items()}
    origin = before | {"source": "a network in a program, saved by rs.save"}
    provenance = checkpoint.Provenance(experiment=known, classes=names, seed=0, origin=origin)
    checkpoint.write(Path(out), tensors, provenance)
    return Path(out)


def _fitting(model: nn.Module, known: Experiment, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of `model`, checked against the network of `known` for classes of these names."""
    with torch.device("meta"):
        expected = known.build_model().state_dict()
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    odd = _different(expected, tensors)
    if odd or len(set(names)) != len(names):
        raise ValueError(
            f"{len(names)} class names, {len(set(names))} of them different, do not fit the network"
            + (f": {odd[0]} is {_shape(tensors, odd[0])}, not {_shape(expected, odd[0])}." if odd else ".")
        )
    return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}


def _refuse_other_shapes(chosen: Experiment, trained: Model) -> None:
    with torch.device("meta"):
        mine = chosen.build_model().state_dict()
    theirs = trained.state_dict()
    unfit = [name for name in _different(mine, theirs) if not name.startswith("head.")]
    if unfit:
        raise ValueError(
            f"the trained weights do not fit this network: {unfit[0]} has shape {_shape(theirs, unfit[0])} in the "
            f"weights and {_shape(mine, unfit[0])} in the network. Give the name, `edits` and `in_chans` of their "
            "training, or only their path."
        )


def _with_arch_and_data(chosen: Experiment, known: Experiment) -> Experiment:
    """`chosen` with the arch and the data of `known`, which also have what shapes do not tell, such as padding.

    Fields of the arch that act only in training stay.
    """
    names = [name for name in _ONLY_IN_TRAINING if hasattr(chosen.arch, name) and hasattr(known.arch, name)]
    arch = config.edit(known.arch, {name: getattr(chosen.arch, name) for name in names})
    return replace(chosen, arch=arch, data=known.data)


def _with_weights(chosen: Experiment, trained: Model, *, seed: int) -> Model:
    """The network of `chosen` with the weights of `trained`, except for a head of other shapes."""
    model = chosen.build_model(seed=seed)
    mine, theirs = model.state_dict(), trained.state_dict()
    fresh = _different(mine, theirs)
    kept = {name: tensor for name, tensor in theirs.items() if name not in fresh}
    model.load_state_dict({**{name: mine[name] for name in fresh if name in mine}, **kept})
    model.origin = trained.origin
    return model


def _different(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names whose shapes differ, or which only one of the two has."""
    return sorted(name for name in mine.keys() | theirs.keys() if _shape(mine, name) != _shape(theirs, name))


def _shape(state_dict: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(state_dict[name].shape) if name in state_dict else None


def show(name: str, edits: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment as JSON: its fields, cost, schedule and published results."""
    chosen = experiment(name, edits)
    num_images = zoo.num_images(name)
    plan = chosen.recipe.plan(num_images)
    published = RELEASED.get(name)
    slots = config.to_plain(chosen)
    return {
        "name": name,
        "edits": {path: config.to_plain(v) for path, v in config.diff(zoo.experiment(name), chosen).items()},
        **asdict(chosen.count_cost()),
        "steps": plan.total_steps,
        "warmup_steps": round(plan.warmup_steps),
        "peak_lr": plan.peak_lr,
        "num_images": num_images,
        **{slot: slots[slot] for slot in ("arch", "data", "task", "recipe")},
        "published": None if published is None else asdict(published),
    }


def outline(name: str) -> dict[str, Any]:
    """Name, image size, parameters, multiply-adds and activations of an experiment."""
    chosen = zoo.experiment(name)
    return {"name": name, "size": chosen.data.size, **asdict(chosen.count_cost())}
