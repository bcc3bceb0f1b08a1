"""Random layers of a network, and the draws of all of them for one micro-batch, computed before the forward pass.

Shapes: `B` samples of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from resnet_rs import draws


class RandomLayer(nn.Module):
    """A layer that needs random numbers while training.

    `purpose` names its draws: the layers of one network must not share it. `num_draws` is the number per sample.
    """

    draws: Float[Tensor, "B num_draws"] | None
    """Uniform numbers in [0, 1) for the next forward pass. Without them the layer uses torch's own generator."""

    def __init__(self, drop_rate: float, *, purpose: str, num_draws: int) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.purpose = purpose
        self.num_draws = num_draws
        self.draws = None

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate}, purpose={self.purpose!r}"


class ModelRng:
    """The draws of all random layers of a model in run `seed`.

    The hashes are computed once. Each `scope` then computes the draws of all layers together.
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        layers = [module for module in model.modules() if isinstance(module, RandomLayer)]
        purposes = [layer.purpose for layer in layers]
        if len(set(purposes)) < len(purposes):
            raise ValueError(
                f"two layers of the model draw for the same purpose: {sorted(purposes)}. Give each its own."
            )
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._groups = [
            (columns, group, draws.salts(seed, [layer.purpose for layer in group]).to(self._device))
            for columns in sorted({layer.num_draws for layer in layers})
            if (group := [layer for layer in layers if layer.num_draws == columns])
        ]

    @contextmanager
    def scope(self, sample_indices: Int[Tensor, " B"]) -> Generator[None]:
        """In this block the model draws for the samples with these global indices, whatever the batch around them."""
        indices = sample_indices.to(self._device)
        for columns, layers, salts in self._groups:
            drawn = draws.uniform(salts, indices, columns=columns).unbind()
            for layer, values in zip(layers, drawn, strict=True):
                layer.draws = values
        try:
            yield
        finally:
            for _, layers, _ in self._groups:
                for layer in layers:
                    layer.draws = None
