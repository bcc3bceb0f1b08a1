"""`Claim`: a sentence of the paper as a comparison, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.report.comparison import Difference, Scored, Verdict, holm, paired_differences, verdict
from resnet_rs.report.study_page import Statement
from resnet_rs.report.table import chance


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one thing is larger than another, of which both are known for every seed and picture."""

    text: str
    larger: Scored | None
    """What is claimed to be larger, a row per seed and a column per picture; None where it was not run."""
    smaller: Scored | None
    unit: str = "points"
    """Claims of one unit are about equally noisy, and estimate the luck of seeds together."""


def judge(claims: Sequence[Claim]) -> tuple[Statement, ...]:
    """What was seen of each claim, corrected for each other (Holm)."""
    tried: dict[str, dict[int, tuple[Scored, Scored]]] = {}
    for i, claim in enumerate(claims):
        if claim.larger is not None and claim.smaller is not None:
            tried.setdefault(claim.unit, {})[i] = claim.larger, claim.smaller
    found: dict[int, Difference] = {}
    for pairs in tried.values():
        found |= zip(pairs, paired_differences(list(pairs.values())), strict=True)
    adjusted = dict(zip(found, holm([difference.p for difference in found.values()]), strict=True))
    return tuple(
        _statement(claim, found[i], adjusted[i])
        if i in found
        else Statement(claim=claim.text, finding="not tried", figure="")
        for i, claim in enumerate(claims)
    )


def _statement(claim: Claim, step: Difference, p: float) -> Statement:
    luck = ", whose luck is not in the interval" if step.num_seeds == 1 else ""
    figure = (
        f"{100 * step.value:+.2f} {claim.unit} ({100 * step.low:+.2f} to {100 * step.high:+.2f}), "
        f"p {chance(p) if p < 0.001 else '= ' + chance(p)}, seeds: {step.num_seeds}{luck}"
    )
    match verdict(step.value, p):
        case Verdict.BETTER:
            return Statement(claim=claim.text, finding="seen", figure=figure)
        case Verdict.WORSE:
            return Statement(claim=claim.text, finding="not seen", figure=f"{figure}; the opposite")
        case Verdict.NOT_TOLD_APART:
            return Statement(claim=claim.text, finding="not told apart", figure=figure)
