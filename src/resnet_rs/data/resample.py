"""Four ways to resize images, which are uint8 [H, W, C].

- `bicubic`: Pillow's bicubic, antialiased: for a smaller output the kernel is wider, so every pixel counts.
- `tf1_bicubic`: TensorFlow 1's bicubic, used for the training and evaluation of the released weights. It reads four
  pixels per side at any scale, and can overshoot below 0 and above 255.
- `bilinear`: Pillow's bilinear, antialiased, used for torchvision's ResNets.
- `tf2_bilinear`: TensorFlow 2's bilinear, used for the Model Garden's weights: two pixels per side, no antialiasing.

Sources: Keys 1981, "Cubic convolution interpolation for digital image processing"; `tf1_bicubic` computes what
TensorFlow's `resize_bicubic_op.cc` does without `align_corners` and without `half_pixel_centers`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from PIL import Image
from torch.nn import functional

Resampling = Literal["bicubic", "tf1_bicubic", "bilinear", "tf2_bilinear"]
OF_TENSORFLOW = ("tf1_bicubic", "tf2_bilinear")
"""These return float32, as TensorFlow does; the others return uint8."""

_SHARPNESS = -0.75
_TABLE_SIZE = 1024


def resize(
    pixels: UInt8[np.ndarray, "H W C"], *, height: int, width: int, resampling: Resampling
) -> UInt8[np.ndarray, "{height} {width} C"] | Float32[np.ndarray, "{height} {width} C"]:
    """A new array of `height` x `width`: uint8 if antialiased, else float32, with the overshoot of `tf1_bicubic`."""
    if resampling == "tf1_bicubic":
        return _resize_tf1(pixels, height, width)
    if resampling == "tf2_bilinear":
        return _resize_tf2(pixels, height, width)
    kernel = Image.Resampling.BICUBIC if resampling == "bicubic" else Image.Resampling.BILINEAR
    if pixels.shape[2] == 3:
        return _resize_pillow(pixels, (width, height), kernel, mode="RGB")
    channels = [
        _resize_pillow(pixels[:, :, i : i + 1], (width, height), kernel, mode="L")
        for i in range(pixels.shape[2])
    ]
    return channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)


def _resize_pillow(
    pixels: UInt8[np.ndarray, "H W C"],
    size: tuple[int, int],
    kernel: Image.Resampling,
    *,
    mode: Literal["L", "RGB"],
) -> UInt8[np.ndarray, "h w C"]:
    # `Image.fromarray` and `np.array` would take longer than the resizing of small images.
    source = Image.frombuffer(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    resized = source.resize(size, kernel)
    return np.frombuffer(bytearray(resized.tobytes()), dtype=np.uint8).reshape(*size[::-1], -1)


def _resize_tf2(
    pixels: UInt8[np.ndarray, "H W C"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} C"]:
    planes = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    resized = functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _resize_tf1(
    pixels: UInt8[np.ndarray, "H W C"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} C"]:
    """Resize along the rows that are needed, and then along the columns."""
    channels = pixels.shape[2]
    row_taps, row_weights = _taps(pixels.shape[0], height)
    column_taps, column_weights = _taps(pixels.shape[1], width)
    # Rows are flat, because indexing single values is faster than indexing pixels of three values.
    value_taps = (column_taps[:, :, None] * channels + np.arange(channels)).reshape(4, -1)
    value_weights = np.repeat(column_weights, channels, axis=1)
    rows, row_taps = np.unique(row_taps, return_inverse=True)
    values = pixels.take(rows, axis=0).reshape(len(rows), -1)
    wide = _weighted(values, value_taps, value_weights[:, None, :], axis=1)
    return _weighted(wide, row_taps.reshape(4, -1), row_weights[:, :, None], axis=0).reshape(
        height, width, channels
    )


def _weighted(
    values: np.ndarray,
    taps: Int[np.ndarray, "4 N"],
    weights: Float32[np.ndarray, "4 _ _"],
    *,
    axis: int,
) -> Float32[np.ndarray, "_ _"]:
    """The weighted sum of the four taps of `values` along `axis`, in float32 and in index order."""
    total = values.take(taps[0], axis=axis) * weights[0]
    for i in range(1, 4):
        total += values.take(taps[i], axis=axis) * weights[i]
    return total


@lru_cache(maxsize=256)
def _taps(length: int, new_length: int) -> tuple[Int[np.ndarray, "4 N"], Float32[np.ndarray, "4 N"]]:
    """Indices of the four source pixels of each of `new_length` output pixels, and their weights.

    Output pixel i is at `i * length / new_length` in float32: the upper left corners coincide, not the centers.
    """
    positions = np.arange(new_length, dtype=np.float32) * (np.float32(length) / np.float32(new_length))
    first = positions.astype(np.int64)
    step = np.rint((positions - first.astype(np.float32)) * np.float32(_TABLE_SIZE)).astype(np.int64)
    near, far = _kernel()
    weights = np.stack([far[step], near[step], near[_TABLE_SIZE - step], far[_TABLE_SIZE - step]])
    taps = np.clip(first + np.arange(-1, 3)[:, None], 0, length - 1)
    return taps, weights


@lru_cache(maxsize=1)
def _kernel() -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
    """Keys' kernel with a = -0.75 at distances 0 to 1 (`near`) and 1 to 2 (`far`), in steps of 1/1024."""
    a = _SHARPNESS
    x = np.arange(_TABLE_SIZE + 1) / _TABLE_SIZE
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    x = x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return near.astype(np.float32), far.astype(np.float32)
