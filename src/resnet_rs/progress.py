"""A run as lines of text, and, on a terminal, one live line with the state of the moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from resnet_rs.tasks.task import headline
from resnet_rs.training.events import Evaluated, Event, Finished, Progressed, SaveFailed, Started
from resnet_rs.training.loop import Update
from resnet_rs.verbs import describe_scores

_SECONDS_BETWEEN_STATES = 30.0


def show_plainly(events: Iterator[Event]) -> Iterator[str]:
    """Lines for logs and pipes: one per evaluation and per unreadable picture, and the state twice a minute."""
    named: set[str] = set()
    last = time.monotonic()
    for event in events:
        yield from _lines(event, named)
        if isinstance(event, Progressed) and time.monotonic() - last > _SECONDS_BETWEEN_STATES:
            last = time.monotonic()
            yield _state(event)


def show_live(events: Iterator[Event]) -> None:
    """The same lines on a terminal, above a line that always shows the present state."""
    named: set[str] = set()
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        for event in events:
            if isinstance(event, Started):
                progress.update(task, total=event.plan.total_steps, completed=event.step)
            if isinstance(event, Progressed):
                progress.update(task, completed=event.update.step, description=_state(event))
            for line in _lines(event, named):
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _state(event: Progressed) -> str:
    update = event.update
    return (
        f"epoch {event.epoch:.2f}  loss {update.loss:.3f}  lr {update.lr:.4f}  "
        f"{event.images_per_second:,.0f} images/s  waiting {event.data_wait:.0%}  {_duration(event.seconds_left)} left"
    )


def _lines(event: Event, named: set[str]) -> Iterator[str]:
    """What is worth a line; unreadable pictures are `named` once, though every epoch meets them again."""
    if isinstance(event, Started):
        yield from (f"note: {notice}" for notice in event.notices)
        plan = event.plan
        begin = f"continues after update {event.step:,} of" if event.step else "takes"
        yield (
            f"{begin} {plan.total_steps:,} updates of {plan.batch_size} on {plan.num_samples:,} pictures, "
            f"peak learning rate {plan.peak_lr:g}"
        )
    elif isinstance(event, Progressed):
        yield from _oddities(event.update, named)
    elif isinstance(event, Evaluated):
        scored = "   ".join(f"{name}: {headline(summary)}" for name, summary in event.summaries.items())
        yield (
            f"epoch {event.epoch:6.2f}  loss {event.loss:.4f}  {event.images_per_second:,.0f} images/s  "
            f"waiting {event.data_wait:.0%}   {scored}"
        )
    elif isinstance(event, SaveFailed):
        yield (
            f"could not save update {event.step} ({event.in_a_row} in a row): {event.reason}; "
            "the last checkpoint is intact, and training goes on"
        )
    elif isinstance(event, Finished):
        yield f"finished in {_duration(event.seconds)}"
        yield from describe_scores(event.scores)


def _oddities(update: Update, named: set[str]) -> Iterator[str]:
    """What an update met that should not have been there."""
    if update.is_skipped:
        yield (
            f"update {update.step} was taken back: its loss or gradient was not finite; its samples are in the log"
        )
    for error in update.unreadable:
        if error.key not in named:
            named.add(error.key)
            yield f"left out, unreadable: {error.key!r}: {error.reason}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
