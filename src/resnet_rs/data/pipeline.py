"""`Data`: how samples become the inputs of a network. A field of the experiment, without files and paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from resnet_rs import draws
from resnet_rs.data.resample import Resampling
from resnet_rs.data.sample import Frames, Request, Sample
from resnet_rs.data.target import Target
from resnet_rs.data.view import CropDistribution, View, center_view, random_view, resized_center_view
from resnet_rs.methods.randaugment import SMALLEST_RELEASED_SIZE, RandAugment
from resnet_rs.text import refuse_outside

SMALLEST_SIZE = 8
"""Smallest size of an input, in pixels per side."""


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """The frames of a video that make a clip."""

    count: int = 32
    """Frames of a clip."""
    stride: int = 2
    """Frames of the video from one frame of the clip to the next."""

    def __post_init__(self) -> None:
        if min(self.count, self.stride) < 1:
            raise ValueError(f"count and stride must be 1 or more, got {self.count} and {self.stride}.")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Size, crops, augmentation and normalization. Defaults: ImageNet as in the paper, antialiased.

    Sources: TF1 release (`resnet_preprocessing.py`) for crops and normalization; resampling: see its field.
    """

    size: int = 224
    """Pixels per side of every input, in training and in evaluation."""
    min_area: float = 0.08
    """Smallest share of an image that a training crop takes; crops go up to the whole image. As released, crops of
    less than 0.1, or of 1.25 times this share if that is smaller, are drawn again, up to ten times."""
    max_aspect: float = 4 / 3
    """Training crops have an aspect between `1 / max_aspect` and `max_aspect`."""
    flip: bool = True
    """Mirror every other training image."""
    randaugment: RandAugment | None = None
    """Random operations on training images; none turns them off."""
    crop_ratio: float = 0.875
    """Fraction of the short side in the center crop of evaluation."""
    crop_first: bool = True
    """Evaluation crops the center and then resizes, as released; false resizes first, as timm and torchvision do."""
    resampling: Resampling = "bicubic"
    """`bicubic` and `bilinear` (torchvision) antialias. `tf1_bicubic` does not: the released weights were trained so.
    `tf2_bilinear` does not either: it is for weights of the TF2 Model Garden."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel on the 0-1 scale. Its length is the number of channels: 1 makes images gray."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel on the 0-1 scale."""
    max_short_side: int | None = None
    """Images are shrunk, as they are read, until the shorter side has this many pixels at most; none reads them whole.
    Large photos are read several times faster this way."""
    frames: FrameSampling | None = None
    """Frames of a clip from a video; none takes all frames. Images need none."""

    def __post_init__(self) -> None:
        if not SMALLEST_SIZE <= self.size <= 4096:
            raise ValueError(f"size must be {SMALLEST_SIZE} to 4096 pixels, got {self.size}.")
        if self.max_short_side is not None and self.max_short_side < self.size:
            raise ValueError(
                f"max_short_side must be none or at least the size of {self.size} pixels, got {self.max_short_side}."
            )
        refuse_outside(self, min_area="(0, 1]", max_aspect="[1, 10]", crop_ratio="(0, 1]")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean and std must have one value per channel, got {len(self.mean)} and {len(self.std)} values. "
                "Change both, as in `data.mean=[0.5] data.std=[0.25]` for gray images."
            )
        if not (0 <= min(self.mean) <= max(self.mean) <= 1 and 0 < min(self.std) <= max(self.std) <= 1):
            raise ValueError(
                f"mean must be in [0, 1] and std in (0, 1], got {list(self.mean)} and {list(self.std)}. "
                "Divide values for pixels of 0-255 by 255."
            )

    @property
    def channels(self) -> int:
        """Channels of every input."""
        return len(self.mean)

    def describe_augmentation(self) -> str:
        """A sentence on where training images differ from the release, if they do."""
        if self.randaugment is None or self.size >= SMALLEST_RELEASED_SIZE:
            return ""
        return (
            f"RandAugment's translations and cutouts, which the release gives in pixels at {SMALLEST_RELEASED_SIZE} "
            f"and above, are scaled by {self.size}/{SMALLEST_RELEASED_SIZE}."
        )

    def train_request(self, *, seed: int, epoch: int, index: int) -> Request:
        """How sample `index` is read for training in one epoch; a clip begins at a random frame."""
        start = 0.5 if self.frames is None else draws.generator(seed, "frames", epoch, index).random()
        return self._request(start)

    def test_request(self) -> Request:
        """How a sample is read for evaluation; a clip is taken from the middle."""
        return self._request(0.5)

    def train_input(
        self, sample: Sample, *, seed: int, epoch: int, index: int, view: int = 0
    ) -> tuple[Tensor, Target]:
        """Input [C, ..., S, S] (uint8) and target of one sample in one epoch: a pure function of its arguments.

        Tasks that want several views of a sample ask for `view` 0, 1, ...
        """
        if self.randaugment is not None:
            _refuse_for_randaugment(sample)
        place = (epoch, index, view) if view else (epoch, index)
        height, width = sample.input.shape[-3:-1]
        crop = random_view(
            height,
            width,
            size=self.size,
            crops=self._crop_distribution,
            rng=draws.generator(seed, "view", *place),
        )
        pixels = _as_bytes(crop.pixels(sample.input, resampling=self.resampling))
        if self.randaugment is not None:
            pixels = self.randaugment.apply(pixels, draws.generator(seed, "randaugment", *place))
        return _channels_first(pixels), sample.target.seen(crop)

    def test_input(self, sample: Sample) -> tuple[Tensor, Target]:
        """Input [C, ..., S, S] (uint8, or float32 as TensorFlow resizes) and target of one sample."""
        height, width = sample.input.shape[-3:-1]
        view = self.test_view(height, width)
        pixels = view.pixels(sample.input, resampling=self.resampling)
        return _channels_first(pixels), sample.target.seen(view)

    def test_view(self, height: int, width: int) -> View:
        """The view of an image of this size in evaluation."""
        view_of = center_view if self.crop_first else resized_center_view
        return view_of(height, width, size=self.size, crop_ratio=self.crop_ratio)

    def normalize(self, inputs: Tensor) -> Float[Tensor, "B C ..."]:
        """Inputs on the 0-255 scale as float32 of about zero mean and unit variance, on their own device."""
        shape = (1, self.channels, *(1,) * (inputs.dim() - 2))
        mean = torch.tensor(self.mean, device=inputs.device).view(shape) * 255
        std = torch.tensor(self.std, device=inputs.device).view(shape) * 255
        return (inputs.float() - mean) / std

    def _request(self, start: float) -> Request:
        frames = self.frames and Frames(self.frames.count, self.frames.stride, start)
        return Request(self.channels, frames, self.max_short_side)

    @cached_property
    def _crop_distribution(self) -> CropDistribution:
        return CropDistribution(
            area=(self.min_area, 1.0),
            aspect=(1 / self.max_aspect, self.max_aspect),
            flip=self.flip,
            crop_ratio=self.crop_ratio,
            min_covered=min(0.1, 1.25 * self.min_area),
        )


def _refuse_for_randaugment(sample: Sample) -> None:
    """Raise `ValueError` for clips and spatial targets: RandAugment would not move them consistently."""
    if sample.input.ndim != 3 or sample.target.is_spatial:
        kind = "a clip" if sample.input.ndim != 3 else f"images with {type(sample.target).__name__}"
        raise ValueError(
            f"RandAugment cannot be applied to {kind} ({sample.key!r}). Set data.randaugment=none."
        )


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Rounded down and clipped to 0-255, as the released pipeline casts before RandAugment."""
    return pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 255).astype(np.uint8)


def _channels_first(pixels: np.ndarray) -> Tensor:
    """[..., H, W, C] as a contiguous tensor [C, ..., H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
