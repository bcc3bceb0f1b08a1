"""How the tensors of another library are mapped to ours.

A bridge has a table from the paths of our layers to theirs. From it comes one `KeyMapping` per tensor, which
`map_state_dict` applies: it uses every variable of the source once, sets each of our tensors once, and refuses what is
unknown or missing by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from resnet_rs.text import listed

Library = Literal["tensorflow", "torch"]
"""TensorFlow's kernels are HWIO and its matrices IO; PyTorch's and ours are OIHW and OI."""
COUNTER = "num_batches_tracked"
"""Update counter of a norm in PyTorch. Only norms without momentum read it, and many files lack it."""
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""TensorFlow's names of the parts of a norm."""
_MAX_LISTED = 20


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


def layer_path(name: str, expected: Mapping[str, Tensor]) -> str:
    """The path of the layer of our tensor `name`, such as `backbone.stem.0.`.

    A pool may come before the convolution of a shortcut, so its layers are `shortcut.conv.` and `shortcut.norm.`.
    """
    layer = name.rpartition(".")[0]
    kind = "norm" if f"{layer}.running_mean" in expected else "conv"
    return re.sub(r"shortcut\.\d\.$", f"shortcut.{kind}.", f"{layer}.")


def key_mappings(
    expected: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    library: Library = "torch",
    suffix: str = "",
    has_counters: bool = False,
) -> list[KeyMapping]:
    """A mapping for each of our tensors `expected`, with or without the update counters of norms.

    `names` are replaced in the paths of our layers, in order; `suffix` ends every name of the other library.
    """
    found: list[KeyMapping] = []
    for ours, tensor in expected.items():
        if is_counter(ours) and not has_counters:
            continue
        theirs, (layer, _, part) = layer_path(ours, expected), ours.rpartition(".")
        for path, their_path in names.items():
            theirs = theirs.replace(path, their_path)
        if library == "tensorflow":
            is_norm = f"{layer}.running_mean" in expected
            part = _NORM[part] if is_norm else {"weight": "kernel", "bias": "bias"}[part]
        is_matrix = ".excite." in ours and tensor.dim() == 2
        found.append(KeyMapping(f"{theirs}{part}{suffix}", ours, library, is_matrix))
    return found


def is_counter(name: str) -> bool:
    """Whether a tensor is the update counter of a norm."""
    return name.endswith(COUNTER)


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
        shape, target = file.shapes[mapping.source], expected.get(mapping.target)
        ours = in_our_layout(torch.empty(shape, device="meta"), mapping).shape
        if target is None or ours != target.shape:
            needed = "is not in this network" if target is None else f"needs {list(target.shape)}"
            raise ValueError(
                f"{mapping.source} of {origin} has shape {list(shape)}; {mapping.target} {needed}."
            )
    found = {
        name: torch.zeros_like(tensor, device="cpu") for name, tensor in expected.items() if is_counter(name)
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
