# Each target prepares what it needs: `make quickstart` works in a fresh clone.
PYTHON ?= python3
VENV := .venv
# full: also what the tests of optional parts need.
EXTRAS ?= dev
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Threads per test process; tests compare floating-point numbers, and several processes share the machine.
YOUR_THREADS := $(OMP_NUM_THREADS)
export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: install quickstart test test-all chaos lint format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "unmask needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

quickstart: $(STAMP)
	$(if $(YOUR_THREADS),,env -u OMP_NUM_THREADS) $(BIN)/unmask quickstart $(ARGS)

test: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP)
	$(PYTEST) $(ARGS)

# Workers, the learners and the driver are killed while a run goes on; it must end as the undisturbed one.
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/rl/test_cluster_chaos.py tests/rl/test_killed.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
