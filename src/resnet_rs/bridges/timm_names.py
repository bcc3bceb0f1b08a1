"""Weights between timm's `resnetrs*` models and ours: another name for every tensor, the same numbers.

Ours is a `Model` of a `ResNet` (released stem, pooled shortcuts, squeeze-and-excitation) and a
`ClassificationHead`. Every depth is understood: the blocks of a stage are counted by name. timm itself
is not needed.

Source: timm 1.0 (`timm/models/resnet.py`, `timm/layers/squeeze_excite.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from resnet_rs.bridges.network import Rule, refuse_others
from resnet_rs.models.backbone import Arch
from resnet_rs.models.resnet import BLOCKS, ResNetArch

DEPTHS = (50, 101, 152, 200, 270, 350, 420)
"""Of its ResNet-RS: `resnetrs50` to `resnetrs420`."""

_KERNEL = ("weight",)
_AFFINE = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

_OPTIONAL = "num_batches_tracked"
"""Counts the updates of a norm, and is read only by norms without momentum; many checkpoints leave it out."""

_STEM = {
    "conv1.0": ("stem.0", _KERNEL),
    "conv1.1": ("stem.1", _NORM),
    "conv1.3": ("stem.3", _KERNEL),
    "conv1.4": ("stem.4", _NORM),
    "conv1.6": ("stem.6", _KERNEL),
    "bn1": ("stem.7", _NORM),
    # timm keeps the name of the max-pool for the strided convolution in its place.
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
# A pool comes first where a stage halves its map; in c2 timm puts an identity there, and we put nothing.
_SHORTCUT_C2 = {"downsample.1": ("shortcut.0", _KERNEL), "downsample.2": ("shortcut.1", _NORM)}
_SHORTCUT = {"downsample.1": ("shortcut.1", _KERNEL), "downsample.2": ("shortcut.2", _NORM)}

# No network has a thousand blocks in a stage, and a forged index must not make us list a billion names.
_TIMM_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.")
_OUR_BLOCK = re.compile(r"backbone\.c([2-5])\.(\d{1,3})\.")


def depth_of(arch: Arch) -> int | None:
    """Which of timm's ResNet-RS has this arch; none if none has. What acts in training alone is free."""
    if not isinstance(arch, ResNetArch):
        return None
    bare = replace(arch, drop_path=0.0, norm_momentum=1.0, zero_init=True)
    return next((depth for depth in DEPTHS if bare == ResNetArch(blocks=BLOCKS[depth])), None)


def from_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a timm `resnetrs*` model under our names, for `Model.load_state_dict`.

    The tensors share their memory with those given. Raises `ValueError` with the names unknown or missing.
    """
    names = dict(_names(_count_blocks(_TIMM_BLOCK, state_dict, first_stage=1)))
    _check(state_dict, known=names, origin="a timm resnetrs model")
    return {names[name]: _as_linear(name, tensor) for name, tensor in state_dict.items()}


def under_our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, whether they come under these or under timm's."""
    return from_timm(state_dict) if "conv1.0.weight" in state_dict else state_dict


def to_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, as from `Model.state_dict`, under the names of timm's `resnetrs*` models.

    The tensors share their memory with those given. Raises `ValueError` with the names unknown or missing.
    """
    names = {ours: timm for timm, ours in _names(_count_blocks(_OUR_BLOCK, state_dict, first_stage=2))}
    _check(state_dict, known=names, origin="a ResNet-RS with a classification head")
    return {names[name]: _as_convolution(names[name], tensor) for name, tensor in state_dict.items()}


def is_resnet_rs(architecture: str) -> bool:
    """Whether timm calls a ResNet-RS so: its own, `resnetrs50`, or ours that is registered, `resnet_rs_50`."""
    return architecture in {f"{start}{depth}" for start in ("resnetrs", "resnet_rs_") for depth in DEPTHS}


def count_blocks(names: Iterable[str]) -> list[int]:
    """Blocks in c2, c3, c4 and c5 of a ResNet with timm's, torchvision's or our names."""
    known = list(names)
    counts = _count_blocks(_TIMM_BLOCK, known, first_stage=1), _count_blocks(_OUR_BLOCK, known, first_stage=2)
    return max(counts, key=sum)


def rules(names: Iterable[str]) -> list[Rule]:
    """The rules of a timm `resnetrs*` model; of counters of updates those that there are."""
    given = set(names)
    pairs = _names(count_blocks(given))
    return [
        Rule(timm, ours, "matrix of OIHW" if _is_squeeze(timm) else "as it is")
        for timm, ours in pairs
        if timm in given or not timm.endswith(_OPTIONAL)
    ]


def _count_blocks(pattern: re.Pattern[str], names: Iterable[str], *, first_stage: int) -> list[int]:
    """Blocks in c2, c3, c4 and c5, by the highest index; an absent stage counts 1, to be missed by name."""
    counts = [1, 1, 1, 1]
    for name in names:
        if match := pattern.match(name):
            stage = int(match[1]) - first_stage
            counts[stage] = max(counts[stage], int(match[2]) + 1)
    return counts


def _names(num_blocks: list[int]) -> Iterator[tuple[str, str]]:
    """All pairs of timm's name and ours in a network with that many blocks per stage."""
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


def _check(given: Mapping[str, Tensor], *, known: Mapping[str, str], origin: str) -> None:
    refuse_others(
        unknown=[name for name in given if name not in known],
        missing=[name for name in known if name not in given and not name.endswith(_OPTIONAL)],
        origin=origin,
    )


def _is_squeeze(timm_name: str) -> bool:
    return timm_name.endswith((".se.fc1.weight", ".se.fc2.weight"))


def _as_linear(timm_name: str, tensor: Tensor) -> Tensor:
    """timm's squeezing kernels without their two axes of space: [D, C, 1, 1] -> [D, C]."""
    if not _is_squeeze(timm_name):
        return tensor
    if tensor.dim() != 4 or tensor.shape[2:] != (1, 1):
        raise ValueError(f"{timm_name} must have shape [D, C, 1, 1], got {list(tensor.shape)}.")
    return tensor.flatten(1)


def _as_convolution(timm_name: str, tensor: Tensor) -> Tensor:
    """Our squeezing weights as timm's 1x1 kernels: [D, C] -> [D, C, 1, 1]."""
    if not _is_squeeze(timm_name):
        return tensor
    if tensor.dim() != 2:
        raise ValueError(f"for {timm_name} a weight must have shape [D, C], got {list(tensor.shape)}.")
    return tensor[:, :, None, None]
