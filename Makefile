# Everything from a fresh clone: `make demo` and `make test` need Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO_OUT ?= demo_out
MATRIX_OUT ?= matrix_out

RELIABILITY := $(addprefix tests/test_,resume.py training_faults.py determinism.py distributed.py parallel_cases.py \
	streaming.py hostile.py hostile_pages.py hostile_sizes.py determinism_exchange.py) $(wildcard tests/test_fuzz*.py)

SPELLED := medtrace tests docs tutorials $(wildcard *.md) Makefile setup.cfg pyproject.toml .github

.PHONY: help demo demo-full pretrained test coverage test-slow test-reliability test-gpu lint docs benchmarks matrix clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[bench]'
	$(BIN)/medtrace doctor --compile --quiet > $(VENV)/doctor.txt
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[test]'
	touch $@

demo: $(VENV)/installed ## train three methods on simulated surgery and compare them (some minutes)
	$(BIN)/medtrace bench --study short --out $(DEMO_OUT)

demo-full: $(VENV)/installed ## the longer setting (about half an hour)
	$(BIN)/medtrace bench --setting full --out $(DEMO_OUT)-full

pretrained: $(VENV)/installed-test ## train the weights that ship and make their cards and scans (some ten minutes)
	$(BIN)/python -m tests.pretrained

lint: $(VENV)/installed-test ## ruff, mypy, codespell and the linter of the page's JavaScript
	$(BIN)/ruff check medtrace tests docs
	$(BIN)/ruff format --check medtrace tests docs
	$(BIN)/mypy
	$(BIN)/codespell $(SPELLED)
	$(BIN)/oxlint -c tests/viewer/oxlint.json --deny-warnings medtrace/report/viewer/assets tests/viewer

test: lint ## the tests that take minutes, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

coverage: $(VENV)/installed-test ## the same tests with branch coverage, which must not fall below pyproject's floor
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=xml

test-slow: $(VENV)/installed-test ## the long tests as well
	$(BIN)/python -m pytest -m slow

test-reliability: $(VENV)/installed-test ## crashes, faults, hostile input, determinism (docs/reliability.md; under an hour)
	$(BIN)/python -m pytest -m 'slow or not slow' $(RELIABILITY)

test-gpu: $(VENV)/installed-test ## the tests that need an NVIDIA GPU, and their page (docs/results/gpu.md)
	$(BIN)/python -m tests.gpu_page

docs: $(VENV)/installed-test ## the documentation, warnings as errors
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

benchmarks: $(VENV)/installed ## time and memory beside other libraries, for docs/performance.md (about 12 minutes)
	$(PIP) -e '.[benchmark]'
	$(BIN)/python -m tests.benchmarks

matrix: $(VENV)/installed-test ## wheel and sdist in fresh environments (outside of CI; an hour, 10 GB while it runs)
	$(BIN)/python tests/matrix.py --out $(MATRIX_OUT)

clean: ## remove what the targets made
	rm -rf $(VENV) docs/_build demo_out demo_out-full pretrained_runs
