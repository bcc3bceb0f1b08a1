"""What is in a folder: class folders and images, without hidden files and what macOS adds to archives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from resnet_rs.data.decode import EXTENSIONS


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
