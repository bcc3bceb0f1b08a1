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
    """The images of the pool `name`, in the order of their keys. Targets are the truth, where the pool names it.

    - `builtin`: its training images.
    - a folder: the images in it at any depth; links to folders are not followed. The last folder of an image's path
      that is called like one of `classes` is its truth.
    - a CSV file with the column `path`, and perhaps `label` and `split`. Rows whose split is `val` or `test` are left
      out. An image with several labels has no truth.

    Raises `FileNotFoundError` and `ValueError` for a pool that is missing or empty.
    """
    if name == "builtin":
        return builtin().train
    if name.lower().endswith(EXTENSION) and os.path.isfile(name):
        table = read_table(name, max_pixels=max_pixels, is_pool=True)
        root, are_labels_in_paths = table.root, False
        named = {row.path: row.labels for row in table.rows if row.part in ("", "train")}
    else:
        root, are_labels_in_paths = os.path.abspath(name), True
        if not os.path.isdir(root):
            raise FileNotFoundError(
                f"{name!r} is no folder; expected a folder of images, or a CSV file. Check the path."
            )
        paths = (path.removeprefix("./") for path in images_below(root, "."))
        known = set(classes)
        named = {path: [part for part in path.split("/")[:-1] if part in known][-1:] for path in paths}
    if not named:
        raise ValueError(f"{name!r} holds no images. Known file extensions: {', '.join(sorted(EXTENSIONS))}.")
    keys = sorted(named)
    names = sorted({text for labels in named.values() for text in labels})
    places = {text: i for i, text in enumerate(names)}
    return ImageFiles(
        root=root,
        files=tuple(keys),
        labels=tuple(tuple(places[text] for text in named[key]) for key in keys),
        class_names=tuple(names),
        max_pixels=max_pixels,
        are_labels_in_paths=are_labels_in_paths,
    )
