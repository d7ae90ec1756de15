# Works on a fresh machine with Python 3.11 or newer; `make install` is what the other targets need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-fast test-containers lint format concepts miniature

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/installed  ## .venv with the package, at the versions of constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install  ## the whole job on the miniature: train, then pictures before and after
	$(BIN)/fluxbooth demo

test: install  ## all tests but those of the containers
	$(BIN)/pytest -m "not containers" -n 2 --dist loadgroup -rs --durations 15

test-fast: install  ## the tests that take seconds
	$(BIN)/pytest

test-containers: install  ## the tests that need a Docker engine
	$(BIN)/pytest -m containers -rs

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## bring the code into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

concepts: install  ## draw the two sample concepts again, and the subjects they are held against
	$(BIN)/python scripts/draw_concepts.py
	$(BIN)/python scripts/draw_other_subjects.py

miniature: install  ## train the miniature's weights again from nothing: hours on two cores; resumes
	$(BIN)/python scripts/train_miniature.py
