"""What a machine can do is checked where the value enters, and errors of collectives keep their meaning."""

import re

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st

from resnet_rs.data.loader import split_range
from resnet_rs.processes import num_cores
from resnet_rs.training import device as device_module
from resnet_rs.training.device import Device
from resnet_rs.training.group import PeerLost, _touch
from resnet_rs.training.job import usual_micro_batch
from resnet_rs.training.machine import Machine

CPU = Device(name="cpu")


@pytest.mark.parametrize("workers", [-1, 500_000_000])
def test_numbers_of_workers_that_would_exhaust_the_machine_are_refused(workers):
    with pytest.raises(ValueError, match=rf"workers must be 0 to \d+ here \({num_cores()} CPU cores\), got "):
        Machine(device=CPU, workers=workers)


def test_eight_workers_are_allowed_on_any_machine(monkeypatch):
    monkeypatch.setattr("resnet_rs.training.machine.num_cores", lambda: 1)
    assert Machine(device=CPU, workers=8).workers == 8


class Recorded(torch.Tensor):
    """A tensor that records how it is copied."""

    pinned = False

    def is_pinned(self):
        return self.pinned

    def to(self, device, *, non_blocking):
        self.call = (str(device), non_blocking)
        return self


@pytest.mark.parametrize(
    ("name", "pinned", "is_async"),
    [("mps", False, False), ("cuda", False, False), ("cuda:1", True, True), ("cpu", False, False)],
)
def test_only_copies_from_pinned_memory_to_cuda_are_non_blocking(name, pinned, is_async):
    tensor = torch.zeros(2).as_subclass(Recorded)
    tensor.pinned = pinned
    assert Device(name=name).put(tensor).call == (name, is_async)


def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"--device cuda:0 puts all 2 ranks .* Use --device cuda:"):
        Device(name="cuda:0").of_rank(1, local_count=2)
    monkeypatch.setattr(device_module.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"3 ranks on this machine need a GPU each, and it has 2\. .* 2, or"):
        Device(name="cuda").of_rank(0, local_count=3)
    assert Device(name="cuda").of_rank(1, local_count=2).name == "cuda:1"


def test_one_rank_of_a_machine_keeps_its_gpu():
    assert Device(name="cuda:3").of_rank(0, local_count=1).name == "cuda:3"
    assert CPU.of_rank(5, local_count=8) == CPU


@pytest.mark.parametrize(
    ("batch_size", "num_ranks", "micro_batch"),
    [
        (4096, 1, 128),
        (4096, 8, 128),
        (4096, 64, 64),
        (4096, 256, 16),
        (100, 6, 17),
        (100, 3, 34),
        (8, 1, 8),
        (2, 1, 2),
    ],
)
def test_the_default_micro_batch_serves_every_rank(batch_size, num_ranks, micro_batch):
    assert usual_micro_batch(batch_size, num_ranks=num_ranks) == micro_batch
    assert len(list(split_range(0, batch_size, at_most=micro_batch))) >= num_ranks


def assert_default_fits(batch_size, num_ranks):
    micro_batch = usual_micro_batch(batch_size, num_ranks=num_ranks)
    sizes = [len(part) for part in split_range(0, batch_size, at_most=micro_batch)]
    assert num_ranks == 1 or (len(sizes) >= num_ranks and min(sizes) >= 16 and max(sizes) <= 128)


@given(batch_size=st.integers(2, 5000), num_ranks=st.integers(2, 300))
@example(batch_size=289, num_ranks=31)
@example(batch_size=1681, num_ranks=100)
def test_default_micro_batches_of_several_ranks_have_16_to_128_samples_or_the_cures_have(
    batch_size, num_ranks
):
    try:
        assert_default_fits(batch_size, num_ranks)
    except ValueError as error:
        most, enough = re.search(r"for this batch is (\d+)\. .*batch_size=(\d+)", str(error)).groups()
        assert 1 <= int(most) < num_ranks and batch_size < int(enough) <= 17 * num_ranks
        assert_default_fits(batch_size, int(most))
        assert_default_fits(int(enough), num_ranks)


def test_too_many_ranks_for_a_batch_are_refused_with_the_cure():
    with pytest.raises(
        ValueError,
        match=r"8 ranks cannot share a batch of 16 .* see 2 samples .* is 1\. .* use recipe.batch_size=128",
    ):
        usual_micro_batch(16, num_ranks=8)


NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3356, "
LOST = [
    RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:3"
    ),
    RuntimeError(
        "[/pytorch/gloo/gloo/transport/tcp/pair.cc:589] Read error [10.0.0.2]:4: Connection reset by peer"
    ),
    RuntimeError(
        "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"
    ),
    RuntimeError("[gloo/transport/tcp/buffer.cc:69] Application timeout caused pair closure"),
    RuntimeError("[gloo/transport/tcp/pair.cc:186] writev [127.0.0.1]:5: Broken pipe"),
    dist.DistNetworkError("failed to recv, got 0 bytes"),
    dist.DistStoreError("wait timeout after 30000ms, keys: /default_pg/0"),
    dist.DistBackendError(
        NCCL
        + "remote process exited or there was a network error, NCCL version 2.27.3\nncclRemoteError: A call "
        "failed possibly due to a network error or a remote process exiting prematurely."
    ),
    dist.DistBackendError(
        NCCL
        + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.3\nncclSystemError: "
        "System call (e.g. socket, malloc) or external library call failed or device error.\nLast error:\n"
        "socketStartConnect: Connect to 10.0.0.2<45541> failed : Connection refused"
    ),
    dist.DistBackendError("NCCL communicator was aborted on rank 1."),
]
OWN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 80 vs 8"),
    RuntimeError("Tensors must be contiguous"),
    dist.DistBackendError(
        NCCL + "internal error - please report this issue to the NCCL developers\nncclInternalError"
    ),
    dist.DistBackendError(
        NCCL
        + "unhandled cuda error (run with NCCL_DEBUG=INFO for details)\nncclUnhandledCudaError: Call to CUDA "
        "function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    dist.DistBackendError(
        NCCL
        + "invalid usage (run with NCCL_DEBUG=WARN for details)\nncclInvalidUsage\nLast error:\nDuplicate GPU "
        "detected : rank 1 and rank 0 both on CUDA device 1000"
    ),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_connection_error_in_a_collective_means_that_a_peer_is_lost(error):
    with pytest.raises(PeerLost), _touch():
        raise error


@pytest.mark.parametrize("error", OWN, ids=str)
def test_any_other_error_in_a_collective_keeps_its_type_and_message(error):
    with pytest.raises(RuntimeError) as caught, _touch():
        raise error
    assert caught.value is error
