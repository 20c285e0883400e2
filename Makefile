# Two commands matter: `make run` and `make test`. Both work on a fresh machine; deploy/dev/setup.sh says what it installs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
SETUP := deploy/dev/setup.sh
NODE_BIN := deploy/dev/node/node_modules/.bin
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(NODE_BIN):$(PATH)

# Hundreds of processes of ours start in a run of the tests: each is to find its modules compiled.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
# Arguments for pytest: make test ARGS="tests/store -k redis"
ARGS ?=
# The whole suite runs in several processes, for much of it is waiting; a part of it in one, where -s and --pdb work.
WORKERS ?= $(if $(ARGS),0,4)

.PHONY: help env tools run test check lint types contracts proto format gen baseline model model-mutants traces sim histories faults test-adapters bench kernels scaling compiled compiled-test dashboards pictures compose-test clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-16s %s\n' "$$name" "$$text"; done

env: ## the environment .venv, with the package (editable) and its extras
	@$(SETUP) env

tools: ## everything the checks and tests need: .venv, generator, redis-server, Prometheus, node, buf
	@$(SETUP) env gen redis prometheus node

run: ## embedded directory on 127.0.0.1:7400, demo of agents that share files; DEMO_ONLY=1 ends after the demo
	@$(SETUP) run
	@$(BIN)/homenode demo $(if $(filter 1,$(DEMO_ONLY)),,--serve)

test: tools check ## checks, then the whole suite against real stores; ARGS="tests/store -k redis" for a part of it, WORKERS=4 processes
	@$(PYTEST) -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(ARGS)

check: tools lint types contracts proto ## lint, format, types, import contracts, wire contract, generated code

lint: env
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run make format" >&2; exit 1; }
	@echo "check: lint and format hold"

types: env
	@$(BIN)/mypy --no-error-summary
	@echo "check: types hold"

contracts: env
	@out=$$($(BIN)/lint-imports --no-cache --no-logo 2>&1) || { echo "$$out"; exit 1; }
	@echo "check: layers hold"

proto: tools
	@buf lint proto
	@buf format --diff --exit-code proto
	@buf breaking proto --against proto/baseline.json
	@deploy/dev/generate.sh --verify
	@echo "check: wire contract and generated code hold"

format: env ## formats Python and protobuf sources
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .
	@$(SETUP) node && buf format --write proto

gen: ## Python code from proto/, with the pinned generator
	@$(SETUP) gen
	@deploy/dev/generate.sh

baseline: tools ## accepts the wire contract as it is now as the one that later changes must not break
	@buf build proto --exclude-source-info --output -#format=json | $(BIN)/python -m json.tool --indent 1 >proto/baseline.json

model: env ## the TLA+ specification in full, with TLC
	@$(BIN)/python tla/run.py model

model-mutants: env ## specifications with one rule broken: TLC must find each of them
	@$(BIN)/python tla/run.py mutants

traces: tools ## logs of real runs are explained by the specification, corrupted ones are not; ARGS="--runs 100"
	@$(BIN)/python -m tests.spec.traces $(ARGS)

sim: env ## simulation: the real directory, delivery and SDK on virtual time under faults; ARGS="--seeds 10000" or "--seed 17 --trace"
	@$(BIN)/python -m tests.sim $(ARGS)

histories: env ## the two judges of linearizability on random histories: ARGS="--histories 60000"
	@$(PYTEST) tests/history -q $(or $(ARGS),--histories 60000)

faults: tools ## the kill, restart and network runs: real processes, real Redis; ARGS=--campaign for the long form
	@$(PYTEST) tests/faults $(ARGS)

test-adapters: tools ## the adapters against the real frameworks, those too that need an environment of their own
	@$(SETUP) autogen crewai
	@$(PYTEST) -q tests/adapters $(ARGS)
	@.adapters/autogen/bin/python -m pytest -p no:cacheprovider -q tests/adapters/test_autogen.py $(ARGS)
	@.adapters/crewai/bin/python -m pytest -p no:cacheprovider -q tests/adapters/test_crewai.py $(ARGS)

bench: tools ## figures beside other systems; ARGS="--rows acquire_64,commit_64 --rounds 7", JSON=FILE
	@$(SETUP) peers
	@$(BIN)/python -m tests.bench $(if $(JSON),--json $(JSON)) $(ARGS)

kernels: env ## the KV tier's Triton kernels against the plain way; brings Triton (1 GB), which the other tests do without
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip --disable-pip-version-check -qq install 'triton>=3.6'
	@$(PYTEST) tests/kv/test_restore.py $(ARGS)

compiled: env ## an option: the server's hot path as machine code; PYTHONPATH=build/compiled homenode serve uses it
	@$(BIN)/python deploy/dev/compiled.py

COMPILED_TESTS := protocol directory store content api client tools observe sim faults
compiled-test: tools compiled ## compiled, and the tests of what it is part of, with it; ARGS as for test
	@PYTHONPATH=build/compiled $(BIN)/python -c "from homenode_directory.server import installed_version as v; assert v().endswith('+compiled')"
	@PYTHONPATH=$(CURDIR)/build/compiled $(PYTEST) -q --tb native -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(or $(ARGS),$(addprefix tests/,$(COMPILED_TESTS)))

compose-test: env ## deploy/docker-compose.yml on a real Docker daemon, containers killed and networks cut under load; root, about 10 minutes
	@$(SETUP) docker
	@$(BIN)/python -m tests.deploy.compose

dashboards: env ## writes deploy/grafana/dashboards from their descriptions in deploy/grafana/generate
	@$(BIN)/python -m deploy.grafana.generate

pictures: tools ## draws deploy/pictures from a run of two minutes: two directories, Redis, agents, Prometheus
	@mkdir -p .run
	@$(BIN)/python -m tests.deploy.dashboards.record .run/pictures.json
	@$(BIN)/python deploy/pictures/draw.py .run/pictures.json deploy/pictures

scaling: tools ## the figures of deploy/scaling.md: memory, CPU time and latencies over sessions and artifacts; ARGS=--quick
	@$(BIN)/python -m tests.bench.scaling $(if $(JSON),--json $(JSON)) $(ARGS)

clean: ## removes caches and build outputs, keeps the environments
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache .run
	@find . -name __pycache__ -not -path './.venv/*' -not -path './.gen/*' -prune -exec rm -rf {} +
