"""What must hold on a GPU: training, exact resume, evaluation, precision, checkpointing, ranks and large steps."""

import os
import subprocess
import sys

import pytest
import torch
from gpu.conftest import GPU
from safetensors.torch import load_file
from torch.nn import functional

import resnet_rs as rs
from resnet_rs import verbs
from resnet_rs.deploy.bench import Protocol, measure
from resnet_rs.processes import Stop
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.events import Progressed, Stopped

EDITS = {
    "recipe.epochs": 1.0,
    "recipe.batch_size": 64,
    "recipe.ema_decay": 0.9,
    "arch.drop_path": 0.1,
    "task.dropout": 0.1,
}
"""Some ten updates with dropout, stochastic depth and EMA weights."""


def machine(precision=None):
    return rs.Machine(device=Device.choose(GPU, precision=precision), micro_batch=32)


def train(folder, *, stop_at=None):
    """Train on the built-in data, up to update `stop_at` if given; the last event."""
    resolved = verbs.resolve("resnet-rs-tiny", EDITS, data="builtin", run_folder=folder)
    stop, last = Stop(), None
    for last in verbs.training(resolved, out=folder, machine=machine(), stop=stop):
        if isinstance(last, Progressed) and last.update.step == stop_at:
            stop.reason = "test"
    return last


def weights(folder):
    return load_file(checkpoint.read(folder).path / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "run"
    train(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*determinis")
def test_a_run_resumes_bit_for_bit(tmp_path, deterministic):
    train(tmp_path / "whole")
    assert isinstance(train(tmp_path / "cut", stop_at=3), Stopped)
    train(tmp_path / "cut")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


def test_training_learns_and_evaluation_equals_that_of_the_cpu(trained):
    on_gpu = rs.evaluate(trained, data="builtin", machine=machine("float32"))
    on_cpu = rs.evaluate(trained, data="builtin", machine=rs.Machine(device=Device.choose("cpu")))
    assert on_cpu["top1"] > 0.2
    assert on_gpu["top1"] == pytest.approx(on_cpu["top1"], abs=0.005)


@torch.no_grad()
def test_bfloat16_gives_nearly_the_predictions_of_float32(trained):
    model = Device.choose(GPU).place(checkpoint.read(trained).load_model()).eval()
    experiment = checkpoint.read(trained).experiment
    images = torch.randn(256, experiment.data.channels, 32, 32, generator=torch.Generator().manual_seed(0))
    exact, rounded = (forward(model, images, precision) for precision in ("float32", "bfloat16"))
    assert exact.dtype == torch.float32
    assert (exact.argmax(1) == rounded.argmax(1)).float().mean() > 0.95
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()


def forward(model, images, precision):
    device = Device.choose(GPU, precision=precision)
    with device.autocast():
        return model(device.layout(device.put(images))).float()


def test_activation_checkpointing_gives_the_same_gradients_with_less_memory():
    found = {}
    model = rs.create_model("resnet-rs-50-i160").to(GPU).train()
    images = torch.randn(8, 3, 160, 160, device=GPU)
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        if GPU == "cuda":
            torch.cuda.reset_peak_memory_stats()
        functional.cross_entropy(model(images), torch.arange(8, device=GPU)).backward()
        memory = torch.cuda.max_memory_allocated() if GPU == "cuda" else 1 - enable
        found[enable] = memory, torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found[True][0] < found[False][0]
    difference = (found[True][1] - found[False][1]).norm() / found[False][1].norm()
    assert difference < 1e-2


def launch(out, *, count, device):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = ["-m", "resnet_rs", "train", "resnet-rs-tiny", "--data", "builtin", "--out", str(out)]
    edits = [f"{path}={value}" for path, value in EDITS.items()]
    return subprocess.run(
        [*torchrun, *command, "--device", device, *edits],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.skipif(GPU != "cuda", reason="needs a CUDA device by name")
def test_two_ranks_on_one_named_device_are_refused(tmp_path):
    result = launch(tmp_path / "run", count=2, device="cuda:0")
    assert result.returncode != 0
    assert "--device cuda:0 puts all 2 ranks of this machine on the same GPU" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(GPU != "cuda", reason="needs a CUDA device by name")
def test_more_ranks_than_devices_are_refused(tmp_path):
    count = torch.cuda.device_count() + 1
    result = launch(tmp_path / "run", count=count, device="cuda")
    assert result.returncode != 0 and f"{count} ranks on this machine need a GPU each" in result.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_ranks_give_the_weights_of_one(tmp_path, trained):
    result = launch(tmp_path / "run", count=2, device="cuda")
    assert result.returncode == 0, result.stderr
    for name, value in weights(trained).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("name", "batch_size"), [("resnet-rs-50-i160", 32), ("resnet-rs-420-i320", 4)])
def test_a_training_step_of_a_published_network_fits(name, batch_size):
    protocol = Protocol(mode="train", batch_size=batch_size, num_repeats=2, device=GPU)
    assert all(seconds > 0 for seconds in measure(rs.experiment(name), protocol)["seconds"])
