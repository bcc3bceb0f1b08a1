"""The built-in data set: 10,000 + 2,000 images of Fashion-MNIST, contained in the package.

Balanced over ten classes of clothing, 28x28 gray pixels. Source: Xiao et al. 2017, arXiv:1708.07747; MIT
license, beside the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Literal

import numpy as np

from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.target import Label


@dataclass(frozen=True, kw_only=True)
class Builtin(Source):
    """One split of the built-in images."""

    split: Literal["train", "test"]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(name) for name in _arrays()["classes"])

    def __len__(self) -> int:
        return len(_arrays()[f"{self.split}_labels"])

    def key(self, index: int) -> str:
        return f"builtin/{self.split}/{index}"

    def target(self, index: int) -> Label:
        return Label(int(_arrays()[f"{self.split}_labels"][index]))

    def read(self, index: int, request: Request) -> Sample:
        """Sample `index`, with its gray values repeated in every channel."""
        image = _arrays()[f"{self.split}_images"][index, :, :, None]
        return Sample(np.repeat(image, request.channels, axis=2), self.target(index), self.key(index))


def builtin() -> Splits:
    """The built-in data set."""
    return Splits(train=Builtin(split="train"), test=Builtin(split="test"))


@lru_cache(maxsize=1)
def _arrays() -> dict[str, np.ndarray]:
    resource = files("resnet_rs.data") / "fashion_mnist" / "fashion-mnist-12k.npz"
    with as_file(resource) as path, np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}
