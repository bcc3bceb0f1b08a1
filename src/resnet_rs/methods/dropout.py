"""Dropout on the pooled features before the classifier. Card: `docs/methods/dropout.md`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def drop_features(
    features: Float[Tensor, "B C"], draws: Float[Tensor, "B C"], *, drop_rate: float
) -> Float[Tensor, "B C"]:
    """`features`, set to 0 where the draw is below `drop_rate`, and elsewhere divided by `1 - drop_rate`.

    `draws` are uniform in [0, 1), one per feature, so the mean over draws is `features` itself. `drop_rate`
    is in [0, 1).

    Source: Srivastava et al. 2014, JMLR 15; on the pooled features as in the TF1 release (paper, Table 1).
    """
    return features * ((draws >= drop_rate).to(features.dtype) / (1 - drop_rate))
