# The front door. Every target sets up what it needs: Python 3.11+, make and (for wheels that must be built) a compiler.
#
#   PYTHON=/path/to/python  another interpreter than the first suitable one on PATH
#   ENVIRONMENTS=dir        another place for virtual environments than here
#   PYTEST_FLAGS='-k name'  more arguments for pytest

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

IS_SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c '$(IS_SUITABLE)' 2>/dev/null && { echo $$python; exit; }; done; echo python3)
ENVIRONMENTS ?= .
VENV = $(ENVIRONMENTS)/.venv
FLOORS_VENV = $(ENVIRONMENTS)/.venv-floors
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PIP_FLAGS := -qq --disable-pip-version-check

# Two workers: the tests are meant for small machines. Who gets which tests of clusters says tests/conftest.py.
PARALLEL := -n 2 --dist loadscope
PYTEST = $(BIN)/python -m pytest $(PARALLEL)
PYTEST_FLAGS ?=
# What takes whole clusters through much, and minutes: apart from `make test`, which should fit into ten.
DRILLS := $(patsubst %,tests/cluster/test_%.py,deployment faults_drills membership runbook)
# What depends on the Python version and the dependencies, not on the tree.
UNIT_TESTS = python -m pytest $(PARALLEL) tests/unit --ignore=tests/unit/test_project.py $(PYTEST_FLAGS)
BENCH_SECONDS ?= 5
SOAK_DIR ?= .soak
SOAK_DRILL = $(BIN)/acp faults run --resume --dir $(SOAK_DIR)
OTHER_PYTHONS ?= 3.11 3.12 3.13 3.14

PROTO_FILES := $(sort $(wildcard proto/replication/v1/*.proto))
GENERATED := src/replication/v1

# Writes what proto/ generates below directory $(1). Directory = proto package = Python package, so that protoc gets the
# imports right and nothing needs patching.
PROTOC = $(BIN)/python -m grpc_tools.protoc -I proto
generate = $(PROTOC) --python_out=$(1) --plugin=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(1) $(PROTO_FILES) && \
	$(PROTOC) --grpc_python_out=$(1) --plugin=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(1) \
	$(filter %_service.proto,$(PROTO_FILES))

.PHONY: help run test simulate drill scenarios rehearsals bugs lint fmt types proto proto-check bench soak unit floors pythons lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: $(READY) ## set up everything and run a small cluster that decides a few proposals
	$(BIN)/acp demo

test: $(READY) ## all tests but simulations and drills (PYTEST_FLAGS='-m "not cluster"' for a faster round)
	$(PYTEST) --ignore=tests/simulation $(addprefix --ignore=,$(DRILLS)) $(PYTEST_FLAGS)

simulate: $(READY) ## thousands of simulated clusters with faults, all twins scenarios, seeded bugs that must be caught
	$(PYTEST) --timeout=0 tests/simulation $(PYTEST_FLAGS)

bugs: $(READY) ## plant every seeded bug, in simulations and in real nodes: each must be noticed
	$(BIN)/acp faults simulate --bugs
	$(BIN)/acp faults run --bugs

drill: scenarios rehearsals ## every fault scenario, and the runbook and drills as tests

scenarios: $(READY) ## every fault scenario of deploy/faults once, on clusters of real processes
	$(BIN)/acp faults run --all

rehearsals: $(READY) ## the runbook word for word, members that come and go, drills that must fail
	$(PYTEST) $(DRILLS) $(PYTEST_FLAGS)

lint: $(READY) proto-check ## style, format, purity of the cores, import layers, freshness of generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

fmt: $(READY) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

proto: $(READY) ## generate src/replication/v1 from proto/
	@rm -f $(GENERATED)/*_pb2*.py $(GENERATED)/*_pb2*.pyi
	@$(call generate,src)

proto-check: $(READY) ## fail when src/replication/v1 is not what proto/ generates
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,"$$fresh") && \
	diff -r --brief --exclude=__init__.py --exclude=__pycache__ "$$fresh/replication/v1" $(GENERATED) \
		&& echo "generated code: up to date" || { echo "generated code: stale, run 'make proto'"; exit 1; }

bench: $(READY) ## measure rounds in one process, the store, then a real cluster (BENCH_SECONDS each)
	$(BIN)/python tests/benchmarks/bench_rounds.py
	$(BIN)/python -m tests.benchmarks.bench_store
	$(BIN)/acp bench --seconds $(BENCH_SECONDS)

soak: $(READY) ## for hours, in SOAK_DIR so that it can go on after a break: seeds, properties, fuzzing, drills, kills
	SIMULATION_SEEDS=100000 SIMULATION_FROM=1000000 $(PYTEST) --timeout=0 tests/simulation $(PYTEST_FLAGS)
	HYPOTHESIS_PROFILE=soak $(PYTEST) --timeout=0 tests/property $(PYTEST_FLAGS)
	@mkdir -p $(SOAK_DIR)
	$(BIN)/acp faults fuzz --executions 10000000 --seed 1000000 --workers 2 \
		--resume $(SOAK_DIR)/fuzzing --dir $(SOAK_DIR)/fuzz-failures
	$(BIN)/python -m tests.benchmarks.bench_floods
	$(SOAK_DRILL)/all --all --runs 5
	$(SOAK_DRILL)/kills process-kills --runs 16
	$(SOAK_DRILL)/kills-7 process-kills --nodes 7 --runs 2

floors: ## unit tests with the oldest releases that pyproject.toml allows, in a fresh environment
	@$(CHECK_PYTHON)
	@rm -rf $(FLOORS_VENV) && $(PYTHON) -m venv $(FLOORS_VENV)
	@$(FLOOR_PINS) > $(FLOORS_VENV)/floors.txt && echo "Floors: $$(paste -s -d ' ' $(FLOORS_VENV)/floors.txt)"
	@$(LOCKED_PINS) | grep -v -E "^($$(sed 's/==.*//' $(FLOORS_VENV)/floors.txt | paste -s -d '|')|opentelemetry-.*)==" \
		> $(FLOORS_VENV)/locked.txt
	@$(FLOORS_VENV)/bin/python -m pip install $(PIP_FLAGS) -r $(FLOORS_VENV)/floors.txt \
		-c $(FLOORS_VENV)/locked.txt hypothesis pytest pytest-timeout pytest-xdist pyyaml setuptools
	@$(FLOORS_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	$(FLOORS_VENV)/bin/$(UNIT_TESTS)

pythons: ## unit tests on the other supported Python versions that this machine has
	@status=0; for version in $(OTHER_PYTHONS); do \
		python=$$($(FIND_PYTHON)); \
		case "$$python" in \
		"") echo "NOT RUN: python$$version not found" ;; \
		same) echo "Python $$version: is what 'make test' uses" ;; \
		*) $(MAKE) unit VENV=$(VENV)-$$version PYTHON="$$python" || status=1 ;; \
		esac; \
	done; exit $$status

unit: $(READY) ## unit tests only, without those about the tree
	@$(BIN)/python --version
	$(BIN)/$(UNIT_TESTS)

lock: ## resolve requirements.lock anew from pyproject.toml (LOCK_FLAGS=--upgrade to move every pin)
	@$(CHECK_PYTHON)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && "$$scratch/bin/pip" install $(PIP_FLAGS) uv && \
	"$$scratch/bin/uv" pip compile pyproject.toml --extra dev --extra tracing --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--quiet $(LOCK_FLAGS) --output-file requirements.lock

clean: ## remove everything that make created
	rm -rf .venv .venv-* .soak .mypy_cache .ruff_cache .pytest_cache .hypothesis build src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------------------- plumbing

# "name==floor" for each runtime dependency, those of traces included.
FLOOR_PINS = $(PYTHON) -c 'import re, tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	names = project["dependencies"] + project["optional-dependencies"]["tracing"]; \
	print("\n".join(re.sub(r">=([^,; ]+).*", r"==\1", name) for name in names))'

# "name==version" for each package in the lock, without its hashes: constraints for what floors do not fix.
LOCKED_PINS = sed -n -E 's/^([A-Za-z0-9._-]+==[^ ]+( ;[^\\]*)?).*/\1/p' requirements.lock

# Prints where Python $$version is: nothing when there is none, "same" when it is $(PYTHON). It is tried by running it,
# because pyenv puts names on PATH also for versions that are not switched on; those are looked up in pyenv itself.
FIND_PYTHON = \
	if $(PYTHON) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')"; then echo same; \
	elif python$$version -c 'import venv' 2>/dev/null; then command -v python$$version; \
	elif command -v pyenv >/dev/null; then ls -1 "$$(pyenv root)"/versions/$$version.*/bin/python 2>/dev/null | tail -n 1; fi

CHECK_PYTHON = $(PYTHON) -c '$(IS_SUITABLE)' 2>/dev/null || { \
	echo "Agent Consensus needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | tail -n 1)"; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; } >&2

# A new lock makes a new environment; a changed pyproject.toml only installs the project again.
$(VENV)/.locked: requirements.lock
	@$(CHECK_PYTHON)
	@echo "Setting up $(VENV) from requirements.lock (about half a minute) ..."
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements.lock
	@touch $@

$(READY): $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q src  # once: hundreds of processes will be started, most of them nodes
	@touch $@
