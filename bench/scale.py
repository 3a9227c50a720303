#!/usr/bin/env python3
"""What the coordinator bears: thousands of simulated workers, jobs that form, fail and form again (see scale.sh)."""
import sys

from common import ROOT, run, write

SCALE_BENCH = str(ROOT / "target/release/scale-bench")


def main():
    arguments = sys.argv[1:]
    write("scale", run([SCALE_BENCH, *arguments]))


if __name__ == "__main__":
    main()
