"""The Hugging Face Hub: folders fetched from it into its own cache, and sent to it.

Wants huggingface_hub (extra `hub`), which brings cache, resumption, proxies, tokens and `HF_ENDPOINT`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from resnet_rs import storage
from resnet_rs.bridges.download import OFFLINE, NotFetched
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS

_REPO = re.compile(r"(hf-hub:|hf://)?(?P<name>[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?)")
NO_REPO = "OWNER/NAME"
"""Stands in a card for the name of the repository until it is known."""
_MOST_SAID = 400
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_repo(name: str) -> bool:
    """Whether `name` is that of a repository: `OWNER/NAME`, `OWNER/NAME@REVISION`, or with timm's `hf-hub:` before it.

    What begins with a dot, or with a folder that is here, is a path, so that a slip of the finger asks no network.
    """
    start = name.partition("/")[0]
    is_path = name.startswith(".") or os.path.exists(name) or os.path.exists(start)
    return _REPO.fullmatch(name) is not None and not is_path


def plain_name(repo: str) -> str:
    """`OWNER/NAME` or `OWNER/NAME@REVISION` of what `is_repo`."""
    found = _REPO.fullmatch(repo)
    return repo if found is None else found["name"]


def refuse_no_repo(name: str) -> None:
    """Refuse what is no `OWNER/NAME` to which a folder can be sent."""
    if not is_repo(name) or "@" in name:
        raise ValueError(f"a repository of the Hub is called OWNER/NAME, got {name!r}.")


def fetch_folder(repo: str) -> Path:
    """The folder of `repo` in the Hub's cache, fetched if it is not there, its weights verified.

    Raises `NotFetched` if it cannot be had, and `storage.Damaged` if the weights are not those of the Hub.
    """
    library = _library()
    name, _, revision = plain_name(repo).partition("@")
    try:
        folder = library.snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[CONFIG, WEIGHTS],
            local_files_only=_offline() is not None,
            library_name="resnet-rs",
        )
    except Exception as error:  # also those of the library's own libraries, which have no type of ours
        raise NotFetched(
            f"{repo} cannot be had from the Hub: {_said(error)} {advice(error)}A folder with its {CONFIG} and "
            f"{WEIGHTS} can be given instead."
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
        raise OSError(f"the weights cannot be sent to {repo}: {_said(error)} {advice(error)}") from None
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


def _offline() -> str | None:
    """The variable of the environment that keeps us from the network, if one does."""
    return next((name for name in OFFLINE if os.environ.get(name, "") not in ("", "0")), None)


def advice(error: BaseException) -> str:
    """What to do about a fault of the Hub, by its answer, if it gave one; nothing where that is not known."""
    variable, chain = _offline(), list(_chain(error))
    codes = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    status = next((code for code in codes if isinstance(code, int)), None)
    if variable is not None:
        return f"{variable} is set, so that the network is not asked; take it away. "
    if status in (401, 403):
        return "See that the name is right, and that you are logged in (`hf auth login`, HF_TOKEN) and may do this. "
    if status == 404:
        return "See that name and revision are right; who may not see a private one is told the same. "
    if status is not None:
        return "Try again later. " if status == 429 or status >= 500 else ""
    if any(re.search("Connect|Timeout", type(e).__name__) for e in chain):
        return (
            "See that there is a network, and that HF_ENDPOINT and HTTPS_PROXY, if they are set, are right. "
        )
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it goes back to."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _said(error: BaseException) -> str:
    """What an error and the one that it goes back to say, in one line that ends with a full stop."""
    ends = (error, list(_chain(error))[-1])
    texts = dict.fromkeys(" ".join(str(e).split())[:_MOST_SAID].rstrip(".") for e in ends)
    return "; ".join(text for text in texts if text) + "."


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            "the Hub wants huggingface_hub, which is not installed. Install it: pip install 'resnet-rs[hub]'."
        ) from None
    return huggingface_hub
