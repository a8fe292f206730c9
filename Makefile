# `make help` lists the targets. Each creates .venv and installs what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

unexport PYTHONDONTWRITEBYTECODE  # compiling all tests anew takes each of pytest's workers some ten seconds

.DEFAULT_GOAL := help
.PHONY: help demo claims systems real given check test lint types docs wheel lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## Run the whole pipeline on the toy world; prints where its report lies (2 to 3 minutes)
	$(BIN)/morlaif experiment=quickstart $(ARGS)

claims: $(VENV)/installed  ## Test what the papers claim on the toy world, five seeds of each arm (some 50 minutes; the same again runs what is missing)
	$(BIN)/morlaif sweep=claims $(ARGS)

systems: $(VENV)/installed  ## Compare every system of docs/systems.md that is an arm, on the toy world (a quarter of an hour)
	$(BIN)/morlaif experiment=systems $(ARGS)

real: given $(VENV)/installed  ## Run the whole pipeline on MODEL= and JUDGE= of yours and thirty example dialogues (some 20 minutes with 0.3B on two cores)
	$(BIN)/morlaif experiment=local budget=tiny model.path=$(MODEL) judge.path=$(JUDGE) data.path=morlaif/examples/dialogues.jsonl $(ARGS)

given:
	@test -n "$(MODEL)" -a -n "$(JUDGE)" || { echo "make real MODEL=<folder or hub id> JUDGE=<folder, hub id or URL>: give both; it fetches none by itself"; exit 2; }

check: lint types  ## Style, types and the fast tests, in under two minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

# Of three workers one waits for processes that its test has started, so this is for two cores.
test: $(VENV)/installed-dev  ## Run every test (ARGS=... goes to pytest)
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

lint: $(VENV)/installed-dev  ## Check the style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## Check the types
	$(BIN)/python -m mypy

docs: $(VENV)/installed-dev  ## Write docs/config.md, docs/claims.md and docs/systems.md anew from conf/, sweeps/claims/ and docs/systems.yaml (CLAIMS="<claims.json> …", SYSTEMS=<run folder>: with their numbers)
	$(BIN)/python -m morlaif.reference docs/config.md
	$(BIN)/python -m morlaif.claims.document docs/claims.md $(CLAIMS)
	$(BIN)/python -m morlaif.systems docs/systems.yaml docs/systems.md $(SYSTEMS)

wheel: $(VENV)/installed-dev  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

lock: $(VENV)/installed-dev  ## Write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' > $(VENV)/frozen
	{ sed '/^[^#]/,$$d' constraints.txt; cat $(VENV)/frozen; } > $(VENV)/constraints && mv $(VENV)/constraints constraints.txt

clean:  ## Remove the virtual environment and build leftovers; runs/ and store/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "morlaif needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Give one: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/installed
