"""`Classifier`: a classification network with the methods of timm's models, so that code for them works with it.

timm itself is not needed. Feature maps have timm's indices: 0 is the stem map, at 1/2 of the image, 1 to 4 are c2 to
c5.
Source: timm 1.0 (`timm/models/resnet.py`, its `feature_extraction` and `models` documentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from resnet_rs.models.backbone import Arch, Model, Pyramid, StagedBackbone
from resnet_rs.models.checkpointing import set_activation_checkpointing
from resnet_rs.models.layers import build_dropout

_INIT_STD = 0.01
_CONVS = (nn.Conv2d, nn.Conv3d)
_NAMES = ("c2", "c3", "c4", "c5")
_NUM_MAPS = 5


class ClassificationHead(nn.Module):
    """Global average over c5, dropout, a linear layer with bias. Source: TF1 release; kernel N(0, 0.01)."""

    def __init__(self, in_channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = build_dropout(in_channels, drop_rate=dropout, purpose="dropout of the classifier")
        self.classifier: nn.Module = build_classifier(in_channels, num_classes)

    def forward(self, pyramid: Pyramid) -> Float[Tensor, "B K"]:
        return self.classifier(self.dropout(self.pool(pyramid.c5)))

    def pool(self, c5: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C"]:
        """The mean of every channel."""
        return c5.flatten(2).mean(2)


def build_classifier(in_channels: int, num_classes: int) -> nn.Linear:
    """A fresh linear layer with bias. Source: as above."""
    layer = nn.Linear(in_channels, num_classes)
    nn.init.normal_(layer.weight, std=_INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


class Classifier(Model):
    """A backbone and a classification head, with timm's methods.

    With `num_classes=0` it gives pooled features [B, C], and with `global_pool=""` too the map [B, C, h, w].
    """

    backbone: StagedBackbone
    head: ClassificationHead
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]
    """The preprocessing and more in timm's fields; set by `bridges/timm_names.py` or by timm."""

    def __init__(self, backbone: StagedBackbone, head: ClassificationHead) -> None:
        super().__init__(backbone, head)
        self.in_chans = next(layer.in_channels for layer in backbone.modules() if isinstance(layer, _CONVS))
        self.num_features = self.head_hidden_size = backbone.widths[3]
        self.num_classes = int(getattr(head.classifier, "out_features", 0))
        self.drop_rate = float(getattr(head.dropout, "drop_rate", 0.0))
        self.global_pool = "avg"
        widths = (backbone.stem_width, *backbone.widths)
        modules = (f"backbone.stem.{backbone.stem_layer}", *(f"backbone.{name}" for name in _NAMES))
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(widths, backbone.reductions, modules, strict=True)
        ]

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
        if in_chans < 1:
            raise ValueError(f"in_chans must be 1 or more, got {in_chans}.")
        backbone = arch.build(in_channels=in_chans)
        if not isinstance(backbone, StagedBackbone):
            raise ValueError(
                f"{type(arch).__name__} builds a {type(backbone).__name__}; timm's methods need a StagedBackbone, "
                "which has a stem and four stages."
            )
        head = ClassificationHead(backbone.widths[3], num_classes=max(1, num_classes), dropout=drop_rate)
        model = cls(backbone, head)
        if num_classes < 1 or global_pool != "avg":
            model.reset_classifier(num_classes, global_pool)
        return model

    def forward(self, images: Float[Tensor, "B C ..."]) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Float[Tensor, "B C ..."]) -> Float[Tensor, "B D ..."]:
        """c5, the last map."""
        return self.backbone(images).c5

    def forward_head(self, c5: Float[Tensor, "B D ..."], pre_logits: bool = False) -> Tensor:
        """Logits [B, K] of c5, or with `pre_logits` the input of the classifier."""
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
        """The last map, and the maps at `indices`: a number means the last n, None means all.

        `stop_early` stops after the last of them. `norm` has no effect: there is no norm after the last map.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        taken = _indices(indices)
        found: list[Tensor] = []
        x = images
        for i, part in enumerate(self._parts()):
            x = part(x)
            if i in taken:
                found.append(x)
            if stop_early and i == max(taken):
                break
        return found if intermediates_only else (x, found)

    def _parts(self) -> list[nn.Module]:
        """The backbone in five parts, whose outputs are the five maps."""
        stem, end = self.backbone.stem, self.backbone.stem_layer + 1
        c2 = nn.Sequential(*stem[end:], self.backbone.c2)
        return [stem[:end], c2, self.backbone.c3, self.backbone.c4, self.backbone.c5]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps at `indices` do not need. Returns the indices, counted from the first map."""
        taken = _indices(indices)
        last = max(taken)
        for name in _NAMES[last:]:
            setattr(self.backbone, name, nn.Sequential())
        if last == 0:
            self.backbone.stem = self.backbone.stem[: self.backbone.stem_layer + 1]
        if last < _NUM_MAPS - 1:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last < _NUM_MAPS - 1:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one for `num_classes` classes, or by none for 0."""
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 or more, got {num_classes}.")
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", ""):
            raise ValueError(f'global_pool must be "avg" or "" (no pooling), got {pool!r}.')
        if num_classes and not pool:
            raise ValueError('a classifier needs pooled features. Give global_pool="avg" too.')
        self.global_pool, self.num_classes = pool, num_classes
        if not num_classes:
            self.head.classifier = nn.Identity()
            return
        like = next(self.backbone.parameters())
        self.head.classifier = build_classifier(self.num_features, num_classes).to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turn activation checkpointing on or off: less memory and more time in training."""
        set_activation_checkpointing(self.backbone, enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group parameter names by depth, for learning rates by layer."""
        return {"stem": r"^backbone\.stem", "blocks": r"^backbone\.c(\d+)" + ("" if coarse else r"\.(\d+)")}


def _indices(given: int | Sequence[int] | None) -> list[int]:
    """Indices counted from the first map. A number means the last n; negative indices count from the end."""
    given = _NUM_MAPS if given is None else given
    if isinstance(given, int):
        found = list(range(_NUM_MAPS - given, _NUM_MAPS))
    else:
        found = [i + _NUM_MAPS if i < 0 else i for i in given]
    if not found or min(found) < 0 or max(found) >= _NUM_MAPS:
        raise ValueError(
            f"indices of maps must be 0 to {_NUM_MAPS - 1}, or -{_NUM_MAPS} to -1, or a number of last maps from 1 to "
            f"{_NUM_MAPS}, got {given}."
        )
    return found
