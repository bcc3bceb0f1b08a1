"""How to read a source checkpoint: its experiment, and the mapping of its variables to our tensors.

The experiment follows from the names in the file, and for released weights from the file name, which tells the
resolution. Where these are not enough, the user must name the experiment.
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
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.bridges.network import KeyMapping, TensorFile
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
_MODEL_GARDEN = {"data.resampling": "tf2_bilinear"}
"""How the Model Garden's images differ from the paper's."""
_WITH_TORCHS_EPSILON = ("-b0", "-b1", "-b2", "-b3", "-b4")
_AS_STORED = "as stored"
_DEFAULT_HUB_EXPERIMENT = "resnet-rs-50-i160"
"""Its recipe completes the experiment of a timm folder, which has no recipe."""


@dataclass(frozen=True, kw_only=True)
class SourceCheckpoint:
    """Weights that another library wrote."""

    path: Path
    kind: str
    """The library or format: one of `KINDS`."""
    name: str | None = None
    """The experiment of the weights; needed if the file does not tell it."""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Differences from that experiment, such as `{"arch.width": 0.5}`."""
    raw: bool = False
    """For TensorFlow: use the raw variables even if there are EMA weights."""
    background: bool = False
    """For the Model Garden: keep class 0 of 1,001, the background."""
    key: str | None = None
    """For PyTorch files: the key of the weights, such as `model_ema`."""
    classes: tuple[str, ...] | None = None
    """Names of the classes; the default is ImageNet's identifiers for 1,000 classes, else numbers."""
    url: str = ""
    """Address from which the file was downloaded."""
    license: str | None = None
    """License of the weights, if it is known."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"--from must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.edits and self.name is None:
            raise ValueError("edits need an experiment. Give --name as well.")
        kinds = {
            "raw": ("tf1", "tf2"),
            "background": ("tf2",),
            "key": ("timm", "torchvision"),
            "classes": tuple(kind for kind in KINDS if kind != "hub"),
        }
        for option, its_kinds in kinds.items():
            if getattr(self, option) and self.kind not in its_kinds:
                raise ValueError(
                    f"--{option} is for weights of {' or '.join(its_kinds)}, got --from {self.kind}."
                )
        if not self.path.exists() and not list(self.path.parent.glob(f"{glob.escape(self.path.name)}.*")):
            raise FileNotFoundError(f"{self.path} does not exist; expected weights of {self.kind}.")


class ReadPlan(NamedTuple):
    """How to read a source checkpoint."""

    file: TensorFile
    experiment: Experiment
    mappings: list[KeyMapping]
    variables: str
    """Which variables are used: `EMA`, `raw` or `as stored`."""
    ignored: Callable[[str], bool]
    """Tells which variables do not belong to the network."""
    has_head: bool = True
    classes: tuple[str, ...] | None = None
    """Names of the classes, if the source has them."""
    origin: Mapping[str, str] = {}
    """The origin of the weights that the source records."""
    license: str | None = None
    """License of the weights, if the source has it."""


def plan_read(source: SourceCheckpoint) -> ReadPlan:
    """How to read `source`. Raises `ValueError` if the file does not tell its experiment."""
    readers = {
        "tf1": _tf1,
        "tf2": _tf2,
        "keras": _keras,
        "timm": _timm,
        "torchvision": _torchvision,
        "hub": _hub,
    }
    return readers[source.kind](source)


def expected_tensors(experiment: Experiment) -> dict[str, Tensor]:
    """The state dict of the network on the meta device: names, shapes and types."""
    with torch.device("meta"):
        return experiment.build_model().state_dict()


def with_num_classes(experiment: Experiment, num_classes: int) -> Experiment:
    """The experiment with another number of classes."""
    return config.edit(experiment, {"task.num_classes": num_classes})


def _tf1(source: SourceCheckpoint) -> ReadPlan:
    file = TensorBundle(source.path)
    base = find_experiment(source, tensorflow.count_tf1_blocks(file.shapes))
    raw = source.raw or not tensorflow.has_ema(file.shapes)
    mappings = tensorflow.tf1_mappings(_resnet(base), raw=raw)
    return ReadPlan(
        file=file,
        experiment=with_num_classes(base, _length(file.shapes, "dense/bias", NUM_IMAGENET)),
        mappings=mappings,
        variables="raw" if raw else "EMA",
        ignored=tensorflow.ignored_by_tf1(mappings),
    )


def _tf2(source: SourceCheckpoint) -> ReadPlan:
    file = TensorBundle(source.path)
    base = find_experiment(source, tensorflow.count_model_garden_blocks(file.shapes), before=_MODEL_GARDEN)
    base = replace(base, arch=ModelGardenArch.like(_resnet(base)))
    ema = tensorflow.has_ema(file.shapes) and not source.raw
    mappings = tensorflow.model_garden_mappings(_resnet(base), ema=ema)
    return ReadPlan(
        file=file,
        experiment=with_num_classes(
            base, _length(file.shapes, tensorflow.MODEL_GARDEN_BIAS, NUM_IMAGENET + 1)
        ),
        mappings=mappings,
        variables="EMA" if ema else "raw",
        ignored=tensorflow.ignored_by_model_garden(mappings),
    )


def _keras(source: SourceCheckpoint) -> ReadPlan:
    file = keras.H5File(source.path)
    base = find_experiment(source, keras.count_blocks(file.shapes))
    return ReadPlan(
        file=file,
        experiment=with_num_classes(base, _length(file.shapes, keras.HEAD_BIAS, NUM_IMAGENET)),
        mappings=keras.keras_mappings(_resnet(base), file.shapes),
        variables=_AS_STORED,
        ignored=keras.is_ignored,
        has_head=keras.has_head(file.shapes),
    )


def _timm(source: SourceCheckpoint) -> ReadPlan:
    file = TorchFile(source.path, key=source.key)
    base = find_experiment(source, sum(timm_names.count_blocks(file.shapes)))
    _resnet(base)
    return ReadPlan(
        file=file,
        experiment=with_num_classes(base, _length(file.shapes, "fc.bias", NUM_IMAGENET)),
        mappings=timm_names.mappings(file.shapes),
        variables=_AS_STORED,
        ignored=torchvision.is_ignored,
    )


def _torchvision(source: SourceCheckpoint) -> ReadPlan:
    file = TorchFile(source.path, key=source.key)
    if "features.0.0.weight" in file.shapes:
        base, efficientnet = _efficientnet(source, file.shapes)
        mappings = torchvision.efficientnet_mappings(expected_tensors(base), efficientnet.group_sizes)
        num_classes = _length(file.shapes, "classifier.1.bias", NUM_IMAGENET)
    else:
        detected = {
            "arch.blocks": tuple(timm_names.count_blocks(file.shapes)),
            "data.resampling": "bilinear",
            "data.crop_first": False,
        }
        base = config.edit(zoo.experiment(source.name or "resnet-50-2015"), {**detected, **source.edits})
        mappings = torchvision.resnet_mappings(_resnet(base))
        num_classes = _length(file.shapes, "fc.bias", NUM_IMAGENET)
    return ReadPlan(
        file=file,
        experiment=with_num_classes(base, num_classes),
        mappings=mappings,
        variables=_AS_STORED,
        ignored=torchvision.is_ignored,
    )


def _hub(source: SourceCheckpoint) -> ReadPlan:
    """A Hub folder: written by `resnet-rs push`, or a ResNet-RS of timm."""
    hub_config = hub_folder.read_config(source.path)
    file = TorchFile(source.path / hub_folder.WEIGHTS)
    is_timms = "conv1.0.weight" in file.shapes
    base = with_num_classes(
        _hub_experiment(source, hub_config, file.shapes),
        _length(file.shapes, "fc.bias" if is_timms else "head.classifier.bias", NUM_IMAGENET),
    )
    return ReadPlan(
        file=file,
        experiment=base,
        mappings=timm_names.mappings(file.shapes)
        if is_timms
        else [KeyMapping(n, n) for n in expected_tensors(base)],
        variables=_AS_STORED,
        ignored=_ignore_nothing,
        classes=hub_config.classes,
        origin=hub_config.origin,
        license=hub_config.license,
    )


def _hub_experiment(source: SourceCheckpoint, hub_config: hub_folder.HubConfig, shapes: Shapes) -> Experiment:
    """The experiment of a Hub folder: its own, or the one that timm's fields describe."""
    if hub_config.experiment is not None:
        if source.name is not None:
            raise ValueError(f"{source.path} has its own experiment. Omit --name and edits.")
        return hub_config.experiment
    inputs = hub_config.edits()
    if hub_config.arch is not None:  # stored by timm as our `resnet_rs`
        base = replace(zoo.experiment(source.name or _DEFAULT_HUB_EXPERIMENT), arch=hub_config.arch)
        return config.edit(config.edit(base, inputs), source.edits)
    if not timm_names.is_resnet_rs(hub_config.architecture):
        raise ValueError(
            f"{source.path} holds {hub_config.architecture!r}; expected a ResNet-RS of timm or of `resnet-rs push`."
        )
    count, size = sum(timm_names.count_blocks(shapes)), inputs.get("data.size")
    return config.edit(config.edit(find_experiment(source, count, size=size), inputs), source.edits)


def _ignore_nothing(name: str) -> bool:
    """Hub folders hold only the network's tensors."""
    return False


def find_experiment(
    source: SourceCheckpoint,
    num_blocks: int,
    *,
    before: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> Experiment:
    """The experiment that the user named, else the released one with this number of blocks and this size.

    The size comes from `size` or from the file name. `before` are edits for the kind of the source; the edits of the
    user are applied after them.
    """
    before = before or {}
    if source.name is not None:
        return config.edit(config.edit(zoo.experiment(source.name), before), source.edits)
    path = source.path
    candidates = {name: zoo.experiment(name) for name in RELEASED}
    candidates = {name: e for name, e in candidates.items() if sum(_resnet(e).blocks) == num_blocks}
    # A TensorFlow checkpoint is several files, and their folder has the name.
    texts = (path.name, path.parent.name) if source.kind in ("tf1", "tf2") else (path.name,)
    detected = [
        n
        for n, e in candidates.items()
        if e.data.size == size or any(n in text or f"_i{e.data.size}_" in text for text in texts)
    ]
    if size is not None:  # the caller edits the size afterwards
        detected = (detected or list(candidates))[:1]
    if len(detected) == 1 or len(candidates) == 1:
        return config.edit(zoo.experiment((detected or list(candidates))[0]), before)
    if not candidates:
        raise ValueError(
            f"{path} has {num_blocks} blocks, which no released ResNet-RS has. Check --from, or give --name and edits "
            "such as arch.blocks=[1,1,1,1]."
        )
    raise ValueError(f"{path} may be {' or '.join(candidates)}, which differ only in size. Give --name.")


def _efficientnet(source: SourceCheckpoint, shapes: Shapes) -> tuple[Experiment, EfficientNetArch]:
    """The EfficientNet with these shapes."""
    for candidate in [source.name] if source.name else zoo.names("efficientnet-*"):
        experiment = config.edit(_torchvision_experiment(candidate), source.edits)
        if isinstance(experiment.arch, EfficientNetArch) and _has_shapes(experiment, experiment.arch, shapes):
            return experiment, experiment.arch
    raise ValueError(
        f"{source.path} does not hold the weights of {source.name or 'an EfficientNet from B0 to B7'}."
    )


def _torchvision_experiment(name: str) -> Experiment:
    """The experiment of torchvision's EfficientNet, which differs from ours in crop and, up to B4, in `norm_eps`."""
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
    mappings = torchvision.efficientnet_mappings(expected, arch.group_sizes)
    backbone = [mapping for mapping in mappings if mapping.target.startswith("backbone.")]
    return all(shapes.get(mapping.source) == tuple(expected[mapping.target].shape) for mapping in backbone)


def _length(shapes: Shapes, name: str, otherwise: int) -> int:
    """Length of the vector `name`, the number of classes; `otherwise` if there is no such vector."""
    return (shapes.get(name) or (otherwise,))[0]


def _resnet(experiment: Experiment) -> ResNetArch:
    if not isinstance(experiment.arch, ResNetArch):
        raise ValueError(
            f"these are weights of a ResNet, but --name has the architecture {type(experiment.arch).__name__}."
        )
    return experiment.arch
