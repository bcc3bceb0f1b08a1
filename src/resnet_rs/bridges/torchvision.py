"""Tensor names of torchvision's ResNets (bottleneck) and EfficientNets.

Its ResNets have the stem of 2015, plain shortcuts, and the stride in the 3x3 convolution ("V1.5"). Its EfficientNets
have the same blocks as ours.

Source: torchvision 0.25 (`models/resnet.py`, `models/efficientnet.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from resnet_rs.bridges.network import KeyMapping, key_mappings
from resnet_rs.bridges.timm_names import BLOCK_NAMES
from resnet_rs.models.efficientnet import EfficientNetArch

RESIZED = {"b0": 256, "b1": 256, "b2": 288, "b3": 320, "b4": 384, "b5": 456, "b6": 528, "b7": 600}
"""Short side in pixels before the center crop, by EfficientNet; of the first published weights, all bicubic."""

_RESNET_NAMES = {
    "backbone.stem.0.": "conv1.",
    "backbone.stem.1.": "bn1.",
    "shortcut.conv.": "downsample.0.",
    "shortcut.norm.": "downsample.1.",
    **BLOCK_NAMES,
}


def resnet_mappings(expected: Mapping[str, Tensor]) -> list[KeyMapping]:
    """The mappings of a ResNet; `expected` are our tensors."""
    return key_mappings(expected, _RESNET_NAMES)


def efficientnet_mappings(arch: EfficientNetArch, expected: Mapping[str, Tensor]) -> list[KeyMapping]:
    """The mappings of an EfficientNet; `expected` are our tensors.

    torchvision numbers its parts: `features.0` is the first convolution, 1 to 7 are the groups, 8 is the last
    convolution.
    """
    prefixes = {"backbone.stem.0.": "features.0."}
    for group, paths in enumerate(arch.block_paths(), start=1):
        prefixes |= {f"backbone.{path}.": f"features.{group}.{i}." for i, path in enumerate(paths)}
    prefixes[f"backbone.{arch.last_path}."] = "features.8."
    prefixes["head.classifier."] = "classifier.1."
    return key_mappings(expected, prefixes)
