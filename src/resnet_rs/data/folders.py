"""Pictures in class folders: one folder per class, named as the class.

Layouts:

- `root/{train, val | validation | test}/<class>/...`: the folders are the splits. `test` is used only where
  there is no `val` or `validation`. Where there is nothing but `train`, it is split automatically.
- `root/<class>/...`: split automatically. In each class, files are ordered by the SHA-256 of their paths
  below the root, and the first fifth of them (at least one) is for testing: the same files on every machine.

Rules:

- Classes are sorted by the code points of their names, or as numbers if all are integers ("2" before "10").
- Pictures may lie at any depth below a class folder. Left out are files with other endings than `EXTENSIONS`,
  loose pictures beside class folders, `__MACOSX`, names with a leading dot, and what is no regular file.
- Links to files are pictures like others; a dangling one is `Unreadable` when it is read. Links to folders
  are followed where splits and classes are looked for, except those that lead back to a folder around them.
  Below a class folder they are not followed, so no listing runs in circles.
- Names are whatever the file system holds; bytes that are not UTF-8 become surrogate escapes.

Source: ours. torchvision's `ImageFolder` takes hidden folders for classes and sorts "10" before "2".
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from resnet_rs.data.decode import EXTENSIONS, decode
from resnet_rs.data.sample import Sample, Unreadable
from resnet_rs.data.source import Source, Splits

_TRAIN_SPLITS = ("train", "training")
_VALIDATION_SPLITS = ("val", "valid", "validation")
_TEST_SPLITS = (*_VALIDATION_SPLITS, "test", "testing")
_TEST_SHARE = 0.2

_Pictures = dict[str, list[str]]
"""Class name -> its pictures, as paths below the root."""


@dataclass(frozen=True, kw_only=True)
class ClassFolder(Source):
    """Pictures below `root`, each with the index of its class."""

    root: str
    files: tuple[str, ...]
    """Paths below `root`, with `/` between folders on every system. They are the keys."""
    labels: tuple[int, ...]
    """For each file the index of its class in `class_names`."""
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels):
            raise ValueError(
                f"every file needs one label, got {len(self.labels)} labels for {len(self.files)} files."
            )
        _check_unique(self.files)
        num_classes = len(self.class_names)
        odd = set(self.labels) - set(range(num_classes))
        if odd:
            raise ValueError(
                f"labels must be 0 to {num_classes - 1}, an index into the classes, got {min(odd)}."
            )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int, *, channels: int) -> Sample:
        key = self.files[index]
        path = Path(self.root, key)
        try:
            # Opening a pipe that has taken the place of a picture would wait until somebody writes to it.
            if not path.is_file():
                raise Unreadable(key, "there is no regular file of this name")
            encoded = path.read_bytes()
        except OSError as error:
            raise Unreadable(key, error.strerror or type(error).__name__) from error
        return Sample(decode(encoded, key=key, channels=channels), self.labels[index], key)


def open_folders(root: str | Path, *, split: Mapping[str, Sequence[str]] | None = None) -> Splits:
    """The pictures below `root`, for training and for testing.

    With `split`, a record made by `split_record`, these are exactly the files that it names: files that have
    come since are ignored, and files that are gone are an error.
    """
    root = _existing_folder(root)
    if split is not None:
        return _recorded_split(root, split)
    train_folder, test_folder = _split_folders(root)
    train = _class_pictures(root, train_folder)
    if test_folder is None:
        _check_apart(root, _joined(train_folder, train))
        return _automatic_split(root, train)
    test = _class_pictures(root, test_folder)
    _check_same_classes(root, {train_folder: train, test_folder: test})
    _check_apart(root, [*_joined(train_folder, train), *_joined(test_folder, test)])
    return _splits(root, train=train, test=test)


def open_for_scoring(root: str | Path) -> ClassFolder:
    """The pictures below `root` that a model is to be scored on: those in `val`, `validation` or `test`, else all.

    Unlike for training, one class is enough, and no other half is needed.
    """
    root = _existing_folder(root)
    names = [entry.name for entry in _folders(root)]
    folder = next(iter(_named(names, _TEST_SPLITS)), "")
    pictures = _class_pictures(root, folder, min_classes=1)
    return _class_folder(root, pictures, class_names=_sorted_names(pictures))


def split_record(splits: Splits) -> dict[str, list[str]]:
    """The files of both halves, to be written as JSON.

    Surrogate escapes survive `json.dumps` as it is; `ensure_ascii=False` would produce what is not UTF-8.
    """
    halves = {"train": splits.train, "test": splits.test}
    return {name: [half.key(i) for i in range(len(half))] for name, half in halves.items()}


def _existing_folder(root: str | Path) -> str:
    root = os.path.abspath(root)
    if not os.path.exists(root):
        raise FileNotFoundError(
            f"{root!r} does not exist; expected a folder of class folders. Check the path."
        )
    if not os.path.isdir(root):
        raise ValueError(f"{root!r} is a file; expected a folder of class folders. Give such a folder.")
    return root


def automatic_split(splits: Splits) -> dict[str, list[str]] | None:
    """The record of a split that was made here; None where the halves lie in folders of their own."""
    record = split_record(splits)
    folders = [{key.partition("/")[0] for key in half} for half in record.values()]
    return record if folders[0] & folders[1] else None


def _splits(root: str, *, train: _Pictures, test: _Pictures) -> Splits:
    class_names = _sorted_names({*train, *test})
    return Splits(
        train=_class_folder(root, train, class_names=class_names),
        test=_class_folder(root, test, class_names=class_names),
    )


def _class_folder(root: str, pictures: _Pictures, *, class_names: tuple[str, ...]) -> ClassFolder:
    pairs = [(path, i) for i, name in enumerate(class_names) for path in sorted(pictures.get(name, ()))]
    return ClassFolder(
        root=root,
        files=tuple(path for path, _ in pairs),
        labels=tuple(label for _, label in pairs),
        class_names=class_names,
    )


def _sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """`names` by code point, or as numbers if all of them are integers."""
    ordered = sorted(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in ordered):
        ordered.sort(key=int)
    return tuple(ordered)


def _split_folders(root: str) -> tuple[str, str | None]:
    """The folders below `root` that hold the classes for training and for testing.

    "" is `root` itself, and None says that the pictures for testing are to be taken from those for training.
    """
    names = [entry.name for entry in _folders(root)]
    trains, tests = _named(names, _TRAIN_SPLITS), _named(names, _TEST_SPLITS)
    if tests and len(tests) == len(names):
        raise ValueError(
            f"{root!r} holds {_listed(tests)} but no 'train'; expected both. Add 'train', or give a folder of classes."
        )
    if not trains:
        return "", None
    for twins in (trains, _named(tests, _VALIDATION_SPLITS)):
        if len(twins) > 1:
            raise ValueError(
                f"{root!r} holds {' and '.join(map(repr, twins))}; expected one of them. Rename the other."
            )
    train = trains[0]
    if tests:
        return train, tests[0]
    if any(_is_picture(entry) for entry in _visible(os.path.join(root, train))):
        # A class of this name, among trams and buses.
        return "", None
    if len(names) > 1:
        others = _listed([name for name in names if name != train])
        raise ValueError(
            f"{root!r} holds {train!r} beside {others}; expected either splits ('train' and 'val') or classes. "
            f"Rename {train!r} if it is a class, or else move the others away."
        )
    return train, None


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of `names` that are `known` but for the case of their letters, in the order of `known`."""
    return sorted(
        (name for name in names if name.lower() in known), key=lambda name: known.index(name.lower())
    )


def _automatic_split(root: str, pictures: _Pictures) -> Splits:
    single = [name for name in _sorted_names(pictures) if len(pictures[name]) == 1]
    if single:
        raise ValueError(
            f"{root!r} has a single picture in {_listed(single)}; expected two or more per class, to train "
            "and to test on. Add pictures, or remove the class."
        )
    train: _Pictures = {}
    test: _Pictures = {}
    for name, paths in pictures.items():
        ordered = sorted(paths, key=_sha256)
        num_test = max(1, round(_TEST_SHARE * len(paths)))
        test[name], train[name] = ordered[:num_test], ordered[num_test:]
    return _splits(root, train=train, test=test)


def _sha256(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


def _recorded_split(root: str, split: Mapping[str, Sequence[str]]) -> Splits:
    if set(split) != {"train", "test"} or not all(split.values()):
        raise ValueError(
            f"a recorded split must list files under 'train' and 'test', got {_listed(sorted(split))}. "
            "Use the record that the run has written."
        )
    paths = [*split["train"], *split["test"]]
    _check_unique(paths)
    # Classes, at least two, may lie in the root or in a folder "train"; the paths tell which it was.
    heads = {path.partition("/")[0] for path in split["train"]}
    depth = int(len(heads) == 1 and next(iter(heads)).lower() in _TRAIN_SPLITS)
    odd = [
        path for path in paths if path.count("/") <= depth or not {"", ".", ".."}.isdisjoint(path.split("/"))
    ]
    if odd:
        raise ValueError(
            f"a recorded split must list paths of the form class/picture below the root, got {_listed(odd)}. "
            "Use the record that the run has written."
        )
    gone = [path for path in paths if not os.path.lexists(f"{root}/{path}")]
    if gone:
        raise FileNotFoundError(
            f"{root!r} lacks {len(gone)} of the {len(paths)} files of the recorded split: {_listed(gone)}. "
            "Bring them back, or start a new run."
        )
    return _splits(
        root, train=_by_class(split["train"], depth=depth), test=_by_class(split["test"], depth=depth)
    )


def _by_class(paths: Iterable[str], *, depth: int) -> _Pictures:
    pictures: _Pictures = {}
    for path in paths:
        pictures.setdefault(path.split("/")[depth], []).append(path)
    return pictures


def _class_pictures(root: str, folder: str, *, min_classes: int = 2) -> _Pictures:
    """The classes in `folder` (below `root`) and their pictures."""
    path = os.path.join(root, folder) if folder else root
    classes = _folders(path)
    if not classes and any(_is_picture(entry) for entry in _visible(path)):
        raise ValueError(
            f"{path!r} holds pictures but no class folders; expected one folder per class. "
            "Move the pictures into folders named as their classes."
        )
    if not classes:
        raise ValueError(f"{path!r} holds no class folders; expected one per class, with pictures. Add them.")
    if len(classes) < min_classes:
        raise ValueError(
            f"{path!r} holds only one class, {classes[0].name!r}; expected two or more. Add a folder per "
            "class, or give the folder around the classes."
        )
    names = _joined(folder, [entry.name for entry in classes])
    pictures = {
        entry.name: list(_pictures_below(entry.path, name))
        for entry, name in zip(classes, names, strict=True)
    }
    empty = [name for name in _sorted_names(pictures) if not pictures[name]]
    if empty:
        raise ValueError(
            f"{path!r} has no pictures in {_listed(empty)}; expected some in every class. Add pictures "
            "(.jpg, .png and others), or remove the folder."
        )
    return pictures


def _check_apart(root: str, folders: Iterable[str]) -> None:
    """Refuse class folders, of one split or of two, that links make the same or put into each other."""
    # In this order a folder is followed by what lies in it.
    places = sorted((Path(os.path.realpath(f"{root}/{name}")).parts, name) for name in folders)
    for (outer, first), (inner, second) in pairwise(places):
        if inner[: len(outer)] == outer:
            raise ValueError(
                f"{root!r} holds {first!r} and {second!r}, and a link gives both the same pictures; expected "
                "class folders with pictures of their own. Remove the link."
            )


def _check_same_classes(root: str, halves: Mapping[str, _Pictures]) -> None:
    for name, pictures in halves.items():
        for other, other_pictures in halves.items():
            missing = _sorted_names(other_pictures.keys() - pictures.keys())
            if missing:
                raise ValueError(
                    f"{root!r} has {_listed(missing)} in {other!r} but not in {name!r}; expected the same "
                    "classes in both. Add the missing folders, or remove the others."
                )


def _check_unique(paths: Sequence[str]) -> None:
    if len(set(paths)) != len(paths):
        twice = [path for path, count in Counter(paths).items() if count > 1]
        raise ValueError(
            f"every file must be listed once, got {_listed(twice)} again. Remove the repetition."
        )


def _joined(folder: str, names: Iterable[str]) -> list[str]:
    """`names` in `folder` as paths below the root."""
    return [f"{folder}/{name}" if folder else name for name in names]


def _pictures_below(path: str, name: str) -> Iterator[str]:
    """The pictures in the folder at `path`, called `name` below the root, and in the folders in it."""
    folders = [(path, name)]
    while folders:
        path, name = folders.pop()
        for entry in _visible(path):
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{name}/{entry.name}"))
            elif _is_picture(entry):
                yield f"{name}/{entry.name}"


def _folders(path: str) -> list[os.DirEntry[str]]:
    """The folders in `path`, by name, and links to folders unless `path` itself lies in what they lead to."""
    here = Path(os.path.realpath(path))
    return [
        entry
        for entry in sorted(_visible(path), key=lambda entry: entry.name)
        if entry.is_dir(follow_symlinks=False)
        or (entry.is_symlink() and os.path.isdir(entry.path))
        and not here.is_relative_to(os.path.realpath(entry.path))
    ]


def _visible(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                yield entry


def _is_picture(entry: os.DirEntry[str]) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _listed(names: Collection[str]) -> str:
    """The first five of `names`, quoted so that odd characters show, and how many more there are."""
    first = ", ".join(repr(name) for name in list(names)[:5])
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"
