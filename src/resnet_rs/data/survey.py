"""What the images of a source are like: size and color, seen on a few of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np

from resnet_rs.data.sample import Request, Unreadable
from resnet_rs.data.source import Source

_NUM_IMAGES = 48
_COLOR_DIFFERENCE = 8
"""Difference of two channels, of 255, up to which a pixel is gray. Compression makes small differences."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What the images of a source are like."""

    side: int
    """Median of the shorter side, in pixels."""
    has_color: bool
    """Whether any of them has a pixel that is not gray."""


def measure_images(source: Source, *, channels: int = 3) -> Images:
    """Size and color of up to 48 images, taken evenly from `source`. Unreadable images are skipped."""
    chosen = sorted({len(source) * i // _NUM_IMAGES for i in range(_NUM_IMAGES)})
    sides, has_color = list[int](), False
    for index in chosen:
        try:
            image = source.read(index, Request(channels)).input
        except Unreadable:
            continue
        sides.append(min(image.shape[-3:-1]))
        if channels == 3 and not has_color:
            spread = np.ptp(image.astype(np.int16), axis=-1)
            has_color = int(spread.max()) > _COLOR_DIFFERENCE
    if not sides:
        raise ValueError(
            f"none of {len(chosen)} images, taken evenly from the data, could be read. Check the folder."
        )
    return Images(side=int(median(sides)), has_color=has_color)


def classes_without(source: Source) -> list[str]:
    """The classes that `source` has no sample of; none if it does not know targets without reading."""
    present = set[int]()
    for i in range(len(source)):
        target = source.target(i)
        if target is None:
            return []
        present |= set(target.class_indices)
    return [name for i, name in enumerate(source.classes) if i not in present]
