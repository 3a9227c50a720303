"""Decode, resize and tokenise on one core, beside webdataset with PIL and torchvision. Started by bench/data.sh."""
import argparse
import importlib.metadata
import json
import statistics
import sys
import tempfile

from common import ROOT, line, run, write

BENCH = str(ROOT / "target/release/data-bench")
PEER = str(ROOT / "bench/peers/webdataset_pil.py")
# The least ratio that is aimed at, by shard and peer.
AIMS = {("500x400", "webdataset"): 2.0, ("500x400", "torchvision"): 1.0, ("2000x1500", "webdataset"): 4.0}

# What a worker tells its allocator at its start (`keep_freed_memory`), for our side and for the peers alike: without it, each image's
# memory goes back to the system and comes back page by page.
KEEP_FREED = {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=2147483647:glibc.malloc.mmap_threshold=1073741824"}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turns")
parser.add_argument("--core", default="0", help="the processor that everything is bound to")
options = parser.parse_args()


def bound(*command):
    return run(["taskset", "-c", options.core, *command], env=KEEP_FREED)


lines = []
with tempfile.TemporaryDirectory() as folder:
    shards = bound(BENCH, "make", folder)
    for shard in shards:
        files = [f"{folder}/{shard['name']}.tar", f"{folder}/tokenizer.json"]
        sides = {mode: [BENCH, "prepare", *files, mode] for mode in ("fast", "exact")}
        sides |= {peer: [sys.executable, PEER, peer, *files] for peer in ("webdataset", "torchvision")}
        samples = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, command in sides.items():
                samples[side].append(bound(*command, str(options.seconds))[-1])
        for mode in ("fast", "exact"):
            for peer in ("webdataset", "torchvision"):
                # Of processor time: other load on the machine then meets nobody.
                ours, theirs = (
                    [sample["images_per_cpu_second"] for sample in samples[side]] for side in (mode, peer)
                )
                aim = AIMS.get((shard["name"], peer)) if mode == "fast" else None
                lines.append(line(
                    f"prepare {shard['name']}, {mode} beside {peer}", statistics.median(ours), statistics.median(theirs),
                    "images/s of processor time", aim=aim, samples=ours, peer_samples=theirs,
                    wall=[sample["images_per_second"] for sample in samples[mode]],
                    peer_wall=[sample["images_per_second"] for sample in samples[peer]],
                ))
                print(json.dumps(lines[-1]))
packages = ("torchvision", "webdataset", "pillow", "tokenizers")
write("data", lines, packages={name: importlib.metadata.version(name) for name in packages}, shards=shards)
