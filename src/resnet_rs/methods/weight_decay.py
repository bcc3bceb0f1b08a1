"""Weights with and without weight decay. Card: `docs/methods/weight_decay.md`."""

from __future__ import annotations

from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def decayed_and_free(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The named parameters with weight decay, and those without: the scale and offset of batch norm.

    The biases of squeeze-and-excitation and of the classifier have weight decay.

    Source: TF1 release, which decays every variable whose name lacks "batch_normalization". The TF2 release
    excludes the biases too.
    """
    free = {
        f"{path}.{name}".lstrip("."): parameter
        for path, module in model.named_modules()
        if isinstance(module, _BATCH_NORMS)
        for name, parameter in module.named_parameters(recurse=False)
    }
    decayed = {name: parameter for name, parameter in model.named_parameters() if name not in free}
    return decayed, free
