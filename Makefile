# `make demo`, `make test`: each sets up what it needs in .venv, which is made once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

.PHONY: demo test check clean

demo: $(VENV)/.installed
	$(BIN)/resnet-rs train resnet-rs-small --data builtin --out $(DEMO_OUT)
	$(BIN)/resnet-rs evaluate $(DEMO_OUT) --data builtin

test: check
	$(BIN)/python -m pytest -q -n 2

check: $(VENV)/.installed
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/pyright

$(VENV)/.installed: pyproject.toml constraints.txt
	PYTHON="$(PYTHON)" sh tools/set_up.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) runs
