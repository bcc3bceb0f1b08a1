"""`Row` and `Table`: measured lines beside the paper's, as values. They never share a column.

A table says what it is of: its title carries the base and the data, so that no small-scale number can pass for the
paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.report.comparison import Difference, Mean, Verdict

_ALWAYS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Link:
    """A place to look at more of a row."""

    text: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: what it scored over its seeds, what it is compared with, and what the paper has."""

    label: str
    edits: str
    """As they are typed, from the study's base."""
    top1: Mean | None
    """None as long as no seed has finished."""
    versus: str | None = None
    """Label of the row that it is compared with."""
    difference: Difference | None = None
    adjusted_p: float | None = None
    """The difference's chance after correction for all comparisons of the table."""
    verdict: Verdict | None = None
    paper: float | None = None
    """Top-1 of the paper's row, in percent; of ImageNet and the paper's networks."""
    paper_difference: float | None = None
    """The paper's step from the row that it is compared with, in points."""
    minutes: float | None = None
    """Of a whole run, mean over its seeds."""
    errors: tuple[str, ...] = ()
    """Of the seeds that failed, each with its seed."""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in their order."""

    title: str
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """As a table of Markdown, in percent and points; columns in which no row has anything are left out."""
        head = (
            "",
            "top-1 (95 %)",
            "seeds",
            "spread",
            "against",
            "difference (95 %)",
            "p",
            "verdict",
            "paper",
            "paper's step",
        )
        rows = [_cells(row) for row in self.rows]
        kept = [i for i in range(len(head)) if i < _ALWAYS_SHOWN or any(row[i] for row in rows)]
        shown = markdown_table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
        return f"**{self.title}**\n\n{shown}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table of Markdown."""
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def percent(share: float | None) -> str:
    """A share in percent with two digits, without the sign; of none, an empty cell."""
    return "" if share is None else f"{100 * share:.2f}"


def points(share: float | None) -> str:
    """A difference of shares in signed points; of none, an empty cell."""
    return "" if share is None else f"{100 * share:+.2f}"


def chance(p: float | None) -> str:
    """A p with two digits; of none, an empty cell."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cells(row: Row) -> Sequence[str]:
    top1, step = row.top1, row.difference
    score = "" if top1 is None else f"{percent(top1.value)} ({percent(top1.low)} to {percent(top1.high)})"
    return (
        row.label,
        "; ".join(filter(None, (score, *row.errors))),
        "" if top1 is None else str(top1.num_seeds),
        "" if top1 is None else percent(top1.spread),
        row.versus or "",
        "" if step is None else f"{points(step.value)} ({points(step.low)} to {points(step.high)})",
        chance(row.adjusted_p),
        "" if row.verdict is None else row.verdict.value,
        "" if row.paper is None else f"{row.paper:.1f}",
        "" if row.paper_difference is None else f"{row.paper_difference:+.1f}",
    )


def _line(cells: Sequence[str]) -> str:
    escaped = [" ".join(cell.replace("|", "\\|").split("\n")) for cell in cells]
    return f"| {' | '.join(escaped)} |"
