#!/usr/bin/env python3
"""fetch_libtorch.py DIR cpu|cuda: libtorch 2.11 from the PyPI wheels, unpacked, never installed.

The wheels share one layout (DIR/torch, DIR/nvidia) in which the libraries find one another by
their own RPATH; LIBTORCH=DIR/torch. `cpu` keeps what libtorch_cpu.so needs (about 500 MB), `cuda`
everything (3.6 GB). Nothing happens when DIR already holds that kind.
"""
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION = "2.11.0"
BASE = ["torch==" + VERSION, "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
CUDA = [
    # Headers only, for the worker's CUDA plug-in.
    "nvidia-cuda-cccl==13.0.85", "nvidia-cuda-crt==13.0.88",
    "nvidia-cublas==13.1.0.3", "nvidia-cudnn-cu13==9.19.0.56", "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6", "nvidia-curand==10.4.0.35", "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3", "nvidia-cusparselt-cu13==0.8.0", "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88", "nvidia-nvshmem-cu13==3.4.5", "nvidia-cuda-nvrtc==13.0.88",
]
KEEP = ["torch/include/*", "torch/lib/lib*.so*", "nvidia/*/lib/*.so*", "nvidia/*/include/*"]
DROP = ["torch/lib/libtorch_python.so"]
DROP_CPU = DROP + [
    "torch/lib/lib*cuda*.so", "torch/lib/libtorch_nvshmem.so", "torch/lib/libcaffe2_nvrtc.so",
    "torch/lib/libtorch.so", "nvidia/cu13/lib/libnvperf*", "nvidia/cu13/lib/libcheckpoint.so",
    "nvidia/cu13/lib/libpcsamplingutil.so",
]


def unpack(wheel, into, drop):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if any(fnmatch.fnmatch(name, p) for p in KEEP) and not any(fnmatch.fnmatch(name, p) for p in drop):
                archive.extract(name, into)


def main():
    if len(sys.argv) != 3 or sys.argv[2] not in ("cpu", "cuda"):
        sys.exit(__doc__.splitlines()[0])
    into, kind = os.path.abspath(sys.argv[1]), sys.argv[2]
    stamp, wanted = os.path.join(into, "VERSION"), f"{VERSION}+{kind}\n"
    if os.path.exists(stamp) and open(stamp).read() == wanted:
        return
    os.makedirs(os.path.dirname(into), exist_ok=True)
    # Built beside its final place and renamed, so an interrupted fetch leaves nothing half done.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(into), prefix=".libtorch-") as work:
        wheels, tree = os.path.join(work, "wheels"), os.path.join(work, "tree")
        os.makedirs(tree)
        print(f"fetching libtorch {VERSION} ({kind}) from PyPI", file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels]
            + BASE + (CUDA if kind == "cuda" else []),
            check=True,
        )
        for wheel in sorted(os.listdir(wheels)):
            unpack(os.path.join(wheels, wheel), tree, DROP if kind == "cuda" else DROP_CPU)
        if kind == "cpu":
            # torch-sys asks the linker for -ltorch, of which nothing is used; the real one wants CUDA.
            with open(os.path.join(tree, "torch/lib/libtorch.so"), "w") as script:
                script.write("INPUT(-ltorch_cpu)\n")
        with open(os.path.join(tree, "VERSION"), "w") as file:
            file.write(wanted)
        shutil.rmtree(into, ignore_errors=True)
        os.rename(tree, into)


if __name__ == "__main__":
    main()
