"""The speed study: fronts, speed-ups at equal accuracy, and the paper's own ratios as oracle."""

from dataclasses import asdict, replace

import pytest

from resnet_rs import config
from resnet_rs.deploy.bench import Protocol, Timing, surroundings
from resnet_rs.processes import Stop
from resnet_rs.studies import speed
from resnet_rs.studies.summary import is_study, report

PROTOCOL = Protocol(batch_size=4)
PLAIN = {name: value for name, value in asdict(PROTOCOL).items() if name != "mode"}
FRONT = [(1.0, 60.0), (100.0, 80.0)]


def timed(network, latency_ms, mode="train"):
    cost = network.experiment.count_cost()
    return Timing(
        name=network.name,
        mode=mode,
        size=network.experiment.data.size,
        batch_size=4,
        params=cost.params,
        macs=cost.macs,
        latency_ms=latency_ms,
        latency_ms_p10=latency_ms,
        latency_ms_p90=latency_ms,
        images_per_second=4000 / latency_ms,
        peak_memory_mib=100.0,
        num_repeats=2,
        num_threads=1,
        device_name="made up",
        torch="2",
    )


@pytest.fixture(scope="module")
def known():
    return {c.name: c for c in speed.networks()}


def test_all_configurations_of_the_paper_are_measured(known):
    families = [c.family for c in known.values()]
    assert {family: families.count(family) for family in families} == {
        "ResNet-RS": 11,
        "EfficientNet": 8,
        "EfficientNet-RS": 8,
        "ResNet-200 of 2015": 2,
    }


def test_the_path_of_figure_1_leads_to_resnet_rs_200(known):
    """Table 1: from the baseline over its ninth row, all training methods, to the eleventh."""
    dated, trained = (c for c in known.values() if c.family == "ResNet-200 of 2015")
    ours = known["resnet-rs-200-i256"].experiment
    assert (dated.accuracy, trained.accuracy) == (79.0, 82.2)
    assert trained.experiment.recipe == ours.recipe and trained.experiment.data == ours.data
    assert set(config.diff(trained.experiment, ours)) == {
        "arch.se_ratio",
        "arch.stem",
        "arch.shortcut",
    }


def test_efficientnet_rs_is_the_same_network_on_smaller_images(known):
    for name, network in known.items():
        if network.family == "EfficientNet-RS":
            rival = known[name.rpartition("-i")[0].replace("-rs", "")]
            assert network.experiment.arch == rival.experiment.arch
            assert network.experiment.data.size < rival.experiment.data.size
            assert network.accuracy is None, "no source gives its accuracy"


def test_the_published_latencies_give_the_papers_speed_ups(known):
    """Table 3: at B6's accuracy 2.7 times on a TPUv3 and 3.3 times on a V100."""
    found = speed.speed_ups(speed.SpeedRecord(protocol=PLAIN))
    ups = {rival.name: times for rival, times in found}
    assert ups["efficientnet-b6"]["TPUv3, published"] == pytest.approx(2.7, abs=0.05)
    assert ups["efficientnet-b6"]["V100, published"] == pytest.approx(3.3, abs=0.05)
    here = ("training step, here", "inference, here")
    assert all(times[column] is None for times in ups.values() for column in here)


def test_a_front_keeps_what_nothing_beats():
    assert speed.front([(3.0, 70.0), (1.0, 60.0), (2.0, 55.0), (2.0, 65.0), (4.0, 70.0)]) == [
        (1.0, 60.0),
        (2.0, 65.0),
        (3.0, 70.0),
    ]


def test_between_neighbors_latency_grows_evenly_on_a_log_axis():
    assert speed.interpolated(FRONT, 70.0) == pytest.approx(10)
    assert speed.interpolated(FRONT, 60.0) == pytest.approx(1)
    assert speed.interpolated(FRONT, 81.0) is None


def test_twice_the_rivals_latency_is_twice_the_speed_up(known):
    ours = [timed(c, 10.0 * (i + 1)) for i, c in enumerate(known.values()) if c.family == "ResNet-RS"]
    rival = known["efficientnet-b4"]
    one, two = (speed.SpeedRecord(protocol=PLAIN, timings=(*ours, timed(rival, ms))) for ms in (50.0, 100.0))
    found = [
        next(times["training step, here"] for c, times in speed.speed_ups(r) if c == rival)
        for r in (one, two)
    ]
    assert found[1] == pytest.approx(2 * found[0])
    statements = speed.statements(two)
    assert statements[0].figure.startswith("efficientnet-b4: ")
    assert statements[1].finding == "not tried"


def test_rounds_count_by_their_median_and_memory_by_its_peak(known):
    network = known["resnet-rs-50-i160"]
    rounds = [timed(network, ms) for ms in (30.0, 10.0, 20.0)]
    rounds[1] = replace(rounds[1], peak_memory_mib=300.0)
    found = speed.SpeedRecord(protocol=PLAIN, timings=(*rounds, timed(network, 1.0, mode="infer")))
    of_training = found.timing(network.name, "train")
    assert (of_training.latency_ms, of_training.num_repeats, of_training.num_rounds) == (20.0, 6, 3)
    assert (of_training.latency_ms_p10, of_training.latency_ms_p90) == (10.0, 30.0)
    assert of_training.images_per_second == 200.0 and of_training.peak_memory_mib == 300.0
    assert found.timing("efficientnet-b0", "train") is None
    broken = replace(found, timings=(*found.timings, replace(rounds[0], error="no memory")))
    assert broken.timing(network.name, "train").error == "no memory"


def test_a_record_reads_what_it_writes_and_is_reported(known, tmp_path):
    timings = tuple(
        timed(c, ms, mode)
        for c in list(known.values())[:3]
        for mode, ms in {"infer": 4.0, "train": 10.0}.items()
    )
    record = speed.SpeedRecord(protocol=PLAIN, timings=timings)
    record.write(tmp_path)
    assert speed.read(tmp_path) == record
    assert is_study(tmp_path) and is_study(tmp_path / "speed.jsonl")
    text, page = report(tmp_path)
    assert "| resnet-rs-50-i160 | 160 | 35.7 | 2.28 | 2.5 | 100 | 1.0 | 100 | 78.9 | 70 | 310 |" in text
    assert "resnet-rs-50-i160" in page.read_text()


def test_what_is_measured_is_not_measured_again(known, tmp_path, monkeypatch):
    chosen = list(known.values())[:2]
    asked = []

    def bench(experiments, protocol):
        asked.append((protocol.mode, list(experiments)))
        for name in experiments:
            yield replace(timed(known[name], 10.0, protocol.mode), **surroundings(protocol))

    monkeypatch.setattr(speed, "bench", bench)
    first = speed.measure(tmp_path / "s", PROTOCOL, chosen, stop=Stop())
    next(first)
    first.close()
    assert len(list(speed.measure(tmp_path / "s", PROTOCOL, chosen, stop=Stop()))) == 4
    names = [c.name for c in chosen]
    assert asked == [("infer", names), ("infer", names[1:]), ("train", names)]
    with pytest.raises(ValueError, match="was measured with another protocol"):
        list(speed.measure(tmp_path / "s", replace(PROTOCOL, batch_size=2), chosen, stop=Stop()))


def test_what_was_measured_elsewhere_is_not_added_to(known, tmp_path):
    network = known["resnet-rs-50-i160"]
    here = replace(timed(network, 1.0), **{**surroundings(PROTOCOL), "device_name": "another processor"})
    speed.SpeedRecord(protocol=PLAIN, timings=(here,)).write(tmp_path)
    with pytest.raises(ValueError, match="was measured with device_name another processor, now "):
        next(speed.measure(tmp_path, PROTOCOL, [network], stop=Stop()))


def test_the_folder_of_something_else_is_not_taken(known, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no speed study"):
        next(speed.measure(tmp_path, PROTOCOL, list(known.values()), stop=Stop()))


def test_a_file_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "speed.jsonl").write_text('{"version": 1, "study": "speed"}\n')
    with pytest.raises(ValueError, match="speed.jsonl is no record of a study"):
        speed.read(tmp_path)
