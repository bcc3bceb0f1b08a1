"""The curves of a run for other programs: `results.csv`, a row per evaluation, and TensorBoard's event files.

Both are copies. The log has everything, and a copy that cannot be written does not stop a run.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_rs import storage
from resnet_rs.training.events import Evaluated, Event, Finished, Progressed, Started
from resnet_rs.training.log import read_log

RESULTS = "results.csv"
_COLUMNS = ("step", "epoch", "seconds", "lr", "train/loss", "images_per_second", "data_wait")


def evaluations(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of all evaluations, each with the learning rate `lr` of the update before it."""
    found, lr = list[dict[str, Any]](), 0.0
    for line in log:
        if line["kind"] == "update":
            lr = line["lr"]
        elif line["kind"] == "evaluation":
            found.append({**line, "lr": lr})
    return found


def write_results(folder: Path) -> None:
    """Write `results.csv` of the run in `folder` anew from its log.

    The columns of scores are called by the part, the score and the weights, such as `validation/SCORE/ema`.
    """
    rows = [
        {name: line["loss" if name == "train/loss" else name] for name in _COLUMNS}
        | dict(_named_scores(line.get("split", "test"), line["summaries"]))
        for line in evaluations(read_log(folder / "log.jsonl"))
    ]
    if not rows:
        return
    columns = dict.fromkeys((*_COLUMNS, *(name for row in rows for name in row)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_text(folder / RESULTS, text.getvalue())


def with_results(events: Iterator[Event], folder: Path) -> Iterator[Event]:
    """The same events, with `results.csv` in `folder` kept up to date."""
    for event in events:
        if isinstance(event, Started | Evaluated | Finished):
            with suppress(OSError):
                write_results(folder)
        yield event


def with_tensorboard(events: Iterator[Event], folder: Path) -> Iterator[Event]:
    """The same events, also written to `folder/tensorboard`; what a run repeats replaces what was there."""
    writer: Any = None
    try:
        for event in events:
            try:
                if isinstance(event, Started):
                    from torch.utils.tensorboard import SummaryWriter

                    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=event.step + 1)
                elif writer is not None:
                    for name, value, step in _scalars(event):
                        writer.add_scalar(name, value, step)
            except OSError as error:
                writer = None
                warnings.warn(
                    f"TensorBoard's files cannot be written: {error}. The run goes on.", stacklevel=2
                )
            yield event
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()


def _scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """The name, the value and the update of each number of an event."""
    if isinstance(event, Progressed) and not event.update.is_skipped:
        yield "train/loss", event.update.loss, event.update.step
        yield "lr", event.update.lr, event.update.step
    elif isinstance(event, Evaluated):
        yield "images_per_second", event.images_per_second, event.step
        yield "data_wait", event.data_wait, event.step
        for name, value in _named_scores(event.split, event.summaries):
            yield name, value, event.step


def _named_scores(part: str, summaries: dict[str, dict[str, float]]) -> Iterator[tuple[str, float]]:
    for weights, summary in summaries.items():
        for name, value in summary.items():
            yield f"{part}/{name}/{weights}", value
