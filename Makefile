# `make demo` and `make test` need python3 (>= 3.10, with venv and headers), gcc and make; they set up all else in .venv.

PYTHON ?= python3
ifeq ($(origin CC),default)
CC := gcc
endif
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := build/.built

C_SOURCES := $(wildcard csrc/*/*.c)
C_HEADERS := $(wildcard csrc/*/*.h)
C_FILES := $(C_SOURCES) $(C_HEADERS) $(wildcard tests/csrc/*.[ch] tests/fuzz/*.[ch] bench/csrc/*.[ch])
C_CHECKS := $(C_SOURCES:csrc/%.c=build/check/%.o)
PYTHON_FILES := transport gpudisagg tests bench csrc tools setup.py
# One process mostly waits for the guest (tests/rdma), and the others for their own children.
TEST_PROCESSES ?= $(shell echo $$(($$(nproc) + 2)))
STRICT := -std=c11 -D_GNU_SOURCE -O3 -fPIC -Wall -Wextra -Werror

.PHONY: demo test fuzz build lint lint-c format bench targets dist clean help

help:
	@echo 'make demo     a daemon, and K-means on its device (also: GPUDISAGG_DEMO_ARGS=--json)'
	@echo 'make test     set-up, lint, C with -Werror, all tests'
	@echo 'make fuzz     the fuzz targets, GPUDISAGG_FUZZ_SECONDS (600) each; what breaks one is printed and kept in build/fuzz'
	@echo 'make build    the C extensions, in place'
	@echo 'make lint     ruff, mypy, clang-format; make format mends what it can'
	@echo 'make bench    the list of benches; make targets runs what every target is measured by'
	@echo 'make dist     a wheel and an sdist in dist/; make clean removes all that was made'

demo: $(BUILT)
	$(BIN)/python tools/with_server.py --log-level warning -- $(BIN)/gpudisagg demo kmeans $(GPUDISAGG_DEMO_ARGS)

# The tests come last: their closing line is the last line. The outer limit ends what even pytest's cannot.
test: export GPUDISAGG_WERROR = 1
test: $(BUILT) lint lint-c
	timeout --kill-after=30 3000 $(BIN)/python -m pytest -n $(TEST_PROCESSES) $(PYTEST_ARGS)

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --seconds $${GPUDISAGG_FUZZ_SECONDS:-600}

build: $(BUILT)

# The install builds the extensions too; after a change in csrc alone only they are built anew.
$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@mkdir -p build
	@touch $@ $(BUILT)

$(BUILT): $(INSTALLED) $(C_SOURCES) $(C_HEADERS) $(wildcard csrc/*.py)
	@if ! test -e $@ || find csrc -newer $@ -type f | grep -q .; then \
	  echo 'building the C extensions'; $(BIN)/python setup.py --quiet build_ext --inplace; fi
	@mkdir -p build
	@touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check $(wildcard $(PYTHON_FILES))
	$(BIN)/ruff format --check $(wildcard $(PYTHON_FILES))
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

lint-c: $(C_CHECKS)

build/check/%.o: csrc/%.c $(C_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(STRICT) -Icsrc/transport -Icsrc/engine -c $< -o $@

format: $(INSTALLED)
	$(BIN)/ruff check --fix --quiet $(wildcard $(PYTHON_FILES)) || true
	$(BIN)/ruff format $(wildcard $(PYTHON_FILES))
	$(BIN)/clang-format -i $(C_FILES)

bench: $(BUILT)
	$(BIN)/python -m bench

targets: $(BUILT)
	$(BIN)/python -m bench targets --json build/targets.json

dist: $(BUILT)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python setup.py --quiet sdist --dist-dir dist

clean:
	rm -rf build dist $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis kmeans.png
	find transport gpudisagg -name '*.so' -delete
	find transport gpudisagg tests bench tools csrc -name __pycache__ -type d -prune -exec rm -rf {} +
