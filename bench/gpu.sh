#!/usr/bin/env bash
# Checks and speed on a GPU, beside PyTorch on the same machine; writes bench/results/DATE-gpu.json. See bench/README.md.
#
#   bench/gpu.sh [--peak-tflops 790] [--skip-compile]
#
# Needs a Python with torch 2.11.0+cu130 (CAPPA_BENCH_PYTHON, or python3), whose libraries all programs then use.
# Programs come from PROGRAMS (a folder with step-bench, golden-check and libcappa_cuda.so, built elsewhere against
# any torch 2.11.0), or are built here.
set -euo pipefail
cd "$(dirname "$0")/.."

CAPPA_BENCH_PYTHON=${CAPPA_BENCH_PYTHON:-python3}
# shellcheck source=bench/python.sh
. bench/python.sh
torch=$("${python[@]}" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')

if [[ -z ${PROGRAMS:-} ]]; then
    # Where headers of CUDA and NCCL lie beside torch the plug-in is built too.
    LIBTORCH=$torch cargo build --release -p cappa-model --bin step-bench -p cappa-worker --bin golden-check
    PROGRAMS=target/release
fi
# Before the programs' own search path: torch, and each of the CUDA libraries that its wheel brought.
libraries=$torch/lib
for folder in "${torch%/*}"/nvidia/*/lib; do
    [[ -d $folder ]] && libraries+=:$folder
done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
OMP_NUM_THREADS=1 exec "${python[@]}" bench/gpu.py --programs "$PROGRAMS" "$@"
