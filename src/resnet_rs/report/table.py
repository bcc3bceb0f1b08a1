"""`Row` and `Table`: measured trials beside published figures, which never share a column, and how numbers are written.

A title names the base and the data, so that no small-scale number can pass for the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.report.comparison import Difference, Mean, Verdict
from resnet_rs.report.score import ScoreName

_NUM_ALWAYS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where more about a row is found."""

    text: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: its score over the seeds, its comparison with a baseline, and the paper's figure."""

    label: str
    edits: str
    """From the study's base, as typed."""
    score: Mean | None
    """None until a seed has finished."""
    baseline: str | None = None
    """Label of the row that it is compared with."""
    difference: Difference | None = None
    """From the baseline, corrected for all comparisons of the table."""
    verdict: Verdict | None = None
    paper: float | None = None
    """Score of the paper's row, in percent, for ImageNet and the paper's networks."""
    paper_difference: float | None = None
    """The paper's difference from the baseline, in points."""
    minutes: float | None = None
    """Duration of a whole run, mean over the seeds."""
    errors: tuple[str, ...] = ()
    """One for each seed that failed."""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in their order, and the score that they hold."""

    title: str
    score: ScoreName
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """As Markdown, without the columns that are empty in every row."""
        head = (
            "",
            f"{score_title(self.score)} (95 %)",
            "seeds",
            "standard deviation",
            "baseline",
            "difference (95 %, corrected)",
            "p (corrected)",
            "verdict",
            "paper",
            "paper's difference",
        )
        rows = [_cells(row, self.score) for row in self.rows]
        kept = [i for i in range(len(head)) if i < _NUM_ALWAYS_SHOWN or any(row[i] for row in rows)]
        shown = markdown_table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
        return f"**{self.title}**\n\n{shown}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table of Markdown."""
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def score_title(score: ScoreName) -> str:
    """The score with its unit: `accuracy, %`, or `error`."""
    return f"{score.label}, %" if score.is_share else score.label


def score_text(score: ScoreName, value: float | None) -> str:
    """A score without its unit: a share in percent with two digits. An empty text for None and for infinity."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{100 * value:.2f}" if score.is_share else f"{value:.4g}"


def difference_text(score: ScoreName, value: float) -> str:
    """A signed difference of scores; of shares in points."""
    if not math.isfinite(value):
        return ""
    return f"{100 * value:+.2f}" if score.is_share else f"{value:+.4g}"


def interval_text(low: str, high: str) -> str:
    """`LOW to HIGH`; `unknown` where a bound is empty."""
    return f"{low} to {high}" if low and high else "unknown"


def p_text(p_value: float | None) -> str:
    """A p-value with three digits."""
    if p_value is None:
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def duration_text(minutes: float) -> str:
    """A duration in seconds below a minute, in hours above 120 minutes."""
    if minutes < 1:
        return f"{60 * minutes:.2g} s"
    return f"{minutes:.3g} min" if minutes <= 120 else f"{minutes / 60:,.3g} h"


def mean_interval_text(score: ScoreName, mean: Mean) -> str:
    """The interval of a mean."""
    return interval_text(score_text(score, mean.low), score_text(score, mean.high))


def difference_interval_text(score: ScoreName, difference: Difference) -> str:
    """The interval of a difference."""
    return interval_text(difference_text(score, difference.low), difference_text(score, difference.high))


def _cells(row: Row, score: ScoreName) -> Sequence[str]:
    mean, difference = row.score, row.difference
    shown = "" if mean is None else f"{score_text(score, mean.value)} ({mean_interval_text(score, mean)})"
    change = ""
    if difference is not None:
        interval = difference_interval_text(score, difference)
        change = f"{difference_text(score, difference.value)} ({interval})"
    return (
        row.label,
        "; ".join(filter(None, (shown, *row.errors))),
        "" if mean is None else str(mean.num_seeds),
        "" if mean is None else score_text(score, mean.standard_deviation),
        row.baseline or "",
        change,
        "" if difference is None else p_text(difference.p_value),
        "" if row.verdict is None else row.verdict.value,
        "" if row.paper is None else f"{row.paper:.1f}",
        "" if row.paper_difference is None else f"{row.paper_difference:+.1f}",
    )


def _line(cells: Sequence[str]) -> str:
    escaped = [" ".join(cell.replace("|", "\\|").split("\n")) for cell in cells]
    return f"| {' | '.join(escaped)} |"
