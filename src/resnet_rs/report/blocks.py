"""What a task adds to the page of a run: sections of figures, tables and images, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.report.figures import Figure


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with its heading."""

    title: str
    figure: Figure
    note: str = ""
    is_wide: bool = False
    """Whether it takes the whole width of the page."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table of texts. The first cell of a row names it, the others are numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_folded: bool = False
    """Whether the page shows the title alone until it is clicked."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A test image with what is said of it."""

    index: int
    key: str
    lines: tuple[str, ...]
    """Short texts below the image; the last one is set in the color of errors."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Test images in their order."""

    title: str
    tiles: Sequence[Tile]
    note: str = ""


Block = Chart | Listing | Gallery
