"""What a file of somebody else's weights is: the experiment that it is for, and which of its variables go where.

The names tell the layout, and a release's file name the resolution. What remains open is asked for by the
experiment's name.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from resnet_rs import config, zoo
from resnet_rs.bridges import hub_folder, keras, tensorflow, timm_names, torchvision
from resnet_rs.bridges.network import Rule, TensorFile
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.bridges.torch_file import TorchFile
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.paper import RELEASED
from resnet_rs.training.experiment import Experiment

Kind = Literal["tf1", "tf2", "keras", "timm", "torchvision", "hub"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Shapes = Mapping[str, tuple[int, ...]]

NUM_IMAGENET = 1000
_GARDEN = {
    "arch.activation": "silu",
    "arch.padding": "same",
    "arch.shortcut": "always-pooled",
    "data.resampling": "garden",
}
"""How the Model Garden's networks differ from the paper's."""
_WITH_TORCHS_EPSILON = ("-b0", "-b1", "-b2", "-b3", "-b4")
_AS_STORED = "as stored"
_ANY = "resnet-rs-50-i160"
"""Of which a folder of timm's takes the recipe, which it does not tell."""


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
    """Of TensorFlow's checkpoints: take the variables themselves, also where there are averages of them."""
    background: bool = False
    """Of the Model Garden's: keep class 0 of 1,001, of which no picture is."""
    key: str | None = None
    """Of a PyTorch file: where in it the weights are, such as `model_ema`."""
    classes: tuple[str, ...] | None = None
    """Their names; by default ImageNet's identifiers where there are 1,000, else numbers."""
    url: str = ""
    """Where the file was fetched from."""
    license: str | None = None
    """Of the weights, where it is known."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"weights come from one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.edits and self.name is None:
            raise ValueError("edits are of an experiment. Give --name as well.")
        kinds = {
            "raw": ("tf1", "tf2"),
            "background": ("tf2",),
            "key": ("timm", "torchvision"),
            "classes": tuple(kind for kind in KINDS if kind != "hub"),
        }
        for option, its_kinds in kinds.items():
            if getattr(self, option) and self.kind not in its_kinds:
                raise ValueError(
                    f"--{option} is for weights of {' or '.join(its_kinds)}, these are {self.kind}."
                )
        if not self.path.exists() and not list(self.path.parent.glob(f"{glob.escape(self.path.name)}.*")):
            raise FileNotFoundError(f"{self.path} does not exist; expected weights of {self.kind}.")


class Reading(NamedTuple):
    """How a file is to be read."""

    file: TensorFile
    experiment: Experiment
    rules: list[Rule]
    taken: str
    """Which variables, in words."""
    ignored: Callable[[str], bool]
    """Which variables are none of the network's."""
    has_head: bool = True
    classes: tuple[str, ...] | None = None
    """Their names, where the source has any."""
    origin: Mapping[str, str] = {}
    """Where the source says that its weights come from."""
    license: str | None = None
    """Of the weights, where the source says it."""


def read(foreign: Foreign) -> Reading:
    """How the weights are to be read. Raises `ValueError` where the file does not tell what it is."""
    readers = {
        "tf1": _tf1,
        "tf2": _tf2,
        "keras": _keras,
        "timm": _timm,
        "torchvision": _torchvision,
        "hub": _hub,
    }
    return readers[foreign.kind](foreign)


def expected_tensors(experiment: Experiment) -> dict[str, Tensor]:
    """Names and shapes of the network's tensors, without memory."""
    with torch.device("meta"):
        return experiment.build_model().state_dict()


def of_classes(experiment: Experiment, num_classes: int) -> Experiment:
    """The experiment for another number of classes."""
    return config.edit(experiment, {"task.num_classes": num_classes})


def _tf1(foreign: Foreign) -> Reading:
    file = TensorBundle.open(foreign.path)
    base = named(foreign, tensorflow.count_blocks_of_tf1(file.shapes))
    raw = foreign.raw or not tensorflow.has_averages(file.shapes)
    rules = tensorflow.tf1_rules(_resnet(base), raw=raw)
    return Reading(
        file=file,
        experiment=of_classes(base, _first(file.shapes, "dense/bias", NUM_IMAGENET)),
        rules=rules,
        taken="raw" if raw else "averages",
        ignored=tensorflow.beside_tf1(rules),
    )


def _tf2(foreign: Foreign) -> Reading:
    file = TensorBundle.open(foreign.path)
    base = named(foreign, tensorflow.count_blocks_of_garden(file.shapes), before=_GARDEN)
    averages = tensorflow.has_averages(file.shapes) and not foreign.raw
    rules = tensorflow.garden_rules(_resnet(base), averages=averages)
    return Reading(
        file=file,
        experiment=of_classes(base, _first(file.shapes, tensorflow.GARDEN_BIAS, NUM_IMAGENET + 1)),
        rules=rules,
        taken="averages" if averages else "raw",
        ignored=tensorflow.beside_garden(rules),
    )


def _keras(foreign: Foreign) -> Reading:
    file = keras.H5File(foreign.path)
    base = named(foreign, keras.count_blocks(file.shapes))
    return Reading(
        file=file,
        experiment=of_classes(base, _first(file.shapes, keras.HEAD_BIAS, NUM_IMAGENET)),
        rules=keras.keras_rules(_resnet(base), file.shapes),
        taken=_AS_STORED,
        ignored=keras.is_other,
        has_head=keras.has_head(file.shapes),
    )


def _timm(foreign: Foreign) -> Reading:
    file = TorchFile(foreign.path, key=foreign.key)
    base = named(foreign, sum(timm_names.count_blocks(file.shapes)))
    _resnet(base)
    return Reading(
        file=file,
        experiment=of_classes(base, _first(file.shapes, "fc.bias", NUM_IMAGENET)),
        rules=timm_names.rules(file.shapes),
        taken=_AS_STORED,
        ignored=torchvision.is_other,
    )


def _torchvision(foreign: Foreign) -> Reading:
    file = TorchFile(foreign.path, key=foreign.key)
    if "features.0.0.weight" in file.shapes:
        base, efficientnet = _efficientnet(foreign, file.shapes)
        rules = torchvision.efficientnet_rules(expected_tensors(base), efficientnet.group_sizes)
        num_classes = _first(file.shapes, "classifier.1.bias", NUM_IMAGENET)
    else:
        told = {
            "arch.blocks": tuple(timm_names.count_blocks(file.shapes)),
            "data.resampling": "bilinear",
            "data.crop_first": False,
        }
        base = config.edit(zoo.experiment(foreign.name or "resnet-50-2015"), {**told, **foreign.edits})
        rules = torchvision.resnet_rules(_resnet(base))
        num_classes = _first(file.shapes, "fc.bias", NUM_IMAGENET)
    return Reading(
        file=file,
        experiment=of_classes(base, num_classes),
        rules=rules,
        taken=_AS_STORED,
        ignored=torchvision.is_other,
    )


def _hub(foreign: Foreign) -> Reading:
    """A folder of the Hub: one that we have written, or timm's of a ResNet-RS."""
    said = hub_folder.read_config(foreign.path)
    file = TorchFile(foreign.path / hub_folder.WEIGHTS)
    is_timms = "conv1.0.weight" in file.shapes
    base = of_classes(
        _of_folder(foreign, said, file.shapes),
        _first(file.shapes, "fc.bias" if is_timms else "head.classifier.bias", NUM_IMAGENET),
    )
    return Reading(
        file=file,
        experiment=base,
        rules=timm_names.rules(file.shapes) if is_timms else [Rule(n, n) for n in expected_tensors(base)],
        taken=_AS_STORED,
        ignored=_is_none,
        classes=said.classes,
        origin=said.origin,
        license=said.license,
    )


def _of_folder(foreign: Foreign, said: hub_folder.HubConfig, shapes: Shapes) -> Experiment:
    """The experiment that a folder of the Hub is for: its own, or what timm is told of the network and its inputs."""
    if said.experiment is not None:
        if foreign.name is not None:
            raise ValueError(f"{foreign.path} says its experiment itself. Leave --name and edits out.")
        return said.experiment
    inputs = said.edits()
    if said.arch is not None:  # timm has stored our `resnet_rs`
        base = replace(zoo.experiment(foreign.name or _ANY), arch=said.arch)
        return config.edit(config.edit(base, inputs), foreign.edits)
    if not timm_names.is_resnet_rs(said.architecture):
        raise ValueError(
            f"{foreign.path} holds {said.architecture!r}; expected a ResNet-RS of timm, or what `resnet-rs push` wrote."
        )
    count, size = sum(timm_names.count_blocks(shapes)), inputs.get("data.size")
    return config.edit(config.edit(named(foreign, count, size=size), inputs), foreign.edits)


def _is_none(name: str) -> bool:
    """Whether a tensor of a folder of the Hub may be left aside: none may."""
    return False


def named(
    foreign: Foreign, num_blocks: int, *, before: Mapping[str, Any] | None = None, size: int | None = None
) -> Experiment:
    """The ResNet-RS that was named, or the one that the number of its blocks and the file's name, or `size`, tell.

    `before` are edits of its kind, which those of the person may take back.
    """
    before = before or {}
    if foreign.name is not None:
        return config.edit(config.edit(zoo.experiment(foreign.name), before), foreign.edits)
    path = foreign.path
    fitting = {name: zoo.experiment(name) for name in RELEASED}
    fitting = {name: e for name, e in fitting.items() if sum(_resnet(e).blocks) == num_blocks}
    # A checkpoint of TensorFlow is several files, whose folder has the name.
    texts = (path.name, path.parent.name) if foreign.kind in ("tf1", "tf2") else (path.name,)
    told = [
        n
        for n, e in fitting.items()
        if e.data.size == size or any(n in text or f"_i{e.data.size}_" in text for text in texts)
    ]
    if size is not None:  # which is edited in, where no released one has it
        told = (told or list(fitting))[:1]
    if len(told) == 1 or len(fitting) == 1:
        return config.edit(zoo.experiment((told or list(fitting))[0]), before)
    if not fitting:
        raise ValueError(
            f"{path} has the names of {num_blocks} blocks, which no released ResNet-RS has. See that it is of the kind "
            "that --from says, or give --name and edits such as arch.blocks=[1,1,1,1]."
        )
    raise ValueError(f"{path} may be {' or '.join(fitting)}, which differ in size alone. Give --name.")


def _efficientnet(foreign: Foreign, shapes: Shapes) -> tuple[Experiment, EfficientNetArch]:
    """The EfficientNet of those shapes. torchvision's up to B4 have another epsilon in their norms."""
    for candidate in [foreign.name] if foreign.name else zoo.names("efficientnet-*"):
        experiment = config.edit(_as_torchvisions(candidate), foreign.edits)
        if isinstance(experiment.arch, EfficientNetArch) and _has_shapes(experiment, experiment.arch, shapes):
            return experiment, experiment.arch
    raise ValueError(
        f"{foreign.path} does not hold the weights of {foreign.name or 'an EfficientNet from B0 to B7'}."
    )


def _as_torchvisions(name: str) -> Experiment:
    """An experiment with what torchvision's EfficientNet of that name does otherwise."""
    base = zoo.experiment(name)
    edits: dict[str, Any] = {"data.crop_first": False}
    if name.endswith(_WITH_TORCHS_EPSILON):
        edits["arch.norm_eps"] = 1e-5
    resized = torchvision.RESIZED.get(name.removeprefix("efficientnet-"))
    if resized is not None:
        edits["data.crop_ratio"] = base.data.size / resized
    return config.edit(base, edits)


def _has_shapes(experiment: Experiment, arch: EfficientNetArch, shapes: Shapes) -> bool:
    expected = expected_tensors(experiment)
    rules = torchvision.efficientnet_rules(expected, arch.group_sizes)
    backbone = [rule for rule in rules if rule.ours.startswith("backbone.")]
    return all(shapes.get(rule.theirs) == tuple(expected[rule.ours].shape) for rule in backbone)


def _first(shapes: Shapes, name: str, otherwise: int) -> int:
    """Length of the vector `name`, which is how many classes there are."""
    return (shapes.get(name) or (otherwise,))[0]


def _resnet(experiment: Experiment) -> ResNetArch:
    if not isinstance(experiment.arch, ResNetArch):
        raise ValueError(
            f"these weights are of a ResNet, and --name is of an architecture called {type(experiment.arch).__name__}."
        )
    return experiment.arch
