"""`Row` and `Table`: measured trials and, in columns of their own, published figures; and how numbers are written.

A title names the base and the data, so that small-scale numbers are not mistaken for the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnet_rs.report.comparison import Difference, Mean, Verdict
from resnet_rs.report.score import Number, ScoreName

_NUM_ALWAYS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial: its score over the seeds, its comparison with a baseline, and the paper's figure."""

    label: str
    edits: str
    score: Mean | None
    """None until a seed has finished."""
    baseline: str | None = None
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
    links: tuple[tuple[str, str], ...] = ()
    """Text and address of where more about it is found."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in their order, and the score that they hold."""

    title: str
    score: ScoreName
    rows: tuple[Row, ...]

    def has(self, name: str) -> bool:
        """Whether a row has something in the field `name`."""
        return any(getattr(row, name) not in (None, ()) for row in self.rows)

    def markdown(self) -> str:
        """As Markdown, without the columns that are empty in every row."""
        rows = [_cells(row, self.score) for row in self.rows]
        shown = {name for row in rows for i, name in enumerate(row) if row[name] or i < _NUM_ALWAYS_SHOWN}
        rows = [{name: cell for name, cell in row.items() if name in shown} for row in rows]
        return f"**{self.title}**\n\n{markdown_table(rows)}"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a table of Markdown, empty without rows. Each holds its cells by the names of their columns."""
    if not rows:
        return ""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in lines)


def interval_text(text: Callable[[float | None], str], found: Mean | Difference | Number) -> str:
    """`LOW to HIGH`, each written by `text`; `unknown` where a bound is."""
    low, high = text(found.low), text(found.high)
    return f"{low} to {high}" if low and high else "unknown"


def with_interval(text: Callable[[float | None], str], found: Mean | Difference | Number) -> str:
    """`VALUE (LOW to HIGH)`; the value alone where no interval was made."""
    value = text(found.value)
    return value if found.low is None or found.high is None else f"{value} ({interval_text(text, found)})"


def difference_line(score: ScoreName, difference: Difference, *, per: str = "") -> str:
    """A difference with unit, interval and p-value, such as `+1.20 points (+0.30 to +2.10), p = 0.004`."""
    unit = f"{score.unit} per {per}" if per else score.unit
    value, p_value = score.change(difference.value), p_text(difference.p_value)
    equals = "" if p_value.startswith("<") else "= "
    return f"{value} {unit} ({interval_text(score.change, difference)}), p {equals}{p_value}"


def p_text(p_value: float) -> str:
    """A p-value with three digits."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def duration_text(minutes: float) -> str:
    """A duration in seconds below a minute, in hours above 120 minutes."""
    if minutes < 1:
        return f"{60 * minutes:.2g} s"
    return f"{minutes:.3g} min" if minutes <= 120 else f"{minutes / 60:,.3g} h"


def _cells(row: Row, score: ScoreName) -> dict[str, str]:
    """The cells of a row by the names of their columns."""
    mean, difference = row.score, row.difference
    shown = "" if mean is None else with_interval(score.cell, mean)
    return {
        "": row.label,
        f"{score.title} (95 %)": "; ".join(filter(None, (shown, *row.errors))),
        "seeds": "" if mean is None else str(mean.num_seeds),
        "standard deviation": "" if mean is None else score.cell(mean.standard_deviation),
        "baseline": row.baseline or "",
        "difference (95 %, corrected)": "" if difference is None else with_interval(score.change, difference),
        "p (corrected)": "" if difference is None else p_text(difference.p_value),
        "verdict": row.verdict or "",
        "paper": "" if row.paper is None else f"{row.paper:.1f}",
        "paper's difference": "" if row.paper_difference is None else f"{row.paper_difference:+.1f}",
    }


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
