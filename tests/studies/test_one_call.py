"""A study asked for from Python."""

import pytest
from studies.conftest import EDITS, STEPS, options

import resnet_rs as rs
from resnet_rs.config import parse_assignments
from resnet_rs.report.comparison import Verdict
from resnet_rs.studies.record import read

STUDY = rs.Study(name="mine", title="Does dropout pay?", trials=rs.additive(STEPS))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return options(tmp_path_factory.mktemp("images")).data


@pytest.fixture(scope="module")
def base():
    return rs.experiment("resnet-rs-tiny", parse_assignments([f"{path}={v}" for path, v in EDITS.items()]))


def test_a_study_made_in_python_gives_its_table_and_is_not_run_twice(data, base, tmp_path):
    table = rs.study(STUDY, base=base, data=data, out=tmp_path / "study", num_seeds=2)
    plain, dropout = table.rows
    assert (plain.label, dropout.label, dropout.baseline) == ("plain", "+ dropout", "plain")
    assert dropout.paper_difference == 1.5 and isinstance(dropout.verdict, Verdict)
    assert plain.score is not None and plain.score.num_seeds == 2
    record = read(tmp_path / "study")
    assert [(r.label, r.seed, r.error) for r in record.results] == [
        ("plain", 0, None),
        ("plain", 1, None),
        ("+ dropout", 0, None),
        ("+ dropout", 1, None),
    ]
    before = (tmp_path / "study/record.jsonl").read_bytes()
    assert rs.study(STUDY, base=base, data=data, out=tmp_path / "study", num_seeds=2) == table
    assert (tmp_path / "study/record.jsonl").read_bytes() == before


def test_python_and_yaml_make_the_same_study(base, tmp_path):
    from resnet_rs.studies.file import read as read_file

    (tmp_path / "mine.yaml").write_text(
        "title: Does dropout pay?\n"
        "additive:\n"
        "  plain: {task.label_smoothing: 0.0, paper: 70}\n"
        "  + dropout: {task.dropout: 0.1, paper: 71.5}\n"
    )
    assert read_file(tmp_path / "mine.yaml", base) == STUDY


def test_a_study_of_ones_own_takes_no_name_of_the_paper(data, base, tmp_path):
    named = rs.Study(name="scaling", title="Mine", trials=rs.additive(STEPS))
    with pytest.raises(ValueError, match="Choose another name for yours"):
        rs.study(named, base=base, data=data, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_an_edit_that_the_base_does_not_take_is_refused_before_anything_is_written(data, base, tmp_path):
    odd = rs.Study(
        name="mine", title="Mine", trials=rs.alternatives([rs.Trial(label="a", edits={"arch.depht": 3})])
    )
    with pytest.raises(ValueError, match="trial 'a' of study 'mine'"):
        rs.study(odd, base=base, data=data, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()
