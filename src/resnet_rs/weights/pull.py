"""Published weights by name, from the network or an installed package, converted to a checkpoint in the cache."""

from __future__ import annotations

from pathlib import Path

from resnet_rs import storage
from resnet_rs.bridges import efficientnet_lite, hub, released
from resnet_rs.bridges.download import SECONDS_FOR_LOCK, cache_folder, fetch
from resnet_rs.text import require
from resnet_rs.weights.convert import Converted, convert
from resnet_rs.weights.reading import SourceCheckpoint

NAMES = (*released.MD5, efficientnet_lite.NAME)
"""The experiments with published weights."""


def pull(name: str, out: Path, *, progress: object = None) -> Converted:
    """Write the new checkpoint folder `out` with the published weights of `name`, from the cache or the network.

    `name` is one of `NAMES`, or a repository of the Hub such as `timm/resnetrs50.tf_in1k` (extra `hub`). Raises
    `ValueError` for an experiment without published weights, or if its extra is missing (`convert`; for
    EfficientNet-Lite0 `offline`), and `NotFetched` if the file is neither in the cache nor can be downloaded.
    `progress` is as in `download.fetch`.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    url = address(name)
    if hub.is_repo(name):
        return convert(SourceCheckpoint(path=hub.fetch_folder(name), kind="hub", url=url), out)
    if name == efficientnet_lite.NAME:
        kind, file = "efficientnet-lite", efficientnet_lite.installed_file()
    else:
        require("h5py", extra="convert", what="a Keras file")  # before it is downloaded
        kind, file = "keras", fetch(released.remote_file(name), progress=progress)
    return convert(SourceCheckpoint(path=file, kind=kind, name=name, url=url, license=released.LICENSE), out)


def pretrained(name: str) -> Path:
    """The checkpoint folder with the published weights of `name` in the cache, made at the first call."""
    is_installed = name == efficientnet_lite.NAME
    digest = efficientnet_lite.SHA256 if is_installed else released.remote_file(name).digest
    folder = cache_folder() / "checkpoints" / f"{name}-{digest}"
    if not folder.is_dir():
        storage.make_folders(folder.parent)
        # Many ranks may ask at once: one makes the folder, the others wait for it.
        with storage.locked(folder.parent, seconds=SECONDS_FOR_LOCK):
            if not folder.is_dir():
                pull(name, folder)
    return folder


def address(name: str) -> str:
    """The address of the weights of an experiment or of a repository of the Hub."""
    if hub.is_repo(name):
        return f"hf://{hub.plain_name(name)}"
    return efficientnet_lite.ADDRESS if name == efficientnet_lite.NAME else released.remote_file(name).url
