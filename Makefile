# Everything runs in .venv, which is made on first use: python3 (3.10 or newer), make and a package index suffice.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test test-all test-faults lint format docs clean

demo: $(READY)
	$(BIN)/xrayfast demo

# Two processes of one thread each: the nets of the tests are too small to share. In the order of their names: by default
# files of few tests, which train longest, would come last, when one process has nothing left to do.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow or not slow" --ignore tests/faults

# Kills, signals, damaged files and hostile runs, and one line of counts: see examples/guide/contributing.md.
test-faults: $(READY)
	$(BIN)/python -m pytest -m slow tests/faults

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xrayfast

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The page of the guide that lists every option; a test says when it is to be made again.
docs: $(READY)
	$(BIN)/python examples/guide/make_commands.py

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installs once, and again when the dependencies change; an interrupted installation is taken up where it stopped.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "xrayfast needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing xrayfast and its libraries into .venv (torch is large: a few minutes)..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)
