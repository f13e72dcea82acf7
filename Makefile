# make bench [QUICK=1]   the main job: train on a real MRI volume, then the speed table
# make test | lint | types | wheel | clean
#
# TORCH=2.12.1                         another torch than that of constraints.txt (after make clean)
# PIP_ARGS="--extra-index-url URL"     where pip finds a CUDA, ROCm or CPU build of it
# PYTEST_ARGS="-n 4 -k edt"            what pytest gets

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2
QUICK ?=

python := $(VENV)/bin/python
constraints := $(VENV)/constraints.txt
sources := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)

.PHONY: bench test lint types wheel clean
.DELETE_ON_ERROR:

bench: $(VENV)/installed-bench
	$(python) -m bench main $(if $(QUICK),--quick)

test: $(VENV)/installed-dev
	$(python) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(python) -m ruff check .

types: $(VENV)/installed-dev
	$(python) -m mypy

wheel: $(VENV)/installed-dev
	rm -rf build dist
	$(python) -m build

clean:
	rm -rf $(VENV) build dist *.egg-info fastloss/_C.*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(python):
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(sources) | $(python)
	sed 's/^torch==.*/$(if $(TORCH),torch==$(TORCH),&)/' constraints.txt > $(constraints)
	$(python) -m pip install $(PIP_ARGS) -c $(constraints) -e '.[$*]'
	touch $@ $(if $(filter dev,$*),$(VENV)/installed-bench)
