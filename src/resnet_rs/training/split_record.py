"""The record of an automatic split: it is in the `run.json` of a run, and its checkpoints have the digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnet_rs import storage


def split_digest(split: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the keys of both parts."""
    text = json.dumps([list(split["train"]), list(split["test"])])
    return hashlib.sha256(text.encode()).hexdigest()


def recorded_split(run: Path, digest: str) -> dict[str, list[str]] | None:
    """The split with this digest in the folder `run`; None if the folder has no such split."""
    try:
        split = storage.read_json(run / "run.json", needs=("split",))["split"]
        found = {half: [str(key) for key in split[half]] for half in ("train", "test")}
    except (OSError, storage.Damaged, TypeError, KeyError):
        return None
    return found if split_digest(found) == digest else None
