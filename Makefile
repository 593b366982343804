# Everything runs in .venv. A stamp in it holds what a step installed; the step is done again only
# when a file that it read has changed.

PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet

SOURCES := setup.py $(shell find fastrnn -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

# What is compiled: for this CPU only (native), or for every one (all), which wheels and the gate need.
export FASTRNN_BUILD ?= native

# $(call pyproject,KEYS): the list under these keys of pyproject.toml, an item a line.
pyproject = $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

# Keras 3 by its minor version; tf_keras and 2.15 are Keras 2.
VERSIONS ?= 3.0 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8 3.9 3.10 3.11 3.12 3.13 3.14 3.15 tf_keras 2.15
FIRST ?= 0
COUNT ?= 80
VERSIONS_ENV := .venv-versions

.PHONY: demo test quick test-all test-other-builds fuzz versions bench bench-all bench-check bench-baseline lint format build clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/demo.stamp
	$(BIN)/fastrnn demo

# A sample of every sweep, in which any two values meet. FASTRNN_SWEEP_SEED=anything draws another.
test: $(VENV)/test.stamp
	$(BIN)/pytest --numprocesses auto --sweep sample

# For the loop at the desk.
quick: $(VENV)/test.stamp
	$(BIN)/pytest --sweep quick

# Every case of every sweep.
test-all: $(VENV)/test.stamp
	$(BIN)/pytest --numprocesses auto

# Layers, models, streams and pools on the builds that `test` leaves out: it runs them on the best that the CPU has. What
# is tested on every build in one process is not here.
OTHER_LEVELS := from tests.builds import LEVELS; print(*LEVELS[1:])
ON_OTHERS := $(patsubst %,tests/test_%.py,folding layers models_against_keras own_call plan pool snapshots \
	streaming sunspots wrappers) tests/test_borders.py::test_models_and_their_streams_and_pools \
	tests/test_borders.py::test_rows_of_every_kind_of_model_are_what_they_are_alone
test-other-builds: $(VENV)/test.stamp
	for level in $$($(PYTHON) -c '$(OTHER_LEVELS)'); do \
		FASTRNN_ISA=$$level $(BIN)/pytest --numprocesses auto --sweep sample -m "not slow" $(ON_OTHERS) || exit; \
	done

# Random inputs for SECONDS in all, on one core; what is found lies in fuzz-findings.
SECONDS ?= 60
fuzz: $(VENV)/test.stamp $(VENV)/fuzz.stamp
	OMP_NUM_THREADS=1 KERAS_BACKEND=numpy $(PYTHON) -m tests.fuzz --seconds $(SECONDS)

versions: $(VENV)/test.stamp $(foreach version,$(VERSIONS),$(VERSIONS_ENV)/$(version).stamp)
	rm -rf $(VERSIONS_ENV)/files
	for version in $(VERSIONS); do \
	  case $$version in tf_keras) module=tf_keras;; *) module=keras;; esac; \
	  KERAS_BACKEND=tensorflow $(VERSIONS_ENV)/$$version/bin/python tests/versions/generate.py \
	    $(VERSIONS_ENV)/files/$$version --keras $$module --first $(FIRST) --count $(COUNT) || exit 1; \
	done
	$(PYTHON) -m tests.versions.compare $(foreach version,$(VERSIONS),$(VERSIONS_ENV)/files/$(version))

$(VERSIONS_ENV)/%.stamp:
	$(PYTHON3) -m venv $(VERSIONS_ENV)/$*
	$(VERSIONS_ENV)/$*/bin/python -m pip --quiet install $(call requirements_of,$*)
	touch $@

# TensorFlow 2.16 goes with Keras 3.0 to 3.5, 2.20 with the later ones and with tf_keras, 2.15 is Keras 2.15.
requirements_of = $(if $(filter tf_keras,$(1)),tensorflow-cpu==2.20.* tf_keras==2.20.*,$(if $(filter 2.15,$(1)),\
  tensorflow-cpu==2.15.*,$(if $(filter 3.0 3.1 3.2 3.3 3.4 3.5,$(1)),tensorflow-cpu==2.16.*,tensorflow-cpu==2.20.*) 'keras==$(1).*'))

bench: $(VENV)/bench.stamp
	$(PYTHON) -m benchmarks.compare --rows design,models

# Everything there is to measure, for an hour and more.
bench-all: $(VENV)/bench.stamp
	mkdir -p bench-results
	$(PYTHON) -m benchmarks.startup --json bench-results/startup.json
	$(PYTHON) -m benchmarks.padding --json bench-results/padding.json
	$(PYTHON) -m benchmarks.contention --json bench-results/contention.json
	$(PYTHON) -m benchmarks.bulk --json bench-results/bulk.json
	$(PYTHON) -m benchmarks.streams --json bench-results/streams.json
	$(PYTHON) -m benchmarks.precision > bench-results/precision.txt
	$(PYTHON) -m benchmarks.growth --json bench-results/growth.json --chart bench-results/growth.svg
	$(PYTHON) -m benchmarks.compare --json bench-results/compare.json
	$(PYTHON) -m benchmarks.chart bench-results/compare.json bench-results/compare.svg

bench-check: $(VENV)/test.stamp
	$(BIN)/pytest benchmarks/test_regression.py

# What bench-check compares with from now on.
bench-baseline: $(VENV)/test.stamp
	$(BIN)/pytest benchmarks/test_regression.py --save-baseline

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(BIN):$$PATH" cython-lint fastrnn
	$(BIN)/mypy

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(VENV)/build.stamp

clean:
	rm -rf $(VENV) $(VERSIONS_ENV) bench-results fuzz-findings build dist *.egg-info sunspots.png .mypy_cache .pytest_cache .ruff_cache
	find fastrnn tests benchmarks examples -name __pycache__ -prune -exec rm -r {} +
	find fastrnn -name '*.so' -delete

$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/bench.stamp $(VENV)/fuzz.stamp: | $(VENV)/build.stamp
$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/bench.stamp $(VENV)/fuzz.stamp $(VENV)/lint.stamp: $(VENV)/%.stamp: $(VENV)/venv.stamp
	$(call pyproject,["project"]["optional-dependencies"]["$*"]) > $@
	$(PIP) install --requirement $@

# Installed in place: what is edited is what runs. The first command compiles, and says how far it is.
$(VENV)/build.stamp: $(VENV)/venv.stamp $(SOURCES)
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(PIP) install --no-build-isolation --editable .
	touch $@

$(VENV)/venv.stamp: pyproject.toml
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON3=...")'
	$(PYTHON3) -m venv $(VENV)
	$(call pyproject,["build-system"]["requires"]) > $@
	$(PIP) install --requirement $@
