"""Verbs that make weights: train, fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_rs.cli.app import EXIT_STOPPED, app
from resnet_rs.cli.machine import machine as chosen_machine
from resnet_rs.cli.options import (
    AsJson,
    DataName,
    DeviceName,
    Edits,
    MicroBatch,
    Minutes,
    Name,
    PrecisionName,
    Workers,
)
from resnet_rs.cli.output import say, say_json

if TYPE_CHECKING:
    from resnet_rs.fit import Change
    from resnet_rs.training.events import Event, Stopped
    from resnet_rs.verbs import Machine, Prepared


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
    device: DeviceName = None,
    precision: PrecisionName = None,
    seed: Annotated[int, typer.Option(help="Names every random draw of the run.")] = 0,
    save_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Updates between checkpoints; by default at every evaluation and every 10 minutes."
        ),
    ] = None,
) -> None:
    """Train an experiment, or continue to train it; alone, or as one of the ranks that torchrun starts.

    A signal (SIGTERM, SIGINT, SIGUSR1) saves and leaves with exit code 75; the same command continues, bit for bit.
    Other exit codes: 2 wrong input, 3 no valid checkpoint left, 4 checkpoints cannot be saved, 5 diverged, 6 another
    rank is lost.
    """
    from resnet_rs import verbs
    from resnet_rs.processes import listening

    if minutes is not None and not fit:
        raise ValueError("--minutes is a budget for --fit. Give both, or neither.")
    with (
        listening() as stop,
        chosen_machine(device, precision=precision, micro_batch=micro_batch, workers=workers) as machine,
    ):
        prepared = prepare(name, edits, data=data, out=out, fit=fit, minutes=minutes, machine=machine)
        if machine.ranks.is_first:
            for change in prepared.changes:
                say(f"fit: {described(change)}")
        events = verbs.training(
            prepared, out=out, seed=seed, machine=machine, save_every=save_every, stop=stop
        )
        stopped = _show(events, is_first=machine.ranks.is_first)
    if machine.ranks.is_first and stopped is None:
        say(f"page: {out / 'page.html'}")
    if stopped is not None:
        if machine.ranks.is_first:
            said = (
                f"stopped by {stopped.reason}, saved after update {stopped.step}; the same command continues."
            )
            say(said, is_error=True)
        raise typer.Exit(EXIT_STOPPED)


def _show(events: Iterator[Event], *, is_first: bool) -> Stopped | None:
    """Show a run while it goes on, on the first rank; the last event if somebody stopped it."""
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
            with suppress(
                OSError
            ):  # a full disk or a closed pipe behind our output is no reason to end a run
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
    """Print the edits that make an experiment work on your data, and why."""
    with chosen_machine(device, micro_batch=micro_batch, workers=workers) as machine:
        prepared = prepare(name, edits, data=data, out=None, fit=True, minutes=minutes, machine=machine)
    if as_json:
        say_json([asdict(change) for change in prepared.changes])
        return
    for change in prepared.changes:
        say(described(change))
    if not prepared.changes:
        say(f"{name} fits this data as it is.")


def prepare(
    name: str,
    edits: list[str] | None,
    *,
    data: str,
    out: Path | None,
    fit: bool,
    minutes: float | None,
    machine: Machine,
) -> Prepared:
    """The experiment for the data, fitted if asked for."""
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    prepared = verbs.prepare(
        name, parse_assignments(edits or []), data=data, run_folder=out, ranks=machine.ranks
    )
    return verbs.fitted(prepared, minutes=minutes, machine=machine, run_folder=out) if fit else prepared


def described(change: Change) -> str:
    """A change of the fit as an edit, with its reason."""
    from resnet_rs.config import as_typed

    return f"{change.path}={as_typed(change.after)} (was {as_typed(change.before)}): {change.reason}"
