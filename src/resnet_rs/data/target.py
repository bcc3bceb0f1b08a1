"""Targets: what is to be predicted for a sample. Each kind follows its image through crop, flip and resizing.

Shapes: `K` classes, `H W` pixels, `N` boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int

from resnet_rs.data.view import View

_MOST_OFF = 1e-3
"""Of the sum of a soft label from 1, which rounding to float16 can cause."""
IGNORED = -1
"""Class of pixels that count in no loss and no score, such as padding."""


class Target:
    """What is to be predicted for one sample. By itself it stands for an image without annotation."""

    is_spatial: ClassVar[bool] = False
    """Whether it belongs to places of the image, so that operations which move pixels must move it, too."""

    @property
    def class_indices(self) -> tuple[int, ...]:
        """The classes that count as present, for counting and for splitting a data set evenly."""
        return ()

    def seen(self, view: View) -> Target:
        """The target of the image in `view`."""
        return self

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> Target:
        """The target for another list of `num_classes` classes; `numbers` maps old class indices to new ones."""
        return self


@dataclass(frozen=True)
class Label(Target):
    """The index of a class."""

    index: int

    @property
    def class_indices(self) -> tuple[int, ...]:
        return (self.index,)

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> Label:
        return Label(int(numbers[self.index]))


@dataclass(frozen=True)
class Labels(Target):
    """The indices of all classes that are present, perhaps none."""

    indices: tuple[int, ...]

    @property
    def class_indices(self) -> tuple[int, ...]:
        return self.indices

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> Labels:
        return Labels(tuple(sorted(int(numbers[i]) for i in self.indices)))


@dataclass(frozen=True, eq=False)
class SoftLabel(Target):
    """A distribution over classes, such as the opinion of another network."""

    probabilities: Float[np.ndarray, " K"]

    def __post_init__(self) -> None:
        total = float(self.probabilities.sum())
        if not (self.probabilities >= 0).all() or abs(total - 1) > _MOST_OFF:
            raise ValueError(
                f"a soft label must have probabilities of 0 or more that sum to 1, got a sum of {total:.6g}. "
                "Apply a softmax to logits first."
            )

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> SoftLabel:
        found = np.zeros(num_classes, dtype=self.probabilities.dtype)
        found[numbers] = self.probabilities
        return SoftLabel(found)


@dataclass(frozen=True, eq=False)
class Mask(Target):
    """A class per pixel; `IGNORED` where there is none. Resized to the nearest pixel."""

    classes: Int[np.ndarray, "H W"]
    is_spatial: ClassVar[bool] = True

    def seen(self, view: View) -> Mask:
        return Mask(view.values(self.classes, outside=IGNORED))

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> Mask:
        return Mask(np.where(self.classes == IGNORED, IGNORED, numbers[self.classes]))


@dataclass(frozen=True, eq=False)
class Depth(Target):
    """The distance of every pixel in meters; NaN where it is unknown. Resized to the nearest pixel."""

    meters: Float32[np.ndarray, "H W"]
    is_spatial: ClassVar[bool] = True

    def seen(self, view: View) -> Depth:
        return Depth(view.values(self.meters, outside=np.nan))


@dataclass(frozen=True, eq=False)
class Boxes(Target):
    """Rectangles with a class each. Pixel i covers i to i + 1, so the box of one pixel is (i, j, i + 1, j + 1)."""

    corners: Float32[np.ndarray, "N 4"]
    """Left, top, right and bottom of each box in pixels."""
    labels: Int[np.ndarray, " N"]
    """The class of each box."""
    is_spatial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        is_ordered = (self.corners[:, :2] <= self.corners[:, 2:]).all(axis=1)
        if not is_ordered.all():
            first = self.corners[~is_ordered][0].tolist()
            raise ValueError(f"boxes must be left, top, right, bottom in this order, got {first}.")

    def seen(self, view: View) -> Boxes:
        """The boxes in `view`, cut off at its crop. Boxes without an area there are left out."""
        both = [view.points(self.corners[:, i : i + 2].astype(np.float64)) for i in (0, 2)]
        top, left = view.padding[:2]
        least = np.array([left, top])
        most = least + np.array([view.size[1], view.size[0]])
        low, high = (np.clip(part, least, most) for part in (np.minimum(*both), np.maximum(*both)))
        is_left = (high > low).all(axis=1)
        corners = np.concatenate([low, high], axis=1).astype(np.float32)
        return Boxes(corners[is_left], self.labels[is_left])

    def renumbered(self, numbers: Int[np.ndarray, " K"], *, num_classes: int) -> Boxes:
        return Boxes(self.corners, numbers[self.labels])
