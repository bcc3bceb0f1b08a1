"""Our networks in timm, once this module is imported: `timm.create_model("resnet_rs_152.i256", pretrained=True)`.

A name is an architecture. Its tag is the image size of published weights; the largest is the default.
`features_only=True` and the `tu-` encoders of segmentation_models_pytorch work too. `resnet_rs` is a network of any
arch, for Hub folders of networks that timm does not have.

Needs timm (extra `timm`); published weights need h5py (extra `convert`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from resnet_rs import config
from resnet_rs.bridges import released
from resnet_rs.bridges.timm_names import (
    DEPTHS,
    FIRST_AND_LAST,
    accept_timm_names,
    input_facts,
    with_our_names,
)
from resnet_rs.data.pipeline import Data
from resnet_rs.models.backbone import Arch
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.paper import RELEASED
from resnet_rs.tasks.classifier import Classifier

try:
    from timm.models import (
        build_model_with_cfg,
        generate_default_cfgs,
        get_pretrained_cfg,
        register_model,
        resolve_pretrained_cfg,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "resnet_rs.bridges.timm registers our networks in timm, which is not installed. Install it: "
        "pip install 'resnet-rs[timm]'."
    ) from error


def _published(name: str) -> dict[str, Any]:
    """timm's fields of the published weights of an experiment."""
    size = int(name.rpartition("-i")[2])
    return {
        **input_facts(Data(size=size, resampling="tf1_bicubic")),
        **FIRST_AND_LAST,
        "url": released.remote_file(name).url,
        "pool_size": (-(-size // 32), -(-size // 32)),
        "num_classes": 1000,
        "license": released.LICENSE,
        "origin_url": "https://github.com/tensorflow/tpu/tree/master/models/official/resnet/resnet_rs",
        "paper_ids": "arXiv:2103.07579",
    }


def _tagged(name: str) -> str:
    """The name of an experiment in timm: `resnet-rs-152-i256` -> `resnet_rs_152.i256`."""
    start, _, size = name.rpartition("-")
    return f"{start.replace('-', '_')}.{size}"


default_cfgs = generate_default_cfgs(
    {
        **{_tagged(name): _published(name) for name in reversed(RELEASED)},
        "resnet_rs.untrained": FIRST_AND_LAST,
    }
)


@register_model
def resnet_rs(pretrained: bool = False, *, arch: Mapping[str, Any] | None = None, **kwargs: Any) -> nn.Module:
    """A network of any arch, which is given as JSON in the form of a checkpoint."""
    if arch is None:
        raise ValueError("resnet_rs is a network of any shape. Give arch=config.to_plain(ResNetArch(...)).")
    known: Arch = config.from_plain(dict(arch), kinds=(Arch,))
    return _create("resnet_rs", known, pretrained, **kwargs)


def _entrypoint(depth: int) -> Callable[..., nn.Module]:
    """The function that timm calls for the network of a depth."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(create.__name__, _arch(depth), pretrained, **kwargs)

    create.__name__ = f"resnet_rs_{depth}"
    create.__doc__ = f"ResNet-RS-{depth}. Source: paper, Table 11."
    return create


def _arch(depth: int) -> ResNetArch:
    return ResNetArch(blocks=BLOCKS[depth])


for _depth in DEPTHS:
    globals()[f"resnet_rs_{_depth}"] = register_model(_entrypoint(_depth))


def _create(
    variant: str, arch: Arch, pretrained: bool, *, drop_path_rate: float | None = None, **kwargs: Any
) -> nn.Module:
    if (output_stride := kwargs.pop("output_stride", 32)) != 32:
        raise ValueError(
            f"output_stride must be 32, got {output_stride}. Dilated networks are not supported."
        )
    if drop_path_rate is not None:
        arch = config.edit(arch, {"drop_path": drop_path_rate})
    if arch.needs_ema:  # another training loop may not average the running statistics
        arch = config.edit(arch, {"norm_momentum": 0.1})
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    if pretrained:
        overlay |= _published_tensors(variant, arch, kwargs.get("pretrained_cfg"), overlay)
    model = build_model_with_cfg(
        _build,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=with_our_names,
        feature_cfg={"feature_cls": "getter"},
        arch=arch,
        **kwargs,
    )
    for part in model.modules():  # else timm keeps a second copy of the weights
        getattr(part, "pretrained_cfg", {}).pop("state_dict", None)
    return model


def _build(arch: Arch, **kwargs: Any) -> Classifier:
    model = Classifier.build(arch, **kwargs)
    accept_timm_names(model)
    return model


def _published_tensors(
    variant: str, arch: Arch, pretrained_cfg: Any, overlay: dict[str, Any]
) -> dict[str, Any]:
    """The published weights, downloaded and verified as in `resnet-rs pull`, unless timm was given others."""
    chosen = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    name = f"{variant.replace('_', '-')}-{chosen.tag}"
    if not isinstance(arch, ResNetArch) or name not in released.MD5:
        return {}
    ours = get_pretrained_cfg(f"{variant}.{chosen.tag}")
    is_ours = ours is not None and chosen.url == ours.url
    if not is_ours or chosen.file or chosen.state_dict or chosen.hf_hub_id:
        return {}
    return {"state_dict": released.tensors(name, arch)}
