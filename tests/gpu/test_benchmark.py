"""Images per second of training and inference, appended to results/gpu.jsonl: our networks beside a peer.

Every network takes a plain step (autocast, cross entropy, SGD with momentum) on random images that are on the device.
The networks take turns in each round, and a row is the median over all rounds.
"""

import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision
from gpu.conftest import GPU
from torch.nn import functional

import resnet_rs as rs
from resnet_rs.training.device import Device

RESULTS = Path(__file__).parents[2] / "results/gpu.jsonl"
BATCH_SIZE, NUM_ROUNDS, NUM_STEPS = (64, 5, 10) if GPU == "cuda" else (2, 1, 1)
NETWORKS = {
    "resnet-rs-50": (lambda: rs.create_model("resnet-rs-50-i160"), 160),
    "torchvision efficientnet_b1": (torchvision.models.efficientnet_b1, 240),
}


def training(build, size):
    """Train on one batch; each `next` is a step."""
    device = Device.choose(GPU)
    model = device.place(build()).train()
    images = device.layout(torch.randn(BATCH_SIZE, 3, size, size, device=GPU))
    labels = torch.arange(BATCH_SIZE, device=GPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    while True:
        optimizer.zero_grad()
        with device.autocast():
            loss = functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        yield


def inference(build, size):
    """Predict one batch; each `next` is a forward pass."""
    device = Device.choose(GPU)
    model = device.place(build()).eval()
    images = device.layout(torch.randn(BATCH_SIZE, 3, size, size, device=GPU))
    while True:
        with torch.inference_mode(), device.autocast():
            model(images)
        yield


def images_per_second(steps):
    wait()
    begin = time.perf_counter()
    for _ in range(NUM_STEPS):
        next(steps)
    wait()
    return NUM_STEPS * BATCH_SIZE / (time.perf_counter() - begin)


def wait():
    if GPU == "cuda":
        torch.cuda.synchronize()


def test_speed_of_training_and_inference_is_measured(tmp_path):
    device, rows = Device.choose(GPU), []
    for mode in (training, inference):
        steps = {name: mode(build, size) for name, (build, size) in NETWORKS.items()}
        speeds = {name: [] for name in steps}
        for i in range(1 + NUM_ROUNDS):
            for name in steps:
                speed = images_per_second(steps[name])
                if i:  # the first round warms up
                    speeds[name].append(speed)
        rows += [
            {
                "name": name,
                "mode": mode.__name__,
                "size": NETWORKS[name][1],
                "batch_size": BATCH_SIZE,
                "images_per_second": round(statistics.median(found), 1),
                "lowest": round(min(found), 1),
                "highest": round(max(found), 1),
                "num_rounds": NUM_ROUNDS,
                "precision": device.precision,
                "device_name": device.describe()["device"],
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "date": datetime.now(UTC).date().isoformat(),
            }
            for name, found in speeds.items()
        ]
    path = RESULTS if GPU == "cuda" else tmp_path / "gpu.jsonl"
    with path.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    assert len(rows) == 4 and all(row["images_per_second"] > 0 for row in rows)
