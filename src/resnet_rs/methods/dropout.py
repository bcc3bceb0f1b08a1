"""Dropout: of pooled features before the classifier, and of whole branches in stochastic depth.

Cards: `docs/methods/dropout.md`, `docs/methods/stochastic_depth.md`.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def drop(
    x: Float[Tensor, "B ..."], draws: Float[Tensor, "B N"], *, drop_rate: float
) -> Float[Tensor, "B ..."]:
    """`x`, set to 0 where the draw is below `drop_rate`, and elsewhere divided by `1 - drop_rate`.

    `draws` are uniform in [0, 1), one per channel (N channels) or one per sample (N = 1), so the mean over draws is `x`
    itself. `drop_rate` is in [0, 1).

    Source: Srivastava et al. 2014, JMLR 15, for features; Huang et al. 2016, arXiv:1603.09382, for branches; scaled as
    in the TF1 release (paper, Table 1).
    """
    scale = (draws >= drop_rate).to(x.dtype) / (1 - drop_rate)
    return x * scale.view(*scale.shape, *(1,) * (x.dim() - 2))
