"""What all pages share. A page is one HTML file that contains its figures, styles and script."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingTypeStubs] - plotly comes without types

from resnet_rs.report.blocks import Chart
from resnet_rs.report.figures import Figure


def render(template: str, *, has_figures: bool, **values: object) -> str:
    """A page from its template; with plotly.js if it has figures."""
    script = Markup(get_plotlyjs()) if has_figures else ""
    text = _environment().get_template(template).render(plotlyjs=script, **values)
    # File names that are not Unicode carry lone surrogates, which no encoding can write.
    return text.encode("utf-8", "replace").decode("utf-8")


def stored(figure: Figure) -> Markup:
    """A figure as JSON that is safe in a script element."""
    return htmlsafe_json_dumps(figure, default=_sparse, separators=(",", ":"), allow_nan=False)


def drawn(charts: Iterable[Chart]) -> list[tuple[Chart, Markup, int | None]]:
    """Each chart with its figure as JSON and its height in pixels, if it has one. Charts without data are left out."""
    return [
        (chart, stored(chart.figure), chart.figure["layout"].get("height"))
        for chart in charts
        if chart.figure["data"]
    ]


def _sparse(matrix: np.ndarray) -> dict[str, Any]:
    """A matrix as its shape and its nonzero entries: the distance of each from the one before, and the values."""
    places = np.flatnonzero(matrix)
    steps = np.diff(places, prepend=0)
    return {"shape": list(matrix.shape), "steps": steps.tolist(), "values": matrix.ravel()[places].tolist()}


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
