#!/usr/bin/env python3
"""How long a local cluster lets operators wait: from submission to the first step, and from a lost worker to the next (see run.sh)."""
import json

from common import ROOT, run, write

CLUSTER_BENCH = str(ROOT / "target/debug/cluster-bench")


def main():
    lines = run([CLUSTER_BENCH])
    for line in lines:
        print(json.dumps(line), flush=True)
    write("cluster", lines)


if __name__ == "__main__":
    main()
