"""The page of a run: one self-contained HTML file that opens without a network.

Names of classes and files come from other people's data and are treated as hostile. The template escapes them for HTML,
`figures.escaped` for plotly.js (which interprets tags in labels), and `frame.stored` for the JSON in a script element.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_rs.report.blocks import Block, Chart, Gallery, Listing
from resnet_rs.report.figures import is_number, run_figures
from resnet_rs.report.frame import drawn, render, stored
from resnet_rs.report.score import Number, ScoreName
from resnet_rs.text import is_within

_LARGEST_SIDE = 144
"""Larger images are shrunk to this many pixels, which keeps a page with fifty of them small."""
_SMALL_SIDE = 80
"""Images up to this many pixels are shown with their pixels as squares."""
_NUM_UNREADABLE = 100


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One difference to the experiment of the zoo, its values as typed on the command line."""

    path: str
    before: str
    after: str
    reason: str = ""
    """Why `--fit` made it; empty if the user made it."""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The content of a run page as plain values. Every part may be empty."""

    title: str
    headline: Mapping[str, str]
    """Label -> value of the few numbers at the top."""
    score: ScoreName
    scored: str = "test"
    """The part of the data whose score the curve shows."""
    epochs: Sequence[Mapping[str, float | int | None]]
    """Per evaluation: epoch, step, loss, lr, images_per_second, data_wait (a share), score_ema, score_model."""
    is_finished: bool
    numbers: Sequence[Number]
    blocks: Sequence[Block]
    images: Mapping[int, UInt8[np.ndarray, "H W C"]]
    unreadable: Sequence[Mapping[str, Any]]
    """Key and reason of every test image that could not be read."""
    augmented: Sequence[UInt8[np.ndarray, "H W C"]]
    augmented_note: str = ""
    """How the training samples differ from the release's."""
    experiment: Mapping[str, Any]
    """The four slots as nested plain values."""
    edits: Sequence[Edit]
    environment: Mapping[str, str]


class _EmbeddedImage(NamedTuple):
    uri: str
    is_small: bool


def render_run_page(page: RunPage) -> str:
    """`page` as HTML."""
    curves = {
        title: stored(figure)
        for title, figure in run_figures(page.epochs, page.score, scored=page.scored).items()
    }
    charts = drawn(block for block in page.blocks if isinstance(block, Chart))
    return render(
        "run_page.html",
        page=page,
        has_figures=bool(curves or charts),
        headline=[(label, *_value_and_note(value)) for label, value in page.headline.items()],
        curves=curves,
        numbers=[number for number in page.numbers if is_number(number.value)],
        tables=[block for block in page.blocks if isinstance(block, Listing)],
        charts=charts,
        galleries=[
            (block, [(t, _embedded(page.images[t.index])) for t in block.tiles if t.index in page.images])
            for block in page.blocks
            if isinstance(block, Gallery)
        ],
        unreadable=page.unreadable[:_NUM_UNREADABLE],
        num_unreadable=len(page.unreadable),
        augmented=[_embedded(image) for image in page.augmented],
        slots=list(_slots(page)),
    )


def _value_and_note(text: str) -> tuple[str, str]:
    """The leading number and the rest, for smaller print, as of `78.4% (76.1% to 80.5%)` or `12.3 min`."""
    first, _, rest = text.partition(" ")
    return (first, rest) if first[:1].isdigit() else (text, "")


def _slots(page: RunPage) -> Iterator[tuple[str, str, list[tuple[str, str, bool]]]]:
    """Name, type and fields of each slot; of a field its path, its value and whether it is edited."""
    edited = [edit.path for edit in page.edits]
    for name, slot in page.experiment.items():
        if name != "type":
            fields = dict(_flat(slot, name))
            kind = fields.pop(f"{name}.type", "")
            yield name, kind, [(path, text, is_within(path, edited)) for path, text in fields.items()]


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    """The values in nested dicts by dotted path, as typed on the command line; a type by its class name."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}")
    elif path.endswith(".type"):
        yield path, str(value).rpartition(".")[2]
    elif value is None:
        yield path, "none"
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _embedded(pixels: UInt8[np.ndarray, "H W C"]) -> _EmbeddedImage:
    """An image as a PNG data URI: three channels in color, fewer in gray (the first), more by their first three."""
    height, width, channels = pixels.shape
    shown = pixels[:, :, :3] if channels >= 3 else pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return _EmbeddedImage(uri, is_small=max(height, width) <= _SMALL_SIDE)
