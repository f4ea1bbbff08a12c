# Two commands: `make reproduce` runs the lessons, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
PROFILE ?= quick

.PHONY: help install reproduce test faults classroom explore book clean

help:
	@echo "make reproduce   install, run the lessons (PROFILE=quick|laptop|paper), list what was made"
	@echo "make test        install if needed, run all tests"
	@echo "make faults      kill each kind of work twenty times, fill the disk, run a thousand jobs (an hour)"
	@echo "make classroom   install if needed, write copies of the lessons: student, selfstudy, instructor, nbgrader"
	@echo "make book        install if needed, write lessons, tables and documents as a site: build/book/index.html"
	@echo "make explore     install if needed, open the heatmap explorer (lesson 12) in the browser"
	@echo "make clean       remove build/ (caches, checkpoints, executed lessons)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "dumenet needs Python 3.10 or newer: set PYTHON=/path/to/python3."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[notebooks,test,fast]'
	@touch $@

$(VENV)/.teaching: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[book,teaching]'
	@touch $@

reproduce: install
	@$(BIN)/dumenet reproduce --profile $(PROFILE)

test: $(VENV)/.teaching
	@export OMP_NUM_THREADS=1 TQDM_DISABLE=1; two="$(BIN)/python -m pytest -n 2 --dist loadfile"; \
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && \
	$$two tests && \
	$$two --nbval-lax --nbval-cell-timeout=1800 notebooks && \
	$$two tests/browser --dist loadgroup && \
	echo "All tests passed."

faults: install
	@FAULTS=20 TQDM_DISABLE=1 $(BIN)/python -m pytest tests/faults

classroom: $(VENV)/.teaching
	@$(BIN)/dumenet classroom

book: $(VENV)/.teaching
	@$(BIN)/dumenet book

explore: install
	@$(BIN)/dumenet explore

clean:
	rm -rf build
