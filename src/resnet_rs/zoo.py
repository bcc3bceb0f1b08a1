"""The zoo: name -> experiment. It has the published experiments and two small ones for two processor cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from resnet_rs import text
from resnet_rs.config import diff, edit, to_plain
from resnet_rs.data.pipeline import Data
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.methods.schedule import Cosine, StepDecay
from resnet_rs.models.efficientnet import EFFICIENTNETS, LITE0
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.paper import IMAGENET_IMAGES, RELEASED
from resnet_rs.tasks.classification import Classification
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.recipe import Recipe


def _resnet_rs(depth: int, size: int, *, magnitude: float, drop_path: float, dropout: float) -> Experiment:
    """A released configuration. Source: paper, Tables 7, 8 and 11; the TF1 release's file for each."""
    return Experiment(
        arch=ResNetArch(blocks=BLOCKS[depth], drop_path=drop_path),
        data=Data(size=size, randaugment=RandAugment(magnitude=magnitude), resampling="tf1_bicubic"),
        task=Classification(dropout=dropout),
        recipe=Recipe(),
    )


def _resnet_2015(depth: int, size: int) -> Experiment:
    """The baseline of the additive study. Source: paper, Tables 1 and 10.

    As in the TF1 release's ResNet, the 3x3 convolution has the stride. So ResNet-200 has the paper's 39.2
    billion FLOPs at 256 pixels.
    """
    return Experiment(
        arch=ResNetArch(
            blocks=BLOCKS[depth],
            stem="2015",
            shortcut="strided",
            stride_in="spatial",
            se_ratio=None,
            norm_momentum=0.1,
        ),
        data=Data(size=size, resampling="tf1_bicubic"),
        task=Classification(label_smoothing=0.0, dropout=0.0),
        recipe=Recipe(epochs=90.0, schedule=StepDecay(), weight_decay=1e-4, ema_decay=None),
    )


def _efficientnet(name: str, size: int, *, dropout: float) -> Experiment:
    """EfficientNet trained by the recipe of ResNet-RS. Architecture, size and dropout: its release.

    EfficientNet's own recipe (RMSProp, exponential decay) is not implemented. The paper compares architectures, and it
    chose momentum with a cosine schedule because that has fewer hyperparameters (section 4, appendix C).
    """
    return Experiment(
        arch=EFFICIENTNETS[name],
        data=Data(size=size, randaugment=RandAugment(magnitude=magnitude_for(size))),
        task=Classification(dropout=dropout),
        recipe=Recipe(weight_decay=1e-5),
    )


def _efficientnet_lite() -> Experiment:
    """EfficientNet-Lite0 with the preprocessing of its weights: pixels (x - 127) / 128. The recipe is as for B0."""
    base = _efficientnet("b0", 224, dropout=0.2)
    data = replace(base.data, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return replace(base, arch=LITE0, data=data)


def magnitude_for(size: int) -> float:
    """RandAugment by size. Source: paper, section 7.2 (EfficientNet-RS)."""
    return 10.0 if size <= 224 else 15.0 if size <= 320 else 20.0


BUILTIN_IMAGES = 10_000
"""Number of training images in the package."""

_SMALL = Experiment(
    arch=ResNetArch(blocks=(1, 1, 1, 1), width=0.25),
    data=Data(size=28, min_area=0.75, max_aspect=1.1, crop_ratio=1.0, mean=(0.286,), std=(0.353,)),
    task=Classification(num_classes=10, dropout=0.0),
    recipe=Recipe(
        epochs=25.0,
        batch_size=64,
        base_lr=0.8,
        schedule=Cosine(warmup_epochs=2.0),
        ema_decay=0.99,
        weight_decay=1e-3,
    ),
)
"""For the built-in images on two processor cores. The settings are ours; `docs/LOG.md` has the experiments."""

EXPERIMENTS: dict[str, Experiment] = {
    "resnet-rs-50-i160": _resnet_rs(50, 160, magnitude=10.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-101-i160": _resnet_rs(101, 160, magnitude=10.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-101-i192": _resnet_rs(101, 192, magnitude=15.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-152-i192": _resnet_rs(152, 192, magnitude=15.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-152-i224": _resnet_rs(152, 224, magnitude=15.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-152-i256": _resnet_rs(152, 256, magnitude=15.0, drop_path=0.0, dropout=0.25),
    "resnet-rs-200-i256": _resnet_rs(200, 256, magnitude=15.0, drop_path=0.1, dropout=0.25),
    "resnet-rs-270-i256": _resnet_rs(270, 256, magnitude=15.0, drop_path=0.1, dropout=0.25),
    "resnet-rs-350-i256": _resnet_rs(350, 256, magnitude=15.0, drop_path=0.1, dropout=0.25),
    "resnet-rs-350-i320": _resnet_rs(350, 320, magnitude=15.0, drop_path=0.1, dropout=0.4),
    "resnet-rs-420-i320": _resnet_rs(420, 320, magnitude=15.0, drop_path=0.1, dropout=0.4),
    "resnet-50-2015": _resnet_2015(50, 224),
    "resnet-200-2015": _resnet_2015(200, 256),
    "efficientnet-b0": _efficientnet("b0", 224, dropout=0.2),
    "efficientnet-b1": _efficientnet("b1", 240, dropout=0.2),
    "efficientnet-b2": _efficientnet("b2", 260, dropout=0.3),
    "efficientnet-b3": _efficientnet("b3", 300, dropout=0.3),
    "efficientnet-b4": _efficientnet("b4", 380, dropout=0.4),
    "efficientnet-b5": _efficientnet("b5", 456, dropout=0.4),
    "efficientnet-b6": _efficientnet("b6", 528, dropout=0.5),
    "efficientnet-b7": _efficientnet("b7", 600, dropout=0.5),
    "efficientnet-lite0-i224": _efficientnet_lite(),
    "resnet-rs-small": _SMALL,
    "resnet-rs-tiny": edit(
        _SMALL, {"arch.width": 0.125, "recipe.epochs": 2, "recipe.schedule.warmup_epochs": 0.5}
    ),
}


def experiment(name: str, edits: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment called `name`, with `edits` such as `{"recipe.epochs": 100}`.

    For an unknown name the error gives the closest ones.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"{text.quoted(name)} is not in the zoo. Closest: {closest(name)}. "
            f"`resnet-rs list` shows all {len(EXPERIMENTS)}."
        )
    return edit(EXPERIMENTS[name], edits or {})


def closest(name: str) -> str:
    """The names most like `name`, for a message."""
    return text.closest(name, EXPERIMENTS) or ", ".join(list(EXPERIMENTS)[:3])


def list_models(pattern: str = "*") -> list[str]:
    """Names that match `pattern`, such as `resnet-rs-*`."""
    return [name for name in EXPERIMENTS if fnmatchcase(name, pattern)]


def outline(name: str) -> dict[str, Any]:
    """Name, image size, parameters, multiply-adds and activations of an experiment."""
    chosen = experiment(name)
    return {"name": name, "size": chosen.data.size, **asdict(chosen.count_cost())}


def show(name: str, edits: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment as JSON: its fields, cost, schedule and published results."""
    original, chosen = experiment(name), experiment(name, edits)
    timetable = chosen.recipe.timetable(num_images(name))
    published = RELEASED.get(name)
    slots = to_plain(chosen)
    return {
        "name": name,
        "edits": {path: to_plain(value) for path, value in diff(original, chosen).items()},
        **asdict(chosen.count_cost()),
        "steps": timetable.total_steps,
        "warmup_steps": round(timetable.warmup_steps),
        "peak_lr": timetable.peak_lr,
        "num_images": num_images(name),
        **{slot: slots[slot] for slot in ("arch", "data", "task", "recipe")},
        "published": None if published is None else asdict(published),
    }


def num_images(name: str) -> int:
    """Number of training images that the recipe of an experiment is for: ImageNet's or the built-in ones."""
    return BUILTIN_IMAGES if name in ("resnet-rs-small", "resnet-rs-tiny") else IMAGENET_IMAGES


def nearest(experiment: Experiment) -> str:
    """Name of the experiment from which the fewest edits lead to `experiment`."""
    return min(EXPERIMENTS, key=lambda name: len(diff(EXPERIMENTS[name], experiment)))
