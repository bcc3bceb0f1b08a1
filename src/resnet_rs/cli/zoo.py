"""Commands about the experiments of the zoo: list, show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from resnet_rs.cli.app import app
from resnet_rs.cli.options import AsJson, Edits, Name
from resnet_rs.cli.output import say, say_json
from resnet_rs.config import as_text, parse_assignments
from resnet_rs.text import macs_text


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Such as 'resnet-rs-*'.")] = "*", *, as_json: AsJson = False
) -> None:
    """List the experiments of the zoo.

    Each line has the size of the images, the parameters and the multiply-adds.
    """
    from resnet_rs import zoo

    rows = [zoo.outline(name) for name in zoo.list_models(pattern)]
    if not rows:
        raise ValueError(
            f"nothing in the zoo matches {pattern!r}. `resnet-rs list` shows all {len(zoo.EXPERIMENTS)}."
        )
    if as_json:
        say_json(rows)
        return
    for row in rows:
        macs = macs_text(row["macs"])
        say(f"{row['name']:<20} {row['size']:>4} px  {row['params'] / 1e6:>7.2f} M  {macs:>26}")


@app.command()
def show(name: Name, edits: Edits = None, *, as_json: AsJson = False) -> None:
    """Show the fields, size and schedule of an experiment."""
    from resnet_rs import zoo

    shown = zoo.show(name, parse_assignments(edits or []))
    if as_json:
        say_json(shown)
        return
    cost = f"{shown['params']:,} parameters, {macs_text(shown['macs'])}"
    say(f"{name}: {cost} at {shown['data']['size']} pixels")
    say(
        f"{shown['steps']:,} updates over {shown['num_images']:,} images, peak learning rate {shown['peak_lr']:g}"
    )
    for slot in ("arch", "data", "task", "recipe"):
        for path, value in _flat(slot, shown[slot]):
            say(f"  {path:<32} {value}")
    if shown["published"]:
        readme, weights = shown["published"]["accuracy_readme"], shown["published"]["accuracy_reevaluated"]
        say(f"published accuracy: {readme} % (README), {weights} % (the released weights, evaluated again)")


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Path and text of each value in nested JSON. Types are shown by their last name."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}", item) if name != "type" else [(path, item.rpartition(".")[2])]
    else:
        yield path, as_text(value)
