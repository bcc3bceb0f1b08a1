"""The paper's weights by name, fetched once into the cache and converted.

Which file that is says `bridges/released.py`.
"""

from __future__ import annotations

from pathlib import Path

from resnet_rs import zoo
from resnet_rs.bridges import hub, keras, released
from resnet_rs.bridges.download import PATIENCE, Progress, RemoteFile, cache_folder, fetch
from resnet_rs.bridges.partial import turn
from resnet_rs.weights.convert import Converted, convert
from resnet_rs.weights.reading import Foreign


def pull(name: str, out: Path, *, progress: Progress | None = None) -> Converted:
    """Make the new checkpoint folder `out` of the published weights of `name`, from the cache or the network.

    A name such as `timm/resnetrs50.tf_in1k` is that of a repository of the Hub (extra `hub`). Raises `ValueError` for
    an experiment without published weights or without h5py (extra `convert`), and `OSError` if the file cannot be had:
    without a network it says which file to put where.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    if hub.is_repo(name):
        return convert(Foreign(path=hub.fetch_folder(name), kind="hub", url=address(name)), out)
    remote = published(name)
    keras.require()
    file = fetch(remote, progress=progress, at_most=released.MOST_BYTES)
    foreign = Foreign(path=file, kind="keras", name=name, url=remote.url, license=released.LICENSE)
    return convert(foreign, out)


def pretrained(name: str) -> Path:
    """The checkpoint folder of the published weights of `name` in the cache, made at the first call."""
    folder = cache_folder() / "checkpoints" / f"{name}-{published(name).md5}"
    if not folder.is_dir():
        with turn(folder, seconds=PATIENCE.turn_seconds):  # of many ranks that ask at once, one makes it
            if not folder.is_dir():
                pull(name, folder)
    return folder


def published(name: str) -> RemoteFile:
    """Where the weights of an experiment are. Raises `ValueError` if there is no such experiment, or none of it."""
    zoo.experiment(name)
    return released.remote_file(name)


def address(name: str) -> str:
    """Where the weights of an experiment, or those in a repository of the Hub, are fetched from."""
    return f"hf://{hub.plain_name(name)}" if hub.is_repo(name) else published(name).url
