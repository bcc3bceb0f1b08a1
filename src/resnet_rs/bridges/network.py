"""Layers and tensors of our ResNets, and how the tensors of another library are mapped to ours.

A bridge knows the names in the other library: it names the convolution and the norm of every `LayerId`. From these
names comes one `KeyMapping` per tensor, which `map_state_dict` applies: it uses every variable of the source once, sets
each of our tensors once, and refuses what is unknown or missing by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from resnet_rs.models.resnet import ResNetArch
from resnet_rs.text import listed

Role = Literal["stem", "shortcut", "reduce", "spatial", "expand", "squeeze", "excite", "classifier"]
Library = Literal["tensorflow", "torch"]
"""TensorFlow's kernels are HWIO and its matrices IO; PyTorch's and ours are OIHW and OI."""
COUNTER = "num_batches_tracked"
"""Update counter of a norm in PyTorch. Only norms without momentum read it, and many files lack it."""
_NORM: dict[Library, dict[str, str]] = {
    "tensorflow": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "torch": {part: part for part in ("weight", "bias", "running_mean", "running_var", COUNTER)},
}
_MAX_LISTED = 20
_STEM_CONVS = {"2015": 1, "small": 3, "released": 4}


class LayerId(NamedTuple):
    """A convolution or linear layer of a ResNet."""

    role: Role
    stage: int = 0
    """2 to 5; 0 in the stem and the head."""
    block: int = 0
    """Index in the stage; in the stem the index of the convolution."""


class LayerNames(NamedTuple):
    """The names of a layer and of the norm behind it; `norm` is empty where there is none."""

    layer: str
    norm: str = ""


class KeyMapping(NamedTuple):
    """A variable of the source, and our tensor that takes its values."""

    source: str
    target: str
    library: Library = "torch"
    """Whose layout the source has."""
    is_matrix: bool = False
    """Whether our weight is a matrix; in squeeze-and-excitation others store the same values as a 1x1 kernel."""


@runtime_checkable
class TensorFile(Protocol):
    """Weights of another library: arrays by name, read on request."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time, in any order."""
        ...


def layer_ids(arch: ResNetArch) -> Iterator[LayerId]:
    """All layers of a ResNet except the classifier, in the order in which the TF1 release creates them."""
    for i in range(_STEM_CONVS[arch.stem]):
        yield LayerId("stem", block=i)
    for stage, num_blocks in enumerate(arch.blocks, start=2):
        for block in range(num_blocks):
            if block == 0:
                yield LayerId("shortcut", stage, block)
            roles: tuple[Role, ...] = ("reduce", "spatial", "expand")
            excite: tuple[Role, ...] = ("squeeze", "excite") if arch.se_ratio is not None else ()
            for role in (*roles, *excite):
                yield LayerId(role, stage, block)


def our_names(layer: LayerId, arch: ResNetArch) -> LayerNames:
    """Our names of a layer and its norm."""
    if layer.role == "classifier":
        return LayerNames("head.classifier")
    if layer.role == "stem":
        return LayerNames(f"backbone.stem.{3 * layer.block}", f"backbone.stem.{3 * layer.block + 1}")
    block = f"backbone.c{layer.stage}.{layer.block}"
    if layer.role in ("squeeze", "excite"):
        return LayerNames(f"{block}.excite.{'reduce' if layer.role == 'squeeze' else 'expand'}")
    # A pool may come before the convolution of a shortcut.
    has_pool = layer.role == "shortcut" and arch.shortcut_pool(stride=1 if layer.stage == 2 else 2)
    first = 1 if has_pool else 0
    return LayerNames(f"{block}.{layer.role}.{first}", f"{block}.{layer.role}.{first + 1}")


def key_mappings(
    arch: ResNetArch,
    names: Callable[[LayerId], LayerNames],
    variable: Callable[[str, str], str],
    *,
    library: Library,
    has_head: bool = True,
) -> list[KeyMapping]:
    """A mapping for each of our tensors: `names(layer)` and `variable(layer, part)` are names in the other library."""
    found: list[KeyMapping] = []
    weight = "kernel" if library == "tensorflow" else "weight"
    for layer in (*layer_ids(arch), *([LayerId("classifier")] if has_head else [])):
        ours, theirs = our_names(layer, arch), names(layer)
        is_matrix = layer.role in ("squeeze", "excite")
        found.append(KeyMapping(variable(theirs.layer, weight), f"{ours.layer}.weight", library, is_matrix))
        if ours.norm:
            for part, our_part in _NORM[library].items():
                found.append(KeyMapping(variable(theirs.norm, part), f"{ours.norm}.{our_part}"))
        else:
            found.append(KeyMapping(variable(theirs.layer, "bias"), f"{ours.layer}.bias"))
    return found


def map_state_dict(
    file: TensorFile,
    mappings: Sequence[KeyMapping],
    expected: Mapping[str, Tensor],
    *,
    ignored: Callable[[str], bool],
    origin: str,
) -> dict[str, Tensor]:
    """A state dict like `expected` with the values of `file`; update counters that the file lacks are zero.

    `ignored` tells which variables of the file do not belong to the network, such as those of an optimizer. Raises
    `ValueError` with the names that are unknown, missing, or of another shape.
    """
    by_source = {mapping.source: mapping for mapping in mappings}
    used = [name for name in file.shapes if name in by_source or not ignored(name)]
    refuse_unmatched(used, by_source, message=f"{origin} does not hold the weights of this network")
    for mapping in mappings:  # before anything is read
        _refuse_shape(file.shapes[mapping.source], mapping, expected, origin)
    found = {
        name: torch.zeros_like(tensor, device="cpu")
        for name, tensor in expected.items()
        if name.endswith(COUNTER)
    }
    for name, array in file.read_many(by_source):
        target, tensor = by_source[name].target, torch.from_numpy(np.asarray(array, order="C"))
        dtype = expected[target].dtype
        if tensor.is_floating_point() != dtype.is_floating_point:
            raise ValueError(f"{name} of {origin} has dtype {tensor.dtype}; {target} needs {dtype}.")
        found[target] = in_our_layout(tensor.to(dtype), by_source[name])
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"{origin} has no values for {listed(missing, at_most=_MAX_LISTED)}.")
    return found


def in_our_layout(tensor: Tensor, mapping: KeyMapping) -> Tensor:
    """A tensor of the source in our layout. The caller compares its shape."""
    if mapping.library == "tensorflow" and tensor.dim() in (2, 4):
        tensor = tensor.t() if tensor.dim() == 2 else tensor.permute(3, 2, 0, 1)
    if mapping.is_matrix and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)
    return tensor.contiguous()


def refuse_unmatched(given: Iterable[str], known: Iterable[str], *, message: str) -> None:
    """Refuse weights with the names `given`, unless these are the names `known`; the error begins with `message`."""
    names, expected = dict.fromkeys(given), dict.fromkeys(known)
    kinds = {
        "unknown": [name for name in names if name not in expected],
        "missing": [name for name in expected if name not in names],
    }
    mismatches = [f"{kind}: {listed(names, at_most=_MAX_LISTED)}" for kind, names in kinds.items() if names]
    if mismatches:
        raise ValueError(f"{message}; {'; '.join(mismatches)}.")


def _refuse_shape(
    shape: tuple[int, ...], mapping: KeyMapping, expected: Mapping[str, Tensor], origin: str
) -> None:
    ours = tuple(in_our_layout(torch.empty(shape, device="meta"), mapping).shape)
    target = expected.get(mapping.target)
    if target is None or ours != tuple(target.shape):
        needed = "is not in this network" if target is None else f"needs {list(target.shape)}"
        raise ValueError(f"{mapping.source} of {origin} has shape {list(shape)}; {mapping.target} {needed}.")
