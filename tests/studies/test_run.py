"""Running a study: what is finished stays, what fails is a row, and being stopped costs nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies.conftest import STEPS, asked_to_stop

from resnet_rs import storage
from resnet_rs.jobs import InProcess, Local
from resnet_rs.processes import Stop
from resnet_rs.studies import record as records
from resnet_rs.studies.run import run
from resnet_rs.studies.study import Study, Trial, additive

TIMES = {"minutes": None, "images_per_second": None, "environment": {}}


def run_all(resolved, folder, runner=InProcess(), stop=None):  # noqa: B008 - a frozen value
    return list(run(resolved, folder, runner, stop=stop or Stop()))


def with_one_seed(resolved):
    return replace(resolved, options=replace(resolved.options, num_seeds=1))


def timeless(record):
    """The results without what depends on the clock."""
    return [replace(result, **TIMES) for result in record.results]


@pytest.fixture(scope="module")
def whole(tiny_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    results = run_all(tiny_study, folder)
    return folder, results


def test_every_trial_is_run_with_every_seed_and_recorded(whole, tiny_study):
    folder, results = whole
    assert [(r.label, r.seed, r.error) for r in results] == [
        ("plain", 0, None),
        ("+ dropout", 0, None),
        ("plain", 1, None),
        ("+ dropout", 1, None),
    ]
    record = records.read(folder)
    assert sorted(record.results, key=str) == sorted(results, key=str)
    for result in results:
        assert result.score == pytest.approx(result.per_sample.dense(result.count).mean())
        assert result.count == 40 and result.macs > 0 and result.minutes > 0
        assert result.curve[-1][1] == pytest.approx(result.score, abs=1e-5)


def test_values_are_those_of_the_runs_own_scores(whole):
    folder, _ = whole
    record = records.read(folder)
    values = record.values("+ dropout", (0, 1))
    assert values.shape == (2, 40)
    for seed in (0, 1):
        scores = storage.read_json(folder / f"trials/dropout/seed-{seed}/scores.json")
        assert values[seed].mean() == pytest.approx(scores["top1"])


class Nobody(InProcess):
    """A runner that must not be needed."""

    def run(self, work, payloads, *, stop, cores, gpus):
        assert not payloads
        return iter(())


def test_what_is_finished_is_never_run_again(whole, tiny_study):
    folder, results = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "trials" in path.parts}
    again = run_all(tiny_study, folder, Nobody())
    assert sorted(again, key=str) == sorted(results, key=str)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "trials" in path.parts}


def test_more_seeds_are_added_to_those_that_are_there(whole, tiny_study, tmp_path):
    one = with_one_seed(tiny_study)
    run_all(one, tmp_path / "study")
    run_all(tiny_study, tmp_path / "study")
    assert timeless(records.read(tmp_path / "study")) == timeless(records.read(whole[0]))


def test_in_worker_processes_the_results_are_the_same(whole, tiny_study, tmp_path):
    run_all(with_one_seed(tiny_study), tmp_path / "study", Local(2))
    expected = [result for result in timeless(records.read(whole[0])) if result.seed == 0]
    assert timeless(records.read(tmp_path / "study")) == expected


def test_a_study_that_is_stopped_goes_on_to_the_same_results(whole, tiny_study, tmp_path):
    folder, stop = tmp_path / "study", Stop()
    for _ in run(tiny_study, folder, InProcess(), stop=stop):
        stop.reason = "SIGTERM"
    assert len(records.read(folder).results) == 1
    run_all(tiny_study, folder)
    assert timeless(records.read(folder)) == timeless(records.read(whole[0]))


def test_a_trial_that_fails_is_a_row_and_the_others_are_run(tiny_study, tmp_path):
    steps = [*STEPS, Trial(label="+ too large a batch", edits={"recipe.batch_size": 200})]
    study = Study(name="tiny", title="A tiny study", trials=additive(steps))
    resolved = with_one_seed(replace(tiny_study, study=study))
    results = run_all(resolved, tmp_path / "study")
    assert [r.error is None for r in results] == [True, True, False]
    assert "more than the 80 training samples" in results[-1].error
    assert records.read(tmp_path / "study").results[-1].error == results[-1].error
    # Run again, it alone is tried again.
    again = run_all(resolved, tmp_path / "study")
    assert [r.label for r in again] == ["plain", "+ dropout", "+ too large a batch"]


def test_a_folder_of_another_study_is_refused_with_the_difference(whole, tiny_study):
    folder, _ = whole
    other = replace(tiny_study, study=replace(tiny_study.study, name="other"))
    with pytest.raises(ValueError, match="holds the study 'tiny', not 'other'"):
        run_all(other, folder)
    experiment = json.loads(json.dumps(tiny_study.context.experiment))
    experiment["recipe"]["momentum"] = 0.8
    changed = replace(tiny_study, context=replace(tiny_study.context, experiment=experiment))
    with pytest.raises(ValueError, match=r"other settings; now: recipe\.momentum=0\.8"):
        run_all(changed, folder)
    with pytest.raises(ValueError, match="now: other data"):
        run_all(replace(tiny_study, context=replace(tiny_study.context, test_digest="0")), folder)
    with pytest.raises(ValueError, match="now: another --micro-batch"):
        run_all(replace(tiny_study, context=replace(tiny_study.context, micro_batch=4)), folder)
    for trials, said in (
        (additive([STEPS[0], Trial(label="+ dropout", edits={"task.dropout": 0.2})]), "another trial"),
        (additive(STEPS[:1]), "no trial"),
    ):
        with pytest.raises(ValueError, match=f"now: {said} '. dropout'"):
            run_all(replace(tiny_study, study=replace(tiny_study.study, trials=trials)), folder)


def test_trials_that_are_added_are_run_and_the_others_stay(whole, tiny_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole[0], folder)
    more = additive([*STEPS, Trial(label="more", edits={"task.label_smoothing": 0.2})])
    resolved = with_one_seed(replace(tiny_study, study=replace(tiny_study.study, trials=more)))
    assert [r.label for r in run_all(resolved, folder)] == ["plain", "+ dropout", "more"]
    kept = [r for r in timeless(records.read(folder)) if r.label != "more"]
    assert kept == timeless(records.read(whole[0])), "the results of seed 1 are kept, though not asked for"


def test_results_outlive_the_folders_of_their_runs(whole, tiny_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole[0], folder)
    shutil.rmtree(folder / "trials")
    before = records.read(folder)
    assert len(run_all(tiny_study, folder, Nobody())) == 4
    assert records.read(folder) == before


@pytest.mark.parametrize(
    ("source", "said"), [("dropout/seed-0", "another experiment"), ("plain/seed-1", "another seed")]
)
def test_another_run_in_a_trials_place_is_no_result(whole, tiny_study, tmp_path, source, said):
    folder = tmp_path / "study"
    shutil.copytree(whole[0], folder)
    (folder / "record.jsonl").unlink()
    shutil.rmtree(folder / "trials/plain/seed-0")
    shutil.copytree(folder / "trials" / source, folder / "trials/plain/seed-0")
    run_all(tiny_study, folder, stop=asked_to_stop())
    errors = {(r.label, r.seed): r.error for r in records.read(folder).results}
    assert f"it is a run of {said}" in errors["plain", 0]
    assert list(errors.values()).count(None) == 3


def test_a_damaged_log_is_the_error_of_its_trial_alone(whole, tiny_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole[0], folder)
    (folder / "record.jsonl").unlink()
    (folder / "trials/plain/seed-0/log.jsonl").write_text("torn")
    run_all(tiny_study, folder, stop=asked_to_stop())
    (error,) = [r.error for r in records.read(folder).results if r.error is not None]
    assert "its log holds no evaluation" in error


def test_the_folder_of_something_else_is_not_taken(tiny_study, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no study"):
        run_all(tiny_study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_two_studies_never_share_a_folder(whole, tiny_study):
    with storage.locked(whole[0]), pytest.raises(storage.InUse):
        run_all(tiny_study, whole[0])


def test_a_record_reads_what_it_writes(whole, tmp_path):
    record = records.read(whole[0])
    (tmp_path / "copy.jsonl").write_text(record.text())
    assert records.read(tmp_path / "copy.jsonl") == record


@pytest.mark.parametrize(
    "text", ["", "{}\n", "[]\n", "null\n", '{"version": 3}\n', "not json\n", '{"version": 2, "study": 3}\n']
)
def test_a_file_that_is_no_record_is_refused_whatever_it_holds(tmp_path, text):
    (tmp_path / "odd.jsonl").write_text(text)
    with pytest.raises(ValueError, match="odd.jsonl is no record of a study"):
        records.read(tmp_path / "odd.jsonl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_sample", {"default": 1, "indices": [40], "values": 0}),
        ("per_sample", {"default": 1, "indices": ["x"], "values": 0}),
        ("unscored", [-1]),
    ],
)
def test_a_result_that_cannot_be_is_refused(whole, tmp_path, name, value):
    head, line, *_ = (whole[0] / "record.jsonl").read_text().splitlines()
    (tmp_path / "odd.jsonl").write_text(f"{head}\n{json.dumps({**json.loads(line), name: value})}\n")
    with pytest.raises(ValueError, match="odd.jsonl is no record of a study"):
        records.read(tmp_path / "odd.jsonl")


def test_a_record_that_claims_too_many_images_is_refused(whole, tmp_path):
    head, *lines = (whole[0] / "record.jsonl").read_text().splitlines()
    claimed = json.dumps({**json.loads(head), "num_test": 10**12})
    (tmp_path / "odd.jsonl").write_text("\n".join([claimed, *lines]) + "\n")
    with pytest.raises(ValueError, match="its number of test samples is 1000000000000, and 0 to 100,000,000"):
        records.read(tmp_path / "odd.jsonl")


def test_images_that_one_run_could_not_read_count_in_none(whole):
    record = records.read(whole[0])
    first, *others = record.results
    torn = replace(record, results=(replace(first, unscored=(3, 7), count=38), *others))
    before, after = record.values("+ dropout", (0, 1)), torn.values("+ dropout", (0, 1))
    assert after.shape == (2, 38)
    assert np.array_equal(after, np.delete(before, [3, 7], axis=1))


def test_a_killed_study_goes_on_to_the_same_results(whole, tiny_study, tmp_path):
    folder = tmp_path / "study"
    script = f"""
from pathlib import Path
from resnet_rs.jobs import Local
from resnet_rs.processes import Stop
from resnet_rs.studies.run import run
from studies.conftest import STEPS, options
from resnet_rs.studies.planning import resolve
from resnet_rs.studies.study import Study, additive
from dataclasses import replace
if __name__ == "__main__":  # a worker that drew the images again would do so under the eyes of another
    made = resolve(options(Path({str(tmp_path / "images")!r})), folder=Path({str(tmp_path / "nothing")!r}))
    made = replace(made, study=Study(name="tiny", title="A tiny study", trials=additive(STEPS)))
    for result in run(made, Path({str(folder)!r}), Local(2), stop=Stop()):
        print(result.label, flush=True)
"""
    (tmp_path / "run_study.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "run_study.py"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline().strip() in ("plain", "+ dropout")
        time.sleep(np.random.default_rng(0).uniform(0, 2))
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)
    run_all(tiny_study, folder)
    assert timeless(records.read(folder)) == timeless(records.read(whole[0]))
