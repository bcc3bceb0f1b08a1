"""`Claim`: a sentence of the paper as a comparison, and what may be said of it.

Shapes: `S` seeds, `N` pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from resnet_rs.report.comparison import Difference, Verdict, holm, paired_differences, verdict
from resnet_rs.report.study_page import Statement
from resnet_rs.report.table import chance


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one thing is larger than another, of which both are known for every seed and picture."""

    text: str
    larger: Float[np.ndarray, "S N"] | None
    """What is claimed to be larger; None where it was not run."""
    smaller: Float[np.ndarray, "S N"] | None
    unit: str = "points"


def judge(claims: Sequence[Claim]) -> tuple[Statement, ...]:
    """What was seen of each claim, corrected for each other (Holm)."""
    pairs = [(c.larger, c.smaller) for c in claims if c.larger is not None and c.smaller is not None]
    differences = paired_differences(pairs)
    adjusted = holm([difference.p for difference in differences])
    outcomes = iter(zip(differences, adjusted, strict=True))
    return tuple(
        Statement(claim=claim.text, finding="not tried", figure="")
        if claim.larger is None or claim.smaller is None
        else _statement(claim, *next(outcomes))
        for claim in claims
    )


def _statement(claim: Claim, step: Difference, p: float) -> Statement:
    figure = (
        f"{100 * step.value:+.2f} {claim.unit} ({100 * step.low:+.2f} to {100 * step.high:+.2f}), "
        f"p = {chance(p)}, seeds: {step.num_seeds}"
    )
    match verdict(step.value, p):
        case Verdict.BETTER:
            return Statement(claim=claim.text, finding="seen", figure=figure)
        case Verdict.WORSE:
            return Statement(claim=claim.text, finding="not seen", figure=f"{figure}; the opposite")
        case Verdict.NOT_TOLD_APART:
            return Statement(claim=claim.text, finding="not told apart", figure=figure)
