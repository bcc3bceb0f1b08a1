"""The Hugging Face Hub: folders fetched from it into its own cache, and sent to it.

Wants huggingface_hub (extra `hub`), which brings cache, resumption, proxies, tokens and `HF_ENDPOINT`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from types import ModuleType

from resnet_rs import storage
from resnet_rs.bridges.download import OFFLINE, NotFetched
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?")
_MOST_SAID = 400
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_repo(name: str) -> bool:
    """Whether `name` is that of a repository, `OWNER/NAME` or `OWNER/NAME@REVISION`.

    What begins with a dot, or with a folder that is here, is a path, so that a slip of the finger asks no network.
    """
    start = name.partition("/")[0]
    is_path = name.startswith(".") or os.path.exists(name) or os.path.exists(start)
    return _REPO.fullmatch(name) is not None and not is_path


def refuse_no_repo(name: str) -> None:
    """Refuse what is no `OWNER/NAME` to which a folder can be sent."""
    if not is_repo(name) or "@" in name:
        raise ValueError(f"a repository of the Hub is called OWNER/NAME, got {name!r}.")


def fetch_folder(repo: str) -> Path:
    """The folder of `repo` in the Hub's cache, fetched if it is not there, its weights verified.

    Raises `NotFetched` if it cannot be had, and `storage.Damaged` if the weights are not those of the Hub.
    """
    library = _library()
    name, _, revision = repo.partition("@")
    is_offline = any(os.environ.get(variable, "") not in ("", "0") for variable in OFFLINE)
    try:
        folder = library.snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[CONFIG, WEIGHTS],
            local_files_only=is_offline,
            library_name="resnet-rs",
        )
    except Exception as error:  # also those of the library's own libraries, which have no type of ours
        raise NotFetched(
            f"{repo} cannot be had from the Hub: {_said(error)} Where there is no network, put its {CONFIG} and "
            f"{WEIGHTS} into a folder and give that instead."
        ) from None
    for file in (CONFIG, WEIGHTS):
        if not Path(folder, file).is_file():
            raise NotFetched(f"{repo} on the Hub holds no {file}, so it is no classifier of timm's layout.")
    _refuse_other(Path(folder, WEIGHTS))
    return Path(folder)


def send_folder(folder: Path, repo: str, *, private: bool) -> str:
    """Make `repo` on the Hub, if there is none, and put the files of `folder` into it in one commit; its address.

    Raises `OSError` if it cannot be sent; the repository then holds what it held before.
    """
    library = _library()
    refuse_no_repo(repo)
    api = library.HfApi(library_name="resnet-rs")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message="Weights, configuration and card, written by resnet-rs",
        )
    except Exception as error:  # as above
        raise OSError(
            f"{folder} cannot be sent to {repo}: {_said(error)} See that you are logged in (`hf auth login`, or "
            "HF_TOKEN) and may write there; then give the same command again."
        ) from None
    return str(done.commit_url or done)


def _refuse_other(weights: Path) -> None:
    """The Hub's cache calls large files by their SHA-256, but looks at their length alone."""
    name = weights.resolve().name
    if _SHA256.fullmatch(name):
        with weights.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != name:
            raise storage.Damaged(
                f"{weights} has SHA-256 {found}, not that of the Hub, {name}. Remove {weights.resolve()} and pull "
                "again."
            )


def _said(error: Exception) -> str:
    """What an error says, in one line that ends with a full stop."""
    return " ".join(str(error).split())[:_MOST_SAID].rstrip(".") + "."


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            "the Hub wants huggingface_hub, which is not installed. Install it: pip install 'resnet-rs[hub]'."
        ) from None
    return huggingface_hub
