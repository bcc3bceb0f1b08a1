"""The paper's weights by name: fetched once, verified, and made a checkpoint of ours.

Of the three places that have them (TF1 archives, the TF2 Model Garden's own training, Keras) Keras' files are taken:
they hold the averages of the TF1 release, one for each of the eleven configurations, and their hashes are published.
"""

from __future__ import annotations

from pathlib import Path

from resnet_rs import zoo
from resnet_rs.bridges import keras
from resnet_rs.bridges.download import PATIENCE, Progress, RemoteFile, cache_folder, fetch
from resnet_rs.bridges.partial import turn
from resnet_rs.weights.convert import Converted, convert
from resnet_rs.weights.reading import Foreign

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet_rs"
_MOST_BYTES = 1 << 30
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


def pull(name: str, out: Path, *, progress: Progress | None = None) -> Converted:
    """Make the new checkpoint folder `out` of the published weights of `name`, from the cache or the network.

    Raises `ValueError` for an experiment without published weights or without h5py (extra `convert`), and `OSError` if
    the file cannot be had: without a network it says which file to put where.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    remote = published(name)
    keras.require()
    file = fetch(remote, progress=progress, at_most=_MOST_BYTES)
    return convert(Foreign(path=file, kind="keras", name=name, url=remote.url), out)


def pretrained(name: str) -> Path:
    """The checkpoint folder of the published weights of `name` in the cache, made at the first call."""
    folder = cache_folder() / "checkpoints" / f"{name}-{published(name).md5}"
    if not folder.is_dir():
        with turn(folder, seconds=PATIENCE.turn_seconds):  # of many ranks that ask at once, one makes it
            if not folder.is_dir():
                pull(name, folder)
    return folder


def published(name: str) -> RemoteFile:
    """Where the weights of an experiment are."""
    zoo.experiment(name)
    if name not in MD5:
        raise ValueError(
            f"no weights of {name!r} are published, but of {', '.join(MD5)}. torchvision's can be converted: "
            "`resnet-rs convert FILE --from torchvision --out FOLDER`."
        )
    return RemoteFile(f"{ADDRESS}/{name}.h5", md5=MD5[name])
