"""A pool of images without labels: all images below a folder, or those that a table lists.

Where a pool names classes nevertheless, as class folders and tables do, they are kept as truth for reports.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from resnet_rs.data.builtin import builtin
from resnet_rs.data.decode import EXTENSIONS, MAX_PIXELS
from resnet_rs.data.files import ImageFiles
from resnet_rs.data.folders import images_below
from resnet_rs.data.source import Source
from resnet_rs.data.tables import EXTENSION, read_table


def open_pool(name: str, *, classes: Sequence[str], max_pixels: int = MAX_PIXELS) -> Source:
    """The images of the pool `name`, in the order of their keys; targets are the truth among `classes`, if it is known.

    `name` is `builtin` (its training images), a folder with images at any depth, or a CSV file. In a folder the last
    folder of an image's path that is called like one of `classes` is its truth.

    Raises `FileNotFoundError` and `ValueError` for a pool that is missing or empty.
    """
    if name == "builtin":
        return builtin().train
    places = {text: i for i, text in enumerate(classes)}
    if name.lower().endswith(EXTENSION) and os.path.isfile(name):
        table = read_table(name, max_pixels=max_pixels)
        named = {row.path: row.labels for row in table.rows}
        root, are_labels_in_paths = table.root, False
    else:
        root, are_labels_in_paths = os.path.realpath(name), True
        if not os.path.isdir(root):
            raise FileNotFoundError(
                f"{name!r} is no folder; expected a folder of images, or a CSV file. Check the path."
            )
        paths = (path.removeprefix("./") for path in images_below(root, "."))
        named = {path: path.split("/")[:-1] for path in paths}
    if not named:
        raise ValueError(f"{name!r} holds no images. Known file extensions: {', '.join(sorted(EXTENSIONS))}.")
    keys = sorted(named)
    known = ([places[text] for text in named[key] if text in places] for key in keys)
    return ImageFiles(
        root=root,
        files=tuple(keys),
        labels=tuple(tuple(indices[-1:]) for indices in known),
        class_names=tuple(classes),
        max_pixels=max_pixels,
        are_labels_in_paths=are_labels_in_paths,
    )
