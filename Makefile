.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help fit test bench faults
help:  ## say what each target does
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 8

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

fit: .venv/installed  ## fine-tune BERT on Rotten Tomatoes and print its held-out accuracy
	$(BIN)/python train.py fit

bench: .venv/installed  ## compare speed with the Hugging Face Trainer's, and write runs/bench.json
	$(BIN)/python benchmarks/throughput.py

faults: .venv/installed  ## kill and disturb runs, and check that they end like undisturbed ones
	$(BIN)/python tests/faults.py

test: .venv/installed  ## lint, check types, and run all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
