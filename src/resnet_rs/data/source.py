"""`Source`: where samples come from. The loader, the trainer and the evaluator see nothing else of a data set."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from resnet_rs import draws
from resnet_rs.data.sample import Request, Sample, Unreadable
from resnet_rs.data.target import Target


class Order(NamedTuple):
    """Which samples follow each other in training."""

    samples: Int64[np.ndarray, " N"]
    passes: Int64[np.ndarray, " N"]
    """How often each sample has come before. Crops, flips and augmentation are drawn anew for every pass."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A finite, ordered set of samples that can be read in any order by any process."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a target's index points into them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """Name of sample `index`, unique within the source, without reading it."""

    @abstractmethod
    def read(self, index: int, request: Request) -> Sample:
        """Sample `index`, decoded as `request` says.

        Raises `Unreadable` where the sample cannot be decoded.
        """

    def stamp(self, index: int) -> str | None:
        """A text that changes when the file of sample `index` changes; None if its decoded image should not be kept."""
        return None

    def fingerprint(self, index: int) -> bytes | None:
        """16 bytes that differ if the content of sample `index` does; None if it cannot be read.

        By default of its pixels; a source of files takes those of the file, which need not be decoded.
        """
        try:
            pixels = self.read(index, Request(3)).input
        except Unreadable:
            return None
        return content_fingerprint(f"{pixels.shape}".encode() + pixels.tobytes())

    def target(self, index: int) -> Target | None:
        """The target of sample `index`; None if only reading tells it.

        Classes can be counted, balanced and split evenly, and decoded images kept, only where it is known.
        """
        return None

    def order(self, first: int, count: int, *, seed: int) -> Order:
        """Which samples stand at the global indices `first, ..., first + count - 1` of a training run.

        By default every epoch of `len(self)` global indices is a permutation of all samples. A source with an order of
        its own, such as a mixture with a fixed ratio, overrides this with another pure function of its arguments, and
        `digest` with it.
        """
        size = len(self)
        samples = draws.sample_ids(first, count, size=size, seed=seed)
        return Order(samples, np.arange(first, first + count) // size)

    def digest(self) -> str:
        """SHA-256 that distinguishes this source: over class names and keys, not over the content of files.

        A run continues only with the same digest, so a source with an order of its own must include what decides it.
        """
        digest = hashlib.sha256()
        for text in (*self.classes, "", *(self.key(index) for index in range(len(self)))):
            digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


def content_fingerprint(content: bytes) -> bytes:
    """16 bytes of the BLAKE2b hash of `content`."""
    return hashlib.blake2b(content, digest_size=16).digest()


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The parts of a data set: what is learned from, what is scored at the end, and what choices are made by."""

    train: Source
    test: Source
    validation: Source | None = None
    """For choosing the weights and for calibration, so that nothing is chosen by the test part."""

    def __post_init__(self) -> None:
        for name, part in (("test", self.test), ("validation", self.validation)):
            if part is not None and part.classes != self.train.classes:
                odd = sorted(set(self.train.classes) ^ set(part.classes))
                raise ValueError(
                    f"the train and the {name} part must have the same classes; only one of them has "
                    f"{', '.join(odd[:5])}."
                )

    @property
    def validation_or_test(self) -> Source:
        """What is scored during training: the validation part, else the test part."""
        return self.test if self.validation is None else self.validation


@dataclass(frozen=True, kw_only=True)
class WrappedSource(Source):
    """Another source. Subclasses change it in some respect."""

    source: Source

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def stamp(self, index: int) -> str | None:
        return self.source.stamp(index)

    def fingerprint(self, index: int) -> bytes | None:
        return self.source.fingerprint(index)

    def target(self, index: int) -> Target | None:
        return self.source.target(index)

    def read(self, index: int, request: Request) -> Sample:
        return self.source.read(index, request)

    def order(self, first: int, count: int, *, seed: int) -> Order:
        return self.source.order(first, count, seed=seed)

    def digest(self) -> str:
        return self.source.digest()


@dataclass(frozen=True, kw_only=True)
class Renumbered(WrappedSource):
    """Another source whose targets point into the class names of a model."""

    class_names: tuple[str, ...]
    numbers: tuple[int, ...]
    """For each class of `source` its index in `class_names`."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def target(self, index: int) -> Target | None:
        target = self.source.target(index)
        return None if target is None else self._renumbered(target)

    def read(self, index: int, request: Request) -> Sample:
        sample = self.source.read(index, request)
        return sample._replace(target=self._renumbered(sample.target))

    def digest(self) -> str:
        return hashlib.sha256(
            "\0".join((*self.classes, self.source.digest())).encode("utf-8", "surrogateescape")
        ).hexdigest()

    def _renumbered(self, target: Target) -> Target:
        return target.renumbered(self._as_array, num_classes=len(self.class_names))

    @cached_property
    def _as_array(self) -> Int[np.ndarray, " K"]:
        return np.array(self.numbers)


def match_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """`source` with its targets matched *by name* to `classes`, the class names stored with a model.

    `source` may lack some of them; a class that the model does not know is refused.
    """
    if source.classes == classes:
        return source
    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        missing = [name for name in classes if name not in source.classes]
        known = f" The model's classes that the data lacks: {', '.join(missing[:10])}." if missing else ""
        raise ValueError(
            f"the model does not know {len(unknown)} classes of the data: {', '.join(unknown[:10])}.{known} "
            "Rename the folders as in training, or evaluate a model that was trained on these classes."
        )
    numbers = tuple(classes.index(name) for name in source.classes)
    return Renumbered(source=source, class_names=classes, numbers=numbers)
