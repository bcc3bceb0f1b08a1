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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from resnet_rs.data.decode import EXTENSIONS, MAX_PIXELS
from resnet_rs.data.files import (
    PARTS,
    ImageFiles,
    ImageList,
    Row,
    Split,
    recorded_parts,
    sorted_names,
)
from resnet_rs.data.source import Splits
from resnet_rs.data.subset import Subset
from resnet_rs.text import listed


@dataclass(frozen=True)
class ClassFolders:
    """The images in the class folders below `root`."""

    root: str | Path
    max_pixels: int = MAX_PIXELS

    def splits(self, *, split: Split | None = None) -> Splits:
        """The images for training and for testing, and those of a validation folder beside a test folder.

        `split` is a record made by `split_record`. It selects exactly the files that it names: new files are ignored,
        and missing files are an error.
        """
        root = _existing_folder(self.root)
        return self._as_list(_found(root) if split is None else _recorded(root, split)).splits()

    def for_scoring(self) -> ImageFiles:
        """The images for scoring a model: those in `test`, else `val` or `validation`, else all images.

        One class is enough, and no training split is needed.
        """
        root = _existing_folder(self.root)
        return self._as_list(_rows(root, _test_folder(root))).for_scoring()

    @property
    def has_test_part(self) -> bool:
        """Whether a folder of splits says which images are for testing."""
        return bool(_test_folder(_existing_folder(self.root)))

    def _as_list(self, rows: list[Row]) -> ImageList:
        """The images by class and path."""
        root = os.path.abspath(self.root)
        order = {name: i for i, name in enumerate(sorted_names({row.labels[0] for row in rows}))}
        rows.sort(key=lambda row: (order[row.labels[0]], row.path))
        return ImageList(
            root=root, name=repr(root), rows=rows, max_pixels=self.max_pixels, are_labels_in_paths=True
        )


def split_record(splits: Splits) -> dict[str, list[str]]:
    """The files for training and for testing, for storage as JSON. A validation part taken from the training files
    belongs to them, and is taken again.

    Do not use `json.dumps(ensure_ascii=False)`, whose output for surrogate escapes is not UTF-8.
    """
    train = splits.train.source if isinstance(splits.train, Subset) else splits.train
    sources = {"train": train, "test": splits.test}
    return {name: [source.key(i) for i in range(len(source))] for name, source in sources.items()}


def _test_folder(root: str) -> str:
    """The folder below `root` whose images are for testing, as `test`; "" if there is none, which is `root` itself."""
    names = folders(root)
    held = _named(names, (*PARTS["test"], *PARTS["validation"]))
    are_splits = _named(names, PARTS["train"]) or len(held) == len(names)
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


def _found(root: str) -> list[Row]:
    """The images in split folders, or those of all classes without a part."""
    rows, class_folders = list[Row](), set[str]()
    for folder, part in _split_folders(root).items():
        found = _rows(root, folder, part=part)
        rows += found
        class_folders |= {_join(folder, row.labels[0]) for row in found}
    _refuse_linked(root, class_folders)
    return rows


def _split_folders(root: str) -> dict[str, str]:
    """The folders below `root` that contain the classes, with the part of each; "" is `root` itself.

    A single folder has no part: the test images must be taken from its images.
    """
    names = folders(root)
    kinds = {part: _named(names, known) for part, known in PARTS.items()}
    found = {name: part for part, named in kinds.items() for name in named}
    if found and not kinds["train"] and len(found) == len(names):
        raise ValueError(
            f"{root!r} has {listed(list(found))} but no 'train'; expected both. Add 'train', or give a folder of "
            "classes."
        )
    if not kinds["train"]:
        return {"": ""}
    for twins in kinds.values():
        if len(twins) > 1:
            raise ValueError(
                f"{root!r} has {' and '.join(map(repr, twins))}; expected one of them. Rename the other."
            )
    if len(found) > 1:
        return found
    (train,) = found
    if any(is_image(entry) for entry in visible(os.path.join(root, train))):
        # A class of trains, beside trams and buses.
        return {"": ""}
    if len(names) > 1:
        beside = listed([name for name in names if name != train])
        raise ValueError(
            f"{root!r} has {train!r} beside {beside}; expected either splits ('train' and 'val') or classes. "
            f"Rename {train!r} if it is a class, else move the others away."
        )
    return {train: ""}


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The `names` that are in `known`, ignoring case, in the order of `known`."""
    return sorted(
        (name for name in names if name.lower() in known), key=lambda name: known.index(name.lower())
    )


def _recorded(root: str, split: Split) -> list[Row]:
    paths = [path for part in split.values() for path in part]
    # The classes, at least two, are in the root or in a folder "train"; the paths show which.
    heads = {path.partition("/")[0].lower() for path in split.get("train", ())}
    depth = int(len(heads) == 1 and heads.issubset(PARTS["train"]))
    malformed = [
        path for path in paths if path.count("/") <= depth or not {"", ".", ".."}.isdisjoint(path.split("/"))
    ]
    if malformed:
        raise ValueError(
            f"a recorded split must list paths of the form class/image below the root, got {listed(malformed)}. "
            "Use the record that the run wrote."
        )
    parts = recorded_parts(split, name=repr(root), exists=lambda path: os.path.lexists(f"{root}/{path}"))
    return [Row(path, (path.split("/")[depth],), part) for path, part in parts.items()]


def _rows(root: str, folder: str, *, part: str = "") -> list[Row]:
    """The images in the class folders of `folder`, below `root`. A training part must have images of every class."""
    path = os.path.join(root, folder) if folder else root
    images = {name: images_below(root, _join(folder, name)) for name in folders(path)}
    if not images:
        raise ValueError(
            f"{path!r} has no class folders; expected one folder per class, with the images of the class. Add them, or "
            "move the images into them."
        )
    empty = [name for name in sorted_names(images) if not images[name]]
    if empty and (part in ("", "train") or len(empty) == len(images)):
        raise ValueError(
            f"{path!r} has no images in {listed(empty)}; expected some in every class. Add images "
            "(.jpg, .png and others), or remove the folder."
        )
    return [Row(path, (name,), part) for name, paths in images.items() for path in paths]


def _refuse_linked(root: str, class_folders: Iterable[str]) -> None:
    """Raise `ValueError` if links make two class folders equal, or one a part of another."""
    # In this order each folder directly precedes the folders in it.
    places = sorted((Path(os.path.realpath(f"{root}/{name}")).parts, name) for name in class_folders)
    for (outer, first), (inner, second) in pairwise(places):
        if inner[: len(outer)] == outer:
            raise ValueError(
                f"{root!r} has {first!r} and {second!r}, and a link gives both the same images; expected "
                "class folders with different images. Remove the link."
            )


def _join(folder: str, name: str) -> str:
    """The path below the root of `name` in `folder`; "" is the root itself."""
    return f"{folder}/{name}" if folder else name


def images_below(root: str, folder: str) -> list[str]:
    """The images in `folder`, at any depth, as paths below `root`."""
    images, inside = list[str](), [folder]
    for name in inside:  # which grows meanwhile
        for entry in visible(f"{root}/{name}"):
            if entry.is_dir(follow_symlinks=False):
                inside.append(f"{name}/{entry.name}")
            elif is_image(entry):
                images.append(f"{name}/{entry.name}")
    return images


def folders(path: str) -> list[str]:
    """Names of the folders in `path`, and of links to folders except those that contain `path`; sorted."""
    here = Path(os.path.realpath(path))
    return sorted(
        entry.name
        for entry in visible(path)
        if entry.is_dir(follow_symlinks=False)
        or (entry.is_symlink() and os.path.isdir(entry.path))
        and not here.is_relative_to(os.path.realpath(entry.path))
    )


def visible(path: str) -> Iterator[os.DirEntry[str]]:
    """What is in the folder `path`, except hidden files and `__MACOSX`."""
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name != "__MACOSX":
                yield entry


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is an image by its extension: a file, a link to one, or a link to nothing."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
