"""`select_rows`: the rows of a table of pseudo-labels that a student trains on, as a new table."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt64

from resnet_rs import storage
from resnet_rs.data import dataset
from resnet_rs.data.near_duplicates import look_alike, perceptual_hashes
from resnet_rs.data.pool import open_pool
from resnet_rs.pseudo import table
from resnet_rs.pseudo.select import Selection, copies


class Selected(NamedTuple):
    """What became of the rows of a table: every row is in one of the first five numbers."""

    kept: int
    unreadable: int
    like_test_images: int
    not_sure: int
    """Below the least confidence, or above the most entropy."""
    beyond_class_limit: int
    drawn: int
    """Rows with their copies."""
    most_copies: int
    classes: dict[str, tuple[int, int]]
    """For each class the rows with its label, and those of the new table with their copies."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The columns that decide. `N` rows of the whole table."""

    labels: Int32[np.ndarray, " N"]
    """-1 for a row without a label."""
    confidences: Float32[np.ndarray, " N"]
    entropies: Float32[np.ndarray, " N"]
    hashes: UInt64[np.ndarray, " N"]
    """Of the keys."""


def select_rows(
    source: Path, out: Path, selection: Selection, *, apart_from: str | None = None, max_distance: int = 4
) -> Selected:
    """Write the selected rows of the table `source` into the new table `out`, with a column `copies`.

    With `apart_from`, images that look like a test image of that data set are left out (without a test part: like any
    of its images): their perceptual hashes differ in at most `max_distance` of 64 bits. Raises `ValueError` if nothing
    is left, and for a `source` that is not complete.
    """
    info = storage.read_json(
        source / table.INFO, needs=("classes", "num_samples", "data", "pool", "max_pixels")
    )
    if "selection" in info:
        raise ValueError(
            f"{source} is a selection already. Give the table that `pseudo label` made, with all rules."
        )
    if out.exists():
        raise FileExistsError(f"{out} exists already. Choose a new folder for `--out`.")
    rows = _read(source, info)
    has_label = rows.labels >= 0
    is_sure = has_label & selection.is_sure(rows.confidences, rows.entropies)
    looks_alike = np.zeros(len(has_label), dtype=bool)
    if apart_from is not None:
        looks_alike = _like_test_images(source, info, has_label, dataset.find(apart_from), max_distance)
    allowed = is_sure & ~looks_alike
    if not allowed.any():
        raise ValueError(
            f"these rules leave no row of {source}: of {len(has_label):,}, {int((~has_label).sum()):,} have no label, "
            f"{int(looks_alike.sum()):,} look like test images, and the others are not confident enough (the most "
            f"confident one has {rows.confidences.max(initial=0.0):.3f}). Change --apart-from, --min-confidence or "
            "--max-entropy."
        )
    found = copies(
        selection, labels=rows.labels, confidences=rows.confidences, hashes=rows.hashes, allowed=allowed
    )
    rules = {**asdict(selection), "apart_from": apart_from, "max_distance": max_distance}
    storage.write_folder(out, _files(source, found, {**info, "selection": rules}), is_sealed=False)
    num_classes = len(info["classes"])
    before = np.bincount(rows.labels[has_label], minlength=num_classes).tolist()
    after = np.bincount(rows.labels[allowed], weights=found[allowed], minlength=num_classes).tolist()
    return Selected(
        kept=int((found > 0).sum()),
        unreadable=int((~has_label).sum()),
        like_test_images=int(looks_alike.sum()),
        not_sure=int((has_label & ~looks_alike & ~is_sure).sum()),
        beyond_class_limit=int((allowed & (found == 0)).sum()),
        drawn=int(found.sum()),
        most_copies=int(found.max()),
        classes={name: (before[i], int(after[i])) for i, name in enumerate(info["classes"])},
    )


def _read(source: Path, info: dict[str, Any]) -> _Rows:
    """The rows of all parts. Raises `ValueError` for a table that is not finished."""
    columns: list[list[np.ndarray]] = []
    for path, _ in _parts(source, info):
        found = table.read_part(path, ("key", "label", "confidence", "entropy"))
        hashes = [_hash(key) for key in found.column("key").to_pylist()]
        values = [
            found.column(name).fill_null(missing).to_numpy()
            for name, missing in (("label", -1), ("confidence", 0.0), ("entropy", 0.0))
        ]
        columns.append([*values, np.array(hashes, dtype=np.uint64)])
    labels, confidences, entropies, hashes = map(np.concatenate, zip(*columns, strict=True))
    return _Rows(labels=labels, confidences=confidences, entropies=entropies, hashes=hashes)


def _parts(source: Path, info: dict[str, Any]) -> Iterator[tuple[Path, range]]:
    """The file and the samples of each part, which must be there with all rows."""
    for number, part in enumerate(table.part_ranges(info["num_samples"])):
        path = table.part_file(source, number)
        if table.num_rows(path) != len(part):
            raise ValueError(
                f"{path} is missing or damaged, so the table is not complete. Repeat the `pseudo label` command."
            )
        yield path, part


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


def _like_test_images(
    source: Path,
    info: dict[str, Any],
    has_label: Bool[np.ndarray, " N"],
    data: dataset.DataSet,
    max_distance: int,
) -> Bool[np.ndarray, " N"]:
    """Whether each row has a label and looks like a test image.

    Raises `ValueError` if images of the pool have changed since they were labeled, and warns of unreadable test images.
    """
    test = data.open_test()
    pool = open_pool(info["data"], classes=info["classes"], max_pixels=info["max_pixels"])
    if pool.digest() != info["pool"]:
        raise ValueError(
            f"the pool {info['data']} no longer has the images of the table. Restore it, or label it anew."
        )
    known = [value for value in perceptual_hashes(test, range(len(test))) if value is not None]
    if len(known) < len(test):
        warnings.warn(
            f"{len(test) - len(known):,} of {len(test):,} test images of {data.title} cannot be read, so nothing is "
            "compared with them.",
            stacklevel=3,
        )
    found = np.zeros(len(has_label), dtype=bool)
    for path, part in _parts(source, info):
        labeled = [i for i in part if has_label[i]]
        fingerprints = table.read_part(path, ("fingerprint",)).column("fingerprint").to_pylist()
        hashes = list(perceptual_hashes(pool, labeled))
        for i, value in zip(labeled, hashes, strict=True):
            if value is None or pool.fingerprint(i) != fingerprints[i - part.start]:
                raise ValueError(
                    f"{pool.key(i)!r} of {info['data']} is not the image that was labeled. Restore it, or label the "
                    "pool anew."
                )
        found[labeled] = look_alike(
            np.array(hashes, dtype=np.uint64), np.array(known, dtype=np.uint64), max_distance=max_distance
        )
    return found


def _files(source: Path, found: Int[np.ndarray, " N"], info: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The files of the new table."""
    for path, part in _parts(source, info):
        yield path.name, table.selected_part(path, found[part.start : part.stop])
    yield table.INFO, json.dumps(info, indent=2).encode()
