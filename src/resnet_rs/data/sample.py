"""What flows through the pipeline: `Request` (what is asked of a source), `Sample` (one item), `Batch` (many).

`Unreadable` says why a sample could not be decoded.

Shapes: `B` batch, `C` channels, `T` frames (clips only), `H W` pixels, `V` views (only with more than one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from resnet_rs.data.target import Target

Targets = Tensor | Mapping[str, Tensor]
"""The targets of a batch: a tensor, or several by name. The first dimension of each is the batch."""

Collate = Callable[[Sequence[Target]], Targets]
"""Makes the targets of a batch; a method of every task."""


@dataclass(frozen=True)
class Frames:
    """Which frames of a video are asked for."""

    count: int
    stride: int = 1
    """Frames from one to the next."""
    start: float = 0.5
    """Where the clip begins, as a share of the places where it can begin: 0 is the earliest, 1 the latest."""

    def indices(self, length: int) -> Int[np.ndarray, " {self.count}"]:
        """The frames of a video of `length` frames. A video that is too short repeats its last frame."""
        free = max(0, length - 1 - (self.count - 1) * self.stride)
        first = min(int(self.start * (free + 1)), free)
        return np.minimum(first + self.stride * np.arange(self.count), length - 1)


class Request(NamedTuple):
    """How a sample is to be read."""

    channels: int
    frames: Frames | None = None
    """For videos: which frames; None asks for all."""
    max_short_side: int | None = None
    """For images: the most pixels that the shorter side needs to have; a source may shrink larger images."""


class Sample(NamedTuple):
    """One item of a source, decoded."""

    input: UInt8[np.ndarray, "... H W C"]
    """An image [H, W, C] or a clip [T, H, W, C]."""
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
    """Images [B, C, H, W] or clips [B, C, T, H, W], uint8 or float32 on the 0-255 scale; [B, V, ...] with views."""
    targets: Targets
    indices: Int[Tensor, " B"]
    """Which samples of the source these are."""
    global_indices: Int[Tensor, " B"]
    """Their places in the run, counted over all epochs. The model's random draws depend on them."""
    unreadable: tuple[Unreadable, ...] = ()
    """The samples of this batch that could not be decoded."""


def map_targets(function: Callable[[Any], Any], targets: Any) -> Any:  # noqa: ANN401 - tensors, or arrays in a pipe
    """`function` of every tensor of `targets`."""
    if isinstance(targets, Mapping):
        return {name: function(tensor) for name, tensor in targets.items()}
    return function(targets)
