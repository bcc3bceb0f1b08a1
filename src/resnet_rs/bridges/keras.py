"""Keras 2's ResNet-RS (`keras.applications.resnet_rs`): its names, and its HDF5 files.

The file holds the paper's weights: the averages of the TF1 release under other names. Keras normalizes inside the
network; that part has no variables.

Source: Keras 2.15, run (`ResNetRS50` and its siblings, with and without top).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_rs.bridges.network import Names, Rule, Spot, tensorflow_rules
from resnet_rs.models.resnet import ResNetArch

_HEAD = "predictions"
_MAX_DATASETS = 100_000
_BLOCK = {"reduce": "1", "spatial": "2", "expand": "3"}


def keras_rules(arch: ResNetArch, shapes: Mapping[str, tuple[int, ...]]) -> list[Rule]:
    """The rules of a Keras file; one without top has none for the classifier."""

    def theirs(spot: Spot) -> Names:
        if spot.role == "classifier":
            return Names(_HEAD, None)
        if spot.role == "stem":
            return Names(f"stem_1_stem_conv_{spot.block + 1}", f"stem_1_stem_batch_norm_{spot.block + 1}")
        block = f"BlockGroup{spot.stage}__block_{spot.block}"
        if spot.role == "shortcut":
            return Names(f"{block}__projection_conv", f"{block}__projection_batch_norm")
        if spot.role in _BLOCK:
            number = _BLOCK[spot.role]
            # The first norm of a block has one underscore, the others have two.
            gap = "_" if number == "1" else "__"
            return Names(f"{block}__conv_{number}", f"{block}{gap}batch_norm_{number}")
        return Names(f"{block}__se_se_{'reduce' if spot.role == 'squeeze' else 'expand'}", None)

    def variable(layer: str, part: str) -> str:
        return f"{layer}/{part}:0"

    return tensorflow_rules(arch, theirs, variable=variable, has_head=has_head(shapes))


def has_head(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a file was saved with its top."""
    return any(name.startswith(f"{_HEAD}/") for name in shapes)


def count_blocks(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """All blocks of a Keras network."""
    return sum(name.startswith("BlockGroup") and name.endswith("__conv_1/kernel:0") for name in shapes)


def is_other(name: str) -> bool:
    """Whether a variable may be left aside: what Keras normalizes with inside the network, and the optimizer's."""
    return name.startswith(("normalization", "optimizer_weights/", "top_level_model_weights/"))


class H5File:
    """The arrays of a file of Keras weights, or of a whole Keras model, by the names of their variables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        with self._opened() as opened:
            root = opened["model_weights"] if "model_weights" in opened else opened
            self._collect(root, "")

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time."""
        with self._opened() as opened:
            for name in names:
                yield name, np.asarray(opened[self._places[name]][()])

    def _opened(self) -> Any:  # noqa: ANN401 - a type of h5py, which may not be installed
        try:
            import h5py  # pyright: ignore[reportMissingTypeStubs]: it ships none
        except ImportError:
            raise ValueError(
                "Keras files need h5py, which is not installed. Install it with `pip install 'resnet-rs[convert]'`."
            ) from None
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path} is no HDF5 file: {' '.join(str(error).split())}.") from None

    def _collect(self, group: Any, path: str) -> None:  # noqa: ANN401 - types of h5py
        """Note every array below `group`; a variable's name is what follows the folder of its layer."""
        import h5py  # pyright: ignore[reportMissingTypeStubs]: it ships none

        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{self.path}: {path}/{name} leads elsewhere, which weights never do.")
            item = group[name]
            if isinstance(item, h5py.Group):
                if path.count("/") > 8:
                    raise ValueError(f"{self.path}: {path} lies deeper than weights ever do.")
                self._collect(item, f"{path}/{name}")
                continue
            self._note(item, f"{path}/{name}")

    def _note(self, item: Any, path: str) -> None:  # noqa: ANN401 - a dataset of h5py
        size = math.prod(item.shape) * item.dtype.itemsize
        is_plain = item.dtype.kind in "fiu" and not item.external and not item.is_virtual
        if not is_plain or size > self.path.stat().st_size:
            raise ValueError(f"{self.path}: {path} is no plain array that lies in this file.")
        name = "/".join(path.strip("/").split("/")[-2:])
        if name in self.shapes or len(self.shapes) >= _MAX_DATASETS:
            raise ValueError(f"{self.path}: two arrays are called {name}, or there are too many.")
        self.shapes[name] = tuple(item.shape)
        self._places[name] = item.name
