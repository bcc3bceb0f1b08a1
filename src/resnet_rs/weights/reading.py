"""How to read a source checkpoint: its experiment, and the mapping of its variables to our tensors.

The experiment follows from the names in the file, and for released weights from the file name, which tells the
resolution. Where these are not enough, the user must name the experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resnet_rs import config, zoo
from resnet_rs.bridges import efficientnet_lite, hub_folder, keras, tensorflow, timm_names, torchvision
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.bridges.network import KeyMapping, TensorFile, is_counter
from resnet_rs.bridges.tensor_bundle import TensorBundle
from resnet_rs.bridges.torch_file import TorchFile
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.paper import RELEASED
from resnet_rs.training.experiment import Experiment

Shapes = Mapping[str, tuple[int, ...]]

_MODEL_GARDEN = {"data.resampling": "tf2_bilinear"}
"""How the Model Garden's images differ from the paper's."""
_WITH_TORCHS_EPSILON = ("-b0", "-b1", "-b2", "-b3", "-b4")
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
            "key": ("timm", "torchvision", "efficientnet-lite"),
            "classes": tuple(kind for kind in KINDS if kind != "hub"),
        }
        for option, its_kinds in kinds.items():
            if getattr(self, option) and self.kind not in its_kinds:
                raise ValueError(
                    f"--{option} is for weights of {' or '.join(its_kinds)}, got --from {self.kind}."
                )


class ReadPlan(NamedTuple):
    """How to read a source checkpoint."""

    file: TensorFile
    experiment: Experiment
    mappings: list[KeyMapping]
    ignored: Callable[[str], bool] = is_counter
    """Tells which variables do not belong to the network."""
    variables: str = "as stored"
    """Which variables are used: `EMA`, `raw` or `as stored`."""
    hub: hub_folder.HubConfig | None = None
    """Only of Hub folders: class names, origin and license."""


def plan_read(source: SourceCheckpoint) -> ReadPlan:
    """How to read `source`. Raises `ValueError` if the file does not tell its experiment."""
    plan = _READERS[source.kind](source)
    bias = next((m.source for m in plan.mappings if m.target == "head.classifier.bias"), "")
    shape = plan.file.shapes.get(bias)
    edits = {"task.num_classes": shape[0]} if shape else {}
    return plan._replace(experiment=config.edit(plan.experiment, edits))


def _tf1(source: SourceCheckpoint) -> ReadPlan:
    file = TensorBundle(source.path)
    base = find_experiment(source, tensorflow.count_tf1_blocks(file.shapes))
    ema = tensorflow.has_ema(file.shapes) and not source.raw
    mappings = tensorflow.tf1_mappings(_resnet_tensors(base), ema=ema)
    ignored = tensorflow.ignored_beside(mappings)
    return ReadPlan(file, base, mappings, ignored, variables="EMA" if ema else "raw")


def _tf2(source: SourceCheckpoint) -> ReadPlan:
    file = TensorBundle(source.path)
    num_blocks = tensorflow.count_model_garden_blocks(file.shapes)
    base = find_experiment(source, num_blocks, defaults=_MODEL_GARDEN)
    base = replace(base, arch=ModelGardenArch.like(_resnet(base)))
    ema = tensorflow.has_ema(file.shapes) and not source.raw
    mappings = tensorflow.model_garden_mappings(_resnet_tensors(base), ema=ema)
    ignored = tensorflow.ignored_beside(mappings)
    return ReadPlan(file, base, mappings, ignored, variables="EMA" if ema else "raw")


def _keras(source: SourceCheckpoint) -> ReadPlan:
    file = keras.H5File(source.path)
    base = find_experiment(source, keras.count_blocks(file.shapes))
    mappings = keras.keras_mappings(_resnet_tensors(base), file.shapes)
    return ReadPlan(file, base, mappings, keras.is_ignored)


def _timm(source: SourceCheckpoint) -> ReadPlan:
    file = TorchFile(source.path, key=source.key)
    base = find_experiment(source, sum(timm_names.count_blocks(file.shapes)))
    _resnet(base)
    return ReadPlan(file, base, timm_names.mappings(file.shapes))


def _torchvision(source: SourceCheckpoint) -> ReadPlan:
    file = TorchFile(source.path, key=source.key)
    if "features.0.0.weight" in file.shapes:
        return ReadPlan(file, *_efficientnet(source, file.shapes))
    detected = {
        "arch.blocks": timm_names.count_blocks(file.shapes),
        "data.resampling": "bilinear",
        "data.crop_first": False,
    }
    base = config.edit(zoo.experiment(source.name or "resnet-50-2015"), {**detected, **source.edits})
    return ReadPlan(file, base, torchvision.resnet_mappings(_resnet_tensors(base)))


def _efficientnet_lite(source: SourceCheckpoint) -> ReadPlan:
    file = TorchFile(source.path, key=source.key)
    base = config.edit(zoo.experiment(source.name or efficientnet_lite.NAME), source.edits)
    if not isinstance(base.arch, EfficientNetArch) or base.arch.se_ratio is not None:
        raise ValueError(f"--from efficientnet-lite is for {efficientnet_lite.NAME}, got {source.name}.")
    mappings = efficientnet_lite.mappings(base.arch, base.expected_tensors())
    return ReadPlan(file, base, mappings)


def _hub(source: SourceCheckpoint) -> ReadPlan:
    """A Hub folder: written by `resnet-rs push`, or a ResNet-RS of timm."""
    hub = hub_folder.read_config(source.path)
    file = TorchFile(source.path / hub_folder.WEIGHTS)
    base = _hub_experiment(source, hub, file.shapes)
    has_timms_names = "conv1.0.weight" in file.shapes
    ours = [KeyMapping(name, name) for name in base.expected_tensors()]
    mappings = timm_names.mappings(file.shapes) if has_timms_names else ours
    return ReadPlan(file, base, mappings, hub=hub)


_READERS = {
    "tf1": _tf1,
    "tf2": _tf2,
    "keras": _keras,
    "timm": _timm,
    "torchvision": _torchvision,
    "efficientnet-lite": _efficientnet_lite,
    "hub": _hub,
}
KINDS = tuple(_READERS)


def _hub_experiment(source: SourceCheckpoint, hub: hub_folder.HubConfig, shapes: Shapes) -> Experiment:
    """The experiment of a Hub folder: its own, or the one that timm's fields describe."""
    if hub.experiment is not None:
        if source.name is not None:
            raise ValueError(f"{source.path} has its own experiment. Omit --name and edits.")
        return hub.experiment
    inputs = hub_folder.data_edits(hub.inputs)
    if hub.arch is not None:  # stored by timm as our `resnet_rs`
        base = replace(zoo.experiment(source.name or _DEFAULT_HUB_EXPERIMENT), arch=hub.arch)
        return config.edit(base, {**inputs, **source.edits})
    if timm_names.is_resnet_rs(hub.architecture):
        return find_experiment(source, sum(timm_names.count_blocks(shapes)), defaults=inputs)
    raise ValueError(
        f"{source.path} holds {hub.architecture!r}; expected a ResNet-RS of timm or of `resnet-rs push`."
    )


def find_experiment(
    source: SourceCheckpoint, num_blocks: int, *, defaults: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment that the user named, else the released one with this number of blocks and this size.

    The size is that of `defaults`, or the file name tells it. `defaults` are applied, and then the edits of the user.
    """
    edits = {**(defaults or {}), **source.edits}
    if source.name is not None:
        return config.edit(zoo.experiment(source.name), edits)
    path, size = source.path, (defaults or {}).get("data.size")
    released = {name: zoo.experiment(name) for name in RELEASED}
    candidates = {name: e for name, e in released.items() if sum(_resnet(e).blocks) == num_blocks}
    # A TensorFlow checkpoint is several files, and their folder has the name.
    texts = (path.name, path.parent.name) if source.kind in ("tf1", "tf2") else (path.name,)
    detected = [
        n
        for n, e in candidates.items()
        if e.data.size == size or any(n in text or f"_i{e.data.size}_" in text for text in texts)
    ]
    likely = detected or list(candidates)
    if len(likely) == 1 or (likely and size is not None):  # networks of one depth differ only in size
        return config.edit(candidates[likely[0]], edits)
    raise ValueError(
        f"{path} has {num_blocks} blocks and may be {' or '.join(candidates) or 'no released ResNet-RS'}. Check "
        "--from, or give --name, and edits such as arch.blocks=[1,1,1,1]."
    )


def _efficientnet(source: SourceCheckpoint, shapes: Shapes) -> tuple[Experiment, list[KeyMapping]]:
    """The EfficientNet with these shapes, and its mappings."""
    for name in [source.name] if source.name else zoo.list_models("efficientnet-b?"):
        experiment = config.edit(_torchvision_experiment(name), source.edits)
        if isinstance(experiment.arch, EfficientNetArch):
            expected = experiment.expected_tensors()
            mappings = torchvision.efficientnet_mappings(experiment.arch, expected)
            backbone = [mapping for mapping in mappings if mapping.target.startswith("backbone.")]
            if all(shapes.get(m.source) == tuple(expected[m.target].shape) for m in backbone):
                return experiment, mappings
    raise ValueError(
        f"{source.path} does not hold the weights of {source.name or 'an EfficientNet from B0 to B7'}."
    )


def _torchvision_experiment(name: str) -> Experiment:
    """The experiment of torchvision's EfficientNet, which differs from ours in crop and, up to B4, in `norm_eps`."""
    base = zoo.experiment(name)
    edits: dict[str, Any] = {"data.crop_first": False}
    if name.endswith(_WITH_TORCHS_EPSILON):
        edits["arch.norm_eps"] = 1e-5
    if resized := torchvision.RESIZED.get(name.removeprefix("efficientnet-")):
        edits["data.crop_ratio"] = base.data.size / resized
    return config.edit(base, edits)


def _resnet(experiment: Experiment) -> ResNetArch:
    if not isinstance(experiment.arch, ResNetArch):
        raise ValueError(
            f"these are weights of a ResNet, but --name has the architecture {type(experiment.arch).__name__}."
        )
    return experiment.arch


def _resnet_tensors(experiment: Experiment) -> dict[str, Tensor]:
    _resnet(experiment)
    return experiment.expected_tensors()
