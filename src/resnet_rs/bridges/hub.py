"""The Hugging Face Hub: repositories downloaded into its cache as folders, and folders uploaded.

Needs huggingface_hub (extra `hub`), which handles cache, resumption, proxies, tokens and `HF_ENDPOINT`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType

from resnet_rs import storage
from resnet_rs.bridges.download import NotFetched, offline_variable
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS
from resnet_rs.text import require

_REPO = re.compile(r"(hf-hub:|hf://)?(?P<name>[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?)")
NO_REPO = "OWNER/NAME"
"""Placeholder in a card until the name of the repository is known."""
_MAX_CHARACTERS = 400
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_repo(name: str) -> bool:
    """Whether `name` is a repository: `OWNER/NAME` or `OWNER/NAME@REVISION`, with or without timm's `hf-hub:`.

    A name that begins with a dot, or whose part before the first slash exists in this folder, is a path.
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
            f"cannot download {repo} from the Hub: {reason(error)} You can also give a folder with its {CONFIG} and "
            f"{WEIGHTS}."
        ) from None
    for file in (CONFIG, WEIGHTS):
        if not Path(folder, file).is_file():
            raise NotFetched(f"{repo} on the Hub holds no {file}; expected a classifier in timm's layout.")
    _verify(Path(folder, WEIGHTS))
    return Path(folder)


def push_to_hub(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """The address of the commit that uploads a folder of `save_pretrained` to `OWNER/NAME` on the Hub (extra `hub`).

    A missing repository is created. In the card, the placeholder `OWNER/NAME` is replaced by `repo`.

    Raises `OSError` if the upload fails. A new repository may then exist and be empty; if the connection broke during
    the last request, the commit may exist although an error is raised.
    """
    files: dict[str, Path | bytes] = {name: Path(folder, name) for name in (CONFIG, WEIGHTS, CARD)}
    for name in files:
        if not Path(folder, name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}; expected a folder that `save_pretrained` wrote."
            )
    library, plain = _library(), plain_name(repo)
    refuse_no_repo(repo)
    files[CARD] = Path(folder, CARD).read_bytes().replace(NO_REPO.encode(), plain.encode())
    api = library.HfApi(library_name="resnet-rs")
    try:
        api.create_repo(plain, private=private, exist_ok=True)
        done = api.create_commit(
            plain,
            [library.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Weights, configuration and card, written by resnet-rs",
        )
    except Exception as error:  # as above
        raise OSError(f"cannot upload the weights to {repo}: {reason(error)}") from None
    return str(done.commit_url or done)


def _verify(weights: Path) -> None:
    """Compare weights in the cache with their SHA-256, which is their name there; the library only checks the size."""
    stored = weights.resolve()
    if _SHA256.fullmatch(stored.name) and (found := storage.file_sha256(stored)) != stored.name:
        raise storage.Damaged(
            f"{weights} has SHA-256 {found}, not that of the Hub, {stored.name}. Remove {stored} and pull it again."
        )


def reason(error: BaseException) -> str:
    """Why a request to the Hub failed, and then what the user can do, in sentences."""
    if variable := offline_variable():
        return f"{variable} is set, which forbids the use of the network. Unset it."
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    statuses = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    status = next((status for status in statuses if isinstance(status, int)), 0)
    if status in (401, 403, 404):
        return (
            f"the Hub has no such repository or revision, or refuses access to it (HTTP {status}). Check the name and "
            "the revision, your login (`hf auth login`, HF_TOKEN) and your permissions."
        )
    if status == 429 or status >= 500:
        return f"the Hub cannot answer at the moment (HTTP {status}). Try again later."
    if not status and any(re.search("Connect|Timeout", type(e).__name__) for e in chain):
        return (
            f"the Hub cannot be reached ({_text(chain[-1])}). Check the network, and HF_ENDPOINT and HTTPS_PROXY if "
            "they are set."
        )
    return f"{_text(error)}."


def _text(error: BaseException) -> str:
    """The text of an error on one line, or its type if it has none."""
    return " ".join(str(error).split())[:_MAX_CHARACTERS].rstrip(".") or type(error).__name__


def _library() -> ModuleType:
    require("huggingface_hub", extra="hub", what="the Hub")
    import huggingface_hub

    return huggingface_hub
