"""Published weights by name, downloaded once into the cache and converted to a checkpoint.

`bridges/released.py` knows the file of each name.
"""

from __future__ import annotations

from pathlib import Path

from resnet_rs import storage
from resnet_rs.bridges import hub, keras, released
from resnet_rs.bridges.download import SECONDS_FOR_LOCK, cache_folder, fetch
from resnet_rs.weights.convert import Converted, convert
from resnet_rs.weights.reading import SourceCheckpoint


def pull(name: str, out: Path, *, progress: object = None) -> Converted:
    """Write the new checkpoint folder `out` with the published weights of `name`, from the cache or the network.

    `name` is a released experiment, or a repository of the Hub such as `timm/resnetrs50.tf_in1k` (extra `hub`). Raises
    `ValueError` for an experiment without published weights or without h5py (extra `convert`), and `NotFetched` if the
    file is neither in the cache nor can be downloaded. `progress` is as in `download.fetch`.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    if hub.is_repo(name):
        return convert(SourceCheckpoint(path=hub.fetch_folder(name), kind="hub", url=address(name)), out)
    remote = released.remote_file(name)
    keras.require()
    file = fetch(remote, progress=progress)
    source = SourceCheckpoint(path=file, kind="keras", name=name, url=remote.url, license=released.LICENSE)
    return convert(source, out)


def pretrained(name: str) -> Path:
    """The checkpoint folder with the published weights of `name` in the cache, made at the first call."""
    folder = cache_folder() / "checkpoints" / f"{name}-{released.remote_file(name).digest}"
    if not folder.is_dir():
        storage.make_folders(folder.parent)
        # Many ranks may ask at once: one makes the folder, the others wait for it.
        with storage.locked(folder.parent, seconds=SECONDS_FOR_LOCK):
            if not folder.is_dir():
                pull(name, folder)
    return folder


def address(name: str) -> str:
    """The address of the weights of an experiment or of a repository of the Hub."""
    return f"hf://{hub.plain_name(name)}" if hub.is_repo(name) else released.remote_file(name).url
