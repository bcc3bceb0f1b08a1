"""What the studies of training methods say of the paper's claims.

Source: paper, sections 5.1 and 5.2, Tables 1 and 2.

Shapes: `S` seeds, `N` pictures.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from resnet_rs.studies.claim import Claim
from resnet_rs.studies.record import Record


def additive_claims(record: Record) -> list[Claim]:
    """Of Table 1: that methods add up, and that more epochs alone hurt."""
    rows = [trial.label for trial in record.study.trials]
    if len(rows) < 11:
        return []
    return [
        _claim(
            record, "training methods add up: the ninth row is better than the baseline", rows[8], rows[0]
        ),
        _claim(record, "squeeze-and-excitation and ResNet-D add to them", rows[10], rows[8]),
        _claim(record, "more epochs alone hurt", rows[1], rows[2]),
    ]


def decay_claims(record: Record) -> list[Claim]:
    """Of Table 2: that weight decay must shrink when other regularizers come."""
    found: list[Claim] = []
    for depth in ("shallow", "deep"):
        rows = [trial.label for trial in record.study.trials if trial.label.startswith(f"{depth},")]
        if len(rows) == 6:
            text = f"the smaller weight decay gains more with all regularizers than with none ({depth})"
            found.append(
                Claim(
                    text=text,
                    larger=_step(record, rows[4], rows[5], rows),
                    smaller=_step(record, rows[0], rows[1], rows),
                )
            )
    return found


def _claim(record: Record, text: str, larger: str, smaller: str) -> Claim:
    seeds = record.seeds(larger, smaller)
    if not seeds:
        return Claim(text=text, larger=None, smaller=None)
    return Claim(text=text, larger=record.hits(larger, seeds), smaller=record.hits(smaller, seeds))


def _step(record: Record, before: str, after: str, all_rows: list[str]) -> Float[np.ndarray, "S N"] | None:
    """Hits gained from one row to another, with the seeds that all rows have."""
    seeds = record.seeds(*all_rows)
    if not seeds:
        return None
    return record.hits(after, seeds).astype(np.float64) - record.hits(before, seeds)
