"""`Classifier`: our network with the methods that timm's models have, so that what is written for them works with it.

timm itself is not needed. Indices of feature maps are timm's: 0 is the early map of the stem, at 1/2 of the picture,
1 to 4 are c2 to c5. Source: timm 1.0 (`timm/models/resnet.py`, its `feature_extraction` and `models` documentation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.bridges.timm_names import depth_of, under_our_names
from resnet_rs.data.pipeline import Data
from resnet_rs.models.backbone import Arch, Model, StagedBackbone
from resnet_rs.tasks.classification import ClassificationHead, build_classifier
from resnet_rs.training.experiment import Experiment

_NAMES = ("c2", "c3", "c4", "c5")
_NUM_MAPS = 5


class Classifier(Model):
    """A backbone and a classification head, with timm's methods.

    `num_classes=0` leaves the classifier out, so that pooled features [B, C] come out; with `global_pool=""` the map
    [B, C, h, w] does.
    """

    backbone: StagedBackbone
    head: ClassificationHead
    pretrained_cfg: dict[str, Any]
    """What the weights are for, in timm's fields; `timm.data.resolve_model_data_config` reads it."""
    experiment: Experiment | None = None
    """What the network was made for, if ours made it and not timm."""
    origin: Mapping[str, str] = {}
    """Where the weights came from that it began with."""

    def __init__(
        self,
        backbone: StagedBackbone,
        head: ClassificationHead,
        *,
        in_channels: int,
    ) -> None:
        super().__init__(backbone, head)
        self.in_chans = in_channels
        self.num_features = self.head_hidden_size = backbone.widths[3]
        self.num_classes = int(getattr(head.classifier, "out_features", 0))
        self.drop_rate = float(getattr(head.dropout, "drop_rate", 0.0))
        self.global_pool = "avg"
        widths = (backbone.early_width, *backbone.widths)
        modules = (f"backbone.stem.{backbone.num_early - 1}", *(f"backbone.{name}" for name in _NAMES))
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(widths, backbone.reductions, modules, strict=True)
        ]
        self.pretrained_cfg = self.default_cfg = {}
        self.register_load_state_dict_pre_hook(_rename_timms)

    @classmethod
    def of(cls, model: nn.Module, experiment: Experiment) -> Classifier:
        """`model`, whose parts it keeps, as the classifier of `experiment`. Raises `ValueError` if it is none."""
        data = experiment.data
        backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
        if not isinstance(backbone, StagedBackbone) or not isinstance(head, ClassificationHead):
            raise ValueError(
                f"only a staged backbone with a classification head has timm's methods, got {model}."
            )
        made = cls(backbone, head, in_channels=data.channels)
        first_conv = next(name for name, layer in made.named_modules() if isinstance(layer, nn.Conv2d))
        side = -(-data.size // backbone.reductions[-1])
        made.experiment = experiment
        depth = depth_of(experiment.arch)
        made.pretrained_cfg = made.default_cfg = {
            "architecture": "resnet_rs" if depth is None else f"resnet_rs_{depth}",
            "num_classes": made.num_classes,
            **input_facts(data),
            "pool_size": (side, side),
            "first_conv": first_conv,
            "classifier": "head.classifier",
        }
        return made.train(model.training)

    @classmethod
    def build(
        cls,
        arch: Arch,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> Classifier:
        """A classifier with fresh weights from torch's generator."""
        if num_classes < 0 or in_chans < 1:
            raise ValueError(
                f"num_classes must be 0 or more and in_chans 1 or more, got {num_classes}, {in_chans}."
            )
        backbone = arch.build(in_channels=in_chans)
        if not isinstance(backbone, StagedBackbone):
            raise ValueError(
                f"{type(arch).__name__} builds no stem with four stages, which timm's methods presume."
            )
        head = ClassificationHead(backbone.widths[3], num_classes=max(1, num_classes), dropout=drop_rate)
        made = cls(backbone, head, in_channels=in_chans)
        _known_pool(global_pool, num_classes)
        if num_classes == 0:
            made.reset_classifier(0, global_pool)
        return made

    def forward(self, images: Float[Tensor, "B C ..."]) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
        """c5, the last map."""
        return self.backbone(images).c5

    def forward_head(self, c5: Float[Tensor, "B D ..."], pre_logits: bool = False) -> Tensor:
        """Logits [B, K] of c5; with `pre_logits` what the classifier would see."""
        features = self.head.dropout(self.head.pool(c5)) if self.global_pool else c5
        return features if pre_logits else self.head.classifier(features)

    def forward_intermediates(
        self,
        images: Float[Tensor, "B C ..."],
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps at `indices` (the last n, if a number; all by default), after the last map of all.

        `stop_early` computes nothing beyond them. `norm` changes nothing: there is no norm after the last map.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"feature maps are NCHW, and cannot be {output_fmt!r}.")
        taken = _indices(indices)
        found: list[Tensor] = []
        x = images
        for i, x in enumerate(self.backbone.maps(images)):
            if i in taken:
                found.append(x)
            if stop_early and i == max(taken):
                break
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take away what the maps at `indices` do not need; the indices of these, counted from the first map."""
        taken = _indices(indices)
        last = max(taken)
        for name in _NAMES[last:]:
            setattr(self.backbone, name, nn.Sequential())
        if last == 0:
            self.backbone.stem = self.backbone.stem[: self.backbone.num_early]
        if last < _NUM_MAPS - 1:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last < _NUM_MAPS - 1:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for other classes; for none there is none."""
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 or more, got {num_classes}.")
        pool = self.global_pool if global_pool is None else global_pool
        self.global_pool, self.num_classes = _known_pool(pool, num_classes), num_classes
        if not num_classes:
            self.head.classifier = nn.Identity()
            return
        like = next(self.backbone.parameters())
        self.head.classifier = build_classifier(self.num_features, num_classes).to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the ends of blocks alone in training, and compute what is inside again: less memory, more time."""
        self.backbone.recomputes = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of the names of parameters by depth, for learning rates that differ by layer."""
        return {"stem": r"^backbone\.stem", "blocks": r"^backbone\.c(\d+)" + ("" if coarse else r"\.(\d+)")}


def _rename_timms(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *more: object) -> None:
    """Take weights with timm's names as well, as `load_state_dict` is given them."""
    if not prefix:
        renamed = dict(under_our_names(state_dict))
        state_dict.clear()
        state_dict.update(renamed)


def input_facts(data: Data) -> dict[str, Any]:
    """How pictures become inputs, in timm's fields.

    timm's pictures are antialiased: where ours are not (`released`, `garden`), that is what comes nearest.
    """
    return {
        "input_size": (data.channels, data.size, data.size),
        "interpolation": "bilinear" if data.resampling in ("bilinear", "garden") else "bicubic",
        "crop_pct": data.crop_ratio,
        "crop_mode": "center",
        "mean": data.mean,
        "std": data.std,
    }


def _known_pool(global_pool: str, num_classes: int) -> str:
    if global_pool not in ("avg", ""):
        raise ValueError(
            f'global_pool must be "avg" or "", which leaves the map as it is, got {global_pool!r}.'
        )
    if num_classes and not global_pool:
        raise ValueError('a classifier wants pooled features. Give global_pool="avg" as well.')
    return global_pool


def _indices(given: int | Sequence[int] | None) -> list[int]:
    """Indices from the first map on; a number means the last n, and negative ones count from the end."""
    if given is None or isinstance(given, int):
        count = _NUM_MAPS if given is None else given
        if not 1 <= count <= _NUM_MAPS:
            raise ValueError(
                f"there are {_NUM_MAPS} maps, so the last 1 to {_NUM_MAPS} can be had, got {count}."
            )
        return list(range(_NUM_MAPS - count, _NUM_MAPS))
    found = [i + _NUM_MAPS if i < 0 else i for i in given]
    if not found or min(found) < 0 or max(found) >= _NUM_MAPS:
        raise ValueError(
            f"indices of maps are 0 to {_NUM_MAPS - 1}, or -{_NUM_MAPS} to -1, got {list(given)}."
        )
    return found
