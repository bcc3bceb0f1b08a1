"""Verbs that use weights: evaluate, predict, report, convert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resnet_rs.cli.app import app
from resnet_rs.cli.machine import machine as chosen_machine
from resnet_rs.cli.options import AsJson, DataName, DeviceName, Edits, Trained, Workers
from resnet_rs.cli.output import say, say_json


@app.command()
def evaluate(
    trained: Trained,
    edits: Edits = None,
    *,
    data: DataName,
    protocol: Annotated[
        str,
        typer.Option(help="`own`, as the weights were trained, or `timm`, as timm evaluates published ones."),
    ] = "own",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Of sets made after ImageNet: imagenet-v2, imagenet-r, imagenet-a or imagenet-real."
        ),
    ] = None,
    workers: Workers = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Score trained weights, or published ones by name, on the test pictures of a data set.

    Edits are of data.size, data.crop_ratio, data.crop_first and data.resampling.
    """
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    asked = parse_assignments(edits or [])
    with chosen_machine(device, workers=workers) as machine:
        scores = verbs.evaluate(
            trained, data=data, machine=machine, edits=asked, protocol=protocol, labels=labels
        )
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
    from resnet_rs.data.imagenet import title
    from resnet_rs.deploy.predictor import find_pictures

    def in_words(name: str) -> str:
        said = title(name)
        return name if said is None else f"{said} ({name})"

    predictions = verbs.load(trained, device=device).predict(find_pictures(paths))
    if as_json:
        say_json([asdict(prediction) for prediction in predictions])
    else:
        for prediction in predictions:
            top = list(prediction.probabilities.items())[:3]
            said = "  ".join(f"{in_words(name)} {share:.1%}" for name, share in top)
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
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Somebody else's weights: a file, a folder or an archive."),
    ],
    edits: Edits = None,
    *,
    out: Annotated[
        Path,
        typer.Option(help="A new checkpoint folder; without --from a new file that ends in .safetensors."),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from", help="Whose they are: tf1, tf2, keras, timm, torchvision, or a folder of the hub."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The experiment they are for, where the file does not tell.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take no averages, where there are any.")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Keep class 0 of the TF2 Model Garden.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(help="Where in a .pth file the weights are, such as model_ema.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="A text file with the name of a class in each line, in their order.")
    ] = None,
) -> None:
    """Make a checkpoint of somebody else's weights; without --from, turn a .pth file into safetensors.

    Nothing in the file is run. Every variable is used once and every tensor filled once, or the file is refused.
    """
    if kind is None:
        given = {"--name": name, "--raw": raw, "--background": background, "--classes": classes}
        _to_safetensors(source, out, key=key, given={**given, "an edit": edits})
        return
    from resnet_rs.config import parse_assignments
    from resnet_rs.weights.convert import convert as convert_weights
    from resnet_rs.weights.reading import Foreign

    foreign = Foreign(
        path=source,
        kind=kind,
        name=name,
        edits=parse_assignments(edits or []),
        raw=raw,
        background=background,
        key=key,
        classes=None if classes is None else tuple(classes.read_text(encoding="utf-8").splitlines()),
    )
    done = convert_weights(foreign, out)
    say(f"{done.path}: {done.name}, {done.num_variables:,} variables")
    for name_of_fact in ("variables", "head", "classes"):
        say(f"{name_of_fact}: {done.origin[name_of_fact]}")


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="Of a released experiment, as resnet-rs-152-i256, or OWNER/NAME[@REVISION] on the Hub."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="A new checkpoint folder.")],
) -> None:
    """Fetch the paper's weights, or somebody's from the Hub, and make a checkpoint of them.

    Without a network it says which file to put where.
    """
    from resnet_rs.weights import pull as pulling

    say(f"{pulling.address(name)} (from the cache, if it is there)")
    done = pulling.pull(name, out, progress=_show_share())
    say(
        f"{done.path}: {done.name}, {done.num_variables:,} variables, SHA-256 of the file {done.origin['sha256']}"
    )


@app.command()
def push(
    trained: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT_OR_RUN", help="A run folder, a checkpoint in it, or what push --out has made."
        ),
    ],
    repo: Annotated[
        str | None, typer.Argument(metavar="[OWNER/NAME]", help="On the Hub; made, if there is none.")
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the folder here as well; without OWNER/NAME only here.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Of the weights, as apache-2.0; by default the one that they came with."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Of a new repository: show it to nobody.")
    ] = False,
) -> None:
    """Write trained weights as the Hugging Face Hub holds them, with a model card, and send them there.

    A network that timm has is loaded by timm alone; for others it wants `import resnet_rs.bridges.timm`.
    """
    from tempfile import TemporaryDirectory

    from resnet_rs.bridges.hub import NO_REPO, refuse_no_repo
    from resnet_rs.bridges.hub_folder import is_hub_folder
    from resnet_rs.weights.share import push_to_hub, save_pretrained

    if repo is not None:
        refuse_no_repo(repo)
    if is_hub_folder(trained):
        if repo is None or out is not None or license is not None:
            raise ValueError(f"{trained} is sent as it is: give OWNER/NAME, and neither --out nor --license.")
        say(push_to_hub(trained, repo, private=private))
        return
    if repo is None and out is None:
        raise ValueError("nothing to do: give OWNER/NAME, or --out FOLDER, or both.")
    with TemporaryDirectory(prefix="resnet-rs-push-") as scratch:
        to = out or Path(scratch, "folder")
        folder = save_pretrained(trained, to, license=license, repo=repo or NO_REPO)
        if out is not None:
            say(f"{folder}: config.json, model.safetensors, README.md")
        if repo is not None:
            say(push_to_hub(folder, repo, private=private))


def _show_share() -> Callable[[int, int | None], None]:
    """Says how much of a file has arrived, ten times at most."""
    told = 0

    def show(num_bytes: int, total: int | None) -> None:
        nonlocal told
        tenth = 0 if not total else 10 * num_bytes // total
        if tenth > told:
            told = tenth
            say(f"{10 * tenth:>3} % of {(total or 0) / 1e6:,.0f} MB", is_error=True)

    return show


def _to_safetensors(weights: Path, out: Path, *, key: str | None, given: dict[str, object]) -> None:
    from resnet_rs import verbs

    odd = next((name for name, value in given.items() if value), None)
    if odd is not None:
        raise ValueError(f"{odd} needs --from, which says whose weights these are.")
    done = verbs.convert(weights, out, key=key)
    taken = "" if done.key is None else f", taken from {done.key!r}"
    cut = f", {done.prefix!r} taken off all names" if done.prefix else ""
    say(f"{done.path}: {done.num_tensors:,} tensors, {done.num_parameters:,} parameters{taken}{cut}")
