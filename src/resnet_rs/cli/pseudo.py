"""Commands for unlabeled images: pseudo label, pseudo select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_rs.cli.app import EXIT_PARTLY, app, exit_unfinished
from resnet_rs.cli.options import MAX_PIXELS, DeviceName, MaxPixels, PrecisionName, Workers
from resnet_rs.cli.output import say
from resnet_rs.text import listed

pseudo = typer.Typer(
    help="Label images with trained networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(pseudo, name="pseudo")


@pseudo.callback()
def _group() -> None: ...


@pseudo.command("label")
def label(
    teachers: Annotated[
        list[str],
        typer.Argument(
            metavar="TEACHER...",
            help="Trained classifiers, named as for `evaluate`; of several the probabilities are averaged.",
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            help="The pool: a folder with images at any depth, a CSV file with the column path, or `builtin`. Classes "
            "that it names are kept for reports alone."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the table; the same command continues it.")],
    flip: Annotated[bool, typer.Option("--flip", help="Also see every image mirrored.")] = False,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Input size in pixels; may be given several times. By default that of each teacher."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Store the likeliest classes alone; by default all.")
    ] = None,
    max_unreadable: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of unreadable images above which the exit code is 1."),
    ] = 0.01,
    jobs: Annotated[
        str | None,
        typer.Option(
            help="local:N for N processes at once, ray or ray://HOST:PORT; default: in this process."
        ),
    ] = None,
    workers: Workers = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: DeviceName = None,
    precision: PrecisionName = None,
) -> None:
    """Label every image of a pool, into a table of Parquet files.

    Broken images are rows with their error. A signal stops with exit code 75; a part that is finished is never made
    again.
    """
    from resnet_rs import jobs as places
    from resnet_rs import verbs
    from resnet_rs.processes import listening
    from resnet_rs.pseudo.label import Labeling
    from resnet_rs.verbs.pseudo import count_rows, label_pool

    if jobs is not None and workers is None:
        workers = 0  # the jobs share the cores already
    labeling = Labeling(flip=flip, sizes=tuple(size or ()), top=top)
    machine = verbs.Machine(
        device=verbs.Device.choose(device, precision=precision), workers=workers, max_pixels=max_pixels
    )
    num_failed = 0
    with listening() as stop:
        parts = label_pool(
            teachers,
            data=data,
            out=out,
            labeling=labeling,
            machine=machine,
            runner=places.parse(jobs),
            stop=stop,
        )
        for part in parts:
            num_failed += part.error is not None
            say(
                f"{part.num_done:,} of {part.num_parts:,} parts labeled" if part.error is None else part.error
            )
    exit_unfinished(stop, f"{num_failed:,} parts" if num_failed else "")
    counts = count_rows(out)
    total = sum(counts.values())
    say(f"{total:,} images = {counts['labeled']:,} labeled + {counts['unreadable']:,} unreadable")
    if counts["unreadable"] > max_unreadable * total:
        say(
            f"more than {max_unreadable:.1%} of the images are unreadable; the table has the reasons.",
            is_error=True,
        )
        raise typer.Exit(EXIT_PARTLY)


@pseudo.command("select")
def select(
    source: Annotated[Path, typer.Argument(metavar="TABLE", help="A table that `pseudo label` made.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the new table.")],
    min_confidence: Annotated[
        float, typer.Option(help="Least probability of the likeliest class. Noisy Student takes 0.3.")
    ] = 0.0,
    max_entropy: Annotated[
        float | None, typer.Option(help="Most entropy of the probabilities, in nats.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(min=1, help="Keep so many images of each class, the most confident ones.")
    ] = None,
    balance: Annotated[
        bool,
        typer.Option(
            "--balance",
            help="Repeat the images of small classes until each has as many as --per-class, or as the largest one.",
        ),
    ] = False,
    apart_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Leave out images that look like test images of this data set, or if it has no test part, like any.",
        ),
    ] = None,
    max_distance: Annotated[
        int,
        typer.Option(
            min=0, max=32, help="Bits, of 64, in which the perceptual hashes of such images differ."
        ),
    ] = 4,
) -> None:
    """Select the rows of a table that a student should train on."""
    from resnet_rs.pseudo.select import Selection
    from resnet_rs.verbs.pseudo_selection import select_rows

    rules = Selection(
        min_confidence=min_confidence, max_entropy=max_entropy, per_class=per_class, balance=balance
    )
    found = select_rows(source, out, rules, apart_from=apart_from, max_distance=max_distance)
    for name, (before, after) in found.classes.items():
        say(f"  {name:<24} {before:>9,} labeled {after:>9,} taken")
    total = sum(found[:5])
    say(
        f"{total:,} images = {found.kept:,} kept + {found.not_sure:,} not sure + {found.beyond_class_limit:,} beyond "
        f"the limit of a class + {found.like_test_images:,} like test images + {found.unreadable:,} without label"
    )
    say(f"{found.drawn:,} images a pass; of one image at most {found.most_copies:,} copies")
    empty = [name for name, (_, after) in found.classes.items() if not after]
    if empty:
        say(f"warning: {len(empty):,} classes have no image: {listed(empty)}", is_error=True)
