"""Variable names of TensorFlow's ResNet-RS: the TF1 release (the paper's weights) and the TF2 Model Garden.

- TF1 numbers layers in the order of their creation: `conv2d`, `conv2d_1`, ... Layers of squeeze-and-excitation count as
  convolutions. Every variable has an EMA variable beside it, also the batch-norm statistics.
- The Model Garden numbers the layers of the backbone that have weights. EMA weights are slots of the optimizer, if it
  kept them. Its networks differ from the paper's: SiLU, SAME padding, a pooled shortcut also in c2, and a class 0 for
  the background.

Source: TF1 release (`resnet_model.py`, its graph); Model Garden (`official/vision/modeling/backbones/resnet.py`), run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from resnet_rs.bridges.network import KeyMapping, LayerId, LayerNames, key_mappings, layer_ids
from resnet_rs.models.resnet import ResNetArch

Shapes = Mapping[str, tuple[int, ...]]

_EMA = "/ExponentialMovingAverage"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA_SLOT = "/.OPTIMIZER_SLOT/optimizer/average"
_SLOT = re.compile(r"/\.OPTIMIZER_SLOT/[^/]+/[^/]+(?=/\.ATTRIBUTES/)")
_MODEL_GARDEN_LAYER = re.compile(r"backbone/layer_with_weights-(\d{1,4})/")
_MODEL_GARDEN_STEM = 8
"""Layers with weights before the first block: four convolutions and their norms."""
_MODEL_GARDEN_BLOCK = {"reduce": "1", "spatial": "2", "expand": "3"}


def tf1_mappings(arch: ResNetArch, *, ema: bool) -> list[KeyMapping]:
    """The mappings of the TF1 release's variables, or of their EMA."""
    names: dict[LayerId, LayerNames] = {}
    num_convs = num_norms = 0
    for layer in layer_ids(arch):
        has_norm = layer.role not in ("squeeze", "excite")
        norm = _numbered("batch_normalization", num_norms) if has_norm else ""
        names[layer] = LayerNames(_numbered("conv2d", num_convs), norm)
        num_convs, num_norms = num_convs + 1, num_norms + has_norm
    names[LayerId("classifier")] = LayerNames("dense")
    suffix = _EMA if ema else ""
    return key_mappings(
        arch, names.__getitem__, lambda layer, part: f"{layer}/{part}{suffix}", library="tensorflow"
    )


def ignored_by_tf1(mappings: list[KeyMapping]) -> Callable[[str], bool]:
    """Tells which variables can be ignored: the step, and the EMA or momentum of a variable that is used."""
    used = {_base(mapping.source) for mapping in mappings}
    return lambda name: name == "global_step" or _base(name) in used


def _base(name: str) -> str:
    """The variable to which an EMA or momentum variable belongs."""
    return name.removesuffix(_EMA).removesuffix("/Momentum")


def model_garden_mappings(arch: ResNetArch, *, ema: bool) -> list[KeyMapping]:
    """The mappings of the Model Garden's variables, or of their EMA."""
    indices: dict[tuple[int, int], int] = {}
    for stage, num_blocks in enumerate(arch.blocks, start=2):
        for block in range(num_blocks):
            indices[stage, block] = _MODEL_GARDEN_STEM + len(indices)

    def names(layer: LayerId) -> LayerNames:
        if layer.role == "classifier":
            return LayerNames("model/layer_with_weights-1")
        if layer.role == "stem":
            return LayerNames(_layer(2 * layer.block), _layer(2 * layer.block + 1))
        block = _layer(indices[layer.stage, layer.block])
        if layer.role == "shortcut":
            return LayerNames(f"{block}/_shortcut1", f"{block}/_norm0")
        if number := _MODEL_GARDEN_BLOCK.get(layer.role):
            return LayerNames(f"{block}/_conv{number}", f"{block}/_norm{number}")
        part = "reduce" if layer.role == "squeeze" else "expand"
        return LayerNames(f"{block}/_squeeze_excitation/_se_{part}")

    slot = _EMA_SLOT if ema else ""
    return key_mappings(
        arch, names, lambda layer, part: f"{layer}/{part}{slot}{_ATTRIBUTE}", library="tensorflow"
    )


def ignored_by_model_garden(mappings: list[KeyMapping]) -> Callable[[str], bool]:
    """Tells which variables can be ignored: those outside the network, and the slots of a variable that is used."""
    used = {_SLOT.sub("", mapping.source) for mapping in mappings}
    return lambda name: not name.startswith(("backbone/", "model/")) or _SLOT.sub("", name) in used


def has_ema(shapes: Shapes) -> bool:
    """Whether a checkpoint of either kind holds EMA weights."""
    return any(name.endswith(_EMA) or _EMA_SLOT in name for name in shapes)


def count_tf1_blocks(shapes: Shapes) -> int:
    """All blocks of a TF1 network: five convolutions each, after eight in the stem and the shortcuts."""
    names = {name.removesuffix(_EMA) for name in shapes}
    return (sum(re.fullmatch(r"conv2d(_\d+)?/kernel", name) is not None for name in names) - 8) // 5


def count_model_garden_blocks(shapes: Shapes) -> int:
    """All blocks of a Model Garden network."""
    indices = [int(match[1]) for match in map(_MODEL_GARDEN_LAYER.match, shapes) if match]
    return max(indices, default=-1) + 1 - _MODEL_GARDEN_STEM


def _numbered(name: str, i: int) -> str:
    return name if i == 0 else f"{name}_{i}"


def _layer(i: int) -> str:
    return f"backbone/layer_with_weights-{i}"
