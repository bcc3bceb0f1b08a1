"""Stochastic depth: residual branches skipped at random. Card: `docs/methods/stochastic_depth.md`.

A branch is skipped as a feature is dropped (`dropout.drop`), with one draw per sample. Source: Huang et al. 2016,
arXiv:1603.09382; the division by the share that is kept as in the TF1 release.
"""

from __future__ import annotations


def stage_drop_rates(drop_path: float) -> tuple[float, float, float, float]:
    """Drop rates of the stages c2, c3, c4 and c5: `drop_path * (2, 3, 4, 5) / 5`.

    One rate per stage, as released (`resnet_model.py`), not one per block as in timm.
    """
    c2, c3, c4, c5 = (drop_path * i / 5 for i in (2, 3, 4, 5))
    return c2, c3, c4, c5
