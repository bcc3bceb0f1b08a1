"""`Device`: the device, precision and memory layout of a computation. It is not part of an experiment."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from resnet_rs.processes import keep_freed_memory

Precision = Literal["float32", "bfloat16"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU or the CPU."""

    name: str = "cpu"
    precision: Precision = "float32"
    """Precision of convolutions and matrix products. Weights, statistics, losses and EMA weights stay float32."""
    is_precision_open: bool = False
    """Whether the user left the precision open, so that a run may choose another one."""
    channels_last: bool = True
    """Store feature maps in channels-last order, which is faster on CPUs and on tensor cores."""

    @staticmethod
    def choose(name: str | None = None, *, precision: str | None = None) -> Device:
        """The device called `name`; by default CUDA, else MPS, else the CPU.

        The default precision is bfloat16 on CUDA devices that compute it natively, else float32. For the CPU, this
        process keeps freed memory from now on, which makes updates faster.
        """
        if name is None:
            name = (
                "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
            )
        _refuse_absent(name)
        is_open = precision is None
        if precision is None:
            is_native = name.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if is_native else "float32"
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}.")
        if name == "cpu":
            keep_freed_memory()
        return Device(
            name=name,
            precision=cast(Precision, precision),
            is_precision_open=is_open,
            channels_last=name != "mps",
        )

    @property
    def torch(self) -> torch.device:
        """The device as a `torch.device`."""
        return torch.device(self.name)

    @property
    def is_cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return self.name.startswith("cuda")

    @property
    def has_native_bfloat16(self) -> bool:
        """Whether this is a CPU with instructions for products of bfloat16; others emulate them, which is slow."""
        known: Callable[[], Mapping[str, Any]] = getattr(
            torch.cpu, "get_capabilities", dict
        )  # not in torch 2.10
        names = ("amx_bf16", "avx512_bf16", "bf16")  # the last one is ARM's
        return self.name == "cpu" and any(known().get(name) for name in names)

    def limit_threads(self, count: int) -> None:
        """Use `count` CPU threads for the computations of this process from now on."""
        torch.set_num_threads(count)

    def of_rank(self, local_index: int, *, local_count: int) -> Device:
        """The device of rank `local_index` among the `local_count` ranks of this machine: a GPU of its own."""
        if not self.is_cuda or local_count == 1:
            return self
        if self.name != "cuda":
            raise ValueError(
                f"--device {self.name} puts all {local_count} ranks of this machine on the same GPU. "
                "Use --device cuda: each rank then takes a GPU of its own."
            )
        num_gpus = torch.cuda.device_count()
        if local_count > num_gpus:
            raise ValueError(
                f"{local_count} ranks on this machine need a GPU each, and it has {num_gpus}. "
                f"Start torchrun with --nproc-per-node {num_gpus}, or use --device cpu."
            )
        return replace(self, name=f"cuda:{local_index}")

    def place(self, model: M) -> M:
        """`model` on this device, in its memory layout."""
        model = model.to(self.torch)
        if self.channels_last:
            for parameter in model.parameters():
                parameter.data = self.layout(parameter.data)
        return model

    def put(self, tensor: Tensor) -> Tensor:
        """`tensor` on this device; the copy may still be under way only from pinned memory to CUDA.

        PyTorch keeps pinned memory alive until its copy has ended. It does not do that for other memory: on MPS a
        non-blocking copy of a temporary reads freed memory (pytorch#189690).
        """
        return tensor.to(self.torch, non_blocking=self.is_cuda and tensor.is_pinned())

    def layout(self, tensor: Tensor) -> Tensor:
        """`tensor` in this device's memory layout; only tensors of images and clips change."""
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if self.channels_last and tensor.dim() in formats:
            return tensor.contiguous(memory_format=formats[tensor.dim()])
        return tensor

    def autocast(self) -> AbstractContextManager[object]:
        """A context that computes in this device's precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)

    def describe(self) -> dict[str, str]:
        """The facts about hardware and software on which the last bits of a result may depend."""
        return {
            "device": torch.cuda.get_device_name(self.torch) if self.is_cuda else self.name,
            "precision": self.precision,
            "threads": str(torch.get_num_threads()),
            "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "deterministic": str(torch.are_deterministic_algorithms_enabled()),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.system(),
        }


def _refuse_absent(name: str) -> None:
    """Raise `ValueError` for a device that this machine does not have."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}.") from None
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= here.get(device.type, 0):
        found = ", ".join(f"{kind} ({count})" for kind, count in here.items() if count)
        raise ValueError(f"device {name!r} is not available here. Available: {found}.")
