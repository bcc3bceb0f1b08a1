"""Options that several verbs share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="An experiment of the zoo; `resnet-rs list` shows all.")]
Edits = Annotated[
    list[str] | None,
    typer.Argument(metavar="[field=value]...", help="Such as recipe.epochs=100 arch.se_ratio=none."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT_OR_RUN",
        help="A run folder, a checkpoint in it, or the name of published weights, which are fetched.",
    ),
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
