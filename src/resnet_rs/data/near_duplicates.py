"""Images that look alike, by perceptual hash: the same picture, perhaps resized or compressed, and very similar ones.

Shapes: `N` images, `M` other images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, UInt64
from PIL import Image

from resnet_rs.data.sample import Request, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.text import require

_SHORT_SIDE = 128
"""Images are read at about this size: a hash has 8 x 8 bits."""
_BLOCK = 4096


def perceptual_hashes(source: Source, indices: Iterable[int]) -> Iterator[int | None]:
    """The perceptual hash of each of these samples, of 64 bits; None for one that cannot be read.

    Source: `imagehash.phash`, the signs of the lowest 8 x 8 frequencies of a cosine transform.
    """
    require("imagehash", extra="tables", what="the search for images that look alike")
    import imagehash  # pyright: ignore[reportMissingTypeStubs]: it ships none

    for index in indices:
        try:
            pixels = source.read(index, Request(3, max_short_side=_SHORT_SIDE)).input
        except Unreadable:
            yield None
            continue
        bits = imagehash.phash(Image.fromarray(pixels)).hash
        yield int.from_bytes(np.packbits(bits).tobytes())


def look_alike(
    hashes: UInt64[np.ndarray, " N"], others: UInt64[np.ndarray, " M"], *, max_distance: int
) -> Bool[np.ndarray, " N"]:
    """Whether each hash differs from one of `others` in at most `max_distance` of its 64 bits."""
    found, known = np.zeros(len(hashes), dtype=bool), np.unique(others)
    for first in range(0, len(hashes), _BLOCK):
        block = hashes[first : first + _BLOCK]
        for start in range(0, len(known), _BLOCK):
            distances = np.bitwise_count(block[:, None] ^ known[None, start : start + _BLOCK])
            found[first : first + _BLOCK] |= (distances <= max_distance).any(1)
    return found
