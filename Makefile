# The testbed's commands. `make help` lists them; every one installs first what it needs.

PYTHON ?= python3
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# So many files at a time. Tests of real programs wait more than they compute.
FILES := --dist loadfile -n
CORE_TESTS := $(foreach name,address errors states roles* server_list hints options frames snapshot seq,tests/unit/test_$(name).py)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup doctor test coverage test-unit test-sim test-pages test-root test-e2e test-vm lint format bench \
        fuzz faults soak soak-chain soak-postgres bench-postgres bench-testbed bench-sidecar bench-analysis \
        experiment experiment-all experiment-handover topology report clean clean-results

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Install Debian packages and the Python environment (.venv), where missing
	@echo "All is installed. make help: what there is to do."

$(READY): setup.cfg pyproject.toml .ci/setup .ci/packages
	@PYTHON=$(PYTHON) .ci/setup
	@touch $@

doctor: $(READY) ## Say whether this machine can run the testbed, and what mends it if not
	@$(SUDO) $(BIN)/testbed doctor

experiment: $(READY) ## Overload, congestion, DoS: M-TCP beside the alternatives, 3 times, with a report: 8 minutes
	$(SUDO) $(BIN)/python -m experiments run overload congestion dos --small --name experiment $(ARGS)

experiment-all: $(READY) ## All scenarios with all their factors, 5 times: hours
	$(SUDO) $(BIN)/python -m experiments run all --reps 5 --name all $(ARGS)

experiment-congestion: ## Any scenario (python -m experiments list), so also -overload, ...: ARGS="--set rtt=40"
experiment-%: $(READY)
	$(SUDO) $(BIN)/python -m experiments run $* $(ARGS)

experiment-handover: $(READY) ## A download moves between two servers, again and again; verdict from capture and hash
	$(SUDO) $(BIN)/python -m experiments handover $(ARGS)

soak: $(READY) ## 5,000 moves of many connections while 2 % of all packets are lost
	$(SUDO) $(BIN)/python -m experiments soak $(ARGS)

soak-postgres: $(READY) ## 2,000 moves of PostgreSQL sessions while front-ends are killed; the ledger must agree
	$(SUDO) $(BIN)/python -m experiments soak-postgres $(ARGS)

bench-postgres: $(READY) ## Measure what M-TCP adds to a transaction that does not move: pgbench
	$(SUDO) $(BIN)/python -m experiments bench-postgres $(ARGS)

soak-chain: $(READY) ## 1,000 moves in one connection over three servers, each decided when the last commits
	$(SUDO) $(BIN)/python -m experiments chain $(ARGS)

bench: $(READY) ## Measure what migration costs: latency, goodput, interrupted calls
	$(SUDO) $(BIN)/python -m experiments bench $(ARGS)

bench-testbed: $(READY) ## Measure what the testbed promises of its links; the table goes to docs/testbed.md
	$(SUDO) $(BIN)/python -m experiments.bench_testbed --page $(ARGS)

bench-sidecar: $(READY) ## Measure how fast nginx is through the sidecar, beside nginx directly
	@$(SUDO) $(BIN)/python -m experiments.bench_sidecar $(ARGS)

bench-analysis: $(READY) ## Measure how fast the analysis is; the table goes to docs/analysis.md
	$(BIN)/python -m analysis.benchmark --page docs/analysis.md $(ARGS)

topology: $(READY) ## Client and two servers with Mininet's prompt, to play with: ARGS="--rtt 40ms"
	@$(SUDO) $(BIN)/python topologies/two_servers.py $(ARGS)

topology-dumbbell: ## Other networks with the prompt, so also topology-dos, -wan, -pool: ARGS=--help
topology-%: $(READY)
	@$(SUDO) $(BIN)/python topologies/$*.py $(ARGS)

report: $(READY) ## Make the report of the latest experiment again, so also report-handover, ...: of its latest
	$(BIN)/python -m analysis report results/latest $(ARGS)

report-%: $(READY)
	$(BIN)/python -m analysis report results/$*/latest $(ARGS)

test: test-unit test-sim test-pages test-root test-e2e ## Run all tests (needs root or sudo)

test-unit: $(READY) ## Pure functions: no privilege, no network
	$(PYTEST) $(FILES) 2 tests/unit $(ARGS)

test-sim: $(READY) ## The protocol on a simulated network: no privilege
	$(PYTEST) tests/sim $(ARGS)

test-pages: $(READY) ## Reports in a headless Chromium: no privilege, no network
	@.ci/packages chromium:chromium
	$(PYTEST) tests/pages $(ARGS)

# Three at a time are slower, and wait twice as long before they give up.
test-root: export MTCP_PATIENCE ?= 2
test-root: $(READY) ## Real sockets, namespaces and BPF programs
	$(SUDO) $(PYTEST) $(FILES) 3 tests/root $(ARGS)

test-e2e: $(READY) ## Whole topologies with unmodified programs
	$(SUDO) $(PYTEST) $(FILES) 2 tests/e2e $(ARGS)

fuzz: $(READY) ## Fuzz every parser, 5 s each; for hours: ARGS="--seconds 3600", some: ARGS="option stream"
	$(BIN)/python -m tests.fuzz $(ARGS)

faults: $(READY) ## Every cell of docs/failures.md, 20 times; ARGS=--repeat=N for N times
	$(SUDO) $(PYTEST) tests/root/test_faults_messages.py tests/root/test_faults_deaths.py --repeat=20 --timeout=0 $(ARGS)

test-vm: $(READY) ## netem and Open vSwitch, in a virtual machine with a Debian kernel: no root, no KVM; 100 MB once
	@.ci/packages qemu-system-x86:qemu-system-x86_64 busybox-static:busybox cpio:cpio kmod:depmod
	$(BIN)/python -m tests.vm $(ARGS)

coverage: $(READY) ## Every branch of the sans-I/O core is tested, or this fails
	$(PYTEST) $(CORE_TESTS) -q --cov=mtcp --cov-branch --cov-config=.coveragerc --cov-report=term-missing:skip-covered \
	    --cov-fail-under=100 $(ARGS)

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Put the code into the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built and what killed experiments left; keep results
	@[ ! -x $(BIN)/testbed ] || $(SUDO) $(BIN)/testbed clean
	rm -rf build .venv .vm *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-results: ## Remove all results
	rm -rf results
