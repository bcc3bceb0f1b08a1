"""Weights in PyTorch files (`.pt`, `.pth`, `.bin`) and in safetensors files.

A PyTorch file is a pickle, and a pickle is a program. `torch.load(weights_only=True)` runs only the calls that rebuild
tensors. It runs in a child process with limited memory: a file that crashes it, hangs it or asks for too much memory
becomes an error message here.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from resnet_rs import storage
from resnet_rs.bridges.archive import Unreadable
from resnet_rs.processes import end_with_parent
from resnet_rs.text import listed, quoted

KEYS = ("state_dict", "model", "model_ema", "state_dict_ema")
"""Keys under which training programs store the weights beside other values."""

_SUFFIX = ".safetensors"
_PREFIXES = re.compile(r"((module|_orig_mod)\.)*")
"""DataParallel and `torch.compile` put these before every name."""
_SECONDS = 300
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "HOME", "TMPDIR", "OMP_NUM_THREADS")
"""What the child process sees of the environment, in which there may be tokens."""
_REFUSED = 3
"""Exit code of the child when its answer is an error message."""


class Conversion(NamedTuple):
    """What was written to a safetensors file."""

    num_tensors: int
    num_parameters: int
    """Trained values: those of all floating-point tensors except running statistics."""
    key: str
    """Key of the weights in the PyTorch file; empty if they are at its top level."""
    prefix: str
    """Prefix that was removed from all names."""


class TorchFile:
    """The weights in a PyTorch or safetensors file, as arrays."""

    def __init__(self, path: Path, *, key: str | None = None) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist or is no file; expected weights such as model.pth or model.safetensors."
            )
        try:
            self._tensors = load(path.read_bytes() if path.suffix == _SUFFIX else _read_in_child(path, key))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file: {error}.") from None
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of `names`, one at a time; floating-point arrays are float32."""
        for name in names:
            tensor = self._tensors[name]
            yield name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def convert(file: Path, out: Path, *, key: str | None = None) -> Conversion:
    """Write the weights in the PyTorch file `file` to the new safetensors file `out`.

    The weights are a mapping of names to tensors, at the top level or under `key`; the default is the one of `KEYS`
    that the file has. Raises `ValueError` for a file with any other content.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist or is no file; expected a PyTorch file such as model.pth."
        )
    if out.suffix != _SUFFIX:
        raise ValueError(f"the new file must end in {_SUFFIX}, got {out}. Try {out.with_suffix(_SUFFIX)}.")
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} exists already. Choose another name, or remove it first.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is not a folder. Make it first, or choose another one.")
    content = _read_in_child(file, key)
    tensors = load(content)
    storage.write_bytes(out, content)
    with safe_open(out, framework="pt") as written:
        origin = written.metadata()
    statistics = ("running_mean", "running_var")
    trained = [t.numel() for n, t in tensors.items() if t.is_floating_point() and not n.endswith(statistics)]
    return Conversion(len(tensors), sum(trained), origin["key"], origin["prefix"])


def as_safetensors(file: io.BufferedReader | io.BytesIO, *, key: str | None = None) -> bytes:
    """The weights in a PyTorch file as the content of a safetensors file, whose metadata tells key and prefix.

    Raises `ValueError` for any other content.
    """
    try:
        found, key = _select(torch.load(file, map_location="cpu", weights_only=True), key)
        prefix = (_PREFIXES.match(os.path.commonprefix([*found])) or [""])[0]
        # Safetensors stores no views and no shared memory.
        tensors = {
            name.removeprefix(prefix): tensor.detach().resolve_neg().contiguous().clone()
            for name, tensor in found.items()
        }
        return save(tensors, metadata={"format": "pt", "key": key or "", "prefix": prefix})
    except Unreadable:
        raise
    except Exception as error:  # torch raises almost any exception for damaged or hostile files
        raise Unreadable(_reason(error)) from None


def _select(loaded: Any, key: str | None) -> tuple[dict[str, Tensor], str | None]:  # noqa: ANN401 - any pickled value
    """The weights in what was loaded, and their key."""
    if not isinstance(loaded, dict):
        raise Unreadable(f"it holds a {type(loaded).__name__}; expected a mapping of names to tensors.")
    nested = [name for name, value in loaded.items() if isinstance(name, str) and isinstance(value, dict)]
    present = [name for name in KEYS if name in nested]
    if key is None and len(present) > 1:
        raise Unreadable(
            f"it holds several sets of weights: {listed(present)}. Choose one, such as --key {present[0]}."
        )
    if key is not None and key not in nested:
        hint = f"It has: {listed(nested)}." if nested else "Its weights are at the top level; omit --key."
        raise Unreadable(f"it has no weights under {key!r}. {hint}")
    key = key or (present[0] if present else None)
    found = loaded if key is None else loaded[key]
    unexpected = [
        f"{quoted(str(name))} is of type {type(value).__name__}"
        for name, value in found.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if "__metadata__" in found:
        raise Unreadable("it names a tensor `__metadata__`, which safetensors keeps for itself.")
    if unexpected or not found:
        raise Unreadable(f"expected names with tensors, but {'; '.join(unexpected[:5]) or 'there are none'}.")
    return found, key


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without torch's advice to load it unsafely."""
    message = str(error)
    if match := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"it asks for {match[1]}, which is code and not a tensor, and is not run. Ask its author for the bare "
            "`state_dict`, or for safetensors."
        )
    if "TorchScript" in message:
        return "it is a TorchScript archive, which is a program. Ask its author for its `state_dict`."
    if isinstance(error, MemoryError) or "allocate memory" in message:
        return "it asks for more memory than a file of its size can need."
    return f"it is damaged, or not a file of weights from `torch.save` ({type(error).__name__})."


def _read_in_child(file: Path, key: str | None) -> bytes:
    """The weights in the PyTorch file `file` as safetensors, read by a child process."""
    # -P: Python does not import a torch.py from the working folder.
    command = [sys.executable, "-P", "-m", "resnet_rs.bridges.torch_file", *([] if key is None else [key])]
    try:
        with file.open("rb") as opened:
            child = subprocess.run(
                command,
                stdin=opened,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_SECONDS,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        code, answer = child.returncode, child.stdout
        if code == 0:
            return answer
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"its reader ended with {cause}. The file is damaged, or too large for this machine."
        reason = answer.decode() if code == _REFUSED else reason
    except subprocess.TimeoutExpired:
        reason = f"reading it takes more than {_SECONDS} seconds. Do not trust this file."
    raise ValueError(f"cannot convert {file}: {reason}")


def _limit_resources(num_bytes: int) -> None:
    """Limit memory and time to what reading a file of `num_bytes` can need, and forbid files. Linux only."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 8 * num_bytes + (1 << 30)
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_CPU: _SECONDS, resource.RLIMIT_FSIZE: 0}
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):  # a stricter limit is set already
            resource.setrlimit(kind, (limit, limit))


def _serve(key: str | None = None) -> int:
    """The child: reads standard input, answers on standard output, and returns its exit code."""
    end_with_parent()
    torch.set_num_threads(1)  # each thread reserves memory
    _limit_resources(os.fstat(0).st_size)
    try:
        answer, code = as_safetensors(io.BufferedReader(io.FileIO(0)), key=key), 0
    except ValueError as error:
        answer, code = str(error).encode("utf-8", "backslashreplace"), _REFUSED
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(_serve(*sys.argv[1:]))
