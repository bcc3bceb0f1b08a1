"""Checkpoints written as folders of the Hugging Face Hub, and networks loaded from such folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from resnet_rs import storage
from resnet_rs.bridges import hub
from resnet_rs.bridges.hub_folder import CARD, CONFIG, WEIGHTS, as_begun, as_config
from resnet_rs.bridges.timm_names import depth_of, describe_to_timm, to_timm
from resnet_rs.models.backbone import StagedBackbone
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.training import checkpoint
from resnet_rs.weights.card import facts, model_card
from resnet_rs.weights.convert import load
from resnet_rs.weights.reading import SourceCheckpoint


def save_pretrained(
    trained: str | Path | nn.Module, out: str | Path, *, license: str | None = None, repo: str = hub.NO_REPO
) -> Path:
    """Write the weights of a run or checkpoint to the new folder `out` in the Hub's layout.

    `config.json` has timm's fields, `model.safetensors` the weights, `README.md` a model card: data, recipe, scores
    with intervals if the run has them, license (by default that of the original weights). A network that timm has is
    stored under timm's names, so that timm loads it without resnet-rs. `repo` is the repository that the card names.
    """
    if isinstance(trained, nn.Module):
        raise ValueError(
            "a network has no class names. Save it with rs.save(model, FOLDER, classes=[...]) and give that folder."
        )
    saved = checkpoint.read(Path(trained))
    model = saved.load_model()
    is_classifier = isinstance(saved.experiment.task, Classification)
    if not is_classifier or not isinstance(model.backbone, StagedBackbone):
        raise ValueError(
            f"{trained} is not a classifier with a stem and four stages, which the Hub's layout needs."
        )
    license = license or saved.origin.get("license")
    card, origin = _described(saved, Path(trained), license, repo)
    num_features = model.backbone.widths[3]
    fields = as_config(saved.experiment, saved.classes, origin, num_features=num_features, license=license)
    tensors = model.state_dict() if depth_of(saved.experiment.arch) is None else to_timm(model.state_dict())
    files = (
        (WEIGHTS, checkpoint.content(tensors, saved.weights)),
        (CONFIG, storage.as_json(fields).encode("utf-8", "surrogateescape")),
        (CARD, card.encode("utf-8", "backslashreplace")),
    )
    # Without a manifest: users edit the card, and the Hub keeps its own hashes.
    storage.write_folder(Path(out), iter(files), is_sealed=False)
    return Path(out)


def from_pretrained(source: str | Path) -> Classifier:
    """The network in a folder in the Hub's layout or in the repository `OWNER/NAME` of the Hub, in evaluation mode.

    It has timm's methods. `pretrained_cfg` describes the preprocessing, and its `label_names` are the classes.
    """
    folder = hub.fetch_folder(source) if isinstance(source, str) and hub.is_repo(source) else Path(source)
    provenance, tensors, _ = load(SourceCheckpoint(path=folder, kind="hub"))
    experiment = provenance.experiment
    model = experiment.build_model()
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{source} holds a {type(model).__name__}; expected a classifier with a stem and four stages."
        )
    model.load_state_dict(tensors)
    describe_to_timm(model, experiment)
    model.pretrained_cfg["label_names"] = provenance.classes
    model.origin = provenance.origin
    return model.eval()


def _described(
    saved: checkpoint.Checkpoint, trained: Path, license: str | None, repo: str
) -> tuple[str, dict[str, str]]:
    """The model card of a checkpoint, and the origin of its weights, with what is known of its run."""
    folder = trained
    if saved.path.parent.name == "checkpoints":
        folder = saved.path.parent.parent
    elif saved.path.name == checkpoint.FINAL:
        folder = saved.path.parent
    try:
        run, scores = _of_run(folder, saved)
        card = model_card(saved, run=run, scores=scores, license=license, repo=hub.plain_name(repo))
        return card, {**as_begun(saved), **facts(saved, run=run, scores=scores)}
    except storage.Damaged:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise storage.Damaged(
            f"run.json or scores.json of {folder} has a value that resnet-rs did not write. Restore the file. Or copy "
            "the checkpoint folder to another place and give the copy; its card has no data and no scores."
        ) from None


def _of_run(folder: Path, saved: checkpoint.Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of the run in `folder`, and its scores if they belong to these weights; empty if there are none."""
    run = storage.read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if "data" not in run:  # a run that was not started by `train` has no record of its data
        return {}, {}
    if not (folder / "scores.json").is_file():
        return run, {}
    scores = storage.read_json(folder / "scores.json", needs=("count", "weights", "unreadable"))
    is_final = saved.path.name == checkpoint.FINAL
    is_scored = is_final if "step" in scores else checkpoint.read(folder).step == saved.step
    return run, scores if is_scored else {}
