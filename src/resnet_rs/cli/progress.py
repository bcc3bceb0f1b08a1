"""A run as lines of text, with a live line of its current state on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from resnet_rs.cli.output import say
from resnet_rs.report.table import duration_text
from resnet_rs.text import printable
from resnet_rs.training.events import Evaluated, Event, Finished, Progressed, SaveFailed, Started
from resnet_rs.training.loop import Update
from resnet_rs.verbs import describe_scores

_SECONDS_BETWEEN_STATES = 30.0


def show(events: Iterator[Event]) -> Event | None:
    """Print a run and return its last event.

    There is a line for each evaluation and for each unreadable image. The current state is a live line on a terminal,
    and elsewhere a line twice a minute.
    """
    is_live = sys.stdout.isatty()
    named: set[str] = set()
    event, last = None, time.monotonic()
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not is_live) as progress:
        task = progress.add_task("starting", total=None)
        for event in events:
            lines = list(_lines(event, named))
            if isinstance(event, Started):
                progress.update(task, total=event.timetable.total_steps, completed=event.step)
            elif isinstance(event, Progressed):
                progress.update(task, completed=event.update.step, description=_state(event))
                if not is_live and time.monotonic() - last > _SECONDS_BETWEEN_STATES:
                    last = time.monotonic()
                    lines.append(_state(event))
            for line in lines:
                with suppress(OSError):  # a full disk or a closed pipe must not end a run
                    if is_live:
                        progress.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
                    else:
                        say(line)
    return event


def _state(event: Progressed) -> str:
    update = event.update
    return (
        f"epoch {event.epoch:.2f}  loss {update.loss:.3f}  lr {update.lr:.4f}  "
        f"{event.images_per_second:,.0f} images/s  waiting for data {event.data_wait:.0%}  "
        f"{duration_text(event.seconds_left / 60)} left"
    )


def _lines(event: Event, named: set[str]) -> Iterator[str]:
    """Lines about an event. `named` holds the unreadable images that have had their line before."""
    if isinstance(event, Started):
        yield from (f"note: {notice}" for notice in event.notices)
        timetable = event.timetable
        begin = f"continues after update {event.step:,} of" if event.step else "takes"
        yield (
            f"{begin} {timetable.total_steps:,} updates of {timetable.batch_size} on {timetable.num_samples:,} images, "
            f"peak learning rate {timetable.peak_lr:g}"
        )
    elif isinstance(event, Progressed):
        yield from _problems(event.update, named)
    elif isinstance(event, Evaluated):
        scored = [
            f"{weights}: " + "  ".join(f"{name} {value:.3f}" for name, value in summary.items())
            for weights, summary in event.summaries.items()
        ]
        yield from (f"not scored: {text}" for text in event.unreadable if text not in named)
        named.update(event.unreadable)
        part = "validation   " if event.split == "validation" else ""
        yield (
            f"epoch {event.epoch:6.2f}  loss {event.loss:.4f}  {event.images_per_second:,.0f} images/s  "
            f"waiting for data {event.data_wait:.0%}   {part}{'   '.join(scored)}"
        )
    elif isinstance(event, SaveFailed):
        yield (
            f"could not save update {event.step} ({event.in_a_row} in a row): {event.reason}. "
            "Earlier checkpoints are intact, and training continues"
        )
    elif isinstance(event, Finished):
        why = ", early: the validation score has not got better" if event.is_early else ""
        yield f"finished in {duration_text(event.seconds / 60)}{why}"
        yield from describe_scores(event.scores)


def _problems(update: Update, named: set[str]) -> Iterator[str]:
    """Lines about a skipped update and about images that are unreadable."""
    if update.is_skipped:
        yield (
            f"update {update.step} was skipped, because its loss or gradient was not finite. The log lists its samples"
        )
    for error in update.unreadable:
        if error.key not in named:
            named.add(error.key)
            yield f"left out, unreadable: {error.key!r}: {error.reason}"
