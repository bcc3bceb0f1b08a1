"""`select_rows`: the rows of a table of pseudo-labels that a student trains on, as a new table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_rs import storage
from resnet_rs.data import dataset
from resnet_rs.data.near_duplicates import near, perceptual_hashes
from resnet_rs.data.pool import open_pool
from resnet_rs.pseudo import table
from resnet_rs.pseudo.select import Selection, copies

_COLUMNS = ("key", "label", "confidence", "entropy", "error")


class Selected(NamedTuple):
    """What became of the rows of a table: every row is in one of the first five numbers."""

    kept: int
    unreadable: int
    near_test_images: int
    not_sure: int
    """Below the least confidence, or above the most entropy."""
    beyond_class_limit: int
    drawn: int
    """Rows with their copies."""
    classes: dict[str, tuple[int, int]]
    """For each class the rows with its label, and those of the new table with their copies."""


def select_rows(
    source: Path, out: Path, selection: Selection, *, apart_from: str | None = None, max_distance: int = 4
) -> Selected:
    """Write the selected rows of the table `source` into the new table `out`, with a column `copies`.

    With `apart_from`, images near one of the test images of that data set are left out: their perceptual hashes differ
    in at most `max_distance` of 64 bits. Raises `ValueError` if nothing is left.
    """
    info = storage.read_json(source / table.INFO, needs=("classes", "num_samples", "data"))
    if (out / table.INFO).is_file() or not storage.is_vacant(
        out, but=[f.name for f in out.glob("part-*.parquet")]
    ):
        raise ValueError(f"{out} is not empty. Choose a new folder for `--out`.")
    rows = _read(source, info)
    is_unreadable = rows["label"] < 0
    is_near = _near_test_images(rows, info, apart_from, max_distance)
    left_out = is_unreadable | is_near
    hashes = np.array([_hash(key) for key in rows["key"]], dtype=np.uint64)
    known = {"labels": rows["label"], "confidences": rows["confidence"], "entropies": rows["entropy"]}
    found = copies(selection, **known, hashes=hashes, left_out=left_out)
    if not found.any():
        most = rows["confidence"][~left_out].max(initial=0.0)
        raise ValueError(
            f"these rules leave no row of {source}: of {int((~left_out).sum()):,} that could be used, the most "
            f"confident one has {most:.3f}. Lower --min-confidence, or raise --max-entropy."
        )
    unlimited = Selection(min_confidence=selection.min_confidence, max_entropy=selection.max_entropy)
    is_sure = copies(unlimited, **known, hashes=hashes, left_out=left_out) > 0
    _write(
        source,
        out,
        found,
        info,
        {**asdict(selection), "apart_from": apart_from, "max_distance": max_distance},
    )
    before, after = Counter[int](), Counter[int]()
    for label, count in zip(rows["label"].tolist(), found.tolist(), strict=True):
        before[label] += label >= 0
        after[label] += count
    return Selected(
        kept=int((found > 0).sum()),
        unreadable=int(is_unreadable.sum()),
        near_test_images=int((is_near & ~is_unreadable).sum()),
        not_sure=int((~left_out & ~is_sure).sum()),
        beyond_class_limit=int((is_sure & (found == 0)).sum()),
        drawn=int(found.sum()),
        classes={name: (before[i], after[i]) for i, name in enumerate(info["classes"])},
    )


def _read(source: Path, info: dict[str, Any]) -> dict[str, Any]:
    """The columns that decide, of all parts. Raises `ValueError` for a table that is not finished."""
    ranges = table.part_ranges(info["num_samples"])
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for number, part in enumerate(ranges):
        path = table.part_file(source, number)
        if table.num_rows(path) != len(part):
            raise ValueError(
                f"{path} is missing or damaged, so the table is not complete. Repeat the `pseudo label` command."
            )
        found = table.read_part(path, _COLUMNS)
        rows["key"] += found.column("key").to_pylist()
        for name, missing in (("label", -1), ("confidence", 0.0), ("entropy", 0.0)):
            rows[name].append(found.column(name).fill_null(missing).to_numpy())
    return {"key": rows["key"]} | {
        name: np.concatenate(rows[name]) for name in ("label", "confidence", "entropy")
    }


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _near_test_images(
    rows: dict[str, Any], info: dict[str, Any], apart_from: str | None, max_distance: int
) -> np.ndarray:
    if apart_from is None:
        return np.zeros(len(rows["key"]), dtype=bool)
    test = dataset.find(apart_from).open_test()
    pool = open_pool(info["data"], classes=info["classes"])
    if [pool.key(i) for i in range(len(pool))] != rows["key"]:
        raise ValueError(
            f"the pool {info['data']} no longer has the images of the table. Restore it, or label it anew."
        )
    hashes = perceptual_hashes(pool, range(len(pool)))
    return near(hashes, perceptual_hashes(test, range(len(test))), max_distance=max_distance)


def _write(source: Path, out: Path, found: np.ndarray, info: dict[str, Any], rules: dict[str, Any]) -> None:
    """Write the parts, and at last the record without which they are no table."""
    storage.make_folders(out)
    sizes, begin = list[int](), 0
    for number, part in enumerate(table.part_ranges(info["num_samples"])):
        content, size = table.selected_part(table.part_file(source, number), found[begin : begin + len(part)])
        storage.write_bytes(table.part_file(out, number), content)
        sizes.append(size)
        begin += len(part)
    storage.write_json(out / table.INFO, {**info, "selection": rules, "num_rows": sizes})
