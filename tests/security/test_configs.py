"""Settings from files and from the command line are values: what tries to be more is refused, and at once."""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import json
import pkgutil
import time
from itertools import product

import pytest
from sampling import sample

import resnet_rs
from resnet_rs import storage, verbs
from resnet_rs.config import edit, from_plain, parse_assignments, to_plain
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.models.backbone import Arch
from resnet_rs.training.experiment import Experiment
from resnet_rs.zoo import EXPERIMENTS

MEGABYTE = 10**6
BASE = edit(EXPERIMENTS["resnet-rs-50-i160"], {"data.randaugment": RandAugment()})
BASES = {
    "resnet-rs": BASE,
    "step decay": edit(BASE, {"recipe.schedule": "StepDecay"}),
    "efficientnet": EXPERIMENTS["efficientnet-b0"],
}
CODE = "__import__('os').system('touch canary')"
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(resnet_rs.__path__, "resnet_rs.")
    if not module.name.endswith("__main__")
]
"""Imported before anything is timed."""
VALUES = {
    f"{value.__module__}.{value.__qualname__}": value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type)
    and dataclasses.is_dataclass(value)
    and value.__module__.startswith("resnet_rs.")
}


@pytest.fixture(autouse=True)
def _at_home(tmp_path, monkeypatch):
    """In a folder in which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "canary").exists()


@contextlib.contextmanager
def within(seconds):
    """Fails if the block takes more time of the processor; collecting the garbage of other tests is not counted."""
    gc.disable()
    begin = time.process_time()
    try:
        yield
        took = time.process_time() - begin
    finally:
        gc.enable()
    assert took < seconds, f"{took:.2f} seconds"


def refuse(action, *arguments, seconds=0.1):
    """The one short sentence with which `action` is refused, within so much time."""
    with within(seconds), pytest.raises(ValueError) as error:
        action(*arguments)
    said = str(error.value)
    assert 10 < len(said) < 3000 and "\n" not in said
    return said


def made(value):
    """A value that is kept as the way to make it, since it is large."""
    return value() if callable(value) else value


def fields(plain, path=()):
    """Paths to every field of a stored value."""
    for name, value in plain.items():
        if isinstance(value, dict):
            yield (*path, name)
            yield from fields(value, (*path, name))
        else:
            yield (*path, name)


def replaced(plain, path, value):
    head, *rest = path
    return {**plain, head: replaced(plain[head], rest, value) if rest else value}


TYPES = {
    **{
        name: name
        for name in (
            *(
                "os.system",
                "subprocess.Popen",
                "builtins.eval",
                "pathlib.Path",
                "torch.nn.Linear",
                "typing.Any",
            ),
            *(
                "resnet_rs.zoo.EXPERIMENTS",
                "resnet_rs.verbs.train",
                "resnet_rs.cli.app",
                "resnet_rs.storage.Disk",
            ),
            *("resnet_rs.training.state.TrainState", "resnet_rs.models.resnet.ResNet", "resnet_rs.config.V"),
            *("resnet_rs.models.backbone.Arch", "resnet_rs.config.json", "resnet_rs.config.json.loads"),
            *("resnet_rs.config.__builtins__", "resnet_rs.config.__class__", "resnet_rs.__loader__"),
            *("resnet_rs.models.resnet.ResNetArch.__init__", "resnet_rs.config.dataclasses.Field"),
            *(
                "resnet_rs..models.resnet.ResNetArch",
                ".resnet_rs.config",
                "resnet_rs.models.resnet.",
                "resnet_rs",
            ),
            *(
                "resnet_rs.../x.Y",
                "resnet_rs/models/resnet.ResNetArch",
                "resnet_rs\\models.resnet.ResNetArch",
            ),
            *(
                "resnet_rs.\0.X",
                "resnet_rs_evil.X",
                "résnet_rs.X",
                " resnet_rs.config.V",
                "",
                " ",
                ".",
                "..",
                CODE,
            ),
        )
    },
    "deep": "resnet_rs." + "a." * 5000 + "X",
    "long": "resnet_rs." + "a" * 5000,
    "number": 3,
    "none": None,
    "list": ["resnet_rs.models.resnet.ResNetArch"],
    "object": {"type": "resnet_rs.models.resnet.ResNetArch"},
    "true": True,
}


SLOTS = [(), ("arch",), ("data", "randaugment"), ("recipe", "schedule")]


@pytest.mark.parametrize(("name", "slot"), sample(product(TYPES, SLOTS), of=4))
def test_no_other_type_is_built(name, slot):
    refuse(from_plain, replaced(to_plain(BASE), (*slot, "type"), TYPES[name]))


@pytest.mark.parametrize("name", [name for name in VALUES if VALUES[name] is not Experiment])
def test_no_value_of_ours_takes_the_place_of_another(name):
    stored = {"type": name}
    said = refuse(lambda: from_plain(stored, kinds=(Experiment,)))
    assert "Experiment" in said or "not a dataclass" in said
    if not issubclass(VALUES[name], Arch):
        refuse(from_plain, replaced(to_plain(BASE), ("arch",), stored))


def test_what_is_in_a_wrong_place_is_not_even_built(monkeypatch):
    built = []
    monkeypatch.setattr(RandAugment, "__post_init__", lambda self: built.append(self))
    misplaced = to_plain(BASE)["data"]["randaugment"]
    refuse(from_plain, replaced(to_plain(BASE), ("arch",), misplaced))
    refuse(from_plain, replaced(to_plain(BASE), ("arch", "se_ratio"), misplaced))
    assert built == []


@pytest.mark.parametrize("slot", [(), ("arch",), ("task",), ("data", "randaugment"), ("recipe", "schedule")])
@pytest.mark.parametrize(
    "name",
    ["colour", "__class__", "__dict__", "__init__", "__reduce__", "__post_init__", "", "type ", "a" * 10_000],
)
def test_no_other_field_is_set(slot, name):
    said = refuse(from_plain, replaced(to_plain(BASE), (*slot, name), CODE))
    assert "has no field" in said and "Its fields are: " in said


ODD = {
    **{
        json.dumps(value): value
        for value in (None, True, 0, -1, 0.5, 1e308, 10**400, [], {}, [[]], [None], [CODE])
    },
    **{
        json.dumps(value): value for value in ("", "3", "none", "RandAugment", "Cosine", CODE, "\0", "\ud800")
    },
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "a type": {"type": "os.system", "command": CODE},
    "a long text": "a" * 10**5,
    "a long list": [1] * 10**4,
    "a long object": dict.fromkeys(map(str, range(10**4))),
    "deep lists": json.loads("[" * 900 + "]" * 900),
    "deep objects": json.loads('{"type":' * 900 + "0" + "}" * 900),
}


@pytest.mark.parametrize(("base", "name"), sample(product(BASES, ODD), of=2))
def test_a_field_takes_a_value_of_its_type_or_none(base, name):
    plain = to_plain(BASES[base])
    for path in fields(plain):
        changed = replaced(plain, path, ODD[name])
        try:
            with within(0.1):
                built = from_plain(changed)
        except ValueError as error:
            assert len(str(error)) < 3000, path
        else:
            # Nothing is read as what it is not: text as a number, or a number as true.
            found = to_plain(built)
            for part in path:
                found = found[part]
            is_default = ODD[name] == {} and isinstance(found, dict)
            assert is_default or (found == ODD[name] and type(found) in (type(ODD[name]), float)), path


TYPED = {
    **{
        text: text
        for text in ("__import__('os')", CODE, "$(touch canary)", "`touch canary`", "${HOME}", "{{7*7}}")
    },
    **{
        text: text
        for text in ("!!python/object/apply:os.system ['touch canary']", "os.system", "lambda: 0", "nan")
    },
    **{
        text: text
        for text in ("inf", "-inf", "1e999", "NaN", "Infinity", "", " ", "\0", "\ud800", "'", '"', "{", "[")
    },
    **{
        text: text for text in ("[1,2,3,4", "{}}", '{"type": "os.system"}', '{"type": 3}', '{"a": 1, "a": 1}')
    },
    "a long text": lambda: "x" * (10 * MEGABYTE),
    "a long number": lambda: "9" * (10 * MEGABYTE),
    "a long list": lambda: "1," * (5 * MEGABYTE),
    "a long object": lambda: '{"' + "x" * (10 * MEGABYTE) + '": 1}',
    "many names": lambda: json.dumps(dict.fromkeys(map(str, range(10**5)))),
    "deep lists": lambda: "[" * 100_000,
    "closed deep lists": lambda: "[" * 100_000 + "]" * 100_000,
    "deep objects": lambda: '{"a":' * 100_000,
}


TYPED_AT = (
    "recipe.epochs recipe.batch_size recipe.nesterov recipe.ema_decay recipe.schedule recipe arch.stem arch.blocks "
    "arch data.randaugment data.mean task"
).split()


@pytest.mark.parametrize(("path", "name"), sample(product(TYPED_AT, TYPED), of=4))
def test_typed_text_is_never_more_than_a_value(path, name):
    edits = parse_assignments([f"{path}={made(TYPED[name])}"])
    refuse(edit, BASE, edits, seconds=1.0 if "long" in name or "many" in name else 0.1)


PATHS = [
    "__class__",
    "arch.__class__",
    "arch.__init__.__globals__",
    "recipe.epochs.__class__",
    "type",
    "arch.type",
]
PATHS += [
    ".",
    "..",
    "arch.",
    ".arch",
    "arch..width",
    "recipe.schedule.__post_init__",
    "data.randaugment.apply",
    CODE,
]


@pytest.mark.parametrize(
    "path", [*PATHS, "a" * 10 * MEGABYTE, "a." * MEGABYTE, "recipe." * 10**5], ids=lambda p: p[:30]
)
def test_no_path_leads_out_of_the_fields(path):
    refuse(edit, BASE, {path: "3"}, seconds=1.0 if len(path) > 1000 else 0.1)


TEXTS = {
    "nothing": "",
    "a number": "3",
    "a list": "[]",
    "null": "null",
    "text": '"experiment"',
    "two values": "{} {}",
    "a comment": "{} // more",
    "a comma too many": '{"type": 3,}',
    "Python": "{'type': None}",
    "a mark of byte order": "\ufeff{}",
    "a cut": '{"type": "resnet_rs',
    "not a number": "NaN",
    "deep lists": lambda: "[" * 100_000,
    "closed deep lists": lambda: "[" * 100_000 + "]" * 100_000,
    "deep objects": lambda: '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a long text": lambda: '"' + "a" * (10 * MEGABYTE) + '"',
    "a long number": lambda: "9" * MEGABYTE,
    "a long list": lambda: f"[{'1,' * (5 * MEGABYTE)}1]",
    "many objects": lambda: f"[{'{},' * 2 * 10**4}1]",
    "a name that is long": lambda: '{"' + "a" * (10 * MEGABYTE) + '": 1}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_of_any_other_text_is_damaged(name, run_folder, folder, reseal):
    text = made(TEXTS[name])
    seconds = 1.0 if len(text) > MEGABYTE // 20 else 0.1
    (run_folder / "experiment.json").write_text(text)
    refuse(verbs.report, run_folder, seconds=seconds)
    (folder / "checkpoint.json").write_text(text)
    reseal(folder)
    assert "checkpoint.json" in refuse(verbs.load, folder, seconds=seconds)


@pytest.mark.parametrize("name", TEXTS)
def test_an_experiment_of_any_other_kind_is_damage(name, folder, reseal):
    whole, text = (folder / "checkpoint.json").read_text(), made(TEXTS[name])
    experiment = json.dumps(json.loads(whole)["experiment"], indent=2).replace("\n", "\n  ")
    assert experiment in whole
    (folder / "checkpoint.json").write_text(whole.replace(experiment, text))
    reseal(folder)
    seconds = 1.0 if len(text) > MEGABYTE // 20 else 0.1
    assert "checkpoint.json" in refuse(verbs.load, folder, seconds=seconds)


FINE = {("split", "null"), ("seed", "0"), ("environment", "{}"), ("environment", "a type")}
FINE |= {("skipped", "[]"), ("skipped", "a long list")}


FIELDS = ["format", "step", "seed", "classes", "split", "skipped", "environment"]


@pytest.mark.parametrize(("field", "name"), sample(product(FIELDS, ODD), of=4))
def test_a_field_of_a_checkpoint_takes_a_value_of_its_type_or_none(field, name, folder, reseal):
    info = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**info, field: ODD[name]}))
    reseal(folder)
    if (field, name) in FINE:
        verbs.load(folder)
    else:
        assert folder.name in refuse(verbs.load, folder)


@pytest.mark.parametrize("path", ["format", "experiment", "width", "epochs", "num_classes"])
def test_a_name_that_is_set_twice_is_refused(path, folder, run_folder, reseal):
    text = (folder / "checkpoint.json").read_text()
    (folder / "checkpoint.json").write_text(text.replace(f'"{path}":', f'"{path}": 1, "{path}":'))
    reseal(folder)
    assert "checkpoint.json" in refuse(verbs.load, folder)


@pytest.mark.parametrize(
    "listed",
    [
        *(None, 3, "ema.safetensors", [], ["ema.safetensors"], {"ema.safetensors": None}),
        *({"ema.safetensors": 3}, {"ema.safetensors": []}, {"ema.safetensors": {}}),
        *({"ema.safetensors": {"bytes": "3", "sha256": 3}}, {"../run.json": {"bytes": 3, "sha256": "0"}}),
        *({"/dev/zero": {"bytes": 0, "sha256": "0"}}, {"a\0": {"bytes": 0, "sha256": "0"}}),
        *({"a": json.loads("[" * 400 + "]" * 400)}, {"a" * 5000: {"bytes": 0, "sha256": "0"}}),
        {"ema.safetensors": {"bytes": 10**400, "sha256": "0"}},
    ],
    ids=lambda listed: repr(listed)[:40],
)
def test_a_manifest_with_a_valid_seal_and_odd_entries_is_damage(listed, folder):
    seal = hashlib.sha256(json.dumps(listed, indent=2).encode()).hexdigest()
    (folder / storage.MANIFEST).write_text(json.dumps({"files": listed, "sha256": seal}, indent=2))
    refuse(verbs.load, folder)
