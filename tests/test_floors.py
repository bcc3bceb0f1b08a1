"""The house: imports only go down, and what belongs to one room stays in it."""

import ast
from pathlib import Path

import pytest

import resnet_rs

ROOT = Path(resnet_rs.__file__).parent
FLOORS = {
    "cli": 8,
    "progress": 8,
    "verbs": 7,
    "zoo": 5,
    "fit": 5,
    "deploy": 5,
    "bridges": 5,
    "training": 4,
    "tasks": 3,
    "models": 2,
    "data": 2,
    "methods": 1,
    "report": 1,
    "config": 1,
    "draws": 1,
    "storage": 1,
    "paper": 1,
}
WITHOUT_TORCH = {"paper", "report", "config", "storage", "zoo", "cli"}
ONLY_IN = {
    "torch.distributed": {"training/device.py"},
    "PIL": {"data/decode.py", "data/resample.py", "report/page.py"},
    "timm": set(),
    "pickle": set(),
    "socket": set(),
    "random": set(),
    "sys": {"cli.py"},
    "typer": {"cli.py"},
    "rich": {"cli.py", "progress.py"},
    "pydantic": {"config.py"},
    "plotly": {"report/figures.py", "report/page.py"},
    "safetensors": {"training/checkpoint.py"},
}
FILES = sorted(ROOT.rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Full names of what a file imports, at its top or inside a function; for type checkers only ones left out."""
    tree = ast.parse(file.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_rooms(file: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("resnet_rs.")}
    return ours - {room(file)} - {"__version__"}


def test_every_file_has_a_floor():
    assert {room(file) for file in FILES} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_only_go_down(file):
    if room(file) == "__init__":
        assert own_rooms(file) == set()
        return
    floor = FLOORS[room(file)]
    for other in own_rooms(file):
        # The roof is two files, of which one calls the other.
        is_roof = (room(file), other) == ("cli", "progress")
        assert FLOORS[other] < floor or is_roof, f"{file.relative_to(ROOT)} imports {other}"


def test_training_sees_no_concrete_arch_task_or_source():
    for file in (ROOT / "training").rglob("*.py"):
        names = imports(file)
        concrete = [name for name in names if name.startswith(("resnet_rs.models.", "resnet_rs.tasks."))]
        allowed = ("resnet_rs.models.backbone.", "resnet_rs.models.cost.", "resnet_rs.tasks.task.")
        assert all(name.startswith(allowed) for name in concrete), (file, concrete)
        sources = ("builtin", "folders", "shapes")
        assert not any(name.startswith(f"resnet_rs.data.{source}") for name in names for source in sources)


@pytest.mark.parametrize("room_name", ["tasks", "methods", "models"])
def test_siblings_do_not_import_each_other(room_name):
    shared = {"task", "backbone", "layers"}
    for file in (ROOT / room_name).glob("*.py"):
        siblings = {
            name.split(".")[2] for name in imports(file) if name.startswith(f"resnet_rs.{room_name}.")
        }
        assert siblings <= shared, (file.name, siblings)


@pytest.mark.parametrize("file", [f for f in FILES if room(f) in WITHOUT_TORCH], ids=lambda f: f.name)
def test_files_that_handle_values_do_not_import_torch(file):
    assert not any(name.split(".")[0] == "torch" for name in imports(file))


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_used_only_in_its_room(library):
    users = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        for name in imports(file)
        if name == library or name.startswith(library + ".")
    }
    assert users <= ONLY_IN[library]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_can_run_what_it_reads(file):
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)}
    assert not calls & {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "os.system", "yaml.load"}
    assert "allow_pickle=True" not in file.read_text()


def test_no_room_for_odds_and_ends():
    banned = {"utils", "common", "helpers", "misc", "base"}
    assert not banned & {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_fits_in_the_head(file):
    assert len(file.read_text().splitlines()) <= 400
