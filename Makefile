# make install | demo | test | test-slow | mutations | lint | types | bench | docs | clean
# PYTHON: the interpreter to start from (3.10 to 3.12); one that imports Detectron2 lends it, and its PyTorch, to the environment.
# VENV: the environment that is made. UNLOCKED=1: with the newest packages instead of those in requirements/.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.detkit-installed
DOCS_STAMP := $(VENV)/.detkit-docs-installed
DEMO := output/demo
# small tensors: one thread per process is fastest
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow mutations lint types bench docs clean

help:
	@sed -n '1,3s/^# //p' Makefile

install: $(STAMP)
	@echo "Everything is in $(VENV)."

$(STAMP): pyproject.toml setup.py tools/install.py requirements/dev.txt
	@$(PYTHON) tools/install.py --venv $(VENV) $(if $(UNLOCKED),--unlocked)

demo: $(STAMP)
	@$(PY) train_net.py --config-file configs/quick/fcos_shapes.yaml OUTPUT_DIR $(DEMO)
	@$(PY) tools/report.py --output-dir $(DEMO)

test: $(STAMP)
	@$(TEST_ENV) $(PY) -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(STAMP)
	@$(TEST_ENV) $(PY) -m pytest -n 2 -m "slow and not gpu"

mutations: $(STAMP)  # do the tests notice edits of the code? about an hour
	@$(PY) tools/mutate.py

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(STAMP)
	@$(PY) -m mypy
	@MYPYPATH=benchmarks $(PY) -m mypy --explicit-package-bases benchmarks/*.py benchmarks/peers/*.py

bench: $(STAMP)  # about half an hour, then docs/performance.md
	@$(PY) benchmarks/all.py

docs: $(DOCS_STAMP)  # the pages and the API reference; a warning fails
	@$(PY) -m sphinx -W --keep-going -q -c docs . output/docs
	@echo "Documentation: output/docs/index.html"

$(DOCS_STAMP): $(STAMP) requirements/docs.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements/docs.txt
	@touch $@

clean:
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
