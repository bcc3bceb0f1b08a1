"""Weights of other libraries, converted to our checkpoints.

Every variable of the source is used once and every tensor of the network set once; otherwise the file is refused. The
checkpoint records the origin of its weights: file, SHA-256, which variables were used, what was left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_rs import config
from resnet_rs.bridges.hub_folder import WEIGHTS
from resnet_rs.bridges.network import map_state_dict
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.data import imagenet
from resnet_rs.storage import file_sha256
from resnet_rs.training import checkpoint
from resnet_rs.training.provenance import Provenance
from resnet_rs.weights.reading import ReadPlan, SourceCheckpoint, plan_read

_HEAD = "head."
_NUM_IMAGENET = 1000


class Converted(NamedTuple):
    """Weights of another library under our names, and their provenance."""

    provenance: Provenance
    tensors: dict[str, Tensor]
    num_variables: int
    """Variables of the source that were used."""


def convert(given: SourceCheckpoint, out: Path) -> Converted:
    """Write the new checkpoint folder `out` with the weights of a source checkpoint.

    Raises `ValueError` if they do not fit the experiment, with the names that are unknown or missing.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    converted = load(given)
    checkpoint.write(out, converted.tensors, converted.provenance)
    return converted


def load(given: SourceCheckpoint) -> Converted:
    """The weights of a source checkpoint under our names. Raises `ValueError` as `convert` does."""
    plan = plan_read(given)
    tensors, head = _mapped(plan, given)
    experiment, count = plan.experiment, len(tensors.get("head.classifier.bias", ()))
    if given.kind == "tf2" and count == _NUM_IMAGENET + 1 and not given.background:
        head, count = "as in the source, without its class 0 of 1,001, the background", _NUM_IMAGENET
        experiment = config.edit(experiment, {"task.num_classes": count})
        tensors |= {name: tensor[1:].clone() for name, tensor in tensors.items() if name.startswith(_HEAD)}
    _refuse_bad_values(tensors, given.path)
    classes, names_origin = _classes(given, plan, count)
    source, digest = _digest(given, plan)
    license = given.license or (None if plan.hub is None else plan.hub.license)
    before = {} if plan.hub is None else plan.hub.origin
    origin = {
        **{f"before: {n}": text for n, text in before.items() if (n, text) != ("license", license)},
        "source": source,
        "sha256": digest,
        **({"url": given.url} if given.url else {}),
        "format": given.kind,
        "variables": plan.variables,
        "head": head,
        "classes": names_origin,
        **({} if license is None else {"license": license}),
    }
    provenance = Provenance(experiment=experiment, classes=classes, seed=0, origin=origin)
    return Converted(provenance, tensors, len(plan.mappings))


def _mapped(plan: ReadPlan, given: SourceCheckpoint) -> tuple[dict[str, Tensor], str]:
    """The state dict of the network, and the origin of its head; a head that the source lacks is initialized."""
    has_head = any(mapping.target.startswith(_HEAD) for mapping in plan.mappings)
    expected = {
        name: tensor
        for name, tensor in plan.experiment.expected_tensors().items()
        if has_head or not name.startswith(_HEAD)
    }
    tensors = map_state_dict(plan.file, plan.mappings, expected, ignored=plan.ignored, origin=given.path.name)
    if has_head:
        return tensors, "as in the source"
    return {**plan.experiment.build_model(seed=0).state_dict(), **tensors}, "fresh: the source has none"


def _classes(given: SourceCheckpoint, plan: ReadPlan, count: int) -> tuple[tuple[str, ...], str]:
    """Names of `count` classes, and the origin of these names."""
    names = given.classes if plan.hub is None else plan.hub.classes
    if names is not None:
        if not len(names) == len(set(names)) == count:
            raise ValueError(
                f"there are {len(names)} class names, {len(set(names))} different, for a network of {count} classes."
            )
        return names, "as given" if plan.hub is None else "as in the source"
    if count in (_NUM_IMAGENET, _NUM_IMAGENET + 1):
        background = ("background",) if count > _NUM_IMAGENET else ()
        names = (*background, *imagenet.classes())
        return names, "ImageNet's identifiers, assumed from the number of classes"
    return tuple(f"class-{i:04d}" for i in range(count)), "numbers: the source has no names"


def _refuse_bad_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not finite, and negative variances."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of {path} holds a value that is not finite.")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{name} of {path} holds a negative variance.")


def _digest(given: SourceCheckpoint, plan: ReadPlan) -> tuple[str, str]:
    """Name and SHA-256 of the source; for a source of several files, the hash of their names and hashes."""
    if isinstance(plan.file, TensorBundle) and len(paths := plan.file.sources) > 1:
        lines = [f"{file_sha256(path)}  {path.name}\n" for path in paths]
        return plan.file.prefix, hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return given.path.name, file_sha256(given.path / WEIGHTS if given.kind == "hub" else given.path)
