# The two commands a newcomer needs: `make demo` and `make test`. PYTHON chooses the interpreter, VENV the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKDIR ?= runs/demo

.PHONY: demo test test-slow test-topologies test-all lint bench docs install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "isoflop needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 2; }
	@echo "installing into $(VENV) ..."; start=$$(date +%s); \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test]' && \
	  echo "installed in $$(( $$(date +%s) - start )) s"
	@touch $@

# The main job: a sweep of language models on real text, its law, a frozen prediction, the score, figures and a report.
demo: install
	$(BIN)/python -m isoflop study --config=configs/lm/demo.py --workdir=$(WORKDIR)

test: install
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow' tests --ignore=tests/laws --ignore=tests/notebooks
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow' tests/laws tests/notebooks

test-slow: install
	$(BIN)/python -m pytest -q -m slow

# What the compilers of TPUs and GPUs say of every family, on devices that are not there: 1.3 GB of wheels.
test-topologies: install
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt libtpu nvidia-cudnn-cu13
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps jax-cuda13-plugin jax-cuda13-pjrt
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow tests/topologies

# JAX differs between Python versions; each gets an environment of its own.
test-all:
	@for version in 3.11 3.12 3.13; do \
	  $(MAKE) test VENV=.venv-$$version PYTHON=python$$version || exit 1; done

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.train_step --out benchmarks/results/train_step.json
	$(BIN)/python -m benchmarks.fit --once --out benchmarks/results/fit.json

# The site, from the code, the pages of docs/ and the executed notebooks, into build/site; it opens without a network.
docs: install
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-3.11 .venv-3.12 .venv-3.13 runs build
