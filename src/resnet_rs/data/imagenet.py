"""ImageNet's classes, and the labels of later test sets.

- ImageNet-V2 (Recht et al. 2019): the folders are class numbers, 0 to 999 in ImageNet's order.
- ImageNet-R (Hendrycks et al. 2021) and ImageNet-A (2021): 200 classes each. Only these count as answers.
- ReaL (Beyer et al. 2020): new labels of ImageNet's validation images. An image may have several; a prediction is
  correct if it is one of them. Images without labels are left out.

Sources of the files: `imagenet/README.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from resnet_rs.data.source import Renumbered, Source

Labels = Literal["imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-real"]
LABELS: tuple[Labels, ...] = get_args(Labels)

_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.")


@cache
def classes() -> tuple[str, ...]:
    """The WordNet identifiers of ImageNet's 1,000 classes, in order. ImageNet's folders have these names."""
    return _identifiers("synsets.txt")


def title(identifier: str) -> str | None:
    """The English name of a class, such as `great white shark` for `n01484850`; None for other texts."""
    return _titles().get(identifier) if identifier in classes() else None


@cache
def _titles() -> dict[str, str]:
    # Imported here because it takes seconds, and few data sets have such names.
    from torchvision.models import ResNet50_Weights  # pyright: ignore[reportMissingTypeStubs]: it ships none

    return dict(zip(classes(), ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))


@cache
def classes_of(labels: Labels) -> tuple[str, ...]:
    """The classes that count as answers, in ImageNet's order."""
    return _identifiers(f"{labels}.txt") if labels in ("imagenet-r", "imagenet-a") else classes()


def labeled(source: Source, labels: Labels) -> Source:
    """`source` with ImageNet's identifiers as class names. Raises `ValueError` for the wrong folders."""
    if labels == "imagenet-v2":
        numbers = {str(i) for i in range(len(classes()))}
        _refuse_others(source, numbers, "the numbers 0 to 999", labels)
        return Renumbered(
            source=source, class_names=classes(), numbers=tuple(int(name) for name in source.classes)
        )
    wanted = set(classes_of(labels))
    _refuse_others(source, wanted, f"{len(wanted):,} identifiers such as {min(wanted)}", labels)
    if labels == "imagenet-real":  # refuse now, not after hours of evaluation
        for i in range(len(source)):
            _number(source.key(i))
    return source


def reassess(keys: Sequence[str], predicted: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " n"]:
    """Whether the predicted class of each of the images `keys` is correct by ReaL's labels.

    Images without labels are left out. Raises `ValueError` for a key that is not one of the 50,000 validation images.
    """
    starts, labels = _real()
    correct: list[bool] = []
    for key, prediction in zip(keys, predicted.tolist(), strict=True):
        number = _number(key)
        accepted = labels[starts[number - 1] : starts[number]]
        if len(accepted):
            correct.append(prediction in accepted)
    return np.array(correct, dtype=bool)


def _refuse_others(source: Source, wanted: set[str], in_words: str, labels: Labels) -> None:
    found = set(source.classes)
    kinds = {"unexpected": found - wanted, "missing": wanted - found}
    counts = [f"{len(names)} {kind}, such as {min(names)!r}" for kind, names in kinds.items() if names]
    if counts:
        raise ValueError(
            f"the folders of {labels} must be {in_words}; got {' and '.join(counts)}. Check --data and --labels."
        )


def _number(key: str) -> int:
    """The number of the ImageNet validation image `key`, counted from 1."""
    count = len(_real()[0]) - 1
    found = _VALIDATION.search(key)
    if not found or not 1 <= int(found[1]) <= count:
        raise ValueError(
            f"{key!r} is not one of ImageNet's validation images; imagenet-real has labels only for "
            f"ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{count:08d}.JPEG. Check --data and --labels."
        )
    return int(found[1])


@cache
def _real() -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " L"]]:
    """The start of each image's labels, and the labels of all images in one array."""
    with (files("resnet_rs.data") / "imagenet" / "imagenet-real.npz").open("rb") as opened:
        stored = np.load(opened, allow_pickle=False)
        return np.concatenate([[0], np.cumsum(stored["counts"], dtype=np.int64)]), stored["labels"]


def _identifiers(file: str) -> tuple[str, ...]:
    return tuple((files("resnet_rs.data") / "imagenet" / file).read_text().split())
