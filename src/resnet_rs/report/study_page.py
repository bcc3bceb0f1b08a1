"""The page of a study: its trials, its verdicts and the paper's claims.

The title and the heading name base and data, so that small-scale numbers are not mistaken for the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from resnet_rs.report import table as tables
from resnet_rs.report.blocks import Chart, Listing
from resnet_rs.report.frame import drawn, render
from resnet_rs.report.table import Table

Finding = Literal[
    "seen", "seen (one seed)", "not seen", "not seen (one seed)", "not significant", "not tried"
]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim of the paper, and what this study finds about it."""

    claim: str
    finding: Finding = "not tried"
    figure: str = ""
    """The number that decides, in words."""


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """What the page shows, as plain values. Every part may be empty."""

    title: str
    base: str
    """The base, the data, and what they cannot be compared with."""
    headline: Mapping[str, str]
    notes: Sequence[str]
    statements: Sequence[Statement]
    charts: Sequence[Chart]
    environment: Mapping[str, str]
    tables: Sequence[Table] = ()
    listings: Sequence[Listing] = ()


def render_study_page(page: StudyPage) -> str:
    """`page` as HTML."""
    charts = drawn(page.charts)
    return render("study_page.html", has_figures=bool(charts), page=page, charts=charts, text=tables)


def statements_table(statements: Iterable[Statement], *, figure: str = "figure") -> str:
    """Claims and findings as a table of Markdown."""
    rows = [{"claim": s.claim, "finding": s.finding, figure: s.figure} for s in statements]
    return tables.markdown_table(rows)
