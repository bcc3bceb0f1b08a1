"""Experiments as they are, and their networks: experiment, list_models, create_model, save, show, outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_rs import config, zoo
from resnet_rs.bridges.classifier import Classifier
from resnet_rs.bridges.hub_folder import as_begun
from resnet_rs.models.backbone import Model
from resnet_rs.paper import RELEASED
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.weights import pull


def experiment(name: str, edits: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of the zoo called `name`, with `edits` such as `{"recipe.epochs": 100}`."""
    return config.edit(zoo.experiment(name), edits or {})


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match `pattern`, such as `resnet-rs-*`."""
    return zoo.names(pattern)


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    pretrained: bool | str | Path = False,
    features_only: bool = False,
) -> nn.Module:
    """A network of the zoo, with fresh weights, drawn from torch's generator, or with `pretrained` ones.

    It turns normalized pictures [B, C, H, W] into logits [B, K]; with `features_only` into their `Pyramid`. Its batch
    norm has momentum 0.1, since a training loop of your own may keep no average of the statistics. `pretrained=True`
    fetches the published weights once (extra `convert`); a path of a run or checkpoint is read, and no network is
    touched. There are as many classes as in the weights of that path, else 1,000; a classifier of another number of
    classes is fresh, and with `num_classes=0` there is none. The network has timm's methods as well (`Classifier`).
    """
    saved = None
    if pretrained:
        saved = checkpoint.read(pull.pretrained(name) if pretrained is True else Path(pretrained))
    num_classes = _num_classes(num_classes, saved)
    edits: dict[str, Any] = {"task.num_classes": max(2, num_classes)}
    if in_channels != zoo.experiment(name).data.channels:
        edits |= {"data.mean": (0.5,) * in_channels, "data.std": (0.25,) * in_channels}
    if zoo.experiment(name).arch.needs_average:
        edits |= {"arch.norm_momentum": 0.1}
    chosen, seed = experiment(name, edits), int(torch.randint(2**31, ()))
    if saved is not None:
        chosen, model = _with_weights(chosen, saved, seed=seed)
    else:
        model = chosen.build_model(seed=seed)
    if features_only:
        return model.backbone
    classifier = Classifier.of(model, chosen)
    classifier.origin = {} if saved is None else as_begun(saved)
    if num_classes < 2:
        classifier.reset_classifier(num_classes)
    return classifier


def save(model: nn.Module, out: str | Path, *, classes: Sequence[str]) -> Path:
    """Make the new checkpoint folder `out` of a network of `create_model` or `from_pretrained`, as it is now.

    `classes` are their names, in the order of the logits. `evaluate`, `predict` and `save_pretrained` take the folder.
    Weights of another precision become float32.
    """
    given: tuple[Any, ...] = tuple(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"classes must be a list of names, got {classes!r:.100}.")
    if not isinstance(model, Classifier) or model.experiment is None:
        raise ValueError(
            f"expected a network of rs.create_model or rs.from_pretrained, got a {type(model).__name__}. One that timm "
            "has made is stored by timm.models.save_for_hf."
        )
    names, known = tuple(classes), model.experiment.suited_to(tuple(classes))
    tensors = _fitting(model, known, names)
    before = {f"before: {name}": said for name, said in model.origin.items()}
    origin = before | {"source": "a network in a program, saved by rs.save"}
    provenance = checkpoint.Provenance(experiment=known, classes=names, seed=0, origin=origin)
    checkpoint.write(Path(out), tensors, provenance)
    return Path(out)


def _fitting(model: nn.Module, known: Experiment, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of `model` as those of the network of `known`, for classes of these names."""
    with torch.device("meta"):
        expected = known.build_model().state_dict()
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    odd = sorted(n for n in expected.keys() | tensors.keys() if _shape(expected, n) != _shape(tensors, n))
    if odd or len(set(names)) != len(names):
        raise ValueError(
            f"{len(names)} class names, {len(set(names))} of them different, do not fit the network"
            + (f": {odd[0]} is {_shape(tensors, odd[0])}, not {_shape(expected, odd[0])}." if odd else ".")
        )
    return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}


def _num_classes(asked: int | None, saved: checkpoint.Checkpoint | None) -> int:
    if asked is not None and asked < 0:
        raise ValueError(f"num_classes must be 0 or more, got {asked}.")
    return asked if asked is not None else 1000 if saved is None else len(saved.classes)


def _with_weights(chosen: Experiment, saved: checkpoint.Checkpoint, *, seed: int) -> tuple[Experiment, Model]:
    """`chosen` and its network with the weights of a checkpoint; a classifier of other classes stays as drawn.

    What a shape does not tell (an activation, a padding, an epsilon) is the checkpoint's, and so are its pictures;
    what acts in training alone is that of `chosen`.
    """
    with torch.device("meta"):
        mine = chosen.build_model().state_dict()
    theirs = saved.load_model().state_dict()
    odd = sorted(name for name in mine.keys() | theirs.keys() if _shape(mine, name) != _shape(theirs, name))
    lost = [name for name in odd if not name.startswith("head.")]
    if lost or type(chosen.arch) is not type(saved.experiment.arch):
        difference = (
            f": {lost[0]} is {_shape(theirs, lost[0])} there and {_shape(mine, lost[0])} here" if lost else ""
        )
        raise ValueError(
            f"the weights of {saved.path} do not fit this network{difference}. Take the experiment and the number of "
            "channels that they are of."
        )
    changes = config.diff(saved.experiment.arch, chosen.arch)
    kept = {name: value for name, value in changes.items() if name in ("drop_path", "norm_momentum")}
    chosen = replace(chosen, arch=config.edit(saved.experiment.arch, kept), data=saved.experiment.data)
    model = chosen.build_model(seed=seed)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name in odd}
    model.load_state_dict({**{n: t for n, t in theirs.items() if n not in odd}, **fresh})
    return chosen, model


def _shape(state_dict: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(state_dict[name].shape) if name in state_dict else None


def show(name: str, edits: Mapping[str, Any]) -> dict[str, Any]:
    """All that is known of an experiment before it is trained, as JSON."""
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
    """A line of the list: name, size, parameters and multiply-adds."""
    chosen = zoo.experiment(name)
    return {"name": name, "size": chosen.data.size, **asdict(chosen.count_cost())}
