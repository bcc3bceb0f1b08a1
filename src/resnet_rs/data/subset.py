"""`Subset`: some samples of a source. `Joined`: the samples of several. And which samples are held out, for validation,
for testing or as folds."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

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

    def fingerprint(self, index: int) -> bytes | None:
        return self.source.fingerprint(self.indices[index])

    def target(self, index: int) -> Target | None:
        return self.source.target(self.indices[index])

    def read(self, index: int, request: Request) -> Sample:
        return self.source.read(self.indices[index], request)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.source.digest()} {list(self.indices)}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Joined(Source):
    """The samples of several sources with the same classes and different keys, one source after the other."""

    sources: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.sources[0].classes

    def __len__(self) -> int:
        return self._ends[-1]

    def key(self, index: int) -> str:
        source, inside = self._place(index)
        return source.key(inside)

    def fingerprint(self, index: int) -> bytes | None:
        source, inside = self._place(index)
        return source.fingerprint(inside)

    def target(self, index: int) -> Target | None:
        source, inside = self._place(index)
        return source.target(inside)

    def read(self, index: int, request: Request) -> Sample:
        source, inside = self._place(index)
        return source.read(inside, request)

    def _place(self, index: int) -> tuple[Source, int]:
        """The source of a sample, and its index there."""
        i = bisect_right(self._ends, index)
        return self.sources[i], index - (self._ends[i - 1] if i else 0)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.sources)))


def with_validation(splits: Splits, share: float) -> Splits:
    """`splits` with a `share` of the training samples, in (0, 1), as validation part, chosen by `held_out`.

    Raises `ValueError` if the data has a validation part of its own, or too few samples.
    """
    if splits.validation is not None:
        raise ValueError(
            "the data has a validation part of its own. Leave recipe.validation out, or remove that part."
        )
    source = splits.train
    chosen = held_out(classes_of(source), share)
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
    groups = _by_first_class(classes)
    chosen = {key for keys in groups for key in keys[: part_size(len(keys), share)]}
    return _with_all_classes_left(chosen, classes)


def fold_parts(classes: Mapping[str, Sequence[object]], count: int) -> list[set[str]]:
    """The keys that each of `count` folds holds out: about as many in each, of each class; the largest part first.
    `classes` are those of each key.

    It depends on the keys alone. Every sample is held out once, except where a class would have none left: its only
    sample, say. A sample of several classes counts for its first one.
    """
    dealt = [key for keys in sorted(_by_first_class(classes)) for key in keys]
    parts = [_with_all_classes_left(set(dealt[i::count]), classes) for i in range(count)]
    return sorted(parts, key=len, reverse=True)


def classes_of(*sources: Source) -> dict[str, tuple[int, ...]]:
    """The classes of each sample by its key; none for one whose source does not know them without reading."""
    targets = {source.key(i): source.target(i) for source in sources for i in range(len(source))}
    return {key: () if target is None else target.class_indices for key, target in targets.items()}


def _by_first_class(classes: Mapping[str, Sequence[object]]) -> list[list[str]]:
    """The keys of each class, shuffled; a sample of several classes is one of its first."""
    groups = defaultdict[object, list[str]](list)
    for key, present in classes.items():
        groups[next(iter(present), None)].append(key)
    return [shuffled(keys) for keys in groups.values()]


def _with_all_classes_left(chosen: set[str], classes: Mapping[str, Sequence[object]]) -> set[str]:
    """`chosen` without the last samples of a class that is never the first one."""
    left = {name for key, present in classes.items() if key not in chosen for name in present}
    for key in shuffled(list(chosen)):
        if not left.issuperset(classes[key]):  # the last sample of some class
            chosen.remove(key)
            left.update(classes[key])
    return chosen


def part_size(count: int, share: float) -> int:
    """How many of `count` samples of a class are held out: the `share`, at least one, and never all."""
    return min(max(1, round(share * count)), count - 1)


def shuffled(keys: Sequence[str]) -> list[str]:
    """`keys` ordered by their SHA-256, which is the same on every machine and unlike any order of names."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())
