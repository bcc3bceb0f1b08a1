"""`Subset`: some samples of a source. `with_validation` takes a validation part from the training samples."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Source, Splits, WrappedSource
from resnet_rs.data.target import Target


@dataclass(frozen=True, kw_only=True)
class Subset(WrappedSource):
    """Some samples of another source."""

    indices: tuple[int, ...]
    """Which samples of `source`."""

    order = Source.order  # as of any source of this length

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def stamp(self, index: int) -> str | None:
        return self.source.stamp(self.indices[index])

    def target(self, index: int) -> Target | None:
        return self.source.target(self.indices[index])

    def read(self, index: int, request: Request) -> Sample:
        return self.source.read(self.indices[index], request)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.source.digest()} {list(self.indices)}".encode()).hexdigest()


def with_validation(splits: Splits, share: float) -> Splits:
    """`splits` with a `share` of the training samples, in (0, 1), as validation part, chosen by `held_out`.

    Raises `ValueError` if the data has a validation part of its own, or too few samples.
    """
    if splits.validation is not None:
        raise ValueError(
            "the data has a validation part of its own. Leave recipe.validation out, or remove that part."
        )
    source = splits.train
    chosen = held_out({source.key(i): _classes_of(source, i) for i in range(len(source))}, share)
    if not chosen:
        raise ValueError(
            f"recipe.validation={share:g} needs a class with two or more training images, and every class of these "
            f"{len(source):,} has one. Add images, or leave it out."
        )
    parts = [
        tuple(i for i in range(len(source)) if (source.key(i) in chosen) is is_chosen)
        for is_chosen in (False, True)
    ]
    train, validation = (Subset(source=source, indices=indices) for indices in parts)
    return Splits(train=train, test=splits.test, validation=validation)


def held_out(classes: Mapping[str, Sequence[object]], share: float) -> set[str]:
    """The keys of about a `share` of the samples, taken from each class. `classes` are those of each key.

    It depends on the keys alone, which are ordered by their SHA-256. At least one sample of each class is taken, and at
    least one stays. A sample of several classes counts for its first one.
    """
    groups = defaultdict[object, list[str]](list)
    for key, present in classes.items():
        groups[next(iter(present), None)].append(key)
    chosen = {key for keys in groups.values() for key in shuffled(keys)[: part_size(len(keys), share)]}
    left = {name for key, present in classes.items() if key not in chosen for name in present}
    for key in shuffled(list(chosen)):
        if not left.issuperset(classes[key]):  # the last samples of a class that is never the first one
            chosen.remove(key)
            left.update(classes[key])
    return chosen


def _classes_of(source: Source, index: int) -> tuple[int, ...]:
    """The classes of a sample; none if the source does not know them without reading."""
    target = source.target(index)
    return () if target is None else target.class_indices


def part_size(count: int, share: float) -> int:
    """How many of `count` samples of a class are held out: the `share`, at least one, and never all."""
    return min(max(1, round(share * count)), count - 1)


def shuffled(keys: Sequence[str]) -> list[str]:
    """`keys` ordered by their SHA-256, which is the same on every machine and unlike any order of names."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
