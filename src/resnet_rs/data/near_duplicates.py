"""Near duplicates of images, by perceptual hash: the same picture, perhaps resized, compressed or a little cropped.

Shapes: `N` images, `M` other images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, UInt64
from PIL import Image

from resnet_rs.data.sample import Request, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.text import require

_SHORT_SIDE = 128
"""Images are read at about this size: a hash has 8 x 8 bits."""
_BLOCK = 4096


def perceptual_hashes(source: Source, indices: Iterable[int]) -> UInt64[np.ndarray, " N"]:
    """The perceptual hash of each of these samples; 0 for one that cannot be read.

    Source: `imagehash.phash`, the signs of the lowest 8 x 8 frequencies of a cosine transform.
    """
    require("imagehash", extra="tables", what="the search for near duplicates")
    import imagehash  # pyright: ignore[reportMissingTypeStubs]: it ships none

    found = list[int]()
    for index in indices:
        try:
            pixels = source.read(index, Request(3, max_short_side=_SHORT_SIDE)).input
            bits = imagehash.phash(Image.fromarray(pixels)).hash
            found.append(int.from_bytes(np.packbits(bits).tobytes()))
        except Unreadable:
            found.append(0)
    return np.array(found, dtype=np.uint64)


def near(
    hashes: UInt64[np.ndarray, " N"], others: UInt64[np.ndarray, " M"], *, max_distance: int
) -> Bool[np.ndarray, " N"]:
    """Whether each hash differs from one of `others` in at most `max_distance` of its 64 bits."""
    found = np.zeros(len(hashes), dtype=bool)
    known = np.unique(others[others != 0])
    for first in range(0, len(hashes), _BLOCK):
        block = hashes[first : first + _BLOCK]
        for start in range(0, len(known), _BLOCK):
            distances = np.bitwise_count(block[:, None] ^ known[None, start : start + _BLOCK])
            found[first : first + _BLOCK] |= (distances <= max_distance).any(1)
    return found & (hashes != 0)
