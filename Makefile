# Everything here needs Rust, a C++ compiler, make, and Python 3 with pip. What is fetched stays in ignored folders.

PYTHON ?= python3
# The kind of libtorch: the CUDA build where a GPU is at hand.
LIBTORCH_KIND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
# Updates of the demo, or of a full run of the study; empty: as many as fit into five minutes, or an hour, on two cores.
STEPS ?=
# A folder of reference data for `make golden`.
DIR ?=

# Damaged inputs of each kind that `make fuzz` reads.
FUZZ_INPUTS ?= 1000000

# How much `make study` trains: cpu or gpu.
SCALE ?= cpu

# How long `make chaos` breaks things, and what decides the order.
MINUTES ?= 10
SEED ?= 1

CARGO ?= cargo
# Python packages of the tests, without a virtual environment: Debian packs its module separately.
SITE := .venv/site
# Those that `make parity` compares with.
PARITY_SITE := .venv/parity
PARITY_PACKAGES := torch==2.11.0 torchvision==0.26.0 timm==1.0.31 transformers==4.57.6 safetensors==0.6.2 \
    open_clip_torch==3.3.0
PYTHON_PACKAGES := numpy==2.2.6 safetensors==0.6.2 webdataset==1.0.2 pillow==11.3.0 sentencepiece==0.2.1

.PHONY: help setup python build demo test lint deny golden parity fuzz chaos study bench bench-data bench-scale clean

help: ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Fetch libtorch, unless LIBTORCH names an installation
	@test -n "$$LIBTORCH" || $(PYTHON) scripts/fetch_libtorch.py .libtorch $(LIBTORCH_KIND)

python: $(SITE)/.complete ## Fetch the Python packages that tests use

$(SITE)/.complete: Makefile
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target $(SITE) $(PYTHON_PACKAGES)
	@touch $@

build: setup ## Build coordinator, worker and cappactl
	@$(CARGO) build --workspace

demo: build ## Train, evaluate and report on this machine (STEPS=N)
	@target/debug/cappactl local demo $(if $(STEPS),--steps $(STEPS))

test: setup python ## Run all tests
	@$(CARGO) build --workspace
	@$(CARGO) test --workspace --no-fail-fast

lint: setup deny ## Check format, lints and dependencies
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

deny: ## Check licences, sources and known vulnerabilities of dependencies
	@scripts/deny.sh

golden: setup ## Check the model against a folder of reference data (DIR=…)
	@test -n "$(DIR)" || { echo "name the folder: make golden DIR=…" >&2; exit 2; }
	@$(CARGO) run --quiet -p cappa-worker --bin golden-check -- "$(DIR)"

parity: setup $(PARITY_SITE)/.complete ## Compare with timm, transformers and open_clip, out and in (fetches PyTorch, 5 GB)
	@PYTHONPATH=$(abspath $(PARITY_SITE)) $(CARGO) test -p cappa-model --test export --test import -- --include-ignored --nocapture

$(PARITY_SITE)/.complete: Makefile
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target $(PARITY_SITE) $(PARITY_PACKAGES)
	@touch $@

bench: build ## Measure speed beside its peers
	@bench/run.sh

fuzz: ## Feed a million damaged inputs to the readers (FUZZ_INPUTS=N)
	@FUZZ_INPUTS=$(FUZZ_INPUTS) $(CARGO) test -p cappa-data --test 'fuzz*' -- --nocapture

chaos: build ## Break jobs on a cluster of real processes (MINUTES=N SEED=N; as root with partitions, full disks and memory)
	@target/debug/chaos --minutes $(MINUTES) --seed $(SEED) $(if $(filter 0,$(shell id -u)),--hosts) --out target/chaos.json

study: build ## Compare the paper's systems at small scale (SCALE=cpu: sized for an hour on two cores; SCALE=gpu STEPS=N)
	@target/debug/cappactl local study --scale $(SCALE) $(if $(STEPS),--steps $(STEPS))

bench-data: ## Measure reading images beside its Python peers
	@bench/data.sh

bench-scale: ## Measure what the coordinator bears: 10,000 simulated workers
	@PYTHON=$(PYTHON) bench/scale.sh

clean: ## Remove what was built and what the demo wrote
	@$(CARGO) clean
	@rm -rf demo-run .cappa
