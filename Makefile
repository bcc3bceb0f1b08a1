# `make demo`, `make test`, `make chaos`: each sets up what it needs in .venv, which is made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo
CHAOS_TESTS ?= tests/chaos $(if $(filter full,$(CHAOS)),tests/security)

.PHONY: demo test chaos gpu check clean

demo: $(VENV)/.installed
	$(BIN)/resnet-rs train resnet-rs-small --data builtin --out $(DEMO_OUT)
	$(BIN)/resnet-rs evaluate $(DEMO_OUT) --data builtin

test: check
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore tests/chaos --ignore tests/cluster --ignore tests/gpu

# Kills, power cuts, full disks, lost ranks, a lost Ray node. `CHAOS=full make chaos` tries each ten times as often, and
# every hostile file and value, of which `make test` tries a sample.
chaos: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -p no:randomly -o addopts=--import-mode=importlib $(CHAOS_TESTS)
	$(BIN)/python -m pytest -q tests/cluster  # by themselves: what Ray leaves open would warn in other tests

# What needs a CUDA device, and a benchmark that appends to results/gpu.jsonl; without a device all of it is skipped.
gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -q -rs tests/gpu

check: $(VENV)/.installed
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/pyright

$(VENV)/.installed: pyproject.toml constraints.txt
	PYTHON="$(PYTHON)" sh tools/set_up.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) runs
