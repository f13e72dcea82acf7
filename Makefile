# make bench [QUICK=1]   the main job: train on a real MRI volume, then the speed table
# make test | lint | types | clean
# make docs                   the documentation site, in build/docs
# make dist [TRY="python3.10 …"]   sdist and wheel in dist/, checked as for publishing, the wheel tried in an environment of
#                             its own; also built and tried with other interpreters
# make hooks                  the linters of pre-commit: ruff, pyproject.toml, CITATION.cff, workflow files (npm)
# make valgrind               the C++ extension through Python, a minute under valgrind (Debian's package valgrind)
# make fuzz [MINUTES=10] [SEED=N]   random inputs of every kind against plain formulas and brute force
# make mutate [FILES="base csrc/"] [BUDGET=10] [SEED=N]   mutations of the sources that the tests should notice: those
#                             of files with one of these words in their path, so many of each file of fastloss/
# make gpu-kit                a folder of wheels for `python3 bench/gpu/kit.py run gpu-kit` on a machine with a GPU
# make sanitize               the C++ transforms alone, under AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer
#
# TORCH=2.12.1 NUMPY= NUMBA=           other versions than those of constraints.txt, whose other pins then fall away
#                                      (after make clean); .ci/matrix runs the ends of the ranges
# PIP_ARGS="--extra-index-url URL"     where pip finds a CUDA, ROCm or CPU build of it
# PYTEST_ARGS="-n 4 -k edt"            what pytest gets

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
NUMPY ?=
NUMBA ?=
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2
QUICK ?=
MINUTES ?= 10
FILES ?=
BUDGET ?= 10
SEED ?=
TRY ?=

python := $(VENV)/bin/python
constraints := $(VENV)/constraints.txt
pins := $(TORCH:%=torch==%) $(NUMPY:%=numpy==%) $(NUMBA:%=numba==%)
sources := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)

.PHONY: bench test lint types docs dist hooks gpu-kit sanitize valgrind fuzz mutate clean
.DELETE_ON_ERROR:

bench: $(VENV)/installed-bench
	$(python) -m bench main $(if $(QUICK),--quick)

test: $(VENV)/installed-dev
	$(python) -m pytest $(PYTEST_ARGS)

fuzz: $(VENV)/installed-fuzz
	PYTHONPATH=tests $(python) -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

mutate: $(VENV)/installed-mutate
	$(python) tests/mutation --files "$(FILES)" --budget $(BUDGET) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/installed-dev
	$(python) -m ruff check .

types: $(VENV)/installed-dev
	$(python) -m mypy

docs: $(VENV)/installed-docs
	$(python) -m sphinx -W --keep-going -q -b html docs build/docs

dist: $(VENV)/installed-dist
	PYTHON=$(python) TRY="$(TRY)" .ci/dist

hooks: $(python)
	$(python) -m pip install --quiet -c constraints.txt pre-commit
	$(python) -m pre_commit run --all-files

gpu-kit: $(python)
	$(python) bench/gpu/kit.py fill gpu-kit

# one set of row operations each, as all of them touch the same memory: the third, for AVX2, is what `test` runs
cpp_flags := -std=c++17 -O1 -g -ffp-contract=off -fno-trapping-math -fno-signed-zeros -fno-math-errno -Wno-psabi -pthread
sanitize:
	$(MAKE) -j2 build/edt_test_asan build/edt_test_tsan
	build/edt_test_asan 12
	build/edt_test_tsan 4

build/edt_test_asan: cpp_flags += -DFASTLOSS_BASELINE -fsanitize=address,undefined -fno-sanitize-recover=all
build/edt_test_tsan: cpp_flags += -DFASTLOSS_SCALAR -fsanitize=thread
build/edt_test_%: tests/cpp/edt_test.cpp $(wildcard csrc/*.hpp)
	mkdir -p build
	$(CXX) $(cpp_flags) -Wall -Wextra -Icsrc $< -o $@

# CPython has findings of its own, in reading integers and in its last collection: those of the extension name its file
valgrind: $(VENV)/installed-dev
	mkdir -p build
	PYTHONMALLOC=malloc valgrind --error-limit=no --log-file=build/valgrind.log $(python) tests/cpp/under_valgrind.py
	! grep -B8 -A8 -F '_C.' build/valgrind.log

clean:
	rm -rf $(VENV) build dist gpu-kit *.egg-info fastloss/_C.*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(python):
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(sources) | $(python)
	$(if $(strip $(pins)),printf '%s\n' $(pins),cat constraints.txt) > $(constraints)
	$(python) -m pip install $(PIP_ARGS) -c $(constraints) -e '.[$*]'
	touch $@ $(if $(filter dev,$*),$(VENV)/installed-bench)
