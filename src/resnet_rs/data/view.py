"""`View`: one draw of crop, flip and size, applied alike to a picture, the frames of a clip, and a mask.

Source: released code (`resnet_preprocessing.py`) and the TensorFlow operation that it draws crops with
(`sample_distorted_bounding_box_op.cc`); the center of a resized picture: torchvision 0.25, timm 1.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int, UInt8

from resnet_rs.data.resample import OF_TENSORFLOW, Resampling, resize

_NUM_ATTEMPTS = 10
_LONGEST_RESIZED = 10


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of the picture, whether it is mirrored, and the size it is brought to; all in pixels.

    With `resized` the whole picture is brought to that height and width first, and the rectangle is one of that.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    """Mirrored left to right."""
    size: int
    """Pixels per side of what comes out."""
    resized: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(self.top, self.left) < 0 or min(self.height, self.width, self.size) < 1:
            raise ValueError(f"a view must start at 0 or later and be at least 1 pixel large, got {self}.")
        if self.resized is not None and (self.height, self.width) != (self.size, self.size):
            raise ValueError(f"what is resized before the crop is not resized again, got {self}.")

    def pixels(
        self, array: UInt8[np.ndarray, "*T H W C"], *, resampling: Resampling
    ) -> (
        UInt8[np.ndarray, "*T {self.size} {self.size} C"]
        | Float32[np.ndarray, "*T {self.size} {self.size} C"]
    ):
        """A picture [H, W, C] or clip [T, H, W, C] in this view: a new array, uint8 or, as TensorFlow has it,
        float32.

        A crop that has the size already is not resized: every way of resizing would leave it as it is.
        """
        if self.resized is not None and array.shape[-3:-1] != self.resized:
            array = _resized(array, *self.resized, resampling)
        self._require_inside(array.shape[-3], array.shape[-2])
        crop = array[..., self.top : self.top + self.height, self.left : self.left + self.width, :]
        if (self.height, self.width) != (self.size, self.size):
            crop = _resized(crop, self.size, self.size, resampling)
        if self.flip:
            crop = crop[..., ::-1, :]
        return crop.astype(np.float32 if resampling in OF_TENSORFLOW else np.uint8, order="C")

    def mask(self, classes: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "{self.size} {self.size}"]:
        """A mask in this view: at every pixel the class of the pixel under its center."""
        if self.resized is not None:
            classes = classes[
                np.ix_(*(_centers(n, m) for n, m in zip(classes.shape, self.resized, strict=True)))
            ]
        self._require_inside(*classes.shape)
        rows = self.top + _centers(self.height, self.size)
        columns = self.left + _centers(self.width, self.size)
        return classes[np.ix_(rows, columns[::-1] if self.flip else columns)]

    def _require_inside(self, height: int, width: int) -> None:
        if self.top + self.height > height or self.left + self.width > width:
            raise ValueError(
                f"a picture of {height} x {width} pixels does not hold {self}. Draw the view for its size."
            )


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """The law that random views follow. Defaults: as released."""

    area: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of the picture that a crop takes."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height of a crop, up to rounding to whole pixels; evenly drawn."""
    flip: bool = True
    """Mirror every other view."""
    crop_ratio: float = 0.875
    """Of the center view that is taken where no crop can be drawn."""
    min_covered: float = 0.1
    """Crops of a smaller share of the picture are drawn anew. The release asks for 0.1 besides its least area
    of 0.08, so crops between the two never happen."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area must be two increasing shares in (0, 1], got {list(self.area)}.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect must be two increasing positive numbers, got {list(self.aspect)}.")
        if not 0 <= self.min_covered <= self.area[1]:
            raise ValueError(
                f"min_covered must be 0 to the greatest area {self.area[1]}, got {self.min_covered}. "
                "Above it every crop would be refused."
            )
        _require_ratio(self.crop_ratio)


def center_view(height: int, width: int, *, size: int, crop_ratio: float) -> View:
    """The square in the center that takes about `crop_ratio` of the short side; 1.0 takes all of it.

    As released, the share is `size / (size + padding)` with `padding` a whole number of pixels: at size 160
    and ratio 0.875 it is 160 / 183. Computed in float32 and rounded down, but to no less than 1 pixel.
    """
    _require_ratio(crop_ratio)
    padding = round(size * (1 / crop_ratio - 1))
    side = max(1, int(np.float32(size / (size + padding)) * np.float32(min(height, width))))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return View(top=top, left=left, height=side, width=side, flip=False, size=size)


def resized_center_view(height: int, width: int, *, size: int, crop_ratio: float) -> View:
    """The square in the center of the picture whose short side has been brought to `size / crop_ratio` pixels.

    As torchvision and timm have it, rounding included. A picture that is more than ten times as long as wide gives
    way to `center_view`: whole, it could fill the memory.
    """
    _require_ratio(crop_ratio)
    short = int(size / crop_ratio + 1e-6)  # 224 / (224 / 256) is below 256
    if max(height, width) > _LONGEST_RESIZED * min(height, width):
        return center_view(height, width, size=size, crop_ratio=crop_ratio)
    resized = (
        (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    )
    top, left = (round((n - size) / 2) for n in resized)
    return View(top=top, left=left, height=size, width=size, flip=False, size=size, resized=resized)


def random_view(height: int, width: int, *, size: int, law: RandomView, rng: np.random.Generator) -> View:
    """A view drawn by `law`: up to ten attempts at a crop, then the center view; a coin decides on the flip.

    A crop of the whole picture gives way to the center view, too: the release cannot tell it from a failed
    draw.
    """
    crop: tuple[int, int, int, int] | None = None
    for _ in range(_NUM_ATTEMPTS):
        side = _crop_size(height, width, law=law, rng=rng)
        if side is not None and side[0] * side[1] >= law.min_covered * height * width:
            if side != (height, width):
                crop = (_offset(height - side[0], rng), _offset(width - side[1], rng), *side)
            break
    flip = law.flip and rng.random() < 0.5
    if crop is None:
        return replace(center_view(height, width, size=size, crop_ratio=law.crop_ratio), flip=flip)
    return View(top=crop[0], left=crop[1], height=crop[2], width=crop[3], flip=flip, size=size)


def _crop_size(
    height: int, width: int, *, law: RandomView, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Height and width of one attempt: even draws of aspect and height; None if they do not fit."""
    aspect = law.aspect[0] + rng.random() * (law.aspect[1] - law.aspect[0])
    min_area, max_area = law.area[0] * height * width, law.area[1] * height * width
    tallest = round(math.sqrt(max_area / aspect))
    if round(tallest * aspect) > width:
        tallest = int((width + 0.5 - 1e-7) / aspect)
    tallest = min(tallest, height)
    lowest = min(round(math.sqrt(min_area / aspect)), tallest)
    crop_height = lowest + int(rng.random() * (tallest - lowest + 1))
    # Rounding may have left the bounds of the area by a little: one pixel more or less is tried.
    if crop_height * round(crop_height * aspect) < min_area:
        crop_height += 1
    if crop_height * round(crop_height * aspect) > max_area:
        crop_height -= 1
    crop_width = round(crop_height * aspect)
    fits = 0 < crop_height <= height and 0 < crop_width <= width
    return (crop_height, crop_width) if fits and min_area <= crop_height * crop_width <= max_area else None


def _offset(room: int, rng: np.random.Generator) -> int:
    """Where a crop starts that leaves out `room` pixels: 0 to `room - 1`, never at the end, as released."""
    return int(rng.random() * room)


def _resized(
    pixels: UInt8[np.ndarray, "*T H W C"], height: int, width: int, resampling: Resampling
) -> np.ndarray:
    if pixels.ndim == 3:
        return resize(pixels, height=height, width=width, resampling=resampling)
    return np.stack([_resized(frame, height, width, resampling) for frame in pixels])


def _centers(length: int, size: int) -> Int[np.ndarray, " {size}"]:
    """The pixel of `length` under the center of each of `size` pixels: floor((i + 1/2) length / size)."""
    return (2 * np.arange(size) + 1) * length // (2 * size)


def _require_ratio(crop_ratio: float) -> None:
    if not 0 < crop_ratio <= 1:
        raise ValueError(f"crop_ratio must be in (0, 1], got {crop_ratio}.")
