"""The command line: `resnet-rs VERB ...`. One verb, one function of `verbs`; only this file prints.

What a verb needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from resnet_rs.fit import Change
    from resnet_rs.training.events import Event, Stopped
    from resnet_rs.training.group import Place
    from resnet_rs.verbs import Machine, Prepared

EXIT_ERROR = 2
EXIT_STOPPED = 75
"""A signal has stopped the run, and its state is saved: start the same command again. Schedulers know EX_TEMPFAIL."""

app = typer.Typer(
    name="resnet-rs",
    help="ResNet-RS: train, scale and judge ResNets as in 'Revisiting ResNets' (arXiv:2103.07579).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="An experiment of the zoo; `resnet-rs list` shows all.")]
Edits = Annotated[
    list[str] | None,
    typer.Argument(metavar="[field=value]...", help="Such as recipe.epochs=100 arch.se_ratio=none."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trained = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT_OR_RUN", help="A run folder, or a checkpoint in it.")
]
DataName = Annotated[
    str, typer.Option("--data", help="`builtin`, or a folder: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*.")
]
Minutes = Annotated[float | None, typer.Option(help="Time budget for `--fit`.")]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:N or mps; by default the best here.")
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision", help="float32 or bfloat16; by default bfloat16 where CUDA computes it natively."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read pictures; 0 reads in this one.")]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=2, help="Samples computed at once, by default up to 128; gradients add up to the batch."
    ),
]


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Such as 'resnet-rs-*'.")] = "*", *, as_json: AsJson = False
) -> None:
    """List the experiments of the zoo."""
    from resnet_rs import verbs, zoo

    names = verbs.list_models(pattern)
    if not names:
        raise ValueError(
            f"nothing in the zoo matches {pattern!r}. `resnet-rs list` shows all {len(zoo.EXPERIMENTS)}."
        )
    rows = [verbs.outline(name) for name in names]
    if as_json:
        _say_json(rows)
        return
    for row in rows:
        _say(
            f"{row['name']:<20} {row['size']:>4} px  {row['params'] / 1e6:>7.2f} M  {row['macs'] / 1e9:>7.2f} GMAC"
        )


@app.command()
def show(name: Name, edits: Edits = None, *, as_json: AsJson = False) -> None:
    """Show what an experiment is: its four slots, its size and its schedule."""
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    shown = verbs.show(name, parse_assignments(edits or []))
    if as_json:
        _say_json(shown)
        return
    size, macs = shown["data"]["size"], shown["macs"] / 1e9
    _say(f"{name}: {shown['params']:,} parameters, {macs:.2f} billion multiply-adds at {size} pixels")
    _say(
        f"{shown['steps']:,} updates over {shown['num_images']:,} pictures, peak learning rate {shown['peak_lr']:g}"
    )
    for slot in ("arch", "data", "task", "recipe"):
        for path, value in _flat(slot, shown[slot]):
            _say(f"  {path:<32} {value}")
    if shown["published"]:
        readme, weights = shown["published"]["top1_readme"], shown["published"]["top1_weights"]
        _say(f"published top-1: {readme} (README), {weights} (the released weights, evaluated again)")


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
        _machine(device, precision=precision, micro_batch=micro_batch, workers=workers) as machine,
    ):
        prepared = _prepare(name, edits, data=data, out=out, fit=fit, minutes=minutes, machine=machine)
        if machine.ranks.is_first:
            for change in prepared.changes:
                _say(f"fit: {_described(change)}")
        events = verbs.training(
            prepared, out=out, seed=seed, machine=machine, save_every=save_every, stop=stop
        )
        stopped = _show(events, is_first=machine.ranks.is_first)
    if machine.ranks.is_first and stopped is None:
        _say(f"page: {out / 'page.html'}")
    if stopped is not None:
        if machine.ranks.is_first:
            said = (
                f"stopped by {stopped.reason}, saved after update {stopped.step}; the same command continues."
            )
            _say(said, is_error=True)
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
                _say(line)
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
    with _machine(device, micro_batch=micro_batch, workers=workers) as machine:
        prepared = _prepare(name, edits, data=data, out=None, fit=True, minutes=minutes, machine=machine)
    if as_json:
        _say_json([asdict(change) for change in prepared.changes])
        return
    for change in prepared.changes:
        _say(_described(change))
    if not prepared.changes:
        _say(f"{name} fits this data as it is.")


@app.command()
def evaluate(
    trained: Trained,
    *,
    data: DataName,
    workers: Workers = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Score trained weights on the test pictures of a data set."""
    from resnet_rs import verbs

    with _machine(device, workers=workers) as machine:
        scores = verbs.evaluate(trained, data=data, machine=machine)
    if not machine.ranks.is_first:
        return
    if as_json:
        _say_json(scores)
        return
    for line in verbs.describe_scores(scores):
        _say(line)


@app.command()
def predict(
    trained: Trained,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    *,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Name the classes of pictures."""
    from resnet_rs import verbs
    from resnet_rs.deploy.predictor import find_pictures

    predictions = verbs.load(trained, device=device).predict(find_pictures(paths))
    if as_json:
        _say_json([asdict(prediction) for prediction in predictions])
    else:
        for prediction in predictions:
            top = list(prediction.probabilities.items())[:3]
            said = "  ".join(f"{name} {share:.1%}" for name, share in top)
            _say(f"{prediction.key}: {said or 'unreadable, ' + str(prediction.unreadable)}")
    if all(prediction.unreadable for prediction in predictions):
        raise ValueError(f"none of the {len(predictions)} pictures could be read.")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `train --out` made.")],
) -> None:
    """Write the page of a run anew and print where it is."""
    from resnet_rs import verbs

    _say(verbs.report(run))


@app.command()
def convert(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A .pt, .pth or .bin file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file that ends in .safetensors.")],
    *,
    key: Annotated[
        str | None, typer.Option(help="Where in the file the weights are, such as model_ema.")
    ] = None,
) -> None:
    """Turn weights that PyTorch has saved into safetensors, without running what is in them."""
    from resnet_rs import verbs

    done = verbs.convert(weights, out, key=key)
    taken = "" if done.key is None else f", taken from {done.key!r}"
    cut = f", {done.prefix!r} taken off all names" if done.prefix else ""
    _say(f"{done.path}: {done.num_tensors:,} tensors, {done.num_parameters:,} parameters{taken}{cut}")


def main() -> None:
    """Run the command line; errors of what was given become one message and exit code 2."""
    warnings.showwarning = _say_warning
    with _explained():
        app(standalone_mode=True)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except (ValueError, OSError, RecursionError) as error:
        with suppress(OSError):
            _say(f"error: {error}", is_error=True)
        sys.exit(getattr(error, "exit_code", EXIT_ERROR))


def _say_warning(message: Warning | str, *_: object) -> None:
    _say(f"warning: {message}", is_error=True)


def _prepare(
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


def _described(change: Change) -> str:
    from resnet_rs.config import as_typed

    return f"{change.path}={as_typed(change.after)} (was {as_typed(change.before)}): {change.reason}"


@contextmanager
def _machine(
    device: str | None, *, precision: str | None = None, micro_batch: int | None = None, workers: int = 0
) -> Generator[Machine]:
    """This machine, or, where torchrun has started this process, this rank among the others."""
    from resnet_rs.training.device import Device
    from resnet_rs.verbs import Machine

    place = _place()
    if place is None:
        chosen = Device.choose(device, precision=precision)
        yield Machine(device=chosen, micro_batch=micro_batch, workers=workers)
        return
    from resnet_rs.training.group import joined

    chosen = Device.choose(device, precision=precision).of_rank(place.local_index)
    with joined(place, chosen) as ranks:
        yield Machine(device=chosen, micro_batch=micro_batch, workers=workers, ranks=ranks)


def _place() -> Place | None:
    """Where torchrun has put this process; none if it was started by itself."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from resnet_rs.training.group import Place

    return Place(
        index=int(os.environ["RANK"]),
        count=int(os.environ["WORLD_SIZE"]),
        local_index=int(os.environ["LOCAL_RANK"]),
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
    )


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """The leaves of nested JSON as dotted paths and typed values; types are shown by their last name."""
    from resnet_rs.config import as_typed

    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}", item) if name != "type" else [(path, item.rpartition(".")[2])]
    else:
        yield path, as_typed(tuple(value) if isinstance(value, list) else value)


def _say(text: object, *, is_error: bool = False) -> None:
    """Print a line; line breaks in names and bytes that no terminal shows are escaped."""
    shown = str(text).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
    print(shown, file=sys.stderr if is_error else sys.stdout, flush=True)


def _say_json(value: Any) -> None:
    """Print JSON, which escapes what is not ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))
