"""The paper's weights by name: Keras' files, which hold the EMA weights of the TF1 release.

Only these files cover all eleven configurations, come from the authors and have a published hash. The other sources are
the archives of the TF1 release, the TF2 Model Garden (its own training) and timm (six configurations).
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_rs.bridges import keras
from resnet_rs.bridges.download import RemoteFile, fetch
from resnet_rs.bridges.network import map_state_dict
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.text import quoted, require

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet_rs"
LICENSE = "apache-2.0"
"""Of these weights and of EfficientNet-Lite0's."""
MD5 = {
    "resnet-rs-50-i160": "69d9d925319f00a8bdd4af23c04e4102",
    "resnet-rs-101-i160": "544b3434d00efc199d66e9058c7f3379",
    "resnet-rs-101-i192": "eb285be29ab42cf4835ff20a5e3b5d23",
    "resnet-rs-152-i192": "8d72a301ed8a6f11a47c4ced4396e338",
    "resnet-rs-152-i224": "31a46a92ab21b84193d0d71dd8c3d03b",
    "resnet-rs-152-i256": "ba6271b99bdeb4e7a9b15c05964ef4ad",
    "resnet-rs-200-i256": "a76930b741884e09ce90fa7450747d5f",
    "resnet-rs-270-i256": "20d575825ba26176b03cb51012a367a8",
    "resnet-rs-350-i256": "f4a039dc3c421321b7fc240494574a68",
    "resnet-rs-350-i320": "7ccb858cc738305e8ceb3c0140bee393",
    "resnet-rs-420-i320": "ae0eb9bed39e64fc8d7e0db4018dc7e8",
}
"""MD5 of the file, by experiment. Source: Keras 2.15 (`keras/src/applications/resnet_rs.py`)."""


def remote_file(name: str) -> RemoteFile:
    """The file with the weights of an experiment. Raises `ValueError` if none are published."""
    if name not in MD5:
        raise ValueError(
            f"no weights of {quoted(name)} are published, only those of {', '.join(MD5)}. To convert weights of "
            "torchvision: `resnet-rs convert FILE --from torchvision --out FOLDER`."
        )
    return RemoteFile(f"{ADDRESS}/{name}.h5", "md5", MD5[name])


def tensors(name: str, arch: ResNetArch) -> dict[str, Tensor]:
    """The published weights of `name`, as the state dict of a classifier of `arch`.

    Raises `ValueError` without h5py (extra `convert`), and `NotFetched` if the file is neither in the cache nor can be
    downloaded.
    """
    require("h5py", extra="convert", what="a Keras file")
    file = keras.H5File(fetch(remote_file(name)))
    with torch.device("meta"):
        expected = Classifier.build(arch, num_classes=file.shapes[keras.HEAD_BIAS][0]).state_dict()
    mappings = keras.keras_mappings(expected, file.shapes)
    return map_state_dict(file, mappings, expected, ignored=keras.is_ignored, origin=f"{name}.h5")
