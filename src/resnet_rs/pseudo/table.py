"""A table of pseudo-labels: Parquet files in a folder, each with the rows of consecutive samples of a pool.

    TABLE/table.json              teachers, classes, pool and options
    TABLE/part-00000.parquet      the first rows, and so on

A row has these columns. Those from `fingerprint` on are null for a sample that could not be labeled, and `error` is
null for one that was.

    key            text          name of the sample, unique in the pool
    truth          int32         class that the pool itself names, for reports; null if it names none
    fingerprint    16 bytes      of the content of its file
    label          int32         likeliest class, an index into the class names of `table.json`
    confidence     float32       its probability
    entropy        float32       of all probabilities, in nats
    classes        int32 list    with `top`: the likeliest classes, in descending order of probability
    probabilities  float16 list  of all classes, or with `top` of those in `classes`
    error          text          why the sample could not be labeled

Shapes: `N` rows, `K` classes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from resnet_rs import storage
from resnet_rs.text import require

INFO = "table.json"
_LARGEST_PART = 10_000
"""Rows; so a table of 130 million rows has 13,000 files."""
_SMALLEST_PART, _PARTS = 500, 100
"""A killed command loses at most the parts it works on. So a small pool has small parts, about this many."""
COLUMNS = ("key", "truth", "fingerprint", "label", "confidence", "entropy", "probabilities", "error")


def part_ranges(count: int) -> list[range]:
    """The samples of each part of a table of `count` rows."""
    size = min(_LARGEST_PART, max(_SMALLEST_PART, -(-count // _PARTS)))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def part_file(table: Path, number: int) -> Path:
    """The file of part `number`, from 0."""
    return table / f"part-{number:05d}.parquet"


def encode_part(
    *,
    keys: Sequence[str],
    fingerprints: Sequence[bytes | None],
    truths: Int[np.ndarray, " N"],
    probabilities: Float64[np.ndarray, "N K"],
    errors: Mapping[int, str],
    top: int | None,
) -> bytes:
    """The Parquet file of a part.

    `truths` of -1 are unknown, `errors` are the reasons of rows without a label, and `top` None keeps all classes.
    Equal arguments give equal bytes.
    """
    pa, _ = _pyarrow()
    count, num_classes = probabilities.shape
    failed: Bool[np.ndarray, " N"] = np.zeros(count, dtype=bool)
    failed[list(errors)] = True
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, probabilities * np.log(probabilities), 0.0)
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "truth": pa.array(truths.astype(np.int32), mask=truths < 0),
        "fingerprint": pa.array(fingerprints, pa.binary(16), mask=failed),
        "label": pa.array(probabilities.argmax(1).astype(np.int32), mask=failed),
        "confidence": pa.array(probabilities.max(1).astype(np.float32), mask=failed),
        "entropy": pa.array(-terms.sum(1).astype(np.float32), mask=failed),
    }
    if top is not None and top < num_classes:
        # A stable sort, so that equally likely classes keep their order.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        columns["classes"] = _lists(best.astype(np.int32), failed)
        probabilities = np.take_along_axis(probabilities, best, axis=1)
    columns["probabilities"] = _lists(probabilities.astype(np.float16), failed)
    columns["error"] = pa.array([errors.get(i) for i in range(count)], pa.string())
    return _encoded(pa.table(columns))


def read_part(path: Path, columns: Sequence[str] | None = None) -> Any:  # noqa: ANN401 - of pyarrow, an extra
    """The `pyarrow.Table` of a part, with these `columns` or all.

    Raises `storage.Damaged` for a file whose columns are not as they were written.
    """
    pa, parquet = _pyarrow()
    try:
        wanted = None if columns is None else list(columns)
        found = parquet.read_table(path, columns=wanted, page_checksum_verification=True, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise storage.Damaged(
            f"{path} cannot be read: {reason}. Remove it, and repeat the `pseudo label` command."
        ) from None
    missing = [name for name in columns or COLUMNS if name not in found.column_names]
    if missing:
        raise storage.Damaged(
            f"{path} has no column {missing[0]!r}. Remove it, and repeat the `pseudo label` command."
        )
    return found


def selected_part(path: Path, copies: Int[np.ndarray, " N"]) -> bytes:
    """The Parquet file of the rows of a part that are taken, with a column `copies`."""
    pa, _ = _pyarrow()
    is_taken = copies > 0
    taken = read_part(path).filter(pa.array(is_taken))
    taken = taken.append_column("copies", pa.array(copies[is_taken].astype(np.int32)))
    return _encoded(taken)


def num_rows(path: Path) -> int | None:
    """The rows of a part by its footer, which is fast; None if it has no valid footer."""
    pa, parquet = _pyarrow()
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _encoded(rows: Any) -> bytes:  # noqa: ANN401 - a table of pyarrow
    _, parquet = _pyarrow()
    written = io.BytesIO()
    parquet.write_table(rows, written, compression="zstd", write_page_checksum=True)
    return written.getvalue()


def _lists(values: np.ndarray, is_null: Bool[np.ndarray, " N"]) -> Any:  # noqa: ANN401 - an array of pyarrow
    """A column of lists, one for each row of `values`."""
    pa, _ = _pyarrow()
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), values.shape[1], mask=pa.array(is_null)
    )


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, or an error that says how to install them."""
    require("pyarrow", extra="tables", what="a table of pseudo-labels")
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]: it ships none
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]: it ships none

    return pyarrow, parquet
