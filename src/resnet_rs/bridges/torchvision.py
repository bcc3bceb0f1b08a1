"""torchvision's ResNets (bottleneck) and EfficientNets: other names for the same tensors.

Its ResNets have the stem of 2015, plain shortcuts, and the stride in the 3x3 ("V1.5"). Its EfficientNets are built of
the same blocks as ours.

Source: torchvision 0.25 (`models/resnet.py`, `models/efficientnet.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from resnet_rs.bridges.network import Names, Rule, Spot, our_names, spots
from resnet_rs.models.resnet import ResNetArch

RESIZED = {"b0": 256, "b1": 256, "b2": 288, "b3": 320, "b4": 384, "b5": 456, "b6": 528, "b7": 600}
"""EfficientNet -> pixels of the short side before the center is taken out, in its first weights: bicubic all."""

_NORM = ("weight", "bias", "running_mean", "running_var")
_BLOCK = {"reduce": "1", "spatial": "2", "expand": "3"}


def resnet_rules(arch: ResNetArch) -> list[Rule]:
    """The rules of a ResNet; counters of updates, which torchvision's weights hold or not, are left out."""
    found: list[Rule] = []
    for spot in (*spots(arch), Spot("classifier")):
        ours, theirs = our_names(spot, arch), _resnet_names(spot)
        found.append(Rule(f"{theirs.layer}.weight", f"{ours.layer}.weight"))
        if spot.role == "classifier":
            found.append(Rule(f"{theirs.layer}.bias", f"{ours.layer}.bias"))
        if theirs.norm is not None:
            found += [Rule(f"{theirs.norm}.{part}", f"{ours.norm}.{part}") for part in _NORM]
    return found


def _resnet_names(spot: Spot) -> Names:
    if spot.role == "classifier":
        return Names("fc", None)
    if spot.role == "stem":
        return Names("conv1", "bn1")
    block = f"layer{spot.stage - 1}.{spot.block}"
    if spot.role == "shortcut":
        return Names(f"{block}.downsample.0", f"{block}.downsample.1")
    return Names(f"{block}.conv{_BLOCK[spot.role]}", f"{block}.bn{_BLOCK[spot.role]}")


def efficientnet_rules(expected: Mapping[str, Tensor], group_sizes: tuple[int, ...]) -> list[Rule]:
    """The rules of an EfficientNet whose groups have `group_sizes` blocks; `expected` are our tensors.

    torchvision counts its parts through (`features.0` the first convolution, 1 to 7 the groups, 8 the last one); we
    keep some groups together in a stage.
    """
    places = {"backbone.stem.0.": "features.0."}
    stages = {"stem": (1,), "c2": (2,), "c3": (3,), "c4": (4, 5), "c5": (6, 7)}
    for stage, groups in stages.items():
        place = int(stage == "stem")
        for group in groups:
            for block in range(group_sizes[group - 1]):
                places[f"backbone.{stage}.{place}."] = f"features.{group}.{block}."
                place += 1
        if stage == "c5":
            places[f"backbone.{stage}.{place}."] = "features.8."
    places["head.classifier."] = "classifier.1."
    found: list[Rule] = []
    for ours in expected:
        start = next(start for start in places if ours.startswith(start))
        if not ours.endswith("num_batches_tracked"):
            found.append(Rule(places[start] + ours.removeprefix(start), ours))
    return found


def is_other(name: str) -> bool:
    """Whether a tensor may be left aside: the counters of updates."""
    return name.endswith("num_batches_tracked")
