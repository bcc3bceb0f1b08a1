"""`Claim`: a sentence of the paper as a comparison, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.report.comparison import Difference, Scored, Verdict, holm, paired_differences, verdict
from resnet_rs.report.study_page import Finding, Statement
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


def of_seeds(finding: Finding, num_seeds: int) -> Finding:
    """A finding with what it rests on: of one seed its luck is unknown, which three have taken back before (LOG.md)."""
    alone: dict[Finding, Finding] = {"seen": "seen (one seed)", "not seen": "not seen (one seed)"}
    return alone.get(finding, finding) if num_seeds == 1 else finding


def _statement(claim: Claim, step: Difference, p: float) -> Statement:
    luck = ", whose luck is not in the interval" if step.num_seeds == 1 else ""
    figure = (
        f"{100 * step.value:+.2f} {claim.unit} ({100 * step.low:+.2f} to {100 * step.high:+.2f}), "
        f"p {chance(p) if p < 0.001 else '= ' + chance(p)}, seeds: {step.num_seeds}{luck}"
    )
    found = verdict(step.value, p)
    findings: dict[Verdict, Finding] = {
        Verdict.BETTER: "seen",
        Verdict.WORSE: "not seen",
        Verdict.NOT_TOLD_APART: "not told apart",
    }
    figure += "; the opposite" if found is Verdict.WORSE else ""
    return Statement(claim=claim.text, finding=of_seeds(findings[found], step.num_seeds), figure=figure)
