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
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import groupby

from torch import Tensor

from resnet_rs.bridges.network import KeyMapping, key_mappings, layer_path

Shapes = Mapping[str, tuple[int, ...]]

_EMA = "/ExponentialMovingAverage"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA_SLOT = "/.OPTIMIZER_SLOT/optimizer/average"
_OUTSIDE = ("global_step", "_CHECKPOINTABLE_OBJECT_GRAPH")
_BESIDE = re.compile(r"/(ExponentialMovingAverage|Momentum)$|/\.OPTIMIZER_SLOT/[^/]+/[^/]+(?=/\.ATTRIBUTES/)")
"""The end of the name of an EMA or momentum variable, and the slot in the name of one of the optimizer."""
_LAYER = "backbone/layer_with_weights-"
_OUR_STEM = [f"backbone.stem.{i}." for i in (0, 1, 3, 4, 6, 7, 9, 10)]
_OUR_BLOCK = re.compile(r"backbone\.c\d\.\d+\.")
_MODEL_GARDEN_NAMES = {
    "shortcut.conv.": "_shortcut1/",
    "shortcut.norm.": "_norm0/",
    "reduce.0.": "_conv1/",
    "reduce.1.": "_norm1/",
    "spatial.0.": "_conv2/",
    "spatial.1.": "_norm2/",
    "expand.0.": "_conv3/",
    "expand.1.": "_norm3/",
    "excite.reduce.": "_squeeze_excitation/_se_reduce/",
    "excite.expand.": "_squeeze_excitation/_se_expand/",
    "head.classifier.": "model/layer_with_weights-1/",
}


def tf1_mappings(expected: Mapping[str, Tensor], *, ema: bool) -> list[KeyMapping]:
    """The mappings of the TF1 release's variables, or of their EMA, to our tensors `expected`."""
    names, counts = {"head.classifier.": "dense/"}, Counter[str]()
    layers = dict.fromkeys(layer_path(name, expected) for name in expected if name.startswith("backbone."))
    for _, block in groupby(layers, lambda path: path.split(".")[:3]):
        # The shortcut of a block is created first.
        for layer in sorted(block, key=lambda path: ".shortcut." not in path):
            is_norm = layer.endswith(".norm.") or f"{layer}running_mean" in expected
            kind = "batch_normalization" if is_norm else "conv2d"
            names[layer] = f"{kind}_{counts[kind]}/" if counts[kind] else f"{kind}/"
            counts[kind] += 1
    return key_mappings(expected, names, library="tensorflow", suffix=_EMA if ema else "")


def model_garden_mappings(expected: Mapping[str, Tensor], *, ema: bool) -> list[KeyMapping]:
    """The mappings of the Model Garden's variables, or of their EMA, to our tensors `expected`."""
    blocks = dict.fromkeys(match[0] for match in map(_OUR_BLOCK.match, expected) if match)
    numbered = {path: f"{_LAYER}{i}/" for i, path in enumerate((*_OUR_STEM, *blocks))}
    suffix = f"{_EMA_SLOT if ema else ''}{_ATTRIBUTE}"
    return key_mappings(expected, numbered | _MODEL_GARDEN_NAMES, library="tensorflow", suffix=suffix)


def ignored_beside(mappings: list[KeyMapping]) -> Callable[[str], bool]:
    """Tells which variables can be ignored: those outside of the network, and EMA, momentum and slots of used ones."""
    used = {_BESIDE.sub("", mapping.source) for mapping in mappings}

    def is_ignored(name: str) -> bool:
        is_outside = "/.ATTRIBUTES/" in name and not name.startswith(("backbone/", "model/"))
        return is_outside or name in _OUTSIDE or _BESIDE.sub("", name) in used

    return is_ignored


def has_ema(shapes: Shapes) -> bool:
    """Whether a checkpoint of either kind holds EMA weights."""
    return any(name.endswith(_EMA) or _EMA_SLOT in name for name in shapes)


def count_tf1_blocks(shapes: Shapes) -> int:
    """All blocks of a TF1 network: five convolutions each, after eight in the stem and the shortcuts."""
    names = {name.removesuffix(_EMA) for name in shapes}
    return (sum(re.fullmatch(r"conv2d(_\d+)?/kernel", name) is not None for name in names) - 8) // 5


def count_model_garden_blocks(shapes: Shapes) -> int:
    """All blocks of a Model Garden network."""
    layers = {name.split("/")[1] for name in shapes if name.startswith(_LAYER)}
    return len(layers) - len(_OUR_STEM)
