#!/usr/bin/env bash
# `make bench-data`: reading images on one core beside webdataset with PIL and torchvision. Prints JSON lines and writes
# bench/results/DATE-data.json. The peers' Python is named by CAPPA_BENCH_PYTHON; otherwise they are fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

PEER_PACKAGES=(torchvision==0.26.0 webdataset==1.0.2 pillow==11.3.0 tokenizers==0.22.2)
# shellcheck source=bench/python.sh
. bench/python.sh
cargo build --quiet --release -p cappa-data --bin data-bench
exec "${python[@]}" bench/data.py "$@"
