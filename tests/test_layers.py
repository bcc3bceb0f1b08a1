"""The layers: imports only go down, and what belongs to one package stays in it."""

import ast
import re
from pathlib import Path

import pytest

import resnet_rs

ROOT = Path(resnet_rs.__file__).parent
LAYERS = {
    "__main__": 10,
    "cli": 9,
    "studies": 8,
    "verbs": 7,
    "weights": 6,
    "zoo": 5,
    "plan": 5,
    "deploy": 5,
    "pseudo": 5,
    "bridges": 5,
    "training": 4,
    "tasks": 3,
    "models": 2,
    "data": 2,
    "jobs": 2,
    "methods": 1,
    "report": 1,
    "config": 1,
    "draws": 1,
    "storage": 1,
    "processes": 1,
    "paper": 1,
    "text": 0,
}
WITHOUT_TORCH = {"paper", "report", "config", "storage", "text", "zoo", "cli", "jobs", "studies"}
ONLY_IN = {
    "torch.distributed": {"training/group.py"},
    "PIL": {"data/decode.py", "data/near_duplicates.py", "data/resample.py", "report/page.py"},
    "timm": {"bridges/timm.py"},
    "huggingface_hub": {"bridges/hub.py"},
    **{name: set() for name in ("pickle", "marshal", "shelve", "dill", "joblib", "runpy", "code")},
    "yaml": {"studies/file.py"},
    "ray": {"jobs.py"},
    "scipy": {"report/comparison.py", "report/statistics.py"},
    "google_crc32c": {"bridges/bundle_index.py"},
    "h5py": {"bridges/keras.py"},
    **{name: {"bridges/archive.py"} for name in ("tarfile", "zipfile", "gzip")},
    "subprocess": {"bridges/torch_file.py"},
    "ctypes": {"processes.py"},
    "filelock": {"storage.py"},
    "socket": set(),
    "pooch": {"bridges/download.py"},
    **{name: set() for name in ("urllib", "http", "urllib3", "requests", "httpx", "aiohttp", "ftplib")},
    "random": set(),
    "sys": {f"cli/{name}.py" for name in ("app", "output", "progress", "ranks")} | {"bridges/torch_file.py"},
    "typer": {
        f"cli/{name}.py" for name in ("app", "options", "zoo", "training", "scoring", "pseudo", "studies")
    },
    "pyarrow": {"pseudo/table.py"},
    "imagehash": {"data/near_duplicates.py"},
    "rich": {"cli/progress.py"},
    "pydantic": {"config.py"},
    "plotly": {"report/frame.py"},
    "safetensors": {"training/checkpoint.py", "bridges/torch_file.py"},
}
MAY_ONLY = {
    "bridges/torch_file.py": {"torch.load"},
    "config.py": {"importlib.import_module"},
    "__init__.py": {"importlib.import_module"},
}
"""Files that call something that could run what they read; their own tests show that it does not."""
RUNNING = set(
    "loads Unpickler _load_from_bytes import_module system popen fork forkpty posix_spawn posix_spawnp startfile "
    "run_path run_module broadcast_object_list all_gather_object gather_object scatter_object_list "
    "send_object_list recv_object_list load_state_dict_from_url".split()
)
"""Last names of functions that run what they are given, unpickle it or fetch it."""
HARMLESS = {"json.loads", "platform.system"}
FILES = sorted(ROOT.rglob("*.py"))


def package(file: Path) -> str:
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


def own_packages(file: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("resnet_rs.")}
    return ours - {package(file)} - {"__version__"}


def dangers(code: str) -> set[str]:
    """What of a source could run what it reads, whether it is called or only named."""
    tree = ast.parse(code)
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            full |= {alias.asname or alias.name: start + alias.name for alias in node.names}
    parts = [ast.unparse(n).split(".") for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute)]
    named = {".".join([full.get(first, first), *rest]) for first, *rest in parts}
    found = {name for name in named | set(full.values()) if name not in HARMLESS and is_running(name)}
    keywords = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    loose = ("allow_pickle=", "weights_only=", "shell=", "trust_remote_code=")
    strict = {"allow_pickle=False", "weights_only=True", "shell=False", "trust_remote_code=False"}
    return found | {word for word in keywords if word.startswith(loose) and word not in strict}


def is_running(name: str) -> bool:
    """Whether a dotted name is that of a function that runs, unpickles or fetches."""
    first, _, last = name.rpartition(".")
    readers = ("torch", "yaml", "pickle", "dill", "joblib")
    is_trusting = last == "load" and first.partition(".")[0] in readers
    is_new_program = first == "os" and last.startswith(("exec", "spawn"))
    is_built_in = first in ("", "builtins") and last in ("eval", "exec", "compile", "__import__")
    return last in RUNNING or is_trusting or is_new_program or is_built_in


def test_every_file_has_a_layer():
    assert {package(file) for file in FILES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_only_go_down(file):
    if package(file) == "__init__":
        assert own_packages(file) == set()
        return
    layer = LAYERS[package(file)]
    for other in own_packages(file):
        assert LAYERS[other] < layer, f"{file.relative_to(ROOT)} imports {other}"


def test_training_sees_no_concrete_arch_task_or_source():
    for file in (ROOT / "training").rglob("*.py"):
        names = imports(file)
        concrete = [name for name in names if name.startswith(("resnet_rs.models.", "resnet_rs.tasks."))]
        interfaces = (
            "models.backbone.",
            "models.checkpointing.",
            "models.cost.",
            "models.randomness.",
            "tasks.task.",
        )
        allowed = tuple(f"resnet_rs.{name}" for name in interfaces)
        assert all(name.startswith(allowed) for name in concrete), (file, concrete)
        sources = ("builtin", "folders")
        assert not any(name.startswith(f"resnet_rs.data.{source}") for name in names for source in sources)


@pytest.mark.parametrize("package_name", ["tasks", "methods", "models"])
def test_siblings_do_not_import_each_other(package_name):
    shared = {"task", "classifier", "backbone", "layers", "checkpointing", "randomness"}
    for file in (ROOT / package_name).glob("*.py"):
        siblings = {
            name.split(".")[2] for name in imports(file) if name.startswith(f"resnet_rs.{package_name}.")
        }
        # A large task may have files of its own, which begin with its name.
        own = {name for name in siblings if name.split("_")[0] == file.stem.split("_")[0]}
        assert siblings - own <= shared, (file.name, siblings)


@pytest.mark.parametrize("file", [f for f in FILES if package(f) in WITHOUT_TORCH], ids=lambda f: f.name)
def test_files_that_handle_values_do_not_import_torch(file):
    assert not any(name.split(".")[0] == "torch" for name in imports(file))


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_used_only_in_its_package(library):
    users = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        for name in imports(file)
        if name == library or name.startswith(library + ".")
    }
    assert users <= ONLY_IN[library]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_can_run_what_it_reads(file):
    name = file.relative_to(ROOT).as_posix()
    assert dangers(file.read_text()) <= MAY_ONLY.get(name, set())


@pytest.mark.parametrize("file", MAY_ONLY)
def test_what_a_file_may_is_what_it_does(file):
    assert dangers((ROOT / file).read_text()) == MAY_ONLY[file]


def test_torch_load_is_called_once_and_with_weights_only():
    tree = ast.parse((ROOT / "bridges/torch_file.py").read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert ["weights_only=True" in map(ast.unparse, call.keywords) for call in calls] == [True]


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "run = exec",
        "import builtins; builtins.eval(text)",
        "__import__(name)",
        "compile(text, name, 'exec')",
        "pickle.loads(content)",
        "from pickle import loads",
        "pickle.Unpickler(file)",
        "torch.load(file)",
        "from torch import load",
        "import torch as t; t.load(file)",
        "torch.jit.load(file)",
        "torch.hub.load(name)",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=trusted)",
        "yaml.load(text)",
        "marshal.loads(content)",
        "os.system(command)",
        "os.popen(command)",
        "os.execv(path, arguments)",
        "from os import system",
        "Popen(command, shell=True)",
        "dist.broadcast_object_list(objects)",
        "importlib.import_module(name)",
    ],
)
def test_what_can_run_is_seen(code):
    assert dangers(code)


def test_no_room_for_odds_and_ends():
    banned = {"utils", "common", "helpers", "misc", "base"}
    assert not banned & {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_fits_in_the_head(file):
    assert len(file.read_text().splitlines()) <= 400


def test_no_file_outside_of_tasks_names_a_score():
    """Pages, studies, logs and cards know the headline of whatever task runs."""
    scores = ("top1", "top-1", "top5", "top-5", "nll")
    pattern = re.compile(rf"(?<![\w.-])({'|'.join(scores)})(?![\w-])", re.IGNORECASE)
    named = {
        str(file.relative_to(ROOT)): sorted(set(pattern.findall(file.read_text())))
        for file in FILES
        if package(file) != "tasks" and pattern.search(file.read_text())
    }
    assert named == {}
