#!/usr/bin/env bash
# `make bench`: speed on the CPU beside PyTorch, and the waiting times of a local cluster. Prints JSON lines and
# writes bench/results/DATE-cpu.json and DATE-cluster.json. Fails only where something can't run, never on a ratio. See bench/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=bench/python.sh
. bench/python.sh
cargo build --quiet --workspace
cargo build --quiet --release -p cappa-model --bin step-bench
# One thread per process everywhere: what is compared is the work, not the scheduling of it.
OMP_NUM_THREADS=1 "${python[@]}" bench/cpu.py "$@"
exec "${python[@]}" bench/cluster.py
