"""Our checkpoints as folders of the Hugging Face Hub, and such folders as networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from resnet_rs import storage
from resnet_rs.bridges import hub
from resnet_rs.bridges.classifier import Classifier
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS, as_begun, as_config, tensors_as_stored
from resnet_rs.models.backbone import StagedBackbone
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint
from resnet_rs.weights.card import facts, model_card
from resnet_rs.weights.convert import load
from resnet_rs.weights.reading import Foreign


def save_pretrained(
    trained: str | Path | nn.Module, out: str | Path, *, license: str | None = None, repo: str = hub.NO_REPO
) -> Path:
    """Write the weights of a run or checkpoint to the new folder `out`, as the Hub holds them.

    `config.json` has timm's fields, `model.safetensors` the weights to use, `README.md` a model card: data, recipe,
    scores with intervals as far as the run has them, license (by default the one that the weights came with). A
    network that timm has is stored under timm's names, so that timm alone loads it. `repo` is where the card says
    that it is.
    """
    if isinstance(trained, nn.Module):
        raise ValueError(
            "a network alone does not know its classes. Make a checkpoint of it, rs.save(model, FOLDER, "
            "classes=[...]), and give that."
        )
    saved = checkpoint.read(Path(trained))
    model = saved.load_model()
    if not isinstance(saved.experiment.task, Classification) or not isinstance(
        model.backbone, StagedBackbone
    ):
        raise ValueError(
            f"{trained} is no classifier with a stem and four stages, which the Hub's layout presumes."
        )
    run, scores = _of_run(Path(trained), saved)
    license = license or saved.origin.get("license")
    card = model_card(saved, run=run, scores=scores, license=license, repo=hub.plain_name(repo))
    fields = as_config(
        saved.experiment,
        saved.classes,
        {**as_begun(saved), **facts(saved, run=run, scores=scores)},
        num_features=model.backbone.widths[3],
        license=license,
    )
    tensors = tensors_as_stored(saved.experiment.arch, model.state_dict())
    files = (
        (WEIGHTS, checkpoint.content(tensors, saved.weights)),
        (CONFIG, storage.as_json(fields).encode("utf-8", "surrogateescape")),
        (CARD, card.encode("utf-8", "backslashreplace")),
    )
    # Without a manifest: people edit the card, and the Hub keeps hashes of its own.
    storage.write_folder(Path(out), iter(files), is_sealed=False)
    return Path(out)


def push_to_hub(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Send a folder of `save_pretrained` to `OWNER/NAME` on the Hub (extra `hub`); the address of the commit.

    A card that says `OWNER/NAME` is sent with the name of `repo` in its place.
    """
    for name in (CONFIG, WEIGHTS, CARD):
        if not Path(folder, name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}; expected a folder that `save_pretrained` made."
            )
    return hub.send_folder(Path(folder), repo, private=private)


def from_pretrained(source: str | Path) -> Classifier:
    """The network in a folder as the Hub has it, or in the repository `OWNER/NAME` of the Hub, in evaluation mode.

    It has timm's methods; `pretrained_cfg` tells how pictures become its inputs, and `label_names` in it the classes.
    """
    folder = hub.fetch_folder(source) if isinstance(source, str) and hub.is_repo(source) else Path(source)
    filled = load(Foreign(path=folder, kind="hub"))
    experiment = filled.provenance.experiment
    model = experiment.build_model()
    model.load_state_dict(filled.tensors)
    found = Classifier.of(model.eval(), experiment)
    found.pretrained_cfg["label_names"] = filled.provenance.classes
    found.origin = filled.provenance.origin
    return found


def _of_run(
    trained: Path, saved: checkpoint.Checkpoint
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the run of a checkpoint has written down of itself, and its scores, if these are of its weights."""
    folder = trained if saved.path.parent.name != "checkpoints" else saved.path.parent.parent
    if not (folder / "run.json").is_file():
        return None, None
    run = storage.read_json(folder / "run.json")
    if "data" not in run:  # of a run that was made without the verbs, nobody wrote down on what
        return None, None
    is_last = checkpoint.read(folder).step == saved.step
    has_scores = is_last and (folder / "scores.json").is_file()
    return run, storage.read_json(folder / "scores.json") if has_scores else None
