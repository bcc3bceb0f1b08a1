"""`Subset`: some samples of a source. `with_validation` takes a validation part from the training samples."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source, Splits, WrappedSource
from resnet_rs.data.target import Target


@dataclass(frozen=True, kw_only=True)
class Subset(WrappedSource):
    """Some samples of another source."""

    indices: tuple[int, ...]
    """Which samples of `source`."""

    order, digest = Source.order, Source.digest  # as of any source with these keys

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def stamp(self, index: int) -> str | None:
        return self.source.stamp(self.indices[index])

    def target(self, index: int) -> Target:
        return self.source.target(self.indices[index])

    def read(self, index: int, request: Request) -> Sample:
        return self.source.read(self.indices[index], request)


def with_validation(splits: Splits, share: float) -> Splits:
    """`splits` with a `share` of the training samples, in (0, 1), as validation part.

    It depends on the keys alone, which are ordered by their SHA-256. If the source knows targets without reading, this
    is done in each class: at least one sample is taken, and at least one stays. Raises `ValueError` if the data has a
    validation part of its own, or too few samples.
    """
    if splits.validation is not None:
        raise ValueError(
            "the data has a validation part of its own. Leave recipe.validation out, or remove that part."
        )
    source = splits.train
    groups = defaultdict[object, list[str]](list)
    for i in range(len(source)):
        groups[_group(source, i)].append(source.key(i))
    chosen = {key for keys in groups.values() for key in shuffled(keys)[: part_size(len(keys), share)]}
    if not chosen:
        raise ValueError(
            f"recipe.validation={share:g} needs a class with two or more training images, got {len(source)} images in "
            f"{len(groups)} classes. Add images, or leave it out."
        )
    parts = [
        tuple(i for i in range(len(source)) if (source.key(i) in chosen) is is_chosen)
        for is_chosen in (False, True)
    ]
    train, validation = (Subset(source=source, indices=indices) for indices in parts)
    return Splits(train=train, test=splits.test, validation=validation)


def _group(source: Source, index: int) -> tuple[int, ...]:
    """The first class of a sample; the same for all samples if the source does not know."""
    try:
        return source.target(index).class_indices[:1]
    except NotImplementedError:
        return ()


def part_size(count: int, share: float) -> int:
    """How many of `count` samples of a class are held out: the `share`, at least one, and never all."""
    return min(max(1, round(share * count)), count - 1)


def shuffled(keys: Sequence[str]) -> list[str]:
    """`keys` ordered by their SHA-256, which is the same on every machine and unlike any order of names."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
