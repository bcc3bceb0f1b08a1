"""The Hugging Face Hub: repositories downloaded into its cache as folders, and folders uploaded.

Needs huggingface_hub (extra `hub`), which handles cache, resumption, proxies, tokens and `HF_ENDPOINT`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from resnet_rs import storage
from resnet_rs.bridges.download import NotFetched, offline_variable
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS

_REPO = re.compile(r"(hf-hub:|hf://)?(?P<name>[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?)")
NO_REPO = "OWNER/NAME"
"""Placeholder in a card until the name of the repository is known."""
_MAX_CHARACTERS = 400
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_repo(name: str) -> bool:
    """Whether `name` is a repository: `OWNER/NAME` or `OWNER/NAME@REVISION`, with or without timm's `hf-hub:`.

    A name that begins with a dot or with an existing folder is a path, so that a mistyped path never asks the network.
    """
    start = name.partition("/")[0]
    is_path = name.startswith(".") or os.path.exists(name) or os.path.exists(start)
    return _REPO.fullmatch(name) is not None and not is_path


def plain_name(repo: str) -> str:
    """A repository's name without `hf-hub:`."""
    found = _REPO.fullmatch(repo)
    return repo if found is None else found["name"]


def refuse_no_repo(name: str) -> None:
    """Refuse a name to which no folder can be uploaded."""
    if _REPO.fullmatch(name) is None or "@" in name:
        raise ValueError(f"a repository of the Hub has a name such as OWNER/NAME, got {name!r}.")


def fetch_folder(repo: str) -> Path:
    """The folder of `repo` in the Hub's cache, downloaded if it is not there; its weights are verified.

    Raises `NotFetched` if it can be neither found nor downloaded, and `storage.Damaged` if the weights in the cache are
    not those of the Hub.
    """
    library = _library()
    name, _, revision = plain_name(repo).partition("@")
    try:
        folder = library.snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[CONFIG, WEIGHTS],
            local_files_only=offline_variable() is not None,
            library_name="resnet-rs",
        )
    except Exception as error:  # huggingface_hub also lets exceptions of its HTTP library through
        raise NotFetched(
            f"cannot download {repo} from the Hub: {_message(error)} {advice(error)}You can also give a folder with "
            f"its {CONFIG} and {WEIGHTS}."
        ) from None
    for file in (CONFIG, WEIGHTS):
        if not Path(folder, file).is_file():
            raise NotFetched(f"{repo} on the Hub holds no {file}; expected a classifier in timm's layout.")
    _verify(Path(folder, WEIGHTS))
    return Path(folder)


def send_folder(folder: Path, repo: str, *, private: bool) -> str:
    """The address of the commit that uploads the files of `folder` to `repo`, which is created if it does not exist.

    Raises `OSError` if the upload fails; the repository is then unchanged.
    """
    library = _library()
    refuse_no_repo(repo)
    card = (folder / CARD).read_bytes().replace(NO_REPO.encode(), plain_name(repo).encode())
    files = {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS, CARD: card}
    api = library.HfApi(library_name="resnet-rs")
    try:
        api.create_repo(plain_name(repo), private=private, exist_ok=True)
        done = api.create_commit(
            plain_name(repo),
            [library.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Weights, configuration and card, written by resnet-rs",
        )
    except Exception as error:  # as above
        raise OSError(f"cannot upload the weights to {repo}: {_message(error)} {advice(error)}") from None
    return str(done.commit_url or done)


def _verify(weights: Path) -> None:
    """Compare weights in the cache with their SHA-256, which is their name there; the library only checks the size."""
    name = weights.resolve().name
    if _SHA256.fullmatch(name):
        found = storage.file_sha256(weights)
        if found != name:
            raise storage.Damaged(
                f"{weights} has SHA-256 {found}, not that of the Hub, {name}. Remove {weights.resolve()} and pull "
                "it again."
            )


def advice(error: BaseException) -> str:
    """What the user can do about an error of the Hub, from its HTTP status; empty if nothing is known."""
    variable, chain = offline_variable(), list(_chain(error))
    codes = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    status = next((code for code in codes if isinstance(code, int)), None)
    if variable is not None:
        return f"{variable} is set, which forbids the use of the network. Unset it. "
    if status in (401, 403):
        return "Check the name, your login (`hf auth login`, HF_TOKEN) and your permissions. "
    if status == 404:
        return "Check the name and the revision. The answer is the same for a private repository without permission. "
    if status is not None:
        return "Try again later. " if status == 429 or status >= 500 else ""
    if any(re.search("Connect|Timeout", type(e).__name__) for e in chain):
        return "Check the network, and HF_ENDPOINT and HTTPS_PROXY if they are set. "
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _message(error: BaseException) -> str:
    """The texts of an exception and its first cause, in one line that ends with a full stop."""
    ends = (error, list(_chain(error))[-1])
    texts = dict.fromkeys(" ".join(str(e).split())[:_MAX_CHARACTERS].rstrip(".") for e in ends)
    return "; ".join(text for text in texts if text) + "."


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            "the Hub needs huggingface_hub, which is not installed. Install it: pip install 'resnet-rs[hub]'."
        ) from None
    return huggingface_hub
