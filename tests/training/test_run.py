"""A run gives one result, whatever the workers, the interruptions and the cutting of batches."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import Shapes

from resnet_rs import storage
from resnet_rs.config import edit
from resnet_rs.data.folders import ClassFolders
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import Splits
from resnet_rs.training import checkpoint, provenance
from resnet_rs.training import run as run_module
from resnet_rs.training.events import Evaluated, Finished, Progressed
from resnet_rs.training.log import Log, read_log
from resnet_rs.training.run import Diverged, run


def finish(job):
    return [event for event in run(job) if isinstance(event, Finished)][0]


def weights(job):
    """Bytes of every stored tensor: EMA weights, raw weights and momentum."""
    folder = checkpoint.read(job.folder).path
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def updates(job):
    return [line for line in read_log(job.folder / "log.jsonl") if line["kind"] == "update"]


_FINISHED = []


@pytest.fixture
def finished(job, tmp_path_factory):
    """The usual job, finished: trained once and copied for each test."""
    if not _FINISHED:
        trained = job(folder=tmp_path_factory.mktemp("finished") / "run")
        finish(trained)
        _FINISHED.append(trained.folder)
    shutil.copytree(_FINISHED[0], job().folder)
    return job()


@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_job_gives_the_same_weights_bit_for_bit_with_any_number_of_workers(job, finished, workers):
    finish(job("again", workers=workers))
    assert weights(job("again")) == weights(finished)
    assert updates(job("again")) == updates(finished)


def test_another_seed_gives_other_weights(job, finished):
    finish(job("other", seed=1))
    assert weights(job("other")) != weights(finished)


def test_a_run_interrupted_again_and_again_ends_with_the_same_weights_bit_for_bit(job, finished):
    """Before its first update, before, after and between two checkpoints."""
    for stop_after in (0, 4, 5, 3):
        for i, event in enumerate(run(job("cut"))):
            if i >= stop_after and (i == 0 or isinstance(event, Progressed)):
                break
    finish(job("cut"))
    assert weights(job("cut")) == weights(finished)
    assert updates(job("cut")) == updates(finished)


def test_a_run_that_diverges_stops_after_three_updates_in_a_row_and_keeps_its_last_checkpoint(job, tiny):
    wild = edit(tiny, {"recipe.base_lr": 1e30, "recipe.epochs": 6.0})
    with pytest.raises(Diverged, match=r"updates (\d+), (\d+), (\d+) was not finite, so the run was stopped"):
        finish(job(experiment=wild))
    skipped = [line for line in read_log(job().folder / "log.jsonl") if line["kind"] == "skipped"]
    assert len(skipped) == 3 and all(len(line["keys"]) == 16 for line in skipped)
    assert all(line["loss"] < float("inf") for line in updates(job()))


def test_a_run_killed_while_it_claimed_its_folder_can_begin_again(job):
    job().folder.mkdir()
    (job().folder / "run.json").write_text("{}")
    (job().folder / ".partial-experiment.json").write_text("{")
    assert finish(job()).scores["count"] == 40


def test_a_copy_of_a_checkpoint_under_another_name_is_ignored(job, finished):
    path = checkpoint.read(job().folder).path
    (path.parent / f"{path.name}-best").mkdir()
    assert checkpoint.read(job().folder).path == path


def test_a_finished_run_does_nothing_more_when_asked_again(finished):
    before = weights(finished)
    events = list(run(finished))
    assert not any(isinstance(event, Progressed) for event in events)
    assert events[-1].scores == storage.read_json(finished.folder / "scores.json")
    assert weights(finished) == before


def test_the_log_has_every_update_once_and_in_order(job, finished):
    lines = updates(job())
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[0]["lr"] == 0 and lines[-1]["lr"] < lines[4]["lr"]
    assert sum(line["num_samples"] for line in lines) == 3 * 64


def test_ema_and_raw_weights_are_both_scored(finished):
    log = read_log(finished.folder / "log.jsonl")
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    assert [round(line["epoch"]) for line in evaluations] == [1, 2, 3]
    assert all(set(line["summaries"]) == {"ema", "model"} for line in evaluations)


def test_a_run_of_another_experiment_is_refused_with_the_difference(job, tiny, finished):
    other = edit(tiny, {"recipe.base_lr": 0.2, "arch.se_ratio": None})
    with pytest.raises(ValueError, match=r"arch\.se_ratio=none recipe\.base_lr=0\.2"):
        finish(job(experiment=other))


@pytest.mark.parametrize("change", [{"seed": 5}, {"micro_batch": 16}])
def test_a_run_with_another_setting_is_refused(job, change, finished):
    with pytest.raises(ValueError, match=f"another {next(iter(change))}"):
        finish(job(**change))


def test_a_run_on_other_data_is_refused(job, finished):
    other = Splits(train=Shapes(num_samples=63, size=16), test=Shapes(num_samples=40, size=16, seed=1))
    with pytest.raises(ValueError, match="the train images of this data, or their labels, are others"):
        finish(job(splits=other))


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(job):
    folder = job().folder
    folder.mkdir()
    (folder / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and contains no run"):
        finish(job())
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_named_and_set_aside_and_the_run_ends_the_same(job, finished):
    expected = weights(finished), updates(finished)
    damage(checkpoint.read(job().folder).path / "ema.safetensors")
    started = next(iter(run(job())))
    assert started.step == 8
    assert re.search(r"ema\.safetensors has changed.* renamed to .*damaged-step-00000012", started.notices[0])
    finish(job())
    assert (weights(job()), updates(job())) == expected


def test_a_damaged_checkpoint_is_not_scored_silently(job, finished):
    (checkpoint.read(job().folder).path / "momentum.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"momentum\.safetensors is missing\. step-00000008 is used instead"):
        assert checkpoint.read(job().folder).step == 8


def test_without_a_valid_checkpoint_a_run_never_starts_over_silently(job, finished):
    for file in job().folder.glob("checkpoints/*/ema.safetensors"):
        damage(file)
    with pytest.raises(
        checkpoint.NoneValid, match=r"has no valid checkpoint: .*ema\.safetensors has changed"
    ):
        finish(job())
    with pytest.raises(checkpoint.NoneValid):
        checkpoint.read(job().folder)


def test_a_run_whose_checkpoints_are_gone_never_starts_over_silently(job, finished):
    shutil.rmtree(job().folder / "checkpoints")
    with pytest.raises(checkpoint.NoneValid, match="has no checkpoint, but its log lists 3"):
        finish(job())


def test_a_checkpoint_of_a_newer_format_is_refused(job, monkeypatch):
    monkeypatch.setattr(provenance, "FORMAT", 99)
    finish(job())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        checkpoint.read(job().folder)


def test_class_names_are_stored_with_the_weights(job, finished):
    assert checkpoint.read(job().folder).classes == ("disc", "square", "triangle")


class Holes(Shapes):
    """Shapes of which some cannot be read."""

    def read(self, index, request):
        if index % 8 == 3:
            raise Unreadable(self.key(index), "a hole")
        return super().read(index, request)


def test_unreadable_samples_are_left_out_named_and_counted_in_training(job, shapes):
    splits = Splits(train=Holes(num_samples=64, size=16), test=shapes.test)
    finish(job(splits=splits))
    lines = read_log(job().folder / "log.jsonl")
    named = [line["key"] for line in lines if line["kind"] == "unreadable"]
    assert sorted(set(named)) == sorted(f"shapes/shape/0/{i}" for i in range(3, 64, 8))
    assert len(named) == 3 * 8
    assert sum(line["num_samples"] for line in updates(job())) == 3 * (64 - 8)


def test_unreadable_samples_are_named_and_not_counted_in_scores(job, shapes):
    finish(job(splits=Splits(train=shapes.train, test=Holes(num_samples=40, size=16, seed=1))))
    scores = json.loads((job().folder / "scores.json").read_text())
    assert scores["count"] == 35
    assert scores["unreadable"][0] == {"key": "shapes/shape/1/3", "index": 3, "reason": "a hole"}
    assert len(scores["unreadable"]) == 5


class Nothing(Shapes):
    def read(self, index, request):
        raise Unreadable(self.key(index), "gone")


def test_a_batch_without_one_readable_sample_stops_the_run(job, shapes):
    with pytest.raises(ValueError, match="no sample of update 1 could be read"):
        finish(job(splits=Splits(train=Nothing(num_samples=64, size=16), test=shapes.test)))


def test_a_run_with_frozen_parts_continues_and_they_stay_as_they_were(job, monkeypatch):
    """Frozen parameters have no momentum, and frozen norms keep their statistics."""
    original, states = run_module.new_state, []

    def frozen(*arguments, **named):
        state = original(*arguments, **named)
        state.model.backbone.requires_grad_(False)
        state.model.backbone.train = lambda mode=True: state.model.backbone
        for module in state.model.backbone.modules():
            module.training = False
        states.append(state)
        return state

    monkeypatch.setattr(run_module, "new_state", frozen)
    before = original(job().experiment, job().machine.device, seed=0).model.backbone.state_dict()
    for event in run(job()):
        if isinstance(event, Progressed) and event.update.step == 6:
            break
    finish(job())
    after = states[-1].model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert checkpoint.read(job().folder).step == 12


def test_a_checkpoint_that_was_moved_behind_a_link_is_not_emptied(job, tmp_path):
    for event in run(job()):
        if isinstance(event, Evaluated):
            break
    path = checkpoint.read(job().folder).path
    shutil.move(path, tmp_path / "archive")
    path.symlink_to(tmp_path / "archive")
    finish(job())
    assert (tmp_path / "archive/ema.safetensors").is_file()
    assert not path.exists()


def test_a_damaged_line_of_the_log_is_no_obstacle_and_the_log_is_kept(job, finished):
    log = job().folder / "log.jsonl"
    content = log.read_text()
    log.write_text(content.replace('"loss"', '"losr"', 1))
    (notice,) = next(iter(run(job()))).notices
    assert "lacks 12 of 12 updates" in notice
    assert (job().folder / "damaged-log.jsonl").read_text().count('"losr"') == 1


class Stubborn(storage.Disk):
    """Writes half of a line and then neither writes nor cuts, until it is mended."""

    is_broken = False

    def write(self, descriptor, content):
        if self.is_broken:
            super().write(descriptor, content[: len(content) // 2])
            raise OSError(5, "broken")
        super().write(descriptor, content)

    def cut(self, path, num_bytes):
        if self.is_broken:
            raise OSError(5, "broken")
        super().cut(path, num_bytes)


def test_no_line_is_written_behind_half_of_another(tmp_path, monkeypatch):
    disk = Stubborn()
    monkeypatch.setattr(storage, "disk", disk)
    log = Log(tmp_path / "log.jsonl", up_to_step=0)
    for step in range(1, 7):
        disk.is_broken = step in (2, 3)
        log.append("update", step=step, lr=0.1, loss=1.5)
    log.commit()
    log.close()
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def photos(tmp_path):
    """Images of 300x280 pixels, large enough to be kept once they are decoded."""
    rng = np.random.default_rng(0)
    for name in ("cat", "cow", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (280, 300, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    return ClassFolders(tmp_path / "photos").splits()


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_change_no_bit_and_are_removed_at_the_end(job, photos, workers, monkeypatch):
    """Also where the run is stopped and continued, which begins a new cache."""
    stopped = job("kept", splits=photos, workers=workers)
    next(event for event in run(stopped) if isinstance(event, Progressed) and event.update.step == 3)
    assert list((stopped.folder / ".partial-cache" / "train").iterdir())
    finish(job("kept", splits=photos, workers=workers))
    assert not (stopped.folder / ".partial-cache").exists()
    monkeypatch.setattr(run_module, "cached", lambda source, folder: source)
    finish(job("decoded", splits=photos))
    assert weights(job("kept")) == weights(job("decoded"))


def test_a_new_run_that_fails_before_its_first_update_leaves_nothing_that_blocks_the_next(
    job, photos, monkeypatch
):
    """Decoded images are kept before the first update."""

    def fail(*_):
        raise ValueError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr("resnet_rs.training.loop.Loop._backward", fail)
        with pytest.raises(ValueError, match="out of luck"):
            finish(job(splits=photos))
    assert not job().folder.exists()
    finish(job(splits=photos))
