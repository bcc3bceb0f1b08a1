"""Tensor names of torchvision's ResNets (bottleneck) and EfficientNets.

Its ResNets have the stem of 2015, plain shortcuts, and the stride in the 3x3 convolution ("V1.5"). Its EfficientNets
have the same blocks as ours.

Source: torchvision 0.25 (`models/resnet.py`, `models/efficientnet.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from resnet_rs.bridges.network import COUNTER, KeyMapping, LayerId, LayerNames, key_mappings
from resnet_rs.models.efficientnet import EfficientNetArch
from resnet_rs.models.resnet import ResNetArch

RESIZED = {"b0": 256, "b1": 256, "b2": 288, "b3": 320, "b4": 384, "b5": 456, "b6": 528, "b7": 600}
"""Short side in pixels before the center crop, by EfficientNet; of the first published weights, all bicubic."""

_BLOCK = {"reduce": "1", "spatial": "2", "expand": "3"}


def resnet_mappings(arch: ResNetArch) -> list[KeyMapping]:
    """The mappings of a ResNet, without the update counters of norms, which some files lack."""
    found = key_mappings(arch, _resnet_names, "{}.{}".format, library="torch")
    return [mapping for mapping in found if not is_ignored(mapping.source)]


def _resnet_names(layer: LayerId) -> LayerNames:
    if layer.role == "classifier":
        return LayerNames("fc")
    if layer.role == "stem":
        return LayerNames("conv1", "bn1")
    block = f"layer{layer.stage - 1}.{layer.block}"
    if layer.role == "shortcut":
        return LayerNames(f"{block}.downsample.0", f"{block}.downsample.1")
    return LayerNames(f"{block}.conv{_BLOCK[layer.role]}", f"{block}.bn{_BLOCK[layer.role]}")


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
    return mappings_by_prefix(prefixes, expected)


def mappings_by_prefix(prefixes: Mapping[str, str], expected: Mapping[str, Tensor]) -> list[KeyMapping]:
    """The mappings of all tensors `expected`, without update counters: their names differ from ours in `prefixes`."""
    found: list[KeyMapping] = []
    for ours in expected:
        start = next(start for start in prefixes if ours.startswith(start))
        if not is_ignored(ours):
            found.append(KeyMapping(prefixes[start] + ours.removeprefix(start), ours))
    return found


def is_ignored(name: str) -> bool:
    """Whether a tensor can be ignored: the update counter of a norm."""
    return name.endswith(COUNTER)
