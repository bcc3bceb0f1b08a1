"""Commands that make weights: train, and plan for what it would do."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_rs.cli.app import EXIT_STOPPED, app
from resnet_rs.cli.options import (
    MAX_PIXELS,
    AsJson,
    DataName,
    DeviceName,
    Edits,
    MaxPixels,
    MicroBatch,
    OptionalName,
    PrecisionName,
    Workers,
)
from resnet_rs.cli.output import say, say_json, say_lines, train_command
from resnet_rs.cli.ranks import with_ranks
from resnet_rs.config import parse_assignments
from resnet_rs.text import require

if TYPE_CHECKING:
    from resnet_rs.processes import Stop
    from resnet_rs.training.events import Event
    from resnet_rs.verbs import Choice, Limits, Machine, ResolvedExperiment

Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="Pretrained weights to fine-tune: a run, a checkpoint, a Hub folder, the name of published weights, "
        "or OWNER/NAME on the Hub. `none` trains from scratch.",
    ),
]


@app.command()
def train(
    name: OptionalName = None,
    edits: Edits = None,
    *,
    data: DataName,
    out: Annotated[Path, typer.Option(help="Folder of this run; the same command continues it.")],
    start: Start = None,
    fit: Annotated[bool, typer.Option("--fit", help="Adapt the recipe to the data.")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time budget of the whole command, in minutes; adapts the recipe to data and time."
        ),
    ] = None,
    micro_batch: MicroBatch = None,
    workers: Workers = None,
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
    num_folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            help="Cross-validate, for few images: this many runs, each tested on another part of all images. "
            "`--minutes` is for all of them.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Also write event files for TensorBoard into the run folder."),
    ] = False,
) -> None:
    """Train an experiment, or continue to train it.

    Without NAME, `--minutes` is needed: experiment and start weights are then chosen for you.

    torchrun starts it as several ranks. A signal (SIGTERM, SIGINT, SIGUSR1) saves and exits with code 75; the same
    command continues, bit for bit. Other exit codes: 2 wrong input, 3 no valid checkpoint left, 4 checkpoints cannot be
    saved, 5 diverged, 6 another rank is lost.
    """
    from resnet_rs import verbs
    from resnet_rs.cli.progress import show
    from resnet_rs.processes import listening
    from resnet_rs.training.curves import with_tensorboard
    from resnet_rs.training.events import Stopped

    if tensorboard:
        require("tensorboard", extra="tensorboard", what="--tensorboard")
    limits = verbs.Limits(minutes=minutes, begun=time.monotonic())
    name, typed = _named(name, edits)
    here = verbs.Machine(
        device=verbs.Device.choose(device, precision=precision),
        micro_batch=micro_batch,
        workers=workers,
        max_pixels=max_pixels,
        activation_checkpointing=activation_checkpointing,
    )
    last: Event | None = None
    with listening() as stop:
        with with_ranks(here) as machine:
            is_first = machine.ranks.is_first
            first = out if num_folds is None else verbs.fold_folder(out, 1)
            choice = verbs.choose(
                name, start, run_folder=first, has_limits=limits.has_any, ranks=machine.ranks
            )
            runs = _runs(
                choice, typed, limits, data=data, out=out, machine=machine, num_folds=num_folds, fit=fit
            )
            for folder, resolved in runs:
                events = verbs.training(
                    resolved, out=folder, seed=seed, machine=machine, save_every=save_every, stop=stop
                )
                last = show(with_tensorboard(events, folder) if tensorboard and is_first else events)
                if isinstance(last, Stopped):
                    break
                say(f"page: {folder / 'page.html'}")
        if isinstance(last, Stopped):
            if is_first:
                saved = f"stopped by {last.reason}, saved after update {last.step}"
                say(f"{saved}; the same command continues.", is_error=True)
            raise typer.Exit(EXIT_STOPPED)
        if num_folds is not None and is_first:
            _say_pooled(out, data=data, num_folds=num_folds, machine=here, stop=stop)


def _say_pooled(out: Path, *, data: str, num_folds: int, machine: Machine, stop: Stop) -> None:
    """Score all folds together, and print the scores."""
    from resnet_rs import verbs
    from resnet_rs.processes import Interrupted

    try:
        found = verbs.pooled_scores(out, data=data, num_folds=num_folds, machine=machine, stop=stop)
    except Interrupted:
        say(f"stopped by {stop.reason} when all runs had ended; the same command scores them.", is_error=True)
        raise typer.Exit(EXIT_STOPPED) from None
    say(f"all {num_folds} folds:")
    say_lines(verbs.describe_scores(found))


def _runs(
    choice: Choice,
    edits: dict[str, str],
    limits: Limits,
    *,
    data: str,
    out: Path,
    machine: Machine,
    num_folds: int | None,
    fit: bool,
) -> Iterator[tuple[Path, ResolvedExperiment]]:
    """The folder and the experiment of each run of the command; prints what the user should know before it."""
    from resnet_rs import verbs
    from resnet_rs.report.table import duration_text

    adapted_to = limits if limits.has_any or fit else None
    if num_folds is None:
        only = verbs.plan_choice(choice, edits, adapted_to, data=data, machine=machine, run_folder=out)
        runs = iter([(out, only)])
    else:
        runs = verbs.folds(
            choice, edits, adapted_to, data=data, out=out, num_folds=num_folds, machine=machine
        )
    for number, (folder, resolved) in enumerate(runs, start=1):
        if number == 1:
            say_lines(f"note: {line}" for line in (*resolved.reasons, *resolved.changes))
            seconds = verbs.expected_seconds(
                resolved, machine=machine, begun=limits.begun, num_runs=num_folds or 1
            )
            if seconds is not None:
                say(f"the whole command takes about {duration_text(seconds / 60)}")
        if num_folds is not None:
            say(f"fold {number} of {num_folds}:")
        say_lines(f"note: {line}" for line in resolved.notes)
        yield folder, resolved


@app.command()
def plan(
    name: OptionalName = None,
    edits: Edits = None,
    *,
    data: DataName,
    start: Start = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time budget of the `train` command, in minutes.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Longest time to classify an image here, in milliseconds.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="Largest peak memory of a training step, in GiB.")
    ] = None,
    micro_batch: MicroBatch = None,
    workers: Workers = None,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Show the network and the recipe for your images, and why.

    Both follow the images, the time and the limits, as measured on this machine. The last line is the `train` command
    with all edits of the plan. Without NAME, `--minutes` or a limit is needed.
    """
    from resnet_rs import verbs

    name, typed = _named(name, edits)
    limits = verbs.Limits(minutes=minutes, latency_ms=latency_ms, memory_gib=memory_gib)
    here = verbs.Machine(device=verbs.Device.choose(device), micro_batch=micro_batch, workers=workers)
    with with_ranks(here) as machine:
        choice = verbs.choose(name, start, has_limits=limits.has_any, ranks=machine.ranks)
        resolved = verbs.plan_choice(choice, typed, limits, data=data, machine=machine)
    shown = verbs.describe_plan(resolved)
    if as_json:
        say_json(shown)
        return
    say_lines(f"{label:<9} {text}" for label, text in shown["plan"].items())
    say_lines(f"why: {line}" for line in (*resolved.reasons, *shown["why"]))
    say_lines(f"note: {note}" for note in resolved.notes)
    command = train_command(resolved.name, shown["edits"], data=data, out="runs/planned")
    command += "" if resolved.start is None else f" --from {shlex.quote(resolved.start)}"
    say(command if resolved.precision is None else f"{command} --precision {resolved.precision}")


def _named(name: str | None, edits: list[str] | None) -> tuple[str | None, dict[str, str]]:
    """The name and the edits, where the first word may be an edit."""
    if name is not None and "=" in name:
        return None, parse_assignments([name, *(edits or [])])
    return name, parse_assignments(edits or [])
