"""The paper's claims about training methods as comparisons.

Source: paper, sections 5.1 and 5.2, Tables 1 and 2.
"""

from __future__ import annotations

from typing import Literal

from resnet_rs.studies.claim import Claim, oriented
from resnet_rs.studies.record import Record

_ALL_REGULARIZERS = {"shallow": "RA+LS+DO", "deep": "RA+LS+SD+DO"}


def additive_claims(record: Record) -> list[Claim]:
    """Table 1: methods add up, and more epochs alone hurt."""
    ninth = "+ smaller weight decay"
    methods = "training methods add up: the ninth row is better than the baseline"
    hurt = "more epochs alone hurt"
    return [
        _claim(record, methods, new=ninth, old="baseline of 2015"),
        _claim(record, "squeeze-and-excitation and ResNet-D add to them", new="+ ResNet-D", old=ninth),
        _claim(record, hurt, new="+ more epochs", old="+ cosine learning rate", expects="loss"),
    ]


def decay_claims(record: Record) -> list[Claim]:
    """Table 2: with more regularizers, weight decay must shrink."""
    found: list[Claim] = []
    for depth, regularizers in _ALL_REGULARIZERS.items():
        text = f"the smaller weight decay gains more with all regularizers than with none ({depth})"
        with_all, with_none = (
            _rows(record, f"{depth}, {label},") for label in (regularizers, "no regularizer")
        )
        seeds = record.seeds(*with_all, *with_none) if len(with_all) == len(with_none) == 2 else ()
        if seeds:
            new, old = (
                oriented(record, small, seeds) - oriented(record, large, seeds)
                for large, small in (with_all, with_none)
            )
            found.append(Claim(text=text, new=new, old=old, limit=2.0))
        else:
            found.append(Claim(text=text, new=None, old=None))
    return found


def _rows(record: Record, start: str) -> list[str]:
    """The labels that begin with `start`: the row with the larger weight decay and the row with the smaller."""
    return [trial.label for trial in record.study.trials if trial.label.startswith(start)]


def _claim(
    record: Record, text: str, *, new: str, old: str, expects: Literal["gain", "loss"] = "gain"
) -> Claim:
    seeds = record.seeds(new, old)
    if not seeds:
        return Claim(text=text, new=None, old=None)
    return Claim(
        text=text, new=oriented(record, new, seeds), old=oriented(record, old, seeds), expects=expects
    )
