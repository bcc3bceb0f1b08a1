"""Others' weights as checkpoints of ours: every variable used once, every tensor filled once, or the file is refused.

The checkpoint says where its weights come from: file, SHA-256, which variables were taken, what was left out.
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
from resnet_rs.bridges.network import fill
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.data import imagenet
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment
from resnet_rs.weights.reading import NUM_IMAGENET, Foreign, Reading, expected_tensors, of_classes, read

_HEAD = "head."
_BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint that was made of somebody else's weights."""

    path: Path
    name: str
    """Of the experiment of the zoo that it is, or is nearest to."""
    experiment: Experiment
    num_variables: int
    """Of the source that were used."""
    origin: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Somebody else's weights under our names, and where they come from."""

    provenance: checkpoint.Provenance
    tensors: dict[str, Tensor]
    num_variables: int


def convert(foreign: Foreign, out: Path) -> Converted:
    """Make the new checkpoint folder `out` of `foreign` weights.

    Raises `ValueError` if they are anything else than the experiment's, with the names that are unknown or missing.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    filled = load(foreign)
    checkpoint.write(out, filled.tensors, filled.provenance)
    experiment = filled.provenance.experiment
    return Converted(
        path=out,
        name=zoo.nearest(experiment),
        experiment=experiment,
        num_variables=filled.num_variables,
        origin=filled.provenance.origin,
    )


def load(foreign: Foreign) -> Filled:
    """`foreign` weights under our names. Raises `ValueError` as `convert` does."""
    reading = read(foreign)
    tensors, head = _filled(reading, foreign)
    experiment = reading.experiment
    if foreign.kind == "tf2" and not foreign.background and _num_classes(experiment) == NUM_IMAGENET + 1:
        head = "as in the source, without its class 0 of 1,001, the background"
        experiment, tensors = _without_background(experiment, tensors)
    _refuse_no_numbers(tensors, foreign.path)
    classes, named = _classes(foreign, reading, experiment)
    source, digest = _digest(foreign, reading)
    license = foreign.license or reading.license
    origin = {
        **{
            f"before: {name}": said
            for name, said in reading.origin.items()
            if (name, said) != ("license", license)
        },
        "source": source,
        "sha256": digest,
        **({"url": foreign.url} if foreign.url else {}),
        "format": foreign.kind,
        "variables": reading.taken,
        "head": head,
        "classes": named,
        **({} if license is None else {"license": license}),
    }
    provenance = checkpoint.Provenance(experiment=experiment, classes=classes, seed=0, origin=origin)
    return Filled(provenance=provenance, tensors=tensors, num_variables=len(reading.rules))


def _filled(reading: Reading, foreign: Foreign) -> tuple[dict[str, Tensor], str]:
    """The tensors of the network, and what is to be said of its head; one that the source lacks is drawn."""
    expected = expected_tensors(reading.experiment)
    if reading.has_head:
        tensors = fill(
            reading.file, reading.rules, expected, ignored=reading.ignored, origin=foreign.path.name
        )
        return tensors, "as in the source"
    fresh = reading.experiment.build_model(seed=0).state_dict()
    wanted = {name: tensor for name, tensor in expected.items() if not name.startswith(_HEAD)}
    tensors = fill(reading.file, reading.rules, wanted, ignored=reading.ignored, origin=foreign.path.name)
    return {**fresh, **tensors}, "fresh: the source has none"


def _without_background(
    experiment: Experiment, tensors: dict[str, Tensor]
) -> tuple[Experiment, dict[str, Tensor]]:
    """The network without class 0, which the Model Garden keeps for the background and no picture is of."""
    head = {name: tensors[name][1:].clone() for name in tensors if name.startswith(_HEAD)}
    return of_classes(experiment, _num_classes(experiment) - 1), {**tensors, **head}


def _classes(foreign: Foreign, reading: Reading, experiment: Experiment) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and where they come from."""
    count = _num_classes(experiment)
    if reading.classes is not None:
        _refuse_names(reading.classes, count, of=f"{foreign.path} has")
        return reading.classes, "as in the source"
    if foreign.classes is not None:
        _refuse_names(foreign.classes, count, of="there are")
        return foreign.classes, "as given"
    if count in (NUM_IMAGENET, NUM_IMAGENET + 1):
        background = (_BACKGROUND,) if count > NUM_IMAGENET else ()
        return (*background, *imagenet.classes()), "ImageNet's identifiers, presumed from their number"
    return tuple(f"class-{i:04d}" for i in range(count)), "numbers: the source has no names"


def _refuse_no_numbers(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of which a network could make no finite number."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of {path} holds a value that is no finite number.")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(f"{name} of {path} holds a variance below 0.")


def _refuse_names(names: tuple[str, ...], count: int, *, of: str) -> None:
    if not len(names) == len(set(names)) == count:
        raise ValueError(
            f"{of} {len(names)} class names, {len(set(names))} of them different, for a network of {count} classes."
        )


def _num_classes(experiment: Experiment) -> int:
    num_classes: Any = getattr(experiment.task, "num_classes", 0)
    return num_classes


def _digest(foreign: Foreign, reading: Reading) -> tuple[str, str]:
    """What was read, and its SHA-256; of several files that belong together that of their names and hashes."""
    if foreign.kind == "hub":
        return foreign.path.name, _sha256(foreign.path / WEIGHTS)
    if not isinstance(reading.file, TensorBundle):
        return foreign.path.name, _sha256(foreign.path)
    paths = reading.file.sources
    if len(paths) == 1:
        return paths[0].name, _sha256(paths[0])
    lines = [f"{_sha256(path)}  {path.name}\n" for path in paths]
    return reading.file.prefix, hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
