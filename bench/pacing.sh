#!/usr/bin/env bash
# Does a training step wait for data? 3,000 images/s on 16 cores, scaled to the cores of this machine: a simulated device takes
# batches of 64 at 187.5 images/s a core from the real loader (read, decode 448×448 JPEGs, resize to 224, tokenise, batch).
# Prints a JSON line a pace and writes them to bench/results/DATE-pacing.jsonl with the machine and its load.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
cores=$(nproc)
cargo build --quiet -p cappactl -p cappa-data --bin cappactl --bin data-pace
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
target/debug/cappactl data synth --level hard --samples 4000 --heldout 0 --image-size 448 --samples-per-shard 250 --out "$folder/corpus" >&2
target/debug/cappactl tokenizer train --vocabulary 512 --out "$folder/tokenizer.json" "$folder"/corpus/train-*.tar >&2
target/debug/cappactl data index --out "$folder/corpus/train.manifest.json" "$folder/corpus/train-*.tar" >&2

out="bench/results/$(date -u +%F)-pacing.jsonl"
{
    printf '{"command":"bench/pacing.sh %s","cores":%s,"load_average":"%s","profile":"dev"}\n' \
        "$seconds" "$cores" "$(cut -d' ' -f1-3 /proc/loadavg)"
    for per_core in 93.75 187.5; do
        rate=$(awk "BEGIN { print $per_core * $cores }")
        target/debug/data-pace "$folder/corpus/train.manifest.json" "$folder/tokenizer.json" "$rate" "$cores" "$seconds"
    done
} | tee "$out"
