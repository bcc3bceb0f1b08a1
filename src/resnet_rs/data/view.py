"""`View`: one draw of crop, flip, size and padding, applied alike to an image, the frames of a clip, and targets.

Source: released code (`resnet_preprocessing.py`) and the TensorFlow operation that it draws crops with
(`sample_distorted_bounding_box_op.cc`); the center of a resized image: torchvision 0.25, timm 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from resnet_rs.data.resample import OF_TENSORFLOW, Resampling, resize

_NUM_ATTEMPTS = 10
_LONGEST_RESIZED = 10


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of an image, mirrored or not, resized, and padded; all in pixels.

    With `resized` the whole image is resized first, and the rectangle is one of the resized image.
    """

    image: tuple[int, int]
    """Height and width of the image."""
    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    """Whether the rectangle is mirrored left to right."""
    size: tuple[int, int]
    """Height and width that the rectangle is resized to."""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels added at the top, left, bottom and right of the resized rectangle."""
    resized: tuple[int, int] | None = None
    """Height and width that the whole image is resized to before the rectangle is taken."""

    def __post_init__(self) -> None:
        whole = self.resized or self.image
        room = (whole[0] - self.top - self.height, whole[1] - self.left - self.width)
        if min(self.top, self.left, *room, *self.padding) < 0 or min(self.height, self.width, *self.size) < 1:
            raise ValueError(
                f"a view must be a rectangle of at least 1 pixel in {whole[0]} x {whole[1]} pixels, without negative "
                f"padding, got {self}."
            )
        if self.resized is not None and (self.height, self.width) != self.size:
            raise ValueError(
                f"a view that resizes the image first must not resize the crop again, got {self}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result, padding included."""
        top, left, bottom, right = self.padding
        return top + self.size[0] + bottom, left + self.size[1] + right

    def pixels(
        self, array: UInt8[np.ndarray, "*T H W C"], *, resampling: Resampling, fill: Sequence[int] = (0,)
    ) -> (
        UInt8[np.ndarray, "*T {self.shape[0]} {self.shape[1]} C"]
        | Float32[np.ndarray, "*T {self.shape[0]} {self.shape[1]} C"]
    ):
        """An image [H, W, C] or clip [T, H, W, C] in this view, as a new array.

        It is uint8 where the resampling antialiases, else float32, as in TensorFlow. Padding has the color `fill`,
        one value for each channel or for all. A crop that has the right size already is not resized.
        """
        self._require_image(array.shape[-3], array.shape[-2])
        if self.resized is not None and self.image != self.resized:
            array = _resized(array, *self.resized, resampling)
        crop = array[..., self.top : self.top + self.height, self.left : self.left + self.width, :]
        if (self.height, self.width) != self.size:
            crop = _resized(crop, *self.size, resampling)
        if self.flip:
            crop = crop[..., ::-1, :]
        found = crop.astype(np.float32 if resampling in OF_TENSORFLOW else np.uint8, order="C")
        if not any(self.padding):
            return found
        canvas = np.empty((*found.shape[:-3], *self.shape, found.shape[-1]), dtype=found.dtype)
        canvas[:] = np.asarray(fill)
        canvas[(..., *self._inside, slice(None))] = found
        return canvas

    def values(
        self, array: Shaped[np.ndarray, "H W"], *, outside: float | int
    ) -> Shaped[np.ndarray, "{self.shape[0]} {self.shape[1]}"]:
        """Values per pixel in this view: each is that of the pixel under its center, and `outside` in the padding."""
        self._require_image(*array.shape)
        if self.resized is not None:
            array = array[np.ix_(*(_centers(n, m) for n, m in zip(array.shape, self.resized, strict=True)))]
        rows = self.top + _centers(self.height, self.size[0])
        columns = self.left + _centers(self.width, self.size[1])
        found = array[np.ix_(rows, columns[::-1] if self.flip else columns)]
        canvas = np.full(self.shape, outside, dtype=found.dtype)
        canvas[self._inside] = found
        return canvas

    def points(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Where points (x, y) of the image lie in this view, perhaps outside of it. Pixel i covers i to i + 1."""
        scale, offset = self._affine()
        return xy * scale + offset

    def image_points(self, xy: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """The inverse of `points`: where points of this view lie in the image."""
        scale, offset = self._affine()
        return (xy - offset) / scale

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset in x and y from the image to this view."""
        whole = self.resized or self.image
        first = np.array([whole[1] / self.image[1], whole[0] / self.image[0]])
        second = np.array([self.size[1] / self.width, self.size[0] / self.height])
        scale, offset = first * second, -np.array([self.left, self.top]) * second
        if self.flip:
            scale[0], offset[0] = -scale[0], self.size[1] - offset[0]
        return scale, offset + np.array([self.padding[1], self.padding[0]])

    @property
    def _inside(self) -> tuple[slice, slice]:
        """Rows and columns of the result that are not padding."""
        top, left = self.padding[:2]
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def _require_image(self, height: int, width: int) -> None:
        if (height, width) != self.image:
            raise ValueError(
                f"the view is for an image of {self.image[0]} x {self.image[1]} pixels, got {height} x {width}. "
                "Draw a view for this size."
            )


@dataclass(frozen=True, kw_only=True)
class CropDistribution:
    """How training crops and flips are drawn, with values that `Data` has checked. Defaults: as released."""

    area: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of the image that a crop takes."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height of a crop, up to rounding to whole pixels; evenly drawn."""
    flip: bool = True
    """Mirror every other view."""
    crop_ratio: float = 0.875
    """Of the center view that is taken where no crop can be drawn."""
    min_covered: float = 0.1
    """Crops of a smaller share of the image are drawn anew. The release asks for 0.1 besides its least area
    of 0.08, so crops between the two never happen."""


def center_view(height: int, width: int, *, size: int, crop_ratio: float) -> View:
    """The square in the center that takes about `crop_ratio` of the short side; 1.0 takes all of it.

    As released, the share is `size / (size + padding)` with `padding` a whole number of pixels: at size 160
    and ratio 0.875 it is 160 / 183. Computed in float32 and rounded down, but to no less than 1 pixel.
    """
    padding = round(size * (1 / crop_ratio - 1))
    side = max(1, int(np.float32(size / (size + padding)) * np.float32(min(height, width))))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return View(image=(height, width), top=top, left=left, height=side, width=side, size=(size, size))


def resized_center_view(height: int, width: int, *, size: int, crop_ratio: float) -> View:
    """The square in the center of the image whose short side has been brought to `size / crop_ratio` pixels.

    As torchvision and timm have it, rounding included. An image that is more than ten times as long as wide gives
    way to `center_view`: whole, it could fill the memory.
    """
    short = int(size / crop_ratio + 1e-6)  # 224 / (224 / 256) is below 256
    if max(height, width) > _LONGEST_RESIZED * min(height, width):
        return center_view(height, width, size=size, crop_ratio=crop_ratio)
    resized = (
        (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    )
    top, left = (round((n - size) / 2) for n in resized)
    return View(
        image=(height, width), top=top, left=left, height=size, width=size, size=(size, size), resized=resized
    )


def random_view(
    height: int, width: int, *, size: int, crops: CropDistribution, rng: np.random.Generator
) -> View:
    """A view drawn from `crops`: up to ten attempts at a crop, then the center view; a coin decides on the flip.

    A crop of the whole image gives way to the center view, too: the release cannot tell it from a failed
    draw.
    """
    view = center_view(height, width, size=size, crop_ratio=crops.crop_ratio)
    for _ in range(_NUM_ATTEMPTS):
        side = _crop_size(height, width, crops=crops, rng=rng)
        if side is not None and side[0] * side[1] >= crops.min_covered * height * width:
            if side != (height, width):
                # Up to one pixel before the last place, as released; the order of the two draws counts.
                top, left = (int(rng.random() * (n - m)) for n, m in zip((height, width), side, strict=True))
                view = replace(view, top=top, left=left, height=side[0], width=side[1])
            break
    return replace(view, flip=crops.flip and rng.random() < 0.5)


def _crop_size(
    height: int, width: int, *, crops: CropDistribution, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Height and width of one attempt: even draws of aspect and height; None if they do not fit."""
    aspect = crops.aspect[0] + rng.random() * (crops.aspect[1] - crops.aspect[0])
    min_area, max_area = crops.area[0] * height * width, crops.area[1] * height * width
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


def _resized(
    pixels: UInt8[np.ndarray, "*T H W C"], height: int, width: int, resampling: Resampling
) -> np.ndarray:
    if pixels.ndim == 3:
        return resize(pixels, height=height, width=width, resampling=resampling)
    return np.stack([_resized(frame, height, width, resampling) for frame in pixels])


def _centers(length: int, size: int) -> Int[np.ndarray, " {size}"]:
    """The pixel of `length` under the center of each of `size` pixels: floor((i + 1/2) length / size)."""
    return (2 * np.arange(size) + 1) * length // (2 * size)
