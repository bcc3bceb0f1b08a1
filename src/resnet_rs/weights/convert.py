"""Others' weights as checkpoints of ours: the right experiment, every variable used once, every tensor filled once.

The source's names tell the layout, and a release's file name its resolution. What remains open is asked for by the
experiment's name. The checkpoint says where its weights come from: file, SHA-256, and which variables were taken.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from resnet_rs import config, zoo
from resnet_rs.bridges import keras, tensorflow, timm, torchvision
from resnet_rs.bridges.network import Rule, TensorFile, fill
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.bridges.torch_file import TorchFile
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.training import checkpoint
from resnet_rs.training.experiment import Experiment

Kind = Literal["tf1", "tf2", "keras", "timm", "torchvision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NUM_IMAGENET = 1000
_GARDEN = {"arch.activation": "silu", "arch.padding": "same", "arch.shortcut": "always-pooled"}
"""How the Model Garden's networks differ from the paper's."""
_BACKGROUND = "background"
_WITH_TORCHS_EPSILON = ("-b0", "-b1", "-b2", "-b3", "-b4")
Shapes = Mapping[str, tuple[int, ...]]


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
class Foreign:
    """Somebody else's weights."""

    path: Path
    kind: str
    """Whose: one of `KINDS`."""
    name: str | None = None
    """Of the experiment that they are for; needed where the file does not tell."""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """In which that experiment differs from the zoo's, as `{"arch.width": 0.5}`."""
    raw: bool = False
    """Take the variables themselves where there are averages of them, too."""
    background: bool = False
    """Keep the Model Garden's class 0, of which no picture is."""
    url: str = ""
    """Where the file was fetched from."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"weights come from one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.edits and self.name is None:
            raise ValueError("edits are of an experiment. Give --name as well.")
        if not self.path.exists() and not list(self.path.parent.glob(f"{glob.escape(self.path.name)}.*")):
            raise FileNotFoundError(f"{self.path} does not exist; expected weights of {self.kind}.")


def convert(foreign: Foreign, out: Path) -> Converted:
    """Make the new checkpoint folder `out` of `foreign` weights.

    Raises `ValueError` if they are anything else than the experiment's, with the names that are unknown or missing.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    file = _opened(foreign)
    reading = _READERS[foreign.kind](file, foreign)
    experiment = reading.experiment
    expected = _expected(experiment)
    fresh: dict[str, Tensor] = {}
    if not reading.has_head:
        fresh = {
            n: t for n, t in experiment.build_model(seed=0).state_dict().items() if n.startswith("head.")
        }
    wanted = {name: tensor for name, tensor in expected.items() if name not in fresh}
    tensors = fill(file, reading.rules, wanted, ignored=reading.ignored, origin=foreign.path.name) | fresh
    if foreign.kind == "tf2" and not foreign.background:
        experiment, tensors = _without_background(experiment, tensors)
    origin = {
        "source": foreign.path.name,
        "sha256": _digest(foreign.path),
        **({"url": foreign.url} if foreign.url else {}),
        "format": foreign.kind,
        "variables": reading.taken,
        "head": "as in the source" if reading.has_head else "fresh: the source has none",
    }
    provenance = checkpoint.Provenance(
        experiment=experiment, classes=classes_of(experiment), seed=0, origin=origin
    )
    checkpoint.write(out, tensors, provenance)
    return Converted(
        path=out,
        name=zoo.nearest(experiment),
        experiment=experiment,
        num_variables=len(reading.rules),
        origin=origin,
    )


class _Reading(NamedTuple):
    """How a file is to be read."""

    experiment: Experiment
    rules: list[Rule]
    taken: str
    ignored: Callable[[str], bool]
    """Which variables are none of the network's."""
    has_head: bool = True


def _opened(foreign: Foreign) -> TensorFile:
    if foreign.kind in ("tf1", "tf2"):
        return TensorBundle.open(foreign.path)
    return keras.H5File(foreign.path) if foreign.kind == "keras" else TorchFile(foreign.path)


def _tf1(file: TensorFile, foreign: Foreign) -> _Reading:
    base = named(foreign, tensorflow.count_blocks_of_tf1(file.shapes))
    has_averages = tensorflow.has_averages(file.shapes)
    arch = _resnet(base)
    return _Reading(
        experiment=_of_classes(base, file.shapes.get("dense/bias", (_NUM_IMAGENET,))[0]),
        rules=tensorflow.tf1_rules(arch, raw=foreign.raw or not has_averages),
        ignored=tensorflow.is_tf1_other,
        taken="averages" if has_averages and not foreign.raw else "raw",
    )


def _tf2(file: TensorFile, foreign: Foreign) -> _Reading:
    base = config.edit(named(foreign, tensorflow.count_blocks_of_garden(file.shapes)), _GARDEN)
    arch, has_averages = _resnet(base), tensorflow.has_averages(file.shapes)
    bias = tensorflow.GARDEN_BIAS
    return _Reading(
        experiment=_of_classes(base, file.shapes.get(bias, (_NUM_IMAGENET + 1,))[0]),
        rules=tensorflow.garden_rules(arch, file.shapes, raw=foreign.raw),
        ignored=tensorflow.is_garden_other,
        taken="averages" if has_averages and not foreign.raw else "raw",
    )


def _keras(file: TensorFile, foreign: Foreign) -> _Reading:
    base = named(foreign, keras.count_blocks(file.shapes))
    arch = _resnet(base)
    return _Reading(
        experiment=_of_classes(base, file.shapes.get("predictions/bias:0", (_NUM_IMAGENET,))[0]),
        rules=keras.keras_rules(arch, file.shapes),
        ignored=keras.is_other,
        taken="as stored: the averages of the TF1 release",
        has_head=keras.has_head(file.shapes),
    )


def _timm(file: TensorFile, foreign: Foreign) -> _Reading:
    base = named(foreign, sum(timm.count_blocks(file.shapes)))
    return _Reading(
        experiment=_of_classes(base, file.shapes.get("fc.bias", (_NUM_IMAGENET,))[0]),
        rules=timm.rules(file.shapes),
        ignored=torchvision.is_other,
        taken="as stored",
    )


def _torchvision(file: TensorFile, foreign: Foreign) -> _Reading:
    shapes = file.shapes
    if "features.0.0.weight" in shapes:
        base, efficientnet = _efficientnet(foreign.name, shapes)
        return _Reading(
            experiment=_of_classes(base, shapes.get("classifier.1.bias", (_NUM_IMAGENET,))[0]),
            rules=torchvision.efficientnet_rules(_expected(base), efficientnet.group_sizes),
            ignored=torchvision.is_other,
            taken="as stored",
        )
    blocks = {"arch.blocks": tuple(timm.count_blocks(shapes))}
    base = config.edit(zoo.experiment(foreign.name or "resnet-50-2015"), {**blocks, **foreign.edits})
    arch = _resnet(base)
    return _Reading(
        experiment=_of_classes(base, shapes.get("fc.bias", (_NUM_IMAGENET,))[0]),
        rules=torchvision.resnet_rules(arch),
        ignored=torchvision.is_other,
        taken="as stored",
    )


_READERS: Mapping[str, Callable[[TensorFile, Foreign], _Reading]] = {
    "tf1": _tf1,
    "tf2": _tf2,
    "keras": _keras,
    "timm": _timm,
    "torchvision": _torchvision,
}


def named(foreign: Foreign, num_blocks: int) -> Experiment:
    """The ResNet-RS that was named, or the one that the number of its blocks and the file's name tell."""
    if foreign.name is not None:
        return config.edit(zoo.experiment(foreign.name), foreign.edits)
    path = foreign.path
    fitting = {
        name: experiment
        for name, experiment in zoo.EXPERIMENTS.items()
        if name.startswith("resnet-rs-") and sum(_resnet(experiment).blocks) == num_blocks
    }
    told = [name for name in fitting if name in str(path) or f"_i{fitting[name].data.size}" in path.name]
    if len(told) == 1 or len(fitting) == 1:
        return zoo.experiment((told or list(fitting))[0])
    if not fitting:
        raise ValueError(
            f"{path} has {num_blocks} blocks, which is no ResNet-RS of the zoo. Give --name, or see that the file is "
            "of the kind that --from says."
        )
    raise ValueError(f"{path} may be {' or '.join(fitting)}, which differ in size alone. Give --name.")


def _efficientnet(name: str | None, shapes: Shapes) -> tuple[Experiment, EfficientNetArch]:
    """The EfficientNet of those shapes. torchvision's up to B4 have another epsilon in their norms."""
    for candidate in [name] if name else zoo.names("efficientnet-*"):
        experiment = zoo.experiment(candidate)
        if candidate.endswith(_WITH_TORCHS_EPSILON):
            experiment = config.edit(experiment, {"arch.norm_eps": 1e-5})
        if isinstance(experiment.arch, EfficientNetArch) and _has_shapes(experiment, experiment.arch, shapes):
            return experiment, experiment.arch
    raise ValueError(f"these are not the weights of {name or 'an EfficientNet from B0 to B7'}.")


def _has_shapes(experiment: Experiment, arch: EfficientNetArch, shapes: Shapes) -> bool:
    expected = _expected(experiment)
    rules = torchvision.efficientnet_rules(expected, arch.group_sizes)
    backbone = [rule for rule in rules if rule.ours.startswith("backbone.")]
    return all(shapes.get(rule.theirs) == tuple(expected[rule.ours].shape) for rule in backbone)


def _expected(experiment: Experiment) -> dict[str, Tensor]:
    """Names and shapes of the network's tensors, without memory."""
    with torch.device("meta"):
        return experiment.build_model().state_dict()


def _resnet(experiment: Experiment) -> ResNetArch:
    if not isinstance(experiment.arch, ResNetArch):
        raise ValueError(
            f"these weights are of a ResNet, and --name is of a {type(experiment.arch).__name__}."
        )
    return experiment.arch


def _of_classes(experiment: Experiment, num_classes: int) -> Experiment:
    return config.edit(experiment, {"task.num_classes": num_classes})


def _without_background(
    experiment: Experiment, tensors: dict[str, Tensor]
) -> tuple[Experiment, dict[str, Tensor]]:
    """The network without class 0, which the Model Garden keeps for the background and no picture is of."""
    head = {name: tensors[name][1:].clone() for name in tensors if name.startswith("head.classifier.")}
    num_classes: Any = getattr(experiment.task, "num_classes", 2)
    return _of_classes(experiment, num_classes - 1), {**tensors, **head}


def classes_of(experiment: Experiment) -> tuple[str, ...]:
    """ImageNet's WordNet identifiers where there are 1,000 classes; else numbers."""
    num_classes: int = getattr(experiment.task, "num_classes", 0)
    ids = (files("resnet_rs.data") / "imagenet" / "synsets.txt").read_text().split()
    if num_classes == _NUM_IMAGENET:
        return tuple(ids)
    if num_classes == _NUM_IMAGENET + 1:
        return (_BACKGROUND, *ids)
    return tuple(f"class-{i:04d}" for i in range(num_classes))


def _digest(source: Path) -> str:
    """SHA-256 of the file; of several that belong together, that of their names and hashes."""
    if source.is_file():
        return _sha256(source)
    beside = source.iterdir() if source.is_dir() else source.parent.glob(f"{glob.escape(source.name)}.*")
    lines = [f"{path.name} {_sha256(path)}\n" for path in sorted(beside) if path.is_file()]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
