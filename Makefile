# make setup | demo | test | test-slow | lint
PYTHON ?= python3.11
BIN := .venv/bin
ACTIVE := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: setup demo test test-slow lint

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# The lock of the folder is held by the run and its jobs: when it is free, a lock that Snakemake left behind is stale.
# After Ctrl-C the jobs need a moment to end.
demo: setup
	mkdir -p .snakemake
	flock --timeout 30 --conflict-exit-code 75 .snakemake/running sh -c '$(ACTIVE) snakemake --unlock --quiet all 2>/dev/null; \
	  $(ACTIVE) snakemake --cores 2 --keep-going --rerun-incomplete --scheduler greedy --logger neurorad' \
	  || { [ $$? -ne 75 ] || echo "another run is at work in this folder; wait for it, or stop it" >&2; exit 1; }

test: setup
	$(ACTIVE) pytest -m "not slow"

test-slow: setup
	$(ACTIVE) pytest -m slow --timeout 1800

lint: setup
	$(ACTIVE) ruff check workflow tests benchmarks
	$(ACTIVE) ruff format --check workflow tests benchmarks
	$(ACTIVE) snakefmt --check Snakefile workflow/rules
	$(ACTIVE) mypy
	$(ACTIVE) snakemake --lint
