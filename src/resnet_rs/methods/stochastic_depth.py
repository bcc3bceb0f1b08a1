"""Stochastic depth: residual branches skipped at random. Card: `docs/methods/stochastic_depth.md`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def stage_drop_rates(drop_path: float) -> tuple[float, float, float, float]:
    """Drop rates of the stages c2, c3, c4 and c5: `drop_path * (2, 3, 4, 5) / 5`.

    One rate per stage, as released (`resnet_model.py`), not one per block as in timm.
    """
    c2, c3, c4, c5 = (drop_path * i / 5 for i in (2, 3, 4, 5))
    return c2, c3, c4, c5


def skip_branches(
    branch: Float[Tensor, "B ..."], draws: Float[Tensor, "B 1"], *, drop_rate: float
) -> Float[Tensor, "B ..."]:
    """`branch`, 0 for samples whose draw is below `drop_rate`, else divided by `1 - drop_rate`.

    `draws` are uniform in [0, 1), one per sample, so the mean over draws is `branch` itself. `drop_rate` is
    in [0, 1).

    Source: Huang et al. 2016, arXiv:1603.09382; the division as in the TF1 release.
    """
    scale = (draws >= drop_rate).to(branch.dtype) / (1 - drop_rate)
    return branch * scale.view(-1, *(1,) * (branch.dim() - 1))
