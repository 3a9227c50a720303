#!/usr/bin/env python3
"""The training step on the CPU beside PyTorch's (see run.sh)."""
import argparse
import json

from common import ROOT, compare, medians, peer, write

STEP_BENCH = str(ROOT / "target/release/step-bench")

# Name, precision, processes.
STEPS = [
    ("step, tiny, fp32, 1 process", "fp32", None),
    ("step, tiny, bf16, 1 process", "bf16", None),
    ("step, tiny, fp32, 2 processes", "fp32", 2),
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="runs of each side, in turns")
    arguments.add_argument("--steps", type=int, default=40, help="timed steps of a run")
    arguments = arguments.parse_args()
    lines = []

    def emit(line):
        print(json.dumps(line), flush=True)
        lines.append(line)

    for name, precision, world in STEPS:
        common = ["--preset", "tiny", "--batch", "32", "--threads", "1", "--precision", precision,
                  "--steps", str(arguments.steps)]
        ours = [STEP_BENCH, *common, *(["--world", str(world)] if world else [])]
        sides = compare(ours, peer(*common, world=world), arguments.rounds)
        emit(medians(name, "images_per_s", "images/s", *sides))
        emit(medians(f"{name}: CPU time", "cpu_ms", "ms/step of a process", *sides))
        emit(medians(f"{name}: memory", "peak_mib", "MiB of a process", *sides))
    write("cpu", lines)


if __name__ == "__main__":
    main()
