"""The log of a run: `log.jsonl`, one line per update, evaluation and unreadable sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resnet_rs import storage


class Log:
    """Appends to the log at `path`. Lines of updates after `up_to_step`, which will be taken again, are dropped."""

    def __init__(self, path: Path, *, up_to_step: int) -> None:
        kept = [line for line in read_log(path) if line["step"] <= up_to_step]
        self.seconds = 0.0
        """How long training took up to the last checkpoint."""
        self._losses: list[float] = []
        for line in kept:
            self._count(line)
        storage.write_text(path, "".join(_as_text(line) for line in kept))
        self._file = path.open("a", encoding="utf-8", errors="surrogateescape", buffering=1)

    def append(self, kind: str, *, step: int, **values: Any) -> None:  # noqa: ANN401 - any JSON value may be logged
        """Write one line."""
        line = {"kind": kind, "step": step, **values}
        self._file.write(_as_text(line))
        self._count(line)

    def mean_loss(self) -> float:
        """Mean training loss of the updates since the last evaluation."""
        return sum(self._losses) / len(self._losses) if self._losses else float("nan")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _count(self, line: dict[str, Any]) -> None:
        if line["kind"] == "update":
            self._losses.append(line["loss"])
        elif line["kind"] == "evaluation":
            self._losses = []
        elif line["kind"] == "checkpoint":
            self.seconds = line["seconds"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, in order; none if there is no log yet. A last line that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    # Every whole line ends with a newline, so what stands after the last one was cut off.
    return [json.loads(line) for line in lines[:-1]]


def _as_text(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
