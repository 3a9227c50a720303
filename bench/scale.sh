#!/usr/bin/env bash
# `make bench-scale`: 10,000 simulated workers and 100 jobs against one coordinator on this machine, in the release build. Prints
# JSON lines and a table, and writes bench/results/DATE-scale.json. Arguments go to scale-bench. See bench/SCALE.md.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --release -p cappa-coordinator -p cappa-tests --bin cappa-coordinator --bin scale-bench
exec "${PYTHON:-python3}" bench/scale.py "$@"
