#!/usr/bin/env python3
"""Checks and speed on a GPU beside PyTorch's (see gpu.sh)."""
import argparse
import json
import os
import subprocess

from common import ROOT, line, peer, run, text_of, write

GOLDEN = str(ROOT / "worker/model/tests/golden")
# How far the loss curves of CPU and GPU may part, relative, in fp32 without TF32.
LOSS_TOLERANCE = 1e-4
# Preset and batch sizes that are timed.
SPEED = [("tiny", 256), ("b16", 256)]


def golden(programs, device):
    """The last line of golden-check, and whether it passed."""
    command = [f"{programs}/golden-check", GOLDEN, "--device", device]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    failures = [text for text in done.stdout.splitlines() if text.startswith("FAIL")]
    summary = done.stdout.splitlines()[-1] if done.stdout else "nothing"
    return {"name": f"golden-check, {device}", "passed": done.returncode == 0, "summary": summary, "failures": failures}


def losses(programs, steps, *arguments):
    """The loss curve of tiny in full fp32, from one seed."""
    common = ["--preset", "tiny", "--warmup", "0", "--steps", str(steps), "--matmul", "highest", "--losses"]
    return run([f"{programs}/step-bench", *common, *arguments])[-1]["losses"]


def agreement(name, ours, reference):
    """Whether two loss curves agree at every step."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, reference, strict=True))
    return {"name": name, "largest_relative_difference": worst, "tolerance": LOSS_TOLERANCE,
            "passed": worst <= LOSS_TOLERANCE, "first": ours[0], "last": ours[-1], "steps": len(ours)}


def speed(programs, preset, batch, peak_tflops, compiled):
    """Images/s, MFU and memory of both sides."""
    common = ["--preset", preset, "--batch", str(batch), "--device", "cuda", "--precision", "bf16",
              "--steps", "30", "--warmup", "10", "--peak-tflops", str(peak_tflops)]
    ours = run([f"{programs}/step-bench", *common])[-1]
    for kind, more in [("eager", []), *([("compiled", ["--compile"])] if compiled else [])]:
        theirs = run(peer(*common, *more))[-1]
        for key, unit in [("images_per_s", "images/s"), ("mfu", "of the peak"), ("peak_mib", "MiB")]:
            yield line(f"step, {preset}, bf16, batch {batch}, {kind} peer: {key}", ours[key], theirs[key], unit)


def checks(programs, steps, cpu_only):
    """What must hold before speed means anything."""
    yield golden(programs, "cpu")
    reference = losses(programs, steps, "--device", "cpu")
    if cpu_only:
        yield agreement("losses, group of one over Gloo", losses(programs, steps, "--world", "1"), reference)
        return
    yield golden(programs, "cuda")
    yield agreement("losses, CPU and GPU", losses(programs, steps, "--device", "cuda"), reference)
    nccl = losses(programs, steps, "--device", "cuda", "--world", "1")
    yield agreement("losses, group of one over NCCL", nccl, reference)
    # Two ranks on one GPU pass for two hosts, which NCCL connects by sockets.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    gloo = losses(programs, steps, "--device", "cpu", "--world", "2")
    nccl = losses(programs, steps, "--device", "cuda", "--world", "2", "--gpus", "1")
    yield agreement("losses of rank 0, two ranks over NCCL and over Gloo", nccl, gloo)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--programs", required=True, help="folder of step-bench and golden-check")
    arguments.add_argument("--steps", type=int, default=50, help="of the loss curves that are compared")
    arguments.add_argument("--peak-tflops", type=float, default=790, help="bf16 peak of the GPU")
    arguments.add_argument("--skip-compile", action="store_true", help="leave the compiled peer out")
    arguments.add_argument("--cpu-only", action="store_true", help="only the checks that need no GPU; writes nothing")
    arguments = arguments.parse_args()
    programs = os.path.abspath(arguments.programs)
    lines = []

    def emit(result):
        print(json.dumps(result), flush=True)
        lines.append(result)

    for result in checks(programs, arguments.steps, arguments.cpu_only):
        emit(result)
    if not arguments.cpu_only:
        for preset, batch in SPEED:
            for result in speed(programs, preset, batch, arguments.peak_tflops, not arguments.skip_compile):
                emit(result)
        gpu = text_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        write("gpu", lines, gpu=gpu, peak_tflops=arguments.peak_tflops)
    if not all(result.get("passed", True) for result in lines):
        raise SystemExit("a check failed: see the lines above")


if __name__ == "__main__":
    main()
