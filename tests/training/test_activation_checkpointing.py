"""Activation checkpointing through a run: the same weights and scores, bit for bit."""

from dataclasses import replace

import torch

from resnet_rs.config import edit
from resnet_rs.training import checkpoint
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run


def test_a_run_has_the_same_weights_statistics_and_scores(job, tiny):
    experiment = edit(
        tiny, {"arch.zero_init": False}
    )  # else the branches, and so the draws, begin without effect
    jobs = [job(name, experiment=experiment) for name in ("kept", "recomputed")]
    jobs[1] = replace(jobs[1], machine=Machine(device=jobs[1].machine.device, activation_checkpointing=True))
    finished = [list(run(each))[-1] for each in jobs]
    assert finished[0].scores == finished[1].scores
    kept, recomputed = (checkpoint.read(each.folder).load_model().state_dict() for each in jobs)
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in kept.items())
