"""The paper's claims about training methods as comparisons.

Source: paper, sections 5.1 and 5.2, Tables 1 and 2.

Shapes: `S` seeds, `N` samples.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from resnet_rs.studies.claim import Claim, oriented
from resnet_rs.studies.record import Record


def additive_claims(record: Record) -> list[Claim]:
    """Table 1: methods add up, and more epochs alone hurt."""
    rows = [trial.label for trial in record.study.trials]
    if len(rows) < 11:
        return []
    methods = "training methods add up: the ninth row is better than the baseline"
    return [
        _claim(record, methods, new=rows[8], old=rows[0]),
        _claim(record, "squeeze-and-excitation and ResNet-D add to them", new=rows[10], old=rows[8]),
        _claim(record, "more epochs alone hurt", new=rows[2], old=rows[1], expects="loss"),
    ]


def decay_claims(record: Record) -> list[Claim]:
    """Table 2: with more regularizers, weight decay must shrink."""
    found: list[Claim] = []
    for depth in ("shallow", "deep"):
        rows = [trial.label for trial in record.study.trials if trial.label.startswith(f"{depth},")]
        if len(rows) == 6:
            text = f"the smaller weight decay gains more with all regularizers than with none ({depth})"
            new, old = _gain(record, rows[4], rows[5], rows), _gain(record, rows[0], rows[1], rows)
            found.append(Claim(text=text, new=new, old=old, limit=2.0))
    return found


def _claim(
    record: Record, text: str, *, new: str, old: str, expects: Literal["gain", "loss"] = "gain"
) -> Claim:
    seeds = record.seeds(new, old)
    if not seeds:
        return Claim(text=text, new=None, old=None)
    return Claim(
        text=text, new=oriented(record, new, seeds), old=oriented(record, old, seeds), expects=expects
    )


def _gain(record: Record, before: str, after: str, all_rows: list[str]) -> Float[np.ndarray, "S N"] | None:
    """The gain from one row to another, with the seeds that all rows have."""
    seeds = record.seeds(*all_rows)
    return oriented(record, after, seeds) - oriented(record, before, seeds) if seeds else None
