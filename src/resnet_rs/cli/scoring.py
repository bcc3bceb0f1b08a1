"""Commands that use weights: evaluate, predict, report, convert, to-safetensors, pull, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_rs.cli.app import EXIT_PARTLY, app
from resnet_rs.cli.options import (
    MAX_PIXELS,
    AsJson,
    DataName,
    DeviceName,
    MaxPixels,
    Trained,
    Workers,
    edits_argument,
)
from resnet_rs.cli.output import say, say_json, say_lines, say_report
from resnet_rs.cli.ranks import with_ranks
from resnet_rs.config import parse_assignments

FileKey = Annotated[str | None, typer.Option(help="Where in a .pth file the weights are, such as model_ema.")]


@app.command()
def evaluate(
    trained: Trained,
    edits: Annotated[
        list[str] | None,
        edits_argument(
            "Changes to how images are prepared: data.size, data.crop_ratio, data.crop_first, data.resampling."
        ),
    ] = None,
    *,
    data: DataName,
    protocol: Annotated[
        str,
        typer.Option(help="`own`: as the weights were trained. `timm`: as timm evaluates published weights."),
    ] = "own",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels of a test set made after ImageNet: imagenet-v2, imagenet-r, imagenet-a, imagenet-real."
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Classify each test image by this many of the nearest training images of DATA, in place of the "
            "trained classifier. The classes of DATA may be other ones.",
        ),
    ] = None,
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Score trained or published weights on test images."""
    from resnet_rs import verbs

    asked = parse_assignments(edits or [])
    if neighbors is not None and (asked or protocol != "own" or labels is not None):
        raise ValueError(
            "--neighbors prepares images as the weights were trained and takes labels from the data. Leave edits, "
            "--protocol and --labels out."
        )
    here = verbs.Machine(device=verbs.Device.choose(device), workers=workers, max_pixels=max_pixels)
    with with_ranks(here) as machine:
        if neighbors is None:
            scores = verbs.evaluate(
                trained, data=data, machine=machine, edits=asked, protocol=protocol, labels=labels
            )
        else:
            scores = verbs.evaluate_neighbors(trained, data=data, num_neighbors=neighbors, machine=machine)
    if as_json:
        say_json(scores)
    else:
        say_lines(verbs.describe_scores(scores))


@app.command()
def predict(
    trained: Trained,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Images, or folders of them.")],
    *,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Print what trained weights see in images.

    For a classifier these are the likeliest classes. Exit code 1 if some images could not be read, 2 if none could.
    """
    from resnet_rs import verbs
    from resnet_rs.deploy.predictor import find_images

    predictions = verbs.load(trained, device=device, max_pixels=max_pixels).predict(find_images(paths))
    if as_json:
        say_json([prediction.to_plain() for prediction in predictions])
    else:
        for prediction in predictions:
            answer = prediction.answer
            shown = f"unreadable, {prediction.unreadable}" if answer is None else answer.text
            say(f"{prediction.key}: {shown}")
    unreadable = sum(prediction.answer is None for prediction in predictions)
    if unreadable == len(predictions):
        raise ValueError(f"none of the {unreadable} images could be read. The output has the reason of each.")
    if unreadable:
        say(f"{unreadable} of {len(predictions)} images could not be read.", is_error=True)
        raise typer.Exit(EXIT_PARTLY)


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="A run, a study or a study's record; or two runs to compare."),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Where the page of a study goes; by default into its folder.")
    ] = None,
) -> None:
    """Write the page of a run or study, or compare two runs.

    For a study this also prints the tables.
    """
    from resnet_rs import verbs
    from resnet_rs.studies import compare_runs, summary

    if len(paths) > 2 or (len(paths) == 2 and out is not None):
        raise ValueError("give one path, or two runs to compare, which are printed and need no --out.")
    paths = [path if path.suffix == ".jsonl" else verbs.existing(path) for path in paths]
    if len(paths) == 2:
        say_lines(compare_runs.compare_runs(*paths).splitlines())
        return
    path = paths[0]
    if summary.is_study(path):
        say_report(path, out=out)
    elif out is None:
        say(verbs.report(path))
    else:
        raise ValueError(f"--out is for studies, and {path} is none. The page of a run is in its folder.")


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Weights of another program: a file, a folder or an archive."),
    ],
    edits: Annotated[
        list[str] | None,
        edits_argument("Changes to the experiment of --name, such as arch.se_ratio=none."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="A new checkpoint folder.")],
    kind: Annotated[
        str,
        typer.Option(
            "--from", help="Their format: tf1, tf2, keras, timm, torchvision, or hub for a Hub folder."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Their experiment, if the file does not name it.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Read the raw weights, not the EMA weights.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Keep class 0 of 1,001 (tf2).")] = False,
    key: FileKey = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="A text file with one class name per line, in the order of the classes."),
    ] = None,
) -> None:
    """Make a checkpoint of weights from another program.

    No code in the file is run. Every variable must be used once and every tensor filled once, or the file is refused.
    """
    from resnet_rs import zoo
    from resnet_rs.weights.convert import convert as convert_weights
    from resnet_rs.weights.reading import SourceCheckpoint

    source_weights = SourceCheckpoint(
        path=source,
        kind=kind,
        name=name,
        edits=parse_assignments(edits or []),
        raw=raw,
        background=background,
        key=key,
        classes=None if classes is None else _read_names(classes),
    )
    provenance, _, num_variables = convert_weights(source_weights, out)
    say(f"{out}: {zoo.nearest(provenance.experiment)}, {num_variables:,} variables")
    say_lines(f"{fact}: {provenance.origin[fact]}" for fact in ("variables", "head", "classes"))


@app.command()
def to_safetensors(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth file.")],
    *,
    out: Annotated[Path, typer.Option(help="A new file that ends in .safetensors.")],
    key: FileKey = None,
) -> None:
    """Turn a .pth file into safetensors.

    No code in the file is run.
    """
    from resnet_rs.bridges import torch_file

    done = torch_file.convert(file, out, key=key)
    source = f", from {done.key!r}" if done.key else ""
    cut = f", without the prefix {done.prefix!r} of all names" if done.prefix else ""
    say(f"{out}: {done.num_tensors:,} tensors, {done.num_parameters:,} parameters{source}{cut}")


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A released experiment, such as resnet-rs-152-i256, or OWNER/NAME[@REVISION] on the Hub.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="A new checkpoint folder.")],
) -> None:
    """Make a checkpoint of weights from the paper or the Hub.

    Without a network the error message says which file to put where.
    """
    from resnet_rs import zoo
    from resnet_rs.weights import pull as pulling

    say(f"{pulling.address(name)} (from the cache, if it is there)")
    provenance, _, num_variables = pulling.pull(name, out, progress=_Tenths())
    nearest, digest = zoo.nearest(provenance.experiment), provenance.origin["sha256"]
    say(f"{out}: {nearest}, {num_variables:,} variables, SHA-256 of the file {digest}")


@app.command()
def push(
    trained: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT_OR_RUN",
            help="A run folder, a checkpoint in it, or a folder that push --out made.",
        ),
    ],
    repo: Annotated[
        str | None,
        typer.Argument(metavar="OWNER/NAME", help="A repository on the Hub. A missing one is made."),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the folder here. Without OWNER/NAME nothing is sent.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="License of the weights, such as apache-2.0. The default is the license they came with."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Send trained weights to the Hugging Face Hub.

    They get a model card. timm loads the networks that it knows without this package, and others after
    `import resnet_rs.bridges.timm`.
    """
    from tempfile import TemporaryDirectory

    from resnet_rs import verbs
    from resnet_rs.bridges.hub import NO_REPO, push_to_hub, refuse_no_repo
    from resnet_rs.bridges.hub_folder import is_hub_folder
    from resnet_rs.weights.share import save_pretrained

    if repo is not None:
        refuse_no_repo(repo)
    trained = verbs.existing(trained)
    if is_hub_folder(trained):
        if repo is None or out is not None or license is not None:
            raise ValueError(
                f"{trained} is a Hub folder and is sent as it is. Give OWNER/NAME, without --out and --license."
            )
        say(push_to_hub(trained, repo, private=private))
        return
    if repo is None and out is None:
        raise ValueError("push has no destination. Give OWNER/NAME, --out FOLDER, or both.")
    with TemporaryDirectory(prefix="resnet-rs-push-") as scratch:
        to = out or Path(scratch, "folder")
        folder = save_pretrained(trained, to, license=license, repo=repo or NO_REPO)
        if out is not None:
            say(f"{folder}: config.json, model.safetensors, README.md")
        if repo is not None:
            say(push_to_hub(folder, repo, private=private))


class _Tenths:
    """A progress bar for pooch that prints a line for each tenth of the file."""

    total = 0
    """Bytes of the file; pooch sets it, 0 if the server does not tell."""
    _num_bytes = 0

    def update(self, num_bytes: int) -> None:
        before = self._num_bytes
        self._num_bytes = min(before + num_bytes, self.total)  # pooch counts the last piece as a whole one
        if self.total and 10 * self._num_bytes // self.total > 10 * before // self.total:
            say(f"{100 * self._num_bytes // self.total:>3} % of {self.total / 1e6:,.0f} MB", is_error=True)

    def reset(self) -> None:
        """Pooch calls it at the end, before a last update with all bytes."""

    def close(self) -> None: ...


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a UTF-8 text file; expected a class name in each line.") from None
