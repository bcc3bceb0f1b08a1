"""`Claim`: a sentence of the paper as a comparison, and the verdict on it.

Shapes: `S` seeds, `N` samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from resnet_rs.report.comparison import Difference, Values, Verdict, compare
from resnet_rs.report.score import ScoreName
from resnet_rs.report.study_page import Finding, Statement
from resnet_rs.report.table import difference_line
from resnet_rs.studies.record import Record


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about the difference `new - old`; the sign of the figure follows the sentence."""

    text: str
    pair: tuple[Values, Values] | None
    """`new` and `old`, in values of which higher is better, [S, N]; None where a run is missing."""
    expects: Literal["gain", "loss"] = "gain"
    """The sign that the sentence predicts."""
    per: str = ""
    """What the difference is divided by, such as `doubling of multiply-adds`. Claims with the same `per` share their
    estimate of the seed variance."""
    limit: float = 1.0
    """The largest possible difference of a score in [0, 1]."""


def oriented(record: Record, label: str, seeds: Sequence[int]) -> Float[np.ndarray, "S N"]:
    """The values of a trial in which higher is better: of a score such as an error the negative ones."""
    values = record.values(label, seeds)
    return values if record.context.score.is_higher_better else -values


def judge(claims: Sequence[Claim], score: ScoreName) -> tuple[Statement, ...]:
    """What was found of each claim, corrected for the number of claims."""
    pairs = {i: claim.pair for i, claim in enumerate(claims) if claim.pair is not None}
    found = [Statement(claim=claim.text) for claim in claims]
    for per in {claim.per for claim in claims}:
        alike = {i: pair for i, pair in pairs.items() if claims[i].per == per}
        for i, difference in zip(
            alike, compare(list(alike.values()), num_comparisons=len(pairs)), strict=True
        ):
            found[i] = _statement(claims[i], difference, score)
    return tuple(found)


def for_seeds(finding: Finding, num_seeds: int) -> Finding:
    """The finding, marked where it rests on one seed: in three cases more seeds have withdrawn it (docs/LOG.md)."""
    alone: dict[Finding, Finding] = {"seen": "seen (one seed)", "not seen": "not seen (one seed)"}
    return alone.get(finding, finding) if num_seeds == 1 else finding


def _statement(claim: Claim, difference: Difference, score: ScoreName) -> Statement:
    shown = difference.clipped(claim.limit if score.is_share else math.inf)
    figure = f"{difference_line(score, shown, per=claim.per)}, seeds: {shown.num_seeds}"
    if shown.num_seeds == 1:
        figure += ", the interval leaves out the seed variance"
    verdict = shown.verdict(is_higher_better=claim.expects == "gain")
    finding: Finding = "seen" if verdict is Verdict.BETTER else "not significant"
    if verdict is Verdict.WORSE:
        finding = "not seen"
        figure += "; the opposite is significant"
    return Statement(claim=claim.text, finding=for_seeds(finding, shown.num_seeds), figure=figure)
