"""Commands that make weights: train, fit."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
    Name,
    OptionalName,
    PrecisionName,
    Workers,
)
from resnet_rs.cli.output import say, say_json, say_lines


@app.command()
def train(
    name: OptionalName = None,
    edits: Edits = None,
    *,
    data: DataName,
    out: Annotated[Path, typer.Option(help="Folder of this run; the same command continues it.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Pretrained weights to fine-tune: a run, a checkpoint, a Hub folder, the name of published weights, "
            "or OWNER/NAME on the Hub. `none` trains from scratch.",
        ),
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Adapt the recipe to the data.")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time budget of the whole command, in minutes; adapts the recipe to data and time."
        ),
    ] = None,
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
    seed: Annotated[int, typer.Option(help="Seed of all random numbers of the run.")] = 0,
    save_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Updates between checkpoints; by default at every evaluation and every 10 minutes."
        ),
    ] = None,
) -> None:
    """Train an experiment, or continue to train it.

    Without NAME, `--minutes` is needed: experiment and start weights are then chosen for you.

    torchrun starts it as several ranks. A signal (SIGTERM, SIGINT, SIGUSR1) saves and exits with code 75; the same
    command continues, bit for bit. Other exit codes: 2 wrong input, 3 no valid checkpoint left, 4 checkpoints cannot be
    saved, 5 diverged, 6 another rank is lost.
    """
    from resnet_rs import verbs
    from resnet_rs.cli.progress import show
    from resnet_rs.config import parse_assignments
    from resnet_rs.processes import listening
    from resnet_rs.training.events import Stopped

    begun = time.monotonic()
    if name is not None and "=" in name:  # an edit, and no name
        name, edits = None, [name, *(edits or [])]
    hardware = chosen_machine(
        device,
        precision=precision,
        micro_batch=micro_batch,
        workers=workers,
        max_pixels=max_pixels,
        activation_checkpointing=activation_checkpointing,
    )
    with listening() as stop, hardware as machine:
        is_first = machine.ranks.is_first
        typed = parse_assignments(edits or [])
        name, start, reasons = verbs.choose(name, start, run_folder=out, minutes=minutes, ranks=machine.ranks)
        resolved = verbs.resolve(name, typed, data=data, start=start, run_folder=out, machine=machine)
        if fit or minutes is not None:
            resolved = verbs.adapted(resolved, minutes=minutes, machine=machine, begun=begun)
        if is_first:
            say_lines(f"note: {line}" for line in (*reasons, *resolved.changes, *resolved.notes))
        events = verbs.training(
            resolved, out=out, seed=seed, machine=machine, save_every=save_every, stop=stop
        )
        last = show(events) if is_first else deque(events, maxlen=1).pop()
    if isinstance(last, Stopped):
        if is_first:
            saved = f"stopped by {last.reason}, saved after update {last.step}"
            say(f"{saved}; the same command continues.", is_error=True)
        raise typer.Exit(EXIT_STOPPED)
    if is_first:
        say(f"page: {out / 'page.html'}")


@app.command()
def fit(
    name: Name,
    edits: Edits = None,
    *,
    data: DataName,
    minutes: Annotated[
        float | None, typer.Option(help="Time budget of the `train` command, in minutes.")
    ] = None,
    micro_batch: MicroBatch = None,
    workers: Workers = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Print the edits that adapt a recipe to your data."""
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    with chosen_machine(device, micro_batch=micro_batch, workers=workers) as machine:
        resolved = verbs.resolve(name, parse_assignments(edits or []), data=data, machine=machine)
        resolved = verbs.adapted(resolved, minutes=minutes, machine=machine)
    if as_json:
        say_json([asdict(change) for change in resolved.changes])
        return
    say_lines(resolved.changes or [f"{name} needs no edits for this data."])
    say_lines(f"note: {note}" for note in resolved.notes)
