# What people and CI type. `make run` and `make test` need nothing but Python 3.11 or newer with
# venv, a C compiler, and a package index.
PYTHON ?= python3
VENV ?= .venv
export VENV
# Tests start hundreds of processes; without bytecode each compiles the package again.
export PYTHONDONTWRITEBYTECODE =
BIN = $(VENV)/bin
BUILT_FROM = setup.py pyproject.toml $(wildcard kvmbench/*.pyx kvmbench/*.pxd kvmbench/*/*.pyx kvmbench/*/*.pxd kvmbench/*/*.h)

BASELINE = results/baseline-cycles.json
CYCLES = $(BIN)/python -m pytest -q kvmbench/tests/test_cycles.py --cycles-baseline=$(BASELINE)

.PHONY: run test lint fmt types gate baseline bench pictures statistics docs man release check spin
.PHONY: lab lab-kernel lab-patch lab-releases lab-qemu coverage clean

run: $(VENV)/.run
	@$(BIN)/kvmbench run

test: $(VENV)/.dev
	$(BIN)/python -m pytest --benchmark-disable -n auto --dist loadscope

lint: $(VENV)/.dev
	ci/lint

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	ci/types

# Fails where a simulated figure is not the committed one; `make baseline` commits to new ones.
gate: $(VENV)/.dev
	$(CYCLES) --benchmark-columns=median,rounds --benchmark-sort=fullname
	$(CYCLES) --benchmark-disable -n 2

baseline: $(VENV)/.dev
	$(CYCLES) --benchmark-disable --cycles-update

bench: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@mkdir -p results/bench
	$(BIN)/python -m pytest kvmbench/tests/bench/bench_*.py \
	    --benchmark-columns=min,median,max --benchmark-sort=name \
	    --benchmark-json=results/bench/latest.json

# The pictures of the README, of results/lab and of a simulated host.
pictures: $(VENV)/.dev
	$(BIN)/python -m kvmbench.tests.readme_pictures

# False alarms and power of `compare`, next to other tools' rules; minutes, into docs/statistics.md.
statistics: $(VENV)/.dev
	nice -n 15 $(BIN)/python -m kvmbench.tests.null_tables --write
	nice -n 15 $(BIN)/python -m pytest -q --benchmark-disable -n 2 -m statistics

# The site, into build/site.
docs: $(VENV)/.dev
	ci/docs

# Man pages of the commands, into man/.
man: $(VENV)/.dev
	ci/man

# A release, up to its upload.
release: $(VENV)/.dev
	ci/release

check: lint types test docs
	ci/package
	ci/stubs
	ci/sanitize

# Every mutant of every policy by SPIN; minutes, and it needs SPIN.
spin: $(VENV)/.dev
	ci/package
	ci/spin --all

# Debian's kernels on an emulated CPU; minutes, and it needs apt and g++.
lab: $(VENV)/.dev
	ci/lab

# A small kernel with a switch in its vcpu_put(); about 8 minutes of CPU once.
lab-kernel: $(VENV)/.dev
	ci/lab-kernel

# The patch's table and the negative control on that kernel.
lab-patch: $(VENV)/.dev
	ci/lab-patch results/lab

lab-releases: $(VENV)/.dev
	ci/lab-releases

# The counts of another emulator.
lab-qemu: $(VENV)/.dev
	ci/lab-qemu

# Line coverage of the .pyx files; minutes, so it is not among the checks.
coverage: $(VENV)/.dev
	ci/package
	ci/coverage

# An environment that an interrupted run or a Python too old has left is made again.
SOUND = 'import pip, sys; print(sys.version_info >= (3, 11))'
ifneq ($(shell test ! -e $(VENV)/.unfinished && $(BIN)/python -c $(SOUND) 2>/dev/null),True)
.PHONY: $(BIN)/python
endif

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "kvmbench needs Python 3.11 or newer with venv, which $(PYTHON) is not;" \
	        "name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV)

# Installed with its build isolated; the extensions land next to their sources. Bytecode is written of
# what is imported, when it is: of all it would take half a minute.
$(VENV)/.run: WHAT = .
$(VENV)/.dev: WHAT = .[test,lint]
$(VENV)/.run $(VENV)/.dev: $(BIN)/python $(BUILT_FROM)
	@trap 'exit 130' INT; touch $(VENV)/.unfinished; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	    --editable '$(WHAT)'; \
	status=$$?; rm $(VENV)/.unfinished; exit $$status
	@touch $(VENV)/.run $@

clean:
	rm -rf build dist $(VENV) kvmbench.egg-info kvmbench/*.so kvmbench/*.c kvmbench/*/*.so
