"""Keras 2's ResNet-RS (`keras.applications.resnet_rs`): its names, and its HDF5 files.

Source: Keras 2.15, run (`ResNetRS50` and its siblings, with and without top).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from resnet_rs.bridges.archive import Unreadable, naming
from resnet_rs.bridges.network import KeyMapping, key_mappings
from resnet_rs.text import require

HEAD_BIAS = "predictions/bias:0"
"""Has one value per class."""
_MAX_ARRAYS, _MAX_VISITED, _MAX_DEPTH = 20_000, 40_000, 8
_NAMES = {
    **{f"backbone.stem.{3 * i}.": f"stem_1_stem_conv_{i + 1}/" for i in range(4)},
    **{f"backbone.stem.{3 * i + 1}.": f"stem_1_stem_batch_norm_{i + 1}/" for i in range(4)},
    **{f"backbone.c{stage}.": f"BlockGroup{stage}__block_" for stage in (2, 3, 4, 5)},
    ".shortcut.conv.": "__projection_conv/",
    ".shortcut.norm.": "__projection_batch_norm/",
    # The first norm of a block has one underscore, the others have two.
    ".reduce.0.": "__conv_1/",
    ".reduce.1.": "_batch_norm_1/",
    ".spatial.0.": "__conv_2/",
    ".spatial.1.": "__batch_norm_2/",
    ".expand.0.": "__conv_3/",
    ".expand.1.": "__batch_norm_3/",
    ".excite.reduce.": "__se_se_reduce/",
    ".excite.expand.": "__se_se_expand/",
    "head.classifier.": "predictions/",
}


def keras_mappings(expected: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[KeyMapping]:
    """The mappings of a Keras file to our tensors `expected`; without its top, the classifier is left out."""
    found = key_mappings(expected, _NAMES, library="tensorflow", suffix=":0")
    return [mapping for mapping in found if HEAD_BIAS in shapes or not mapping.target.startswith("head.")]


def count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """All blocks of a Keras network."""
    return sum(name.startswith("BlockGroup") and name.endswith("__conv_1/kernel:0") for name in shapes)


def is_ignored(name: str) -> bool:
    """Whether a variable can be ignored: it belongs to the normalization inside the network."""
    return name.startswith(("normalization", "top_level_model_weights/"))


class H5File:
    """The arrays of a file of Keras weights, or of a whole Keras model, by the names of their variables.

    Only plain arrays in the file itself are read; links to other places are not followed. Raises `ValueError` for any
    other content and for damage.
    """

    def __init__(self, path: Path) -> None:
        require("h5py", extra="convert", what="a Keras file")
        self.path = path
        self._paths: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._num_visited = 0
        with naming(str(path)), self._opened() as opened:
            opened.visititems(self._record)  # visits every array once, whatever hard links the file has

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time."""
        with naming(str(self.path)), self._opened() as opened:
            for name in names:
                yield name, np.asarray(opened[self._paths[name]][()])

    def _opened(self) -> Any:  # noqa: ANN401 - a type of h5py, which may not be installed
        import h5py  # pyright: ignore[reportMissingTypeStubs]: it ships none

        if not self.path.is_file():
            raise Unreadable("it does not exist or is no file; expected Keras weights such as model.h5.")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise Unreadable(f"it is not an HDF5 file ({' '.join(str(error).split())}).") from None

    def _record(self, path: str, item: Any) -> None:  # noqa: ANN401 - an array or group of h5py
        """Record an array. The name of a variable is `layer/part`, the end of its path."""
        # A path is visited before those below it, so a file of very many groups is refused at once.
        self._num_visited += 1
        if path.count("/") > _MAX_DEPTH or self._num_visited > _MAX_VISITED:
            raise Unreadable(
                f"its groups are nested too deeply, or there are more than {_MAX_VISITED:,} of them."
            )
        if hasattr(item, "keys") or path.startswith("optimizer_weights/"):
            return
        num_bytes = self.path.stat().st_size
        sizes = [math.prod(shape) * item.dtype.itemsize for shape in (item.shape, item.chunks or ())]
        is_plain = item.dtype.kind in "fiu" and not item.external and not item.is_virtual
        if not is_plain or max(sizes) > num_bytes:
            raise Unreadable(f"{path!r} in it is not a plain array inside the file.")
        name = "/".join(path.split("/")[-2:])
        if name in self.shapes or len(self.shapes) >= _MAX_ARRAYS:
            raise Unreadable(f"it has two arrays named {name!r}, or more than {_MAX_ARRAYS:,} arrays.")
        self.shapes[name] = tuple(item.shape)
        self._paths[name] = path
