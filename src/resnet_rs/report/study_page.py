"""The page of a study: what was tried, what pays, and what may be said of it, beside the paper's figures.

Base and data stand in its title and its heading, so that a small-scale number cannot pass for the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from resnet_rs.report.figures import Figure
from resnet_rs.report.frame import render, stored
from resnet_rs.report.table import Table, chance, percent, points

Finding = Literal["seen", "seen (one seed)", "not seen", "not seen (one seed)", "not told apart", "not tried"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with its heading."""

    title: str
    figure: Figure
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim of the paper, and what was seen of it."""

    claim: str
    finding: Finding
    figure: str
    """The number that decides, in words."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Plain rows under a heading; the first cell of each names it, the others are numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """What the page shows, as plain values. Every part may be empty."""

    title: str
    base: str
    """The base, the data, and what they cannot be compared with."""
    headline: Mapping[str, str]
    notes: Sequence[str]
    statements: Sequence[Statement]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    environment: Mapping[str, str]
    listings: Sequence[Listing] = ()


def render_study_page(page: StudyPage) -> str:
    """`page` as HTML."""
    figures = stored({str(i): chart.figure for i, chart in enumerate(page.charts)})
    return render(
        "study_page.html",
        has_figures=bool(figures),
        page=page,
        charts=[
            (chart, figures[str(i)], chart.figure["layout"].get("height"))
            for i, chart in enumerate(page.charts)
        ],
        tables=[(table, _columns(table)) for table in page.tables],
        percent_cell=percent,
        spread_cell=percent,
        points_cell=points,
        chance_cell=chance,
    )


def _columns(table: Table) -> frozenset[str]:
    """The columns that hold something in at least one row."""
    present = {
        "difference": any(row.difference is not None for row in table.rows),
        "paper": any(row.paper is not None for row in table.rows),
        "paper_difference": any(row.paper_difference is not None for row in table.rows),
        "minutes": any(row.minutes is not None for row in table.rows),
        "links": any(row.links for row in table.rows),
    }
    return frozenset(name for name, is_present in present.items() if is_present)
