"""Commands about the experiments of the zoo: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from resnet_rs.cli.app import app
from resnet_rs.cli.options import AsJson, Edits, Name
from resnet_rs.cli.output import flat, say, say_json


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
        say_json(rows)
        return
    for row in rows:
        say(
            f"{row['name']:<20} {row['size']:>4} px  {row['params'] / 1e6:>7.2f} M  {row['macs'] / 1e9:>7.2f} GMAC"
        )


@app.command()
def show(name: Name, edits: Edits = None, *, as_json: AsJson = False) -> None:
    """Show the fields, size and schedule of an experiment."""
    from resnet_rs import verbs
    from resnet_rs.config import parse_assignments

    shown = verbs.show(name, parse_assignments(edits or []))
    if as_json:
        say_json(shown)
        return
    size, macs = shown["data"]["size"], shown["macs"] / 1e9
    say(f"{name}: {shown['params']:,} parameters, {macs:.2f} billion multiply-adds at {size} pixels")
    say(
        f"{shown['steps']:,} updates over {shown['num_images']:,} images, peak learning rate {shown['peak_lr']:g}"
    )
    for slot in ("arch", "data", "task", "recipe"):
        for path, value in flat(slot, shown[slot]):
            say(f"  {path:<32} {value}")
    if shown["published"]:
        readme, weights = shown["published"]["accuracy_readme"], shown["published"]["accuracy_reevaluated"]
        say(f"published accuracy: {readme} % (README), {weights} % (the released weights, evaluated again)")
