"""What flows through the pipeline: `Sample` (one item), `Batch` (many), `Unreadable` (why there is none).

Shapes: `B` batch, `C` channels, `T` frames (of clips only), `H W` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """A target with one class per pixel: it is cropped, flipped and resized (nearest neighbor) with its picture."""

    classes: Int[np.ndarray, "H W"]


Target = int | Mask
"""What is to be predicted: the index of a class, or a mask of them."""


class Sample(NamedTuple):
    """One item of a source, decoded."""

    input: UInt8[np.ndarray, "... H W C"]
    """A picture [H, W, C] or a clip [T, H, W, C]."""
    target: Target
    key: str
    """Names the sample in reports: the path below the data root, or `builtin/test/17`."""


class Unreadable(Exception):
    """A sample that cannot be decoded; `key` names it and `reason` says why, in one line."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.key!r}: {self.reason}"


class Batch(NamedTuple):
    """Samples that are computed together. Unreadable ones are left out, never replaced."""

    inputs: Tensor
    """Pictures [B, C, H, W] or clips [B, C, T, H, W], uint8 or float32 on the 0-255 scale."""
    targets: Tensor
    """Class indices [B] or masks [B, H, W], int64."""
    indices: Int[Tensor, " B"]
    """Which samples of the source these are."""
    positions: Int[Tensor, " B"]
    """Their places in the run, counted over all epochs; every draw of the model is keyed by them."""
    unreadable: tuple[Unreadable, ...] = ()
    """The samples that belong here and could not be decoded."""


def join(batches: list[Batch]) -> Batch:
    """One batch of all samples of `batches`, in their order."""
    return Batch(
        inputs=torch.cat([batch.inputs for batch in batches]),
        targets=torch.cat([batch.targets for batch in batches]),
        indices=torch.cat([batch.indices for batch in batches]),
        positions=torch.cat([batch.positions for batch in batches]),
        unreadable=tuple(error for batch in batches for error in batch.unreadable),
    )
