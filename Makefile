# What people and CI type. `make run` and `make test` need nothing but Python 3.11 or newer with
# venv, a C compiler, and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BUILT_FROM = setup.py pyproject.toml $(wildcard kvmbench/*.pyx kvmbench/*.pxd kvmbench/*/*.pyx kvmbench/*/*.pxd kvmbench/*/*.h)

BASELINE = results/baseline-cycles.json
CYCLES = $(BIN)/python -m pytest -q kvmbench/tests/test_cycles.py --cycles-baseline=$(BASELINE)

.PHONY: run test gate baseline bench check spin coverage clean

run: $(VENV)/.run
	@$(BIN)/kvmbench run

test: $(VENV)/.test
	$(BIN)/python -m pytest --benchmark-disable -n auto --dist loadscope

# Fails where a simulated figure is not the committed one; `make baseline` commits to new ones.
gate: $(VENV)/.test
	$(CYCLES) --benchmark-columns=median,rounds --benchmark-sort=fullname
	$(CYCLES) --benchmark-disable -n 2

baseline: $(VENV)/.test
	$(CYCLES) --benchmark-disable --cycles-update

bench: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@mkdir -p results/bench
	$(BIN)/python -m pytest kvmbench/tests/bench/bench_*.py \
	    --benchmark-columns=min,median,max --benchmark-sort=name \
	    --benchmark-json=results/bench/latest.json

check: test
	ci/package
	ci/lint
	ci/types
	ci/sanitize

# Every mutant of every policy by SPIN; minutes, and it needs SPIN.
spin:
	ci/package
	ci/spin

# Line coverage of the .pyx files; minutes, so it is not among the checks.
coverage:
	ci/package
	ci/coverage

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installed with its build isolated; the extension lands beside its source.
$(VENV)/.run: $(BIN)/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(BIN)/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(VENV)/.run $@

clean:
	rm -rf build dist $(VENV) kvmbench.egg-info kvmbench/*.so kvmbench/*.c kvmbench/*/*.so
