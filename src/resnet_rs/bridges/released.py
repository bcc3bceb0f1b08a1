"""The paper's weights by name: of what is published, Keras' files, the averages of the TF1 release.

Of the sources in reach (the release's own archives, the TF2 Model Garden's own training, timm's six) these alone are
of all eleven configurations, the authors' and of a published hash.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_rs.bridges import keras
from resnet_rs.bridges.classifier import Classifier
from resnet_rs.bridges.download import RemoteFile, fetch
from resnet_rs.bridges.network import fill
from resnet_rs.models.resnet import ResNetArch

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet_rs"
LICENSE = "apache-2.0"
MOST_BYTES = 1 << 30
"""The largest, of depth 420, has about 770 million."""
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
"""Experiment -> MD5 of its file. Source: Keras 2.15 (`keras/src/applications/resnet_rs.py`)."""


def remote_file(name: str) -> RemoteFile:
    """Where the weights of an experiment are. Raises `ValueError` if none are published."""
    if name not in MD5:
        raise ValueError(
            f"no weights of {name!r} are published, but of {', '.join(MD5)}. torchvision's can be converted: "
            "`resnet-rs convert FILE --from torchvision --out FOLDER`."
        )
    return RemoteFile(f"{ADDRESS}/{name}.h5", md5=MD5[name])


def tensors(name: str, arch: ResNetArch) -> dict[str, Tensor]:
    """The published weights of `name` for a classifier of `arch`, from the cache or the network.

    Raises `ValueError` without h5py (extra `convert`), and `OSError` if the file cannot be had.
    """
    keras.require()
    file = keras.H5File(fetch(remote_file(name), at_most=MOST_BYTES))
    with torch.device("meta"):
        expected = Classifier.build(arch, num_classes=file.shapes[keras.HEAD_BIAS][0]).state_dict()
    rules = keras.keras_rules(arch, file.shapes)
    return fill(file, rules, expected, ignored=keras.is_other, origin=f"{name}.h5")
