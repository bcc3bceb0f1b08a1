"""One update: gradients add up, the average follows, the rates are the timetable's."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingBatches, split_range
from resnet_rs.training.device import Device
from resnet_rs.training.loop import Loop
from resnet_rs.training.machine import Machine
from resnet_rs.training.state import new_state
from resnet_rs.zoo import EXPERIMENTS

CPU = Device.choose("cpu")


def gradients(job, *, at_most, bad=0):
    """Gradients of one batch of 64, cut into parts, with batch norm frozen at its initial statistics."""
    experiment = edit(job().experiment, {"recipe.batch_size": 64})
    state = new_state(experiment, CPU, seed=0)
    for module in state.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module
            module.eval()
            module.training = False
            # Zero-initialized norms would hide the gradients of all that comes before them.
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(0))
    timetable = experiment.recipe.timetable(64)
    dataset = batches_of(job)
    parts = [dataset[index_range] for index_range in split_range(0, 64 - bad, at_most=at_most)]
    loop = Loop(experiment=experiment, timetable=timetable, device=CPU, seed=0, micro_batches=len(parts))
    next(loop.updates(state, iter(parts)))
    return {name: parameter.grad for name, parameter in state.model.named_parameters()}


@pytest.mark.parametrize("at_most", [16, 7, 2])
def test_micro_batches_give_the_gradient_of_the_whole_batch(job, at_most):
    """Stochastic depth, dropout and RandAugment are on: their draws follow the sample, not the cut."""
    whole, parts = gradients(job, at_most=64), gradients(job, at_most=at_most)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=0, msg=name)
        assert gradient.abs().max() > 0, name


def batches_of(job):
    experiment = job().experiment
    return TrainingBatches(job().splits.train, experiment.data, collate=experiment.task.collate, seed=0)


def test_a_batch_that_lacks_samples_has_the_mean_gradient_of_the_others(job):
    whole, parts = gradients(job, at_most=64, bad=9), gradients(job, at_most=11, bad=9)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=0, msg=name)


def test_spans_are_even_and_cover_every_position_once():
    for count in (1, 2, 64, 65, 127, 129, 4096):
        ranges = list(split_range(10, count, at_most=64))
        assert [p for s in ranges for p in s] == list(range(10, 10 + count))
        assert max(len(s) for s in ranges) <= 64
        assert min(len(s) for s in ranges) >= min(2, count)
        assert max(len(s) for s in ranges) - min(len(s) for s in ranges) <= 1
    assert list(split_range(0, 4, at_most=4)) == [range(0, 4)]
    assert list(split_range(0, 3, at_most=2)) == [range(0, 3)]


def test_a_part_that_is_left_with_one_sample_is_trained_on(job):
    """Batch norm cannot train on one value per channel, which is what one sample on a small map is."""
    experiment = edit(job().experiment, {"recipe.batch_size": 7})
    state = new_state(experiment, CPU, seed=0)
    dataset = batches_of(job)
    parts = [dataset[range(0, 1)], dataset[range(1, 6)], dataset[range(6, 7)]]
    loop = Loop(
        experiment=experiment, timetable=experiment.recipe.timetable(64), device=CPU, seed=0, micro_batches=3
    )
    update = next(loop.updates(state, iter(parts)))
    assert update.num_samples == 7 and math.isfinite(update.loss) and not update.is_skipped


def test_the_first_update_leaves_the_weights_alone_because_its_rate_is_zero(job):
    """The warm-up starts at zero, as released."""
    experiment = job().experiment
    state = new_state(experiment, CPU, seed=0)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    timetable = experiment.recipe.timetable(64)
    batch = TrainingBatches(job().splits.train, experiment.data, collate=experiment.task.collate, seed=0)[
        range(0, 16)
    ]
    update = next(
        Loop(experiment=experiment, timetable=timetable, device=CPU, seed=0, micro_batches=1).updates(
            state, iter([batch])
        )
    )
    assert update.lr == 0
    assert all(torch.equal(before[name], p) for name, p in state.model.named_parameters())


def test_momentum_and_decay_follow_the_closed_form():
    """Three Nesterov steps on one number, decayed by coupled L2, in float64 by hand."""
    recipe = EXPERIMENTS["resnet-rs-tiny"].recipe
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD(
        [{"params": [weight], "weight_decay": recipe.weight_decay}],
        lr=0.1,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )
    expected, velocity = 2.0, 0.0
    for gradient in (1.0, -0.5, 0.25):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        decayed = gradient + recipe.weight_decay * expected
        velocity = recipe.momentum * velocity + decayed
        expected -= 0.1 * (decayed + recipe.momentum * velocity)
    assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_bfloat16_keeps_weights_statistics_and_losses_in_float32(job):
    experiment = edit(job().experiment, {"data.size": 32})
    device = Device.choose("cpu", precision="bfloat16")
    state = new_state(experiment, device, seed=0)
    batch = TrainingBatches(job().splits.train, experiment.data, collate=experiment.task.collate, seed=0)[
        range(0, 16)
    ]
    timetable = experiment.recipe.timetable(64)
    loop = Loop(experiment=experiment, timetable=timetable, device=device, seed=0, micro_batches=1)
    update = next(loop.updates(state, iter([batch])))
    assert math.isfinite(update.loss) and not update.is_skipped
    floating = [t for t in state.model.state_dict().values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floating)


def test_bfloat16_is_refused_where_the_library_computes_it_wrongly(job):
    """On processors with AMX, gradients of strided convolutions over one pixel hold what was in memory before."""
    machine = Machine(device=Device.choose("cpu", precision="bfloat16"))
    with pytest.raises(ValueError, match="wrong gradients for images below 17 pixels, got data.size=16"):
        job(machine=machine)
    assert job(machine=machine, experiment=edit(job().experiment, {"data.size": 17}))


def test_channels_last_and_contiguous_layouts_agree(job):
    experiment = job().experiment
    batch = TrainingBatches(job().splits.train, experiment.data, collate=experiment.task.collate, seed=0)[
        range(0, 16)
    ]
    losses = []
    for channels_last in (True, False):
        device = Device(name="cpu", channels_last=channels_last)
        state = new_state(experiment, device, seed=0)
        timetable = experiment.recipe.timetable(64)
        loop = Loop(experiment=experiment, timetable=timetable, device=device, seed=0, micro_batches=1)
        losses.append(next(loop.updates(state, iter([batch]))).loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


COMPILED = """
import torch
from resnet_rs import experiment
from resnet_rs.data.builtin import builtin
from resnet_rs.data.loader import TrainingBatches
from resnet_rs.training.device import Device
from resnet_rs.training.loop import Loop
from resnet_rs.training.state import new_state

tiny = experiment("resnet-rs-tiny", {"arch.drop_path": 0.2, "task.dropout": 0.2, "recipe.batch_size": 16})
device = Device.choose("cpu")
batches = TrainingBatches(builtin().train, tiny.data, collate=tiny.task.collate, seed=0)
parts = [batches[range(0, 8)], batches[range(8, 16)]]
loop = Loop(experiment=tiny, timetable=tiny.recipe.timetable(16), device=device, seed=0, micro_batches=2)
plain, compiled = (new_state(tiny, device, seed=0) for _ in range(2))
next(loop.updates(plain, iter(parts)))
next(loop.updates(compiled, iter(parts), forward=torch.compile(compiled.model, backend="eager")))
weights = compiled.model.state_dict()
assert list(weights) == list(plain.model.state_dict())
for name, tensor in plain.model.state_dict().items():
    assert torch.equal(weights[name], tensor), name
"""


def test_a_compiled_forward_pass_gives_the_same_update_under_the_same_names():
    """In its own process: the checks of shapes in these tests cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
