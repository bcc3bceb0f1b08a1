"""A drawn world: discs, squares and triangles on a noisy ground, with labels, masks and motion, for tests of
the seams.

Every sample is a pure function of (seed, index), so there are no files. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from resnet_rs import draws
from resnet_rs.data.sample import Mask, Sample
from resnet_rs.data.source import Source

SHAPES = ("disc", "square", "triangle")
MOTIONS = ("left", "right", "up", "down")

_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


@dataclass(frozen=True, kw_only=True)
class Shapes(Source):
    """One bright shape per picture, or moving through a clip."""

    num_samples: int
    size: int = 32
    """Pixels per side."""
    asks: Literal["shape", "mask", "motion"] = "shape"
    """The target: which shape; which shape at every pixel (0 is the ground); or, in clips, where it moves."""
    num_frames: int = 8
    """Length of the clips that `motion` asks for."""
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return {"shape": SHAPES, "mask": ("ground", *SHAPES), "motion": MOTIONS}[self.asks]

    def __len__(self) -> int:
        return self.num_samples

    def key(self, index: int) -> str:
        return f"shapes/{self.asks}/{self.seed}/{index}"

    def read(self, index: int, *, channels: int) -> Sample:
        rng = draws.generator(self.seed, "shapes", index)
        shape = int(rng.integers(len(SHAPES)))
        if self.asks == "motion":
            motion = int(rng.integers(len(MOTIONS)))
            return Sample(self._clip(rng, shape, MOTIONS[motion], channels), motion, self.key(index))
        radius = rng.uniform(0.15, 0.3) * self.size
        center = rng.uniform(radius, self.size - radius, 2)
        inside = self._inside(SHAPES[shape], center, radius)
        target = Mask(inside * (shape + 1)) if self.asks == "mask" else shape
        return Sample(self._paint(rng, inside, channels), target, self.key(index))

    def _clip(
        self, rng: np.random.Generator, shape: int, motion: str, channels: int
    ) -> UInt8[np.ndarray, "T H W C"]:
        """The shape crosses the middle of the clip halfway through."""
        radius = 0.2 * self.size
        step = np.array(_STEPS[motion]) * self.size / (2 * self.num_frames)
        times = np.arange(self.num_frames) - (self.num_frames - 1) / 2
        frames = [self._inside(SHAPES[shape], self.size / 2 + t * step, radius) for t in times]
        return np.stack([self._paint(rng, inside, channels) for inside in frames])

    def _inside(self, shape: str, center: np.ndarray, radius: float) -> Bool[np.ndarray, "H W"]:
        """Which pixels lie in the shape around `center` (row, column)."""
        row, column = (np.mgrid[: self.size, : self.size] + 0.5) - center[:, None, None]
        if shape == "disc":
            return row**2 + column**2 <= radius**2
        if shape == "square":
            return np.maximum(abs(row), abs(column)) <= 0.8 * radius
        return (row <= 0.7 * radius) & (row >= 2 * abs(column) - radius)

    def _paint(
        self, rng: np.random.Generator, inside: Bool[np.ndarray, "H W"], channels: int
    ) -> UInt8[np.ndarray, "H W C"]:
        """Ground of 40 to 120, shape of 160 to 240, in each channel."""
        noise = rng.integers(0, 80, (self.size, self.size, channels))
        return (noise + np.where(inside, 160, 40)[:, :, None]).astype(np.uint8)
