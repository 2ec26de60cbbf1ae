# `make demo` and `make test` each work alone on a fresh clone: Python >= 3.10 and a package registry are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?=
# Of gpu-check: seconds; cuda, or cpu to try it on tiny sizes; where its records go; more options, as --data.root DIR
BUDGET ?= 480
DEVICE ?= cuda
OUT ?= gpu-check
CHECK ?=
CHECK_PYTHON ?= $(BIN)/python

.PHONY: demo test tests test-fast test-versions test-slow test-faults lint docs docs-serve gpu-check install clean

install: $(VENV)/.installed

# Runs again only when what is to be installed has changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, got " + sys.version)'
	$(BIN)/python -c "" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	# Python compiles what it imports; pip would compile all 17,000 files, which takes a minute.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[test]'
	# lightning-bolts declares pytorch-lightning<2; acnet_pl.integrations.bolts makes it work with 2.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps lightning-bolts==0.7.0
	touch $@

demo: install
	WANDB_MODE=offline $(BIN)/python -m acnet_pl demo

lint: install
	$(BIN)/ruff check src tests benchmarks notebooks
	$(BIN)/ruff format --check src tests benchmarks notebooks
	$(BIN)/mypy

# mypy, which has one process, reads while the tests run.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint tests

# Each of the two processes has half of the modules, so that it makes most of what they share once.
tests: install
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not faults' $(TESTS)

# What costs little, of each module; tests/fast.py says what that is.
test-fast: install
	$(BIN)/pytest -n 2 --dist worksteal --fast $(TESTS)

# Oldest declared, pinned and newest versions, each in an environment of its own; VERSIONS="oldest" runs one of them.
test-versions:
	$(PYTHON) .ci/versions.py $(VERSIONS)

test-slow: install
	$(BIN)/pytest -m slow $(TESTS)

test-faults: install
	$(BIN)/pytest -m faults $(TESTS)

# Runs the notebooks, which takes some minutes; docs-serve shows them without output.
docs: install
	ACNET_PL_RUN_NOTEBOOKS=true NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site
	@echo "build/site/index.html is the site's first page"

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

gpu-check: $(if $(filter $(BIN)/python,$(CHECK_PYTHON)),install)
	$(CHECK_PYTHON) benchmarks/gpu_check.py --device $(DEVICE) --budget $(BUDGET) --out $(OUT) $(CHECK)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
