"""`Data`: how samples become the inputs of a network. A slot of the experiment; it knows no files and no paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from resnet_rs import draws
from resnet_rs.data.resample import Resampling
from resnet_rs.data.sample import Mask, Sample, Target
from resnet_rs.data.view import RandomView, View, center_view, random_view, resized_center_view
from resnet_rs.methods.randaugment import SMALLEST_RELEASED_SIZE, RandAugment

SMALLEST_SIZE = 8
"""Pixels per side that an input has at least."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Size, crops, augmentation and normalization. Defaults: ImageNet as in the paper, antialiased.

    Sources: TF1 release (`resnet_preprocessing.py`) for crops and normalization; resampling: see its field.
    """

    size: int = 224
    """Pixels per side of every input, in training and in evaluation."""
    min_area: float = 0.08
    """Smallest share of a picture that a training crop takes; crops go up to the whole picture."""
    max_aspect: float = 4 / 3
    """Training crops have an aspect between `1 / max_aspect` and `max_aspect`."""
    flip: bool = True
    """Mirror every other training picture."""
    randaugment: RandAugment | None = None
    """Random operations on training pictures; none leaves them out."""
    crop_ratio: float = 0.875
    """Share of the short side that evaluation takes, from the center."""
    crop_first: bool = True
    """Evaluation takes the center out and resizes it, as released; false resizes first, as timm and torchvision."""
    resampling: Resampling = "antialiased"
    """Bicubic, antialiased; or `released`, without antialiasing, as the released weights were trained and evaluated.
    For weights of others `bilinear`, antialiased (torchvision), or `garden`, bilinear without (the Model Garden)."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel on the 0-1 scale. Its length is the number of channels: 1 makes pictures grey."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel on the 0-1 scale."""

    def __post_init__(self) -> None:
        if not SMALLEST_SIZE <= self.size <= 4096:
            raise ValueError(f"size must be {SMALLEST_SIZE} to 4096 pixels, got {self.size}.")
        if not 0 < self.min_area <= 1:
            raise ValueError(f"min_area must be in (0, 1], got {self.min_area}.")
        if not 1 <= self.max_aspect <= 10:
            raise ValueError(f"max_aspect must be 1 to 10, got {self.max_aspect}.")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be in (0, 1], got {self.crop_ratio}.")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean and std must have one value per channel, got {len(self.mean)} and {len(self.std)} values. "
                "Change both, as in `data.mean=[0.5] data.std=[0.25]` for grey pictures."
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
        """A sentence on where training pictures differ from the release, if they do."""
        if self.randaugment is None or self.size >= SMALLEST_RELEASED_SIZE:
            return ""
        return (
            f"RandAugment's translations and cutouts, which the release gives in pixels at {SMALLEST_RELEASED_SIZE} "
            f"and above, are scaled by {self.size}/{SMALLEST_RELEASED_SIZE}."
        )

    def train_input(self, sample: Sample, *, seed: int, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Input [C, ..., S, S] (uint8) and target of one sample in one epoch: a pure function of its arguments."""
        if self.randaugment is not None:
            _refuse_for_randaugment(sample)
        height, width = sample.input.shape[-3:-1]
        view = random_view(
            height, width, size=self.size, law=self._view_law, rng=draws.generator(seed, "view", epoch, index)
        )
        pixels = _as_bytes(view.pixels(sample.input, resampling=self.resampling))
        if self.randaugment is not None:
            rng = draws.generator(seed, "randaugment", epoch, index)
            pixels = self.randaugment.apply(pixels, rng)
        return _channels_first(pixels), _target(sample.target, view)

    def test_input(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Input [C, ..., S, S] (uint8, or float32 as TensorFlow resizes) and target of one sample."""
        height, width = sample.input.shape[-3:-1]
        law = center_view if self.crop_first else resized_center_view
        view = law(height, width, size=self.size, crop_ratio=self.crop_ratio)
        return _channels_first(view.pixels(sample.input, resampling=self.resampling)), _target(
            sample.target, view
        )

    def normalize(self, inputs: Tensor) -> Float[Tensor, "B C ..."]:
        """Inputs on the 0-255 scale as float32 of about zero mean and unit variance, on their own device."""
        shape = (1, self.channels, *(1,) * (inputs.dim() - 2))
        mean = torch.tensor(self.mean, device=inputs.device).view(shape) * 255
        std = torch.tensor(self.std, device=inputs.device).view(shape) * 255
        return (inputs.float() - mean) / std

    @cached_property
    def _view_law(self) -> RandomView:
        return RandomView(
            area=(self.min_area, 1.0),
            aspect=(1 / self.max_aspect, self.max_aspect),
            flip=self.flip,
            crop_ratio=self.crop_ratio,
        )


def _refuse_for_randaugment(sample: Sample) -> None:
    """RandAugment moves the pixels of one picture: a clip would tremble, and a mask would be left behind."""
    if sample.input.ndim != 3 or isinstance(sample.target, Mask):
        kind = "a clip" if sample.input.ndim != 3 else "a mask"
        raise ValueError(
            f"RandAugment cannot be applied to {kind} ({sample.key!r}). Set data.randaugment=none."
        )


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Rounded down and clipped to 0-255, as the released pipeline casts before RandAugment."""
    return pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 255).astype(np.uint8)


def _channels_first(pixels: np.ndarray) -> Tensor:
    """[..., H, W, C] as a contiguous tensor [C, ..., H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))


def _target(target: Target, view: View) -> Tensor:
    classes = view.mask(target.classes) if isinstance(target, Mask) else np.array(target)
    return torch.from_numpy(classes)
