"""timm's names: of tensors in its `resnetrs*` models, and of the fields that describe a network (`pretrained_cfg`).

Networks of any depth can be renamed: the names tell the number of blocks in each stage. timm itself is not needed.

Source: timm 1.0 (`timm/models/resnet.py`, `timm/layers/squeeze_excite.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from resnet_rs.bridges.network import KeyMapping, in_our_layout, is_counter, key_mappings, refuse_unmatched
from resnet_rs.data.pipeline import Data
from resnet_rs.models.backbone import Arch
from resnet_rs.models.cost import shapes_only
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.training.experiment import Experiment

DEPTHS = (50, 101, 152, 200, 270, 350, 420)
"""Depths of timm's ResNet-RS, `resnetrs50` to `resnetrs420`."""
FIRST_AND_LAST = {"first_conv": "backbone.stem.0", "classifier": "head.classifier"}
"""The layers of our ResNets that timm adapts to other channels and classes, in its fields."""

BLOCK_NAMES = {
    **{f"backbone.c{i + 1}.": f"layer{i}." for i in (1, 2, 3, 4)},
    "reduce.0.": "conv1.",
    "reduce.1.": "bn1.",
    "spatial.0.": "conv2.",
    "spatial.1.": "bn2.",
    "expand.0.": "conv3.",
    "expand.1.": "bn3.",
    "head.classifier.": "fc.",
}
"""Names that timm and torchvision share."""
_NAMES = {
    "backbone.stem.7.": "bn1.",
    # The fourth convolution replaces the max-pool, hence its name.
    "backbone.stem.9.": "maxpool.0.",
    "backbone.stem.10.": "maxpool.1.",
    "backbone.stem.": "conv1.",
    # Layer 0 is the pool, in c2 an identity.
    "shortcut.conv.": "downsample.1.",
    "shortcut.norm.": "downsample.2.",
    "excite.reduce.": "se.fc1.",
    "excite.expand.": "se.fc2.",
    **BLOCK_NAMES,
}
# Two digits are enough for all of ResNet-RS, and a forged index cannot create a billion names.
_BLOCK = re.compile(r"(?:layer([1-4])|backbone\.c([2-5]))\.(\d{1,2})\.")


def depth_of(arch: Arch) -> int | None:
    """The depth of timm's ResNet-RS with this arch; None if timm has none. Fields used only in training may differ."""
    if not isinstance(arch, ResNetArch):
        return None
    bare = replace(arch, drop_path=0.0, norm_momentum=1.0, zero_init=True)
    return next((depth for depth in DEPTHS if bare == ResNetArch(blocks=BLOCKS[depth])), None)


def is_resnet_rs(architecture: str) -> bool:
    """Whether timm's name is that of a ResNet-RS: its own `resnetrs50`, or our registered `resnet_rs_50`."""
    return architecture in {f"{start}{depth}" for start in ("resnetrs", "resnet_rs_") for depth in DEPTHS}


def from_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a timm `resnetrs*` model under our names, for `Model.load_state_dict`.

    The tensors share memory with the given ones. Raises `ValueError` with the names that are unknown or missing.
    """
    known = {mapping.source: mapping for mapping in mappings(state_dict)}
    refuse_unmatched(state_dict, known, message="these are not the weights of a timm resnetrs model")
    return {known[n].target: in_our_layout(tensor, known[n]) for n, tensor in state_dict.items()}


def with_our_names(state_dict: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
    """Weights under our names; those given may have timm's names or ours. timm calls it with the model as well."""
    return from_timm(state_dict) if "conv1.0.weight" in state_dict else state_dict


def to_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, as from `Model.state_dict`, under the names of timm's `resnetrs*` models.

    The tensors share memory with the given ones. Raises `ValueError` with the names that are unknown or missing.
    """
    known = {mapping.target: mapping for mapping in mappings(state_dict)}
    refuse_unmatched(
        state_dict, known, message="these are not the weights of a ResNet-RS with a classification head"
    )
    return {
        known[name].source: tensor[:, :, None, None] if known[name].is_matrix else tensor
        for name, tensor in state_dict.items()
    }


def mappings(names: Iterable[str]) -> list[KeyMapping]:
    """The mappings of a timm `resnetrs*` model with these names, timm's or ours; update counters only if present."""
    given = set(names)
    found = _mappings(count_blocks(given))
    return [m for m in found if m.source in given or m.target in given or not is_counter(m.source)]


@lru_cache(maxsize=8)
def _mappings(blocks: tuple[int, int, int, int]) -> list[KeyMapping]:
    with shapes_only():
        expected = Classifier.build(ResNetArch(blocks=blocks)).state_dict()
    return key_mappings(expected, _NAMES, has_counters=True)


def count_blocks(names: Iterable[str]) -> tuple[int, int, int, int]:
    """Blocks in c2, c3, c4 and c5 of a ResNet with timm's, torchvision's or our names.

    A stage without names counts as one block, so that its names are reported as missing.
    """
    counts = {1: 1, 2: 1, 3: 1, 4: 1}
    for name in names:
        if match := _BLOCK.match(name):
            group = int(match[1] or int(match[2]) - 1)
            counts[group] = max(counts[group], int(match[3]) + 1)
    return counts[1], counts[2], counts[3], counts[4]


def describe_to_timm(model: Classifier, experiment: Experiment) -> None:
    """Set `model.pretrained_cfg`, which `timm.data.resolve_model_data_config` reads, and accept timm's names."""
    data, depth = experiment.data, depth_of(experiment.arch)
    side = -(-data.size // model.backbone.reductions[-1])
    first_conv = next(name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    config = {
        "architecture": "resnet_rs" if depth is None else f"resnet_rs_{depth}",
        "num_classes": model.num_classes,
        **input_facts(data),
        "pool_size": (side, side),
        "first_conv": first_conv,
        "classifier": "head.classifier",
    }
    model.pretrained_cfg = model.default_cfg = config
    accept_timm_names(model)


def accept_timm_names(model: Classifier) -> None:
    """Let `model.load_state_dict` take timm's names too."""
    model.register_load_state_dict_pre_hook(_rename)


def _rename(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *more: object) -> None:
    if not prefix:
        renamed = {**with_our_names(state_dict)}
        state_dict.clear()
        state_dict.update(renamed)


def input_facts(data: Data) -> dict[str, Any]:
    """How images become inputs, in timm's fields.

    timm's resizing is always antialiased. For `tf1_bicubic` and `tf2_bilinear`, which are not, the fields name the same
    interpolation, antialiased.
    """
    return {
        "input_size": (data.channels, data.size, data.size),
        "interpolation": "bilinear" if data.resampling in ("bilinear", "tf2_bilinear") else "bicubic",
        "crop_pct": data.crop_ratio,
        "crop_mode": "center",
        "mean": data.mean,
        "std": data.std,
    }
