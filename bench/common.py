"""What the benchmarks share: running one side, comparing two, and writing results down."""
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = str(ROOT / "bench/peers/torch_cappa.py")


def peer(*arguments, world=None):
    """The command of the peer; with a world size under PyTorch's launcher, with DDP."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world else []
    return [sys.executable, *launcher, PEER, *arguments]


def run(command, env=None):
    """Runs a command to a good end; the JSON lines that it prints."""
    print("+", " ".join(str(part) for part in command), file=sys.stderr)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compare(ours, theirs, rounds):
    """Runs both in turns, so that other load on the machine meets both alike; the lines of each."""
    pairs = [(run(ours)[-1], run(theirs)[-1]) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def line(name, ours, peer, unit, **more):
    """A comparison, as printed."""
    ratio = round(ours / peer, 3) if ours is not None and peer else None
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, **more}


def medians(name, key, unit, ours, theirs):
    """A comparison of the medians of one number."""
    a, b = ([sample[key] for sample in side] for side in (ours, theirs))
    return line(name, statistics.median(a), statistics.median(b), unit, samples=a, peer_samples=b)


def text_of(*command):
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# As of the start, for a shared working tree may move on during a run.
COMMIT, CHANGED = text_of("git", "rev-parse", "HEAD"), bool(text_of("git", "status", "--porcelain", "-uno"))


def machine():
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = None
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), None)
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "load_average": os.getloadavg(),
    }


def torch_version():
    """The peer's, where there is one."""
    try:
        import torch
    except ImportError:
        return {}
    return {"torch": torch.__version__}


def write(kind, lines, **more):
    """Writes bench/results/DATE-KIND.json."""
    results = {
        "command": " ".join(["bench/" + os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "machine": machine(),
        "versions": {
            "commit": COMMIT,
            "changed": CHANGED,
            "rustc": text_of("rustc", "--version"),
            **torch_version(),
        },
        **more,
        "lines": lines,
    }
    path = ROOT / "bench/results" / f"{datetime.date.today()}-{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
