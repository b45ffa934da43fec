# One verb a task. `make demo` and `make test` do all the set-up they need.
VENV   := .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
LEGACY := .venv-legacy
STAMP  := $(VENV)/.ready
TESTED := $(VENV)/.ready-to-test
ORACLES := .venv-oracles
DOCS   := .venv-docs
ARGS   ?=
# Tests run in one process more than there are cores, since many wait, four at most; a file stays in one process.
# ARGS="-n 0": in one.
PARALLEL := -n $(shell expr $$(nproc) + 1) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Rooms that neither compute with numpy nor run a model: all that differs between the two environments.
NOT_LEGACY := --ignore=tests/agent/link --ignore=tests/agent/records
ARCH   ?= amd64
PACKAGE ?= agent
WHEELS ?=

.PHONY: setup demo test test-legacy test-all oracles docs deb check bench bench-agent bench-fleet bench-learning format clean
.DEFAULT_GOAL := help

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | sort

setup: $(STAMP)  ## virtual environment with what the demo needs, from constraints.txt, editable installs

PACKAGES := constraints.txt pyproject.toml protocols/pyproject.toml agent/pyproject.toml fleet/pyproject.toml
INSTALL  := $(BIN)/python -P -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Without byte code: Python writes that of the few modules that are used, at their first use.
$(STAMP): $(PACKAGES)
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -I -c 'import ensurepip' 2>/dev/null || sh packaging/debian_packages.sh python3-venv
	@test -x $(BIN)/python || $(PYTHON) -I -m venv $(VENV)
	@echo "Installing Wheeltapper and what it needs into $(VENV) (a minute) ..."
	@$(INSTALL) --no-compile hatchling editables setuptools wheel
	@$(INSTALL) --no-compile --no-build-isolation -e ./protocols -e './agent[onnx]' -e './fleet[train]'
	@touch $@

$(TESTED): $(STAMP)
	@echo "Installing what the tests and checks need into $(VENV) (a minute or two) ..."
	@$(INSTALL) --no-build-isolation -e '.[dev]' -e ./protocols -e './agent[onnx,litert,modbus,opcua,parquet]' \
		-e './fleet[train,parquet,history,search,mlflow]'
	@touch $@

demo: $(STAMP)   ## the whole loop on this machine; ARGS="--headless --seconds 90 --json" ends by itself
	@$(BIN)/wheeltapper demo $(ARGS)

test: $(TESTED)   ## every test that CI runs
	@sh packaging/debian_packages.sh mosquitto chromium systemd
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

$(LEGACY)/.ready: constraints-legacy.txt protocols/pyproject.toml agent/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -I -c 'import ensurepip' 2>/dev/null || sh packaging/debian_packages.sh python3-venv
	@test -x $(LEGACY)/bin/python || $(PYTHON) -I -m venv $(LEGACY)
	@echo "Installing the agent with numpy 1.26 and tflite-runtime into $(LEGACY) ..."
	@$(LEGACY)/bin/python -P -m pip install --quiet --disable-pip-version-check -c constraints-legacy.txt \
		hatchling editables setuptools wheel
	@$(LEGACY)/bin/python -P -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		-c constraints-legacy.txt -e ./protocols -e './agent[tflite,modbus,opcua,parquet]' \
		flatbuffers hypothesis jsonschema psutil pytest pytest-timeout pytest-xdist scipy
	@touch $@

test-legacy: $(LEGACY)/.ready  ## the agent's tests with numpy 1.26 and tflite-runtime only
	@sh packaging/debian_packages.sh mosquitto
	@WHEELTAPPER_TEST_RUNTIME=tflite $(LEGACY)/bin/python -m pytest $(PARALLEL) -m "not slow" tests/agent tests/protocols $(NOT_LEGACY) $(ARGS)

oracles: $(ORACLES)/.ready  ## environment of its own for evidently and others, which some slow tests compare with

$(ORACLES)/.ready: constraints-oracles.txt
	@test -x $(ORACLES)/bin/python || $(PYTHON) -I -m venv $(ORACLES)
	@echo "Installing what the oracle tests compare with into $(ORACLES) ..."
	@$(ORACLES)/bin/python -P -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-oracles.txt
	@touch $@

$(DOCS)/.ready: constraints-docs.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -I -m venv $(DOCS)
	@$(DOCS)/bin/python -P -m pip install --quiet --disable-pip-version-check -c constraints-docs.txt mkdocs mkdocs-material
	@touch $@

docs: $(DOCS)/.ready  ## the documentation as a site in build/docs; a dead link or a page that is left out fails
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	@echo "build/docs/index.html"

test-all: $(TESTED) oracles  ## also the slow ones
	@sh packaging/debian_packages.sh mosquitto chromium systemd debootstrap qemu-user-static prometheus
	@$(BIN)/python -m pytest $(ARGS)

deb: $(TESTED)    ## Debian package in dist/; PACKAGE=agent, fleet; ARCH=amd64, arm64, armhf (agent only)
	@$(BIN)/python packaging/build_deb.py --package $(PACKAGE) --arch $(ARCH) $(if $(WHEELS),--wheels $(WHEELS))

check: $(TESTED)  ## ruff, mypy --strict, import walls
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_walls.py -k "not planted"

bench: $(TESTED)  ## measure, each as a ratio against a named baseline
	@for file in $(filter-out benchmarks/rig.py benchmarks/agent.py $(wildcard benchmarks/fleet*.py benchmarks/learning*.py),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-agent: $(TESTED)  ## the agent's figures; also in build/bench/agent.json
	@$(BIN)/python benchmarks/agent.py $(ARGS)

bench-fleet: $(TESTED)  ## the fleet's figures; also in build/bench/fleet.json; ARGS="--only campaign" some of them
	@$(BIN)/python benchmarks/fleet.py $(ARGS)

bench-learning: $(TESTED)  ## the figures of learning; also in build/bench/learning.json; ARGS="--only fan" some of them
	@$(BIN)/python benchmarks/learning.py $(ARGS)

format: $(TESTED) ## let ruff mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:           ## remove what setup and the tests made
	rm -rf $(VENV) $(LEGACY) $(ORACLES) $(DOCS) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
