"""Where every tensor of our networks is, in words that all libraries share, and how theirs are put there.

A bridge knows another library's names alone: it says what it calls the convolution of a `Spot` and the norm behind it.
`rules` makes of that one `Rule` per tensor, and `fill` follows them: each variable of the source is used once, each of
our tensors filled once, and whatever is left over or missing is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from resnet_rs.models.resnet import ResNetArch

Role = Literal["stem", "shortcut", "reduce", "spatial", "expand", "squeeze", "excite", "classifier"]
Turn = Literal["as it is", "kernel of HWIO", "matrix of HWIO", "matrix of IO", "matrix of OIHW"]
_MAX_LISTED = 20
_LONGEST = 120
_STEM_CONVS = {"2015": 1, "small": 3, "released": 4}


class Spot(NamedTuple):
    """A convolution or linear layer of a ResNet."""

    role: Role
    stage: int = 0
    """2 to 5; 0 in the stem and the head."""
    block: int = 0
    """Of the stage; in the stem the convolution."""


class Names(NamedTuple):
    """What another library calls the layers at a spot; `norm` is None where there is none."""

    layer: str
    norm: str | None


class Rule(NamedTuple):
    """One of their variables becomes one of our tensors."""

    theirs: str
    ours: str
    turn: Turn = "as it is"


@runtime_checkable
class TensorFile(Protocol):
    """Weights of another library: arrays by name, read when they are asked for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every array."""
        ...

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time, in any order."""
        ...


def spots(arch: ResNetArch) -> Iterator[Spot]:
    """All spots of a ResNet but the classifier, in the order in which the TF1 release makes them."""
    for i in range(_STEM_CONVS[arch.stem]):
        yield Spot("stem", block=i)
    for stage, num_blocks in enumerate(arch.blocks, start=2):
        for block in range(num_blocks):
            if block == 0:
                yield Spot("shortcut", stage, block)
            roles: tuple[Role, ...] = ("reduce", "spatial", "expand")
            excite: tuple[Role, ...] = ("squeeze", "excite") if arch.se_ratio is not None else ()
            for role in (*roles, *excite):
                yield Spot(role, stage, block)


def our_names(spot: Spot, arch: ResNetArch) -> Names:
    """What we call the layers at a spot."""
    if spot.role == "classifier":
        return Names("head.classifier", None)
    if spot.role == "stem":
        return Names(f"backbone.stem.{3 * spot.block}", f"backbone.stem.{3 * spot.block + 1}")
    block = f"backbone.c{spot.stage}.{spot.block}"
    if spot.role in ("squeeze", "excite"):
        return Names(f"{block}.excite.{'reduce' if spot.role == 'squeeze' else 'expand'}", None)
    first = int(spot.role == "shortcut" and _has_pool(arch, spot.stage))
    return Names(f"{block}.{spot.role}.{first}", f"{block}.{spot.role}.{first + 1}")


def _has_pool(arch: ResNetArch, stage: int) -> bool:
    """Whether the shortcut's convolution comes after an average."""
    return arch.shortcut == "always-pooled" or (arch.shortcut == "pooled" and stage > 2)


def tensorflow_rules(
    arch: ResNetArch, theirs: Callable[[Spot], Names], *, variable: Callable[[str, str], str], has_head: bool
) -> list[Rule]:
    """The rules of a library whose kernels are HWIO; `variable(layer, part)` is the name of a layer's variable."""
    found: list[Rule] = []
    for spot in (*spots(arch), *([Spot("classifier")] if has_head else [])):
        ours, names = our_names(spot, arch), theirs(spot)
        turn: Turn = "kernel of HWIO"
        if spot.role in ("squeeze", "excite"):
            turn = "matrix of HWIO"
        elif spot.role == "classifier":
            turn = "matrix of IO"
        found.append(Rule(variable(names.layer, "kernel"), f"{ours.layer}.weight", turn))
        if spot.role in ("squeeze", "excite", "classifier"):
            found.append(Rule(variable(names.layer, "bias"), f"{ours.layer}.bias"))
        if names.norm is not None:
            parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
            for part, ours_part in {**parts, "moving_variance": "running_var"}.items():
                found.append(Rule(variable(names.norm, part), f"{ours.norm}.{ours_part}"))
    return found


def fill(
    file: TensorFile,
    rules: Sequence[Rule],
    expected: Mapping[str, Tensor],
    *,
    ignored: Callable[[str], bool],
    origin: str,
) -> dict[str, Tensor]:
    """The tensors of `expected` from `file`, by `rules`; counters of updates for which there is none are zero.

    `ignored` says which variables of the file are none of the network's, as an optimizer's. Raises `ValueError` with
    the names that are unknown, missing, or of another shape.
    """
    wanted = {rule.theirs: rule for rule in rules}
    refuse_others(
        unknown=[name for name in file.shapes if name not in wanted and not ignored(name)],
        missing=[rule.theirs for rule in rules if rule.theirs not in file.shapes],
        origin=origin,
    )
    found = {name: torch.zeros_like(t, device="cpu") for name, t in expected.items() if _is_counter(name)}
    for rule in rules:  # before any of them is read
        _refuse_shape(file.shapes[rule.theirs], rule, expected, origin)
    for name, array in file.read_many(wanted):
        rule = wanted[name]
        tensor = torch.from_numpy(np.asarray(array, order="C"))
        if tensor.is_floating_point() != expected[rule.ours].is_floating_point():
            raise ValueError(
                f"{name} of {origin} holds {tensor.dtype}; {rule.ours} wants {expected[rule.ours].dtype}."
            )
        tensor = tensor.to(expected[rule.ours].dtype)
        found[rule.ours] = _turned(tensor, rule.turn)
    lost = [name for name in expected if name not in found]
    if lost:
        raise ValueError(f"{origin} leaves these without values: {listed(lost)}.")
    return found


def _refuse_shape(shape: tuple[int, ...], rule: Rule, expected: Mapping[str, Tensor], origin: str) -> None:
    turned = tuple(_turned(torch.empty(shape, device="meta"), rule.turn).shape)
    ours = None if rule.ours not in expected else tuple(expected[rule.ours].shape)
    if turned != ours:
        wants = "is not in this network" if ours is None else f"wants {list(ours)}"
        raise ValueError(f"{rule.theirs} of {origin} has shape {list(shape)}; {rule.ours} {wants}.")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _turned(tensor: Tensor, turn: Turn) -> Tensor:
    """A tensor in our layout: [O, I, h, w] for kernels, [O, I] for linear layers."""
    if turn == "as it is":
        return tensor
    if turn == "matrix of IO" and tensor.dim() == 2:
        return tensor.t().contiguous()
    if turn == "kernel of HWIO" and tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if turn == "matrix of HWIO" and tensor.dim() == 4 and tensor.shape[:2] == (1, 1):
        return tensor[0, 0].t().contiguous()
    if turn == "matrix of OIHW" and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor  # its shape is refused


def refuse_others(*, unknown: list[str], missing: list[str], origin: str) -> None:
    """Refuse weights with names too many or too few."""
    kinds = {"unknown": unknown, "missing": missing}
    faults = [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise ValueError(f"these are not the weights of {origin}; {'; '.join(faults)}.")


def listed(names: list[str]) -> str:
    """The first of some names; those that cannot be printed as they are, or are long, are shown in part."""
    rest = len(names) - _MAX_LISTED
    shown = [n if n.isprintable() and len(n) <= _LONGEST else repr(n[:_LONGEST]) for n in names[:_MAX_LISTED]]
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
