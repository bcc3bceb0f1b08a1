"""Weights of other libraries, converted to our checkpoints.

Every variable of the source is used once and every tensor of the network set once; otherwise the file is refused. The
checkpoint records the origin of its weights: file, SHA-256, which variables were used, what was left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_rs import zoo
from resnet_rs.bridges.hub_folder import WEIGHTS
from resnet_rs.bridges.network import map_state_dict
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.data import imagenet
from resnet_rs.storage import file_sha256
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.weights.reading import (
    NUM_IMAGENET,
    ReadPlan,
    SourceCheckpoint,
    expected_tensors,
    plan_read,
    with_num_classes,
)

_HEAD = "head."
_BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint that was converted from another library's weights."""

    path: Path
    name: str
    """The nearest experiment of the zoo."""
    experiment: Experiment
    num_variables: int
    """Variables of the source that were used."""
    origin: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class MappedStateDict:
    """Weights of another library under our names, and their provenance."""

    provenance: checkpoint.Provenance
    tensors: dict[str, Tensor]
    num_variables: int


def convert(given: SourceCheckpoint, out: Path) -> Converted:
    """Write the new checkpoint folder `out` with the weights of a source checkpoint.

    Raises `ValueError` if they do not fit the experiment, with the names that are unknown or missing.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    mapped = load(given)
    checkpoint.write(out, mapped.tensors, mapped.provenance)
    experiment = mapped.provenance.experiment
    return Converted(
        path=out,
        name=zoo.nearest(experiment),
        experiment=experiment,
        num_variables=mapped.num_variables,
        origin=mapped.provenance.origin,
    )


def load(given: SourceCheckpoint) -> MappedStateDict:
    """The weights of a source checkpoint under our names. Raises `ValueError` as `convert` does."""
    plan = plan_read(given)
    tensors, head = _mapped(plan, given)
    experiment = plan.experiment
    has_background = given.kind == "tf2" and _num_classes(experiment) == NUM_IMAGENET + 1
    if has_background and not given.background:
        head = "as in the source, without its class 0 of 1,001, the background"
        experiment, tensors = _without_background(experiment, tensors)
    _refuse_bad_values(tensors, given.path)
    classes, names_origin = _classes(given, plan, experiment)
    source, digest = _digest(given, plan)
    license = given.license or plan.license
    origin = {
        **{
            f"before: {name}": text
            for name, text in plan.origin.items()
            if (name, text) != ("license", license)
        },
        "source": source,
        "sha256": digest,
        **({"url": given.url} if given.url else {}),
        "format": given.kind,
        "variables": plan.variables,
        "head": head,
        "classes": names_origin,
        **({} if license is None else {"license": license}),
    }
    provenance = checkpoint.Provenance(experiment=experiment, classes=classes, seed=0, origin=origin)
    return MappedStateDict(provenance=provenance, tensors=tensors, num_variables=len(plan.mappings))


def _mapped(plan: ReadPlan, given: SourceCheckpoint) -> tuple[dict[str, Tensor], str]:
    """The state dict of the network, and the origin of its head; a head that the source lacks is initialized."""
    expected = expected_tensors(plan.experiment)
    if not plan.has_head:
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith(_HEAD)}
    tensors = map_state_dict(plan.file, plan.mappings, expected, ignored=plan.ignored, origin=given.path.name)
    if plan.has_head:
        return tensors, "as in the source"
    return {**plan.experiment.build_model(seed=0).state_dict(), **tensors}, "fresh: the source has none"


def _without_background(
    experiment: Experiment, tensors: dict[str, Tensor]
) -> tuple[Experiment, dict[str, Tensor]]:
    """The network without class 0, the Model Garden's background class, which no image has."""
    head = {name: tensors[name][1:].clone() for name in tensors if name.startswith(_HEAD)}
    return with_num_classes(experiment, _num_classes(experiment) - 1), {**tensors, **head}


def _classes(given: SourceCheckpoint, plan: ReadPlan, experiment: Experiment) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and the origin of these names."""
    count = _num_classes(experiment)
    if plan.classes is not None:
        _refuse_wrong_count(plan.classes, count, f"{given.path} has")
        return plan.classes, "as in the source"
    if given.classes is not None:
        _refuse_wrong_count(given.classes, count, "there are")
        return given.classes, "as given"
    if count in (NUM_IMAGENET, NUM_IMAGENET + 1):
        background = (_BACKGROUND,) if count > NUM_IMAGENET else ()
        return (
            *background,
            *imagenet.classes(),
        ), "ImageNet's identifiers, assumed from the number of classes"
    return tuple(f"class-{i:04d}" for i in range(count)), "numbers: the source has no names"


def _refuse_bad_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not finite, and negative variances."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of {path} holds a value that is not finite.")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{name} of {path} holds a negative variance.")


def _refuse_wrong_count(names: tuple[str, ...], count: int, subject: str) -> None:
    if not len(names) == len(set(names)) == count:
        raise ValueError(
            f"{subject} {len(names)} class names, {len(set(names))} different, for a network of {count} classes."
        )


def _num_classes(experiment: Experiment) -> int:
    num_classes: Any = getattr(experiment.task, "num_classes", 0)
    return num_classes


def _digest(given: SourceCheckpoint, plan: ReadPlan) -> tuple[str, str]:
    """Name and SHA-256 of the source; for a source of several files, the hash of their names and hashes."""
    if given.kind == "hub":
        return given.path.name, file_sha256(given.path / WEIGHTS)
    if not isinstance(plan.file, TensorBundle):
        return given.path.name, file_sha256(given.path)
    paths = plan.file.sources
    if len(paths) == 1:
        return paths[0].name, file_sha256(paths[0])
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in paths]
    return plan.file.prefix, hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
