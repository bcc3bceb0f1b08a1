"""Images in class folders: each class has a folder of its name.

Layouts:

- `root/{train, val | validation, test}/<class>/...`: the folders are the splits. With both `val` and `test`, `val` is
  the validation part; one of them alone is the test part. If there is only `train`, it is split automatically.
- `root/<class>/...`: split automatically. In each class the files are ordered by the SHA-256 of their paths below the
  root. The first fifth, at least one file, is for testing. So the split is the same on every machine.

Every class needs training images. A class with a single image, or without a folder among the test images, is trained
and not scored.

Rules:

- Classes are sorted by the code points of their names, or as numbers if all names are integers ("2" before "10").
- Images may be at any depth below a class folder. Files with other extensions than `EXTENSIONS`, images beside class
  folders, `__MACOSX`, names with a leading dot, and special files are left out.
- A link to a file counts as an image. A dangling link is `Unreadable` when it is read. Links to split and class folders
  are followed, except links to a folder that contains them. Below a class folder links to folders are not followed, so
  a listing cannot be endless.
- Names are as in the file system; bytes that are not UTF-8 become surrogate escapes.

Source: ours. torchvision's `ImageFolder` treats hidden folders as classes and sorts "10" before "2".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from resnet_rs.data.decode import MAX_PIXELS
from resnet_rs.data.files import ClassImages, refuse_repeated, sorted_names
from resnet_rs.data.listing import folders, images_below, is_image, visible
from resnet_rs.data.source import Splits
from resnet_rs.data.subset import Subset, held_out
from resnet_rs.text import listed

TRAIN_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("val", "valid", "validation")
TEST_SPLITS = ("test", "testing")
TEST_SHARE = 0.2

_Images = dict[str, list[str]]
"""Class name -> paths of its images below the root."""


class _Found(NamedTuple):
    """The images of each part."""

    train: _Images
    test: _Images
    validation: _Images | None = None


def open_folders(
    root: str | Path, *, split: Mapping[str, Sequence[str]] | None = None, max_pixels: int = MAX_PIXELS
) -> Splits:
    """The images below `root`, for training and for testing, and those of a validation folder beside a test folder.

    `split` is a record made by `split_record`. It selects exactly the files that it names: new files are ignored, and
    missing files are an error.
    """
    root = _existing_folder(root)
    found = _find_split(root) if split is None else _recorded_split(root, split)
    class_names = sorted_names(found.train)

    def source(images: _Images) -> ClassImages:
        return _class_folder(root, images, class_names=class_names, max_pixels=max_pixels)

    return Splits(
        train=source(found.train),
        test=source(found.test),
        validation=None if found.validation is None else source(found.validation),
    )


def open_for_scoring(root: str | Path, *, max_pixels: int = MAX_PIXELS) -> ClassImages:
    """The images below `root` for scoring a model: those in `test`, else `val` or `validation`, else all images.

    One class is enough, and no training split is needed.
    """
    root = _existing_folder(root)
    folder = _test_folder(root)
    images = _class_images(root, folder, min_classes=1)
    return _class_folder(root, images, class_names=sorted_names(images), max_pixels=max_pixels)


def split_record(splits: Splits) -> dict[str, list[str]]:
    """The files for training and for testing, for storage as JSON. A validation part taken from the training files
    belongs to them, and is taken again.

    Do not use `json.dumps(ensure_ascii=False)`, whose output for surrogate escapes is not UTF-8.
    """
    train = splits.train.source if isinstance(splits.train, Subset) else splits.train
    sources = {"train": train, "test": splits.test}
    return {name: [source.key(i) for i in range(len(source))] for name, source in sources.items()}


def has_test_folder(root: str | Path) -> bool:
    """Whether a folder of splits says which images are for testing."""
    return bool(_test_folder(_existing_folder(root)))


def _test_folder(root: str) -> str:
    """The folder below `root` whose images are for testing, as `test`; "" if there is none, which is `root` itself."""
    names = folders(root)
    held = _named(names, (*TEST_SPLITS, *VALIDATION_SPLITS))
    are_splits = _named(names, TRAIN_SPLITS) or len(held) == len(names)
    return held[0] if held and are_splits else ""


def _existing_folder(root: str | Path) -> str:
    root = os.path.abspath(root)
    if not os.path.exists(root):
        raise FileNotFoundError(
            f"{root!r} does not exist; expected a folder of class folders, or a CSV file. Check the path."
        )
    if not os.path.isdir(root):
        raise ValueError(
            f"{root!r} is a file; expected a folder of class folders, or a CSV file whose name ends in .csv. Give one."
        )
    return root


def _find_split(root: str) -> _Found:
    """The images for training and for testing, in split folders or split automatically."""
    train_folder, others = _split_folders(root)
    train = _class_images(root, train_folder)
    if not others:
        _refuse_linked(root, [_join(train_folder, name) for name in train])
        return _automatic_split(root, train)
    held_out = [_class_images(root, folder, min_classes=1, may_be_empty=True) for folder in others]
    for folder, images in zip(others, held_out, strict=True):
        unknown = sorted_names(images.keys() - train.keys())
        if unknown:
            raise ValueError(
                f"{root!r} has {listed(unknown)} in {folder!r} but not in {train_folder!r}; expected training images "
                "of every class. Add the missing folders, or remove the others."
            )
    parts = zip((train_folder, *others), (train, *held_out), strict=True)
    _refuse_linked(root, [_join(folder, name) for folder, images in parts for name in images])
    return _Found(train, *held_out)


def _class_folder(
    root: str, images: _Images, *, class_names: tuple[str, ...], max_pixels: int
) -> ClassImages:
    pairs = [(path, i) for i, name in enumerate(class_names) for path in sorted(images.get(name, ()))]
    return ClassImages(
        root=root,
        files=tuple(path for path, _ in pairs),
        labels=tuple(label for _, label in pairs),
        class_names=class_names,
        max_pixels=max_pixels,
    )


def _split_folders(root: str) -> tuple[str, tuple[str, ...]]:
    """The folders below `root` with the classes: for training, and for testing and perhaps validation.

    "" is `root` itself. Without the others, the test images must be taken from the training images.
    """
    names = folders(root)
    kinds = [_named(names, known) for known in (TRAIN_SPLITS, TEST_SPLITS, VALIDATION_SPLITS)]
    trains, *held_out = kinds
    others = [name for kind in held_out for name in kind]
    if others and len(others) == len(names):
        raise ValueError(
            f"{root!r} has {listed(others)} but no 'train'; expected both. Add 'train', or give a folder of classes."
        )
    if not trains:
        return "", ()
    for twins in kinds:
        if len(twins) > 1:
            raise ValueError(
                f"{root!r} has {' and '.join(map(repr, twins))}; expected one of them. Rename the other."
            )
    train = trains[0]
    if others:
        return train, tuple(others)
    if any(is_image(entry) for entry in visible(os.path.join(root, train))):
        # A class of trains, beside trams and buses.
        return "", ()
    if len(names) > 1:
        beside = listed([name for name in names if name != train])
        raise ValueError(
            f"{root!r} has {train!r} beside {beside}; expected either splits ('train' and 'val') or classes. "
            f"Rename {train!r} if it is a class, else move the others away."
        )
    return train, ()


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The `names` that are in `known`, ignoring case, in the order of `known`."""
    return sorted(
        (name for name in names if name.lower() in known), key=lambda name: known.index(name.lower())
    )


def _automatic_split(root: str, images: _Images) -> _Found:
    if all(len(paths) == 1 for paths in images.values()):
        raise ValueError(
            f"{root!r} has only one image in every class; expected two or more, for training and testing. Add images."
        )
    chosen = held_out({path: (name,) for name, paths in images.items() for path in paths}, TEST_SHARE)
    train = {name: [path for path in paths if path not in chosen] for name, paths in images.items()}
    test = {name: [path for path in paths if path in chosen] for name, paths in images.items()}
    return _Found(train, test)


def _recorded_split(root: str, split: Mapping[str, Sequence[str]]) -> _Found:
    if set(split) != {"train", "test"} or not all(split.values()):
        raise ValueError(
            f"a recorded split must list files under 'train' and 'test', got {listed(sorted(split))}. "
            "Use the record that the run wrote."
        )
    paths = [*split["train"], *split["test"]]
    refuse_repeated(paths)
    # The classes, at least two, are in the root or in a folder "train"; the paths show which.
    heads = {path.partition("/")[0] for path in split["train"]}
    depth = int(len(heads) == 1 and next(iter(heads)).lower() in TRAIN_SPLITS)
    malformed = [
        path for path in paths if path.count("/") <= depth or not {"", ".", ".."}.isdisjoint(path.split("/"))
    ]
    if malformed:
        raise ValueError(
            f"a recorded split must list paths of the form class/image below the root, got {listed(malformed)}. "
            "Use the record that the run wrote."
        )
    missing = [path for path in paths if not os.path.lexists(f"{root}/{path}")]
    if missing:
        raise FileNotFoundError(
            f"{root!r} lacks {len(missing)} of the {len(paths)} files of the recorded split: {listed(missing)}. "
            "Restore them, or start a new run."
        )
    return _Found(*(_by_class(split[part], depth=depth) for part in ("train", "test")))


def _by_class(paths: Iterable[str], *, depth: int) -> _Images:
    images: _Images = {}
    for path in paths:
        images.setdefault(path.split("/")[depth], []).append(path)
    return images


def _class_images(root: str, folder: str, *, min_classes: int = 2, may_be_empty: bool = False) -> _Images:
    """The classes in `folder` (below `root`) and their images. `may_be_empty` leaves out classes without images."""
    path = os.path.join(root, folder) if folder else root
    classes = folders(path)
    if not classes and any(is_image(entry) for entry in visible(path)):
        raise ValueError(
            f"{path!r} has images but no class folders; expected one folder per class. "
            "Move the images into folders with the names of their classes."
        )
    if not classes:
        raise ValueError(f"{path!r} has no class folders; expected one per class, with images. Add them.")
    if len(classes) < min_classes:
        raise ValueError(
            f"{path!r} has only one class, {classes[0]!r}; expected two or more. Add a folder per "
            "class, or give the folder that contains the classes."
        )
    images = {name: images_below(root, _join(folder, name)) for name in classes}
    empty = [name for name in sorted_names(images) if not images[name]]
    if may_be_empty and len(empty) < len(images):
        return {name: paths for name, paths in images.items() if paths}
    if empty:
        raise ValueError(
            f"{path!r} has no images in {listed(empty)}; expected some in every class. Add images "
            "(.jpg, .png and others), or remove the folder."
        )
    return images


def _refuse_linked(root: str, folders: Iterable[str]) -> None:
    """Raise `ValueError` if links make two class folders equal, or one a part of another."""
    # In this order each folder directly precedes the folders in it.
    places = sorted((Path(os.path.realpath(f"{root}/{name}")).parts, name) for name in folders)
    for (outer, first), (inner, second) in pairwise(places):
        if inner[: len(outer)] == outer:
            raise ValueError(
                f"{root!r} has {first!r} and {second!r}, and a link gives both the same images; expected "
                "class folders with different images. Remove the link."
            )


def _join(folder: str, name: str) -> str:
    """The path below the root of `name` in `folder`; "" is the root itself."""
    return f"{folder}/{name}" if folder else name
