"""`Log`: the file `log.jsonl` of a run, with a line per update, evaluation, checkpoint and unreadable sample."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_rs import storage

_NUMBERS = {"update": ("lr", "loss"), "evaluation": ("seconds",), "checkpoint": ("seconds",)}
"""Fields that every line of a kind must have."""


class Log:
    """Appends to the log at `path`. Lines after update `up_to_step` are dropped, since that work will be repeated.

    Without a path it counts and writes nothing, which is what all ranks except the first do.
    """

    def __init__(self, path: Path | None, *, up_to_step: int) -> None:
        self.seconds = 0.0
        """Seconds of training up to the last checkpoint."""
        self.num_updates = 0
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        """The update of each evaluation, and the summary of the weights to use."""
        self._losses: list[float] = []
        self._pending = b""
        self._num_bytes = 0
        self._path = path
        self._descriptor: int | None = None
        if path is None:
            return
        lines, is_damaged = _lines(path)
        if is_damaged:
            # Nothing behind a damaged line is read, so a copy is kept.
            storage.write_bytes(path.with_name(f"damaged-{path.name}"), path.read_bytes())
        for text, line in lines:
            if line["step"] > up_to_step:
                break
            self._count(line)
            self._num_bytes += len(text) + 1
        self._descriptor = storage.disk.extend(path)
        self._write()

    def append(self, kind: str, *, step: int, **values: Any) -> None:  # noqa: ANN401 - any JSON value may be logged
        """Write one line. If the disk is full, the line is kept and written as soon as there is space."""
        line = {"kind": kind, "step": step, **values}
        self._count(line)
        if self._descriptor is None:
            return
        self._pending += json.dumps(line).encode("utf-8", "surrogateescape") + b"\n"
        with suppress(OSError):  # `commit` raises before anything counts as saved
            self._write()

    def commit(self) -> None:
        """Return when every line is on the disk. Raises `OSError` if that fails."""
        if self._descriptor is not None:
            self._write()
            storage.disk.sync(self._descriptor)

    @property
    def evaluated_at(self) -> int:
        """The update of the last evaluation; -1 before the first one."""
        return self.evaluations[-1][0] if self.evaluations else -1

    def mean_loss(self) -> float:
        """Mean training loss of the updates since the last evaluation."""
        return sum(self._losses) / len(self._losses) if self._losses else float("nan")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _write(self) -> None:
        """Write the pending lines behind the lines that count; what an earlier attempt left there is removed."""
        if self._descriptor is None or self._path is None:
            return
        if os.fstat(self._descriptor).st_size > self._num_bytes:
            storage.disk.cut(self._path, self._num_bytes)
        if self._pending:
            storage.disk.write(self._descriptor, self._pending)
            self._num_bytes += len(self._pending)
            self._pending = b""

    def _count(self, line: dict[str, Any]) -> None:
        self.num_updates += line["kind"] in ("update", "skipped")
        if line["kind"] == "update":
            self._losses.append(line["loss"])
        elif line["kind"] == "evaluation":
            self._losses = []
            self.evaluations.append((line["step"], next(iter(line["summaries"].values()), {})))
        elif line["kind"] == "checkpoint":
            self.seconds = line["seconds"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, in order, up to the first line that is incomplete or invalid. Empty if there is no log."""
    return [line for _, line in _lines(path)[0]]


def _lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
    """The text and the value of each line up to the first incomplete or invalid one, and whether one is invalid."""
    # Every complete line ends with a newline, so the text after the last newline is incomplete.
    texts = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    found = list[tuple[bytes, dict[str, Any]]]()
    for text in texts:
        line = _parsed(text)
        if line is None:
            break
        found.append((text, line))
    return found, len(found) < len(texts)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if isinstance(line, dict) and isinstance(line.get("step"), int) and isinstance(line.get("kind"), str):
        is_valid = all(isinstance(line.get(key), float) for key in _NUMBERS.get(line["kind"], ()))
        return line if is_valid else None
    return None
