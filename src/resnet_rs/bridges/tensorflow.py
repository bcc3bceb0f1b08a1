"""TensorFlow's ResNet-RS: the TF1 release (the paper's weights) and the TF2 Model Garden.

- TF1 numbers its layers as they are made: `conv2d`, `conv2d_1`, ...; squeeze-and-excitation counts among the
  convolutions. Every variable has an average beside it, batch-norm statistics included.
- The Model Garden numbers the layers of the backbone that have weights; averages, where an optimizer kept them, are
  its slots. Its networks differ from the paper's: SiLU, SAME padding, a pooled shortcut in c2 as well, and a class 0
  for the background.

Source: TF1 release (`resnet_model.py`, its graph); Model Garden (`official/vision/modeling/backbones/resnet.py`), run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from resnet_rs.bridges.network import Names, Rule, Spot, spots, tensorflow_rules
from resnet_rs.models.resnet import ResNetArch

Shapes = Mapping[str, tuple[int, ...]]

_AVERAGE = "/ExponentialMovingAverage"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT_OF_AVERAGE = "/.OPTIMIZER_SLOT/optimizer/average"
_SLOT = re.compile(r"/\.OPTIMIZER_SLOT/[^/]+/[^/]+(?=/\.ATTRIBUTES/)")
_GARDEN_LAYER = re.compile(r"backbone/layer_with_weights-(\d{1,4})/")
GARDEN_BIAS = f"model/layer_with_weights-1/bias{_ATTRIBUTE}"
_GARDEN_STEM = 8
"""Layers with weights before the first block: four convolutions, each with its norm."""
_GARDEN = {"reduce": "1", "spatial": "2", "expand": "3"}


def tf1_rules(arch: ResNetArch, *, raw: bool) -> list[Rule]:
    """The rules of the TF1 release's variables: their averages, or with `raw` themselves."""
    counted: dict[Spot, Names] = {}
    num_convs = num_norms = 0
    for spot in spots(arch):
        has_norm = spot.role not in ("squeeze", "excite")
        norm = _numbered("batch_normalization", num_norms) if has_norm else None
        counted[spot] = Names(_numbered("conv2d", num_convs), norm)
        num_convs, num_norms = num_convs + 1, num_norms + has_norm
    counted[Spot("classifier")] = Names("dense", None)
    suffix = "" if raw else _AVERAGE
    return tensorflow_rules(
        arch, counted.__getitem__, variable=lambda layer, part: f"{layer}/{part}{suffix}", has_head=True
    )


def beside_tf1(rules: list[Rule]) -> Callable[[str], bool]:
    """Which variables may be left aside: the step, and what belongs to a variable that is used: average, momentum."""
    used = {_base(rule.theirs) for rule in rules}
    return lambda name: name == "global_step" or _base(name) in used


def _base(name: str) -> str:
    """The variable that an average or a momentum is of."""
    return name.removesuffix(_AVERAGE).removesuffix("/Momentum")


def garden_rules(arch: ResNetArch, *, averages: bool) -> list[Rule]:
    """The rules of the Model Garden's variables, or of their averages."""
    rows: dict[tuple[int, int], int] = {}
    for stage, num_blocks in enumerate(arch.blocks, start=2):
        for block in range(num_blocks):
            rows[stage, block] = _GARDEN_STEM + len(rows)

    def theirs(spot: Spot) -> Names:
        if spot.role == "classifier":
            return Names("model/layer_with_weights-1", None)
        if spot.role == "stem":
            return Names(_layer(2 * spot.block), _layer(2 * spot.block + 1))
        block = _layer(rows[spot.stage, spot.block])
        if spot.role == "shortcut":
            return Names(f"{block}/_shortcut1", f"{block}/_norm0")
        if spot.role in _GARDEN:
            return Names(f"{block}/_conv{_GARDEN[spot.role]}", f"{block}/_norm{_GARDEN[spot.role]}")
        return Names(
            f"{block}/_squeeze_excitation/_se_{'reduce' if spot.role == 'squeeze' else 'expand'}", None
        )

    return tensorflow_rules(arch, theirs, variable=_garden_variable(averages=averages), has_head=True)


def beside_garden(rules: list[Rule]) -> Callable[[str], bool]:
    """Which variables may be left aside: what is none of the network's, and what belongs to a variable that is used."""
    used = {_SLOT.sub("", rule.theirs) for rule in rules}

    def is_beside(name: str) -> bool:
        return not name.startswith(("backbone/", "model/")) or _SLOT.sub("", name) in used

    return is_beside


def has_averages(shapes: Shapes) -> bool:
    """Whether a checkpoint of either kind holds averages."""
    return any(name.endswith(_AVERAGE) or _SLOT_OF_AVERAGE in name for name in shapes)


def count_blocks_of_tf1(shapes: Shapes) -> int:
    """All blocks of a TF1 network: its convolutions without the stem's and the shortcuts', five to a block."""
    plain = {name.removesuffix(_AVERAGE) for name in shapes}
    return (sum(re.fullmatch(r"conv2d(_\d+)?/kernel", name) is not None for name in plain) - 8) // 5


def count_blocks_of_garden(shapes: Shapes) -> int:
    """All blocks of a Model Garden network."""
    return max((int(m[1]) for m in map(_GARDEN_LAYER.match, shapes) if m), default=-1) + 1 - _GARDEN_STEM


def _garden_variable(*, averages: bool) -> Callable[[str, str], str]:
    slot = _SLOT_OF_AVERAGE if averages else ""
    return lambda layer, part: f"{layer}/{part}{slot}{_ATTRIBUTE}"


def _numbered(name: str, i: int) -> str:
    return name if i == 0 else f"{name}_{i}"


def _layer(i: int) -> str:
    return f"backbone/layer_with_weights-{i}"
