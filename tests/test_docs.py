"""What the documents say is true: every command in them runs, every link leads somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tools.make_tables import filled
from warm import shared

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(document):
    """The commands of a document in order: those of `sh` blocks, and of plain blocks that call resnet-rs."""
    found = [line for block in blocks(document, "sh") for line in block.splitlines()]
    found += [
        line for block in blocks(document, "") for line in block.splitlines() if line.startswith("resnet-rs ")
    ]
    return [line.partition("  #")[0].strip() for line in found if line.strip()]


def run_elsewhere(document):
    """Slow commands that another document has word for word: they are run for it alone."""
    homes = {
        ROOT / "docs/STUDIES.md": ("resnet-rs study",),
        ROOT / "README.md": ("resnet-rs plan", "resnet-rs train --data"),
    }
    return {
        c for home, slow in homes.items() if home != document for c in commands(home) if c.startswith(slow)
    }


def shorter(command):
    """`command` with training cut to seconds; `make demo` trains one network to its end."""
    if command.startswith("resnet-rs train ") and "builtin" in command:
        return f"{command} recipe.epochs=0.5 recipe.schedule.warmup_epochs=0.1"
    if command.startswith("resnet-rs study ") and "--out" in command:
        return f"{command} recipe.epochs=2 recipe.schedule.warmup_epochs=0.2"
    # Fine-tuning at the whole size is run once, for README.md.
    is_tuned = command.startswith(("resnet-rs train efficientnet-lite0", "resnet-rs plan --data photos"))
    smaller = " data.size=64" if is_tuned else ""
    return re.sub(r"--minutes [0-9.]+", "--minutes 0.1", command) + smaller


@pytest.fixture
def place(tmp_path):
    """A folder with photos of two classes, a table of them, and weights of torchvision."""
    rng = np.random.default_rng(0)
    for name, color in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(1, 25):
            pixels = np.clip(rng.normal(color, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    rows = [f"photos/{name}/{i}.jpg,{name}" for name in ("cat", "dog") for i in range(1, 25)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    torch.save(torchvision.models.efficientnet_b0().state_dict(), tmp_path / "efficientnet_b0.pth")
    return tmp_path


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d)], ids=lambda d: d.name)
def test_every_command_runs_in_the_order_given(document, place):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for block in blocks(document, "yaml"):
        (place / block.splitlines()[0].removeprefix("# ")).write_text(block)
    for command in commands(document):
        if command in run_elsewhere(document):
            continue
        if command.startswith(("make ", ". ")):
            continue  # `test_every_make_target_exists`; `.ci/run` runs the targets themselves
        words = shlex.split(shorter(command))
        if words[0] == "torchrun":
            script = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            result = subprocess.run(
                script, cwd=place, env=environment, capture_output=True, text=True, timeout=280
            )
        else:
            result = shared().run(words, cwd=place, env={"RESNET_RS_CACHE": str(place / "cache")})
        assert result.returncode == 0, (command, result.stderr)
    for block in blocks(document, "python"):
        result = shared().run(["python", "-c", block], cwd=place)
        assert result.returncode == 0, (block, result.stderr)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_make_target_exists(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for command in commands(document) if command.startswith("make ")}
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_link_leads_to_a_file(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_field_that_is_named_exists(document):
    """Dotted names such as recipe.epochs are fields of an experiment of the zoo."""
    from resnet_rs.config import edit
    from resnet_rs.methods.randaugment import RandAugment
    from resnet_rs.zoo import EXPERIMENTS

    base = edit(EXPERIMENTS["resnet-rs-50-i160"], {"data.randaugment": RandAugment()})
    bases = [base, EXPERIMENTS["resnet-50-2015"], EXPERIMENTS["efficientnet-b0"]]
    for path in set(
        re.findall(r"\b((?:arch|data|task|recipe)(?:\.[a-z_0-9]+)+)\b(?![(/.])", document.read_text())
    ):
        if path.endswith((".py", ".md")) or f"{path}.py" in document.read_text():
            continue
        assert any(_has(base, path) for base in bases), path


def _has(value, path):
    for name in path.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_table_of_results_is_what_its_command_prints(document):
    """`python tools/make_tables.py` writes them."""
    text = document.read_text()
    assert filled(text) == text


def test_every_file_of_results_is_shown_in_a_document():
    shown = "".join(document.read_text() for document in DOCUMENTS)
    for path in (ROOT / "results").glob("*"):
        assert f"results/{path.name}" in shown


def test_every_method_has_a_card():
    methods = {path.stem for path in (ROOT / "src/resnet_rs/methods").glob("*.py")} - {"__init__", "schedule"}
    cards = {path.stem for path in (ROOT / "docs/methods").glob("*.md")}
    assert methods <= cards
