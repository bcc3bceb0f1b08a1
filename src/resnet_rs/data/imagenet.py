"""ImageNet's classes, and the labels of the test sets that were made after it.

- ImageNet-V2 (Recht et al. 2019): folders are numbers of classes, 0 to 999 in ImageNet's order.
- ImageNet-R (Hendrycks et al. 2021) and ImageNet-A (2021): 200 classes each; a model answers among these alone.
- ReaL (Beyer et al. 2020): ImageNet's validation pictures with all classes that are seen in them. An answer is right
  if it is one of these; pictures with none are left out.

Sources of the files: `imagenet/README.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int

from resnet_rs.data.sample import Sample
from resnet_rs.data.source import Source

Labels = Literal["imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-real"]
LABELS: tuple[Labels, ...] = get_args(Labels)

_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.")


class Reassessed(NamedTuple):
    """Answers to ImageNet's validation pictures by ReaL's labels."""

    hits: Bool[np.ndarray, " n"]
    """Of the pictures that have labels."""
    num_without: int
    """Pictures that have none, and are left out."""


@cache
def classes() -> tuple[str, ...]:
    """The WordNet identifiers of ImageNet's 1,000 classes, by which its folders are called, in order."""
    return _identifiers("synsets.txt")


def title(identifier: str) -> str | None:
    """A class in words, as `great white shark` for `n01484850`; none for what is no identifier of ImageNet."""
    return _titles().get(identifier) if identifier in _places() else None


@cache
def _places() -> frozenset[str]:
    return frozenset(classes())


@cache
def _titles() -> dict[str, str]:
    # Imported here, for it takes seconds, and few data sets have such names.
    from torchvision.models import ResNet50_Weights  # pyright: ignore[reportMissingTypeStubs]: it ships none

    return dict(zip(classes(), ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))


@cache
def classes_of(labels: Labels) -> tuple[str, ...]:
    """The classes among which a model answers, in ImageNet's order."""
    return _identifiers(f"{labels}.txt") if labels in ("imagenet-r", "imagenet-a") else classes()


def labeled(source: Source, labels: Labels) -> Source:
    """`source` with ImageNet's identifiers as class names. Raises `ValueError` if its folders are not that set's."""
    if labels == "imagenet-v2":
        numbers = {str(i) for i in range(len(classes()))}
        _refuse_others(source, numbers, "the numbers 0 to 999", labels)
        return _Numbered(source=source)
    wanted = set(classes_of(labels))
    _refuse_others(source, wanted, f"{len(wanted):,} identifiers such as {min(wanted)}", labels)
    if labels == "imagenet-real":  # before hours are spent on pictures that have no labels
        for i in range(len(source)):
            _number(source.key(i))
    return source


def reassess(keys: Sequence[str], predicted: Int[np.ndarray, " N"]) -> Reassessed:
    """Judge the predicted classes of the pictures called `keys` by ReaL's labels.

    Raises `ValueError` for a picture that is none of ImageNet's 50,000 for validation.
    """
    starts, labels = _real()
    hits: list[bool] = []
    for key, answer in zip(keys, predicted.tolist(), strict=True):
        number = _number(key)
        right = labels[starts[number - 1] : starts[number]]
        if len(right):
            hits.append(answer in right)
    return Reassessed(np.array(hits, dtype=bool), len(keys) - len(hits))


@dataclass(frozen=True, kw_only=True)
class _Numbered(Source):
    """A source whose class names are numbers of ImageNet's classes."""

    source: Source

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(classes()[int(name)] for name in self.source.classes)

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def read(self, index: int, *, channels: int) -> Sample:
        return self.source.read(index, channels=channels)


def _refuse_others(source: Source, wanted: set[str], in_words: str, labels: Labels) -> None:
    odd = [name for name in source.classes if name not in wanted]
    lost = sorted(wanted - set(source.classes))
    if odd or lost:
        faults = {"are not among them": odd, "are missing": lost}
        said = "; ".join(f"{len(names)} {what}, as {names[0]!r}" for what, names in faults.items() if names)
        raise ValueError(
            f"folders of {labels} are called by {in_words}; of these {said}. Check --data and --labels."
        )


def _number(key: str) -> int:
    """Of one of ImageNet's validation pictures, from 1 on."""
    count = len(_real()[0]) - 1
    found = _VALIDATION.search(key)
    if not found or not 1 <= int(found[1]) <= count:
        raise ValueError(
            f"{key!r} is none of ImageNet's validation pictures, ILSVRC2012_val_00000001.JPEG to "
            f"ILSVRC2012_val_{count:08d}.JPEG, by whose names imagenet-real has its labels."
        )
    return int(found[1])


@cache
def _real() -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " L"]]:
    """Where the labels of each picture begin, and all labels after each other."""
    with (files("resnet_rs.data") / "imagenet" / "imagenet-real.npz").open("rb") as opened:
        stored = np.load(opened, allow_pickle=False)
        return np.concatenate([[0], np.cumsum(stored["counts"], dtype=np.int64)]), stored["labels"]


def _identifiers(file: str) -> tuple[str, ...]:
    return tuple((files("resnet_rs.data") / "imagenet" / file).read_text().split())
