"""Tensor names of timm's `resnetrs*` models, and state dicts renamed from timm to ours and back.

Ours is a `Model` of a `ResNet` (released stem, pooled shortcuts, squeeze-and-excitation) and a `ClassificationHead`.
Networks of any depth can be renamed: the names tell the number of blocks in each stage. timm itself is not needed.

Source: timm 1.0 (`timm/models/resnet.py`, `timm/layers/squeeze_excite.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from resnet_rs.bridges.network import KeyMapping, refuse_unmatched, transformed
from resnet_rs.models.backbone import Arch
from resnet_rs.models.resnet import BLOCKS, ResNetArch

DEPTHS = (50, 101, 152, 200, 270, 350, 420)
"""Depths of timm's ResNet-RS, `resnetrs50` to `resnetrs420`."""

_KERNEL = ("weight",)
_AFFINE = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

_OPTIONAL = "num_batches_tracked"
"""Update counter of a norm; only norms without momentum read it, and many checkpoints lack it."""

_SQUEEZE = (".se.fc1.weight", ".se.fc2.weight")
"""timm's 1x1 kernels of squeeze-and-excitation; ours are matrices."""

_STEM = {
    "conv1.0": ("stem.0", _KERNEL),
    "conv1.1": ("stem.1", _NORM),
    "conv1.3": ("stem.3", _KERNEL),
    "conv1.4": ("stem.4", _NORM),
    "conv1.6": ("stem.6", _KERNEL),
    "bn1": ("stem.7", _NORM),
    # timm's name of the strided convolution that replaces the max-pool.
    "maxpool.0": ("stem.9", _KERNEL),
    "maxpool.1": ("stem.10", _NORM),
}
_BLOCK = {
    "conv1": ("reduce.0", _KERNEL),
    "bn1": ("reduce.1", _NORM),
    "conv2": ("spatial.0", _KERNEL),
    "bn2": ("spatial.1", _NORM),
    "conv3": ("expand.0", _KERNEL),
    "bn3": ("expand.1", _NORM),
    "se.fc1": ("excite.reduce", _AFFINE),
    "se.fc2": ("excite.expand", _AFFINE),
}
# The first layer is a pool if the stage halves its map. In c2 timm has an identity instead, and we have nothing.
_SHORTCUT_C2 = {"downsample.1": ("shortcut.0", _KERNEL), "downsample.2": ("shortcut.1", _NORM)}
_SHORTCUT = {"downsample.1": ("shortcut.1", _KERNEL), "downsample.2": ("shortcut.2", _NORM)}

# Three digits, so that a forged index cannot create a billion names.
_TIMM_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.")
_OUR_BLOCK = re.compile(r"backbone\.c([2-5])\.(\d{1,3})\.")


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
    _refuse_unmatched(state_dict, known, origin="a timm resnetrs model")
    return {known[n].target: transformed(tensor, known[n].transform) for n, tensor in state_dict.items()}


def with_our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names; those given may have timm's names or ours."""
    return from_timm(state_dict) if "conv1.0.weight" in state_dict else state_dict


def to_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, as from `Model.state_dict`, under the names of timm's `resnetrs*` models.

    The tensors share memory with the given ones. Raises `ValueError` with the names that are unknown or missing.
    """
    known = {mapping.target: mapping for mapping in mappings(state_dict)}
    _refuse_unmatched(state_dict, known, origin="a ResNet-RS with a classification head")
    return {
        known[name].source: tensor if known[name].transform == "none" else tensor[:, :, None, None]
        for name, tensor in state_dict.items()
    }


def mappings(names: Iterable[str]) -> list[KeyMapping]:
    """The mappings of a timm `resnetrs*` model with these names, timm's or ours; update counters only if present."""
    given = set(names)
    return [
        KeyMapping(timm, ours, "OIHW to matrix" if timm.endswith(_SQUEEZE) else "none")
        for timm, ours in _names(count_blocks(given))
        if timm in given or ours in given or not timm.endswith(_OPTIONAL)
    ]


def count_blocks(names: Iterable[str]) -> list[int]:
    """Blocks in c2, c3, c4 and c5 of a ResNet with timm's, torchvision's or our names."""
    known = list(names)
    counts = _count_blocks(_TIMM_BLOCK, known, first_stage=1), _count_blocks(_OUR_BLOCK, known, first_stage=2)
    return max(counts, key=sum)


def _count_blocks(pattern: re.Pattern[str], names: Iterable[str], *, first_stage: int) -> list[int]:
    """Blocks in c2, c3, c4 and c5, from the highest index. A stage without names counts one block, reported missing."""
    counts = [1, 1, 1, 1]
    for name in names:
        if match := pattern.match(name):
            stage = int(match[1]) - first_stage
            counts[stage] = max(counts[stage], int(match[2]) + 1)
    return counts


def _names(num_blocks: list[int]) -> Iterator[tuple[str, str]]:
    """All pairs of timm's name and ours in a network with these numbers of blocks per stage."""
    yield from _prefixed(_STEM, timm="", ours="backbone.")
    for i, count in enumerate(num_blocks):
        for j in range(count):
            timm, ours = f"layer{i + 1}.{j}.", f"backbone.c{i + 2}.{j}."
            yield from _prefixed(_BLOCK, timm=timm, ours=ours)
            if j == 0:
                yield from _prefixed(_SHORTCUT_C2 if i == 0 else _SHORTCUT, timm=timm, ours=ours)
    yield from _prefixed({"fc": ("head.classifier", _AFFINE)}, timm="", ours="")


def _prefixed(
    layers: Mapping[str, tuple[str, tuple[str, ...]]], *, timm: str, ours: str
) -> Iterator[tuple[str, str]]:
    for timm_layer, (our_layer, tensors) in layers.items():
        for tensor in tensors:
            yield f"{timm}{timm_layer}.{tensor}", f"{ours}{our_layer}.{tensor}"


def _refuse_unmatched(given: Mapping[str, Tensor], known: Mapping[str, KeyMapping], *, origin: str) -> None:
    refuse_unmatched(
        unknown=[name for name in given if name not in known],
        missing=[name for name in known if name not in given],
        origin=origin,
    )
