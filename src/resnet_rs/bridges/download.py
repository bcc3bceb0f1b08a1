"""Public files such as published weights: fetched once into the cache, and verified by their hash at every use.

The place of a file in the cache is known beforehand (`cached_path`), so users can also put it there by hand. `requests`
reads proxies and certificates from the environment: `HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from resnet_rs import storage

OFFLINE = ("RESNET_RS_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables that forbid the use of the network."""

_NUM_RETRIES = 3
_TIMEOUT_SECONDS = 20
"""Without any data from the server."""
SECONDS_FOR_LOCK = 3600.0
"""Time for another process that downloads the same file."""
_CHUNK = 1 << 18


class NotFetched(OSError):
    """A file could not be fetched; the message names the file, the reason, and where to put it by hand."""


class RemoteFile(NamedTuple):
    """A public file and the hash of its content."""

    url: str
    algorithm: str
    """`sha256` or `md5`. MD5 detects damage, but not a file made to deceive."""
    digest: str
    """The hash, in hexadecimal digits."""


def fetch(remote: RemoteFile, *, progress: object = None) -> Path:
    """The path of `remote` in the cache, verified; the file is downloaded if it is not there.

    `progress` shows the progress as pooch asks for: it has `total`, `update`, `reset` and `close`, like tqdm's bars.
    Raises `NotFetched`, and `storage.InUse` if another process downloads the same file for more than an hour.
    """
    import pooch  # pyright: ignore[reportMissingTypeStubs]: here, since most commands download nothing

    path = cached_path(remote)
    if path.is_file() and pooch.file_hash(path, alg=remote.algorithm) == remote.digest:
        return path
    if variable := offline_variable():
        found = f", and {path} has another {remote.algorithm} than {remote.digest}" if path.is_file() else ""
        raise _not_fetched(remote, f"{variable} is set{found}")
    pooch.get_logger().setLevel("WARNING")  # the caller shows the progress
    registry = pooch.create(
        path.parent,
        base_url="",
        registry={path.name: f"{remote.algorithm}:{remote.digest}"},
        urls={path.name: remote.url},
        retry_if_failed=_NUM_RETRIES,
    )
    # `Any`: pooch documents both, but its annotations are narrower.
    bar: Any = progress or False
    downloader: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT_SECONDS)
    try:
        storage.make_folders(path.parent)
        with storage.locked(path.parent, seconds=SECONDS_FOR_LOCK):
            for leftover in path.parent.glob("tmp*"):  # of a process that was killed
                leftover.unlink()
            registry.fetch(path.name, downloader=downloader)
    except storage.InUse:
        raise
    except (OSError, ValueError) as error:  # of the network, the disk, or a wrong hash
        raise _not_fetched(remote, str(error).rstrip(".")) from None
    return path


def cached_path(remote: RemoteFile) -> Path:
    """The place of `remote` in the cache, whether it is there or not."""
    return cache_folder().absolute() / "downloads" / remote.digest[:12] / remote.url.rpartition("/")[2]


def cache_folder() -> Path:
    """`RESNET_RS_CACHE`, else `resnet-rs` in the user's cache folder: `XDG_CACHE_HOME` or `~/.cache` on Linux."""
    import pooch  # pyright: ignore[reportMissingTypeStubs]: as above

    try:
        return Path(os.environ.get("RESNET_RS_CACHE") or pooch.os_cache("resnet-rs")).expanduser()
    except RuntimeError:
        raise ValueError("there is no home folder for the cache. Set RESNET_RS_CACHE to a folder.") from None


def offline_variable() -> str | None:
    """The environment variable that forbids the use of the network; None if none does."""
    values = ("1", "true", "yes", "on")
    return next((name for name in OFFLINE if os.environ.get(name, "").lower() in values), None)


def _not_fetched(remote: RemoteFile, reason: str) -> NotFetched:
    return NotFetched(
        f"cannot fetch {remote.url}: {reason}. Download it elsewhere and put it at {cached_path(remote)}."
    )
