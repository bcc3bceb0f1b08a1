"""Commands that make weights: train, fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_rs.cli.app import EXIT_STOPPED, app
from resnet_rs.cli.machine import machine as chosen_machine
from resnet_rs.cli.options import (
    MAX_PIXELS,
    AsJson,
    DataName,
    DeviceName,
    Edits,
    MaxPixels,
    MicroBatch,
    Minutes,
    Name,
    PrecisionName,
    Workers,
)
from resnet_rs.cli.output import say, say_json

if TYPE_CHECKING:
    from resnet_rs.training.events import Event, Stopped
    from resnet_rs.verbs import Machine, ResolvedExperiment


@app.command()
def train(
    name: Name,
    edits: Edits = None,
    *,
    data: DataName,
    out: Annotated[Path, typer.Option(help="Folder of this run; the same command continues it.")],
    fit: Annotated[
        bool, typer.Option("--fit", help="Adapt the recipe to the data and to `--minutes`.")
    ] = False,
    minutes: Minutes = None,
    micro_batch: MicroBatch = None,
    workers: Workers = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: DeviceName = None,
    precision: PrecisionName = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing",
            help="Recompute activations in the backward pass: less memory, more time, the same weights.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Names every random draw of the run.")] = 0,
    save_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Updates between checkpoints; by default at every evaluation and every 10 minutes."
        ),
    ] = None,
) -> None:
    """Train an experiment, or continue to train it.

    torchrun starts it as several ranks. A signal (SIGTERM, SIGINT, SIGUSR1) saves and exits with code 75; the same
    command continues, bit for bit. Other exit codes: 2 wrong input, 3 no valid checkpoint left, 4 checkpoints cannot be
    saved, 5 diverged, 6 another rank is lost.
    """
    from resnet_rs import verbs
    from resnet_rs.processes import listening

    if minutes is not None and not fit:
        raise ValueError("--minutes is a budget for --fit. Give both, or neither.")
    with (
        listening() as stop,
        chosen_machine(
            device, precision=precision, micro_batch=micro_batch, workers=workers, max_pixels=max_pixels
        ) as machine,
    ):
        machine = replace(machine, activation_checkpointing=activation_checkpointing)
        resolved = resolve(name, edits, data=data, out=out, fit=fit, minutes=minutes, machine=machine)
        if machine.ranks.is_first:
            for line in (*resolved.changes, *resolved.notes):
                say(f"note: {line}")
        events = verbs.training(
            resolved, out=out, seed=seed, machine=machine, save_every=save_every, stop=stop
        )
        stopped = _show(events, is_first=machine.ranks.is_first)
    if machine.ranks.is_first and stopped is None:
        say(f"page: {out / 'page.html'}")
    if stopped is not None:
        if machine.ranks.is_first:
            say(
                f"stopped by {stopped.reason}, saved after update {stopped.step}; the same command continues.",
                is_error=True,
            )
        raise typer.Exit(EXIT_STOPPED)


def _show(events: Iterator[Event], *, is_first: bool) -> Stopped | None:
    """Print the events of a run on the first rank. Returns the last event if the run was stopped by a signal."""
    from resnet_rs.progress import show_live, show_plainly
    from resnet_rs.training.events import Stopped

    stopped: list[Stopped] = []

    def watched() -> Iterator[Event]:
        for event in events:
            if isinstance(event, Stopped):
                stopped.append(event)
            yield event

    if not is_first:
        for _ in watched():
            pass
    elif sys.stdout.isatty():
        show_live(watched())
    else:
        for line in show_plainly(watched()):
            with suppress(OSError):  # a full disk or a closed pipe must not end a run
                say(line)
    return stopped[0] if stopped else None


@app.command()
def fit(
    name: Name,
    edits: Edits = None,
    *,
    data: DataName,
    minutes: Minutes = None,
    micro_batch: MicroBatch = None,
    workers: Workers = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Print the edits that adapt a recipe to your data."""
    with chosen_machine(device, micro_batch=micro_batch, workers=workers) as machine:
        resolved = resolve(name, edits, data=data, out=None, fit=True, minutes=minutes, machine=machine)
    if as_json:
        say_json([asdict(change) for change in resolved.changes])
        return
    for change in resolved.changes:
        say(change)
    for note in resolved.notes:
        say(f"note: {note}")
    if not resolved.changes:
        say(f"{name} needs no edits for this data.")


def resolve(
    name: str,
    edits: list[str] | None,
    *,
    data: str,
    out: Path | None,
    fit: bool,
    minutes: float | None,
    machine: Machine,
) -> ResolvedExperiment:
    """The experiment for the data, adapted to it with `fit`."""
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    resolved = verbs.resolve(
        name,
        parse_assignments(edits or []),
        data=data,
        run_folder=out,
        ranks=machine.ranks,
        max_pixels=machine.max_pixels,
    )
    return verbs.adapted(resolved, minutes=minutes, machine=machine, run_folder=out) if fit else resolved
