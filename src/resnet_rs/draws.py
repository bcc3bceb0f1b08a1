"""Every random number of a run: a pure function of (seed, purpose, where it is used).

No random stream is kept, so the number of workers, prefetching, micro-batches, ranks and resumed runs cannot change a
draw. The *global sample index* counts the samples of a run from 0, over all epochs.
Source: ours. Restoring the state of random streams often fails to resume exactly; a pure function has no state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, Int64, Integer
from torch import Tensor

_NUM_ROUNDS = 10
_LOW_64 = 0xFFFFFFFFFFFFFFFF


def sample_ids(first: int, count: int, *, size: int, seed: int) -> Int64[np.ndarray, " count"]:
    """Samples at the global indices `first, ..., first + count - 1` of a run over `size` samples.

    Global index i lies in epoch `i // size`. Every epoch contains each sample exactly once.
    """
    if size < 1:
        raise ValueError(f"a run needs 1 sample or more, got a size of {size}. Is the source empty?")
    indices = np.arange(first, first + count, dtype=np.uint64)
    epochs = indices // np.uint64(size)
    ids = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        is_here = epochs == epoch
        of_epoch = key(seed, "order", int(epoch))
        ids[is_here] = permute(indices[is_here] % np.uint64(size), size=size, key=of_epoch)
    return ids


def permute(positions: Integer[np.ndarray, " N"], *, size: int, key: int) -> Int64[np.ndarray, " N"]:
    """`positions`, each in [0, size), under the permutation of `size` elements that `key` names.

    `key` has 128 bits. A Feistel network over slightly more elements is applied until the result is below `size`
    (cycle walking), so 130 million samples need no list.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3.
    """
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], size=size, key=key)
        outside = values >= size
    return values.astype(np.int64)


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """A separate generator for `purpose` at `where`, as in `generator(seed, "view", epoch, sample)`."""
    state = _Digest(_digest(seed, purpose, *where, num_bytes=32))
    bits = np.random.PCG64(state)  # pyright: ignore[reportArgumentType] - takes any ISeedSequence, as documented
    return np.random.Generator(bits)


class _Digest(np.random.bit_generator.ISeedSequence):
    """Bytes used as the state of a bit generator. NumPy's own seeding takes five times as long."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:  # noqa: ANN401 - as NumPy has it
        return np.frombuffer(self._digest, dtype=dtype)[:n_words]


@contextmanager
def initial(seed: int) -> Generator[None]:
    """Seed torch's CPU generator for the initial weights of run `seed`, and restore it afterwards.

    Generators of other devices do not change: build the model on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every device, and only the CPU's state is put back.
        torch.default_generator.manual_seed(key(seed, "initial weights") & _LOW_64)
        yield


def salts(seed: int, purposes: Sequence[str]) -> Int32[Tensor, "L 4"]:
    """The hashes that name each of `purposes` in run `seed`, for `uniform`. Compute them once."""
    keys = [key(seed, purpose) for purpose in purposes]
    words = [[_signed(key >> shift) for shift in (0, 32, 64, 96)] for key in keys]
    return torch.tensor(words, dtype=torch.int32).view(-1, 4)


def uniform(
    salts: Int32[Tensor, "L 4"], sample_indices: Int[Tensor, " B"], *, columns: int = 1
) -> Float[Tensor, "L B columns"]:
    """Numbers in [0, 1), multiples of 2**-24, for each of L purposes and each sample.

    `sample_indices` are global, 0 or more, and on the device of `salts`. Entry [l, b] depends on salt l and on the
    index of sample b alone, on every device.
    """
    indices = sample_indices.to(torch.int64)
    low, high = ((indices << 32) >> 32).to(torch.int32), (indices >> 32).to(torch.int32)
    first, second, third, fourth = salts.t()[:, :, None]
    row_words = _mix(_mix(low ^ first) ^ high ^ second)
    column_words = _mix(torch.arange(columns, dtype=torch.int32, device=salts.device) ^ third)
    words = _mix(_mix(row_words[:, :, None] ^ column_words[:, None, :]) ^ fourth[:, :, None])
    return ((words >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _mix(words: Tensor) -> Tensor:
    """A bijection of 32-bit words, in int32, that lets every bit touch every other: Wellons' `lowbias32`.

    int32 wraps as uint32 does and is several times faster than int64. The masks clear the copies of the sign that a
    right shift brings in.
    """
    words = words ^ ((words >> 16) & 0xFFFF)
    words *= _signed(0x7FEB352D)
    words ^= (words >> 15) & 0x1FFFF
    words *= _signed(0x846CA68B)
    words ^= (words >> 16) & 0xFFFF
    return words


def _signed(word: int) -> int:
    """The lowest 32 bits of `word`, read as int32."""
    return ((word + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def _feistel(values: np.ndarray, *, size: int, key: int) -> np.ndarray:
    """A permutation of the smallest near-square table with `size` places or more, in uint64.

    Rows and columns alternate: each is rotated by a hash of the other.
    """
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    rows, columns = np.divmod(values, np.uint64(width))
    for i in range(0, _NUM_ROUNDS, 2):
        # The shift keeps the sum below 2**64, where it would wrap and two places become one.
        rows = (rows + (_hash64(columns, key, i) >> 1)) % height
        columns = (columns + (_hash64(rows, key, i + 1) >> 1)) % width
    return rows * width + columns


def _hash64(words: np.ndarray, key: int, counter: int) -> np.ndarray:
    """splitmix64's finalizer on `words`, keyed: every bit of the result is as good as any other."""
    words = (words + ((key + (counter + 1) * 0x9E3779B97F4A7C15) & _LOW_64)) ^ (key >> 64)
    words ^= words >> 30
    words *= 0xBF58476D1CE4E5B9
    words ^= words >> 27
    words *= 0x94D049BB133111EB
    words ^= words >> 31
    return words


def key(seed: int, purpose: str, *where: int) -> int:
    """128 bits that name a use of randomness, such as `permute` takes."""
    return int.from_bytes(_digest(seed, purpose, *where, num_bytes=16), "little")


def _digest(seed: int, purpose: str, *where: int, num_bytes: int) -> bytes:
    # Numbers hold no colon, so the first one ends them: no two uses write the same text.
    text = f"{'/'.join(map(str, (seed, *where)))}:{purpose}"
    return hashlib.blake2b(text.encode(), digest_size=num_bytes).digest()
