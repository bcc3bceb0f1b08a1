"""Verbs that use weights: evaluate, predict, report, convert."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resnet_rs.cli.app import app
from resnet_rs.cli.machine import machine as chosen_machine
from resnet_rs.cli.options import AsJson, DataName, DeviceName, Trained, Workers
from resnet_rs.cli.output import say, say_json


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

    with chosen_machine(device, workers=workers) as machine:
        scores = verbs.evaluate(trained, data=data, machine=machine)
    if not machine.ranks.is_first:
        return
    if as_json:
        say_json(scores)
        return
    for line in verbs.describe_scores(scores):
        say(line)


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
        say_json([asdict(prediction) for prediction in predictions])
    else:
        for prediction in predictions:
            top = list(prediction.probabilities.items())[:3]
            said = "  ".join(f"{name} {share:.1%}" for name, share in top)
            say(f"{prediction.key}: {said or 'unreadable, ' + str(prediction.unreadable)}")
    if all(prediction.unreadable for prediction in predictions):
        raise ValueError(f"none of the {len(predictions)} pictures could be read.")


@app.command()
def report(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A folder that `train --out` or `study --out` made, or a study's record."
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Where a study's page goes; by default into its folder.")
    ] = None,
) -> None:
    """Write the page of a run or of a study anew; of a study print its tables, too."""
    from resnet_rs import verbs
    from resnet_rs.studies import reports

    if not reports.is_study(path):
        if out is not None:
            raise ValueError(
                f"--out is for studies, and {path} holds none. The page of a run lies in its folder."
            )
        say(verbs.report(path))
        return
    text, page = reports.report(path, out=out)
    for line in text.splitlines():
        say(line)
    if page is not None:
        say(f"page: {page}")


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
    say(f"{done.path}: {done.num_tensors:,} tensors, {done.num_parameters:,} parameters{taken}{cut}")
