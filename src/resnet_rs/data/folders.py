"""Images in class folders: each class has a folder of its name.

Layouts:

- `root/{train, val | validation | test}/<class>/...`: the folders are the splits. `test` is used only without `val` and
  `validation`. If there is only `train`, it is split automatically.
- `root/<class>/...`: split automatically. In each class the files are ordered by the SHA-256 of their paths below the
  root. The first fifth, at least one file, is for testing. So the split is the same on every machine.

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

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from resnet_rs.data.decode import EXTENSIONS, MAX_PIXELS, check_max_pixels, decode
from resnet_rs.data.sample import Request, Sample, Unreadable
from resnet_rs.data.source import Source, Splits
from resnet_rs.data.target import Label
from resnet_rs.text import listed

_TRAIN_SPLITS = ("train", "training")
_VALIDATION_SPLITS = ("val", "valid", "validation")
_TEST_SPLITS = (*_VALIDATION_SPLITS, "test", "testing")
_TEST_SHARE = 0.2

_Images = dict[str, list[str]]
"""Class name -> paths of its images below the root."""


@dataclass(frozen=True, kw_only=True)
class ClassFolder(Source):
    """Images below `root`, each with the index of its class as target."""

    root: str
    files: tuple[str, ...]
    """Paths below `root`, with `/` between folders on every system. They are also the keys."""
    labels: tuple[int, ...]
    """For each file the index of its class in `class_names`."""
    class_names: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    """Larger images are unreadable."""

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels):
            raise ValueError(
                f"every file needs one label, got {len(self.labels)} labels for {len(self.files)} files."
            )
        check_max_pixels(self.max_pixels)
        _refuse_repeated(self.files)
        num_classes = len(self.class_names)
        unknown = set(self.labels) - set(range(num_classes))
        if unknown:
            raise ValueError(f"labels must be class indices from 0 to {num_classes - 1}, got {min(unknown)}.")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        # The default is left out, so that the digest of most runs is that of names alone.
        limit = "" if self.max_pixels == MAX_PIXELS else f" with at most {self.max_pixels} pixels"
        return super().digest() + limit

    def key(self, index: int) -> str:
        return self.files[index]

    def stamp(self, index: int) -> str | None:
        try:
            found = os.stat(f"{self.root}/{self.files[index]}")
        except OSError:
            return None
        return f"{found.st_size} {found.st_mtime_ns}"

    def target(self, index: int) -> Label:
        return Label(self.labels[index])

    def read(self, index: int, request: Request) -> Sample:
        key = self.files[index]
        path = Path(self.root, key)
        try:
            # To open a named pipe would block until another process writes to it.
            if not path.is_file():
                raise Unreadable(key, "there is no regular file with this name")
            encoded = path.read_bytes()
        except OSError as error:
            raise Unreadable(key, error.strerror or type(error).__name__) from error
        pixels = decode(
            encoded,
            key=key,
            channels=request.channels,
            max_pixels=self.max_pixels,
            max_short_side=request.max_short_side,
        )
        return Sample(pixels, self.target(index), key)


def open_folders(
    root: str | Path, *, split: Mapping[str, Sequence[str]] | None = None, max_pixels: int = MAX_PIXELS
) -> Splits:
    """The images below `root`, for training and for testing.

    `split` is a record made by `split_record`. It selects exactly the files that it names: new files are ignored, and
    missing files are an error.
    """
    root = _existing_folder(root)
    train, test = _find_split(root) if split is None else _recorded_split(root, split)
    class_names = _sorted_names({*train, *test})
    return Splits(
        train=_class_folder(root, train, class_names=class_names, max_pixels=max_pixels),
        test=_class_folder(root, test, class_names=class_names, max_pixels=max_pixels),
    )


def open_for_scoring(root: str | Path, *, max_pixels: int = MAX_PIXELS) -> ClassFolder:
    """The images below `root` for scoring a model: those in `val`, `validation` or `test`, else all images.

    One class is enough, and no training split is needed.
    """
    root = _existing_folder(root)
    folder = next(iter(_named(_folders(root), _TEST_SPLITS)), "")
    images = _class_images(root, folder, min_classes=1)
    return _class_folder(root, images, class_names=_sorted_names(images), max_pixels=max_pixels)


def split_record(splits: Splits) -> dict[str, list[str]]:
    """The files of both splits, for storage as JSON.

    Do not use `json.dumps(ensure_ascii=False)`, whose output for surrogate escapes is not UTF-8.
    """
    sources = {"train": splits.train, "test": splits.test}
    return {name: [source.key(i) for i in range(len(source))] for name, source in sources.items()}


def automatic_split(splits: Splits) -> dict[str, list[str]] | None:
    """The record of an automatic split; None if the splits are folders."""
    record = split_record(splits)
    train, test = ({key.partition("/")[0] for key in keys} for keys in record.values())
    return record if train & test else None


def _existing_folder(root: str | Path) -> str:
    root = os.path.abspath(root)
    if not os.path.exists(root):
        raise FileNotFoundError(
            f"{root!r} does not exist; expected a folder of class folders. Check the path."
        )
    if not os.path.isdir(root):
        raise ValueError(f"{root!r} is a file; expected a folder of class folders. Give such a folder.")
    return root


def _find_split(root: str) -> tuple[_Images, _Images]:
    """The images for training and for testing, in split folders or split automatically."""
    train_folder, test_folder = _split_folders(root)
    train = _class_images(root, train_folder)
    if test_folder is None:
        _refuse_linked(root, [_join(train_folder, name) for name in train])
        return _automatic_split(root, train)
    test = _class_images(root, test_folder)
    for name, images, other, others in (
        (train_folder, train, test_folder, test),
        (test_folder, test, train_folder, train),
    ):
        missing = _sorted_names(others.keys() - images.keys())
        if missing:
            raise ValueError(
                f"{root!r} has {listed(missing)} in {other!r} but not in {name!r}; expected the same "
                "classes in both. Add the missing folders, or remove the others."
            )
    _refuse_linked(root, [_join(folder, name) for folder in (train_folder, test_folder) for name in train])
    return train, test


def _class_folder(
    root: str, images: _Images, *, class_names: tuple[str, ...], max_pixels: int
) -> ClassFolder:
    pairs = [(path, i) for i, name in enumerate(class_names) for path in sorted(images.get(name, ()))]
    return ClassFolder(
        root=root,
        files=tuple(path for path, _ in pairs),
        labels=tuple(label for _, label in pairs),
        class_names=class_names,
        max_pixels=max_pixels,
    )


def _sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """`names` by code point, or as numbers if all names are integers."""
    ordered = sorted(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in ordered):
        ordered.sort(key=int)
    return tuple(ordered)


def _split_folders(root: str) -> tuple[str, str | None]:
    """The folders below `root` with the classes for training and for testing.

    "" is `root` itself. None means that the test images must be taken from the training images.
    """
    names = _folders(root)
    trains, tests = _named(names, _TRAIN_SPLITS), _named(names, _TEST_SPLITS)
    if tests and len(tests) == len(names):
        raise ValueError(
            f"{root!r} has {listed(tests)} but no 'train'; expected both. Add 'train', or give a folder of classes."
        )
    if not trains:
        return "", None
    for twins in (trains, _named(tests, _VALIDATION_SPLITS)):
        if len(twins) > 1:
            raise ValueError(
                f"{root!r} has {' and '.join(map(repr, twins))}; expected one of them. Rename the other."
            )
    train = trains[0]
    if tests:
        return train, tests[0]
    if any(_is_image(entry) for entry in _visible(os.path.join(root, train))):
        # A class of trains, beside trams and buses.
        return "", None
    if len(names) > 1:
        others = listed([name for name in names if name != train])
        raise ValueError(
            f"{root!r} has {train!r} beside {others}; expected either splits ('train' and 'val') or classes. "
            f"Rename {train!r} if it is a class, else move the others away."
        )
    return train, None


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The `names` that are in `known`, ignoring case, in the order of `known`."""
    return sorted(
        (name for name in names if name.lower() in known), key=lambda name: known.index(name.lower())
    )


def _automatic_split(root: str, images: _Images) -> tuple[_Images, _Images]:
    single = [name for name in _sorted_names(images) if len(images[name]) == 1]
    if single:
        raise ValueError(
            f"{root!r} has only one image in {listed(single)}; expected two or more per class, for training "
            "and testing. Add images, or remove the class."
        )
    train: _Images = {}
    test: _Images = {}
    for name, paths in images.items():
        hashes = {path: hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest() for path in paths}
        ordered = sorted(paths, key=hashes.__getitem__)
        num_test = max(1, round(_TEST_SHARE * len(paths)))
        test[name], train[name] = ordered[:num_test], ordered[num_test:]
    return train, test


def _recorded_split(root: str, split: Mapping[str, Sequence[str]]) -> tuple[_Images, _Images]:
    if set(split) != {"train", "test"} or not all(split.values()):
        raise ValueError(
            f"a recorded split must list files under 'train' and 'test', got {listed(sorted(split))}. "
            "Use the record that the run wrote."
        )
    paths = [*split["train"], *split["test"]]
    _refuse_repeated(paths)
    # The classes, at least two, are in the root or in a folder "train"; the paths show which.
    heads = {path.partition("/")[0] for path in split["train"]}
    depth = int(len(heads) == 1 and next(iter(heads)).lower() in _TRAIN_SPLITS)
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
    return _by_class(split["train"], depth=depth), _by_class(split["test"], depth=depth)


def _by_class(paths: Iterable[str], *, depth: int) -> _Images:
    images: _Images = {}
    for path in paths:
        images.setdefault(path.split("/")[depth], []).append(path)
    return images


def _class_images(root: str, folder: str, *, min_classes: int = 2) -> _Images:
    """The classes in `folder` (below `root`) and their images."""
    path = os.path.join(root, folder) if folder else root
    classes = _folders(path)
    if not classes and any(_is_image(entry) for entry in _visible(path)):
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
    images = {name: _images_below(root, _join(folder, name)) for name in classes}
    empty = [name for name in _sorted_names(images) if not images[name]]
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


def _refuse_repeated(paths: Sequence[str]) -> None:
    if len(set(paths)) != len(paths):
        twice = [path for path, count in Counter(paths).items() if count > 1]
        raise ValueError(
            f"every file must be listed once, got {listed(twice)} more than once. Remove the repetition."
        )


def _join(folder: str, name: str) -> str:
    """The path below the root of `name` in `folder`; "" is the root itself."""
    return f"{folder}/{name}" if folder else name


def _images_below(root: str, folder: str) -> list[str]:
    """The images in `folder`, at any depth, as paths below `root`."""
    images, folders = list[str](), [folder]
    for name in folders:  # which grows meanwhile
        for entry in _visible(f"{root}/{name}"):
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/{entry.name}")
            elif _is_image(entry):
                images.append(f"{name}/{entry.name}")
    return images


def _folders(path: str) -> list[str]:
    """Names of the folders in `path`, and of links to folders except those that contain `path`; sorted."""
    here = Path(os.path.realpath(path))
    return sorted(
        entry.name
        for entry in _visible(path)
        if entry.is_dir(follow_symlinks=False)
        or (entry.is_symlink() and os.path.isdir(entry.path))
        and not here.is_relative_to(os.path.realpath(entry.path))
    )


def _visible(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                yield entry


def _is_image(entry: os.DirEntry[str]) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
