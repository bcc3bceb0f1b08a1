"""`Source`: where samples come from. The loader, the trainer and the evaluator see nothing else of a data set."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from resnet_rs.data.sample import Mask, Sample, Target


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
    def read(self, index: int, *, channels: int) -> Sample:
        """Sample `index`, decoded to `channels` channels.

        Raises `Unreadable` where the sample cannot be decoded.
        """

    def digest(self) -> str:
        """SHA-256 over the class names and the keys in order. It tells names apart, not what the files hold."""
        digest = hashlib.sha256()
        for text in (*self.classes, "", *(self.key(index) for index in range(len(self)))):
            digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The two halves of a data set: what is learned from, and what is scored."""

    train: Source
    test: Source

    def __post_init__(self) -> None:
        if self.train.classes != self.test.classes:
            odd = sorted(set(self.train.classes) ^ set(self.test.classes))
            raise ValueError(
                f"the train and the test split must have the same classes; only one of them has {', '.join(odd[:5])}."
            )


@dataclass(frozen=True, kw_only=True)
class Renumbered(Source):
    """Another source whose targets point into the class names of a model."""

    source: Source
    class_names: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def read(self, index: int, *, channels: int) -> Sample:
        sample = self.source.read(index, channels=channels)
        return sample._replace(target=_renumber(sample.target, self._numbers))

    @cached_property
    def _numbers(self) -> Int[np.ndarray, " K"]:
        """Old class index -> new one."""
        return np.array([self.class_names.index(name) for name in self.source.classes])


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
    return Renumbered(source=source, class_names=classes)


def _renumber(target: Target, numbers: Int[np.ndarray, " K"]) -> Target:
    return Mask(numbers[target.classes]) if isinstance(target, Mask) else int(numbers[target])
