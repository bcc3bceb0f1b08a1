"""Pseudo-labels: `label_pool` makes a table of what teachers say of a pool of images.

The pool is labeled in parts, each an independent piece of work that is written whole or not at all. So a command that
was killed continues with the parts that are missing, and gives the same bytes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from resnet_rs import config, storage
from resnet_rs.data.pool import open_pool
from resnet_rs.data.source import Source
from resnet_rs.jobs import Runner
from resnet_rs.processes import Stop
from resnet_rs.pseudo import table
from resnet_rs.pseudo.label import Labeling, Teacher, label_part
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.verbs.models import opened


class PartDone(NamedTuple):
    """A part of the pool has its labels, or failed."""

    num_done: int
    """Parts that are finished, with those of earlier commands."""
    num_parts: int
    error: str | None


def label_pool(  # noqa: PLR0913 - the options of one command
    teachers: Sequence[str | Path],
    *,
    data: str,
    out: Path,
    labeling: Labeling,
    machine: Machine,
    runner: Runner,
    stop: Stop,
) -> Iterator[PartDone]:
    """Label the pool `data` into the table `out`, or continue to; an event for each part.

    `teachers` are named as for `evaluate`. Raises `ValueError` for teachers of other classes or tasks, for an unfit
    pool, and if `out` holds the labels of other teachers, another pool or other options.
    """
    saved = [opened(teacher) for teacher in teachers]
    classes = saved[0].classes
    for one in saved:
        Teacher.check(one, labeling, classes=classes)
    pool = open_pool(data, classes=classes, max_pixels=machine.max_pixels)
    info = _info(saved, pool, labeling, machine)
    if not (out / table.INFO).is_file() and not storage.is_vacant(out):
        raise ValueError(f"{out} is not empty and contains no table. Choose a new folder for `--out`.")
    storage.make_folders(out)
    with storage.locked(out):
        _take(out, info, data=_absolute(data))
        storage.remove_leftovers(out)
        ranges = table.part_ranges(len(pool))
        missing = {
            i: part for i, part in enumerate(ranges) if table.num_rows(table.part_file(out, i)) != len(part)
        }
        common = _order(saved, data, out, labeling, machine) | {"pool": info["pool"]}
        orders = {
            str(i): json.dumps({**common, "part": i, "rows": [part.start, part.stop]})
            for i, part in missing.items()
        }
        num_done = len(ranges) - len(missing)
        if not missing:
            yield PartDone(num_done, len(ranges), None)
        gpus = int(machine.device.is_cuda)
        try:
            for outcome in runner.run(work, orders, stop=stop, cores=1 + (machine.workers or 0), gpus=gpus):
                num_done += outcome.error is None
                yield PartDone(num_done, len(ranges), outcome.error)
        finally:
            _prepared.cache_clear()


def count_rows(out: Path) -> dict[str, int]:
    """How many samples of a table were labeled, and how many could not be.

    Raises `storage.Damaged` if they are not as many as the pool has.
    """
    info = storage.read_json(out / table.INFO, needs=("num_samples",))
    counts = {"labeled": 0, "unreadable": 0}
    for number in range(len(table.part_ranges(info["num_samples"]))):
        errors = table.read_part(table.part_file(out, number), ("error",)).column("error")
        counts["labeled"] += errors.null_count
        counts["unreadable"] += len(errors) - errors.null_count
    if sum(counts.values()) != info["num_samples"]:
        raise storage.Damaged(
            f"{out} has {sum(counts.values()):,} rows for {info['num_samples']:,} images. Label the pool anew."
        )
    return counts


def work(payload: str, num_threads: int | None, stop: Stop) -> None:
    """Label one part; the payload is an order of `label_pool`."""
    order: dict[str, Any] = json.loads(payload)
    device = Device.choose(order["device"], precision=order["precision"])
    if num_threads is not None:
        device.limit_threads(num_threads)
    machine = Machine(device=device, workers=order["workers"], max_pixels=order["max_pixels"])
    prepared = _prepared(tuple(order["teachers"]), order["data"], machine)
    if prepared.digest != order["pool"]:
        raise ValueError(
            f"the images of the pool {order['data']} changed while it was labeled. Restore them, and repeat the "
            "command; or label the pool anew in another folder."
        )
    options: dict[str, Any] = {**order["labeling"], "sizes": tuple(order["labeling"]["sizes"])}
    content = label_part(
        prepared.teachers,
        prepared.pool,
        range(*order["rows"]),
        Labeling(**options),
        classes=prepared.classes,
        machine=machine,
        stop=stop,
    )
    storage.write_bytes(table.part_file(Path(order["out"]), order["part"]), content)


class _Prepared(NamedTuple):
    teachers: list[Teacher]
    classes: tuple[str, ...]
    pool: Source
    digest: str


@lru_cache(maxsize=1)
def _prepared(paths: tuple[str, ...], data: str, machine: Machine) -> _Prepared:
    """The teachers and the pool, kept from part to part in one process."""
    saved = [opened(path) for path in paths]
    classes = saved[0].classes
    teachers = [Teacher.load(one, classes=classes, machine=machine) for one in saved]
    pool = open_pool(data, classes=classes, max_pixels=machine.max_pixels)
    return _Prepared(teachers, classes, pool, pool.digest())


def _order(
    saved: Sequence[Checkpoint], data: str, out: Path, labeling: Labeling, machine: Machine
) -> dict[str, Any]:
    """What the orders of all parts have in common."""
    return {
        "teachers": [str(one.path.resolve()) for one in saved],
        "data": _absolute(data),
        "out": str(out.resolve()),
        "labeling": asdict(labeling),
        "device": machine.device.name,
        "precision": machine.device.precision,
        "workers": machine.workers,
        "max_pixels": machine.max_pixels,
    }


def _info(saved: Sequence[Checkpoint], pool: Source, labeling: Labeling, machine: Machine) -> dict[str, Any]:
    """What `table.json` says: everything that decides on the labels."""
    return {
        "teachers": [
            {
                "weights": storage.file_sha256(one.path / f"{one.weights}.safetensors"),
                "kind": one.weights,
                "data": config.to_plain(one.experiment.data),
                "task": config.to_plain(one.experiment.task),
            }
            for one in saved
        ],
        "classes": list(saved[0].classes),
        "pool": pool.digest(),
        "num_samples": len(pool),
        "options": {**asdict(labeling), "sizes": list(labeling.sizes)},
        "precision": machine.device.precision,
        "max_pixels": machine.max_pixels,
    }


def _absolute(data: str) -> str:
    """The name of a pool in any working directory."""
    return data if data == "builtin" else os.path.abspath(data)


def _take(out: Path, info: Mapping[str, Any], *, data: str) -> None:
    """Make `out` the table of `info`, or check that it is. Where the pool lies is no part of that."""
    path = out / table.INFO
    if not path.is_file():
        storage.write_json(path, {**info, "data": data})
        return
    before = storage.read_json(path, needs=(*info, "data"))
    if "selection" in before:
        raise ValueError(f"{out} holds the rows that `pseudo select` chose. Use a new folder for `--out`.")
    words = {
        "teachers": "other teachers",
        "classes": "teachers of other classes",
        "pool": "another pool, or this pool with other images",
        "num_samples": "another pool",
        "options": f"other options ({json.dumps(before['options'])})",
        "precision": f"another precision ({before['precision']})",
        "max_pixels": f"another --max-pixels ({before['max_pixels']})",
    }
    for name, value in info.items():
        if before[name] != value:
            raise ValueError(
                f"{out} holds the labels of {words[name]}. Use a new folder for `--out`, or repeat the first command "
                "to continue that table."
            )
    if before["data"] != data:
        warnings.warn(
            f"the pool of {out} was {before['data']}, and {data} has images of the same names. They must be the same.",
            stacklevel=3,
        )
