"""Drawn discs, squares and triangles on a noisy background, with labels, masks, depth, boxes and motion.

Every sample is a pure function of (seed, index), so there are no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from resnet_rs import draws
from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source
from resnet_rs.data.target import Boxes, Depth, Label, Labels, Mask, Target

SHAPES = ("disc", "square", "triangle")
MOTIONS = ("left", "right", "up", "down")

_SHARE_WITHOUT_DEPTH = 0.1
_MOST_SHAPES = 3
_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


Asked = Literal["shape", "shapes", "mask", "depth", "boxes", "motion"]


@dataclass(frozen=True, kw_only=True)
class Shapes(Source):
    """One bright shape per image, or one moving through a clip; for boxes, one to three shapes."""

    num_samples: int
    size: int = 32
    """Pixels per side."""
    asks: Asked = "shape"
    """The target: the shape; all shapes of an image; the shape at every pixel (0 is background); the depth of every
    pixel; a box per shape; or, in clips, the direction of motion."""
    num_frames: int = 8
    """Length of the videos of moving shapes."""
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        named = {"mask": ("background", *SHAPES), "motion": MOTIONS}
        return named.get(self.asks, SHAPES)

    def __len__(self) -> int:
        return self.num_samples

    def key(self, index: int) -> str:
        return f"shapes/{self.asks}/{self.seed}/{index}"

    def read(self, index: int, request: Request) -> Sample:
        rng = draws.generator(self.seed, "shapes", index)
        if self.asks in ("boxes", "shapes"):
            return self._with_boxes(rng, index, request.channels)
        shape = int(rng.integers(len(SHAPES)))
        if self.asks == "motion":
            motion = int(rng.integers(len(MOTIONS)))
            clip = self._clip(rng, shape, MOTIONS[motion], request.channels)
            frames = range(len(clip)) if request.frames is None else request.frames.indices(len(clip))
            return Sample(clip[list(frames)], Label(motion), self.key(index))
        inside = self._drawn(rng, shape)
        image = self._paint(rng, inside, request.channels)
        return Sample(image, self._target(rng, shape, inside), self.key(index))

    def _target(self, rng: np.random.Generator, shape: int, inside: Bool[np.ndarray, "H W"]) -> Target:
        if self.asks == "mask":
            return Mask(inside * (shape + 1))
        if self.asks == "depth":
            meters = np.where(inside, 2.0 + shape, 10.0).astype(np.float32)
            meters[rng.random(meters.shape) < _SHARE_WITHOUT_DEPTH] = np.nan
            return Depth(meters)
        return Label(shape)

    def _with_boxes(self, rng: np.random.Generator, index: int, channels: int) -> Sample:
        shapes = rng.integers(len(SHAPES), size=rng.integers(1, _MOST_SHAPES + 1))
        drawn = [self._drawn(rng, int(shape)) for shape in shapes]
        corners: list[tuple[int, ...]] = []
        for inside in drawn:
            rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
            corners.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        image = self._paint(rng, np.logical_or.reduce(drawn), channels)
        if self.asks == "shapes":
            return Sample(image, Labels(tuple(np.unique(shapes).tolist())), self.key(index))
        return Sample(image, Boxes(np.array(corners, dtype=np.float32), shapes), self.key(index))

    def _drawn(self, rng: np.random.Generator, shape: int) -> Bool[np.ndarray, "H W"]:
        """The pixels of a shape of random size and position."""
        radius = rng.uniform(0.15, 0.3) * self.size
        center = rng.uniform(radius, self.size - radius, 2)
        return self._inside(SHAPES[shape], center, radius)

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
        """The pixels in the shape around `center` (row, column)."""
        row, column = (np.mgrid[: self.size, : self.size] + 0.5) - center[:, None, None]
        if shape == "disc":
            return row**2 + column**2 <= radius**2
        if shape == "square":
            return np.maximum(abs(row), abs(column)) <= 0.8 * radius
        return (row <= 0.7 * radius) & (row >= 2 * abs(column) - radius)

    def _paint(
        self, rng: np.random.Generator, inside: Bool[np.ndarray, "H W"], channels: int
    ) -> UInt8[np.ndarray, "H W C"]:
        """An image with a background of 40 to 120 and a shape of 160 to 240, in each channel."""
        noise = rng.integers(0, 80, (self.size, self.size, channels))
        return (noise + np.where(inside, 160, 40)[:, :, None]).astype(np.uint8)
