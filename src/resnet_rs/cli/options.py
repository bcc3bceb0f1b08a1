"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MAX_PIXELS = 50_000_000
"""The default of `data.decode`, which would take long to import here."""


def edits_argument(help: str) -> Any:
    """The argument `field=value ...` of a command; `help` says what its edits change."""
    return typer.Argument(metavar="field=value", help=help)


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An experiment of the zoo; `resnet-rs list` shows all.")
]
OptionalName = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="An experiment of the zoo; without it one is chosen for you."),
]
Edits = Annotated[
    list[str] | None,
    edits_argument("Changes to the experiment, such as recipe.epochs=100 arch.se_ratio=none."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trained = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT_OR_RUN",
        help="A run, a checkpoint, a Hub folder, the name of published weights, or OWNER/NAME on the Hub.",
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="`builtin`; a folder: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*; or a CSV file: path,label[,split].",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:N or mps; by default the fastest that this machine has."),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="float32 or bfloat16; by default bfloat16 on GPUs that support it natively. `train` also tries it on CPUs "
        "that do.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that read images, a few per CPU core at most; 0 reads in this process. By default the command "
        "measures how many are useful."
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option("--max-pixels", help="Images with more pixels (width times height) are not read."),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=2, help="Samples per forward pass, by default up to 128; gradients add up to the batch."
    ),
]
