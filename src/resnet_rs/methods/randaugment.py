"""RandAugment: a few random operations per image, all of one magnitude.

Card: `docs/methods/randaugment.md`. Images are uint8 [H, W, C] with any number of channels; no operation
changes its input in place.

Source: Cubuk et al. 2020, arXiv:1909.13719. Operations, arithmetic and quirks follow the released code
(`efficientnet/autoaugment.py`, which ResNet-RS imports); the tests compare them with its outputs, pixel by
pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, Int, UInt8

from resnet_rs.text import refuse_outside

Pixels = UInt8[np.ndarray, "H W C"]
Variant = Literal["released", "corrected"]

_LEVEL_SCALE = 10
_TRANSLATE_CONST = 100
"""Pixels of a translation at magnitude 10."""
_CUTOUT_CONST = 40
"""Half a side of Cutout's square at magnitude 10, in pixels."""
SMALLEST_RELEASED_SIZE = 160
_GRAY = 128
_LUMA_WEIGHTS = np.array([[0.2989], [0.587], [0.114]], dtype=np.float32)
_SMOOTH_WEIGHTS = np.array([[1 / 13]] * 4 + [[5 / 13]] + [[1 / 13]] * 4, dtype=np.float32).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Random operations on a training image. Defaults: ResNet-RS-50 and -101 at 160 pixels."""

    num_layers: int = 2
    """Operations per image, in sequence. Each is drawn uniformly from 16 and always applied."""
    magnitude: float = 10.0
    """Strength, 0 to 30; 10 is the nominal maximum. The larger released configurations use 15."""
    variant: Variant = "released"
    """`released` keeps two bugs that the released weights were trained with: Solarize's threshold wraps
    around at 256 (magnitude 10 inverts the whole image), and Contrast's gray level is the number of pixels
    / 256. `corrected`: a threshold of 256 is never reached, and the gray level is the mean of the image."""

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers must be 1 or more, got {self.num_layers}. To train without RandAugment, use "
                "`data.randaugment=none`."
            )
        refuse_outside(self, magnitude="[0, 30]")
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}.")

    def apply(
        self, image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W C"]:
        """`image` after operations drawn from `rng`: a new array, or `image` itself if nothing changes."""
        draws: list[float] = rng.random(4 * self.num_layers).tolist()
        for i in range(0, len(draws), 4):
            pick, coin, row, column = draws[i : i + 4]
            amount = Amount(self.magnitude, 1 if coin < 0.5 else -1, (row, column), self.variant)
            image = _EVENLY[int(pick * len(_EVENLY))](image, amount)
        return image


class Amount(NamedTuple):
    """Arguments of the operations in `OPERATIONS`: the strength and the random draws."""

    magnitude: float
    sign: int = 1
    """1 or -1: the direction of Rotate, Shear and Translate."""
    center: tuple[float, float] = (0.5, 0.5)
    """Center of Cutout: row and column as fractions of height and width, in [0, 1)."""
    variant: Variant = "released"

    def of(self, full: float) -> float:
        """The argument that is `full` at magnitude 10."""
        return self.magnitude / _LEVEL_SCALE * full

    @property
    def factor(self) -> float:
        """Factor of Color, Contrast, Brightness and Sharpness: 1, no change, at magnitude 5; 1.9 at 10."""
        return self.of(1.8) + 0.1


OPERATIONS: dict[str, Callable[[Pixels, Amount], Pixels]] = {
    "AutoContrast": lambda image, amount: _per_channel(image, _stretching_table),
    "Equalize": lambda image, amount: _per_channel(image, _equalizing_table),
    "Invert": lambda image, amount: ~image,
    "Rotate": lambda image, amount: rotate(image, degrees=amount.sign * amount.of(30.0)),
    "Posterize": lambda image, amount: posterize(image, bits=int(amount.of(4.0))),
    "Solarize": lambda image, amount: solarize(image, int(amount.of(256.0)), variant=amount.variant),
    "SolarizeAdd": lambda image, amount: _look_up(image, _raising_table(int(amount.of(110.0)))),
    "Color": lambda image, amount: color(image, factor=amount.factor),
    "Contrast": lambda image, amount: contrast(image, factor=amount.factor, variant=amount.variant),
    "Brightness": lambda image, amount: _look_up(image, _blending_table(0, amount.factor)),
    "Sharpness": lambda image, amount: sharpness(image, factor=amount.factor),
    "ShearX": lambda image, amount: move(image, (1.0, amount.sign * amount.of(0.3), 0.0, 0.0, 1.0, 0.0)),
    "ShearY": lambda image, amount: move(image, (1.0, 0.0, 0.0, amount.sign * amount.of(0.3), 1.0, 0.0)),
    "TranslateX": lambda image, amount: move(image, (1.0, 0.0, _translation(image, amount), 0.0, 1.0, 0.0)),
    "TranslateY": lambda image, amount: move(image, (1.0, 0.0, 0.0, 0.0, 1.0, _translation(image, amount))),
    "Cutout": lambda image, amount: cutout(
        image, half_size=int(amount.of(_CUTOUT_CONST * size_factor(image))), center=amount.center
    ),
}
"""The operations by their released names. The numbers are the arguments at magnitude 10.

AutoContrast stretches each channel to 0-255, and Equalize equalizes its histogram. SolarizeAdd raises values below 128,
to at most 255. Brightness multiplies values. With sign 1, ShearX moves row y left by 0.3 y, ShearY moves column x up by
0.3 x, and TranslateX and TranslateY move left and up.
"""

_EVENLY = tuple(OPERATIONS.values())


def _translation(image: Pixels, amount: Amount) -> float:
    return amount.sign * amount.of(_TRANSLATE_CONST * size_factor(image))


def size_factor(image: Pixels) -> float:
    """Factor of translations and cutouts: 1 as released; below 160 pixels the short side / 160.

    Ours below 160: the released numbers are absolute, and would move most of a small image out of the frame.
    """
    return min(1.0, min(image.shape[:2]) / SMALLEST_RELEASED_SIZE)


def rotate(image: Pixels, *, degrees: float) -> Pixels:
    """Rotated about the center with nearest-neighbor sampling; positive degrees move the top to the left."""
    height, width = image.shape[:2]
    radians = degrees * (math.pi / 180)
    cos, sin = math.cos(radians), math.sin(radians)
    # In float64 up to here: otherwise ties at 45 degrees come out differently from the release.
    x_offset = (width - 1 - (cos * (width - 1) - sin * (height - 1))) / 2
    y_offset = (height - 1 - (sin * (width - 1) + cos * (height - 1))) / 2
    return move(image, (cos, -sin, x_offset, sin, cos, y_offset))


def posterize(image: Pixels, *, bits: int) -> Pixels:
    """Only the highest `bits` of every value, at least 1 and at most 8.

    A larger magnitude keeps more bits, so Posterize gets weaker. The bounds are ours: at magnitudes below
    2.5 and from 22.5 the released code shifts by 8 or by less than 0, which TensorFlow does not define.
    """
    dropped = min(max(8 - bits, 0), 7)
    return image & np.uint8(0xFF << dropped & 0xFF)


def solarize(image: Pixels, threshold: int, *, variant: Variant) -> Pixels:
    """Inverts values of `threshold` and above. `released` wraps the threshold to 8 bits: 256 becomes 0."""
    if variant == "released":
        threshold %= 256
    return image if threshold > 255 else _look_up(image, _solarizing_table(threshold))


def color(image: Pixels, *, factor: float) -> Pixels:
    """Multiplies the difference from the gray version by `factor`. No change unless there are three channels."""
    if image.shape[2] != 3:
        return image
    # One row per channel, so that gray is repeated along the slow axis.
    rows = np.ascontiguousarray(image.reshape(-1, 3).T)
    return np.ascontiguousarray(_blend(_gray(rows), rows, factor).T).reshape(image.shape)


def contrast(image: Pixels, *, factor: float, variant: Variant) -> Pixels:
    """Multiplies the difference from one gray level by `factor`.

    The released level is the mean of the histogram's counts: the number of pixels / 256, at most 255,
    whatever the image shows. `corrected` takes the mean gray, rounded, as Pillow does.
    """
    if variant == "released":
        level = min(image.shape[0] * image.shape[1] // 256, 255)
    else:
        level = int((_gray(image.reshape(-1, 3).T) if image.shape[2] == 3 else image).mean() + 0.5)
    return _look_up(image, _blending_table(level, factor))


def sharpness(image: Pixels, *, factor: float) -> Pixels:
    """Multiplies the difference from the smoothed version by `factor`; the border does not change."""
    if min(image.shape[:2]) < 3:
        return image
    smooth = image.copy()
    smooth[1:-1, 1:-1] = _smoothed(image)
    return _blend(smooth, image, factor)


def move(image: Pixels, transform: tuple[float, float, float, float, float, float]) -> Pixels:
    """`image` under an affine transform (a, b, c, d, e, f), with nearest-neighbor sampling.

    Pixel (x, y) comes from (a x + b y + c, d x + e y + f). Outside of `image` it is gray.
    """
    height, width, channels = image.shape
    pixels = np.empty((height * width + 1, channels), dtype=np.uint8)
    pixels[:-1] = image.reshape(-1, channels)
    pixels[-1] = _GRAY
    return pixels.take(_origins(height, width, transform), axis=0).reshape(image.shape)


def cutout(image: Pixels, *, half_size: int, center: tuple[float, float]) -> Pixels:
    """Gray in the square of side `2 * half_size` around `center`, cut at the borders.

    `center` is row and column as fractions of height and width, in [0, 1).
    """
    row, column = int(center[0] * image.shape[0]), int(center[1] * image.shape[1])
    result = image.copy()
    result[max(0, row - half_size) : row + half_size, max(0, column - half_size) : column + half_size] = _GRAY
    return result


def _per_channel(image: Pixels, table_of: Callable[[UInt8[np.ndarray, "H W"]], bytes | None]) -> Pixels:
    """`image` with a lookup table applied to each channel, made from that channel; None keeps the channel."""
    result = image.copy()
    for channel in range(image.shape[2]):
        plane = np.ascontiguousarray(image[:, :, channel])
        table = table_of(plane)
        if table is not None:
            result[:, :, channel] = _look_up(plane, table)
    return result


def _look_up(values: UInt8[np.ndarray, "*S"], table: bytes) -> UInt8[np.ndarray, "*S"]:
    """`table[value]` for every value; several times faster than indexing an array."""
    return np.frombuffer(bytearray(values).translate(table), dtype=np.uint8).reshape(values.shape)


def _stretching_table(plane: UInt8[np.ndarray, "H W"]) -> bytes | None:
    low, high = int(plane.min()), int(plane.max())
    return _linear_table(low, high) if low < high else None


def _equalizing_table(plane: UInt8[np.ndarray, "H W"]) -> bytes | None:
    counts = np.bincount(plane.ravel(), minlength=256)
    step = (plane.size - int(counts[plane.max()])) // 255
    if step == 0:
        return None
    ranks = (np.cumsum(counts) + step // 2) // step
    return bytes(1) + np.minimum(ranks[:-1], 255).astype(np.uint8).tobytes()


@lru_cache(maxsize=1024)
def _linear_table(low: int, high: int) -> bytes:
    """A line from 0 at `low` to 255 at `high`, in float32, clipped and rounded down."""
    scale = np.float32(255) / np.float32(high - low)
    return _to_bytes(np.arange(256, dtype=np.float32) * scale + np.float32(-low) * scale).tobytes()


@lru_cache(maxsize=64)
def _solarizing_table(threshold: int) -> bytes:
    return bytes(value if value < threshold else 255 - value for value in range(256))


@lru_cache(maxsize=64)
def _raising_table(addition: int) -> bytes:
    return bytes(min(value + addition, 255) if value < 128 else value for value in range(256))


@lru_cache(maxsize=64)
def _blending_table(level: int, factor: float) -> bytes:
    """Values of `_blend` between the gray `level` and each of 0 to 255."""
    values = np.arange(256, dtype=np.uint8)
    return _blend(np.full_like(values, level), values, factor).tobytes()


def _blend(
    base: UInt8[np.ndarray, "*#S"], image: UInt8[np.ndarray, "*S"], factor: float
) -> UInt8[np.ndarray, "*S"]:
    """`base + factor * (image - base)` in float32, clipped to 0-255 and rounded down."""
    if factor == 1:
        return image
    start = base.astype(np.float32)
    result = image - start
    result *= np.float32(factor)
    result += start
    return _to_bytes(result)


def _to_bytes(values: Float32[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    """Clipped to 0-255 (in place) and rounded down."""
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _gray(rows: UInt8[np.ndarray, "3 N"]) -> UInt8[np.ndarray, "1 N"]:
    """Luma of red, green and blue with TensorFlow's weights and rounding (`rgb_to_grayscale`)."""
    shares = rows.astype(np.float32)
    shares *= np.float32(1 / 255)
    shares *= _LUMA_WEIGHTS
    luma = shares[0:1] + shares[1:2]
    luma += shares[2:3]
    luma *= np.float32(255.5)
    return luma.astype(np.uint8)


def _smoothed(image: Pixels) -> UInt8[np.ndarray, "H-2 W-2 C"]:
    """Means of 3x3 pixels, the middle one with weight 5, rounded down; the border is left out.

    The released sum uses float32 with fused multiply-adds. Where the exact mean is an integer, that sum can
    end just below it, so it is repeated there (one value in 13). Elsewhere integers give the same result.
    """
    width, channels = image.shape[1:]
    totals = image[:-2].astype(np.uint16)
    totals += image[1:-1]
    totals += image[2:]
    totals = totals[:, :-2] + totals[:, 1:-1] + totals[:, 2:]
    totals += image[1:-1, 1:-1] * np.uint16(4)
    means = totals // np.uint16(13)
    row, rest = np.divmod(
        np.flatnonzero((means * np.uint16(13) == totals) & (totals > 0)), (width - 2) * channels
    )
    corners = row * (width * channels) + rest
    means.ravel()[row * ((width - 2) * channels) + rest] = _fused_means(image, corners)
    return means.astype(np.uint8)


def _fused_means(image: Pixels, corners: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, " N"]:
    """The released means of 3x3 pixels; `corners` are their upper left ones in the flattened image."""
    _, width, channels = image.shape
    near = np.array([(row * width + column) * channels for row in range(3) for column in range(3)])
    # Products are exact in float64, so rounding only the sum is what a fused multiply-add does.
    products = image.ravel().take(near[:, None] + corners) * _SMOOTH_WEIGHTS
    sums = products[0].astype(np.float32)
    for product in products[1:]:
        product += sums
        sums[:] = product
    return sums.astype(np.uint8)


@lru_cache(maxsize=16)
def _origins(height: int, width: int, transform: tuple[float, ...]) -> Int[np.ndarray, " N"]:
    """The source of each pixel as an index into the flattened image; `height * width` means outside.

    Computed in float32 and rounded half away from zero, in the order of the released code
    (`ImageProjectiveTransform`). A run uses ten of these: five operations in two directions.
    """
    a, b, c, d, e, f = (np.float32(value) for value in transform)
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    column = _round(a * x + b * y + c)
    row = _round(d * x + e * y + f)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, height * width).ravel()


def _round(values: Float32[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """`values` rounded to integers, halves away from zero; exact, because float64 is used."""
    return np.trunc(values + np.copysign(0.5, values.astype(np.float64))).astype(np.int64)
