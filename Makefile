# On a fresh machine: `make demo` does the main job on the built-in miniature, `make test` runs the tests, and
# `make campaigns` runs the tests that take longest, `make bench` measures the kernels and prints their table, and
# `make aot` compiles them for GPUs that are not here. `make check-demo` runs the demo and holds it to its bounds.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

THREADS ?= 2
# Processes that share the tests, of which each takes one core; 0 for none but this one.
WORKERS ?= 2

.PHONY: demo check-demo test campaigns bench aot lint types docs reference install clean

demo: $(READY)
	$(BIN)/vkdsurgeon demo

check-demo: $(READY)
	$(BIN)/python -m pytest -m campaign tests/cli/test_demo.py

test: $(READY) lint types docs
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

campaigns: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m campaign

bench: $(READY)
	$(BIN)/python -m pytest -q -s benchmarks/kernels --benchmark-enable --record --bench-threads $(THREADS)
	$(BIN)/python -m benchmarks.end_to_end --record --threads $(THREADS)
	$(BIN)/python -m benchmarks.table --write

aot: $(READY)
	$(BIN)/python -m vkdsurgeon_kernels.ahead_of_time --json > benchmarks/results/aot.jsonl

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The site, as build/site; a missing link or heading fails it (with --quiet it would not).
docs: $(READY)
	$(BIN)/mkdocs build --strict

# Pages of docs/ that follow from the code.
reference: $(READY)
	$(BIN)/python -m docs.generate

install: $(READY)

# The constraints hold the versions the tests were run with; on Linux the torch of a stock index is the CUDA build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
